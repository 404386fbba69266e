//! The lane for whatever the express lane does not take.

use super::*;

#[test]
fn the_hyper_lane_is_delivered_to_as_well() {
    if skip_without_privileges() {
        return;
    }
    let hyper = format!("{ANY_PORT}, express_lane: false");
    check_sizes(&[("hyper", &hyper)]);
}

/// The second request is the one that joins, and this one changes lanes.
#[test]
fn a_connection_that_changes_lanes_is_still_delivered_to() {
    if skip_without_privileges() {
        return;
    }
    let node = Node::start("127.0.0.1:0");
    let proxy = proxy(LEGS, node.address);
    let delivered = Counted::delivered(&proxy);
    let mut peer = Peer::connect(proxy.address("web"));
    peer.get(1).expect("answered");
    for size in [1, 100, 100_000] {
        let head = peer::upload(size).replace("host: a", "host: a\r\ntrailer: t");
        peer.send(head.as_bytes()).expect("sent");
        let body = peer.pattern.at(0, size);
        peer.send(&body).expect("sent");
        peer.answer(size).expect("echoed");
        peer.get(1).expect("answered");
    }
    warm_up(&mut peer, &delivered);
}

#[test]
fn switching_under_the_hyper_lane_changes_no_byte() {
    if skip_without_privileges() {
        return;
    }
    let node = Node::start("127.0.0.1:0");
    let row = format!("name: hyper, {ANY_PORT}, express_lane: false");
    let proxy = TestProxy::start(&yaml(LEGS, &[&row], node.address, ""));
    let delivered = Counted::delivered(&proxy);
    storm::storm(&proxy, &["hyper"], |noise| {
        switch(&proxy, if noise.next() % 3 == 0 { "off" } else { "on" });
    });
    assert!(delivered.since() > 100, "{}", delivered.since());
}
