//! Frames as `ingress` reads them. What was read of the start of a frame holds whatever follows it:
//! cut short it is "too short" or already the same answer.

#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_common::Reason;
use proxy_ebpf::packet::{Frame, Segment, parse};

/// Cuts tried from the front: beyond the longest chain of headers nothing is read any more
/// (14 + 2 × 4 + 40 + 4 × 2048 + 20 bytes), and libFuzzer stays below that by default.
const CUTS_MAX: usize = 512;

fuzz_target!(|bytes: &[u8]| {
    let whole = parse(Frame::from(bytes));
    let mut is_read = false;
    for length in 0..bytes.len().min(CUTS_MAX) {
        match parse(Frame::from(&bytes[..length])) {
            Err(Reason::TooShort) => assert!(!is_read, "{length} bytes say less than fewer did"),
            read => {
                is_read = true;
                assert_eq!(read, whole, "{length} bytes");
            }
        }
    }
    match whole {
        Ok(segment) => check_segment(bytes, &segment),
        Err(reason) => assert_eq!(reason.program(), proxy_common::names::INGRESS),
    }
});

/// Every byte of a segment's addresses and port stands somewhere in the frame.
fn check_segment(bytes: &[u8], segment: &Segment) {
    let holds = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
    assert!(holds(&segment.destination.port_be()));
    match segment.source.as_v4() {
        Some(octets) => assert!(holds(&octets)),
        None => assert!(holds(&segment.source.octets())),
    }
}
