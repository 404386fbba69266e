//! Legs: what reaches the other end is what was sent, whoever carries it, and nobody else's
//! connection is touched. Each test proves by counters that `local` did carry something, or nothing.

mod bounds;
mod bypass;
mod faults;
mod gone;
mod hyper;
mod leave;
mod maps;
mod memory;
mod neighbours;
mod peer;
mod reuse;
mod rows;
mod scope;
mod storm;
mod translated;
mod trap;

use std::net::{Ipv4Addr, SocketAddr};

use proxy::test_support::{TestProxy, eventually};

use self::{
    maps::Maps,
    peer::{Node, Peer, Wire},
};
use crate::{bpftool, skip_without_bpftool, skip_without_privileges, tunnel::Noise};

const LEGS: &str = "kernel: { mode: require, same_host: { enabled: true, cgroup: / } }";
const TCP: &str = "kernel: { mode: require }";
const ANY_PORT: &str = "address: \"127.0.0.1:0\"";

/// Rows of `listeners` and fields of the only upstream, around one route.
fn yaml(kernel: &str, listeners: &[&str], node: SocketAddr, upstream: &str) -> String {
    let rows: Vec<_> = listeners.iter().map(|fields| format!("- {{ {fields} }}\n")).collect();
    format!(
        "{kernel}\nlisteners:\n{}\
         routes: [{{ id: all, uri: /*, upstream_id: app }}]\n\
         upstreams: [{{ id: app, nodes: {{ \"{node}\": 1 }}, {upstream} }}]\n",
        rows.concat()
    )
}

fn proxy(kernel: &str, node: SocketAddr) -> TestProxy {
    let listener = format!("name: web, {ANY_PORT}");
    TestProxy::start(&yaml(kernel, &[&listener], node, ""))
}

fn counted(proxy: &TestProxy, program: &str, reason: &str) -> u64 {
    let labels = format!("{{program=\"{program}\",reason=\"{reason}\"}}");
    proxy.metric(&format!("tandem_kernel_packets_total{labels}")) as u64
}

/// What a program has counted from here on: its self-test counts as well.
struct Counted<'p> {
    proxy: &'p TestProxy,
    program: &'static str,
    reason: &'static str,
    before: u64,
}

impl<'p> Counted<'p> {
    fn start(proxy: &'p TestProxy, program: &'static str, reason: &'static str) -> Self {
        Counted { proxy, program, reason, before: counted(proxy, program, reason) }
    }

    fn delivered(proxy: &'p TestProxy) -> Self {
        Self::start(proxy, "local", "delivered")
    }

    fn since(&self) -> u64 {
        counted(self.proxy, self.program, self.reason) - self.before
    }
}

fn switch(proxy: &TestProxy, to: &str) {
    let answer = proxy.ask_admin("PUT", &format!("/bpf/same_host/{to}"));
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// A number that `/bpf/status` has of legs.
fn status(proxy: &TestProxy, key: &str) -> u64 {
    let text = proxy.admin("/bpf/status").text();
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    value["same_host"][key].as_u64().unwrap_or_else(|| panic!("{key}: {text}"))
}

/// Exchanges small requests until something was delivered; TCP has to be acknowledged before.
fn warm_up<W: Wire>(peer: &mut Peer<W>, delivered: &Counted<'_>) {
    let before = delivered.since();
    eventually("a message that is delivered", || {
        for _ in 0..4 {
            peer.get(100).expect("answered");
        }
        (delivered.since() > before + 4).then_some(())
    });
}

/// Requests of every size through one listener after the other.
fn check_sizes(listeners: &[(&str, &str)]) {
    let rows: Vec<_> =
        listeners.iter().map(|(name, fields)| format!("name: {name}, {fields}")).collect();
    let rows: Vec<_> = rows.iter().map(String::as_str).collect();
    for node_at in ["127.0.0.1:0", "[::1]:0"] {
        let node = Node::start(node_at);
        let proxy = TestProxy::start(&yaml(LEGS, &rows, node.address, ""));
        for (name, _) in listeners {
            let mut address = proxy.address(name);
            if address.ip().is_unspecified() {
                // A v4 client of a v6 listener.
                address.set_ip(Ipv4Addr::LOCALHOST.into());
            }
            let delivered = Counted::delivered(&proxy);
            let mut peer = Peer::connect(address);
            warm_up(&mut peer, &delivered);
            let mut noise = Noise(7);
            for _ in 0..30 {
                let bound = 1 << (noise.next() % 22);
                peer.get(1 + noise.next() as usize % bound).expect("answered");
                peer.post(1 + noise.next() as usize % bound).expect("echoed");
            }
            peer.get(3 << 20).expect("answered");
            peer.post(3 << 20).expect("echoed");
            assert!(!peer.has_more() && delivered.since() > 100, "{node_at} {name}");
        }
        assert_eq!(counted(&proxy, "tunnel", "out_of_step"), 0);
        crate::tunnel::assert_kernel_is_content();
    }
}

#[test]
fn requests_and_bodies_of_every_size_arrive_as_they_were_sent() {
    if skip_without_privileges() {
        return;
    }
    check_sizes(&[
        ("v4", ANY_PORT),
        ("v6", "address: \"[::1]:0\""),
        ("mapped", "address: \"[::]:0\""),
    ]);
}

#[test]
fn either_side_is_delivered_to_without_the_other() {
    if skip_without_privileges() {
        return;
    }
    let node = Node::start("127.0.0.1:0");
    let off = format!("name: off, {ANY_PORT}, same_host: false");
    let on = format!("name: on, {ANY_PORT}");
    let upstream_only = TestProxy::start(&yaml(LEGS, &[&off], node.address, ""));
    let client_only = TestProxy::start(&yaml(LEGS, &[&on], node.address, "same_host: false"));
    let neither = TestProxy::start(&yaml(LEGS, &[&off], node.address, "same_host: false"));
    for (proxy, name) in [(&upstream_only, "off"), (&client_only, "on")] {
        let delivered = Counted::delivered(proxy);
        let mut peer = Peer::connect(proxy.address(name));
        warm_up(&mut peer, &delivered);
        assert_eq!(status(proxy, "found"), 1, "{name}");
    }
    let delivered = Counted::delivered(&neither);
    let mut peer = Peer::connect(neither.address("off"));
    for size in 1..100 {
        peer.post(size * 100).expect("echoed");
    }
    assert_eq!((delivered.since(), status(&neither, "found")), (0, 0));
}

#[test]
fn the_end_of_a_connection_does_not_overtake_what_was_delivered() {
    if skip_without_privileges() {
        return;
    }
    let node = Node::start("127.0.0.1:0");
    let proxy = proxy(LEGS, node.address);
    let delivered = Counted::delivered(&proxy);
    let mut noise = Noise(3);
    for _ in 0..20 {
        let mut peer = Peer::connect(proxy.address("web"));
        warm_up(&mut peer, &delivered);
        let bound = 1 << (noise.next() % 22);
        peer.get_until_close(1 + noise.next() as usize % bound).expect("from the node");
        peer.get_and_close(1 + noise.next() as usize % bound).expect("from the proxy");
    }
}

/// What README tells an operator to look at.
#[test]
fn bpftool_shows_the_ends_of_legs() {
    if skip_without_privileges() || skip_without_bpftool() {
        return;
    }
    let node = Node::start("127.0.0.1:0");
    let proxy = proxy(LEGS, node.address);
    let delivered = Counted::delivered(&proxy);
    let mut peer = Peer::connect(proxy.address("web"));
    warm_up(&mut peer, &delivered);
    let status = proxy.admin("/bpf/status").text();
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    let ids = |of: &str| status[of].as_array().expect("a list").clone();
    let names: Vec<_> = ids("programs")
        .iter()
        .map(|program| bpftool(&format!("prog show id {}", program["id"]))["name"].clone())
        .collect();
    assert_eq!(names, ["bypass", "establish", "local", "remote", "tunnel", "unread", "worker"]);
    let maps = ids("maps");
    let legs = maps.iter().find(|map| map["name"] == "LEGS").expect("the map");
    // The key's fields and the value's, those of structs within structs too.
    let dump = bpftool(&format!("map dump id {}", legs["id"]));
    let leg = &dump[0]["formatted"];
    let port = proxy.address("web").port();
    for end in ["active", "passive"] {
        assert!(leg["key"][end]["octets"].is_array(), "{dump}");
        assert!(leg["value"][end]["cookie"].is_u64(), "{dump}");
    }
    assert!(ports(&dump).contains(&port), "{port}: {dump}");
}

/// Ports of the passive ends.
fn ports(dump: &serde_json::Value) -> Vec<u16> {
    let legs = dump.as_array().expect("entries").iter();
    let octets = legs.map(|leg| {
        [0, 1].map(|at| leg["formatted"]["key"]["passive_port_be"][at].as_u64().expect("an octet"))
    });
    octets.map(|octets| u16::from_be_bytes(octets.map(|octet| octet as u8))).collect()
}

/// Body bytes by direction, sent and received, that `via` carried.
fn carried(proxy: &TestProxy, via: &str) -> [f64; 2] {
    ["sent", "recv"].map(|direction| {
        let labels = format!("{{direction=\"{direction}\",via=\"{via}\"}}");
        proxy.metric(&format!("tandem_forward_bytes_total{labels}"))
    })
}

#[test]
fn each_request_says_whether_it_was_delivered() {
    if skip_without_privileges() {
        return;
    }
    const SIZE: usize = 1000;
    const REQUESTS: usize = 10;
    let node = Node::start("127.0.0.1:0");
    let proxy = proxy(LEGS, node.address);
    let delivered = Counted::delivered(&proxy);
    let mut peer = Peer::connect(proxy.address("web"));
    peer.get(100).expect("answered");
    assert!(proxy.access_log(1)[0].ends_with(" user --"), "{:?}", proxy.access_log(1));
    warm_up(&mut peer, &delivered);
    eventually("both directions delivered", || {
        let before = carried(&proxy, "local");
        peer.post(SIZE).expect("echoed");
        let after = carried(&proxy, "local");
        (after[0] > before[0] && after[1] > before[1]).then_some(())
    });
    let mut post = |size: usize, expected: &str| {
        let moved = || ["local", "user"].map(|via| carried(&proxy, via));
        let before = moved();
        (0..REQUESTS).for_each(|_| peer.post(size).expect("echoed"));
        let log = log_of(&proxy, &format!(" 200 {size} {size} "), REQUESTS);
        assert!(log.iter().all(|line| line.contains(&format!(" {expected} "))), "{log:?}");
        let (after, bytes) = (moved(), (REQUESTS * size) as f64);
        [0, 1].map(|direction| {
            let [local, user] = [0, 1].map(|via| after[via][direction] - before[via][direction]);
            assert_eq!(local + user, bytes, "{expected}");
            local / bytes
        })
    };
    // Whoever is in a call at the wrong moment gets a message by TCP.
    assert!(post(SIZE + 1, "local").iter().all(|share| *share > 0.3));
    switch(&proxy, "off");
    post(SIZE + 2, "user");
    assert_eq!(post(SIZE + 3, "user"), [0.0; 2]);
}

/// The lines of the access log with `part` in them, once there are `count`.
fn log_of(proxy: &TestProxy, part: &str, count: usize) -> Vec<String> {
    eventually("access-log lines", || {
        let lines = proxy.access_log(1).into_iter();
        let lines: Vec<_> = lines.filter(|line| line.contains(part)).collect();
        (lines.len() == count).then_some(lines)
    })
}

#[test]
fn one_leg_is_enough_to_say_that_a_request_was_delivered() {
    if skip_without_privileges() {
        return;
    }
    let node = Node::start("127.0.0.1:0");
    let off = format!("name: off, {ANY_PORT}, same_host: false");
    let proxy = TestProxy::start(&yaml(LEGS, &[&off], node.address, ""));
    let delivered = Counted::delivered(&proxy);
    let mut peer = Peer::connect(proxy.address("off"));
    warm_up(&mut peer, &delivered);
    let mut sizes = 1000..;
    eventually("a request that was delivered", || {
        let size = sizes.next()?;
        peer.get(size).expect("answered");
        let line = log_of(&proxy, &format!(" /give/{size} "), 1).remove(0);
        line.contains(" local ").then_some(())
    });
    // The bytes are those of the client's connection.
    assert_eq!(carried(&proxy, "local"), [0.0; 2]);
}
