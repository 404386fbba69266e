//! `forward-auth`: what it asks, and that nobody passes who was not let in.

use std::{
    io::Write as _,
    sync::{Arc, mpsc},
    time::Duration,
};

use proxy::test_support::{Node, PATIENCE, Reply, Seen, TestProxy, eventually, unused_address};
use socket2::SockRef;

use super::{get, host, proxy, read_head, saying, yaml};

/// Decides by the path of the request.
fn auth() -> Node {
    Node::scripted(|seen: &Seen| {
        let status = match seen.field("x-forwarded-uri") {
            Some("/in") => "200 OK\r\nx-user: alice\r\nx-user: al",
            Some("/bare") => "204 No Content",
            Some("/away") => "302 Found\r\nlocation: /login",
            Some(_) | None => "401 No\r\nwww-authenticate: x\r\nx-secret: s",
        };
        let body = if status.starts_with("204") { "" } else { "why" };
        Reply::Bytes(
            format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into(),
        )
    })
}

fn settings(auth: impl std::fmt::Display) -> String {
    format!(
        "forward-auth: {{ uri: \"http://{auth}/check\", request_headers: [cookie], \
         extra_headers: {{ x-route: $route_id }}, upstream_headers: [x-user], \
         client_headers: [location, www-authenticate], timeout: 10000 }}"
    )
}

#[test]
fn whoever_is_asked_decides_and_is_told_of_the_request() {
    for is_express in [true, false] {
        let (node, auth) = (Node::always("x"), auth());
        let proxy = proxy(is_express, &node, &settings(auth.address));
        let mut client = proxy.client();
        let asked = "POST /in HTTP/1.1\r\nhost: Shop:1\r\nx-user: root\r\ncookie: c=1\r\n\
                     x-forwarded-method: GET\r\nx-other: o\r\ncontent-length: 2\r\n\r\nab";
        assert_eq!(client.ask(asked).text(), "x");
        let seen = auth.take().remove(0);
        assert_eq!(seen.line(), "GET /check HTTP/1.1");
        for (name, value) in [
            ("host", Some(auth.address.to_string())),
            ("x-forwarded-proto", Some("http".into())),
            ("x-forwarded-method", Some("POST".into())),
            ("x-forwarded-host", Some("shop".into())),
            ("x-forwarded-uri", Some("/in".into())),
            ("x-forwarded-for", Some("127.0.0.1".into())),
            ("x-route", Some("all".into())),
            ("cookie", Some("c=1".into())),
            ("x-other", None),
            ("content-length", None),
        ] {
            assert_eq!(seen.field(name), value.as_deref(), "{name}");
        }
        let seen = node.take().remove(0);
        let users: Vec<_> = seen.head.lines().filter(|line| line.starts_with("x-user")).collect();
        assert_eq!((users, &*seen.body), (vec!["x-user: alice", "x-user: al"], &b"ab"[..]));

        let forged = "GET /bare HTTP/1.1\r\nhost: a\r\nx-user: root\r\n\r\n";
        assert_eq!(client.ask(forged).status, 200);
        assert_eq!(node.take().remove(0).field("x-user"), None);

        let away = client.ask(get("/away"));
        assert_eq!((away.status, away.field("location")), (302, Some("/login")));
        let post = "POST /out HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nab";
        let out = client.ask(post);
        assert_eq!((out.status, out.text().as_str()), (401, "why"));
        assert_eq!((out.field("www-authenticate"), out.field("x-secret")), (Some("x"), None));
        client.send("HEAD /out HTTP/1.1\r\nhost: a\r\n\r\n");
        assert_eq!(client.response_to("HEAD").status, 401);
        assert_eq!(client.ask(get("/in")).status, 200);
        assert_eq!(node.take().len(), 1);
        let connections: Vec<_> = auth.seen().iter().map(|seen| seen.connection).collect();
        assert_eq!(connections, [0; 5], "one connection is kept");
        let answered = "tandem_calls_total{purpose=\"forward_auth\",result=\"answered\"}";
        proxy.check_metric(answered, 6.0);
    }
}

#[test]
fn a_question_that_comes_back_is_not_asked_again() {
    for is_express in [true, false] {
        let (node, address) = (Node::always("x"), unused_address());
        let text = yaml(is_express, &node, &settings(address));
        let proxy = TestProxy::start(&text.replace("127.0.0.1:0", &address.to_string()));
        assert_eq!(proxy.client().ask(get("/in")).status, 508);
        assert_eq!(node.seen().len(), 0);
        proxy.check_metric("tandem_calls_total{purpose=\"forward_auth\",result=\"answered\"}", 1.0);
    }
}

#[test]
fn connections_are_kept_only_if_told_so() {
    let (node, auth) = (Node::always("x"), auth());
    let settings =
        format!("forward-auth: {{ uri: \"http://{}/\", keepalive: false }}", auth.address);
    let proxy = proxy(true, &node, &settings);
    for _ in 0..2 {
        assert_eq!(proxy.client().ask(get("/in")).status, 200);
    }
    let connections: Vec<_> = auth.seen().iter().map(|seen| seen.connection).collect();
    assert_eq!(connections, [0, 1]);
}

#[test]
fn an_answer_that_is_none_lets_nobody_pass() {
    let huge = format!("HTTP/1.1 200 OK\r\nx-user: {}\r\n\r\n", "x".repeat(1 << 20));
    let endless = "HTTP/1.1 103 Hints\r\n\r\n".repeat(10_000);
    for (answer, result) in [
        (&b""[..], "closed"),
        (b"HTTP/1.1 200 OK\r\nx-user: a", "closed"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", "closed"),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
            "malformed",
        ),
        (b"HTTP/1.1 200 OK\r\nx-user: a\0b\r\n\r\n", "malformed"),
        (b"HTTP/1.1 200 OK\r\nx-user: a\r\n b: c\r\n\r\n", "malformed"),
        (b"220 smtp ready\r\n\r\n", "malformed"),
        (huge.into_bytes().leak(), "too_large"),
        (endless.into_bytes().leak(), "closed"),
    ] {
        let auth = saying(answer);
        for is_express in [true, false] {
            let node = Node::always("x");
            let proxy = proxy(is_express, &node, &settings(auth));
            let shown = String::from_utf8_lossy(&answer[..answer.len().min(40)]).into_owned();
            assert_eq!(proxy.client().ask(get("/in")).status, 403, "{shown}");
            assert_eq!(node.seen().len(), 0, "{shown}");
            let sample =
                format!("tandem_calls_total{{purpose=\"forward_auth\",result=\"{result}\"}}");
            proxy.check_metric(&sample, 1.0);
        }
    }
}

#[test]
fn an_answer_that_comes_too_slowly_is_given_up() {
    let (told, telling) = mpsc::channel();
    let trickle = host(move |mut stream| {
        drop(read_head(&mut stream));
        let mut write = |bytes: &[u8]| stream.write_all(bytes);
        let mut written = write(b"HTTP/1.1 200 OK\r\nx: ");
        while written.is_ok() {
            std::thread::park_timeout(Duration::from_millis(5));
            written = write(b"x");
        }
        told.send(()).expect("a test that listens");
    });
    for (degrades, status) in [(false, 503), (true, 200)] {
        let node = Node::always("x");
        let settings = format!(
            "forward-auth: {{ uri: \"http://{trickle}/\", timeout: 100, status_on_error: 503, \
             allow_degradation: {degrades} }}"
        );
        let proxy = proxy(true, &node, &settings);
        assert_eq!(proxy.client().ask(get("/in")).status, status);
        assert_eq!(node.seen().len(), usize::from(degrades));
        let late = "tandem_calls_total{purpose=\"forward_auth\",result=\"timed_out\"}";
        proxy.check_metric(late, 1.0);
        telling.recv_timeout(PATIENCE).expect("the connection is closed");
    }
}

#[test]
fn a_client_that_leaves_takes_its_question_along() {
    let (told, telling) = mpsc::channel();
    let told = Arc::new(std::sync::Mutex::new(told));
    let silent = host(move |mut stream| {
        let tell = |what: Option<String>| told.lock().expect("no panic").send(what);
        drop(tell(read_head(&mut stream)));
        drop(tell(read_head(&mut stream)));
    });
    for is_express in [true, false] {
        let node = Node::always("x");
        let log = tempfile::NamedTempFile::new().expect("a file");
        let format =
            format!("path: {}, log_format: {{ who: $consumer_name }}", log.path().display());
        let plugins = format!("key-auth: {{}}, file-logger: {{ {format} }}, {}", settings(silent));
        let consumers = "consumers: [{ username: alice, plugins: { key-auth: { key: k } } }]";
        let proxy =
            TestProxy::start(&format!("{}{consumers}\n", yaml(is_express, &node, &plugins)));
        let mut client = proxy.client();
        client.send(get("/in?apikey=k"));
        assert!(telling.recv_timeout(PATIENCE).expect("a question").is_some());
        SockRef::from(client.stream()).set_linger(Some(Duration::ZERO)).expect("an option");
        drop(client);
        let next = telling.recv_timeout(PATIENCE).expect("the end of its connection");
        assert_eq!(next, None);
        assert_eq!(node.seen().len(), 0);
        // Who that was is known by then.
        let logged =
            || std::fs::read_to_string(log.path()).ok().filter(|text| text.ends_with('\n'));
        let line = eventually("a line", logged);
        assert!(line.contains(r#""who":"alice""#), "{line}");
    }
}
