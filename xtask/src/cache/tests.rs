use anyhow::bail;

use super::*;

fn has_mark(entry: &Path) -> bool {
    entry.join("mark").is_file()
}

#[test]
fn makes_an_entry_once() {
    let home = tempfile::tempdir().unwrap();
    let cache = Cache::at(home.path().join("tandem")).unwrap();
    let make = |stage: &Path| Ok(fs::write(stage.join("mark"), "")?);
    let entry = cache.entry_or_make("tool-1", has_mark, make).unwrap();
    assert!(has_mark(&entry));
    cache.entry_or_make("tool-1", has_mark, |_| bail!("made twice")).unwrap();
    assert_eq!(cache.names("tool-").unwrap(), ["tool-1"]);
}

#[test]
fn leaves_nothing_when_filling_fails() {
    let home = tempfile::tempdir().unwrap();
    let cache = Cache::at(home.path().join("tandem")).unwrap();
    let result = cache.entry_or_make("tool-1", has_mark, |stage| {
        fs::write(stage.join("mark"), "")?;
        bail!("no network")
    });
    assert_eq!(result.unwrap_err().to_string(), "no network");
    assert!(!cache.entry("tool-1").exists());
    assert!(cache.names("").unwrap().is_empty());
}

#[test]
fn replaces_an_unusable_entry_and_what_an_interrupted_run_left() {
    let home = tempfile::tempdir().unwrap();
    let cache = Cache::at(home.path().join("tandem")).unwrap();
    fs::create_dir(cache.entry("tool-1")).unwrap();
    fs::create_dir(cache.entry(".stage-tool-1")).unwrap();
    fs::write(cache.entry(".stage-tool-1").join("half"), "").unwrap();
    let make = |stage: &Path| Ok(fs::write(stage.join("mark"), "")?);
    let entry = cache.entry_or_make("tool-1", has_mark, make).unwrap();
    assert!(has_mark(&entry));
    assert!(!entry.join("half").exists());
}
