//! How requests reach the nodes of an upstream: host, waits and connections, as the nodes and clients
//! see them, on both lanes.

use std::{net::TcpListener, thread, time::Duration};

use proxy::test_support::{Client, Node, Reply, TestProxy, eventually};

use crate::{
    lane_pair::{LANES, LISTENERS, nodes_of, to_upstream},
    limits::unanswering,
};

const GET: &str = "GET / HTTP/1.1\r\nhost: Shop.example:81\r\n\r\n";

/// One listener for each lane, and these routes and upstreams.
fn proxy(routes: &str, upstreams: &str) -> TestProxy {
    TestProxy::start(&format!("{LISTENERS}routes: [{routes}]\nupstreams: [{upstreams}]\n"))
}

/// One route for everything to an upstream with these keys and nodes.
fn to(keys: &str, nodes: &[std::net::SocketAddr]) -> TestProxy {
    TestProxy::start(&to_upstream(&format!("{keys} {}", nodes_of(nodes))))
}

#[test]
fn a_node_gets_the_host_that_its_upstream_passes() {
    let node = Node::always("ok");
    let own = node.address.to_string();
    for (keys, expected) in [
        ("", "Shop.example:81"),
        ("pass_host: pass,", "Shop.example:81"),
        ("pass_host: node,", &*own),
        ("pass_host: rewrite, upstream_host: \"inner.example:8080\",", "inner.example:8080"),
    ] {
        let proxy = to(keys, &[node.address]);
        for lane in LANES {
            assert_eq!(Client::connect(proxy.address(lane)).ask(GET).status, 200);
            let seen = node.take().remove(0);
            assert_eq!(seen.field("host"), Some(expected), "{keys} {lane}");
            assert_eq!(seen.field("x-forwarded-host"), Some("Shop.example:81"), "{keys} {lane}");
        }
    }
}

#[test]
fn a_node_that_does_not_answer_has_the_time_of_its_route_or_upstream() {
    let node = Node::scripted(|seen| match seen.field("x-body") {
        None => Reply::Bytes(Vec::new()),
        Some(_) => Reply::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf".to_vec()),
    });
    let timeout = |read: &str| format!("timeout: {{ connect: 5, send: 5, read: {read} }}");
    let (short, long) = (timeout("0.1"), timeout("3600"));
    let nodes = format!("nodes: {{ \"{}\": 1 }}", node.address);
    let proxy = proxy(
        &format!(
            "{{ id: its, uri: /its, upstream_id: patient, {short} }}, \
             {{ id: inherited, uri: /inherited, upstream_id: hasty }}"
        ),
        &format!("{{ id: hasty, {short}, {nodes} }}, {{ id: patient, {long}, {nodes} }}"),
    );
    for lane in LANES {
        for path in ["/its", "/inherited"] {
            let mut client = Client::connect(proxy.address(lane));
            let head = format!("GET {path} HTTP/1.1\r\nhost: a\r\n");
            assert_eq!(client.ask(format!("{head}\r\n")).status, 504, "{path} {lane}");
            let received = client.send(format!("{head}x-body: 1\r\n\r\n")).rest();
            assert!(received.ends_with(b"\r\n\r\nhalf"), "{path} {lane}");
        }
    }
    proxy.check_metric("tandem_faults_total{fault=\"response_timeout\"}", 4.0);
    proxy.check_metric("tandem_faults_total{fault=\"response_body_timeout\"}", 4.0);
}

#[test]
fn a_node_that_does_not_read_has_the_time_of_its_upstream() {
    // Accepts by its backlog only.
    let node = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = node.local_addr().expect("an address");
    let proxy = to("timeout: { connect: 5, send: 0.2, read: 3600 },", &[address]);
    for lane in LANES {
        let mut client = Client::connect(proxy.address(lane));
        client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000\r\n\r\n");
        let mut feeding = client.stream().try_clone().expect("a second handle");
        let feeding =
            thread::spawn(
                move || {
                    while std::io::Write::write_all(&mut feeding, &[b'x'; 65536]).is_ok() {}
                },
            );
        assert_eq!(client.response().status, 504, "{lane}");
        drop(client);
        feeding.join().expect("no panic");
    }
}

#[test]
fn retries_begin_within_their_time() {
    let (dead, _full) = unanswering();
    let good = Node::always("good");
    let nodes = [dead, good.address];
    let timeout = "timeout: { connect: 0.2, send: 5, read: 5 },";
    for lane in LANES {
        let proxy = to(&format!("retry_timeout: 0.1, {timeout}"), &nodes);
        let response = Client::connect(proxy.address(lane)).ask(GET);
        assert_eq!(response.text(), r#"{"error_msg":"502 Bad Gateway"}"#, "{lane}");
        proxy.check_metric("tandem_faults_total{fault=\"retry_timeout\"}", 1.0);
        proxy.check_metric("tandem_upstream_retries_total{upstream=\"app\"}", 0.0);
        for keys in ["retry_timeout: 60,", "retry_timeout: 0,", ""] {
            let proxy = to(&format!("{keys} {timeout}"), &nodes);
            assert_eq!(Client::connect(proxy.address(lane)).ask(GET).text(), "good", "{lane}");
        }
    }
}

#[test]
fn a_connection_carries_as_many_requests_as_its_upstream_says() {
    let node = Node::always("ok");
    let proxy = to("keepalive_pool: { requests: 2 },", &[node.address]);
    for lane in LANES {
        let mut client = Client::connect(proxy.address(lane));
        (0..5).for_each(|_| assert_eq!(client.ask(GET).status, 200));
        let connections: Vec<_> = node.take().iter().map(|seen| seen.connection).collect();
        let pairs = connections.iter().map(|connection| connection - connections[0]);
        assert_eq!(pairs.collect::<Vec<_>>(), [0, 0, 1, 1, 2], "{lane}");
    }
}

#[test]
fn as_many_connections_are_kept_and_as_long_as_their_upstream_says() {
    const IDLE: &str = "tandem_upstream_pool_idle{upstream=\"app\"}";
    const TOGETHER: usize = 3;
    for lane in LANES {
        let node = Node::scripted(|_| {
            thread::park_timeout(Duration::from_millis(100));
            Reply::ok("slow")
        });
        let ask_together = |proxy: &TestProxy| {
            let mut clients: Vec<_> =
                (0..TOGETHER).map(|_| Client::connect(proxy.address(lane))).collect();
            for client in &mut clients {
                client.send(GET);
            }
            clients.iter_mut().for_each(|client| assert_eq!(client.response().text(), "slow"));
            proxy.access_log(TOGETHER);
        };
        for (keys, kept) in [("", TOGETHER), ("keepalive_pool: { size: 2 },", 2)] {
            let proxy = to(keys, &[node.address]);
            ask_together(&proxy);
            proxy.check_metric(IDLE, kept as f64);
        }
        let proxy = to("keepalive_pool: { idle_timeout: 0.5 },", &[node.address]);
        ask_together(&proxy);
        // A minute without the key.
        eventually("no idle connection", || (proxy.metric(IDLE) == 0.0).then_some(()));
    }
}

#[test]
fn upstreams_do_not_share_connections() {
    let node = Node::always("ok");
    let nodes = format!("nodes: {{ \"{}\": 1 }}", node.address);
    let proxy = proxy(
        "{ id: one, uri: /one, upstream_id: one }, { id: two, uri: /two, upstream_id: two }",
        &format!("{{ id: one, {nodes} }}, {{ id: two, {nodes} }}"),
    );
    for lane in LANES {
        let mut client = Client::connect(proxy.address(lane));
        for path in ["/one", "/two", "/one", "/two"] {
            client.ask(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n"));
        }
        let connections: Vec<_> = node.take().iter().map(|seen| seen.connection).collect();
        assert_eq!(connections[..2], connections[2..], "{lane}");
        assert_ne!(connections[0], connections[1], "{lane}");
    }
}
