//! The express lane and hyper's do the same: what both sides see, what is recorded and counted.

mod mixes;
mod talks;

use std::collections::BTreeMap;

use proxy::test_support::{Node, Reply, TestProxy, gives_up_connections, unused_address};

use crate::bodies::dechunked;

/// Requests on one connection, and what the node says to each; behind `!` it closes.
struct Case {
    requests: &'static [&'static str],
    replies: &'static [&'static str],
}

const fn case(requests: &'static [&'static str], replies: &'static [&'static str]) -> Case {
    Case { requests, replies }
}

const OK: &str = "HTTP/1.1 200 OK\r\nDate: then\r\nContent-Length: 2\r\n\r\nok";

const CASES: &[Case] = &[
    case(&["GET /a?b=c HTTP/1.1\r\nHost: A:80\r\nX-One: 1\r\naccept: */*\r\n\r\n"], &[OK]),
    case(
        &["HEAD / HTTP/1.1\r\nhost: a\r\n\r\n"],
        &["HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n"],
    ),
    case(&["POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc"], &[OK]),
    case(&["POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 003\r\n\r\nabc"], &[OK]),
    case(&["POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"], &[OK]),
    case(&["POST / HTTP/1.1\r\nhost: a\r\n\r\n"], &[OK]),
    case(&["DELETE //x/../%2e/y HTTP/1.1\r\nhost: a\r\n\r\n"], &[OK]),
    case(&["OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n"], &[OK]),
    case(&["GET http://b:8080/x HTTP/1.1\r\nhost: a\r\n\r\n"], &[OK]),
    case(
        &[
            "GET / HTTP/1.1\r\nhost: a\r\nVia: 1.0 x\r\nX-Forwarded-For: 192.0.2.1\r\nvia: 1.1 y\r\n\
           Connection: x-a, keep-alive\r\nX-A: no\r\nTE: trailers\r\nx-consumer-username: me\r\n\r\n",
        ],
        &["HTTP/1.1 200 OK\r\nVIA: 1.1 z\r\nConnection: X-B\r\nx-b: no\r\nKeep-Alive: 5\r\n\
           Server: s\r\nset-cookie: a\r\nContent-Length: 0\r\n\r\n"],
    ),
    case(&["GET / HTTP/1.1\r\nhost: a\r\n\r\n"], &["HTTP/1.1 204 No Content\r\n\r\n"]),
    case(
        &["GET / HTTP/1.1\r\nhost: a\r\n\r\n"],
        &["HTTP/1.1 304 Not\r\ncontent-length: 9\r\n\r\n"],
    ),
    case(
        &["GET / HTTP/1.1\r\nhost: a\r\n\r\n"],
        &["HTTP/1.1 404 Gone\r\nContent-Length: 1\r\n\r\n!"],
    ),
    case(
        &["GET / HTTP/1.1\r\nhost: a\r\n\r\n"],
        &["HTTP/1.1 103 Early\r\nlink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n\
           HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"],
    ),
    case(
        &["GET / HTTP/1.1\r\nhost: a\r\n\r\n"],
        &["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"],
    ),
    case(
        &["GET / HTTP/1.1\r\nhost: a\r\n\r\n"],
        &[
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n05;a=b\r\nhello\r\n0;c\r\nx: y\r\n\r\n",
        ],
    ),
    case(
        &["GET / HTTP/1.1\r\nhost: a\r\n\r\n"],
        &["HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok"],
    ),
    case(
        &["GET / HTTP/1.1\r\nhost: a\r\n\r\n"],
        &["HTTP/1.1 200 OK\r\ncontent-length: a\r\n\r\nok"],
    ),
    case(
        &["GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"],
        &["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nServer: s\r\n\r\n0\r\n\r\n"],
    ),
    case(
        &["GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"],
        &["!HTTP/1.1 200 OK\r\nx: y\r\n\r\nuntil close"],
    ),
    case(&["GET / HTTP/1.1\r\nhost: a\r\n\r\n"], &["HTTP/1.1 101 Switching\r\n\r\n"]),
    case(&["GET / HTTP/1.1\r\nhost: a\r\n\r\n"], &["SSH-2.0-OpenSSH_9.2\r\n"]),
    case(
        &["POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx"],
        &["HTTP/1.1 599 Odd\r\ncontent-length: 0\r\n\r\n"],
    ),
    case(&["GET / HTTP/1.1\r\nhost: a\r\n\r\n"], &["!HTTP/1.1 200 OK\r\n\r\nuntil close"]),
    case(&["GET / HTTP/1.1\r\nhost: a\r\n\r\n"], &["!HTTP/1.0 200 OK\r\nx: y\r\n\r\nuntil close"]),
    case(&["POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"], &["!"]),
    case(&["GET / HTTP/1.1\r\nhost: a\r\n\r\n"], &["!HTTP/1.1 200"]),
    case(&["GET /none HTTP/1.1\r\nhost: other\r\n\r\n"], &[]),
    case(&["HEAD /none HTTP/1.1\r\nhost: other\r\n\r\n"], &[]),
    case(&["POST /key HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc"], &[]),
    case(&["POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\n\r\nabc", "def"], &[OK]),
    case(
        &["POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
           05;a=b\r\nhello\r\n6\r\n world\r\n0;c\r\nx: y\r\n\r\n"],
        &[OK],
    ),
    case(
        &[
            "PUT / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1",
            "0\r\n0123456789",
            "abcdef\r",
            "\n0\r\n",
            "\r\n",
        ],
        &[OK],
    ),
    case(&["POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3 \r\nabc"], &[]),
    case(
        &["POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n"],
        &[],
    ),
    case(&["POST /none HTTP/1.1\r\nhost: other\r\ncontent-length: 6\r\n\r\nabc", "def"], &[]),
    case(
        &[
            "POST /key HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n",
            "1\r\nx\r\n0\r\n\r\n",
        ],
        &[],
    ),
    case(&["POST /dead HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\n\r\nabc", "def"], &[]),
    case(&["POST /dead HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nz"], &[]),
    case(&["GET /key?x=1&apikey=k HTTP/1.1\r\nhost: a\r\nX: 1\r\n\r\n"], &[OK]),
    case(&["GET /key HTTP/1.1\r\nhost: a\r\napikey: k\r\n\r\n"], &[OK]),
    case(&["GET /%00 HTTP/1.1\r\nhost: a\r\n\r\n"], &[]),
    case(&["GET /dead HTTP/1.1\r\nhost: a\r\n\r\n"], &[]),
    case(
        &[
            "GET /1 HTTP/1.1\r\nhost: a\r\n\r\nPOST /2 HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi\
           GET /3 HTTP/1.1\r\nhost: a\r\n\r\n",
        ],
        &[OK, OK, OK],
    ),
    case(
        &[
            "GET /1 HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET /none HTTP/1.1\r\nhost: other\r\n\r\n",
            "GET /2 HTTP/1.1\r\nhost: a\r\n\r\n",
        ],
        &[OK, OK],
    ),
];

const LAST: &str = "GET /last HTTP/1.1\r\nhost: other\r\nconnection: close\r\n\r\n";

/// What there is to see of a case.
#[derive(Debug, PartialEq)]
struct Seen {
    downstream: String,
    node: Vec<String>,
    log: Vec<String>,
    metrics: BTreeMap<String, f64>,
}

fn run(case: &'static Case, is_express: bool) -> Seen {
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let node = Node::scripted(move |_| {
        let at = asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let reply = *case.replies.get(at).expect("a reply");
        match reply.strip_prefix('!') {
            Some(last) => Reply::Close(last.into()),
            None => Reply::Bytes(reply.into()),
        }
    });
    let yaml = format!(
        "listeners: [{{ name: web, address: \"127.0.0.1:0\", express_lane: {is_express} }}]\n\
         consumers: [{{ username: alice, plugins: {{ key-auth: {{ key: k }} }} }}]\n\
         routes:\n\
         - {{ id: key, uri: /key, host: a, plugins: {{ key-auth: {{ hide_credentials: true }} }}, upstream_id: app }}\n\
         - {{ id: dead, uri: /dead, host: a, upstream_id: dead }}\n\
         - {{ id: all, uri: /*, hosts: [a, b], upstream_id: app }}\n\
         upstreams:\n\
         - {{ id: app, type: roundrobin, nodes: {{ \"{}\": 1 }} }}\n\
         - {{ id: dead, type: roundrobin, nodes: {{ \"{}\": 1 }} }}\n",
        node.address,
        unused_address(),
    );
    let proxy = TestProxy::start(&yaml);
    let mut client = proxy.client();
    for request in case.requests {
        client.try_send(request);
    }
    client.try_send(LAST);
    let downstream = client.rest();
    drop(client);
    let answers = String::from_utf8_lossy(&downstream).matches("HTTP/1.1 ").count();
    let log = proxy.access_log(answers.max(1));
    let lane = format!("tandem_lane_requests_total{{lane=\"{}\"}}", lane(is_express));
    proxy.check_metric(&lane, log.len() as f64);
    proxy.check_metric("tandem_downstream_connections_active{listener=\"web\"}", 0.0);
    let page = proxy.admin("/metrics").text();
    Seen {
        downstream: plain(&String::from_utf8_lossy(&downstream)),
        node: node
            .seen()
            .iter()
            .map(|seen| plain(&format!("{}|{:?}", seen.head, plain_body(seen))))
            .collect(),
        log: log.iter().map(|line| plain_line(line, is_express)).collect(),
        metrics: summed(page.lines().filter_map(plain_sample)),
    }
}

/// Chunks are cut as they come; what is in them is not.
fn plain_body(seen: &proxy::test_support::Seen) -> Vec<u8> {
    match seen.field("transfer-encoding") {
        Some(_) => dechunked(&seen.body),
        None => seen.body.clone(),
    }
}

fn lane(is_express: bool) -> &'static str {
    if is_express { "express" } else { "hyper" }
}

/// Without what differs from run to run: the time and the name of the process.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    for line in text.split_inclusive("\r\n") {
        match line.split_once(": ") {
            Some((name @ "x-forwarded-port", value)) if value.len() > 4 => {
                plain += &format!("{name}: *\r\n")
            }
            Some((name @ "date", value)) if value != "then\r\n" => {
                plain += &format!("{name}: *\r\n")
            }
            _ => match line.find("tandem-") {
                Some(at) => {
                    plain += &format!("{}*{}", &line[..at], &line[at + "tandem-00000000".len()..])
                }
                None => plain += line,
            },
        }
    }
    plain
}

/// The same, and without the path, and where hyper's lane gives up no connection that the express lane
/// does, without whether it was new.
fn plain_line(line: &str, is_express: bool) -> String {
    let words = line.split(' ').enumerate().map(|(at, word)| match at {
        0 | 1 | 5 => "*",
        13 | 15 if gives_up_connections() => "*",
        12..=14 if word != "-" => "*",
        17 if word == "local" => "user",
        16 if word != "-" => {
            assert_eq!(word, lane(is_express), "{line}");
            "*"
        }
        _ => word,
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Whichever path bytes have taken, they are as many.
fn plain_sample(line: &str) -> Option<(String, f64)> {
    let (name, value) = line.rsplit_once(' ')?;
    let is_of_connections =
        ["upstream_connects", "upstream_pool"].iter().any(|it| name.contains(it));
    let is_plain = name.starts_with("tandem_")
        && !["duration", "lane", "kernel"].iter().any(|word| name.contains(word))
        && !(is_of_connections && gives_up_connections());
    let name = name.split_once(",via=").map_or(name, |(name, _)| name);
    is_plain.then(|| (name.to_owned(), value.parse().expect("a number")))
}

fn summed(samples: impl Iterator<Item = (String, f64)>) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for (name, value) in samples {
        *sums.entry(name).or_default() += value;
    }
    sums
}

#[test]
fn both_lanes_do_the_same() {
    for case in CASES {
        let (express, hyper) = (run(case, true), run(case, false));
        let asked = case.requests;
        assert_eq!(express.downstream, hyper.downstream, "{asked:#?}");
        assert_eq!(express.node, hyper.node, "{asked:#?}");
        assert_eq!(express.log, hyper.log, "{asked:#?}");
        assert_eq!(express.metrics, hyper.metrics, "{asked:#?}");
        assert!(!express.downstream.is_empty() && !express.metrics.is_empty());
    }
}
