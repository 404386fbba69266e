//! `sockmap`: the kernel moves the bytes; this is what it leaves to us.
//!
//! The program redirects what arrives, and passes it to us when the peer has a window of memory
//! queued already (a slow reader) or is not there yet. Passed bytes are later in the stream than all
//! redirected ones, so they are written once the redirected ones have been, and the program
//! redirects nothing more until they are:
//!
//! | event                      | what follows                                                        |
//! |----------------------------|---------------------------------------------------------------------|
//! | start                      | ask once for bytes: what came before the tunnel is seen only then   |
//! | bytes                      | wait for the backlog once, write them, tell the program             |
//! | end of stream              | wait for the backlog, end the peer's stream                         |
//! | error on either socket     | the tunnel ends, the other side is reset (as on every path)         |
//! | out of step                | both sides are reset                                                |
//!
//! There is no event for "the backlog has been written": the kernel's worker writes it, and this
//! asks how far it is, as rarely as the rate so far permits.

use std::{io, os::fd::AsFd as _, time::Duration};

use rustix::{
    net::{RecvFlags, recv},
    thread::sched_yield,
};
use tokio::time::{Instant, sleep};

use super::{
    copy::write_all,
    direction::{Direction, Side, readable},
};
use crate::{
    kernel::{End, Tunnel},
    sys,
};

/// Buffer for what the kernel leaves to us; exists only while it does.
const SPILL_BUFFER: usize = 64 << 10;
/// Times the processor is offered to the kernel's worker, which often is next in line on this very
/// processor and done in microseconds, before a timer is set.
const YIELDS: usize = 3;
/// Shortest and longest pause between two looks at the backlog. The shortest is the timer's
/// granularity; during the longest, a send buffer of 256 KiB keeps 100 Mbit/s busy.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// Sees to one direction of a kernel-moved tunnel until its stream has ended and everything has been
/// written to the peer.
pub(super) async fn pump(direction: &mut Direction<'_>, tunnel: &Tunnel) -> Result<(), Side> {
    let from = end(direction.from);
    // Asks whether or not the runtime knows of anything to read.
    let mut buffer = vec![0; SPILL_BUFFER];
    let source = direction.source.as_ref().as_fd();
    let mut received = recv(source, &mut buffer[..], RecvFlags::DONTWAIT)
        .map(|(count, _)| count)
        .map_err(io::Error::from);
    // The backlog is waited for once: while we have bytes that are later, nothing is added to it.
    let mut is_behind = false;
    loop {
        if received.is_ok() && tunnel.is_out_of_step(from) {
            return Err(out_of_step(direction));
        }
        match received {
            // What was passed while the socket's queue was not empty comes by way of the worker, and
            // the end of the stream may overtake it.
            Ok(0) if tunnel.delivered(from) != tunnel.passed(from) => sleep(PAUSE_MIN).await,
            Ok(0) => return backlog_written(direction, tunnel).await,
            Ok(count) => {
                if !is_behind {
                    backlog_written(direction, tunnel).await?;
                }
                write_all(direction, &buffer[..count]).await?;
                is_behind = tunnel.deliver(from, count as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // Tunnels of which the kernel leaves us nothing cost no buffer.
                buffer = Vec::new();
                let ready = readable(direction.source.as_ref()).await;
                ready.map_err(|error| direction.source_failed(error))?;
                buffer.resize(SPILL_BUFFER, 0);
            }
            Err(error) => return Err(direction.source_failed(error)),
        }
        received = direction.source.as_ref().try_read(&mut buffer);
    }
}

/// Waits until everything redirected has been written to the peer's TCP. Bounded by the tunnel's idle
/// time, since only a peer that takes something counts as activity.
async fn backlog_written(direction: &Direction<'_>, tunnel: &Tunnel) -> Result<(), Side> {
    let backlog = || {
        let peer = direction.target.as_ref().as_fd();
        let backlog = tunnel.backlog(end(direction.from), peer);
        backlog.map_err(|error| direction.target_failed(error))
    };
    let mut left = backlog()?;
    for _ in 0..YIELDS {
        if left == 0 {
            return Ok(());
        }
        sched_yield();
        left = backlog()?;
    }
    let mut pause = PAUSE_MIN;
    while left > 0 {
        let asleep = Instant::now();
        sleep(pause).await;
        let now_left = backlog()?;
        let written = left.saturating_sub(now_left);
        if written > 0 {
            direction.progress.touch();
        }
        pause = time_for(now_left, written, asleep.elapsed());
        left = now_left;
    }
    Ok(())
}

/// How long `left` bytes take if `written` took `elapsed`, within the bounds of a pause.
fn time_for(left: u64, written: u64, elapsed: Duration) -> Duration {
    if written == 0 {
        return PAUSE_MAX;
    }
    elapsed.mul_f64(left as f64 / written as f64).clamp(PAUSE_MIN, PAUSE_MAX)
}

/// Arranges for this side to be reset as well: it may not believe that its bytes arrived.
fn out_of_step(direction: &Direction<'_>) -> Side {
    // Fails only where there is no connection left to reset.
    let _ = sys::socket::reset_on_close(direction.source.as_ref());
    direction.from
}

const fn end(side: Side) -> End {
    match side {
        Side::Downstream => End::Downstream,
        Side::Upstream => End::Upstream,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_follow_the_rate_within_bounds() {
        let check = |left, written, elapsed_ms, expected_ms| {
            let pause = time_for(left, written, Duration::from_millis(elapsed_ms));
            assert_eq!(pause, Duration::from_millis(expected_ms), "{left} {written} {elapsed_ms}");
        };
        check(1000, 100, 1, 10);
        check(1000, 1000, 5, 5);
        check(10, 1000, 5, 1);
        check(1_000_000, 1, 5, 20);
        check(1000, 0, 5, 20);
        check(0, 0, 0, 20);
    }
}
