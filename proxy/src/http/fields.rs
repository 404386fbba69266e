//! Which fields cross the proxy, in either direction.
//!
//! Enters: a head. Leaves: an iterator of names and values, which are turned into bytes; values are
//! spans of the head wherever they can be, so a field costs no allocation.
//!
//! The order of a request is: `host`, what was received in the order received, what the proxy adds,
//! and last the one field that frames the body as [`framing`](super::framing) understood it. A
//! response passes as it was received; only framing that the proxy has to say anew stands last.
//!
//! Dropped from requests: fields of the connection ([`Known::is_hop_by_hop`]) and those that
//! `Connection` names; `Expect`, which the proxy answers; `Forwarded` and the received
//! `X-Forwarded-Proto`, `-Host`, `-Port` and `X-Real-IP`. Whatever `Connection` names, the fields
//! that the proxy adds itself are added. Trailers are not forwarded, hence no `TE`, no `Trailer`.
//! `Max-Forwards` counts down where it means something ([`forwards_left`]).
//! Names with an underscore pass, but for [`Known::Alike`].

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use super::{
    framing::{BodyLength, Version},
    head::{Field, RequestHead, ResponseHead},
    name::{self, Known},
};
use crate::error::Fault;

/// One field as it is sent on.
#[derive(Debug, Clone)]
pub struct ForwardedField<'a> {
    pub name: Name<'a>,
    pub value: Value<'a>,
    pub known: Known,
}

#[derive(Debug, Clone, Copy)]
pub enum Name<'a> {
    /// In the case received.
    Received(&'a [u8]),
    /// Lower-case.
    Made(&'static str),
}

impl Name<'_> {
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Name::Received(name) => name,
            Name::Made(name) => name.as_bytes(),
        }
    }
}

/// Never holds a control byte but a tab.
#[derive(Debug, Clone)]
pub enum Value<'a> {
    Borrowed(&'a [u8]),
    Made(Vec<u8>),
}

impl Value<'_> {
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Value::Borrowed(value) => value,
            Value::Made(value) => value,
        }
    }
}

fn made<'a>(name: &'static str, known: Known, value: Value<'a>) -> ForwardedField<'a> {
    ForwardedField { name: Name::Made(name), value, known }
}

/// The name under which this proxy appears in `Via`: one for the process, clones share it.
#[derive(Debug, Clone)]
pub struct Pseudonym {
    http10: Bytes,
    http11: Bytes,
}

impl Pseudonym {
    /// `instance` is a token (RFC 9110 section 7.6.3); bytes that cannot be in one become `-`.
    pub fn new(instance: &str) -> Pseudonym {
        let token: String = instance
            .bytes()
            .map(|byte| if name::is_token_byte(byte) { char::from(byte) } else { '-' })
            .collect();
        Pseudonym { http10: format!("1.0 {token}").into(), http11: format!("1.1 {token}").into() }
    }

    /// Whether a message with these `Via` values has been here before.
    pub fn is_in<'v>(&self, mut via: impl Iterator<Item = &'v [u8]>) -> bool {
        let instance = self.http11.get("1.1 ".len()..).unwrap_or_default();
        via.any(|value| via_names(value, instance))
    }

    /// `Via` of a message of our own.
    pub fn field(&self) -> Option<HeaderValue> {
        HeaderValue::from_maybe_shared(self.http11.clone()).ok()
    }

    /// The entry for a message received in `version`.
    fn entry(&self, version: Version) -> &Bytes {
        match version {
            Version::Http10 => &self.http10,
            Version::Http11 => &self.http11,
        }
    }
}

/// Whether one value of `Via` names `instance`. Commas inside of comments split them: a comment can
/// thereby name an instance, which harms only the request that carries it.
pub fn via_names(value: &[u8], instance: &[u8]) -> bool {
    name::list(value).any(|entry| {
        let mut words = entry.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        words.nth(1).is_some_and(|received_by| received_by.eq_ignore_ascii_case(instance))
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub const fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// What the proxy tells nodes about one downstream connection. Made once for it.
#[derive(Debug, Clone)]
pub struct Forwarding {
    peer: Bytes,
    port: Bytes,
    scheme: &'static str,
    pseudonym: Pseudonym,
}

impl Forwarding {
    /// `peer` is the downstream's address, `port` the listener's.
    pub fn new(
        peer: std::net::IpAddr,
        port: u16,
        scheme: Scheme,
        pseudonym: Pseudonym,
    ) -> Forwarding {
        // Over a dual-stack socket IPv4 comes mapped; nodes know it by its own form.
        let peer = peer.to_canonical().to_string().into();
        Forwarding { peer, port: port.to_string().into(), scheme: scheme.as_str(), pseudonym }
    }

    pub fn pseudonym(&self) -> &Pseudonym {
        &self.pseudonym
    }
}

/// What takes fields, one by one.
pub trait PushField<'a> {
    fn push_field(&mut self, field: ForwardedField<'a>);
}

impl<'a> PushField<'a> for Vec<ForwardedField<'a>> {
    fn push_field(&mut self, field: ForwardedField<'a>) {
        self.push(field);
    }
}

/// Pushes the fields that a node gets. `host` is the value of its `Host`: [`RequestHead::host`], or the
/// node's own name where that is `None` or configured otherwise. `client` is whom the downstream speaks
/// for, if for somebody else. `is_replaced` says of the name of a received field, which plugins may
/// change, that it stays behind.
pub fn forward_request_fields<'a>(
    to: &mut impl PushField<'a>,
    head: &'a RequestHead,
    forwarding: &'a Forwarding,
    host: &'a [u8],
    client: Option<&'a str>,
    is_replaced: impl Fn(&[u8]) -> bool,
) {
    to.push_field(made("host", Known::Host, Value::Borrowed(host)));
    // What plugins may not change is dropped or made anew.
    let is_kept = |field: &Field<'_>| {
        field.known.is_editable() && !field.is_connection_option && !is_replaced(field.name)
    };
    head.fields().filter(is_kept).for_each(|field| to.push_field(as_received(field)));

    let xff = appended(head.end_to_end(Known::XForwardedFor), &forwarding.peer);
    to.push_field(made("x-forwarded-for", Known::XForwardedFor, xff));
    let scheme = Value::Borrowed(forwarding.scheme.as_bytes());
    to.push_field(made("x-forwarded-proto", Known::XForwardedProto, scheme));
    if let Some(host) = head.host_bytes() {
        to.push_field(made("x-forwarded-host", Known::XForwardedHost, Value::Borrowed(host)));
    }
    let port = head.host_port().unwrap_or(&forwarding.port);
    to.push_field(made("x-forwarded-port", Known::XForwardedPort, Value::Borrowed(port)));
    let real_ip = client.map_or(&*forwarding.peer, str::as_bytes);
    to.push_field(made("x-real-ip", Known::XRealIp, Value::Borrowed(real_ip)));
    let via = appended(head.end_to_end(Known::Via), forwarding.pseudonym.entry(head.version()));
    to.push_field(made("via", Known::Via, via));
    for value in head.end_to_end(Known::MaxForwards) {
        to.push_field(made("max-forwards", Known::MaxForwards, one_fewer(head, value)));
    }
    match head.body_length() {
        BodyLength::Empty | BodyLength::UntilClose => {}
        BodyLength::Chunked => to.push_field(chunked()),
        // From our own view of the body: a length with leading zeros is not passed on as it was.
        BodyLength::Fixed(_) => {
            let length = head.known(Known::ContentLength).next();
            length.into_iter().for_each(|digits| to.push_field(content_length(canonical(digits))));
        }
    }
}

/// How many more times a request may be forwarded: RFC 9110 section 7.6.2 has it for two methods, any
/// other may as often as it takes (`None`).
#[inline]
pub fn forwards_left(head: &RequestHead) -> Option<Result<u64, Fault>> {
    let mut values = head.known(Known::MaxForwards);
    let value = values.next()?;
    if !COUNTED_METHODS.contains(&head.method_bytes()) {
        return None;
    }
    let left = count(value).filter(|_| values.next().is_none());
    Some(left.ok_or(Fault::HeadMalformed))
}

const COUNTED_METHODS: [&[u8]; 2] = [b"OPTIONS", b"TRACE"];

/// More than anybody counts is as much as can be counted.
fn count(digits: &[u8]) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let text = str::from_utf8(digits).ok().filter(|_| is_number)?;
    Some(text.parse().unwrap_or(u64::MAX))
}

fn one_fewer<'a>(head: &RequestHead, value: &'a [u8]) -> Value<'a> {
    match forwards_left(head) {
        Some(Ok(left)) => Value::Made(left.saturating_sub(1).to_string().into_bytes()),
        Some(Err(_)) | None => Value::Borrowed(value),
    }
}

/// How the body of a response is framed when it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// By the length that the node said, if there is one to say.
    Length,
    Chunked,
    /// There is no body, and the downstream does not know that: `content-length: 0`.
    Empty,
    /// By the end of the connection, or nobody knows how long the body of a `HEAD` would be.
    Unsaid,
}

/// The fields the downstream gets, in the order received. `stays_open`: `Connection: keep-alive`
/// may pass, as the downstream's connection is kept and it takes that for granted.
pub fn forwarded_response_fields(
    head: &ResponseHead,
    framing: Framing,
    stays_open: bool,
) -> impl Iterator<Item = ForwardedField<'_>> {
    let length = match framing {
        Framing::Length if may_say_length(head) => head.known(Known::ContentLength).next(),
        Framing::Length | Framing::Chunked | Framing::Empty | Framing::Unsaid => None,
    };
    let length_passes =
        length.is_some() && head.end_to_end(Known::ContentLength).next().is_some_and(is_canonical);
    let keep_alive_passes = stays_open && says_keep_alive(head);
    let passes = move |field: &Field<'_>| {
        let passes = if field.known == Known::ContentLength {
            length_passes
        } else if field.known == Known::Connection {
            keep_alive_passes
        } else {
            !field.known.is_hop_by_hop()
        };
        passes && !field.is_connection_option
    };
    let anew = match framing {
        Framing::Length if length_passes => None,
        Framing::Length => length.map(|digits| content_length(canonical(digits))),
        Framing::Chunked => Some(chunked()),
        Framing::Empty => Some(content_length(b"0")),
        Framing::Unsaid => None,
    };
    head.fields().filter(passes).map(as_received).chain(anew)
}

/// To HEAD it says how long the body would be; RFC 9110 section 8.6 forbids it in 1xx and 204, and
/// in a 304 section 15.4.5 has no use for it.
fn may_say_length(head: &ResponseHead) -> bool {
    !head.is_interim()
        && !matches!(head.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Whether all that the node says of its connection is `keep-alive`.
fn says_keep_alive(head: &ResponseHead) -> bool {
    let mut values = head.known(Known::Connection);
    let first = values.next();
    first.is_some_and(|value| value.eq_ignore_ascii_case(b"keep-alive")) && values.next().is_none()
}

fn as_received(field: Field<'_>) -> ForwardedField<'_> {
    let (name, value) = (Name::Received(field.name), Value::Borrowed(field.value));
    ForwardedField { name, value, known: field.known }
}

fn content_length(digits: &[u8]) -> ForwardedField<'_> {
    made("content-length", Known::ContentLength, Value::Borrowed(digits))
}

fn chunked<'a>() -> ForwardedField<'a> {
    made("transfer-encoding", Known::TransferEncoding, Value::Borrowed(b"chunked"))
}

fn is_canonical(digits: &[u8]) -> bool {
    canonical(digits).len() == digits.len()
}

/// Without zeros in front.
fn canonical(digits: &[u8]) -> &[u8] {
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    digits.get(zeros.min(digits.len().saturating_sub(1))..).unwrap_or_default()
}

/// The received values of a list field that is ours to extend, and `own` behind them; without an
/// allocation if there is only `own`.
fn appended<'a>(values: impl Iterator<Item = &'a [u8]>, own: &'a Bytes) -> Value<'a> {
    let mut joined = Vec::new();
    for value in values.filter(|value| !value.is_empty()) {
        joined.extend_from_slice(value);
        joined.extend_from_slice(b", ");
    }
    if joined.is_empty() {
        return Value::Borrowed(own);
    }
    joined.extend_from_slice(own);
    Value::Made(joined)
}

#[cfg(test)]
mod tests;
