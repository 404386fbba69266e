//! A named group of nodes, with everything all workers share about it.

use std::{sync::Arc, time::Instant};

use super::{balance::Balancer, retry::Retries};
use crate::{
    config,
    metrics::{Metrics, UpstreamMetrics},
};

#[derive(Debug)]
pub struct Upstream {
    /// What it was made of.
    pub config: Arc<config::Upstream>,
    pub balancer: Balancer,
    retries: Retries,
    pub metrics: Arc<UpstreamMetrics>,
}

impl Upstream {
    /// `before` is the upstream of this id in the configuration before.
    pub fn new(
        config: &Arc<config::Upstream>,
        before: Option<&Upstream>,
        metrics: &Metrics,
    ) -> Self {
        let before = before.map(|before| &before.balancer);
        let metrics = metrics.upstream(&config.id);
        Self {
            balancer: Balancer::new(&config.nodes, config.balancing, before),
            retries: Retries::new(config.retry_budget, metrics.requests(), Instant::now()),
            metrics,
            config: Arc::clone(config),
        }
    }

    /// Whether a request that a node may have seen may be sent once more.
    pub fn allows_retry(&self) -> bool {
        let is_allowed = self.retries.take(self.metrics.requests(), Instant::now());
        if !is_allowed {
            self.metrics.retry_refused();
        }
        is_allowed
    }

    pub fn id(&self) -> &Arc<str> {
        &self.config.id
    }
}
