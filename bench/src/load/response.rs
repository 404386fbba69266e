//! Checks responses: status, length, and the bytes of the body. Pure over what was read.
//!
//! A response that equals one already found right is accepted by one comparison, so that checking
//! every response costs next to nothing; a new one (each second has its own `date`) is read in full.

use std::{fmt, rc::Rc};

use super::chunked::Chunked;
use crate::pattern::Pattern;

/// Of responses with a patterned body below [`BULK_MIN`], one in this many has its bytes compared;
/// all have their length checked.
const SAMPLE_EVERY: u64 = 16;

/// Bodies of this size and more are few and take long: all of them have their bytes compared.
pub(crate) const BULK_MIN: u64 = 16 << 20;

/// Right responses remembered. Three nodes times a change of `date` need six.
const KNOWN_MAX: usize = 8;

/// A response head, or a small response, longer than this is wrong.
const BUFFERED_MAX: usize = 64 * 1024;

const FIELDS_MAX: usize = 64;

/// What a response must be.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    pub(crate) status: u16,
    pub(crate) body: ExpectedBody,
}

#[derive(Debug, Clone)]
pub(crate) enum ExpectedBody {
    /// One of these, by node; they have to differ.
    OneOf(Vec<Vec<u8>>),
    /// That many bytes of the pattern, announced.
    Pattern(u64),
    /// The same in chunks.
    ChunkedPattern(u64),
}

impl ExpectedBody {
    /// How many nodes can be told apart by the body.
    pub(crate) fn nodes(&self) -> usize {
        match self {
            Self::OneOf(bodies) => bodies.len(),
            Self::Pattern(_) | Self::ChunkedPattern(_) => 1,
        }
    }
}

/// Why an exchange did not count.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Failure {
    Connect(String),
    Io(String),
    /// The connection ended before the response was complete.
    Closed,
    Malformed,
    Status(u16),
    /// Not one `content-length`, or not the expected one; not chunked, where that is expected.
    Length,
    /// The right length, other bytes.
    Body,
    /// Bytes after the end of the response.
    Surplus,
    /// No complete response before the deadline.
    TimedOut,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "connect: {error}"),
            Self::Io(error) => write!(f, "{error}"),
            Self::Closed => write!(f, "closed early"),
            Self::Malformed => write!(f, "malformed response"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::Length => write!(f, "wrong length"),
            Self::Body => write!(f, "wrong body"),
            Self::Surplus => write!(f, "bytes after the response"),
            Self::TimedOut => write!(f, "timed out"),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The response is not complete.
    More,
    /// It is complete and right; `node` is the index of the body.
    Done { node: usize },
}

/// What one connection has received of its current response.
#[derive(Debug, Default)]
pub(crate) struct Partial {
    /// Head, and body if it is small, as long as they are incomplete.
    buffered: Vec<u8>,
    body: Option<PatternBody>,
}

#[derive(Debug)]
struct PatternBody {
    expected: u64,
    received: u64,
    is_sampled: bool,
    chunked: Option<Chunked>,
}

/// Checks the responses of one thread.
pub(crate) struct Checker {
    expected: Expected,
    pattern: Rc<Pattern>,
    /// Whole responses that were right, with the index of their body; the oldest is replaced.
    known: Vec<(Vec<u8>, usize)>,
    known_next: usize,
    pattern_bodies: u64,
    body_bytes: u64,
}

impl Checker {
    pub(crate) fn new(expected: Expected, pattern: Rc<Pattern>) -> Self {
        Self {
            expected,
            pattern,
            known: Vec::new(),
            known_next: 0,
            pattern_bodies: 0,
            body_bytes: 0,
        }
    }

    /// Bytes of patterned bodies received so far, complete or not.
    pub(crate) const fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    /// Takes what was read next. Nothing is pipelined, so everything belongs to this response.
    pub(crate) fn feed(&mut self, partial: &mut Partial, input: &[u8]) -> Result<Step, Failure> {
        if let Some(body) = &mut partial.body {
            let before = body.received;
            let step = body.receive(&self.pattern, input);
            self.body_bytes += body.received - before;
            let step = step?;
            if step != Step::More {
                partial.body = None;
            }
            return Ok(step);
        }
        if partial.buffered.is_empty() {
            if let Some((_, node)) = self.known.iter().find(|(known, _)| known == input) {
                return Ok(Step::Done { node: *node });
            }
            return self.read(partial, input);
        }
        let mut buffered = std::mem::take(&mut partial.buffered);
        buffered.extend_from_slice(input);
        self.read(partial, &buffered)
    }

    /// Reads a response from its first byte on.
    fn read(&mut self, partial: &mut Partial, input: &[u8]) -> Result<Step, Failure> {
        let Some(head) = Head::parse(input)? else { return buffer(partial, input) };
        if head.status != self.expected.status {
            return Err(Failure::Status(head.status));
        }
        let body = &input[head.length..];
        match &self.expected.body {
            ExpectedBody::Pattern(length) => {
                let length = *length;
                if head.content_length != Some(length) {
                    return Err(Failure::Length);
                }
                self.begin_pattern(partial, length, None, body)
            }
            ExpectedBody::ChunkedPattern(length) => {
                let length = *length;
                if !head.is_chunked || head.content_length.is_some() {
                    return Err(Failure::Length);
                }
                self.begin_pattern(partial, length, Some(Chunked::new()), body)
            }
            ExpectedBody::OneOf(bodies) => {
                let announced = head.content_length.ok_or(Failure::Length)?;
                if bodies.iter().all(|expected| expected.len() as u64 != announced) {
                    return Err(Failure::Length);
                }
                match (body.len() as u64).cmp(&announced) {
                    std::cmp::Ordering::Less => buffer(partial, input),
                    std::cmp::Ordering::Greater => Err(Failure::Surplus),
                    std::cmp::Ordering::Equal => {
                        let node = bodies.iter().position(|expected| expected == body);
                        let node = node.ok_or(Failure::Body)?;
                        self.remember(input, node);
                        Ok(Step::Done { node })
                    }
                }
            }
        }
    }

    /// Takes what came of a patterned body with its head.
    fn begin_pattern(
        &mut self,
        partial: &mut Partial,
        expected: u64,
        chunked: Option<Chunked>,
        input: &[u8],
    ) -> Result<Step, Failure> {
        let is_sampled = expected >= BULK_MIN || self.pattern_bodies.is_multiple_of(SAMPLE_EVERY);
        self.pattern_bodies += 1;
        let mut body = PatternBody { expected, received: 0, is_sampled, chunked };
        let step = body.receive(&self.pattern, input);
        self.body_bytes += body.received;
        let step = step?;
        partial.body = (step == Step::More).then_some(body);
        Ok(step)
    }

    fn remember(&mut self, response: &[u8], node: usize) {
        if self.known.len() < KNOWN_MAX {
            self.known.push((response.to_vec(), node));
        } else {
            self.known[self.known_next] = (response.to_vec(), node);
            self.known_next = (self.known_next + 1) % KNOWN_MAX;
        }
    }
}

fn buffer(partial: &mut Partial, input: &[u8]) -> Result<Step, Failure> {
    if input.len() > BUFFERED_MAX {
        return Err(Failure::Malformed);
    }
    partial.buffered = input.to_vec();
    Ok(Step::More)
}

impl PatternBody {
    fn receive(&mut self, pattern: &Pattern, input: &[u8]) -> Result<Step, Failure> {
        let Some(mut chunked) = self.chunked.take() else {
            self.take(pattern, input)?;
            let is_complete = self.received == self.expected;
            return Ok(if is_complete { Step::Done { node: 0 } } else { Step::More });
        };
        chunked.feed(input, |data| self.take(pattern, data))?;
        let is_complete = chunked.is_complete();
        self.chunked = Some(chunked);
        match (is_complete, self.received == self.expected) {
            (true, true) => Ok(Step::Done { node: 0 }),
            (true, false) => Err(Failure::Length),
            (false, _) => Ok(Step::More),
        }
    }

    fn take(&mut self, pattern: &Pattern, data: &[u8]) -> Result<(), Failure> {
        let is_right = !self.is_sampled || pattern.matches(self.received, data);
        self.received += data.len() as u64;
        if !is_right {
            return Err(Failure::Body);
        }
        if self.received > self.expected { Err(Failure::Surplus) } else { Ok(()) }
    }
}

/// The parts of a response head that are checked.
pub(crate) struct Head {
    pub(crate) status: u16,
    /// `None` if there is none, or more than one.
    pub(crate) content_length: Option<u64>,
    pub(crate) is_chunked: bool,
    /// Bytes of the head.
    pub(crate) length: usize,
}

impl Head {
    /// `None` if the head is not complete.
    pub(crate) fn parse(input: &[u8]) -> Result<Option<Self>, Failure> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut parsed = httparse::Response::new(&mut fields);
        let length = match parsed.parse(input) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(Failure::Malformed),
        };
        let is_chunked = parsed.headers.iter().any(|field| {
            field.name.eq_ignore_ascii_case("transfer-encoding")
                && field.value.eq_ignore_ascii_case(b"chunked")
        });
        let mut lengths = parsed
            .headers
            .iter()
            .filter(|field| field.name.eq_ignore_ascii_case("content-length"))
            .map(|field| std::str::from_utf8(field.value).ok()?.parse().ok());
        let content_length = match (lengths.next(), lengths.next()) {
            (Some(only), None) => only,
            (None, _) | (Some(_), Some(_)) => None,
        };
        let status = parsed.code.ok_or(Failure::Malformed)?;
        Ok(Some(Self { status, content_length, is_chunked, length }))
    }
}

#[cfg(test)]
mod tests;
