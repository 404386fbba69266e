//! What a reader that does not read costs, beside the same transfers by TCP alone; and which
//! connections are not worth taking.

use std::{
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use proxy_common::limits::{SHORT_LIVED_MAX, SHORT_LIVED_TAKEN};

use super::{peer::ask_drop_by_drop, *};
use crate::tunnel::{MACHINE, memory::memory_in_use};

const WINDOW: i64 = 1 << 20;
/// The promise, for one transfer.
const ADDED_MAX: i64 = WINDOW + (4 << 20);
/// Measured together, so that what else the machine does is small beside them.
const TRANSFERS: usize = 8;
const LARGE: usize = 64 << 20;
const DROPS: usize = 200_000;
/// Nothing has moved for so long: everything is full.
const REST: Duration = Duration::from_millis(400);

pub(super) fn until_at_rest(node: &Node) -> u64 {
    let (mut last, mut since) = (node.written.load(Ordering::Relaxed), Instant::now());
    while since.elapsed() < REST {
        thread::park_timeout(Duration::from_millis(20));
        let now = node.written.load(Ordering::Relaxed);
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    last
}

/// Memory held by `count` transfers that nobody reads, each of which is then read and checked.
fn held(kernel: &str, reasons: &[&'static str], count: usize, request: &str, size: usize) -> i64 {
    let node = Node::start("127.0.0.1:0");
    let proxy = proxy(kernel, node.address);
    let delivered = Counted::delivered(&proxy);
    let counters: Vec<_> =
        reasons.iter().map(|reason| Counted::start(&proxy, "local", reason)).collect();
    let mut peers: Vec<_> = (0..count).map(|_| Peer::connect(proxy.address("web"))).collect();
    for peer in &mut peers {
        if reasons.is_empty() {
            (0..8).for_each(|_| peer.get(100).expect("answered"));
        } else {
            warm_up(peer, &delivered);
        }
    }
    let before = memory_in_use();
    for peer in &mut peers {
        peer.send(request.as_bytes()).expect("sent");
    }
    let written = until_at_rest(&node);
    let added = memory_in_use() - before;
    for counter in &counters {
        assert!(counter.since() > 0, "{} of {written} bytes", counter.reason);
    }
    for peer in &mut peers {
        peer.answer(size).expect("every byte");
        peer.get(10).expect("the next answer");
    }
    added
}

#[test]
fn a_reader_that_does_not_read_a_large_answer_costs_a_window() {
    if skip_without_privileges() {
        return;
    }
    let _machine = MACHINE.blocking_write();
    let request = peer::ask(LARGE);
    let by_tcp = held(TCP, &[], TRANSFERS, &request, LARGE);
    let by_legs = held(LEGS, &["delivered", "unread_bytes"], TRANSFERS, &request, LARGE);
    let added = (by_legs - by_tcp) / TRANSFERS as i64;
    println!("{} KiB by TCP in all, legs add {} KiB to each", by_tcp >> 10, added >> 10);
    assert!(added <= ADDED_MAX, "{added} bytes for a transfer");
}

#[test]
fn messages_of_one_byte_that_nobody_reads_are_few_and_in_order() {
    if skip_without_privileges() {
        return;
    }
    let _machine = MACHINE.blocking_write();
    let request = ask_drop_by_drop(DROPS);
    let by_tcp = held(TCP, &[], 1, &request, DROPS);
    let by_legs = held(LEGS, &["delivered", "unread_messages"], 1, &request, DROPS);
    println!("{} KiB by TCP, {} KiB by legs", by_tcp >> 10, by_legs >> 10);
    assert!(by_legs - by_tcp <= ADDED_MAX, "{by_legs} bytes instead of {by_tcp}");
}

#[test]
fn the_window_says_how_much_may_be_unread() {
    if skip_without_privileges() {
        return;
    }
    const SIZE: usize = 400_000;
    let node = Node::start("127.0.0.1:0");
    for (window, is_exceeded) in [("64KiB", true), ("16MiB", false)] {
        let kernel = LEGS.replace("cgroup: /", &format!("cgroup: /, window: {window}"));
        let proxy = proxy(&kernel, node.address);
        let delivered = Counted::delivered(&proxy);
        let mut peer = Peer::connect(proxy.address("web"));
        warm_up(&mut peer, &delivered);
        let exceeded = Counted::start(&proxy, "local", "unread_bytes");
        let before = delivered.since();
        peer.send(peer::ask(SIZE).as_bytes()).expect("sent");
        until_at_rest(&node);
        assert!(delivered.since() > before, "{window}: nothing was delivered");
        assert_eq!(exceeded.since() > 0, is_exceeded, "{window}");
        peer.answer(SIZE).expect("every byte");
    }
}

#[test]
fn connections_that_come_together_are_all_taken() {
    if skip_without_privileges() {
        return;
    }
    const TOGETHER: usize = 3 * SHORT_LIVED_MAX as usize;
    const ROUNDS: usize = 10;
    let node = Node::start("127.0.0.1:0");
    let proxy = proxy(LEGS, node.address);
    let address = proxy.address("web");
    let (delivered, short) = (Counted::delivered(&proxy), short_lived(&proxy));
    let mut peers: Vec<_> = (0..TOGETHER).map(|_| Peer::connect(address)).collect();
    peers.iter_mut().for_each(|peer| warm_up(peer, &delivered));
    let before = delivered.since();
    for _ in 0..ROUNDS {
        peers.iter_mut().for_each(|peer| peer.get(100).expect("answered"));
    }
    assert_eq!(short.since(), 0);
    // Request and answer of each, on both legs.
    let (messages, all) = (delivered.since() - before, 4 * ROUNDS * TOGETHER);
    assert!(messages as usize > all - all / 20, "{messages} of {all}");
}

#[test]
fn after_many_short_connections_few_are_taken_until_one_is_used() {
    if skip_without_privileges() {
        return;
    }
    let node = Node::start("127.0.0.1:0");
    let proxy = proxy(LEGS, node.address);
    let address = proxy.address("web");
    let (delivered, short) = (Counted::delivered(&proxy), short_lived(&proxy));
    let once = || Peer::connect(address).last(100).expect("answered");
    (0..SHORT_LIVED_MAX).for_each(|_| once());
    assert_eq!(short.since(), 0);
    eventually("connections that are not taken", || {
        once();
        (short.since() > 3 * u64::from(SHORT_LIVED_TAKEN)).then_some(())
    });
    let mut peers: Vec<_> = (0..SHORT_LIVED_TAKEN).map(|_| Peer::connect(address)).collect();
    let before = short.since();
    for _ in 0..20 {
        peers.iter_mut().for_each(|peer| peer.get(100).expect("answered"));
    }
    warm_up(&mut Peer::connect(address), &delivered);
    assert_eq!(short.since(), before, "one of them was used, so this one was taken");
}

#[test]
fn connections_of_two_requests_are_not_short_lived() {
    if skip_without_privileges() {
        return;
    }
    let node = Node::start("127.0.0.1:0");
    let proxy = proxy(LEGS, node.address);
    let (address, short) = (proxy.address("web"), short_lived(&proxy));
    // One after the other, and in waves that end together.
    for together in [1, 1, 2 * SHORT_LIVED_MAX, 2 * SHORT_LIVED_MAX, 1, 1] {
        let mut peers: Vec<_> = (0..together).map(|_| Peer::connect(address)).collect();
        for _ in 0..2 {
            peers.iter_mut().for_each(|peer| peer.get(100).expect("answered"));
        }
        drop(peers);
        proxy.check_metric("tandem_downstream_connections_active{listener=\"web\"}", 0.0);
    }
    assert_eq!(short.since(), 0);
}

fn short_lived(proxy: &TestProxy) -> Counted<'_> {
    Counted::start(proxy, "establish", "short_lived")
}
