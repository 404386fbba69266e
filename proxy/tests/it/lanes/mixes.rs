//! Connections that change lanes between any two requests, however what they send is cut: a proxy with
//! the express lane and one without it do the same.

use std::{os::fd::OwnedFd, thread, time::Instant};

use proxy::{
    sys,
    test_support::{Client, Node, PATIENCE, Reply, TestProxy},
};
use rustix::io::ioctl_fionread;

use super::{plain, plain_body};
use crate::{
    limits::our_end,
    seeded::{self, Seeded},
};

/// Sequences of requests; each is sent once for every byte of one of its heads.
const SEQUENCES: usize = 8;
const DEPTH_MAX: usize = 6;

/// Looks like a request, but not like the last chunk, which the node takes for it wherever it stands.
const BODY: &str = "GET / HTTP/1.1\r\n\r\n1\r\n";

/// A request for the one lane or the other; all but the last keep the connection.
fn request(seeded: &mut Seeded, at: usize, is_last: bool) -> (String, String) {
    let close = if is_last { "connection: close\r\n" } else { "" };
    let body = BODY[..seeded.below(BODY.len() + 1)].to_owned();
    let chunks = |body: &str| match body.len() {
        0 => "0\r\n\r\n".to_owned(),
        size => format!("{size:x};a=b\r\n{body}\r\n0\r\n\r\n"),
    };
    let (line, fields, body) = match seeded.below(8) {
        0 | 1 => (format!("GET /{at}"), String::new(), String::new()),
        2 | 3 => (format!("POST /{at}"), format!("content-length: {}\r\n", body.len()), body),
        4 => (format!("PUT /{at}"), "transfer-encoding: chunked\r\n".to_owned(), chunks(&body)),
        5 => {
            let fields = "transfer-encoding: chunked\r\ntrailer: x\r\n".to_owned();
            (format!("POST /{at}"), fields, chunks(&body).replace("0\r\n\r\n", "0\r\nx: y\r\n\r\n"))
        }
        6 => (format!("GET /{at}"), "upgrade: x\r\n".to_owned(), String::new()),
        _ if is_last => {
            return (format!("GET /{at} HTTP/1.0\r\nhost: a\r\n\r\n"), String::new());
        }
        _ => {
            let head = format!("GET /{at} HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n");
            return (head, String::new());
        }
    };
    (format!("{line} HTTP/1.1\r\nhost: a\r\n{fields}{close}\r\n"), body)
}

/// Waits until the proxy, whose end of the connection this is, has read all that was sent.
fn await_read(client: &Client, end: &OwnedFd) {
    let started = Instant::now();
    let is_read = || {
        let under_way = sys::socket::send_queue(client.stream()).expect("a socket");
        under_way == 0 && ioctl_fionread(end).expect("a socket") == 0
    };
    while !is_read() {
        assert!(started.elapsed() < PATIENCE, "not read");
        thread::yield_now();
    }
}

/// Sends `bytes` in pieces, each when the one before has been read; what comes back.
fn converse(proxy: &TestProxy, bytes: &str, cuts: &[usize]) -> String {
    let mut client = proxy.client();
    let mut sent = 0;
    if !cuts.is_empty() {
        let end = our_end(client.stream().local_addr().expect("an address"));
        for cut in cuts {
            client.send(&bytes[sent..*cut]);
            await_read(&client, &end);
            sent = *cut;
        }
        // The connection closes only when nobody holds it.
    }
    client.send(&bytes[sent..]);
    plain(&String::from_utf8_lossy(&client.rest()))
}

fn proxy(is_express: bool) -> (Node, TestProxy) {
    let node = Node::scripted(|seen| {
        Reply::ok(&format!("{} {}", seen.line(), String::from_utf8_lossy(&plain_body(seen))))
    });
    let yaml = TestProxy::yaml(&[node.address])
        .replace("\"127.0.0.1:0\" }", &format!("\"127.0.0.1:0\", express_lane: {is_express} }}"));
    let proxy = TestProxy::start(&yaml);
    (node, proxy)
}

fn seen(node: &Node) -> Vec<String> {
    let seen = node.take();
    seen.iter().map(|seen| plain(&format!("{}|{:?}", seen.head, plain_body(seen)))).collect()
}

/// The records without times, addresses, lane and path, and without whether the node's connection is
/// new: each lane has a pool of its own.
fn records(proxy: &TestProxy, count: usize) -> Vec<String> {
    let masked = |line: &String| {
        let words = line.split(' ').enumerate();
        let words =
            words.map(|(at, word)| if matches!(at, 0 | 1 | 5 | 12..=17) { "*" } else { word });
        words.collect::<Vec<_>>().join(" ")
    };
    proxy.access_log(count).iter().map(masked).collect()
}

#[test]
fn lanes_change_between_any_two_requests_however_they_are_cut() {
    let seed = seeded::seed();
    println!("{}={seed}", seeded::VARIABLE);
    let mut seeded = Seeded::new(seed);
    let ((node, express), (other_node, hyper)) = (proxy(true), proxy(false));
    let mut count = 0;
    for _ in 0..SEQUENCES {
        let depth = 1 + seeded.below(DEPTH_MAX);
        let requests: Vec<_> =
            (1..=depth).map(|at| request(&mut seeded, at, at == depth)).collect();
        let cut_up = seeded.below(depth);
        let before: usize =
            requests[..cut_up].iter().map(|(head, body)| head.len() + body.len()).sum();
        let bytes: String = requests.iter().map(|(head, body)| format!("{head}{body}")).collect();
        let whole = converse(&express, &bytes, &[]);
        assert_eq!(whole.matches(" 200 OK\r\n").count(), depth, "{bytes}\n{whole}");
        assert_eq!(converse(&hyper, &bytes, &[]), whole, "{bytes}");
        count += depth;
        for at in before + 1..=before + requests[cut_up].0.len() {
            let mut cuts = vec![at, 1 + seeded.below(bytes.len()), 1 + seeded.below(bytes.len())];
            cuts.sort_unstable();
            cuts.dedup();
            cuts.retain(|cut| *cut < bytes.len());
            for proxy in [&express, &hyper] {
                assert_eq!(converse(proxy, &bytes, &cuts), whole, "{cuts:?} of {bytes}");
            }
            count += depth;
        }
        assert_eq!(seen(&node), seen(&other_node), "{bytes}");
        assert_eq!(records(&express, count), records(&hyper, count), "{bytes}");
    }
    for (proxy, lanes) in [(&express, ["express", "hyper"].as_slice()), (&hyper, &["hyper"])] {
        let carried =
            |lane: &str| proxy.metric(&format!("tandem_lane_requests_total{{lane=\"{lane}\"}}"));
        assert!(lanes.iter().all(|lane| carried(lane) > count as f64 / 5.0), "{lanes:?}");
        assert_eq!(lanes.iter().map(|lane| carried(lane)).sum::<f64>(), count as f64);
    }
}
