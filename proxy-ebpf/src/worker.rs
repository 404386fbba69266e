//! `worker`: which worker's socket gets a new connection.
//!
//! By the kernel's own keyed hash of the four-tuple, not by the processor that received the
//! packet: on loopback, on veth and behind a NIC with one queue that is one processor for a whole
//! burst of connections, and its worker would get them all.

use core::mem::offset_of;

use aya_ebpf::{bindings::bpf_sock, programs::SkReuseportContext};
use proxy_common::{
    Reason,
    addr::{Address, Destination},
    steering::Listener,
};
use proxy_ebpf::choice;

use crate::maps::{DRAINED_WORKERS, LISTENER_BY_DST, WORKER_SOCKETS, WORKERS};

/// Chooses among the sockets of one listener. `Err`: nothing was chosen, the kernel chooses.
#[inline(always)]
pub(crate) fn try_worker(ctx: &SkReuseportContext) -> Result<Reason, Reason> {
    let (listener, is_migrating) = match ctx.migrating_sk() {
        None => (listener_at(Sock(ctx.sk().sock).bound_to()), false),
        Some(connection) => (listener_of(Sock(connection.sock).bound_to()), true),
    };
    let listener = listener.ok_or(Reason::UnknownListener)?;
    let drained = DRAINED_WORKERS.get(0).copied().unwrap_or_default();
    let (worker, reason) =
        choice::choose(ctx.hash(), WORKERS.load(), drained).ok_or(Reason::AllDrained)?;
    match WORKER_SOCKETS.select_reuseport(ctx, listener.slot(worker)) {
        Ok(()) if is_migrating => Ok(Reason::Migrated),
        Ok(()) => Ok(reason),
        Err(errno) => {
            aya_log_ebpf::debug!(ctx, "worker {} not selected: {}", worker, errno);
            Err(Reason::SelectFailed)
        }
    }
}

/// The listener that is bound exactly there.
#[inline(always)]
fn listener_at(bound: Option<Destination>) -> Option<Listener> {
    // SAFETY: copied out at once; userspace changes no entry while this is attached.
    unsafe { LISTENER_BY_DST.get(bound?) }.copied()
}

/// The listener that a connection to this address belongs to. The closed socket itself says nothing
/// any more: its port is gone.
#[inline(always)]
fn listener_of(destination: Option<Destination>) -> Option<Listener> {
    let destination = destination?;
    listener_at(Some(destination)).or_else(|| listener_at(Some(destination.wildcard())))
}

/// A socket of the context: the one that listens, or a connection that lost its listener. Valid
/// while the program runs (v5.14).
struct Sock(*mut bpf_sock);

impl Sock {
    /// Local address and port.
    #[inline(always)]
    fn bound_to(&self) -> Option<Destination> {
        /// `AF_INET` and `AF_INET6` of Linux, on every architecture.
        const INET: u32 = 2;
        const INET6: u32 = 10;
        // Both forms are read whatever the family: of two loads in two branches the compiler makes
        // one load at a computed address, and the verifier allows no arithmetic on a socket.
        let v4 = self.word(offset_of!(bpf_sock, src_ip4)).to_ne_bytes();
        let v6 = self.v6(offset_of!(bpf_sock, src_ip6));
        let address = match self.word(offset_of!(bpf_sock, family)) {
            INET => Address::v4(v4),
            INET6 => Address::v6(v6),
            _ => return None,
        };
        // In host order, unlike the addresses.
        let port = self.word(offset_of!(bpf_sock, src_port)) as u16;
        Some(Destination::new(address, port.to_be_bytes()))
    }

    /// One 32-bit field. Volatile, because the verifier refuses the wider load that the compiler
    /// would make of two neighbours.
    #[inline(always)]
    fn word(&self, offset: usize) -> u32 {
        // SAFETY: `offset` is that of a `u32` field of `bpf_sock`.
        let field = unsafe { self.0.byte_add(offset) }.cast::<u32>();
        // SAFETY: as above; the verifier checks it again.
        unsafe { field.read_volatile() }
    }

    #[inline(always)]
    fn v6(&self, offset: usize) -> [u8; 16] {
        let mut octets = [0; 16];
        for (index, word) in octets.chunks_exact_mut(4).enumerate() {
            word.copy_from_slice(&self.word(offset + index * 4).to_ne_bytes());
        }
        octets
    }
}
