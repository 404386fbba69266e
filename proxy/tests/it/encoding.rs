//! Encoded responses, seen from outside and read by real decoders, on either lane.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::Duration,
};

use proxy::test_support::{Client, Node, Reply, Response, TestProxy, eventually};
use socket2::SockRef;

use crate::lane_pair::{LANES, LISTENERS, with_plugins};

/// Two listeners, one for each lane, and one route with `plugins` for everything to `node`.
fn start(node: SocketAddr, plugins: &str) -> TestProxy {
    TestProxy::start(&with_plugins(plugins, node))
}

fn get(accept: &str) -> String {
    format!("GET / HTTP/1.1\r\nhost: a\r\naccept-encoding: {accept}\r\n\r\n")
}

/// What a decoder makes of a body, as far as it goes; `false`: it is not whole.
fn decoded(coding: &str, body: &[u8]) -> (Vec<u8>, bool) {
    let mut data = Vec::new();
    let read = match coding {
        "gzip" => flate2::read::GzDecoder::new(body).read_to_end(&mut data),
        "br" => brotli::Decompressor::new(body, 4096).read_to_end(&mut data),
        "zstd" => zstd::stream::read::Decoder::new(body).expect("memory").read_to_end(&mut data),
        other => panic!("{other}"),
    };
    (data, read.is_ok())
}

/// The body of a response that is encoded as `coding`, and whole.
#[track_caller]
fn read(response: &Response, coding: &str) -> Vec<u8> {
    assert_eq!(response.field("content-encoding"), Some(coding), "{response:?}");
    assert_eq!(response.field("content-length"), None);
    let (data, is_whole) = decoded(coding, &response.body);
    assert!(is_whole, "{coding}");
    data
}

/// Text that is not all the same.
fn text(size: usize) -> String {
    let mut text: String = (0..size / 8).map(|at| format!("{:07} ", at * at % 9973)).collect();
    text.extend(std::iter::repeat_n('.', size - text.len()));
    text
}

fn page(content_type: &str, fields: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\n{fields}content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A node that says this to everyone.
fn saying(bytes: Vec<u8>) -> Node {
    Node::scripted(move |_| Reply::Bytes(bytes.clone()))
}

/// What both lanes say to `request`, which is the same; where the node pauses encoded bodies may be cut
/// in other places.
#[track_caller]
fn on_both(proxy: &TestProxy, request: &str) -> Response {
    let [express, hyper] = LANES.map(|lane| Client::connect(proxy.address(lane)).ask(request));
    let lines = |response: &Response| {
        let lines = response.head.lines().filter(|line| !line.starts_with("date:"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(lines(&express), lines(&hyper));
    let data = |response: &Response| match response.field("content-encoding") {
        Some(coding @ ("gzip" | "br" | "zstd")) => decoded(coding, &response.body),
        Some(_) | None => (response.body.clone(), true),
    };
    assert!(data(&express) == data(&hyper), "{request}");
    express
}

const ALL: &str = "{ gzip: { types: \"*\" }, brotli: { types: \"*\" }, zstd: { types: \"*\" } }";

#[test]
fn a_page_is_encoded_once_as_the_client_likes_it_best() {
    let body = text(50_000);
    let fields = "ETag: \"v1\"\r\nAccept-Ranges: bytes\r\n";
    let node = saying(page("text/plain", fields, &body));
    let proxy = start(node.address, ALL);
    for (accept, coding) in [
        ("gzip", "gzip"),
        ("br", "br"),
        ("zstd", "zstd"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("zstd;q=0.1, br;q=0.2, gzip;q=0.3", "gzip"),
        ("zstd;q=0, *", "br"),
    ] {
        let response = on_both(&proxy, &get(accept));
        assert!(read(&response, coding) == body.as_bytes(), "{accept}");
        assert!(response.body.len() < body.len() / 2, "{accept}: {}", response.body.len());
        assert_eq!(response.field("etag"), Some("W/\"v1\""));
        assert_eq!(response.field("accept-ranges"), None);
        assert_eq!(response.head.matches("content-encoding").count(), 1);
    }
    for accept in ["identity", "gzip;q=0", "deflate"] {
        let response = on_both(&proxy, &get(accept));
        assert_eq!(response.field("content-encoding"), None, "{accept}");
        assert_eq!(response.field("content-length"), Some("50000"));
        assert_eq!(response.field("etag"), Some("\"v1\""));
        assert!(response.body == body.as_bytes());
    }
}

#[test]
fn a_connection_stays_usable_behind_encoded_responses() {
    let body = text(3000);
    let node = saying(page("text/html", "", &body));
    let proxy = start(node.address, ALL);
    for lane in LANES {
        let mut client = Client::connect(proxy.address(lane));
        for accept in ["gzip", "br", "identity", "zstd"] {
            let response = client.ask(get(accept));
            let data = match accept {
                "identity" => response.body.clone(),
                coding => read(&response, coding),
            };
            assert!(data == body.as_bytes(), "{lane} {accept}");
        }
        client.send(get("gzip").replace("GET", "HEAD"));
        let head = client.response_to("HEAD");
        assert_eq!(
            (head.field("content-encoding"), head.field("content-length")),
            (Some("gzip"), None)
        );
        assert!(read(&client.ask(get("gzip")), "gzip") == body.as_bytes());
    }
}

/// Tries of one kind: a pause of the node, which nobody can rule out, makes a body longer.
const TRIES: usize = 3;

/// Bytes that `plugins` make of `reply` at least, and the coding.
fn made(plugins: &str, accept: &str, reply: &[u8]) -> (usize, Option<String>) {
    let node = saying(reply.to_vec());
    let proxy = start(node.address, plugins);
    let tries = (0..TRIES).map(|_| {
        let response = Client::connect(proxy.address("web")).ask(get(accept));
        (response.body.len(), response.field("content-encoding").map(str::to_owned))
    });
    tries.min().expect("some")
}

#[track_caller]
fn check_differ(accept: &str, reply: &[u8], one: &str, other: &str) {
    let [one_made, other_made] = [one, other].map(|plugins| made(plugins, accept, reply));
    assert_eq!((one_made.1.as_deref(), other_made.1.as_deref()), (Some(accept), Some(accept)));
    assert!(one_made.0 > other_made.0, "{one}: {} {other}: {}", one_made.0, other_made.0);
}

#[test]
fn what_comes_whole_is_encoded_alike_on_either_lane() {
    let node = saying(page("text/plain", "", &text(2000)));
    let proxy = start(node.address, ALL);
    for coding in ["gzip", "br", "zstd"] {
        let bodies = LANES.map(|lane| Client::connect(proxy.address(lane)).ask(get(coding)).body);
        assert!(bodies[0] == bodies[1], "{coding}");
    }
}

#[test]
fn levels_windows_blocks_and_modes_have_an_effect() {
    let reply = page("text/html", "", &text(100_000));
    check_differ("gzip", &reply, "{ gzip: {} }", "{ gzip: { comp_level: 9 } }");
    check_differ("br", &reply, "{ brotli: { comp_level: 0 } }", "{ brotli: {} }");
    check_differ("br", &reply, "{ brotli: { lgwin: 10 } }", "{ brotli: {} }");
    check_differ("zstd", &reply, "{ zstd: { comp_level: 1 } }", "{ zstd: { comp_level: 12 } }");
    let letters: String = noise(150_000).iter().map(|byte| char::from(b'a' + byte % 20)).collect();
    let reply = page("text/html", "", &letters);
    for key in ["lgblock: 20", "mode: 2"] {
        let of = |settings: &str| made(&format!("{{ brotli: {{ {settings} }} }}"), "br", &reply).0;
        assert_ne!(of(key), of("comp_level: 6"), "{key}");
    }
}

#[test]
fn types_lengths_and_versions_are_chosen() {
    let is_encoded = |settings: &str, reply: &[u8]| {
        let codings = [("gzip", "gzip"), ("brotli", "br"), ("zstd", "zstd")];
        let seen = codings.map(|(plugin, accept)| {
            let coding = made(&format!("{{ {plugin}: {{ {settings} }} }}"), accept, reply).1;
            coding.as_deref() == Some(accept)
        });
        assert!(seen.iter().all(|one| *one == seen[0]), "{settings}: {seen:?}");
        seen[0]
    };
    let body = text(100);
    let css = page("text/css; charset=utf-8", "", &body);
    assert!(is_encoded("", &page("text/html", "", &body)));
    assert!(!is_encoded("", &css));
    assert!(is_encoded("types: [text/css]", &css));
    assert!(is_encoded("types: \"*\"", &css));
    assert!(!is_encoded("types: \"*\", min_length: 101", &css));
    assert!(is_encoded("types: \"*\", min_length: 100", &css));
    assert!(!is_encoded("types: \"*\"", &page("text/css", "Content-Encoding: deflate\r\n", &body)));
    assert!(!is_encoded("types: \"*\"", &page("a/b", "cache-control: no-transform\r\n", &body)));
}

#[test]
fn clients_of_http_1_0_are_encoded_for_if_that_is_wanted() {
    let body = text(1000);
    let node = saying(page("text/html", "", &body));
    for (settings, is_encoded) in [("", false), ("http_version: 1.0", true)] {
        let proxy = start(node.address, &format!("{{ gzip: {{ {settings} }} }}"));
        for lane in LANES {
            let mut client = Client::connect(proxy.address(lane));
            let response = client.ask(get("gzip").replace("HTTP/1.1", "HTTP/1.0"));
            assert_eq!(response.field("transfer-encoding"), None);
            if is_encoded {
                assert!(read(&response, "gzip") == body.as_bytes());
                client.closed();
            } else {
                assert!(response.body == body.as_bytes());
            }
        }
    }
}

#[test]
fn caches_are_told_what_it_depends_on() {
    let body = text(100);
    for (plugins, vary, told) in [
        ("{ gzip: { vary: true } }", "", 1),
        ("{ gzip: { vary: true } }", "Vary: accept-encoding\r\n", 0),
        ("{ gzip: { vary: true }, cors: { allow_origins: \"http://a\" } }", "", 1),
        ("{ gzip: {} }", "", 0),
    ] {
        let node = saying(page("text/html", vary, &body));
        let proxy = start(node.address, plugins);
        for accept in ["gzip", "identity"] {
            let response = on_both(&proxy, &get(accept));
            assert_eq!(response.head.matches("vary: Accept-Encoding").count(), told, "{plugins}");
        }
    }
}

#[test]
fn what_other_plugins_make_of_a_body_is_what_is_encoded() {
    let node = saying(page("text/html", "", &text(100)));
    let rewrite = "response-rewrite: { filters: [{ regex: \"0\", replace: x, scope: global }] }";
    let proxy = start(node.address, &format!("{{ gzip: {{}}, {rewrite} }}"));
    let data = read(&on_both(&proxy, &get("gzip")), "gzip");
    assert!(data == text(100).replace('0', "x").as_bytes());
    let proxy = start(
        node.address,
        "{ brotli: { types: [a/b] }, response-rewrite: { body: whatever it takes, headers: { content-type: a/b } } }",
    );
    assert_eq!(read(&on_both(&proxy, &get("br")), "br"), b"whatever it takes");
}

/// A node that sends pieces of a body as it is told, in chunks; without any more to send, the end.
fn pausing() -> (SocketAddr, mpsc::Sender<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let (send, sent) = mpsc::channel::<Vec<u8>>();
    thread::spawn(move || {
        let mut stream = asked(&listener);
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                    transfer-encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).expect("taken");
        for piece in sent {
            let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), &piece, b"\r\n"].concat();
            if stream.write_all(&chunk).is_err() {
                return;
            }
        }
        drop(stream.write_all(b"0\r\n\r\n"));
    });
    (address, send)
}

/// Reads until what has come of the body decodes to `expected`.
#[track_caller]
fn until_seen(stream: &mut TcpStream, received: &mut Vec<u8>, coding: &str, expected: &[u8]) {
    loop {
        let (data, _) = decoded(coding, &unchunked(received).0);
        if data == expected {
            return;
        }
        let mut bytes = [0; 65_536];
        let count = stream.read(&mut bytes).expect("more bytes");
        assert!(count > 0, "{coding}: {} of {}", data.len(), expected.len());
        received.extend_from_slice(&bytes[..count]);
    }
}

/// The data of the chunks behind a head, and whether there was a last one.
fn unchunked(received: &[u8]) -> (Vec<u8>, bool) {
    let head = received.windows(4).position(|window| window == b"\r\n\r\n");
    let (mut left, mut data) = (head.map_or(&b""[..], |at| &received[at + 4..]), Vec::new());
    loop {
        let Some(end) = left.windows(2).position(|window| window == b"\r\n") else {
            return (data, false);
        };
        let size = std::str::from_utf8(&left[..end]).expect("ASCII");
        let size = usize::from_str_radix(size, 16).expect("a size");
        let Some(piece) = left.get(end + 2..end + 2 + size) else { return (data, false) };
        if size == 0 {
            return (data, true);
        }
        data.extend_from_slice(piece);
        left = left.get(end + 4 + size..).unwrap_or_default();
    }
}

#[test]
fn what_has_come_is_passed_on_while_the_node_pauses() {
    for lane in LANES {
        for coding in ["gzip", "br", "zstd"] {
            let (address, send) = pausing();
            let proxy = start(address, ALL);
            let mut stream = TcpStream::connect(proxy.address(lane)).expect("connected");
            stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
            stream.write_all(get(coding).as_bytes()).expect("taken");
            let (mut received, mut expected) = (Vec::new(), Vec::new());
            for size in [10, 1, 100_000, 3000] {
                let piece = text(size).into_bytes();
                expected.extend_from_slice(&piece);
                send.send(piece).expect("a node");
                until_seen(&mut stream, &mut received, coding, &expected);
            }
            drop(send);
            while !unchunked(&received).1 {
                let mut bytes = [0; 4096];
                let count = stream.read(&mut bytes).expect("the end");
                assert!(count > 0, "{lane} {coding}");
                received.extend_from_slice(&bytes[..count]);
            }
            assert!(
                decoded(coding, &unchunked(&received).0) == (expected, true),
                "{lane} {coding}"
            );
        }
    }
}

#[test]
fn a_body_that_breaks_off_is_not_made_whole() {
    let mut reply = page("text/html", "", &text(100_000));
    reply.truncate(60_000);
    for lane in LANES {
        for coding in ["gzip", "br", "zstd"] {
            let reply = reply.clone();
            let node = Node::scripted(move |_| Reply::Close(reply.clone()));
            let proxy = start(node.address, ALL);
            let mut client = Client::connect(proxy.address(lane));
            let received = client.send(get(coding)).rest();
            let (body, has_end) = unchunked(&received);
            assert!(!has_end && !decoded(coding, &body).1, "{lane} {coding}");
        }
    }
}

fn noise(size: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let byte = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..size).map(byte).collect()
}

/// A connection of the proxy that has asked for something.
fn asked(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = listener.accept().expect("the proxy connects");
    let mut request = [0; 4096];
    assert!(stream.read(&mut request).expect("a request") > 0);
    stream
}

/// A client that reads nothing holds its node back, and what is held is given back when it goes.
#[test]
fn a_client_that_does_not_read_costs_no_memory() {
    const LIMITS: &str = "limits: { send_buffer: 64KiB, receive_buffer: 64KiB, unsent_max: 16KiB, \
                          encoder_memory: 600KiB }\n";
    // Buffers of both connections and of the encoder, far below what the node would send.
    const TAKEN_MAX: usize = 8 << 20;
    for is_express in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let yaml = TestProxy::yaml(&[listener.local_addr().expect("an address")])
            .replace("name: web,", &format!("name: web, express_lane: {is_express},"))
            .replace("uri: /*,", "uri: /*, plugins: { gzip: {} },");
        let proxy = TestProxy::start(&format!("{yaml}{LIMITS}"));
        let mut client = proxy.client();
        client.send(get("gzip"));
        let mut node = asked(&listener);
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\n\r\n";
        node.write_all(head.as_bytes()).expect("taken");
        node.set_write_timeout(Some(Duration::from_millis(300))).expect("a timeout");
        let (piece, mut taken) = (noise(1 << 16), 0);
        while let Ok(count) = node.write(&piece) {
            taken += count;
            assert!(taken < TAKEN_MAX, "express: {is_express}");
        }
        assert!(taken > 0, "express: {is_express}");
        // As TCP resets where something is unread; of a leg that would be the end of the stream only.
        SockRef::from(client.stream()).set_linger(Some(Duration::ZERO)).expect("linger");
        drop(client);
        proxy.access_log(1);
        eventually("the node is let go", || node.write(&piece).is_err().then_some(()));
        let mut client = proxy.client();
        client.send(get("gzip"));
        let mut node = asked(&listener);
        node.write_all(&page("text/html", "", &text(1000))).expect("taken");
        assert!(read(&client.response(), "gzip") == text(1000).as_bytes());
    }
}

#[test]
fn what_finds_no_memory_for_its_encoder_leaves_as_it_is() {
    for lane in LANES {
        let (address, send) = pausing();
        let node = saying(page("text/html", "", &text(5000)));
        let proxy = TestProxy::start(&format!(
            "{LISTENERS}\
             routes:\n  - {{ id: slow, uri: /slow, upstream_id: slow, plugins: {ALL} }}\n  \
             - {{ id: all, uri: /*, upstream_id: app, plugins: {ALL} }}\n\
             upstreams: [{{ id: app, nodes: {{ \"{}\": 1 }} }}, \
             {{ id: slow, nodes: {{ \"{address}\": 1 }} }}]\n\
             limits: {{ encoder_memory: 600KiB }}\n",
            node.address
        ));
        let mut slow = Client::connect(proxy.address(lane));
        slow.send(get("gzip").replace("GET / ", "GET /slow "));
        let head = slow.until(b"\r\n\r\n");
        assert!(String::from_utf8_lossy(&head).contains("content-encoding: gzip"));
        let plain = on_both(&proxy, &get("gzip"));
        assert_eq!(plain.field("content-encoding"), None);
        assert!(plain.body == text(5000).as_bytes());
        proxy.check_metric("tandem_encodings_skipped_total", 2.0);
        drop(send);
        slow.until(b"0\r\n\r\n");
        assert!(read(&on_both(&proxy, &get("gzip")), "gzip") == text(5000).as_bytes());
        proxy.check_metric("tandem_encodings_skipped_total", 2.0);
    }
}

#[test]
fn what_is_not_of_a_type_goes_as_if_there_were_no_plugin() {
    let is_hyper = std::env::var_os("TANDEM_TEST_LANE").is_some_and(|lane| lane == "hyper");
    let body = text(3_000_000);
    let node = saying(page("image/png", "", &body));
    let proxy = start(node.address, "{ gzip: {}, brotli: {}, zstd: {} }");
    let response = Client::connect(proxy.address("web")).ask(get("gzip, br, zstd"));
    assert_eq!((response.field("content-encoding"), response.field("vary")), (None, None));
    assert!(response.body == body.as_bytes());
    let line = &proxy.access_log(1)[0];
    let via = line.split(' ').nth(17);
    assert!(is_hyper || via != Some("user"), "{line}");
}
