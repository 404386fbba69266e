use super::*;
use crate::http::{
    framing::{BodyLength, BodyReader},
    head::Version,
};

const LIMITS: HeadLimits = HeadLimits { size_max: 256, fields_max: 4, target_size_max: 64 };

/// Feeds `parts` one after the other until a head or an error comes.
fn feed(parts: &[&[u8]]) -> (Result<Option<RequestHead>, Flaw>, BytesMut) {
    let mut gate = RequestGate::new(LIMITS);
    let mut buf = BytesMut::new();
    for part in parts {
        buf.extend_from_slice(part);
        match gate.head(&mut buf) {
            Ok(None) => {}
            Ok(Some(head)) => return (Ok(Some(head)), buf),
            Err(error) => return (Err(error.flaw()), buf),
        }
    }
    (Ok(None), buf)
}

/// Whole and byte by byte, a request line that is never followed by anything included.
#[track_caller]
fn check_refused(head: &str, flaw: Flaw) {
    let (whole, _) = feed(&[head.as_bytes()]);
    assert_eq!(whole.map(|_| ()), Err(flaw), "{head:?}");
    let bytes: Vec<_> = head.as_bytes().chunks(1).collect();
    let (cut, _) = feed(&bytes);
    assert!(cut.is_err(), "byte by byte: {head:?}");
}

#[test]
fn a_head_is_the_same_however_it_is_cut() {
    let stream =
        b"\r\nPOST /a HTTP/1.1\r\nhost: b\r\ncontent-length: 4\r\n\r\nbodyGET / HTTP/1.1\r\n";
    let head_size = stream.len() - "bodyGET / HTTP/1.1\r\n".len() - "\r\n".len();
    for cut in 0..=stream.len() {
        let (head, rest) = feed(&[&stream[..cut], &stream[cut..]]);
        let head = head.unwrap().unwrap();
        assert_eq!(head.bytes().len(), head_size, "cut at {cut}");
        assert_eq!((head.target(), head.body_length()), ("/a", BodyLength::Fixed(4)));
        assert!(b"bodyGET / HTTP/1.1\r\n".starts_with(&rest));
    }
    let bytes: Vec<_> = stream.chunks(1).collect();
    let (head, rest) = feed(&bytes);
    assert_eq!(head.unwrap().unwrap().bytes().len(), head_size);
    assert!(rest.is_empty());
}

#[test]
fn a_later_minor_version_is_ours_however_it_is_cut() {
    let request = b"GET /HTTP/1.2 HTTP/1.2\r\nhost: a\r\n\r\n";
    let response = b"HTTP/1.9 200 HTTP/1.9\r\ncontent-length: 0\r\n\r\n";
    for cut in 0..request.len() {
        let head = feed(&[&request[..cut], &request[cut..]]).0.unwrap().unwrap();
        assert_eq!((head.target(), head.version()), ("/HTTP/1.2", Version::Http11), "{cut}");
        assert!(head.bytes().starts_with(b"GET /HTTP/1.2 HTTP/1.1\r\n"));
    }
    for cut in 0..response.len() {
        let mut gate = ResponseGate::new(LIMITS);
        let mut buf = BytesMut::from(&response[..cut]);
        assert!(gate.head(&mut buf, "GET").unwrap().is_none());
        buf.extend_from_slice(&response[cut..]);
        let head = gate.head(&mut buf, "GET").unwrap().unwrap();
        assert_eq!((head.version(), head.reason()), (Version::Http11, &b"HTTP/1.9"[..]));
    }
    for refused in ["GET /HTTP/1.2\r\n", "GET / HTTP/2.2\r\n", "GET / HTTP/1.22\r\n"] {
        assert!(feed(&[refused.as_bytes()]).0.is_err(), "{refused:?}");
    }
}

#[test]
fn pipelined_requests_come_one_at_a_time() {
    let mut gate = RequestGate::new(LIMITS);
    let mut buf = BytesMut::from(
        "GET /1 HTTP/1.1\r\nhost: a\r\n\r\n\
         POST /2 HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n\
         \r\nGET /3 HTTP/1.0\r\n\r\nGET",
    );
    let first = gate.head(&mut buf).unwrap().unwrap();
    let second = gate.head(&mut buf).unwrap().unwrap();
    assert_eq!((first.target(), second.target()), ("/1", "/2"));
    let mut body = BodyReader::new(second.body_length());
    let body_size = body.advance(&buf).unwrap();
    assert!(body.is_complete());
    let _body = buf.split_to(body_size);
    let third = gate.head(&mut buf).unwrap().unwrap();
    assert_eq!((third.target(), third.version()), ("/3", Version::Http10));
    assert!(gate.head(&mut buf).unwrap().is_none());
    assert_eq!(&buf[..], b"GET");
}

#[test]
fn one_empty_line_may_come_first() {
    let head = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    assert!(feed(&[b"\r\n", head.as_bytes()]).0.unwrap().is_some());
    check_refused(&format!("\r\n\r\n{head}"), Flaw::RequestLine);
    check_refused(&format!("\n{head}"), Flaw::LineEnding);
    check_refused(&format!("\r\n\n{head}"), Flaw::LineEnding);
    check_refused(&format!("\r{head}"), Flaw::RequestLine);
    assert!(feed(&[b"\r\n", b"\r"]).0.unwrap().is_none());
}

#[test]
fn what_can_only_be_refused_is_refused_at_once() {
    check_refused("\x16\x03\x01\x02", Flaw::ControlByte);
    check_refused("GET /\0", Flaw::ControlByte);
    check_refused("GET / HTTP/1.1\r\nhost: a\x7f", Flaw::ControlByte);
    check_refused("GET /\r\n", Flaw::RequestLine);
    check_refused("GET / HTTP/2.0\r\n", Flaw::Version);
    check_refused("hello world foo\r\n", Flaw::RequestLine);
    check_refused("GET / HTTP/1.1\r\nhost: a\n", Flaw::LineEnding);
    check_refused("GET / HTTP/1.1\n", Flaw::LineEnding);
    check_refused(&"M".repeat(METHOD_SIZE_MAX + 1), Flaw::RequestLine);
    // The request line is judged at once, a field with its head: the same however it is cut.
    assert!(feed(&[b"GET / HTTP/1.1\r\n: x"]).0.unwrap().is_none());
    for unfinished in [
        "",
        "G",
        "GET",
        "GET ",
        "GET /",
        "GET / HTTP/1.",
        "GET / HTTP/1.1\r",
        "GET / HTTP/1.1\r\nx",
    ] {
        assert!(feed(&[unfinished.as_bytes()]).0.unwrap().is_none(), "{unfinished:?}");
    }
}

/// A whole head of exactly `size` bytes with `fields` fields and a target of `target` bytes.
fn head_of(size: usize, fields: usize, target: usize) -> String {
    let mut head = format!("GET /{} HTTP/1.1\r\nhost: a\r\n", "t".repeat(target - 1));
    head.push_str(&"f:\r\n".repeat(fields - 2));
    let padding = size - head.len() - "p:\r\n\r\n".len();
    head + "p:" + &"v".repeat(padding) + "\r\n\r\n"
}

#[track_caller]
fn check_limit(size: usize, fields: usize, target: usize, expected: Result<(), Flaw>) {
    let head = head_of(size, fields, target);
    let (whole, _) = feed(&[head.as_bytes()]);
    assert_eq!(whole.map(|_| ()), expected, "{size} {fields} {target}");
    let bytes: Vec<_> = head.as_bytes().chunks(1).collect();
    let (cut, _) = feed(&bytes);
    assert_eq!(cut.map(|_| ()), expected, "byte by byte: {size} {fields} {target}");
}

#[test]
fn limits_hold_for_whole_and_for_partial_heads() {
    let HeadLimits { size_max, fields_max, target_size_max } = LIMITS;
    check_limit(size_max, fields_max, target_size_max, Ok(()));
    check_limit(size_max + 1, fields_max, target_size_max, Err(Flaw::TooLarge));
    check_limit(size_max, fields_max + 1, target_size_max, Err(Flaw::TooManyFields));
    check_limit(size_max, fields_max, target_size_max + 1, Err(Flaw::TargetTooLong));
    check_limit(size_max + 200, fields_max, target_size_max + 200, Err(Flaw::TargetTooLong));
    // Not even the request line is complete, and its end may never come.
    check_refused(&format!("GET /{}", "t".repeat(target_size_max)), Flaw::TargetTooLong);
    check_refused(&format!("GET / HTTP/1.1{}", " ".repeat(size_max)), Flaw::TargetTooLong);
    check_refused(&format!("GET / HTTP/1.1\r\na: {}", "v".repeat(size_max)), Flaw::TooLarge);
    check_refused(
        &format!("GET / HTTP/1.1\r\n{}", "a:\r\n".repeat(fields_max + 1)),
        Flaw::TooManyFields,
    );
}

#[test]
fn more_fields_than_fit_on_the_stack_are_read() {
    let limits = HeadLimits { size_max: 64 << 10, fields_max: 1000, target_size_max: 100 };
    let mut head = "GET / HTTP/1.1\r\nhost: a\r\n".to_owned();
    for index in 0..500 {
        head.push_str(&format!("x-{index}: {index}\r\n"));
    }
    let mut buf = BytesMut::from(&*(head + "\r\n"));
    let head = RequestGate::new(limits).head(&mut buf).unwrap().unwrap();
    assert_eq!(head.fields().count(), 501);
    assert_eq!(head.field("x-499"), Some(&b"499"[..]));
}

#[test]
fn responses_come_one_at_a_time_however_they_are_cut() {
    let stream =
        b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    for cut in 0..=stream.len() {
        let mut gate = ResponseGate::new(LIMITS);
        let mut buf = BytesMut::new();
        let mut statuses = Vec::new();
        for part in [&stream[..cut], &stream[cut..]] {
            buf.extend_from_slice(part);
            while let Some(head) = gate.head(&mut buf, "GET").unwrap() {
                statuses.push(head.status().as_u16());
            }
        }
        assert_eq!(statuses, [103, 200], "cut at {cut}");
        assert!(buf.is_empty());
    }
}

#[test]
fn responses_have_limits_too() {
    let check = |head: String, flaw| {
        let read = ResponseGate::new(LIMITS).head(&mut BytesMut::from(&*head), "GET");
        assert_eq!(read.map(|_| ()), Err(HeadError::Response(flaw)), "{head:?}");
    };
    let line = "HTTP/1.1 200 OK\r\n";
    check(format!("{line}a: {}", "v".repeat(LIMITS.size_max)), Flaw::TooLarge);
    check(format!("{line}a: {}\r\n\r\n", "v".repeat(LIMITS.size_max)), Flaw::TooLarge);
    check(format!("{line}{}\r\n", "a:\r\n".repeat(5)), Flaw::TooManyFields);
    check(format!("{line}a: \0"), Flaw::ControlByte);

    let mut gate = ResponseGate::new(LIMITS);
    let interim = "HTTP/1.1 102 Processing\r\n\r\n";
    let mut buf = BytesMut::from(&*interim.repeat(INTERIM_RESPONSES_MAX as usize + 1));
    for _ in 0..INTERIM_RESPONSES_MAX {
        assert!(gate.head(&mut buf, "GET").unwrap().is_some());
    }
    assert_eq!(gate.head(&mut buf, "GET").unwrap_err().flaw(), Flaw::TooManyInterim);
}
