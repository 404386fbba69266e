//! What an upstream counts.

use std::sync::Arc;

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

use super::{Families, GaugeGuard, Name, UpstreamLabels, UpstreamResultLabels};

/// Handles of one upstream.
#[derive(Debug)]
pub struct UpstreamMetrics {
    upstream: Name,
    connects: [Counter; ConnectResult::ALL.len()],
    checkouts: [Counter; Checkout::ALL.len()],
    pool_idle: Gauge,
    retries: Counter,
    retries_refused: Counter,
    /// Of `retries` those of connections, which no pool was asked for; on no page.
    redials: Counter,
}

impl UpstreamMetrics {
    pub(super) fn new(families: &Families, upstream: Name) -> UpstreamMetrics {
        let labels = UpstreamLabels { upstream: Arc::clone(&upstream) };
        let with = |result| UpstreamResultLabels { upstream: Arc::clone(&upstream), result };
        UpstreamMetrics {
            connects: ConnectResult::ALL
                .map(|result| families.connects.get_or_create_owned(&with(result.label()))),
            checkouts: Checkout::ALL
                .map(|result| families.checkouts.get_or_create_owned(&with(result.label()))),
            pool_idle: families.pool_idle.get_or_create_owned(&labels),
            retries: families.retries.get_or_create_owned(&labels),
            retries_refused: families.retries_refused.get_or_create_owned(&labels),
            redials: Counter::default(),
            upstream,
        }
    }

    /// Takes its series off the page.
    pub(super) fn forget(&self, families: &Families) {
        let with = |result| UpstreamResultLabels { upstream: Arc::clone(&self.upstream), result };
        for result in ConnectResult::ALL {
            families.connects.remove(&with(result.label()));
        }
        for result in Checkout::ALL {
            families.checkouts.remove(&with(result.label()));
        }
        let labels = UpstreamLabels { upstream: Arc::clone(&self.upstream) };
        families.pool_idle.remove(&labels);
        families.retries.remove(&labels);
        families.retries_refused.remove(&labels);
    }

    /// One node was dialled.
    pub fn connect(&self, result: ConnectResult) {
        self.connects[result as usize].inc();
    }

    /// A connection was asked of the pool.
    pub fn checkout(&self, result: Checkout) {
        self.checkouts[result as usize].inc();
    }

    /// A connection that waits in the pool until the guard is dropped.
    pub fn pool_idle(&self) -> GaugeGuard {
        GaugeGuard::new(&self.pool_idle)
    }

    /// Requests so far, each counted once however often it was sent.
    pub fn requests(&self) -> u64 {
        let count = |result: Checkout| self.checkouts[result as usize].get();
        let repeated = self.retries.get().saturating_sub(self.redials.get());
        (count(Checkout::Reused) + count(Checkout::New)).saturating_sub(repeated)
    }

    /// The budget for retries was used up.
    pub fn retry_refused(&self) {
        self.retries_refused.inc();
    }

    /// A request went to a further node, or once more over a new connection.
    pub fn retry(&self) {
        self.retries.inc();
    }

    /// A connection that carries no requests went to a further node.
    pub fn redial(&self) {
        self.redials.inc();
        self.retries.inc();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectResult {
    Connected,
    /// Refused, unreachable, or anything else that no other result is for.
    Refused,
    TimedOut,
    /// Not tried for want of a file of our own.
    OutOfFiles,
}

impl ConnectResult {
    pub(super) const ALL: [ConnectResult; 4] = [
        ConnectResult::Connected,
        ConnectResult::Refused,
        ConnectResult::TimedOut,
        ConnectResult::OutOfFiles,
    ];

    const fn label(self) -> &'static str {
        match self {
            ConnectResult::Connected => "connected",
            ConnectResult::Refused => "refused",
            ConnectResult::TimedOut => "timeout",
            ConnectResult::OutOfFiles => "out_of_files",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checkout {
    /// An idle connection that still lives.
    Reused,
    /// None was idle: one has to be dialled.
    New,
    /// An idle connection that turned out to be closed; another checkout follows.
    Stale,
}

impl Checkout {
    pub(super) const ALL: [Checkout; 3] = [Checkout::Reused, Checkout::New, Checkout::Stale];

    const fn label(self) -> &'static str {
        match self {
            Checkout::Reused => "reused",
            Checkout::New => "new",
            Checkout::Stale => "stale",
        }
    }
}
