//! What curl makes of us: credentials, bodies of either framing, `Expect`, HTTP/1.0, HEAD and
//! encodings, as people type them, on either lane.

use std::process::Command;

use proxy::test_support::{Node, Reply, TestProxy};

use crate::lane_pair::{LANES, LISTENERS};

/// More than curl sends before it asks whether the rest is welcome.
const LARGE: usize = 2 << 20;

/// A file of `LARGE` bytes.
fn upload(directory: &tempfile::TempDir) -> String {
    let path = directory.path().join("body");
    std::fs::write(&path, vec![b'u'; LARGE]).expect("a file");
    path.display().to_string()
}

#[expect(clippy::print_stdout, reason = "the test runner counts the lines `skipped: …`")]
fn skip_without_curl() -> bool {
    let is_there = Command::new("curl").arg("--version").output().is_ok();
    if !is_there {
        let reason = "needs curl (sudo apt-get install curl)";
        let asked = std::env::var("KERNEL_TESTS").unwrap_or_default();
        assert_ne!(asked, "require", "KERNEL_TESTS=require, but this test {reason}");
        println!("skipped: {reason}");
    }
    !is_there
}

/// What it prints: `-w` behind the body.
fn curl(arguments: &[&str], url: &str) -> String {
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "20", "-w", " %{http_code} %{http_version}"])
        .args(arguments)
        .arg(url)
        .output()
        .expect("curl");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "curl {arguments:?} {url}: {said}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn curl_gets_what_it_asks_for() {
    if skip_without_curl() {
        return;
    }
    let node = Node::scripted(|seen| {
        // Of a body in chunks their frames are seen too.
        let count = seen.body.iter().filter(|byte| **byte == b'u').count();
        let body = format!("{} {count}", seen.line());
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {}", body.len());
        let body = if seen.line().starts_with("HEAD") { "" } else { &*body };
        Reply::Bytes(format!("{head}\r\n\r\n{body}").into_bytes())
    });
    let proxy = TestProxy::start(&format!(
        "{LISTENERS}\
         consumers: [{{ username: a, plugins: {{ key-auth: {{ key: k }}, \
           basic-auth: {{ username: a, password: p }} }} }}]\n\
         routes:\n\
         - {{ id: key, uri: /key, plugins: {{ key-auth: {{}} }}, upstream_id: app }}\n\
         - {{ id: basic, uri: /basic, plugins: {{ basic-auth: {{}} }}, upstream_id: app }}\n\
         - {{ id: zip, uri: /zip, plugins: {{ gzip: {{ min_length: 1 }} }}, upstream_id: app }}\n\
         - {{ id: old, uri: /old, plugins: {{ redirect: {{ uri: /new }} }} }}\n\
         - {{ id: all, uri: /*, upstream_id: app }}\n\
         upstreams: [{{ id: app, nodes: {{ \"{}\": 1 }} }}]\n",
        node.address
    ));
    let directory = tempfile::tempdir().expect("a directory");
    let (file, count) = (upload(&directory), LARGE.to_string());
    let data = format!("@{file}");
    let sent =
        |method: &str, path: &str, size: &str| format!("{method} {path} HTTP/1.1 {size} 200 1.1");
    let missing = "{\"message\":\"Missing API key in request\"}\n 401 1.1";
    let refused = "{\"message\":\"Invalid user authorization\"}\n 401 1.1";
    let cases: [(&[&str], &str, String); 14] = [
        (&[], "/a?b=c", sent("GET", "/a?b=c", "0")),
        (&["--http1.0"], "/a", sent("GET", "/a", "0")),
        (&["-H", "apikey: k"], "/key", sent("GET", "/key", "0")),
        (&[], "/key?apikey=k", sent("GET", "/key?apikey=k", "0")),
        (&[], "/key", missing.to_owned()),
        (&["-u", "a:p"], "/basic", sent("GET", "/basic", "0")),
        (&["-u", "a:q"], "/basic", refused.to_owned()),
        (&["-d", "u=1&u=2"], "/form", sent("POST", "/form", "2")),
        (
            &["--data-binary", &data, "-H", "Expect: 100-continue"],
            "/up",
            sent("POST", "/up", &count),
        ),
        (&["-T", &file, "-H", "Transfer-Encoding: chunked"], "/up", sent("PUT", "/up", &count)),
        // It stops sending where it is told no.
        (&["--data-binary", &data], "/key", missing.to_owned()),
        (&["--compressed"], "/zip", sent("GET", "/zip", "0")),
        (&["-L"], "/old", sent("GET", "/new", "0")),
        (&["--path-as-is"], "/a/../b", sent("GET", "/b", "0")),
    ];
    for lane in LANES {
        let base = format!("http://{}", proxy.address(lane));
        for (arguments, path, expected) in &cases {
            let printed = curl(arguments, &format!("{base}{path}"));
            assert_eq!(&printed, expected, "{lane}: curl {arguments:?} {path}");
        }
        let head = curl(&["-I"], &format!("{base}/a"));
        assert!(
            head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n 200 1.1"),
            "{head}"
        );
    }
}

/// One connection for all, whatever came before.
#[test]
fn curl_keeps_its_connection() {
    if skip_without_curl() {
        return;
    }
    let node = Node::always("x");
    let proxy = TestProxy::start(&format!(
        "{LISTENERS}\
         consumers: [{{ username: a, plugins: {{ key-auth: {{ key: k }} }} }}]\n\
         routes: [{{ id: all, uri: /*, plugins: {{ key-auth: {{}} }}, upstream_id: app }}]\n\
         upstreams: [{{ id: app, nodes: {{ \"{}\": 1 }} }}]\n",
        node.address
    ));
    for lane in LANES {
        let base = format!("http://{}", proxy.address(lane));
        let urls = ["/", "/?apikey=k", "/none", "/?apikey=k"].map(|path| format!("{base}{path}"));
        let output = Command::new("curl")
            .args(["-sS", "--max-time", "20", "-d", "body", "-o", "/dev/null", "-o", "/dev/null"])
            .args(["-o", "/dev/null", "-o", "/dev/null", "-w", "%{http_code} %{num_connects}\n"])
            .args(&urls)
            .output()
            .expect("curl");
        let printed = String::from_utf8(output.stdout).expect("UTF-8");
        assert_eq!(printed, "401 1\n200 0\n401 0\n200 0\n", "{lane}");
    }
}
