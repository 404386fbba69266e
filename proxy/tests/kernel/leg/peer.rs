//! Clients and nodes that do not block, as those that can be delivered to, and speak just enough HTTP
//! to notice a byte that is wrong.

use std::{
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use proxy::test_support::PATIENCE;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{SocketFlags, accept_with},
};
use socket2::{Domain, SockRef, Socket, Type};

use crate::tunnel::Noise;

/// Odd, so that a shift by any power of two shows.
const PATTERN: usize = 65_521;

/// The stream that bodies are the beginnings of.
#[derive(Clone, Copy)]
pub(super) struct Pattern(&'static [u8]);

impl Pattern {
    pub(super) fn new() -> Pattern {
        static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| Noise::bytes(5, PATTERN));
        Pattern(&BYTES)
    }

    pub(super) fn at(&self, offset: usize, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let run = self.run(offset + bytes.len());
            bytes.extend_from_slice(&run[..run.len().min(len - bytes.len())]);
        }
        bytes
    }

    /// From `offset` to where it repeats.
    pub(super) fn run(&self, offset: usize) -> &[u8] {
        &self.0[offset % PATTERN..]
    }

    pub(super) fn check(&self, mut offset: usize, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let run = self.run(offset);
            let (now, rest) = bytes.split_at(run.len().min(bytes.len()));
            if now != &run[..now.len()] {
                let wrong = now.iter().zip(run).position(|(a, b)| a != b).unwrap_or_default();
                return Err(io::Error::other(format!("another byte at {}", offset + wrong)));
            }
            (offset, bytes) = (offset + now.len(), rest);
        }
        Ok(())
    }
}

/// A connection that waits for itself, with patience.
pub(super) trait Wire: Read + Write {
    fn socket(&self) -> &TcpStream;
}

/// A socket whose file does not block; waits with patience instead.
pub(super) struct Waiting(pub(super) TcpStream);

impl Waiting {
    fn wait(&self, events: PollFlags) -> io::Result<()> {
        let timeout = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
        match poll(&mut [PollFd::new(&self.0, events)], Some(&timeout))? {
            0 => Err(io::Error::from(ErrorKind::TimedOut)),
            _ => Ok(()),
        }
    }

    pub(super) fn retry<T>(
        &mut self,
        events: PollFlags,
        mut call: impl FnMut(&mut TcpStream) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            match call(&mut self.0) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait(events)?,
                done => return done,
            }
        }
    }
}

impl Read for Waiting {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.retry(PollFlags::IN, |stream| stream.read(into))
    }
}

impl Write for Waiting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.retry(PollFlags::OUT, |stream| stream.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Wire for Waiting {
    fn socket(&self) -> &TcpStream {
        &self.0
    }
}

/// A connection that does not block from before it is established.
pub(super) fn connect_from(from: Option<SocketAddr>, to: SocketAddr) -> Waiting {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).expect("a socket");
    socket.set_nonblocking(true).expect("an option");
    if let Some(from) = from {
        socket.set_reuse_address(true).expect("an option");
        socket.bind(&from.into()).expect("a free address");
    }
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => panic!("{error}"),
        Ok(()) | Err(_) => {}
    }
    let waiting = Waiting(socket.into());
    waiting.wait(PollFlags::OUT).expect("connected in time");
    let failed = waiting.0.take_error().expect("an option");
    assert!(failed.is_none(), "connected: {failed:?}");
    waiting.0.set_nodelay(true).expect("an option");
    waiting
}

/// As if from another host: the kernel delivers to nobody who blocks when he connects.
pub(super) fn connect_blocking(to: SocketAddr) -> Waiting {
    let stream = TcpStream::connect(to).expect("connected");
    stream.set_nonblocking(true).expect("an option");
    stream.set_nodelay(true).expect("an option");
    Waiting(stream)
}

/// A client of the proxy.
pub(super) struct Peer<W = Waiting> {
    pub(super) stream: BufReader<W>,
    pub(super) pattern: Pattern,
}

impl Peer {
    pub(super) fn connect(to: SocketAddr) -> Peer {
        Peer::over(connect_from(None, to))
    }
}

impl<W: Wire> Peer<W> {
    pub(super) fn over(stream: W) -> Peer<W> {
        Peer { stream: BufReader::new(stream), pattern: Pattern::new() }
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Asks for so many bytes and checks them.
    pub(super) fn get(&mut self, size: usize) -> io::Result<()> {
        self.send(ask(size).as_bytes())?;
        self.answer(size)
    }

    /// The same, after which the node closes.
    pub(super) fn last(&mut self, size: usize) -> io::Result<()> {
        let head = ask(size).replace("host: a", "host: a\r\nx-last: 1");
        self.send(head.as_bytes())?;
        self.answer(size)
    }

    /// Sends so many bytes and checks that they come back.
    pub(super) fn post(&mut self, size: usize) -> io::Result<()> {
        self.send(upload(size).as_bytes())?;
        let body = self.pattern.at(0, size);
        self.send(&body)?;
        self.answer(size)
    }

    /// Asks for so many bytes whose end is that of the node's connection.
    pub(super) fn get_until_close(&mut self, size: usize) -> io::Result<()> {
        self.send(ask(size).replace("give", "rest").as_bytes())?;
        let head = Head::read(&mut self.stream)?.ok_or(ErrorKind::UnexpectedEof)?;
        let body = head.body(&mut self.stream)?;
        if !head.is_chunked || body.len() != size {
            return Err(io::Error::other(format!("{} bytes of {size}", body.len())));
        }
        self.pattern.check(0, &body)
    }

    /// Asks for so many bytes, after which the proxy closes.
    pub(super) fn get_and_close(&mut self, size: usize) -> io::Result<()> {
        self.send(ask(size).replace("host: a", "host: a\r\nconnection: close").as_bytes())?;
        self.answer(size)?;
        match self.stream.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(io::Error::other("more than was asked for")),
        }
    }

    /// Asks for so many bytes, of which the node gives half and then resets.
    pub(super) fn get_cut(&mut self, size: usize) -> io::Result<()> {
        self.send(ask(size).replace("give", "cut").as_bytes())?;
        match Head::read(&mut self.stream)? {
            Some(head) if head.is_success() => {}
            Some(head) if head.line.contains(" 502 ") => return Ok(()),
            Some(head) => return Err(io::Error::other(head.line)),
            None => return Ok(()),
        }
        let mut begun = Vec::new();
        match self.stream.read_to_end(&mut begun) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => return Err(error),
            Ok(_) | Err(_) => {}
        }
        if begun.len() > size / 2 {
            return Err(io::Error::other(format!("{} bytes of half of {size}", begun.len())));
        }
        self.pattern.check(0, &begun)
    }

    pub(super) fn answer(&mut self, size: usize) -> io::Result<()> {
        self.answer_head(size)?;
        self.answer_body(0, size)
    }

    pub(super) fn answer_head(&mut self, size: usize) -> io::Result<()> {
        let head = Head::read(&mut self.stream)?.ok_or(ErrorKind::UnexpectedEof)?;
        if head.is_success() && head.length == Some(size) {
            return Ok(());
        }
        Err(io::Error::other(format!("{:?} with {:?} for {size}", head.line, head.length)))
    }

    /// Bytes of the body from `offset` to `size`.
    pub(super) fn answer_body(&mut self, offset: usize, size: usize) -> io::Result<()> {
        let mut chunk = vec![0; 128 << 10];
        let mut done = offset;
        while done < size {
            let part = chunk.len().min(size - done);
            self.stream.read_exact(&mut chunk[..part])?;
            self.pattern.check(done, &chunk[..part])?;
            done += part;
        }
        Ok(())
    }

    /// What has come and was not asked for.
    pub(super) fn has_more(&self) -> bool {
        !self.stream.buffer().is_empty()
    }

    /// To be closed with a reset.
    pub(super) fn reset(self) {
        SockRef::from(self.stream.get_ref().socket())
            .set_linger(Some(Duration::ZERO))
            .expect("an option");
    }
}

/// A node that has one file gives the range.
pub(super) fn ask(size: usize) -> String {
    let last = size.saturating_sub(1);
    format!("GET /give/{size} HTTP/1.1\r\nhost: a\r\nrange: bytes=0-{last}\r\n\r\n")
}

/// One write of the node for each byte.
pub(super) fn ask_drop_by_drop(size: usize) -> String {
    format!("GET /drip/{size} HTTP/1.1\r\nhost: a\r\n\r\n")
}

pub(super) fn upload(size: usize) -> String {
    format!("POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: {size}\r\n\r\n")
}

pub(super) const CHUNKED_UPLOAD: &str =
    "POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";

pub(super) fn in_chunk(bytes: &[u8]) -> Vec<u8> {
    let size = format!("{:x}\r\n", bytes.len());
    [size.as_bytes(), bytes, b"\r\n"].concat()
}

struct Head {
    line: String,
    length: Option<usize>,
    is_chunked: bool,
    is_last: bool,
}

impl Head {
    /// `None`: nothing more comes.
    fn read(stream: &mut impl BufRead) -> io::Result<Option<Head>> {
        let mut head =
            Head { line: String::new(), length: None, is_chunked: false, is_last: false };
        if stream.read_line(&mut head.line)? == 0 {
            return Ok(None);
        }
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                return Ok(Some(head));
            }
            match line.split_once(": ") {
                Some(("content-length", value)) => head.length = value.parse().ok(),
                Some(("transfer-encoding", _)) => head.is_chunked = true,
                Some(("x-last", _)) => head.is_last = true,
                Some(_) | None => {}
            }
        }
    }

    /// The whole of what was asked for, or the range.
    fn is_success(&self) -> bool {
        self.line.contains(" 200 ") || self.line.contains(" 206 ")
    }

    fn body(&self, stream: &mut impl BufRead) -> io::Result<Vec<u8>> {
        let mut body = vec![0; self.length.unwrap_or_default()];
        stream.read_exact(&mut body)?;
        if !self.is_chunked {
            return Ok(body);
        }
        loop {
            let mut line = String::new();
            stream.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim_end(), 16).map_err(io::Error::other)?;
            let start = body.len();
            body.resize(start + size + 2, 0);
            stream.read_exact(&mut body[start..])?;
            body.truncate(start + size);
            if size == 0 {
                return Ok(body);
            }
        }
    }
}

/// A node that gives what it is asked for and echoes what it is sent. Runs until the process ends.
pub(super) struct Node {
    pub(super) address: SocketAddr,
    /// Bytes of answers, over all connections.
    pub(super) written: Arc<AtomicU64>,
    pub(super) connections: Arc<AtomicUsize>,
}

impl Node {
    pub(super) fn start(address: &str) -> Node {
        Node::on(TcpListener::bind(address).expect("a free port"))
    }

    pub(super) fn on(listener: TcpListener) -> Node {
        Node::over(listener, Waiting)
    }

    /// One whose connections wait in their own way.
    pub(super) fn over<W: Wire + 'static>(
        listener: TcpListener,
        wire: impl Fn(TcpStream) -> W + Send + Clone + 'static,
    ) -> Node {
        let node = Node {
            address: listener.local_addr().expect("an address"),
            written: Arc::default(),
            connections: Arc::default(),
        };
        let (written, connections) = (Arc::clone(&node.written), Arc::clone(&node.connections));
        thread::spawn(move || {
            loop {
                // Not for a moment one that blocks.
                let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
                let stream = TcpStream::from(accept_with(&listener, flags).expect("a connection"));
                stream.set_nodelay(true).expect("an option");
                let wire = wire.clone();
                let (written, connections) = (Arc::clone(&written), Arc::clone(&connections));
                connections.fetch_add(1, Ordering::Relaxed);
                thread::spawn(move || {
                    // However the proxy ends it.
                    drop(serve(&mut BufReader::new(wire(stream)), &written));
                    connections.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        node
    }
}

fn serve<W: Wire>(stream: &mut BufReader<W>, written: &AtomicU64) -> io::Result<()> {
    let pattern = Pattern::new();
    // An idle connection is none that hangs.
    while idle(stream)?
        && let Some(head) = Head::read(stream)?
    {
        let body = head.body(stream)?;
        let (size, step) = match head.line.split(['/', ' ']).nth(2) {
            Some("give") => (asked(&head.line), usize::MAX),
            Some("drip") => (asked(&head.line), 1),
            Some("rest") => {
                stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
                return stream.get_mut().write_all(&pattern.at(0, asked(&head.line)));
            }
            Some("cut") => return cut(stream.get_mut(), &pattern, asked(&head.line)),
            _ => (body.len(), usize::MAX),
        };
        let close = if head.is_last { "connection: close\r\n" } else { "" };
        let start = format!("HTTP/1.1 200 OK\r\n{close}content-length: {size}\r\n\r\n");
        let to = stream.get_mut();
        to.write_all(start.as_bytes())?;
        if !body.is_empty() {
            to.write_all(&body)?;
            continue;
        }
        let mut done = 0;
        while done < size {
            let run = pattern.run(done);
            let count = to.write(&run[..run.len().min(size - done).min(step)])?;
            written.fetch_add(count as u64, Ordering::Relaxed);
            done += count;
        }
        if head.is_last {
            return Ok(());
        }
    }
    Ok(())
}

/// Half of an answer, and a reset.
fn cut(to: &mut impl Wire, pattern: &Pattern, size: usize) -> io::Result<()> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n");
    to.write_all(head.as_bytes())?;
    to.write_all(&pattern.at(0, size / 2))?;
    SockRef::from(to.socket()).set_linger(Some(Duration::ZERO))
}

/// Waits for a request without an end to its patience; `false` is the end.
pub(super) fn idle(stream: &mut impl BufRead) -> io::Result<bool> {
    loop {
        match stream.fill_buf() {
            Err(error) if error.kind() == ErrorKind::TimedOut => {}
            filled => return filled.map(|bytes| !bytes.is_empty()),
        }
    }
}

fn asked(line: &str) -> usize {
    line.split(['/', ' ']).nth(3).and_then(|size| size.parse().ok()).unwrap_or_default()
}
