//! Texts in JSON that is written as it goes.

use std::borrow::Cow;

/// Appends a text in quotes; what is not UTF-8 becomes U+FFFD.
pub(super) fn push(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    push_content(text, out);
    out.push(b'"');
}

/// The same without quotes.
pub(super) fn push_content(text: &[u8], out: &mut Vec<u8>) {
    // Nearly all.
    if is_plain(text) {
        return out.extend_from_slice(text);
    }
    let text = str::from_utf8(text).map_or_else(|_| String::from_utf8_lossy(text), Cow::Borrowed);
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|byte| is_escaped(*byte)) {
        out.extend_from_slice(&rest[..at]);
        push_escape(rest[at], out);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

/// Whether it is ASCII without anything to be escaped, eight bytes at a time.
fn is_plain(text: &[u8]) -> bool {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    // In the highest bit of each byte, as far as the bytes before it are plain.
    let flaws = |word: &[u8; 8]| {
        let word = u64::from_ne_bytes(*word);
        let is_below = |word: u64, bound: u8| word.wrapping_sub(ONES * u64::from(bound)) & !word;
        let is = |byte: u8| is_below(word ^ (ONES * u64::from(byte)), 1);
        (word | is_below(word, b' ') | is(b'"') | is(b'\\')) & HIGH
    };
    match text.last_chunk() {
        Some(last) => {
            let words = text.as_chunks().0.iter();
            words.fold(flaws(last), |found, word| found | flaws(word)) == 0
        }
        None => text.iter().all(|byte| byte.is_ascii() && !is_escaped(*byte)),
    }
}

/// RFC 8259 section 7.
const fn is_escaped(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

fn push_escape(byte: u8, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let letter = match byte {
        b'"' | b'\\' => byte,
        0x08 => b'b',
        0x0c => b'f',
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        _ => {
            out.extend_from_slice(b"\\u00");
            return out.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 0xf)]]);
        }
    };
    out.extend([b'\\', letter]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_serde() {
        let all: String = (0..0x300).filter_map(char::from_u32).chain(['\u{2028}', '😀']).collect();
        for text in ["", "a", "/items/7", "a long text without anything in it", "\"", "\\", &all] {
            let mut out = Vec::new();
            push(text.as_bytes(), &mut out);
            assert_eq!(out, serde_json::to_vec(text).expect("a text"), "{text}");
        }
        for byte in 0..=127 {
            for at in 0..20 {
                let mut text = [b'a'; 20];
                text[at] = byte;
                let text = str::from_utf8(&text).expect("ASCII");
                let mut out = Vec::new();
                push(text.as_bytes(), &mut out);
                assert_eq!(out, serde_json::to_vec(text).expect("a text"), "{text}");
            }
        }
        let mut out = Vec::new();
        push(b"\"\xff\xc3\x28", &mut out);
        assert_eq!(out, "\"\\\"\u{fffd}\u{fffd}(\"".as_bytes());
    }
}
