use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    time::{Duration, Instant},
};

use super::*;

fn written(path: &Path, expected: &str) {
    let start = Instant::now();
    loop {
        let text = fs::read_to_string(path).unwrap_or_default();
        if text == expected {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{text:?}, not {expected:?}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

#[test]
fn a_path_has_one_writer_as_long_as_anybody_wants_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.log");
    fs::write(&path, "before\n").unwrap();
    let files = LogFiles::default();
    let (one, other) = (files.open(&path), files.open(&path));
    assert!(Arc::ptr_eq(&one.0, &other.0));
    one.write(b"one\n");
    drop(one);
    other.write(b"two\n");
    assert_eq!(files.lock().writers.len(), 1);
    drop(other);
    written(&path, "before\none\ntwo\n");
    let again = files.open(&path);
    again.write(b"three\n");
    files.close(log_queue::closing_deadline());
    assert_eq!(fs::read_to_string(&path).unwrap(), "before\none\ntwo\nthree\n");
    again.write(b"late\n");
    assert_eq!(files.dropped(), [(path.display().to_string(), 1)]);
}

#[test]
fn a_file_that_was_renamed_is_opened_anew() {
    let directory = tempfile::tempdir().unwrap();
    let (path, aside) = (directory.path().join("a.log"), directory.path().join("a.log.1"));
    let files = LogFiles::default();
    let file = files.open(&path);
    file.write(b"one\n");
    written(&path, "one\n");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777 & !0o640, 0);
    fs::rename(&path, &aside).unwrap();
    file.write(b"two\n");
    written(&aside, "one\ntwo\n");
    file.write(b"three\n");
    files.reopen();
    let start = Instant::now();
    while !path.exists() {
        assert!(start.elapsed() < Duration::from_secs(10));
        std::thread::park_timeout(Duration::from_millis(1));
    }
    file.write(b"four\n");
    files.close(log_queue::closing_deadline());
    // What waits when the order comes goes to either.
    let both = fs::read_to_string(&aside).unwrap() + &fs::read_to_string(&path).unwrap();
    assert_eq!(both, "one\ntwo\nthree\nfour\n");
    assert!(fs::read_to_string(&path).unwrap().ends_with("four\n"));
}

#[test]
fn what_cannot_be_written_is_counted_and_tried_again() {
    let directory = tempfile::tempdir().unwrap();
    let inner = directory.path().join("inner");
    let path = inner.join("a.log");
    let files = LogFiles::default();
    let file = files.open(&path);
    file.write(b"lost\n");
    file.lose();
    let start = Instant::now();
    while files.dropped()[0].1 < 2 {
        assert!(start.elapsed() < Duration::from_secs(10));
        std::thread::park_timeout(Duration::from_millis(1));
    }
    fs::create_dir(&inner).unwrap();
    file.write(b"kept\n");
    files.close(log_queue::closing_deadline());
    assert_eq!(fs::read_to_string(&path).unwrap(), "kept\n");
    assert_eq!(files.dropped()[0].1, 2);
}
