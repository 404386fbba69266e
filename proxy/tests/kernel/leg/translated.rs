//! Address translation between the two ends of a connection: they do not agree on what it is, so neither
//! finds the other, and TCP carries it.

use std::process::Command;

use super::{scope::CROSSING, *};
use crate::{
    skip,
    topology::{Namespace, Pair},
};

/// Connections of each kind.
const CONNECTIONS: u64 = 4;

#[must_use]
pub(super) fn skip_without_nft() -> bool {
    let version = Command::new("nft").arg("--version").output();
    !version.is_ok_and(|output| output.status.success())
        && skip("needs nft (Debian package `nftables`)")
}

/// Adds a rule to a chain of this hook.
#[track_caller]
pub(super) fn translate(namespace: &Namespace, hook: &str, rule: &str) {
    let rules = format!(
        "add table ip nat; add chain ip nat {hook} {{ type nat hook {hook} priority 0; }}; \
         add rule ip nat {hook} {rule}"
    );
    let mut command = Command::new("ip");
    let output = command.args(["netns", "exec", namespace.name(), "nft", &rules]).output().unwrap();
    assert!(output.status.success(), "{rules}: {output:?}");
}

/// Every byte arrives, now, and once both ends know that they are alone.
fn check_bytes(peers: &mut [Peer], is_over: impl FnOnce()) {
    let converse = |peer: &mut Peer| {
        for size in [1, 1_000, 70_000, 2 << 20] {
            peer.get(size).expect("answered");
            peer.post(size).expect("echoed");
        }
        assert!(!peer.has_more());
    };
    peers.iter_mut().for_each(converse);
    is_over();
    peers.iter_mut().for_each(converse);
}

fn start(kernel: &str, listener: &str, node: SocketAddr, upstream: &str) -> TestProxy {
    TestProxy::start(&yaml(kernel, &[&format!("name: web, {listener}")], node, upstream))
}

#[track_caller]
fn check_given_up(proxy: &TestProxy, count: u64) {
    eventually("ends that are given up", || (status(proxy, "given_up") == count).then_some(()));
    assert_eq!((status(proxy, "found"), status(proxy, "begun")), (0, 0));
}

#[test]
fn a_client_whose_address_is_translated_is_served_by_tcp() {
    if skip_without_privileges() || skip_without_nft() {
        return;
    }
    let (alone, pair) = (Namespace::new(), Pair::new());
    for (clients, ours, kernel, at, from) in [
        (&alone, &alone, LEGS, "127.0.0.1", "127.0.0.9"),
        (&pair.downstream, &pair.proxy, CROSSING, "10.1.0.1", "10.1.0.3"),
    ] {
        let listener = format!("address: \"{at}:0\"");
        let proxy = ours.run(|| {
            start(kernel, &listener, Node::start("127.0.0.1:0").address, "same_host: false")
        });
        let web = proxy.address("web");
        let to_web = format!("ip daddr {at} tcp dport {}", web.port());
        translate(clients, "postrouting", &format!("{to_web} snat to {from}"));
        let delivered = ours.run(|| counted(&proxy, "local", "delivered"));
        let connect = |_| Peer::connect(web);
        let mut peers: Vec<_> = clients.run(|| (0..CONNECTIONS).map(connect).collect());
        check_bytes(&mut peers, || ours.run(|| check_given_up(&proxy, CONNECTIONS)));
        ours.run(|| {
            assert_eq!(counted(&proxy, "local", "delivered"), delivered);
            let line = proxy.access_log(1).remove(0);
            assert!(line.contains(&format!(" {from}:")), "translated: {line}");
            proxy.stop().expect("a clean end");
        });
    }
}

#[test]
fn a_client_that_is_led_to_us_by_translation_is_none_of_our_business() {
    if skip_without_privileges() || skip_without_nft() {
        return;
    }
    let namespace = Namespace::new();
    namespace.run(|| {
        let node = Node::start("127.0.0.1:0");
        let proxy = start(LEGS, ANY_PORT, node.address, "same_host: false");
        let mut web = proxy.address("web");
        translate(&namespace, "output", &format!("tcp dport 81 redirect to :{}", web.port()));
        web.set_port(81);
        let before = scope::touched(&proxy);
        check_bytes(&mut [Peer::connect(web)], || ());
        assert_eq!(scope::touched(&proxy), before);
        check_given_up(&proxy, 0);
    });
}

#[test]
fn a_node_whose_address_is_translated_is_served_by_tcp() {
    if skip_without_privileges() || skip_without_nft() {
        return;
    }
    let namespace = Namespace::new();
    namespace.run(|| {
        let node = Node::start("127.0.0.1:0");
        let mut other = node.address;
        other.set_port(81);
        let listener = format!("{ANY_PORT}, same_host: false");
        let proxy = start(LEGS, &listener, other, "");
        translate(&namespace, "output", &format!("tcp dport 81 dnat to {}", node.address));
        let delivered = Counted::delivered(&proxy);
        let web = proxy.address("web");
        check_bytes(&mut [Peer::connect(web)], || check_given_up(&proxy, 1));
        assert_eq!(delivered.since(), 0);
    });
}
