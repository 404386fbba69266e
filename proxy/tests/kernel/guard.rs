//! The attached guard, with real connections between namespaces, native and generic.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use proxy::{
    config::{ConnectionRate, Guard, XdpMode},
    kernel::KernelPlane,
};
use socket2::{Domain, Socket, Type};

use crate::{
    check_counters_of, limits, load, required, skip_without_privileges,
    topology::{Namespace, Pair},
};

/// What a connection to our listener met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Met {
    /// The handshake completed.
    Open,
    /// Nothing came back.
    Silence,
}

/// A guarded listener on port 80 and one that is not ours on port 81, on every address.
struct Guarded {
    plane: KernelPlane,
    _listeners: Vec<TcpListener>,
    pair: Pair,
}

impl Guarded {
    fn new(mode: XdpMode, guard: Guard) -> Self {
        let pair = Pair::new();
        let (plane, listeners) = pair.proxy.run(|| {
            let listeners = ["[::]:80", "[::]:81"].map(|at| TcpListener::bind(at).unwrap());
            let ours = [listeners[0].local_addr().unwrap()];
            (load(&required(&["veth"], mode, guard), &ours, 1), listeners)
        });
        let guarded = Self { plane, _listeners: listeners.into(), pair };
        guarded.resolve_neighbours();
        guarded
    }

    /// Waits until both ends know each other's link address, so that only the guard can be the
    /// reason for silence.
    fn resolve_neighbours(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        for (from, to) in [
            ("10.1.0.2:0", "10.1.0.1:81"),
            ("10.1.0.3:0", "10.1.0.1:81"),
            ("[fd00:1::2]:0", "[fd00:1::1]:81"),
            ("[fd00:1::3]:0", "[fd00:1::1]:81"),
        ] {
            while self.connect(from, to) != Met::Open {
                assert!(Instant::now() < deadline, "{from} does not reach {to}");
            }
        }
    }

    fn connect(&self, from: &str, to: &str) -> Met {
        connect(&self.pair.downstream, from, to)
    }
}

/// How long silence has to last: a handshake over veth takes microseconds, and the first
/// retransmission of a SYN comes after a second.
const SILENCE: Duration = Duration::from_millis(400);

fn connect(namespace: &Namespace, from: &str, to: &str) -> Met {
    let from: SocketAddr = from.parse().unwrap();
    let to: SocketAddr = to.parse().unwrap();
    namespace.run(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
        socket.bind(&from.into()).unwrap();
        match socket.connect_timeout(&to.into(), SILENCE) {
            Ok(()) => Met::Open,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Met::Silence,
            Err(error) => panic!("{from} to {to}: {error}"),
        }
    })
}

fn guard(allow: &[&str], deny: &[&str]) -> Guard {
    let parse = |list: &[&str]| list.iter().map(|prefix| prefix.parse().unwrap()).collect();
    Guard { allow: parse(allow), deny: parse(deny), connection_rate: None }
}

#[track_caller]
fn check_denied(mode: XdpMode, label: &str) {
    let guarded = Guarded::new(
        mode,
        guard(&["10.1.0.3/32", "fd00:1::3/128"], &["10.1.0.0/24", "fd00:1::/64"]),
    );
    assert_eq!(guarded.plane.status().xdp_mode, Some(label));
    assert_eq!(guarded.connect("10.1.0.2:0", "10.1.0.1:80"), Met::Silence);
    assert_eq!(guarded.connect("[fd00:1::2]:0", "[fd00:1::1]:80"), Met::Silence);
    check_counters_of(&guarded.plane, &["blocked", "admitted"], &[("blocked", 2)]);

    // Allow beats deny, and what is not ours is not touched.
    assert_eq!(guarded.connect("10.1.0.3:0", "10.1.0.1:80"), Met::Open);
    assert_eq!(guarded.connect("[fd00:1::3]:0", "[fd00:1::1]:80"), Met::Open);
    assert_eq!(guarded.connect("10.1.0.2:0", "10.1.0.1:81"), Met::Open);
    assert_eq!(guarded.connect("[fd00:1::2]:0", "[fd00:1::1]:81"), Met::Open);
    check_counters_of(
        &guarded.plane,
        &["blocked", "admitted", "rate_limited"],
        &[("admitted", 2), ("blocked", 2)],
    );

    // Without the plane the same source gets through: it was the program that stopped it.
    let Guarded { plane, _listeners, pair } = guarded;
    drop(plane);
    assert_eq!(connect(&pair.downstream, "10.1.0.2:0", "10.1.0.1:80"), Met::Open);
}

#[test]
fn denied_sources_meet_silence_in_native_mode() {
    if skip_without_privileges() {
        return;
    }
    check_denied(XdpMode::Native, "native");
}

#[test]
fn denied_sources_meet_silence_in_generic_mode() {
    if skip_without_privileges() {
        return;
    }
    check_denied(XdpMode::Generic, "generic");
}

#[test]
fn auto_prefers_native_and_falls_back_to_generic() {
    if skip_without_privileges() {
        return;
    }
    let native = Guarded::new(XdpMode::Auto, Guard::default());
    assert_eq!(native.plane.status().xdp_mode, Some("native"));
    // Loopback has no native XDP.
    let namespace = Namespace::new();
    let ours = ["127.0.0.1:80".parse().unwrap()];
    let kernel = required(&["lo"], XdpMode::Auto, Guard::default());
    let generic = namespace.run(|| load(&kernel, &ours, 1));
    assert_eq!(generic.status().xdp_mode, Some("generic"));
}

#[test]
fn an_interface_without_ethernet_headers_is_refused_by_name() {
    if skip_without_privileges() {
        return;
    }
    let namespace = Namespace::new();
    namespace.ip("tuntap add mode tun name bare");
    let kernel = required(&["lo", "bare"], XdpMode::Auto, Guard::default());
    let refused = namespace.run(|| KernelPlane::load(&kernel, &limits(), &[], 1).map(drop));
    let error = format!("{:#}", refused.unwrap_err());
    assert!(error.contains("interface `bare`: its frames have no Ethernet header"), "{error}");
}

#[test]
fn connections_over_the_rate_meet_silence() {
    if skip_without_privileges() {
        return;
    }
    let connection_rate = Some(ConnectionRate { per_second: 1, burst: 4 });
    let guarded = Guarded::new(XdpMode::Native, Guard { connection_rate, ..Guard::default() });
    for _ in 0..4 {
        assert_eq!(guarded.connect("10.1.0.2:0", "10.1.0.1:80"), Met::Open);
    }
    assert_eq!(guarded.connect("10.1.0.2:0", "10.1.0.1:80"), Met::Silence);
    assert_eq!(guarded.connect("10.1.0.3:0", "10.1.0.1:80"), Met::Open);
    assert_eq!(guarded.connect("10.1.0.2:0", "10.1.0.1:81"), Met::Open);
    check_counters_of(
        &guarded.plane,
        &["admitted", "rate_limited", "untracked", "blocked"],
        &[("admitted", 5), ("rate_limited", 1)],
    );
}
