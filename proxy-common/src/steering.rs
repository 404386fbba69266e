//! What `worker` chooses by.

use crate::{limits::WORKERS_MAX, shared_layout};

/// Value of `LISTENER_BY_DST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Listener {
    index: u32,
}

shared_layout!(Listener, size = 4, align = 4, { 0 => index: u32 });

impl Listener {
    /// `index` counts the configured listeners from 0.
    pub const fn new(index: u32) -> Self {
        Self { index }
    }

    /// Where the socket of one of its workers stands in `WORKER_SOCKETS`.
    #[inline(always)]
    pub const fn slot(self, worker: u32) -> u32 {
        self.index.wrapping_mul(WORKERS_MAX).wrapping_add(worker)
    }
}

/// Which workers get nothing new: the one value of `DRAINED_WORKERS`, bit `n` for worker `n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct DrainedWorkers {
    bits: u64,
}

shared_layout!(DrainedWorkers, size = 8, align = 8, { 0 => bits: u64 });

const _: () = assert!(WORKERS_MAX == u64::BITS, "one bit for each worker");

impl DrainedWorkers {
    #[must_use]
    pub const fn with(self, worker: u32) -> Self {
        Self { bits: self.bits | (1 << (worker % WORKERS_MAX)) }
    }

    pub const fn bits(self) -> u64 {
        self.bits
    }
}
