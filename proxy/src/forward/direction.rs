//! One direction of a tunnel: where from, where to, how far, and since when nothing moved.

use std::{cell::Cell, future::poll_fn, io, net::Shutdown, time::Duration};

use socket2::SockRef;
use tokio::{
    io::Interest,
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    time::{Instant, sleep},
};

use super::{Fallback, Moved, Via};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Downstream,
    Upstream,
}

/// When a tunnel last moved a byte, in either direction.
pub(super) struct Activity(Cell<Instant>);

impl Activity {
    pub(super) fn now() -> Activity {
        Activity(Cell::new(Instant::now()))
    }

    /// Completes once nothing has moved for `idle`, neither here nor by the kernel, which says for
    /// how long it has not. A move only notes the time; the timer is set again when it fires, not
    /// with every move.
    pub(super) async fn idle_for(&self, idle: Duration, kernel: impl Fn() -> Option<Duration>) {
        loop {
            let here = self.0.get().elapsed();
            let since = kernel().map_or(here, |kernel| kernel.min(here));
            let Some(left) = idle.checked_sub(since).filter(|left| !left.is_zero()) else { return };
            sleep(left).await;
        }
    }
}

/// What one direction has done so far; outlives the direction, however it ends.
pub(super) struct Progress<'a> {
    activity: &'a Activity,
    asked: Via,
    moved: Cell<u64>,
    /// Why the path asked for was left, and how much it had moved by then.
    fallback: Cell<Option<(Fallback, u64)>>,
}

impl<'a> Progress<'a> {
    pub(super) fn new(asked: Via, activity: &'a Activity) -> Progress<'a> {
        Progress { activity, asked, moved: Cell::new(0), fallback: Cell::new(None) }
    }

    /// Notes bytes that the target's socket has taken.
    pub(super) fn record(&self, bytes: usize) {
        self.moved.set(self.moved.get() + bytes as u64);
        self.touch();
    }

    /// Notes that something moved.
    pub(super) fn touch(&self) {
        self.activity.0.set(Instant::now());
    }

    /// Completes once nothing has moved for `grace` from now on, in either direction.
    pub(super) async fn stalls(&self, grace: Duration) {
        self.touch();
        self.activity.idle_for(grace, || None).await;
    }

    pub(super) fn fall_back(&self, why: Fallback) {
        self.fallback.set(Some((why, self.moved.get())));
    }

    /// Bytes that the target's socket has taken from userspace.
    pub(super) fn moved(&self) -> Moved {
        let moved = self.moved.get();
        let as_asked = self.fallback.get().map_or(moved, |(_, as_asked)| as_asked);
        Moved::default().and(self.asked, as_asked).and(Via::User, moved - as_asked)
    }

    pub(super) fn fallback(&self) -> Option<Fallback> {
        self.fallback.get().map(|(why, _)| why)
    }
}

pub(super) struct Direction<'a> {
    /// The side that `source` belongs to.
    pub(super) from: Side,
    pub(super) source: ReadHalf<'a>,
    pub(super) target: WriteHalf<'a>,
    pub(super) progress: &'a Progress<'a>,
}

impl Direction<'_> {
    /// The source's socket has failed.
    pub(super) fn source_failed(&self, _: io::Error) -> Side {
        self.from
    }

    /// The target's socket has failed.
    pub(super) fn target_failed(&self, _: io::Error) -> Side {
        match self.from {
            Side::Downstream => Side::Upstream,
            Side::Upstream => Side::Downstream,
        }
    }

    /// Passes the end of the source's stream on.
    pub(super) fn end_target(&self) {
        let socket: &TcpStream = self.target.as_ref();
        // Fails only on a socket that is no longer connected, which its own direction will find.
        let _ = SockRef::from(socket).shutdown(Shutdown::Write);
    }

    /// Completes when the source's socket has failed, without reading from it.
    pub(super) async fn source_reset(&self) -> Side {
        match self.source.as_ref().ready(Interest::ERROR).await {
            Ok(_) | Err(_) => self.from,
        }
    }
}

/// Completes when the socket may have something to read, or has ended or failed.
pub(super) async fn readable(socket: &TcpStream) -> io::Result<()> {
    poll_fn(|cx| socket.poll_read_ready(cx)).await
}

/// Completes when the socket may take something, or has failed.
pub(super) async fn writable(socket: &TcpStream) -> io::Result<()> {
    poll_fn(|cx| socket.poll_write_ready(cx)).await
}
