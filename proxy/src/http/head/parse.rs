//! One whole head into spans and decisions. httparse reads the tokens; what it is lenient about
//! (line endings, empty lines) the gate has refused before.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::StatusCode;
use httparse::{Header, Status};

use super::{
    CONNECTION_OPTIONS_MAX, FieldSlots, FieldSpan, Flaw, Lines, METHOD_SIZE_MAX, RequestHead,
    ResponseHead, Span, Version,
    target::{Authority, Target},
};
use crate::http::{
    framing::{BodyLength, LengthFields, Seen},
    name::{self, Known, KnownSet},
};

/// Fields that are read without a heap allocation; 32 bytes of stack each.
const INLINE_FIELDS: usize = 64;

type Slot<'a> = MaybeUninit<Header<'a>>;

/// Reads the head that is exactly `bytes`, of exactly `field_count` fields.
pub(in crate::http) fn request(
    bytes: Bytes,
    field_count: usize,
    target_size_max: usize,
    fields: &mut FieldSlots,
) -> Result<RequestHead, Flaw> {
    let mut inline = [const { Slot::uninit() }; INLINE_FIELDS];
    let mut heap = Vec::new();
    let slots = slots(&mut inline, &mut heap, field_count);
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(&bytes, slots) {
        Ok(Status::Complete(size)) if size == bytes.len() => {}
        Ok(Status::Complete(_) | Status::Partial) => return Err(Flaw::Field),
        Err(error) => return Err(flaw(error, request_line_flaw(&bytes))),
    }
    let (Some(method), Some(target_text)) = (request.method, request.path) else {
        return Err(Flaw::RequestLine);
    };
    let version = version(request.version)?;
    if method.len() > METHOD_SIZE_MAX {
        return Err(Flaw::RequestLine);
    }
    if target_text.len() > target_size_max {
        return Err(Flaw::TargetTooLong);
    }

    let mut summary = Summary::default();
    summary.read(&bytes, request.headers, fields.empty())?;
    // A CONNECT is refused for what it is, whatever its target looks like.
    if method == "CONNECT" {
        return Err(Flaw::Method);
    }
    let target = Target::parse(method, target_text)?;
    let host = summary.host(version)?;
    let authority = target.authority.or(host);
    let body_length = summary.lengths.of_request(version).map_err(Flaw::Length)?;
    let expects_continue = summary.expects_continue(version, body_length)?;
    let keeps_alive = summary.keeps_alive(version);

    let span = |part: &[u8]| Span::of(&bytes, part);
    Ok(RequestHead {
        method: span(method.as_bytes()),
        target: span(target_text.as_bytes()),
        path: span(target.path.as_bytes()),
        query: target.query.map(|query| span(query.as_bytes())),
        host: authority.map(|authority| span(authority.whole)),
        host_name: authority.map(|authority| span(authority.name)),
        version,
        body_length,
        keeps_alive,
        expects_continue,
        announces_more: summary.announces_more,
        lines: Lines { known: summary.known, fields: fields.share(), bytes },
    })
}

/// As [`request`], for the response to a request with `request_method`.
pub(in crate::http) fn response(
    bytes: Bytes,
    field_count: usize,
    request_method: &str,
    fields: &mut FieldSlots,
) -> Result<ResponseHead, Flaw> {
    let mut inline = [const { Slot::uninit() }; INLINE_FIELDS];
    let mut heap = Vec::new();
    let slots = slots(&mut inline, &mut heap, field_count);
    let mut response = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    match config.parse_response_with_uninit_headers(&mut response, &bytes, slots) {
        Ok(Status::Complete(size)) if size == bytes.len() => {}
        Ok(Status::Complete(_) | Status::Partial) => return Err(Flaw::Field),
        Err(error) => return Err(flaw(error, Flaw::StatusLine)),
    }
    let version = version(response.version)?;
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(Flaw::StatusLine)?;
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Flaw::Upgraded);
    }

    let mut summary = Summary::default();
    summary.read(&bytes, response.headers, fields.empty())?;
    let body_length =
        summary.lengths.of_response(version, status, request_method).map_err(Flaw::Length)?;
    let keeps_alive = body_length != BodyLength::UntilClose && summary.keeps_alive(version);
    Ok(ResponseHead {
        status,
        reason: Span::of(&bytes, reason(&bytes)),
        version,
        body_length,
        keeps_alive,
        lines: Lines { known: summary.known, fields: fields.share(), bytes },
    })
}

/// What stands behind the status in a head that httparse has read: it does not tell a phrase with
/// bytes from 0x80 up from none.
fn reason(bytes: &[u8]) -> &[u8] {
    let behind = bytes.get("HTTP/1.1 200".len()..).unwrap_or_default();
    let line = behind.split(|byte| *byte == b'\r').next().unwrap_or_default();
    line.strip_prefix(b" ").unwrap_or(line)
}

/// Judges a request line, its CRLF included, whose head is not complete.
pub(in crate::http) fn check_request_line(line: &[u8]) -> Result<(), Flaw> {
    match httparse::Request::new(&mut []).parse(line) {
        Ok(Status::Complete(_) | Status::Partial) => Ok(()),
        Err(error) => Err(flaw(error, request_line_flaw(line))),
    }
}

fn slots<'s, 'b>(
    inline: &'s mut [Slot<'b>; INLINE_FIELDS],
    heap: &'s mut Vec<Slot<'b>>,
    field_count: usize,
) -> &'s mut [Slot<'b>] {
    match inline.get_mut(..field_count) {
        Some(slots) => slots,
        None => {
            heap.resize_with(field_count, Slot::uninit);
            heap
        }
    }
}

fn version(minor: Option<u8>) -> Result<Version, Flaw> {
    match minor {
        Some(0) => Ok(Version::Http10),
        Some(1) => Ok(Version::Http11),
        Some(_) | None => Err(Flaw::Version),
    }
}

/// `version` is what a refused version means for this head.
fn flaw(error: httparse::Error, version: Flaw) -> Flaw {
    match error {
        httparse::Error::HeaderName | httparse::Error::HeaderValue => Flaw::Field,
        httparse::Error::TooManyHeaders => Flaw::TooManyFields,
        httparse::Error::Status => Flaw::StatusLine,
        httparse::Error::Version => version,
        // `NewLine` is also the first line's ending, or a CR of the last line without its LF.
        httparse::Error::NewLine => Flaw::LineEnding,
        httparse::Error::Token => Flaw::RequestLine,
    }
}

/// A third word that looks like a version is one we do not speak; anything else is no request line.
fn request_line_flaw(head: &[u8]) -> Flaw {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ').skip(2);
    match (words.next(), words.next()) {
        (Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor]), None)
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Flaw::Version
        }
        (_, _) => Flaw::RequestLine,
    }
}

/// Marks the fields that `Connection` names. `fields` are the spans of `headers`.
fn mark_options(fields: &mut [FieldSpan], headers: &[Header<'_>]) {
    for (at, header) in headers.iter().enumerate() {
        if fields[at].known != Known::Connection {
            continue;
        }
        for option in name::list(header.value) {
            for (field, header) in fields.iter_mut().zip(headers) {
                field.is_connection_option |= header.name.as_bytes().eq_ignore_ascii_case(option);
            }
        }
    }
}

/// What the fields of a head add up to.
#[derive(Default)]
struct Summary<'a> {
    known: KnownSet,
    lengths: LengthFields<'a>,
    host: Seen<'a>,
    has_close: bool,
    has_keep_alive: bool,
    /// Empty ones included.
    option_count: usize,
    has_continue: bool,
    has_other_expectation: bool,
    announces_more: bool,
}

impl<'a> Summary<'a> {
    /// One pass over the fields: their spans, and the summary.
    fn read(
        &mut self,
        bytes: &[u8],
        headers: &[Header<'a>],
        fields: &mut Vec<FieldSpan>,
    ) -> Result<(), Flaw> {
        fields.extend(headers.iter().map(|header| {
            let known = Known::of(header.name.as_bytes());
            self.see(known, header.value);
            FieldSpan {
                name: Span::of(bytes, header.name.as_bytes()),
                value: Span::of(bytes, header.value),
                known,
                is_connection_option: false,
            }
        }));
        if self.option_count > CONNECTION_OPTIONS_MAX {
            return Err(Flaw::TooManyOptions);
        }
        if self.option_count > 0 {
            mark_options(fields, headers);
        }
        Ok(())
    }

    fn see(&mut self, known: Known, value: &'a [u8]) {
        self.known.insert(known);
        match known {
            Known::ContentLength => self.lengths.content_length.see(value),
            Known::TransferEncoding => self.lengths.transfer_encoding.see(value),
            Known::Host => self.host.see(value),
            Known::Connection => {
                self.option_count += value.split(|byte| *byte == b',').count();
                name::list(value).for_each(|option| self.see_option(option));
            }
            Known::Expect => name::list(value).for_each(|expectation| {
                if expectation.eq_ignore_ascii_case(b"100-continue") {
                    self.has_continue = true;
                } else {
                    self.has_other_expectation = true;
                }
            }),
            Known::Trailer | Known::Upgrade => self.announces_more = true,
            Known::Other
            | Known::Alike
            | Known::Date
            | Known::Forwarded
            | Known::Http2Settings
            | Known::KeepAlive
            | Known::MaxForwards
            | Known::Proxy
            | Known::ProxyAuthenticate
            | Known::ProxyAuthenticationInfo
            | Known::ProxyAuthorization
            | Known::ProxyConnection
            | Known::Te
            | Known::Via
            | Known::XForwardedFor
            | Known::XForwardedHost
            | Known::XForwardedPort
            | Known::XForwardedProto
            | Known::XRealIp => {}
        }
    }

    fn see_option(&mut self, option: &[u8]) {
        if option.eq_ignore_ascii_case(b"close") {
            self.has_close = true;
        } else if option.eq_ignore_ascii_case(b"keep-alive") {
            self.has_keep_alive = true;
        }
    }

    /// RFC 9112 section 3.2: exactly one in HTTP/1.1, at most one before it.
    fn host(&self, version: Version) -> Result<Option<Authority<'a>>, Flaw> {
        match self.host {
            Seen::Once(value) => Authority::parse(value).map(Some).ok_or(Flaw::HostInvalid),
            Seen::Repeated => Err(Flaw::HostRepeated),
            Seen::Absent => match version {
                Version::Http11 => Err(Flaw::HostMissing),
                Version::Http10 => Ok(None),
            },
        }
    }

    /// RFC 9112 section 9.3: `close` beats `keep-alive`, the version decides without either.
    fn keeps_alive(&self, version: Version) -> bool {
        match version {
            Version::Http11 => !self.has_close,
            Version::Http10 => self.has_keep_alive && !self.has_close,
        }
    }

    /// RFC 9110 section 10.1.1: nothing to wait for without a body, ignored in HTTP/1.0.
    fn expects_continue(&self, version: Version, body: BodyLength) -> Result<bool, Flaw> {
        if self.has_other_expectation {
            return Err(Flaw::Expectation);
        }
        let has_body = !matches!(body, BodyLength::Empty | BodyLength::Fixed(0));
        Ok(self.has_continue && has_body && version == Version::Http11)
    }
}
