//! How long a message is and where it ends (RFC 9112 sections 6 and 7.1). The only place that
//! decides either.
//!
//! Enters: the length-bearing fields of a head, then the body's bytes as they come. Leaves: a
//! [`BodyLength`], and for each run of bytes how many of them belong to this body. Nothing is
//! buffered, decoded or changed here. Stricter than the RFC wherever leniency lets two readers
//! disagree: see [`LengthError`] and the table below.
//!
//! A chunked body, state by next byte; every pair that is not named is an error:
//!
//! | state            | byte → state |
//! |------------------|--------------|
//! | `Size`           | hex digit → `Size`; after at least one: `;` → `ExtensionName`, CR → `SizeEnd` |
//! | `ExtensionName`  | token → `ExtensionName`; after at least one: `;`, `=` → `ExtensionValue`, CR → `SizeEnd` |
//! | `ExtensionValue` | token → `ExtensionValue`; first `"` → `Quoted`; after at least one: `;`, CR |
//! | `Quoted`         | `"` → `QuotedEnd`, `\` → `Escaped`, text → `Quoted` |
//! | `Escaped`        | text → `Quoted` |
//! | `QuotedEnd`      | `;` → `ExtensionName`, CR → `SizeEnd` |
//! | `SizeEnd`        | LF → `Data`, or `TrailerStart` after size 0 |
//! | `Data`           | anything, as many as the size said → `DataCr` |
//! | `DataCr`, `DataLf` | CR, then LF → `Size` |
//! | `TrailerStart`   | token → `TrailerName`, CR → `LastLf` |
//! | `TrailerName`    | token → `TrailerName`, `:` → `TrailerValue` |
//! | `TrailerValue`   | text → `TrailerValue`, CR → `TrailerEnd` |
//! | `TrailerEnd`     | LF → `TrailerStart` |
//! | `LastLf`         | LF → complete |

use http::StatusCode;

use crate::{error::Fault, http::name};

/// Hex digits of a chunk size, leading zeros included: 16 are exactly a `u64`.
pub const CHUNK_SIZE_DIGITS_MAX: u8 = 16;
/// Extensions of one chunk, bytes between the size and its CRLF. hyper allows no message more
/// than 16 KiB of them, the limits here are below that.
pub const CHUNK_EXTENSION_SIZE_MAX: u32 = 256;
/// Extensions of all chunks of one message, bytes.
pub const CHUNK_EXTENSIONS_SIZE_MAX: u32 = 4096;
/// Trailer section of one message, bytes. Trailers are validated and dropped.
pub const TRAILERS_SIZE_MAX: u32 = 8192;
/// Fields in the trailer section of one message.
pub const TRAILER_FIELDS_MAX: u32 = 32;

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// No body: a request without length fields, a response that cannot have one.
    Empty,
    /// `Content-Length`, bytes.
    Fixed(u64),
    Chunked,
    /// Until the peer closes. Responses only.
    UntilClose,
}

/// Why a head does not say how long its message is, in a way everybody reads alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LengthError {
    /// `Content-Length` is not one run of digits below 2^63; a list counts as that, even of equal
    /// values.
    LengthMalformed,
    /// `Content-Length` more than once, even with equal values.
    LengthRepeated,
    /// `Content-Length` beside `Transfer-Encoding`.
    LengthAndEncoding,
    /// `Transfer-Encoding` more than once.
    EncodingRepeated,
    /// `Transfer-Encoding` other than exactly `chunked`, in any case.
    EncodingUnknown,
    /// `Transfer-Encoding` in HTTP/1.0, whose readers never heard of it.
    EncodingInOldVersion,
}

/// Where a body stopped being one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FramingError {
    /// Not 1 to 16 hex digits directly followed by CRLF or an extension.
    ChunkSize,
    ChunkExtension,
    ChunkExtensionsTooLarge,
    /// No CRLF where only a CRLF can be.
    LineEnding,
    Trailer,
    TrailersTooLarge,
    /// The chunks announce more than [`BodyReader::at_most`] allows.
    ContentTooLarge,
    /// The peer closed inside the body.
    Truncated,
}

impl FramingError {
    /// The fault if the body is a request's.
    pub fn request_fault(self) -> Fault {
        match self {
            FramingError::ChunkSize
            | FramingError::ChunkExtension
            | FramingError::ChunkExtensionsTooLarge
            | FramingError::LineEnding
            | FramingError::Trailer
            | FramingError::TrailersTooLarge => Fault::BodyMalformed,
            FramingError::ContentTooLarge => Fault::BodyTooLarge,
            FramingError::Truncated => Fault::DownstreamReset,
        }
    }

    /// The fault if the body is a response's.
    pub fn response_fault(self) -> Fault {
        match self {
            FramingError::ChunkSize
            | FramingError::ChunkExtension
            | FramingError::ChunkExtensionsTooLarge
            | FramingError::LineEnding
            | FramingError::Trailer
            | FramingError::TrailersTooLarge
            | FramingError::ContentTooLarge => Fault::ResponseMalformed,
            FramingError::Truncated => Fault::ResponseTruncated,
        }
    }
}

/// A field that may be there once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Seen<'a> {
    #[default]
    Absent,
    Once(&'a [u8]),
    Repeated,
}

impl<'a> Seen<'a> {
    pub fn see(&mut self, value: &'a [u8]) {
        *self = match self {
            Seen::Absent => Seen::Once(value),
            Seen::Once(_) | Seen::Repeated => Seen::Repeated,
        };
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
}

/// What a head says about the length of its message.
#[derive(Debug, Clone, Copy, Default)]
pub struct LengthFields<'a> {
    pub content_length: Seen<'a>,
    pub transfer_encoding: Seen<'a>,
}

impl LengthFields<'_> {
    /// The body of a request (RFC 9112 section 6.3).
    pub fn of_request(&self, version: Version) -> Result<BodyLength, LengthError> {
        Ok(self.declared(version)?.unwrap_or(BodyLength::Empty))
    }

    /// The body of the response to a request with `request_method` (RFC 9112 section 6.3). Length
    /// fields are held to the same rules where the response cannot have a body.
    pub fn of_response(
        &self,
        version: Version,
        status: StatusCode,
        request_method: &str,
    ) -> Result<BodyLength, LengthError> {
        let declared = self.declared(version)?;
        let is_bodiless = request_method == "HEAD"
            || status.is_informational()
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED;
        if is_bodiless {
            return Ok(BodyLength::Empty);
        }
        Ok(declared.unwrap_or(BodyLength::UntilClose))
    }

    fn declared(&self, version: Version) -> Result<Option<BodyLength>, LengthError> {
        match (self.transfer_encoding, self.content_length) {
            (Seen::Absent, Seen::Absent) => Ok(None),
            (Seen::Absent, Seen::Once(value)) => {
                content_length(value).map(|n| Some(BodyLength::Fixed(n)))
            }
            (Seen::Absent, Seen::Repeated) => Err(LengthError::LengthRepeated),
            (Seen::Once(_) | Seen::Repeated, Seen::Once(_) | Seen::Repeated) => {
                Err(LengthError::LengthAndEncoding)
            }
            (Seen::Repeated, Seen::Absent) => Err(LengthError::EncodingRepeated),
            (Seen::Once(_), Seen::Absent) if version == Version::Http10 => {
                Err(LengthError::EncodingInOldVersion)
            }
            (Seen::Once(value), Seen::Absent) => {
                if value.eq_ignore_ascii_case(b"chunked") {
                    Ok(Some(BodyLength::Chunked))
                } else {
                    Err(LengthError::EncodingUnknown)
                }
            }
        }
    }
}

/// The largest length of a body: of a file no more can be said, and hyper refuses some that are larger.
const LENGTH_MAX: u64 = i64::MAX as u64;

/// RFC 9110 section 8.6: digits and nothing else. `str::parse` would take a sign.
fn content_length(value: &[u8]) -> Result<u64, LengthError> {
    if value.is_empty() {
        return Err(LengthError::LengthMalformed);
    }
    let mut length: u64 = 0;
    for &byte in value {
        if !byte.is_ascii_digit() {
            return Err(LengthError::LengthMalformed);
        }
        length = length
            .checked_mul(10)
            .and_then(|tens| tens.checked_add(u64::from(byte - b'0')))
            .filter(|length| *length <= LENGTH_MAX)
            .ok_or(LengthError::LengthMalformed)?;
    }
    Ok(length)
}

/// Follows one body through its bytes. After an error it repeats that error.
#[derive(Debug, Clone)]
pub struct BodyReader {
    state: State,
    payload_bytes: u64,
}

#[derive(Debug, Clone)]
enum State {
    Complete,
    Fixed { remaining: u64 },
    Chunked(Chunked),
    UntilClose,
    Broken(FramingError),
}

impl BodyReader {
    pub fn new(length: BodyLength) -> BodyReader {
        let state = match length {
            BodyLength::Empty | BodyLength::Fixed(0) => State::Complete,
            BodyLength::Fixed(remaining) => State::Fixed { remaining },
            BodyLength::Chunked => State::Chunked(Chunked::new()),
            BodyLength::UntilClose => State::UntilClose,
        };
        BodyReader { state, payload_bytes: 0 }
    }

    /// Allows a chunked body no more than `max` bytes of content, which its size lines tell before
    /// any of it has come. One of known length is judged by its head.
    pub fn at_most(mut self, max: u64) -> BodyReader {
        if let State::Chunked(chunked) = &mut self.state {
            chunked.allowance = max;
        }
        self
    }

    /// Allows no more than `max` bytes of content, what has come of it included. Of a body of known
    /// length only what has come is judged.
    ///
    /// # Errors
    /// More has come, or was announced.
    pub fn lower(&mut self, max: u64) -> Result<(), FramingError> {
        let announced = match &self.state {
            State::Chunked(_) => self.opaque_remaining().unwrap_or(0),
            State::Broken(error) => return Err(*error),
            State::Complete | State::Fixed { .. } | State::UntilClose => 0,
        };
        let announced = self.payload_bytes.saturating_add(announced);
        let left = max.checked_sub(announced).ok_or(FramingError::ContentTooLarge)?;
        if let State::Chunked(chunked) = &mut self.state {
            chunked.allowance = chunked.allowance.min(left);
        }
        Ok(())
    }

    /// How many of `bytes`, from the front, belong to this body; fewer than all only when it is
    /// complete. Data of a body is counted, never looked at.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<usize, FramingError> {
        match &mut self.state {
            State::Complete => Ok(0),
            State::Broken(error) => Err(*error),
            State::UntilClose => {
                self.payload_bytes = self.payload_bytes.saturating_add(bytes.len() as u64);
                Ok(bytes.len())
            }
            State::Fixed { remaining } => {
                let used = (*remaining).min(bytes.len() as u64);
                self.skip(used);
                // At most `bytes.len()`.
                Ok(used as usize)
            }
            State::Chunked(chunked) => match chunked.advance(bytes, &mut self.payload_bytes) {
                Ok(used) => {
                    if chunked.at == At::Complete {
                        self.state = State::Complete;
                    }
                    Ok(used)
                }
                Err(error) => {
                    self.state = State::Broken(error);
                    Err(error)
                }
            },
        }
    }

    /// Whether the last byte of the body has been seen. Never true for [`BodyLength::UntilClose`].
    pub fn is_complete(&self) -> bool {
        matches!(self.state, State::Complete)
    }

    /// How many of the next bytes are data whatever they are: the rest of a fixed body or of the
    /// current chunk. `None` if the next byte has to be looked at, or if there is no bound.
    pub fn opaque_remaining(&self) -> Option<u64> {
        match &self.state {
            State::Fixed { remaining } => Some(*remaining),
            State::Chunked(Chunked { at: At::Data { remaining }, .. }) => Some(*remaining),
            State::Chunked(_) | State::Complete | State::UntilClose | State::Broken(_) => None,
        }
    }

    /// How many of `bytes`, from the front, are framing and no data: 0 unless chunked.
    pub fn framing(&mut self, bytes: &[u8]) -> Result<usize, FramingError> {
        let chunked = match &mut self.state {
            State::Broken(error) => return Err(*error),
            State::Chunked(chunked) => chunked,
            State::Complete | State::Fixed { .. } | State::UntilClose => return Ok(0),
        };
        let mut used = 0;
        for &byte in bytes {
            if matches!(chunked.at, At::Data { .. } | At::Complete) {
                break;
            }
            if let Err(error) = chunked.step(byte) {
                self.state = State::Broken(error);
                return Err(error);
            }
            used += 1;
        }
        if chunked.at == At::Complete {
            self.state = State::Complete;
        }
        Ok(used)
    }

    /// Accounts for data among the next `available` bytes: how many of them are, from the front.
    pub fn data(&mut self, available: usize) -> usize {
        let count = match &mut self.state {
            State::UntilClose => available as u64,
            State::Fixed { .. } | State::Chunked(_) => {
                self.opaque_remaining().map_or(0, |opaque| opaque.min(available as u64))
            }
            State::Complete | State::Broken(_) => 0,
        };
        if matches!(self.state, State::UntilClose) {
            self.payload_bytes = self.payload_bytes.saturating_add(count);
        } else if count > 0 {
            self.skip(count);
        }
        // At most `available`.
        count as usize
    }

    /// Accounts for `count` bytes that were moved without being looked at, at most
    /// [`opaque_remaining`](Self::opaque_remaining) of them.
    pub fn skip(&mut self, count: u64) {
        debug_assert!(self.opaque_remaining().is_some_and(|opaque| count <= opaque));
        match &mut self.state {
            State::Fixed { remaining } => {
                *remaining = remaining.saturating_sub(count);
                if *remaining == 0 {
                    self.state = State::Complete;
                }
            }
            State::Chunked(chunked) => chunked.skip(count),
            State::Complete | State::UntilClose | State::Broken(_) => return,
        }
        self.payload_bytes = self.payload_bytes.saturating_add(count);
    }

    /// Bytes of the body's content so far, without chunk framing and trailers.
    pub fn payload_bytes(&self) -> u64 {
        self.payload_bytes
    }

    /// What it means that the peer closed now.
    pub fn finish_at_eof(&self) -> Result<(), FramingError> {
        match &self.state {
            State::Complete | State::UntilClose => Ok(()),
            State::Fixed { .. } | State::Chunked(_) => Err(FramingError::Truncated),
            State::Broken(error) => Err(*error),
        }
    }
}

#[derive(Debug, Clone)]
struct Chunked {
    at: At,
    /// Size of the chunk whose size line is being read.
    size: u64,
    /// Bytes of content that may still be announced.
    allowance: u64,
    /// Bytes of extensions, this chunk's and the message's.
    extension_bytes: u32,
    extensions_bytes: u32,
    trailer_bytes: u32,
    trailer_fields: u32,
}

/// What the next byte belongs to; see the module's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Size { digits: u8 },
    ExtensionName { part: Part },
    ExtensionValue { part: Part },
    Quoted,
    Escaped,
    QuotedEnd,
    SizeEnd,
    Data { remaining: u64 },
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerEnd,
    LastLf,
    Complete,
}

/// How much of a token that must not be empty is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Empty,
    Some,
}

impl Chunked {
    fn new() -> Chunked {
        Chunked {
            at: At::Size { digits: 0 },
            size: 0,
            allowance: u64::MAX,
            extension_bytes: 0,
            extensions_bytes: 0,
            trailer_bytes: 0,
            trailer_fields: 0,
        }
    }

    fn advance(&mut self, bytes: &[u8], payload_bytes: &mut u64) -> Result<usize, FramingError> {
        let mut rest = bytes;
        while let [byte, tail @ ..] = rest {
            match self.at {
                At::Data { remaining } => {
                    let count = remaining.min(rest.len() as u64);
                    self.skip(count);
                    *payload_bytes = payload_bytes.saturating_add(count);
                    // At most `rest.len()`.
                    rest = &rest[count as usize..];
                    continue;
                }
                At::Complete => break,
                At::Size { .. }
                | At::SizeEnd
                | At::DataCr
                | At::DataLf
                | At::ExtensionName { .. }
                | At::ExtensionValue { .. }
                | At::Quoted
                | At::Escaped
                | At::QuotedEnd
                | At::TrailerStart
                | At::TrailerName
                | At::TrailerValue
                | At::TrailerEnd
                | At::LastLf => self.step(*byte)?,
            }
            rest = tail;
        }
        Ok(bytes.len() - rest.len())
    }

    /// One byte that is not data.
    fn step(&mut self, byte: u8) -> Result<(), FramingError> {
        match self.at {
            At::Size { .. } | At::SizeEnd | At::DataCr | At::DataLf => self.line(byte),
            At::ExtensionName { .. }
            | At::ExtensionValue { .. }
            | At::Quoted
            | At::Escaped
            | At::QuotedEnd => self.extension(byte),
            At::TrailerStart | At::TrailerName | At::TrailerValue | At::TrailerEnd | At::LastLf => {
                self.trailer(byte)
            }
            At::Data { .. } | At::Complete => Ok(()),
        }
    }

    fn skip(&mut self, count: u64) {
        if let At::Data { remaining } = &mut self.at {
            *remaining = remaining.saturating_sub(count);
            if *remaining == 0 {
                self.at = At::DataCr;
            }
        }
    }

    /// One byte of a size line without extension, or of the line ending after data.
    fn line(&mut self, byte: u8) -> Result<(), FramingError> {
        self.at = match (self.at, byte) {
            (At::Size { digits }, _) if byte.is_ascii_hexdigit() => {
                if digits == CHUNK_SIZE_DIGITS_MAX {
                    return Err(FramingError::ChunkSize);
                }
                self.size = self.size << 4 | hex_value(byte);
                At::Size { digits: digits + 1 }
            }
            (At::Size { digits: 1.. }, b'\r') => At::SizeEnd,
            (At::Size { digits: 1.. }, b';') => {
                self.extension_bytes = 0;
                self.count_extension()?;
                At::ExtensionName { part: Part::Empty }
            }
            (At::Size { .. }, _) => return Err(FramingError::ChunkSize),
            (At::SizeEnd, b'\n') if self.size == 0 => At::TrailerStart,
            (At::SizeEnd, b'\n') => {
                let size = std::mem::take(&mut self.size);
                let left = self.allowance.checked_sub(size);
                self.allowance = left.ok_or(FramingError::ContentTooLarge)?;
                At::Data { remaining: size }
            }
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::Size { digits: 0 },
            (_, _) => return Err(FramingError::LineEnding),
        };
        Ok(())
    }

    fn extension(&mut self, byte: u8) -> Result<(), FramingError> {
        self.at = match (self.at, byte) {
            (At::ExtensionName { .. }, _) if name::is_token_byte(byte) => {
                At::ExtensionName { part: Part::Some }
            }
            (At::ExtensionName { part: Part::Some }, b'=') => {
                At::ExtensionValue { part: Part::Empty }
            }
            (At::ExtensionValue { part: Part::Empty }, b'"') => At::Quoted,
            (At::ExtensionValue { .. }, _) if name::is_token_byte(byte) => {
                At::ExtensionValue { part: Part::Some }
            }
            (
                At::ExtensionName { part: Part::Some }
                | At::ExtensionValue { part: Part::Some }
                | At::QuotedEnd,
                b';',
            ) => At::ExtensionName { part: Part::Empty },
            (
                At::ExtensionName { part: Part::Some }
                | At::ExtensionValue { part: Part::Some }
                | At::QuotedEnd,
                b'\r',
            ) => {
                self.at = At::SizeEnd;
                return Ok(());
            }
            (At::Quoted, b'"') => At::QuotedEnd,
            (At::Quoted, b'\\') => At::Escaped,
            (At::Quoted | At::Escaped, _) if name::is_value_byte(byte) => At::Quoted,
            (_, _) => return Err(FramingError::ChunkExtension),
        };
        self.count_extension()
    }

    fn count_extension(&mut self) -> Result<(), FramingError> {
        self.extension_bytes += 1;
        self.extensions_bytes += 1;
        if self.extension_bytes > CHUNK_EXTENSION_SIZE_MAX
            || self.extensions_bytes > CHUNK_EXTENSIONS_SIZE_MAX
        {
            return Err(FramingError::ChunkExtensionsTooLarge);
        }
        Ok(())
    }

    fn trailer(&mut self, byte: u8) -> Result<(), FramingError> {
        self.at = match (self.at, byte) {
            (At::TrailerStart, b'\r') => At::LastLf,
            (At::TrailerStart, _) if name::is_token_byte(byte) => {
                self.trailer_fields += 1;
                At::TrailerName
            }
            (At::TrailerName, _) if name::is_token_byte(byte) => At::TrailerName,
            (At::TrailerName, b':') => At::TrailerValue,
            (At::TrailerValue, b'\r') => At::TrailerEnd,
            (At::TrailerValue, _) if name::is_value_byte(byte) => At::TrailerValue,
            (At::TrailerEnd, b'\n') => At::TrailerStart,
            (At::LastLf, b'\n') => At::Complete,
            (At::TrailerEnd | At::LastLf, _) => return Err(FramingError::LineEnding),
            (_, _) => return Err(FramingError::Trailer),
        };
        self.trailer_bytes += 1;
        if self.trailer_bytes > TRAILERS_SIZE_MAX || self.trailer_fields > TRAILER_FIELDS_MAX {
            return Err(FramingError::TrailersTooLarge);
        }
        Ok(())
    }
}

/// `digit` is a hex digit.
fn hex_value(digit: u8) -> u64 {
    u64::from(match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit.wrapping_sub(b'A').wrapping_add(10),
    })
}

#[cfg(test)]
mod tests;
