//! The kernel half changes who does the work, never what anybody sees: the same requests, once with
//! it and once without, and every byte, every access-log line and every metric compared.
//!
//! Allowed to differ: times, the downstream's port, the instance in `Via`, `via` of a tunnel, pipes
//! at rest (each worker keeps its own), and the kernel's own metrics.

use std::{collections::BTreeMap, net::TcpListener};

use proxy::test_support::{Client, Node, Reply, TestProxy};
use socket2::SockRef;

use crate::{skip_without_privileges, topology::Namespace};

/// Each run has a network of its own, so both can have the same ports.
const SECTIONS: &str = r#"
workers: 2
listeners:
- { name: web, address: "127.0.0.1:9080" }
- { name: user, address: "127.0.0.1:9101", protocol: tcp }
- { name: splice, address: "127.0.0.1:9102", protocol: tcp }
- { name: sockmap, address: "127.0.0.1:9103", protocol: tcp }
timeouts: { head: 200ms, body: 200ms, response: 200ms, response_body: 200ms }
limits: { body_size_max: 300KiB, pool_idle_max: 0 }
routes:
- { id: all, uri: /*, upstream_id: app }
- { id: api, uri: /api/*, upstream_id: app, plugins: { key-auth: { hide_credentials: true } } }
- { id: dead, uri: /dead, upstream: { nodes: { "127.0.0.1:3999": 1 } } }
stream_routes:
- { id: user, server_port: 9101, datapath: user, upstream_id: app }
- { id: splice, server_port: 9102, datapath: splice, upstream_id: app }
- { id: sockmap, server_port: 9103, datapath: sockmap, upstream_id: app }
upstreams: [{ id: app, nodes: { "127.0.0.1:3000": 1 } }]
consumers: [{ username: alice, plugins: { key-auth: { key: secret } } }]
"#;
const OFF: &str = "kernel: { mode: off }";
const REQUIRE: &str = "kernel: { mode: require, xdp: { interfaces: [lo], mode: generic }, \
                       guard: { deny: [203.0.113.0/24], connection_rate: { per_second: 1000, burst: 1000 } } }";

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const LAST: &str = "GET /last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

/// What one connection to `web` sends; it is closed by the proxy at the end.
fn scripts() -> Vec<String> {
    let body = "b".repeat(200_000);
    let large = "b".repeat(300_000);
    vec![
        format!("{GET}{GET}{LAST}"),
        format!("HEAD / HTTP/1.1\r\nhost: a\r\n\r\n{LAST}"),
        format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 200000\r\n\r\n{body}{LAST}"),
        format!(
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5;x\r\nhello\r\n0\r\nt: 1\r\n\r\n{LAST}"
        ),
        format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 500000\r\n\r\n{large}"),
        format!("GET /a/../%61pi//x?apikey=secret&q=1 HTTP/1.1\r\nhost: a\r\n\r\n{LAST}"),
        format!("GET //api/x HTTP/1.1\r\nhost: a\r\n\r\n{LAST}"),
        format!("GET /dead HTTP/1.1\r\nhost: a\r\n\r\n{LAST}"),
        format!("GET /close HTTP/1.1\r\nhost: a\r\n\r\n{LAST}"),
        format!("GET /bad HTTP/1.1\r\nhost: a\r\n\r\n{LAST}"),
        format!("GET /silent HTTP/1.1\r\nhost: a\r\n\r\n{LAST}"),
        "GET /half HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
        "GET /stuck HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
        "GET / HTTP/1.0\r\n\r\n".to_owned(),
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n"
            .to_owned(),
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nz\r\n".to_owned(),
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n1".to_owned(),
        "GET / HTTP/1.1\r\nhost".to_owned(),
        "GET / HTTP/2.0\r\n\r\n".to_owned(),
        format!("CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n{GET}"),
    ]
}

fn node() -> Node {
    let listener = TcpListener::bind("127.0.0.1:3000").expect("a network of its own");
    Node::on(listener, |seen| match seen.line().split(' ').nth(1) {
        Some("/close") => Reply::Close(b"HTTP/1.1 200 OK\r\n\r\nuntil close".to_vec()),
        Some("/bad") => Reply::Bytes(b"HTTP/1.1 200 OK\ncontent-length: 0\r\n\r\n".to_vec()),
        Some("/silent") => Reply::Bytes(Vec::new()),
        Some("/half") => Reply::Close(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf".to_vec()),
        Some("/stuck") => {
            Reply::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nstuck".to_vec())
        }
        _ => Reply::ok("hello"),
    })
}

#[derive(Debug, Default, PartialEq)]
struct Transcript {
    downstream: Vec<String>,
    upstream: Vec<(String, Vec<u8>)>,
    access_log: Vec<String>,
    metrics: BTreeMap<String, f64>,
}

/// Dates and instance names made equal.
fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.split_inclusive("\r\n").map(|line| match line.split_once(": ") {
        Some(("date", _)) => "date: then\r\n".to_owned(),
        Some(("via", _)) => "via: 1.1 us\r\n".to_owned(),
        Some(_) | None => line.to_owned(),
    });
    lines.collect()
}

/// Without times, the downstream's port and `via`; whether a time was taken stays.
fn plain_line(line: &str) -> String {
    let words = line.split(' ').enumerate().map(|(at, word)| match at {
        0 | 1 | 17 => "*",
        12..=14 if word != "-" => "*",
        _ => word,
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Samples without `via`, summed, less durations and what is the kernel's.
fn plain_metrics(page: &str) -> BTreeMap<String, f64> {
    let mut metrics = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (sample, value) = line.rsplit_once(' ').expect("a sample");
        let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
        let is_ours = name.starts_with("tandem_kernel_")
            || name == "tandem_forward_fallbacks_total"
            || name == "tandem_request_duration_seconds_sum"
            || name == "tandem_request_duration_seconds_bucket";
        // Pipes at rest are as many as workers have spliced, and who chooses the worker differs.
        let is_by_worker = name == "tandem_forward_pipes" && labels.contains("idle");
        if is_ours || is_by_worker {
            continue;
        }
        let labels = labels.trim_end_matches('}').split(',').filter(|l| !l.starts_with("via="));
        let key = format!("{name}{{{}}}", labels.collect::<Vec<_>>().join(","));
        *metrics.entry(key).or_default() += value.parse::<f64>().expect("a number");
    }
    // A series of nothing is no series.
    metrics.retain(|_, value| *value != 0.0);
    metrics
}

fn run(kernel: &str) -> (Transcript, TestProxy, Vec<String>) {
    let node = node();
    let proxy = TestProxy::start(&format!("{SECTIONS}{kernel}\n"));
    let mut transcript = Transcript::default();
    let mut lines = 0;
    for script in scripts() {
        let mut client = proxy.client();
        client.try_send(&script);
        transcript.downstream.push(plain(&client.rest()));
        drop(client);
        // One connection after the other, so that lines have one order.
        lines += answers(transcript.downstream.last().expect("just pushed")).max(1);
        proxy.access_log(lines);
    }
    for name in ["user", "splice", "sockmap"] {
        let mut client = Client::connect(proxy.address(name));
        let body = "t".repeat(200_000);
        client.send(format!(
            "POST /{name} HTTP/1.1\r\nhost: t\r\ncontent-length: 200000\r\n\r\n{body}"
        ));
        transcript.downstream.push(client.response().text());
        client.send(GET);
        client.stream().shutdown(std::net::Shutdown::Write).expect("half close");
        transcript.downstream.push(plain(&client.rest()));
        lines += 1;
        proxy.access_log(lines);
    }
    // A downstream that resets while its response is due.
    let mut client = proxy.client();
    client.send("GET /silent HTTP/1.1\r\nhost: reset\r\n\r\n");
    proxy::test_support::eventually("the request at the node", || {
        node.heard().contains("host: reset").then_some(())
    });
    SockRef::from(client.stream()).set_linger(Some(std::time::Duration::ZERO)).expect("an option");
    drop(client);
    let log = proxy.access_log(lines + 1);
    transcript.access_log = log.iter().map(|line| plain_line(line)).collect();
    transcript.upstream = node
        .seen()
        .into_iter()
        .map(|seen| (plain(format!("{}\r\n", seen.head).as_bytes()), seen.body))
        .collect();
    proxy::test_support::eventually("all connections closed", || {
        let page = proxy.admin("/metrics").text();
        let active = |line: &&str| {
            line.starts_with("tandem_downstream_connections_active{") && !line.ends_with(" 0")
        };
        page.lines().find(active).is_none().then_some(())
    });
    transcript.metrics = plain_metrics(&proxy.admin("/metrics").text());
    (transcript, proxy, log)
}

fn answers(received: &str) -> usize {
    received.matches("HTTP/1.1 ").count()
}

#[test]
fn off_and_on_are_the_same_from_outside() {
    if skip_without_privileges() {
        return;
    }
    let off = Namespace::new().run(|| run(OFF).0);
    let on = Namespace::new().run(|| {
        let (on, proxy, log) = run(REQUIRE);
        // It did run in the kernel.
        let page = proxy.admin("/metrics").text();
        for program in ["ingress", "worker", "tunnel"] {
            let name = format!("tandem_kernel_packets_total{{program=\"{program}\"");
            let mut samples = page.lines().filter(|line| line.starts_with(&name));
            assert!(samples.any(|line| !line.ends_with(" 0")), "{program}");
        }
        let is_redirected =
            |line: &String| line.contains(" sockmap sockmap ") && line.contains(" sockmap --");
        assert!(log.iter().any(is_redirected), "{log:?}");
        on
    });
    for (at, (off, on)) in off.downstream.iter().zip(&on.downstream).enumerate() {
        assert_eq!(off, on, "downstream {at}");
    }
    for (at, (off, on)) in off.upstream.iter().zip(&on.upstream).enumerate() {
        assert_eq!(off, on, "upstream {at}");
    }
    assert_eq!(off.access_log, on.access_log);
    assert_eq!(off.metrics, on.metrics);
    assert_eq!(off, on);
    // And something did happen in it.
    assert!(off.metrics.len() > 20 && off.upstream.len() > 20, "{off:?}");
}
