//! Idle connections of one worker, by upstream and node; one pool for each lane.
//!
//! A connection comes back only when its last response was complete and another may follow
//! (`Pooled::rest`). The youngest is taken first, so the old ones can age out.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use foldhash::fast::RandomState;
use tokio::time::Instant;

use super::group::Upstream;
use crate::{kernel::KernelPlane, metrics::GaugeGuard};

/// A connection that can wait for the next request.
pub(crate) trait Pooled {
    /// By whose rules it was last taken.
    fn upstream(&mut self) -> &mut Arc<Upstream>;
    fn node(&self) -> SocketAddr;
    /// How often it was checked in.
    fn uses(&mut self) -> &mut u32;
    /// Lays it aside: whether another request may follow.
    fn rest(&mut self, kernel: &KernelPlane) -> bool;
    /// Whether it is still as it was laid aside.
    fn has_rested(&mut self) -> bool;
}

struct Idle<C> {
    connection: C,
    until: Instant,
    _counted: GaugeGuard,
}

/// Where the handles of an upstream's metrics are, and a node of it: an upstream that is configured
/// anew keeps those, and with them its connections. Nothing else can be there while a connection is
/// idle, as that holds them.
type Key = (usize, SocketAddr);

fn key(upstream: &Arc<Upstream>, node: SocketAddr) -> Key {
    (Arc::as_ptr(&upstream.metrics).addr(), node)
}

/// Whether the rules in force, by which it goes from now on, would have had it made the same way.
fn is_as_now(connection: &mut impl Pooled, upstream: &Arc<Upstream>) -> bool {
    let own = connection.upstream();
    if Arc::ptr_eq(own, upstream) {
        return true;
    }
    let is_as_now = own.config.is_same_host == upstream.config.is_same_host;
    own.clone_from(upstream);
    is_as_now
}

pub(crate) struct Pool<C> {
    idle: HashMap<Key, VecDeque<Idle<C>>, RandomState>,
    /// Kept to one node, unless its upstream says otherwise.
    idle_max: usize,
    timeout: Duration,
}

impl<C: Pooled> Pool<C> {
    pub(crate) fn new(idle_max: usize, timeout: Duration) -> Self {
        Self { idle: HashMap::default(), idle_max, timeout }
    }

    /// Takes the youngest idle connection to `node` that is still alive.
    pub(crate) fn checkout(&mut self, upstream: &Arc<Upstream>, node: SocketAddr) -> Option<C> {
        let idle = self.idle.get_mut(&key(upstream, node))?;
        while let Some(Idle { mut connection, .. }) = idle.pop_back() {
            if connection.has_rested() && is_as_now(&mut connection, upstream) {
                return Some(connection);
            }
        }
        None
    }

    /// Whether a connection to a node of `upstream` can come back at all.
    pub(crate) fn keeps(&self, upstream: &Upstream) -> bool {
        let pool = upstream.config.keepalive_pool;
        pool.size.unwrap_or(self.idle_max) > 0
            && pool.requests.is_none_or(|max| max > 1)
            && !pool.idle_timeout.unwrap_or(self.timeout).is_zero()
    }

    /// Keeps a connection if it may carry another request and there is room; else it is closed.
    pub(crate) fn checkin(&mut self, mut connection: C, kernel: &KernelPlane) {
        *connection.uses() += 1;
        let uses = *connection.uses();
        let node = connection.node();
        let upstream = connection.upstream();
        let pool = upstream.config.keepalive_pool;
        let idle = self.idle.entry(key(upstream, node)).or_default();
        let has_room = idle.len() < pool.size.unwrap_or(self.idle_max);
        // Last: it costs something to lay one aside.
        if has_room && pool.requests.is_none_or(|max| uses < max) && connection.rest(kernel) {
            let counted = connection.upstream().metrics.pool_idle();
            let until = Instant::now() + pool.idle_timeout.unwrap_or(self.timeout);
            idle.push_back(Idle { connection, until, _counted: counted });
        }
    }

    /// Closes what has been idle for too long or was closed by its node.
    pub(crate) fn sweep(&mut self) {
        let now = Instant::now();
        self.idle.retain(|_, idle| {
            idle.retain_mut(|idle| now < idle.until && idle.connection.has_rested());
            // Upstreams come and go.
            !idle.is_empty()
        });
    }

    pub(crate) fn clear(&mut self) {
        self.idle.clear();
    }
}
