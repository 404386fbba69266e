//! Idle connections of one worker, by node; one pool for each lane.
//!
//! A connection comes back only when its last response was complete and another may follow
//! (`Pooled::rest`). The youngest is taken first, so the old ones can age out.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use foldhash::fast::RandomState;
use tokio::time::Instant;

use crate::metrics::GaugeGuard;

/// A connection that can wait for the next request.
pub(crate) trait Pooled {
    fn node(&self) -> SocketAddr;
    /// Lays it aside: whether another request may follow.
    fn rest(&mut self) -> bool;
    /// Whether it is still as it was laid aside.
    fn has_rested(&mut self) -> bool;
    /// Counts it as idle until the guard is dropped.
    fn idle(&self) -> GaugeGuard;
}

struct Idle<C> {
    connection: C,
    since: Instant,
    _counted: GaugeGuard,
}

pub(crate) struct Pool<C> {
    idle: HashMap<SocketAddr, VecDeque<Idle<C>>, RandomState>,
    /// Kept to one node.
    idle_max: usize,
    timeout: Duration,
}

impl<C: Pooled> Pool<C> {
    pub(crate) fn new(idle_max: usize, timeout: Duration) -> Self {
        Self { idle: HashMap::default(), idle_max, timeout }
    }

    /// Takes the youngest idle connection to `node` that is still alive.
    pub(crate) fn checkout(&mut self, node: SocketAddr) -> Option<C> {
        let idle = self.idle.get_mut(&node)?;
        while let Some(Idle { mut connection, .. }) = idle.pop_back() {
            if connection.has_rested() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection if it may carry another request and there is room; else it is closed.
    pub(crate) fn checkin(&mut self, mut connection: C) {
        if !connection.rest() {
            return;
        }
        let idle = self.idle.entry(connection.node()).or_default();
        if idle.len() < self.idle_max {
            let counted = connection.idle();
            idle.push_back(Idle { connection, since: Instant::now(), _counted: counted });
        }
    }

    /// Closes what has been idle for too long or was closed by its node.
    pub(crate) fn sweep(&mut self) {
        let (now, timeout) = (Instant::now(), self.timeout);
        // Nodes are those of the configuration: each keeps its place.
        for idle in self.idle.values_mut() {
            idle.retain_mut(|idle| {
                now.duration_since(idle.since) < timeout && idle.connection.has_rested()
            });
        }
    }

    pub(crate) fn clear(&mut self) {
        self.idle.clear();
    }
}
