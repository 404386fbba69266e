//! Plugins that decide who may ask for what, seen from outside: on both lanes the same, and the node
//! is not reached by what is refused.

use proxy::test_support::{Node, TestProxy};

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
