//! Which worker gets a connection: a pure choice by the connection's hash.

use proxy_common::{Reason, limits::WORKERS_MAX, steering::DrainedWorkers};

/// The worker for a hash, among those not drained; `None` if all are.
///
/// A worker that is not drained keeps the connections that its share of the hash gives it; those
/// of a drained one are spread evenly over the rest.
#[inline(always)]
pub fn choose(hash: u32, workers: u32, drained: DrainedWorkers) -> Option<(u32, Reason)> {
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
