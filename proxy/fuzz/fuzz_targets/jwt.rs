//! Any token: its parts are those of the text, and its claims are what another reader finds.

#![no_main]

use base64ct::{Base64UrlUnpadded, Encoding};
use libfuzzer_sys::fuzz_target;
use proxy::http::jwt::{TOKEN_SIZE_MAX, parse};
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    check(data);
    // The same bytes as claims.
    let encode = Base64UrlUnpadded::encode_string;
    check(format!("{}.{}.AAEC", encode(b"{\"alg\":\"HS256\"}"), encode(data)).as_bytes());
});

fn check(text: &[u8]) {
    let Some(token) = parse(text, "key") else { return };
    assert!(text.len() <= TOKEN_SIZE_MAX);
    let signature = Base64UrlUnpadded::encode_string(&token.signature);
    assert_eq!([token.signed, b".", signature.as_bytes()].concat(), text);

    // Numbers that fit into nothing are refused only where they are read.
    let parts: Result<Vec<Value>, _> = token
        .signed
        .split(|byte| *byte == b'.')
        .map(|part| Base64UrlUnpadded::decode_vec(str::from_utf8(part).unwrap()).unwrap())
        .map(|json| serde_json::from_slice(&json))
        .collect();
    let Ok(parts) = parts else { return };
    let [header, claims] = parts.as_slice() else { panic!("{} parts", parts.len()) };
    assert_eq!(header["alg"], *token.algorithm);
    assert!(header["crit"].is_null());
    assert_eq!(claims.get("key"), token.claims.key.as_ref());
    assert_eq!(claims.get("exp"), token.claims.expires.as_ref());
    assert_eq!(claims.get("nbf"), token.claims.not_before.as_ref());
}
