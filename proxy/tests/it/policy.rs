//! Plugins that decide who may ask for what, seen from outside: on both lanes the same, and the node
//! is not reached by what is refused.

use std::time::SystemTime;

use base64ct::{Base64, Encoding};
use proxy::test_support::{Node, TestProxy};
use ring::{digest, hmac};

/// Each case is the first line of a request with its fields, and the status it comes to; 200 is the
/// node's.
#[track_caller]
fn check(plugins: &str, consumers: &str, cases: &[(&str, u16)]) {
    for is_express in [true, false] {
        let node = Node::always("x");
        let yaml = TestProxy::yaml(&[node.address])
            .replace("name: web,", &format!("name: web, express_lane: {is_express},"))
            .replace("uri: /*,", &format!("uri: /*, plugins: {plugins},"));
        let proxy = TestProxy::start(&format!("{yaml}consumers: [{consumers}]\n"));
        let mut client = proxy.client();
        for (request, status) in cases {
            let (line, fields) = request.split_once('\n').unwrap_or((request, ""));
            let fields = fields.replace('\n', "\r\n");
            let response = client.ask(format!("{line} HTTP/1.1\r\nhost: a\r\n{fields}\r\n"));
            assert_eq!(response.status, *status, "express: {is_express}, {request}");
            assert_eq!(node.take().len(), usize::from(*status == 200), "{request}");
        }
    }
}

#[test]
fn basic_auth_lets_only_known_passwords_pass() {
    check(
        "{ basic-auth: { hide_credentials: true } }",
        "{ username: alice, plugins: { basic-auth: { username: al, password: pw } } }",
        &[
            ("GET /", 401),
            ("GET /\nauthorization: Basic YWw6cHc=\n", 200),
            ("GET /\nauthorization: Basic YWw6cHg=\n", 401),
            ("POST /\nauthorization: Basic YWw6cHc=\ncontent-length: 0\n", 200),
        ],
    );
}

#[test]
fn ip_restriction_goes_by_the_peer() {
    check("{ ip-restriction: { whitelist: [127.0.0.0/8] } }", "", &[("GET /", 200)]);
    let refused = [("GET /", 403), ("GET /\nx-forwarded-for: 192.0.2.1\n", 403)];
    check("{ ip-restriction: { blacklist: [127.0.0.1] } }", "", &refused);
}

#[test]
fn ua_restriction_goes_by_what_the_client_says_it_is() {
    check(
        "{ ua-restriction: { denylist: [bot] } }",
        "",
        &[("GET /\nuser-agent: curl\n", 200), ("GET /\nuser-agent: a bot\n", 403), ("GET /", 403)],
    );
}

#[test]
fn consumer_restriction_goes_by_who_was_authenticated() {
    check(
        "{ key-auth: {}, consumer-restriction: { whitelist: [alice] } }",
        "{ username: alice, plugins: { key-auth: { key: a } } }, \
         { username: bob, plugins: { key-auth: { key: b } } }",
        &[
            ("GET /\napikey: a\n", 200),
            ("GET /\napikey: b\n", 403),
            ("GET /\napikey: b\nx-consumer-username: alice\n", 403),
            ("GET /\napikey: c\n", 401),
        ],
    );
}

#[test]
fn a_node_is_told_which_credential_a_consumer_came_with() {
    for is_express in [true, false] {
        let node = Node::always("x");
        let yaml = TestProxy::yaml(&[node.address])
            .replace("name: web,", &format!("name: web, express_lane: {is_express},"))
            .replace(
                "uri: /*,",
                "uri: /*, plugins: { basic-auth: { anonymous_consumer: a }, key-auth: {} },",
            );
        let proxy = TestProxy::start(&format!(
            "{yaml}consumers:\n\
             - {{ username: a, plugins: {{ key-auth: {{ key: own }} }} }}\n\
             - {{ username: b, labels: {{ custom_id: of-b }} }}\n\
             - {{ id: a/credentials/a-1, labels: {{ custom_id: no }}, plugins: {{ key-auth: {{ key: first }} }} }}\n\
             - {{ id: a/credentials/a-2, plugins: {{ key-auth: {{ key: second }} }} }}\n\
             - {{ id: b/credentials/b-1, plugins: {{ basic-auth: {{ username: b, password: p }} }} }}\n\
             - {{ id: b/credentials/b-2, plugins: {{ key-auth: {{ key: other }} }} }}\n"
        ));
        let mut client = proxy.client();
        let basic = "authorization: Basic Yjpw\r\n";
        for (fields, consumer, credential, custom_id) in [
            ("apikey: own\r\n", "a", None, None),
            ("apikey: first\r\n", "a", Some("a-1"), None),
            ("apikey: second\r\nX-Credential-Identifier: a-1\r\n", "a", Some("a-2"), None),
            ("apikey: other\r\n", "b", Some("b-2"), Some("of-b")),
            // `key-auth` has the last word, and leaves nothing of the other behind.
            (&format!("{basic}apikey: own\r\nx_credential_identifier: z\r\n"), "a", None, None),
        ] {
            let response = client.ask(format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n"));
            assert_eq!(response.status, 200, "{fields}");
            let seen = node.take().remove(0);
            let told = ["x-consumer-username", "x-credential-identifier", "x-consumer-custom-id"];
            let expected = [Some(consumer), credential, custom_id];
            assert_eq!(told.map(|name| seen.field(name)), expected, "{fields}");
            assert_eq!(seen.field("x_credential_identifier"), None, "{fields}");
        }
        for fields in ["", "apikey: third\r\n", "x-credential-identifier: a-1\r\n"] {
            let response = client.ask(format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n"));
            assert_eq!((response.status, node.take().len()), (401, 0), "{fields}");
        }
    }
}

#[test]
fn what_is_done_to_responses_is_the_consumers_choice_before_the_routes() {
    let rewrite =
        |by: &str| format!("response-rewrite: {{ headers: {{ set: {{ x-by: {by} }} }} }}");
    let (route, group, own) = (rewrite("route"), rewrite("group"), rewrite("consumer"));
    for is_express in [true, false] {
        let node = Node::always("x");
        let yaml = TestProxy::yaml(&[node.address])
            .replace("name: web,", &format!("name: web, express_lane: {is_express},"))
            .replace("uri: /*,", &format!("uri: /*, plugins: {{ key-auth: {{}}, {route} }},"));
        let proxy = TestProxy::start(&format!(
            "{yaml}consumer_groups: [{{ id: g, plugins: {{ {group} }} }}]\n\
             consumers:\n\
             - {{ username: a, group_id: g, plugins: {{ key-auth: {{ key: a }}, {own} }} }}\n\
             - {{ username: b, group_id: g, plugins: {{ key-auth: {{ key: b }} }} }}\n\
             - {{ username: c, plugins: {{ key-auth: {{ key: c }} }} }}\n"
        ));
        let mut client = proxy.client();
        for (key, status, by) in
            [("a", 200, "consumer"), ("b", 200, "group"), ("c", 200, "route"), ("d", 401, "route")]
        {
            let response =
                client.ask(format!("GET / HTTP/1.1\r\nhost: a\r\napikey: {key}\r\n\r\n"));
            assert_eq!((response.status, response.field("x-by")), (status, Some(by)), "{key}");
        }
    }
}

#[test]
fn jwt_auth_lets_only_signed_tokens_pass() {
    // `{"alg":"HS256"}` and `{"key":"k"}`.
    let (signed, signature) =
        ("eyJhbGciOiJIUzI1NiJ9.eyJrZXkiOiJrIn0", "BOghc6vsEsVvezmJRlb__GvMymDiOIx2uvnwkiIUkp8");
    check(
        "{ jwt-auth: { hide_credentials: true } }",
        "{ username: alice, plugins: { jwt-auth: { key: k, secret: secret } } }",
        &[
            ("GET /", 401),
            (&format!("GET /\nauthorization: Bearer {signed}.{signature}\n"), 200),
            (&format!("GET /?jwt={signed}.{signature}"), 200),
            (&format!("GET /\ncookie: jwt={signed}.{signature}\n"), 200),
            (&format!("GET /\nauthorization: Bearer {signed}.\n"), 401),
        ],
    );
}

#[test]
fn hmac_auth_lets_only_signed_requests_pass() {
    let date = httpdate::fmt_http_date(SystemTime::now());
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
    let text = format!("k\nGET /a?b\ndate: {date}\n");
    let signature = Base64::encode_string(hmac::sign(&key, text.as_bytes()).as_ref());
    let fields = format!(
        "date: {date}\nauthorization: Signature keyId=\"k\",algorithm=\"hmac-sha256\",\
         headers=\"@request-target date\",signature=\"{signature}\"\n"
    );
    check(
        "{ hmac-auth: {} }",
        "{ username: alice, plugins: { hmac-auth: { key_id: k, secret_key: secret } } }",
        &[
            ("GET /a?b", 401),
            (&format!("GET /a?b\n{fields}"), 200),
            (&format!("GET /a?c\n{fields}"), 401),
        ],
    );
}

fn digest(body: &str) -> String {
    let digest = digest::digest(&digest::SHA256, body.as_bytes());
    format!("SHA-256={}", Base64::encode_string(digest.as_ref()))
}

/// A message with a signature by `secret` of what `headers` lists, with the digest of `meant`, if any.
/// `rest` is its framing and its body.
fn signed(secret: &str, headers: &str, meant: Option<&str>, rest: &str) -> String {
    let date = format!("date: {}", httpdate::fmt_http_date(SystemTime::now()));
    let digest = meant.map(|body| format!("digest: {}", digest(body)));
    let is_digest_signed = headers.contains("digest");
    let lines = [Some(&date), digest.as_ref().filter(|_| is_digest_signed)];
    let lines: String = lines.iter().flatten().map(|line| format!("{line}\n")).collect();
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let signature =
        Base64::encode_string(hmac::sign(&key, format!("k\n{lines}").as_bytes()).as_ref());
    let digest = digest.map_or_else(String::new, |field| format!("{field}\r\n"));
    format!(
        "POST / HTTP/1.1\r\nhost: a\r\n{date}\r\n{digest}authorization: Signature keyId=\"k\",\
         algorithm=\"hmac-sha256\",headers=\"{headers}\",signature=\"{signature}\"\r\n{rest}"
    )
}

/// On one lane, with alice's secret.
fn proxy_for_signers(is_express: bool, node: &Node, plugins: &str) -> TestProxy {
    let yaml = TestProxy::yaml(&[node.address])
        .replace("name: web,", &format!("name: web, express_lane: {is_express},"))
        .replace("uri: /*,", &format!("uri: /*, plugins: {plugins},"));
    let consumer = "{ username: alice, plugins: { hmac-auth: { key_id: k, secret_key: secret } } }";
    TestProxy::start(&format!("{yaml}consumers: [{consumer}]\n"))
}

#[test]
fn hmac_auth_lets_only_bodies_pass_that_have_the_digest() {
    const ABC: &str = "content-length: 3\r\n\r\nabc";
    const CHUNKED: &str = "transfer-encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n";
    const CHUNKED_OVER: &str = "transfer-encoding: chunked\r\n\r\n6\r\nabcdef\r\n0\r\n\r\n";
    const OVER: &str = "content-length: 6\r\n\r\nabcdef";
    // The length and the body that the node gets.
    let (fixed, chunked) = ((Some("3"), "abc"), (None, "3\r\nabc\r\n0\r\n\r\n"));
    for is_express in [true, false] {
        let node = Node::always("x");
        let plugins = "{ hmac-auth: { validate_request_body: true, max_req_body_size: 5 } }";
        let proxy = proxy_for_signers(is_express, &node, plugins);
        for (headers, meant, rest, expected) in [
            ("date", Some("abc"), ABC, Ok(fixed)),
            ("date digest", Some("abc"), ABC, Ok(fixed)),
            ("date", Some("abc"), CHUNKED, Ok(chunked)),
            ("date digest", Some("abc"), CHUNKED, Ok(chunked)),
            ("date", Some(""), "\r\n", Ok((None, ""))),
            ("date", Some(""), "content-length: 0\r\n\r\n", Ok((Some("0"), ""))),
            ("date digest", Some("abd"), ABC, Err(401)),
            ("date", Some("abd"), CHUNKED, Err(401)),
            ("date", Some("abc"), "\r\n", Err(401)),
            ("date", None, ABC, Err(401)),
            ("date digest", None, ABC, Err(401)),
            ("date", None, "\r\n", Err(401)),
            ("date", Some("abcdef"), OVER, Err(413)),
            ("date", Some("abcdef"), CHUNKED_OVER, Err(413)),
            // Whoever has not signed is told so, whatever the body is.
            ("date digest", None, OVER, Err(401)),
        ] {
            let mut client = proxy.client();
            let status = client.ask(signed("secret", headers, meant, rest)).status;
            let seen = node.take();
            let at = format!("express: {is_express}, {headers}, {meant:?}, {rest}");
            assert_eq!(
                (status, seen.len()),
                expected.map_or_else(|status| (status, 0), |_| (200, 1)),
                "{at}"
            );
            if let (Ok((length, body)), [seen]) = (expected, &*seen) {
                assert_eq!(seen.field("content-length"), length, "{at}");
                assert_eq!(String::from_utf8_lossy(&seen.body), body, "{at}");
            }
            // Where the next request begins is known.
            if status != 413 {
                let good = signed("secret", "date", Some("abc"), ABC);
                assert_eq!((client.ask(good).status, node.take().len()), (200, 1), "{at}");
            }
        }
    }
}

#[test]
fn hmac_auth_asks_for_a_body_once_the_signature_is_right() {
    let waiting = "expect: 100-continue\r\ncontent-length: 3\r\n\r\n";
    for is_express in [true, false] {
        let node = Node::always("x");
        let plugins = "{ hmac-auth: { validate_request_body: true } }";
        let proxy = proxy_for_signers(is_express, &node, plugins);
        for (secret, meant) in [("other", Some("abc")), ("secret", None)] {
            let mut client = proxy.client();
            let received = client.send(signed(secret, "date", meant, waiting)).until(b"\r\n\r\n");
            assert!(
                received.starts_with(b"HTTP/1.1 401 "),
                "{}",
                String::from_utf8_lossy(&received)
            );
        }
        for (body, status) in [("abd", 401), ("abc", 200)] {
            let mut client = proxy.client();
            client.send(signed("secret", "date", Some("abc"), waiting));
            assert_eq!(client.until(b"\r\n\r\n"), b"HTTP/1.1 100 Continue\r\n\r\n");
            assert_eq!(node.heard(), "");
            assert_eq!(client.send(body).response().status, status, "{body}");
            assert_eq!(node.take().len(), usize::from(status == 200), "{body}");
        }
    }
}

#[test]
fn a_body_that_two_plugins_ask_for_is_within_the_limits_of_both() {
    let chunked = |body: &str| {
        let size = body.len();
        let rest = format!("transfer-encoding: chunked\r\n\r\n{size}\r\n{body}\r\n0\r\n\r\n");
        signed("secret", "date", Some(body), &rest)
    };
    for is_express in [true, false] {
        let (node, auth) = (Node::always("x"), Node::always("yes"));
        let plugins = format!(
            "{{ hmac-auth: {{ validate_request_body: true }}, forward-auth: {{ \
             uri: \"http://{}/\", request_method: POST, max_req_body_size: 3 }} }}",
            auth.address
        );
        let proxy = proxy_for_signers(is_express, &node, &plugins);
        for (body, status) in [("abc", 200), ("abcd", 413)] {
            assert_eq!(proxy.client().ask(chunked(body)).status, status, "{body}");
        }
        assert_eq!(
            (&*auth.only().body, &*node.only().body),
            (&b"abc"[..], &b"3\r\nabc\r\n0\r\n\r\n"[..])
        );
    }
}

#[test]
fn csrf_lets_only_those_pass_that_can_read_the_cookie() {
    for is_express in [true, false] {
        let node = Node::always("x");
        let yaml = TestProxy::yaml(&[node.address])
            .replace("name: web,", &format!("name: web, express_lane: {is_express},"))
            .replace("uri: /*,", "uri: /*, plugins: { csrf: { key: k } },");
        let proxy = TestProxy::start(&yaml);
        let mut client = proxy.client();
        let post = |fields: &str| {
            format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}content-length: 0\r\n\r\n")
        };
        let response = client.ask("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        let cookie = response.field("set-cookie").expect("a cookie").to_owned();
        let (pair, _) = cookie.split_once(';').expect("attributes");
        let (name, token) = pair.split_once('=').expect("a pair");
        assert_eq!(node.take().len(), 1);

        let refused = client.ask(post(&format!("cookie: {pair}\r\n")));
        assert_eq!((refused.status, node.take().len()), (401, 0), "express: {is_express}");
        assert!(refused.field("set-cookie").is_some());
        let passed = client.ask(post(&format!("cookie: {pair}\r\n{name}: {token}\r\n")));
        assert_eq!((passed.status, node.take().len()), (200, 1), "express: {is_express}");
    }
}
