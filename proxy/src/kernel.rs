//! The one door to BPF: what the kernel half does for the rest of the proxy.
//!
//! [`KernelPlane::load`] puts the programs into the kernel in a stated order, and dropping the plane
//! takes them out: links and programs belong to file descriptors of this process and nothing is
//! pinned, so a killed proxy leaves nothing behind either. Where a feature cannot be had, its method
//! does what `disabled` does: the bytes and answers stay the same.
//!
//! Of a request only legs come here, and only where `kernel.same_host` is enabled.

mod btf;
mod disabled;
mod ingress;
mod interface;
mod leg_watch;
mod loaded;
mod loader;
mod log;
mod places;
mod rules;
mod same_host;
mod sockets;
mod sockmap;
mod stats;
mod status;
mod steering;

use std::{fmt, net::SocketAddr, os::fd::BorrowedFd};

use self::{disabled::Disabled, loaded::Loaded, same_host::SameHost};
pub use self::{
    leg_watch::LegWatch,
    loader::{is_built_in, object},
    same_host::{Armed, Join, Legs, Meter, OtherEnd, Outlook, Passed, Turn},
    sockmap::{End, Tunnel, TunnelRefused},
    stats::Counter,
    status::{Feature, FeatureState, MapStatus, ProgramStatus, Running, Status},
};
use crate::config::{Kernel, KernelMode, Limits};

/// The kernel half as it runs, or its absence.
pub struct KernelPlane {
    plane: Plane,
}

enum Plane {
    Loaded(Box<Loaded>),
    Disabled(Disabled),
}

impl KernelPlane {
    /// Loads what the configuration asks for. `listeners` are the bound addresses, in the order of
    /// the configuration; `workers` how many sockets each of them has.
    ///
    /// The guard judges packets to these addresses from here on; connections are steered once
    /// [`steer`](Self::steer) has been called for their listener.
    ///
    /// # Errors
    /// Only under [`KernelMode::Require`]. Under [`KernelMode::Auto`] what cannot be had is a line in
    /// [`status`](Self::status), and part of what [`warn`](Self::warn) says.
    pub fn load(
        config: &Kernel,
        limits: &Limits,
        listeners: &[SocketAddr],
        workers: usize,
    ) -> anyhow::Result<Self> {
        Self::load_object(object(), config, limits, listeners, workers)
    }

    /// [`load`](Self::load) of another object than the one this binary carries. An object with
    /// another ABI version is refused.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_object(
        object: Option<&[u8]>,
        config: &Kernel,
        limits: &Limits,
        listeners: &[SocketAddr],
        workers: usize,
    ) -> anyhow::Result<Self> {
        if config.mode == KernelMode::Off {
            return Ok(Self::off());
        }
        let plane = match Loaded::new(object, config, limits, listeners, workers) {
            Ok(loaded) => Plane::Loaded(Box::new(loaded)),
            Err(error) if config.mode == KernelMode::Require => return Err(error),
            Err(error) => Plane::Disabled(Disabled::because(format!("{error:#}"))),
        };
        Ok(Self { plane })
    }

    /// A plane that does nothing, as under `kernel.mode: off`.
    pub fn off() -> Self {
        Self { plane: Plane::Disabled(Disabled::off()) }
    }

    /// Steers new connections of a listener among its sockets, which listen already and stand in
    /// the order of the workers.
    ///
    /// # Errors
    /// Only under [`KernelMode::Require`].
    pub fn steer(&self, listener: usize, sockets: &[BorrowedFd<'_>]) -> anyhow::Result<()> {
        match &self.plane {
            Plane::Loaded(loaded) => loaded.steer(listener, sockets),
            Plane::Disabled(disabled) => disabled.steer(listener, sockets),
        }
    }

    /// Gives a worker nothing new from here on. What the kernel has completed for it stays its own.
    pub fn drain_worker(&self, worker: usize) {
        match &self.plane {
            Plane::Loaded(loaded) => loaded.drain_worker(worker),
            Plane::Disabled(disabled) => disabled.drain_worker(worker),
        }
    }

    /// Lets the kernel move the bytes between two connections until the tunnel is dropped.
    ///
    /// # Errors
    /// The kernel half does not run, or it cannot take these sockets: the caller moves the bytes.
    pub fn tunnel(
        &self,
        downstream: BorrowedFd<'_>,
        upstream: BorrowedFd<'_>,
    ) -> Result<Tunnel, TunnelRefused> {
        match &self.plane {
            Plane::Loaded(loaded) => loaded.tunnel(downstream, upstream),
            Plane::Disabled(disabled) => disabled.tunnel(downstream, upstream),
        }
    }

    /// Says where each listener is bound, and whether it takes clients on this host for ends of legs.
    ///
    /// # Errors
    /// Only under [`KernelMode::Require`].
    pub fn take_legs(&self, listeners: &[(SocketAddr, bool)]) -> anyhow::Result<()> {
        match &self.plane {
            Plane::Loaded(loaded) => loaded.take_legs(listeners),
            Plane::Disabled(_) => Ok(()),
        }
    }

    /// The one warning of a start: every feature that was asked for and cannot be had, each with the
    /// step that failed and its errno. To be called when the last step is done.
    pub fn warn(&self) {
        let status = self.status();
        if let Some(reason) = &status.detail {
            tracing::warn!(reason, "kernel plane off, serving in userspace");
            return;
        }
        let fallbacks = status.features.iter().filter(|it| it.state == FeatureState::Fallback);
        let reasons: Vec<_> = fallbacks.map(|it| format!("`{}`: {}", it.name, it.detail)).collect();
        if !reasons.is_empty() {
            let reason = reasons.join("; ");
            tracing::warn!(reason, "not all of it in the kernel, serving the rest in userspace");
        }
    }

    /// Marks a socket that is about to connect to a node, which may be on this host.
    pub fn mark_upstream(&self, socket: BorrowedFd<'_>) {
        if let Some(same_host) = self.same_host() {
            same_host.mark(socket);
        }
    }

    /// Whether anything is delivered just now.
    pub fn delivers(&self) -> bool {
        self.same_host().is_some_and(SameHost::is_enabled)
    }

    /// Lets the kernel deliver between a connection and its other end, if that is on this host.
    pub fn join_leg(&self, socket: BorrowedFd<'_>) -> Join {
        self.same_host().map_or(Join::Never, |same_host| same_host.join(socket))
    }

    /// Lets responses go past us to the client of a connection, which is on another host; for as long as
    /// the meter lives.
    pub fn admit_remote(&self, socket: BorrowedFd<'_>) -> Option<Meter> {
        match &self.plane {
            Plane::Loaded(loaded) => loaded.admit_remote(socket),
            Plane::Disabled(_) => None,
        }
    }

    /// Switches direct delivery on and off while connections live; `false`: it does not run.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn switch_same_host(&self, is_enabled: bool) -> anyhow::Result<bool> {
        let Some(same_host) = self.same_host() else { return Ok(false) };
        same_host.switch(is_enabled).map(|()| true)
    }

    /// What becomes of a connection to a node that has joined.
    pub fn leg_outlook(&self, socket: BorrowedFd<'_>) -> Outlook {
        self.same_host().map_or(Outlook::Unknown, |same_host| same_host.outlook(socket))
    }

    /// Where the other end of a connection is, and whether anybody can read there.
    pub fn other_end(&self, socket: BorrowedFd<'_>) -> OtherEnd {
        self.same_host().map_or(OtherEnd::Elsewhere, |same_host| same_host.other_end(socket))
    }

    /// Has everything that our socket sends go by TCP again, if what was watched took so long that
    /// the other end must have held it up. Nobody may be sending on the socket. Whether that was so.
    #[inline]
    pub fn check_leg(&self, watch: &LegWatch, socket: BorrowedFd<'_>) -> bool {
        if !watch.has_been_held_up() {
            return false;
        }
        let Some(same_host) = self.same_host() else { return false };
        same_host.leave(socket);
        true
    }

    /// Has everything that our socket sends go by TCP, as the other end has no memory for what would be
    /// delivered; TCP waits until it has. Nobody may be sending on the socket. `false`: it did already,
    /// and what was sent failed for another reason.
    pub fn deliver_no_more(&self, socket: BorrowedFd<'_>) -> bool {
        self.same_host().is_some_and(|same_host| same_host.deliver_no_more(socket))
    }

    /// Bytes that were delivered and nobody has read yet. Takes a call for each end in the map.
    pub fn unread(&self) -> u64 {
        match &self.plane {
            Plane::Loaded(loaded) => loaded.unread(),
            Plane::Disabled(_) => 0,
        }
    }

    fn same_host(&self) -> Option<&SameHost> {
        match &self.plane {
            Plane::Loaded(loaded) => loaded.same_host(),
            Plane::Disabled(_) => None,
        }
    }

    /// What was asked for, what runs, and why the rest does not.
    pub fn status(&self) -> Status {
        match &self.plane {
            Plane::Loaded(loaded) => loaded.status(),
            Plane::Disabled(disabled) => disabled.status(),
        }
    }

    /// Every counter of the programs that run, zeros included.
    pub fn counters(&self) -> Vec<Counter> {
        match &self.plane {
            Plane::Loaded(loaded) => loaded.counters(),
            Plane::Disabled(disabled) => disabled.counters(),
        }
    }
}

impl fmt::Debug for KernelPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelPlane").field("status", &self.status()).finish()
    }
}
