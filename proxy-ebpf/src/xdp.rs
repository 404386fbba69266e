//! `ingress`: is the packet ours, is its source blocked, does it open connections too fast.

use aya_ebpf::programs::XdpContext;
use proxy_common::Reason;

/// Judges one frame.
#[inline(always)]
pub fn try_ingress(_ctx: &XdpContext) -> Result<Reason, Reason> {
    Err(Reason::NotOurs)
}
