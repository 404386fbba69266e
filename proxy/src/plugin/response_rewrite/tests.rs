use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::{
    super::{
        BodyFilter,
        trial::{Seen, Trial, refused},
    },
    Change, Filter, Memory, Rewriter, replacement_of,
};

/// What comes of an answer that another plugin has made.
fn rewritten(settings: &str) -> Seen {
    let plugins = format!(
        "{{ fault-injection: {{ abort: {{ http_status: 418, body: \"a teapot\", \
         headers: {{ x-a: 1, etag: x }} }} }}, response-rewrite: {{ {settings} }} }}"
    );
    Trial::new(&plugins, "").ask("GET /p", "")
}

#[track_caller]
fn check(settings: &str, status: u16, fields: &str, body: &str) {
    let text = "content-type: text/plain; charset=utf-8\n";
    let seen = rewritten(settings);
    let Seen::Answered { status: seen_status, fields: seen_fields, body: seen_body } = seen else {
        panic!("not answered")
    };
    let mut seen_fields: Vec<_> = seen_fields.lines().collect();
    let mut expected: Vec<_> = text.lines().chain(fields.lines()).collect();
    seen_fields.sort_unstable();
    expected.sort_unstable();
    assert_eq!((seen_status, seen_fields, &*seen_body), (status, expected, body), "{settings}");
}

#[test]
fn answers_of_plugins_are_rewritten() {
    check("", 418, "x-a: 1\netag: x\n", "a teapot");
    check("status_code: 503", 503, "x-a: 1\netag: x\n", "a teapot");
    check("body: \"no\"", 418, "x-a: 1\n", "no");
    check("body: bm8K, body_base64: true", 418, "x-a: 1\n", "no\n");
    check("headers: { X-A: \"$status $uri\" }", 418, "x-a: 418 /p\netag: x\n", "a teapot");
    let many = "headers: { add: [\"x-a: 2\", \"x-b: :\"], set: { x-c: 3 }, remove: [etag] }";
    check(many, 418, "x-a: 1\nx-a: 2\nx-b: :\nx-c: 3\n", "a teapot");
    let filters = "filters: [{ regex: t, replace: T }, { regex: \"p(o)\", replace: \"$1$\" }, \
                   { regex: a, replace: e, scope: global }]";
    check(filters, 418, "x-a: 1\n", "e Teeo$t");
}

#[test]
fn filters_have_the_options_of_their_expressions() {
    for (regex, options, expected) in [
        ("A", "jo", "b\na"),
        ("A", "joi", "b\n."),
        ("^a$", "jo", "b\na"),
        ("^a$", "m", "b\n."),
        ("b.a", "jo", "b\na"),
        ("b.a", "s", "."),
        ("a b", "i", "b\na"),
        ("\\n a", "x", "b."),
    ] {
        let filter = format!("{{ regex: '{regex}', replace: ., options: {options} }}");
        let plugins = format!(
            "{{ fault-injection: {{ abort: {{ http_status: 418, body: \"b\\na\" }} }}, \
             response-rewrite: {{ filters: [{filter}] }} }}"
        );
        let seen = Trial::new(&plugins, "").ask("GET /", "");
        let Seen::Answered { body, .. } = &seen else { panic!("{seen:?}") };
        assert_eq!(body, expected, "{filter}");
    }
}

#[test]
fn only_what_is_meant_is_rewritten() {
    let vars = |status| format!("status_code: 500, vars: [[status, ==, {status}]]");
    check(&vars(418), 500, "x-a: 1\netag: x\n", "a teapot");
    check(&vars(200), 418, "x-a: 1\netag: x\n", "a teapot");
}

/// What filters make of a body of these pieces, `abc` being `x`.
fn filtered(size_max: usize, memory: &Arc<Memory>, pieces: &[&'static str]) -> Bytes {
    let regex = regex::bytes::RegexBuilder::new("abc").unicode(false).build().expect("a regex");
    let filters = vec![Filter { regex, replacement: (*b"x").into(), count: None }].into();
    let mut rewriter = Rewriter::new(Change::Filters { filters, size_max }, memory);
    let mut out = BytesMut::new();
    for piece in pieces {
        out.extend_from_slice(&rewriter.piece(Bytes::from_static(piece.as_bytes())));
    }
    out.extend_from_slice(&rewriter.end());
    out.freeze()
}

#[test]
fn filters_see_a_body_as_a_whole_up_to_their_limit() {
    let plenty = Arc::new(Memory::new(usize::MAX));
    for (size_max, pieces, expected) in [
        (100, ["ab", "cab", "c."], "xx."),
        (3, ["ab", "cab", "c."], "xx."),
        (4, ["ab", "cab", "c."], "xabc."),
        (100, ["", "", ""], ""),
    ] {
        assert_eq!(filtered(size_max, &plenty, &pieces), expected, "{size_max}");
    }
    assert_eq!(plenty.refused(), 0);
}

#[test]
fn filters_see_a_body_as_it_comes_where_there_is_no_memory() {
    let memory = Arc::new(Memory::new(1000));
    let pieces = ["ab", "c", "abc", "ab", "c"];
    let other = memory.take(1000).expect("room");
    assert_eq!(filtered(100, &memory, &pieces), "abcxabc");
    assert_eq!(memory.refused(), 1);
    drop(other);
    assert_eq!(filtered(100, &memory, &pieces), "xxx");
    assert_eq!(memory.refused(), 1);
    assert!(memory.take(1000).is_some());
}

#[test]
fn what_filters_have_passed_on_counts_until_it_has_left() {
    let memory = Arc::new(Memory::new(10));
    let change = Change::Filters { filters: Vec::new().into(), size_max: 100 };
    let mut rewriter = Rewriter::new(change, &memory);
    assert!(rewriter.piece(Bytes::from_static(&[b'x'; 10])).is_empty());
    let body = rewriter.end();
    drop(rewriter);
    assert!(memory.take(1).is_none());
    drop(body);
    assert!(memory.take(10).is_some());
}

#[test]
fn groups_are_numbers() {
    for (text, expected) in [
        ("$1a", "${1}a"),
        ("${1}", "${1}"),
        ("${a}$", "$${a}$$"),
        ("$$1", "$$${1}"),
        ("x", "x"),
    ] {
        assert_eq!(replacement_of(text), expected, "{text}");
    }
}

#[test]
fn nodes_are_asked_for_what_filters_can_read() {
    let fields = "accept-encoding: gzip\r\nrange: bytes=0-1\r\n";
    for (settings, encoding, range) in [
        ("filters: [{ regex: a, replace: b }]", None, None),
        ("body: x", Some("gzip"), None),
        ("body: x, vars: [[status, ==, 404]]", Some("gzip"), Some("bytes=0-1")),
        ("status_code: 500", Some("gzip"), Some("bytes=0-1")),
    ] {
        let seen = Trial::new(&format!("{{ response-rewrite: {{ {settings} }} }}"), "");
        let seen = seen.ask("GET /", fields);
        let asked = (seen.field("accept-encoding"), seen.field("range"));
        assert_eq!(asked, (encoding, range), "{settings}");
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (settings, message) in [
        ("status_code: 199", "from 200 to 598"),
        ("status_code: 204", "has no body"),
        ("status_code: 205", "has no body"),
        ("status_code: 304", "has no body"),
        ("body: x, filters: [{ regex: a, replace: b }]", "at once"),
        ("body: x, body_base64: true", "is not base64"),
        ("filters: []", "needs 1 to 32"),
        ("filters: [{ regex: a }]", "`replace` is missing"),
        ("filters: [{ regex: \"(\", replace: b }]", "invalid regular expression"),
        ("filters: [{ regex: a, replace: b, options: u }]", "letters other than"),
        ("headers: { x-a: \"a\\nb\" }", "no field can have"),
        ("headers: { add: [\"x-a: a\\nb\"] }", "no field can have"),
        ("max_resp_body_size: 0", "from 1 to"),
        ("headers: { content-length: 1 }", "makes itself"),
        ("headers: { add: [x] }", "a colon"),
        ("vars: [[a]]", "vars"),
    ] {
        refused("response-rewrite", settings, message);
    }
}
