//! The recogniser of response heads, which runs in the kernel, against userspace's own reading.

mod judge;

use judge::judge;
use proxy_ebpf::head::recognise;

const HEADS: [&str; 4] = [
    "HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 16:32:09 GMT\r\nContent-Length: 10\r\n\
     Connection: keep-alive\r\nETag: \"6554c7c0-400\"\r\n\r\n",
    "HTTP/1.1 404 \r\ncontent-length: 0\r\nx-transfer-encoding: a\r\ndate: -\r\n\r\n",
    "HTTP/1.1 500 No\r\ntf: x\r\nkeep-alivf: x\r\nproxx: x\r\ndate: -\r\ncontent-length: 7\r\n\r\n",
    "HTTP/1.1 200 OK\r\ntransfer_encoding: x\r\nproxy-authorizatiom: y\r\nvia: z\r\n\
     content-length: 4294967295\r\ndate: -\r\n\r\n",
];

/// Whether it is recognised, as it should be.
#[track_caller]
fn check(message: &[u8]) -> bool {
    let recognised = recognise(message);
    assert_eq!(recognised.ok(), judge(message), "{}: {recognised:?}", message.escape_ascii());
    recognised.is_ok()
}

/// Each head with a body, where each byte is another one, is gone, or has another one before it.
#[test]
fn what_the_kernel_recognises_is_what_userspace_passes_on() {
    for head in HEADS {
        assert!(check(head.as_bytes()), "{head}");
        let mut accepted = 0;
        for at in 0..head.len() {
            let (before, after) = head.as_bytes().split_at(at);
            let (_, rest) = after.split_at(1);
            accepted += u32::from(check(&[before, rest, b"body"].concat()));
            for byte in u8::MIN..=u8::MAX {
                accepted += u32::from(check(&[before, &[byte], rest, b"body"].concat()));
                accepted += u32::from(check(&[before, &[byte], after].concat()));
            }
        }
        // Most of them: a value may hold nearly any byte.
        assert!(accepted > 4_000, "{accepted}");
    }
}
