//! A node whose answer is said by the path it is asked for, so that whoever asks knows every byte; and
//! a client that does.

use std::{
    collections::HashSet,
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use proxy::test_support::PATIENCE;
use rustix::net::{SocketFlags, accept_with};
use socket2::SockRef;

use super::{
    super::peer::{Pattern, Waiting, Wire, connect_blocking, connect_from, idle},
    Noise, Place,
};

const DATE: &str = "date: Tue, 15 Nov 1994 08:12:31 GMT\r\n";
/// Longer than any head that is passed on unseen.
const WIDE: usize = 2_100;

/// What a node does about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A whole response in one write.
    Plain,
    /// The same when the test says so.
    Held,
    /// Head and half of the body, then the rest.
    Pieces,
    /// Head and some of the body, then the rest in many pieces of all sizes.
    Parts,
    /// One write for each byte, and the pause between any two.
    Drip,
    /// Head and half of the body; the rest when the test says so.
    Within,
    /// The same, with another response behind it in one write with the rest.
    WithinExtra,
    /// Head and half of the body; the end when the test says so.
    WithinEnd,
    Chunked,
    /// Its length is where the connection ends.
    Unmeasured,
    Undated,
    /// `connection: close`.
    Closing,
    /// A 103 before it, in one write with it.
    Early,
    /// A 103 before it, in a write of its own.
    EarlyAlone,
    /// A large head.
    Wide,
    /// Another response behind it, in one write with it.
    Extra,
    /// Another response behind it, a moment later.
    Late,
    /// Half of it, and a reset.
    Half,
    /// Half of it, and the end.
    HalfEnd,
    /// Nothing, and the end.
    End,
    /// Nothing, and a reset.
    Reset,
}

impl Kind {
    const ALL: [(Kind, &str); 21] = [
        (Kind::Plain, "plain"),
        (Kind::Held, "held"),
        (Kind::Pieces, "pieces"),
        (Kind::Parts, "parts"),
        (Kind::Drip, "drip"),
        (Kind::Within, "within"),
        (Kind::WithinExtra, "within_extra"),
        (Kind::WithinEnd, "within_end"),
        (Kind::Chunked, "chunked"),
        (Kind::Unmeasured, "unmeasured"),
        (Kind::Undated, "undated"),
        (Kind::Closing, "closing"),
        (Kind::Early, "early"),
        (Kind::EarlyAlone, "early_alone"),
        (Kind::Wide, "wide"),
        (Kind::Extra, "extra"),
        (Kind::Late, "late"),
        (Kind::Half, "half"),
        (Kind::HalfEnd, "half_end"),
        (Kind::End, "end"),
        (Kind::Reset, "reset"),
    ];

    fn name(self) -> &'static str {
        Kind::ALL.iter().find(|(kind, _)| *kind == self).expect("all of them").1
    }
}

/// A request, and with it its answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask {
    pub(super) kind: Kind,
    pub(super) status: u16,
    pub(super) size: usize,
    /// Of no other request of this process.
    pub(super) id: u64,
    /// Microseconds that the node thinks about it.
    pub(super) pause: u64,
    pub(super) method: &'static str,
}

impl Ask {
    pub(super) fn new(kind: Kind, size: usize) -> Ask {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Ask { kind, status: 200, size, id, pause: 0, method: "GET" }
    }

    pub(super) fn plain(size: usize) -> Ask {
        Ask::new(Kind::Plain, size)
    }

    pub(super) fn path(&self) -> String {
        let Ask { kind, status, size, id, pause, .. } = self;
        format!("/{}/{status}/{size}/{id}/{pause}", kind.name())
    }

    pub(super) fn request(&self) -> Vec<u8> {
        self.request_with("")
    }

    /// With further fields, each with its end of line.
    pub(super) fn request_with(&self, fields: &str) -> Vec<u8> {
        let Ask { method, .. } = self;
        format!("{method} {} HTTP/1.1\r\nhost: a\r\n{fields}\r\n", self.path()).into_bytes()
    }

    fn of_line(line: &str) -> Option<Ask> {
        let method = if line.starts_with("HEAD ") { "HEAD" } else { "GET" };
        let mut parts = line.split(' ').nth(1)?.split('/').skip(1);
        let name = parts.next()?;
        let kind = Kind::ALL.iter().find(|(_, known)| *known == name)?.0;
        let mut number = || parts.next()?.parse::<u64>().ok();
        let (status, size) = (number()? as u16, number()? as usize);
        Some(Ask { kind, status, size, id: number()?, pause: number()?, method })
    }

    /// Bytes of the body that come, or do not come, behind the first half.
    pub(super) fn rest(&self) -> usize {
        if self.has_body() { self.size / 2 } else { 0 }
    }

    fn has_body(&self) -> bool {
        self.method != "HEAD" && !matches!(self.status, 204 | 304)
    }

    pub(super) fn body(&self) -> Vec<u8> {
        if !self.has_body() {
            return Vec::new();
        }
        Pattern::new().at(self.id as usize * 7_919, self.size)
    }

    /// The node's final head.
    pub(super) fn head(&self) -> String {
        let Ask { status, size, id, .. } = self;
        let phrase = match status {
            200 => "OK",
            201 => "Created",
            204 => "No Content",
            205 => "Reset Content",
            206 => "Partial Content",
            304 => "Not Modified",
            404 => "Not Found",
            408 => "Request Timeout",
            421 => "Misdirected Request",
            500 => "Internal Server Error",
            503 => "Service Unavailable",
            _ => panic!("a phrase for {status}"),
        };
        let date = if self.kind == Kind::Undated { "" } else { DATE };
        let length = if self.kind == Kind::Chunked {
            "transfer-encoding: chunked\r\n".to_owned()
        } else if self.kind == Kind::Unmeasured {
            String::new()
        } else {
            format!("content-length: {size}\r\n")
        };
        let close = if self.kind == Kind::Closing { "connection: close\r\n" } else { "" };
        let wide = if self.kind == Kind::Wide { "w".repeat(WIDE) } else { "w".to_owned() };
        format!(
            "HTTP/1.1 {status} {phrase}\r\n{date}{length}{close}x-id: {id}\r\nx-w: {wide}\r\n\r\n"
        )
    }

    /// All that the node says to it, in one piece.
    pub(super) fn response(&self) -> Vec<u8> {
        let (mut response, body) = (self.head().into_bytes(), self.body());
        if self.kind == Kind::Chunked {
            for chunk in body.chunks(1_000) {
                response.extend_from_slice(&super::super::peer::in_chunk(chunk));
            }
            response.extend_from_slice(b"0\r\n\r\n");
        } else {
            response.extend_from_slice(&body);
        }
        response
    }
}

/// A response that nobody asked for.
fn stray() -> Vec<u8> {
    let ask = Ask { kind: Kind::Plain, status: 200, size: 5, id: 0, pause: 0, method: "GET" };
    ask.response()
}

/// What a test knows of its node.
#[derive(Default)]
struct Shared {
    /// Connections so far, and at present.
    accepted: AtomicUsize,
    open: AtomicUsize,
    state: Mutex<State>,
    has_changed: Condvar,
}

#[derive(Default)]
struct State {
    seen: HashSet<u64>,
    released: HashSet<u64>,
    written: HashSet<u64>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.has_changed.notify_all();
    }

    #[track_caller]
    fn wait_until(&self, what: &str, is_so: impl Fn(&State) -> bool) {
        let waited = self.has_changed.wait_timeout_while(self.state(), PATIENCE, |it| !is_so(it));
        assert!(!waited.expect("no panic").1.timed_out(), "{what}: not within {PATIENCE:?}");
    }
}

/// Runs until the process ends.
pub(super) struct Node {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
}

impl Node {
    pub(super) fn start() -> Node {
        Node::over(|stream| stream)
    }

    pub(super) fn at(address: SocketAddr) -> Node {
        Node::on(TcpListener::bind(address).expect("a free address"), |stream| stream)
    }

    /// One whose connections wait in their own way.
    pub(super) fn over<W: Wire + 'static>(
        wire: impl Fn(Waiting) -> W + Send + Clone + 'static,
    ) -> Node {
        Node::on(TcpListener::bind("127.0.0.1:0").expect("a free port"), wire)
    }

    fn on<W: Wire + 'static>(
        listener: TcpListener,
        wire: impl Fn(Waiting) -> W + Send + Clone + 'static,
    ) -> Node {
        let address = listener.local_addr().expect("an address");
        let shared = Arc::<Shared>::default();
        let node = Node { address, shared: Arc::clone(&shared) };
        thread::spawn(move || {
            loop {
                let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
                let stream = TcpStream::from(accept_with(&listener, flags).expect("a connection"));
                stream.set_nodelay(true).expect("an option");
                shared.accepted.fetch_add(1, Ordering::Relaxed);
                shared.open.fetch_add(1, Ordering::Relaxed);
                let (shared, wire) = (Arc::clone(&shared), wire.clone());
                thread::spawn(move || {
                    // However the proxy ends it.
                    drop(serve(BufReader::new(wire(Waiting(stream))), &shared));
                    shared.open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        node
    }

    pub(super) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    pub(super) fn open(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// Ids of all requests that ever arrived.
    pub(super) fn seen(&self) -> Vec<u64> {
        self.shared.state().seen.iter().copied().collect()
    }

    #[track_caller]
    pub(super) fn wait_for(&self, ask: &Ask) {
        self.shared.wait_until("a request", |state| state.seen.contains(&ask.id));
    }

    /// Lets it answer a request that it holds, and waits until it has tried.
    #[track_caller]
    pub(super) fn release(&self, ask: &Ask) {
        self.shared.change(|state| _ = state.released.insert(ask.id));
        self.shared.wait_until("an answer", |state| state.written.contains(&ask.id));
    }

    /// Waits until it has written all that it ever will about a request.
    #[track_caller]
    pub(super) fn wait_written(&self, ask: &Ask) {
        self.shared.wait_until("an answer", |state| state.written.contains(&ask.id));
    }
}

fn serve<W: Wire>(mut stream: BufReader<W>, shared: &Shared) -> io::Result<()> {
    while idle(&mut stream)? {
        let (ask, length) = read_request(&mut stream)?;
        io::copy(&mut Read::by_ref(&mut stream).take(length), &mut io::sink())?;
        shared.change(|state| _ = state.seen.insert(ask.id));
        if ask.pause > 0 {
            thread::park_timeout(Duration::from_micros(ask.pause));
        }
        if ask.kind == Kind::Held {
            shared.wait_until("the test to say so", |state| state.released.contains(&ask.id));
        }
        let written = answer(stream.get_mut(), &ask, shared);
        shared.change(|state| _ = state.written.insert(ask.id));
        if !written? {
            return Ok(());
        }
    }
    Ok(())
}

fn read_request(stream: &mut impl BufRead) -> io::Result<(Ask, u64)> {
    let (mut first, mut length) = (String::new(), 0);
    stream.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if line == "\r\n" {
            let ask = Ask::of_line(&first).ok_or_else(|| io::Error::other(first))?;
            return Ok((ask, length));
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
            length = value.trim_end().parse().map_err(io::Error::other)?;
        }
    }
}

/// Whether another request may follow.
fn answer(to: &mut impl Wire, ask: &Ask, shared: &Shared) -> io::Result<bool> {
    let response = ask.response();
    let (first, second) = response.split_at(response.len() - ask.rest());
    match ask.kind {
        Kind::Plain | Kind::Held | Kind::Chunked | Kind::Undated | Kind::Wide => {
            to.write_all(&response)?;
        }
        Kind::Pieces => {
            to.write_all(first)?;
            to.write_all(second)?;
        }
        Kind::Parts => parts(to, ask, &response)?,
        Kind::Drip => drip(to, ask, &response)?,
        Kind::Within | Kind::WithinExtra => {
            to.write_all(first)?;
            shared.wait_until("the test to say so", |state| state.released.contains(&ask.id));
            let behind = if ask.kind == Kind::Within { Vec::new() } else { stray() };
            to.write_all(&[second, &behind].concat())?;
        }
        Kind::WithinEnd => {
            to.write_all(first)?;
            shared.wait_until("the test to say so", |state| state.released.contains(&ask.id));
            return Ok(false);
        }
        Kind::Unmeasured | Kind::Closing => {
            to.write_all(&response)?;
            return Ok(false);
        }
        Kind::Early => to.write_all(&[EARLY.as_bytes(), &response].concat())?,
        Kind::EarlyAlone => {
            to.write_all(EARLY.as_bytes())?;
            to.write_all(&response)?;
        }
        Kind::Extra => to.write_all(&[response, stray()].concat())?,
        Kind::Late => {
            to.write_all(&response)?;
            thread::park_timeout(Duration::from_micros(500));
            to.write_all(&stray())?;
        }
        Kind::HalfEnd => {
            to.write_all(first)?;
            return Ok(false);
        }
        Kind::Half => {
            to.write_all(first)?;
            SockRef::from(to.socket()).set_linger(Some(Duration::ZERO))?;
            return Ok(false);
        }
        Kind::End => return Ok(false),
        Kind::Reset => {
            SockRef::from(to.socket()).set_linger(Some(Duration::ZERO))?;
            return Ok(false);
        }
    }
    Ok(true)
}

/// The sizes are said by the request; two small ones in a row are common.
fn parts(to: &mut impl Wire, ask: &Ask, response: &[u8]) -> io::Result<()> {
    let mut noise = Noise(ask.id << 8 | 1);
    let mut size = ask.head().len() + noise.next() as usize % 100;
    let mut rest = response;
    while !rest.is_empty() {
        let (part, behind) = rest.split_at(size.clamp(1, rest.len()));
        to.write_all(part)?;
        rest = behind;
        size = noise.next() as usize % (1 << (noise.next() % 18));
    }
    Ok(())
}

fn drip(to: &mut impl Wire, ask: &Ask, response: &[u8]) -> io::Result<()> {
    let (head, body) = response.split_at(ask.head().len());
    to.write_all(head)?;
    for drop in body.chunks(1) {
        thread::park_timeout(Duration::from_micros(ask.pause));
        to.write_all(drop)?;
    }
    Ok(())
}

const EARLY: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";

/// One connection to the proxy.
pub(super) struct Client {
    pub(super) stream: BufReader<Waiting>,
}

/// A response, with its chunks joined.
pub(super) struct Heard {
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Heard {
    pub(super) fn status(&self) -> u16 {
        self.head[9..12].parse().expect("a status")
    }
}

impl Client {
    pub(super) fn connect(place: Place, to: SocketAddr) -> Client {
        let stream = match place {
            Place::Here => connect_from(None, to),
            Place::Elsewhere => connect_blocking(to),
        };
        Client { stream: BufReader::new(stream) }
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// A whole exchange, every byte of it checked.
    pub(super) fn ask(&mut self, ask: &Ask) -> io::Result<()> {
        self.send(&ask.request())?;
        self.answer(ask)
    }

    /// Nothing but what the node says to this.
    pub(super) fn answer(&mut self, ask: &Ask) -> io::Result<()> {
        let heard = self.hear(ask.has_body())?;
        check_head(ask, &heard.head)?;
        if heard.body == ask.body() {
            return Ok(());
        }
        let (is, should) = (heard.body.len(), ask.body().len());
        Err(io::Error::other(format!("another body for {ask:?}: {is} bytes of {should}")))
    }

    /// The head and the half of the body that comes with it.
    pub(super) fn first_half(&mut self, ask: &Ask) -> io::Result<()> {
        let head = self.head()?;
        check_head(ask, &head)?;
        self.expect(&ask.body()[..ask.size - ask.rest()])
    }

    pub(super) fn second_half(&mut self, ask: &Ask) -> io::Result<()> {
        self.expect(&ask.body()[ask.size - ask.rest()..])
    }

    fn expect(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut heard = vec![0; bytes.len()];
        self.stream.read_exact(&mut heard)?;
        if heard == bytes { Ok(()) } else { Err(io::Error::other("other bytes")) }
    }

    fn head(&mut self) -> io::Result<String> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.stream.read_line(&mut head)? == 0 {
                let kind = ErrorKind::UnexpectedEof;
                return Err(io::Error::new(kind, format!("the end behind {head:?}")));
            }
        }
        Ok(head)
    }

    pub(super) fn hear(&mut self, has_body: bool) -> io::Result<Heard> {
        let head = self.head()?;
        let lower = head.to_ascii_lowercase();
        let mut body = Vec::new();
        if !has_body {
        } else if lower.contains("\r\ntransfer-encoding: chunked\r\n") {
            self.chunks(&mut body)?;
        } else {
            let length = lower.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length = length.and_then(|length| length.parse().ok());
            body.resize(length.ok_or_else(|| io::Error::other(head.clone()))?, 0);
            self.stream.read_exact(&mut body)?;
        }
        Ok(Heard { head, body })
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim_end(), 16).map_err(io::Error::other)?;
            let start = body.len();
            body.resize(start + size + 2, 0);
            self.stream.read_exact(&mut body[start..])?;
            body.truncate(start + size);
            if size == 0 {
                return Ok(());
            }
        }
    }

    /// Nothing more comes: the end, and no byte before it.
    pub(super) fn end(&mut self) -> io::Result<()> {
        match self.stream.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(io::Error::other("more than was asked for")),
            Err(error) => Err(error),
        }
    }

    /// Whether there is anything that was not asked for.
    pub(super) fn has_more(&self) -> bool {
        !self.stream.buffer().is_empty()
            || self.stream.get_ref().socket().peek(&mut [0]).is_ok_and(|count| count > 0)
    }

    /// Nothing more is asked for.
    pub(super) fn shut_down(&self) -> io::Result<()> {
        self.stream.get_ref().socket().shutdown(Shutdown::Write)
    }

    /// Closes with a reset.
    pub(super) fn reset(self) {
        let socket = SockRef::from(self.stream.get_ref().socket());
        socket.set_linger(Some(Duration::ZERO)).expect("an option");
    }
}

/// Whether this is the head that the node sent.
///
/// To be an equality of bytes as soon as a lane adds nothing to a head that the kernel would pass on.
fn check_head(ask: &Ask, heard: &str) -> io::Result<()> {
    let sent = ask.head();
    let is_own = |line: &&str| {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        match &*name {
            "via" | "connection" => true,
            "transfer-encoding" => matches!(ask.kind, Kind::Chunked | Kind::Unmeasured),
            "date" => ask.kind == Kind::Undated,
            "content-length" => matches!(ask.status, 204 | 304),
            _ => false,
        }
    };
    let lines = |head: &str| {
        let lines = head.lines().filter(|line| !is_own(line)).map(str::to_ascii_lowercase);
        let mut lines: Vec<String> = lines.collect();
        lines.sort();
        lines
    };
    // The version of a client that speaks another one.
    if lines(&sent) == lines(&heard.replacen("HTTP/1.0 ", "HTTP/1.1 ", 1)) {
        return Ok(());
    }
    Err(io::Error::other(format!("another head for {ask:?}: {heard:?}")))
}
