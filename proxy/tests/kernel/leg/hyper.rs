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
    peer.post_in_chunks(10).expect("echoed");
    peer.get(1).expect("answered");
    peer.post_in_chunks(100_000).expect("echoed");
    warm_up(&mut peer, &delivered);
}
