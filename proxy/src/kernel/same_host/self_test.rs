//! Whether this kernel delivers as it should, tried on loopback before any connection is trusted to
//! it: order over both ways, what is unread, wake-ups by edge, a reader that does not read.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::{fd::AsFd as _, unix::fs::fchown},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use aya::{Ebpf, programs::SchedClassifier};
use proxy_common::{addr::Destination, names};
use rustix::{
    event::{Timespec, epoll},
    io::ioctl_fionread,
};
use socket2::{Domain, SockAddr, Socket, Type};

use super::{Join, Meter, Passed, SameHost, Turn, bypass::Bypasses, remote::Remotes};
use crate::sys;

/// Longest wait for what is already under way on loopback.
const PATIENCE: Duration = Duration::from_secs(2);
/// Delivered each way, bytes.
const PATTERN_SIZE: u64 = 10_000;
/// More than any window.
const FLOOD_MAX: usize = 64 << 20;
/// Of one call of it.
const FLOOD_STEP: usize = 16 << 10;

pub(super) fn run(same_host: &SameHost, user: Option<u32>) -> anyhow::Result<()> {
    let (mut foreign, mut own, mut meter) =
        leg(same_host, user).context("make a leg over loopback")?;
    for _ in 0..2 {
        deliver(same_host, &mut foreign, &mut own).context("to us")?;
        deliver(same_host, &mut own, &mut foreign).context("from us")?;
        // The other way, and back again: one order.
        same_host.switch(false)?;
        foreign.write_all(b"by TCP")?;
        same_host.switch(true)?;
        foreign.write_all(b", then directly")?;
        expect(&mut own, b"by TCP, then directly")?;
        let [sent, received] = meter.advance();
        let is_counted = sent.min(received) >= PATTERN_SIZE;
        ensure!(is_counted, "{sent} and {received} bytes counted");
    }
    wake(&mut foreign, &own).context("wake-up by edge")?;
    flood(same_host, &mut foreign, &mut own).context("a reader that does not read")
}

/// What goes past us, and what it is to the client.
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: 5\r\n\r\nhello";
/// What comes of its body in a message of its own.
const REST: &[u8] = b"lo";
const NO_RESPONSE: &[u8] = b"HTTP/1.1 103 Early Hints\r\n\r\n";

/// Whether a response goes to the client, and is known to be there when the node's call is over, or the
/// last of its calls; and whether what is none, or not the rest of one, comes to us.
pub(super) fn pass(
    same_host: &SameHost,
    bypasses: &Bypasses,
    user: Option<u32>,
) -> anyhow::Result<()> {
    let (mut client, mut own, client_meter) =
        leg(same_host, user).context("make a leg over loopback")?;
    let (mut node, mut upstream, node_meter) =
        node_leg(same_host, user).context("make a leg to a node over loopback")?;
    deliver(same_host, &mut own, &mut client).context("to the client")?;
    deliver(same_host, &mut node, &mut upstream).context("from the node")?;
    for _ in 0..2 {
        let armed = node_meter.arm_in(bypasses, &client_meter).context("arm")?;
        node.write_all(RESPONSE)?;
        let turn = armed.turn();
        let is_gone = matches!(turn, Turn::Gone(Passed { status: 200, body_size: 5, .. }));
        ensure!(is_gone, "of a response that was sent: {turn:?}");
        expect(&mut client, RESPONSE).context("past us")?;
        let armed = node_meter.arm_in(bypasses, &client_meter).context("arm again")?;
        node.write_all(NO_RESPONSE)?;
        ensure!(armed.turn() == Turn::Ours, "of what is no response: {:?}", armed.turn());
        expect(&mut upstream, NO_RESPONSE).context("to us")?;
        let (first, second) = RESPONSE.split_at(RESPONSE.len() - REST.len());
        let armed = node_meter.arm_in(bypasses, &client_meter).context("arm once more")?;
        node.write_all(first)?;
        let turn = armed.turn();
        let is_begun = matches!(turn, Turn::Flowing(Passed { status: 200, passed: 3, .. }));
        ensure!(is_begun, "of a part of a response: {turn:?}");
        node.write_all(second)?;
        let is_gone = matches!(armed.turn(), Turn::Gone(Passed { passed: 5, .. }));
        ensure!(is_gone, "of the rest of it: {:?}", armed.turn());
        expect(&mut client, RESPONSE).context("past us in two parts")?;
        let armed = node_meter.arm_in(bypasses, &client_meter).context("arm for the last time")?;
        node.write_all(first)?;
        node.write_all(&[second, NO_RESPONSE].concat())?;
        let is_ours = matches!(armed.turn(), Turn::HandedOver(Passed { passed: 3, .. }));
        ensure!(is_ours, "of more than the rest: {:?}", armed.turn());
        expect(&mut client, first).context("a part past us")?;
        expect(&mut upstream, &[REST, NO_RESPONSE].concat()).context("the rest to us")?;
    }
    Ok(())
}

/// Whether a response goes into the send queue of our end of a connection, of which the kernel delivers
/// nothing, and is known to be there when the node's call is over.
pub(super) fn egress(
    same_host: &SameHost,
    remotes: &Remotes,
    ebpf: &Ebpf,
    user: Option<u32>,
) -> anyhow::Result<()> {
    let program: &SchedClassifier =
        ebpf.program(names::REMOTE).context("no program `remote`")?.try_into()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    client.set_nonblocking(true)?;
    let own = accept_from(&listener, client.local_addr().ok())?;
    let client_meter = same_host.shared.meters.take_remote().context("no place")?;
    remotes.admit(program, own.as_fd(), client_meter.place_number())?;
    let (mut node, mut upstream, node_meter) =
        node_leg(same_host, user).context("make a leg to a node over loopback")?;
    deliver(same_host, &mut node, &mut upstream).context("from the node")?;
    for _ in 0..2 {
        let armed = node_meter.arm(&client_meter).context("arm")?;
        node.write_all(RESPONSE)?;
        let turn = armed.turn();
        let is_gone = matches!(turn, Turn::Gone(Passed { status: 200, body_size: 5, .. }));
        ensure!(is_gone, "of a response that was sent: {turn:?}");
        expect(&mut client, RESPONSE).context("past us")?;
        acknowledged(&own)?;
    }
    Ok(())
}

/// Waits until all that was sent has been acknowledged: until then nothing goes past us.
fn acknowledged(own: &TcpStream) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while sys::socket::send_queue(own)? > 0 {
        ensure!(Instant::now() < deadline, "not acknowledged");
        std::thread::yield_now();
    }
    Ok(())
}

/// A node that does not block, of the user that is trusted, and our end of a connection to it, which is
/// in the map.
fn node_leg(
    same_host: &SameHost,
    user: Option<u32>,
) -> anyhow::Result<(TcpStream, TcpStream, Meter)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    fchown(&listener, user, None).context("give a socket to the trusted user")?;
    let address = listener.local_addr()?;
    let destination = Destination::from(address);
    super::lock(&same_host.shared.nodes).insert(destination, 1, 0)?;
    let own = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    same_host.mark(own.as_fd());
    own.connect(&SockAddr::from(address))?;
    own.set_nonblocking(true)?;
    let node = accept_from(&listener, own.local_addr()?.as_socket())?;
    node.set_nonblocking(true)?;
    fchown(&node, user, None).context("give a socket to the trusted user")?;
    let joined = same_host.join(own.as_fd());
    super::lock(&same_host.shared.nodes).remove(&destination)?;
    match joined {
        Join::Joined(Some(meter)) => Ok((node, own.into(), meter)),
        Join::Joined(None) | Join::NotNow | Join::Never => {
            bail!("the two ends did not find each other")
        }
    }
}

/// A client that does not block, of the user that is trusted, and our end of its connection, which is
/// in the map.
fn leg(same_host: &SameHost, user: Option<u32>) -> anyhow::Result<(TcpStream, TcpStream, Meter)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    super::lock(&same_host.shared.addresses).add(address)?;
    let foreign = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    foreign.set_nonblocking(true)?;
    fchown(&foreign, user, None).context("give a socket to the trusted user")?;
    match foreign.connect(&SockAddr::from(address)) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    let from = |foreign: &Socket| Ok::<_, io::Error>(foreign.local_addr()?.as_socket());
    let own = accept_from(&listener, from(&foreign)?)?;
    own.set_nonblocking(true)?;
    match same_host.join(own.as_fd()) {
        Join::Joined(Some(meter)) => Ok((foreign.into(), own, meter)),
        Join::Joined(None) | Join::NotNow | Join::Never => {
            bail!("the two ends did not find each other")
        }
    }
}

/// Anyone on this host may have connected in between.
fn accept_from(listener: &TcpListener, wanted: Option<SocketAddr>) -> anyhow::Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        match listener.accept() {
            Ok((socket, from)) if Some(from) == wanted => return Ok(socket),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(error) => return Err(error.into()),
        }
    }
    bail!("nobody connected")
}

fn deliver(same_host: &SameHost, from: &mut TcpStream, to: &mut TcpStream) -> anyhow::Result<()> {
    let pattern: Vec<u8> = (0..PATTERN_SIZE).map(|n| (n % 251) as u8).collect();
    // What TCP still has under way is acknowledged in its own time.
    let deadline = Instant::now() + PATIENCE;
    loop {
        from.write_all(&pattern)?;
        let unread = ioctl_fionread(&*to)?;
        let is_direct = same_host.is_direct(from.as_fd())?;
        ensure!(!is_direct || unread == pattern.len() as u64, "{unread} bytes said to be unread");
        expect(to, &pattern)?;
        if is_direct {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "nothing was delivered");
    }
}

/// Reads until the pattern is whole; neither end blocks.
fn expect(from: &mut TcpStream, pattern: &[u8]) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut received = vec![0; pattern.len()];
    let mut size = 0;
    while size < pattern.len() {
        match from.read(&mut received[size..]) {
            Ok(0) => bail!("the stream ended"),
            Ok(count) => size += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                ensure!(Instant::now() < deadline, "{size} bytes of {}", pattern.len());
                std::thread::yield_now();
            }
            Err(error) => return Err(error.into()),
        }
    }
    ensure!(received == pattern, "other bytes than were sent");
    Ok(())
}

/// Each message is an edge of its own for whoever waits in epoll.
fn wake(from: &mut TcpStream, to: &TcpStream) -> anyhow::Result<()> {
    let queue = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
    epoll::add(&queue, to, epoll::EventData::new_u64(0), flags)?;
    let limit = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    for message in 1..=3_u8 {
        from.write_all(&[message])?;
        let mut events = [const {
            epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }
        }; 1];
        let count = epoll::wait(&queue, &mut events, Some(&limit))?;
        ensure!(count == 1, "no wake-up for message {message}");
        let mut reader = to;
        let mut byte = [0];
        reader.read_exact(&mut byte)?;
        ensure!(byte == [message], "another byte than was sent");
    }
    Ok(())
}

/// Writes until neither way takes more, then reads everything.
fn flood(same_host: &SameHost, from: &mut TcpStream, to: &mut TcpStream) -> anyhow::Result<()> {
    // A row of numbers over and over, of which no multiple is a round size.
    let row: Vec<u8> = (0..253).collect();
    let rows = row.repeat(FLOOD_STEP.div_ceil(row.len()) + 1);
    let mut written = 0;
    let mut was_bounded = false;
    while written < FLOOD_MAX {
        let at = written % row.len();
        match from.write(&rows[at..at + FLOOD_STEP]) {
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error.into()),
        }
        was_bounded |= !same_host.is_direct(from.as_fd())?;
    }
    ensure!(was_bounded && written < FLOOD_MAX, "{written} bytes were taken that nobody reads");
    let mut pattern = row.repeat(written.div_ceil(row.len()));
    pattern.truncate(written);
    expect(to, &pattern)
}
