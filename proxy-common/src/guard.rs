//! Values of the guard's maps.

use crate::shared_layout;

/// What a prefix says of the sources in it: value of `RULE_BY_PREFIX4` and `RULE_BY_PREFIX6`.
///
/// The longest prefix decides, so userspace leaves out each denied prefix that lies in an allowed
/// one: that is how "allow beats deny" becomes one lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Rule {
    /// 0: allowed; anything else: denied.
    denied: u32,
}

shared_layout!(Rule, size = 4, align = 4, { 0 => denied: u32 });

impl Rule {
    pub const ALLOW: Self = Self { denied: 0 };
    pub const DENY: Self = Self { denied: 1 };

    #[inline(always)]
    pub const fn is_denied(self) -> bool {
        self.denied != 0
    }
}

/// Token bucket of one source: value of `RATE_BY_SOURCE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Bucket {
    full_at_ns: u64,
}

shared_layout!(Bucket, size = 8, align = 8, { 0 => full_at_ns: u64 });

impl Bucket {
    #[inline(always)]
    pub const fn new(full_at_ns: u64) -> Self {
        Self { full_at_ns }
    }

    /// When it will be full again, on the kernel's monotonic clock.
    #[inline(always)]
    pub const fn full_at_ns(self) -> u64 {
        self.full_at_ns
    }
}

/// How many new sources one processor has seen in the running second: value of `FLOOD_GAUGE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct FloodGauge {
    second_began_ns: u64,
    new_sources: u64,
}

shared_layout!(FloodGauge, size = 16, align = 8, { 0 => second_began_ns: u64, 8 => new_sources: u64 });

impl FloodGauge {
    const SECOND_NS: u64 = 1_000_000_000;

    /// Counts one more and returns how many that makes in this second.
    #[inline(always)]
    pub const fn count(&mut self, now_ns: u64) -> u64 {
        if now_ns.saturating_sub(self.second_began_ns) >= Self::SECOND_NS {
            *self = Self { second_began_ns: now_ns, new_sources: 0 };
        }
        self.new_sources = self.new_sources.saturating_add(1);
        self.new_sources
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gauge_starts_again_every_second() {
        let mut gauge = FloodGauge { second_began_ns: 0, new_sources: 0 };
        let counted = [5_000_000_000, 5_000_000_001, 5_999_999_999, 6_000_000_000, 9_000_000_000]
            .map(|now| gauge.count(now));
        assert_eq!(counted, [1, 2, 3, 1, 1]);
    }
}
