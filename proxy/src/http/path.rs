//! One spelling for each path: what routes match on, and what the node gets.
//!
//! Enters: a path as received. Leaves: the path that is matched, and whether the node gets what was
//! received or a rewritten path. The query never comes here. The rules, of which each closes a way
//! around a route that protects a path:
//!
//! | received | matched | forwarded |
//! |---|---|---|
//! | `%xx` of a letter, digit, `-` `_` `~` | decoded | as received, decoded in a rewritten path |
//! | `%xx` of other printable ASCII but `%` `?` `#` | decoded | as received, upper-case in a rewritten path |
//! | any other `%xx` | upper-case | likewise |
//! | `%2F`, `%5C`, a bare `\` | `/` | rewritten |
//! | `%2E` | `.` | rewritten |
//! | empty segments, `.` and `..` (in any spelling) | removed (RFC 3986 section 5.2.4) | rewritten |
//! | a segment that is `;…`, `.;…` or `..;…` | refused: a servlet container reads an empty or a dot segment | |
//! | `%00`, `%` without two hex digits | refused | |
//! | other `;` parameters | kept, they are part of the segment | as received |
//!
//! Nothing is decoded twice: `%252e` is matched as `%252e`. A rewritten path is a fixed point: it
//! has one reading, and normalising it again changes nothing.

use std::borrow::Cow;

use crate::error::Fault;

/// A path in its one spelling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Normalised<'a> {
    /// What routes match on. Printable ASCII; what cannot be that is percent-encoded.
    pub path: Cow<'a, str>,
    pub forward: ForwardPath,
}

/// The path that the node gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ForwardPath {
    AsReceived,
    Rewritten(String),
}

/// Why a path has no one spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathError {
    /// Neither `*` nor beginning with `/`.
    Relative,
    /// `%` without two hex digits.
    Encoding,
    /// `%00`.
    Nul,
    /// `;` or `..;`: a name to some, an empty or a dot segment with a parameter to others.
    NamelessParameter,
}

impl PathError {
    pub fn fault(self) -> Fault {
        match self {
            PathError::Relative
            | PathError::Encoding
            | PathError::Nul
            | PathError::NamelessParameter => Fault::HeadMalformed,
        }
    }
}

/// Brings a path to its one spelling, without an allocation if it has that already.
pub fn normalise(path: &str) -> Result<Normalised<'_>, PathError> {
    if path == "*" || is_plain(path.as_bytes()) {
        return Ok(Normalised { path: Cow::Borrowed(path), forward: ForwardPath::AsReceived });
    }
    let Some(segments) = path.strip_prefix('/') else { return Err(PathError::Relative) };
    let mut rewrite = Rewrite::new(path.len());
    let mut rest = segments.as_bytes();
    while let Some((unit, tail)) = Unit::first(rest)? {
        rewrite.push(unit)?;
        rest = tail;
    }
    rewrite.end_segment()?;
    let Rewrite { matched, forward, is_rewritten } = rewrite;
    Ok(Normalised {
        path: if matched.text == path { Cow::Borrowed(path) } else { Cow::Owned(matched.text) },
        forward: if is_rewritten {
            ForwardPath::Rewritten(forward.text)
        } else {
            ForwardPath::AsReceived
        },
    })
}

/// A configured literal in the spelling that paths are matched in. Anything is a literal: a `%` that
/// encodes nothing stands for itself. Segments are left alone.
pub fn canonical_literal(literal: &str) -> String {
    let stays = |byte| matches!(byte, b'!'..=b'~') && !matches!(byte, b'%' | b'\\' | b'?' | b'#');
    if literal.bytes().all(stays) {
        return literal.to_owned();
    }
    let mut canonical = String::with_capacity(literal.len());
    let mut rest = literal.as_bytes();
    while let [first, tail @ ..] = rest {
        match Unit::first(rest) {
            Ok(Some((unit, after))) => {
                unit.push_matched(&mut canonical);
                rest = after;
            }
            Ok(None) | Err(_) => {
                Unit::Encoded(*first).push_matched(&mut canonical);
                rest = tail;
            }
        }
    }
    canonical
}

/// Whether nothing has to be decoded or removed. A segment that begins with a dot or a parameter is
/// looked at by the slow way.
fn is_plain(path: &[u8]) -> bool {
    let mut previous = 0;
    for &byte in path {
        match byte {
            b'%' | b'\\' => return false,
            b'/' | b'.' | b';' if previous == b'/' => return false,
            _ => previous = byte,
        }
    }
    path.first() == Some(&b'/')
}

/// One character of a path, however it was written.
#[derive(Debug, Clone, Copy)]
enum Unit {
    Raw(u8),
    Encoded(u8),
    /// `\`, `%2F` or `%5C`. A bare `/` is [`Unit::Raw`].
    OddSeparator,
}

impl Unit {
    fn first(rest: &[u8]) -> Result<Option<(Unit, &[u8])>, PathError> {
        let (unit, tail) = match rest {
            [] => return Ok(None),
            [b'%', high, low, tail @ ..] => {
                let (Some(high), Some(low)) = (hex_value(*high), hex_value(*low)) else {
                    return Err(PathError::Encoding);
                };
                let unit = match high << 4 | low {
                    0 => return Err(PathError::Nul),
                    b'/' | b'\\' => Unit::OddSeparator,
                    byte => Unit::Encoded(byte),
                };
                (unit, tail)
            }
            [b'%', ..] => return Err(PathError::Encoding),
            [b'\\', tail @ ..] => (Unit::OddSeparator, tail),
            // Not printable ASCII only in a configured literal.
            [byte @ b'!'..=b'~', tail @ ..] if !matches!(byte, b'?' | b'#') => {
                (Unit::Raw(*byte), tail)
            }
            [byte, tail @ ..] => (Unit::Encoded(*byte), tail),
        };
        Ok(Some((unit, tail)))
    }

    fn push_matched(self, text: &mut String) {
        match self {
            Unit::Raw(byte) => text.push(char::from(byte)),
            Unit::Encoded(b'%' | b'?' | b'#') => self.push_forward(text),
            Unit::Encoded(byte @ b'!'..=b'~') => text.push(char::from(byte)),
            Unit::Encoded(_) => self.push_forward(text),
            Unit::OddSeparator => text.push('/'),
        }
    }

    fn push_forward(self, text: &mut String) {
        match self {
            Unit::Raw(byte) => text.push(char::from(byte)),
            Unit::Encoded(byte) if is_unreserved(byte) => text.push(char::from(byte)),
            Unit::Encoded(byte) => {
                const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                text.push('%');
                text.push(char::from(DIGITS[usize::from(byte >> 4)]));
                text.push(char::from(DIGITS[usize::from(byte & 0xf)]));
            }
            Unit::OddSeparator => text.push('/'),
        }
    }
}

/// Both paths, built side by side: they have the same segments.
struct Rewrite {
    matched: Segments,
    forward: Segments,
    is_rewritten: bool,
}

/// A path that ends in the segment being built.
struct Segments {
    text: String,
    /// Where the last segment begins.
    last: usize,
}

impl Rewrite {
    fn new(capacity: usize) -> Rewrite {
        let segments = || {
            let mut text = String::with_capacity(capacity);
            text.push('/');
            Segments { text, last: 1 }
        };
        Rewrite { matched: segments(), forward: segments(), is_rewritten: false }
    }

    fn push(&mut self, unit: Unit) -> Result<(), PathError> {
        match unit {
            Unit::OddSeparator => self.is_rewritten = true,
            Unit::Encoded(b'.') => self.is_rewritten = true,
            Unit::Raw(_) | Unit::Encoded(_) => {}
        }
        if matches!(unit, Unit::Raw(b'/') | Unit::OddSeparator) {
            return self.separate();
        }
        unit.push_matched(&mut self.matched.text);
        unit.push_forward(&mut self.forward.text);
        Ok(())
    }

    fn separate(&mut self) -> Result<(), PathError> {
        if self.matched.last().is_empty() {
            self.is_rewritten = true;
            return Ok(());
        }
        if self.end_segment()? {
            self.matched.open();
            self.forward.open();
        }
        Ok(())
    }

    /// Resolves the last segment if it is a dot segment; false if it was.
    fn end_segment(&mut self) -> Result<bool, PathError> {
        match self.matched.last() {
            "." => {
                self.matched.drop_last();
                self.forward.drop_last();
            }
            ".." => {
                self.matched.drop_last_two();
                self.forward.drop_last_two();
            }
            name if [";", ".;", "..;"].iter().any(|start| name.starts_with(start)) => {
                return Err(PathError::NamelessParameter);
            }
            _ => return Ok(true),
        }
        self.is_rewritten = true;
        Ok(false)
    }
}

impl Segments {
    fn last(&self) -> &str {
        self.text.get(self.last..).unwrap_or_default()
    }

    fn open(&mut self) {
        self.text.push('/');
        self.last = self.text.len();
    }

    fn drop_last(&mut self) {
        self.text.truncate(self.last);
    }

    /// What is above the root is the root.
    fn drop_last_two(&mut self) {
        let parent = self.text.get(..self.last - 1).unwrap_or_default();
        self.last = parent.rfind('/').map_or(1, |slash| slash + 1);
        self.text.truncate(self.last);
    }
}

fn hex_value(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// What a URI may have (RFC 3986 section 2), `%` included.
pub const fn is_uri_byte(byte: u8) -> bool {
    byte.is_ascii_graphic()
        && !matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}')
}

/// RFC 3986 section 2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

#[cfg(test)]
mod tests;
