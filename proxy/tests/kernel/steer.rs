//! The attached worker choice, with real sockets.

use std::{
    io::{self, ErrorKind, Write},
    net::{SocketAddr, TcpStream},
    os::fd::AsFd as _,
    sync::Mutex,
    time::{Duration, Instant},
};

use proxy::{
    config::{Guard, KernelMode, XdpMode},
    kernel::{FeatureState, KernelPlane},
};
use socket2::{Domain, Socket, Type};
use tracing::Level;

use crate::{check_counters, limits, load, required, skip_without_privileges, topology::Namespace};

/// Enough that a worker left out by chance is out of the question (2⁻¹²⁷).
const CONNECTIONS: u64 = 128;

/// A listener's sockets, one for each worker, in a namespace of their own.
struct Group {
    plane: KernelPlane,
    address: SocketAddr,
    sockets: Vec<Option<Socket>>,
    /// Kept open, so that a port is not used twice.
    downstreams: Vec<TcpStream>,
    namespace: Namespace,
}

impl Group {
    fn new(address: &str, workers: usize) -> Self {
        let namespace = Namespace::new();
        let (plane, address, sockets) = namespace.run(|| {
            let (address, sockets) = bind(address, workers);
            let kernel = required(&[], XdpMode::Auto, Guard::default());
            let plane = load(&kernel, &[address], workers);
            let fds: Vec<_> = sockets.iter().map(|socket| socket.as_fd()).collect();
            plane.steer(0, &fds).unwrap();
            (plane, address, sockets)
        });
        let sockets = sockets.into_iter().map(Some).collect();
        Self { plane, address, sockets, downstreams: Vec::new(), namespace }
    }

    /// Connects many times; nothing is accepted.
    fn open(&mut self) {
        let mut to = self.address;
        if to.ip().is_unspecified() {
            to.set_ip([127, 0, 0, 1].into());
        }
        let connected = self
            .namespace
            .run(|| (0..CONNECTIONS).map(|_| TcpStream::connect(to).unwrap()).collect::<Vec<_>>());
        self.downstreams.extend(connected);
    }

    /// Connects many times and returns how many each worker got.
    fn connect(&mut self) -> Vec<u64> {
        let mut to = self.address;
        if to.ip().is_unspecified() {
            to.set_ip([127, 0, 0, 1].into());
        }
        let connected = self
            .namespace
            .run(|| (0..CONNECTIONS).map(|_| TcpStream::connect(to).unwrap()).collect::<Vec<_>>());
        self.downstreams.extend(connected);
        self.sockets.iter().map(|socket| socket.as_ref().map_or(0, accept_all)).collect()
    }
}

fn bind(address: &str, workers: usize) -> (SocketAddr, Vec<Socket>) {
    let mut address: SocketAddr = address.parse().unwrap();
    let mut sockets = Vec::new();
    for _ in 0..workers {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.bind(&address.into()).unwrap();
        socket.listen(1024).unwrap();
        address = socket.local_addr().unwrap().as_socket().unwrap();
        sockets.push(socket);
    }
    (address, sockets)
}

fn accept_all(socket: &Socket) -> u64 {
    let mut accepted = 0;
    loop {
        match socket.accept() {
            Ok(_) => accepted += 1,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return accepted,
            Err(error) => panic!("accept: {error}"),
        }
    }
}

#[track_caller]
fn check_spread(address: &str) {
    let mut group = Group::new(address, 3);
    let got = group.connect();
    assert_eq!(got.iter().sum::<u64>(), CONNECTIONS);
    assert!(got.iter().all(|&got| got > 0), "{got:?}");
    check_counters(&group.plane, &[("steered", CONNECTIONS)]);
}

#[test]
fn connections_are_spread_over_the_workers() {
    if skip_without_privileges() {
        return;
    }
    check_spread("127.0.0.1:0");
    check_spread("[::1]:0");
    check_spread("0.0.0.0:0");
    check_spread("[::]:0");
}

#[test]
fn a_drained_worker_gets_nothing_new() {
    if skip_without_privileges() {
        return;
    }
    let mut group = Group::new("127.0.0.1:0", 3);
    group.plane.drain_worker(1);
    let got = group.connect();
    assert_eq!(got[1], 0, "{got:?}");
    assert!(got[0] > 0 && got[2] > 0, "{got:?}");
    assert_eq!(got.iter().sum::<u64>(), CONNECTIONS);
    // One worker left: the choice is known for each connection.
    group.plane.drain_worker(0);
    assert_eq!(group.connect(), [0, 0, CONNECTIONS]);
    let counted: Vec<_> = group.plane.counters().into_iter().filter(|c| c.packets > 0).collect();
    assert!(counted.iter().all(|c| ["steered", "steered_around"].contains(&c.reason)));
    assert_eq!(counted.iter().map(|c| c.packets).sum::<u64>(), 2 * CONNECTIONS);
}

#[track_caller]
fn check_migration(address: &str) {
    let mut group = Group::new(address, 2);
    group.open();
    check_counters(&group.plane, &[("steered", CONNECTIONS)]);
    group.plane.drain_worker(0);
    drop(group.sockets[0].take());
    assert_eq!(group.sockets[1].as_ref().map(accept_all), Some(CONNECTIONS));
    let counters = group.plane.counters();
    let migrated = counters.iter().find(|counter| counter.reason == "migrated").unwrap().packets;
    assert!((1..CONNECTIONS).contains(&migrated), "{counters:?}");
    check_counters(&group.plane, &[("steered", CONNECTIONS), ("migrated", migrated)]);
}

#[test]
fn what_a_closed_worker_had_not_accepted_goes_to_another() {
    if skip_without_privileges() {
        return;
    }
    check_migration("127.0.0.1:0");
    check_migration("0.0.0.0:0");
    check_migration("[::]:0");
}

#[test]
fn the_kernel_chooses_when_all_are_drained() {
    if skip_without_privileges() {
        return;
    }
    let mut group = Group::new("127.0.0.1:0", 2);
    group.plane.drain_worker(0);
    group.plane.drain_worker(1);
    assert_eq!(group.connect().iter().sum::<u64>(), CONNECTIONS);
    check_counters(&group.plane, &[("all_drained", CONNECTIONS)]);
}

#[test]
fn the_kernel_chooses_when_the_workers_socket_is_gone() {
    if skip_without_privileges() {
        return;
    }
    let mut group = Group::new("127.0.0.1:0", 2);
    group.plane.drain_worker(1);
    // The one worker that may be chosen is no more.
    drop(group.sockets[0].take());
    assert_eq!(group.connect(), [0, CONNECTIONS]);
    check_counters(&group.plane, &[("select_failed", CONNECTIONS)]);
}

#[test]
fn the_kernel_chooses_for_a_listener_we_do_not_know() {
    if skip_without_privileges() {
        return;
    }
    let mut group = Group::new("127.0.0.1:0", 2);
    // The same program on a group that is bound elsewhere.
    group.namespace.run(|| {
        let (address, sockets) = bind("127.0.0.1:0", 2);
        let fds: Vec<_> = sockets.iter().map(|socket| socket.as_fd()).collect();
        group.plane.steer(0, &fds).unwrap();
        group.address = address;
        group.sockets = sockets.into_iter().map(Some).collect();
    });
    assert_eq!(group.connect().iter().sum::<u64>(), CONNECTIONS);
    check_counters(&group.plane, &[("unknown_listener", CONNECTIONS)]);
}

#[test]
fn each_listener_has_its_own_sockets() {
    if skip_without_privileges() {
        return;
    }
    let namespace = Namespace::new();
    namespace.run(|| {
        let (first, second) = (bind("127.0.0.1:0", 2), bind("127.0.0.1:0", 2));
        let kernel = required(&[], XdpMode::Auto, Guard::default());
        let plane = load(&kernel, &[first.0, second.0], 2);
        for (listener, (_, sockets)) in [&first, &second].into_iter().enumerate() {
            let fds: Vec<_> = sockets.iter().map(|socket| socket.as_fd()).collect();
            plane.steer(listener, &fds).unwrap();
        }
        plane.drain_worker(0);
        for (address, sockets) in [&first, &second] {
            let downstream = TcpStream::connect(address).unwrap();
            assert_eq!(sockets.iter().map(accept_all).collect::<Vec<_>>(), [0, 1]);
            drop(downstream);
        }
    });
}

#[test]
fn a_listener_that_cannot_be_steered_is_an_error_or_a_fallback() {
    if skip_without_privileges() {
        return;
    }
    let namespace = Namespace::new();
    namespace.run(|| {
        let (address, sockets) = bind("127.0.0.1:0", 1);
        let closed = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let mut kernel = required(&[], XdpMode::Auto, Guard::default());
        let plane = load(&kernel, &[address], 2);
        // A socket that does not listen has no place in the map.
        let error = plane.steer(0, &[sockets[0].as_fd(), closed.as_fd()]).unwrap_err();
        assert!(format!("{error:#}").contains("worker 1"), "{error:#}");
        assert!(plane.steer(0, &[sockets[0].as_fd()]).is_err(), "one socket for two workers");

        kernel.mode = KernelMode::Auto;
        let plane = KernelPlane::load(&kernel, &limits(), &[address], 2).unwrap();
        plane.steer(0, &[sockets[0].as_fd(), closed.as_fd()]).unwrap();
        let features = plane.status().features;
        let worker = features.iter().find(|feature| feature.name == "worker").unwrap();
        assert_eq!(worker.state, FeatureState::Fallback);
    });
}

/// Where the events of this process go, once [`events`] was called.
static EVENTS: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct ToEvents;

impl Write for ToEvents {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        EVENTS.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// In a debug build what the programs log becomes an event.
#[test]
#[cfg_attr(not(debug_assertions), ignore = "the programs log nothing in a release build")]
fn log_records_of_the_programs_become_events() {
    if skip_without_privileges() {
        return;
    }
    let subscriber = tracing_subscriber::fmt().with_max_level(Level::DEBUG).with_ansi(false);
    // The records are read on a thread of their own.
    tracing::subscriber::set_global_default(subscriber.with_writer(|| ToEvents).finish()).unwrap();
    let mut group = Group::new("127.0.0.1:0", 2);
    drop(group.sockets[0].take());
    let got = group.connect();
    assert_eq!(got, [0, CONNECTIONS]);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !String::from_utf8_lossy(&EVENTS.lock().unwrap()).contains("worker 0 not selected: ") {
        assert!(Instant::now() < deadline, "no record came");
        std::thread::yield_now();
    }
}
