//! `unread`: what a socket of the map has in its queue and nobody has read yet. Userspace cannot see
//! that of somebody else's socket.

use aya_ebpf::{helpers::generated::bpf_sk_release, programs::TcContext};
use proxy_common::leg::COOKIE_AT;

use crate::{
    maps::{PSOCK_UNREAD, SOCKETS},
    sock::{find, queue_of, read_u32, tcp_sock},
};

/// The cookie stands behind an Ethernet header. `None`: no such socket.
#[inline(always)]
pub(crate) fn of_socket(ctx: &TcContext) -> Option<u32> {
    let cookie: u64 = ctx.load(COOKIE_AT).ok()?;
    let sock = find(&SOCKETS, cookie)?;
    let unread =
        tcp_sock(sock).and_then(queue_of).and_then(|queue| read_u32(queue, PSOCK_UNREAD.load()));
    // SAFETY: the lookup took a reference, which ends here and is not used after.
    unsafe { bpf_sk_release(sock) };
    unread
}
