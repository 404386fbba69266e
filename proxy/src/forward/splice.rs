//! `splice`: moves pages from socket to pipe to socket, without looking at them.

use std::io;

use tokio::io::Interest;

use super::{
    direction::{Direction, Side, readable, writable},
    pipes::{PipePool, PooledPipe},
};

/// Bytes asked for at once. What a pipe takes is limited by its slots, one for each piece of a
/// page; pieces of a socket's pages are up to 32 KiB, so 64 slots could pin 2 MiB.
const FILL_MAX: usize = 1 << 20;

/// How a direction came to its end here.
pub(super) enum Ended {
    EndOfStream,
    /// There was no pipe to be had. Everything read has been written.
    NoPipe,
}

/// Carries bytes until the source's stream ends and everything has been written, or until there is
/// no pipe. A pipe is held from the first byte until the source is empty.
pub(super) async fn pump(direction: &Direction<'_>, pipes: &PipePool) -> Result<Ended, Side> {
    loop {
        source_readable(direction).await?;
        let Some(mut pipe) = pipes.checkout() else { return Ok(Ended::NoPipe) };
        // Filled only when empty, so that "would block" has one meaning.
        while let Some(count) = fill(direction, &mut pipe)? {
            if count == 0 {
                pipes.checkin(pipe);
                return Ok(Ended::EndOfStream);
            }
            empty(direction, &mut pipe).await?;
            // Completes at once, except where other tasks of the worker are due.
            source_readable(direction).await?;
        }
        pipes.checkin(pipe);
    }
}

async fn source_readable(direction: &Direction<'_>) -> Result<(), Side> {
    let readable = readable(direction.source.as_ref()).await;
    readable.map_err(|error| direction.source_failed(error))
}

/// `None`: the source is empty.
fn fill(direction: &Direction<'_>, pipe: &mut PooledPipe) -> Result<Option<usize>, Side> {
    let socket = direction.source.as_ref();
    match socket.try_io(Interest::READABLE, || pipe.fill(socket, FILL_MAX)) {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(direction.source_failed(error)),
    }
}

async fn empty(direction: &Direction<'_>, pipe: &mut PooledPipe) -> Result<(), Side> {
    let socket = direction.target.as_ref();
    while pipe.holds() > 0 {
        writable(socket).await.map_err(|error| direction.target_failed(error))?;
        match socket.try_io(Interest::WRITABLE, || pipe.empty_into(socket)) {
            Ok(count) => direction.progress.record(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(direction.target_failed(error)),
        }
    }
    Ok(())
}
