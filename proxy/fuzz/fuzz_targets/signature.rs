//! Any parameters of a `Signature`: those that are written again are read the same, or nothing.

#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy::http::authorization::signature;

fuzz_target!(|data: &[u8]| {
    let Some(read) = signature(data) else { return };
    let parameters = [
        ("headers", read.headers),
        ("signature", read.signature),
        ("algorithm", read.algorithm),
        ("keyId", read.key_id),
    ];
    for (name, value) in parameters {
        assert!(!value.contains(['"', '\\']));
        // Nothing was made up.
        let written = format!("{name}=\"{value}\"");
        let is_there = data.windows(written.len()).any(|part| part == written.as_bytes());
        assert!(is_there || (name, value) == ("headers", ""));
    }
    let written = parameters.map(|(name, value)| format!("{name}=\"{value}\"")).join(", ");
    assert_eq!(signature(written.as_bytes()), Some(read));
    assert_eq!(signature(format!("{written},{written}").as_bytes()), None);
});
