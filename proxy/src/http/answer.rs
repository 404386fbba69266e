//! Every response the proxy makes itself.
//!
//! An answer has exact framing, says who answered, and nothing else about the inside: no source of
//! the error, no addresses. Gate and lanes send the same bytes.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};

use super::framing::Version;

/// `Server` of our own answers.
pub const SERVER: &str = "tandem";
const JSON: &[u8] = b"application/json";
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// RFC 9110 section 15.5.6: a 405 lists what is taken instead. CONNECT is refused, and TRACE by the last
/// proxy that it may reach.
const ALLOW: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");

/// One response of our own.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    /// Beside those that every answer has.
    pub fields: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
}

/// What becomes of the connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    Close,
    KeepAlive,
}

impl After {
    /// What `Connection` says of it to a downstream of `version`, which knows the rest by itself.
    pub(crate) const fn option(self, version: Version) -> Option<&'static str> {
        match (self, version) {
            (After::Close, Version::Http10 | Version::Http11) => Some("close"),
            (After::KeepAlive, Version::Http10) => Some("keep-alive"),
            (After::KeepAlive, Version::Http11) => None,
        }
    }
}

impl Answer {
    /// `{"error_msg":"404 Not Found"}`.
    pub fn of(status: StatusCode) -> Answer {
        Answer::with_reason(status, status.canonical_reason().unwrap_or_default())
    }

    /// [`of`](Self::of) with other words behind the code; they stand in a JSON string as they are.
    pub fn with_reason(status: StatusCode, reason: &'static str) -> Answer {
        debug_assert!(!reason.contains(['"', '\\']) && !reason.contains(char::is_control));
        let body = [r#"{"error_msg":""#, status.as_str(), " ", reason, r#""}"#].concat();
        Answer::with_body(status, body.into())
    }

    /// `{"message":"Missing API key in request"}`, as APISIX's plugins have it.
    pub fn message(status: StatusCode, message: &str) -> Answer {
        // That of nearly all, which need no escapes.
        let mut body = Vec::with_capacity("{\"message\":\"\"}\n".len() + message.len());
        body.extend_from_slice(b"{\"message\":");
        // A text can be written, and a buffer takes all of it.
        drop(serde_json::to_writer(&mut body, message));
        body.extend_from_slice(b"}\n");
        Answer::with_body(status, body.into())
    }

    /// An answer whose body is `body`: JSON, unless a field `content-type` says otherwise.
    pub fn with_body(status: StatusCode, body: Bytes) -> Answer {
        let mut answer = Answer { status, fields: Vec::new(), body };
        if status == StatusCode::METHOD_NOT_ALLOWED {
            answer.fields.push((header::ALLOW, ALLOW));
        }
        answer
    }

    /// To OPTIONS, by whoever it has come to (RFC 9110 section 9.3.7).
    pub fn options() -> Answer {
        Answer::with_body(StatusCode::NO_CONTENT, Bytes::new()).field(header::ALLOW, ALLOW)
    }

    /// With one field more.
    #[must_use]
    pub fn field(mut self, name: HeaderName, value: HeaderValue) -> Answer {
        self.fields.push((name, value));
        self
    }

    /// Its body, if there is any, is a text, unless a field `content-type` says otherwise.
    #[must_use]
    pub fn as_text(self) -> Answer {
        if self.has(&header::CONTENT_TYPE) || self.body.is_empty() {
            return self;
        }
        self.field(header::CONTENT_TYPE, TEXT)
    }

    fn has(&self, field: &HeaderName) -> bool {
        self.fields.iter().any(|(name, _)| name == field)
    }

    /// Hands over all fields but `date` and `connection`. `content-length` is that of the body even where
    /// the body is not sent because HEAD was asked.
    pub fn each_field(&self, mut take: impl FnMut(&str, &[u8])) {
        if !self.has(&header::SERVER) {
            take(header::SERVER.as_str(), SERVER.as_bytes());
        }
        if !self.is_bodiless() {
            if !self.has(&header::CONTENT_TYPE) && !self.body.is_empty() {
                take(header::CONTENT_TYPE.as_str(), JSON);
            }
            let mut length = itoa::Buffer::new();
            let length = length.format(self.body.len());
            take(header::CONTENT_LENGTH.as_str(), length.as_bytes());
        }
        self.fields.iter().for_each(|(name, value)| take(name.as_str(), value.as_bytes()));
    }

    /// The whole response to a request with `request_method` (`None`: it never came to be known), of
    /// HTTP/1.1. `date` is an IMF-fixdate (RFC 9110 section 5.6.7).
    pub fn to_bytes(&self, request_method: Option<&str>, after: After, date: &str) -> Vec<u8> {
        let mut bytes = self.head(after.option(Version::Http11), date);
        bytes.extend_from_slice(self.body_for(request_method));
        bytes
    }

    /// Its head, with room for the body. `connection` is the option that it names.
    pub(crate) fn head(&self, connection: Option<&str>, date: &str) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(256 + self.body.len());
        let reason = self.status.canonical_reason().unwrap_or_default();
        let mut push =
            |parts: &[&[u8]]| parts.iter().for_each(|part| bytes.extend_from_slice(part));
        push(&[b"HTTP/1.1 ", self.status.as_str().as_bytes(), b" ", reason.as_bytes(), b"\r\n"]);
        self.each_field(|name, value| push(&[name.as_bytes(), b": ", value, b"\r\n"]));
        if let Some(option) = connection {
            push(&[b"connection: ", option.as_bytes(), b"\r\n"]);
        }
        if !self.has(&header::DATE) {
            push(&[b"date: ", date.as_bytes(), b"\r\n"]);
        }
        push(&[b"\r\n"]);
        bytes
    }

    /// The body as far as it is sent to a request with `request_method`.
    pub fn body_for(&self, request_method: Option<&str>) -> &[u8] {
        if request_method == Some("HEAD") || self.is_bodiless() { b"" } else { &self.body }
    }

    /// RFC 9112 section 6.3: statuses that never have a body.
    pub(crate) fn is_bodiless(&self) -> bool {
        self.status.is_informational()
            || matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::{
        error::Fault,
        http::{
            framing::BodyLength,
            gate::ResponseGate,
            head::{HeadLimits, ResponseHead},
        },
    };

    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    /// What our own gate makes of an answer: the head, and the bytes behind it.
    fn read_back(answer: &Answer, method: &str, after: After) -> (ResponseHead, BytesMut) {
        let limits = HeadLimits { size_max: 4096, fields_max: 20, target_size_max: 0 };
        let mut bytes = BytesMut::from(&*answer.to_bytes(Some(method), after, DATE));
        let head = ResponseGate::new(limits).head(&mut bytes, method).unwrap().unwrap();
        (head, bytes)
    }

    #[test]
    fn an_answer_is_byte_for_byte_this() {
        let bytes = Answer::of(StatusCode::NOT_FOUND).to_bytes(None, After::Close, DATE);
        let bytes = String::from_utf8(bytes).expect("ASCII");
        let expected = "HTTP/1.1 404 Not Found\r\nserver: tandem\r\ncontent-type: application/json\r\n\
             content-length: 29\r\nconnection: close\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n\
             {\"error_msg\":\"404 Not Found\"}";
        assert_eq!(bytes, expected);
    }

    #[test]
    fn the_answer_of_every_fault_is_framed_exactly() {
        for fault in Fault::ALL {
            let Some(status) = fault.consequence().status else { continue };
            let answer = Answer::of(status);
            let (head, body) = read_back(&answer, "GET", After::KeepAlive);
            assert_eq!(head.status(), status);
            assert_eq!(head.body_length(), BodyLength::Fixed(body.len() as u64), "{fault:?}");
            assert_eq!(body, answer.body);
            assert!(head.keeps_alive());
            assert_eq!(head.field("allow").is_some(), status == StatusCode::METHOD_NOT_ALLOWED);
        }
    }

    #[test]
    fn what_a_plugin_says_is_not_said_again() {
        let said = HeaderValue::from_static("x");
        let answer = Answer::of(StatusCode::NOT_FOUND)
            .field(header::DATE, said.clone())
            .field(header::SERVER, said.clone())
            .field(header::CONTENT_TYPE, said);
        let (head, _) = read_back(&answer, "GET", After::KeepAlive);
        for name in ["date", "server", "content-type"] {
            assert_eq!(head.values(name).collect::<Vec<_>>(), [b"x"], "{name}");
        }
    }

    #[test]
    fn head_gets_the_length_and_no_body() {
        let answer = Answer::with_reason(StatusCode::NOT_FOUND, "Route Not Found");
        assert_eq!(answer.body, r#"{"error_msg":"404 Route Not Found"}"#);
        let (head, body) = read_back(&answer, "HEAD", After::Close);
        assert_eq!(head.field("content-length"), Some(answer.body.len().to_string().as_bytes()));
        assert!(body.is_empty());
        assert!(!head.keeps_alive());
    }

    #[test]
    fn a_status_without_body_has_none() {
        let answer = Answer::with_body(StatusCode::NO_CONTENT, Bytes::new())
            .field(header::WWW_AUTHENTICATE, HeaderValue::from_static("x"));
        let (head, body) = read_back(&answer, "GET", After::KeepAlive);
        assert_eq!(head.field("content-length"), None);
        assert_eq!(head.field("content-type"), None);
        assert_eq!(head.field("www-authenticate"), Some(&b"x"[..]));
        assert!(body.is_empty());
    }
}
