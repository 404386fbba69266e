//! Bodies of every size, both ways, in one lane or the other: byte for byte, without waiting for
//! bytes that are not due.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use proxy::test_support::{Client, Node, Reply, TestProxy, gives_up_connections};

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
/// Far below every timeout there is, far above what an exchange on loopback takes.
const PROMPT: Duration = Duration::from_secs(5);
/// A prime, so that no buffer's size is a multiple of it.
const PERIOD: usize = 65_521;

fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at % 251) as u8).collect()
}

/// Sizes around everything that is copied, read or spliced at a time.
const SIZES: [usize; 14] =
    [0, 1, 3000, 3896, 4000, 4095, 4096, 4097, 8192, 10_000, 65_536, 70_000, 131_072, 1_000_003];

/// A client that is not told otherwise keeps small pieces back until the one before is acknowledged
/// (RFC 896); an acknowledgement that waits for the response would come after 40 ms.
#[test]
fn a_first_request_in_pieces_is_acknowledged_piece_by_piece() {
    const LATE: Duration = Duration::from_millis(30);
    let node = Node::always("ok");
    let proxy = TestProxy::to(&[node.address]);
    for pieces in [
        ["GET / HTTP/1.1\r\n", "host: a\r\n\r\n"],
        ["POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n", "hi"],
        ["POST / HTTP/1.0\r\nhost: a\r\ncontent-length: 2\r\n\r\n", "hi"],
    ] {
        let quickest = (0..10).map(|_| {
            let mut client = proxy.client();
            client.stream().set_nodelay(false).expect("an option");
            let started = Instant::now();
            for piece in pieces {
                client.send(piece);
            }
            assert_eq!(client.response().status, 200);
            started.elapsed()
        });
        assert!(quickest.min().expect("some") < LATE, "{pieces:?}");
    }
}

#[test]
fn a_response_ends_with_its_last_byte() {
    let node = Node::scripted(|seen| {
        let size = seen.line().split(['/', ' ']).nth(2).and_then(|size| size.parse().ok());
        let mut reply = Vec::new();
        if seen.line().contains("/none") {
            write!(reply, "HTTP/1.1 204 No Content\r\nx: {}\r\n\r\n", "y".repeat(5000))
                .expect("a Vec takes everything");
        } else {
            let body = pattern(size.expect("a size"));
            write!(reply, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len())
                .expect("a Vec takes everything");
            reply.extend(body);
        }
        Reply::Bytes(reply)
    });
    let proxy = TestProxy::to(&[node.address]);
    let mut client = proxy.client();
    let started = Instant::now();
    for size in SIZES {
        let response = client.ask(format!("GET /{size} HTTP/1.1\r\nhost: a\r\n\r\n"));
        assert_eq!((response.status, response.body.len()), (200, size));
        assert!(response.body == pattern(size), "{size}");
        assert_eq!(client.ask("GET /none HTTP/1.1\r\nhost: a\r\n\r\n").status, 204);
    }
    assert!(started.elapsed() < PROMPT, "{:?}", started.elapsed());
    for line in proxy.access_log(2 * SIZES.len()) {
        assert!(line.ends_with(" --"), "{line}");
    }
    let connections: Vec<_> = node.seen().iter().map(|seen| seen.connection).collect();
    if !gives_up_connections() {
        assert!(connections.iter().all(|&connection| connection == 0), "{connections:?}");
    }
}

#[test]
fn a_request_ends_with_its_last_byte() {
    let node = Node::always("ok");
    let proxy = TestProxy::to(&[node.address]);
    let mut client = proxy.client();
    let started = Instant::now();
    for size in SIZES {
        client.send(format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {size}\r\n\r\n"));
        // In one piece and in two.
        let body = pattern(size);
        let (first, second) = body.split_at(size / 3);
        client.send(first).send(second);
        assert_eq!(client.response().text(), "ok");
        let mut chunked =
            b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        if size > 0 {
            write!(chunked, "{size:x}\r\n").expect("a Vec takes everything");
            chunked.extend_from_slice(&body);
            chunked.extend_from_slice(b"\r\n");
        }
        chunked.extend_from_slice(b"0\r\n\r\n");
        assert_eq!(client.ask(chunked).text(), "ok");
        let seen = node.take();
        assert!(seen[0].body == body, "{size}");
        assert!(dechunked(&seen[1].body) == body, "{size}");
    }
    assert!(started.elapsed() < PROMPT, "{:?}", started.elapsed());
}

/// The data of a chunked body as the proxy makes them.
pub(crate) fn dechunked(mut body: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    loop {
        let end = body.windows(2).position(|pair| pair == b"\r\n").expect("a size line");
        let size = std::str::from_utf8(&body[..end]).expect("ASCII");
        let size = usize::from_str_radix(size, 16).expect("hex");
        data.extend_from_slice(&body[end + 2..end + 2 + size]);
        body = &body[end + 2 + size..];
        if size == 0 {
            assert_eq!(body, b"\r\n");
            return data;
        }
        body = body.strip_prefix(b"\r\n").expect("a line ending");
    }
}

/// Reads what a repeated pattern of [`PERIOD`] bytes must be.
fn check_pattern(from: &mut impl Read, size: usize) {
    let expected = pattern(PERIOD).repeat(3);
    let mut received = vec![0; 2 * PERIOD];
    let mut at = 0;
    while at < size {
        let room = received.len().min(size - at);
        let count = from.read(&mut received[..room]).expect("bytes");
        assert!(count > 0, "ends after {at} of {size}");
        let phase = at % PERIOD;
        assert!(received[..count] == expected[phase..phase + count], "differs behind {at}");
        at += count;
    }
}

fn write_pattern(to: &mut impl Write, size: usize) {
    let period = pattern(PERIOD);
    let mut left = size;
    while left > 0 {
        let count = left.min(PERIOD);
        to.write_all(&period[..count]).expect("taken");
        left -= count;
    }
}

fn until_empty_line(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).expect("a byte"), 1);
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("ASCII")
}

/// A node that checks a body of `size` bytes, and sends as many back.
fn checking_node(size: usize) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let node = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the proxy connects");
        let head = until_empty_line(&mut stream);
        assert!(head.contains(&format!("content-length: {size}")), "{head}");
        check_pattern(&mut stream, size);
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n").expect("taken");
        write_pattern(&mut stream, size);
    });
    (address, node)
}

#[test]
fn a_gibibyte_arrives_both_ways() {
    const SIZE: usize = 1 << 30;
    let (address, node) = checking_node(SIZE);
    let proxy = TestProxy::to(&[address]);
    let mut client = TcpStream::connect(proxy.address("web")).expect("connected");
    write!(client, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {SIZE}\r\n\r\n").expect("taken");
    write_pattern(&mut client, SIZE);
    assert!(until_empty_line(&mut client).starts_with("HTTP/1.1 200"));
    check_pattern(&mut client, SIZE);
    node.join().expect("the node is content");
    let line = &proxy.access_log(1)[0];
    assert!(line.contains(&format!(" {SIZE} {SIZE} ")) && line.ends_with(" --"), "{line}");
}

/// What is in chunks, as it comes.
struct Chunks<'s> {
    stream: &'s mut TcpStream,
    /// Of the chunk under way.
    left: usize,
}

impl Chunks<'_> {
    fn line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).expect("a byte");
            line.push(byte[0]);
        }
        String::from_utf8(line).expect("ASCII").trim_end().to_owned()
    }

    fn check_end(&mut self) {
        assert_eq!((self.left, self.line().as_str(), self.line().as_str()), (0, "0", ""));
    }
}

impl Read for Chunks<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 {
            self.left = usize::from_str_radix(&self.line(), 16).expect("a size");
        }
        let room = bytes.len().min(self.left);
        let count = self.stream.read(&mut bytes[..room])?;
        self.left -= count;
        if self.left == 0 {
            assert_eq!(self.line(), "");
        }
        Ok(count)
    }
}

/// The same as [`write_pattern`], in chunks of a mebibyte.
fn write_chunks(to: &mut impl Write, size: usize) {
    const CHUNK: usize = 1 << 20;
    let pattern = pattern(PERIOD).repeat(CHUNK / PERIOD + 2);
    for at in (0..size).step_by(CHUNK) {
        let phase = at % PERIOD;
        write!(to, "{CHUNK:x}\r\n").expect("taken");
        to.write_all(&pattern[phase..phase + CHUNK]).expect("taken");
        to.write_all(b"\r\n").expect("taken");
    }
    to.write_all(b"0\r\n\r\n").expect("taken");
}

#[test]
fn a_gibibyte_arrives_both_ways_in_chunks() {
    const SIZE: usize = 1 << 30;
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let proxy = TestProxy::to(&[listener.local_addr().expect("an address")]);
    let node = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the proxy connects");
        until_empty_line(&mut stream);
        let mut chunks = Chunks { stream: &mut stream, left: 0 };
        check_pattern(&mut chunks, SIZE);
        chunks.check_end();
        write!(stream, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").expect("taken");
        write_chunks(&mut stream, SIZE);
    });
    let mut client = TcpStream::connect(proxy.address("web")).expect("connected");
    write!(client, "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        .expect("taken");
    write_chunks(&mut client, SIZE);
    assert!(until_empty_line(&mut client).starts_with("HTTP/1.1 200"));
    let mut chunks = Chunks { stream: &mut client, left: 0 };
    check_pattern(&mut chunks, SIZE);
    chunks.check_end();
    node.join().expect("the node is content");
    let line = &proxy.access_log(1)[0];
    assert!(line.contains(&format!(" {SIZE} {SIZE} ")) && line.ends_with(" --"), "{line}");
}

/// Bytes by `via` and direction after a large body each way with this in `limits`.
fn moved_via(limits: &str) -> (String, [f64; 4]) {
    const SIZE: usize = 3_000_000;
    let (address, node) = checking_node(SIZE);
    let yaml = format!("{}limits: {{ {limits} }}\n", TestProxy::yaml(&[address]));
    let proxy = TestProxy::start(&yaml);
    let mut client = TcpStream::connect(proxy.address("web")).expect("connected");
    write!(client, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {SIZE}\r\n\r\n").expect("taken");
    write_pattern(&mut client, SIZE);
    until_empty_line(&mut client);
    check_pattern(&mut client, SIZE);
    node.join().expect("the node is content");
    let log = proxy.access_log(1);
    let by_via = |via: &str| {
        ["sent", "recv"].map(|direction| {
            let labels = format!("direction=\"{direction}\",via=\"{via}\"");
            proxy.metric(&format!("tandem_forward_bytes_total{{{labels}}}"))
        })
    };
    let [[s, r], [us, ur]] = ["splice", "user"].map(by_via);
    assert_eq!((s + us, r + ur), (SIZE as f64, SIZE as f64));
    (log[0].split(' ').nth(17).expect("a word").to_owned(), [s, r, us, ur])
}

#[test]
fn large_bodies_are_spliced_unless_told_otherwise() {
    let is_hyper = std::env::var_os("TANDEM_TEST_LANE").is_some_and(|lane| lane == "hyper");
    let (via, [spliced_sent, spliced_recv, ..]) = moved_via("");
    if is_hyper {
        assert_eq!((via.as_str(), spliced_sent + spliced_recv), ("user", 0.0));
    } else {
        assert_eq!(via, "splice");
        assert!(spliced_sent > 1_000_000.0 && spliced_recv > 1_000_000.0, "{spliced_sent}");
    }
    for limits in ["splice_min: none", "splice_min: 4MiB"] {
        let (via, [spliced_sent, spliced_recv, ..]) = moved_via(limits);
        assert_eq!((via.as_str(), spliced_sent + spliced_recv), ("user", 0.0), "{limits}");
    }
}

/// A node that answers as soon as it has a head, then reads a body of three bytes, over and over.
fn hasty_node(times: usize) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let node = thread::spawn(move || {
        for _ in 0..times {
            let (mut stream, _) = listener.accept().expect("the proxy connects");
            let head = until_empty_line(&mut stream);
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhasty").expect("taken");
            if head.starts_with("POST") {
                let mut body = [0; 3];
                stream.read_exact(&mut body).expect("the rest of the request");
                assert_eq!(&body, b"abc");
            }
        }
    });
    (address, node)
}

#[test]
fn a_request_goes_on_after_its_response() {
    let (address, node) = hasty_node(2);
    let proxy = TestProxy::to(&[address]);
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\na");
    assert_eq!(client.response().text(), "hasty");
    client.send("bc");
    assert_eq!(client.ask(GET).text(), "hasty");
    node.join().expect("the node is content");
}

#[test]
fn what_is_pipelined_behind_the_last_request_does_not_reset_its_response() {
    const SIZE: usize = 300_000;
    let node = Node::scripted(|_| Reply::ok(&"x".repeat(SIZE)));
    let proxy = TestProxy::to(&[node.address]);
    for _ in 0..10 {
        let mut client = proxy.client();
        let mut request = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".to_vec();
        request.resize(100_000, b'z');
        client.send(request);
        assert_eq!(client.response().body.len(), SIZE);
        client.closed();
    }
}

#[test]
fn a_request_that_was_heard_of_is_not_sent_again() {
    let node = Node::scripted(|seen| match seen.line() {
        "DELETE / HTTP/1.1" => Reply::Close(b"HTTP/1.1 102 Processing\r\n\r\n".to_vec()),
        _ => Reply::ok("x"),
    });
    let proxy = TestProxy::to(&[node.address]);
    let mut client = proxy.client();
    assert_eq!(client.ask(GET).status, 200);
    assert_eq!(client.ask("DELETE / HTTP/1.1\r\nhost: a\r\n\r\n").status, 502);
    assert_eq!(node.seen().len(), 2);
}

#[test]
fn an_answer_of_a_node_that_takes_no_more_is_passed_on() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let node = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the proxy connects");
        until_empty_line(&mut stream);
        stream
            .write_all(
                b"HTTP/1.1 413 Too Large\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno",
            )
            .expect("taken");
        // Closing with unread bytes resets.
    });
    let proxy = TestProxy::to(&[address]);
    let mut client = Client::connect(proxy.address("web"));
    client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000\r\n\r\n");
    client.try_send(vec![b'x'; 100_000]);
    let response = client.response();
    assert_eq!((response.status, response.text().as_str()), (413, "no"));
    node.join().expect("the node is content");
}

#[test]
fn a_body_that_filters_cannot_hold_is_filtered_as_it_comes() {
    let node = Node::scripted(|_| Reply::ok(&"a".repeat(1_000_000)));
    for is_express in [true, false] {
        for (limits, is_cut) in [("", false), ("limits: { filter_memory: 64KiB }\n", true)] {
            let plugins =
                "{ response-rewrite: { filters: [{ regex: '.+', options: s, replace: x }] } }";
            let yaml = TestProxy::yaml(&[node.address])
                .replace("name: web,", &format!("name: web, express_lane: {is_express},"))
                .replace("uri: /*,", &format!("uri: /*, plugins: {plugins},"));
            let proxy = TestProxy::start(&format!("{yaml}{limits}"));
            let body = proxy.client().ask(GET).body;
            assert!(body.iter().all(|byte| *byte == b'x'), "{is_express} {limits}");
            assert_eq!(body.len() > 1, is_cut, "{is_express} {limits}");
            proxy.check_metric("tandem_filters_cut_total", f64::from(u8::from(is_cut)));
        }
    }
}

#[test]
fn a_body_of_its_own_is_no_part_of_anything() {
    let node = Node::scripted(|_| {
        let head = "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes 0-2/10\r\n";
        Reply::Bytes(format!("{head}content-length: 3\r\n\r\nabc").into_bytes())
    });
    for is_express in [true, false] {
        for (target, more, expected) in [
            ("/?x=1", "", (200, None, "new")),
            ("/?x=1", ", status_code: 203", (203, None, "new")),
            ("/?x=2", "", (206, Some("bytes 0-2/10"), "abc")),
        ] {
            let plugins = format!(
                "{{ response-rewrite: {{ body: new, vars: [[arg_x, ==, \"1\"]]{more} }} }}"
            );
            let yaml = TestProxy::yaml(&[node.address])
                .replace("name: web,", &format!("name: web, express_lane: {is_express},"))
                .replace("uri: /*,", &format!("uri: /*, plugins: {plugins},"));
            let request = format!("GET {target} HTTP/1.1\r\nhost: a\r\nrange: bytes=0-2\r\n\r\n");
            let got = TestProxy::start(&yaml).client().ask(request);
            let seen = (got.status, got.field("content-range"), &*got.text());
            assert_eq!(seen, expected, "{is_express} {target} {more}");
        }
    }
}
