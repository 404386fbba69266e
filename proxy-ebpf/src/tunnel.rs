//! `tunnel`: bytes that arrive on one socket of a tunnel leave on the other, without userspace.
//!
//! Runs for each buffer of a socket in `SOCKETS`, in order, one at a time for a socket. A
//! buffer is queued on the peer, or left to userspace; what is left stays in order because nothing
//! is redirected again before userspace has written it. Bytes are never dropped: what is seen here has
//! been acknowledged.
//!
//! A socket has one queue for the kernel's worker, for what is redirected to it and for what is
//! passed to userspace while that queue is not empty. Were the worker stuck on a peer that does not
//! read, what that peer sends would be stuck as well. Hence the window: nothing is redirected that
//! the peer's send buffer may not have room for, so that the worker is never stuck.

use core::{ffi::c_void, ptr::read_volatile};

use aya_ebpf::{
    EbpfContext as _,
    bindings::__sk_buff,
    helpers::generated::{
        bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_loop, bpf_sk_release, bpf_skb_adjust_room,
    },
    programs::SkBuffContext,
};
use proxy_common::{
    Reason,
    leg::Received,
    limits::{TRIM_STEP_MAX, TRIM_STEPS_MAX},
    tunnel::{Control, Flow, state},
};
use proxy_ebpf::window::{self, Buffer, Peer};

use crate::{
    maps::{
        RECEIVED, SKB_SEQ, SKB_TRUESIZE, SOCKETS, TCP_COPIED_SEQ, TCP_SND_UNA, TCP_WRITE_SEQ,
        TUNNEL_CONTROL, TUNNEL_END, TUNNEL_FLOW,
    },
    sock::{find, read_u32, tcp_sock},
    stats,
};

/// Redirects one buffer, or says why userspace gets it.
#[inline(always)]
pub(crate) fn try_tunnel(ctx: &SkBuffContext) -> Result<Reason, Reason> {
    let len = ctx.len();
    if len == 0 {
        return Err(Reason::EndOfStream);
    }
    // SAFETY: takes the context, as every program of this type has it.
    let socket = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // SAFETY: the value is copied in the same expression.
    let Some(&end) = (unsafe { TUNNEL_END.get(socket) }) else { return pass(ctx, socket, len) };
    let control = TUNNEL_CONTROL.get_ptr(end).ok_or(Reason::NoTunnel)?;
    let flow = TUNNEL_FLOW.get_ptr_mut(end).ok_or(Reason::NoTunnel)?;
    // SAFETY: a slot of an array map never goes away; only this program writes it, for one socket
    // and therefore one buffer at a time.
    let flow = unsafe { &mut *flow };
    // SAFETY: as above; userspace may write meanwhile, so each word is read once.
    let Control { socket: owner, peer, delivered, .. } = unsafe { read_volatile(control) };
    if owner != socket {
        return Err(Reason::NoTunnel);
    }
    // SAFETY: a helper without arguments.
    flow.last_ns = unsafe { bpf_ktime_get_ns() };
    let mut seen = Received {
        next_seq: flow.next_seq,
        state: flow.state,
        trimmed: flow.trimmed,
        place: 0,
        reserved: 0,
    };
    let rest = trim(ctx, &mut seen, len);
    (flow.next_seq, flow.state, flow.trimmed) = (seen.next_seq, seen.state, seen.trimmed);
    let Some(len) = rest else {
        flow.state |= state::OUT_OF_STEP;
        return Err(Reason::OutOfStep);
    };
    match redirect(ctx, flow, len, peer, delivered) {
        Ok(()) => {
            flow.redirected = flow.redirected.wrapping_add(u64::from(len));
            Ok(Reason::Redirected)
        }
        Err(reason) => {
            flow.passed = flow.passed.wrapping_add(u64::from(len));
            Err(reason)
        }
    }
}

/// Bytes by TCP for an end of a leg: always passed, into the queue that `local` delivers to as well.
/// One queue has one order.
#[inline(always)]
fn pass(ctx: &SkBuffContext, socket: u64, len: u32) -> Result<Reason, Reason> {
    let seen = RECEIVED.get_ptr_mut(socket).ok_or(Reason::NoTunnel)?;
    // SAFETY: only this program writes it, for one socket and therefore one buffer at a time; the
    // entry goes when the socket is closed, and the kernel does not reuse it while a program runs.
    let seen = unsafe { &mut *seen };
    match trim(ctx, seen, len) {
        Some(_) => Ok(Reason::LegSocket),
        None => {
            seen.state |= state::OUT_OF_STEP;
            Err(Reason::OutOfStep)
        }
    }
}

/// Cuts off what has been seen before and returns what is left. TCP keeps buffers whole when they
/// overlap, and this hook hands them out whole (v6.0: `tcp_read_skb` has no offset), so a
/// retransmission of other boundaries, or a buffer that userspace had read half, would be forwarded
/// twice.
#[inline(always)]
fn trim(ctx: &SkBuffContext, seen: &mut Received, len: u32) -> Option<u32> {
    let seq = read_u32(ctx.as_ptr(), SKB_SEQ.load())?;
    if seen.state & state::IN_STEP == 0 {
        seen.next_seq = read_u32(tcp_sock(own_sock(ctx))?, TCP_COPIED_SEQ.load())?;
        seen.state |= state::IN_STEP;
    }
    // A gap, which TCP never shows, is a huge overlap here.
    let overlap = seen.next_seq.wrapping_sub(seq);
    if overlap != 0 {
        if overlap >= len {
            return None;
        }
        if !cut(ctx, overlap) {
            // Handed out whole: what follows is in step again.
            seen.next_seq = seq.wrapping_add(len);
            return None;
        }
        seen.trimmed = seen.trimmed.wrapping_add(u64::from(overlap));
        stats::count(Reason::Trimmed);
    }
    seen.next_seq = seq.wrapping_add(len);
    Some(len - overlap)
}

/// Bytes to be removed from the front of a buffer.
struct Cut {
    skb: *mut __sk_buff,
    left: u32,
}

/// Removes bytes from the front; the kernel takes at most [`TRIM_STEP_MAX`] at a time.
#[inline(always)]
fn cut(ctx: &SkBuffContext, bytes: u32) -> bool {
    let mut cut = Cut { skb: ctx.skb.skb, left: bytes };
    // SAFETY: the callback takes what it is given here; no flag exists.
    unsafe { bpf_loop(TRIM_STEPS_MAX, cut_step as *mut c_void, (&raw mut cut).cast(), 0) };
    cut.left == 0
}

/// 0: go on.
unsafe extern "C" fn cut_step(_: u32, cut: *mut c_void) -> i64 {
    // SAFETY: what `cut` gave to the loop.
    let cut = unsafe { &mut *cut.cast::<Cut>() };
    let step = if cut.left < TRIM_STEP_MAX { cut.left } else { TRIM_STEP_MAX };
    // SAFETY: the context is valid for the run of the program; no flag or mode exists.
    if unsafe { bpf_skb_adjust_room(cut.skb, -(step as i32), 0, 0) } != 0 {
        return 1;
    }
    cut.left -= step;
    i64::from(cut.left == 0)
}

#[inline(always)]
fn redirect(
    ctx: &SkBuffContext,
    flow: &mut Flow,
    len: u32,
    peer: u64,
    delivered: u64,
) -> Result<(), Reason> {
    if flow.state & state::OUT_OF_STEP != 0 {
        return Err(Reason::OutOfStep);
    }
    if flow.passed != delivered {
        return Err(Reason::Following);
    }
    let (write_seq, snd_una) = send_queue_of(peer).ok_or(Reason::NoPeer)?;
    let truesize = read_u32(ctx.as_ptr(), SKB_TRUESIZE.load()).ok_or(Reason::NoPeer)?;
    let peer_state = Peer { delivered, write_seq, snd_una };
    if !window::admit(flow, peer_state, Buffer { len, truesize }) {
        return Err(Reason::WindowFull);
    }
    // The helper returns the verdict it recommends: to drop, 0, if there is no such socket. The entry
    // point passes instead.
    match SOCKETS.redirect_skb(ctx, peer, 0) {
        0 => Err(Reason::NoPeer),
        _ => Ok(()),
    }
}

/// `write_seq` and `snd_una` of the peer: how far the kernel's worker has written to it, and how far
/// that has been acknowledged.
#[inline(always)]
fn send_queue_of(peer: u64) -> Option<(u32, u32)> {
    let sock = find(&SOCKETS, peer)?;
    let queue = tcp_sock(sock).and_then(|tcp| {
        // What is acknowledged in between makes the queue look longer, never shorter.
        let snd_una = read_u32(tcp, TCP_SND_UNA.load())?;
        Some((read_u32(tcp, TCP_WRITE_SEQ.load())?, snd_una))
    });
    // SAFETY: the lookup took a reference, which ends here and is not used after.
    unsafe { bpf_sk_release(sock) };
    queue
}

#[inline(always)]
fn own_sock(ctx: &SkBuffContext) -> *mut c_void {
    let skb: *mut __sk_buff = ctx.skb.skb;
    // SAFETY: the context is valid for the run of the program.
    let skb = unsafe { &*skb };
    // SAFETY: the only variant of this union beside padding; null is tested for by the caller.
    unsafe { skb.__bindgen_anon_2.sk }.cast()
}
