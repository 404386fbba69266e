//! Bodies in the lines of `file-logger`: what is kept of them, and that they pass as ever.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::{Arc, Barrier, mpsc},
    thread,
};

use proxy::test_support::{Client, Node, PATIENCE, Reply, TestProxy};
use serde_json::{Value, json};

use super::{config, lines};
use crate::lane_pair::LANES;

const BOTH: &str = "include_req_body: true, include_resp_body: true";

/// `plugins` has `FILE` where the path is to be.
fn start(node: SocketAddr, path: &Path, plugins: &str, rest: &str) -> TestProxy {
    let plugins = plugins.replace("FILE", &format!("path: {}", path.display()));
    let rest = rest.replace("FILE", &format!("path: {}", path.display()));
    TestProxy::start(&config(node, &plugins, &rest))
}

/// What is logged of one request on each lane, with the response that the client got.
fn logged(
    plugins: &str,
    request: &[u8],
    answer: &[u8],
) -> Vec<(Value, proxy::test_support::Response)> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("x.log");
    let answer = answer.to_vec();
    let node = Node::scripted(move |_| Reply::Bytes(answer.clone()));
    let proxy = start(node.address, &path, plugins, "");
    let responses = LANES.map(|lane| Client::connect(proxy.address(lane)).ask(request));
    lines(&path, LANES.len()).into_iter().zip(responses).collect()
}

fn post(target: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("POST {target} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

fn ok(body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// What an entry says of the body of one message.
fn of_body(message: &Value) -> Value {
    let about = message.as_object().expect("a mapping").iter();
    Value::Object(
        about
            .filter(|(name, _)| name.starts_with("body"))
            .map(|(n, v)| (n.clone(), v.clone()))
            .collect(),
    )
}

#[test]
fn what_is_text_is_there_as_text_and_all_else_in_base64() {
    let all = format!("{{ file-logger: {{ FILE, {BOTH} }} }}");
    let short = format!(
        "{{ file-logger: {{ FILE, {BOTH}, max_req_body_bytes: 3, max_resp_body_bytes: 2 }} }}"
    );
    for (settings, sent, answered, request, response) in [
        (
            &all,
            &b"hi \"\n\xc3\xa9"[..],
            &b"xyz"[..],
            json!({ "body": "hi \"\n\u{e9}" }),
            json!({ "body": "xyz" }),
        ),
        (&all, b"", b"", json!({}), json!({})),
        (
            &all,
            b"\xff\0",
            b"a\x80",
            json!({ "body_base64": "/wA=" }),
            json!({ "body_base64": "YYA=" }),
        ),
        (&short, b"abc", b"ab", json!({ "body": "abc" }), json!({ "body": "ab" })),
        (
            &short,
            b"abcd",
            b"a\xc3\xa9",
            json!({ "body": "abc", "body_is_cut": true }),
            json!({ "body": "a", "body_is_cut": true }),
        ),
        (
            &short,
            b"\xff\xff\xff\xff",
            b"\x80ab",
            json!({ "body_base64": "////", "body_is_cut": true }),
            json!({ "body_base64": "gGE=", "body_is_cut": true }),
        ),
    ] {
        for (entry, got) in logged(settings, &post("/items/1", sent), &ok(answered)) {
            assert_eq!(of_body(&entry["request"]), request);
            assert_eq!(of_body(&entry["response"]), response);
            assert_eq!(got.body, answered);
            assert_eq!(got.field("content-length"), Some(answered.len().to_string().as_str()));
        }
    }
    let chunked = b"POST /items/1 HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n\
                    2;x=y\r\nab\r\n1\r\nc\r\n0\r\nt: u\r\n\r\n";
    let answer =
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nxy\r\n1\r\nz\r\n0\r\n\r\n";
    for (entry, got) in logged(&all, chunked, answer) {
        let bodies = (&entry["request"]["body"], &entry["response"]["body"]);
        assert_eq!(bodies, (&json!("abc"), &json!("xyz")));
        assert_eq!(got.text(), "xyz");
    }
}

#[test]
fn conditions_say_whose_bodies_are_wanted() {
    let plugins = format!(
        "{{ file-logger: {{ FILE, {BOTH}, include_req_body_expr: [[arg_log, \"==\", \"1\"]], \
         include_resp_body_expr: [[status, \">=\", 400]] }} }}"
    );
    let bad = b"HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\nno";
    for (target, answer, request, response) in [
        ("/items/1?log=1", &ok(b"yes")[..], json!({ "body": "abc" }), json!({})),
        ("/items/1?log=2", bad, json!({}), json!({ "body": "no" })),
    ] {
        for (entry, _) in logged(&plugins, &post(target, b"abc"), answer) {
            let found = (of_body(&entry["request"]), of_body(&entry["response"]));
            assert_eq!(found, (request.clone(), response.clone()), "{target}");
        }
    }
}

#[test]
fn a_format_names_bodies_like_all_else() {
    let plugins = format!(
        "{{ file-logger: {{ FILE, {BOTH}, max_resp_body_bytes: 2, \
         log_format: {{ q: $request_body, a: $resp_body, both: \"$request_body/$resp_body\" }} }} }}"
    );
    let long = "x".repeat(10_000);
    for (entry, _) in logged(&plugins, &post("/items/1", long.as_bytes()), &ok(b"a\xffb")) {
        assert_eq!((&entry["q"], &entry["a"]), (&json!(long), &json!("a\u{fffd}")));
        assert_eq!(entry["both"].as_str().map(str::len), Some(8192));
    }
    // Those that are not kept are absent.
    let plugins = "{ file-logger: { FILE, log_format: { q: $request_body, n: 1 } } }";
    for (entry, _) in logged(plugins, &post("/items/1", b"abc"), &ok(b"x")) {
        assert_eq!(entry, json!({ "n": 1, "route_id": "all", "service_id": "s" }));
    }
}

#[test]
fn the_response_is_the_clients_but_for_its_encoding() {
    let text = "y".repeat(100);
    let answer =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 100\r\n\r\n{text}");
    let request = b"GET /items/1 HTTP/1.1\r\nhost: a\r\naccept-encoding: gzip\r\n\r\n";
    let logger = format!("file-logger: {{ FILE, {BOTH} }}");
    for (plugins, expected, coding) in [
        ("gzip: {}", text.as_str(), Some("gzip")),
        ("response-rewrite: { body: new }", "new", None),
        ("response-rewrite: { filters: [{ regex: y+, replace: z }] }, gzip: {}", "z", Some("gzip")),
    ] {
        for (entry, got) in
            logged(&format!("{{ {logger}, {plugins} }}"), request, answer.as_bytes())
        {
            assert_eq!(entry["response"]["body"], expected, "{plugins}");
            assert_eq!(got.field("content-encoding"), coding, "{plugins}");
        }
    }
    // Answers of our own are there too, as far as they have a body.
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("x.log");
    let plugins = format!("{{ {logger}, key-auth: {{}} }}");
    let proxy = start(Node::always("x").address, &path, &plugins, "");
    for lane in LANES {
        let mut client = Client::connect(proxy.address(lane));
        client.ask(post("/items/1", b"abc"));
        client.send("HEAD /items/1 HTTP/1.1\r\nhost: a\r\n\r\n").response_to("HEAD");
    }
    for seen in lines(&path, 4).chunks(2) {
        let body = "{\"message\":\"Missing API key in request\"}\n";
        assert_eq!(of_body(&seen[0]["response"]), json!({ "body": body }));
        assert_eq!(of_body(&seen[1]["response"]), json!({}));
        // What no node got is not there.
        assert_eq!(of_body(&seen[0]["request"]), json!({}));
    }
}

#[test]
fn large_bodies_pass_whole_and_their_beginning_is_kept() {
    const KEPT: usize = 512 << 10;
    let body: String = ('a'..='z').cycle().take(3 << 20).collect();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("x.log");
    let answer = ok(body.as_bytes());
    let node = Node::scripted(move |_| Reply::Bytes(answer.clone()));
    let plugins = format!("{{ file-logger: {{ FILE, {BOTH} }} }}");
    let proxy = start(node.address, &path, &plugins, "");
    for (at, lane) in LANES.into_iter().enumerate() {
        let mut client = Client::connect(proxy.address(lane));
        let got = client.ask(post("/items/1", body.as_bytes()));
        assert!(got.body == body.as_bytes() && node.take()[0].body == body.as_bytes());
        let entry = lines(&path, at + 1).remove(at);
        for message in ["request", "response"] {
            assert_eq!(entry[message]["body"].as_str(), Some(&body[..KEPT]), "{lane} {message}");
            assert_eq!(entry[message]["body_is_cut"], true);
        }
    }
    proxy.check_metric("tandem_logged_bodies_cut_total{reason=\"size\"}", 4.0);
    proxy.check_metric("tandem_logged_bodies_cut_total{reason=\"memory\"}", 0.0);
}

/// What is not printable is six times as long when it is escaped.
#[test]
fn nobody_keeps_out_of_a_log_by_a_body_that_is_long_there() {
    let body = vec![1; 1 << 20];
    let plugins = format!(
        "{{ file-logger: {{ FILE, {BOTH}, max_req_body_bytes: 1048576, \
         max_resp_body_bytes: 1048576 }} }}"
    );
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("x.log");
    let answer = ok(&body);
    let node = Node::scripted(move |_| Reply::Bytes(answer.clone()));
    let proxy = start(node.address, &path, &plugins, "");
    let cut = |reason: &str| {
        proxy.metric(&format!("tandem_logged_bodies_cut_total{{reason=\"{reason}\"}}"))
    };
    for (at, lane) in LANES.into_iter().enumerate() {
        let got = Client::connect(proxy.address(lane)).ask(post("/items/1", &body));
        assert!(got.body == body);
        let entry = lines(&path, at + 1).remove(at);
        for message in ["request", "response"] {
            assert_eq!(entry[message]["body"].as_str().map(str::len), Some(64 << 10), "{message}");
            assert_eq!(entry[message]["body_is_cut"], true, "{message}");
        }
        proxy.access_log(at + 1);
        assert_eq!((cut("line"), cut("size")), (2.0 * (at + 1) as f64, 0.0), "{lane}");
    }
}

#[test]
fn each_logger_has_what_it_asks_for() {
    let directory = tempfile::tempdir().expect("a directory");
    let (path, other) = (directory.path().join("x.log"), directory.path().join("y.log"));
    let node = Node::always("abcdef");
    let rest = format!(
        "global_rules: [{{ id: g, plugins: {{ file-logger: {{ path: {}, include_resp_body: true, \
         max_resp_body_bytes: 2 }} }} }}]",
        other.display()
    );
    let plugins = "{ file-logger: { FILE, include_resp_body: true, max_resp_body_bytes: 4 } }";
    let proxy = start(node.address, &path, plugins, &rest);
    for lane in LANES {
        Client::connect(proxy.address(lane)).ask(post("/items/1", b"q"));
    }
    for (path, expected) in [(&path, "abcd"), (&other, "ab")] {
        for entry in lines(path, 2) {
            let response = json!({ "body": expected, "body_is_cut": true });
            assert_eq!(
                (of_body(&entry["response"]), of_body(&entry["request"])),
                (response, json!({}))
            );
        }
    }
}

#[test]
fn a_body_is_passed_on_as_it_comes() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("x.log");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let (go, wait) = mpsc::channel::<()>();
    let (told, heard) = mpsc::channel();
    let node = thread::spawn(move || {
        for _ in LANES {
            let (mut stream, _) = listener.accept().expect("a connection");
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            let mut received = Vec::new();
            // The first half of the body, while the second has not been sent.
            while !received.ends_with(b"ab") {
                let mut piece = [0; 1024];
                let count = stream.read(&mut piece).expect("a request");
                received.extend_from_slice(&piece[..count]);
            }
            told.send(()).expect("a test that listens");
            let mut rest = [0; 2];
            stream.read_exact(&mut rest).expect("the rest");
            let answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\nxy";
            stream.write_all(answer).expect("a reader");
            wait.recv_timeout(PATIENCE).expect("the first half has come");
            stream.write_all(b"z!").expect("a reader");
        }
    });
    let proxy = start(address, &path, &format!("{{ file-logger: {{ FILE, {BOTH} }} }}"), "");
    for lane in LANES {
        let mut client = Client::connect(proxy.address(lane));
        client.send(
            "POST /items/1 HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 4\r\n\r\nab",
        );
        heard.recv_timeout(PATIENCE).expect("the first half");
        client.send("cd").until(b"xy");
        go.send(()).expect("a node that waits");
        assert_eq!(client.rest(), b"z!");
    }
    for entry in lines(&path, 2) {
        let bodies = (&entry["request"]["body"], &entry["response"]["body"]);
        assert_eq!(bodies, (&json!("abcd"), &json!("xyz!")));
    }
    drop(proxy);
    node.join().expect("no panic");
}

#[test]
fn all_bodies_together_have_an_end() {
    // One more than there is memory for.
    const COUNT: usize = 17;
    const SIZE: usize = 1 << 20;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("x.log");
    for lane in LANES {
        let together = Arc::new(Barrier::new(COUNT));
        let node = Node::scripted(move |seen| {
            if seen.body.len() == SIZE {
                together.wait();
            }
            Reply::ok("x")
        });
        let plugins = format!(
            "{{ file-logger: {{ FILE, log_format: {{ n: 1 }}, include_req_body: true, \
             max_req_body_bytes: {SIZE} }} }}"
        );
        let proxy = start(node.address, &path, &plugins, "");
        let body = post("/items/1", &vec![b'x'; SIZE]);
        let mut clients: Vec<_> =
            (0..COUNT).map(|_| Client::connect(proxy.address(lane))).collect();
        for client in &mut clients {
            client.send(&body);
        }
        for client in &mut clients {
            assert_eq!(client.response().status, 200);
        }
        assert!(node.take().iter().all(|seen| seen.body.len() == SIZE));
        proxy.access_log(COUNT);
        let cut = "tandem_logged_bodies_cut_total{reason=\"memory\"}";
        let before = proxy.metric(cut);
        assert!(before >= 1.0, "{lane}");
        assert_eq!(clients[0].ask(post("/items/1", b"abc")).status, 200);
        proxy.access_log(COUNT + 1);
        assert_eq!(proxy.metric(cut), before, "what was taken is given back");
    }
}
