use super::super::trial::{Seen, Trial, refused};

#[track_caller]
fn check(settings: &str, line: &str, fields: &str, expected: Option<(u16, &str)>) {
    let trial = Trial::new(&format!("{{ redirect: {{ {settings} }} }}"), "");
    let seen = trial.ask(line, fields);
    let location = |seen: &Seen| seen.field("location").map(str::to_owned);
    let found = seen.status().map(|status| (status, location(&seen).unwrap_or_default()));
    let expected = expected.map(|(status, location)| (status, location.to_owned()));
    assert_eq!(found, expected, "{settings}: {line}");
}

#[test]
fn a_template_says_where_to_go() {
    const UNLESS: &str = "uri: \"/new$uri?a=$arg_a\", ret_code: 308";
    check("uri: /new", "GET /old?x=1", "", Some((302, "/new")));
    check("uri: /new, ret_code: 301", "POST /old", "", Some((301, "/new")));
    check(UNLESS, "GET /x%2Fy?a=b", "", Some((308, "/new/x/y?a=b")));
    check("uri: /n, append_query_string: true", "GET /?x=1&y", "", Some((302, "/n?x=1&y")));
    check("uri: \"/n?z\", append_query_string: true", "GET /?x", "", Some((302, "/n?z&x")));
    check("uri: /n, append_query_string: true", "GET /?", "", Some((302, "/n")));
    check("uri: \"$http_x\"", "GET /", "", Some((400, "")));
}

#[test]
fn nothing_a_client_sends_ends_a_line() {
    const URI: &str = "uri: \"/n?a=$arg_a\"";
    let line = "GET /?a=x%0D%0Aset-cookie:%20y%C3%A9";
    check(URI, line, "", Some((400, "")));
    let encoded = format!("{URI}, encode_uri: true");
    check(&encoded, line, "", Some((302, "/n?a=x%0D%0Aset-cookie:%20y%C3%A9")));
}

#[test]
fn a_regular_expression_is_substituted_once() {
    const REGEX: &str = "regex_uri: [\"/(\\\\d+)/([^/]+)\", \"/$2-${1}\"]";
    check(REGEX, "GET /a/12/b/3/c?q", "", Some((302, "/a/b-12/3/c")));
    check(REGEX, "GET /a/b", "", None);
}

#[test]
fn without_tls_there_is_a_way_to_tls() {
    const HTTPS: &str = "http_to_https: true";
    check(HTTPS, "GET /a/../b?c=%0a", "", Some((301, "https://a/b?c=%0a")));
    check(HTTPS, "HEAD /", "", Some((301, "https://a/")));
    check(HTTPS, "POST /", "", Some((308, "https://a/")));
    check(HTTPS, "GET /", "x-forwarded-proto: https\r\n", None);
    check(HTTPS, "GET /", "x-forwarded-proto: HTTPS\r\n", None);
    for said in ["http", "HTTP", "", "x", "http, http"] {
        let fields = format!("x-forwarded-proto: {said}\r\n");
        check(HTTPS, "GET /", &fields, Some((301, "https://a/")));
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (settings, message) in [
        ("", "needs one of"),
        ("http_to_https: false", "needs one of"),
        ("uri: /x, http_to_https: true", "needs one of"),
        ("http_to_https: true, append_query_string: true", "only one of `http_to_https` and"),
        ("uri: \"/$nothing\"", "unknown variable `nothing`"),
        ("regex_uri: [a]", "should be an even number"),
        ("regex_uri: [a, b, c, d]", "needs a regular expression and"),
        ("regex_uri: [\"(\", b]", "invalid regular expression"),
        ("regex_uri: [a, $1]", "no group `1`"),
        ("uri: /x, ret_code: 199", "from 200 to 599"),
    ] {
        refused("redirect", settings, message);
    }
}
