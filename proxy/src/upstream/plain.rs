//! One connection to a node that the express lane reads and writes itself.

use std::{io, net::SocketAddr, os::fd::AsFd as _, sync::Arc};

use tokio::net::TcpStream;

use super::{group::Upstream, pool::Pooled};
use crate::{
    kernel::{Join, KernelPlane, Meter, Outlook},
    sys::socket,
};

/// Check-ins at which a connection is looked at: it joins at the first, what is sent next shows whether
/// its node blocks, and after that it is known what it is good for.
const LEG_TRIES_MAX: u8 = 4;

/// A connection between two exchanges, or in one. It owns no buffer. Boxed, as it is handed on from
/// stage to stage.
pub(crate) struct PlainConnection {
    pub(crate) node: SocketAddr,
    pub(crate) stream: TcpStream,
    /// Whether it comes out of the pool and the node has said nothing since.
    pub(crate) is_reused: bool,
    /// Whether the kernel delivers between it and the node, which is on this host.
    is_leg: bool,
    meter: Option<Meter>,
    /// How often more is still asked for that.
    tries_left: u8,
    upstream: Arc<Upstream>,
    uses: u32,
}

impl PlainConnection {
    pub(crate) fn new(stream: TcpStream, node: SocketAddr, upstream: &Arc<Upstream>) -> Self {
        Self {
            node,
            stream,
            is_reused: false,
            is_leg: false,
            meter: None,
            tries_left: LEG_TRIES_MAX,
            upstream: Arc::clone(upstream),
            uses: 0,
        }
    }

    /// Whether nobody may `splice(2)` from it.
    pub(crate) fn is_leg(&self) -> bool {
        self.is_leg
    }

    /// Of a connection that has joined.
    pub(crate) fn meter(&self) -> Option<&Meter> {
        self.meter.as_ref()
    }

    /// Whether anything was delivered since the last call.
    pub(crate) fn was_delivered(&mut self) -> bool {
        self.meter.as_mut().is_some_and(|meter| meter.advance() != [0; 2])
    }

    /// It lives for more than one request: worth what it costs to deliver directly. `false`: a new
    /// connection would be delivered, and this one never will be.
    fn join_leg(&mut self, kernel: &KernelPlane) -> bool {
        if self.tries_left == 0 {
            return true;
        }
        self.tries_left -= 1;
        let socket = self.stream.as_fd();
        if !self.is_leg {
            match kernel.join_leg(socket) {
                Join::Joined(meter) => (self.is_leg, self.meter) = (true, meter),
                Join::NotNow => self.tries_left += 1,
                Join::Never => self.tries_left = 0,
            }
            return true;
        }
        match kernel.leg_outlook(socket) {
            Outlook::Direct => self.tries_left = 0,
            Outlook::Better => return false,
            Outlook::Unknown => {}
        }
        true
    }
}

impl Drop for PlainConnection {
    /// A node that is still sending learns of it by a reset, as TCP has it where something is unread; of
    /// what was delivered it does not know.
    fn drop(&mut self) {
        if self.is_leg
            && socket::has_unread(&self.stream)
            && let Err(error) = socket::reset_on_close(&self.stream)
        {
            tracing::debug!(%error, "linger");
        }
    }
}

impl Pooled for Box<PlainConnection> {
    fn upstream(&mut self) -> &mut Arc<Upstream> {
        &mut self.upstream
    }

    fn node(&self) -> SocketAddr {
        self.node
    }

    fn uses(&mut self) -> &mut u32 {
        &mut self.uses
    }

    /// Whoever checks it in has read everything the node owed.
    fn rest(&mut self, kernel: &KernelPlane) -> bool {
        self.is_reused = true;
        self.join_leg(kernel)
    }

    /// Anything there is to read, a byte or the end, makes it unfit. Costs no system call if the
    /// socket has been silent since.
    fn has_rested(&mut self) -> bool {
        let read = self.stream.try_read(&mut [0]);
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}
