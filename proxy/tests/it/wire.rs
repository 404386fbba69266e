//! What goes over the wire, on both sides.

use std::{
    net::TcpListener,
    sync::{Mutex, PoisonError},
};

use proxy::test_support::{Client, Node, Reply, TestProxy, gives_up_connections, unused_address};

const GET: &str = "GET / HTTP/1.1\r\nhost: example.com\r\n\r\n";

#[test]
fn forwards_a_request_and_its_response() {
    let node = Node::always("hello");
    let proxy = TestProxy::to(&[node.address]);
    let mut client = proxy.client();
    let response = client.ask(
        "GET /a%20b?q=1&r HTTP/1.1\r\nHost: Example.com:80\r\nX-One: 1\r\nx-one: 2\r\nUser-Agent: t\r\n\r\n",
    );
    assert_eq!((response.status, response.text().as_str()), (200, "hello"));
    let seen = node.only();
    assert_eq!(seen.line(), "GET /a%20b?q=1&r HTTP/1.1");
    assert_eq!(seen.field("host"), Some("Example.com:80"));
    assert!(seen.head.contains("\r\nx-one: 1\r\nx-one: 2\r\n"), "{}", seen.head);
    let local = client.stream().local_addr().expect("an address").ip().to_string();
    assert_eq!(seen.field("x-forwarded-for"), Some(&*local));
    assert_eq!(seen.field("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.field("x-forwarded-host"), Some("Example.com:80"));
    assert_eq!(seen.field("x-real-ip"), Some(&*local));
    assert!(seen.field("via").is_some_and(|via| via.starts_with("1.1 tandem-")), "{}", seen.head);
    assert_eq!(seen.field("connection"), None);
}

#[test]
fn keeps_connections_on_both_sides() {
    let node = Node::always("x");
    let proxy = TestProxy::to(&[node.address]);
    let mut client = proxy.client();
    for _ in 0..5 {
        assert_eq!(client.ask(GET).status, 200);
    }
    let mut other = proxy.client();
    assert_eq!(other.ask(GET).status, 200);
    let connections: Vec<_> = node.seen().iter().map(|seen| seen.connection).collect();
    let reused = "tandem_upstream_pool_checkouts_total{upstream=\"app\",result=\"reused\"}";
    if gives_up_connections() {
        assert_eq!(connections.last(), Some(&1));
        proxy.check_metric(reused, 4.0);
    } else {
        assert_eq!(connections, [0; 6]);
        proxy.check_metric(reused, 5.0);
    }
}

#[test]
fn serves_pipelined_requests_in_order() {
    let node = Node::scripted(|seen| Reply::ok(seen.line()));
    let proxy = TestProxy::to(&[node.address]);
    let mut client = proxy.client();
    let requests: String =
        (0..20).map(|n| format!("GET /{n} HTTP/1.1\r\nhost: a\r\n\r\n")).collect();
    client.send(requests);
    for n in 0..20 {
        assert_eq!(client.response().text(), format!("GET /{n} HTTP/1.1"));
    }
}

#[test]
fn passes_bodies_of_either_framing() {
    let node = Node::scripted(|seen| {
        let body = String::from_utf8_lossy(&seen.body).into_owned();
        Reply::Bytes(
            format!(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
                body.len()
            )
            .into_bytes(),
        )
    });
    let proxy = TestProxy::to(&[node.address]);
    let mut client = proxy.client();
    let response = client.ask("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello");
    assert_eq!(response.text(), "hello");
    let response = client.ask(
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nt: 1\r\n\r\n",
    );
    assert_eq!(
        response.text(),
        "5\r\nabcde\r\n0\r\n\r\n".to_owned().replace("5\r\nabcde", "3\r\nabc\r\n2\r\nde")
    );
    assert_eq!(client.ask(GET).status, 200);
    let seen = node.seen();
    assert_eq!(seen[0].field("content-length"), Some("5"));
    assert_eq!(seen[1].field("transfer-encoding"), Some("chunked"));
    assert_eq!(seen[1].field("content-length"), None);
}

#[test]
fn moves_large_bodies_both_ways_unchanged() {
    const SIZE: usize = 8 << 20;
    let node = Node::scripted(|seen| {
        let mut bytes =
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", seen.body.len()).into_bytes();
        bytes.extend_from_slice(&seen.body);
        Reply::Bytes(bytes)
    });
    let proxy = TestProxy::to(&[node.address]);
    let body: Vec<u8> = (0..SIZE).map(|at| (at * 31 + at / 251) as u8).collect();
    let mut request =
        format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {SIZE}\r\n\r\n").into_bytes();
    request.extend_from_slice(&body);
    let response = proxy.client().ask(request);
    assert!(response.body == body, "the body changed on its way");
}

#[test]
fn head_and_bodyless_statuses_have_no_body() {
    let node = Node::scripted(|seen| match seen.line().split(' ').nth(1) {
        Some("/204") => Reply::Bytes(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
        Some("/304") => {
            Reply::Bytes(b"HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n".to_vec())
        }
        _ => Reply::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n".to_vec()),
    });
    let proxy = TestProxy::to(&[node.address]);
    let mut client = proxy.client();
    client.send("HEAD / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(client.response_to("HEAD").field("content-length"), Some("1234"));
    assert_eq!(client.ask("GET /204 HTTP/1.1\r\nhost: a\r\n\r\n").status, 204);
    assert_eq!(client.ask("GET /304 HTTP/1.1\r\nhost: a\r\n\r\n").status, 304);
    client.send("HEAD /none HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(client.response_to("HEAD").status, 200);
    if !gives_up_connections() {
        assert_eq!(node.seen().iter().map(|seen| seen.connection).max(), Some(0));
    }
}

#[test]
fn a_dead_node_is_passed_over_and_none_left_is_502() {
    let node = Node::always("alive");
    let proxy = TestProxy::to(&[unused_address(), node.address]);
    let mut client = proxy.client();
    for _ in 0..4 {
        assert_eq!(client.ask(GET).text(), "alive");
    }
    let proxy = TestProxy::to(&[unused_address(), unused_address()]);
    let response = proxy.client().ask(GET);
    assert_eq!(response.status, 502);
    assert_eq!(response.text(), r#"{"error_msg":"502 Bad Gateway"}"#);
    assert_eq!(response.field("server"), Some("tandem"));
    let refused = "tandem_upstream_connects_total{upstream=\"app\",result=\"refused\"}";
    proxy.check_metric(refused, 2.0);
}

#[test]
fn nodes_that_close_kept_connections_cost_no_request() {
    // Each connection answers once and closes without saying so.
    let node =
        Node::scripted(|_| Reply::Close(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec()));
    let proxy = TestProxy::to(&[node.address]);
    let mut client = proxy.client();
    for _ in 0..50 {
        assert_eq!(client.ask(GET).status, 200);
    }
}

/// A node that closes without a word on `/once` where it has answered before, on `/never` always.
fn silent_node() -> Node {
    let answered = Mutex::new(Vec::new());
    Node::scripted(move |seen| {
        let mut answered = answered.lock().unwrap_or_else(PoisonError::into_inner);
        let path = seen.line().split(' ').nth(1);
        let is_known = answered.contains(&seen.connection);
        answered.push(seen.connection);
        match path {
            Some("/never") => Reply::Close(Vec::new()),
            Some("/once") if is_known => Reply::Close(Vec::new()),
            _ => Reply::ok("answered"),
        }
    })
}

#[test]
fn what_a_node_read_before_it_closed_is_sent_again_only_if_it_may_be_and_only_once() {
    // The request, its status, how often the node sees it.
    let cases = [
        ("GET /once HTTP/1.1\r\nhost: a\r\n\r\n", 200, 2),
        ("DELETE /once HTTP/1.1\r\nhost: a\r\n\r\n", 200, 2),
        ("POST /once HTTP/1.1\r\nhost: a\r\n\r\n", 502, 1),
        ("POST /once HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody", 502, 1),
        ("PUT /once HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody", 502, 1),
        (
            "PUT /once HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
            502,
            1,
        ),
        ("GET /never HTTP/1.1\r\nhost: a\r\n\r\n", 502, 2),
        ("POST /never HTTP/1.1\r\nhost: a\r\n\r\n", 502, 1),
    ];
    let samples = [
        "tandem_upstream_pool_checkouts_total{upstream=\"app\",result=\"stale\"}",
        "tandem_upstream_retries_total{upstream=\"app\"}",
    ];
    let node = silent_node();
    let proxy = TestProxy::to(&[node.address]);
    let mut client = proxy.client();
    let mut retries = 0;
    for (request, status, times) in cases {
        // Two at least, so that the next goes over a connection that was kept.
        let kept = if gives_up_connections() { 4 } else { 2 };
        for _ in 0..kept {
            assert_eq!(client.ask(GET).status, 200);
        }
        let last = node.take().last().expect("a request").connection;
        assert_eq!(client.ask(request).status, status, "{request}");
        let connections: Vec<_> = node.take().iter().map(|seen| seen.connection).collect();
        let expected: Vec<_> = (last..).take(times).collect();
        assert_eq!(connections, expected, "{request}");
        retries += times - 1;
        for sample in samples {
            proxy.check_metric(sample, retries as f64);
        }
    }
}

#[test]
fn a_body_that_waits_to_be_asked_for_is_asked_for_and_forwarded() {
    let node = Node::always("got it");
    let proxy = TestProxy::to(&[node.address]);
    let mut client = proxy.client();
    for (framing, body, sent) in [
        ("content-length: 5", "hello", "hello"),
        ("transfer-encoding: chunked", "5\r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"),
    ] {
        client.send(format!(
            "POST /x HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\n{framing}\r\n\r\n"
        ));
        let asked = client.until(b"\r\n\r\n");
        assert_eq!(String::from_utf8_lossy(&asked), "HTTP/1.1 100 Continue\r\n\r\n");
        let response = client.ask(body);
        assert_eq!((response.status, response.text().as_str()), (200, "got it"));
        // The proxy has answered the expectation: the node is not to do so again.
        let seen = node.take().remove(0);
        assert_eq!((seen.line(), seen.field("expect")), ("POST /x HTTP/1.1", None));
        assert!(seen.head.contains(&format!("\r\n{framing}")), "{}", seen.head);
        assert_eq!(String::from_utf8_lossy(&seen.body), sent);
    }
    assert_eq!(node.heard().matches("hello").count(), 2);
}

#[test]
fn a_response_that_breaks_off_breaks_off_downstream_too() {
    let node = Node::scripted(|_| {
        Reply::Close(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf".to_vec())
    });
    let proxy = TestProxy::to(&[node.address]);
    let mut client = proxy.client();
    client.send(GET);
    let received = String::from_utf8(client.rest()).expect("text");
    assert!(received.ends_with("\r\n\r\nhalf"), "{received}");
    assert!(proxy.access_log(1)[0].contains(" SD"), "{:?}", proxy.access_log(1));
}

#[test]
fn a_response_until_close_is_delimited_for_the_downstream() {
    let node = Node::scripted(|_| Reply::Close(b"HTTP/1.1 200 OK\r\n\r\nuntil close".to_vec()));
    let proxy = TestProxy::to(&[node.address]);
    let mut client = proxy.client();
    for _ in 0..2 {
        let response = client.ask(GET);
        assert_eq!(response.field("transfer-encoding"), Some("chunked"));
        assert_eq!(response.text(), "until close");
    }
}

#[test]
fn a_downstream_may_close_its_sending_side_after_the_request() {
    let node = Node::always("still here");
    let proxy = TestProxy::to(&[node.address]);
    let mut client = proxy.client();
    client.send(GET).send(GET);
    client.stream().shutdown(std::net::Shutdown::Write).expect("half close");
    assert_eq!(client.response().text(), "still here");
    assert_eq!(client.response().text(), "still here");
    client.closed();
}

#[test]
fn http_1_0_is_answered_in_its_own_terms() {
    let node = Node::scripted(|_| {
        Reply::Bytes(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_vec(),
        )
    });
    let proxy = TestProxy::to(&[node.address]);
    let mut client = proxy.client();
    let response = client.ask("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(response.field("transfer-encoding"), None);
    assert_eq!(response.text(), "ok");
    client.closed();
    // Its own answers as well.
    let proxy = TestProxy::to(&[unused_address()]);
    for (fields, option) in [("", "close"), ("connection: keep-alive\r\n", "keep-alive")] {
        let mut client = proxy.client();
        let answer = client.send(format!("HEAD / HTTP/1.0\r\n{fields}\r\n")).response_to("HEAD");
        assert_eq!((answer.status, answer.field("connection")), (502, Some(option)));
        assert!(answer.head.starts_with("HTTP/1.1 "), "{}", answer.head);
    }
}

/// It ends with the connection, so that another end has to look different.
#[test]
fn what_breaks_off_for_http_1_0_is_reset() {
    // Enough for the head to have left.
    let body = "x".repeat(1 << 20);
    for end in ["", "4\r\nhalf\r\nx\r\n"] {
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked";
        let answer = format!("{head}\r\n\r\n{:x}\r\n{body}\r\n{end}", body.len());
        let node = Node::scripted(move |seen| match seen.line().contains("/whole") {
            true => Reply::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec()),
            false => Reply::Close(answer.clone().into_bytes()),
        });
        let proxy = TestProxy::to(&[node.address]);
        let mut client = proxy.client();
        // By then its messages may be delivered.
        for _ in 0..3 {
            assert_eq!(
                client.ask("GET /whole HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").text(),
                "ok"
            );
        }
        client.send("GET / HTTP/1.0\r\n\r\n");
        let (received, is_reset) = client.rest_and_reset();
        assert!(received.starts_with(b"HTTP/1.1 200 OK\r\n") && is_reset, "{end}");
    }
}

#[test]
fn a_loop_is_refused() {
    // A node that is the proxy itself.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let yaml = TestProxy::yaml(&[address]).replace("127.0.0.1:0", &address.to_string());
    let proxy = TestProxy::start(&yaml);
    assert_eq!(proxy.client().ask(GET).status, 508);
}

#[test]
fn max_forwards_counts_down_where_it_means_something() {
    let node = Node::always("x");
    let proxy = TestProxy::to(&[node.address]);
    let mut client = proxy.client();
    for (method, fields, status, seen) in [
        ("OPTIONS", "max-forwards: 10", 200, Some("9")),
        ("TRACE", "Max-Forwards: 01", 200, Some("0")),
        ("OPTIONS", "max-forwards: 99999999999999999999", 200, Some("18446744073709551614")),
        ("GET", "max-forwards: 0", 200, Some("0")),
        ("POST", "max-forwards: x", 200, Some("x")),
        ("OPTIONS", "max-forwards: 0", 204, None),
        ("TRACE", "max-forwards: 00", 405, None),
        ("OPTIONS", "max-forwards: +1", 400, None),
        ("OPTIONS", "max-forwards:", 400, None),
        ("TRACE", "max-forwards: 5\r\nmax-forwards: 5", 400, None),
    ] {
        let request = format!("{method} / HTTP/1.1\r\nhost: a\r\n{fields}\r\n\r\n");
        assert_eq!(client.ask(&request).status, status, "{method} {fields}");
        let forwarded = node.take();
        assert_eq!(forwarded.len(), usize::from(status == 200), "{method} {fields}");
        assert_eq!(forwarded.first().and_then(|seen| seen.field("max-forwards")), seen);
    }
}

#[test]
fn options_of_the_server_are_ours_to_answer() {
    let node = Node::always("x");
    let proxy = TestProxy::to(&[node.address]);
    let mut client = proxy.client();
    for target in ["*", "http://a"] {
        let answer = client.ask(format!("OPTIONS {target} HTTP/1.1\r\nhost: a\r\n\r\n"));
        assert_eq!((answer.status, answer.text().as_str()), (204, ""), "{target}");
        assert_eq!(
            answer.field("allow"),
            Some("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
            "{target}"
        );
    }
    assert!(node.seen().is_empty());
}

#[test]
fn upgrades_and_connect_are_refused_until_they_are_built() {
    let node = Node::always("x");
    let proxy = TestProxy::to(&[node.address]);
    let mut client = proxy.client();
    let response = client.ask(
        "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade, x-hop\r\nupgrade: websocket\r\nx-hop: 1\r\nx-end: 2\r\n\r\n",
    );
    assert_eq!(response.status, 200);
    let seen = node.only();
    assert_eq!(seen.field("upgrade"), None);
    assert_eq!(seen.field("x-hop"), None);
    assert_eq!(seen.field("x-end"), Some("2"));
    let response = client.ask("CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n\r\n");
    assert_eq!(response.status, 405);
    assert_eq!(node.seen().len(), 1);
}

#[test]
fn bodies_of_refused_requests_do_not_cost_the_connection() {
    let node = Node::always("x");
    let yaml = format!(
        "{}consumers: [{{ username: alice, plugins: {{ key-auth: {{ key: alice-secret }} }} }}]\n",
        TestProxy::yaml(&[node.address])
            .replace("upstream_id: app }]", "upstream_id: app, plugins: { key-auth: {} } }]")
    );
    let proxy = TestProxy::start(&yaml);
    let mut client = proxy.client();
    let refused = client.ask("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello");
    assert_eq!(refused.status, 401);
    assert_eq!(refused.field("www-authenticate"), Some("apikey realm=\"key\""));
    let refused =
        client.ask("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n");
    assert_eq!(refused.status, 401);
    assert_eq!(client.ask("GET / HTTP/1.1\r\nhost: a\r\napikey: wrong\r\n\r\n").status, 401);
    let response = client.ask("GET / HTTP/1.1\r\nhost: a\r\napikey: alice-secret\r\n\r\n");
    assert_eq!(response.status, 200);
    assert_eq!(node.only().field("x-consumer-username"), Some("alice"));
    // Too much to read for nothing, and a body that waits to be asked for: answered and closed.
    for fields in ["content-length: 10000000", "content-length: 5\r\nexpect: 100-continue"] {
        let mut client = proxy.client();
        let response = client.ask(format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n\r\n"));
        assert_eq!((response.status, response.field("connection")), (401, Some("close")));
        client.closed();
    }
}

#[test]
fn a_listener_is_drained_without_losing_a_request() {
    let node = Node::always("x");
    let proxy = TestProxy::to(&[node.address]);
    let address = proxy.address("web");
    let (mut idle, mut busy) = (proxy.client(), proxy.client());
    assert_eq!(idle.ask(GET).status, 200);
    busy.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nx");
    proxy.check_metric("tandem_downstream_connections_active{listener=\"web\"}", 2.0);
    proxy.shutdown().drain();
    idle.closed();
    let response = busy.send("y").response();
    assert_eq!((response.status, response.field("connection")), (200, Some("close")));
    busy.closed();
    proxy.stop().expect("a clean end");
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[test]
fn our_own_answers_keep_the_connection() {
    let yaml = TestProxy::yaml(&[unused_address()]).replace("uri: /*", "uri: /only");
    let proxy = TestProxy::start(&yaml);
    let mut client = proxy.client();
    let response = client.ask(GET);
    assert_eq!(
        (response.status, response.text()),
        (404, r#"{"error_msg":"404 Route Not Found"}"#.to_owned())
    );
    client.send("HEAD / HTTP/1.1\r\nhost: a\r\n\r\n");
    let head = client.response_to("HEAD");
    assert_eq!((head.status, head.field("content-length")), (404, Some("35")));
    assert_eq!(client.ask("GET /only HTTP/1.1\r\nhost: a\r\n\r\n").status, 502);
    assert_eq!(client.ask(GET).status, 404);
    assert_eq!(proxy.access_log(4).len(), 4);
}

#[test]
fn connects_to_nothing_it_was_not_told_to() {
    let node = Node::always("x");
    let proxy = TestProxy::to(&[node.address]);
    let mut client = Client::connect(proxy.address("web"));
    assert_eq!(client.ask("GET http://evil.example/x HTTP/1.1\r\nhost: a\r\n\r\n").status, 200);
    let seen = node.only();
    assert_eq!((seen.line(), seen.field("host")), ("GET /x HTTP/1.1", Some("evil.example")));
}

#[test]
fn a_connection_that_rested_goes_on_as_before() {
    let node = Node::always("x");
    let proxy = TestProxy::to(&[node.address]);
    let mut client = proxy.client();
    for _ in 0..2 {
        assert_eq!(client.ask(GET).status, 200);
        // Longer than `REST_AFTER`; nothing to be seen tells that it has passed.
        std::thread::park_timeout(std::time::Duration::from_millis(700));
    }
    client.send("GET / HTTP/1.1\r\nhost: a\r\n");
    assert_eq!(client.send("\r\n").response().status, 200);
    std::thread::park_timeout(std::time::Duration::from_millis(700));
    proxy.shutdown().drain();
    client.closed();
}

#[test]
fn a_node_that_stops_reading_the_request_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let yaml = TestProxy::yaml(&[listener.local_addr().expect("an address")]);
    let proxy = TestProxy::start(&format!("{yaml}timeouts: {{ send: 300ms }}\n"));
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000\r\n\r\n");
    let mut writer = client.stream().try_clone().expect("a second handle");
    let writing = std::thread::spawn(move || {
        // Ends when the proxy closes.
        while std::io::Write::write_all(&mut writer, &[b'x'; 65536]).is_ok() {}
    });
    let (_node, _) = listener.accept().expect("the proxy dials");
    assert_eq!(client.response().status, 504);
    writing.join().expect("no panic");
}
