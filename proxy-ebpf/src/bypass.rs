//! A node's response goes to the client past us, if userspace has armed that: `local` claims it and
//! redirects, message by message, `bypass` says when a call is over how much of it is there.
//!
//! Only a response whose first message has a head that would leave as it came, to a client that has
//! read everything and waits; or, if the client is on another host, that has acknowledged everything, if
//! our end's send queue takes the response at once. Whatever else it is goes the usual way, and
//! userspace carries it; a message that cannot go past us, and all behind it, as well.

use core::{ffi::c_void, ptr::read_volatile};

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_F_INGRESS, sk_msg_md},
    helpers::generated::{bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_loop},
    programs::{BtfTracePointContext, SkMsgContext},
};
use proxy_common::{
    Reason,
    bypass::{Bypass, Client, Progress, turn},
    leg::{Member, state},
};
use proxy_ebpf::{
    course,
    direct::{self, Message, SendQueue},
    head::{Bytes, Head, Recogniser, STEPS_MAX, Step},
};

use crate::{
    establish::member,
    local::{Receiver, count_sent},
    maps::{
        BYPASSES, CLIENTS, EGRESS_MAX, LOCAL_WINDOW, MSG_START, REMOTE_CLIENTS, SOCK_OWNED,
        SOCK_SEND_MAX, SOCK_SENDING, SOCKETS, TCP_RCV_NXT, TCP_SEGMENT, TCP_SND_UNA, TCP_WRITE_SEQ,
    },
    sock::read_u32,
    stats,
};

/// A response that may be claimed, or is: where its turn is, and what it was.
pub(crate) struct Armed {
    bypass: *mut Bypass,
    turn: u64,
}

/// What userspace has armed for the next message of this node.
#[inline(always)]
pub(crate) fn armed(member: &Member) -> Option<Armed> {
    let bypass = bypass_of(member)?;
    let turn = turn_of(bypass);
    let is_open = matches!(turn::state(turn), turn::ARMED | turn::STARTED | turn::FLOWING);
    // The place is given to another connection when ours has ended, and this end may not know of that.
    // In this order: who has the place now had it when the turn was read.
    (is_open && our_end(member).is_established()).then_some(Armed { bypass, turn })
}

#[inline(always)]
fn our_end(member: &Member) -> Receiver {
    Receiver::new(member.peer_sock, member.peer)
}

/// What is sent goes to us: userspace carries the response, or what is left of it.
#[inline(always)]
pub(crate) fn spill(ctx: &SkMsgContext, armed: &Armed) {
    if turn::state(armed.turn) == turn::ARMED {
        change(armed.bypass, armed.turn, turn::SPILLED);
    } else if turn::state(armed.turn) == turn::FLOWING || is_next(ctx, armed) {
        hand_over(armed.bypass, armed.turn);
    } else {
        stats::count(give_up(armed));
    }
}

/// Sends the message to the client; if that cannot be, userspace carries the response, or the rest.
#[inline(always)]
pub(crate) fn pass(ctx: &SkMsgContext, armed: &Armed) -> Result<Reason, Reason> {
    let started = turn::with(armed.turn, turn::STARTED);
    if turn::state(armed.turn) == turn::ARMED {
        begin(ctx, armed).inspect_err(|_| spill(ctx, armed))?;
        return redirect(ctx, armed.bypass).inspect_err(|_| {
            change(armed.bypass, started, turn::SPILLED);
        });
    }
    if turn::state(armed.turn) == turn::STARTED {
        if !is_next(ctx, armed) {
            return Err(give_up(armed));
        }
    } else {
        claim(armed)?;
    }
    match redirect(ctx, armed.bypass) {
        Ok(_) => Ok(Reason::BypassContinued),
        Err(reason) => {
            hand_over(armed.bypass, started);
            Err(reason)
        }
    }
}

/// Makes sure that it is a response for it, and that userspace will leave it alone.
#[inline(always)]
fn begin(ctx: &SkMsgContext, armed: &Armed) -> Result<(), Reason> {
    let head = recognise(ctx, armed.bypass).ok_or(Reason::HeadRefused)?;
    let size = u64::from(head.size) + u64::from(head.content_length);
    if u64::from(ctx.size()) > size
        || size > u64::from(u32::MAX)
        || ctx.size() > LOCAL_WINDOW.load()
    {
        return Err(Reason::NotWhole);
    }
    claim(armed)?;
    // SAFETY: a slot of an array never goes away; nobody else writes there while it is claimed.
    let claimed = unsafe { &mut *armed.bypass };
    claimed.status = head.status.into();
    (claimed.head_size, claimed.body_size) = (head.size, head.content_length);
    claimed.progress.begun_ns = 0;
    (claimed.progress.queued, claimed.progress.offered) = (0, 0);
    claimed.progress.unread_messages = 0;
    Ok(())
}

/// Everything that userspace wrote before it armed is there: it is a barrier.
#[inline(always)]
fn claim(armed: &Armed) -> Result<(), Reason> {
    // SAFETY: a slot of an array never goes away; programs of this socket's calls alone write there.
    // Before the claim: whoever sees that knows whose it is.
    unsafe { (*armed.bypass).sender = current_task() };
    if change(armed.bypass, armed.turn, turn::STARTED) { Ok(()) } else { Err(Reason::TakenBack) }
}

/// Whether this is the next message of the call that has begun, which means that the kernel has queued
/// the one before. Neither somebody else's call, nor the rest of a message that was queued in part:
/// of such a one the kernel has moved the start.
#[inline(always)]
fn is_next(ctx: &SkMsgContext, armed: &Armed) -> bool {
    // SAFETY: a slot of an array never goes away; a field is read.
    let sender = unsafe { (*armed.bypass).sender };
    sender == current_task() && read_u32(ctx.as_ptr(), MSG_START.load()) == Some(0)
}

/// Userspace carries what is not queued. Nothing of the present call is under way.
#[inline(always)]
fn hand_over(bypass: *mut Bypass, from: u64) {
    // SAFETY: a slot of an array never goes away; programs of this socket's calls alone write there.
    course::all_queued(unsafe { &mut *bypass }, now());
    if change(bypass, from, turn::HANDED_OVER) {
        stats::count(Reason::HandedOver);
    }
}

/// Nobody knows what of the response is queued.
#[inline(always)]
fn give_up(armed: &Armed) -> Reason {
    change(armed.bypass, armed.turn, turn::BROKEN);
    Reason::TakenInPart
}

#[inline(always)]
fn redirect(ctx: &SkMsgContext, bypass: *mut Bypass) -> Result<Reason, Reason> {
    let (place, client) = client_of(bypass).ok_or(Reason::ClientNotReady)?;
    // SAFETY: a slot of an array never goes away; nobody else writes there while it is claimed.
    let claimed = unsafe { &mut *bypass };
    let due = course::due(claimed);
    if ctx.size() > due {
        return Err(Reason::NotWhole);
    }
    let is_first = due == claimed.size();
    if client.cookie == 0 {
        check_room(&client, due, is_first)?;
        if REMOTE_CLIENTS.redirect_msg(ctx, client.own, 0) == 0 {
            return Err(Reason::ClientNotReady);
        }
        claimed.progress.offered += ctx.size();
        return Ok(Reason::EgressBegun);
    }
    let unread = check_client(&client)?;
    if unread > 0 && is_first {
        return Err(Reason::ClientUnread);
    }
    let window = course::window(LOCAL_WINDOW.load());
    let message = Message { size: ctx.size(), unread, window };
    direct::admit(&mut claimed.progress.unread_messages, message)
        .map_err(|_| Reason::ClientUnread)?;
    if SOCKETS.redirect_msg(ctx, client.cookie, u64::from(BPF_F_INGRESS)) == 0 {
        return Err(Reason::ClientNotReady);
    }
    claimed.progress.offered += ctx.size();
    count_sent(place, u64::from(ctx.size()));
    Ok(Reason::BypassBegun)
}

/// Whether our end takes all that is due at once: a node that is told to wait would wait for a socket
/// that is not its own.
#[inline(always)]
fn check_room(client: &Client, size: u32, is_first: bool) -> Result<(), Reason> {
    let own = client.own_sock as *mut c_void;
    let end = Receiver::new(client.own_sock, client.own);
    if size > EGRESS_MAX.load() {
        return Err(Reason::NoRoom);
    }
    if !end.is_established() || read_u32(own, SOCK_OWNED.load()) != Some(0) {
        return Err(Reason::ClientNotReady);
    }
    let sent = read_u32(own, TCP_WRITE_SEQ.load()).ok_or(Reason::ClientNotReady)?;
    if is_first && read_u32(own, TCP_SND_UNA.load()) != Some(sent) {
        return Err(Reason::ClientInFlight);
    }
    let taken = read_u32(own, SOCK_SENDING.load()).ok_or(Reason::ClientNotReady)?;
    let limit = read_u32(own, SOCK_SEND_MAX.load()).ok_or(Reason::ClientNotReady)?;
    let segment = read_u32(own, TCP_SEGMENT.load()).ok_or(Reason::ClientNotReady)?;
    if !direct::fits(size, SendQueue { free: limit.saturating_sub(taken), segment }) {
        return Err(Reason::NoRoom);
    }
    end.check_identity()
}

/// Whether the client has all that we ever sent in its queue; what of that it has not read.
#[inline(always)]
fn check_client(client: &Client) -> Result<u32, Reason> {
    let receiver = Receiver::new(client.sock, client.cookie);
    let unread = receiver.look(false, true).map_err(|_| Reason::ClientNotReady)?;
    let own = client.own_sock as *mut c_void;
    let sent = read_u32(own, TCP_WRITE_SEQ.load()).ok_or(Reason::ClientNotReady)?;
    if read_u32(own, TCP_SND_UNA.load()) != Some(sent)
        || read_u32(client.sock as *mut c_void, TCP_RCV_NXT.load()) != Some(sent)
    {
        return Err(Reason::ClientInFlight);
    }
    // The entry may be that of a connection which had the place before ours.
    if !Receiver::new(client.own_sock, client.own).is_established() {
        return Err(Reason::ClientNotReady);
    }
    receiver.check_identity().map(|()| unread)
}

/// Runs when a call that sends is over, whoever's it is. `None`: it sent no response past us.
#[inline(always)]
pub(crate) fn try_bypass(ctx: &BtfTracePointContext) -> Option<Reason> {
    let sender: *mut c_void = ctx.arg(0);
    let taken: i32 = ctx.arg(1);
    let member = member(sender, 0)?;
    let bypass = bypass_of(member)?;
    let started = turn_of(bypass);
    if turn::state(started) != turn::STARTED {
        return None;
    }
    // SAFETY: a slot of an array never goes away; whoever claimed it wrote it, in this very call.
    let claimed = unsafe { &mut *bypass };
    if claimed.sender != current_task() {
        return None;
    }
    let (state, reason) = course::call_over(claimed, taken, now());
    change(bypass, started, state);
    if state == turn::HANDED_OVER {
        stats::count(Reason::HandedOver);
    }
    reason
}

/// Of a node's end, whose other end is ours.
#[inline(always)]
fn bypass_of(member: &Member) -> Option<*mut Bypass> {
    if member.state & (state::UPSTREAM | state::DOWNSTREAM | state::ACTIVE) != 0 {
        return None;
    }
    BYPASSES.get_ptr_mut(member.peer_place.checked_sub(1)?)
}

#[inline(always)]
fn current_task() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_current_pid_tgid() }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}

#[inline(always)]
fn client_of(bypass: *mut Bypass) -> Option<(u32, Client)> {
    // SAFETY: a slot of an array never goes away.
    let place = unsafe { &raw const (*bypass).client };
    // SAFETY: as above; a field is read at once.
    let place = unsafe { read_volatile(place) };
    let client = CLIENTS.get_ptr(place.checked_sub(1)?)?;
    // SAFETY: as above. Should another connection be given the place meanwhile, addresses and cookies
    // do not fit.
    Some((place, unsafe { read_volatile(client) }))
}

#[inline(always)]
fn turn_of(bypass: *mut Bypass) -> u64 {
    // SAFETY: a slot of an array never goes away.
    let turn = unsafe { &raw const (*bypass).turn };
    // SAFETY: as above; a word is read at once.
    unsafe { read_volatile(turn) }
}

/// Whether it was this word's turn.
#[inline(always)]
fn change(bypass: *mut Bypass, from: u64, state: u64) -> bool {
    // SAFETY: a slot of an array never goes away.
    let word = unsafe { &raw mut (*bypass).turn };
    exchange(word, from, turn::with(from, state))
}

/// The BPF target has the instruction (v5.12), and `core` no function for it.
#[cfg(target_arch = "bpf")]
#[inline(always)]
fn exchange(word: *mut u64, from: u64, to: u64) -> bool {
    use core::intrinsics::{AtomicOrdering::SeqCst, atomic_cxchg};
    // SAFETY: `change` gives a word that everybody changes this way.
    let (_, has_changed) = unsafe { atomic_cxchg::<u64, { SeqCst }, { SeqCst }>(word, from, to) };
    has_changed
}

#[cfg(not(target_arch = "bpf"))]
fn exchange(word: *mut u64, from: u64, to: u64) -> bool {
    use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
    // SAFETY: as above.
    let word = unsafe { AtomicU64::from_ptr(word) };
    word.compare_exchange(from, to, SeqCst, SeqCst).is_ok()
}

/// A message under recognition.
struct Scan {
    recogniser: *mut Recogniser,
    msg: *mut sk_msg_md,
    is_done: u64,
}

const _: () = assert!(size_of::<Recogniser>() <= size_of::<Progress>());

/// The head that the message begins with. What is armed for a socket is used under its lock.
#[inline(always)]
fn recognise(ctx: &SkMsgContext, bypass: *mut Bypass) -> Option<Head> {
    // SAFETY: a slot of an array never goes away; there is room for it, see above.
    let recogniser = unsafe { (&raw mut (*bypass).progress).cast::<Recogniser>() };
    // SAFETY: as above; nobody else uses it meanwhile, and what it was before is none of its business.
    unsafe { (*recogniser).restart() };
    let mut scan = Scan { recogniser, msg: ctx.as_ptr().cast(), is_done: 0 };
    // SAFETY: the callback takes what it is given here; no flag exists.
    unsafe { bpf_loop(STEPS_MAX, step as *mut c_void, (&raw mut scan).cast(), 0) };
    // SAFETY: as above.
    (scan.is_done != 0).then(|| unsafe { (*recogniser).head() })
}

/// 0: go on.
unsafe extern "C" fn step(_: u32, scan: *mut c_void) -> i64 {
    // SAFETY: what `recognise` gave to the loop.
    let scan = unsafe { &mut *scan.cast::<Scan>() };
    // SAFETY: the context is valid for the run of the program.
    let msg = unsafe { &*scan.msg };
    // SAFETY: the only variant of this union beside padding.
    let data = unsafe { msg.__bindgen_anon_1.data };
    // SAFETY: as above.
    let end = unsafe { msg.__bindgen_anon_2.data_end };
    // SAFETY: the front of the message, as far as the program may see it.
    let front = unsafe { Bytes::between(data as usize, end as usize) };
    // SAFETY: as in `recognise`.
    let recogniser = unsafe { &mut *scan.recogniser };
    match recogniser.step(&front) {
        Step::More => 0,
        Step::Done => {
            scan.is_done = 1;
            1
        }
        Step::Refused(_) => 1,
    }
}
