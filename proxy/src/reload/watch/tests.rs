use std::{os::unix::fs::symlink, time::Duration};

use tokio::time::timeout;

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

async fn check_noticed(watch: &Watch, what: &str, change: impl FnOnce()) {
    change();
    timeout(PATIENCE, watch.changed()).await.expect(what).expect(what);
}

/// Waits until nothing is noticed any more; what others do where temporary files are is.
async fn fall_silent(watch: &Watch) {
    let silence =
        async { while timeout(Duration::from_millis(50), watch.changed()).await.is_ok() {} };
    timeout(PATIENCE, silence).await.expect("nothing has happened");
}

#[tokio::test]
async fn writing_and_replacing_are_noticed() {
    let directory = tempfile::tempdir().expect("a directory");
    let (path, other) = (directory.path().join("a.yaml"), directory.path().join("b.yaml"));
    fs::write(&path, "1").expect("a file");
    let watch = Watch::new(&path).expect("a watch");
    fall_silent(&watch).await;
    check_noticed(&watch, "write", || fs::write(&path, "2").expect("written")).await;
    check_noticed(&watch, "other", || fs::write(&other, "3").expect("written")).await;
    check_noticed(&watch, "rename", || fs::rename(&other, &path).expect("renamed")).await;
}

/// As the kubelet does it: the file leads through `..data`, and a rename swaps that.
#[tokio::test]
async fn the_swap_of_a_config_map_is_noticed_again_and_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    let publish = |version: &str| {
        fs::create_dir(at(version)).expect("a directory");
        fs::write(at(version).join("a.yaml"), version).expect("a file");
        symlink(version, at("..data_tmp")).expect("a link");
        fs::rename(at("..data_tmp"), at("..data")).expect("renamed");
    };
    publish("..1");
    symlink("..data/a.yaml", at("a.yaml")).expect("a link");
    let watch = Watch::new(&at("a.yaml")).expect("a watch");
    for version in ["..2", "..3"] {
        check_noticed(&watch, version, || publish(version)).await;
        assert_eq!(fs::read_to_string(at("a.yaml")).expect("a file"), version);
        // All that belongs to one swap.
        fall_silent(&watch).await;
    }
}

#[test]
fn links_anywhere_on_the_way_are_followed() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    fs::create_dir_all(at("real/deep")).expect("a directory");
    symlink("real", at("link")).expect("a link");
    symlink("../file-elsewhere", at("real/deep/a.yaml")).expect("a link");
    let found = directories(&at("link/deep/a.yaml"));
    for expected in ["", "link/deep", "link/deep/.."] {
        assert!(
            found.iter().any(|one| *one == at(expected).components().collect::<PathBuf>()),
            "{expected}: {found:?}"
        );
    }
    symlink("loop", at("loop")).expect("a link");
    assert!(directories(&at("loop")).contains(directory.path()));
}

#[tokio::test]
async fn a_directory_that_is_replaced_is_noticed_and_watched_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    for name in ["conf", "new"] {
        fs::create_dir(at(name)).expect("a directory");
        fs::write(at(name).join("a.yaml"), name).expect("a file");
    }
    let watch = Watch::new(&at("conf/a.yaml")).expect("a watch");
    let swap = || {
        fs::rename(at("conf"), at("old")).expect("renamed");
        fs::rename(at("new"), at("conf")).expect("renamed");
    };
    check_noticed(&watch, "swap", swap).await;
    while timeout(Duration::from_millis(50), watch.changed()).await.is_ok() {}
    let write = || fs::write(at("conf/a.yaml"), "2").expect("written");
    check_noticed(&watch, "write", write).await;
}
