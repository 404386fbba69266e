//! State of a tunnel whose bytes the kernel moves: two ends, each with what userspace writes about
//! it and what the kernel does, in arrays apart.
//!
//! Counters are of the direction that starts at the end: bytes that arrived on its socket.

use crate::shared_layout;

/// What userspace says about one end. The kernel only reads it. A cache line of its own, so that
/// the two halves do not take it from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Control {
    /// Cookie of the socket at this end. A program that runs late, for a socket that is gone while
    /// its place has been given away, finds another one here and leaves.
    pub socket: u64,
    /// Cookie of the socket at the other end, and key of it.
    pub peer: u64,
    /// Passed bytes that userspace has written to the peer. Redirection goes on only once this
    /// equals [`Flow::passed`].
    pub delivered: u64,
    pub reserved: [u64; 5],
}

shared_layout!(Control, size = 64, align = 8, {
    0 => socket: u64, 8 => peer: u64, 16 => delivered: u64, 24 => reserved: [u64; 5],
});

impl Control {
    pub const fn new(socket: u64, peer: u64) -> Self {
        Self { socket, peer, delivered: 0, reserved: [0; 5] }
    }
}

/// What the kernel says about one end. Userspace only reads it, but for zeroing it while no socket
/// leads to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Flow {
    /// Bytes queued on the peer by the kernel.
    pub redirected: u64,
    /// Bytes left to userspace.
    pub passed: u64,
    /// When bytes last arrived, `CLOCK_MONOTONIC`.
    pub last_ns: u64,
    /// Bits of [`state`].
    pub state: u32,
    /// Sequence number of the next byte that has not been seen yet.
    pub next_seq: u32,
    /// `write_seq` of the peer before the first byte of this direction was written to it.
    pub base_seq: u32,
    /// Bytes of this direction (modulo 2^32) up to which `charged_before` reaches.
    pub mark: u32,
    /// Memory of the buffers queued on the peer up to `mark`, and after it.
    pub charged_before: u32,
    pub charged_after: u32,
    /// Bytes that arrived a second time and were cut off.
    pub trimmed: u64,
    pub reserved: u64,
}

shared_layout!(Flow, size = 64, align = 8, {
    0 => redirected: u64, 8 => passed: u64, 16 => last_ns: u64, 24 => state: u32, 28 => next_seq: u32,
    32 => base_seq: u32, 36 => mark: u32, 40 => charged_before: u32, 44 => charged_after: u32,
    48 => trimmed: u64, 56 => reserved: u64,
});

/// Bits of [`Flow::state`].
pub mod state {
    /// `next_seq` is known.
    pub const IN_STEP: u32 = 1;
    /// `base_seq` is known.
    pub const HAS_BASE: u32 = 2;
    /// Bytes arrived that cannot be told to be new; the connection has to be reset.
    pub const OUT_OF_STEP: u32 = 4;
}
