//! `worker`: which worker's socket gets a new connection.

use aya_ebpf::programs::SkReuseportContext;
use proxy_common::Reason;

/// Chooses among the sockets of one listener.
#[inline(always)]
pub fn try_worker(_ctx: &SkReuseportContext) -> Result<Reason, Reason> {
    Err(Reason::UnknownListener)
}
