//! Moves the bytes of a tunnel between two sockets, by one of three paths, and says which.
//!
//! In: two connected sockets and the path asked for. Out: a [`Transfer`]. A path that cannot be had
//! is replaced by the next simpler one and the reason returned, never an error. Nothing is parsed,
//! logged or measured here, and the sockets are closed by whoever owns them.
//!
//! Each direction ends by itself: end of stream on one side is passed on as such once everything
//! before it has been written. An error ends both: the other side is then set up to be reset when
//! it is closed, as it would have been without us in between.

use std::time::Duration;

use tokio::{
    net::TcpStream,
    sync::Barrier,
    time::{Instant, sleep},
};

use crate::{
    config::{self, Datapath},
    error::Fault,
    sys,
};

mod copy;
mod direction;
mod pipes;
mod splice;
#[cfg(test)]
mod tests;

use direction::{Activity, Direction, Progress, Side};
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
}

impl Fallback {
    pub const ALL: [Fallback; 1] = [Fallback::NoPipe];

    /// Metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Fallback::NoPipe => "no_pipe",
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
    pub fn new(limits: &config::Limits, timeouts: &config::Timeouts) -> TunnelContext {
        TunnelContext {
            pipes: PipePool::new(PipeLimits::new(limits.pipe_size)),
            buffer_max: limits.stream_buffer_max,
            send_buffer: limits.send_buffer,
            unsent_max: limits.unsent_max,
            idle: timeouts.stream_idle,
        }
    }
}

/// Moves bytes both ways until both sides have ended, one fails, nothing has moved for `cx.idle`, or
/// `deadline` (of the drain) completes. The sockets are good for nothing but closing afterwards, and
/// so they are if the future is dropped.
pub async fn run(
    downstream: &mut TcpStream,
    upstream: &mut TcpStream,
    datapath: Datapath,
    cx: &TunnelContext,
    deadline: impl Future<Output = ()>,
) -> Transfer {
    for socket in [&*downstream, &*upstream] {
        // Only a socket that is not TCP could refuse; what is lost then is a memory bound.
        let _ = sys::socket::bound_send_queue(socket, cx.send_buffer, cx.unsent_max);
    }
    let via = match datapath {
        Datapath::User => Via::User,
        Datapath::Splice | Datapath::Sockmap => Via::Splice,
    };
    let activity = Activity::now();
    let (recv, sent) = (Progress::new(via, &activity), Progress::new(via, &activity));
    let (down_read, down_write) = downstream.split();
    let (up_read, up_write) = upstream.split();
    let both_ways = both_ways(
        Direction { from: Side::Downstream, source: down_read, target: up_write, progress: &recv },
        Direction { from: Side::Upstream, source: up_read, target: down_write, progress: &sent },
        cx,
    );
    let end = tokio::select! {
        ended = both_ways => match ended {
            Ok(()) => None,
            Err(Side::Downstream) => {
                pass_reset_on(upstream).await;
                Some(Fault::DownstreamReset)
            }
            Err(Side::Upstream) => {
                pass_reset_on(downstream).await;
                Some(Fault::UpstreamReset)
            }
        },
        () = activity.idle_for(cx.idle) => Some(Fault::TunnelTimedOut),
        () = deadline => Some(Fault::DrainDeadline),
    };
    Transfer {
        sent_bytes: sent.moved(),
        recv_bytes: recv.moved(),
        // A tunnel in which nothing moved counts under the path that stood ready.
        via: recv.via().max(sent.via()).unwrap_or(via),
        fallback: recv.fallback().or(sent.fallback()),
        end,
    }
}

/// Runs both directions to their ends, or to the first error.
async fn both_ways(
    recv: Direction<'_>,
    sent: Direction<'_>,
    cx: &TunnelContext,
) -> Result<(), Side> {
    let both_ended = Barrier::new(2);
    tokio::try_join!(one_way(recv, cx, &both_ended), one_way(sent, cx, &both_ended))?;
    Ok(())
}

async fn one_way(
    mut direction: Direction<'_>,
    cx: &TunnelContext,
    both_ended: &Barrier,
) -> Result<(), Side> {
    match direction.progress.asked() {
        Via::Splice => match splice::pump(&direction, &cx.pipes).await? {
            splice::Ended::EndOfStream => {}
            splice::Ended::NoPipe => {
                direction.progress.fall_back(Fallback::NoPipe);
                copy::pump(&mut direction, cx.buffer_max).await?;
            }
        },
        Via::User | Via::Sockmap => copy::pump(&mut direction, cx.buffer_max).await?,
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
async fn pass_reset_on(socket: &TcpStream) {
    let deadline = Instant::now() + RESET_GRACE;
    let mut pause = Duration::from_millis(1);
    while Instant::now() < deadline
        && sys::socket::send_queue(socket).is_ok_and(|unacknowledged| unacknowledged > 0)
    {
        sleep(pause).await;
        pause *= 2;
    }
    // Fails only where there is no connection left to reset.
    let _ = sys::socket::reset_on_close(socket);
}
