//! Entry points of the kernel half. Each calls its `try_*`, counts the reason and returns the
//! verdict; verdict numbers appear here and nowhere else.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics))]
#![cfg_attr(target_arch = "bpf", expect(internal_features, reason = "compare-and-swap"))]

mod bypass;
mod establish;
mod guard;
mod local;
mod maps;
mod remote;
mod sock;
mod stats;
mod tunnel;
mod unread;
mod worker;
mod xdp;

use aya_ebpf::{
    bindings::{sk_action, xdp_action},
    macros::{btf_tracepoint, classifier, sk_msg, sk_reuseport, sock_ops, stream_verdict, xdp},
    programs::{
        BtfTracePointContext, SkBuffContext, SkMsgContext, SkReuseportContext, SockOpsContext,
        TcContext, XdpContext,
    },
};
use proxy_common::Reason;

/// xdp: the guard, before the packet costs anything. Headers lie in the first buffer of a frame that
/// has several, so jumbo frames are no reason to stay away (v5.18).
#[xdp(frags)]
fn ingress(ctx: XdpContext) -> u32 {
    let (Ok(reason) | Err(reason)) = xdp::try_ingress(&ctx);
    stats::count(reason);
    match reason {
        Reason::Blocked | Reason::RateLimited => xdp_action::XDP_DROP,
        // What we do not understand is the kernel's business, not ours.
        Reason::NotIp
        | Reason::NotTcp
        | Reason::NotOurs
        | Reason::TooShort
        | Reason::Malformed
        | Reason::VlanTooDeep
        | Reason::ExtensionTooDeep
        | Reason::LaterFragment
        | Reason::Forwarded
        | Reason::Admitted
        | Reason::Untracked => xdp_action::XDP_PASS,
        // Reasons of the other programs: `ingress` never gives them.
        Reason::Steered
        | Reason::SteeredAround
        | Reason::Migrated
        | Reason::UnknownListener
        | Reason::AllDrained
        | Reason::SelectFailed
        | Reason::Redirected
        | Reason::EndOfStream
        | Reason::NoTunnel
        | Reason::NoPeer
        | Reason::WindowFull
        | Reason::Following
        | Reason::OutOfStep
        | Reason::LegSocket
        | Reason::Trimmed
        | Reason::LegBegun
        | Reason::LegFound
        | Reason::NotLeg
        | Reason::NotTaken
        | Reason::LegClosed
        | Reason::OtherNamespace
        | Reason::OtherUser
        | Reason::Blocking
        | Reason::ShortLived
        | Reason::LegsFull
        | Reason::NotPlain
        | Reason::SocketRefused
        | Reason::Delivered
        | Reason::NoLeg
        | Reason::SwitchedOff
        | Reason::HeldUp
        | Reason::NoReceiver
        | Reason::ReceiverBusy
        | Reason::NotEligible
        | Reason::InFlight
        | Reason::NotQueued
        | Reason::UnreadBytes
        | Reason::UnreadMessages
        | Reason::BypassBegun
        | Reason::EgressBegun
        | Reason::Bypassed
        | Reason::HeadRefused
        | Reason::NotWhole
        | Reason::TakenBack
        | Reason::ClientNotReady
        | Reason::ClientUnread
        | Reason::ClientInFlight
        | Reason::NoRoom
        | Reason::NotTakenIn
        | Reason::TakenInPart
        | Reason::BypassContinued
        | Reason::HandedOver => xdp_action::XDP_PASS,
    }
}

/// sk_reuseport: the worker that gets a new connection, or one that a closed worker leaves behind
/// (v5.14; without `migrate` the kernel resets those).
#[sk_reuseport(migrate)]
fn worker(ctx: SkReuseportContext) -> u32 {
    let (Ok(reason) | Err(reason)) = worker::try_worker(&ctx);
    stats::count(reason);
    // Without a selection this is the kernel's own choice; SK_DROP would refuse the connection.
    sk_action::SK_PASS
}

/// sk_skb verdict: moves the bytes of a tunnel.
#[stream_verdict]
fn tunnel(ctx: SkBuffContext) -> u32 {
    let (Ok(reason) | Err(reason)) = tunnel::try_tunnel(&ctx);
    stats::count(reason);
    if reason == Reason::EndOfStream {
        // No bytes are in it. Redirected, or passed while the socket's queue is not empty, it would
        // break a sending side: the kernel's worker takes 0 bytes moved for a failure (EPIPE).
        return sk_action::SK_DROP;
    }
    // With a redirection set it goes there, without one to userspace.
    sk_action::SK_PASS
}

/// sock_ops: finds the two ends of a connection on this host.
#[sock_ops]
fn establish(ctx: SockOpsContext) -> u32 {
    stats::count(establish::try_establish(&ctx));
    // Allowed; what is returned for these callbacks changes nothing.
    1
}

/// sk_msg: delivers what is sent on an end of a leg to the other one.
#[sk_msg]
fn local(ctx: SkMsgContext) -> u32 {
    let (Ok(reason) | Err(reason)) = local::try_local(&ctx);
    stats::count(reason);
    // With a redirection set it goes there, without one to TCP.
    sk_action::SK_PASS
}

/// BTF tracepoint (v5.5) at the end of every call that sends (v6.3): the one proof that a response is
/// where `local` sent it.
#[btf_tracepoint(function = "sock_send_length")]
fn bypass(ctx: BtfTracePointContext) -> i32 {
    if let Some(reason) = bypass::try_bypass(&ctx) {
        stats::count(reason);
    }
    0
}

/// classifier, only ever run by userspace (`BPF_PROG_TEST_RUN`): the bytes that a socket has unread.
#[classifier]
fn unread(ctx: TcContext) -> i32 {
    unread::of_socket(&ctx).map_or(0, |bytes| bytes.min(i32::MAX.unsigned_abs()) as i32)
}

/// classifier, only ever run by userspace: notes where the connection of a remote client is. 1: done.
#[classifier]
fn remote(ctx: TcContext) -> i32 {
    i32::from(remote::note(&ctx).is_some())
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// `bpf_probe_read_kernel` and others ask for a GPL-compatible licence.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(target_arch = "bpf"))]
fn main() {}
