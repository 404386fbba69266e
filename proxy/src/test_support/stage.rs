//! The whole life of one downstream connection on the caller's thread, turn by turn: no accept loop, no
//! kernel half, and a clock that stands still unless somebody waits.
//!
//! The client's end is one of a pair of sockets, nodes are dialled as ever.

use std::{
    cell::Cell,
    future::{Future as _, poll_fn},
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    rc::Rc,
    sync::Arc,
    thread,
    time::Duration,
};

use socket2::{Domain, SockRef, Socket, Type};
use tokio::{
    runtime::{Builder, LocalOptions, LocalRuntime},
    task::{self, JoinHandle},
};

use crate::{
    app,
    config::Config,
    connection, drain,
    kernel::KernelPlane,
    log_files::LogFiles,
    worker::{ListenerCx, Worker},
};

/// Whom nodes are told of.
const CLIENT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7);
/// A connection that is polled more often than this without anything new to read or to write spins.
const TURNS_MAX: u32 = 1000;
/// Time that passes at once, and how much of it until a connection must have ended.
const PAUSE: Duration = Duration::from_secs(10);
const PAUSES_MAX: u32 = 360;

/// One worker with one listener, and one address that all nodes of its configuration have.
pub struct Stage {
    runtime: LocalRuntime,
    worker: Rc<Worker>,
    listener: Rc<ListenerCx>,
    nodes: TcpListener,
}

impl Stage {
    /// `yaml` makes the configuration of the nodes' address; its first listener counts.
    pub fn new(yaml: impl FnOnce(SocketAddr) -> String) -> Stage {
        let nodes = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        nodes.set_nonblocking(true).expect("a socket");
        let address = nodes.local_addr().expect("an address");
        let config = Config::parse(&yaml(address), "stage.yaml");
        let config = config.unwrap_or_else(|errors| panic!("{errors}"));
        let mut builder = Builder::new_current_thread();
        builder.enable_all().start_paused(true);
        let runtime = builder.build_local(LocalOptions::default()).expect("a runtime");
        let (worker, listener) = runtime.block_on(async { worker(&config) });
        Stage { runtime, worker, listener, nodes }
    }

    /// A client connects. `send_buffer` bounds what the proxy can say before the client has read it,
    /// bytes; the kernel takes no less than a few thousand.
    pub fn talk(&self, send_buffer: usize) -> Talk<'_> {
        let (client, downstream) = UnixStream::pair().expect("a pair of sockets");
        SockRef::from(&downstream).set_send_buffer_size(send_buffer).expect("a socket");
        for end in [&client, &downstream] {
            end.set_nonblocking(true).expect("a socket");
        }
        let polls = Rc::new(Cell::new(0));
        let (worker, listener) = (Rc::clone(&self.worker), Rc::clone(&self.listener));
        let counted = Rc::clone(&polls);
        let _within = self.runtime.enter();
        let downstream = TcpStream::from(OwnedFd::from(downstream));
        let downstream = tokio::net::TcpStream::from_std(downstream).expect("a socket");
        let mut serving = Box::pin(connection::serve(worker, listener, downstream, CLIENT));
        let serving = self.runtime.spawn_local(poll_fn(move |task| {
            counted.set(counted.get() + 1);
            serving.as_mut().poll(task)
        }));
        let client = End::new(client);
        Talk { stage: self, client, nodes: Vec::new(), serving: Some(serving), polls, pauses: 0 }
    }

    /// Lets what can run do so until it waits.
    fn run(&self, polls: &Cell<u32>) {
        let last = polls.get() + TURNS_MAX;
        loop {
            let before = polls.get();
            self.runtime.block_on(async {
                // One for what is ready, one for what the sockets have to say then.
                task::yield_now().await;
                task::yield_now().await;
            });
            if polls.get() == before {
                return;
            }
            assert!(polls.get() < last, "the connection never waits");
        }
    }
}

fn worker(config: &Config) -> (Rc<Worker>, Rc<ListenerCx>) {
    let kernel = KernelPlane::load(&config.kernel, &config.limits, &[], 1).expect("it is off");
    let (log_files, shutdown) = (Arc::<LogFiles>::default(), drain::Shutdown::new());
    let (shared, _) = app::share(config, &Arc::new(kernel), None, &log_files, 1, &shutdown);
    let worker = Rc::new(Worker::new(shared));
    let [listener, ..] = &config.listeners[..] else { panic!("a listener") };
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let socket = app::one(listener, listener.address, socket);
    let listener = Rc::new(ListenerCx::new(&worker, 0, &socket));
    (worker, listener)
}

/// One client's connection, and those to nodes that came of it, in the order in which they were made.
pub struct Talk<'s> {
    stage: &'s Stage,
    pub client: End<UnixStream>,
    pub nodes: Vec<End<TcpStream>>,
    /// Until it is known to have ended.
    serving: Option<JoinHandle<()>>,
    polls: Rc<Cell<u32>>,
    pauses: u32,
}

impl Talk<'_> {
    /// Lets the proxy do what it can do now, then reads up to `size_max` bytes from each of its
    /// connections. Whether anything came of it.
    pub fn turn(&mut self, size_max: usize) -> bool {
        self.stage.run(&self.polls);
        let mut is_news = self.client.hear(size_max);
        while let Ok((node, _)) = self.stage.nodes.accept() {
            node.set_nonblocking(true).expect("a socket");
            // Pieces are not to wait for acknowledgements, which take real time.
            node.set_nodelay(true).expect("a socket");
            self.nodes.push(End::new(node));
            is_news = true;
        }
        for node in &mut self.nodes {
            is_news |= node.hear(size_max);
        }
        is_news
    }

    /// Lets some time pass, in which nobody says anything. Whether the proxy has ended the connection.
    ///
    /// # Panics
    /// It has not within an hour.
    pub fn pass(&mut self) -> bool {
        // On a busy machine the kernel delivers when it comes to that.
        thread::yield_now();
        if self.turn(usize::MAX) {
            return false;
        }
        self.pauses += 1;
        assert!(self.pauses < PAUSES_MAX, "the connection never ends");
        if let Some(ended) = self.serving.take_if(|serving| serving.is_finished()) {
            self.stage.runtime.block_on(ended).expect("no panic");
        }
        if self.serving.is_some() {
            self.stage.runtime.block_on(async { tokio::time::sleep(PAUSE).await });
        }
        self.serving.is_none()
    }
}

impl Drop for Talk<'_> {
    /// Leaves the stage as it was before. What a detached connection still waits for ends with its node.
    fn drop(&mut self) {
        self.client.shutdown(Shutdown::Both);
        self.serving.iter().for_each(JoinHandle::abort);
        for node in &mut self.nodes {
            // Its port is free at once.
            SockRef::from(&node.socket).set_linger(Some(Duration::ZERO)).expect("a socket");
        }
        self.nodes.clear();
        self.stage.worker.plain_pool.borrow_mut().clear();
        self.stage.worker.pool.borrow_mut().clear();
        self.stage.run(&self.polls);
    }
}

/// The other end of one of the proxy's connections.
pub struct End<S> {
    socket: S,
    /// Everything that came.
    pub heard: Vec<u8>,
    /// Whether the proxy says nothing more.
    pub is_over: bool,
}

impl<S: Read + Write + AsFd> End<S> {
    fn new(socket: S) -> Self {
        Self { socket, heard: Vec::new(), is_over: false }
    }

    fn hear(&mut self, size_max: usize) -> bool {
        let before = self.heard.len();
        let mut piece = [0; 16 << 10];
        while !self.is_over && self.heard.len() - before < size_max {
            let size = piece.len().min(size_max - (self.heard.len() - before));
            match self.socket.read(&mut piece[..size]) {
                Ok(count @ 1..) => self.heard.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Ok(0) | Err(_) => self.is_over = true,
            }
        }
        self.heard.len() > before
    }

    /// Says as much of `bytes` as the proxy can take now; how much. All of it if nobody reads it.
    pub fn say(&mut self, bytes: &[u8]) -> usize {
        match self.socket.write(bytes) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(_) => bytes.len(),
        }
    }

    /// Says nothing more.
    pub fn end(&mut self) {
        self.shutdown(Shutdown::Write);
    }

    fn shutdown(&self, how: Shutdown) {
        // The proxy may have reset it.
        drop(SockRef::from(&self.socket).shutdown(how));
    }
}
