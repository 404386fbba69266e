//! The express lane's relay: whatever the pieces in which a body comes and goes, what leaves is what
//! a slow and simple reading of the framing finds in it, and nothing behind it is touched.
//!
//! The first four bytes choose how the body is framed and cut, the rest is what arrives.

#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy::{
    http::framing::{BodyLength, FramingError},
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
        (Err(FramingError::Truncated), Some(_)) => panic!("the body is whole"),
        // The reference knows neither limits nor what an extension or a trailer may look like.
        (Err(_), _) => {}
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

fn decode(body: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut content, mut rest) = (Vec::new(), body);
    loop {
        let line = take_line(&mut rest)?;
        let digits = line.split(|byte| *byte == b';').next()?;
        let size = usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        if size == 0 {
            while !take_line(&mut rest)?.is_empty() {}
            return Some((content, body.len() - rest.len()));
        }
        content.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size..)?.strip_prefix(b"\r\n")?;
    }
}

fn take_line<'b>(body: &mut &'b [u8]) -> Option<&'b [u8]> {
    let end = body.windows(2).position(|pair| pair == b"\r\n")?;
    let line = &body[..end];
    *body = &body[end + 2..];
    Some(line)
}
