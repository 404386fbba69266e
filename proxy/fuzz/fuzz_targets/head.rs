//! Heads: however a stream is cut the gate says the same, and what it lets pass has one reading.
//!
//! The first byte chooses the cut, the rest is what arrives.

#![no_main]

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Method, Uri};
use libfuzzer_sys::fuzz_target;
use proxy::http::{
    fields::{
        ForwardedField, Forwarding, Framing, Name, Pseudonym, Scheme, forward_request_fields,
        forwarded_response_fields,
    },
    framing::{BodyLength, Version},
    gate::{RequestGate, ResponseGate},
    head::{Field, HeadError, HeadLimits, RequestHead, ResponseHead},
    name::Known,
    path::{self, ForwardPath},
};

const LIMITS: HeadLimits = HeadLimits { size_max: 512, fields_max: 16, target_size_max: 128 };
/// What forwarding adds must not make the result too large to be read back.
const WIDE: HeadLimits = HeadLimits { size_max: 4096, fields_max: 32, target_size_max: 1024 };

fuzz_target!(|data: &[u8]| {
    let Some((cut, stream)) = data.split_first() else { return };
    let parts = stream.split_at(usize::from(*cut).min(stream.len()));
    check_request(stream, parts);
    for method in ["GET", "HEAD"] {
        check_response(stream, parts, method);
    }
});

fn check_request(stream: &[u8], (first, second): (&[u8], &[u8])) {
    let whole = read_request(LIMITS, &[stream]);
    match (&whole, read_request(LIMITS, &[first, second])) {
        (Ok(None), Ok(None)) | (Err(_), Err(_)) => {}
        (Ok(Some(whole)), Ok(Some(cut))) => assert_eq!(whole.bytes(), cut.bytes()),
        (whole, cut) => panic!("{whole:?} in one piece, {cut:?} in two"),
    }
    let Ok(Some(head)) = whole else { return };
    check_bytes(head.bytes());
    check_fields(head.fields());
    let is_marked =
        |field: Field<'_>| head.is_connection_option(field.name) == field.is_connection_option;
    assert!(head.fields().all(is_marked));
    let announces = |field: Field<'_>| matches!(field.known, Known::Trailer | Known::Upgrade);
    assert_eq!(head.announces_more(), head.fields().any(announces));
    let port = head.host().zip(head.host_name()).map(|(host, name)| &host[name.len()..]);
    let port = port.and_then(|port| port.strip_prefix(':')).filter(|port| !port.is_empty());
    assert_eq!(head.host_port(), port.map(str::as_bytes));
    Method::from_bytes(head.method().as_bytes()).expect("a method for hyper");
    Uri::try_from(head.target()).expect("a target for hyper");
    assert_ne!(head.method(), "CONNECT");
    assert_ne!(head.body_length(), BodyLength::UntilClose);
    assert!(head.host().is_some() || head.version() == Version::Http10);
    if let (Some(host), Some(name)) = (head.host(), head.host_name()) {
        assert!(host.starts_with(name) && !name.is_empty() && !host.contains(['@', ',', '/', ' ']));
    }

    // What follows a head never changes where it ends, and neither does reading it again.
    let again = read_request(LIMITS, &[head.bytes()]).unwrap().unwrap();
    check_same(&head, &again);
    let line = format!("{} {} {}", head.method(), head.target(), version(head.version()));
    let written = write(&line, head.fields().map(|field| (field.name, field.value)));
    check_same(&head, &read_request(WIDE, &[&written]).unwrap().unwrap());
    check_forwarded_request(&head);
}

/// What the node gets is a request that the gate itself would let pass, of the same body.
fn check_forwarded_request(head: &RequestHead) {
    let (path, query) = head.path_and_query();
    let Ok(normalised) = path::normalise(path) else { return };
    let path = match &normalised.forward {
        ForwardPath::AsReceived => path,
        ForwardPath::Rewritten(path) => path,
    };
    let target = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    let pseudonym = Pseudonym::new("fuzzed");
    let forwarding = Forwarding::new([192, 0, 2, 7].into(), 9080, Scheme::Http, pseudonym.clone());
    let host = head.host_bytes().unwrap_or(b"node");
    let mut fields: Vec<ForwardedField<'_>> = Vec::new();
    forward_request_fields(&mut fields, head, &forwarding, host, None, |_| false);
    assert_eq!(fields.iter().filter(|field| field.known == Known::Via).count(), 1);
    check_forwarded(&fields, |name| head.is_connection_option(name));

    let line = format!("{} {target} HTTP/1.1", head.method());
    let written = write_forwarded(&line, &fields);
    let sent = read_request(WIDE, &[&written]).unwrap().unwrap();
    assert_eq!((sent.body_length(), sent.host_bytes()), (head.body_length(), Some(host)));
    assert_eq!(sent.path_and_query(), (path, query));
    assert!(pseudonym.is_in(sent.known(Known::Via)));
    let xff = sent.known(Known::XForwardedFor).next().unwrap();
    assert!(xff == b"192.0.2.7" || xff.ends_with(b", 192.0.2.7"));
}

fn check_response(stream: &[u8], (first, second): (&[u8], &[u8]), method: &str) {
    let whole = read_response(LIMITS, &[stream], method);
    match (&whole, read_response(LIMITS, &[first, second], method)) {
        (Ok(None), Ok(None)) | (Err(_), Err(_)) => {}
        (Ok(Some(whole)), Ok(Some(cut))) => assert_eq!(whole.bytes(), cut.bytes()),
        (whole, cut) => panic!("{whole:?} in one piece, {cut:?} in two"),
    }
    let Ok(Some(head)) = whole else { return };
    check_bytes(head.bytes());
    check_fields(head.fields());
    assert_ne!(head.status(), 101);
    let is_bodiless =
        method == "HEAD" || head.is_interim() || matches!(head.status().as_u16(), 204 | 304);
    assert_eq!(is_bodiless, head.body_length() == BodyLength::Empty);
    assert!(!head.keeps_alive() || head.body_length() != BodyLength::UntilClose);

    let framing = match head.body_length() {
        BodyLength::Empty | BodyLength::Fixed(_) => Framing::Length,
        BodyLength::Chunked => Framing::Chunked,
        BodyLength::UntilClose => Framing::Unsaid,
    };
    let fields: Vec<_> = forwarded_response_fields(&head, framing, true).collect();
    check_forwarded(&fields, |name| head.is_connection_option(name));
    let written = write_response(&head, &fields);
    let sent = read_response(WIDE, &[&written], method).unwrap().unwrap();
    assert_eq!((sent.status(), sent.reason()), (head.status(), head.reason()));
    assert_eq!(sent.body_length(), head.body_length());
    // What has crossed one proxy crosses the next unchanged, unless its connection has to end.
    if sent.version() == head.version() && framing != Framing::Unsaid {
        let fields: Vec<_> = forwarded_response_fields(&sent, framing, true).collect();
        assert_eq!(write_response(&sent, &fields), written);
    }
}

/// As the lanes write it: what was received as whole lines.
fn write_response(head: &ResponseHead, fields: &[ForwardedField<'_>]) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {} ", head.status().as_str()).into_bytes();
    bytes.extend_from_slice(head.reason());
    bytes.extend_from_slice(b"\r\n");
    for field in fields {
        match field.name {
            Name::Received(name) if field.known != Known::ContentLength => {
                bytes.extend_from_slice(&head.bytes()[head.line(name, field.value.as_bytes())]);
            }
            Name::Received(_) | Name::Made(_) => {
                bytes.extend_from_slice(field.name.as_bytes());
                bytes.extend_from_slice(b": ");
                bytes.extend_from_slice(field.value.as_bytes());
                bytes.extend_from_slice(b"\r\n");
            }
        }
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

fn read_request(limits: HeadLimits, parts: &[&[u8]]) -> Result<Option<RequestHead>, HeadError> {
    let mut gate = RequestGate::new(limits);
    let mut buf = BytesMut::new();
    for part in parts {
        buf.extend_from_slice(part);
        if let Some(head) = gate.head(&mut buf)? {
            return Ok(Some(head));
        }
    }
    Ok(None)
}

fn read_response(
    limits: HeadLimits,
    parts: &[&[u8]],
    method: &str,
) -> Result<Option<ResponseHead>, HeadError> {
    let mut gate = ResponseGate::new(limits);
    let mut buf = BytesMut::new();
    for part in parts {
        buf.extend_from_slice(part);
        if let Some(head) = gate.head(&mut buf, method)? {
            return Ok(Some(head));
        }
    }
    Ok(None)
}

/// Every line ends in CRLF, only the last one is empty, and there are no other controls.
fn check_bytes(head: &Bytes) {
    let lines = head.strip_suffix(b"\r\n\r\n").expect("an empty line at the end");
    let text: Vec<_> = lines.iter().map(|byte| char::from(*byte)).collect();
    let text = String::from_iter(text);
    for line in text.split("\r\n") {
        assert!(!line.is_empty());
        assert!(line.bytes().all(|byte| byte == b'\t' || !byte.is_ascii_control()));
        assert!(!line.starts_with([' ', '\t']));
    }
}

fn check_fields<'a>(fields: impl Iterator<Item = Field<'a>>) {
    let mut hosts = 0;
    let mut lengths = 0;
    for Field { name, value, known, .. } in fields {
        HeaderName::from_bytes(name).expect("a name for hyper");
        HeaderValue::from_bytes(value).expect("a value for hyper");
        assert_eq!(known, Known::of(name));
        hosts += usize::from(known == Known::Host);
        lengths += usize::from(matches!(known, Known::ContentLength | Known::TransferEncoding));
    }
    assert!(hosts <= 1 || lengths <= 1);
    assert!(lengths <= 1);
}

fn check_same(one: &RequestHead, other: &RequestHead) {
    assert_eq!((one.method(), one.target()), (other.method(), other.target()));
    assert_eq!((one.version(), one.host()), (other.version(), other.host()));
    assert_eq!(one.body_length(), other.body_length());
    assert_eq!(one.keeps_alive(), other.keeps_alive());
    assert_eq!(one.expects_continue(), other.expects_continue());
    assert!(one.fields().eq(other.fields()));
}

fn check_forwarded(fields: &[ForwardedField<'_>], is_named: impl Fn(&[u8]) -> bool) {
    let count = |known| fields.iter().filter(|field| field.known == known).count();
    assert!(count(Known::ContentLength) + count(Known::TransferEncoding) <= 1);
    for ForwardedField { name, value, known } in fields {
        assert_eq!(*known, Known::of(name.as_bytes()));
        match known {
            Known::TransferEncoding => assert_eq!(value.as_bytes(), b"chunked"),
            Known::Connection => assert!(value.as_bytes().eq_ignore_ascii_case(b"keep-alive")),
            known => assert!(!known.is_hop_by_hop()),
        }
        assert!(!known.is_editable() || !is_named(name.as_bytes()));
    }
}

fn write<'a>(line: &str, fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Vec<u8> {
    let mut bytes = format!("{line}\r\n").into_bytes();
    for (name, value) in fields {
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

fn write_forwarded(line: &str, fields: &[ForwardedField<'_>]) -> Vec<u8> {
    write(line, fields.iter().map(|field| (field.name.as_bytes(), field.value.as_bytes())))
}

fn version(version: Version) -> &'static str {
    match version {
        Version::Http10 => "HTTP/1.0",
        Version::Http11 => "HTTP/1.1",
    }
}
