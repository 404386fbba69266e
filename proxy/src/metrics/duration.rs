//! A histogram of durations without a lock.
//!
//! `prometheus_client`'s own histogram takes a mutex for each observation; a worker that loses its
//! processor while holding it would stop all the others.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, TypedMetric},
};

/// Upper bounds, microseconds: half a millisecond to ten seconds, 1-2.5-5 steps.
const BOUNDS_US: [u64; 14] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

#[derive(Debug, Clone, Default)]
pub(super) struct DurationHistogram(Arc<Cells>);

#[derive(Debug, Default)]
struct Cells {
    /// By bound; the last holds what exceeds all of them.
    counts: [AtomicU64; BOUNDS_US.len() + 1],
    /// Wraps after 584 years of waiting.
    sum_ns: AtomicU64,
}

impl DurationHistogram {
    pub(super) fn observe(&self, duration: Duration) {
        let index = BOUNDS_US.partition_point(|&bound| u128::from(bound) < duration.as_micros());
        self.0.counts[index].fetch_add(1, Relaxed);
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.0.sum_ns.fetch_add(nanoseconds, Relaxed);
    }
}

impl TypedMetric for DurationHistogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for DurationHistogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let counts = self.0.counts.each_ref().map(|count| count.load(Relaxed));
        let sum = Duration::from_nanos(self.0.sum_ns.load(Relaxed)).as_secs_f64();
        // The encoder adds the buckets up.
        let bounds = BOUNDS_US.iter().map(|&us| Duration::from_micros(us).as_secs_f64());
        let buckets: Vec<(f64, u64)> = bounds.chain([f64::INFINITY]).zip(counts).collect();
        encoder.encode_histogram::<NoLabelSet>(sum, counts.iter().sum(), &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}
