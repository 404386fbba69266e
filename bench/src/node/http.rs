//! HTTP/1.1 as a node: lenient where a proxy must be strict, and exact in what it sends.

use std::{
    cell::RefCell,
    io,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::serve::{Fed, Next, Protocol, Sink};
use crate::pattern::Pattern;

/// A head longer than this closes the connection.
const HEAD_SIZE_MAX: usize = 64 * 1024;
const FIELDS_MAX: usize = 128;
/// The longest line of chunked framing: a size, an extension, a trailer field.
const LINE_SIZE_MAX: usize = 8 * 1024;

pub(super) struct Node {
    pattern: Pattern,
    small_body: Vec<u8>,
    small: RefCell<Small>,
}

/// The whole answer to an ordinary GET, made anew once a second for its date.
#[derive(Default)]
struct Small {
    second: Option<u64>,
    bytes: Vec<u8>,
    head_length: usize,
}

impl Node {
    /// `name` is what the small body says; it is filled up to `body_size` bytes.
    pub(super) fn new(name: &str, body_size: usize) -> Self {
        let mut body = format!("hello from {name}\n").into_bytes();
        if body.len() < body_size {
            body.resize(body_size, b'.');
        }
        Self { pattern: Pattern::new(), small_body: body, small: RefCell::default() }
    }

    fn push_small(&self, is_head: bool, sink: &mut Sink<'_>) {
        let now = SystemTime::now();
        let second = now.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs());
        let mut small = self.small.borrow_mut();
        if small.second.is_none() || small.second != second {
            let mut bytes = head(self.small_body.len() as u64).into_bytes();
            let head_length = bytes.len();
            bytes.extend_from_slice(&self.small_body);
            *small = Small { second, bytes, head_length };
        }
        sink.push(if is_head { &small.bytes[..small.head_length] } else { &small.bytes });
    }
}

fn head(length: u64) -> String {
    head_with("200 OK", &format!("content-length: {length}"))
}

/// As a server with a clock sends it (RFC 9110 section 6.6.1).
fn head_with(status: &str, framing: &str) -> String {
    let date = httpdate::fmt_http_date(SystemTime::now());
    format!("HTTP/1.1 {status}\r\ndate: {date}\r\ncontent-type: text/plain\r\n{framing}\r\n\r\n")
}

/// Where a connection is between two requests.
#[derive(Default)]
pub(super) struct State {
    /// The request whose body is being read.
    current: Option<Request>,
}

struct Request {
    body: Body,
    answer: Answer,
    is_head: bool,
    closes: bool,
    received: u64,
    /// Whether the body so far is the pattern.
    is_pattern: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Body {
    Remaining(u64),
    ChunkSize,
    /// Bytes of data left.
    ChunkData(u64),
    ChunkEnd,
    Trailer,
}

impl Body {
    const DONE: Self = Self::Remaining(0);
}

/// What is sent once the request body is complete.
enum Answer {
    Small,
    Bytes(u64),
    Chunked(u64),
    /// Of that status, without a body.
    Status(u16),
    Echo(Vec<u8>),
    /// Says how long the body was, after not reading it for a while.
    Count {
        stall: Duration,
    },
}

impl Answer {
    fn select(target: &str, head: &[u8]) -> Self {
        let path = target.split_once('?').map_or(target, |(path, _)| path);
        let mut segments = path.rsplit('/');
        let (last, before) = (segments.next().unwrap_or(""), segments.next().unwrap_or(""));
        match (before, last) {
            (_, "echo") => Self::Echo(head.to_vec()),
            ("bytes", count) => count.parse().map_or(Self::Small, Self::Bytes),
            ("chunked", count) => count.parse().map_or(Self::Small, Self::Chunked),
            ("status", code) => code.parse().map_or(Self::Small, Self::Status),
            ("stall", count) => count.parse().map_or(Self::Small, |milliseconds| Self::Count {
                stall: Duration::from_millis(milliseconds),
            }),
            _ => Self::Small,
        }
    }
}

impl Protocol for Node {
    type State = State;

    fn feed(&self, state: &mut State, input: &[u8], sink: &mut Sink<'_>) -> io::Result<Fed> {
        let mut consumed = 0;
        while !sink.is_blocked() {
            let rest = &input[consumed..];
            let Some(request) = &mut state.current else {
                let Some((request, length)) = read_head(rest, sink)? else { break };
                consumed += length;
                let stall = request.stall();
                state.current = Some(request);
                if let Some(stall) = stall {
                    return Ok(Fed { consumed, next: Next::ReadAt(Instant::now() + stall) });
                }
                continue;
            };
            let taken = request.read_body(rest, &self.pattern)?;
            consumed += taken;
            if request.body == Body::DONE {
                let closes = request.closes;
                self.answer(request, sink);
                state.current = None;
                if closes {
                    return Ok(Fed { consumed, next: Next::Close });
                }
            } else if taken == 0 {
                break;
            }
        }
        Ok(Fed { consumed, next: Next::Read })
    }
}

impl Node {
    fn answer(&self, request: &Request, sink: &mut Sink<'_>) {
        let body = match &request.answer {
            Answer::Small => return self.push_small(request.is_head, sink),
            Answer::Bytes(length) => {
                sink.push(head(*length).as_bytes());
                if !request.is_head {
                    sink.push_pattern(*length);
                }
                return;
            }
            Answer::Chunked(length) => {
                sink.push(head_with("200 OK", "transfer-encoding: chunked").as_bytes());
                if !request.is_head {
                    sink.push_chunked_pattern(*length);
                }
                return;
            }
            Answer::Status(code) => {
                // The reason phrase is the recipient's to know; its blank stays (RFC 9112 section 4).
                return sink.push(head_with(&format!("{code} "), "content-length: 0").as_bytes());
            }
            Answer::Echo(head) => head.clone(),
            Answer::Count { .. } => {
                let Request { received, is_pattern, .. } = request;
                format!("received {received} bytes, pattern {is_pattern}\n").into_bytes()
            }
        };
        sink.push(head(body.len() as u64).as_bytes());
        if !request.is_head {
            sink.push(&body);
        }
    }
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Reads one head; `None` if it is not complete yet.
fn read_head(input: &[u8], sink: &mut Sink<'_>) -> io::Result<Option<(Request, usize)>> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut fields);
    let length = match parsed.parse(input) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if input.len() < HEAD_SIZE_MAX => return Ok(None),
        Ok(httparse::Status::Partial) => return Err(malformed("head too large")),
        Err(_) => return Err(malformed("head")),
    };
    let mut request = Request {
        body: Body::DONE,
        answer: Answer::select(parsed.path.unwrap_or("/"), &input[..length]),
        is_head: parsed.method == Some("HEAD"),
        closes: parsed.version == Some(0),
        received: 0,
        is_pattern: true,
    };
    for field in &*parsed.headers {
        request.apply(field, sink)?;
    }
    Ok(Some((request, length)))
}

impl Request {
    fn apply(&mut self, field: &httparse::Header<'_>, sink: &mut Sink<'_>) -> io::Result<()> {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        // Length first: it decides most names without comparing them.
        match field.name.len() {
            6 if is("expect") => sink.push(b"HTTP/1.1 100 Continue\r\n\r\n"),
            10 if is("connection") => {
                if field.value.eq_ignore_ascii_case(b"close") {
                    self.closes = true;
                } else if field.value.eq_ignore_ascii_case(b"keep-alive") {
                    self.closes = false;
                }
            }
            14 if is("content-length") => {
                let length = std::str::from_utf8(field.value).ok().and_then(|v| v.parse().ok());
                self.body = Body::Remaining(length.ok_or_else(|| malformed("content-length"))?);
            }
            17 if is("transfer-encoding") => self.body = Body::ChunkSize,
            _ => {}
        }
        Ok(())
    }

    fn stall(&self) -> Option<Duration> {
        match self.answer {
            Answer::Count { stall } if !stall.is_zero() => Some(stall),
            Answer::Small
            | Answer::Bytes(_)
            | Answer::Chunked(_)
            | Answer::Status(_)
            | Answer::Echo(_)
            | Answer::Count { .. } => None,
        }
    }

    /// Takes body bytes off the front of `input`; 0 means that more is needed.
    fn read_body(&mut self, input: &[u8], pattern: &Pattern) -> io::Result<usize> {
        let (taken, next) = match self.body {
            Body::Remaining(left) => {
                let taken = self.receive(input, left, pattern);
                (taken, Body::Remaining(left - taken as u64))
            }
            Body::ChunkSize => match httparse::parse_chunk_size(input) {
                Ok(httparse::Status::Complete((taken, 0))) => (taken, Body::Trailer),
                Ok(httparse::Status::Complete((taken, size))) => (taken, Body::ChunkData(size)),
                Ok(httparse::Status::Partial) if input.len() < LINE_SIZE_MAX => (0, self.body),
                Ok(httparse::Status::Partial) | Err(_) => return Err(malformed("chunk size")),
            },
            Body::ChunkData(left) => {
                let taken = self.receive(input, left, pattern);
                let left = left - taken as u64;
                (taken, if left == 0 { Body::ChunkEnd } else { Body::ChunkData(left) })
            }
            Body::ChunkEnd => match line_length(input)? {
                Some(2) => (2, Body::ChunkSize),
                Some(_) => return Err(malformed("chunk end")),
                None => (0, self.body),
            },
            Body::Trailer => match line_length(input)? {
                Some(2) => (2, Body::DONE),
                Some(length) => (length, Body::Trailer),
                None => (0, self.body),
            },
        };
        self.body = next;
        Ok(taken)
    }

    fn receive(&mut self, input: &[u8], left: u64, pattern: &Pattern) -> usize {
        let taken = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
        self.is_pattern &= pattern.matches(self.received, &input[..taken]);
        self.received += taken as u64;
        taken
    }
}

/// Length of the first line with its CRLF.
fn line_length(input: &[u8]) -> io::Result<Option<usize>> {
    match memchr::memchr(b'\n', input) {
        Some(end) if end > 0 && input[end - 1] == b'\r' => Ok(Some(end + 1)),
        Some(_) => Err(malformed("line end")),
        None if input.len() < LINE_SIZE_MAX => Ok(None),
        None => Err(malformed("line too long")),
    }
}
