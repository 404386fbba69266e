//! Pipes for `splice(2)`.

use prometheus_client::metrics::gauge::Gauge;

use super::{Families, GaugeGuard, PipeLabels};

/// Handles of the pipes of one worker.
#[derive(Debug, Clone, Default)]
pub struct PipeMetrics {
    busy: Gauge,
    idle: Gauge,
}

impl PipeMetrics {
    pub(super) fn new(families: &Families) -> PipeMetrics {
        let [busy, idle] =
            ["busy", "idle"].map(|state| families.pipes.get_or_create_owned(&PipeLabels { state }));
        PipeMetrics { busy, idle }
    }

    /// A pipe that a body or a tunnel holds until the guard is dropped.
    pub fn busy(&self) -> GaugeGuard {
        GaugeGuard::new(&self.busy)
    }

    /// An empty pipe that is kept until the guard is dropped.
    pub fn idle(&self) -> GaugeGuard {
        GaugeGuard::new(&self.idle)
    }

    /// How many are busy and how many idle.
    #[cfg(test)]
    pub(crate) fn counts(&self) -> [i64; 2] {
        [self.busy.get(), self.idle.get()]
    }
}
