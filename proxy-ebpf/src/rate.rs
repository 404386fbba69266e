//! The token bucket of one source, as one number: pure arithmetic, no map, no clock.
//!
//! The bucket is kept as the time at which it will be full again (the "theoretical arrival time"
//! of ITU-T I.371's generic cell rate algorithm). One `u64` is written whole, so two processors
//! never see half an update, and a bucket whose time has passed equals one never seen: it may be
//! forgotten, which is what a table that evicts needs.

/// How fast new connections may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Between two connections at the permitted rate.
    pub interval_ns: u64,
    /// How far ahead of now the bucket may be full again: `(burst - 1) × interval_ns`.
    pub tolerance_ns: u64,
}

impl Rate {
    /// Takes one token at `now_ns` from a bucket that will be full at `full_at_ns` (0: never used).
    /// Returns when it will be full after that; `None` if there is no token.
    #[inline(always)]
    pub const fn take(self, full_at_ns: u64, now_ns: u64) -> Option<u64> {
        let ahead_ns = full_at_ns.saturating_sub(now_ns);
        if ahead_ns > self.tolerance_ns {
            return None;
        }
        Some(now_ns.saturating_add(ahead_ns).saturating_add(self.interval_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten a second, three at once.
    const RATE: Rate = Rate { interval_ns: 100, tolerance_ns: 200 };

    #[track_caller]
    fn check(arrivals: &[(u64, bool)]) {
        let mut full_at = 0;
        for &(now, is_admitted) in arrivals {
            let taken = RATE.take(full_at, now);
            assert_eq!(taken.is_some(), is_admitted, "at {now}");
            full_at = taken.unwrap_or(full_at);
        }
    }

    #[test]
    fn admits_a_burst_and_then_the_rate() {
        check(&[(1000, true), (1000, true), (1000, true), (1000, false)]);
        check(&[
            (1000, true),
            (1000, true),
            (1000, true),
            (1099, false),
            (1100, true),
            (1101, false),
        ]);
    }

    #[test]
    fn a_refusal_costs_nothing() {
        check(&[(0, true), (0, true), (0, true), (50, false), (60, false), (100, true)]);
    }

    #[test]
    fn refills_to_the_burst_and_no_further() {
        check(&[(0, true), (9000, true), (9000, true), (9000, true), (9000, false)]);
    }

    #[test]
    fn survives_the_end_of_time() {
        assert_eq!(RATE.take(u64::MAX, u64::MAX), Some(u64::MAX));
        assert_eq!(RATE.take(u64::MAX, 0), None);
    }
}
