use bytes::BytesMut;
use http::HeaderName;

use super::*;
use crate::{
    http::{gate::ResponseGate, head::HeadLimits},
    plugin::trial,
};

const GZIP: Coder = Coder::Gzip { level: 1 };
const BROTLI: Coder =
    Coder::Brotli { quality: 1, mode: BrotliMode::Generic, lgwin: 10, lgblock: 0 };
const ZSTD: Coder = Coder::Zstd { level: 1 };

fn plenty() -> Arc<Memory> {
    Arc::new(Memory::new(usize::MAX))
}

fn any(coder: Coder) -> Encoding {
    let min_version = Version::Http11;
    Encoding { coder, types: Types::Any, min_length: 20, min_version, varies: false }
}

fn response(method: &str, text: &str) -> ResponseHead {
    let limits = HeadLimits { size_max: 4096, fields_max: 20, target_size_max: 0 };
    let mut bytes = BytesMut::from(&*format!("HTTP/1.1 {text}\r\n\r\n"));
    ResponseGate::new(limits).head(&mut bytes, method).expect("valid").expect("whole")
}

/// What becomes of a response: fields that are made, and whether the body is encoded.
fn shaped(encodings: &[Encoding], method: &str, fields: &str, text: &str) -> (String, bool) {
    let request = trial::head(&format!("{method} /"), fields);
    let head = response(method, text);
    let mut shape = Shape::default();
    let early = FieldEdits::<0>::default();
    apply(encodings.iter(), &request, &head, &early, &plenty(), &mut shape);
    let made = shape.edits.fields.made(|_| true);
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let made: Vec<_> = made.map(|(name, value)| format!("{name}: {}", text(value))).collect();
    assert_eq!(shape.is_filtered, made.iter().any(|line| line.starts_with("content-encoding")));
    (made.join("\n"), !shape.filters.is_empty())
}

const ACCEPT: &str = "accept-encoding: gzip\r\n";
const HTML: &str = "200 OK\r\ncontent-type: text/html\r\ncontent-length: 20";

#[track_caller]
fn check(fields: &str, text: &str, made: &str) {
    let expected = (made.to_owned(), !made.is_empty());
    assert_eq!(shaped(&[any(GZIP)], "GET", fields, text), expected, "{fields:?} {text:?}");
}

#[test]
fn only_what_may_be_encoded_is() {
    const YES: &str = "content-encoding: gzip";
    check(ACCEPT, HTML, YES);
    check("accept-encoding: br\r\naccept-encoding: x, gzip\r\n", HTML, YES);
    check("", HTML, "");
    check("accept-encoding: identity\r\n", HTML, "");
    check("accept-encoding: gzip\r\ncache-control: x, No-Transform\r\n", HTML, "");
    for more in [
        "content-encoding: br",
        "content-encoding: gzip, identity",
        "content-range: bytes 0-19/40",
        "cache-control: public, no-transform",
        "cache-control: public\r\nCache-Control: NO-TRANSFORM",
    ] {
        check(ACCEPT, &format!("{HTML}\r\n{more}"), "");
    }
    check(ACCEPT, &format!("{HTML}\r\ncontent-encoding: identity"), YES);
    check(ACCEPT, &format!("{HTML}\r\ncache-control: max-age=1"), YES);
    for status in ["206 Partial", "204 No Content", "205 Reset", "304 Not Modified"] {
        check(ACCEPT, &HTML.replace("200 OK", status), "");
    }
    for status in ["201 Created", "404 Not Found", "500 Oh"] {
        check(ACCEPT, &HTML.replace("200 OK", status), YES);
    }
}

#[test]
fn length_and_type_decide() {
    const CHUNKED: &str = "200 OK\r\ncontent-type: a/b\r\ntransfer-encoding: chunked";
    const YES: &str = "content-encoding: gzip";
    check(ACCEPT, &HTML.replace("20\r\n", "19\r\n").replace("length: 20", "length: 19"), "");
    check(ACCEPT, &HTML.replace("length: 20", "length: 0"), "");
    check(ACCEPT, CHUNKED, YES);
    check(ACCEPT, "200 OK\r\ncontent-type: a/b", YES);
    check(ACCEPT, "200 OK\r\ncontent-length: 50", "");
    check(ACCEPT, "200 OK\r\ncontent-type:\r\ncontent-length: 50", "");
    let types = vec!["text/html".to_owned(), "a/b".to_owned()];
    let listed = [Encoding { types: Types::Listed(types), ..any(GZIP) }];
    for (content_type, is_encoded) in [
        ("text/html", true),
        ("Text/HTML; charset=utf-8", true),
        ("a/b ;x", true),
        ("text/htmlx", false),
        ("text/plain, text/html", false),
        ("", false),
    ] {
        let text = format!("200 OK\r\ncontent-type: {content_type}");
        assert_eq!(shaped(&listed, "GET", ACCEPT, &text).1, is_encoded, "{content_type}");
    }
}

#[test]
fn a_response_to_head_says_what_one_to_get_would() {
    let head = shaped(&[any(GZIP)], "HEAD", ACCEPT, &format!("{HTML}\r\netag: \"a\""));
    assert_eq!(head, ("content-encoding: gzip\netag: W/\"a\"".to_owned(), false));
    let short = HTML.replace("length: 20", "length: 19");
    assert_eq!(shaped(&[any(GZIP)], "HEAD", ACCEPT, &short), (String::new(), false));
}

#[test]
fn what_was_true_of_the_body_is_not_said_any_more() {
    for (etag, expected) in [
        ("\"a\"", "content-encoding: gzip\netag: W/\"a\""),
        ("W/\"a\"", "content-encoding: gzip"),
        ("a", "content-encoding: gzip"),
    ] {
        check(ACCEPT, &format!("{HTML}\r\netag: {etag}"), expected);
    }
    let request = trial::head("GET /", ACCEPT);
    let text = format!("{HTML}\r\netag: a\r\naccept-ranges: bytes\r\ncontent-md5: x");
    let (head, mut shape) = (response("GET", &text), Shape::default());
    apply([any(GZIP)].iter(), &request, &head, &FieldEdits::<0>::default(), &plenty(), &mut shape);
    for name in ["etag", "accept-ranges", "content-md5", "repr-digest"] {
        let name = HeaderName::from_static(name);
        assert!(shape.edits.fields.replaces_name(&name), "{name}");
    }
    assert!(!shape.edits.fields.replaces_name(&CONTENT_TYPE));
}

#[test]
fn the_coding_that_is_wanted_most_is_taken() {
    let all = [any(GZIP), any(BROTLI), any(ZSTD)];
    for (accept, coding) in [
        ("gzip, deflate, br, zstd", Some("zstd")),
        ("gzip, br", Some("br")),
        ("br;q=0.8, gzip;q=0.9, zstd;q=0.1", Some("gzip")),
        ("br;q=0.8, *;q=0.9", Some("zstd")),
        ("*", Some("zstd")),
        ("*;q=0.1, zstd;q=0", Some("br")),
        ("gzip;q=0, br;q=0, zstd;q=0", None),
        ("deflate", None),
        ("identity;q=0", None),
    ] {
        let fields = format!("accept-encoding: {accept}\r\n");
        let made = coding.map_or_else(String::new, |coding| format!("content-encoding: {coding}"));
        let expected = (made, coding.is_some());
        assert_eq!(shaped(&all, "GET", &fields, HTML), expected, "{accept}");
    }
}

#[test]
fn caches_are_told_once_whatever_is_accepted() {
    let varying = [Encoding { varies: true, ..any(GZIP) }];
    let vary =
        |fields: &str, more: &str| shaped(&varying, "GET", fields, &format!("{HTML}{more}")).0;
    const TOLD: &str = "vary: Accept-Encoding";
    assert_eq!(vary(ACCEPT, ""), format!("{TOLD}\ncontent-encoding: gzip"));
    assert_eq!(vary("", ""), TOLD);
    assert_eq!(vary("", "\r\nvary: Origin"), TOLD);
    for known in ["accept-encoding", "Origin, Accept-Encoding", "*"] {
        assert_eq!(vary("", &format!("\r\nvary: {known}")), "", "{known}");
    }
    assert_eq!(vary("", "\r\ncontent-encoding: br"), "");
    assert_eq!(shaped(&[any(GZIP)], "GET", "", HTML).0, "");
}

#[test]
fn what_other_plugins_have_made_of_the_head_counts() {
    let request = trial::head("GET /", ACCEPT);
    let head = response("GET", &format!("{HTML}\r\ncontent-encoding: br\r\nvary: accept-encoding"));
    let varying = [Encoding { varies: true, min_length: 100, ..any(GZIP) }];
    let encode = |shape: &mut Shape<'_>| {
        apply(varying.iter(), &request, &head, &FieldEdits::<0>::default(), &plenty(), shape);
        let made = shape.edits.fields.made(|_| true).map(|(name, _)| name.to_string());
        made.collect::<Vec<_>>().join(" ")
    };
    let mut shape = Shape { is_filtered: true, ..Shape::default() };
    assert_eq!(encode(&mut shape), "", "encoded already");
    shape.edits.fields.remove("content-encoding");
    shape.edits.fields.remove("vary");
    assert_eq!(encode(&mut shape), "vary content-encoding", "its length is not known any more");
    let mut shape = Shape { is_filtered: true, ..Shape::default() };
    shape.edits.fields.remove("content-encoding");
    shape.edits.fields.remove("content-type");
    assert_eq!(encode(&mut shape), "");
    let mut shape = Shape { is_filtered: true, ..Shape::default() };
    shape.edits.fields.remove("content-encoding");
    shape.edits.fields.set(CACHE_CONTROL, HeaderValue::from_static("no-transform"));
    assert_eq!(encode(&mut shape), "cache-control");
}
