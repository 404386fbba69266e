//! The loop of a node: accept, read, let the protocol answer, write, with backpressure. A
//! connection that cannot write is not read, so a node holds at most one read and one answer for it.

use std::{
    io::{self, IoSlice, Read as _, Write as _},
    net::SocketAddr,
    ops::Range,
    os::fd::{AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use mio::{
    Events, Interest, Poll, Token,
    event::Event,
    net::{TcpListener, TcpStream},
    unix::SourceFd,
};
use socket2::{Domain, Socket, Type};

use crate::{pattern::Pattern, slots::Slots};

/// One read takes at most this much; also the most that waits in userspace for an echo to leave.
const READ_MAX: usize = 256 * 1024;

/// A connection that has written this much gives the others a turn.
const TURN_MAX: usize = 1024 * 1024;

/// Data of each chunk but the last of a chunked answer, bytes.
const CHUNK_SIZE: u64 = 256 * 1024;

/// Connections waiting to be accepted; the kernel clamps it to `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;

const LISTENER: Token = Token(usize::MAX - 1);
const PARENT: Token = Token(usize::MAX - 2);

/// What a node does with the bytes of one connection.
pub(super) trait Protocol {
    /// What it remembers of one connection.
    type State: Default;

    /// Reads `input` and puts answers into `sink`; returns how much it took and what comes next.
    fn feed(&self, state: &mut Self::State, input: &[u8], sink: &mut Sink<'_>) -> io::Result<Fed>;
}

/// What became of the input.
pub(super) struct Fed {
    /// Bytes that need not be seen again.
    pub(super) consumed: usize,
    pub(super) next: Next,
}

impl Fed {
    pub(super) fn all(input: &[u8]) -> Self {
        Self { consumed: input.len(), next: Next::Read }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// More input is welcome once the answers have left.
    Read,
    /// Nothing is read until then.
    ReadAt(Instant),
    /// The answers are the last ones.
    Close,
}

/// Where answers go: straight to the socket, or behind what already waits.
pub(super) struct Sink<'a> {
    stream: &'a mut TcpStream,
    outbox: &'a mut Outbox,
}

impl Sink<'_> {
    /// Writes now what the socket takes now; the rest waits.
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sent = if self.outbox.is_empty() { write(self.stream, &[bytes])? } else { 0 };
        self.push(&bytes[sent..]);
        Ok(())
    }

    /// Queues bytes; they leave together with what else this input causes.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.outbox.bytes.extend_from_slice(bytes);
    }

    /// Queues `length` bytes of the pattern behind everything pushed so far. Nothing may be
    /// pushed after it until it has left.
    pub(super) fn push_pattern(&mut self, length: u64) {
        self.outbox.pattern = 0..length;
    }

    /// As [`push_pattern`](Self::push_pattern), in chunks.
    pub(super) fn push_chunked_pattern(&mut self, length: u64) {
        self.outbox.chunked = Some(0..length);
        self.outbox.begin_chunk();
    }

    pub(super) fn is_blocked(&self) -> bool {
        let outbox = &self.outbox;
        let is_at_body = !outbox.pattern.is_empty() || outbox.chunked.is_some();
        is_at_body || outbox.bytes.len() > READ_MAX
    }
}

#[derive(Default)]
struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
    pattern: Range<u64>,
    /// What of the pattern goes into chunks that have not begun.
    chunked: Option<Range<u64>>,
}

enum Flushed {
    All,
    /// The socket is full; epoll will tell.
    Blocked,
    /// The socket would take more, but others wait.
    TurnOver,
}

impl Outbox {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.pattern.is_empty() && self.chunked.is_none()
    }

    /// Puts the framing of the next chunk behind what waits, and its data behind that.
    fn begin_chunk(&mut self) {
        let Some(rest) = self.chunked.take() else { return };
        if rest.start > 0 {
            self.bytes.extend_from_slice(b"\r\n");
        }
        if rest.is_empty() {
            self.bytes.extend_from_slice(b"0\r\n\r\n");
            return;
        }
        let end = rest.end.min(rest.start + CHUNK_SIZE);
        self.bytes.extend_from_slice(format!("{:x}\r\n", end - rest.start).as_bytes());
        self.pattern = rest.start..end;
        self.chunked = Some(end..rest.end);
    }

    fn flush(&mut self, stream: &mut TcpStream, pattern: &Pattern) -> io::Result<Flushed> {
        let mut turn = 0;
        while !self.is_empty() {
            if turn > TURN_MAX {
                return Ok(Flushed::TurnOver);
            }
            if self.bytes.is_empty() && self.pattern.is_empty() {
                self.begin_chunk();
            }
            let bytes = &self.bytes[self.sent..];
            let body = pattern.at(self.pattern.start, self.pattern.end - self.pattern.start);
            let asked = bytes.len() + body.len();
            let written = write(stream, &[bytes, body])?;
            let of_bytes = written.min(bytes.len());
            self.sent += of_bytes;
            self.pattern.start += (written - of_bytes) as u64;
            if self.sent == self.bytes.len() {
                self.bytes.clear();
                self.sent = 0;
            }
            if written < asked {
                return Ok(Flushed::Blocked);
            }
            turn += written;
        }
        Ok(Flushed::All)
    }
}

/// One write; a full socket takes 0 bytes.
fn write(stream: &mut TcpStream, parts: &[&[u8]]) -> io::Result<usize> {
    loop {
        let outcome = match parts {
            [only] | [only, []] => stream.write(only),
            parts => {
                let mut slices = [IoSlice::new(&[]); 2];
                for (slice, part) in slices.iter_mut().zip(parts) {
                    *slice = IoSlice::new(part);
                }
                stream.write_vectored(&slices)
            }
        };
        match outcome {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

struct Connection<S> {
    stream: TcpStream,
    state: S,
    /// The part of the input that the protocol has not taken yet.
    input: Vec<u8>,
    outbox: Outbox,
    next: Next,
    /// Epoll reported bytes, and no read has come back short since.
    is_readable: bool,
    /// The other side has sent its last byte; reads must go on until they return 0.
    is_read_closed: bool,
}

enum Progress {
    Waiting,
    /// Has more to do at once.
    Runnable,
    Closed,
}

impl<S: Default> Connection<S> {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            state: S::default(),
            input: Vec::new(),
            outbox: Outbox::default(),
            next: Next::Read,
            is_readable: false,
            is_read_closed: false,
        }
    }

    fn notice(&mut self, event: &Event) {
        self.is_readable |= event.is_readable();
        self.is_read_closed |= event.is_read_closed();
    }

    /// Goes on until something has to be waited for.
    fn drive<P: Protocol<State = S>>(
        &mut self,
        protocol: &P,
        pattern: &Pattern,
        scratch: &mut [u8],
    ) -> io::Result<Progress> {
        loop {
            match self.outbox.flush(&mut self.stream, pattern)? {
                Flushed::All => {}
                Flushed::Blocked => return Ok(Progress::Waiting),
                Flushed::TurnOver => return Ok(Progress::Runnable),
            }
            match self.next {
                Next::Read => {}
                Next::ReadAt(at) if at <= Instant::now() => self.next = Next::Read,
                Next::ReadAt(_) => return Ok(Progress::Waiting),
                Next::Close => return Ok(Progress::Closed),
            }
            if !self.input.is_empty() && self.feed_input(protocol)? {
                continue;
            }
            if !self.is_readable {
                return Ok(Progress::Waiting);
            }
            match self.stream.read(scratch) {
                Ok(0) => return Ok(Progress::Closed),
                Ok(length) => {
                    self.is_readable = length == scratch.len() || self.is_read_closed;
                    self.feed_read(protocol, &scratch[..length])?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_readable = false;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Offers what is left over again; false if the protocol needs more first.
    fn feed_input<P: Protocol<State = S>>(&mut self, protocol: &P) -> io::Result<bool> {
        let input = std::mem::take(&mut self.input);
        let consumed = self.feed(protocol, &input)?;
        self.input = input;
        self.input.drain(..consumed);
        Ok(consumed > 0 || self.next != Next::Read)
    }

    /// Offers what was just read, in place unless something is left over from before.
    fn feed_read<P: Protocol<State = S>>(&mut self, protocol: &P, read: &[u8]) -> io::Result<()> {
        if self.input.is_empty() {
            let consumed = self.feed(protocol, read)?;
            self.input.extend_from_slice(&read[consumed..]);
        } else {
            self.input.extend_from_slice(read);
        }
        Ok(())
    }

    fn feed<P: Protocol<State = S>>(&mut self, protocol: &P, input: &[u8]) -> io::Result<usize> {
        let mut sink = Sink { stream: &mut self.stream, outbox: &mut self.outbox };
        let fed = protocol.feed(&mut self.state, input, &mut sink)?;
        self.next = fed.next;
        Ok(fed.consumed)
    }
}

struct Server<'a, P: Protocol> {
    protocol: &'a P,
    pattern: Pattern,
    poll: Poll,
    listener: TcpListener,
    connections: Slots<Connection<P::State>>,
    /// Connections whose turn was cut short.
    runnable: Vec<usize>,
    /// Connections that are not to be read before a moment. Few: scanned.
    stalled: Vec<(Instant, usize)>,
}

/// Serves `protocol` on `address` until the parent process ends.
pub(super) fn run<P: Protocol>(address: SocketAddr, protocol: &P) -> anyhow::Result<()> {
    let mut listener = listen(address).with_context(|| format!("listen on {address}"))?;
    let poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let parent = watch_parent(&poll)?;
    announce(listener.local_addr()?)?;
    let mut server = Server {
        protocol,
        pattern: Pattern::new(),
        poll,
        listener,
        connections: Slots::new(),
        runnable: Vec::new(),
        stalled: Vec::new(),
    };
    server.serve()?;
    drop(parent);
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the line whoever started the node waits for")]
fn announce(address: SocketAddr) -> io::Result<()> {
    println!("listening {address}");
    io::stdout().flush()
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// A process descriptor that becomes readable when the parent ends, however it ends.
fn watch_parent(poll: &Poll) -> anyhow::Result<Option<OwnedFd>> {
    use rustix::process::{PidfdFlags, getppid, pidfd_open};
    // A parent outside this pid namespace cannot be watched.
    let Some(parent) = getppid() else { return Ok(None) };
    let descriptor = pidfd_open(parent, PidfdFlags::empty()).context("watch the parent process")?;
    poll.registry().register(&mut SourceFd(&descriptor.as_raw_fd()), PARENT, Interest::READABLE)?;
    Ok(Some(descriptor))
}

impl<P: Protocol> Server<'_, P> {
    fn serve(&mut self) -> anyhow::Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut scratch = vec![0; READ_MAX];
        loop {
            match self.poll.poll(&mut events, self.wait()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept(),
                    PARENT => return Ok(()),
                    Token(index) => {
                        if let Some(connection) = self.connections.get_mut(index) {
                            connection.notice(event);
                            self.drive(index, &mut scratch);
                        }
                    }
                }
            }
            self.resume(&mut scratch);
        }
    }

    /// How long to sleep if nothing happens.
    fn wait(&self) -> Option<Duration> {
        if !self.runnable.is_empty() {
            return Some(Duration::ZERO);
        }
        let first = self.stalled.iter().map(|(at, _)| *at).min()?;
        Some(first.saturating_duration_since(Instant::now()))
    }

    fn accept(&mut self) {
        // Any error ends this round: with EMFILE the next accept would fail too, and the listener
        // is only reported again for a new connection, which is then retried together.
        while let Ok((mut stream, _)) = self.listener.accept() {
            let registry = self.poll.registry();
            let _ = stream.set_nodelay(true);
            let _ = self.connections.insert_with(|index| {
                let interest = Interest::READABLE | Interest::WRITABLE;
                registry.register(&mut stream, Token(index), interest)?;
                Ok::<_, io::Error>(Connection::new(stream))
            });
        }
    }

    fn drive(&mut self, index: usize, scratch: &mut [u8]) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        match connection.drive(self.protocol, &self.pattern, scratch) {
            Ok(Progress::Waiting) => {
                if let Next::ReadAt(at) = connection.next {
                    self.stalled.push((at, index));
                }
            }
            Ok(Progress::Runnable) => self.runnable.push(index),
            // A reset by the other side is its business; it counts what it did not get.
            Ok(Progress::Closed) | Err(_) => {
                self.connections.remove(index);
            }
        }
    }

    /// Gives the next turn to who was cut short and to who has waited long enough.
    fn resume(&mut self, scratch: &mut [u8]) {
        let mut due = std::mem::take(&mut self.runnable);
        if !self.stalled.is_empty() {
            let now = Instant::now();
            self.stalled.retain(|(at, index)| {
                let is_due = *at <= now;
                due.extend(is_due.then_some(*index));
                !is_due
            });
        }
        for index in due {
            self.drive(index, scratch);
        }
    }
}
