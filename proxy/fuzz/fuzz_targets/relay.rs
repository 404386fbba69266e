//! The express lane's relay: whatever the pieces in which a body comes and goes, what leaves is what
//! a slow and simple reading of the framing finds in it, and nothing behind it is touched. What that
//! reading accepts is not refused.
//!
//! The first four bytes choose how the body is framed and cut, the rest is what arrives.

#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy::{
    http::framing::BodyLength,
    test_support::dry::{self, Passed},
};
use proxy_fuzz::reference::{self, Body, Found, Framing};

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
    match (passed, read_slowly(length, received)) {
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
            let chunks = read_slowly(BodyLength::Chunked, body);
            let (content, size) = chunks.expect("well-formed chunks");
            assert_eq!(size, body.len(), "nothing behind the last chunk");
            content
        }
    }
}

/// The content of the body at the front of `received`, and how many bytes it takes.
fn read_slowly(length: BodyLength, received: &[u8]) -> Option<(Vec<u8>, usize)> {
    let framing = match length {
        BodyLength::Empty => Framing::None,
        BodyLength::Fixed(length) => Framing::Length(length),
        BodyLength::UntilClose => Framing::UntilClose,
        BodyLength::Chunked => Framing::Chunked,
    };
    let Body { content, size } = reference::body(framing, received, true);
    match size {
        Found::Whole(size) => Some((content, size)),
        Found::Part | Found::Broken => None,
    }
}
