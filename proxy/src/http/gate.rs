//! The gate: the bytes of a connection in, one head at a time out, or what is wrong with them.
//!
//! Two small machines without IO, one for each direction. They find the end of a head without
//! looking at a byte twice however it is cut, refuse every line ending but CRLF on the way, and
//! enforce the limits on a head that is still incomplete. The bytes after the head stay where
//! they are: [`framing`](super::framing) says how many of them are its body.

use bytes::BytesMut;

use super::head::{
    FieldSlots, Flaw, HEAD_SIZE_CEILING, HeadError, HeadLimits, METHOD_SIZE_MAX, RequestHead,
    ResponseHead, TARGET_SIZE_CEILING, parse,
};

/// 1xx responses before a final one.
pub const INTERIM_RESPONSES_MAX: u32 = 16;

/// Of every response.
const BEGINNING: &[u8] = b"HTTP/1.";
const VERSION_SIZE: usize = b"HTTP/1.1".len();

/// Reads request heads, one after the other.
#[derive(Debug)]
pub struct RequestGate {
    limits: HeadLimits,
    scan: Scan,
    /// The one empty line that RFC 9112 section 2.2 wants ignored before a request is gone.
    has_skipped_line: bool,
    /// The request line of a head that is still incomplete has been found good.
    is_line_checked: bool,
    /// What was looked at last is a `HEAD` request, or the beginning of one.
    is_for_head: bool,
    fields: FieldSlots,
}

impl RequestGate {
    pub fn new(limits: HeadLimits) -> RequestGate {
        RequestGate {
            limits: within_ceilings(limits),
            scan: Scan::default(),
            has_skipped_line: false,
            is_line_checked: false,
            is_for_head: false,
            fields: FieldSlots::default(),
        }
    }

    /// Whether the head that was taken or refused last, or is incomplete, is that of a `HEAD` request:
    /// then no answer to it has a body (RFC 9110 section 9.3.2).
    pub fn is_for_head(&self) -> bool {
        self.is_for_head
    }

    /// Gives up what it keeps for the next head. Only between two heads.
    pub fn rest(&mut self) {
        self.fields = FieldSlots::default();
    }

    /// Takes the next head off the front of `buf`; `None` if more bytes are needed. Between calls
    /// that return `None`, `buf` may only grow. After an error the connection cannot be read on.
    pub fn head(&mut self, buf: &mut BytesMut) -> Result<Option<RequestHead>, HeadError> {
        let found = self.find(buf);
        self.is_for_head = buf.starts_with(b"HEAD ");
        let Some(found) = found.map_err(HeadError::Request)? else { return Ok(None) };
        let bytes = buf.split_to(found.size).freeze();
        let size_max = self.limits.target_size_max;
        match parse::request(bytes, found.field_count, size_max, &mut self.fields) {
            Ok(head) => Ok(Some(head)),
            Err(flaw) => Err(HeadError::Request(flaw)),
        }
    }

    fn find(&mut self, buf: &mut BytesMut) -> Result<Option<Found>, Flaw> {
        let seen = self.scan.seen;
        if seen == buf.len() || !self.is_past_empty_line(buf)? {
            return Ok(None);
        }
        let end = self.scan.find_end(buf)?;
        if let Some(line_end) = self.scan.first_line_size {
            let version_end = line_end - b"\r\n".len();
            let start = version_end.saturating_sub(VERSION_SIZE);
            read_as_ours(&mut buf[start..version_end]);
        }
        let Some(size) = end else {
            self.check_partial(buf, seen)?;
            return Ok(None);
        };
        if size > self.limits.size_max {
            return Err(self.too_large(buf));
        }
        let field_count = self.scan.field_count();
        if field_count > self.limits.fields_max {
            return Err(Flaw::TooManyFields);
        }
        self.scan = Scan::default();
        self.has_skipped_line = false;
        self.is_line_checked = false;
        Ok(Some(Found { size, field_count }))
    }

    /// Whether `buf` begins with a request line, after taking one empty line off it.
    fn is_past_empty_line(&mut self, buf: &mut BytesMut) -> Result<bool, Flaw> {
        match buf.as_ref() {
            [] | [b'\r'] => Ok(false),
            [b'\r', b'\n', ..] if !self.has_skipped_line => {
                self.has_skipped_line = true;
                let _empty_line = buf.split_to(b"\r\n".len());
                self.is_past_empty_line(buf)
            }
            [b'\n', ..] => Err(Flaw::LineEnding),
            [b'\r', ..] => Err(Flaw::RequestLine),
            [_, ..] => Ok(true),
        }
    }

    /// Refuses as early as it can be known: what follows may never come.
    fn check_partial(&mut self, buf: &[u8], seen: usize) -> Result<(), Flaw> {
        if has_control_byte(&buf[seen..]) {
            return Err(Flaw::ControlByte);
        }
        if !self.is_line_checked {
            let line = RequestLine::of(buf);
            if line.method_size > METHOD_SIZE_MAX {
                return Err(Flaw::RequestLine);
            }
            if line.target_size > self.limits.target_size_max {
                return Err(Flaw::TargetTooLong);
            }
            if let Some(size) = self.scan.first_line_size {
                parse::check_request_line(&buf[..size])?;
                self.is_line_checked = true;
            }
        }
        if buf.len() > self.limits.size_max {
            return Err(self.too_large(buf));
        }
        if self.scan.field_count() > self.limits.fields_max {
            return Err(Flaw::TooManyFields);
        }
        Ok(())
    }

    /// A head that is too large because of its request line is a target too long.
    fn too_large(&self, buf: &[u8]) -> Flaw {
        let is_line = self.scan.first_line_size.is_none_or(|size| size > self.limits.size_max);
        if is_line || RequestLine::of(buf).target_size > self.limits.target_size_max {
            Flaw::TargetTooLong
        } else {
            Flaw::TooLarge
        }
    }
}

/// Reads response heads, one after the other.
#[derive(Debug)]
pub struct ResponseGate {
    limits: HeadLimits,
    scan: Scan,
    /// Interim responses since the last final one.
    interim_count: u32,
    fields: FieldSlots,
}

impl ResponseGate {
    pub fn new(limits: HeadLimits) -> ResponseGate {
        ResponseGate {
            limits: within_ceilings(limits),
            scan: Scan::default(),
            interim_count: 0,
            fields: FieldSlots::default(),
        }
    }

    /// Begins anew, with another connection or behind an error.
    pub fn restart(&mut self) {
        self.scan = Scan::default();
        self.interim_count = 0;
    }

    /// As [`RequestGate::head`], for responses to a request with `request_method`.
    pub fn head(
        &mut self,
        buf: &mut BytesMut,
        request_method: &str,
    ) -> Result<Option<ResponseHead>, HeadError> {
        let Some(found) = self.find(buf).map_err(HeadError::Response)? else { return Ok(None) };
        let bytes = buf.split_to(found.size).freeze();
        match parse::response(bytes, found.field_count, request_method, &mut self.fields) {
            Ok(head) => match self.count_interim(&head) {
                Ok(()) => Ok(Some(head)),
                Err(flaw) => Err(HeadError::Response(flaw)),
            },
            Err(flaw) => Err(HeadError::Response(flaw)),
        }
    }

    fn find(&mut self, buf: &mut BytesMut) -> Result<Option<Found>, Flaw> {
        let seen = self.scan.seen;
        if seen == buf.len() {
            return Ok(None);
        }
        // Whatever else a node says first, it is no response: an SSH banner has no end to wait for.
        if !BEGINNING.starts_with(&buf[..buf.len().min(BEGINNING.len())]) {
            return Err(Flaw::StatusLine);
        }
        let end = self.scan.find_end(buf)?;
        if let Some(version) = buf.get_mut(..VERSION_SIZE) {
            read_as_ours(version);
        }
        if end.unwrap_or(buf.len()) > self.limits.size_max {
            return Err(Flaw::TooLarge);
        }
        let field_count = self.scan.field_count();
        if field_count > self.limits.fields_max {
            return Err(Flaw::TooManyFields);
        }
        let Some(size) = end else {
            return if has_control_byte(&buf[seen..]) { Err(Flaw::ControlByte) } else { Ok(None) };
        };
        self.scan = Scan::default();
        Ok(Some(Found { size, field_count }))
    }

    fn count_interim(&mut self, head: &ResponseHead) -> Result<(), Flaw> {
        self.interim_count = if head.is_interim() { self.interim_count + 1 } else { 0 };
        if self.interim_count > INTERIM_RESPONSES_MAX {
            return Err(Flaw::TooManyInterim);
        }
        Ok(())
    }
}

/// A later minor version is the one we speak to us (RFC 9110 section 2.5).
fn read_as_ours(version: &mut [u8]) {
    if let [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ b'2'..=b'9'] = version {
        *minor = b'1';
    }
}

fn within_ceilings(limits: HeadLimits) -> HeadLimits {
    HeadLimits {
        size_max: limits.size_max.min(HEAD_SIZE_CEILING),
        fields_max: limits.fields_max,
        target_size_max: limits.target_size_max.min(TARGET_SIZE_CEILING),
    }
}

/// A whole head at the front of what has come.
struct Found {
    size: usize,
    field_count: usize,
}

/// How far the search for the end of a head has come.
#[derive(Debug, Default)]
struct Scan {
    /// Bytes that have been searched.
    seen: usize,
    /// Where the line begins that is being searched.
    line_start: usize,
    /// Lines that are complete, the first one included.
    line_count: usize,
    /// With its CRLF, once it is complete.
    first_line_size: Option<usize>,
}

impl Scan {
    /// The size of the head at the front of `buf`, once its empty line is there.
    fn find_end(&mut self, buf: &[u8]) -> Result<Option<usize>, Flaw> {
        let searched = self.seen;
        for offset in memchr::memchr_iter(b'\n', &buf[searched..]) {
            let lf = searched + offset;
            if lf == self.line_start || buf[lf - 1] != b'\r' {
                return Err(Flaw::LineEnding);
            }
            if lf == self.line_start + 1 {
                return Ok(Some(lf + 1));
            }
            self.line_start = lf + 1;
            self.line_count += 1;
            self.first_line_size.get_or_insert(lf + 1);
        }
        self.seen = buf.len();
        Ok(None)
    }

    fn field_count(&self) -> usize {
        self.line_count.saturating_sub(1)
    }
}

/// The sizes of what is there of a request line.
struct RequestLine {
    method_size: usize,
    target_size: usize,
}

impl RequestLine {
    fn of(buf: &[u8]) -> RequestLine {
        let mut parts = buf.split(|byte| matches!(byte, b' ' | b'\r' | b'\n'));
        let mut size = || parts.next().map_or(0, <[u8]>::len);
        RequestLine { method_size: size(), target_size: size() }
    }
}

/// Whether a byte is there that no part of a head may hold. Line endings are not judged here.
fn has_control_byte(bytes: &[u8]) -> bool {
    bytes.iter().any(|byte| byte.is_ascii_control() && !matches!(byte, b'\t' | b'\r' | b'\n'))
}

#[cfg(test)]
mod tests;
