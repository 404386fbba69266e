//! Moves the bytes of a tunnel between two sockets, by one of three paths, and says which.
//!
//! In: two connected sockets and the path asked for. Out: a [`Transfer`]. A path that cannot be had
//! is replaced by the next simpler one and the reason returned, never an error. Nothing is parsed,
//! logged or measured here, and the sockets are closed by whoever owns them.
//!
//! Each direction ends by itself: end of stream on one side is passed on as such once everything
//! before it has been written. An error ends both: the other side is then set up to be reset when
//! it is closed, as it would have been without us in between.

use std::{os::fd::AsFd as _, sync::Arc, time::Duration};

use tokio::{
    net::TcpStream,
    sync::Barrier,
    time::{Instant, sleep},
};

use crate::{
    config::{self, Datapath},
    error::Fault,
    kernel::{End, KernelPlane, Tunnel, TunnelRefused},
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

/// How long bytes that arrived before a reset may take to leave before the reset is passed on.
/// Without it, a node that answers and closes with unread input would lose its answer here.
const RESET_GRACE: Duration = Duration::from_millis(250);

/// Which path carried the bytes, ascending by how much of the work the kernel does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Via {
    User,
    Splice,
    Sockmap,
}

impl Via {
    pub const ALL: [Via; 3] = [Via::User, Via::Splice, Via::Sockmap];

    /// Label in the access log and in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Via::User => "user",
            Via::Splice => "splice",
            Via::Sockmap => "sockmap",
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

/// What a tunnel moved before it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// To the downstream, bytes.
    pub sent_bytes: u64,
    /// From the downstream, bytes.
    pub recv_bytes: u64,
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
    ) -> TunnelContext {
        TunnelContext {
            kernel,
            pipes: PipePool::new(PipeLimits::new(limits.pipe_size)),
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
    let end = tokio::select! {
        ended = both_ways => match ended {
            Ok(()) => None,
            Err(Side::Downstream) => {
                pass_reset_on(upstream, || path.backlog(End::Downstream, upstream)).await;
                Some(Fault::DownstreamReset)
            }
            Err(Side::Upstream) => {
                pass_reset_on(downstream, || path.backlog(End::Upstream, downstream)).await;
                Some(Fault::UpstreamReset)
            }
        },
        () = activity.idle_for(cx.idle, || path.kernel_idle()) => Some(Fault::TunnelTimedOut),
        () = deadline => Some(Fault::DrainDeadline),
    };
    let (recv_redirected, sent_redirected) = path.redirected();
    Transfer {
        sent_bytes: sent.moved() + sent_redirected,
        recv_bytes: recv.moved() + recv_redirected,
        via: match path {
            Path::Kernel(_) if recv_redirected + sent_redirected > 0 => Via::Sockmap,
            Path::Kernel(_) => Via::User,
            // A tunnel in which nothing moved counts under the path that stood ready.
            Path::Splice | Path::Copy => recv.via().max(sent.via()).unwrap_or(path.via()),
        },
        fallback: refused.or(recv.fallback()).or(sent.fallback()),
        end,
    }
}

/// The path that a tunnel starts on.
enum Path {
    Copy,
    Splice,
    Kernel(Tunnel),
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
                Ok(tunnel) => return (Path::Kernel(tunnel), None),
                Err(refused) => refused,
            },
        };
        for socket in [downstream, upstream] {
            // The kernel half may have set its own bounds already. Only a socket that is not TCP
            // refuses ours; what is lost then is a memory bound.
            let _ = sys::socket::bound_send_queue(socket, cx.send_buffer, cx.unsent_max);
        }
        let path = match refused {
            TunnelRefused::Stranded => Path::Copy,
            TunnelRefused::KernelOff
            | TunnelRefused::Full
            | TunnelRefused::HalfClosed
            | TunnelRefused::Busy
            | TunnelRefused::Failed => Path::Splice,
        };
        (path, Some(Fallback::Refused(refused)))
    }

    /// What userspace moves itself on this path.
    const fn via(&self) -> Via {
        match self {
            Path::Copy | Path::Kernel(_) => Via::User,
            Path::Splice => Via::Splice,
        }
    }

    fn kernel_idle(&self) -> Option<Duration> {
        match self {
            Path::Copy | Path::Splice => None,
            Path::Kernel(tunnel) => tunnel.idle(),
        }
    }

    /// Bytes that the kernel moved from the downstream, from the upstream.
    fn redirected(&self) -> (u64, u64) {
        match self {
            Path::Copy | Path::Splice => (0, 0),
            Path::Kernel(tunnel) => {
                (tunnel.redirected(End::Downstream), tunnel.redirected(End::Upstream))
            }
        }
    }

    /// Bytes of a direction that the kernel has queued on the peer and not written to it.
    fn backlog(&self, from: End, peer: &TcpStream) -> u64 {
        match self {
            Path::Copy | Path::Splice => 0,
            Path::Kernel(tunnel) => tunnel.backlog(from, peer.as_fd()).unwrap_or(0),
        }
    }
}

/// Runs both directions to their ends, or to the first error.
async fn both_ways(
    recv: Direction<'_>,
    sent: Direction<'_>,
    path: &Path,
    cx: &TunnelContext,
) -> Result<(), Side> {
    let both_ended = Barrier::new(2);
    tokio::try_join!(one_way(recv, path, cx, &both_ended), one_way(sent, path, cx, &both_ended))?;
    Ok(())
}

async fn one_way(
    mut direction: Direction<'_>,
    path: &Path,
    cx: &TunnelContext,
    both_ended: &Barrier,
) -> Result<(), Side> {
    match path {
        Path::Copy => copy::pump(&mut direction, cx.buffer_max).await?,
        Path::Kernel(tunnel) => sockmap::pump(&mut direction, tunnel).await?,
        Path::Splice => match splice::pump(&direction, &cx.pipes).await? {
            splice::Ended::EndOfStream => {}
            splice::Ended::NoPipe => {
                direction.progress.fall_back(Fallback::NoPipe);
                copy::pump(&mut direction, cx.buffer_max).await?;
            }
        },
    }
    direction.end_target();
    // The source is no longer read, so a reset of it would go unnoticed until the other direction
    // has something to write.
    tokio::select! {
        _ = both_ended.wait() => Ok(()),
        side = direction.source_reset() => Err(side),
    }
}

/// Gives what was written before the other side's reset a last chance to leave, then arranges for
/// the close to send RST.
async fn pass_reset_on(socket: &TcpStream, backlog: impl Fn() -> u64) {
    let deadline = Instant::now() + RESET_GRACE;
    let mut pause = Duration::from_millis(1);
    let is_empty = || backlog() == 0 && sys::socket::send_queue(socket).is_ok_and(|n| n == 0);
    while Instant::now() < deadline && !is_empty() {
        sleep(pause).await;
        pause *= 2;
    }
    // Fails only where there is no connection left to reset.
    let _ = sys::socket::reset_on_close(socket);
}
