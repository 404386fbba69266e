//! Response heads as the kernel half recognises them: exactly those that userspace could pass on
//! without changing a byte, and whatever follows them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_ebpf::head::{Refusal, recognise};

#[path = "../../tests/it/recogniser/judge.rs"]
mod judge;

fuzz_target!(|message: &[u8]| {
    let recognised = recognise(message);
    assert_eq!(recognised.ok(), judge::judge(message), "{recognised:?}");
    let Ok(head) = recognised else { return };
    let size = head.size as usize;
    assert_eq!(recognise(&message[..size]), recognised);
    assert_eq!(recognise(&[&message[..size], b"\r\nHTTP/1.1 "].concat()), recognised);
    for cut in 0..size {
        assert_eq!(recognise(&message[..cut]), Err(Refusal::Incomplete), "{cut} bytes");
    }
});
