use std::fs;

use super::*;
use crate::log_queue::tests::Stalled;

fn entry(path: &str) -> Entry<'_> {
    Entry {
        at: SystemTime::UNIX_EPOCH,
        downstream: SocketAddr::from(([127, 0, 0, 1], 1)),
        listener: "web",
        route: None,
        upstream: None,
        node: None,
        method: Some("GET"),
        host: None,
        path: Some(path),
        status: Some(404),
        sent_bytes: 0,
        recv_bytes: 0,
        total: Duration::ZERO,
        connect: None,
        first_byte: None,
        is_reused: false,
        lane: None,
        via: Via::User,
        end: "PF",
    }
}

fn to_file(path: &std::path::Path, format: LogFormat) -> config::AccessLog {
    config::AccessLog { target: LogTarget::File(path.to_owned()), format }
}

#[test]
fn appends_to_a_file_and_writes_what_waits_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    fs::write(&path, "before\n").unwrap();
    let (log, guard) = AccessLog::open(&to_file(&path, LogFormat::Text)).unwrap();
    let other = log.clone();
    log.write(&entry("/one"));
    other.write(&entry("/two"));
    drop(guard);
    let written = fs::read_to_string(&path).unwrap();
    let lines: Vec<_> = written.lines().collect();
    assert_eq!(lines.len(), 3, "{written}");
    assert_eq!(lines[0], "before");
    assert!(lines[1].contains(" /one ") && lines[2].contains(" /two "));
    assert_eq!(log.dropped().lines(), 0);
}

#[test]
fn format_is_what_the_configuration_says() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let (log, guard) = AccessLog::open(&to_file(&path, LogFormat::Json)).unwrap();
    log.write(&entry("/"));
    drop(guard);
    let line: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(line["status"], 404);
}

#[test]
fn a_target_that_cannot_be_opened_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("missing/access.log");
    let error = AccessLog::open(&to_file(&path, LogFormat::Text)).unwrap_err();
    let expected = format!("open access log `{}`: No such file or directory", path.display());
    assert!(format!("{error:#}").starts_with(&expected), "{error:#}");
}

#[test]
fn a_stalled_target_drops_lines_and_never_blocks() {
    const LINES_MAX: usize = 4;
    let (target, has_begun, release) = Stalled::new();
    let mut line = String::new();
    line::text(&mut line, &entry("/waits"));
    let (log, guard) = AccessLog::to(target, LogFormat::Text, LINES_MAX * line.len()).unwrap();
    log.write(&entry("/first"));
    has_begun.recv_timeout(Duration::from_secs(10)).unwrap();
    for _ in 0..LINES_MAX {
        log.write(&entry("/waits"));
    }
    assert_eq!(log.dropped().lines(), 0);
    log.write(&entry("/lost"));
    log.write(&entry("/lost"));
    assert_eq!(log.dropped().lines(), 2);
    drop(release);
    drop(guard);
    log.write(&entry("/late"));
    assert_eq!(log.dropped().lines(), 3, "nobody writes it any more");
}
