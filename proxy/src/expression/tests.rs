use bytes::BytesMut;
use serde_json::json;

use super::*;
use crate::{
    http::{
        fields::Scheme,
        gate::RequestGate,
        head::{HeadLimits, RequestHead},
    },
    variable::Ends,
};

const REQUEST: &str = "GET /a?n=10&t=text&f=1.50&e=&t=more&b=true HTTP/1.1\r\nhost: a\r\n\
                       x-bytes: \u{e9}\r\nx-ip: 192.0.2.9\r\n\r\n";

fn head() -> RequestHead {
    let limits = HeadLimits { size_max: 4096, fields_max: 20, target_size_max: 1024 };
    let parsed = RequestGate::new(limits).head(&mut BytesMut::from(REQUEST));
    parsed.expect("a valid head").expect("a whole head")
}

fn parse(value: &Json) -> Expression {
    Expression::parse(value).unwrap_or_else(|error| panic!("{value}: {error}"))
}

fn holds(expression: &Expression) -> bool {
    let head = head();
    let ends = Ends {
        peer: "192.0.2.1:4000".parse().unwrap(),
        client: "2001:db8::1".parse().unwrap(),
        local: "198.51.100.1:80".parse().unwrap(),
        scheme: Scheme::Http,
    };
    expression.holds(&Facts::new(&head, "/a", head.path_and_query().1, ends))
}

/// Each row: what is tested, and whether it holds; the opposite is asked for too.
#[track_caller]
fn check_tests(rows: &[(Json, bool)]) {
    for (test, expected) in rows {
        let expression = parse(&json!([test]));
        assert_eq!(holds(&expression), *expected, "{test}");
        let mut opposite = test.as_array().unwrap().clone();
        opposite.insert(1, json!("!"));
        let opposite = parse(&json!([opposite]));
        assert_eq!(holds(&opposite), !expected, "not {test}");
    }
}

#[test]
fn equality_is_of_texts_numbers_or_absence() {
    check_tests(&[
        (json!(["arg_t", "==", "text"]), true),
        (json!(["arg_t", "==", "Text"]), false),
        (json!(["arg_n", "==", 10]), true),
        (json!(["arg_n", "==", 10.0]), true),
        (json!(["arg_n", "==", "10.0"]), false),
        (json!(["arg_f", "==", 1.5]), true),
        (json!(["arg_t", "==", 10]), false),
        (json!(["arg_b", "==", true]), true),
        (json!(["arg_b", "==", false]), false),
        (json!(["arg_e", "==", ""]), true),
        (json!(["arg_e", "==", null]), false),
        (json!(["arg_none", "==", null]), true),
        (json!(["arg_none", "==", ""]), false),
        (json!(["arg_none", "==", 0]), false),
        (json!(["arg_t", "~=", "text"]), false),
        (json!(["arg_t", "~=", "x"]), true),
        (json!(["arg_n", "~=", 10]), false),
        (json!(["arg_n", "~=", 11]), true),
        (json!(["arg_t", "~=", 10]), true),
        (json!(["arg_none", "~=", "x"]), true),
        (json!(["arg_none", "~=", 1]), true),
        (json!(["arg_none", "~=", null]), false),
        (json!(["arg_t", "~=", null]), true),
        (json!(["http_x_bytes", "==", "\u{e9}"]), true),
    ]);
    for (pair, expected) in [
        (json!(["arg_t", "text"]), true),
        (json!(["arg_n", 10]), true),
        (json!(["arg_none", null]), true),
        (json!(["arg_t", "TEXT"]), false),
    ] {
        assert_eq!(holds(&parse(&json!([pair]))), expected, "{pair}");
    }
}

#[test]
fn order_is_of_numbers() {
    check_tests(&[
        (json!(["arg_n", ">", 9.5]), true),
        (json!(["arg_n", ">", 10]), false),
        (json!(["arg_n", ">", "9"]), true),
        (json!(["arg_n", ">=", 10]), true),
        (json!(["arg_n", ">=", 11]), false),
        (json!(["arg_n", "<", 11]), true),
        (json!(["arg_n", "<", 10]), false),
        (json!(["arg_n", "<=", "10"]), true),
        (json!(["arg_n", "<=", 9]), false),
        (json!(["arg_n", ">", "nine"]), false),
        (json!(["arg_n", ">", null]), false),
        (json!(["arg_t", ">", 0]), false),
        (json!(["arg_t", "<", 0]), false),
        (json!(["arg_e", "<", 1]), false),
        (json!(["arg_none", "<", 1]), false),
    ]);
}

#[test]
fn regular_expressions_are_searched_for() {
    check_tests(&[
        (json!(["arg_t", "~~", "ex"]), true),
        (json!(["arg_t", "~~", "^ex"]), false),
        (json!(["arg_t", "~~", "^[a-z]{4}$"]), true),
        (json!(["arg_t", "~~", "EX"]), false),
        (json!(["arg_t", "~*", "EX"]), true),
        (json!(["arg_t", "~*", "yx"]), false),
        (json!(["arg_e", "~~", "^$"]), true),
        (json!(["arg_none", "~~", ".*"]), false),
        (json!(["arg_none", "~*", ".*"]), false),
        (json!(["http_x_bytes", "~~", "^\u{e9}$"]), true),
        (json!(["http_x_bytes", "~~", "^..$"]), true),
    ]);
}

#[test]
fn lists_networks_and_repeated_values() {
    check_tests(&[
        (json!(["arg_t", "in", ["x", "text"]]), true),
        (json!(["arg_t", "in", ["x", "more"]]), false),
        (json!(["arg_n", "in", [1, 10]]), true),
        (json!(["arg_n", "in", []]), false),
        (json!(["arg_none", "in", ["x"]]), false),
        (json!(["arg_none", "IN", ["x", null]]), true),
        (json!(["arg_t", "has", "text"]), true),
        (json!(["arg_t", "has", "more"]), true),
        (json!(["arg_t", "has", "none"]), false),
        (json!(["arg_n", "has", 10]), true),
        (json!(["arg_none", "has", null]), false),
        (json!(["remote_addr", "ipmatch", "2001:db8::/32"]), true),
        (json!(["remote_addr", "IpMatch", "2001:db8::1"]), true),
        (json!(["remote_addr", "ipmatch", "2001:db8::2"]), false),
        (json!(["remote_addr", "ipmatch", ["10.0.0.0/8", "::/0"]]), true),
        (json!(["remote_addr", "ipmatch", "0.0.0.0/0"]), false),
        (json!(["realip_remote_addr", "ipmatch", "192.0.2.0/31"]), true),
        (json!(["http_x_ip", "ipmatch", "192.0.2.8/29"]), true),
        (json!(["arg_t", "ipmatch", "::/0"]), false),
        (json!(["arg_none", "ipmatch", "::/0"]), false),
    ]);
}

#[test]
fn nodes_are_joined() {
    let (yes, no) = (json!(["arg_n", "==", 10]), json!(["arg_n", "==", 11]));
    for (expression, expected) in [
        (json!([]), true),
        (json!([yes]), true),
        (json!([yes, no]), false),
        (json!([[yes, yes], yes]), true),
        (json!([[yes, no], yes]), false),
        (json!(["AND", yes, yes]), true),
        (json!(["and", yes, no]), false),
        (json!(["OR", no, yes]), true),
        (json!(["or", no, no]), false),
        (json!(["!AND", yes, yes]), false),
        (json!(["!and", yes, no]), true),
        (json!(["!OR", no, no]), true),
        (json!(["!or", no, yes]), false),
        (json!([yes, ["OR", no, ["!AND", yes, no]]]), true),
        (json!(["OR", [yes, no], [yes, yes]]), true),
    ] {
        assert_eq!(holds(&parse(&expression)), expected, "{expression}");
    }
    for (expressions, expected) in [
        (json!([]), true),
        (json!([[no], [yes]]), true),
        (json!([[no], [yes, no]]), false),
        (json!([[no], []]), true),
        (json!([["OR", no, yes]]), true),
    ] {
        assert_eq!(holds(&Expression::any_of(&expressions).unwrap()), expected, "{expressions}");
    }
}

#[test]
fn flaws_are_told_in_known_words_with_their_place() {
    let yes = json!(["arg_n", "==", 10]);
    for (expression, message, path) in [
        (json!(["arg_n", "==", 10]), "rule should be wrapped inside brackets", &[][..]),
        (json!([1]), "rule should be wrapped inside brackets", &[]),
        (json!([yes, "x"]), "rule should be wrapped inside brackets", &[1]),
        (json!({}), "invalid expression", &[]),
        (json!([["arg_n", "=", 10]]), "invalid operator '='", &[0]),
        (json!([yes, ["arg_n", "!", "=~", 10]]), "invalid operator '=~'", &[1]),
        (json!([["arg_n", "!", 10]]), "invalid operator '!'", &[0]),
        (json!([["arg_n", "not", "==", 10]]), "bad 'not' expression", &[0]),
        (json!([[]]), "rule too short", &[0]),
        (json!(["OR", yes]), "rule too short", &[]),
        (json!([["OR", yes, ["!AND", yes]]]), "rule too short", &[0, 2]),
        (json!([["arg_n"]]), "invalid expression", &[0]),
        (json!([["arg_n", "=="]]), "invalid expression", &[0]),
        (json!([["arg_n", 1, 2]]), "invalid expression", &[0]),
        (json!([["arg_n", "==", [1]]]), "invalid expression", &[0]),
        (json!([["arg_n", "in", 1]]), "invalid expression", &[0]),
        (json!([["arg_n", "~~", 1]]), "invalid expression", &[0]),
        (json!([["arg_n", "==", 1, 2, 3]]), "invalid expression", &[0]),
        (json!([yes, [true, "==", 1]]), "invalid expression", &[1]),
        (json!([["remote_addr", "ipmatch", "1.2.3"]]), "invalid ip address", &[0]),
        (json!([["remote_addr", "ipmatch", []]]), "invalid ip address", &[0]),
        (json!([["remote_addr", "ipmatch", ["::", ""]]]), "invalid ip address", &[0]),
        (json!([["argn", "==", 1]]), "unknown variable `argn`; did you mean `args`?", &[0]),
        (json!([["uri", "~~", "a(?=b)"]]), "invalid regular expression: look-around", &[0]),
        (json!([["uri", "~~", "(a"]]), "invalid regular expression: unclosed group", &[0]),
        (json!([["uri", "~~", "a{9}{99}{999}"]]), "invalid regular expression: ", &[0]),
    ] {
        let error = Expression::parse(&expression).expect_err("a flaw");
        assert!(error.to_string().starts_with(message), "{expression}: {error}");
        assert_eq!(error.path, path, "{expression}");
    }
    let error = Expression::any_of(&json!([[yes], [yes, ["uri"]]])).unwrap_err();
    assert_eq!((error.path, error.flaw), (vec![1, 1], Flaw::Invalid));
    let error = Expression::any_of(&json!([["uri", "==", "/"]])).unwrap_err();
    assert_eq!((error.path, error.flaw), (vec![0], Flaw::NotWrapped));
}

#[test]
fn depth_and_size_are_bounded() {
    let nested = |levels| (1..levels).fold(json!([["uri", "/"]]), |inner, _| json!([inner]));
    assert!(Expression::parse(&nested(DEPTH_MAX)).is_ok());
    assert_eq!(Expression::parse(&nested(DEPTH_MAX + 1)).unwrap_err().flaw, Flaw::TooDeep);
    let wide = |nodes| Json::Array(vec![json!(["uri", "/"]); nodes]);
    assert!(Expression::parse(&wide(NODES_MAX)).is_ok());
    assert_eq!(Expression::parse(&wide(NODES_MAX + 1)).unwrap_err().flaw, Flaw::TooLarge);
    let list = |items| json!([["uri", "in", vec!["/"; items]]]);
    assert!(Expression::parse(&list(NODES_MAX - 1)).is_ok());
    assert_eq!(Expression::parse(&list(NODES_MAX)).unwrap_err().flaw, Flaw::TooLarge);
}
