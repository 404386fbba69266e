//! Clients that are on another host for certain: nothing that may wait in front of them holds up a node,
//! and nothing is lost on the way.

use std::io::BufReader;

use socket2::{Domain, Socket, Type};

use super::*;
use crate::{
    leg::{
        peer::Waiting,
        translated::{skip_without_nft, translate},
    },
    topology::{Namespace, Pair},
};

/// Larger than what is left of this client's and our buffers after a few.
const LARGE: usize = 60_000;

/// A node and a proxy side by side, and clients across a wire.
struct Beside<'a> {
    node: &'a Node,
    proxy: &'a TestProxy,
    pair: &'a Pair,
}

impl Beside<'_> {
    fn with(limits: &str, kernel: &str, case: impl FnOnce(Beside<'_>) + Send) {
        let pair = Pair::new();
        pair.proxy.run(|| {
            pair.proxy.ip("link set lo up");
            let node = Node::start();
            let web = "name: web, address: \"10.1.0.1:0\"";
            let proxy =
                TestProxy::start(&format!("{limits}\n{}", yaml(kernel, &[web], node.address, "")));
            case(Beside { node: &node, proxy: &proxy, pair: &pair });
        });
    }

    fn client(&self) -> Client {
        self.pair.downstream.run(|| Client::connect(Place::Here, self.proxy.address("web")))
    }

    fn client_of_small_segments(&self) -> Client {
        self.pair.downstream.run(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            socket.set_tcp_mss(88).expect("an option");
            // The least there is: a window that keeps segments apart.
            socket.set_recv_buffer_size(1).expect("an option");
            socket.connect(&self.proxy.address("web").into()).expect("connected");
            socket.set_nonblocking(true).expect("an option");
            Client { stream: BufReader::new(Waiting(socket.into())) }
        })
    }
}

#[test]
fn a_client_across_a_wire_is_told_the_same_with_and_without_it() {
    if skip_without_privileges() {
        return;
    }
    let mut noise = Noise(23);
    let asks: Vec<_> = (0..300).map(|_| mixed(&mut noise)).collect();
    let off = LEGS.replace("cgroup: /", "cgroup: /, egress_max: 0B");
    let mut told = Vec::new();
    for (kernel, is_on) in [(LEGS, true), (&off, false)] {
        Beside::with("", kernel, |beside| {
            let proxy = beside.proxy;
            let claimed = Counted::start(proxy, "bypass", "claimed_remote");
            let before = judged(proxy);
            told.push(converse(beside.client(), proxy, &asks).expect("answered"));
            if is_on {
                assert!(claimed.since() > 60, "{}", claimed.since());
            } else {
                assert_eq!(judged(proxy), before);
            }
        });
    }
    assert_eq!(told[0], told[1]);
}

/// Nor does it find its other end.
#[test]
fn a_client_whose_address_is_translated_is_one_of_another_host() {
    if skip_without_privileges() || skip_without_nft() {
        return;
    }
    let namespace = Namespace::new();
    namespace.run(|| {
        let node = Node::start();
        let proxy = start(&node, "");
        let web = proxy.address("web");
        let rule = format!("ip daddr 127.0.0.1 tcp dport {} snat to 127.0.0.9", web.port());
        translate(&namespace, "postrouting", &rule);
        let [here, elsewhere] =
            ["claimed", "claimed_remote"].map(|reason| Counted::start(&proxy, "bypass", reason));
        let mut client = Client::connect(Place::Here, web);
        until_passed(&mut client, &passed(&proxy));
        for size in [1, 1_000, 30_000, 2 << 20] {
            (0..10).for_each(|_| client.ask(&Ask::plain(size)).expect("answered"));
        }
        assert!(!client.has_more() && elsewhere.since() > 10, "{}", elsewhere.since());
        assert_eq!(here.since(), 0);
        eventually("its end is given up", || (status(&proxy, "given_up") == 1).then_some(()));
    });
}

#[test]
fn what_is_too_large_for_it_is_carried() {
    if skip_without_privileges() {
        return;
    }
    let small = LEGS.replace("cgroup: /", "cgroup: /, egress_max: 2KiB");
    // Half of what the send queue takes, and no more than may be unsent, bound it as well.
    for (kernel, limits) in [
        (&*small, ""),
        (LEGS, "limits: { send_buffer: 4KiB }"),
        (LEGS, "limits: { unsent_max: 4KiB }"),
    ] {
        Beside::with(limits, kernel, |beside| {
            let proxy = beside.proxy;
            let passed = passed(proxy);
            let mut client = beside.client();
            until_passed(&mut client, &passed);
            let (before, refused) = (passed.since(), Counted::start(proxy, "bypass", "no_room"));
            for _ in 0..20 {
                let ask = Ask::plain(5_000);
                client.ask(&ask).expect("answered");
                assert_ne!(Logged::find(proxy, &ask).via, "bypass");
            }
            assert_eq!((passed.since(), refused.since()), (before, 20), "{limits}");
            until_passed(&mut client, &passed);
        });
    }
}

/// The node would be told to wait for a socket that is not its own.
#[test]
fn a_client_that_does_not_read_holds_up_no_node() {
    if skip_without_privileges() {
        return;
    }
    // The first makes a writer wait for memory, the second for what is unsent.
    for bound in ["send_buffer: 256KiB", "unsent_max: 64KiB"] {
        let limits = format!("limits: {{ {bound}, pool_idle_max: 1 }}");
        Beside::with(&limits, LEGS, |beside| check_silent_client(&beside));
    }
}

#[track_caller]
fn check_silent_client(beside: &Beside<'_>) {
    const ASKED: usize = 200;
    let Beside { node, proxy, .. } = beside;
    let passed = passed(proxy);
    let mut silent = beside.client();
    until_passed(&mut silent, &passed);
    let mut other = beside.client();
    let mut asks = Vec::new();
    // It asks on as long as it is answered, and reads nothing of that.
    while asks.len() < ASKED {
        let ask = Ask::plain(LARGE);
        silent.send(&ask.request()).expect("sent");
        asks.push(ask);
        node.wait_written(&asks[asks.len() - 1]);
        other.ask(&Ask::plain(100)).expect("answered");
        let path = format!(" {} ", asks[asks.len() - 1].path());
        let deadline = Instant::now() + Duration::from_millis(300);
        let is_recorded = || proxy.access_log(0).iter().any(|line| line.contains(&path));
        while !is_recorded() && Instant::now() < deadline {
            thread::park_timeout(Duration::from_millis(5));
        }
        if !is_recorded() {
            break;
        }
    }
    assert!(asks.len() < ASKED, "nothing was ever full");
    for ask in &asks {
        silent.answer(ask).expect("in order, whole");
    }
    assert!(!silent.has_more());
    until_passed(&mut silent, &passed);
    assert_eq!(counted(proxy, "bypass", "broken"), 0);
}

/// Each of its segments costs our send queue more than what is in it.
#[test]
fn a_client_of_small_segments_holds_up_no_node() {
    if skip_without_privileges() {
        return;
    }
    Beside::with("limits: { send_buffer: 64KiB }", LEGS, |beside| {
        let Beside { node, proxy, .. } = beside;
        let passed = passed(proxy);
        let mut client = beside.client_of_small_segments();
        for _ in 0..3 {
            until_passed(&mut client, &passed);
            let ask = Ask::plain(LARGE);
            client.send(&ask.request()).expect("sent");
            // Nothing is read before.
            node.wait_written(&ask);
            client.answer(&ask).expect("whole");
        }
        assert_eq!(counted(proxy, "bypass", "broken"), 0);
    });
}

/// Closing a socket with bytes unread resets it.
#[test]
fn what_comes_behind_the_last_request_does_not_reset_its_response() {
    if skip_without_privileges() {
        return;
    }
    Beside::with("", LEGS, |beside| {
        let passed = passed(beside.proxy);
        let mut sent = 0;
        for _ in 0..5 {
            let mut client = beside.client();
            until_passed(&mut client, &passed);
            let ask = Ask::plain(300_000);
            let mut request = ask.request_with("connection: close\r\n");
            request.resize(100_000, b'z');
            // The proxy waits for a second: whoever is kept from his processor for longer is reset.
            if client.send(&request).is_err() {
                continue;
            }
            sent += 1;
            client.answer(&ask).expect("whole");
            client.end().expect("no reset");
        }
        assert!(sent >= 3, "{sent}");
    });
}
