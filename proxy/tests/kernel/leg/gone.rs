//! Clients that leave, or seem to, while they are sent a response: no reset tells of what they have not
//! read, as it lies in a queue that TCP does not know.

use std::{
    net::Shutdown,
    thread,
    time::{Duration, Instant},
};

use super::{
    bounds::until_at_rest,
    peer::{Wire as _, ask},
    *,
};

/// More than fits between a node and a client.
const SIZE: usize = 64 << 20;
/// Long before `timeouts.send`, which is a minute.
const SOON: Duration = Duration::from_secs(3);
/// Longer than it takes to look for a client that is gone.
const A_WHILE: Duration = Duration::from_millis(1_600);

fn on_each_lane(case: fn(&Node, &TestProxy)) {
    if skip_without_privileges() {
        return;
    }
    for has_express_lane in [true, false] {
        let node = Node::start("127.0.0.1:0");
        let row = format!("name: web, {ANY_PORT}, express_lane: {has_express_lane}");
        let proxy = TestProxy::start(&yaml(LEGS, &[&row], node.address, ""));
        case(&node, &proxy);
        crate::tunnel::assert_kernel_is_content();
    }
}

/// Asks for more than it will ever read, and waits until nothing moves any more.
fn hold_up(node: &Node, peer: &mut Peer, size: usize) {
    peer.send(ask(size).as_bytes()).expect("sent");
    peer.answer_head(size).expect("begun");
    until_at_rest(node);
}

#[test]
fn a_client_that_leaves_in_the_middle_of_its_response_is_not_waited_for() {
    on_each_lane(|node, proxy| {
        let delivered = Counted::delivered(proxy);
        // The first one leaves with its first response: its end is in the map, ours is not.
        for (size, is_used) in [(SIZE, false), (SIZE + 1, true)] {
            let mut peer = Peer::connect(proxy.address("web"));
            if is_used {
                warm_up(&mut peer, &delivered);
            }
            hold_up(node, &mut peer, size);
            let left = Instant::now();
            drop(peer);
            let line = log_of(proxy, &format!(" /give/{size} "), 1).remove(0);
            assert!(line.ends_with(" CD"), "{line}");
            assert!(left.elapsed() < SOON, "{:?} {line}", left.elapsed());
        }
    });
}

#[test]
fn a_client_that_has_ended_its_stream_may_take_its_time() {
    on_each_lane(|node, proxy| {
        let mut peer = Peer::connect(proxy.address("web"));
        warm_up(&mut peer, &Counted::delivered(proxy));
        hold_up(node, &mut peer, SIZE);
        peer.stream.get_ref().socket().shutdown(Shutdown::Write).expect("open");
        thread::park_timeout(A_WHILE);
        peer.answer_body(0, SIZE).expect("every byte");
        assert!(log_of(proxy, &format!(" /give/{SIZE} "), 1)[0].ends_with(" --"));
    });
}
