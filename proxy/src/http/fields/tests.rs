use bytes::BytesMut;

use super::*;
use crate::http::{
    gate::{RequestGate, ResponseGate},
    head::HeadLimits,
};

const LIMITS: HeadLimits =
    HeadLimits { size_max: 16 << 10, fields_max: 100, target_size_max: 8 << 10 };

fn forwarding(peer: &str) -> Forwarding {
    Forwarding::new(peer.parse().unwrap(), 9080, Scheme::Http, Pseudonym::new("tandem-1"))
}

fn lines<'a>(fields: impl Iterator<Item = ForwardedField<'a>>) -> Vec<String> {
    let line = |field: ForwardedField<'_>| {
        let value = String::from_utf8(field.value.as_bytes().to_vec()).unwrap();
        format!("{}: {value}", str::from_utf8(field.name.as_bytes()).unwrap())
    };
    fields.map(line).collect()
}

fn request_lines(head: &RequestHead, forwarding: &Forwarding, host: &[u8]) -> Vec<String> {
    let mut fields = Vec::new();
    forward_request_fields(&mut fields, head, forwarding, host, None, |_| false);
    lines(fields.into_iter())
}

fn request(head: &str) -> RequestHead {
    RequestGate::new(LIMITS).head(&mut BytesMut::from(head)).unwrap().expect("a whole head")
}

/// `fields` as received after `Host: a.example:81`; `kept` and `changed` are what the node gets of
/// them, before and after what it gets in any case.
#[track_caller]
fn check_request(fields: &str, kept: &[&str], xff: &str, via: &str, framing: Option<&str>) {
    let head = request(&format!("POST / HTTP/1.1\r\nHost: a.example:81\r\n{fields}\r\n"));
    let mut expected = vec!["host: a.example:81".to_owned()];
    expected.extend(kept.iter().map(|line| (*line).to_owned()));
    expected.extend([
        format!("x-forwarded-for: {xff}"),
        "x-forwarded-proto: http".into(),
        "x-forwarded-host: a.example:81".into(),
        "x-forwarded-port: 81".into(),
        "x-real-ip: 192.0.2.7".into(),
        format!("via: {via}"),
    ]);
    expected.extend(framing.map(str::to_owned));
    let forwarding = forwarding("192.0.2.7");
    let host = head.host_bytes().unwrap();
    assert_eq!(request_lines(&head, &forwarding, host), expected, "{fields:?}");
}

const OWN_XFF: &str = "192.0.2.7";
const OWN_VIA: &str = "1.1 tandem-1";

#[test]
fn end_to_end_fields_pass_in_order_and_case() {
    check_request(
        "X-B: 2\r\nx-a: 1\r\nX-B: \u{e9}\r\nunder_score: x\r\nAuthorization: y\r\nempty:\r\n",
        &["X-B: 2", "x-a: 1", "X-B: \u{e9}", "under_score: x", "Authorization: y", "empty: "],
        OWN_XFF,
        OWN_VIA,
        None,
    );
}

#[test]
fn fields_of_the_connection_stay_on_it() {
    check_request(
        "Connection: keep-alive, Upgrade, X-Hop\r\nKeep-Alive: timeout=5\r\nUpgrade: websocket\r\n\
         HTTP2-Settings: x\r\nTE: trailers\r\nTrailer: x\r\nProxy-Connection: close\r\nProxy: x\r\n\
         Proxy-Authorization: x\r\nProxy-Authenticate: x\r\nProxy-Authentication-Info: x\r\n\
         Expect: 100-continue\r\nx-hop: 1\r\nX-HOP: 2\r\nx-hop2: 3\r\n",
        &["x-hop2: 3"],
        OWN_XFF,
        OWN_VIA,
        None,
    );
}

#[test]
fn connection_cannot_take_away_what_the_proxy_says() {
    check_request(
        "Connection: host, x-forwarded-for, X-Forwarded-Proto, x-forwarded-host, x-forwarded-port, \
         x-real-ip, via, content-length, close\r\nX-Forwarded-For: 1.1.1.1\r\nVia: 1.1 x\r\n\
         Content-Length: 1\r\n",
        &[],
        OWN_XFF,
        OWN_VIA,
        Some("content-length: 1"),
    );
    check_request("Connection: apikey\r\nApiKey: x\r\nb: c\r\n", &["b: c"], OWN_XFF, OWN_VIA, None);
}

#[test]
fn what_the_proxy_knows_better_is_replaced_or_appended() {
    check_request(
        "X-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Port: 1\r\nX-Real-IP: 9.9.9.9\r\n\
         Forwarded: for=9.9.9.9\r\nX-Forwarded-For: 1.1.1.1\r\nVia: 1.0 a\r\nx-forwarded-for: 2.2.2.2, 3.3.3.3\r\n\
         X-Forwarded-For:\r\nX_Forwarded_For: 4.4.4.4\r\nX_Real-IP: 9.9.9.9\r\nTransfer_Encoding: x\r\n\
         via: 1.1 b (c)\r\n",
        &[],
        "1.1.1.1, 2.2.2.2, 3.3.3.3, 192.0.2.7",
        "1.0 a, 1.1 b (c), 1.1 tandem-1",
        None,
    );
}

#[test]
fn the_body_is_framed_anew() {
    let check = |fields: &str, framing: &str| {
        check_request(fields, &["a: b"], OWN_XFF, OWN_VIA, Some(framing));
    };
    check("content-length: 12\r\na: b\r\n", "content-length: 12");
    check("content-length: 0\r\na: b\r\n", "content-length: 0");
    check("content-length: 0012\r\na: b\r\n", "content-length: 12");
    check("content-length: 00\r\na: b\r\n", "content-length: 0");
    check("a: b\r\nTransfer-Encoding: Chunked\r\n", "transfer-encoding: chunked");
}

#[test]
fn an_old_request_without_host_gets_the_nodes() {
    let head = request("GET / HTTP/1.0\r\n\r\n");
    let forwarding = forwarding("::ffff:192.0.2.7");
    let fields = request_lines(&head, &forwarding, b"node:3000");
    let expected = [
        "host: node:3000",
        "x-forwarded-for: 192.0.2.7",
        "x-forwarded-proto: http",
        "x-forwarded-port: 9080",
        "x-real-ip: 192.0.2.7",
        "via: 1.0 tandem-1",
    ];
    assert_eq!(fields, expected);
}

fn response(method: &str, head: &str) -> ResponseHead {
    let mut bytes = BytesMut::from(head);
    ResponseGate::new(LIMITS).head(&mut bytes, method).unwrap().expect("a whole head")
}

#[track_caller]
fn check_response(head: &str, framing: Framing, stays_open: bool, expected: &[&str]) {
    let head = response("GET", &format!("HTTP/1.1 200 OK\r\n{head}\r\n"));
    assert_eq!(lines(forwarded_response_fields(&head, framing, stays_open)), expected);
}

#[test]
fn a_response_passes_as_it_came() {
    let fields = [
        "Server: n",
        "X-ODD-cAsE: a",
        "Content-Length: 5",
        "date: x",
        "Connection: Keep-Alive",
        "set-cookie: b",
        "Via: 1.1 n",
        "SET-COOKIE: c",
    ];
    let head: String = fields.iter().map(|line| format!("{line}\r\n")).collect();
    check_response(&head, Framing::Length, true, &fields);
}

#[test]
fn responses_lose_what_belongs_to_the_connection() {
    check_response(
        "Server: n\r\nConnection: X-Hop, close\r\nX-Hop: 1\r\nKeep-Alive: x\r\nSet-Cookie: a\r\n\
         Transfer-Encoding: Chunked\r\nTrailer: x\r\nUpgrade: h2c\r\nSet-Cookie: b\r\n\
         Proxy-Authenticate: x\r\nProxy-Status: kept\r\nProxy-Connection: x\r\n",
        Framing::Chunked,
        true,
        &[
            "Server: n",
            "Set-Cookie: a",
            "Set-Cookie: b",
            "Proxy-Status: kept",
            "transfer-encoding: chunked",
        ],
    );
    check_response("Via: 1.1 a\r\nConnection: via\r\n", Framing::Unsaid, true, &[]);
}

#[test]
fn connection_passes_only_if_it_says_keep_alive_and_that_is_so() {
    let check = |fields: &str, stays_open: bool, expected: &[&str]| {
        check_response(fields, Framing::Unsaid, stays_open, expected);
    };
    check("Connection: keep-alive\r\n", true, &["Connection: keep-alive"]);
    check("CONNECTION: KEEP-alive\r\n", true, &["CONNECTION: KEEP-alive"]);
    check("Connection: keep-alive\r\n", false, &[]);
    check("Connection: close\r\n", true, &[]);
    check("Connection: keep-alive, x\r\n", true, &[]);
    check("Connection: keep-alive,\r\n", true, &[]);
    check("Connection:\r\n", true, &[]);
    check("Connection: keep-alive\r\nConnection: keep-alive\r\n", true, &[]);
    check("Connection: keep-alive\r\nconnection:\r\n", true, &[]);
}

#[test]
fn the_length_passes_in_its_place_or_is_said_anew() {
    let check = |fields: &str, framing: Framing, expected: &[&str]| {
        check_response(fields, framing, true, expected);
    };
    let one = "Content-Length: 5\r\na: b\r\n";
    check(one, Framing::Length, &["Content-Length: 5", "a: b"]);
    check(one, Framing::Chunked, &["a: b", "transfer-encoding: chunked"]);
    check(one, Framing::Unsaid, &["a: b"]);
    check("Content-Length: 0\r\na: b\r\n", Framing::Length, &["Content-Length: 0", "a: b"]);
    check("Content-Length: 007\r\na: b\r\n", Framing::Length, &["a: b", "content-length: 7"]);
    check("Content-Length: 00\r\na: b\r\n", Framing::Length, &["a: b", "content-length: 0"]);
    let option = "Connection: content-length\r\nContent-Length: 5\r\na: b\r\n";
    check(option, Framing::Length, &["a: b", "content-length: 5"]);
}

#[test]
fn a_response_says_its_length_where_it_may() {
    let check = |method: &str, status: &str, expected: &[&str]| {
        let head = response(method, &format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\n"));
        assert_eq!(lines(forwarded_response_fields(&head, Framing::Length, true)), expected);
    };
    check("GET", "200 OK", &["Content-Length: 5"]);
    check("HEAD", "200 OK", &["Content-Length: 5"]);
    check("GET", "304 Not Modified", &[]);
    check("GET", "204 No Content", &[]);
    check("GET", "103 Early Hints", &[]);
}

#[test]
fn a_loop_is_seen_in_any_entry_of_via() {
    let check = |value: &str, expected: bool| {
        assert_eq!(via_names(value.as_bytes(), b"tandem-1"), expected, "{value}");
        let values = [b"1.1 other".as_slice(), value.as_bytes()];
        assert_eq!(Pseudonym::new("tandem-1").is_in(values.into_iter()), expected, "{value}");
    };
    check("1.1 tandem-1", true);
    check("1.0 a, HTTP/1.1  TANDEM-1 (comment) , 1.1 b", true);
    check("1.1 tandem-2", false);
    check("1.1 tandem-11", false);
    check("1.1 a (tandem-1)", false);
    check("tandem-1", false);
    check("", false);
}

#[test]
fn a_pseudonym_is_a_token() {
    let pseudonym = Pseudonym::new("my host\r\nx: y");
    assert_eq!(pseudonym.entry(Version::Http11), "1.1 my-host--x--y");
    assert!(pseudonym.is_in([b"1.1 my-host--x--y".as_slice()].into_iter()));
}
