use bytes::BytesMut;

use super::*;
use crate::http::{gate::RequestGate, head::HeadLimits, path};

fn head(text: &str) -> RequestHead {
    let limits = HeadLimits { size_max: 4096, fields_max: 20, target_size_max: 1024 };
    let parsed = RequestGate::new(limits).head(&mut BytesMut::from(text));
    parsed.expect("a valid head").expect("a whole head")
}

const ENDS: fn() -> Ends = || Ends {
    peer: "192.0.2.1:4000".parse().unwrap(),
    client: "2001:db8::1".parse().unwrap(),
    local: "198.51.100.1:80".parse().unwrap(),
    scheme: Scheme::Https,
};

/// Each row: a variable and its value for this head.
#[track_caller]
fn check(text: &str, rows: &[(&str, Option<&str>)]) {
    let head = head(text);
    let (received, query) = head.path_and_query();
    let path = path::normalise(received).unwrap().path;
    let pattern = Pattern::parse("/a/:id/*").unwrap();
    let mut facts = Facts::new(&head, &path, query, ENDS());
    facts.pattern = Some(&pattern);
    facts.route.id = Some("r1");
    facts.service.name = Some("shop");
    facts.consumer_name = Some("alice");
    facts.status = Some(404);
    for &(name, expected) in rows {
        let variable = Variable::parse(name).expect(name);
        let value = facts.value(&variable).map(|value| String::from_utf8(value.into()).unwrap());
        assert_eq!(value.as_deref(), expected, "{name}");
        // A single value is the only one that there can be.
        let has = expected.is_some_and(|value| facts.has(&variable, |one| one == value.as_bytes()));
        assert_eq!(has, expected.is_some(), "{name}");
    }
}

#[test]
fn what_a_request_line_says() {
    check(
        "GET //a/%37/%63?b=1&c HTTP/1.1\r\nhost: A.Example.:81\r\n\r\n",
        &[
            ("uri", Some("/a/7/c")),
            ("request_uri", Some("/a/7/c?b=1&c")),
            ("real_request_uri", Some("//a/%37/%63?b=1&c")),
            ("args", Some("b=1&c")),
            ("query_string", Some("b=1&c")),
            ("is_args", Some("?")),
            ("host", Some("a.example")),
            ("http_host", Some("A.Example.:81")),
            ("method", Some("GET")),
            ("request_method", Some("GET")),
            ("server_protocol", Some("HTTP/1.1")),
            ("uri_param_id", Some("7")),
            ("uri_param_other", None),
        ],
    );
    check(
        "OPTIONS http://b HTTP/1.0\r\nhost: a\r\n\r\n",
        &[
            ("uri", Some("*")),
            ("request_uri", Some("*")),
            ("real_request_uri", Some("*")),
            ("args", None),
            ("is_args", Some("")),
            ("host", Some("b")),
            ("http_host", Some("b")),
            ("server_protocol", Some("HTTP/1.0")),
            ("uri_param_id", None),
        ],
    );
    check(
        "GET /? HTTP/1.0\r\n\r\n",
        &[
            ("request_uri", Some("/?")),
            ("args", Some("")),
            ("is_args", Some("")),
            ("host", None),
            ("http_host", None),
        ],
    );
    check("GET http://b?c HTTP/1.1\r\nhost: b\r\n\r\n", &[("real_request_uri", Some("/?c"))]);
}

#[test]
fn fields_arguments_and_cookies_give_their_first_value() {
    check(
        "GET /?a=1%2C2&b=2&a=3&%41=4&flag HTTP/1.1\r\nhost: a\r\nX-One: 1\r\nx_one: 2\r\n\
         cookie: s=one; S=two; =x; bare\r\ncookie: s=three;t = x=y ;\r\n\r\n",
        &[
            ("http_x_one", Some("1")),
            ("http_X-ONE", Some("1")),
            ("http_x_two", None),
            ("arg_a", Some("1,2")),
            ("arg_A", Some("4")),
            ("arg_flag", Some("")),
            ("arg_none", None),
            ("cookie_s", Some("one")),
            ("cookie_S", Some("two")),
            ("cookie_t", Some("x=y")),
            ("cookie_bare", None),
            ("cookie_a.b!", None),
            ("arg_list[0].\u{e9}", None),
            ("http_x-one", Some("1")),
        ],
    );
}

#[test]
fn ends_and_resources_are_what_was_given() {
    check(
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        &[
            ("scheme", Some("https")),
            ("remote_addr", Some("2001:db8::1")),
            ("remote_port", Some("4000")),
            ("realip_remote_addr", Some("192.0.2.1")),
            ("server_addr", Some("198.51.100.1")),
            ("server_port", Some("80")),
            ("route_id", Some("r1")),
            ("route_name", None),
            ("service_id", None),
            ("service_name", Some("shop")),
            ("consumer_name", Some("alice")),
            ("consumer_group_id", None),
            ("status", Some("404")),
            ("upstream_status", None),
        ],
    );
}

#[test]
fn every_value_of_what_repeats_is_looked_at() {
    let head = head("GET /?a=1&a=2 HTTP/1.1\r\nhost: a\r\nx: 1\r\nx: 2\r\ncookie: c=1;c=2\r\n\r\n");
    let facts = Facts::new(&head, "/", head.path_and_query().1, ENDS());
    for name in ["arg_a", "http_x", "cookie_c"] {
        let variable = Variable::parse(name).unwrap();
        for (value, expected) in [("1", true), ("2", true), ("3", false)] {
            assert_eq!(facts.has(&variable, |one| one == value.as_bytes()), expected, "{name}");
        }
    }
}

#[test]
fn addresses_are_read_from_any_value() {
    let head = head("GET /?a=x HTTP/1.1\r\nhost: a\r\nx: ::ffff:192.0.2.7\r\n\r\n");
    let facts = Facts::new(&head, "/", Some("a=x"), ENDS());
    for (name, expected) in [
        ("remote_addr", Some("2001:db8::1")),
        ("realip_remote_addr", Some("192.0.2.1")),
        ("server_addr", Some("198.51.100.1")),
        ("http_x", Some("192.0.2.7")),
        ("arg_a", None),
        ("arg_b", None),
    ] {
        let address = facts.address(&Variable::parse(name).unwrap());
        assert_eq!(address, expected.map(|text| text.parse().unwrap()), "{name}");
    }
}

#[test]
fn unknown_names_are_errors() {
    for (name, message) in [
        ("remote_add", "unknown variable `remote_add`; did you mean `remote_addr`?"),
        ("http_", "unknown variable `http_`"),
        ("cookie_", "unknown variable `cookie_`"),
        ("", "unknown variable ``"),
        ("request_time\n", "unknown variable `request_time\\n`"),
        ("http_x $y", "unknown variable `http_x $y`; a field's name has no ` `"),
        ("http_$x", "unknown variable `http_$x`; a field's name has no `$`"),
        ("http_x:", "unknown variable `http_x:`; a field's name has no `:`"),
        ("http_\u{e9}", "unknown variable `http_\u{e9}`; a field's name has no `\u{e9}`"),
        ("sent_http_x y", "unknown variable `sent_http_x y`; a field's name has no ` `"),
        ("cookie_a;b", "unknown variable `cookie_a;b`; a cookie's name has no `;`"),
        ("cookie_a$b", "unknown variable `cookie_a$b`; a cookie's name has no `$`"),
        ("arg_a b", "unknown variable `arg_a b`; an argument's name has no ` `"),
        ("arg_a$b", "unknown variable `arg_a$b`; an argument's name has no `$`"),
        ("arg_a=1", "unknown variable `arg_a=1`; an argument's name has no `=`"),
        ("arg_a\r", "unknown variable `arg_a\\r`; an argument's name has no `\\r`"),
        ("uri_param_a.b", "unknown variable `uri_param_a.b`; a parameter's name has no `.`"),
    ] {
        let error = Variable::parse(name).expect_err(name).to_string();
        assert!(error.starts_with(message), "{error}");
    }
}
