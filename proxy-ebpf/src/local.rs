//! `local`: what is sent on one end of a leg is queued at the other end at once, without TCP.
//!
//! Runs in the sender's call, for each message. Everything else stays as it is: what may not be
//! delivered goes by TCP, into the same queue of the receiver, so switching in either direction
//! only has to prove that nothing is still on its way.

use core::{
    ffi::c_void,
    ptr::{read_volatile, write_volatile},
};

use aya_ebpf::{bindings::BPF_F_INGRESS, programs::SkMsgContext};
use proxy_common::{
    Reason,
    bypass::Client,
    leg::{Delivered, Member, state},
};
use proxy_ebpf::direct::{self, Message};

use crate::{
    bypass,
    establish::{barren_at, is_switched_on, is_trusted, member},
    maps::{
        CLIENTS, DELIVERED, LEGS, LOCAL_WINDOW, NODES, PSOCK_UNREAD, PSOCK_WAITING, RECEIVED,
        SOCK_BACKLOG, SOCK_COOKIE, SOCK_FLAGS, SOCK_OWNED, SOCK_RECEIVED, SOCK_STATE, SOCK_ULP,
        SOCK_ZEROCOPY, SOCKETS, TCP_RCV_NXT, TCP_SND_UNA, TCP_WRITE_SEQ,
    },
    sock::{field, nonblocking, queue_of, read_u8, read_u32, read_u64, tcp_sock},
    stats,
};

/// Delivers one message, or says why TCP gets it.
#[inline(always)]
pub(crate) fn try_local(ctx: &SkMsgContext) -> Result<Reason, Reason> {
    let sender = own_sock(ctx);
    let member = member(sender, 0).ok_or(Reason::NoLeg)?;
    let sent = send(ctx, sender, member);
    if sent.is_err() {
        member.state &= !state::DIRECT;
    }
    sent
}

/// To the client if this is a response for which that is armed, else to the other end.
#[inline(always)]
fn send(ctx: &SkMsgContext, sock: *mut c_void, member: &mut Member) -> Result<Reason, Reason> {
    // The same address in another type: the verifier allows no arithmetic on a socket.
    let sender = tcp_sock(sock).ok_or(Reason::NotEligible)?;
    let armed = bypass::armed(member);
    check_sender(sender, member)
        .inspect_err(|_| armed.iter().for_each(|armed| bypass::spill(ctx, armed)))?;
    if let Some(armed) = armed {
        match bypass::pass(ctx, &armed) {
            Ok(begun) => return Ok(begun),
            Err(reason) => stats::count(reason),
        }
    }
    deliver(ctx, sender, member)?;
    if member.state & state::DIRECT == 0 {
        begin(sender, member);
    }
    count(member, u64::from(ctx.size()));
    member.state |= state::DIRECT;
    Ok(Reason::Delivered)
}

/// What this end sends is delivered from here on: the leg is worth what it costs, and so may others
/// to the same listener be.
#[inline(always)]
fn begin(sender: *mut c_void, member: &mut Member) {
    if let Some(leg) = LEGS.get_ptr_mut(member.key) {
        // SAFETY: an entry of the map. Should another leg be given it meanwhile, that one is thought
        // to be worth more than it is.
        unsafe { (*leg).is_fruitful = 1 };
    }
    if let Some(barren) = barren_at(member) {
        direct::was_fruitful(barren);
    }
    member.own_place = place_of(member.cookie);
    member.peer_place = place_of(member.peer);
    if member.state & state::DOWNSTREAM != 0 {
        introduce(sender, member);
    }
}

/// Lets those find the client who may deliver to it past us.
#[inline(always)]
fn introduce(sender: *mut c_void, member: &Member) {
    let Some(place) = member.own_place.checked_sub(1) else { return };
    if let Some(client) = CLIENTS.get_ptr_mut(place) {
        let ends = Client {
            own_sock: sender as u64,
            own: member.cookie,
            sock: member.peer_sock,
            cookie: member.peer,
        };
        // SAFETY: a slot of an array never goes away; this socket's programs alone write it.
        unsafe { write_volatile(client, ends) };
    }
}

/// Where what is delivered on a socket of ours is counted.
#[inline(always)]
fn place_of(cookie: u64) -> u32 {
    // SAFETY: a field that never changes is copied out at once.
    unsafe { RECEIVED.get(cookie) }.map_or(0, |received| received.place)
}

/// Runs under the sender's lock, so that each word has one writer.
#[inline(always)]
fn count(member: &Member, size: u64) {
    count_sent(member.own_place, size);
    if let Some(place) = delivered_at(member.peer_place) {
        place.received += size;
    }
}

/// For a client, whoever of us and the node it is whose turn it is.
#[inline(always)]
pub(crate) fn count_sent(place: u32, size: u64) {
    if let Some(place) = delivered_at(place) {
        place.sent += size;
    }
}

#[inline(always)]
fn delivered_at<'a>(place: u32) -> Option<&'a mut Delivered> {
    let delivered = DELIVERED.get_ptr_mut(place.checked_sub(1)?)?;
    // SAFETY: a slot of an array never goes away; nobody else writes the same word.
    Some(unsafe { &mut *delivered })
}

#[inline(always)]
fn deliver(ctx: &SkMsgContext, sender: *mut c_void, member: &mut Member) -> Result<(), Reason> {
    let receiver = Receiver::of(member)?;
    let is_direct = member.state & state::DIRECT != 0;
    let is_ours = member.state & (state::UPSTREAM | state::DOWNSTREAM) != 0;
    let unread = receiver.look(is_direct, is_ours);
    if !is_direct && member.state & state::UPSTREAM != 0 {
        learn(member, &receiver);
    }
    let unread = unread?;
    if !is_direct {
        check_arrived(sender, &receiver)?;
    }
    let message = Message { size: ctx.size(), unread, window: LOCAL_WINDOW.load() };
    direct::admit(&mut member.unread_messages, message)?;
    // The helper returns the verdict it recommends: to drop, 0, if there is no such socket. The entry
    // point passes instead.
    match SOCKETS.redirect_msg(ctx, receiver.cookie, u64::from(BPF_F_INGRESS)) {
        0 => Err(Reason::NoReceiver),
        _ => Ok(()),
    }
}

/// Whether what is sent here may be delivered at all.
#[inline(always)]
fn check_sender(sender: *mut c_void, member: &Member) -> Result<(), Reason> {
    if !is_switched_on() {
        return Err(Reason::SwitchedOff);
    }
    if member.state & state::BY_TCP != 0 {
        return Err(Reason::HeldUp);
    }
    if !is_sending(sender) {
        return Err(Reason::NotEligible);
    }
    check_plain(sender)
}

/// Notes whether what this node accepts blocks: the next connection to it enters the map only if
/// nothing ever did.
#[inline(always)]
fn learn(member: &Member, receiver: &Receiver) {
    let seen = nonblocking(receiver.sock);
    if receiver.check_identity().is_err() {
        return;
    }
    let Some(is_nonblocking) = seen else { return };
    let node = member.destination();
    // SAFETY: copied out at once.
    let known = unsafe { NODES.get(node) }.copied();
    if is_nonblocking && known.is_none() {
        // Full: known less.
        let _ = NODES.insert(node, 1, 0);
    } else if !is_nonblocking && known != Some(0) {
        let _ = NODES.insert(node, 0, 0);
    }
}

/// Whether all that the sender gave to TCP has arrived, at this receiver: equal numbers on both
/// sides prove that they are two ends of one connection as well.
#[inline(always)]
fn check_arrived(sender: *mut c_void, receiver: &Receiver) -> Result<(), Reason> {
    let sent = field::<u32>(sender, TCP_WRITE_SEQ.load());
    if field::<u32>(sender, TCP_SND_UNA.load()) != sent
        || read_u32(receiver.sock, TCP_RCV_NXT.load()) != Some(sent)
    {
        return Err(Reason::InFlight);
    }
    receiver.check_identity()
}

/// Whether its connection still takes bytes: a socket may be written to after it was reset.
#[inline(always)]
fn is_sending(sender: *mut c_void) -> bool {
    /// `TCP_ESTABLISHED` and `TCP_CLOSE_WAIT` (include/net/tcp_states.h), as bits.
    const SENDING: u32 = 1 << 1 | 1 << 8;
    1_u32 << (field::<u8>(sender, SOCK_STATE.load()) & 31) & SENDING != 0
}

/// Neither MSG_ZEROCOPY, whose completion would never come, nor TLS in the kernel, whose plaintext
/// would be delivered.
#[inline(always)]
pub(crate) fn check_plain(sock: *mut c_void) -> Result<(), Reason> {
    let flags = read_u64(sock, SOCK_FLAGS.load()).ok_or(Reason::NotEligible)?;
    // With a helper: a pointer that the verifier knows as one may not be compared like a number.
    let protocol = read_u64(sock, SOCK_ULP.load()).ok_or(Reason::NotEligible)?;
    if flags >> (SOCK_ZEROCOPY.load() & 63) & 1 == 0 && protocol == 0 {
        Ok(())
    } else {
        Err(Reason::NotEligible)
    }
}

/// The other end, whose memory may be given to another socket at any time: what was read counts only
/// if the cookie is the same before and after.
pub(crate) struct Receiver {
    sock: *mut c_void,
    cookie: u64,
}

impl Receiver {
    pub(crate) fn new(sock: u64, cookie: u64) -> Self {
        Self { sock: sock as *mut c_void, cookie }
    }

    #[inline(always)]
    fn of(member: &mut Member) -> Result<Self, Reason> {
        if member.peer == 0 {
            let leg = LEGS.get_ptr(member.key).ok_or(Reason::NoLeg)?;
            let is_active = member.state & state::ACTIVE != 0;
            // SAFETY: an entry of the map. Another leg may be given it meanwhile: what is read then is
            // no end of this connection, which `check_arrived` finds.
            let leg = unsafe { &*leg };
            let end = if is_active { &leg.passive } else { &leg.active };
            // SAFETY: a field. First: with it, the rest is there.
            let cookie = unsafe { read_volatile(&raw const end.cookie) };
            if cookie == 0 {
                return Err(Reason::NoLeg);
            }
            // SAFETY: a field.
            member.peer_sock = unsafe { read_volatile(&raw const end.sock) };
            member.peer = cookie;
        }
        Ok(Self { sock: member.peer_sock as *mut c_void, cookie: member.peer })
    }

    /// Whether it can be delivered to; if so, the bytes that it has not read.
    #[inline(always)]
    pub(crate) fn look(&self, is_direct: bool, is_foreign: bool) -> Result<u32, Reason> {
        self.check_identity()?;
        let queue = self.queue().ok_or(Reason::NoReceiver)?;
        // Somebody who sleeps in a call on it, in a page fault perhaps, would hold up the sender.
        if read_u32(self.sock, SOCK_OWNED.load()) != Some(0) {
            return Err(Reason::ReceiverBusy);
        }
        if !is_direct {
            self.check_order(queue)?;
            check_plain(self.sock)?;
            if nonblocking(self.sock) != Some(true) {
                return Err(Reason::NotEligible);
            }
            // Who accepted it may be another than who listened.
            if is_foreign && !is_trusted(self.sock) {
                return Err(Reason::NotEligible);
            }
        }
        let unread = read_u32(queue, PSOCK_UNREAD.load()).ok_or(Reason::NoReceiver)?;
        self.check_identity()?;
        Ok(unread)
    }

    /// Whether neither side has ended the connection.
    #[inline(always)]
    pub(crate) fn is_established(&self) -> bool {
        /// include/net/tcp_states.h
        const ESTABLISHED: u8 = 1;
        read_u8(self.sock, SOCK_STATE.load()) == Some(ESTABLISHED) && self.check_identity().is_ok()
    }

    #[inline(always)]
    pub(crate) fn check_identity(&self) -> Result<(), Reason> {
        if read_u64(self.sock, SOCK_COOKIE.load()) == Some(self.cookie) {
            Ok(())
        } else {
            Err(Reason::NoReceiver)
        }
    }

    /// Its queue, if it still receives.
    #[inline(always)]
    fn queue(&self) -> Option<*mut c_void> {
        /// `TCP_ESTABLISHED`, `TCP_FIN_WAIT1`, `TCP_FIN_WAIT2` (include/net/tcp_states.h), as bits.
        const RECEIVING: u32 = 1 << 1 | 1 << 4 | 1 << 5;
        let state = read_u8(self.sock, SOCK_STATE.load())?;
        if 1_u32 << (state & 31) & RECEIVING == 0 {
            return None;
        }
        queue_of(self.sock)
    }

    /// Whether everything that came by TCP is in the one queue that is delivered to. What TCP is
    /// just moving there is moved under the receiver's lock, which delivering waits for.
    #[inline(always)]
    fn check_order(&self, queue: *mut c_void) -> Result<(), Reason> {
        let waits = |base, offset| read_u32(base, offset) != Some(0);
        if waits(self.sock, SOCK_RECEIVED.load())
            || waits(self.sock, SOCK_BACKLOG.load())
            || waits(queue, PSOCK_WAITING.load())
        {
            return Err(Reason::NotQueued);
        }
        Ok(())
    }
}

#[inline(always)]
fn own_sock(ctx: &SkMsgContext) -> *mut c_void {
    // SAFETY: the context is valid for the run of the program.
    let msg = unsafe { &*ctx.msg };
    // SAFETY: the only variant of this union beside padding; never null (v5.8).
    unsafe { msg.__bindgen_anon_3.sk }.cast()
}
