//! After what a request goes to another node, and after what it does not, on both lanes.

use std::net::SocketAddr;

use proxy::test_support::{Client, Node, Reply, TestProxy, unused_address};

use crate::lane_pair::{LANES, to_upstream};

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi";
const PUT: &str = "PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi";
/// A short wait for the response.
const HASTY: &str = "timeout: { connect: 5, send: 5, read: 0.3 },";
const RETRIES: &str = "tandem_upstream_retries_total{upstream=\"app\"}";
const REFUSED: &str = "tandem_upstream_retries_refused_total{upstream=\"app\"}";

/// To an upstream with these keys, that tries `first` before `second`.
fn proxy(keys: &str, first: SocketAddr, second: SocketAddr) -> TestProxy {
    TestProxy::start(&yaml(keys, first, second))
}

fn yaml(keys: &str, first: SocketAddr, second: SocketAddr) -> String {
    let node = |address: SocketAddr, priority| {
        let (host, port) = (address.ip(), address.port());
        format!("{{ host: {host}, port: {port}, weight: 1, priority: {priority} }}")
    };
    to_upstream(&format!("{keys} nodes: [{}, {}]", node(first, 1), node(second, 0)))
}

fn ask(proxy: &TestProxy, lane: &str, request: &str) -> (u16, String) {
    let response = Client::connect(proxy.address(lane)).ask(request);
    (response.status, response.text())
}

fn answering(status: &'static str) -> Node {
    Node::scripted(move |_| {
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: 5\r\n\r\nfirst");
        Reply::Bytes(head.into_bytes())
    })
}

/// Reads a request and closes, having said `begun`.
fn closing(begun: &'static str) -> Node {
    Node::scripted(move |_| Reply::Close(begun.as_bytes().to_vec()))
}

fn silent() -> Node {
    Node::scripted(|_| Reply::Bytes(Vec::new()))
}

#[test]
fn a_request_that_a_node_left_unanswered_goes_to_the_next_if_it_may_be_repeated() {
    let good = Node::always("good");
    for (first, lost) in [(closing(""), 502), (closing("HTTP/1.1 200"), 502), (silent(), 504)] {
        let proxy = proxy(HASTY, first.address, good.address);
        for lane in LANES {
            assert_eq!(ask(&proxy, lane, GET), (200, "good".to_owned()), "{lane}");
            assert_eq!((first.take().len(), good.take().len()), (1, 1), "{lane}");
            for request in [POST, PUT] {
                assert_eq!(ask(&proxy, lane, request).0, lost, "{lane} {request}");
                assert_eq!((first.take().len(), good.take().len()), (1, 0), "{lane} {request}");
            }
        }
        proxy.check_metric(RETRIES, 2.0);
    }
}

#[test]
fn what_is_not_named_is_not_retried() {
    let good = Node::always("good");
    let (reset, late) = (closing(""), silent());
    let (dead, failing) = (unused_address(), answering("503 Busy"));
    let cases = [
        ("connect-failure", [Some(200), None, None, None]),
        ("reset", [None, Some(200), None, None]),
        ("timeout", [None, None, Some(200), None]),
        ("gateway-error", [None, None, None, Some(200)]),
        ("503", [None, None, None, Some(200)]),
        ("5xx", [Some(200); 4]),
        ("", [None; 4]),
    ];
    for (words, outcomes) in cases {
        let nodes = [dead, reset.address, late.address, failing.address];
        for ((node, status), otherwise) in nodes.into_iter().zip(outcomes).zip([502, 502, 504, 503])
        {
            let proxy = proxy(&format!("retry_on: [{words}], {HASTY}"), node, good.address);
            for lane in LANES {
                let expected = status.unwrap_or(otherwise);
                assert_eq!(ask(&proxy, lane, GET).0, expected, "{words} {otherwise} {lane}");
            }
        }
    }
}

#[test]
fn a_request_that_never_left_goes_to_the_next_node_whatever_it_is() {
    let good = Node::always("good");
    let proxy =
        proxy("retry_budget: { percent: 0, min_per_second: 0 },", unused_address(), good.address);
    for lane in LANES {
        for request in [GET, POST, PUT] {
            assert_eq!(ask(&proxy, lane, request), (200, "good".to_owned()), "{lane} {request}");
        }
    }
    proxy.check_metric(REFUSED, 0.0);
}

#[test]
fn the_last_answer_counts_if_no_node_has_a_better_one() {
    let (first, second) = (answering("503 Busy"), answering("500 No"));
    let proxy = proxy("retry_on: [5xx],", first.address, second.address);
    for lane in LANES {
        assert_eq!(ask(&proxy, lane, GET), (500, "first".to_owned()), "{lane}");
        assert_eq!((first.take().len(), second.take().len()), (1, 1), "{lane}");
        assert_eq!(ask(&proxy, lane, POST).0, 503, "{lane}");
        assert_eq!((first.take().len(), second.take().len()), (1, 0), "{lane}");
    }
    let lines = proxy.access_log(4);
    assert!(lines[0].contains(&second.address.to_string()), "{}", lines[0]);
}

#[test]
fn a_budget_that_is_used_up_ends_retries() {
    let good = Node::always("good");
    for lane in LANES {
        let first = closing("");
        let budget = "retry_budget: { percent: 0, min_per_second: 1 },";
        let proxy = proxy(budget, first.address, good.address);
        let statuses: Vec<_> = (0..15).map(|_| ask(&proxy, lane, GET).0).collect();
        let retried = statuses.iter().filter(|status| **status == 200).count();
        // Ten at once, and one more for each second that this takes.
        assert!((10..15).contains(&retried), "{lane} {statuses:?}");
        assert_eq!(statuses[..10], [200; 10], "{lane}");
        proxy.check_metric(RETRIES, retried as f64);
        proxy.check_metric(REFUSED, (15 - retried) as f64);
    }
}

/// They are no requests, so that they take nothing from what those have earned.
#[test]
fn connections_that_go_to_another_node_leave_the_budget_alone() {
    let good = Node::always("good");
    let flaky = Node::scripted(|seen| match seen.field("x-fail") {
        Some(_) => Reply::Close(Vec::new()),
        None => Reply::ok("first"),
    });
    let yaml = |first: SocketAddr| {
        let l4 = "listeners:\n- { name: l4, address: \"127.0.0.1:0\", protocol: tcp }\n";
        let stream = "stream_routes: [{ id: l4, upstream_id: app }]\nupstreams:";
        let budget = "retry_budget: { percent: 50, min_per_second: 0 },";
        let yaml = yaml(budget, first, good.address);
        yaml.replace("listeners:\n", l4).replace("upstreams:", stream)
    };
    let proxy = TestProxy::start(&yaml(unused_address()));
    for _ in 0..20 {
        assert_eq!(Client::connect(proxy.address("l4")).ask(GET).text(), "good");
    }
    proxy.check_metric(RETRIES, 20.0);
    proxy.reload(&yaml(flaky.address)).expect("applied");
    let mut client = proxy.client();
    (0..8).for_each(|_| assert_eq!(client.ask(GET).text(), "first"));
    let failing = "GET / HTTP/1.1\r\nhost: a\r\nx-fail: 1\r\n\r\n";
    assert_eq!(client.ask(failing).text(), "good");
}

#[test]
fn a_share_of_the_requests_may_be_retried() {
    let good = Node::always("good");
    let flaky = Node::scripted(|seen| match seen.field("x-fail") {
        Some(_) => Reply::Close(Vec::new()),
        None => Reply::ok("first"),
    });
    let failing = "GET / HTTP/1.1\r\nhost: a\r\nx-fail: 1\r\n\r\n";
    for lane in LANES {
        let budget = "retry_budget: { percent: 50, min_per_second: 0 },";
        let proxy = proxy(budget, flaky.address, good.address);
        let mut client = Client::connect(proxy.address(lane));
        (0..8).for_each(|_| assert_eq!(client.ask(GET).text(), "first", "{lane}"));
        let statuses: Vec<_> = (0..12).map(|_| client.ask(failing).status).collect();
        let retried = statuses.iter().filter(|status| **status == 200).count();
        // Four for the eight; of those that fail each earns a half, as do retries.
        assert!((4..12).contains(&retried), "{lane} {statuses:?}");
        assert_eq!(statuses[..4], [200; 4], "{lane}");
    }
}
