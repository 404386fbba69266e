use super::*;

fn two_nodes() -> Expected {
    Expected { status: 200, body: ExpectedBody::OneOf(vec![b"one\n".to_vec(), b"two\n".to_vec()]) }
}

/// Feeds a response whole, byte by byte, and whole again (then it is known if it was right).
#[track_caller]
fn check(expected: &Expected, response: &[u8], outcome: Result<usize, Failure>) {
    let mut checker = Checker::new(expected.clone(), Rc::new(Pattern::new()));
    for is_whole in [true, false, true] {
        let parts = if is_whole { response.chunks(usize::MAX) } else { response.chunks(1) };
        let mut partial = Partial::default();
        let mut last = Ok(Step::More);
        for part in parts {
            if let Ok(Step::Done { .. }) = last {
                // What follows a complete response is refused when it comes with it; alone, the
                // connection refuses it as bytes that nobody asked for.
                last = Err(Failure::Surplus);
                break;
            }
            last = checker.feed(&mut partial, part);
            if last.is_err() {
                break;
            }
        }
        let seen = match last {
            Ok(Step::Done { node }) => Ok(node),
            Ok(Step::More) => Err(Failure::TimedOut),
            Err(failure) => Err(failure),
        };
        assert_eq!(seen, outcome, "whole: {is_whole}");
    }
}

#[test]
fn status_length_and_bytes_are_all_checked() {
    let expected = two_nodes();
    check(&expected, b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\none\n", Ok(0));
    check(&expected, b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 4\r\n\r\ntwo\n", Ok(1));
    for (response, failure) in [
        (&b"HTTP/1.1 502 Bad\r\ncontent-length: 4\r\n\r\none\n"[..], Failure::Status(502)),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\none\n", Failure::Length),
        (b"HTTP/1.1 200 OK\r\n\r\none\n", Failure::Length),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncontent-length: 4\r\n\r\n", Failure::Length),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nsix\n", Failure::Body),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\none\nx", Failure::Surplus),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\non", Failure::TimedOut),
        (b"\x16\x03\x01\x02", Failure::Malformed),
    ] {
        check(&expected, response, Err(failure));
    }
}

#[test]
fn a_chunked_body_is_compared_by_its_data_and_has_to_be_chunked() {
    let expected = Expected { status: 200, body: ExpectedBody::ChunkedPattern(9) };
    let pattern = Pattern::new();
    let response = |data: &[u8]| {
        let mut text = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for chunk in data.chunks(5) {
            text.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
            text.extend_from_slice(chunk);
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(b"0\r\n\r\n");
        text
    };
    check(&expected, &response(pattern.at(0, 9)), Ok(0));
    check(&expected, &response(pattern.at(0, 8)), Err(Failure::Length));
    check(&expected, &response(pattern.at(0, 10)), Err(Failure::Surplus));
    let plain = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n";
    check(&expected, plain, Err(Failure::Length));
    let mut checker = Checker::new(expected, Rc::new(Pattern::new()));
    let other = checker.feed(&mut Partial::default(), &response(pattern.at(1, 9)));
    assert_eq!(other, Err(Failure::Body));
    // In two chunks, of which the first one was wrong.
    assert_eq!(checker.body_bytes(), 5);
}

#[test]
fn of_bulk_bodies_every_byte_of_every_one_is_compared_and_counted() {
    let expected = Expected { status: 200, body: ExpectedBody::Pattern(BULK_MIN) };
    let pattern = Rc::new(Pattern::new());
    let mut checker = Checker::new(expected, Rc::clone(&pattern));
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {BULK_MIN}\r\n\r\n");
    let mut partial = Partial::default();
    for flips_last in [false, true] {
        assert_eq!(checker.feed(&mut partial, head.as_bytes()), Ok(Step::More));
        let mut received = 0;
        while received < BULK_MIN {
            let mut part = pattern.at(received, (BULK_MIN - received).min(65_536)).to_vec();
            received += part.len() as u64;
            let is_last = received == BULK_MIN;
            if is_last && flips_last {
                *part.last_mut().unwrap() ^= 1;
            }
            let step = match (is_last, flips_last) {
                (true, true) => Err(Failure::Body),
                (true, false) => Ok(Step::Done { node: 0 }),
                (false, _) => Ok(Step::More),
            };
            assert_eq!(checker.feed(&mut partial, &part), step);
        }
    }
    assert_eq!(checker.body_bytes(), 2 * BULK_MIN);
}

#[test]
fn a_patterned_body_is_counted_and_compared() {
    let pattern = Pattern::new();
    let expected = Expected { status: 200, body: ExpectedBody::Pattern(1000) };
    let response = |head: &str, body: &[u8]| [head.as_bytes(), body].concat();
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n";
    check(&expected, &response(head, pattern.at(0, 1000)), Ok(0));
    check(&expected, &response(head, pattern.at(0, 999)), Err(Failure::TimedOut));
    check(&expected, &response(head, pattern.at(0, 1001)), Err(Failure::Surplus));
    let short = "HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n";
    check(&expected, &response(short, pattern.at(0, 999)), Err(Failure::Length));
}

#[test]
fn a_sampled_body_with_one_wrong_byte_is_refused() {
    let pattern = Rc::new(Pattern::new());
    let expected = Expected { status: 200, body: ExpectedBody::Pattern(1000) };
    let mut checker = Checker::new(expected, Rc::clone(&pattern));
    let mut body = pattern.at(0, 1000).to_vec();
    body[999] ^= 1;
    let response = [b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n".as_slice(), &body].concat();
    // The first body of a thread is always among the sampled ones.
    assert_eq!(checker.feed(&mut Partial::default(), &response), Err(Failure::Body));
}
