use bytes::BytesMut;

use super::*;
use crate::http::gate::{RequestGate, ResponseGate};

const LIMITS: HeadLimits =
    HeadLimits { size_max: 16 << 10, fields_max: 100, target_size_max: 8 << 10 };

fn request(head: &str) -> Result<RequestHead, Flaw> {
    let read = RequestGate::new(LIMITS).head(&mut BytesMut::from(head));
    read.map(|head| head.expect("a whole head")).map_err(HeadError::flaw)
}

fn response(method: &str, head: &str) -> Result<ResponseHead, Flaw> {
    let read = ResponseGate::new(LIMITS).head(&mut BytesMut::from(head), method);
    read.map(|head| head.expect("a whole head")).map_err(HeadError::flaw)
}

#[track_caller]
fn check_refused(head: &str, flaw: Flaw) {
    assert_eq!(request(head).map(|head| head.target().to_owned()), Err(flaw), "{head:?}");
}

/// The request line, then `host: a`, then `fields` without the last line's ending.
#[track_caller]
fn check_fields_refused(fields: &str, flaw: Flaw) {
    check_refused(&format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n\r\n"), flaw);
}

#[test]
fn a_head_gives_back_what_was_received() {
    let head = request(
        "PATCH /a/b?c=d&e HTTP/1.1\r\nHost: Example.com:8080\r\nX-One:\t 1 \r\nx-empty:\r\n\
         X-ONE: \u{e9}\r\nunder_score: x\r\nContent-Length: 12\r\n\r\n",
    )
    .unwrap();
    assert_eq!(head.method(), "PATCH");
    assert_eq!(head.target(), "/a/b?c=d&e");
    assert_eq!(head.path_and_query(), ("/a/b", Some("c=d&e")));
    assert_eq!(head.version(), Version::Http11);
    assert_eq!(head.host(), Some("Example.com:8080"));
    assert_eq!(head.host_name(), Some("Example.com"));
    assert_eq!(head.host_port(), Some(&b"8080"[..]));
    assert_eq!(head.body_length(), BodyLength::Fixed(12));
    assert!(head.keeps_alive());
    assert!(!head.expects_continue());
    let names: Vec<_> = head.fields().map(|field| str::from_utf8(field.name).unwrap()).collect();
    assert_eq!(names, ["Host", "X-One", "x-empty", "X-ONE", "under_score", "Content-Length"]);
    assert_eq!(head.field("x-one"), Some(&b"1"[..]));
    assert_eq!(head.values("x-One").collect::<Vec<_>>(), [&b"1"[..], "\u{e9}".as_bytes()]);
    assert_eq!(head.field("X-Empty"), Some(&b""[..]));
    assert_eq!(head.field("x-absent"), None);
    assert!(head.bytes().ends_with(b"\r\n\r\n"));
}

#[test]
fn a_head_does_not_show_its_secrets() {
    let head = request("GET /?key=secret HTTP/1.1\r\nhost: a\r\napikey: secret\r\n\r\n").unwrap();
    assert!(!format!("{head:?}").contains("secret"));
}

#[track_caller]
fn check_target(method: &str, target: &str, path: &str, query: Option<&str>, host: &str) {
    let head = request(&format!("{method} {target} HTTP/1.1\r\nhost: field:1\r\n\r\n")).unwrap();
    assert_eq!(head.target(), target);
    assert_eq!(head.path_and_query(), (path, query), "{target}");
    assert_eq!(head.host(), Some(host), "{target}");
}

#[test]
fn every_form_of_a_target_comes_down_to_path_query_and_host() {
    let check = check_target;
    check("GET", "/", "/", None, "field:1");
    check("GET", "/?", "/", Some(""), "field:1");
    check("GET", "/a?b?c", "/a", Some("b?c"), "field:1");
    check("GET", "//a//b", "//a//b", None, "field:1");
    check("GET", "/http://b/", "/http://b/", None, "field:1");
    check("GET", "/%zz|{}^\"[]\\'*,;=@", "/%zz|{}^\"[]\\'*,;=@", None, "field:1");
    check("GET", "/a?`{|}\\", "/a", Some("`{|}\\"), "field:1");
    check("OPTIONS", "*", "*", None, "field:1");
    check("GET", "http://Target", "/", None, "Target");
    check("GET", "HTTP://target:443/a?b", "/a", Some("b"), "target:443");
    check("GET", "http://target?b", "/", Some("b"), "target");
    check("GET", "http://target/a://b", "/a://b", None, "target");
    check("GET", "http://[::1]:80/a", "/a", None, "[::1]:80");
    check("OPTIONS", "http://target", "*", None, "target");
    check("OPTIONS", "http://target/", "/", None, "target");
    check("OPTIONS", "http://target?b", "/", Some("b"), "target");
}

#[test]
fn a_target_of_no_form_is_refused() {
    for target in [
        "*",
        "a",
        "a/b",
        "a:80",
        "?a",
        "/a#b",
        "/a?b#c",
        "/a<",
        "/a>",
        "/a`",
        "/?\"",
        "/?<",
        "/?>",
        "http:/a",
        "http://",
        "http:///a",
        "http://?a",
        "http://u@a/",
        "http://u:p@a/",
        "http://a:b/",
        "http://a b/",
        "http://a#b",
        "http://a\\b/",
        "ftp://a/",
        "http://a:65536/",
        "://a/",
        "ws://a/",
        "http://%61/",
    ] {
        let head = format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n");
        let flaw = if target.contains(' ') { Flaw::RequestLine } else { Flaw::Target };
        check_refused(&head, flaw);
    }
    check_refused("POST * HTTP/1.1\r\nhost: a\r\n\r\n", Flaw::Target);
    check_refused("GET /\u{e9} HTTP/1.1\r\nhost: a\r\n\r\n", Flaw::Target);
    check_refused("OPTIONS *a HTTP/1.1\r\nhost: a\r\n\r\n", Flaw::Target);
}

#[test]
fn a_request_line_has_three_words_and_two_spaces() {
    for line in [
        "GET / HTTP/1.1 ",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        " GET / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET / a HTTP/1.1",
        "GET /",
        "GET",
        "GET / ",
        "GET / http/1.1",
        "GET / HTTP/1",
        "GET / HTTP/1.1.",
        "GET / HTTP/11",
        "GET / HTTPS/1.1",
        "GET / HTTP/1.a",
        "G=T / HTTP/1.1",
        "G\u{e9}T / HTTP/1.1",
        "(GET) / HTTP/1.1",
        "GET /\t HTTP/1.1",
        "HTTP/1.1 200 OK",
        "GET / HTTP/1.10",
    ] {
        let flaw = request(&format!("{line}\r\nhost: a\r\n\r\n")).expect_err(line);
        assert!(matches!(flaw, Flaw::RequestLine | Flaw::LineEnding), "{line:?}: {flaw:?}");
    }
    let longest = "M".repeat(METHOD_SIZE_MAX);
    assert!(request(&format!("{longest} / HTTP/1.1\r\nhost: a\r\n\r\n")).is_ok());
    check_refused(&format!("{longest}M / HTTP/1.1\r\nhost: a\r\n\r\n"), Flaw::RequestLine);
}

#[test]
fn other_versions_and_connect_are_told_apart_from_nonsense() {
    for version in ["HTTP/0.9", "HTTP/2.0", "HTTP/3.0", "HTTP/9.9"] {
        check_refused(&format!("GET / {version}\r\nhost: a\r\n\r\n"), Flaw::Version);
    }
    check_refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Flaw::Version);
    for target in ["a:443", "/", "*", "http://a/"] {
        check_refused(&format!("CONNECT {target} HTTP/1.1\r\nhost: a\r\n\r\n"), Flaw::Method);
    }
}

#[test]
fn a_field_line_is_name_colon_value_crlf() {
    for line in [
        "a : b",
        " a: b",
        "\ta: b",
        "a: b\r\n c: d",
        "a: b\r\n\tc",
        "a",
        ": b",
        "a\0: b",
        "a: \0",
        "a: b\x0bc",
        "a: \x7f",
        "a: b\rc",
        "\u{e9}: a",
        "a b: c",
        "a: b\r\n: c",
        "(a): b",
        "a;b: c",
        "a\r: b",
        "content-length : 5",
        "transfer-encoding\t: chunked",
    ] {
        check_fields_refused(line, Flaw::Field);
    }
    check_refused("GET / HTTP/1.1\r\n host: a\r\n\r\n", Flaw::Field);
    check_fields_refused("\r: a", Flaw::LineEnding);
    for line in ["a: b\n", "a: b\nc: d", "\n", "a: \r\n\n", "a:\n b"] {
        check_fields_refused(line, Flaw::LineEnding);
    }
    check_refused("GET / HTTP/1.1\nhost: a\n\n", Flaw::LineEnding);
    check_refused("GET / HTTP/1.1\r\nhost: a\r\n\n", Flaw::LineEnding);
}

#[test]
fn there_is_one_valid_host() {
    check_refused("GET / HTTP/1.1\r\n\r\n", Flaw::HostMissing);
    check_refused("GET http://a/ HTTP/1.1\r\n\r\n", Flaw::HostMissing);
    check_fields_refused("host: a", Flaw::HostRepeated);
    check_fields_refused("HOST: b", Flaw::HostRepeated);
    for host in
        ["", "a, b", "a b", "u@a", "a:b", "a/", "http://a", "\u{e9}", "a:80:80", "[::1", "%61"]
    {
        check_refused(&format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n"), Flaw::HostInvalid);
        check_refused(&format!("GET / HTTP/1.0\r\nhost: {host}\r\n\r\n"), Flaw::HostInvalid);
        check_refused(
            &format!("GET http://a/ HTTP/1.1\r\nhost: {host}\r\n\r\n"),
            Flaw::HostInvalid,
        );
    }
    let old = request("GET / HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!((old.host(), old.host_name(), old.host_port()), (None, None, None));
    let bare = request("GET / HTTP/1.1\r\nhost: [::1]:\r\n\r\n").unwrap();
    assert_eq!((bare.host_name(), bare.host_port()), (Some("[::1]"), None));
}

#[test]
fn ambiguous_lengths_are_refused() {
    let check = |fields, error| check_fields_refused(fields, Flaw::Length(error));
    check("content-length: 5\r\nTransfer-Encoding: chunked", LengthError::LengthAndEncoding);
    check("content-length: 5\r\nContent-Length: 5", LengthError::LengthRepeated);
    check("content-length: 5, 5", LengthError::LengthMalformed);
    check("content-length:", LengthError::LengthMalformed);
    check("transfer-encoding: gzip, chunked", LengthError::EncodingUnknown);
    check(
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        LengthError::EncodingRepeated,
    );
    let old = "POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n";
    check_refused(old, Flaw::Length(LengthError::EncodingInOldVersion));
}

#[track_caller]
fn check_keeps_alive(version: &str, connection: &[&str], expected: bool) {
    let fields: String =
        connection.iter().map(|value| format!("Connection: {value}\r\n")).collect();
    let head = request(&format!("GET / {version}\r\nhost: a\r\n{fields}\r\n")).unwrap();
    assert_eq!(head.keeps_alive(), expected, "{version} {connection:?}");
    let head =
        response("GET", &format!("{version} 200 OK\r\ncontent-length: 0\r\n{fields}\r\n")).unwrap();
    assert_eq!(head.keeps_alive(), expected, "response, {version} {connection:?}");
}

#[test]
fn a_connection_is_kept_by_version_and_options() {
    let check = check_keeps_alive;
    check("HTTP/1.1", &[], true);
    check("HTTP/1.1", &["close"], false);
    check("HTTP/1.1", &["x, CLOSE ,y"], false);
    check("HTTP/1.1", &["keep-alive", "close"], false);
    check("HTTP/1.1", &["closed"], true);
    check("HTTP/1.0", &[], false);
    check("HTTP/1.0", &["Keep-Alive"], true);
    check("HTTP/1.0", &["keep-alive, close"], false);
}

#[test]
fn connection_options_are_found_in_any_case_and_field() {
    let head = request(
        "GET / HTTP/1.1\r\nhost: a\r\nconnection: X-One,, x-two\r\nConnection: x-three\r\n\r\n",
    );
    let head = head.unwrap();
    for name in ["x-one", "X-Two", "x-three"] {
        assert!(head.is_connection_option(name.as_bytes()), "{name}");
    }
    for name in ["", "x-on", "x-one, x-two", "connection"] {
        assert!(!head.is_connection_option(name.as_bytes()), "{name}");
    }
}

#[test]
fn a_field_knows_whether_connection_names_it() {
    let head = request(
        "GET / HTTP/1.1\r\nx-One: 1\r\nhost: a\r\nconnection: X-one, close, Host\r\nx-two: 2\r\n\r\n",
    );
    let named: Vec<_> = head.unwrap().fields().map(|field| field.is_connection_option).collect();
    assert_eq!(named, [true, true, false, false]);
    let response = response("GET", "HTTP/1.1 200 OK\r\nConnection: a\r\nA: 1\r\n\r\n").unwrap();
    assert!(response.fields().last().unwrap().is_connection_option);
}

#[test]
fn connection_options_are_counted_over_all_fields() {
    let half = ",".repeat(CONNECTION_OPTIONS_MAX / 2 - 1);
    let twice = format!("connection: {half}\r\nconnection: {half}");
    assert!(request(&format!("GET / HTTP/1.1\r\nhost: a\r\n{twice}\r\n\r\n")).is_ok());
    check_fields_refused(&format!("{twice},"), Flaw::TooManyOptions);
    check_fields_refused(&format!("{twice}\r\nconnection: close"), Flaw::TooManyOptions);
}

#[track_caller]
fn check_expect(version: &str, fields: &str, expected: Result<bool, Flaw>) {
    let head = request(&format!("POST / {version}\r\nhost: a\r\n{fields}\r\n\r\n"));
    assert_eq!(head.map(|head| head.expects_continue()), expected, "{version} {fields:?}");
}

#[test]
fn only_100_continue_may_be_expected() {
    let check = check_expect;
    check("HTTP/1.1", "content-length: 1", Ok(false));
    check("HTTP/1.1", "content-length: 1\r\nexpect: 100-Continue", Ok(true));
    check("HTTP/1.1", "transfer-encoding: chunked\r\nexpect: 100-continue, 100-continue", Ok(true));
    check("HTTP/1.1", "content-length: 0\r\nexpect: 100-continue", Ok(false));
    check("HTTP/1.1", "expect: 100-continue", Ok(false));
    check("HTTP/1.0", "content-length: 1\r\nexpect: 100-continue", Ok(false));
    check("HTTP/1.1", "content-length: 1\r\nexpect: 100-continue=x", Err(Flaw::Expectation));
    check(
        "HTTP/1.1",
        "content-length: 1\r\nexpect: 100-continue\r\nexpect: other",
        Err(Flaw::Expectation),
    );
}

#[test]
fn a_response_has_status_fields_and_length() {
    let head = response("GET", "HTTP/1.1 404 Not Found\r\nServer: x\r\ncontent-length: 3\r\n\r\n")
        .unwrap();
    assert_eq!(head.status(), StatusCode::NOT_FOUND);
    assert_eq!(head.version(), Version::Http11);
    assert_eq!(head.body_length(), BodyLength::Fixed(3));
    assert_eq!(head.field("server"), Some(&b"x"[..]));
    assert!(!head.is_interim());
    for line in ["HTTP/1.1 200 ", "HTTP/1.1 200", "HTTP/1.0 200 \u{e9}t\u{e9}", "HTTP/1.1 999 a\tb"]
    {
        let head = response("GET", &format!("{line}\r\n\r\n")).expect(line);
        assert_eq!((head.body_length(), head.keeps_alive()), (BodyLength::UntilClose, false));
    }
    assert!(response("GET", "HTTP/1.1 103 Early Hints\r\n\r\n").unwrap().is_interim());
}

#[test]
fn a_response_is_held_to_the_same_rules() {
    let check = |head: &str, flaw| {
        assert_eq!(response("GET", head).map(|head| head.status()), Err(flaw), "{head:?}");
        let error = ResponseGate::new(LIMITS).head(&mut BytesMut::from(head), "GET").unwrap_err();
        assert_eq!(error.fault(), Fault::ResponseMalformed);
    };
    for line in [
        "HTTP/1.1 99 x",
        "HTTP/1.1 099 x",
        "HTTP/1.1 1000 x",
        "HTTP/1.1 2xx",
        "HTTP/1.1  200 OK",
        "HTTP/1.1",
        "HTTP/1.1 200\tOK",
        "HTTP/1.1 200 O\0K",
        "HTTP/1.1 +20 OK",
        "HTTP/1.1 -20",
    ] {
        check(&format!("{line}\r\n\r\n"), Flaw::StatusLine);
    }
    for garbage in
        ["HTTP/2.0 200 OK\r\n\r\n", "SSH-2.0-x", "\r\nHTTP/1.1 200 OK\r\n\r\n", "hTTP/1.1", "x"]
    {
        check(garbage, Flaw::StatusLine);
    }
    check("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n", Flaw::Upgraded);
    check("HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n", Flaw::Field);
    check("HTTP/1.1 200 OK\r\na : b\r\n\r\n", Flaw::Field);
    check("HTTP/1.1 200 OK\na: b\n\n", Flaw::LineEnding);
    check("HTTP/1.1 200 OK\r\na: \0\r\n\r\n", Flaw::Field);
    let length = |fields: &str, error| {
        check(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n"), Flaw::Length(error));
    };
    length("content-length: 5\r\ntransfer-encoding: chunked", LengthError::LengthAndEncoding);
    length("content-length: 5\r\ncontent-length: 5", LengthError::LengthRepeated);
    length("content-length: 5, 5", LengthError::LengthMalformed);
    length("transfer-encoding: chunked, gzip", LengthError::EncodingUnknown);
}

#[test]
fn the_reason_is_what_stands_behind_the_status() {
    for (line, reason) in [
        ("HTTP/1.1 200 OK", "OK"),
        ("HTTP/1.0 404 not  here\t", "not  here\t"),
        ("HTTP/1.1 200  OK", " OK"),
        ("HTTP/1.1 200 D\u{e9}j\u{e0} vu", "D\u{e9}j\u{e0} vu"),
        ("HTTP/1.1 200 ", ""),
        ("HTTP/1.1 200", ""),
    ] {
        let head = response("GET", &format!("{line}\r\nx: y\r\n\r\n")).unwrap();
        assert_eq!(head.reason(), reason.as_bytes(), "{line:?}");
    }
}

#[test]
fn a_field_has_its_line_as_received() {
    let lines = ["A:1", "B: \t2 ", "empty:", "A:  ", "D: \u{e9}: x"];
    let head = format!("HTTP/1.1 200 OK\r\n{}\r\n\r\n", lines.join("\r\n"));
    let head = response("GET", &head).unwrap();
    let line = |field: Field<'_>| &head.bytes()[head.line(field.name, field.value)];
    let received: Vec<_> = head.fields().map(line).collect();
    assert_eq!(received, lines.map(|line| format!("{line}\r\n").into_bytes()));
}

#[test]
fn each_flaw_of_a_request_has_its_answer() {
    for (flaw, status) in [
        (Flaw::RequestLine, 400),
        (Flaw::Version, 505),
        (Flaw::Target, 400),
        (Flaw::TargetTooLong, 414),
        (Flaw::Method, 405),
        (Flaw::LineEnding, 400),
        (Flaw::ControlByte, 400),
        (Flaw::Field, 400),
        (Flaw::TooLarge, 431),
        (Flaw::TooManyFields, 431),
        (Flaw::TooManyOptions, 431),
        (Flaw::HostMissing, 400),
        (Flaw::HostRepeated, 400),
        (Flaw::HostInvalid, 400),
        (Flaw::Length(LengthError::LengthAndEncoding), 400),
        (Flaw::Expectation, 417),
    ] {
        let answered = HeadError::Request(flaw).fault().consequence().status;
        assert_eq!(answered.map(|status| status.as_u16()), Some(status), "{flaw:?}");
    }
}
