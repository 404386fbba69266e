//! The head of a response leaves as the node sent it: the same bytes on either lane.

use std::net::Shutdown;

use proxy::test_support::{Client, Node, Reply, TestProxy, eventually, has_bypass};

/// A request, the node's response to it, and what the downstream gets. `*` stands for the date.
struct Case {
    request: &'static str,
    reply: &'static [u8],
    expected: &'static [u8],
}

const fn case(request: &'static str, reply: &'static [u8], expected: &'static [u8]) -> Case {
    Case { request, reply, expected }
}

/// What leaves as it came, to the last byte.
const fn same(reply: &'static [u8]) -> Case {
    case(GET, reply, reply)
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const HEAD: &str = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
const LAST: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
const OLD: &str = "GET / HTTP/1.0\r\nHost: a\r\n\r\n";
const OLD_AND_KEPT: &str = "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n";

/// As nginx has it.
const NGINX: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx/1.27.3\r\n\
    Date: Tue, 01 Jul 2025 10:00:00 GMT\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\
    Last-Modified: Mon, 30 Jun 2025 10:00:00 GMT\r\nConnection: keep-alive\r\n\
    ETag: \"68625f00-2\"\r\nAccept-Ranges: bytes\r\n\r\nok";

const CASES: &[Case] = &[
    same(NGINX),
    // Node.js with Express.
    case(
        GET,
        b"HTTP/1.1 200 OK\r\nX-Powered-By: Express\r\nContent-Type: text/html; charset=utf-8\r\n\
          Content-Length: 2\r\nETag: W/\"2-eoX0dku9ba8cNUXvu/DyeabcC+s\"\r\nDate: x\r\n\
          Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX-Powered-By: Express\r\nContent-Type: text/html; charset=utf-8\r\n\
          Content-Length: 2\r\nETag: W/\"2-eoX0dku9ba8cNUXvu/DyeabcC+s\"\r\nDate: x\r\n\
          Connection: keep-alive\r\n\r\nok",
    ),
    // Names, their order, blanks.
    same(
        b"HTTP/1.1 200 OK\r\nX-ODD-cAsE: 1\r\nsET-cOOKIE: a\r\ndate: x\r\nx-odd-case: 2\r\n\
          Set-Cookie: b\r\nconTENT-length: 2\r\nX-ODD-cAsE: 3\r\nunder_score: d\xe9j\xe0\r\n\r\nok",
    ),
    case(
        GET,
        b"HTTP/1.1 200 OK\r\nX-A:1\r\nX-B: \t2 \r\nX-Empty:\r\nDate:  x\r\nContent-Length:  2\t\r\n\
          Connection:keep-alive\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX-A:1\r\nX-B: \t2 \r\nX-Empty:\r\nDate:  x\r\nContent-Length: 2\r\n\
          Connection:keep-alive\r\n\r\nok",
    ),
    case(
        GET,
        b"HTTP/1.1 200 OK\r\nDate:x\r\nContent-Length:2 \r\nX-A: 1\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nDate:x\r\nContent-Length: 2\r\nX-A: 1\r\n\r\nok",
    ),
    case(
        GET,
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: 1\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: 1\r\ndate: *\r\n\r\nok",
    ),
    // A later minor version, on either side.
    case(
        "GET / HTTP/1.2\r\nHost: a\r\n\r\n",
        b"HTTP/1.9 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\nok",
    ),
    // Reason phrases.
    same(b"HTTP/1.1 200 Everything's  fine!\r\nDate: x\r\nContent-Length: 2\r\n\r\nok"),
    same(b"HTTP/1.1 404 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\nok"),
    same(b"HTTP/1.1 599 Odd\r\nDate: x\r\nContent-Length: 2\r\n\r\nok"),
    same(b"HTTP/1.1 599 \r\nDate: x\r\nContent-Length: 2\r\n\r\nok"),
    same(b"HTTP/1.1 200 \r\nDate: x\r\nContent-Length: 2\r\n\r\nok"),
    same(b"HTTP/1.1 200 D\xe9j\xe0\tvu \xff\r\nDate: x\r\nContent-Length: 2\r\n\r\nok"),
    // The blank belongs to the line, phrase or none (RFC 9112 section 4).
    case(
        GET,
        b"HTTP/1.1 200\r\nDate: x\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 \r\nDate: x\r\nContent-Length: 2\r\n\r\nok",
    ),
    // `Via` is the node's.
    same(b"HTTP/1.1 200 OK\r\nVia: 1.1 n\r\nDate: x\r\nContent-Length: 2\r\nvia: 1.0 m\r\n\r\nok"),
    // `Connection`: as received if it is true and says nothing else.
    same(b"HTTP/1.1 200 OK\r\nCONNECTION: Keep-ALIVE\r\nDate: x\r\nContent-Length: 2\r\n\r\nok"),
    case(
        GET,
        b"HTTP/1.0 200 Old\r\nConnection: keep-alive\r\nDate: x\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 Old\r\nConnection: keep-alive\r\nDate: x\r\nContent-Length: 2\r\n\r\nok",
    ),
    case(
        GET,
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nDate: x\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\nok",
    ),
    case(
        GET,
        b"HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Hop\r\nX-HOP: 1\r\nUpgrade: h2c\r\n\
          Proxy-Connection: x\r\nDate: x\r\nTrailer: y\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\nok",
    ),
    case(
        GET,
        b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nDate: x\r\nConnection: keep-alive\r\n\
          Content-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\nok",
    ),
    case(
        LAST,
        b"HTTP/1.1 200 Fine\r\nConnection: keep-alive\r\nContent-Length: 2\r\nX-A: 1\r\n\r\nok",
        b"HTTP/1.1 200 Fine\r\nContent-Length: 2\r\nX-A: 1\r\nconnection: close\r\ndate: *\r\n\r\nok",
    ),
    // Framing that is said anew.
    case(
        GET,
        b"HTTP/1.1 200 OK\r\nContent-Length: 002\r\nDate: x\r\nX-A: 1\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nDate: x\r\nX-A: 1\r\ncontent-length: 2\r\n\r\nok",
    ),
    case(
        GET,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nDate: x\r\nConnection: keep-alive\r\n\r\n\
          02\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nDate: x\r\nConnection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n\
          2\r\nok\r\n0\r\n\r\n",
    ),
    case(
        GET,
        b"!HTTP/1.1 200 OK\r\nX-A: 1\r\nConnection: keep-alive\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX-A: 1\r\nConnection: keep-alive\r\ntransfer-encoding: chunked\r\n\
          date: *\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ),
    // Without a body.
    case(
        HEAD,
        b"HTTP/1.1 200 Oh\r\nContent-Length: 7\r\nDate: x\r\nConnection: keep-alive\r\n\r\n",
        b"HTTP/1.1 200 Oh\r\nContent-Length: 7\r\nDate: x\r\nConnection: keep-alive\r\n\r\n",
    ),
    case(
        HEAD,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nDate: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nDate: x\r\n\r\n",
    ),
    same(b"HTTP/1.1 204 None\r\nDate: x\r\nX-A: 1\r\nConnection: keep-alive\r\n\r\n"),
    same(b"HTTP/1.1 304 Same\r\nDate: x\r\nETag: \"1\"\r\nConnection: keep-alive\r\n\r\n"),
    case(
        GET,
        b"HTTP/1.1 304 Same\r\nDate: x\r\nContent-Length: 7\r\nETag: \"1\"\r\n\r\n",
        b"HTTP/1.1 304 Same\r\nDate: x\r\nETag: \"1\"\r\n\r\n",
    ),
    same(b"HTTP/1.1 205 Reset\r\nDate: x\r\nContent-Length: 0\r\nX-A: 1\r\n\r\n"),
    // Behind interim ones.
    case(
        GET,
        b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 Late\r\nDate: x\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 Late\r\nDate: x\r\nContent-Length: 2\r\n\r\nok",
    ),
    // To HTTP/1.0, which knows no chunks and keeps no connection that it is not told of. The version is
    // ours (RFC 9112 section 2.3).
    case(
        OLD,
        b"HTTP/1.1 200 Fine\r\nX-ODD-cAsE: 1\r\nConnection: keep-alive\r\nContent-Length: 2\r\nDate: x\r\n\r\nok",
        b"HTTP/1.1 200 Fine\r\nX-ODD-cAsE: 1\r\nContent-Length: 2\r\nDate: x\r\nconnection: close\r\n\r\nok",
    ),
    case(
        OLD_AND_KEPT,
        b"HTTP/1.1 200 Fine\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\nDate: x\r\n\r\nok",
        b"HTTP/1.1 200 Fine\r\nContent-Length: 2\r\nDate: x\r\nconnection: keep-alive\r\n\r\nok",
    ),
    case(
        OLD_AND_KEPT,
        b"HTTP/1.1 200 Fine\r\nTransfer-Encoding: chunked\r\nDate: x\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 Fine\r\nDate: x\r\nconnection: close\r\n\r\nok",
    ),
];

fn proxy_on(is_express: bool, node: &Node) -> TestProxy {
    TestProxy::start(&format!(
        "limits: {{ head_size_max: 1MiB }}\n\
         listeners: [{{ name: web, address: \"127.0.0.1:0\", express_lane: {is_express} }}]\n\
         routes: [{{ id: all, uri: /*, upstream_id: app }}]\n\
         upstreams: [{{ id: app, type: roundrobin, nodes: {{ \"{}\": 1 }} }}]\n",
        node.address
    ))
}

fn reply(bytes: &[u8]) -> Reply {
    match bytes.strip_prefix(b"!") {
        Some(last) => Reply::Close(last.into()),
        None => Reply::Bytes(bytes.into()),
    }
}

/// With the time that the proxy has said made `*`.
fn plain(bytes: &[u8]) -> String {
    let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
    let lines = text.split_inclusive("\r\n").map(|line| match line.strip_suffix(" GMT\r\n") {
        Some(line) if line.starts_with("date: ") => "date: *\r\n",
        Some(_) | None => line,
    });
    lines.collect()
}

#[test]
fn a_head_leaves_as_the_node_sent_it() {
    for is_express in [true, false] {
        for Case { request, reply: sent, expected } in CASES {
            let node = Node::scripted(|_| reply(sent));
            let proxy = proxy_on(is_express, &node);
            let mut client = proxy.client();
            client.send(request);
            client.stream().shutdown(Shutdown::Write).expect("a connection");
            let (received, expected) = (plain(&client.rest()), plain(expected));
            assert_eq!(received, expected, "express: {is_express}, {request:?}");
            if !is_express {
                proxy.check_metric("tandem_lane_requests_total{lane=\"hyper\"}", 1.0);
            }
        }
    }
}

/// Requests of one client.
struct Asking<'p> {
    proxy: &'p TestProxy,
    client: Client,
    count: usize,
}

impl Asking<'_> {
    /// Whether the response, which is this one, has gone past the proxy.
    fn ask(&mut self, path: &str, expected: &[u8]) -> bool {
        self.client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let received = self.client.until(&expected[expected.len() - "\n\r\nok".len()..]);
        assert_eq!(plain(&received), plain(expected), "{path}");
        self.count += 1;
        let line = self.proxy.access_log(self.count).pop().expect("a line");
        line.ends_with(" bypass --")
    }
}

/// Whether it goes past the proxy, where it can: exactly what leaves as it came does, and has a length
/// that somebody has said.
#[test]
fn a_head_that_goes_past_the_proxy_would_leave_as_it_came() {
    let node = Node::scripted(|seen| {
        let path = seen.line().split(' ').nth(1).expect("a path");
        let asked = path[1..].parse().ok().and_then(|at: usize| CASES.get(at));
        reply(asked.map_or(NGINX, |case| case.reply))
    });
    for is_express in [true, false] {
        let proxy = proxy_on(is_express, &node);
        let mut asking = Asking { proxy: &proxy, client: proxy.client(), count: 0 };
        let can_pass = is_express && has_bypass();
        for (at, case) in CASES.iter().enumerate().filter(|(_, case)| case.request == GET) {
            if can_pass {
                eventually("one that passes", || asking.ask("/", NGINX).then_some(()));
            }
            let passes = can_pass && case.reply == case.expected && case.reply.ends_with(b"ok");
            let path = format!("/{at}");
            if passes {
                eventually(&path, || asking.ask(&path, case.expected).then_some(()));
            } else {
                assert!(!asking.ask(&path, case.expected), "{path}");
            }
        }
    }
}

#[test]
fn a_head_leaves_behind_100_continue_as_the_node_sent_it() {
    let node = Node::scripted(|_| reply(NGINX));
    for is_express in [true, false] {
        let proxy = proxy_on(is_express, &node);
        let mut client = proxy.client();
        for _ in 0..2 {
            let expects = "Expect: 100-continue\r\nContent-Length: 3\r\n";
            client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{expects}\r\n"));
            assert_eq!(plain(&client.until(b"\r\n\r\n")), "HTTP/1.1 100 Continue\r\n\r\n");
            client.send("abc");
            assert_eq!(plain(&client.until(b"ok")), plain(NGINX));
        }
    }
}

/// Heads that fill every buffer on their way: none is taken whole.
#[test]
fn heads_are_whole_however_slowly_they_are_read() {
    const COUNT: usize = 16;
    let node = Node::scripted(|seen| {
        let n: usize = seen.line()["GET /".len()..].split(' ').next().unwrap().parse().unwrap();
        Reply::Bytes(large(n).into_bytes())
    });
    for is_express in [true, false] {
        let proxy = proxy_on(is_express, &node);
        let mut client = proxy.client();
        for n in 0..COUNT {
            client.send(format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n"));
        }
        client.stream().shutdown(Shutdown::Write).expect("a connection");
        let mut asked = 0;
        eventually("the node is asked no more", || {
            let before = std::mem::replace(&mut asked, node.seen().len());
            (before > 0 && before == asked).then_some(())
        });
        node.take();
        let received = client.rest();
        let expected: String = (0..COUNT).map(large).collect();
        assert!(received == expected.as_bytes(), "express: {is_express}");
    }
}

fn large(n: usize) -> String {
    let value = "x".repeat(900_000 + n * 1733);
    format!("HTTP/1.1 200 No {n}\r\nX-Large: {value}\r\nDate: x\r\nContent-Length: 2\r\n\r\nok")
}
