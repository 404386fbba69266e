//! Whether this kernel redirects as it should, tried on loopback before any tunnel is trusted to it.
//!
//! Every release of the kernel changes something here (kernel-facts 2.9), and the offsets come from
//! its own description. A mismatch makes the datapath unavailable.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use super::{End, Tunnel, Tunnels};

/// Longest wait for bytes that are already on their way through loopback.
const PATIENCE: Duration = Duration::from_secs(2);
const PATTERN: [u8; 10_000] = {
    let mut pattern = [0; 10_000];
    let mut at = 0;
    while at < pattern.len() {
        pattern[at] = (at % 251) as u8;
        at += 1;
    }
    pattern
};
/// Of the first pattern, read before the tunnel: the rest lies in a buffer that has to be trimmed.
const READ_BEFORE: usize = 1_234;

pub(super) fn run(tunnels: &Tunnels) -> anyhow::Result<()> {
    let (mut client, mut downstream) = connection().context("connect over loopback")?;
    let (mut node, upstream) = connection().context("connect over loopback")?;
    client.write_all(&PATTERN)?;
    let mut before = [0; READ_BEFORE];
    downstream.read_exact(&mut before)?;
    let tunnel = tunnels
        .open(downstream.as_fd(), upstream.as_fd())
        .map_err(|refused| anyhow::anyhow!("tunnel refused: {refused:?}"))?;
    // What came before is seen by the program only when something asks for it.
    downstream.set_nonblocking(true)?;
    let nudge = downstream.read(&mut before).map_err(|error| error.kind());
    ensure!(nudge == Err(io::ErrorKind::WouldBlock), "bytes came to userspace: {nudge:?}");

    let (early, whole) = (&PATTERN[READ_BEFORE..], &PATTERN[..]);
    expect(&mut node, early).context("bytes that came before the tunnel, half read")?;
    ensure!(tunnel.trimmed(End::Downstream) == READ_BEFORE as u64, "overlap was not cut off");
    let mut moved = early.len();
    settled(&tunnel, End::Downstream, &upstream, moved)?;
    client.write_all(whole)?;
    expect(&mut node, whole).context("downstream to upstream")?;
    moved += whole.len();
    settled(&tunnel, End::Downstream, &upstream, moved)?;
    // With everything written, the program sees nothing in flight and moves its mark here.
    client.write_all(&[1])?;
    expect(&mut node, &[1]).context("one byte")?;
    let mark = tunnel.mark(End::Downstream);
    ensure!(mark as usize == moved, "the kernel sees {mark} bytes written of {moved}");
    node.write_all(whole)?;
    expect(&mut client, whole).context("upstream to downstream")?;
    settled(&tunnel, End::Upstream, &downstream, whole.len())
}

/// The kernel counts `moved` bytes redirected, none passed, and sees all of them written.
fn settled(tunnel: &Tunnel, from: End, peer: &TcpStream, moved: usize) -> anyhow::Result<()> {
    let (redirected, passed) = (tunnel.redirected(from), tunnel.passed(from));
    ensure!(
        (redirected, passed) == (moved as u64, 0),
        "{redirected} bytes redirected and {passed} passed of {moved}"
    );
    ensure!(!tunnel.is_out_of_step(from), "out of step");
    // The reader has the bytes, so they have been written; the acknowledgement needs no waiting.
    let backlog = tunnel.backlog(from, peer.as_fd())?;
    ensure!(backlog == 0, "{backlog} bytes of backlog after all have arrived");
    Ok(())
}

fn expect(from: &mut TcpStream, pattern: &[u8]) -> anyhow::Result<()> {
    let mut received = vec![0; pattern.len()];
    from.read_exact(&mut received)?;
    ensure!(received == pattern, "other bytes than were sent");
    Ok(())
}

fn connection() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let outer = TcpStream::connect_timeout(&listener.local_addr()?, PATIENCE)?;
    // Anyone on this host may have connected in between.
    let inner = accept_from(&listener, outer.local_addr()?.port())?;
    for socket in [&outer, &inner] {
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
    }
    Ok((outer, inner))
}

fn accept_from(listener: &TcpListener, port: u16) -> io::Result<TcpStream> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let (socket, from) = listener.accept()?;
        if from.port() == port {
            return Ok(socket);
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}
