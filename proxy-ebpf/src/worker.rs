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
    limits::WORKERS_MAX,
    steering::DrainedWorkers,
};

use crate::maps::{DRAINED_WORKERS, LISTENER_BY_DST, WORKER_SOCKETS, WORKERS};

/// Chooses among the sockets of one listener. `Err`: nothing was chosen, the kernel chooses.
#[inline(always)]
pub fn try_worker(ctx: &SkReuseportContext) -> Result<Reason, Reason> {
    let bound = bound_to(ctx).ok_or(Reason::UnknownListener)?;
    // SAFETY: copied out at once; userspace changes no entry while it is attached.
    let listener = unsafe { LISTENER_BY_DST.get(bound) }.copied().ok_or(Reason::UnknownListener)?;
    let drained = DRAINED_WORKERS.get(0).copied().unwrap_or_default();
    let (worker, reason) = choose(ctx.hash(), WORKERS.load(), drained).ok_or(Reason::AllDrained)?;
    match WORKER_SOCKETS.select_reuseport(ctx, listener.slot(worker)) {
        Ok(()) => Ok(reason),
        Err(errno) => {
            aya_log_ebpf::debug!(ctx, "worker {} not selected: {}", worker, errno);
            Err(Reason::SelectFailed)
        }
    }
}

/// The worker for a hash, among those not drained; `None` if all are.
///
/// A worker that is not drained keeps the connections that its share of the hash gives it; those
/// of a drained one are spread evenly over the rest.
#[inline(always)]
fn choose(hash: u32, workers: u32, drained: DrainedWorkers) -> Option<(u32, Reason)> {
    let workers = workers.clamp(1, WORKERS_MAX);
    let active = !drained.bits() & (u64::MAX >> (WORKERS_MAX - workers));
    if active == 0 {
        return None;
    }
    let first = scale(hash, workers);
    if active >> first & 1 == 1 {
        return Some((first, Reason::Steered));
    }
    // The upper bits are spent: within one worker's share they say nothing any more.
    let rank = scale(hash.rotate_left(16), active.count_ones());
    Some((nth_set_bit(active, rank)?, Reason::SteeredAround))
}

/// Maps a hash onto `0..n` by its upper bits (the kernel's `reciprocal_scale`).
#[inline(always)]
const fn scale(hash: u32, n: u32) -> u32 {
    ((hash as u64 * n as u64) >> 32) as u32
}

/// Index of the set bit that has `rank` set bits below it.
#[inline(always)]
fn nth_set_bit(bits: u64, mut rank: u32) -> Option<u32> {
    for index in 0..WORKERS_MAX {
        if bits >> index & 1 == 0 {
            continue;
        }
        if rank == 0 {
            return Some(index);
        }
        rank -= 1;
    }
    None
}

/// Address and port that the listening socket is bound to.
#[inline(always)]
fn bound_to(ctx: &SkReuseportContext) -> Option<Destination> {
    /// `AF_INET` and `AF_INET6` of Linux, on every architecture.
    const INET: u32 = 2;
    const INET6: u32 = 10;
    let sock = Sock(ctx.sk().sock);
    // Both forms are read whatever the family: of two loads in two branches the compiler makes one
    // load at a computed address, and the verifier allows no arithmetic on a socket.
    let v4 = sock.word(offset_of!(bpf_sock, src_ip4)).to_ne_bytes();
    let v6 = sock.v6(offset_of!(bpf_sock, src_ip6));
    let address = match sock.word(offset_of!(bpf_sock, family)) {
        INET => Address::v4(v4),
        INET6 => Address::v6(v6),
        _ => return None,
    };
    // In host order, unlike the addresses.
    let port = sock.word(offset_of!(bpf_sock, src_port)) as u16;
    Some(Destination::new(address, port.to_be_bytes()))
}

/// The listening socket of the context, which is valid while the program runs (v5.14).
struct Sock(*mut bpf_sock);

impl Sock {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn shares(workers: u32, drained: &[u32]) -> [u32; 4] {
        let drained = drained.iter().fold(DrainedWorkers::default(), |all, &one| all.with(one));
        let mut shares = [0; 4];
        // A Weyl sequence: every region of the hash space, the same each run.
        for n in 0..4096_u32 {
            let hash = n.wrapping_mul(0x9e37_79b9);
            if let Some((worker, _)) = choose(hash, workers, drained) {
                shares[worker as usize] += 1;
            }
        }
        shares
    }

    #[track_caller]
    fn check(workers: u32, drained: &[u32], is_used: [bool; 4]) {
        let shares = shares(workers, drained);
        let used = is_used.iter().filter(|used| **used).count() as u32;
        for (worker, &share) in shares.iter().enumerate() {
            if is_used[worker] {
                let fair = 4096 / used;
                assert!(share.abs_diff(fair) < fair / 8, "worker {worker} of {shares:?}");
            } else {
                assert_eq!(share, 0, "worker {worker} of {shares:?}");
            }
        }
    }

    #[test]
    fn every_worker_gets_its_share() {
        check(1, &[], [true, false, false, false]);
        check(2, &[], [true, true, false, false]);
        check(3, &[], [true, true, true, false]);
        check(4, &[], [true; 4]);
    }

    #[test]
    fn a_drained_worker_gets_nothing_and_the_rest_share_its_part() {
        check(2, &[0], [false, true, false, false]);
        check(4, &[1], [true, false, true, true]);
        check(4, &[0, 3], [false, true, true, false]);
    }

    #[test]
    fn nobody_is_chosen_when_all_are_drained() {
        check(2, &[0, 1], [false; 4]);
        assert_eq!(choose(7, 2, DrainedWorkers::default().with(0).with(1)), None);
    }

    #[test]
    fn a_drained_neighbour_moves_nobody_else() {
        let drained = DrainedWorkers::default().with(2);
        for n in 0..4096_u32 {
            let hash = n.wrapping_mul(0x9e37_79b9);
            let before = choose(hash, 4, DrainedWorkers::default());
            let after = choose(hash, 4, drained);
            match before {
                Some((2, _)) => assert!(matches!(after, Some((_, Reason::SteeredAround)))),
                _ => assert_eq!(before, after),
            }
        }
    }

    #[test]
    fn all_64_workers_can_be_chosen() {
        assert_eq!(choose(u32::MAX, 64, DrainedWorkers::default()), Some((63, Reason::Steered)));
        assert_eq!(choose(0, 64, DrainedWorkers::default()), Some((0, Reason::Steered)));
        assert_eq!(nth_set_bit(1 << 63, 0), Some(63));
        assert_eq!(nth_set_bit(1 << 63, 1), None);
    }
}
