//! The userspace-only twin: every method of the plane, doing without the kernel half.

use std::os::fd::BorrowedFd;

use super::{
    sockmap::{Tunnel, TunnelRefused},
    stats::Counter,
    status::{Running, Status},
};
use crate::config::KernelMode;

/// No kernel half, and why.
#[derive(Debug)]
pub(super) struct Disabled {
    asked: KernelMode,
    reason: Option<String>,
}

impl Disabled {
    /// Not asked for.
    pub(super) fn off() -> Self {
        Self { asked: KernelMode::Off, reason: None }
    }

    /// Asked for by `auto`, not to be had.
    pub(super) fn because(reason: String) -> Self {
        Self { asked: KernelMode::Auto, reason: Some(reason) }
    }

    /// The kernel spreads connections over the group by its hash.
    #[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "twin of the loaded plane")]
    pub(super) fn steer(
        &self,
        _listener: usize,
        _sockets: &[BorrowedFd<'_>],
    ) -> anyhow::Result<()> {
        Ok(())
    }

    /// A worker that stops accepting closes its socket, and the kernel's hash leaves it out.
    #[expect(clippy::unused_self, reason = "twin of the loaded plane")]
    pub(super) fn drain_worker(&self, _worker: usize) {}

    #[expect(clippy::unused_self, reason = "twin of the loaded plane")]
    pub(super) fn tunnel(
        &self,
        _downstream: BorrowedFd<'_>,
        _upstream: BorrowedFd<'_>,
    ) -> Result<Tunnel, TunnelRefused> {
        Err(TunnelRefused::KernelOff)
    }

    pub(super) fn status(&self) -> Status {
        Status {
            asked: self.asked.into(),
            running: Running::Userspace,
            detail: self.reason.clone(),
            xdp_mode: None,
            same_host: None,
            abi: proxy_common::ABI_VERSION,
            features: Vec::new(),
            programs: Vec::new(),
            maps: Vec::new(),
        }
    }

    #[expect(clippy::unused_self, reason = "twin of the loaded plane")]
    pub(super) fn counters(&self) -> Vec<Counter> {
        Vec::new()
    }
}
