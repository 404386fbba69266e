//! Which nodes get requests, by what probes and requests meet, on both lanes.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use base64ct::{Base64, Encoding as _};
use proxy::test_support::{Client, Node, PATIENCE, Reply, TestProxy, eventually, unused_address};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::ring,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};

use crate::{
    lane_pair::{LANES, nodes_of, to_upstream},
    process::Tandem,
};

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
/// Long enough for no second probe within a test.
const ONCE: &str = "3600";
const QUICK: &str = "0.02";

/// One listener for each lane, and one route to an upstream `app` with these keys and nodes.
fn yaml(keys: &str, nodes: &[SocketAddr]) -> String {
    to_upstream(&format!("{keys}, {}", nodes_of(nodes)))
}

fn proxy(keys: &str, nodes: &[SocketAddr]) -> TestProxy {
    TestProxy::start(&yaml(keys, nodes))
}

/// A TCP listener with one stream route to an upstream `app`.
fn tunnels(keys: &str, nodes: &[SocketAddr]) -> TestProxy {
    TestProxy::start(&format!(
        "listeners: [{{ name: web, address: \"127.0.0.1:0\", protocol: tcp }}]\n\
         stream_routes: [{{ id: all, upstream_id: app }}]\n\
         upstreams: [{{ id: app, retries: 0, {keys}, {} }}]\n",
        nodes_of(nodes)
    ))
}

/// `checks` with probes of `/probe` so often, of which the first failure and two successes count.
fn active(interval: &str) -> String {
    format!(
        "active: {{ timeout: 10, http_path: /probe, healthy: {{ interval: {interval}, successes: 2 }}, \
         unhealthy: {{ interval: {interval}, http_failures: 1, tcp_failures: 1, timeouts: 1 }} }}"
    )
}

fn up(node: SocketAddr) -> String {
    format!("tandem_upstream_node_up{{upstream=\"app\",node=\"{node}\"}}")
}

fn checks(result: &str) -> String {
    format!("tandem_upstream_checks_total{{upstream=\"app\",result=\"{result}\"}}")
}

fn ejections(result: &str) -> String {
    format!("tandem_upstream_ejections_total{{upstream=\"app\",result=\"{result}\"}}")
}

const ALL_DOWN: &str = "tandem_upstream_all_down_total{upstream=\"app\"}";

/// A node that answers with its name, to probes and to requests each for as long as it is well.
struct Patient {
    node: Node,
    passes_probes: Arc<AtomicBool>,
    serves: Arc<AtomicBool>,
}

impl Patient {
    fn new(name: &'static str) -> Patient {
        let [passes_probes, serves] = [(); 2].map(|()| Arc::new(AtomicBool::new(true)));
        let is_well = [Arc::clone(&passes_probes), Arc::clone(&serves)];
        let node = Node::scripted(move |seen| {
            let is_probe = seen.line().contains(" /probe ");
            let is_well = if is_probe { &is_well[0] } else { &is_well[1] };
            if is_well.load(SeqCst) {
                return Reply::ok(name);
            }
            Reply::Bytes(b"HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\nno".to_vec())
        });
        Patient { node, passes_probes, serves }
    }

    fn address(&self) -> SocketAddr {
        self.node.address
    }

    fn requests(&self) -> usize {
        self.node.seen().iter().filter(|seen| !seen.line().contains("/probe")).count()
    }

    fn probes(&self) -> usize {
        self.node.seen().len() - self.requests()
    }
}

/// What `count` requests on each lane are answered.
fn ask(proxy: &TestProxy, count: usize) -> Vec<(u16, String)> {
    let mut answers = Vec::new();
    for lane in LANES {
        let mut client = Client::connect(proxy.address(lane));
        for _ in 0..count {
            let response = client.ask(GET);
            answers.push((response.status, response.text()));
        }
    }
    answers
}

#[track_caller]
fn check_all(proxy: &TestProxy, expected: &str) {
    for (status, text) in ask(proxy, 4) {
        assert_eq!((status, text.as_str()), (200, expected));
    }
}

#[test]
fn a_node_that_fails_its_probes_gets_no_requests_until_it_passes_them() {
    let (one, other) = (Patient::new("one"), Patient::new("other"));
    one.passes_probes.store(false, SeqCst);
    let proxy =
        proxy(&format!("checks: {{ {} }}", active(QUICK)), &[one.address(), other.address()]);
    proxy.check_metric(&up(one.address()), 0.0);
    eventually("a failure", || (proxy.metric(&checks("http_failure")) > 0.0).then_some(()));
    check_all(&proxy, "other");
    assert_eq!(one.requests(), 0);
    let page = proxy.admin("/health").text();
    for part in [
        format!("\"upstream\":\"app\",\"node\":\"{}\",\"is_up\":false,\"state\":\"", one.address()),
        "\"last_failure\":\"status 500\"".to_owned(),
        format!("\"node\":\"{}\",\"is_up\":true,\"state\":\"healthy\"", other.address()),
    ] {
        assert!(page.contains(&part), "{part} in {page}");
    }
    one.passes_probes.store(true, SeqCst);
    proxy.check_metric(&up(one.address()), 1.0);
    assert!(ask(&proxy, 4).iter().any(|(_, text)| text == "one"));
    assert_eq!(one.requests(), 4);
    // Probes are nobody's requests.
    assert_eq!(proxy.access_log(16).len(), 16);
    proxy.check_metric(ALL_DOWN, 0.0);
}

#[test]
fn a_node_that_cannot_be_connected_to_gets_nothing_until_it_can() {
    let keys = format!(
        "checks: {{ active: {{ type: tcp, timeout: 10, healthy: {{ interval: {QUICK} }}, \
         unhealthy: {{ interval: {QUICK}, tcp_failures: 1 }} }} }}"
    );
    let (address, other) = (unused_address(), Node::always("other"));
    for start in [proxy, tunnels] {
        let proxy = start(&keys, &[address, other.address]);
        eventually("a failure", || (proxy.metric(&checks("tcp_failure")) > 0.0).then_some(()));
        proxy.check_metric(&up(address), 0.0);
        for _ in 0..4 {
            assert_eq!(proxy.client().ask(GET).text(), "other");
        }
        proxy.check_metric("tandem_upstream_retries_total{upstream=\"app\"}", 0.0);
        let back = Node::on(TcpListener::bind(address).expect("its port"), |_| Reply::ok("back"));
        proxy.check_metric(&up(address), 1.0);
        let answers: Vec<_> = (0..4).map(|_| proxy.client().ask(GET).text()).collect();
        assert!(answers.iter().any(|text| text == "back"), "{answers:?}");
        assert!(other.seen().iter().all(|seen| seen.field("user-agent").is_none()));
        drop(back);
        eventually("the port is free", || TcpListener::bind(address).ok());
    }
}

#[test]
fn requests_that_fail_take_a_node_out() {
    for lane in LANES {
        let (one, other) = (Patient::new("one"), Patient::new("other"));
        one.serves.store(false, SeqCst);
        let passive = "passive: { unhealthy: { http_failures: 2 } }";
        let keys = format!("checks: {{ {}, {passive} }}", active(ONCE));
        let proxy = proxy(&keys, &[one.address(), other.address()]);
        // A probe that succeeds later would be one for it.
        proxy.check_metric(&checks("success"), 2.0);
        let mut client = Client::connect(proxy.address(lane));
        for _ in 0..10 {
            client.ask(GET);
        }
        assert_eq!((one.requests(), other.requests()), (2, 8), "{lane}");
        proxy.check_metric(&up(one.address()), 0.0);
        proxy.check_metric(&up(other.address()), 1.0);
    }
}

/// It is probed as often as one that is down from then on, however rarely it was before.
#[test]
fn a_node_that_requests_took_out_comes_back_by_probes() {
    let one = Patient::new("one");
    one.serves.store(false, SeqCst);
    let keys = format!(
        "checks: {{ active: {{ http_path: /probe, timeout: 10, healthy: {{ interval: {ONCE}, \
         successes: 1 }}, unhealthy: {{ interval: {QUICK} }} }}, \
         passive: {{ unhealthy: {{ http_failures: 1 }} }} }}"
    );
    let proxy = proxy(&keys, &[one.address()]);
    proxy.check_metric(&checks("success"), 1.0);
    assert_eq!(proxy.client().ask(GET).status, 500);
    proxy.check_metric(&checks("success"), 2.0);
    proxy.check_metric(&up(one.address()), 1.0);
}

#[test]
fn nodes_that_do_not_answer_fail_too() {
    for lane in LANES {
        for (reply, unhealthy) in [
            (Reply::Bytes(Vec::new()), "timeouts: 1"),
            (Reply::Close(Vec::new()), "tcp_failures: 1"),
            (Reply::Close(b"rubbish\r\n\r\n".to_vec()), "tcp_failures: 1"),
        ] {
            let one = Node::scripted(move |seen| match (seen.line().contains("/probe"), &reply) {
                (true, _) => Reply::ok("well"),
                (false, Reply::Bytes(bytes)) => Reply::Bytes(bytes.clone()),
                (false, Reply::Close(bytes)) => Reply::Close(bytes.clone()),
            });
            let other = Node::always("other");
            let keys = format!(
                "retry_on: [], timeout: {{ connect: 5, send: 5, read: 0.5 }}, \
                 checks: {{ {}, passive: {{ unhealthy: {{ {unhealthy} }} }} }}",
                active(ONCE)
            );
            let proxy = proxy(&keys, &[one.address, other.address]);
            proxy.check_metric(&checks("success"), 2.0);
            let mut client = Client::connect(proxy.address(lane));
            let statuses: Vec<_> = (0..6).map(|_| client.ask(GET).status).collect();
            let failed = statuses.iter().filter(|status| **status != 200).count();
            assert_eq!(failed, 1, "{lane} {unhealthy}: {statuses:?}");
            proxy.check_metric(&up(one.address), 0.0);
        }
    }
}

/// A good head alone speaks for nobody.
#[test]
fn responses_that_break_off_count_as_what_ended_them() {
    const CLOSING: &str = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let reply = |framing: &str| format!("HTTP/1.1 200 OK\r\n{framing}\r\n").into_bytes();
    let half = || reply("content-length: 9\r\n\r\nhalf");
    for (reply, passive) in [
        (Reply::Close(half()), "tcp_failures: 2"),
        (
            Reply::Close(reply("transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nrubbish")),
            "tcp_failures: 2",
        ),
        (Reply::Bytes(half()), "timeouts: 2"),
    ] {
        let one = Node::scripted(move |seen| match (seen.line().contains("/probe"), &reply) {
            (true, _) => Reply::ok("well"),
            (false, Reply::Bytes(bytes)) => Reply::Bytes(bytes.clone()),
            (false, Reply::Close(bytes)) => Reply::Close(bytes.clone()),
        });
        let other = Node::always("other");
        for keys in [
            format!("checks: {{ {}, passive: {{ unhealthy: {{ {passive} }} }} }}", active(ONCE)),
            "outlier_detection: { consecutive_5xx: 2 }".to_owned(),
        ] {
            let read = if passive.starts_with("timeouts") { 0.5 } else { 5.0 };
            let keys =
                format!("retry_on: [], timeout: {{ connect: 5, send: 5, read: {read} }}, {keys}");
            for lane in LANES {
                let proxy = proxy(&keys, &[one.address, other.address]);
                if keys.contains("checks") {
                    // A probe that succeeds later would be one for it.
                    proxy.check_metric(&checks("success"), 2.0);
                }
                one.take();
                for _ in 0..6 {
                    Client::connect(proxy.address(lane)).send(CLOSING).rest();
                }
                proxy.check_metric(&up(one.address), 0.0);
                assert_eq!(one.take().len(), 2, "{lane} {keys}");
            }
        }
    }
}

#[test]
fn a_client_that_leaves_or_does_not_read_speaks_against_nobody() {
    const LENGTH: usize = 1 << 30;
    let endless = |stream: &mut TcpStream| {
        // Longer than it takes to be held up.
        stream.set_write_timeout(Some(Duration::from_millis(1500)))?;
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n")?;
        loop {
            stream.write_all(&[b'x'; 4096])?;
        }
    };
    thread::scope(|scope| {
        for lane in LANES {
            scope.spawn(move || {
                let (node, closed) = flooding(endless);
                let proxy = proxy("outlier_detection: { consecutive_5xx: 1 }", &[node]);
                let ask = || {
                    let mut client = Client::connect(proxy.address(lane));
                    client.send(GET).until(b"\r\n\r\n");
                    client
                };
                (0..3).for_each(|_| drop(ask()));
                eventually("the end of three", || (closed.load(SeqCst) == 3).then_some(()));
                let mut slow = ask();
                eventually("the end of the fourth", || (closed.load(SeqCst) == 4).then_some(()));
                assert!(slow.rest().len() < LENGTH);
                let lines = proxy.access_log(4);
                assert!(lines[..3].iter().all(|line| line.ends_with(" CD")), "{lines:?}");
                assert!(lines[3].ends_with(" SD"), "{lines:?}");
                proxy.check_metric(&up(node), 1.0);
                proxy.check_metric(&ejections("ejected"), 0.0);
            });
        }
    });
}

/// A node that gives a whole response so much time has to wait for such a client all the same. One that
/// says nothing more when it is read to the end has not.
#[test]
fn a_client_that_reads_slowly_speaks_against_nobody_but_who_is_silent() {
    let hurried = |stream: &mut TcpStream| {
        let end = Instant::now() + Duration::from_secs(3);
        stream.set_write_timeout(Some(Duration::from_secs(3)))?;
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 1 << 30)?;
        while Instant::now() < end {
            stream.write_all(&[b'x'; 4096])?;
        }
        Err(std::io::ErrorKind::TimedOut.into())
    };
    let silent = move |stream: &mut TcpStream| {
        let _over = hurried(stream);
        stream.read(&mut [0]).map(drop)
    };
    let cases = [(" SD", flooding(hurried).0), (" sD", flooding(silent).0)];
    thread::scope(|scope| {
        for (lane, (end, node)) in LANES.iter().flat_map(|lane| cases.map(|case| (lane, case))) {
            scope.spawn(move || {
                let keys = "timeout: { connect: 5, send: 5, read: 0.5 }, \
                            outlier_detection: { consecutive_5xx: 1 }";
                let proxy = proxy(keys, &[node]);
                let mut client = TcpStream::connect(proxy.address(lane)).expect("connected");
                client.write_all(GET.as_bytes()).expect("sent");
                // Never still for long, and never as fast as the node.
                let mut piece = vec![0; 256 << 10];
                let slow = Instant::now() + Duration::from_secs(4);
                while client.read(&mut piece).is_ok_and(|count| count > 0) {
                    if Instant::now() < slow {
                        thread::park_timeout(Duration::from_millis(20));
                    }
                }
                let line = &proxy.access_log(1)[0];
                assert!(line.ends_with(end), "{line}");
                let is_silent = f64::from(u8::from(end == " sD"));
                proxy.check_metric(&ejections("ejected"), is_silent);
                proxy.check_metric(&up(node), 1.0 - is_silent);
            });
        }
    });
}

#[test]
fn an_outlier_is_ejected_and_comes_back() {
    for lane in LANES {
        let (one, other) = (Patient::new("one"), Patient::new("other"));
        one.serves.store(false, SeqCst);
        let keys =
            "outlier_detection: { consecutive_5xx: 3, base_ejection_time: 0.3, interval: 0.02 }";
        let proxy = proxy(keys, &[one.address(), other.address()]);
        let mut client = Client::connect(proxy.address(lane));
        let mut failed = 0;
        eventually("an ejection", || {
            failed += usize::from(client.ask(GET).status == 500);
            (proxy.metric(&ejections("ejected")) == 1.0).then_some(())
        });
        assert_eq!(failed, 3, "{lane}");
        assert_eq!(one.requests(), 3, "{lane}");
        one.serves.store(true, SeqCst);
        eventually("its return", || (client.ask(GET).text() == "one").then_some(()));
        proxy.check_metric(&up(one.address()), 1.0);
        proxy.check_metric(&ejections("ejected"), 1.0);
        proxy.check_metric(&ejections("refused"), 0.0);
    }
}

#[test]
fn a_node_that_fails_a_share_of_its_requests_is_ejected() {
    let one = Node::scripted(|seen| match seen.line().contains("/bad") {
        true => Reply::Bytes(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n".to_vec()),
        false => Reply::ok("one"),
    });
    let other = Node::always("other");
    for lane in LANES {
        let keys = "outlier_detection: { consecutive_5xx: 0, failure_percentage_threshold: 40, \
                    failure_percentage_minimum_hosts: 1, failure_percentage_request_volume: 2, \
                    interval: 0.1 }";
        let proxy = proxy(keys, &[one.address, other.address]);
        let mut client = Client::connect(proxy.address(lane));
        eventually("an ejection", || {
            // Each node has both of these.
            for path in ["/bad", "/bad", "/", "/"] {
                client.ask(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n"));
            }
            (proxy.metric(&up(one.address)) == 0.0).then_some(())
        });
        assert!((0..4).all(|_| client.ask(GET).text() == "other"), "{lane}");
    }
}

#[test]
fn no_more_outliers_are_ejected_than_may_be() {
    let (one, other) = (Patient::new("one"), Patient::new("other"));
    [&one, &other].into_iter().for_each(|node| node.serves.store(false, SeqCst));
    let proxy =
        proxy("outlier_detection: { consecutive_5xx: 2 }", &[one.address(), other.address()]);
    assert!(ask(&proxy, 10).iter().all(|(status, _)| *status == 500));
    let mut requests = [one.requests(), other.requests()];
    requests.sort_unstable();
    assert_eq!(requests, [2, 18]);
    proxy.check_metric(&ejections("ejected"), 1.0);
    assert!(proxy.metric(&ejections("refused")) > 0.0);
}

#[test]
fn connections_that_fail_count_for_tunnels() {
    for keys in [
        "outlier_detection: { consecutive_5xx: 2 }".to_owned(),
        format!(
            "checks: {{ {}, passive: {{ type: tcp, unhealthy: {{ tcp_failures: 2 }} }} }}",
            active(ONCE).replace("tcp_failures: 1", "tcp_failures: 254")
        ),
    ] {
        let (dead, other) = (unused_address(), Node::always("other"));
        let proxy = tunnels(&keys, &[dead, other.address]);
        eventually("the node is out", || {
            // Refused by a reset, which may come whenever it wants.
            if let Ok(mut client) = TcpStream::connect(proxy.address("web")) {
                client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                let asked = client.write_all(GET.as_bytes());
                let _answered = asked.and_then(|()| client.read(&mut [0; 64]));
            }
            (proxy.metric(&up(dead)) == 0.0).then_some(())
        });
        let refused = "tandem_upstream_connects_total{upstream=\"app\",result=\"refused\"}";
        assert!((1.0..=2.0).contains(&proxy.metric(refused)), "{keys}");
        for _ in 0..4 {
            assert_eq!(proxy.client().ask(GET).text(), "other", "{keys}");
        }
    }
}

#[test]
fn where_all_are_down_all_are_used_and_that_is_counted() {
    let (one, other) = (Patient::new("one"), Patient::new("other"));
    [&one, &other].into_iter().for_each(|node| node.passes_probes.store(false, SeqCst));
    let proxy =
        proxy(&format!("checks: {{ {} }}", active(ONCE)), &[one.address(), other.address()]);
    proxy.check_metric(&checks("http_failure"), 2.0);
    assert!(ask(&proxy, 5).iter().all(|(status, _)| *status == 200));
    assert_eq!((one.requests(), other.requests()), (5, 5));
    proxy.check_metric(ALL_DOWN, 10.0);
}

#[test]
fn a_reload_keeps_what_is_known_and_probes_what_is_new() {
    let nodes = [Patient::new("one"), Patient::new("other"), Patient::new("new")];
    nodes[0].passes_probes.store(false, SeqCst);
    let [one, other, new] = nodes.each_ref().map(Patient::address);
    let checks_keys = format!("checks: {{ {} }}", active(ONCE));
    let proxy = proxy(&checks_keys, &[one, other]);
    proxy.check_metric(&checks("http_failure"), 1.0);
    proxy.check_metric(&checks("success"), 1.0);
    nodes[0].passes_probes.store(true, SeqCst);

    // A node more, and something that is not about nodes.
    let changed = yaml(&format!("retries: 1, {checks_keys}"), &[one, other, new]);
    proxy.reload(&changed).expect("applied");
    proxy.check_metric(&checks("success"), 2.0);
    assert_eq!(nodes.each_ref().map(Patient::probes), [1, 1, 1], "only the new one was probed");
    proxy.check_metric(&up(one), 0.0);
    assert!(ask(&proxy, 6).iter().all(|(_, text)| text != "one"));

    // The new node is gone, and its series with it.
    proxy.reload(&yaml(&checks_keys, &[one, other])).expect("applied");
    assert!(!proxy.admin("/metrics").text().contains(&up(new)));
    proxy.check_metric(&up(one), 0.0);

    // Other checks begin anew, and at once.
    let other_checks = checks_keys.replace("successes: 2", "successes: 1");
    proxy.reload(&yaml(&other_checks, &[one, other])).expect("applied");
    proxy.check_metric(&up(one), 1.0);
    proxy.check_metric(&checks("success"), 4.0);

    proxy.reload(&yaml("retries: 1", &[one, other])).expect("applied");
    let page = proxy.admin("/metrics").text();
    for series in ["tandem_upstream_node_up{", "tandem_upstream_checks_total{upstream"] {
        assert!(!page.contains(series), "{series}");
    }
    assert_eq!(proxy.admin("/health").text(), "[]\n");
}

#[test]
fn what_a_request_meets_counts_by_the_rules_that_are_in_force_by_then() {
    let keys = |failures: usize| {
        let passive = format!("passive: {{ unhealthy: {{ tcp_failures: {failures} }} }}");
        format!("retry_on: [], checks: {{ {}, {passive} }}", active(ONCE))
    };
    for lane in LANES {
        let (go, wait) = mpsc::channel::<()>();
        let wait = Mutex::new(wait);
        let node = Node::scripted(move |seen| {
            if seen.line().contains("/probe") {
                return Reply::ok("well");
            }
            let _ = wait.lock().expect("no panic").recv_timeout(PATIENCE);
            Reply::Close(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf".to_vec())
        });
        let proxy = proxy(&keys(5), &[node.address]);
        let mut client = Client::connect(proxy.address(lane));
        client.send(GET);
        eventually("the request", || node.heard().contains("GET / ").then_some(()));
        proxy.check_metric(&checks("success"), 1.0);
        proxy.reload(&yaml(&keys(1), &[node.address])).expect("applied");
        // A probe that succeeds later would be one for it.
        proxy.check_metric(&checks("success"), 2.0);
        proxy.check_metric(&up(node.address), 1.0);
        go.send(()).expect("a node that waits");
        client.rest();
        proxy.check_metric(&up(node.address), 0.0);
    }
}

#[test]
fn what_is_gone_is_not_probed_any_more() {
    let (gone, stays) = (Patient::new("gone"), Patient::new("stays"));
    let keys = format!("checks: {{ {} }}", active(QUICK));
    let proxy = proxy(&keys, &[gone.address(), stays.address()]);
    let after = |node: &Patient, count: usize| {
        eventually("probes", || (node.probes() >= count).then_some(()));
    };
    after(&gone, 3);
    proxy.reload(&yaml(&keys, &[stays.address()])).expect("applied");
    // One may have been on its way.
    after(&stays, stays.probes() + 2);
    let probes = gone.probes();
    after(&stays, stays.probes() + 5);
    assert_eq!(gone.probes(), probes);
}

#[test]
fn a_probe_says_what_is_configured() {
    let version = env!("CARGO_PKG_VERSION");
    let (node, probed) = (Node::always("node"), Node::always("probed"));
    let own = probed.address.to_string();
    let port = probed.address.port();
    let agent = format!("tandem/{version}");
    for (keys, check, line, fields, body) in [
        ("retries: 0", "", "GET / HTTP/1.1", [("host", &*own), ("user-agent", &*agent)], ""),
        (
            "pass_host: rewrite, upstream_host: inner.example",
            "http_path: '/a?b=c', http_method: HEAD, ",
            "HEAD /a?b=c HTTP/1.1",
            [("host", "inner.example"), ("connection", "close")],
            "",
        ),
        (
            "pass_host: rewrite, upstream_host: inner.example",
            "host: \"own.example:81\", http_method: POST, http_req_body: ping, \
             req_headers: [\"X-A:  b c \", \"User-Agent: curl/8\"], ",
            "POST / HTTP/1.1",
            [("host", "own.example:81"), ("x-a", "b c")],
            "ping",
        ),
        (
            "retries: 0",
            "req_headers: [\"user-agent: curl/8\"], ",
            "GET / HTTP/1.1",
            [("user-agent", "curl/8"), ("connection", "close")],
            "",
        ),
    ] {
        let keys = format!(
            "{keys}, checks: {{ active: {{ {check} timeout: 10, port: {port}, healthy: {{ interval: {ONCE} }} }} }}"
        );
        let proxy = proxy(&keys, &[node.address]);
        proxy.check_metric(&checks("success"), 1.0);
        let seen = probed.take().remove(0);
        assert_eq!(seen.line(), line);
        for (name, value) in fields {
            assert_eq!(seen.field(name), Some(value), "{}", seen.head);
        }
        assert_eq!(seen.head.matches("user-agent").count(), 1, "{}", seen.head);
        assert_eq!(String::from_utf8_lossy(&seen.body), body);
    }
    assert_eq!(node.seen().len(), 0);
}

#[test]
fn statuses_count_as_they_are_listed() {
    let node = Node::scripted(|_| Reply::Bytes(b"HTTP/1.1 204 No\r\n\r\n".to_vec()));
    for (listed, result) in [
        ("", "ignored"),
        ("healthy: { http_statuses: [204] }", "success"),
        ("unhealthy: { http_statuses: [204] }", "http_failure"),
    ] {
        let proxy =
            proxy(&format!("checks: {{ active: {{ timeout: 10, {listed} }} }}"), &[node.address]);
        eventually(result, || (proxy.metric(&checks(result)) > 0.0).then_some(()));
        let page = proxy.admin("/metrics").text();
        let series = page.lines().filter(|line| line.starts_with("tandem_upstream_checks_total{"));
        assert_eq!(series.filter(|line| !line.ends_with(" 0")).count(), 1, "{result}");
    }
}

/// A target of probes that writes what `write` does to each connection until that is closed, which it
/// counts.
fn flooding(
    write: impl Fn(&mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let closed = Arc::new(AtomicUsize::new(0));
    let (count, write) = (Arc::clone(&closed), Arc::new(write));
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let (count, write) = (Arc::clone(&count), Arc::clone(&write));
            thread::spawn(move || {
                let mut request = [0; 1024];
                let _asked = stream.read(&mut request);
                while write(&mut stream).is_ok() {}
                count.fetch_add(1, SeqCst);
            });
        }
    });
    (address, closed)
}

#[test]
fn no_target_holds_a_probe_up() {
    let silent = |stream: &mut TcpStream| match stream.read(&mut [0; 64]) {
        Ok(0) | Err(_) => Err(std::io::ErrorKind::UnexpectedEof.into()),
        Ok(_) => Ok(()),
    };
    let endless_head = |stream: &mut TcpStream| stream.write_all(b"HTTP/1.1 200 OK\r\nx: y\r\n");
    let interim = |stream: &mut TcpStream| stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n");
    let trickle = |stream: &mut TcpStream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nx: ")?;
        loop {
            thread::park_timeout(Duration::from_millis(5));
            stream.write_all(b"y")?;
        }
    };
    let endless_body = |stream: &mut TcpStream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        loop {
            stream.write_all(&[b'x'; 4096])?;
        }
    };
    for (name, (target, closed), result) in [
        ("silent", flooding(silent), "timeout"),
        ("head", flooding(endless_head), "tcp_failure"),
        ("interim", flooding(interim), "timeout"),
        ("trickle", flooding(trickle), "timeout"),
        ("body", flooding(endless_body), "success"),
    ] {
        let keys = format!(
            "checks: {{ active: {{ timeout: 0.1, healthy: {{ interval: {QUICK} }}, \
             unhealthy: {{ interval: {QUICK} }} }} }}"
        );
        let proxy = proxy(&keys, &[target]);
        // Every probe ends, and some were not too slow for anything but what they are about.
        eventually(name, || {
            let is_through = closed.load(SeqCst) >= 2 && proxy.metric(&checks(result)) > 0.0;
            is_through.then_some(())
        });
    }
}

#[test]
fn no_more_probes_are_under_way_than_may_be() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let slow = || {
        let (now, most) = (Arc::clone(&now), Arc::clone(&most));
        Node::scripted(move |_| {
            most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
            thread::park_timeout(Duration::from_millis(10));
            now.fetch_sub(1, SeqCst);
            Reply::ok("")
        })
    };
    let nodes: Vec<_> = (0..6).map(|_| slow()).collect();
    let addresses: Vec<_> = nodes.iter().map(|node| node.address).collect();
    for (concurrency, delayed) in [(2, true), (6, false)] {
        most.store(0, SeqCst);
        let keys = format!(
            "checks: {{ active: {{ concurrency: {concurrency}, timeout: 10, healthy: {{ interval: {ONCE} }} }} }}"
        );
        let proxy = proxy(&keys, &addresses);
        proxy.check_metric(&checks("success"), 6.0);
        let most = most.load(SeqCst);
        assert!((1..=concurrency).contains(&most), "{most} of {concurrency}");
        let waited = proxy.metric("tandem_upstream_checks_delayed_total{upstream=\"app\"}");
        assert_eq!(waited > 0.0, delayed, "{waited}");
    }
}

/// Who answers by TLS as `inner.example`, with 500 first and 200 from the second time on, and the
/// certificate to trust.
fn tls_node() -> (SocketAddr, String) {
    let made = rcgen::generate_simple_self_signed(["inner.example".to_owned()]);
    let rcgen::CertifiedKey { cert, signing_key } = made.expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .map(Arc::new)
        .expect("its key");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        let mut status = 500;
        while let Ok((stream, _)) = listener.accept() {
            let session = ServerConnection::new(Arc::clone(&config)).expect("a session");
            let mut stream = StreamOwned::new(session, stream);
            if stream.read(&mut [0; 1024]).is_ok_and(|count| count > 0) {
                let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n");
                let _answered = stream.write_all(answer.as_bytes());
                status = 200;
            }
        }
    });
    let encoded = Base64::encode_string(cert.der());
    let lines = encoded.as_bytes().chunks(64).map(String::from_utf8_lossy);
    let lines = lines.collect::<Vec<_>>().join("\n");
    (address, format!("-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n"))
}

#[test]
fn a_node_is_probed_by_https_and_has_to_be_who_it_says() {
    let keys = |host: &str, more: &str| {
        format!(
            "checks: {{ active: {{ type: https, timeout: 10, host: {host}, {more} \
             healthy: {{ interval: {QUICK}, successes: 1 }}, \
             unhealthy: {{ interval: {QUICK}, http_failures: 1, tcp_failures: 1 }} }} }}"
        )
    };
    let (address, _) = tls_node();
    let unverified = keys("other.example", "https_verify_certificate: false,");
    let proxy = proxy(&unverified, &[address]);
    eventually("a success", || (proxy.metric(&checks("success")) > 0.0).then_some(()));
    assert_eq!(proxy.metric(&checks("http_failure")), 1.0);
    assert_eq!(proxy.metric(&checks("tcp_failure")), 0.0);

    let directory = tempfile::tempdir().expect("a directory");
    for (host, cause) in [
        ("inner.example", "cause=status 500"),
        ("\"inner.example:8443\"", "cause=status 500"),
        ("other.example", "cause=no connection or no whole response"),
    ] {
        let (address, certificate) = tls_node();
        let roots = directory.path().join("roots.pem");
        std::fs::write(&roots, certificate).expect("a file");
        let roots = format!("SSL_CERT_FILE={}", roots.display());
        let yaml = yaml(&keys(host, ""), &[address]) + "workers: 1\nkernel: { mode: off }\n";
        let tandem = Tandem::start_with(&["env", &roots], &yaml);
        tandem.line(&["node is down", &address.to_string(), cause]);
        if host != "other.example" {
            tandem.line(&["node is up", &address.to_string(), "cause=status 200"]);
        }
    }
}
