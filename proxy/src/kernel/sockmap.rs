//! Tunnels that the kernel moves.

use std::os::fd::BorrowedFd;

/// A tunnel that the kernel moves until this is dropped.
#[derive(Debug)]
pub struct Tunnel {}

/// Why the kernel does not move a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TunnelRefused {
    /// The kernel half does not run, or was not asked for tunnels.
    KernelOff,
}

/// Every tunnel that the kernel moves.
#[derive(Debug)]
pub(super) struct Tunnels {}

impl Tunnels {
    pub(super) fn load(_ebpf: &mut aya::Ebpf) -> anyhow::Result<Self> {
        anyhow::bail!("not built yet")
    }

    pub(super) fn open(
        &self,
        _downstream: BorrowedFd<'_>,
        _upstream: BorrowedFd<'_>,
    ) -> Result<Tunnel, TunnelRefused> {
        Err(TunnelRefused::KernelOff)
    }
}

/// Sets the capacities of the maps for up to `tunnels_max` tunnels.
pub(super) fn size(_loader: &mut aya::EbpfLoader<'_>, _tunnels_max: u32) {}
