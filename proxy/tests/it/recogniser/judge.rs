//! What the kernel half's recogniser of response heads has to say, worked out from how userspace
//! reads the same bytes. The fuzz target uses this file too.

use bytes::BytesMut;
use httparse::{EMPTY_HEADER, Response, Status};
use proxy::http::{
    framing::{BodyLength, Version},
    gate::ResponseGate,
    head::{HeadLimits, ResponseHead},
    name::Known,
};
use proxy_common::limits::{HEAD_FIELDS_MAX, HEAD_MAX};
use proxy_ebpf::head::Head;

const LIMITS: HeadLimits = HeadLimits {
    size_max: HEAD_MAX as usize,
    fields_max: HEAD_FIELDS_MAX as usize,
    target_size_max: HEAD_MAX as usize,
};

/// The head at the front of `message`, if userspace can pass it on as it is.
pub(crate) fn judge(message: &[u8]) -> Option<Head> {
    let mut rest = BytesMut::from(message);
    let head = ResponseGate::new(LIMITS).head(&mut rest, "GET").ok()??;
    let status = head.status().as_u16();
    // A later version is ours to the gate, and leaves as ours.
    if !message.starts_with(&head.bytes()[.."HTTP/1.1".len()]) {
        return None;
    }
    check_httparse(message, &head);
    let BodyLength::Fixed(length) = head.body_length() else { return None };
    let is_plain = head.version() == Version::Http11
        && head.keeps_alive()
        && (200..600).contains(&status)
        && ![204, 205, 304, 408, 421].contains(&status)
        && are_plain(&head)
        && write(&head, length)? == *head.bytes();
    let size = head.bytes().len() as u32;
    is_plain.then_some(Head { size, status, content_length: u32::try_from(length).ok()? })
}

fn check_httparse(message: &[u8], head: &ResponseHead) {
    let mut slots = [EMPTY_HEADER; HEAD_FIELDS_MAX as usize];
    let mut response = Response::new(&mut slots);
    assert_eq!(response.parse(message), Ok(Status::Complete(head.bytes().len())));
    assert_eq!(response.code, Some(head.status().as_u16()));
}

/// None that forwarding removes, adds or makes anew, nor one that the recogniser takes for that: of
/// long names it looks at the length and the last 16 bytes.
fn are_plain(head: &ResponseHead) -> bool {
    const LONG: [&str; 4] = [
        "transfer-encoding",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-authentication-info",
    ];
    let end = |name: &[u8]| name[name.len() - 16..].to_ascii_lowercase();
    let is_like =
        |name: &[u8], long: &str| name.len() == long.len() && end(name) == end(long.as_bytes());
    let is_plain = |known: Known| known == Known::Connection || !known.is_hop_by_hop();
    let connection: Vec<_> = head.known(Known::Connection).collect();
    head.known(Known::Date).count() == 1
        && connection.len() <= 1
        && connection.iter().all(|value| value.eq_ignore_ascii_case(b"keep-alive"))
        && head.fields().all(|field| {
            is_plain(field.known)
                && !field.is_connection_option
                && !field.value.is_empty()
                && !LONG.iter().any(|long| is_like(field.name, long))
        })
}

/// The head as one would write it; `None` if its first line is not written like that.
fn write(head: &ResponseHead, length: u64) -> Option<Vec<u8>> {
    let start = format!("HTTP/1.1 {} ", head.status().as_str());
    let line_size = head.bytes().windows(2).position(|pair| pair == b"\r\n")?;
    let line = &head.bytes()[..line_size];
    let mut written = line.strip_prefix(start.as_bytes()).map(|_phrase| line.to_vec())?;
    for field in head.fields() {
        let digits = length.to_string();
        let is_length = field.known == Known::ContentLength;
        let value = if is_length { digits.as_bytes() } else { field.value };
        written.extend([b"\r\n", field.name, b": ", value].concat());
    }
    written.extend(b"\r\n\r\n");
    Some(written)
}
