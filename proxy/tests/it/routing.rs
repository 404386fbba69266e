//! The keys that say where a request or a tunnel goes, and who may send it.

use std::net::SocketAddr;

use proxy::test_support::{Client, Node, TestProxy, unused_address};

#[test]
fn hosts_methods_priority_and_status_choose_the_route() {
    let nodes = ["exact", "wild", "every", "posts", "high", "rest"].map(Node::always);
    let [exact, wild, every, posts, high, rest] = nodes.each_ref().map(|node| node.address);
    let to = |node: SocketAddr| format!("upstream: {{ nodes: {{ \"{node}\": 1 }} }}");
    let proxy = TestProxy::start(&format!(
        "listeners: [{{ name: web, address: \"127.0.0.1:0\" }}]\n\
         routes:\n\
         - {{ id: exact, uri: /*, host: a.example, {} }}\n\
         - {{ id: wild, uri: /*, hosts: [\"*.example\", \"*lt.test\"], {} }}\n\
         - {{ id: every, uri: /every*, hosts: [\"*\", c.example], {} }}\n\
         - {{ id: behind, uri: /every, {} }}\n\
         - {{ id: posts, uris: [/p, /p/*], methods: [POST], {} }}\n\
         - {{ id: high, uri: /p/*, priority: 1, {} }}\n\
         - {{ id: off, uri: /off, status: 0, {} }}\n\
         - {{ id: rest, uri: /*, {} }}\n",
        to(exact),
        to(wild),
        to(every),
        to(rest),
        to(posts),
        to(high),
        to(posts),
        to(rest)
    ));
    let mut client = proxy.client();
    for (request, host, answer) in [
        ("GET /x", "a.example", "exact"),
        ("GET /x", "A.EXAMPLE:81", "exact"),
        ("GET /x", "b.example", "wild"),
        ("GET /x", "b.a.example", "wild"),
        ("GET /x", "example", "rest"),
        ("GET /x", "default.test", "wild"),
        ("GET /x", "test", "rest"),
        ("GET /x", "a.example.org", "rest"),
        ("GET /every", "o", "every"),
        ("GET /every", "b.example", "wild"),
        ("GET /every", "c.example", "every"),
        ("GET /", "c.example", "wild"),
        ("POST /p", "o", "posts"),
        ("GET /p", "o", "rest"),
        ("POST /p/x", "o", "high"),
        ("GET /off", "o", "rest"),
    ] {
        let response = client.ask(format!("{request} HTTP/1.1\r\nhost: {host}\r\n\r\n"));
        assert_eq!(response.text(), answer, "{request} {host}");
    }
}

#[test]
fn parameters_vars_and_clients_choose_the_route_on_both_lanes() {
    let nodes = ["item", "beta", "cookie", "files", "near", "rest"].map(Node::always);
    let [item, beta, cookie, files, near, rest] = nodes
        .each_ref()
        .map(|node| format!("upstream: {{ nodes: {{ \"{}\": 1 }} }}", node.address));
    for is_express in [true, false] {
        let proxy = TestProxy::start(&format!(
            "listeners: [{{ name: web, address: \"127.0.0.1:0\", express_lane: {is_express} }}]\n\
             routes:\n\
             - {{ id: item, uri: \"/items/:id\", vars: [[uri_param_id, \"~~\", \"^[0-9]+$\"]], {item} }}\n\
             - {{ id: beta, uri: /app/*, priority: 2, vars: [[OR, [arg_v, in, [beta, 2, a b]], [http_x_beta, \"~=\", null]]], {beta} }}\n\
             - {{ id: cookie, uri: /app/*, priority: 1, vars: [[cookie_who, \"!\", ==, me], [cookie_who, \"~=\", null]], {cookie} }}\n\
             - {{ id: files, uri: /u/*path/raw, {files} }}\n\
             - {{ id: far, uri: /ends, remote_addrs: [10.0.0.0/8, \"2001:db8::/32\"], {rest} }}\n\
             - {{ id: near, uri: /end*, remote_addr: 127.0.0.0/8, vars: [[remote_addr, ipmatch, 127.0.0.1], [server_port, \">\", 0]], {near} }}\n\
             - {{ id: rest, uri: /*, {rest} }}\n",
        ));
        let mut client = proxy.client();
        for (target, fields, answer) in [
            ("/items/7", "", "item"),
            ("/items/%37", "", "item"),
            ("/items/seven", "", "rest"),
            ("/items/7/", "", "rest"),
            ("/app/x?v=%62eta", "", "beta"),
            ("/app/x?v=2", "", "beta"),
            ("/app/x?v=a+b", "", "beta"),
            ("/app/x?v=a%2Bb", "", "rest"),
            ("/app/x?v=1&v=2", "", "rest"),
            ("/app/x", "X-Beta: \r\n", "beta"),
            ("/app/x", "cookie: a=b; who=you\r\n", "cookie"),
            ("/app/x", "cookie: a=b; who=me\r\n", "rest"),
            ("/app/x", "cookie: Who=you\r\n", "rest"),
            ("/u/a/b/raw", "", "files"),
            ("/u/raw", "", "rest"),
            ("/ends", "", "near"),
            ("/en", "", "rest"),
        ] {
            let response = client.ask(format!("GET {target} HTTP/1.1\r\nhost: a\r\n{fields}\r\n"));
            assert_eq!(response.text(), answer, "{target} {fields} express: {is_express}");
        }
    }
}

#[test]
fn weights_are_exact_over_a_cycle_whichever_worker_serves() {
    let [one, three] = ["one", "three"].map(Node::always);
    let yaml = TestProxy::yaml(&[one.address, three.address])
        .replace(&format!("\"{}\": 1", three.address), &format!("\"{}\": 3", three.address));
    let proxy = TestProxy::start(&format!("{yaml}workers: 2\n"));
    let mut clients = Vec::new();
    for cycle in 1..=20 {
        for _ in 0..4 {
            let mut client = proxy.client();
            assert_eq!(client.ask("GET / HTTP/1.1\r\nhost: a\r\n\r\n").status, 200);
            clients.push(client);
        }
        assert_eq!((one.seen().len(), three.seen().len()), (cycle, 3 * cycle));
    }
    // A worker that has a connection to a node needs no other: both have been at work.
    assert!(three.seen().iter().any(|seen| seen.connection > 0));
}

#[test]
fn weights_are_exact_and_retries_are_as_many_as_allowed() {
    let [one, three] = ["one", "three"].map(Node::always);
    let proxy = TestProxy::start(
        &TestProxy::yaml(&[one.address, three.address])
            .replace(&format!("\"{}\": 1", three.address), &format!("\"{}\": 3", three.address)),
    );
    let mut client = proxy.client();
    for _ in 0..40 {
        client.ask("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    }
    assert_eq!((one.seen().len(), three.seen().len()), (10, 30));

    let yaml = TestProxy::yaml(&[unused_address(), one.address]);
    let proxy = TestProxy::start(&yaml.replace("type: roundrobin", "retries: 0"));
    let mut client = proxy.client();
    let mut statuses: Vec<_> =
        (0..4).map(|_| client.ask("GET / HTTP/1.1\r\nhost: a\r\n\r\n").status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 502, 502]);
    proxy.check_metric("tandem_upstream_retries_total{upstream=\"app\"}", 0.0);
}

#[test]
fn a_key_is_looked_for_where_configured_and_hidden_if_asked() {
    let node = Node::always("ok");
    let proxy = TestProxy::start(&format!(
        "listeners: [{{ name: web, address: \"127.0.0.1:0\" }}]\n\
         routes:\n\
         - {{ id: hidden, uri: /h/*, upstream_id: app, plugins: {{ key-auth: {{ header: X-Key, query: k, realm: shop, hide_credentials: true }} }} }}\n\
         - {{ id: shown, uri: /s/*, upstream_id: app, plugins: {{ key-auth: {{}} }} }}\n\
         - {{ id: anyone, uri: /a/*, upstream_id: app, plugins: {{ key-auth: {{ anonymous_consumer: nobody }} }} }}\n\
         upstreams: [{{ id: app, nodes: {{ \"{}\": 1 }} }}]\n\
         consumers:\n\
         - {{ username: alice, plugins: {{ key-auth: {{ key: secret }} }} }}\n\
         - {{ username: nobody }}\n",
        node.address
    ));
    let mut client = proxy.client();
    let mut ask = |target: &str, fields: &str| {
        client.ask(format!("GET {target} HTTP/1.1\r\nhost: a\r\n{fields}\r\n"))
    };
    let refused = ask("/h/x?apikey=secret", "apikey: secret\r\n");
    assert_eq!(refused.status, 401);
    assert_eq!(refused.field("www-authenticate"), Some("apikey realm=\"shop\""));
    for (target, fields) in
        [("/h/x?q=1&k=secret", ""), ("/h/x?q=1&%6b=secret", "x-KEY: secret\r\n")]
    {
        assert_eq!(ask(target, fields).status, 200, "{target}");
        let seen = node.take().remove(0);
        assert_eq!(seen.line(), "GET /h/x?q=1 HTTP/1.1");
        assert!(!seen.head.contains("secret"), "{}", seen.head);
        assert_eq!(seen.field("x-consumer-username"), Some("alice"));
    }
    // The same key twice is not one key.
    assert_eq!(ask("/h/x", "x-key: secret\r\nx-key: secret\r\n").status, 401);
    assert_eq!(ask("/h/x?k=secret&k=wrong", "").status, 401);
    assert_eq!(ask("/s/x?apikey=secret", "").status, 200);
    assert_eq!(node.take()[0].line(), "GET /s/x?apikey=secret HTTP/1.1");
    for (fields, consumer) in
        [("", "nobody"), ("apikey: wrong\r\n", "nobody"), ("apikey: secret\r\n", "alice")]
    {
        assert_eq!(ask("/a/x", fields).status, 200);
        assert_eq!(node.take()[0].field("x-consumer-username"), Some(consumer));
    }
}

#[test]
fn a_tunnel_goes_where_its_ends_say() {
    let [near, far] = ["near", "far"].map(Node::always);
    let (first, second) = (unused_address(), unused_address());
    let proxy = TestProxy::start(&format!(
        "listeners:\n\
         - {{ name: first, address: \"{first}\", protocol: tcp }}\n\
         - {{ name: second, address: \"{second}\", protocol: tcp }}\n\
         stream_routes:\n\
         - {{ id: elsewhere, remote_addr: 192.0.2.0/24, upstream_id: far }}\n\
         - {{ id: port, server_port: {}, upstream_id: far }}\n\
         - {{ id: here, server_addr: 127.0.0.1, remote_addr: 127.0.0.0/8, upstream_id: near }}\n\
         upstreams:\n\
         - {{ id: near, nodes: {{ \"{}\": 1 }} }}\n\
         - {{ id: far, nodes: {{ \"{}\": 1 }} }}\n",
        first.port(),
        near.address,
        far.address
    ));
    for (listener, answer) in [("second", "near"), ("first", "far")] {
        let mut client = Client::connect(proxy.address(listener));
        let response = client.ask("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        assert_eq!(response.text(), answer);
        client.stream().shutdown(std::net::Shutdown::Write).expect("half close");
        client.closed();
        proxy.access_log(1);
    }
    // `splice` unless told otherwise.
    let line = &proxy.access_log(1)[0];
    assert!(line.contains(" second here near ") && line.ends_with(" splice --"), "{line}");
}
