//! A named group of nodes, with everything all workers share about it.

use std::sync::Arc;

use super::balance::Balancer;
use crate::{
    config,
    metrics::{Metrics, UpstreamMetrics},
};

#[derive(Debug)]
pub struct Upstream {
    /// What it was made of.
    pub config: Arc<config::Upstream>,
    pub balancer: Balancer,
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
        Self {
            balancer: Balancer::new(&config.nodes, config.balancing, before),
            metrics: metrics.upstream(&config.id),
            config: Arc::clone(config),
        }
    }

    pub fn id(&self) -> &Arc<str> {
        &self.config.id
    }
}
