//! How busy one node is, as all workers together know it.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::config::Balancing;

/// What it takes for a latency to have lost all but 1/e of its say, as in APISIX.
const DECAY: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Load {
    /// Requests under way.
    active: AtomicU32,
    /// When it was picked last, counted in picks.
    pub(super) turn: AtomicU64,
    /// `None`: nobody asks for it.
    latency: Option<Latency>,
}

impl Load {
    pub(super) fn new(balancing: Balancing) -> Self {
        let is_timed = balancing == Balancing::Ewma;
        Self {
            active: AtomicU32::new(0),
            turn: AtomicU64::new(0),
            latency: is_timed.then(Latency::default),
        }
    }

    pub(super) fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }

    pub(super) fn begin(&self) {
        self.active.fetch_add(1, Relaxed);
    }

    /// One more, if there are `active`.
    pub(super) fn begin_at(&self, active: u32) -> bool {
        self.active.compare_exchange(active, active + 1, Relaxed, Relaxed).is_ok()
    }

    pub(super) fn end(&self) {
        self.active.fetch_sub(1, Relaxed);
    }

    pub(super) fn observe(&self, latency: Duration, now: Instant) {
        if let Some(estimate) = &self.latency {
            estimate.observe(latency, now);
        }
    }

    /// The latency that is to be expected, microseconds; `None`: there was no answer yet.
    pub(super) fn expected_latency(&self, now: Instant) -> Option<f32> {
        self.latency.as_ref()?.expected(now)
    }
}

/// A peak-sensitive moving average (peak EWMA, as in Finagle): a slower answer counts at once, faster
/// ones by and by, and without any the memory fades, so that a node that was slow is asked again.
#[derive(Debug, Default)]
struct Latency {
    /// The first answer.
    since: OnceLock<Instant>,
    /// Microseconds, an `f32` above 0, in the upper half; when, in milliseconds from `since` on, below.
    /// 0: never.
    packed: AtomicU64,
}

impl Latency {
    fn expected(&self, now: Instant) -> Option<f32> {
        let (average, at) = unpack(self.packed.load(Relaxed))?;
        Some(average * weight_after(elapsed(at, self.millis(now))))
    }

    /// Of several within a millisecond only the slowest counts.
    fn observe(&self, latency: Duration, now: Instant) {
        let (latency, now) = (latency.as_secs_f32() * 1e6 + 1.0, self.millis(now));
        let observed = |packed| {
            let Some((average, at)) = unpack(packed) else { return Some(pack(latency, now)) };
            if latency > average {
                return Some(pack(latency, now));
            }
            let weight = weight_after(elapsed(at, now));
            (weight < 1.0).then(|| pack(average * weight + latency * (1.0 - weight), now))
        };
        // `Err`: there is nothing to note.
        let _ = self.packed.fetch_update(Relaxed, Relaxed, observed);
    }

    /// Goes round after 49 days: a node that has not been asked for 25 is taken for one that just was.
    fn millis(&self, now: Instant) -> u32 {
        let since = self.since.get_or_init(|| now);
        now.saturating_duration_since(*since).as_millis() as u32
    }
}

/// 0 if another worker has read its clock a little later.
fn elapsed(at: u32, now: u32) -> u32 {
    now.wrapping_sub(at).cast_signed().max(0).cast_unsigned()
}

fn weight_after(millis: u32) -> f32 {
    (-(millis as f32) / DECAY.as_millis() as f32).exp()
}

fn pack(micros: f32, millis: u32) -> u64 {
    u64::from(micros.to_bits()) << 32 | u64::from(millis)
}

fn unpack(packed: u64) -> Option<(f32, u32)> {
    (packed != 0).then(|| (f32::from_bits((packed >> 32) as u32), packed as u32))
}
