use super::super::trial::{Trial, refused};

fn trial(settings: &str) -> Trial {
    Trial::new(&format!("{{ proxy-rewrite: {{ {settings} }} }}"), "")
}

/// The request line that the node sees, or a status.
#[track_caller]
fn check(settings: &str, line: &str, expected: Result<&str, u16>) {
    let seen = trial(settings).ask(line, "");
    match expected {
        Ok(line) => assert_eq!(seen.line(), Some(&*format!("{line} HTTP/1.1")), "{settings}"),
        Err(status) => assert_eq!(seen.status(), Some(status), "{settings} {line}"),
    }
}

#[test]
fn a_template_makes_the_path() {
    check("uri: /new", "GET /old", Ok("GET /new"));
    check("uri: /new", "GET /old?a=1&b", Ok("GET /new?a=1&b"));
    check("uri: \"/new?c=3\"", "GET /old?a=1", Ok("GET /new?c=3&a=1"));
    check("uri: \"/new?c=3\"", "GET /old", Ok("GET /new?c=3"));
    check("uri: \"/api$uri\"", "GET /a%20b/./c", Ok("GET /api/a%20b/c"));
    check("uri: \"/api/$uri\"", "GET /x", Ok("GET /api/x"));
    check("uri: \"/a b#c\"", "GET /x", Ok("GET /a%20b%23c"));
}

#[test]
fn a_client_brings_values_and_nothing_else() {
    const URI: &str = "uri: \"/files/$arg_name\"";
    check(URI, "GET /?name=a%3Fb%23c", Ok("GET /files/a%3Fb%23c?name=a%3Fb%23c"));
    let line = "GET /?name=x%20HTTP/1.1%0d%0aa:%20b";
    let sent = "GET /files/x%20HTTP/1.1%0D%0Aa:%20b?name=x%20HTTP/1.1%0d%0aa:%20b";
    check(URI, line, Ok(sent));
    for name in ["../etc", "..%2fetc", "%2e%2e/etc", "%252e%252e/etc", "a/..", ".", "a%5c..%5cb"] {
        check(URI, &format!("GET /?name={name}"), Err(400));
    }
    check(URI, "GET /?name=%2500", Err(400));
    check(URI, "GET /?name=..a", Ok("GET /files/..a?name=..a"));
}

#[test]
fn the_first_regular_expression_that_matches_counts() {
    const REGEX: &str =
        "regex_uri: [\"^/a/(.*)$\", \"/$1?from=a\", \"^/(b|a)/(.*)/x\", \"/$2/$1\"]";
    check(REGEX, "GET /a/c/d?q", Ok("GET /c/d?from=a&q"));
    check(REGEX, "GET /b/c/x/y", Ok("GET /c/b/y"));
    check(REGEX, "GET /c", Ok("GET /c"));
    check(REGEX, "GET /a/c%3Fd", Ok("GET /c%3Fd?from=a"));
    check("regex_uri: [\"^/a/\", \"\"]", "GET /a/b", Err(500));
    check("uri: /u, regex_uri: [\"^/a\", \"/b\"]", "GET /a", Ok("GET /u"));
}

#[test]
fn the_path_as_it_was_received_has_to_be_asked_for() {
    check("method: GET", "GET /a/../%62?x", Ok("GET /b?x"));
    check("use_real_request_uri_unsafe: true", "GET /a/../%62?x", Ok("GET /a/../%62?x"));
}

#[test]
fn method_and_host_are_replaced() {
    check("method: POST", "GET /", Ok("POST /"));
    check("method: POST", "HEAD /", Ok("HEAD /"));
    let seen = trial("host: \"node.example:81\"").ask("GET /", "");
    assert_eq!(seen.field("host"), Some("node.example:81"));
}

#[test]
fn fields_are_added_then_set_then_removed() {
    let trial = trial(
        "regex_uri: [\"^/(.*)$\", \"/x/$1\"], headers: { \
         add: { x-many: \"2\", x-gone: \"2\" }, set: { X-One: \"$1 $remote_addr\", x-n: 7 }, \
         remove: [x-gone, x-secret] }",
    );
    let fields = "x-many: 1\r\nx-one: 1\r\nx-secret: s\r\n";
    let seen = trial.ask("GET /p", fields);
    assert_eq!(seen.field("x-one"), Some("p 192.0.2.1"));
    assert_eq!((seen.field("x-n"), seen.field("x-gone")), (Some("7"), None));
    assert_eq!((seen.field("x-secret"), seen.line()), (None, Some("GET /x/p HTTP/1.1")));
    let super::super::trial::Seen::Forwarded { head, .. } = &seen else { panic!("{seen:?}") };
    assert_eq!(head.matches("x-many: ").count(), 2);
}

#[test]
fn a_field_may_have_several_values() {
    let trial = trial(
        "headers: { add: { x-add: [a, 1.10] }, set: { x-set: [\"$arg_a\", b, \"$arg_b\"] } }",
    );
    let values = |line: &str, name: &str| {
        let seen = trial.ask(line, "x-add: 0\r\nx-set: 0\r\n");
        let super::super::trial::Seen::Forwarded { head, .. } = seen else { panic!("{seen:?}") };
        let values = head.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        values.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(values("GET /?a=1&b=2", "x-add"), ["0", "a", "1.10"]);
    assert_eq!(values("GET /?a=1&b=2", "x-set"), ["1", "b", "2"]);
    assert_eq!(values("GET /?a=%0d&b=%0a", "x-set"), ["b"]);
}

#[test]
fn the_old_form_of_fields_sets_them() {
    let trial = trial("headers: { X-Arg: \"$arg_a\", x-b: b }");
    let seen = trial.ask("GET /?a=1", "x-b: a\r\n");
    assert_eq!((seen.field("x-arg"), seen.field("x-b")), (Some("1"), Some("b")));
    assert_eq!(trial.ask("GET /?a=%0d%0ax", "").field("x-arg"), None);
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (settings, message) in [
        ("", "needs at least one key"),
        ("uri: x", "begins with `/`"),
        ("uri: \"/$nothing\"", "unknown variable"),
        ("regex_uri: [a]", "should be an even number"),
        ("regex_uri: []", "needs a regular expression"),
        ("regex_uri: [a, $1]", "no group `1`"),
        ("method: CONNECT", "expected"),
        ("host: \"a b\"", "is not a host"),
        ("host: \"a:0\"", "is not a host"),
        ("headers: { host: a }", "makes itself"),
        ("headers: { set: { x-a: [] } }", "needs 1 to 32 items"),
        ("headers: { set: { x-a: [[1]] } }", "a string or a number"),
        ("headers: { x-a: [1] }", "a string or a number"),
        ("headers: { x-a: \"a\\r\\nb: c\" }", "has characters that no field can have"),
        ("headers: { x-a: \"${arg_a ?? a\\nb}\" }", "has characters that no field can have"),
        ("headers: { x-a: $1 }", "unknown variable"),
    ] {
        refused("proxy-rewrite", settings, message);
    }
}

#[test]
fn a_value_that_a_client_spoils_takes_its_own_field_along() {
    let trial = Trial::new("{ proxy-rewrite: { headers: { set: { X-Tenant: \"t-$arg_t\" } } } }", "");
    let seen = trial.ask("GET /?t=b", "X-Tenant: admin\r\n");
    assert_eq!(seen.field("x-tenant"), Some("t-b"));
    let seen = trial.ask("GET /?t=a%0Ab", "X-Tenant: admin\r\n");
    assert_eq!(seen.field("x-tenant"), None);
}

#[test]
fn a_value_stays_one_argument_and_a_query_stays_a_query() {
    let rewrite = |uri: &str| Trial::new(&format!("{{ proxy-rewrite: {{ uri: \"{uri}\" }} }}"), "");
    let seen = rewrite("/in?user=$http_x_user&role=guest").ask("GET /", "x-user: a&role=admin\r\n");
    assert_eq!(seen.line(), Some("GET /in?user=a%26role%3Dadmin&role=guest HTTP/1.1"));
    let seen = rewrite("/in?v=1&$args").ask("GET /?a=b&c=d", "");
    assert_eq!(seen.line(), Some("GET /in?v=1&a=b&c=d&a=b&c=d HTTP/1.1"));
}
