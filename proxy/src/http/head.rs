//! A head that has been found unambiguous: owned, cheap to clone, every part a span of the bytes
//! as they were received.
//!
//! Made only by [`gate`](super::gate); whoever holds one need not check anything again. Values may
//! hold any byte but controls; names, method and target are ASCII. A field name with an
//! underscore is none that the proxy knows, but for [`Known::Alike`].

use std::{fmt, ops::Range, rc::Rc, str};

use bytes::Bytes;
use http::StatusCode;

pub use super::framing::Version;
use super::{
    framing::{BodyLength, LengthError},
    name::{self, Known, KnownSet},
};
use crate::error::Fault;

pub(super) mod parse;
mod target;

/// Ceiling of [`HeadLimits::size_max`], bytes: spans are `u32`, and no sane head comes near.
pub const HEAD_SIZE_CEILING: usize = 1 << 20;
/// Ceiling of [`HeadLimits::target_size_max`], bytes: what `http::Uri` can hold.
pub const TARGET_SIZE_CEILING: usize = u16::MAX as usize - 1;
/// Method, bytes. The longest registered one, `UPDATEREDIRECTREF`, has 17.
pub const METHOD_SIZE_MAX: usize = 32;
/// Options in all `Connection` fields of a head, empty ones included. Each is compared with every
/// field: without a bound 16 KiB of commas would cost a millisecond.
pub const CONNECTION_OPTIONS_MAX: usize = 32;
/// Host without port, bytes: a DNS name has at most 253.
pub const HOST_NAME_SIZE_MAX: usize = 255;

/// How much of a head is read before it is refused.
#[derive(Debug, Clone, Copy)]
pub struct HeadLimits {
    /// First line, fields and empty line together, bytes.
    pub size_max: usize,
    pub fields_max: usize,
    /// Request target, bytes.
    pub target_size_max: usize,
}

/// A head that was refused, and whose it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadError {
    Request(Flaw),
    Response(Flaw),
}

impl HeadError {
    pub fn fault(self) -> Fault {
        match self {
            HeadError::Request(flaw) => flaw.request_fault(),
            HeadError::Response(_) => Fault::ResponseMalformed,
        }
    }

    pub fn flaw(self) -> Flaw {
        match self {
            HeadError::Request(flaw) | HeadError::Response(flaw) => flaw,
        }
    }
}

/// What is wrong with a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// Not `method SP target SP version`, or more than one empty line before it.
    RequestLine,
    /// Not `version SP status [SP reason]`.
    StatusLine,
    /// HTTP, but neither 1.0 nor 1.1.
    Version,
    /// A target of no form, or of a form that its method cannot have.
    Target,
    TargetTooLong,
    /// `CONNECT`.
    Method,
    /// A line that does not end in CRLF.
    LineEnding,
    /// A control byte other than a tab.
    ControlByte,
    /// Not `name ":" value`; folded lines and blanks before the colon included.
    Field,
    TooLarge,
    TooManyFields,
    /// More than [`CONNECTION_OPTIONS_MAX`].
    TooManyOptions,
    /// HTTP/1.1 without `Host`.
    HostMissing,
    HostRepeated,
    /// Not one `host[:port]`.
    HostInvalid,
    Length(LengthError),
    /// An expectation other than `100-continue`.
    Expectation,
    /// 101 to a request that did not ask for it.
    Upgraded,
    /// More interim responses than [`INTERIM_RESPONSES_MAX`](super::gate::INTERIM_RESPONSES_MAX).
    TooManyInterim,
}

impl Flaw {
    fn request_fault(self) -> Fault {
        match self {
            Flaw::RequestLine
            | Flaw::StatusLine
            | Flaw::Target
            | Flaw::LineEnding
            | Flaw::ControlByte
            | Flaw::Field
            | Flaw::HostMissing
            | Flaw::HostRepeated
            | Flaw::HostInvalid
            | Flaw::Upgraded
            | Flaw::TooManyInterim => Fault::HeadMalformed,
            Flaw::Version => Fault::VersionUnsupported,
            Flaw::TargetTooLong => Fault::TargetTooLong,
            Flaw::Method => Fault::MethodRefused,
            Flaw::TooLarge | Flaw::TooManyFields | Flaw::TooManyOptions => Fault::HeadTooLarge,
            Flaw::Length(_) => Fault::FramingAmbiguous,
            Flaw::Expectation => Fault::ExpectationRefused,
        }
    }
}

/// One field line. The value has no blanks around it and may be empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    pub name: &'a [u8],
    pub value: &'a [u8],
    pub known: Known,
    /// Whether `Connection` names it: it is for the next hop alone.
    pub is_connection_option: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// `part` lies inside `whole`, and `whole` is no longer than [`HEAD_SIZE_CEILING`].
    fn of(whole: &[u8], part: &[u8]) -> Span {
        let start = part.as_ptr().addr().wrapping_sub(whole.as_ptr().addr());
        debug_assert!(start + part.len() <= whole.len());
        Span { start: start as u32, end: (start + part.len()) as u32 }
    }

    fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    fn is_empty(self) -> bool {
        self.start == self.end
    }
}

#[derive(Debug, Clone, Copy)]
struct FieldSpan {
    name: Span,
    value: Span,
    known: Known,
    is_connection_option: bool,
}

/// A head's bytes and where its fields are in them.
#[derive(Clone)]
struct Lines {
    bytes: Bytes,
    fields: Rc<Vec<FieldSpan>>,
    /// Most of what is asked for is not there.
    known: KnownSet,
}

/// Room for the fields of a head, used again when nobody has the last head any more.
#[derive(Debug, Default)]
pub(super) struct FieldSlots(Rc<Vec<FieldSpan>>);

impl FieldSlots {
    fn empty(&mut self) -> &mut Vec<FieldSpan> {
        if Rc::strong_count(&self.0) > 1 {
            self.0 = Rc::default();
        }
        let fields = Rc::make_mut(&mut self.0);
        fields.clear();
        fields
    }

    fn share(&self) -> Rc<Vec<FieldSpan>> {
        Rc::clone(&self.0)
    }
}

impl Lines {
    fn part(&self, span: Span) -> &[u8] {
        self.bytes.get(span.range()).unwrap_or_default()
    }

    fn text(&self, span: Span) -> &str {
        // Every span that is asked for as text was ASCII when it was made.
        str::from_utf8(self.part(span)).unwrap_or_default()
    }

    fn iter(&self) -> impl Iterator<Item = Field<'_>> + Clone {
        self.fields.iter().map(|field| Field {
            name: self.part(field.name),
            value: self.part(field.value),
            known: field.known,
            is_connection_option: field.is_connection_option,
        })
    }

    fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.fields
            .iter()
            .filter(move |field| name::is_same(self.part(field.name), name.as_bytes()))
            .map(|field| self.part(field.value))
    }

    /// The values of a field that is known by name.
    fn known(&self, known: Known) -> impl Iterator<Item = &[u8]> {
        self.spans(known).map(|field| self.part(field.value))
    }

    /// The same without those meant for the next hop alone.
    fn end_to_end(&self, known: Known) -> impl Iterator<Item = &[u8]> {
        let spans = self.spans(known).filter(|field| !field.is_connection_option);
        spans.map(|field| self.part(field.value))
    }

    fn spans(&self, known: Known) -> impl Iterator<Item = &FieldSpan> {
        let fields = if self.known.contains(known) { &self.fields[..] } else { &[] };
        fields.iter().filter(move |field| field.known == known)
    }

    fn is_connection_option(&self, name: &[u8]) -> bool {
        self.known(Known::Connection)
            .flat_map(name::list)
            .any(|option| option.eq_ignore_ascii_case(name))
    }
}

/// The head of one request.
#[derive(Clone)]
pub struct RequestHead {
    lines: Lines,
    method: Span,
    target: Span,
    path: Span,
    query: Option<Span>,
    /// `host[:port]`, of the target if that has one.
    host: Option<Span>,
    host_name: Option<Span>,
    version: Version,
    body_length: BodyLength,
    keeps_alive: bool,
    expects_continue: bool,
    announces_more: bool,
}

impl RequestHead {
    pub fn method(&self) -> &str {
        self.lines.text(self.method)
    }

    /// [`method`](Self::method) as the bytes it is.
    pub fn method_bytes(&self) -> &[u8] {
        self.lines.part(self.method)
    }

    pub fn is_head(&self) -> bool {
        self.method_bytes() == b"HEAD"
    }

    /// As received.
    pub fn target(&self) -> &str {
        self.lines.text(self.target)
    }

    /// Path and query as received, an absolute-form target reduced to them (RFC 9112 sections
    /// 3.2.2 and 3.2.4). The path is `*` or begins with `/`.
    pub fn path_and_query(&self) -> (&str, Option<&str>) {
        let query = self.query.map(|query| self.lines.text(query));
        if !self.path.is_empty() {
            (self.lines.text(self.path), query)
        } else if query.is_none() && self.method() == "OPTIONS" {
            ("*", None)
        } else {
            ("/", query)
        }
    }

    /// [`path_and_query`](Self::path_and_query) with its `?`, if it stands like that in the target.
    pub fn path_with_query(&self) -> Option<&str> {
        let end = self.query.map_or(self.path.end, |query| query.end);
        (!self.path.is_empty()).then(|| self.lines.text(Span { start: self.path.start, end }))
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// One valid `host[:port]`, in the case in which it was received. The authority of an
    /// absolute-form target replaces `Host`. `None` only in HTTP/1.0.
    pub fn host(&self) -> Option<&str> {
        self.host.map(|host| self.lines.text(host))
    }

    /// [`host`](Self::host) without its port; an IPv6 address keeps its brackets.
    pub fn host_name(&self) -> Option<&str> {
        self.host_name.map(|name| self.lines.text(name))
    }

    /// [`host`](Self::host) as the bytes it is.
    pub fn host_bytes(&self) -> Option<&[u8]> {
        self.host.map(|host| self.lines.part(host))
    }

    /// The port of [`host`](Self::host), if it has one.
    pub fn host_port(&self) -> Option<&[u8]> {
        let (whole, name) = (self.host?, self.host_name?);
        let port = self.lines.part(Span { start: name.end + 1, end: whole.end });
        (!port.is_empty()).then_some(port)
    }

    /// In the order received.
    pub fn fields(&self) -> impl Iterator<Item = Field<'_>> + Clone {
        self.lines.iter()
    }

    /// The first value of a field, names compared without case.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.lines.values(name).next()
    }

    pub fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.lines.values(name)
    }

    /// The values of a field that is known by name.
    pub fn known(&self, known: Known) -> impl Iterator<Item = &[u8]> {
        self.lines.known(known)
    }

    /// As [`known`](Self::known), without those that `Connection` names.
    pub fn end_to_end(&self, known: Known) -> impl Iterator<Item = &[u8]> {
        self.lines.end_to_end(known)
    }

    pub fn body_length(&self) -> BodyLength {
        self.body_length
    }

    /// Whether the downstream wants to use the connection again (RFC 9112 section 9.3).
    pub fn keeps_alive(&self) -> bool {
        self.keeps_alive
    }

    /// Whether a field says that something other than the message follows: `Upgrade`, `Trailer`.
    pub fn announces_more(&self) -> bool {
        self.announces_more
    }

    /// Whether the downstream waits for a 100 before it sends its body.
    pub fn expects_continue(&self) -> bool {
        self.expects_continue
    }

    /// Whether `Connection` names this field or option.
    pub fn is_connection_option(&self, name: &[u8]) -> bool {
        self.lines.is_connection_option(name)
    }

    /// The head as received, its empty line included.
    pub fn bytes(&self) -> &Bytes {
        &self.lines.bytes
    }
}

/// Without target and values: those hold credentials.
impl fmt::Debug for RequestHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHead")
            .field("method", &self.method())
            .field("version", &self.version)
            .field("body_length", &self.body_length)
            .field("fields", &self.lines.fields.len())
            .finish_non_exhaustive()
    }
}

/// The head of one response, interim ones included.
#[derive(Clone)]
pub struct ResponseHead {
    lines: Lines,
    status: StatusCode,
    reason: Span,
    version: Version,
    body_length: BodyLength,
    keeps_alive: bool,
}

impl ResponseHead {
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The reason phrase as received: blanks, visible characters, bytes from 0x80 up, or nothing.
    pub fn reason(&self) -> &[u8] {
        self.lines.part(self.reason)
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// 1xx: another head follows.
    pub fn is_interim(&self) -> bool {
        self.status.is_informational()
    }

    /// In the order received.
    pub fn fields(&self) -> impl Iterator<Item = Field<'_>> {
        self.lines.iter()
    }

    /// The first value of a field, names compared without case.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.lines.values(name).next()
    }

    pub fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.lines.values(name)
    }

    /// The values of a field that is known by name.
    pub fn known(&self, known: Known) -> impl Iterator<Item = &[u8]> {
        self.lines.known(known)
    }

    /// As [`known`](Self::known), without those that `Connection` names.
    pub fn end_to_end(&self, known: Known) -> impl Iterator<Item = &[u8]> {
        self.lines.end_to_end(known)
    }

    /// The body that follows, given the request it answers.
    pub fn body_length(&self) -> BodyLength {
        self.body_length
    }

    /// Whether the node will take another request on this connection after this response.
    pub fn keeps_alive(&self) -> bool {
        self.keeps_alive
    }

    /// Whether `Connection` names this field or option.
    pub fn is_connection_option(&self, name: &[u8]) -> bool {
        self.lines.is_connection_option(name)
    }

    /// Where the line of the field of this name and this value, parts of [`bytes`](Self::bytes), stands in
    /// there, with its blanks and its CRLF.
    pub fn line(&self, name: &[u8], value: &[u8]) -> Range<usize> {
        let bytes = &self.lines.bytes;
        let value_end = Span::of(bytes, value).range().end;
        let rest = bytes.get(value_end..).unwrap_or_default();
        let blanks = rest.iter().take_while(|byte| **byte != b'\r').count();
        Span::of(bytes, name).range().start..value_end + blanks + b"\r\n".len()
    }

    /// The head as received, its empty line included.
    pub fn bytes(&self) -> &Bytes {
        &self.lines.bytes
    }
}

/// Without values: those hold credentials.
impl fmt::Debug for ResponseHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseHead")
            .field("status", &self.status)
            .field("version", &self.version)
            .field("body_length", &self.body_length)
            .field("fields", &self.lines.fields.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
