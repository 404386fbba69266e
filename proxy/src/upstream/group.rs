//! A named group of nodes, with everything all workers share about it.

use std::{sync::Arc, time::Instant};

use super::{
    balance::{Balancer, NodeIndex},
    health::{Health, Outcome},
    retry::Retries,
    sticky::Sticky,
};
use crate::{
    config,
    metrics::{Metrics, UpstreamMetrics},
};

#[derive(Debug)]
pub struct Upstream {
    /// What it was made of.
    pub config: Arc<config::Upstream>,
    pub balancer: Balancer,
    retries: Arc<Retries>,
    /// `None`: it ties nobody to a node.
    pub sticky: Option<Sticky>,
    /// `None`: its nodes always count as up.
    pub health: Option<Arc<Health>>,
    pub metrics: Arc<UpstreamMetrics>,
}

impl Upstream {
    /// `before` is the upstream of this id in the configuration before.
    pub fn new(
        config: &Arc<config::Upstream>,
        before: Option<&Upstream>,
        metrics: &Metrics,
    ) -> Self {
        let known = before.and_then(|before| before.health.as_deref());
        let (now, counts) = (Instant::now(), metrics.upstream(&config.id));
        let new_retries = || Arc::new(Retries::new(config.retry_budget, counts.requests(), now));
        Self {
            balancer: Balancer::new(
                &config.nodes,
                config.balancing,
                before.map(|before| &before.balancer),
            ),
            health: Health::new(config, known, metrics, now),
            retries: before
                .filter(|before| before.config.retry_budget == config.retry_budget)
                .map_or_else(new_retries, |before| Arc::clone(&before.retries)),
            sticky: Sticky::new(config),
            metrics: counts,
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

    /// Tells what a request or a connection has met on `node`.
    pub fn observe(&self, node: NodeIndex, outcome: Outcome) {
        if let Some(health) = &self.health {
            health.observe(node, outcome, Instant::now);
        }
    }
}
