//! RFC 9112 read line by line, with everything that has come in front of it: what a message is, how long
//! it is, and whether there is only one way to see that.
//!
//! It has the proxy's limits where a short message can meet them, and its choice where the RFC leaves
//! one: what can be read in two ways is broken. Where it does not know what a proxy may do (odd targets,
//! very many fields), it says so: [`Head::is_sure`].

use proxy::http::framing::{
    CHUNK_EXTENSION_SIZE_MAX, CHUNK_EXTENSIONS_SIZE_MAX, CHUNK_SIZE_DIGITS_MAX, TRAILER_FIELDS_MAX,
    TRAILERS_SIZE_MAX,
};

/// A head that is not too large for any proxy, bytes.
const SIZE_MAX: usize = 8000;
/// The same for a target, bytes.
const SECOND_SIZE_MAX: usize = 1000;
/// Fields of a head that no proxy has anything against.
const FIELDS_MAX: usize = 60;
/// The same for the options of its `Connection` fields.
const OPTIONS_MAX: usize = 30;
/// The same for a method, bytes.
const METHOD_SIZE_MAX: usize = 32;

/// What the bytes at the front of a stream are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found<T> {
    Whole(T),
    /// The beginning of one, or of nothing that will ever be one.
    Part,
    Broken,
}

/// A first line and its fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Method or version.
    pub first: String,
    /// Target or reason phrase.
    pub second: Vec<u8>,
    /// 0 in a request.
    pub status: u16,
    pub is_http10: bool,
    pub framing: Framing,
    /// Whether its sender lets another message follow.
    pub keeps_alive: bool,
    /// Whether its sender may wait for a 100.
    pub expects: bool,
    /// Whether it speaks of something beside its message: `Upgrade`, `Trailer`.
    pub announces_more: bool,
    /// Whether everybody has to let it pass.
    pub is_sure: bool,
    /// With the empty line at its end, and one in front of it.
    pub size: usize,
    fields: Vec<(String, Vec<u8>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

impl Head {
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields.iter().filter(move |field| field.0 == name).map(|field| &*field.1)
    }

    /// The elements of a list, in lower case.
    fn options(&self, name: &str) -> Vec<String> {
        let elements = self.values(name).flat_map(|value| value.split(|byte| *byte == b','));
        let elements = elements.map(without_blanks).filter(|element| !element.is_empty());
        elements.map(|it| String::from_utf8_lossy(it).to_ascii_lowercase()).collect()
    }
}

/// The request head at the front of `bytes`.
pub fn request(bytes: &[u8]) -> Found<Head> {
    let behind_line = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    if behind_line.starts_with(b"\r") || behind_line.starts_with(b"\n") {
        return if behind_line == b"\r" { Found::Part } else { Found::Broken };
    }
    let mut head = match lines(behind_line, request_line) {
        Found::Whole(head) => head,
        Found::Part => return Found::Part,
        Found::Broken => return Found::Broken,
    };
    head.size += bytes.len() - behind_line.len();
    let hosts: Vec<_> = head.values("host").collect();
    let is_host = hosts.len() == 1 || head.is_http10 && hosts.is_empty();
    let has_plain_host = hosts.iter().all(|host| is_plain_host(host));
    let Some(framing) = declared(&head) else { return Found::Broken };
    head.framing = framing.unwrap_or(Framing::None);
    let expectations = head.options("expect");
    head.expects = !expectations.is_empty()
        && !head.is_http10
        && !matches!(head.framing, Framing::None | Framing::Length(0));
    let is_expected = expectations.iter().all(|expectation| expectation == "100-continue");
    if !is_host || !is_expected || head.first == "CONNECT" {
        return Found::Broken;
    }
    head.is_sure &= has_plain_host && is_plain_target(&head.second);
    head.is_sure &= head.first.len() <= METHOD_SIZE_MAX;
    Found::Whole(head)
}

/// The head at the front of `bytes` of the final response to a request, behind interim ones.
pub fn response(bytes: &[u8], is_to_head: bool) -> Found<Head> {
    let (mut rest, mut interim, mut is_sure) = (bytes, 0, true);
    loop {
        let mut head = match lines(rest, status_line) {
            Found::Whole(head) => head,
            Found::Part => return Found::Part,
            Found::Broken => return Found::Broken,
        };
        let Some(framing) = declared(&head) else { return Found::Broken };
        is_sure &= head.is_sure;
        rest = &rest[head.size..];
        match head.status {
            101 => return Found::Broken,
            100..200 => {
                interim += 1;
                if interim > proxy::http::gate::INTERIM_RESPONSES_MAX {
                    return Found::Broken;
                }
                continue;
            }
            _ => {}
        }
        let is_bodiless = is_to_head || matches!(head.status, 204 | 304);
        head.framing = framing.unwrap_or(Framing::UntilClose);
        if is_bodiless {
            head.framing = Framing::None;
        }
        head.keeps_alive &= head.framing != Framing::UntilClose;
        (head.size, head.is_sure) = (bytes.len() - rest.len(), is_sure);
        return Found::Whole(head);
    }
}

/// Reads a head whose first line `read` understands. What is wrong with it need not be found out before
/// it is whole.
fn lines(bytes: &[u8], read: fn(&[u8]) -> Option<Head>) -> Found<Head> {
    match lines_so_far(bytes, read) {
        Found::Broken if !bytes.windows(4).any(|four| four == b"\r\n\r\n") => Found::Part,
        found => found,
    }
}

fn lines_so_far(bytes: &[u8], read: fn(&[u8]) -> Option<Head>) -> Found<Head> {
    let mut rest = bytes;
    let line = match take_line(&mut rest) {
        Found::Whole(line) => line,
        Found::Part => return Found::Part,
        Found::Broken => return Found::Broken,
    };
    let Some(mut head) = read(line) else { return Found::Broken };
    loop {
        let line = match take_line(&mut rest) {
            Found::Whole(b"") => break,
            Found::Whole(line) => line,
            Found::Part => return Found::Part,
            Found::Broken => return Found::Broken,
        };
        let Some(value) = behind_token(line).and_then(|it| it.strip_prefix(b":")) else {
            return Found::Broken;
        };
        if !value.iter().all(|byte| is_text(*byte)) {
            return Found::Broken;
        }
        let name = &line[..line.len() - value.len() - 1];
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        head.fields.push((name, without_blanks(value).to_vec()));
    }
    head.size = bytes.len() - rest.len();
    let options = head.options("connection");
    let says = |option: &str| options.iter().any(|it| it == option);
    head.keeps_alive = !says("close") && (!head.is_http10 || says("keep-alive"));
    head.announces_more = ["upgrade", "trailer"].iter().any(|it| head.values(it).next().is_some());
    let commas = head.values("connection").flatten().filter(|byte| **byte == b',').count();
    head.is_sure &= head.fields.len() <= FIELDS_MAX && commas <= OPTIONS_MAX;
    head.is_sure &= head.size <= SIZE_MAX && head.second.len() <= SECOND_SIZE_MAX;
    Found::Whole(head)
}

fn request_line(line: &[u8]) -> Option<Head> {
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let is_three = words.next().is_none() && !target.is_empty();
    let is_method = behind_token(method).is_some_and(<[u8]>::is_empty);
    let is_target = target.iter().all(|byte| is_text(*byte) && *byte != b'\t');
    let is_http10 = is_http10(version)?;
    (is_three && is_method && is_target).then(|| first(method, target, 0, is_http10, true))
}

fn status_line(line: &[u8]) -> Option<Head> {
    let (version, rest) = line.split_at_checked("HTTP/1.1".len())?;
    let (status, phrase) = rest.strip_prefix(b" ")?.split_at_checked(3)?;
    let status: u16 = status.iter().all(u8::is_ascii_digit).then_some(status).and_then(number)?;
    let reason = phrase.strip_prefix(b" ");
    let is_phrase = phrase.is_empty() || reason.is_some();
    let is_status = is_phrase && status >= 100 && phrase.iter().all(|byte| is_text(*byte));
    let (is_http10, reason_said) = (is_http10(version)?, reason.is_some());
    let reason = reason.unwrap_or_default();
    is_status.then(|| first(version, reason, status, is_http10, reason_said))
}

fn first(one: &[u8], second: &[u8], status: u16, is_http10: bool, is_sure: bool) -> Head {
    Head {
        first: String::from_utf8_lossy(one).into_owned(),
        second: second.to_vec(),
        status,
        is_http10,
        framing: Framing::None,
        keeps_alive: false,
        expects: false,
        announces_more: false,
        is_sure,
        size: 0,
        fields: Vec::new(),
    }
}

fn is_http10(version: &[u8]) -> Option<bool> {
    match version {
        b"HTTP/1.0" => Some(true),
        // Later ones are read as that (RFC 9110 section 2.5).
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'..=b'9'] => Some(false),
        _ => None,
    }
}

/// Files are no larger, nor is what hyper takes.
const LENGTH_MAX: u64 = i64::MAX as u64;

/// What the fields say of the length (RFC 9112 section 6.3); outer `None`: two readers may disagree.
fn declared(head: &Head) -> Option<Option<Framing>> {
    let lengths: Vec<_> = head.values("content-length").collect();
    let encodings: Vec<_> = head.values("transfer-encoding").collect();
    match (&lengths[..], &encodings[..]) {
        ([], []) => Some(None),
        ([length], []) if !length.is_empty() && length.iter().all(u8::is_ascii_digit) => {
            let length = number(length).filter(|length| *length <= LENGTH_MAX)?;
            Some(Some(Framing::Length(length)))
        }
        ([], [encoding]) if encoding.eq_ignore_ascii_case(b"chunked") && !head.is_http10 => {
            Some(Some(Framing::Chunked))
        }
        _ => None,
    }
}

/// What has come of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// As far as it is there and well-formed.
    pub content: Vec<u8>,
    /// How many bytes it takes, if it is whole.
    pub size: Found<usize>,
}

/// The body at the front of `bytes`; `is_ended`: nothing comes behind those.
pub fn body(framing: Framing, bytes: &[u8], is_ended: bool) -> Body {
    let whole = |size: usize| Body { content: bytes[..size].to_vec(), size: Found::Whole(size) };
    match framing {
        Framing::None => whole(0),
        Framing::Length(length) => match usize::try_from(length) {
            Ok(length) if length <= bytes.len() => whole(length),
            Ok(_) | Err(_) => Body { content: bytes.to_vec(), size: Found::Part },
        },
        Framing::UntilClose if is_ended => whole(bytes.len()),
        Framing::UntilClose => Body { content: bytes.to_vec(), size: Found::Part },
        Framing::Chunked => chunked(bytes),
    }
}

fn chunked(bytes: &[u8]) -> Body {
    let (mut content, mut rest, mut extensions) = (Vec::new(), bytes, 0);
    let size = loop {
        match chunk(&mut rest, &mut extensions, &mut content) {
            Found::Whole(0) => {}
            Found::Whole(_) => continue,
            Found::Part => break Found::Part,
            Found::Broken => break Found::Broken,
        }
        break match skip_trailers(&mut rest) {
            Found::Whole(()) => Found::Whole(bytes.len() - rest.len()),
            Found::Part => Found::Part,
            Found::Broken => Found::Broken,
        };
    };
    Body { content, size }
}

/// The size of the next chunk, whose data goes to `content`; of the last one its size line alone.
fn chunk(rest: &mut &[u8], extensions: &mut usize, content: &mut Vec<u8>) -> Found<usize> {
    let line = match take_line(rest) {
        Found::Whole(line) => line,
        Found::Part => return Found::Part,
        Found::Broken => return Found::Broken,
    };
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, extension) = line.split_at(digits);
    *extensions += extension.len();
    let is_within = digits.len() <= usize::from(CHUNK_SIZE_DIGITS_MAX)
        && extension.len() <= CHUNK_EXTENSION_SIZE_MAX as usize
        && *extensions <= CHUNK_EXTENSIONS_SIZE_MAX as usize;
    let size = std::str::from_utf8(digits).ok().and_then(|it| usize::from_str_radix(it, 16).ok());
    let Some(size) = size.filter(|_| is_within && is_extension(extension)) else {
        return Found::Broken;
    };
    if size == 0 {
        return Found::Whole(0);
    }
    let there = size.min(rest.len());
    content.extend_from_slice(&rest[..there]);
    *rest = &rest[there..];
    match **rest {
        [b'\r', b'\n', ..] => {}
        [] | [b'\r'] => return Found::Part,
        _ => return Found::Broken,
    }
    *rest = &rest[2..];
    Found::Whole(size)
}

fn skip_trailers(rest: &mut &[u8]) -> Found<()> {
    let (size, mut fields) = (rest.len(), 0);
    loop {
        let line = match take_line(rest) {
            Found::Whole(line) => line,
            Found::Part => return Found::Part,
            Found::Broken => return Found::Broken,
        };
        if size - rest.len() > TRAILERS_SIZE_MAX as usize || fields > TRAILER_FIELDS_MAX {
            return Found::Broken;
        }
        if line.is_empty() {
            return Found::Whole(());
        }
        fields += 1;
        let value = behind_token(line).and_then(|behind| behind.strip_prefix(b":"));
        if !value.is_some_and(|value| value.iter().all(|byte| is_text(*byte))) {
            return Found::Broken;
        }
    }
}

/// RFC 9112 section 7.1.1, without the white space that it calls bad.
fn is_extension(mut rest: &[u8]) -> bool {
    while let Some(name) = rest.strip_prefix(b";") {
        let Some(behind) = behind_token(name) else { return false };
        rest = behind;
        let Some(value) = rest.strip_prefix(b"=") else { continue };
        let behind = match value.strip_prefix(b"\"") {
            Some(quoted) => behind_quoted(quoted),
            None => behind_token(value),
        };
        let Some(behind) = behind else { return false };
        rest = behind;
    }
    rest.is_empty()
}

fn behind_quoted(text: &[u8]) -> Option<&[u8]> {
    let mut bytes = text.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return Some(&text[at + 1..]),
            b'\\' if !is_text(*bytes.next()?.1) => return None,
            byte if !is_text(*byte) => return None,
            _ => {}
        }
    }
    None
}

/// What is behind a token at the front.
fn behind_token(text: &[u8]) -> Option<&[u8]> {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let size = text.iter().take_while(|byte| is_token(byte)).count();
    (size > 0).then(|| &text[size..])
}

fn is_text(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

/// A line without its CRLF; nothing else ends one.
fn take_line<'b>(rest: &mut &'b [u8]) -> Found<&'b [u8]> {
    let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { return Found::Part };
    let Some(line) = rest[..end].strip_suffix(b"\r") else { return Found::Broken };
    *rest = &rest[end + 1..];
    Found::Whole(line)
}

fn without_blanks(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

fn number<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn is_plain_host(host: &[u8]) -> bool {
    !host.is_empty() && host.len() < 200 && host.iter().all(u8::is_ascii_alphanumeric)
}

/// A path that nobody writes otherwise.
fn is_plain_target(target: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'/';
    target.starts_with(b"/")
        && target.iter().all(is_plain)
        && !target.windows(2).any(|it| it == b"//")
}
