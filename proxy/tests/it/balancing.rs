//! Who gets which request, as the nodes see it, on both lanes.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    sync::mpsc,
    thread,
    time::Duration,
};

use proxy::test_support::{Client, Node, Reply, TestProxy, unused_address};

use crate::lane_pair::{LANES, nodes_of, to_upstream};

/// One listener for each lane, and one route to an upstream with these keys.
fn proxy(upstream: &str) -> TestProxy {
    TestProxy::start(&to_upstream(upstream))
}

/// `nodes:` in the list form with a priority each.
fn by_priority(nodes: &[(SocketAddr, i32)]) -> String {
    let nodes = nodes.iter().map(|(node, priority)| {
        let (host, port) = (node.ip(), node.port());
        format!("{{ host: {host}, port: {port}, weight: 1, priority: {priority} }}")
    });
    format!("nodes: [{}]", nodes.collect::<Vec<_>>().join(", "))
}

fn get(client: &mut Client, fields: &str) -> String {
    let response = client.ask(format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n"));
    assert_eq!(response.status, 200, "{}", response.head);
    response.text()
}

#[test]
fn what_is_hashed_decides_about_the_node_whichever_lane() {
    let nodes = ["a", "b", "c"].map(Node::always);
    let addresses = nodes.each_ref().map(|node| node.address);
    for (keys, field) in [
        ("type: chash, hash_on: header, key: X-User", "x-user: user-"),
        ("type: chash, hash_on: cookie, key: sid", "cookie: other=1; sid=s"),
        ("type: maglev, hash_on: vars_combinations, key: $http_x_a/$host", "x-a: "),
    ] {
        let proxy = proxy(&format!("{keys}, {}", nodes_of(&addresses)));
        let mut clients = LANES.map(|lane| Client::connect(proxy.address(lane)));
        let mut used: Vec<String> = Vec::new();
        for key in 0..30 {
            let line = format!("{field}{key}\r\n");
            let [express, hyper] = clients.each_mut().map(|client| get(client, &line));
            assert_eq!(express, hyper, "{line}");
            used.push(express);
        }
        used.sort_unstable();
        used.dedup();
        assert_eq!(used, ["a", "b", "c"], "{keys}");
        // Nothing to hash: the client's address, which is always the same.
        let without = clients.each_mut().map(|client| get(client, ""));
        assert_eq!(without[0], without[1], "{keys}");
    }
}

#[test]
fn keys_of_a_dead_node_go_elsewhere_and_others_stay() {
    let nodes = ["a", "b", "c"].map(Node::always);
    let [a, b, c] = nodes.each_ref().map(|node| node.address);
    let chash =
        |nodes: &[SocketAddr]| proxy(&format!("type: chash, key: arg_u, {}", nodes_of(nodes)));
    let ask = |client: &mut Client, key: u32| {
        client.ask(format!("GET /?u={key} HTTP/1.1\r\nhost: a\r\n\r\n")).text()
    };
    let (alive, dead) = (chash(&[a, b, c]), chash(&[a, b, c, unused_address()]));
    let (mut alive, mut dead) = (alive.client(), dead.client());
    let moved = (0..40).filter(|&key| ask(&mut alive, key) != ask(&mut dead, key));
    // The dead one had a quarter of them, and each of these had to go to some other.
    assert!((0..25).contains(&moved.count()));
}

/// A node whose responses stop half-way until it is told to go on.
struct Halting {
    address: SocketAddr,
    go_on: mpsc::Sender<()>,
}

impl Halting {
    fn new() -> Halting {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (go_on, told) = mpsc::channel();
        thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let mut request = [0; 4096];
                while stream.read(&mut request).is_ok_and(|count| count > 0) {
                    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalt";
                    stream.write_all(head).expect("the proxy reads");
                    if told.recv().is_err() {
                        return;
                    }
                    stream.write_all(b"ing!").expect("the proxy reads");
                }
            }
        });
        Halting { address, go_on }
    }
}

#[test]
fn least_conn_passes_a_node_by_until_its_response_is_complete() {
    for lane in LANES {
        let (halting, other) = (Halting::new(), Node::always("other"));
        let proxy =
            proxy(&format!("type: least_conn, {}", nodes_of(&[halting.address, other.address])));
        let mut waiting = Client::connect(proxy.address(lane));
        waiting.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").until(b"\r\n\r\nhalt");
        let mut client = Client::connect(proxy.address(lane));
        for _ in 0..6 {
            assert_eq!(get(&mut client, ""), "other", "{lane}");
        }
        halting.go_on.send(()).expect("the node waits");
        waiting.until(b"ing!");
        // It has nothing to do any more, and has not been asked for longest.
        halting.go_on.send(()).expect("the node waits");
        assert_eq!(get(&mut client, ""), "halting!", "{lane}");
    }
}

#[test]
fn least_conn_forgets_a_request_whose_client_has_gone() {
    for lane in LANES {
        let (halting, other) = (Halting::new(), Node::always("other"));
        let proxy =
            proxy(&format!("type: least_conn, {}", nodes_of(&[halting.address, other.address])));
        let mut gone = Client::connect(proxy.address(lane));
        gone.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").until(b"\r\n\r\nhalt");
        socket2::SockRef::from(gone.stream()).set_linger(Some(Duration::ZERO)).expect("linger");
        drop(gone);
        proxy.access_log(1);
        drop(halting);
        let mut client = Client::connect(proxy.address(lane));
        let retries = "tandem_upstream_retries_total{upstream=\"app\"}";
        assert_eq!(proxy.metric(retries), 0.0);
        assert_eq!([get(&mut client, ""), get(&mut client, "")], ["other"; 2]);
        // As idle as the other, it had its turn, and was not there any more.
        proxy.check_metric(retries, 1.0);
    }
}

#[test]
fn a_node_of_lower_priority_is_for_when_no_other_answers() {
    let (primary, backup) = (Node::always("primary"), Node::always("backup"));
    for kind in ["roundrobin", "least_conn", "ewma", "chash, key: uri", "maglev, key: uri"] {
        let nodes = |primary| by_priority(&[(backup.address, -1), (primary, 0)]);
        let alive = proxy(&format!("type: {kind}, {}", nodes(primary.address)));
        let dead = proxy(&format!("type: {kind}, {}", nodes(unused_address())));
        for lane in LANES {
            let (mut alive, mut dead) =
                (Client::connect(alive.address(lane)), Client::connect(dead.address(lane)));
            for _ in 0..5 {
                assert_eq!(get(&mut alive, ""), "primary", "{kind} {lane}");
                assert_eq!(get(&mut dead, ""), "backup", "{kind} {lane}");
            }
        }
        alive.check_metric("tandem_upstream_retries_total{upstream=\"app\"}", 0.0);
        dead.check_metric("tandem_upstream_retries_total{upstream=\"app\"}", 10.0);
    }
}

#[test]
fn ewma_sends_little_to_a_slow_node() {
    for lane in LANES {
        let fast = Node::always("fast");
        let slow = Node::scripted(|_| {
            thread::park_timeout(Duration::from_millis(50));
            Reply::ok("slow")
        });
        let proxy = proxy(&format!("type: ewma, {}", nodes_of(&[fast.address, slow.address])));
        let mut client = Client::connect(proxy.address(lane));
        (0..40).for_each(|_| drop(get(&mut client, "")));
        // Until each has answered once, either may be asked; then the slow one is not.
        assert!((1..=8).contains(&slow.seen().len()), "{lane}: {}", slow.seen().len());
    }
}

#[test]
fn tunnels_are_balanced_for_as_long_as_they_live() {
    let nodes = ["a", "b"].map(Node::always);
    let addresses = nodes.each_ref().map(|node| node.address);
    let start = |keys: &str| {
        TestProxy::start(&format!(
            "listeners: [{{ name: web, address: \"127.0.0.1:0\", protocol: tcp }}]\n\
             stream_routes: [{{ id: all, upstream_id: app }}]\n\
             upstreams: [{{ id: app, {keys}, {} }}]\n",
            nodes_of(&addresses)
        ))
    };
    let open = |proxy: &TestProxy| {
        let mut client = proxy.client();
        let answer = client.ask("GET / HTTP/1.1\r\nhost: a\r\n\r\n").text();
        (client, answer)
    };
    let proxy = start("type: chash, key: remote_addr");
    let answers: Vec<_> = (0..6).map(|_| open(&proxy).1).collect();
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");

    let proxy = start("type: least_conn");
    let mut held: Vec<_> = (0..6).map(|_| open(&proxy)).collect();
    assert_eq!(held.iter().filter(|(_, answer)| answer == "a").count(), 3);
    held.retain(|(_, answer)| answer == "b");
    proxy.access_log(3);
    let next: Vec<_> = (0..3).map(|_| open(&proxy)).collect();
    assert!(next.iter().all(|(_, answer)| answer == "a"));
}
