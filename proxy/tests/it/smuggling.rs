//! Messages that two readers could take for different ones: what we answer, what the node saw, and
//! whether the connection goes on.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    thread,
};

use proxy::test_support::{Client, Node, PATIENCE, Reply, TestProxy};

/// What becomes of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Closed,
    Open,
}
use Then::{Closed, Open};

/// What the node saw of one request: its line, and its body with the framing it came in.
type Saw<'a> = (&'a str, &'a str);

struct Bench {
    node: Node,
    proxy: TestProxy,
}

const AFTER: &str = "GET /after HTTP/1.1\r\nhost: after\r\n\r\n";

impl Bench {
    fn new() -> Bench {
        let node = Node::always("ok");
        let proxy = TestProxy::to(&[node.address]);
        Bench { node, proxy }
    }

    /// Sends `sent` on a connection of its own. The last of `answers` ends the connection or leaves
    /// it usable; a request sent behind it says which, and the node sees nothing but `saw`.
    #[track_caller]
    fn check(&self, sent: impl AsRef<[u8]>, answers: &[u16], then: Then, saw: &[Saw<'_>]) {
        let why = String::from_utf8_lossy(sent.as_ref()).into_owned();
        let mut client = self.proxy.client();
        client.send(&sent);
        for &expected in answers {
            assert_eq!(client.response().status, expected, "{why:?}");
        }
        match then {
            // What the downstream sends behind a refused request is never a request.
            Closed => {
                client.try_send(AFTER);
                client.closed();
            }
            Open => assert_eq!(client.ask(AFTER).status, 200, "{why:?}"),
        }
        drop(client);
        let seen = self.node.take();
        let mut seen: Vec<_> =
            seen.iter().map(|s| (s.line(), std::str::from_utf8(&s.body).expect("text"))).collect();
        if then == Open {
            assert_eq!(seen.pop(), Some(("GET /after HTTP/1.1", "")), "{why:?}");
        }
        assert_eq!(seen, saw, "{why:?}");
    }

    /// A head, and behind it a request hidden where another reader would find one: 400, and the node
    /// sees nothing.
    #[track_caller]
    fn check_refused(&self, head: &str) {
        let smuggled = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
        self.check(format!("{head}\r\n\r\n0\r\n\r\n{smuggled}"), &[400], Closed, &[]);
    }
}

#[test]
fn ambiguous_lengths_are_refused() {
    let bench = Bench::new();
    for fields in [
        "content-length: 5\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 5",
        "Content-Length: 0\r\nTRANSFER-ENCODING: chunked",
        "content-length: 5\r\ncontent-length: 6",
        "content-length: 5\r\ncontent-length: 5",
        "content-length: 5\r\nx: y\r\nCONTENT-LENGTH: 0",
        "content-length: 5, 5",
        "content-length: 5, 6",
        "content-length: +5",
        "content-length: -5",
        "content-length: 0x5",
        "content-length: 5 5",
        "content-length: 5.0",
        "content-length: 1e1",
        "content-length: \"5\"",
        "content-length: 5;",
        "content-length:",
        "content-length: ",
        "content-length: 18446744073709551616",
        "content-length: 99999999999999999999999999",
        "transfer-encoding: chunked, identity",
        "transfer-encoding: identity, chunked",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity",
        "transfer-encoding: gzip",
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: chunked, chunked",
        "transfer-encoding: identity",
        "transfer-encoding: xchunked",
        "transfer-encoding: chunked;q=1",
        "transfer-encoding: \"chunked\"",
        "transfer-encoding: chunked,",
        "transfer-encoding: ,chunked",
        "transfer-encoding:",
        "transfer-encoding: \x0bchunked",
        "transfer-encoding: chunk\u{212a}ed",
    ] {
        bench.check_refused(&format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}"));
    }
    bench.check_refused("POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked");
    bench.check_refused(
        "POST / HTTP/1.0\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked",
    );
    assert_eq!(bench.node.heard(), "");
}

#[test]
fn heads_that_are_not_to_the_letter_are_refused() {
    let bench = Bench::new();
    let length = "content-length: 5";
    for head in [
        // Line endings.
        format!("POST / HTTP/1.1\nhost: a\r\n{length}"),
        format!("POST / HTTP/1.1\r\nhost: a\n{length}"),
        format!("POST / HTTP/1.1\r\nhost: a\r\nx: y\rz: 1\r\n{length}"),
        format!("POST / HTTP/1.1\r\nhost: a\r\nx: y\r\r\n{length}"),
        format!("POST / HTTP/1.1\r\nhost: a\r\nx: y\n\r\n{length}"),
        format!("POST / HTTP/1.1\r\r\nhost: a\r\n{length}"),
        format!("\r\n\r\nPOST / HTTP/1.1\r\nhost: a\r\n{length}"),
        format!("\nPOST / HTTP/1.1\r\nhost: a\r\n{length}"),
        // Folded lines.
        format!("POST / HTTP/1.1\r\nhost: a\r\nx: y\r\n {length}"),
        format!("POST / HTTP/1.1\r\nhost: a\r\nx: y\r\n\t{length}"),
        format!("POST / HTTP/1.1\r\n x: y\r\nhost: a\r\n{length}"),
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding:\r\n chunked".to_owned(),
        // Names.
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding : chunked".to_owned(),
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length\t: 5".to_owned(),
        "POST / HTTP/1.1\r\nhost: a\r\n transfer-encoding: chunked".to_owned(),
        format!("POST / HTTP/1.1\r\nhost: a\r\n: y\r\n{length}"),
        format!("POST / HTTP/1.1\r\nhost: a\r\nxy\r\n{length}"),
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer\0-encoding: chunked".to_owned(),
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encod\u{131}ng: chunked".to_owned(),
        "POST / HTTP/1.1\r\nhost: a\r\n\"content-length\": 5".to_owned(),
        // Values.
        format!("POST / HTTP/1.1\r\nhost: a\r\nx: y\0z\r\n{length}"),
        format!("POST / HTTP/1.1\r\nhost: a\r\nx: y\x08z\r\n{length}"),
        format!("POST / HTTP/1.1\r\nhost: a\r\nx: y\x7fz\r\n{length}"),
        // Request lines.
        format!("POST  / HTTP/1.1\r\nhost: a\r\n{length}"),
        format!("POST /  HTTP/1.1\r\nhost: a\r\n{length}"),
        format!("POST / x HTTP/1.1\r\nhost: a\r\n{length}"),
        format!("POST\t/ HTTP/1.1\r\nhost: a\r\n{length}"),
        format!(" POST / HTTP/1.1\r\nhost: a\r\n{length}"),
        format!("POST / HTTP/1.1 \r\nhost: a\r\n{length}"),
        format!("POST / http/1.1\r\nhost: a\r\n{length}"),
        format!("POST / HTTP/1.1x\r\nhost: a\r\n{length}"),
        format!("POST / HTTP/1.01\r\nhost: a\r\n{length}"),
        format!("POST /\r\nhost: a\r\n{length}"),
        format!("P(ST / HTTP/1.1\r\nhost: a\r\n{length}"),
        format!("POST /\0 HTTP/1.1\r\nhost: a\r\n{length}"),
        format!("POST /#f HTTP/1.1\r\nhost: a\r\n{length}"),
        format!("POST x HTTP/1.1\r\nhost: a\r\n{length}"),
        format!("POST * HTTP/1.1\r\nhost: a\r\n{length}"),
        format!("GET a:80 HTTP/1.1\r\nhost: a\r\n{length}"),
        format!("GET ftp://a/ HTTP/1.1\r\nhost: a\r\n{length}"),
    ] {
        bench.check_refused(&head);
    }
    assert_eq!(bench.node.heard(), "");
}

#[test]
fn a_host_is_there_once_and_is_one() {
    let bench = Bench::new();
    for fields in [
        "x: y",
        "host: a\r\nhost: a",
        "host: a\r\nHost: b",
        "host:",
        "host: a b",
        "host: a, b",
        "host: a/b",
        "host: a:b",
        "host: a:65536",
        "host: u@a",
        "host: a\\b",
        "host: [::1",
        "host: a%00b",
        "host: \u{e9}",
    ] {
        bench.check_refused(&format!("GET / HTTP/1.1\r\n{fields}"));
    }
    bench.check_refused("GET http:///x HTTP/1.1\r\nhost: a");
    // What was to be secured is not (RFC 9110 section 7.4).
    bench.check_refused("GET https://b/x HTTP/1.1\r\nhost: b");
    bench.check_refused("GET http://u@b/x HTTP/1.1\r\nhost: a");
    bench.check_refused("GET http://b/x HTTP/1.1\r\nx: y");
    bench.check_refused("GET / HTTP/1.0\r\nhost: a\r\nhost: a");
    assert_eq!(bench.node.heard(), "");
}

#[test]
fn a_target_that_names_a_host_beats_the_field() {
    let bench = Bench::new();
    for (target, line, host) in [
        ("http://b/x?y", "GET /x?y HTTP/1.1", "b"),
        ("HTTP://b:81/x", "GET /x HTTP/1.1", "b:81"),
        ("http://b", "GET / HTTP/1.1", "b"),
        ("http://b?q", "GET /?q HTTP/1.1", "b"),
        ("//b/x", "GET /b/x HTTP/1.1", "a"),
    ] {
        let mut client = bench.proxy.client();
        assert_eq!(client.ask(format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n")).status, 200);
        let seen = bench.node.take();
        assert_eq!(seen.len(), 1);
        assert_eq!((seen[0].line(), seen[0].field("host")), (line, Some(host)), "{target}");
        assert_eq!(seen[0].head.matches("\r\nhost:").count(), 1, "{}", seen[0].head);
    }
}

#[test]
fn what_is_a_body_stays_a_body() {
    let bench = Bench::new();
    let hidden = "GET /hidden HTTP/1.1\r\nhost: a\r\n\r\n";
    let length = hidden.len();
    bench.check(
        format!("POST /b HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n{hidden}"),
        &[200],
        Open,
        &[("POST /b HTTP/1.1", hidden)],
    );
    let chunk = format!("{length:x}\r\n{hidden}\r\n0\r\n\r\n");
    bench.check(
        format!("POST /c HTTP/1.1\r\nhost: a\r\ntransfer-encoding: Chunked\r\n\r\n{chunk}"),
        &[200],
        Open,
        &[("POST /c HTTP/1.1", &chunk)],
    );
    // A GET may have a body, and one without a length has none.
    bench.check(
        format!("GET /g HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n{hidden}"),
        &[200],
        Open,
        &[("GET /g HTTP/1.1", hidden)],
    );
    bench.check(
        format!("POST /p HTTP/1.1\r\nhost: a\r\n\r\n{hidden}"),
        &[200, 200],
        Open,
        &[("POST /p HTTP/1.1", ""), ("GET /hidden HTTP/1.1", "")],
    );
    bench.check(
        format!("\r\nPOST /p HTTP/1.1\r\nhost: a\r\ncontent-length: 007\r\n\r\n1234567{hidden}"),
        &[200, 200],
        Open,
        &[("POST /p HTTP/1.1", "1234567"), ("GET /hidden HTTP/1.1", "")],
    );
    // In HTTP/1.0 as in 1.1, but the connection ends.
    bench.check(
        format!("POST /o HTTP/1.0\r\ncontent-length: 3\r\n\r\n123{hidden}"),
        &[200],
        Closed,
        &[("POST /o HTTP/1.1", "123")],
    );
    bench.check(
        format!("GET /last HTTP/1.1\r\nhost: a\r\nconnection: x, Close\r\n\r\n{hidden}"),
        &[200],
        Closed,
        &[("GET /last HTTP/1.1", "")],
    );
}

/// Chunked bodies that arrive whole and well-formed but for one thing.
#[test]
fn broken_chunks_are_refused_and_never_complete_a_request() {
    let bench = Bench::new();
    let head = "POST /chunks HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    for body in [
        "10000000000000000\r\nabc\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        "00000000000000003\r\nabc\r\n0\r\n\r\n",
        "g\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "+3\r\nabc\r\n0\r\n\r\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        " 3\r\nabc\r\n0\r\n\r\n",
        "3 \r\nabc\r\n0\r\n\r\n",
        "3\t;x\r\nabc\r\n0\r\n\r\n",
        "\r\nabc\r\n0\r\n\r\n",
        "3\nabc\r\n0\r\n\r\n",
        "3\rabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "3\r\nabc\r0\r\n\r\n",
        "3\r\nabc0\r\n\r\n",
        "3\r\nabc\r\n0\n\r\n",
        "3\r\nabc\r\n0\r\n\n",
        "3\r\nabc\r\n0\r\nx\r\n\r\n",
        "3\r\nabc\r\n0\r\nx : y\r\n\r\n",
        "3\r\nabc\r\n0\r\nx: y\n\r\n",
        "3\r\nabc\r\n0\r\n x: y\r\n\r\n",
        "3;\r\nabc\r\n0\r\n\r\n",
        "3;x=\r\nabc\r\n0\r\n\r\n",
        "3;x=\"y\r\nabc\r\n0\r\n\r\n",
        "3;x\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n",
        "3;x\x0b\r\nabc\r\n0\r\n\r\n",
        "3 ;x\r\nabc\r\n0\r\n\r\n",
    ] {
        bench.check(format!("{head}{body}{smuggled}"), &[400], Closed, &[]);
    }
    let long = format!("3;{}\r\nabc\r\n0\r\n\r\n", "x".repeat(10_000));
    bench.check(format!("{head}{long}"), &[400], Closed, &[]);
    let trailers = format!("0\r\nx: {}\r\n\r\n", "y".repeat(20_000));
    bench.check(format!("{head}{trailers}"), &[400], Closed, &[]);
}

/// The same where the node has already been sent the first chunk: it sees that the rest never comes.
#[test]
fn a_body_that_breaks_midway_breaks_off_towards_the_node() {
    let bench = Bench::new();
    let mut client = bench.proxy.client();
    client.send("POST /mid HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n");
    proxy::test_support::eventually("the first chunk", || {
        bench.node.heard().ends_with("3\r\nabc\r\n").then_some(())
    });
    let response = client.ask("zz\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!((response.status, response.field("connection")), (400, Some("close")));
    client.closed();
    assert_eq!(bench.node.take().len(), 0);
    assert!(bench.node.heard().ends_with("\r\n\r\n3\r\nabc\r\n"), "{}", bench.node.heard());
    let line = &bench.proxy.access_log(1)[0];
    assert!(line.ends_with(" PD") && line.contains(" 400 "), "{line}");
    // The node's connection is not used again.
    assert_eq!(bench.proxy.client().ask(AFTER).status, 200);
    assert_eq!(bench.node.take()[0].connection, 1);
}

#[test]
fn a_body_cut_off_is_never_completed() {
    let bench = Bench::new();
    for (fields, body) in [
        ("content-length: 10", "12345"),
        ("transfer-encoding: chunked", "5\r\n123"),
        ("transfer-encoding: chunked", "5\r\n12345\r\n"),
        ("transfer-encoding: chunked", "5\r\n12345\r\n0\r\n"),
        ("transfer-encoding: chunked", "5\r\n12345\r\n0\r\nx: y\r\n"),
    ] {
        let mut client = bench.proxy.client();
        client.send(format!("POST /cut HTTP/1.1\r\nhost: a\r\n{fields}\r\n\r\n{body}"));
        client.stream().shutdown(std::net::Shutdown::Write).expect("half close");
        client.rest();
        assert_eq!(bench.node.take().len(), 0, "{fields} {body:?}");
    }
    let lines = bench.proxy.access_log(5);
    assert!(lines.iter().all(|line| line.ends_with(" CD")), "{lines:?}");
}

#[test]
fn extensions_and_trailers_are_read_and_dropped() {
    let bench = Bench::new();
    let head = "POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntrailer: x\r\n\r\n";
    for body in [
        "3;a\r\nabc\r\n0\r\n\r\n",
        "3;a=b;c=\"d;\\\"\"\r\nabc\r\n0;e\r\n\r\n",
        "003\r\nabc\r\n000\r\n\r\n",
        "3\r\nabc\r\n0\r\nx: y\r\ncontent-length: 9\r\n\r\n",
    ] {
        let saw = [("POST /x HTTP/1.1", "3\r\nabc\r\n0\r\n\r\n")];
        bench.check(format!("{head}{body}"), &[200], Open, &saw);
    }
    let heard = bench.node.heard();
    assert!(!heard.contains("x: y") && !heard.contains("trailer"), "{heard}");
}

#[test]
fn nothing_pipelined_behind_a_refused_request_is_served() {
    let bench = Bench::new();
    let next = "GET /next HTTP/1.1\r\nhost: a\r\n\r\n";
    bench.check(
        format!("{next}GET / HTTP/1.1\r\n\r\n{next}"),
        &[200, 400],
        Closed,
        &[("GET /next HTTP/1.1", "")],
    );
    // Bytes of another protocol behind an upgrade that is not made are no request.
    let upgrade = "GET /up HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n";
    bench.check(
        format!("{upgrade}PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{next}"),
        &[200, 505],
        Closed,
        &[("GET /up HTTP/1.1", "")],
    );
    bench.check(
        format!("{upgrade}\0\0\0\x04{next}"),
        &[200, 400],
        Closed,
        &[("GET /up HTTP/1.1", "")],
    );
    bench.check(
        format!("{upgrade}{next}"),
        &[200, 200],
        Open,
        &[("GET /up HTTP/1.1", ""), ("GET /next HTTP/1.1", "")],
    );
    bench.check(format!("CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n{next}"), &[405], Closed, &[]);
}

#[test]
fn fields_of_the_connection_do_not_cross() {
    let node = Node::scripted(|_| {
        Reply::Bytes(
            b"HTTP/1.1 200 OK\r\nconnection: keep-alive, x-hop\r\nkeep-alive: timeout=5\r\nx-hop: 1\r\nproxy-authenticate: x\r\nupgrade: h2c\r\nx-end: 2\r\ncontent-length: 0\r\n\r\n"
                .to_vec(),
        )
    });
    let proxy = TestProxy::to(&[node.address]);
    let response = proxy.client().ask(
        "GET / HTTP/1.1\r\nhost: a\r\nconnection: x-one, content-length, host, via, x-forwarded-for\r\nConnection: X-Two, close\r\nx-one: 1\r\nx-two: 2\r\nkeep-alive: x\r\nproxy-connection: x\r\nproxy-authorization: x\r\nte: trailers\r\ntrailer: x\r\nupgrade: x\r\nhttp2-settings: x\r\nx-forwarded-for: 1.2.3.4\r\nx-forwarded-proto: https\r\nx-real-ip: 1.2.3.4\r\nx-consumer-username: root\r\nX_Consumer_Username: root\r\nx-end: 3\r\ncontent-length: 0\r\n\r\n",
    );
    for name in ["x-hop", "keep-alive", "proxy-authenticate", "upgrade"] {
        assert_eq!(response.field(name), None, "{name}");
    }
    assert_eq!((response.status, response.field("x-end")), (200, Some("2")));
    let seen = node.only();
    for name in [
        "connection",
        "x-one",
        "x-two",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "te",
        "trailer",
        "upgrade",
        "http2-settings",
        "x-consumer-username",
        "x_consumer_username",
    ] {
        assert_eq!(seen.field(name), None, "{name}");
    }
    assert_eq!((seen.field("x-end"), seen.field("host")), (Some("3"), Some("a")));
    assert_eq!(seen.field("content-length"), Some("0"));
    assert_eq!(seen.field("x-forwarded-for"), seen.field("x-real-ip"));
    assert_eq!(seen.field("x-forwarded-proto"), Some("http"));
}

/// A path that is protected is protected in every spelling, and the node gets one spelling.
#[test]
fn every_spelling_of_a_protected_path_needs_the_key() {
    let node = Node::always("ok");
    let yaml = format!(
        "listeners: [{{ name: web, address: \"127.0.0.1:0\" }}]\n\
         routes:\n\
         - {{ id: api, uris: [/api, /api/*], upstream_id: app, plugins: {{ key-auth: {{}} }} }}\n\
         - {{ id: all, uri: /*, upstream_id: app }}\n\
         upstreams: [{{ id: app, nodes: {{ \"{}\": 1 }} }}]\n\
         consumers: [{{ username: alice, plugins: {{ key-auth: {{ key: secret }} }} }}]\n",
        node.address
    );
    let proxy = TestProxy::start(&yaml);
    let mut client = proxy.client();
    let mut ask = |target: &str, key: &str| {
        let status = client.ask(format!("GET {target} HTTP/1.1\r\nhost: a\r\n{key}\r\n")).status;
        let mut seen = node.take();
        assert!(seen.len() <= 1);
        let line = seen.pop().map(|seen| seen.line().to_owned());
        (status, line.map(|line| line["GET ".len()..line.len() - " HTTP/1.1".len()].to_owned()))
    };
    for (target, forwarded) in [
        ("/api", "/api"),
        ("/api/", "/api/"),
        ("/api/x", "/api/x"),
        ("/api/x/", "/api/x/"),
        ("/api?q=/..", "/api?q=/.."),
        ("//api/x", "/api/x"),
        ("///api///x//", "/api/x/"),
        ("/./api/x", "/api/x"),
        ("/api/.", "/api/"),
        ("/api/./x", "/api/x"),
        ("/x/../api/x", "/api/x"),
        ("/../../api/x", "/api/x"),
        ("/api/x/..", "/api/"),
        ("/x/y/../../api", "/api"),
        ("/%61pi/x", "/%61pi/x"),
        ("/%61%70%69", "/%61%70%69"),
        ("/api%2fx", "/api/x"),
        ("/api%2Fx", "/api/x"),
        ("/%2fapi/x", "/api/x"),
        ("/api%5cx", "/api/x"),
        ("/%5Capi/x", "/api/x"),
        ("/api\\x", "/api/x"),
        ("/\\api/x", "/api/x"),
        ("/x%2f..%2fapi/x", "/api/x"),
        ("/x%5c..%5capi/x", "/api/x"),
        ("/x\\..\\api", "/api"),
        ("/%2e/api/x", "/api/x"),
        ("/%2E%2e/api/x", "/api/x"),
        ("/x/%2e%2E/api/x", "/api/x"),
        ("/x/.%2e/api/x", "/api/x"),
        ("/x/%2e%2e%2fapi%2fx", "/api/x"),
        ("/%2e%2e%2f%61pi/%20?q", "/api/%20?q"),
        ("/api/x;a=b", "/api/x;a=b"),
        ("/api/y;a=b/x", "/api/y;a=b/x"),
        ("/api/%2561", "/api/%2561"),
        ("http://a/api/x", "/api/x"),
        ("http://a//%61pi/./x", "/api/x"),
    ] {
        assert_eq!(ask(target, ""), (401, None), "{target}");
        assert_eq!(ask(target, "apikey: wrong\r\n"), (401, None), "{target}");
        assert_eq!(
            ask(target, "apikey: secret\r\n"),
            (200, Some(forwarded.to_owned())),
            "{target}"
        );
    }
    // Other paths. A parameter is part of its segment: a node that cuts it off (a servlet container)
    // reads the last two as protected ones, and has to protect them itself.
    for (target, forwarded) in [
        ("/", "/"),
        ("/API/x", "/API/x"),
        ("/apix", "/apix"),
        ("/x/api", "/x/api"),
        ("/api/..", "/"),
        ("/api/../x", "/x"),
        ("/%2561pi/x", "/%2561pi/x"),
        ("/x?/../api", "/x?/../api"),
        ("/api;a=b/x", "/api;a=b/x"),
        ("/a;b/api/x", "/a;b/api/x"),
    ] {
        assert_eq!(ask(target, ""), (200, Some(forwarded.to_owned())), "{target}");
    }
    // No reading at all.
    for target in [
        "/api/%00",
        "/api%",
        "/api/%zz",
        "/%2",
        "/x/..;/api/x",
        "/;/api/x",
        "/.;/api/x",
        "/x/%2e.;a/api",
    ] {
        assert_eq!(ask(target, "apikey: secret\r\n"), (400, None), "{target}");
    }
}

/// A response that cannot be read in one way only: 502, and the connection carries nothing else.
#[test]
fn ambiguous_responses_are_not_passed_on() {
    for response in [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 0\n\n",
        "HTTP/1.1 200 OK\r\nx: y\r\n z\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx : y\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: y\0\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: y\rset-cookie: a\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 99 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 1000 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n",
        "\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        "SSH-2.0-OpenSSH_9.6\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    ] {
        let node = Node::scripted(move |seen| match seen.connection {
            0 => Reply::Bytes(response.into()),
            _ => Reply::ok("good"),
        });
        let proxy = TestProxy::to(&[node.address]);
        let mut client = proxy.client();
        let refused = client.ask(AFTER);
        assert_eq!(
            (refused.status, refused.text()),
            (502, r#"{"error_msg":"502 Bad Gateway"}"#.to_owned()),
            "{response:?}"
        );
        assert_eq!(client.ask(AFTER).text(), "good", "{response:?}");
        let line = &proxy.access_log(2)[0];
        assert!(line.ends_with(" SH"), "{line}");
        proxy.check_metric("tandem_faults_total{fault=\"response_malformed\"}", 1.0);
    }
}

/// A body that breaks before anything of the response has left is a response that was never read; one
/// that breaks later breaks off, and nothing made up completes it.
#[test]
fn a_response_body_that_breaks_is_never_completed() {
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    for broken in
        ["zz\r\n", "3\r\nabcd\r\n0\r\n\r\n", "3\nabc\r\n0\r\n\r\n", "fffffffffffffffff\r\n"]
    {
        let node = Node::scripted(move |seen| match seen.connection {
            0 => Reply::Bytes(format!("{head}{broken}").into()),
            _ => Reply::ok("good"),
        });
        let proxy = TestProxy::to(&[node.address]);
        let mut client = proxy.client();
        assert_eq!(client.ask(AFTER).status, 502, "{broken:?}");
        assert_eq!(client.ask(AFTER).text(), "good", "{broken:?}");

        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (resume, resumed) = mpsc::channel();
        let node = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("the proxy connects");
            self::head(&mut stream);
            write!(stream, "{head}2\r\nok\r\n").expect("the proxy reads");
            resumed.recv().expect("the client goes on");
            write!(stream, "{broken}").expect("the proxy reads");
            // The proxy ends this connection, nobody else does.
            assert_eq!(self::head(&mut stream), "");
        });
        let proxy = TestProxy::to(&[address]);
        let mut client = proxy.client();
        let received = client.send(AFTER).until(b"2\r\nok\r\n");
        assert!(received.starts_with(b"HTTP/1.1 200 OK\r\n"));
        resume.send(()).expect("the node waits");
        client.closed();
        node.join().expect("the node is content");
        assert!(proxy.access_log(1)[0].ends_with(" SH"), "{:?}", proxy.access_log(1));
    }
}

/// What comes behind a response belongs to nobody: not to the next request, whoever sent it.
#[test]
fn surplus_behind_a_response_is_nobodys() {
    let evil = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    for (method, response) in [
        ("GET", format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok{evil}")),
        ("GET", format!("HTTP/1.1 204 No Content\r\n\r\n{evil}")),
        ("GET", format!("HTTP/1.1 304 Not Modified\r\ncontent-length: 44\r\n\r\n{evil}")),
        ("GET", format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{evil}")),
        ("HEAD", format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{evil}", evil.len())),
        ("HEAD", format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{evil}")),
        ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok\r\n".to_owned()),
    ] {
        let first = response.clone();
        let node = Node::scripted(move |seen| match seen.connection {
            0 => Reply::Bytes(first.clone().into()),
            _ => Reply::ok("good"),
        });
        let proxy = TestProxy::to(&[node.address]);
        let mut client = proxy.client();
        client.send(format!("{method} / HTTP/1.1\r\nhost: a\r\n\r\n"));
        assert!(client.response_to(method).status < 400, "{response:?}");
        assert_eq!(client.ask(AFTER).text(), "good", "{response:?}");
        assert_eq!(node.seen().last().map(|seen| seen.connection), Some(1), "{response:?}");
        assert_eq!(proxy.client().ask(AFTER).text(), "good");
    }
}

#[test]
fn interim_responses_are_swallowed_up_to_a_limit() {
    for (count, status) in [(1, 200), (16, 200), (17, 502), (1000, 502)] {
        let node = Node::scripted(move |_| {
            let interim = "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".repeat(count);
            Reply::Bytes(format!("{interim}HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").into())
        });
        let proxy = TestProxy::to(&[node.address]);
        assert_eq!(proxy.client().ask(AFTER).status, status, "{count}");
    }
}

/// What comes up to the end of a head, and maybe some more; nothing if the proxy closes.
fn head(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut heard = Vec::new();
    while !heard.windows(4).any(|window| window == b"\r\n\r\n") {
        let mut chunk = [0; 512];
        match stream.read(&mut chunk).expect("a head or the end") {
            0 => break,
            read => heard.extend_from_slice(&chunk[..read]),
        }
    }
    String::from_utf8(heard).expect("text")
}

/// The node answers before it has the request: the rest of the body is not the next request, on
/// either side.
#[test]
fn an_early_response_ends_nothing_but_itself() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let node = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the proxy connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut heard = Vec::new();
        while !heard.ends_with(b"first") {
            let mut byte = [0];
            assert_eq!(stream.read(&mut byte).expect("the head"), 1);
            heard.push(byte[0]);
        }
        let early = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly";
        stream.write_all(early).expect("the proxy reads");
        let mut rest = [0; 6];
        stream.read_exact(&mut rest).expect("the rest of the body");
        assert_eq!(&rest, b"second");
        // The connection may be kept or closed. If another request comes, it is a whole one.
        let mut next = head(&mut stream);
        if next.is_empty() {
            stream = listener.accept().expect("another connection").0;
            next = head(&mut stream);
        }
        assert!(next.starts_with("GET /after "), "{next}");
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnext")
            .expect("the proxy reads");
    });
    let proxy = TestProxy::to(&[address]);
    let mut client = proxy.client();
    client.send("POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: 11\r\n\r\nfirst");
    assert_eq!(client.response().text(), "early");
    client.send("second").send(AFTER);
    assert_eq!(client.response().text(), "next");
    node.join().expect("the node is content");
}

/// The node refuses a large body unread and closes; what the downstream goes on sending is no
/// request, and neither side's connection is used again.
#[test]
fn a_body_left_unread_is_not_the_next_request() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let node = thread::spawn(move || {
        for (at, body) in ["no", "ok"].into_iter().enumerate() {
            let (mut stream, _) = listener.accept().expect("the proxy connects");
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            let heard = head(&mut stream);
            let line = ["POST /unread ", "GET /after "][at];
            assert!(heard.starts_with(line), "{heard}");
            let status = ["413 Content Too Large", "200 OK"][at];
            let close = ["connection: close\r\n", ""][at];
            write!(stream, "HTTP/1.1 {status}\r\n{close}content-length: 2\r\n\r\n{body}")
                .expect("the proxy reads");
        }
    });
    let proxy = TestProxy::to(&[address]);
    let mut client = proxy.client();
    let hidden = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    client.send("POST /unread HTTP/1.1\r\nhost: a\r\ncontent-length: 10000000\r\n\r\n");
    client.send(hidden);
    assert_eq!(client.response().status, 413);
    client.try_send(hidden);
    client.closed();
    assert_eq!(Client::connect(proxy.address("web")).ask(AFTER).text(), "ok");
    node.join().expect("the node is content");
}

#[test]
fn what_a_node_may_take_for_the_proxys_own_does_not_reach_it() {
    let Bench { node, proxy } = Bench::new();
    let fields = "X_Real_IP: 9.9.9.9\r\nx-forwarded_for: 9.9.9.9\r\nUser_Agent: x\r\n";
    let request = format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n");
    assert_eq!(proxy.client().ask(&request).status, 200);
    let head = node.take().remove(0).head.to_ascii_lowercase();
    assert!(!head.contains("9.9.9.9"), "{head}");
    assert!(head.contains("user_agent: x"), "{head}");
}
