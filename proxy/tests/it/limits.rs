//! Every limit and every wait, seen from outside: what the downstream gets, what is logged, what is
//! counted.

use std::{
    io::Write,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use proxy::test_support::{
    Client, Node, PATIENCE, Reply, TestProxy, check_refused, eventually, gives_up_connections,
    unused_address,
};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use socket2::{Domain, SockRef, Socket, Type};

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

/// A proxy for everything to `nodes`, with one more section.
fn with(nodes: &[SocketAddr], section: &str) -> TestProxy {
    TestProxy::start(&format!("{}{section}\n", TestProxy::yaml(nodes)))
}

/// A proxy with a tunnel `l4` to `node`.
fn tunnel(node: SocketAddr, datapath: &str, section: &str) -> TestProxy {
    TestProxy::start(&format!(
        "listeners: [{{ name: l4, address: \"127.0.0.1:0\", protocol: tcp }}]\n\
         stream_routes: [{{ id: l4, datapath: {datapath}, upstream_id: app }}]\n\
         upstreams: [{{ id: app, nodes: {{ \"{node}\": 1 }} }}]\n{section}\n"
    ))
}

/// The words of an access-log line that say how it ended: status and end code.
fn outcome(line: &str) -> (String, String) {
    let words: Vec<_> = line.split(' ').collect();
    assert_eq!(words.len(), 19, "{line}");
    (words[9].to_owned(), words[18].to_owned())
}

#[track_caller]
fn check_outcome(proxy: &TestProxy, at: usize, status: &str, end: &str) {
    let line = &proxy.access_log(at + 1)[at];
    assert_eq!(outcome(line), (status.to_owned(), end.to_owned()), "{line}");
}

/// Of all faults exactly this one was counted, so often.
#[track_caller]
fn check_fault(proxy: &TestProxy, label: &str, count: u32) {
    proxy.check_metric(&format!("tandem_faults_total{{fault=\"{label}\"}}"), f64::from(count));
    let page = proxy.admin("/metrics").text();
    let counted: Vec<_> = page
        .lines()
        .filter(|line| line.starts_with("tandem_faults_total{") && !line.ends_with(" 0"))
        .collect();
    assert_eq!(counted, [format!("tandem_faults_total{{fault=\"{label}\"}} {count}")]);
}

#[test]
fn heads_have_limits() {
    let node = Node::always("x");
    let section = "limits: { head_size_max: 1KiB, head_fields_max: 5, target_size_max: 64B }";
    for (request, status, label) in [
        (
            format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(1024)),
            431,
            "head_too_large",
        ),
        // The end of it never comes, and need not.
        (format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}", "y".repeat(1024)), 431, "head_too_large"),
        (
            format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(5)),
            431,
            "head_too_large",
        ),
        (format!("GET / HTTP/1.1\r\nhost: a\r\n{}", "x: y\r\n".repeat(6)), 431, "head_too_large"),
        (format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(64)), 414, "target_too_long"),
        (format!("GET /{}", "x".repeat(64)), 414, "target_too_long"),
        (format!("GET /{}", "x".repeat(2000)), 414, "target_too_long"),
        ("GET / HTTP/2.0\r\nhost: a\r\n\r\n".to_owned(), 505, "version_unsupported"),
        (
            "GET / HTTP/1.1\r\nhost: a\r\nexpect: 200-ok\r\n\r\n".to_owned(),
            417,
            "expectation_refused",
        ),
        ("CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n".to_owned(), 405, "method_refused"),
    ] {
        let proxy = with(&[node.address], section);
        let mut client = proxy.client();
        let response = client.ask(&request);
        assert_eq!(
            (response.status, response.field("connection")),
            (status, Some("close")),
            "{request:?}"
        );
        client.closed();
        check_outcome(&proxy, 0, &status.to_string(), "PR");
        check_fault(&proxy, label, 1);
    }
    assert_eq!(node.heard(), "");
    // Exactly at the limit.
    let proxy = with(&[node.address], section);
    let mut client = proxy.client();
    let fields = "x: y\r\n".repeat(4);
    assert_eq!(client.ask(format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n")).status, 200);
    let target = "x".repeat(63);
    assert_eq!(client.ask(format!("GET /{target} HTTP/1.1\r\nhost: a\r\n\r\n")).status, 200);
    let head = "GET / HTTP/1.1\r\nhost: a\r\nx: \r\n\r\n";
    let value = "y".repeat(1024 - head.len());
    assert_eq!(client.ask(head.replace("x: ", &format!("x: {value}"))).status, 200);
}

#[test]
fn bodies_have_a_limit() {
    let node = Node::always("x");
    let proxy = with(&[node.address], "limits: { body_size_max: 10B }");
    let fixed = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length:";
    let chunked = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut client = proxy.client();
    assert_eq!(client.ask(format!("{fixed} 10\r\n\r\n0123456789")).status, 200);
    assert_eq!(client.ask(format!("{chunked}a\r\n0123456789\r\n0\r\n\r\n")).status, 200);
    assert_eq!(node.take().len(), 2);
    // Refused by its length alone: the body is read and the connection goes on.
    assert_eq!(client.ask(format!("{fixed} 11\r\n\r\n0123456789a")).status, 413);
    assert_eq!(client.ask(GET).status, 200);
    // All of it in one packet, and in chunks of which the last is too much.
    for body in ["b\r\n0123456789a\r\n0\r\n\r\n", "a\r\n0123456789\r\n1\r\na\r\n0\r\n\r\n"] {
        let mut client = proxy.client();
        let response = client.ask(format!("{chunked}{body}"));
        assert_eq!(
            (response.status, response.field("connection")),
            (413, Some("close")),
            "{body:?}"
        );
        client.closed();
    }
    node.take();
    let mut client = proxy.client();
    client.send(format!("{chunked}5\r\n01234\r\n"));
    eventually("the first chunk", || node.heard().ends_with("5\r\n01234\r\n").then_some(()));
    let response = client.ask("6\r\n56789a\r\n0\r\n\r\n");
    assert_eq!((response.status, response.field("connection")), (413, Some("close")));
    client.closed();
    assert_eq!(node.take().len(), 0);
    for at in [2, 4, 5, 6] {
        check_outcome(&proxy, at, "413", "PD");
    }
    check_fault(&proxy, "body_too_large", 4);
}

#[test]
fn a_head_has_a_deadline() {
    let node = Node::always("x");
    let proxy = with(&[node.address], "timeouts: { head: 100ms, idle: 1h }");
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost:");
    let response = client.response();
    assert_eq!((response.status, response.field("connection")), (408, Some("close")));
    client.closed();
    check_outcome(&proxy, 0, "408", "cR");
    // The head of a later request, too, though the connection may be idle for long.
    let mut client = proxy.client();
    assert_eq!(client.ask(GET).status, 200);
    assert_eq!(client.ask("GET").status, 408);
    client.closed();
    check_outcome(&proxy, 2, "408", "cR");
    // Drip by drip is no way around it.
    let mut client = proxy.client();
    let started = Instant::now();
    client.send("GET / HTTP/1.1\r\nx: ");
    while !client.hears_within(Duration::from_millis(20)) {
        client.try_send("y");
        assert!(started.elapsed() < PATIENCE);
    }
    assert_eq!(client.response().status, 408);
    check_fault(&proxy, "head_timeout", 3);
    // Nothing was asked, so nothing is answered.
    proxy.client().closed();
    assert_eq!(proxy.access_log(4).len(), 4);
}

#[test]
fn a_head_that_breaks_off_is_logged() {
    let node = Node::always("x");
    let proxy = TestProxy::to(&[node.address]);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\n");
    client.stream().shutdown(std::net::Shutdown::Write).expect("half close");
    client.closed();
    let line = &proxy.access_log(1)[0];
    assert!(line.contains(" web - - - - - - - 0 0 "), "{line}");
    check_outcome(&proxy, 0, "-", "CR");
    check_fault(&proxy, "head_closed", 1);
}

#[test]
fn a_refused_head_request_gets_no_body() {
    let node = Node::always("x");
    let proxy = TestProxy::to(&[node.address]);
    let broken = "HEAD / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n";
    let answer = String::from_utf8(proxy.client().send(broken).rest()).expect("text");
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.ends_with("\r\n\r\n"), "{answer}");
    check_outcome(&proxy, 0, "400", "PD");
    let proxy = with(&[node.address], "timeouts: { head: 100ms }");
    let target = "x".repeat(9000);
    let fields = "x: y\r\n".repeat(200);
    for (request, status) in [
        ("HEAD / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("\r\nHEAD / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n".to_owned(), 400),
        ("HEAD /#y HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), 400),
        ("HEAD / HTTP/1.1\r\nhost: a\n".to_owned(), 400),
        ("HEAD / HTTP/1.1\r\nhost: a\r\nx".to_owned(), 408),
        (format!("HEAD /{target}"), 414),
        ("HEAD / HTTP/1.1\r\nhost: a\r\nexpect: x\r\n\r\n".to_owned(), 417),
        (format!("HEAD / HTTP/1.1\r\nhost: a\r\n{fields}\r\n"), 431),
        ("HEAD / HTTP/2.0\r\nhost: a\r\n\r\n".to_owned(), 505),
    ] {
        let answer = String::from_utf8(proxy.client().send(&request).rest()).expect("text");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{request:?}: {answer}");
    }
    // A request behind it is another matter.
    let refused = "GET / HTTP/1.1\r\n\r\nHEAD / HTTP/1.1\r\nhost: a\r\n\r\n";
    let answer = String::from_utf8(proxy.client().send(refused).rest()).expect("text");
    assert!(answer.ends_with("}"), "{answer}");
}

/// Nobody has to wait for what is not wanted, and nobody without a key can have a connection wait.
#[test]
fn an_answer_of_ours_does_not_wait_for_a_body_that_does_not_come() {
    let node = Node::always("x");
    let routes = format!(
        "listeners:\n  - {{ name: web, address: \"127.0.0.1:0\" }}\n  \
           - {{ name: hyper, address: \"127.0.0.1:0\", express_lane: false }}\n\
         routes:\n  - {{ id: api, uri: /api, plugins: {{ key-auth: {{}} }}, upstream_id: app }}\n  \
           - {{ id: dead, uri: /dead, upstream_id: dead }}\n\
         consumers: [{{ username: a, plugins: {{ key-auth: {{ key: k }} }} }}]\n\
         upstreams:\n  - {{ id: app, nodes: {{ \"{}\": 1 }} }}\n  \
           - {{ id: dead, nodes: {{ \"{}\": 1 }} }}\n",
        node.address,
        unused_address()
    );
    let proxy = TestProxy::start(&routes);
    for listener in ["web", "hyper"] {
        for (path, status) in [("/api", 401), ("/dead", 502)] {
            for begun in
                ["content-length: 10\r\n\r\nabc", "transfer-encoding: chunked\r\n\r\n5\r\nab"]
            {
                let asked = Instant::now();
                let mut client = Client::connect(proxy.address(listener));
                let answer = client.ask(format!("POST {path} HTTP/1.1\r\nhost: a\r\n{begun}"));
                assert_eq!((answer.status, answer.field("connection")), (status, Some("close")));
                assert!(asked.elapsed() < PATIENCE / 2, "{listener} {path} {begun:?}");
                client.closed();
            }
            // What comes soon costs nobody the connection.
            let mut client = Client::connect(proxy.address(listener));
            client
                .send(format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc"));
            thread::park_timeout(Duration::from_millis(20));
            assert_eq!(client.ask("defghij").status, status);
            assert_eq!(
                client.ask(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).status,
                status
            );
        }
        // However steadily it comes.
        let mut client = Client::connect(proxy.address(listener));
        client.send("POST /api HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
        let asked = Instant::now();
        while !client.hears_within(Duration::from_millis(50)) {
            client.send("1\r\nx\r\n");
            assert!(asked.elapsed() < PATIENCE, "no answer");
        }
        assert_eq!(client.response().status, 401);
    }
    // Whoever sends slowly, and looks only then, finds the answer all the same.
    let mut client = proxy.client();
    client.send("POST /api HTTP/1.1\r\nhost: a\r\ncontent-length: 30\r\n\r\n");
    for _ in 0..30 {
        thread::park_timeout(Duration::from_millis(60));
        client.send("x");
    }
    assert_eq!(client.response().status, 401);
    assert_eq!(node.seen().len(), 0);
}

#[test]
fn a_request_body_has_a_deadline() {
    let node = Node::always("x");
    let proxy = with(&[node.address], "timeouts: { body: 100ms }");
    for start in ["content-length: 5\r\n\r\nx", "transfer-encoding: chunked\r\n\r\n2\r\nx"] {
        let mut client = proxy.client();
        let response = client.ask(format!("POST / HTTP/1.1\r\nhost: a\r\n{start}"));
        assert_eq!((response.status, response.field("connection")), (408, Some("close")));
        client.closed();
    }
    check_outcome(&proxy, 0, "408", "cD");
    check_outcome(&proxy, 1, "408", "cD");
    check_fault(&proxy, "body_timeout", 2);
    assert_eq!(node.seen().len(), 0);
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let node = Node::always("x");
    // Half a second is when a connection that is silent begins to rest.
    for idle in ["100ms", "500ms"] {
        let proxy = with(&[node.address], &format!("timeouts: {{ idle: {idle}, head: 1h }}"));
        let mut client = proxy.client();
        assert_eq!(client.ask(GET).status, 200);
        client.closed();
        assert_eq!(proxy.access_log(1).len(), 1);
        check_outcome(&proxy, 0, "200", "--");
    }
}

#[test]
fn an_empty_line_behind_a_request_is_no_request() {
    let node = Node::always("x");
    let proxy = with(&[node.address], "timeouts: { idle: 100ms, head: 1h }");
    let mut client = proxy.client();
    assert_eq!(
        client.ask("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx\r\n").status,
        200
    );
    client.closed();
    assert_eq!(proxy.access_log(1).len(), 1);
    check_outcome(&proxy, 0, "200", "--");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "silence is what is tested")]
fn a_first_request_that_comes_in_pieces_is_served_at_a_drain() {
    let node = Node::always("x");
    let proxy = with(&[node.address], "");
    let mut client = proxy.client();
    proxy.check_metric("tandem_downstream_connections_active{listener=\"web\"}", 1.0);
    proxy.shutdown().drain();
    std::thread::sleep(Duration::from_millis(300));
    client.send("GET / HT");
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(client.ask("TP/1.1\r\nhost: a\r\n\r\n").status, 200);
    client.closed();
}

#[test]
fn a_response_has_a_deadline() {
    let node = Node::scripted(|seen| match seen.line() {
        "GET / HTTP/1.1" => Reply::ok("quick"),
        _ => Reply::Bytes(Vec::new()),
    });
    let proxy = with(&[node.address], "timeouts: { response: 100ms }");
    let mut client = proxy.client();
    for path in ["/slow", "/slower"] {
        let response = client.ask(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n"));
        assert_eq!(response.text(), r#"{"error_msg":"504 Gateway Timeout"}"#);
        // The wait is over, also for the next request on the connection.
        assert_eq!(client.ask(GET).text(), "quick");
    }
    for (at, (status, end)) in
        [("504", "sH"), ("200", "--"), ("504", "sH"), ("200", "--")].into_iter().enumerate()
    {
        check_outcome(&proxy, at, status, end);
    }
    check_fault(&proxy, "response_timeout", 2);
    // A connection whose response is overdue is not used again.
    let connections: Vec<_> = node.seen().iter().map(|seen| seen.connection).collect();
    assert_eq!(connections, [0, 1, 1, 2]);
}

#[test]
fn a_response_body_has_a_deadline() {
    let node = Node::scripted(|_| {
        Reply::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf".to_vec())
    });
    let proxy = with(&[node.address], "timeouts: { response_body: 100ms }");
    let mut client = proxy.client();
    let received = client.send(GET).rest();
    assert!(received.ends_with(b"\r\n\r\nhalf"));
    check_outcome(&proxy, 0, "200", "sD");
    check_fault(&proxy, "response_body_timeout", 1);
}

#[test]
fn a_downstream_that_does_not_read_has_a_deadline() {
    const SIZE: usize = 32 << 20;
    let node = Node::scripted(|_| {
        let mut response =
            format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n").into_bytes();
        response.resize(response.len() + SIZE, b'x');
        Reply::Bytes(response)
    });
    let proxy = with(&[node.address], "timeouts: { send: 200ms }");
    let mut client = proxy.client();
    client.send(GET);
    check_outcome(&proxy, 0, "200", "cL");
    check_fault(&proxy, "send_timeout", 1);
    eventually("closed", || {
        let active = "tandem_downstream_connections_active{listener=\"web\"}";
        (proxy.metric(active) == 0.0).then_some(())
    });
}

#[test]
fn a_node_that_does_not_read_has_a_deadline() {
    // Accepts by its backlog only.
    let node = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = node.local_addr().expect("an address");
    let proxy = with(&[address], "timeouts: { send: 200ms, response: 1h }");
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000\r\n\r\n");
    let mut feeding = client.stream().try_clone().expect("a second handle");
    let feeding = thread::spawn(move || while feeding.write_all(&[b'x'; 65536]).is_ok() {});
    let response = client.response();
    assert_eq!((response.status, response.field("connection")), (504, Some("close")));
    check_outcome(&proxy, 0, "504", "sH");
    drop(client);
    feeding.join().expect("no panic");
}

/// An address that answers no handshake for as long as what comes with it lives: the queue of its
/// listening socket is full.
pub(crate) fn unanswering() -> (SocketAddr, (Socket, Vec<TcpStream>)) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    socket.bind(&any.into()).expect("a free port");
    socket.listen(0).expect("listening");
    let address = socket.local_addr().ok().and_then(|a| a.as_socket()).expect("an address");
    let mut queued = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        queued.push(stream);
    }
    (address, (socket, queued))
}

#[test]
fn dialling_has_a_deadline() {
    let (address, _full) = unanswering();
    let good = Node::always("good");
    let proxy = with(&[address], "timeouts: { connect: 100ms }");
    let mut client = proxy.client();
    assert_eq!(client.ask(GET).text(), r#"{"error_msg":"504 Gateway Timeout"}"#);
    check_outcome(&proxy, 0, "504", "sC");
    check_fault(&proxy, "connect_timeout", 1);
    let timeouts = "tandem_upstream_connects_total{upstream=\"app\",result=\"timeout\"}";
    proxy.check_metric(timeouts, 1.0);
    // It is passed over as one that refuses is.
    let proxy = with(&[address, good.address], "timeouts: { connect: 100ms }");
    assert_eq!(proxy.client().ask(GET).text(), "good");
}

#[test]
fn the_guard_closes_before_a_byte_is_read() {
    let node = Node::always("x");
    let check_refused = |proxy: &TestProxy, denied: f64, limited: f64| {
        for (reason, count) in [("guard_denied", denied), ("rate_limited", limited)] {
            let labels = format!("listener=\"web\",reason=\"{reason}\"");
            proxy.check_metric(&format!("tandem_downstream_refused_total{{{labels}}}"), count);
        }
    };
    let guard = |guard: &str| {
        with(&[node.address], &format!("kernel: {{ mode: off, guard: {{ {guard} }} }}"))
    };

    let proxy = guard("deny: [127.0.0.0/8]");
    for _ in 0..3 {
        proxy.client().closed();
    }
    check_refused(&proxy, 3.0, 0.0);
    proxy.check_metric("tandem_downstream_connections_total{listener=\"web\"}", 0.0);

    let proxy = guard("deny: [127.0.0.0/8], allow: [127.0.0.1]");
    assert_eq!(proxy.client().ask(GET).status, 200);
    check_refused(&proxy, 0.0, 0.0);

    let proxy = guard("connection_rate: { per_second: 1, burst: 2 }");
    let mut clients: Vec<_> = (0..4).map(|_| proxy.client()).collect();
    for client in &mut clients[..2] {
        assert_eq!(client.ask(GET).status, 200);
    }
    clients[2].closed();
    clients[3].closed();
    check_refused(&proxy, 0.0, 2.0);
    // A connection that was admitted may go on asking.
    assert_eq!(clients[0].ask(GET).status, 200);
    assert_eq!(node.take().len(), 4);
}

#[test]
fn beyond_the_limit_connections_wait() {
    let node = Node::always("x");
    let yaml = TestProxy::yaml(&[node.address]).replace(
        "listeners: [",
        "limits: { connections: 1 }\nworkers: 2\nlisteners: [{ name: idle, address: \"127.0.0.1:0\" }, ",
    );
    let proxy = TestProxy::start(&yaml);
    for _ in 0..8 {
        let mut first = proxy.client();
        assert_eq!(first.ask(GET).status, 200);
        let mut second = proxy.client();
        second.send(GET);
        let active = "tandem_downstream_connections_active{listener=\"web\"}";
        proxy.check_metric(active, 1.0);
        assert_eq!(first.ask(GET).status, 200);
        second.stream().set_nonblocking(true).expect("non-blocking");
        assert!(second.stream().peek(&mut [0]).is_err(), "served beyond the limit");
        second.stream().set_nonblocking(false).expect("blocking");
        drop(first);
        assert_eq!(second.response().status, 200);
    }
    assert_eq!(Client::connect(proxy.address("idle")).ask(GET).status, 200);
}

#[test]
fn whoever_waits_for_a_permit_at_a_drain_is_served() {
    let node = Node::always("x");
    let proxy = with(&[node.address], "limits: { connections: 1 }");
    let mut first = proxy.client();
    first.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nx");
    proxy.check_metric("tandem_downstream_connections_active{listener=\"web\"}", 1.0);
    let mut waiting = [proxy.client(), proxy.client()];
    for client in &mut waiting {
        client.send(GET);
    }
    proxy.shutdown().drain();
    assert_eq!(first.send("y").response().status, 200);
    for client in &mut waiting {
        assert_eq!(client.response().status, 200);
        client.closed();
    }
}

#[test]
fn a_node_keeps_as_many_idle_connections_as_the_pool_may_have() {
    let node = Node::always("x");
    let idle = "tandem_upstream_pool_idle{upstream=\"app\"}";
    let pooled = if gives_up_connections() { vec![0, 0, 1] } else { vec![0, 0, 0] };
    for (max, kept, connections) in [(0, 0.0, vec![0, 1, 2]), (1, 1.0, pooled)] {
        let node = Node::always("x");
        let proxy = with(&[node.address], &format!("limits: {{ pool_idle_max: {max} }}"));
        let mut client = proxy.client();
        for _ in 0..3 {
            assert_eq!(client.ask(GET).status, 200);
        }
        proxy.check_metric(idle, kept);
        assert_eq!(node.seen().iter().map(|s| s.connection).collect::<Vec<_>>(), connections);
    }
    let proxy = with(&[node.address], "timeouts: { pool_idle: 1s }");
    let mut client = proxy.client();
    assert_eq!(client.ask(GET).status, 200);
    proxy.check_metric(idle, 1.0);
    // It is swept.
    proxy.check_metric(idle, 0.0);
    assert_eq!(client.ask(GET).status, 200);
    assert_eq!(node.seen().iter().map(|s| s.connection).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn a_tunnel_in_which_nothing_moves_is_closed() {
    for datapath in ["user", "splice"] {
        let node = Node::always("x");
        let proxy = tunnel(node.address, datapath, "timeouts: { stream_idle: 200ms }");
        let mut client = Client::connect(proxy.address("l4"));
        assert_eq!(client.ask(GET).text(), "x");
        client.rest();
        let line = &proxy.access_log(1)[0];
        assert!(line.ends_with(&format!(" {datapath} cD")), "{line}");
        check_fault(&proxy, "tunnel_timeout", 1);
    }
}

/// Our end of a connection whose other end is `peer`.
pub(crate) fn our_end(peer: SocketAddr) -> OwnedFd {
    eventually("our end", || accepted(peer))
}

fn accepted(peer: SocketAddr) -> Option<OwnedFd> {
    let process = pidfd_open(getpid(), PidfdFlags::empty()).expect("this process");
    let fds = std::fs::read_dir("/proc/self/fd").expect("our files");
    let numbers = fds.filter_map(|fd| fd.ok()?.file_name().to_str()?.parse().ok());
    let mut copies =
        numbers.filter_map(|fd| pidfd_getfd(&process, fd, PidfdGetfdFlags::empty()).ok());
    let is_it = |fd: &OwnedFd| {
        let address = SockRef::from(&fd.as_fd()).peer_addr();
        address.is_ok_and(|address| address.as_socket() == Some(peer))
    };
    copies.find(is_it)
}

#[test]
fn queues_are_bounded_on_both_sides() {
    let node = Node::always("x");
    let section = "limits: { send_buffer: 64KiB, receive_buffer: 96KiB, unsent_max: 32KiB }";
    let proxy = with(&[node.address], section);
    let mut client = proxy.client();
    assert_eq!(client.ask(GET).status, 200);
    let downstream = client.stream().local_addr().expect("an address");
    for peer in [downstream, node.address] {
        let end = our_end(peer);
        let end = SockRef::from(&end);
        // socket(7): the kernel doubles what is asked for.
        assert_eq!(end.send_buffer_size().expect("an option"), 2 * 64 * 1024);
        assert_eq!(end.recv_buffer_size().expect("an option"), 2 * 96 * 1024);
        assert_eq!(end.tcp_notsent_lowat().expect("an option"), 32 * 1024);
        assert!(end.tcp_nodelay().expect("an option"));
    }
}

#[test]
fn every_kind_of_end_is_one_valid_line_of_json() {
    let node = Node::always("x");
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("log");
    let proxy = with(
        &[node.address],
        &format!(
            "log: {{ access: {{ target: {}, format: json }} }}\ntimeouts: {{ head: 100ms, body: 100ms }}\nlimits: {{ body_size_max: 10B }}",
            path.display()
        ),
    );
    let ask = |request: &str, status: u16| {
        assert_eq!(proxy.client().ask(request).status, status, "{request:?}");
    };
    ask("GET /a%22%0a%7f\"\\\\?secret=1 HTTP/1.1\r\nhost: a\r\n\r\n", 200);
    ask("GET / HTTP/1.1\r\n\r\n", 400);
    ask("GET / HTTP/1.1\r\nhost:", 408);
    ask("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 11\r\n\r\n01234567890", 413);
    ask("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n0", 408);
    ask("GET / HTTP/3.0\r\n\r\n", 505);
    ask("OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n", 204);
    drop(proxy);
    let text = std::fs::read_to_string(&path).expect("a log");
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let ends: Vec<_> = lines
        .iter()
        .map(|line| (line["status"].as_u64(), line["end"].as_str().expect("an end")))
        .collect();
    assert_eq!(
        ends,
        [
            (Some(200), "--"),
            (Some(400), "PR"),
            (Some(408), "cR"),
            (Some(413), "PD"),
            (Some(408), "cD"),
            (Some(505), "PR"),
            (Some(204), "PF"),
        ]
    );
    assert_eq!(lines[0]["path"], "/a%22%0a%7f\"\\\\");
    assert!(!text.contains("secret"));
    assert_eq!(
        (&lines[1]["method"], &lines[2]["path"]),
        (&serde_json::Value::Null, &serde_json::Value::Null)
    );
}

/// What a node behind a TCP route sees of a connection that is refused, and what the client does.
#[test]
fn a_tunnel_to_nowhere_is_refused() {
    let proxy = tunnel(unused_address(), "splice", "");
    check_refused(proxy.address("l4"));
    check_outcome(&proxy, 0, "-", "SC");
    check_fault(&proxy, "connect_refused", 1);
}
