//! `remote`: where in the kernel our end of a connection to a client on another host is. `local` reads
//! that when it looks for room there; userspace cannot know it.

use core::ptr::write_volatile;

use aya_ebpf::{helpers::generated::bpf_sk_release, programs::TcContext};
use proxy_common::{
    bypass::Client,
    leg::{COOKIE_AT, PLACE_AT},
};

use crate::{
    maps::{CLIENTS, REMOTE_CLIENTS},
    sock::find,
};

/// Cookie and place stand behind an Ethernet header. `None`: no such socket, or no such place.
#[inline(always)]
pub(crate) fn note(ctx: &TcContext) -> Option<()> {
    let own: u64 = ctx.load(COOKIE_AT).ok()?;
    let place: u64 = ctx.load(PLACE_AT).ok()?;
    let sock = find(&REMOTE_CLIENTS, own)?;
    let client = Client { own_sock: sock as u64, own, sock: 0, cookie: 0 };
    let noted = CLIENTS.get_ptr_mut(place as u32);
    if let Some(place) = noted {
        // SAFETY: a slot of an array never goes away; userspace has given it to this socket alone.
        unsafe { write_volatile(place, client) };
    }
    // SAFETY: the lookup took a reference, which ends here; its address is kept as a number.
    unsafe { bpf_sk_release(sock) };
    noted.map(drop)
}
