use super::*;

#[track_caller]
fn check_length(
    version: Version,
    fields: &[(&str, &str)],
    expected: Result<BodyLength, LengthError>,
) {
    let fields = length_fields(fields);
    assert_eq!(fields.of_request(version), expected);
    // The same rules for responses, except for what the absence of both means.
    let expected = match expected {
        Ok(BodyLength::Empty) => Ok(BodyLength::UntilClose),
        Ok(BodyLength::Fixed(_) | BodyLength::Chunked | BodyLength::UntilClose) | Err(_) => {
            expected
        }
    };
    assert_eq!(fields.of_response(version, StatusCode::OK, "GET"), expected);
}

fn length_fields<'a>(fields: &[(&str, &'a str)]) -> LengthFields<'a> {
    let mut seen = LengthFields::default();
    for (name, value) in fields {
        match *name {
            "cl" => seen.content_length.see(value.as_bytes()),
            "te" => seen.transfer_encoding.see(value.as_bytes()),
            other => panic!("{other}"),
        }
    }
    seen
}

#[test]
fn a_length_is_said_in_one_way_or_refused() {
    use Version::{Http10, Http11};
    let check = check_length;
    check(Http11, &[], Ok(BodyLength::Empty));
    check(Http11, &[("cl", "0")], Ok(BodyLength::Fixed(0)));
    check(Http11, &[("cl", "5")], Ok(BodyLength::Fixed(5)));
    check(Http10, &[("cl", "0005")], Ok(BodyLength::Fixed(5)));
    check(Http11, &[("cl", "9223372036854775807")], Ok(BodyLength::Fixed(LENGTH_MAX)));
    check(Http11, &[("te", "chunked")], Ok(BodyLength::Chunked));
    check(Http11, &[("te", "ChUnKeD")], Ok(BodyLength::Chunked));

    for value in [
        "",
        "9223372036854775808",
        "18446744073709551615",
        "+5",
        "-5",
        "0x5",
        "5 5",
        "5,5",
        "5, 5",
        "5;",
        "five",
        "5.0",
        "1e3",
        "\u{665}",
        "18446744073709551616",
        "99999999999999999999999",
    ] {
        check(Http11, &[("cl", value)], Err(LengthError::LengthMalformed));
    }
    check(Http11, &[("cl", "5"), ("cl", "5")], Err(LengthError::LengthRepeated));
    check(Http11, &[("cl", "5"), ("cl", "6")], Err(LengthError::LengthRepeated));
    for value in [
        "",
        "chunked, chunked",
        "gzip, chunked",
        "chunked, gzip",
        "chunked,",
        ",chunked",
        "chunked;q=1",
        "\"chunked\"",
        "identity",
        "xchunked",
        "chunked identity",
        "gzip",
    ] {
        check(Http11, &[("te", value)], Err(LengthError::EncodingUnknown));
    }
    check(Http11, &[("te", "chunked"), ("te", "chunked")], Err(LengthError::EncodingRepeated));
    check(Http11, &[("te", "gzip"), ("te", "chunked")], Err(LengthError::EncodingRepeated));
    check(Http10, &[("te", "chunked")], Err(LengthError::EncodingInOldVersion));
    check(Http11, &[("te", "chunked"), ("cl", "5")], Err(LengthError::LengthAndEncoding));
    check(Http11, &[("cl", "x"), ("te", "x")], Err(LengthError::LengthAndEncoding));
}

#[test]
fn some_responses_have_no_body_whatever_they_say() {
    let fixed = length_fields(&[("cl", "5")]);
    let chunked = length_fields(&[("te", "chunked")]);
    for (status, method) in [(200, "HEAD"), (100, "GET"), (103, "GET"), (204, "GET"), (304, "GET")]
    {
        let status = StatusCode::from_u16(status).unwrap();
        for fields in [LengthFields::default(), fixed, chunked] {
            let length = fields.of_response(Version::Http11, status, method);
            assert_eq!(length, Ok(BodyLength::Empty), "{status} {method}");
        }
    }
    let both = length_fields(&[("cl", "5"), ("te", "chunked")]);
    let length = both.of_response(Version::Http11, StatusCode::NOT_MODIFIED, "GET");
    assert_eq!(length, Err(LengthError::LengthAndEncoding));
    // Method names have a case.
    assert_eq!(
        fixed.of_response(Version::Http11, StatusCode::OK, "head"),
        Ok(BodyLength::Fixed(5))
    );
}

/// What a body comes to: bytes of it, bytes of content.
type Outcome = Result<(usize, u64), FramingError>;

fn read(length: BodyLength, parts: &[&[u8]]) -> Outcome {
    let mut reader = BodyReader::new(length);
    let mut total = 0;
    for part in parts {
        let used = reader.advance(part)?;
        total += used;
        if reader.is_complete() {
            assert_eq!(reader.advance(b"next"), Ok(0));
            break;
        }
        assert_eq!(used, part.len(), "everything belongs to an incomplete body");
    }
    reader.finish_at_eof()?;
    Ok((total, reader.payload_bytes()))
}

/// In one piece, in two pieces cut anywhere, and byte by byte: always the same.
#[track_caller]
fn check_chunked(body: &str, expected: Outcome) {
    let body = body.as_bytes();
    assert_eq!(read(BodyLength::Chunked, &[body]), expected);
    for cut in 0..=body.len() {
        let (head, tail) = body.split_at(cut);
        assert_eq!(read(BodyLength::Chunked, &[head, tail]), expected, "cut at {cut}");
    }
    let bytes: Vec<_> = body.chunks(1).collect();
    assert_eq!(read(BodyLength::Chunked, &bytes), expected, "byte by byte");
}

#[test]
fn a_chunked_body_ends_after_its_trailers() {
    let check = check_chunked;
    check("0\r\n\r\n", Ok((5, 0)));
    check("0\r\n\r\nGET / HTTP/1.1\r\n", Ok((5, 0)));
    check("5\r\nhello\r\n0\r\n\r\n", Ok((15, 5)));
    check("5\r\nhel\r\n\r\n0\r\n\r\n", Ok((15, 5)));
    check("A\r\n0123456789\r\n1\r\nx\r\n00\r\n\r\nrest", Ok((27, 11)));
    check("000000000000000a\r\n0123456789\r\n0\r\n\r\n", Ok((35, 10)));
    check("1;a\r\nx\r\n0\r\n\r\n", Ok((13, 1)));
    check("1;a=b;c=\"d\\\"\t; e\";f\r\nx\r\n0;last\r\n\r\n", Ok((34, 1)));
    check("0\r\na: b\r\nc:\r\n\r\n", Ok((15, 0)));
    check("0\r\nX-Sum:\t\u{e9}\r\n\r\n", Ok((16, 0)));
}

#[test]
fn a_chunked_body_has_no_second_reading() {
    use FramingError::{ChunkExtension, ChunkSize, LineEnding, Trailer};
    let check = |body: &str, error| check_chunked(body, Err(error));
    for size in ["", "0x1", "+1", "-1", " 1", "1 ", "\t1", "1\t", "g", "1g", "1,", "\r\n1"] {
        check(&format!("{size}\r\nx\r\n0\r\n\r\n"), ChunkSize);
    }
    check("00000000000000001\r\nx\r\n0\r\n\r\n", ChunkSize);
    check("1\nx\r\n0\r\n\r\n", ChunkSize);
    check("1\r\r\nx\r\n0\r\n\r\n", LineEnding);
    check("1\rx\r\n0\r\n\r\n", LineEnding);
    check("1\r\nx\n0\r\n\r\n", LineEnding);
    check("1\r\nxx\r\n0\r\n\r\n", LineEnding);
    check("1\r\nx\r0\r\n\r\n", LineEnding);
    check("1\r\nx0\r\n\r\n", LineEnding);
    for extension in [
        ";",
        "; a",
        ";a ",
        ";a =b",
        ";a= b",
        ";=b",
        ";a=",
        ";a=b=c",
        ";a=\"b",
        ";a=\"b\"c",
        ";a\n",
        ";a=\"\n\"",
        ";a=\"\r\n\"",
        ";a=\"\\\0\"",
        ";a\0",
        ";a=b\"",
        ";a\rb",
        ";;a",
        ";a;",
    ] {
        let body = format!("1{extension}\r\nx\r\n0\r\n\r\n");
        let error = if extension == ";a\rb" { LineEnding } else { ChunkExtension };
        check(&body, error);
    }
    for trailer in
        [" a: b", "a : b", "a", ": b", "a: b\r\n c", "a: \0", "a: b\n", "\n", "a\u{e9}: b"]
    {
        check(&format!("0\r\n{trailer}\r\n\r\n"), Trailer);
    }
    check("0\r\na: b\rc\r\n\r\n", LineEnding);
    check("0\r\n\rx", LineEnding);
}

#[test]
fn a_chunked_body_cannot_end_early() {
    let body = "5;a=\"b\"\r\nhello\r\n0\r\na: b\r\n\r\n";
    for size in 0..body.len() {
        assert_eq!(
            read(BodyLength::Chunked, &[&body.as_bytes()[..size]]),
            Err(FramingError::Truncated)
        );
    }
}

#[test]
fn the_largest_chunk_size_is_a_size() {
    let mut reader = BodyReader::new(BodyLength::Chunked);
    assert_eq!(reader.advance(b"FFFFFFFFFFFFFFFF\r\nxyz"), Ok(21));
    assert_eq!(reader.opaque_remaining(), Some(u64::MAX - 3));
    assert_eq!(reader.payload_bytes(), 3);
}

#[test]
fn extensions_and_trailers_are_capped() {
    let chunk = |extension: usize| format!("1;{}\r\nx\r\n", "a".repeat(extension - 1));
    let last = "0\r\n\r\n";
    let max = CHUNK_EXTENSION_SIZE_MAX as usize;
    let check = |body: String, expected: Result<u64, FramingError>| {
        let outcome = read(BodyLength::Chunked, &[body.as_bytes()]);
        assert_eq!(outcome.map(|(_, payload)| payload), expected);
    };
    check(chunk(max) + last, Ok(1));
    check(chunk(max + 1) + last, Err(FramingError::ChunkExtensionsTooLarge));
    let chunks = CHUNK_EXTENSIONS_SIZE_MAX as usize / max;
    check(chunk(max).repeat(chunks) + last, Ok(chunks as u64));
    check(chunk(max).repeat(chunks) + &chunk(2) + last, Err(FramingError::ChunkExtensionsTooLarge));

    let fields = TRAILER_FIELDS_MAX as usize;
    check(format!("0\r\n{}\r\n", "a:\r\n".repeat(fields)), Ok(0));
    check(format!("0\r\n{}\r\n", "a:\r\n".repeat(fields + 1)), Err(FramingError::TrailersTooLarge));
    // name, colon and two line endings
    let value = TRAILERS_SIZE_MAX as usize - 6;
    check(format!("0\r\na:{}\r\n\r\n", "b".repeat(value)), Ok(0));
    check(format!("0\r\na:{}\r\n\r\n", "b".repeat(value + 1)), Err(FramingError::TrailersTooLarge));
}

#[test]
fn a_fixed_body_ends_at_its_length() {
    assert_eq!(read(BodyLength::Empty, &[b"next"]), Ok((0, 0)));
    assert_eq!(read(BodyLength::Fixed(0), &[b"next"]), Ok((0, 0)));
    assert_eq!(read(BodyLength::Fixed(5), &[b"he", b"llonext"]), Ok((5, 5)));
    assert_eq!(read(BodyLength::Fixed(5), &[b"hell"]), Err(FramingError::Truncated));
    assert_eq!(read(BodyLength::UntilClose, &[b"he", b"", b"llo"]), Ok((5, 5)));
}

#[test]
fn opaque_bytes_may_be_skipped_instead_of_read() {
    let mut reader = BodyReader::new(BodyLength::Fixed(10));
    assert_eq!(reader.opaque_remaining(), Some(10));
    reader.skip(4);
    assert_eq!(reader.advance(b"56"), Ok(2));
    assert!(!reader.is_complete());
    reader.skip(4);
    assert!(reader.is_complete());
    assert_eq!((reader.opaque_remaining(), reader.payload_bytes()), (None, 10));

    let mut reader = BodyReader::new(BodyLength::Chunked);
    assert_eq!(reader.opaque_remaining(), None);
    assert_eq!(reader.advance(b"10\r\nabc"), Ok(7));
    assert_eq!(reader.opaque_remaining(), Some(13));
    reader.skip(13);
    assert_eq!(reader.opaque_remaining(), None);
    assert_eq!(reader.advance(b"\r\n0\r\n\r\nnext"), Ok(7));
    assert_eq!((reader.is_complete(), reader.payload_bytes()), (true, 16));

    assert_eq!(BodyReader::new(BodyLength::UntilClose).opaque_remaining(), None);
}

#[test]
fn a_broken_body_stays_broken() {
    let mut reader = BodyReader::new(BodyLength::Chunked);
    assert_eq!(reader.advance(b"x"), Err(FramingError::ChunkSize));
    assert_eq!(reader.advance(b"0\r\n\r\n"), Err(FramingError::ChunkSize));
    assert_eq!(reader.finish_at_eof(), Err(FramingError::ChunkSize));
    assert!(!reader.is_complete());
}
