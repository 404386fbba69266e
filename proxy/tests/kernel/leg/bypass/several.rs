//! Responses of several messages: what has gone past the proxy and what it carries make one response,
//! and nobody takes a part for the whole.

use super::{
    strangers::{answer_all, ask_all},
    *,
};
use crate::tunnel::{MACHINE, memory::queues_in_use};

/// Goes past in two halves.
const SIZE: usize = 10_000;
/// More than one message of the kernel's, and with its head more than the window.
const LARGE: usize = 1 << 20;
/// More than the window and all buffers on the way.
const HUGE: usize = 24 << 20;
const WINDOW: u64 = 1 << 20;

fn continued(proxy: &TestProxy) -> Counted<'_> {
    Counted::start(proxy, "bypass", "continued")
}

fn handed_over(proxy: &TestProxy) -> Counted<'_> {
    Counted::start(proxy, "bypass", "handed_over")
}

/// A client whose responses go past, and has had the first half of one, by nobody but the node.
#[track_caller]
fn amid(place: Place, proxy: &TestProxy, kind: Kind) -> (Client, Ask) {
    let (passed, delivered) = (passed(proxy), Counted::delivered(proxy));
    let mut client = Client::connect(place, proxy.address("web"));
    let begun = ["claimed", "claimed_remote"].map(|reason| Counted::start(proxy, "bypass", reason));
    let begun = || begun.iter().map(Counted::since).sum::<u64>();
    until_passed(&mut client, &passed);
    for _ in 0..20 {
        let (ask, before) = (Ask::new(kind, SIZE), begun());
        client.send(&ask.request()).expect("sent");
        client.first_half(&ask).expect("the first half");
        if begun() > before {
            return (client, ask);
        }
        // Somebody was in a call: it was carried.
        client = Client::connect(place, proxy.address("web"));
        until_passed(&mut client, &passed);
    }
    panic!("nothing goes past, {} delivered", delivered.since());
}

/// Nothing more comes, and nobody says that it was all.
#[track_caller]
fn assert_cut_off(client: &mut Client, ask: &Ask) {
    assert!(client.second_half(ask).is_err(), "a half is a whole");
}

#[test]
fn a_response_of_several_writes_goes_past_and_is_recorded_as_one() {
    at_both(a_response_of_several_writes_goes_past_and_is_recorded_as_one_at);
}

fn a_response_of_several_writes_goes_past_and_is_recorded_as_one_at(place: Place) {
    let node = Node::start();
    let proxy = start(&node, "");
    let (passed, continued) = (passed(&proxy), continued(&proxy));
    for _ in 0..10 {
        let (mut client, ask) = amid(place, &proxy, Kind::Within);
        let begun = Instant::now();
        // Longer than the sweep: it is known that the response has begun.
        thread::park_timeout(Duration::from_millis(30));
        let (before, accepted) = (passed.since(), node.accepted());
        node.release(&ask);
        client.second_half(&ask).expect("the second half");
        let logged = Logged::find(&proxy, &ask);
        assert_eq!((&*logged.status, logged.sent, &*logged.end), ("200", SIZE as u64, "--"));
        assert_eq!((&*logged.via, passed.since()), ("bypass", before + 1), "{logged:?}");
        let first_byte = logged.first_byte.expect("a first byte");
        let held = begun.elapsed().as_secs_f64() * 1e3;
        assert!(logged.total - first_byte > 29.0 && logged.total < held + 500.0, "{logged:?}");
        client.ask(&Ask::plain(100)).expect("the next answer");
        assert_eq!(node.accepted(), accepted, "the node's connection is used again");
    }
    assert!(continued.since() >= 10);
    let (mut client, mut noise) = (Client::connect(place, proxy.address("web")), Noise(5));
    until_passed(&mut client, &passed);
    let before = passed.since();
    for _ in 0..60 {
        let bound = 1 << (noise.next() % if place == Place::Here { 20 } else { 15 });
        let mut ask = Ask::new(Kind::Parts, 1 + noise.next() as usize % bound);
        ask.status = [200, 404, 500][noise.next() as usize % 3];
        client.ask(&ask).expect("answered");
        let logged = Logged::find(&proxy, &ask);
        assert_eq!((logged.status, logged.sent), (ask.status.to_string(), ask.size as u64));
    }
    assert!(!client.has_more());
    assert!(passed.since() - before > 10, "{}", passed.since() - before);
    assert_eq!(counted(&proxy, "bypass", "broken"), 0);
    check_totals_of_parts(&proxy);
}

/// Metrics have every byte, by whichever path.
#[track_caller]
fn check_totals_of_parts(proxy: &TestProxy) {
    let vias = ["user", "splice", "local", "bypass"];
    eventually("every byte by some path", || {
        let moved = vias.map(|via| carried(proxy, via)[0]);
        let sent: u64 = proxy.access_log(1).iter().map(|line| Logged::of(line).sent).sum();
        (moved.iter().sum::<f64>() == sent as f64 && moved[3] > 0.0).then_some(())
    });
}

#[test]
fn a_large_response_of_one_call_goes_past_to_a_client_that_waits() {
    if skip_without_privileges() {
        return;
    }
    let node = Node::start();
    let proxy = start(&node, "");
    let (passed, continued) = (passed(&proxy), continued(&proxy));
    let mut client = Client::connect(Place::Here, proxy.address("web"));
    until_passed(&mut client, &passed);
    let before = passed.since();
    let mut gone_past = 0;
    for _ in 0..20 {
        let ask = Ask::plain(LARGE);
        client.send(&ask.request()).expect("sent");
        node.wait_written(&ask);
        client.answer(&ask).expect("whole");
        let logged = Logged::find(&proxy, &ask);
        assert_eq!(logged.sent, LARGE as u64);
        gone_past += u64::from(logged.via == "bypass");
    }
    // Nobody reads while it is sent; but whoever was kept from his processor may still be in the call
    // that has sent the request.
    assert!(gone_past >= 15, "{gone_past}");
    assert_eq!(passed.since() - before, gone_past);
    assert!(continued.since() >= gone_past, "{}", continued.since());
    let bytes = carried(&proxy, "bypass")[0];
    assert!(bytes >= gone_past as f64 * LARGE as f64, "{bytes}");
}

/// And what is handed over is carried at the client's pace.
#[test]
fn a_client_that_does_not_read_has_a_window_and_then_the_rest() {
    if skip_without_privileges() {
        return;
    }
    let node = Node::start();
    let proxy = start(&node, "");
    let (passed, handed_over) = (passed(&proxy), handed_over(&proxy));
    let mut client = Client::connect(Place::Here, proxy.address("web"));
    until_passed(&mut client, &passed);
    let before = carried(&proxy, "bypass")[0];
    let ask = Ask::plain(HUGE);
    client.send(&ask.request()).expect("sent");
    eventually("the window", || (handed_over.since() > 0).then_some(()));
    thread::park_timeout(Duration::from_millis(100));
    client.answer(&ask).expect("every byte, in order");
    assert!(!client.has_more());
    let logged = Logged::find(&proxy, &ask);
    assert_eq!((&*logged.status, logged.sent, &*logged.end), ("200", HUGE as u64, "--"));
    assert_eq!((&*logged.via, handed_over.since()), ("bypass", 1));
    let past = (carried(&proxy, "bypass")[0] - before) as u64;
    // The window, and as much again at most.
    assert!((WINDOW / 2..=2 * WINDOW).contains(&past), "{past}");
    until_passed(&mut Client::connect(Place::Here, proxy.address("web")), &passed);
    check_totals_of_parts(&proxy);
}

/// Memory held by responses that nobody reads, each of which is then read and checked.
fn held(kernel: &str, is_past: bool) -> i64 {
    const CLIENTS: usize = 4;
    let node = Node::start();
    let proxy = TestProxy::start(&yaml(kernel, &[WEB], node.address, ""));
    let (passed, handed_over) = (passed(&proxy), handed_over(&proxy));
    let mut clients: Vec<_> =
        (0..CLIENTS).map(|_| Client::connect(Place::Here, proxy.address("web"))).collect();
    eventually("a connection for each that joins", || {
        let before = passed.since();
        let asks: Vec<_> = clients.iter().map(|_| Ask::new(Kind::Held, 50)).collect();
        ask_all(&mut clients, &asks);
        asks.iter().for_each(|ask| node.wait_for(ask));
        asks.iter().for_each(|ask| node.release(ask));
        answer_all(&mut clients, &asks);
        (!is_past || passed.since() >= before + CLIENTS as u64).then_some(())
    });
    let before = queues_in_use();
    let asks: Vec<_> = clients.iter().map(|_| Ask::plain(HUGE)).collect();
    for (client, ask) in clients.iter_mut().zip(&asks) {
        client.send(&ask.request()).expect("sent");
        node.wait_for(ask);
    }
    let mut last = before;
    let added = eventually("everything full", || {
        thread::park_timeout(Duration::from_millis(300));
        let now = queues_in_use();
        let moved = (now - std::mem::replace(&mut last, now)).abs();
        // Each has more than half a window by whatever way.
        let has_begun = now - before > (CLIENTS as i64 * WINDOW as i64) / 2;
        (has_begun && moved < 256 << 10).then_some(now - before)
    });
    assert_eq!(handed_over.since() >= CLIENTS as u64 / 2, is_past, "{}", handed_over.since());
    for (client, ask) in clients.iter_mut().zip(&asks) {
        client.answer(ask).expect("every byte");
    }
    added / CLIENTS as i64
}

#[test]
fn a_reader_that_does_not_read_costs_a_window_more_than_by_tcp() {
    if skip_without_privileges() {
        return;
    }
    let _machine = MACHINE.blocking_write();
    let (by_tcp, by_bypass) = (held(TCP, false), held(LEGS, true));
    println!("{} KiB by TCP, {} KiB past the proxy and through it", by_tcp >> 10, by_bypass >> 10);
    let added = by_bypass - by_tcp;
    assert!(added <= WINDOW as i64 + (4 << 20), "{added} bytes for a transfer");
}

#[test]
fn a_node_that_ends_within_a_response_leaves_a_broken_one() {
    at_both(a_node_that_ends_within_a_response_leaves_a_broken_one_at);
}

fn a_node_that_ends_within_a_response_leaves_a_broken_one_at(place: Place) {
    let node = Node::start();
    let proxy = start(&node, "");
    let passed = passed(&proxy);
    let mut gone = 0;
    for kind in [Kind::HalfEnd, Kind::Half] {
        for _ in 0..10 {
            let mut client = Client::connect(place, proxy.address("web"));
            until_passed(&mut client, &passed);
            let (before, ask) = (passed.since(), Ask::new(kind, SIZE));
            let asked = Instant::now();
            client.send(&ask.request()).expect("sent");
            assert!(client.answer(&ask).is_err(), "a half is a whole");
            assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
            let logged = Logged::find(&proxy, &ask);
            assert_eq!((&*logged.status, &*logged.end), ("200", "SD"), "{logged:?}");
            if logged.via == "bypass" {
                gone += 1;
                assert_eq!(logged.sent, (SIZE - ask.rest()) as u64);
            }
            assert_eq!(passed.since(), before, "it did not pass");
        }
    }
    assert!(gone > 10, "{gone}");
    check_totals_of_parts(&proxy);
    proxy.check_metric("tandem_downstream_connections_active{listener=\"web\"}", 0.0);
    check_rest();
}

#[test]
fn a_node_that_is_silent_within_a_response_is_given_up_and_a_slow_one_is_not() {
    at_both(a_node_that_is_silent_within_a_response_is_given_up_and_a_slow_one_is_not_at);
}

fn a_node_that_is_silent_within_a_response_is_given_up_and_a_slow_one_is_not_at(place: Place) {
    const TIMEOUT: Duration = Duration::from_millis(400);
    let node = Node::start();
    // Of the head: longer than what is waited for here would be without the other.
    let proxy = start(&node, "timeouts: { response: 30s, response_body: 400ms }");
    let (mut client, ask) = amid(place, &proxy, Kind::Within);
    let since = Instant::now();
    assert_cut_off(&mut client, &ask);
    let taken = since.elapsed();
    assert!(taken > TIMEOUT / 2 && taken < 3 * TIMEOUT, "{taken:?}");
    let logged = Logged::find(&proxy, &ask);
    assert_eq!((&*logged.status, &*logged.end, &*logged.via), ("200", "sD", "bypass"));
    assert_eq!(logged.sent, (SIZE - ask.rest()) as u64);
    // What it says later reaches nobody.
    let accepted = node.accepted();
    node.release(&ask);
    let mut client = Client::connect(place, proxy.address("web"));
    client.ask(&Ask::plain(100)).expect("answered");
    assert!(!client.has_more() && node.accepted() > accepted);
    // From half to half within the time, from the request on beyond it.
    let (mut client, ask) = amid(place, &proxy, Kind::Within);
    thread::park_timeout(TIMEOUT * 3 / 4);
    node.release(&ask);
    client.second_half(&ask).expect("the second half");
    assert_eq!(Logged::find(&proxy, &ask).end, "--");
}

#[test]
fn switching_off_within_a_response_leaves_the_rest_to_the_proxy() {
    at_both(switching_off_within_a_response_leaves_the_rest_to_the_proxy_at);
}

fn switching_off_within_a_response_leaves_the_rest_to_the_proxy_at(place: Place) {
    let node = Node::start();
    let proxy = start(&node, "");
    let passed = passed(&proxy);
    // Before and after it is known that the response has begun.
    for pause in [0, 30] {
        let (mut client, ask) = amid(place, &proxy, Kind::Within);
        thread::park_timeout(Duration::from_millis(pause));
        let (before, handed_over) = (passed.since(), handed_over(&proxy));
        switch(&proxy, "off");
        node.release(&ask);
        client.second_half(&ask).expect("the second half");
        let logged = Logged::find(&proxy, &ask);
        assert_eq!((&*logged.status, logged.sent, &*logged.end), ("200", SIZE as u64, "--"));
        assert_eq!((passed.since(), handed_over.since()), (before, 1));
        let accepted = node.accepted();
        client.ask(&Ask::plain(100)).expect("the next answer");
        assert_eq!(node.accepted(), accepted, "the node's connection is used again");
        switch(&proxy, "on");
        until_passed(&mut client, &passed);
        assert!(!client.has_more());
    }
    check_totals_of_parts(&proxy);
}

#[test]
fn a_client_that_leaves_within_a_response_ends_it() {
    at_both(a_client_that_leaves_within_a_response_ends_it_at);
}

fn a_client_that_leaves_within_a_response_ends_it_at(place: Place) {
    let node = Node::start();
    let proxy = start(&node, "");
    for pause in [0, 30] {
        let (client, ask) = amid(place, &proxy, Kind::Within);
        thread::park_timeout(Duration::from_millis(pause));
        client.reset();
        let logged = Logged::find(&proxy, &ask);
        let half = (SIZE - ask.rest()) as u64;
        assert_eq!((&*logged.status, logged.sent, &*logged.end), ("200", half, "CD"));
        assert_eq!(logged.via, "bypass");
        proxy.check_metric("tandem_downstream_connections_active{listener=\"web\"}", 0.0);
        let before = judged(&proxy);
        node.release(&ask);
        assert_eq!(judged(&proxy), before, "nothing is armed any more");
    }
    eventually("no connection of theirs", || (node.open() == 0).then_some(()));
    check_rest();
}

/// A node is told that the client is gone, as its message goes there, and may end before anybody else has
/// heard of it.
#[test]
fn a_node_that_ends_behind_its_client_is_not_to_blame() {
    if skip_without_privileges() {
        return;
    }
    let node = Node::start();
    let proxy = start(&node, "");
    for (is_gone, end) in [(true, "CD"), (false, "SD")] {
        let (mut client, ask) = amid(Place::Here, &proxy, Kind::WithinEnd);
        client.shut_down().expect("open");
        if is_gone {
            drop(client);
            node.release(&ask);
        } else {
            node.release(&ask);
            assert_cut_off(&mut client, &ask);
        }
        let logged = Logged::find(&proxy, &ask);
        assert_eq!((logged.sent as usize, &*logged.end), (SIZE - ask.rest(), end), "{logged:?}");
    }
}

#[test]
fn a_client_that_asks_within_a_response_is_answered_in_order() {
    at_both(a_client_that_asks_within_a_response_is_answered_in_order_at);
}

fn a_client_that_asks_within_a_response_is_answered_in_order_at(place: Place) {
    let node = Node::start();
    let proxy = start(&node, "");
    for pause in [0, 30] {
        let (mut client, ask) = amid(place, &proxy, Kind::Within);
        thread::park_timeout(Duration::from_millis(pause));
        let next = Ask::plain(3_000);
        client.send(&next.request()).expect("sent");
        thread::park_timeout(Duration::from_millis(pause));
        node.release(&ask);
        client.second_half(&ask).expect("the second half");
        client.answer(&next).expect("the next answer");
        if pause > 0 {
            let before = judged(&proxy);
            (0..10).for_each(|_| client.ask(&Ask::plain(100)).expect("answered"));
            assert_eq!(judged(&proxy), before, "it has pipelined");
        }
        assert!(!client.has_more());
    }
}

#[test]
fn more_than_the_response_in_its_last_message_reaches_nobody() {
    at_both(more_than_the_response_in_its_last_message_reaches_nobody_at);
}

fn more_than_the_response_in_its_last_message_reaches_nobody_at(place: Place) {
    let node = Node::start();
    let proxy = start(&node, "");
    let (passed, handed_over) = (passed(&proxy), handed_over(&proxy));
    for round in 1..=5 {
        let (mut client, ask) = amid(place, &proxy, Kind::WithinExtra);
        let accepted = node.accepted();
        node.release(&ask);
        client.second_half(&ask).expect("the second half");
        assert_eq!(Logged::find(&proxy, &ask).sent, SIZE as u64);
        assert_eq!(handed_over.since(), round);
        client.ask(&Ask::plain(100)).expect("the next answer");
        assert_eq!(node.accepted(), accepted + 1, "the node's connection is not used again");
        until_passed(&mut client, &passed);
        assert!(!client.has_more());
    }
}
