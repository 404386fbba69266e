//! Scripted clients and nodes, and a proxy to put between them: raw bytes in, raw bytes out.
//!
//! Everything blocks, with [`PATIENCE`] on every read, so a test that waits for something that never
//! comes fails instead of hanging.

mod name_server;
pub mod noise;
pub mod stage;

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU16, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use proxy_common::names;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub use self::name_server::{NameServer, Says};
pub use crate::express::relay::dry;
use crate::{
    app::App,
    config::{Config, ConfigErrors},
    drain::Shutdown,
    kernel::KernelPlane,
    plugin::{Plugin, PluginConfig},
    reload::{Refused, Reloader},
};

/// How long a test waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// `hyper`: proxies are started without the express lane.
const LANE: &str = "TANDEM_TEST_LANE";
/// `same_host`: proxies have the kernel half, all of it but XDP, of which an interface has one program;
/// they deliver directly, and clients and nodes do not block in their calls.
const KERNEL: &str = "TANDEM_TEST_KERNEL";
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A proxy in this process, drained when dropped.
pub struct TestProxy {
    listeners: Vec<(Arc<str>, SocketAddr)>,
    admin: Option<SocketAddr>,
    shutdown: Shutdown,
    kernel: Arc<KernelPlane>,
    /// At the start: it has tried itself before that.
    kernel_work: Option<[u64; 3]>,
    reloader: Arc<Reloader>,
    running: Option<thread::JoinHandle<anyhow::Result<()>>>,
    access_log: PathBuf,
    _directory: tempfile::TempDir,
}

impl TestProxy {
    /// Starts a proxy on `yaml`, with the kernel half off (on where the whole run is to have it), one
    /// worker, an admin listener and an access log unless the text says otherwise.
    pub fn start(yaml: &str) -> TestProxy {
        Self::start_with(yaml, &[])
    }

    /// The same with `plugins` on every HTTP route, behind those that are configured.
    pub fn start_with(yaml: &str, plugins: &[Arc<dyn Plugin>]) -> TestProxy {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let access_log = directory.path().join("access.log");
        let config =
            Self::config(yaml, plugins, &access_log).unwrap_or_else(|errors| panic!("{errors}"));
        let app = App::start(&config).expect("the proxy starts");
        TestProxy {
            listeners: app.listeners.clone(),
            admin: app.admin,
            shutdown: app.shutdown(),
            kernel: Arc::clone(&app.kernel),
            kernel_work: kernel_work(&app.kernel),
            reloader: app.reloader(),
            running: Some(thread::spawn(move || app.wait())),
            access_log,
            _directory: directory,
        }
    }

    /// Publishes the rules of `yaml`, which otherwise is completed as [`start`](Self::start) does.
    pub fn reload(&self, yaml: &str) -> Result<(), Refused> {
        let config =
            Self::config(yaml, &[], &self.access_log).unwrap_or_else(|errors| panic!("{errors}"));
        self.reloader.apply(&config)
    }

    fn config(
        yaml: &str,
        plugins: &[Arc<dyn Plugin>],
        access_log: &Path,
    ) -> Result<Config, ConfigErrors> {
        let mut text = yaml.to_owned();
        let kernel = if is_same_host() {
            "kernel: { mode: require, same_host: { enabled: true, cgroup: / } }"
        } else {
            "kernel: { mode: off }"
        };
        for (key, default) in [
            ("workers:", "workers: 1".to_owned()),
            ("kernel:", kernel.to_owned()),
            ("admin:", "admin: { address: \"127.0.0.1:0\" }".to_owned()),
            ("log:", format!("log: {{ access: {{ target: {} }} }}", access_log.display())),
        ] {
            if !text.lines().any(|line| line.starts_with(key)) {
                text = format!("{text}\n{default}\n");
            }
        }
        let mut config = Config::parse(&text, "test.yaml")?;
        let is_without_express = std::env::var_os(LANE).is_some_and(|lane| lane == "hyper");
        for listener in &mut config.listeners {
            listener.has_express_lane &= !is_without_express;
        }
        for route in &mut config.routes {
            route.plugins.plugins.extend(plugins.iter().enumerate().map(PluginConfig::test));
        }
        Ok(config)
    }

    /// One HTTP listener `web` and one route for everything to `nodes`.
    pub fn to(nodes: &[SocketAddr]) -> TestProxy {
        TestProxy::start(&Self::yaml(nodes))
    }

    pub fn yaml(nodes: &[SocketAddr]) -> String {
        let nodes: Vec<_> = nodes.iter().map(|node| format!("\"{node}\": 1")).collect();
        format!(
            "listeners: [{{ name: web, address: \"127.0.0.1:0\" }}]\n\
             routes: [{{ id: all, uri: /*, upstream_id: app }}]\n\
             upstreams: [{{ id: app, type: roundrobin, nodes: {{ {} }} }}]\n",
            nodes.join(", ")
        )
    }

    pub fn address(&self, listener: &str) -> SocketAddr {
        let found = self.listeners.iter().find(|(name, _)| &**name == listener);
        found.expect("a listener of that name").1
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address("web"))
    }

    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// GET on the admin address; the body.
    pub fn admin(&self, path: &str) -> Response {
        self.ask_admin("GET", path)
    }

    pub fn ask_admin(&self, method: &str, path: &str) -> Response {
        let mut client = Client::connect(self.admin.expect("an admin listener"));
        client.ask(format!("{method} {path} HTTP/1.1\r\nhost: a\r\n\r\n"))
    }

    /// The value of one sample of `/metrics`; 0 if it is not there yet.
    pub fn metric(&self, sample: &str) -> f64 {
        let page = self.admin("/metrics").text();
        let line = page
            .lines()
            .find(|line| line.strip_prefix(sample).is_some_and(|rest| rest.starts_with(' ')));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
    }

    /// A sample of `/metrics` comes to `value`; what a client has seen may be counted after it.
    #[track_caller]
    pub fn check_metric(&self, sample: &str, value: f64) {
        let reached = within_patience(|| (self.metric(sample) == value).then_some(()));
        assert!(reached.is_some(), "{sample} is {}, not {value}", self.metric(sample));
    }

    /// The access log once it has `count` lines; a line that is still being written is none.
    pub fn access_log(&self, count: usize) -> Vec<String> {
        eventually("access-log lines", || {
            let text = std::fs::read_to_string(&self.access_log).unwrap_or_default();
            let whole = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
            let lines: Vec<_> = whole.map(str::to_owned).collect();
            (lines.len() >= count).then_some(lines)
        })
    }

    /// Drains and waits for the end.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.shutdown.drain();
        self.running.take().expect("still running").join().expect("no panic")
    }

    /// Says what the kernel half has done since the start, if it is on, in a line that the test runner
    /// adds up: a run that asked for it and did without is none.
    #[expect(clippy::print_stdout, reason = "of a test, for the test runner")]
    fn tell_kernel_work(&self) {
        if let (Some(now), Some(before)) = (kernel_work(&self.kernel), self.kernel_work) {
            let [steered, delivered, passed] = [0, 1, 2].map(|at| now[at] - before[at]);
            println!("kernel half: {steered} steered, {delivered} delivered, {passed} passed");
        }
    }
}

/// Connections steered, messages delivered, and responses that have gone past the proxy; `None`: it runs
/// in userspace.
fn kernel_work(kernel: &KernelPlane) -> Option<[u64; 3]> {
    let counters = Some(kernel.counters()).filter(|counters| !counters.is_empty())?;
    let wanted =
        [(names::WORKER, "steered"), (names::LOCAL, "delivered"), (names::BYPASS, "passed")];
    Some(wanted.map(|wanted| {
        let named = counters.iter().filter(|it| (it.program, it.reason) == wanted);
        named.map(|it| it.packets).sum()
    }))
}

impl Drop for TestProxy {
    fn drop(&mut self) {
        self.tell_kernel_work();
        self.shutdown.end();
        if let Some(running) = self.running.take() {
            let ended = running.join();
            if !thread::panicking() {
                ended.expect("no panic").expect("a clean end");
            }
        }
    }
}

/// Waits until `probe` has something.
#[track_caller]
pub fn eventually<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    match within_patience(probe) {
        Some(found) => found,
        None => panic!("{what}: not within {PATIENCE:?}"),
    }
}

/// What `probe` has before patience ends.
pub fn within_patience<T>(mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        let found = probe();
        if found.is_some() || start.elapsed() >= PATIENCE {
            return found;
        }
        thread::park_timeout(POLL_INTERVAL);
    }
}

/// An address that nobody listens on and that nobody is given by chance: its port lies below those
/// that the kernel chooses from (`net.ipv4.ip_local_port_range`), and each is returned once.
pub fn unused_address() -> SocketAddr {
    const PORTS: std::ops::Range<u16> = 20_000..30_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let size = PORTS.end - PORTS.start;
    // Test processes run side by side.
    let first = (std::process::id() % u32::from(size)) as u16;
    let free = (0..size).find_map(|_| {
        let offset = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % size;
        TcpListener::bind(("127.0.0.1", PORTS.start + offset)).and_then(|it| it.local_addr()).ok()
    });
    free.expect("one of many ports is free")
}

/// Whether the first connections to a node are given up once it is known not to block, for ones that
/// can be delivered on.
pub fn gives_up_connections() -> bool {
    is_same_host() && std::env::var_os(LANE).is_none_or(|lane| lane != "hyper")
}

/// Whether responses go past the express lane, if they may.
pub fn has_bypass() -> bool {
    gives_up_connections()
}

fn is_same_host() -> bool {
    std::env::var_os(KERNEL).is_some_and(|kernel| kernel == "same_host")
}

/// A socket with [`PATIENCE`]; one that never blocks waits outside of its calls.
struct Patient(TcpStream);

impl Patient {
    fn connect(address: SocketAddr) -> io::Result<Patient> {
        if !is_same_host() {
            return Ok(Patient::new(TcpStream::connect_timeout(&address, PATIENCE)?));
        }
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(address),
            socket2::Type::STREAM,
            None,
        )?;
        socket.set_nonblocking(true)?;
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let stream = Patient(socket.into());
        stream.wait(PollFlags::OUT, PATIENCE)?;
        stream.0.take_error()?.map_or(Ok(stream), Err)
    }

    fn new(stream: TcpStream) -> Patient {
        stream.set_nonblocking(is_same_host()).expect("a socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Patient(stream)
    }

    fn wait(&self, flags: PollFlags, patience: Duration) -> io::Result<()> {
        let patience = Timespec::try_from(patience).expect("a short time");
        match poll(&mut [PollFd::new(&self.0, flags)], Some(&patience))? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }

    fn patiently<T>(
        &mut self,
        flags: PollFlags,
        mut call: impl FnMut(&mut TcpStream) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            match call(&mut self.0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && is_same_host() => {
                    self.wait(flags, PATIENCE)?;
                }
                result => return result,
            }
        }
    }
}

impl Read for Patient {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.patiently(PollFlags::IN, |stream| stream.read(bytes))
    }
}

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.patiently(PollFlags::OUT, |stream| stream.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A client that says exactly what it is told.
pub struct Client {
    stream: Patient,
    received: Vec<u8>,
    /// Everything that ever came, for whoever wants to see more than whole messages.
    tap: Option<Heard>,
}

/// Asserts that the proxy resets a connection to `address` at once: it may be gone before it is connected.
pub fn check_refused(address: SocketAddr) {
    let refused = TcpStream::connect(address).and_then(|mut stream| {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.read(&mut [0])
    });
    assert_eq!(refused.expect_err("a reset").kind(), io::ErrorKind::ConnectionReset);
}

type Heard = Arc<Mutex<Vec<Vec<u8>>>>;

/// A response as it came over the wire.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    /// Head as received, without the empty line.
    pub head: String,
    /// Body with chunked framing removed.
    pub body: Vec<u8>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        let stream = Patient::connect(address).expect("the proxy accepts");
        stream.0.set_nodelay(true).expect("no delay");
        Client { stream, received: Vec::new(), tap: None }
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream.0
    }

    /// Whether there is something to read before long.
    pub fn hears_within(&self, patience: Duration) -> bool {
        self.stream.wait(PollFlags::IN, patience).is_ok()
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.stream.write_all(bytes.as_ref()).expect("the proxy reads");
        self
    }

    /// Sends to a proxy that may have closed already.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) {
        // A reset, if there is one, shows when reading.
        drop(self.stream.write_all(bytes.as_ref()));
    }

    /// A whole exchange.
    pub fn ask(&mut self, bytes: impl AsRef<[u8]>) -> Response {
        self.send(bytes).response()
    }

    /// The next response; its length by its own framing.
    pub fn response(&mut self) -> Response {
        self.response_to("GET")
    }

    /// The same for a method that decides about the body (`HEAD`).
    pub fn response_to(&mut self, method: &str) -> Response {
        let head = self.until(b"\r\n\r\n");
        let head = String::from_utf8(head).expect("an ASCII head");
        let head = head.trim_end_matches("\r\n").to_owned();
        let status = head[9..12].parse().expect("a status");
        let field = |name: &str| field(&head, name);
        let has_no_body = method == "HEAD" || matches!(status, 100..=199 | 204 | 304);
        let body = if has_no_body {
            Vec::new()
        } else if field("transfer-encoding").is_some() {
            self.chunked()
        } else if let Some(length) = field("content-length") {
            self.exactly(length.parse().expect("a length"))
        } else {
            self.rest()
        };
        Response { status, head, body }
    }

    fn chunked(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let line = self.until(b"\r\n");
            let size = String::from_utf8_lossy(&line[..line.len() - 2]).into_owned();
            let size = usize::from_str_radix(&size, 16).expect("a chunk size");
            body.extend(self.exactly(size));
            assert_eq!(self.exactly(2), b"\r\n");
            if size == 0 {
                return body;
            }
        }
    }

    /// Everything up to and with `end`.
    pub fn until(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = self.received.windows(end.len()).position(|window| window == end) {
                return self.received.drain(..at + end.len()).collect();
            }
            let read = self.fill().expect("more bytes");
            let so_far = String::from_utf8_lossy(&self.received).into_owned();
            assert!(read > 0, "closed while waiting for {end:?}: {so_far:?}");
        }
    }

    fn exactly(&mut self, length: usize) -> Vec<u8> {
        while self.received.len() < length {
            assert!(self.fill().expect("more bytes") > 0, "closed within a body");
        }
        self.received.drain(..length).collect()
    }

    /// Everything until the proxy closes.
    pub fn rest(&mut self) -> Vec<u8> {
        self.rest_and_reset().0
    }

    /// The same, and whether that was by a reset.
    pub fn rest_and_reset(&mut self) -> (Vec<u8>, bool) {
        let is_reset = loop {
            match self.fill() {
                Ok(0) => break false,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break true,
                Err(error) => panic!("not closed: {error}"),
            }
        };
        (std::mem::take(&mut self.received), is_reset)
    }

    /// Asserts that the proxy closes without another byte.
    pub fn closed(&mut self) {
        assert_eq!(String::from_utf8_lossy(&self.rest()), "");
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut chunk = [0; 16 * 1024];
        // A call with a timeout is not begun again behind a signal, as others are (signal(7)).
        let read = loop {
            match self.stream.read(&mut chunk) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        self.received.extend_from_slice(&chunk[..read]);
        if let Some(tap) = &self.tap
            && read > 0
        {
            lock(tap).push(chunk[..read].to_vec());
        }
        Ok(read)
    }
}

impl Response {
    pub fn field(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// A field of a node's responses.
pub const DATE: &str = "date: Tue, 01 Jul 2025 10:00:00 GMT";

/// What a node does with one request.
pub enum Reply {
    /// These bytes, then the next request.
    Bytes(Vec<u8>),
    /// These bytes, then it closes.
    Close(Vec<u8>),
}

impl Reply {
    /// `200 OK` with `body`, and a date, as what has none does not go past a proxy.
    pub fn ok(body: &str) -> Reply {
        let length = body.len();
        let head = format!("HTTP/1.1 200 OK\r\n{DATE}\r\ncontent-length: {length}\r\n\r\n");
        Reply::Bytes([head.as_bytes(), body.as_bytes()].concat())
    }
}

/// A node that records what it sees, byte for byte, and answers by script.
pub struct Node {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    heard: Heard,
    /// Ends the accept loop when dropped.
    _alive: mpsc::Sender<()>,
}

/// One request as a node saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Number of the connection it came on.
    pub connection: usize,
    pub head: String,
    /// With chunked framing, if the proxy used it.
    pub body: Vec<u8>,
}

impl Seen {
    pub fn field(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }

    /// Method, target and version.
    pub fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }
}

impl Node {
    /// A node that answers every request with `200` and `body`.
    pub fn always(body: &'static str) -> Node {
        Node::scripted(move |_| Reply::ok(body))
    }

    pub fn scripted(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Node {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        Node::on(listener, script)
    }

    pub fn on(
        listener: TcpListener,
        script: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Node {
        let address = listener.local_addr().expect("an address");
        let (seen, heard) = (Arc::new(Mutex::new(Vec::new())), Heard::default());
        let (alive, ended) = mpsc::channel();
        let (record, tap) = (Arc::clone(&seen), Arc::clone(&heard));
        let script = Arc::new(script);
        listener.set_nonblocking(true).expect("non-blocking");
        thread::spawn(move || {
            let mut connection = 0;
            while ended.try_recv() != Err(mpsc::TryRecvError::Disconnected) {
                let Ok((stream, _)) = listener.accept() else {
                    thread::park_timeout(POLL_INTERVAL);
                    continue;
                };
                let (record, script) = (Arc::clone(&record), Arc::clone(&script));
                let tap = Some(Arc::clone(&tap));
                let client = Client { stream: Patient::new(stream), received: Vec::new(), tap };
                let number = connection;
                connection += 1;
                thread::spawn(move || converse(client, number, &record, &*script));
            }
        });
        Node { address, seen, heard, _alive: alive }
    }

    /// Everything seen so far.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.seen).clone()
    }

    /// Everything seen since the last time.
    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *lock(&self.seen))
    }

    /// Every byte that ever came, whole request or not.
    pub fn heard(&self) -> String {
        String::from_utf8_lossy(&lock(&self.heard).concat()).into_owned()
    }

    /// The only request that may have been seen.
    pub fn only(&self) -> Seen {
        let mut seen = self.seen();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen.remove(0)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn converse(
    mut client: Client,
    connection: usize,
    record: &Mutex<Vec<Seen>>,
    script: &(dyn Fn(&Seen) -> Reply + Send + Sync),
) {
    while let Some(seen) = request(&mut client, connection) {
        lock(record).push(seen.clone());
        let (bytes, is_last) = match script(&seen) {
            Reply::Bytes(bytes) => (bytes, false),
            Reply::Close(bytes) => (bytes, true),
        };
        if client.stream.write_all(&bytes).is_err() || is_last {
            return;
        }
    }
}

/// The next request; `None` when the proxy has closed or broken off.
fn request(client: &mut Client, connection: usize) -> Option<Seen> {
    while !client.received.windows(4).any(|window| window == b"\r\n\r\n") {
        if client.fill().ok()? == 0 {
            return None;
        }
    }
    let head = String::from_utf8_lossy(&client.until(b"\r\n\r\n")).trim_end().to_owned();
    let mut body = Vec::new();
    if field(&head, "transfer-encoding").is_some() {
        while !body.ends_with(b"0\r\n\r\n") {
            if client.received.is_empty() && client.fill().ok()? == 0 {
                return None;
            }
            body.push(client.received.remove(0));
        }
    } else if let Some(length) = field(&head, "content-length") {
        let length: usize = length.parse().ok()?;
        while client.received.len() < length {
            if client.fill().ok()? == 0 {
                return None;
            }
        }
        body = client.received.drain(..length).collect();
    }
    Some(Seen { connection, head, body })
}
