//! Paths: what is matched and what is forwarded are one path in one spelling, and it is the one
//! that decoding everything and then resolving the segments gives.

#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy::http::path::{self, ForwardPath, Normalised};

fuzz_target!(|data: &[u8]| {
    // The gate lets nothing else come here.
    let received: String = data
        .iter()
        .map(|byte| char::from(byte % 94 + b'!'))
        .filter(|c| !"#?".contains(*c))
        .collect();
    let received = format!("/{received}");
    let Ok(Normalised { path: matched, forward }) = path::normalise(&received) else { return };

    let segments = resolve(&decode(&received));
    assert_eq!(segments, split(&decode(&matched)), "{received}");
    check_one_spelling(&matched);
    assert!(matched.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#\\".contains(&byte)));
    assert_eq!(path::canonical_literal(&matched), *matched);

    let forwarded = match &forward {
        ForwardPath::AsReceived => &received,
        ForwardPath::Rewritten(rewritten) => rewritten,
    };
    assert_eq!(segments, split(&decode(forwarded)), "{received}");
    check_one_spelling(forwarded);
    let again = path::normalise(forwarded).expect("a fixed point");
    assert_eq!((again.path, again.forward), (matched, ForwardPath::AsReceived), "{received}");
});

/// No empty segment but a last one, no dot segment, nothing encoded that would hide one.
fn check_one_spelling(path: &str) {
    let segments: Vec<_> = path.strip_prefix('/').expect("absolute").split('/').collect();
    let (_, inner) = segments.split_last().unwrap();
    assert!(inner.iter().all(|segment| !segment.is_empty()), "{path}");
    for segment in segments {
        assert!(![".", ".."].contains(&segment), "{path}");
        assert!(![";", ".;", "..;"].iter().any(|start| segment.starts_with(start)), "{path}");
        let lower = segment.to_ascii_lowercase();
        assert!(
            ["%2f", "%5c", "%2e", "%00", "\\"].iter().all(|hidden| !lower.contains(hidden)),
            "{path}"
        );
    }
}

/// Every escape once, backslashes as slashes.
fn decode(path: &str) -> Vec<u8> {
    let mut decoded = Vec::new();
    let mut rest = path.as_bytes();
    while let [first, tail @ ..] = rest {
        let (byte, after) = match rest {
            [b'%', digits @ ..] => {
                let digits = std::str::from_utf8(&digits[..2]).unwrap();
                (u8::from_str_radix(digits, 16).unwrap(), &rest[3..])
            }
            _ => (*first, tail),
        };
        decoded.push(if byte == b'\\' { b'/' } else { byte });
        rest = after;
    }
    decoded
}

fn split(decoded: &[u8]) -> Vec<Vec<u8>> {
    decoded.split(|byte| *byte == b'/').skip(1).map(<[u8]>::to_vec).collect()
}

fn resolve(decoded: &[u8]) -> Vec<Vec<u8>> {
    let segments = split(decoded);
    let count = segments.len();
    let mut resolved: Vec<Vec<u8>> = Vec::new();
    for (index, segment) in segments.into_iter().enumerate() {
        let is_last = index + 1 == count;
        match segment.as_slice() {
            b"" | b"." if !is_last => {}
            b"" | b"." => resolved.push(Vec::new()),
            b".." => {
                resolved.pop();
                if is_last {
                    resolved.push(Vec::new());
                }
            }
            _ => resolved.push(segment),
        }
    }
    resolved
}
