//! What a small request costs in system calls, counted by strace in a proxy that runs.

use std::{collections::BTreeMap, fs, path::Path, process::Command, thread, time::Duration};

use proxy::test_support::{Node, Reply, eventually};

use crate::process::{Tandem, yaml};

const FIRST: usize = 20;
const LAST: usize = 120;

/// Whether there is a tracer, or has to be.
#[expect(clippy::print_stdout, reason = "the test runner counts the lines `skipped: …`")]
pub(crate) fn can_trace() -> bool {
    if Command::new("strace").args(["-D", "true"]).output().is_ok_and(|run| run.status.success()) {
        return true;
    }
    let reason = "needs strace and leave to trace (sudo apt-get install strace)";
    let asked = std::env::var("KERNEL_TESTS").unwrap_or_default();
    assert_ne!(asked, "require", "KERNEL_TESTS=require, but this test {reason}");
    println!("skipped: {reason}");
    false
}

/// System calls of the worker from the request with one target to that with another.
fn counted(traces: &Path) -> Option<BTreeMap<String, usize>> {
    // One file for each thread, so no call is torn apart.
    for file in fs::read_dir(traces).expect("a directory") {
        let text = fs::read_to_string(file.expect("a file").path()).expect("a trace");
        let calls: Vec<_> = text.lines().collect();
        let reads = |at: usize| {
            let target = format!(" /{at} HTTP");
            calls.iter().position(|call| call.starts_with("recvfrom(") && call.contains(&target))
        };
        let (Some(first), Some(last)) = (reads(FIRST), reads(LAST)) else { continue };
        let mut counts = BTreeMap::new();
        // A timer that fires, as the sweep of the pool once a second, wakes the worker by an eventfd.
        let is_timer = |call: &&str| call.contains(r#", "\1\0\0\0\0\0\0\0", 8)"#);
        let (timers, calls): (Vec<&str>, Vec<&str>) =
            calls[first..last].iter().copied().partition(is_timer);
        assert!(timers.len() <= (LAST - FIRST) / 10, "{timers:?}");
        for call in calls {
            let name = call.split('(').next().expect("a name");
            *counts.entry(name.to_owned()).or_default() += 1;
        }
        return Some(counts);
    }
    None
}

/// `request` has `TARGET` where its number belongs.
#[track_caller]
fn check_transfers(request: &str, reply: &'static str) {
    let node = Node::scripted(move |_| Reply::Bytes(reply.into()));
    let traces = tempfile::tempdir().expect("a directory");
    let trace = traces.path().join("trace");
    let trace = trace.to_str().expect("a path");
    // The tracer is a grandchild: what is started is tandem.
    let mut tandem =
        Tandem::start_with(&["strace", "-D", "-ff", "-o", trace], &yaml(node.address, ""));
    let mut client = tandem.client();
    for at in 0..=LAST {
        let response = client.ask(request.replace("TARGET", &format!("/{at}")));
        assert_eq!(response.status, 200);
    }
    tandem.signal(rustix::process::Signal::TERM);
    drop(client);
    assert!(tandem.exit().success());
    let mut counts = eventually("a trace", || counted(traces.path()));
    // Woken once for the request and once for its response.
    let woken = counts.remove("epoll_wait").unwrap_or_default();
    let requests = LAST - FIRST;
    assert!(woken <= 2 * requests + requests / 10, "{woken} {counts:?}");
    // The request from the downstream and to the node, the response from the node and on.
    let each = [("recvfrom".to_owned(), 2 * requests), ("sendto".to_owned(), 2 * requests)];
    assert_eq!(counts, BTreeMap::from(each), "{request}");
}

#[test]
fn a_small_message_is_read_once_and_written_once() {
    if !can_trace() {
        return;
    }
    const FIXED: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
         5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
    check_transfers("GET TARGET HTTP/1.1\r\nhost: a\r\n\r\n", FIXED);
    check_transfers("POST TARGET HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi", CHUNKED);
    check_transfers(
        "POST TARGET HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n\
         5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
        FIXED,
    );
}

/// The last bytes of such a response leave with the end of the stream. The tracer holds the worker up
/// behind its last look at the socket, where it has seen nothing that was unread.
#[test]
fn bytes_behind_the_last_request_do_not_take_its_response_along() {
    if !can_trace() {
        return;
    }
    // Of the worker's calls the third: behind those for the request and for its response. As TCP keeps
    // bytes back for 0.2 s at most, less than that.
    const HELD_UP: &str = "inject=recvfrom:delay_exit=150000:when=3";
    let node = Node::always("ok");
    let traces = tempfile::tempdir().expect("a directory");
    let trace = traces.path().join("trace");
    let trace = trace.to_str().expect("a path");
    let wrapper = ["strace", "-D", "-ff", "-o", trace, "-e", "trace=recvfrom", "-e", HELD_UP];
    let mut tandem = Tandem::start_with(&wrapper, &yaml(node.address, ""));
    let mut client = tandem.client();
    client.send("POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx");
    eventually("the request at the node", || node.heard().ends_with('x').then_some(()));
    thread::park_timeout(Duration::from_millis(50));
    client.send("\r\n");
    assert_eq!(client.response().text(), "ok");
    client.closed();
    tandem.signal(rustix::process::Signal::TERM);
    assert!(tandem.exit().success());
    let is_last_look = |line: &str| line.contains("MSG_PEEK") && line.contains("(DELAYED)");
    eventually("the last look", || {
        let files = fs::read_dir(traces.path()).expect("a directory");
        let paths = files.map(|file| file.expect("a file").path());
        let mut texts = paths.map(|path| fs::read_to_string(path).expect("a trace"));
        texts.any(|text| text.lines().any(is_last_look)).then_some(())
    });
}
