//! What may not go past the proxy, and does not.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use proxy::plugin::{Hooks, Plugin};

use super::*;

/// A request whose response has to be seen by the proxy.
struct Row {
    ask: Ask,
    request: Vec<u8>,
    /// The client's connection ends with it.
    is_last: bool,
}

impl Row {
    fn new(kind: Kind) -> Row {
        Row::with(kind, |_| {})
    }

    fn with(kind: Kind, change: impl FnOnce(&mut Ask)) -> Row {
        let mut ask = Ask::new(kind, 600);
        change(&mut ask);
        Row { ask, request: ask.request(), is_last: false }
    }

    fn request(self, request: impl FnOnce(&Ask) -> Vec<u8>) -> Row {
        Row { request: request(&self.ask), ..self }
    }

    fn last(self) -> Row {
        Row { is_last: true, ..self }
    }

    /// It is answered as it should be, by the proxy, and what follows goes past it again.
    #[track_caller]
    fn check(&self, place: Place, why: &str, proxy: &TestProxy) {
        let passed = passed(proxy);
        let mut client = Client::connect(place, proxy.address("web"));
        until_passed(&mut client, &passed);
        let before = passed.since();
        client.send(&self.request).expect("sent");
        client.answer(&self.ask).unwrap_or_else(|error| panic!("{why}: {error}"));
        assert_ne!(Logged::find(proxy, &self.ask).via, "bypass", "{why}");
        assert_eq!(passed.since(), before, "{why}");
        if self.is_last {
            client.end().unwrap_or_else(|error| panic!("{why}: {error}"));
        } else {
            assert!(!client.has_more(), "{why}");
            until_passed(&mut client, &passed);
        }
    }
}

fn status(status: u16) -> impl FnOnce(&mut Ask) {
    move |ask| {
        ask.status = status;
        if matches!(status, 204 | 205 | 304) {
            ask.size = 0;
        }
    }
}

#[test]
fn what_the_proxy_has_to_see_goes_through_it() {
    at_both(what_the_proxy_has_to_see_goes_through_it_at);
}

fn what_the_proxy_has_to_see_goes_through_it_at(place: Place) {
    let node = Node::start();
    let proxy = start(&node, "");
    let posted = |ask: &Ask| [ask.request_with("content-length: 5\r\n"), b"hello".into()].concat();
    let old = |ask: &Ask| format!("GET {} HTTP/1.0\r\nhost: a\r\n\r\n", ask.path()).into_bytes();
    let rows = [
        // Without a body to come it would be whole.
        ("HEAD", Row::with(Kind::Plain, |ask| (ask.method, ask.size) = ("HEAD", 0))),
        ("a request body", Row::with(Kind::Plain, |ask| ask.method = "POST").request(posted)),
        ("chunks", Row::new(Kind::Chunked)),
        ("no length", Row::new(Kind::Unmeasured)),
        ("no date", Row::new(Kind::Undated)),
        ("the node closes", Row::new(Kind::Closing)),
        ("204", Row::with(Kind::Plain, status(204))),
        ("205", Row::with(Kind::Plain, status(205))),
        ("304", Row::with(Kind::Plain, status(304))),
        ("408", Row::with(Kind::Plain, status(408))),
        ("421", Row::with(Kind::Plain, status(421))),
        ("103 and 200", Row::new(Kind::Early)),
        ("103, then 200", Row::new(Kind::EarlyAlone)),
        ("a large head", Row::new(Kind::Wide)),
        ("more than was asked for", Row::new(Kind::Extra)),
        ("HTTP/1.0", Row::new(Kind::Plain).request(old).last()),
        (
            "the client closes",
            Row::new(Kind::Plain).request(|ask| ask.request_with("connection: close\r\n")).last(),
        ),
    ];
    for (why, row) in rows {
        row.check(place, why, &proxy);
    }
    // Nothing of this goes on for connections that were used before.
    proxy.check_metric("tandem_downstream_connections_active{listener=\"web\"}", 0.0);
}

#[derive(Debug)]
struct Hooked(Hooks);

impl Plugin for Hooked {
    fn hooks(&self) -> Hooks {
        self.0
    }
}

/// Exchanges of which the kernel delivers some, and lets none go past.
#[track_caller]
fn check_never(why: &str, proxy: &TestProxy, listener: &str, is_delivered: bool) {
    let (before, delivered) = (judged(proxy), Counted::delivered(proxy));
    let mut client = Client::connect(Place::Here, proxy.address(listener));
    for _ in 0..60 {
        client.ask(&Ask::plain(500)).unwrap_or_else(|error| panic!("{why}: {error}"));
    }
    assert_eq!(judged(proxy), before, "{why}");
    assert_eq!(delivered.since() > 60, is_delivered, "{why}");
}

#[test]
fn nothing_is_armed_where_the_configuration_forbids_it() {
    if skip_without_privileges() {
        return;
    }
    let node = Node::start();
    let off = "name: off, address: \"127.0.0.1:0\", same_host: false";
    let hyper = "name: hyper, address: \"127.0.0.1:0\", express_lane: false";
    let upstream_off = "same_host: false";
    let without = LEGS.replace("cgroup: /", "cgroup: /, bypass: false");
    let on = TestProxy::start(&yaml(LEGS, &[WEB, off, hyper], node.address, ""));
    check_never("listener", &on, "off", true);
    check_never("lane", &on, "hyper", true);
    let proxy = TestProxy::start(&yaml(LEGS, &[WEB], node.address, upstream_off));
    check_never("upstream", &proxy, "web", true);
    let proxy = TestProxy::start(&yaml(&without, &[WEB], node.address, ""));
    check_never("bypass", &proxy, "web", true);
    let heads = "limits: { head_size_max: 1KiB, target_size_max: 1KiB }";
    let proxy = TestProxy::start(&format!("{heads}\n{}", yaml(LEGS, &[WEB], node.address, "")));
    check_never("limits", &proxy, "web", true);
    let none = Hooks::default();
    for (hooks, is_seen) in [
        (Hooks { response_head: true, ..none }, true),
        (Hooks { response_body: true, ..none }, true),
        (Hooks { log_detail: true, ..none }, true),
        (Hooks { log: true, ..none }, false),
    ] {
        let yaml = yaml(LEGS, &[WEB], node.address, "");
        let proxy = TestProxy::start_with(&yaml, &[Arc::new(Hooked(hooks))]);
        if is_seen {
            check_never("plugin", &proxy, "web", true);
        } else {
            until_passed(&mut Client::connect(Place::Here, proxy.address("web")), &passed(&proxy));
        }
    }
    // And what is not forbidden does go past.
    until_passed(&mut Client::connect(Place::Here, on.address("web")), &passed(&on));
}

#[test]
fn switching_off_under_load_stops_it_and_no_request() {
    at_both(switching_off_under_load_stops_it_and_no_request_at);
}

fn switching_off_under_load_stops_it_and_no_request_at(place: Place) {
    let node = Node::start();
    let proxy = start(&node, "workers: 2");
    let passed = passed(&proxy);
    let (is_over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let many_more = || {
        let before = answered.load(Ordering::Relaxed);
        eventually("answers", || (answered.load(Ordering::Relaxed) > before + 200).then_some(()));
    };
    thread::scope(|scope| {
        for seed in 1..=4 {
            let (is_over, answered, proxy) = (&is_over, &answered, &proxy);
            scope.spawn(move || {
                let mut noise = Noise(seed << 20 | 1);
                let mut client = Client::connect(place, proxy.address("web"));
                while !is_over.load(Ordering::Relaxed) {
                    client.ask(&random(&mut noise)).expect("answered");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..3 {
            let before = passed.since();
            eventually("responses that go past", || (passed.since() > before + 100).then_some(()));
            switch(&proxy, "off");
            many_more();
            let at_rest = passed.since();
            many_more();
            assert_eq!(passed.since(), at_rest);
            switch(&proxy, "on");
        }
        is_over.store(true, Ordering::Relaxed);
    });
}
