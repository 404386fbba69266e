//! How much a tunnel may have on its way to the peer: pure arithmetic over [`Flow`].
//!
//! Redirection has no backpressure of its own. What may not be redirected is left to userspace,
//! whose unread bytes close TCP's window.

use proxy_common::{
    limits::{TUNNEL_QUEUE_MAX, TUNNEL_WINDOW},
    tunnel::{Flow, state},
};

/// A buffer that arrived: bytes of data, bytes of memory.
#[derive(Clone, Copy)]
pub struct Buffer {
    pub len: u32,
    pub truesize: u32,
}

/// How far the peer is: passed bytes that userspace has written to it, what has been written to it
/// by anyone, what of that has been acknowledged.
#[derive(Clone, Copy)]
pub struct Peer {
    pub delivered: u64,
    pub write_seq: u32,
    pub snd_una: u32,
}

/// Whether a buffer may be queued on the peer; if so it is charged. For a flow of which everything
/// passed has been delivered.
///
/// Bytes on their way, queued or written and not acknowledged, stay within [`TUNNEL_WINDOW`]. The memory of
/// what is queued is bounded beside that, because what leaves is known in bytes, and a byte may cost
/// a thousand. So memory is charged in two parts, before and after a mark in the stream, and the
/// first part is forgotten when the peer has been written up to the mark. The sum is never less than
/// what is queued and at most twice as much.
#[inline(always)]
pub fn admit(flow: &mut Flow, peer: Peer, buffer: Buffer) -> bool {
    // Modulo 2^32, as sequence numbers are; what is on its way is far below that.
    let moved = flow.redirected.wrapping_add(peer.delivered) as u32;
    if flow.state & state::HAS_BASE == 0 {
        flow.base_seq = peer.write_seq.wrapping_sub(moved);
        flow.state |= state::HAS_BASE;
    }
    let written = peer.write_seq.wrapping_sub(flow.base_seq);
    if written == moved {
        flow.charged_before = 0;
        flow.charged_after = 0;
        flow.mark = moved;
    } else if written.wrapping_sub(flow.mark) < 1 << 31 {
        flow.charged_before = flow.charged_after;
        flow.charged_after = 0;
        flow.mark = moved;
    }
    let queued = moved.wrapping_sub(written);
    let unacknowledged = peer.write_seq.wrapping_sub(peer.snd_una);
    let under_way = queued.saturating_add(unacknowledged).saturating_add(buffer.len);
    let charged =
        flow.charged_before.saturating_add(flow.charged_after).saturating_add(buffer.truesize);
    if under_way > TUNNEL_WINDOW || charged > TUNNEL_QUEUE_MAX {
        return false;
    }
    flow.charged_after += buffer.truesize;
    true
}

#[cfg(test)]
mod tests;
