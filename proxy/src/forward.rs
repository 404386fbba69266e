//! Moves the bytes of a tunnel between two sockets, by one of three paths, and says which.
//!
//! In: two connected sockets and the path asked for. Out: a [`Transfer`]. A path that cannot be had
//! is replaced by the next simpler one and the reason returned, never an error. Nothing is parsed,
//! logged or measured here, and the sockets are closed by whoever owns them.
//!
//! Each direction ends by itself: end of stream on one side is passed on as such once everything
//! before it has been written. A side that fails ends both, but not before what it sent has been
//! written: the other side is then set up to be reset when it is closed, as it would have been
//! without us in between.

use std::{cell::Cell, os::fd::AsFd as _, pin::pin, sync::Arc, time::Duration};

use tokio::{
    net::TcpStream,
    sync::Barrier,
    time::{Instant, sleep},
};

use crate::{
    config::{self, Datapath},
    error::Fault,
    kernel::{End, KernelPlane, Tunnel, TunnelRefused},
    metrics::PipeMetrics,
    sys,
};

mod copy;
mod direction;
mod pipes;
mod sockmap;
mod splice;
#[cfg(test)]
mod tests;

use direction::{Activity, Direction, Progress, Side};
pub(crate) use pipes::PooledPipe;
pub use pipes::{PipeLimits, PipePool};

/// How long none of the bytes that arrived before a reset may have moved before the reset is passed
/// on. Without it, a node that answers and closes with unread input would lose its answer here.
const RESET_GRACE: Duration = Duration::from_secs(1);
/// Longest pause between two looks at whether they have.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// Which path carried the bytes, ascending by how much of the work the kernel does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Via {
    User,
    Splice,
    Sockmap,
    Local,
    Bypass,
}

impl Via {
    pub const ALL: [Via; 5] = [Via::User, Via::Splice, Via::Sockmap, Via::Local, Via::Bypass];

    /// Label in the access log and in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Via::User => "user",
            Via::Splice => "splice",
            Via::Sockmap => "sockmap",
            Via::Local => "local",
            Via::Bypass => "bypass",
        }
    }
}

/// Why a tunnel, or one of its directions, was carried by a simpler path than the one asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fallback {
    /// `splice`: no file descriptor, none left of the pool's limit, or too small a pipe.
    NoPipe,
    /// `sockmap`: the kernel does not move this tunnel.
    Refused(TunnelRefused),
}

impl Fallback {
    pub const ALL: [Fallback; 7] = [
        Fallback::NoPipe,
        Fallback::Refused(TunnelRefused::KernelOff),
        Fallback::Refused(TunnelRefused::Full),
        Fallback::Refused(TunnelRefused::HalfClosed),
        Fallback::Refused(TunnelRefused::Busy),
        Fallback::Refused(TunnelRefused::Failed),
        Fallback::Refused(TunnelRefused::Stranded),
    ];

    /// Metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Fallback::NoPipe => "no_pipe",
            Fallback::Refused(TunnelRefused::KernelOff) => "kernel_off",
            Fallback::Refused(TunnelRefused::Full) => "full",
            Fallback::Refused(TunnelRefused::HalfClosed) => "half_closed",
            Fallback::Refused(TunnelRefused::Busy) => "busy",
            Fallback::Refused(TunnelRefused::Failed) => "failed",
            Fallback::Refused(TunnelRefused::Stranded) => "stranded",
        }
    }
}

/// Bytes of one direction, by the path that moved them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved([u64; Via::ALL.len()]);

impl Moved {
    /// The same and these.
    #[must_use]
    pub const fn and(mut self, via: Via, bytes: u64) -> Moved {
        self.0[via as usize] += bytes;
        self
    }

    pub const fn by(self, via: Via) -> u64 {
        self.0[via as usize]
    }

    pub fn total(self) -> u64 {
        self.0.iter().sum()
    }
}

/// What a tunnel moved before it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// To the downstream.
    pub sent: Moved,
    /// From the downstream.
    pub recv: Moved,
    /// The path on which the kernel did most for any of it.
    pub via: Via,
    /// `None`: the path asked for was taken.
    pub fallback: Option<Fallback>,
    /// `None`: both sides closed in good order.
    pub end: Option<Fault>,
}

/// What the tunnels of one worker share.
pub struct TunnelContext {
    pub kernel: Arc<KernelPlane>,
    pub pipes: PipePool,
    /// Ceiling of a copy buffer, bytes for each direction.
    pub buffer_max: usize,
    /// `SO_SNDBUF` of both sockets, bytes.
    pub send_buffer: usize,
    /// `TCP_NOTSENT_LOWAT` of both sockets, bytes.
    pub unsent_max: usize,
    /// How long a tunnel may live in which neither direction moves.
    pub idle: Duration,
}

impl TunnelContext {
    pub fn new(
        kernel: Arc<KernelPlane>,
        limits: &config::Limits,
        timeouts: &config::Timeouts,
        pipes: PipeMetrics,
    ) -> TunnelContext {
        TunnelContext {
            kernel,
            pipes: PipePool::new(PipeLimits::new(limits.pipe_size), pipes),
            buffer_max: limits.stream_buffer_max,
            send_buffer: limits.send_buffer,
            unsent_max: limits.unsent_max,
            idle: timeouts.stream_idle,
        }
    }
}

/// Moves bytes both ways until both sides have ended, one fails, nothing has moved for `cx.idle`, or
/// `deadline` (of the drain) completes. Both sockets come with their send queues bounded. They are
/// good for nothing but closing afterwards, and so they are if the future is dropped.
pub async fn run(
    downstream: &mut TcpStream,
    upstream: &mut TcpStream,
    datapath: Datapath,
    cx: &TunnelContext,
    deadline: impl Future<Output = ()>,
) -> Transfer {
    for socket in [&*downstream, &*upstream] {
        // The kernel moves urgent bytes like any others, and so the other paths do. Only a socket
        // that is not there refuses.
        let _ = sys::socket::keep_urgent_inline(socket);
    }
    let (path, refused) = Path::choose(datapath, cx, downstream, upstream);
    let activity = Activity::now();
    let (recv, sent) = (Progress::new(path.via(), &activity), Progress::new(path.via(), &activity));
    let (down_read, down_write) = downstream.split();
    let (up_read, up_write) = upstream.split();
    let both_ways = both_ways(
        Direction { from: Side::Downstream, source: down_read, target: up_write, progress: &recv },
        Direction { from: Side::Upstream, source: up_read, target: down_write, progress: &sent },
        &path,
        cx,
    );
    let mut deadline = pin!(deadline);
    let end = tokio::select! {
        ended = both_ways => match ended {
            Ok(()) => None,
            Err(failed) => {
                let (other, from, fault) = match failed {
                    Side::Downstream => (&*upstream, End::Downstream, Fault::DownstreamReset),
                    Side::Upstream => (&*downstream, End::Upstream, Fault::UpstreamReset),
                };
                tokio::select! {
                    () = pass_reset_on(other, || path.backlog(from, other)) => {}
                    () = deadline => {}
                }
                Some(fault)
            }
        },
        () = activity.idle_for(cx.idle, || path.kernel_idle()) => Some(Fault::TunnelTimedOut),
        () = &mut deadline => Some(Fault::DrainDeadline),
    };
    let (recv_redirected, sent_redirected) = path.redirected();
    let moved = [
        sent.moved().and(Via::Sockmap, sent_redirected),
        recv.moved().and(Via::Sockmap, recv_redirected),
    ];
    let is_used = |via: &Via| moved.iter().any(|moved| moved.by(*via) > 0);
    Transfer {
        sent: moved[0],
        recv: moved[1],
        // A tunnel in which nothing moved counts under the path that stood ready.
        via: Via::ALL.into_iter().rev().find(is_used).unwrap_or(path.via()),
        fallback: refused.or(recv.fallback()).or(sent.fallback()),
        end,
    }
}

/// The path that a tunnel starts on.
enum Path {
    Copy,
    Splice,
    Kernel(Tunnel),
    /// Only the upstream is in the kernel's map.
    Stranded(Tunnel),
}

impl Path {
    /// The path asked for, or the best that can be had and why.
    fn choose(
        datapath: Datapath,
        cx: &TunnelContext,
        downstream: &TcpStream,
        upstream: &TcpStream,
    ) -> (Path, Option<Fallback>) {
        let refused = match datapath {
            Datapath::User => return (Path::Copy, None),
            Datapath::Splice => return (Path::Splice, None),
            Datapath::Sockmap => match cx.kernel.tunnel(downstream.as_fd(), upstream.as_fd()) {
                Ok(tunnel) if tunnel.is_stranded() => {
                    let refused = Fallback::Refused(TunnelRefused::Stranded);
                    return (Path::Stranded(tunnel), Some(refused));
                }
                Ok(tunnel) => return (Path::Kernel(tunnel), None),
                Err(refused) => refused,
            },
        };
        for socket in [downstream, upstream] {
            // The kernel half may have set its own bounds already. Only a socket that is not TCP
            // refuses ours; what is lost then is a memory bound.
            let _ = sys::socket::bound_send_queue(socket, cx.send_buffer, cx.unsent_max);
        }
        (Path::Splice, Some(Fallback::Refused(refused)))
    }

    /// What userspace moves itself on this path.
    const fn via(&self) -> Via {
        match self {
            Path::Copy | Path::Kernel(_) | Path::Stranded(_) => Via::User,
            Path::Splice => Via::Splice,
        }
    }

    fn kernel_idle(&self) -> Option<Duration> {
        match self {
            Path::Copy | Path::Splice | Path::Stranded(_) => None,
            Path::Kernel(tunnel) => tunnel.idle(),
        }
    }

    /// Bytes that the kernel moved from the downstream, from the upstream.
    fn redirected(&self) -> (u64, u64) {
        match self {
            Path::Copy | Path::Splice | Path::Stranded(_) => (0, 0),
            Path::Kernel(tunnel) => {
                (tunnel.redirected(End::Downstream), tunnel.redirected(End::Upstream))
            }
        }
    }

    /// Bytes of a direction that the kernel has queued on the peer and not written to it.
    fn backlog(&self, from: End, peer: &TcpStream) -> u64 {
        match self {
            Path::Copy | Path::Splice | Path::Stranded(_) => 0,
            Path::Kernel(tunnel) => tunnel.backlog(from, peer.as_fd()).unwrap_or(0),
        }
    }
}

/// What each direction of a tunnel has to know of the other.
struct Pair {
    both_ended: Barrier,
    has_one_ended: Cell<bool>,
    /// The side that the first write that failed was to.
    failed: Cell<Option<Side>>,
}

/// Runs both directions to their ends, or until a side has failed and what it sent has been written.
async fn both_ways(
    recv: Direction<'_>,
    sent: Direction<'_>,
    path: &Path,
    cx: &TunnelContext,
) -> Result<(), Side> {
    let pair = Pair {
        both_ended: Barrier::new(2),
        has_one_ended: Cell::new(false),
        failed: Cell::new(None),
    };
    tokio::try_join!(one_way(recv, path, cx, &pair), one_way(sent, path, cx, &pair))
        .map(|_| ())
        .map_err(|side| pair.failed.get().unwrap_or(side))
}

async fn one_way(
    mut direction: Direction<'_>,
    path: &Path,
    cx: &TunnelContext,
    pair: &Pair,
) -> Result<(), Side> {
    if let Err(side) = pump(&mut direction, path, cx).await {
        if side != direction.from {
            last_words(&direction, side, pair).await;
        }
        return Err(side);
    }
    if let Some(side) = pair.failed.get() {
        // The end of its stream is where it was cut off.
        return Err(side);
    }
    pair.has_one_ended.set(true);
    direction.end_target();
    // The source is no longer read, so a reset of it would go unnoticed until the other direction
    // has something to write.
    tokio::select! {
        _ = pair.both_ended.wait() => Ok(()),
        side = direction.source_reset() => Err(side),
    }
}

/// Carries a direction's bytes until its stream has ended and everything has been written.
async fn pump(direction: &mut Direction<'_>, path: &Path, cx: &TunnelContext) -> Result<(), Side> {
    match path {
        Path::Copy => copy::pump(direction, cx.buffer_max).await,
        Path::Kernel(tunnel) => sockmap::pump(direction, tunnel).await,
        Path::Stranded(tunnel) => match direction.from {
            Side::Upstream => sockmap::pump(direction, tunnel).await,
            Side::Downstream => copy::pump(direction, cx.buffer_max).await,
        },
        Path::Splice => match splice::pump(direction, &cx.pipes).await? {
            splice::Ended::EndOfStream => Ok(()),
            splice::Ended::NoPipe => {
                direction.progress.fall_back(Fallback::NoPipe);
                copy::pump(direction, cx.buffer_max).await
            }
        },
    }
}

/// The target takes nothing more, but what it sent may not all have been read: leaves that to the
/// other direction, whose end is the tunnel's, while it moves.
async fn last_words(direction: &Direction<'_>, failed: Side, pair: &Pair) {
    if pair.has_one_ended.get() || pair.failed.get().is_some() {
        return;
    }
    pair.failed.set(Some(failed));
    // Whatever comes in between, the source's bytes did not arrive. Fails only where there is no
    // connection left to reset.
    let _ = sys::socket::reset_on_close(direction.source.as_ref());
    direction.progress.stalls(RESET_GRACE).await;
}

/// Arranges for the close to send RST, and gives what was written before the other side's reset a
/// chance to leave while it does.
async fn pass_reset_on(socket: &TcpStream, backlog: impl Fn() -> u64) {
    // Fails only where there is no connection left to reset.
    let _ = sys::socket::reset_on_close(socket);
    let queued = || backlog() + sys::socket::send_queue(socket).map_or(0, u64::from);
    let (mut left, mut moved_at) = (queued(), Instant::now());
    let mut pause = Duration::from_millis(1);
    while left > 0 && moved_at.elapsed() < RESET_GRACE {
        sleep(pause).await;
        pause = (pause * 2).min(LOOK_PAUSE);
        let now_left = queued();
        if now_left < left {
            moved_at = Instant::now();
        }
        left = now_left;
    }
}
