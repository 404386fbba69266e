//! Plugins that limit, divert and rewrite, seen from outside, on either lane.

use std::net::SocketAddr;

use proxy::test_support::{Client, Node, Reply, Response, TestProxy, eventually, unused_address};

use crate::lane_pair::{LANES, LISTENERS};

/// Two listeners, one for each lane, and one route with `plugins` for everything to `node`.
fn start(node: SocketAddr, plugins: &str) -> TestProxy {
    start_with(node, plugins, "")
}

fn start_with(node: SocketAddr, plugins: &str, upstreams: &str) -> TestProxy {
    TestProxy::start(&config(node, plugins, upstreams))
}

fn config(node: SocketAddr, plugins: &str, upstreams: &str) -> String {
    format!(
        "{LISTENERS}\
         routes: [{{ id: all, uri: /*, upstream_id: app, plugins: {plugins} }}]\n\
         upstreams: [{{ id: app, nodes: {{ \"{node}\": 1 }} }}{upstreams}]\n"
    )
}

/// What each lane answers to `request`, on a connection of its own.
#[track_caller]
fn on_both(proxy: &TestProxy, request: &str) -> Vec<Response> {
    LANES.map(|lane| Client::connect(proxy.address(lane)).ask(request)).into()
}

fn get(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nhost: a\r\n{fields}\r\n")
}

#[test]
fn cors_answers_preflights_and_replaces_what_the_node_says() {
    let node = Node::scripted(|_| {
        Reply::Bytes(
            b"HTTP/1.1 200 OK\r\naccess-control-allow-origin: x\r\ncontent-length: 1\r\n\r\nx"
                .to_vec(),
        )
    });
    let proxy = start(node.address, "{ cors: { allow_origins: \"https://a.example\" } }");
    let preflight = "OPTIONS / HTTP/1.1\r\nhost: a\r\norigin: https://a.example\r\n\r\n";
    for response in on_both(&proxy, preflight) {
        let length = response.field("content-length");
        assert_eq!((response.status, length), (200, Some("0")));
        assert_eq!(response.field("access-control-allow-origin"), Some("https://a.example"));
    }
    assert_eq!(node.take().len(), 0);
    for response in on_both(&proxy, &get("/", "origin: https://a.example\r\n")) {
        assert_eq!(response.field("access-control-allow-origin"), Some("https://a.example"));
        assert_eq!((response.field("vary"), response.text().as_str()), (Some("Origin"), "x"));
    }
}

#[test]
fn request_ids_are_the_same_on_either_side() {
    let node = Node::always("x");
    let proxy = start(node.address, "{ request-id: {} }");
    let responses = on_both(&proxy, &get("/", ""));
    for (response, seen) in responses.iter().zip(node.take()) {
        assert_eq!(response.field("x-request-id"), seen.field("x-request-id"));
        assert_eq!(seen.field("x-request-id").map(str::len), Some(36));
    }
}

#[test]
fn client_control_bounds_bodies_before_and_while_they_stream() {
    let node = Node::always("x");
    let proxy = start(node.address, "{ client-control: { max_body_size: 10 } }");
    let chunked = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let fixed = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length:";
    for lane in LANES {
        let mut client = Client::connect(proxy.address(lane));
        assert_eq!(client.ask(format!("{fixed} 10\r\n\r\n0123456789")).status, 200);
        assert_eq!(client.ask(format!("{chunked}a\r\n0123456789\r\n0\r\n\r\n")).status, 200);
        assert_eq!(node.take().len(), 2, "{lane}");
        // Refused by its length: the connection goes on.
        assert_eq!(client.ask(format!("{fixed} 11\r\n\r\n0123456789a")).status, 413, "{lane}");
        assert_eq!(client.ask(get("/", "")).status, 200, "{lane}");
        assert_eq!(node.take().len(), 1, "{lane}");
        for body in ["b\r\n0123456789a\r\n0\r\n\r\n", "a\r\n0123456789\r\n1\r\na\r\n0\r\n\r\n"] {
            let mut client = Client::connect(proxy.address(lane));
            let answer = client.ask(format!("{chunked}{body}"));
            let told = (answer.status, answer.field("connection"));
            assert_eq!(told, (413, Some("close")), "{lane} {body:?}");
        }
        assert_eq!(node.take().len(), 0, "{lane}");
        let mut client = Client::connect(proxy.address(lane));
        client.send(format!("{chunked}5\r\n01234\r\n"));
        eventually("the first chunk", || node.heard().ends_with("5\r\n01234\r\n").then_some(()));
        let response = client.ask("6\r\n56789a\r\n0\r\n\r\n");
        assert_eq!((response.status, response.field("connection")), (413, Some("close")), "{lane}");
        client.closed();
        assert_eq!(node.take().len(), 0, "{lane}");
    }
}

#[test]
fn redirects_never_reach_the_node() {
    let node = Node::always("x");
    let proxy = start(node.address, "{ redirect: { http_to_https: true } }");
    for response in on_both(&proxy, &get("/a?b", "")) {
        assert_eq!((response.status, response.field("location")), (301, Some("https://a/a?b")));
    }
    assert_eq!(node.take().len(), 0);
}

#[test]
fn counts_are_one_for_all_workers_and_lanes() {
    let node = Node::always("x");
    let plugins = "{ limit-count: { count: 5, time_window: 600, rejected_code: 429 } }";
    let proxy = start(node.address, plugins);
    let mut statuses = Vec::new();
    let mut remaining = Vec::new();
    for _ in 0..4 {
        for response in on_both(&proxy, &get("/", "")) {
            statuses.push(response.status);
            remaining.push(response.field("x-ratelimit-remaining").map(str::to_owned));
        }
    }
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429, 429, 429]);
    let remaining: Vec<_> = remaining.iter().map(|left| left.as_deref()).collect();
    let expected = ["4", "3", "2", "1", "0", "0", "0", "0"].map(Some);
    assert_eq!(remaining, expected);
    assert_eq!(node.take().len(), 5);
}

#[test]
fn a_bucket_that_is_full_lets_nothing_through() {
    let node = Node::always("x");
    let proxy = start(node.address, "{ limit-req: { rate: 0.001, burst: 0, key: remote_addr } }");
    let [first, second] = on_both(&proxy, &get("/", "")).try_into().expect("two");
    assert_eq!((first.status, second.status, second.text()), (200, 503, String::new()));
    assert_eq!(node.take().len(), 1);
}

#[test]
fn requests_in_flight_are_counted_until_their_end() {
    let node = Node::always("x");
    let proxy = start(
        node.address,
        "{ limit-conn: { conn: 1, burst: 0, default_conn_delay: 0.1, key: remote_addr } }",
    );
    for lane in LANES {
        let mut slow = Client::connect(proxy.address(lane));
        slow.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\na");
        eventually("half of a body", || node.heard().ends_with('a').then_some(()));
        for response in on_both(&proxy, &get("/", "")) {
            assert_eq!(response.status, 503, "{lane}");
        }
        assert_eq!(slow.ask("b").status, 200, "{lane}");
        node.take();
        // One that goes away is over as well.
        let mut gone = Client::connect(proxy.address(lane));
        gone.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\na");
        eventually("half of a body", || node.heard().ends_with('a').then_some(()));
        drop(gone);
        eventually("room", || {
            let status = Client::connect(proxy.address(lane)).ask(get("/", "")).status;
            (status == 200).then_some(())
        });
        node.take();
    }
}

#[test]
fn injected_faults_spare_the_node() {
    let node = Node::always("x");
    let abort = "{ http_status: 418, body: \"no $uri\", vars: [[[arg_a, ==, b]]] }";
    let proxy = start(node.address, &format!("{{ fault-injection: {{ abort: {abort} }} }}"));
    for response in on_both(&proxy, &get("/x?a=b", "")) {
        let kind = response.field("content-type");
        assert_eq!((response.status, kind), (418, Some("text/plain; charset=utf-8")));
        assert_eq!(response.text(), "no /x");
    }
    assert_eq!(node.take().len(), 0);
    for response in on_both(&proxy, &get("/x", "")) {
        assert_eq!(response.status, 200);
    }
}

#[test]
fn an_answer_that_can_have_no_body_has_none_and_the_connection_goes_on() {
    let node = Node::always("x");
    for status in [204, 304] {
        let abort = format!("{{ http_status: {status}, body: lost, vars: [[[arg_a, ==, b]]] }}");
        let proxy = start(node.address, &format!("{{ fault-injection: {{ abort: {abort} }} }}"));
        for lane in LANES {
            let mut client = Client::connect(proxy.address(lane));
            for _ in 0..2 {
                let response = client.ask(get("/x?a=b", ""));
                let length = response.field("content-length");
                assert_eq!((response.status, length), (status, None), "{lane}");
            }
            assert_eq!(client.ask(get("/x", "")).text(), "x", "{lane}");
            client.send(get("/x?a=b", "connection: close\r\n"));
            assert_eq!(client.response().status, status, "{lane}");
            client.closed();
        }
    }
}

#[test]
fn limits_count_whom_a_trusted_peer_speaks_for() {
    let node = Node::always("x");
    let proxy = start(
        node.address,
        "{ real-ip: { source: http_x_forwarded_for, trusted_addresses: [127.0.0.0/8] }, \
         limit-count: { count: 2, time_window: 600 } }",
    );
    for client in ["203.0.113.1", "203.0.113.2"] {
        for status in [200, 503] {
            let request = get("/", &format!("x-forwarded-for: {client}\r\n"));
            for response in on_both(&proxy, &request) {
                assert_eq!(response.status, status, "{client}");
            }
        }
    }
    assert_eq!(node.take().len(), 4);
}

#[test]
fn the_node_sees_what_was_rewritten() {
    let node = Node::always("x");
    let proxy = start(
        node.address,
        "{ proxy-rewrite: { regex_uri: [\"^/api/(.*)$\", \"/$1?v=1\"], method: PUT, \
         host: node.example, headers: { set: { x-rest: $1 }, remove: [x-secret] } } }",
    );
    for response in on_both(&proxy, &get("/api/x/y?a=b", "x-secret: s\r\n")) {
        assert_eq!(response.status, 200);
    }
    for seen in node.take() {
        assert_eq!(seen.line(), "PUT /x/y?v=1&a=b HTTP/1.1");
        assert_eq!((seen.field("host"), seen.field("x-rest")), (Some("node.example"), Some("x/y")));
        assert_eq!(seen.field("x-secret"), None);
    }
}

#[test]
fn a_method_that_was_rewritten_frames_the_response() {
    let node = Node::scripted(|seen| match seen.line().split(' ').next() {
        Some("HEAD") => Reply::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n".to_vec()),
        _ => Reply::ok("x"),
    });
    let proxy = start(node.address, "{ proxy-rewrite: { method: HEAD } }");
    for lane in LANES {
        let mut client = Client::connect(proxy.address(lane));
        for _ in 0..2 {
            let response = client.ask(get("/", ""));
            assert_eq!((response.status, response.field("content-length")), (200, Some("0")));
        }
    }
    assert!(node.take().iter().all(|seen| seen.line() == "HEAD / HTTP/1.1"));
}

/// The same connection is asked twice, so that what is too much or too little of a body shows.
#[track_caller]
fn check_rewritten(reply: &'static str, plugin: &str, method: &str, expected: (u16, &str, &str)) {
    let node = Node::scripted(move |_| Reply::Bytes(reply.as_bytes().to_vec()));
    let proxy = start(node.address, &format!("{{ response-rewrite: {{ {plugin} }} }}"));
    let (status, length, body) = expected;
    for lane in LANES {
        let mut client = Client::connect(proxy.address(lane));
        for _ in 0..2 {
            client.send(format!("{method} / HTTP/1.1\r\nhost: a\r\n\r\n"));
            let response = client.response_to(method);
            let found = response.field("content-length").unwrap_or("-");
            let seen = (response.status, found, response.text());
            assert_eq!(seen, (status, length, body.to_owned()), "{lane} {plugin} {reply:?}");
        }
    }
}

#[test]
fn a_response_without_a_body_says_so_under_another_status() {
    const NO_CONTENT: &str = "HTTP/1.1 204 No Content\r\n\r\n";
    const NOT_MODIFIED: &str = "HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n";
    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx";
    check_rewritten(NO_CONTENT, "status_code: 200", "GET", (200, "0", ""));
    check_rewritten(NOT_MODIFIED, "status_code: 200", "GET", (200, "0", ""));
    check_rewritten(NO_CONTENT, "headers: { x-a: b }", "GET", (204, "-", ""));
    // It cannot have the body, and one without it would not be what is meant.
    check_rewritten(NO_CONTENT, "status_code: 200, body: x", "GET", (204, "-", ""));
    check_rewritten(NOT_MODIFIED, "status_code: 200, body: x", "GET", (304, "-", ""));
    check_rewritten(
        NO_CONTENT,
        "status_code: 202, filters: [{ regex: a, replace: b }]",
        "GET",
        (202, "0", ""),
    );
    const RESET: &str = "HTTP/1.1 205 Reset Content\r\ncontent-length: 0\r\n\r\n";
    check_rewritten(RESET, "status_code: 202, body: new", "GET", (202, "-", "new"));
    check_rewritten(OK, "status_code: 404", "GET", (404, "1", "x"));
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n";
    check_rewritten(head, "status_code: 404", "HEAD", (404, "9", ""));
}

#[test]
fn bodies_are_replaced_and_filtered() {
    const OK: &str = "HTTP/1.1 200 OK\r\netag: e\r\ncontent-length: 5\r\n\r\na b a";
    const CHUNKED: &str =
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\na \r\n3\r\nb a\r\n0\r\n\r\n";
    for reply in [OK, CHUNKED] {
        check_rewritten(reply, "body: new", "GET", (200, "-", "new"));
        let global = "filters: [{ regex: a, replace: c, scope: global }]";
        check_rewritten(reply, global, "GET", (200, "-", "c b c"));
        check_rewritten(
            reply,
            "filters: [{ regex: \" b \", replace: _ }]",
            "GET",
            (200, "-", "a_a"),
        );
    }
}

#[test]
fn the_log_has_the_status_that_the_downstream_got() {
    let node = Node::always("x");
    let proxy = start(node.address, "{ response-rewrite: { status_code: 203 } }");
    on_both(&proxy, &get("/", ""));
    for line in proxy.access_log(2) {
        assert_eq!(line.split(' ').nth(9), Some("203"), "{line}");
    }
}

#[test]
fn a_circuit_opens_by_what_the_node_says() {
    let node = Node::scripted(|seen| match seen.line() {
        "GET /bad HTTP/1.1" => {
            Reply::Bytes(b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n".to_vec())
        }
        _ => Reply::ok("x"),
    });
    let proxy = start(
        node.address,
        "{ api-breaker: { break_response_code: 502, break_response_body: open, \
         break_response_headers: [{ key: x-why, value: \"$uri\" }], \
         unhealthy: { failures: 2 } }, response-rewrite: { status_code: 598, \
         vars: [[status, ==, 500]] } }",
    );
    for response in on_both(&proxy, &get("/bad", "")) {
        assert_eq!(response.status, 598);
    }
    proxy.access_log(2);
    for response in on_both(&proxy, &get("/bad", "")) {
        assert_eq!((response.status, response.text().as_str()), (502, "open"));
        assert_eq!(response.field("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(response.field("x-why"), Some("/bad"));
    }
    for response in on_both(&proxy, &get("/good", "")) {
        assert_eq!(response.status, 200);
    }
    assert_eq!(node.take().len(), 4);
}

#[test]
fn traffic_is_split_by_weight() {
    let (own, other) = (Node::always("own"), Node::always("other"));
    let proxy = start_with(
        own.address,
        "{ traffic-split: { rules: [{ match: [{ vars: [[arg_a, ==, b]] }], \
         weighted_upstreams: [{ upstream_id: next, weight: 3 }, { weight: 1 }] }] } }",
        &format!(", {{ id: next, nodes: {{ \"{}\": 1 }} }}", other.address),
    );
    for _ in 0..4 {
        on_both(&proxy, &get("/?a=b", ""));
    }
    assert_eq!((own.take().len(), other.take().len()), (2, 6));
    on_both(&proxy, &get("/", ""));
    assert_eq!((own.take().len(), other.take().len()), (2, 0));
}

/// It has probes, connections and metrics of its own, which a reload that is about others leaves alone.
#[test]
fn an_upstream_in_place_is_one_as_others_are() {
    let (own, other, dead) = (Node::always("own"), Node::always("other"), unused_address());
    let id = "route:all:traffic-split:0:0";
    let split = format!(
        "{{ traffic-split: {{ rules: [{{ weighted_upstreams: [{{ upstream: {{ retries: 0, \
         nodes: {{ \"{}\": 1, \"{dead}\": 1 }}, checks: {{ active: {{ type: tcp, \
         unhealthy: {{ interval: 0.02, tcp_failures: 1 }} }} }} }} }}] }}] }} }}",
        other.address
    );
    let proxy = start_with(own.address, &split, "");
    let down = format!("tandem_upstream_node_up{{upstream=\"{id}\",node=\"{dead}\"}} 0\n");
    eventually("the dead node is out", || {
        proxy.admin("/metrics").text().contains(&down).then_some(())
    });
    let mut clients = LANES.map(|lane| Client::connect(proxy.address(lane)));
    let mut ask_all = || {
        for client in &mut clients {
            let statuses = [(); 3].map(|()| client.ask(get("/", "")).status);
            assert_eq!(statuses, [200; 3]);
        }
    };
    ask_all();
    proxy.access_log(6);
    let more = format!(", {{ id: more, nodes: {{ \"{dead}\": 1 }} }}");
    proxy.reload(&config(own.address, &split, &more)).expect("applied");
    ask_all();
    assert_eq!((own.take().len(), other.take().len()), (0, 12));
    let connects = format!("tandem_upstream_connects_total{{upstream=\"{id}\"");
    let connected = format!("{connects},result=\"connected\"}}");
    proxy.check_metric(&connected, 2.0);
}

#[test]
fn a_rewrite_sees_what_the_node_answered_and_leaves_what_has_no_body_without_one() {
    let node = Node::scripted(|seen| match seen.line().contains("/304") {
        true => Reply::Bytes(b"HTTP/1.1 304 Not Modified\r\netag: x\r\n\r\n".to_vec()),
        false => Reply::Bytes(b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n".to_vec()),
    });
    let rewrite = "{ response-rewrite: { status_code: 200, body: new, headers: { set: \
                   { x-us: \"$upstream_status $upstream_addr $balancer_ip:$balancer_port\" } }, vars: [[upstream_status, \">\", 300], [msec, \">\", 1000000000]] } }";
    let proxy = start(node.address, rewrite);
    for response in on_both(&proxy, &get("/404", "")) {
        let told = (response.status, response.text(), response.field("x-us").map(str::to_owned));
        let of_node = format!("404 {0} {0}", node.address);
        assert_eq!(told, (200, "new".to_owned(), Some(of_node)));
    }
    for response in on_both(&proxy, &get("/304", "if-none-match: x\r\n")) {
        assert_eq!(response.status, 304);
        assert!(response.field("x-us").is_some_and(|us| us.starts_with("304 ")));
    }
}

#[test]
fn an_upstream_without_nodes_is_one_without_nodes_just_now() {
    let proxy = TestProxy::start(&format!(
        "{LISTENERS}routes: [{{ id: all, uri: /*, upstream_id: app }}]\n\
         upstreams: [{{ id: app, nodes: {{}} }}]\n"
    ));
    for response in on_both(&proxy, &get("/", "")) {
        assert_eq!(response.status, 503);
    }
}
