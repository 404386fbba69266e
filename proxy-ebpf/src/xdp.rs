//! `ingress`: is the packet ours, is its source blocked, does it open connections too fast.

use aya_ebpf::programs::XdpContext;
use proxy_common::{Reason, addr::Destination, globals};
use proxy_ebpf::packet::{self, Frame};

use crate::{
    guard,
    maps::{LISTENER_BY_DST, PORT_FILTER},
};

/// Judges one frame: `Ok` for what the guard let through, `Err` for everything else, most of
/// which passes as well.
#[inline(always)]
pub(crate) fn try_ingress(ctx: &XdpContext) -> Result<Reason, Reason> {
    // SAFETY: the packet of this run, which no other call here changes.
    let frame = unsafe { Frame::between(ctx.data(), ctx.data_end()) };
    let segment = packet::parse(frame)?;
    if !is_ours(segment.destination) {
        return Err(Reason::NotOurs);
    }
    guard::judge(&segment)
}

/// Whether a listener is bound to this address and port, or to the port on any address.
#[inline(always)]
fn is_ours(destination: Destination) -> bool {
    if PORT_FILTER.load() & globals::port_bit(destination.port_be()) == 0 {
        return false;
    }
    LISTENER_BY_DST.get_ptr(destination).is_some()
        || LISTENER_BY_DST.get_ptr(destination.wildcard()).is_some()
}
