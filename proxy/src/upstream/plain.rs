//! One connection to a node that the express lane reads and writes itself.

use std::{io, net::SocketAddr, os::fd::AsFd as _, sync::Arc};

use tokio::net::TcpStream;

use super::pool::Pooled;
use crate::{
    kernel::{Join, KernelPlane},
    metrics::{GaugeGuard, UpstreamMetrics},
};

/// A connection between two exchanges, or in one. It owns no buffer.
pub(crate) struct PlainConnection {
    pub(crate) node: SocketAddr,
    pub(crate) stream: TcpStream,
    /// Whether it comes out of the pool and the node has said nothing since.
    pub(crate) is_reused: bool,
    /// Whether the kernel delivers between it and the node, which is on this host.
    pub(crate) is_leg: bool,
    /// It has been asked for that.
    has_tried: bool,
    metrics: Arc<UpstreamMetrics>,
}

impl PlainConnection {
    pub(crate) fn new(stream: TcpStream, node: SocketAddr, metrics: &Arc<UpstreamMetrics>) -> Self {
        let metrics = Arc::clone(metrics);
        Self { node, stream, is_reused: false, is_leg: false, has_tried: false, metrics }
    }

    /// It lives for more than one request: worth what it costs to deliver directly.
    pub(crate) fn join_leg(&mut self, kernel: &KernelPlane) {
        if !self.has_tried {
            let join = kernel.join_leg(self.stream.as_fd());
            self.is_leg = join == Join::Joined;
            self.has_tried = join != Join::NotNow;
        }
    }
}

impl Pooled for PlainConnection {
    fn node(&self) -> SocketAddr {
        self.node
    }

    /// Whoever checks it in has read everything the node owed.
    fn rest(&mut self) -> bool {
        self.is_reused = true;
        true
    }

    /// Anything there is to read, a byte or the end, makes it unfit. Costs no system call if the
    /// socket has been silent since.
    fn has_rested(&mut self) -> bool {
        let read = self.stream.try_read(&mut [0]);
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    fn idle(&self) -> GaugeGuard {
        self.metrics.pool_idle()
    }
}
