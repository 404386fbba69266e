//! Bodies: however one is cut it ends at the same byte, which is where a slow and simple reading
//! of RFC 9112 section 7.1 says it ends.
//!
//! The first byte chooses the cut, the rest is what arrives.

#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy::http::framing::{BodyLength, BodyReader, FramingError, LengthFields, Version};

fuzz_target!(|data: &[u8]| {
    let Some((cut, stream)) = data.split_first() else { return };
    let (first, second) = stream.split_at(usize::from(*cut).min(stream.len()));
    check_chunked(stream, first, second);
    check_fixed(u64::from(*cut), first, second);
    check_content_length(stream);
});

fn check_chunked(stream: &[u8], first: &[u8], second: &[u8]) {
    let whole = read(&[stream]);
    assert_eq!(whole, read(&[first, second]));
    let bytes: Vec<_> = stream.chunks(1).collect();
    assert_eq!(whole, read(&bytes));
    assert_eq!(whole, read_skipping(stream));
    match whole {
        Ok(Some((size, payload))) => {
            // What follows a body never changes where it ends.
            assert_eq!(read(&[&stream[..size]]), whole);
            assert_eq!(decode(&stream[..size]), Some(payload as usize));
        }
        Ok(None) => assert_eq!(decode(stream), None),
        Err(error) => assert_ne!(error, FramingError::Truncated),
    }
}

/// Size of the body and of its content; `None` if it is not complete.
type Outcome = Result<Option<(usize, u64)>, FramingError>;

fn read(parts: &[&[u8]]) -> Outcome {
    let mut reader = BodyReader::new(BodyLength::Chunked);
    let mut size = 0;
    for part in parts {
        let used = reader.advance(part)?;
        size += used;
        if reader.is_complete() {
            assert_eq!(reader.finish_at_eof(), Ok(()));
            return Ok(Some((size, reader.payload_bytes())));
        }
        assert_eq!(used, part.len());
    }
    assert_eq!(reader.finish_at_eof(), Err(FramingError::Truncated));
    Ok(None)
}

/// As a datapath would that moves the data of chunks without looking at it.
fn read_skipping(stream: &[u8]) -> Outcome {
    let mut reader = BodyReader::new(BodyLength::Chunked);
    let mut size = 0;
    while size < stream.len() && !reader.is_complete() {
        match reader.opaque_remaining() {
            Some(opaque) => {
                let count = opaque.min((stream.len() - size) as u64);
                reader.skip(count);
                size += count as usize;
            }
            None => size += reader.advance(&stream[size..=size])?,
        }
    }
    Ok(reader.is_complete().then(|| (size, reader.payload_bytes())))
}

/// The size of the content if `body` is exactly one chunked body. Knows nothing of limits and of
/// what an extension or a trailer may look like: it only has to agree on what was accepted.
fn decode(mut body: &[u8]) -> Option<usize> {
    let mut content = 0;
    loop {
        let line = take_line(&mut body)?;
        let digits = line.split(|byte| *byte == b';').next()?;
        let size = usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        if size == 0 {
            while !take_line(&mut body)?.is_empty() {}
            return body.is_empty().then_some(content);
        }
        body = body.get(size..)?.strip_prefix(b"\r\n")?;
        content += size;
    }
}

fn take_line<'b>(body: &mut &'b [u8]) -> Option<&'b [u8]> {
    let end = body.windows(2).position(|pair| pair == b"\r\n")?;
    let line = &body[..end];
    *body = &body[end + 2..];
    Some(line)
}

fn check_fixed(length: u64, first: &[u8], second: &[u8]) {
    let mut reader = BodyReader::new(BodyLength::Fixed(length));
    let used = [first, second].map(|part| reader.advance(part).unwrap() as u64);
    let available = (first.len() + second.len()) as u64;
    assert_eq!(used[0] + used[1], length.min(available));
    assert_eq!(reader.payload_bytes(), length.min(available));
    assert_eq!(reader.is_complete(), length <= available);
}

fn check_content_length(value: &[u8]) {
    let mut fields = LengthFields::default();
    fields.content_length.see(value);
    let is_digits = value.iter().all(u8::is_ascii_digit);
    let expected = std::str::from_utf8(value).ok().filter(|_| is_digits);
    let length = expected.and_then(|text| text.parse().ok());
    let expected = length.filter(|length| *length <= i64::MAX as u64).map(BodyLength::Fixed);
    assert_eq!(fields.of_request(Version::Http11).ok(), expected);
}
