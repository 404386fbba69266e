//! Whose connections are touched, and whose are not.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    thread,
    time::{Duration, Instant},
};

use proxy::test_support::Client;

use super::{peer::connect_from, *};
use crate::topology::{Namespace, Pair};

pub(super) const CROSSING: &str = "kernel: { mode: require, \
                        same_host: { enabled: true, cgroup: /, cross_namespace: true } }";

/// What `establish` and `local` have counted in all but for what is none of ours.
pub(super) fn touched(proxy: &TestProxy) -> u64 {
    let page = proxy.admin("/metrics").text();
    let of_legs = |line: &&str| {
        let is_counter = line.starts_with("tandem_kernel_packets_total{program=\"establish\"")
            || line.starts_with("tandem_kernel_packets_total{program=\"local\"");
        is_counter && !line.contains("not_ours")
    };
    let value = |line: &str| line.rsplit(' ').next().and_then(|it| it.parse::<f64>().ok());
    page.lines().filter(of_legs).filter_map(value).sum::<f64>() as u64
}

/// Says so and so much, both ways, over a connection of others, which it returns.
fn check_strangers(listener: &TcpListener, from: Option<SocketAddr>) -> [peer::Waiting; 2] {
    let mut client = connect_from(from, listener.local_addr().expect("an address"));
    let mut node = peer::Waiting(listener.accept().expect("a connection").0);
    node.0.set_nonblocking(true).expect("an option");
    let mut bytes = [0; 1000];
    for _ in 0..200 {
        client.write_all(&[1; 1000]).expect("sent");
        node.read_exact(&mut bytes).expect("arrived");
        assert_eq!(bytes, [1; 1000]);
        node.write_all(&[2; 1000]).expect("sent");
        client.read_exact(&mut bytes).expect("arrived");
        assert_eq!(bytes, [2; 1000]);
    }
    [client, node]
}

#[test]
fn connections_of_others_are_left_alone() {
    if skip_without_privileges() {
        return;
    }
    let namespace = Namespace::new();
    namespace.run(|| {
        let node = Node::start("127.0.0.1:0");
        let proxy = proxy(LEGS, node.address);
        let delivered = Counted::delivered(&proxy);
        let mut peer = Peer::connect(proxy.address("web"));
        warm_up(&mut peer, &delivered);
        let before = touched(&proxy);
        for address in ["127.0.0.1:0", "[::1]:0"] {
            check_strangers(&TcpListener::bind(address).expect("a free port"), None);
        }
        // A node of ours, but not by us.
        let mut direct = Peer::connect(node.address);
        (0..50).for_each(|_| direct.get(1000).expect("answered"));
        assert_eq!(touched(&proxy), before);
        peer.get(1000).expect("answered");
        assert!(touched(&proxy) > before, "it does count");
    });
}

#[test]
fn the_same_addresses_in_another_namespace_are_somebody_else() {
    if skip_without_privileges() {
        return;
    }
    let (ours, theirs) = (Namespace::new(), Namespace::new());
    let start = || {
        let node = Node::start("127.0.0.1:0");
        let proxy = proxy(CROSSING, node.address);
        let mut peer = Peer::connect(proxy.address("web"));
        warm_up(&mut peer, &Counted::delivered(&proxy));
        (node, proxy, peer)
    };
    let (node, proxy, mut peer) = ours.run(start);
    let before = ours.run(|| touched(&proxy));
    let (web, client) = (proxy.address("web"), peer.stream.get_ref().0.local_addr());
    theirs.run(|| {
        check_strangers(&TcpListener::bind(web).expect("a free port"), client.ok());
        check_strangers(&TcpListener::bind(node.address).expect("a free port"), None);
    });
    assert_eq!(ours.run(|| touched(&proxy)), before);
    peer.get(1000).expect("still answered");
    ours.run(|| assert!(touched(&proxy) > before, "it does count"));
}

/// What is one of our addresses here is somebody else's there.
#[test]
fn addresses_that_two_namespaces_have_are_two() {
    if skip_without_privileges() {
        return;
    }
    let (ours, theirs) = (Namespace::new(), Namespace::new());
    for namespace in [&ours, &theirs] {
        namespace.ip("address add 10.9.0.1/24 dev lo");
        namespace.ip("address add 10.9.0.2/24 dev lo");
    }
    let node = ours.run(|| Node::start("127.0.0.1:0"));
    let yaml = yaml(CROSSING, &["name: web, address: \"10.9.0.1:0\""], node.address, "");
    let proxy = ours.run(|| TestProxy::start(&yaml));
    let found = || ours.run(|| counted(&proxy, "establish", "found"));
    let before = (found(), ours.run(|| touched(&proxy)));
    let listener = theirs.run(|| TcpListener::bind(proxy.address("web")).expect("a free port"));
    let alone = Some(SocketAddr::from(([10, 9, 0, 1], 0)));
    theirs.run(|| check_strangers(&listener, alone));
    assert_eq!((found(), ours.run(|| touched(&proxy))), before, "not even looked for");
    let from_beside = Some(SocketAddr::from(([10, 9, 0, 2], 0)));
    theirs.run(|| check_strangers(&listener, from_beside));
    assert_eq!(found(), before.0);
    let mut peer = ours.run(|| Peer::connect(proxy.address("web")));
    peer.get(100).expect("answered");
    assert!(found() > before.0, "it does count");
}

/// A listener on every address would have every connection to its port on any host, if it stood for
/// more than the addresses of this one.
#[test]
fn our_port_of_another_host_is_not_ours() {
    if skip_without_privileges() {
        return;
    }
    let pair = Pair::new();
    for (listener, other, ours) in
        [("0.0.0.0:0", "10.1.0.2", "10.1.0.1"), ("[::]:0", "fd00:1::2", "fd00:1::1")]
    {
        let (_node, proxy) = pair.proxy.run(|| {
            let node = Node::start("127.0.0.1:0");
            let row = format!("name: web, address: \"{listener}\"");
            let proxy = TestProxy::start(&yaml(CROSSING, &[&row], node.address, ""));
            (node, proxy)
        });
        let port = proxy.address("web").port();
        let [other, ours] = [other, ours].map(|ip| SocketAddr::new(ip.parse().unwrap(), port));
        let strangers = pair.downstream.run(|| TcpListener::bind(other).expect("a free port"));
        pair.proxy.run(|| {
            let maps = Maps::of(&proxy);
            let before = (touched(&proxy), maps.entries());
            let client = check_strangers(&strangers, None);
            assert_eq!((touched(&proxy), maps.entries()), before, "{other}");
            drop(client);
            let mut peer = Peer::connect(ours);
            warm_up(&mut peer, &Counted::delivered(&proxy));
            assert!(touched(&proxy) > before.0 && maps.entries() != before.1, "it does count");
        });
    }
}

/// How soon a change of addresses must be known.
const SOON: Duration = Duration::from_secs(2);

#[test]
fn addresses_that_come_and_go_are_ours_for_so_long() {
    if skip_without_privileges() {
        return;
    }
    let pair = Pair::new();
    let (node, proxy) = pair.proxy.run(|| {
        let node = Node::start("127.0.0.1:0");
        let row = "name: web, address: \"[::]:0\"";
        let proxy = TestProxy::start(&yaml(CROSSING, &[row], node.address, "same_host: false"));
        (node, proxy)
    });
    let maps = pair.proxy.run(|| Maps::of(&proxy));
    for (ip, of_veth) in [("10.1.0.9", "10.1.0.9/24"), ("fd00:1::9", "fd00:1::9/64")] {
        let address = SocketAddr::new(ip.parse().unwrap(), proxy.address("web").port());
        let is_soon = |is_ours: bool| {
            let since = Instant::now();
            eventually(ip, || (maps.leads_to_us(address) == is_ours).then_some(()));
            assert!(since.elapsed() < SOON, "{ip}: {:?}", since.elapsed());
        };
        assert!(!maps.leads_to_us(address));
        for _ in 0..3 {
            pair.proxy.ip(&format!("address add {of_veth} dev veth nodad"));
            is_soon(true);
            pair.proxy.run(|| {
                warm_up(&mut Peer::connect(address), &Counted::delivered(&proxy));
                // Nobody can end what an address has that is gone.
                eventually("no leg", || (status(&proxy, "found") == 0).then_some(()));
            });
            pair.proxy.ip(&format!("address del {of_veth} dev veth"));
            is_soon(false);
        }
        // Now it is somebody else's.
        pair.downstream.ip(&format!("address add {of_veth} dev veth nodad"));
        let strangers = pair.downstream.run(|| TcpListener::bind(address).expect("a free port"));
        pair.proxy.run(|| {
            let before = touched(&proxy);
            let _strangers = check_strangers(&strangers, None);
            assert_eq!(touched(&proxy), before, "{ip}");
        });
    }
    drop(node);
}

#[test]
fn a_client_that_blocks_is_served_by_tcp() {
    if skip_without_privileges() {
        return;
    }
    let node = Node::start("127.0.0.1:0");
    let listener = format!("name: web, {ANY_PORT}");
    let proxy = TestProxy::start(&yaml(LEGS, &[&listener], node.address, "same_host: false"));
    let delivered = Counted::delivered(&proxy);
    let blocking = Counted::start(&proxy, "establish", "blocking");
    let mut client = Client::connect(proxy.address("web"));
    // `connect_timeout` does not block while it connects.
    drop(client);
    let stream = std::net::TcpStream::connect(proxy.address("web")).expect("connected");
    stream.set_nodelay(true).expect("an option");
    let mut peer = Peer::over(peer::Waiting(stream));
    for size in 1..100 {
        peer.get(size * 100).expect("answered");
        peer.post(size * 100).expect("echoed");
    }
    assert_eq!((blocking.since(), delivered.since()), (1, 0));
    client = Client::connect(proxy.address("web"));
    // It did not block when it connected, and does now: nothing is delivered to it.
    for _ in 0..50 {
        client.ask(peer::ask(1000));
    }
    assert_eq!(blocking.since(), 1);
}

#[test]
fn other_namespaces_are_delivered_to_only_if_they_are_trusted() {
    if skip_without_privileges() {
        return;
    }
    let pair = Pair::new();
    for (kernel, is_trusted) in [(CROSSING, true), (LEGS, false)] {
        for listener in ["10.1.0.1:0", "[fd00:1::1]:0", "[::]:0"] {
            let row = format!("name: web, address: \"{listener}\"");
            let (node, proxy) = pair.proxy.run(|| {
                let node = Node::start("127.0.0.1:0");
                let yaml = yaml(kernel, &[&row], node.address, "same_host: false");
                (node, TestProxy::start(&yaml))
            });
            let mut address = proxy.address("web");
            if address.ip().is_unspecified() {
                address.set_ip([10, 1, 0, 1].into());
            }
            let counts = || {
                pair.proxy.run(|| {
                    let count = |program, reason| counted(&proxy, program, reason);
                    (count("local", "delivered"), count("establish", "other_namespace"))
                })
            };
            let before = counts();
            let mut peer = pair.downstream.run(|| Peer::connect(address));
            for round in 0..20 {
                peer.get(1000).expect("answered");
                peer.post(100_000).expect("echoed");
                if round < 5 {
                    // What TCP has on its way is acknowledged within 40 ms.
                    thread::park_timeout(Duration::from_millis(50));
                }
            }
            let (delivered, refused) = counts();
            let moved = (delivered > before.0, refused > before.1);
            assert_eq!(moved, (is_trusted, !is_trusted), "{kernel} {listener}");
            drop(node);
        }
    }
}

/// A program that blocks in its calls would be told of an end by an error that it does not expect.
#[test]
fn a_node_that_blocks_is_left_alone() {
    if skip_without_privileges() {
        return;
    }
    const REQUESTS: u64 = 50;
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let node = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut heard = Vec::new();
        loop {
            let mut chunk = [0; 4096];
            match stream.read(&mut chunk).expect("bytes or the end") {
                0 => return,
                count => heard.extend_from_slice(&chunk[..count]),
            }
            if heard.ends_with(b"\r\n\r\n") {
                heard.clear();
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").expect("taken");
            }
        }
    });
    let proxy = proxy(LEGS, address);
    let delivered = Counted::delivered(&proxy);
    let queued = Counted::start(&proxy, "tunnel", "leg_socket");
    let mut client = std::net::TcpStream::connect(proxy.address("web")).expect("connected");
    for _ in 0..REQUESTS {
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").expect("sent");
        let mut heard = Vec::new();
        while !heard.ends_with(b"\r\n\r\nok") {
            let mut chunk = [0; 4096];
            let count = client.read(&mut chunk).expect("an answer");
            assert!(count > 0, "closed");
            heard.extend_from_slice(&chunk[..count]);
        }
    }
    assert_eq!(delivered.since(), 0, "neither end of either connection may be delivered to");
    // What the node answers, not what it is sent.
    assert!((1..=REQUESTS).contains(&queued.since()), "{}", queued.since());
    drop((client, proxy));
    node.join().expect("the node saw the end as the end");
}

/// Who is not the trusted user is served by TCP.
#[test]
fn sockets_of_another_user_are_left_alone() {
    if skip_without_privileges() {
        return;
    }
    let node = Node::start("127.0.0.1:0");
    let kernel = LEGS.replace("cgroup: /", "cgroup: /, uid: 12345");
    let proxy = proxy(&kernel, node.address);
    let delivered = Counted::delivered(&proxy);
    let others = Counted::start(&proxy, "establish", "other_user");
    let mut peer = Peer::connect(proxy.address("web"));
    for _ in 0..10 {
        peer.get(100).expect("answered");
    }
    assert_eq!(delivered.since(), 0);
    assert!(others.since() >= 1, "the client's end is seen");
}

/// A buffer of which a part was read before our end is in the map is not handed out twice.
#[test]
fn a_body_that_comes_with_its_head_is_read_once() {
    if skip_without_privileges() {
        return;
    }
    let node = Node::start("127.0.0.1:0");
    let proxy = proxy(LEGS, node.address);
    for size in [1_000, 5_000, 60_000, 300_000, 900_000] {
        let mut peer = Peer::connect(proxy.address("web"));
        // Both lie in the queue when the second one's head is read.
        let body = peer.pattern.at(0, size);
        let requests = [peer::upload(size).into_bytes(), body].concat().repeat(3);
        let mut sender = peer::Waiting(peer.stream.get_ref().0.try_clone().expect("a file"));
        thread::scope(|scope| {
            scope.spawn(move || sender.write_all(&requests).expect("sent"));
            for _ in 0..3 {
                peer.answer(size).expect("the same bytes");
            }
        });
    }
}
