//! The express lane's relay: whatever the pieces in which a body comes and goes, what leaves is what
//! a slow and simple reading of the framing finds in it, and nothing behind it is touched. What that
//! reading accepts is not refused.
//!
//! The first four bytes choose how the body is framed and cut, the rest is what arrives.

#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy::{
    http::framing::{
        BodyLength, CHUNK_EXTENSION_SIZE_MAX, CHUNK_EXTENSIONS_SIZE_MAX, CHUNK_SIZE_DIGITS_MAX,
        TRAILER_FIELDS_MAX, TRAILERS_SIZE_MAX,
    },
    test_support::dry::{self, Passed},
};

fuzz_target!(|data: &[u8]| {
    let Some((&[kind, read, write, length], received)) = data.split_first_chunk() else { return };
    let length = match kind % 4 {
        0 => BodyLength::Fixed(u64::from(length) * 64),
        1 => BodyLength::UntilClose,
        _ => BodyLength::Chunked,
    };
    let sizes = |seed: u8| [usize::from(seed % 16), usize::from(seed) * 33, 5000];
    let passed = dry::pass(length, received, &sizes(read), &sizes(write));
    match (&passed, dry::pass(length, received, &[usize::MAX], &[usize::MAX])) {
        (Ok(cut), Ok(whole)) => {
            assert_eq!(content(length, &cut.sent), content(length, &whole.sent));
            assert_eq!(cut.taken, whole.taken);
        }
        (Err(cut), Err(whole)) => assert_eq!(*cut, whole),
        (cut, whole) => panic!("the cut matters: {cut:?} {whole:?}"),
    }
    match (passed, reference(length, received)) {
        (Ok(Passed { sent, taken }), Some((expected, size))) => {
            assert_eq!((content(length, &sent), taken), (expected, size));
        }
        (Ok(passed), None) => panic!("passed on what is no body: {passed:?}"),
        (Err(error), Some(_)) => panic!("refused what is one: {error:?}"),
        (Err(_), None) => {}
    }
});

/// The content that was sent, behind the head.
fn content(length: BodyLength, sent: &[u8]) -> Vec<u8> {
    let body = sent.strip_prefix(b"head|").expect("the head leaves first");
    match length {
        BodyLength::Fixed(_) | BodyLength::Empty => body.to_vec(),
        BodyLength::Chunked | BodyLength::UntilClose => {
            let (content, size) = decode(body).expect("well-formed chunks");
            assert_eq!(size, body.len(), "nothing behind the last chunk");
            content
        }
    }
}

/// The content of the body at the front of `received`, and how many bytes it takes.
fn reference(length: BodyLength, received: &[u8]) -> Option<(Vec<u8>, usize)> {
    match length {
        BodyLength::Empty => Some((Vec::new(), 0)),
        BodyLength::Fixed(length) => {
            let size = usize::try_from(length).ok()?;
            Some((received.get(..size)?.to_vec(), size))
        }
        BodyLength::UntilClose => Some((received.to_vec(), received.len())),
        BodyLength::Chunked => decode(received),
    }
}

/// A chunked body at the front of `body`, line by line, and how many bytes it takes.
fn decode(body: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut content, mut rest, mut extensions) = (Vec::new(), body, 0);
    loop {
        let line = take_line(&mut rest)?;
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let (size, extension) = line.split_at(digits);
        extensions += extension.len();
        let is_within = digits <= usize::from(CHUNK_SIZE_DIGITS_MAX)
            && extension.len() <= CHUNK_EXTENSION_SIZE_MAX as usize
            && extensions <= CHUNK_EXTENSIONS_SIZE_MAX as usize;
        if !is_within || !is_extension(extension) {
            return None;
        }
        let size = usize::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()?;
        if size == 0 {
            skip_trailers(&mut rest)?;
            return Some((content, body.len() - rest.len()));
        }
        content.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size..)?.strip_prefix(b"\r\n")?;
    }
}

fn skip_trailers(rest: &mut &[u8]) -> Option<()> {
    let (size, mut fields) = (rest.len(), 0);
    loop {
        let line = take_line(rest)?;
        if line.is_empty() {
            let is_within = size - rest.len() <= TRAILERS_SIZE_MAX as usize;
            return (is_within && fields <= TRAILER_FIELDS_MAX).then_some(());
        }
        fields += 1;
        let value = behind_token(line)?.strip_prefix(b":")?;
        if !value.iter().all(|byte| is_text(*byte)) {
            return None;
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

fn take_line<'b>(body: &mut &'b [u8]) -> Option<&'b [u8]> {
    let end = body.windows(2).position(|pair| pair == b"\r\n")?;
    let line = &body[..end];
    *body = &body[end + 2..];
    Some(line)
}
