//! `unread`: what a socket of the map has in its queue and nobody has read yet. Userspace cannot see
//! that of somebody else's socket.

use aya_ebpf::{
    helpers::generated::{bpf_map_lookup_elem, bpf_sk_release},
    programs::TcContext,
};
use core::{ffi::c_void, ptr::from_ref};
use proxy_common::leg::COOKIE_AT;

use crate::{
    maps::{PSOCK_UNREAD, SOCKETS},
    sock::{queue_of, read_u32, tcp_sock},
};

/// The cookie stands behind an Ethernet header. `None`: no such socket.
#[inline(always)]
pub(crate) fn of_socket(ctx: &TcContext) -> Option<u32> {
    let cookie: u64 = ctx.load(COOKIE_AT).ok()?;
    // SAFETY: the map is a socket hash with keys of this type.
    let sock = unsafe {
        bpf_map_lookup_elem(
            from_ref(&SOCKETS).cast_mut().cast(),
            from_ref(&cookie).cast::<c_void>(),
        )
    };
    if sock.is_null() {
        return None;
    }
    let unread =
        tcp_sock(sock).and_then(queue_of).and_then(|queue| read_u32(queue, PSOCK_UNREAD.load()));
    // SAFETY: the lookup took a reference, which ends here and is not used after.
    unsafe { bpf_sk_release(sock) };
    unread
}
