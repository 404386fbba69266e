//! Any `Authorization`: name and password of the one text that encodes to it, or nothing.

#![no_main]

use base64ct::{Base64, Encoding};
use libfuzzer_sys::fuzz_target;
use proxy::http::authorization::{BASIC_SIZE_MAX, basic};

fuzz_target!(|data: &[u8]| {
    let mut buffer = [0; BASIC_SIZE_MAX];
    if let Some((user, password)) = basic(data, &mut buffer) {
        assert!(data[..6].eq_ignore_ascii_case(b"basic "));
        assert!(!user.contains(&b':'));
        let encoded = Base64::encode_string(&[user, b":", password].concat());
        assert_eq!(data[6..].trim_ascii(), encoded.as_bytes());
    }
    // Whatever else it is, it is credentials as well.
    let (user, password) = data.split_at(data.len() / 2);
    let text = [user, b":", password].concat();
    let value = format!("Basic {}", Base64::encode_string(&text));
    let colon = text.iter().position(|byte| *byte == b':').expect("one at least");
    let expected = (text.len() <= BASIC_SIZE_MAX).then(|| (&text[..colon], &text[colon + 1..]));
    assert_eq!(basic(value.as_bytes(), &mut buffer), expected);
});
