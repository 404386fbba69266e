//! Nodes that are in the middle of sending a response for as long as the test likes: it is claimed when
//! it is whole, and whatever has happened meanwhile, nobody gets another byte.

use std::sync::Arc;

use super::*;
use crate::leg::{
    storm::assert_at_rest,
    trap::{Call, Latch, Trapped, skip_without_userfaultfd},
};

/// Served meanwhile by the only worker.
const OTHERS: usize = 20;

/// What the client does while its node is caught.
#[derive(Debug, Clone, Copy)]
enum Meanwhile {
    Wait,
    Pipeline,
    Reset,
}

#[test]
fn a_node_that_is_caught_in_its_response_holds_nobody_up() {
    if !skip_without_userfaultfd() {
        at_both(a_node_that_is_caught_in_its_response_holds_nobody_up_at);
    }
}

fn a_node_that_is_caught_in_its_response_holds_nobody_up_at(place: Place) {
    const ROUNDS: usize = 4;
    let latch = Arc::<Latch>::default();
    let shared = Arc::clone(&latch);
    let node = Node::over(move |stream| Trapped::new(stream, Call::Send, &shared));
    let proxy = start(&node, "workers: 1");
    let passed = passed(&proxy);
    let mut other = Client::connect(place, proxy.address("web"));
    for _ in 0..ROUNDS {
        for meanwhile in [Meanwhile::Wait, Meanwhile::Pipeline, Meanwhile::Reset] {
            let mut client = Client::connect(place, proxy.address("web"));
            until_passed(&mut other, &passed);
            until_passed(&mut client, &passed);
            let asks = [5_000, 700].map(Ask::plain);
            latch.set();
            client.send(&asks[0].request()).expect("sent");
            latch.wait_caught();
            (0..OTHERS).for_each(|_| other.ask(&Ask::plain(300)).expect("answered"));
            match meanwhile {
                Meanwhile::Wait => {
                    latch.let_go();
                    client.answer(&asks[0]).expect("every byte");
                    assert_eq!(Logged::find(&proxy, &asks[0]).via, "bypass");
                }
                Meanwhile::Pipeline => {
                    client.send(&asks[1].request()).expect("sent");
                    latch.let_go();
                    asks.iter().for_each(|ask| client.answer(ask).expect("every byte"));
                }
                Meanwhile::Reset => {
                    client.reset();
                    assert_eq!(Logged::find(&proxy, &asks[0]).end, "CD");
                    latch.let_go();
                }
            }
            other.ask(&Ask::plain(300)).expect("answered");
            assert!(!other.has_more(), "{meanwhile:?}");
        }
    }
    assert_at_rest(&proxy);
}
