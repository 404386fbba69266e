//! `proxy-mirror`: who gets copies, of what, and that nobody else notices.

use std::{
    net::TcpListener,
    sync::{Arc, Barrier},
};

use proxy::test_support::{Node, Reply, Seen, TestProxy, eventually};

use super::{get, proxy};

const DROPPED: [&str; 3] = ["too_many", "too_large", "incomplete"];

fn settings(mirror: impl std::fmt::Display, more: &str) -> String {
    format!("proxy-mirror: {{ host: \"http://{mirror}\"{more} }}")
}

fn dropped(reason: &str) -> String {
    format!("tandem_mirror_dropped_total{{reason=\"{reason}\"}}")
}

/// The next requests that `node` sees, of which there are `count`, in the order of their lines.
fn seen(node: &Node, count: usize) -> Vec<Seen> {
    eventually("copies", || (node.seen().len() >= count).then_some(()));
    let mut seen = node.take();
    assert_eq!(seen.len(), count, "{seen:?}");
    seen.sort_by_key(|seen| seen.line().to_owned());
    seen
}

/// What a head says, but for how its body is framed.
fn fields(seen: &Seen) -> Vec<&str> {
    let is_framing =
        |line: &&str| ["content-length", "transfer-encoding"].iter().any(|it| line.starts_with(it));
    let mut lines: Vec<_> = seen.head.lines().skip(1).filter(|line| !is_framing(line)).collect();
    lines.sort_unstable();
    lines
}

#[test]
fn a_copy_is_what_the_node_gets() {
    for is_express in [true, false] {
        let node = Node::always("x");
        let mirror = Node::scripted(|_| {
            Reply::Bytes(b"HTTP/1.1 500 No\r\ncontent-length: 1\r\n\r\nm".into())
        });
        let rewrite = "proxy-rewrite: { headers: { set: { x-new: n }, remove: [x-old] } }";
        let plugins = format!("{}, {rewrite}", settings(mirror.address, ""));
        let proxy = proxy(is_express, &node, &plugins);
        let mut client = proxy.client();
        let large = "y".repeat(600_000);
        for request in [
            "GET /0?a=b HTTP/1.1\r\nhost: a\r\ncookie: c\r\nx-old: o\r\nx-two: 1\r\nx-two: 2\r\n\r\n".to_owned(),
            "POST /1 HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc".to_owned(),
            "PUT /2 HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n".to_owned(),
            format!("POST /3 HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{large}", large.len()),
            "POST /4 HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n".to_owned(),
        ] {
            let response = client.ask(request);
            assert_eq!((response.status, response.text().as_str()), (200, "x"));
        }
        let (originals, copies) = (seen(&node, 5), seen(&mirror, 5));
        for (original, copy) in originals.iter().zip(&copies) {
            assert_eq!((copy.line(), fields(copy)), (original.line(), fields(original)));
            assert_eq!(copy.field("x-new"), Some("n"));
        }
        let bodies: Vec<_> = copies.iter().map(|copy| copy.body.len()).collect();
        assert_eq!(bodies, [0, 3, 600_000, 0, 3]);
        assert_eq!((&*copies[1].body, &*copies[4].body), (&b"abc"[..], &b"abc"[..]));
        proxy.check_metric("tandem_calls_total{purpose=\"mirror\",result=\"answered\"}", 5.0);
        for reason in DROPPED {
            proxy.check_metric(&dropped(reason), 0.0);
        }
    }
}

#[test]
fn settings_say_where_copies_go_and_how_many() {
    let node = Node::always("x");
    let mirror = Node::always("m");
    for (more, count, line) in [
        (", path: /m", 1, "GET /m?c=d HTTP/1.1"),
        (", path: /m, path_concat_mode: prefix", 1, "GET /m/a/b?c=d HTTP/1.1"),
        (", sample_ratio: 0.25", 4, "GET /a/b?c=d HTTP/1.1"),
    ] {
        let proxy = proxy(true, &node, &settings(mirror.address, more));
        let mut client = proxy.client();
        let requests = if count == 1 { 1 } else { 16 };
        for _ in 0..requests {
            assert_eq!(client.ask(get("/a/b?c=d")).status, 200);
        }
        let answered = "tandem_calls_total{purpose=\"mirror\",result=\"answered\"}";
        proxy.check_metric(answered, f64::from(count));
        assert_eq!(seen(&mirror, count as usize)[0].line(), line);
    }
}

#[test]
fn what_is_not_forwarded_or_not_whole_is_not_copied() {
    for is_express in [true, false] {
        let node = Node::always("x");
        let mirror = Node::always("m");
        let plugins = format!("{}, key-auth: {{}}", settings(mirror.address, ""));
        let proxy = proxy(is_express, &node, &plugins);
        assert_eq!(proxy.client().ask(get("/")).status, 401);
        drop(proxy);
        let proxy = super::proxy(is_express, &node, &settings(mirror.address, ""));
        let mut client = proxy.client();
        client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\na");
        eventually("the request at the node", || node.heard().ends_with('a').then_some(()));
        drop(client);
        proxy.check_metric(&dropped("incomplete"), 1.0);
        let large = "y".repeat((1 << 20) + 1);
        let fixed =
            format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{large}", large.len());
        let chunks = format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
        let chunked =
            format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{chunks}");
        for (request, count) in [(fixed, 1.0), (chunked, 2.0)] {
            assert_eq!(proxy.client().ask(request).status, 200);
            proxy.check_metric(&dropped("too_large"), count);
        }
        proxy.check_metric(&dropped("incomplete"), 1.0);
        assert_eq!(mirror.seen().len(), 0);
    }
}

#[test]
fn nobody_waits_for_a_mirror() {
    const UNDER_WAY: u32 = 256;
    // Connections are taken by the kernel, and by nobody else.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let node = Node::always("x");
    let mirror = silent.local_addr().expect("an address");
    let proxy = proxy(true, &node, &settings(mirror, ""));
    let mut client = proxy.client();
    for _ in 0..UNDER_WAY + 3 {
        assert_eq!(client.ask(get("/")).status, 200);
    }
    proxy.check_metric(&dropped("too_many"), 3.0);
    // Those that end make room for others.
    drop(silent);
    eventually("room", || {
        let closed = "tandem_calls_total{purpose=\"mirror\",result=\"closed\"}";
        (proxy.metric(closed) >= 1.0).then_some(())
    });
    assert_eq!(client.ask(get("/")).status, 200);
    proxy.check_metric(&dropped("too_many"), 3.0);
}

#[test]
fn mirrors_take_nothing_from_who_is_let_in() {
    // Together, as many connections as may be kept for one purpose.
    const MIRRORS: usize = 4;
    const KEPT: usize = 16;
    const CALLS: usize = 300;
    for is_express in [true, false] {
        let (node, auth) = (Node::always("x"), Node::always("in"));
        let mirrors = [(); MIRRORS].map(|()| {
            let together = Arc::new(Barrier::new(KEPT));
            Node::scripted(move |_| {
                together.wait();
                Reply::ok("m")
            })
        });
        // Takes connections, and never says anything.
        let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let silent = silent.local_addr().map(|address| (silent, address)).expect("an address");
        let route = |id: &str, plugins: &str| {
            format!("  - {{ id: {id}, uri: /{id}, upstream_id: app, plugins: {{ {plugins} }} }}\n")
        };
        let asked = format!("forward-auth: {{ uri: \"http://{}/\" }}", auth.address);
        let mut routes = route("asked", &format!("{asked}, {}", settings(silent.1, "")));
        for (at, mirror) in mirrors.iter().enumerate() {
            routes.push_str(&route(&format!("m{at}"), &settings(mirror.address, "")));
        }
        let nowhere = format!("plugins: {{ {} }}", settings("mirror.invalid", ""));
        let text = format!(
            "listeners: [{{ name: web, address: \"127.0.0.1:0\", express_lane: {is_express} }}]\n\
             routes:\n{routes}global_rules: [{{ id: g, {nowhere} }}]\n\
             upstreams: [{{ id: app, nodes: {{ \"{}\": 1 }} }}]\n",
            node.address
        );
        let proxy = TestProxy::start(&text);
        let mut client = proxy.client();
        for at in 0..MIRRORS {
            for _ in 0..KEPT {
                assert_eq!(client.ask(get(&format!("/m{at}"))).status, 200);
            }
        }
        let answered = "tandem_calls_total{purpose=\"mirror\",result=\"answered\"}";
        proxy.check_metric(answered, (MIRRORS * KEPT) as f64);
        for _ in 0..CALLS {
            assert_eq!(client.ask(get("/asked")).status, 200);
        }
        let connections: Vec<_> = auth.seen().iter().map(|seen| seen.connection).collect();
        assert_eq!(connections, [0; CALLS], "one connection is kept");
        assert!(proxy.metric(&dropped("too_many")) > 0.0);
        proxy
            .check_metric("tandem_call_limits_total{purpose=\"forward_auth\",limit=\"idle\"}", 0.0);
    }
}
