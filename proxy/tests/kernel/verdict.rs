//! Frame → verdict and reason, by `BPF_PROG_TEST_RUN` of the program that the plane loaded.

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, PerCpuArray},
    programs::{TestRun as _, TestRunOptions, Xdp, loaded_programs},
};
use aya_obj::programs::XdpAttachType;
use ipnet::IpNet;
use proxy::{
    config::{ConnectionRate, Guard as Rules, XdpMode},
    guard::Guard,
    kernel::{self, KernelPlane},
};
use proxy_common::{Reason, addr::Destination, globals, names, steering::Listener};
use proxy_ebpf::frame::{ACK, Frame, More, SYN, eth};
use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};

use crate::{load, required, skip_without_privileges, topology::Namespace};

const LISTENERS: [&str; 4] = ["10.9.0.1:80", "[2001:db8::1]:80", "0.0.0.0:8080", "[::]:9090"];
const OUR_V4: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const OUR_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

const PASS: u32 = 2;
const DROP: u32 = 1;

/// `ingress` as the plane loaded it, in a namespace where nothing else reaches it.
struct Bench {
    // The plane goes before the namespace.
    plane: KernelPlane,
    program: Xdp,
    _namespace: Namespace,
}

impl Bench {
    fn new(rules: Rules) -> Self {
        let namespace = Namespace::new();
        let listeners = LISTENERS.map(|address| address.parse().unwrap());
        let kernel = required(&["lo"], XdpMode::Generic, rules);
        let plane = namespace.run(|| load(&kernel, &listeners, 2));
        let id = plane.status().programs.iter().find(|p| p.name == "ingress").unwrap().id;
        let info = loaded_programs().map(Result::unwrap).find(|info| info.id() == id).unwrap();
        let name = Cow::Borrowed("ingress");
        let program = Xdp::from_program_info(info, name, XdpAttachType::Interface).unwrap();
        Self { plane, program, _namespace: namespace }
    }

    fn run(&self, frame: &Frame) -> u32 {
        let options = TestRunOptions { data_in: Some(frame.bytes()), ..TestRunOptions::default() };
        self.program.test_run(options).unwrap().return_value
    }

    /// Runs one frame and asserts that of all counters this reason's alone moved, by one.
    #[track_caller]
    fn check(&self, why: &str, frame: &Frame, verdict: u32, reason: Reason) {
        let before = self.plane.counters();
        assert_eq!(self.run(frame), verdict, "{why}: {frame:?}");
        let after = self.plane.counters();
        for (before, after) in before.iter().zip(&after) {
            let is_it = (after.program, after.reason) == (reason.program(), reason.label());
            let moved = after.packets - before.packets;
            assert_eq!(moved, u64::from(is_it), "{why}: {} moved", after.reason);
        }
    }
}

fn v4(source: [u8; 4]) -> Frame {
    eth().ipv4(source.into(), OUR_V4)
}

fn v6(source: &str) -> Frame {
    eth().ipv6(source.parse().unwrap(), OUR_V6)
}

fn prefixes(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|prefix| prefix.parse().unwrap()).collect()
}

fn deny(list: &[&str]) -> Rules {
    Rules { deny: prefixes(list), ..Rules::default() }
}

const ANYONE: [u8; 4] = [192, 0, 2, 1];
const BLOCKED: [u8; 4] = [203, 0, 113, 9];

#[test]
#[rustfmt::skip] // one row a line
fn each_frame_has_its_verdict_and_reason() {
    if skip_without_privileges() {
        return;
    }
    let bench = Bench::new(deny(&["203.0.113.0/24", "2001:db8:bad::/48"]));
    let check = |why, frame: Frame, verdict, reason| bench.check(why, &frame, verdict, reason);
    let someone = Ipv4Addr::from(ANYONE);
    use Reason::*;

    check("new connection",          v4(ANYONE).tcp(80, SYN),                        PASS, Admitted);
    check("later segment",           v4(ANYONE).tcp(80, ACK),                        PASS, Forwarded);
    check("second SYN of our own",   v4(ANYONE).tcp(80, SYN | ACK),                  PASS, Forwarded);
    check("other port",              v4(ANYONE).tcp(22, SYN),                        PASS, NotOurs);
    check("port of the same bit",    v4(ANYONE).tcp(80 + 64, SYN),                   PASS, NotOurs);
    check("other address",           eth().ipv4(someone, [10, 9, 0, 2].into()).tcp(80, SYN), PASS, NotOurs);
    check("any address",             eth().ipv4(someone, [10, 9, 0, 2].into()).tcp(8080, SYN), PASS, Admitted);
    check("v4 to a v6 wildcard",     v4(ANYONE).tcp(9090, SYN),                      PASS, Admitted);
    check("v6",                      v6("2001:db8::9").tcp(80, SYN),                 PASS, Admitted);
    check("v6 to a v4 wildcard",     v6("2001:db8::9").tcp(8080, SYN),               PASS, NotOurs);
    check("v6, any address",         v6("2001:db8::9").tcp(9090, SYN),               PASS, Admitted);

    check("blocked",                 v4(BLOCKED).tcp(80, SYN),                       DROP, Blocked);
    check("blocked, later segment",  v4(BLOCKED).tcp(80, ACK),                       DROP, Blocked);
    check("blocked, other port",     v4(BLOCKED).tcp(22, SYN),                       PASS, NotOurs);
    check("blocked, not TCP",        v4(BLOCKED).udp(80),                            PASS, NotTcp);
    check("blocked, behind tags",    eth().vlan(7).vlan(8).ipv4(BLOCKED.into(), OUR_V4).tcp(80, SYN), DROP, Blocked);
    check("blocked, with options",   v4(BLOCKED).ihl(15).tcp(80, SYN),               DROP, Blocked);
    check("blocked, first fragment", v4(BLOCKED).fragment(0, More::Follow).tcp(80, SYN), DROP, Blocked);
    check("blocked, no flags",       v4(BLOCKED).fragment(0, More::Follow).tcp_start(80), DROP, Blocked);
    check("blocked, later fragment", v4(BLOCKED).fragment(3, More::Last).tcp(80, SYN), PASS, LaterFragment);
    check("blocked v6",              v6("2001:db8:bad::9").tcp(80, SYN),             DROP, Blocked);
    check("blocked v6, extensions",  v6("2001:db8:bad::9").extension(0, 1).extension(60, 9).tcp(80, SYN), DROP, Blocked);
    check("blocked v6, fragment",    v6("2001:db8:bad::9").fragment_header(0, More::Follow).tcp(80, SYN), DROP, Blocked);
    check("blocked v4 as mapped v6", v6("::ffff:203.0.113.9").tcp(80, SYN),          DROP, Blocked);

    check("not IP",                  eth().arp(),                                    PASS, NotIp);
    check("three tags",              eth().vlan(1).vlan(2).vlan(3).ipv4(BLOCKED.into(), OUR_V4).tcp(80, SYN), PASS, VlanTooDeep);
    check("five extension headers",  (0..5).fold(v6("2001:db8:bad::9"), |f, _| f.extension(60, 0)).tcp(80, SYN), PASS, ExtensionTooDeep);
    check("ESP",                     v6("2001:db8:bad::9").other(50),                PASS, NotTcp);
    check("header length below 5",   v4(BLOCKED).ihl(4).tcp(80, SYN),                PASS, Malformed);
    check("version 6 in IPv4",       v4(BLOCKED).version(6).tcp(80, SYN),            PASS, Malformed);
    check("cut in TCP",              v4(BLOCKED).tcp(80, SYN).cut(14 + 20 + 19),     PASS, TooShort);
}

#[test]
fn every_truncation_passes() {
    if skip_without_privileges() {
        return;
    }
    let bench = Bench::new(deny(&["0.0.0.0/0", "::/0"]));
    let whole = [
        v4(ANYONE).tcp(80, SYN),
        v4(ANYONE).ihl(15).tcp(80, SYN),
        eth().provider_vlan(7).vlan(8).ipv4(ANYONE.into(), OUR_V4).tcp(80, SYN),
        v6("2001:db8::9").tcp(80, SYN),
        v6("2001:db8::9").extension(0, 2).fragment_header(0, More::Follow).tcp(80, SYN),
        v6("2001:db8::9").extension(43, 255).authentication_header().tcp(80, SYN),
    ];
    for frame in whole {
        // The kernel refuses to test with less than an Ethernet header.
        for length in 14..frame.bytes().len() {
            bench.check("cut", &frame.clone().cut(length), PASS, Reason::TooShort);
        }
        bench.check("whole", &frame, DROP, Reason::Blocked);
    }
}

/// The program and the guard at accept agree on every source.
#[test]
fn the_program_agrees_with_the_guard_at_accept() {
    if skip_without_privileges() {
        return;
    }
    let rules = Rules {
        allow: prefixes(&[
            "203.0.113.64/26",
            "10.0.0.0/8",
            "2001:db8:bad:7::/64",
            "::ffff:192.0.2.0/120",
        ]),
        deny: prefixes(&[
            "203.0.113.0/24",
            "10.1.0.0/16",
            "192.0.2.0/25",
            "2001:db8:bad::/48",
            "::ffff:198.51.100.7/128",
            "fe80::/10",
        ]),
        connection_rate: None,
    };
    let guard = Guard::new(&rules);
    let bench = Bench::new(rules);
    let sources = [
        "203.0.113.63",
        "203.0.113.64",
        "203.0.113.127",
        "203.0.113.128",
        "203.0.112.255",
        "203.0.114.0",
        "10.1.2.3",
        "10.2.0.0",
        "192.0.2.5",
        "192.0.2.130",
        "198.51.100.7",
        "198.51.100.8",
        "2001:db8:bad::1",
        "2001:db8:bad:7::1",
        "2001:db8:bad:8::",
        "2001:db8:bae::",
        "fe80::1",
        "::ffff:203.0.113.1",
        "::ffff:203.0.113.65",
        "::ffff:198.51.100.7",
        "::",
        "::1",
    ];
    let mut denied = 0;
    for source in sources {
        let source: IpAddr = source.parse().unwrap();
        let frame = match source {
            IpAddr::V4(source) => eth().ipv4(source, OUR_V4),
            IpAddr::V6(source) => eth().ipv6(source, OUR_V6),
        };
        let is_dropped = bench.run(&frame.tcp(80, SYN)) == DROP;
        let is_denied = guard.admit(source, Instant::now()).is_err();
        assert_eq!(is_dropped, is_denied, "{source}");
        denied += usize::from(is_denied);
    }
    assert_eq!(denied, 8);
}

fn rate(per_second: u32, burst: u32) -> Rules {
    let connection_rate = Some(ConnectionRate { per_second, burst });
    Rules { connection_rate, ..Rules::default() }
}

#[test]
fn new_connections_of_one_source_are_limited() {
    if skip_without_privileges() {
        return;
    }
    // Slow enough that no token comes back while this runs.
    let bench = Bench::new(rate(1, 3));
    let began = Instant::now();
    for _ in 0..3 {
        bench.check("burst", &v4(ANYONE).tcp(80, SYN), PASS, Reason::Admitted);
    }
    bench.check("over it", &v4(ANYONE).tcp(80, SYN), DROP, Reason::RateLimited);
    bench.check(
        "mapped is the same source",
        &v6("::ffff:192.0.2.1").tcp(80, SYN),
        DROP,
        Reason::RateLimited,
    );
    bench.check("what is open goes on", &v4(ANYONE).tcp(80, ACK), PASS, Reason::Forwarded);
    bench.check("another source", &v4([192, 0, 2, 2]).tcp(80, SYN), PASS, Reason::Admitted);
    for host in 0..3 {
        let source = format!("2001:db8:1::{host}");
        bench.check("a /64", &v6(&source).tcp(80, SYN), PASS, Reason::Admitted);
    }
    bench.check(
        "one /64, one bucket",
        &v6("2001:db8:1::ffff").tcp(80, SYN),
        DROP,
        Reason::RateLimited,
    );
    bench.check("the next /64", &v6("2001:db8:1:1::").tcp(80, SYN), PASS, Reason::Admitted);
    assert!(began.elapsed() < Duration::from_secs(1), "too slow to tell");
}

#[test]
fn tokens_come_back_at_the_rate() {
    if skip_without_privileges() {
        return;
    }
    let bench = Bench::new(rate(50, 1));
    bench.check("first", &v4(ANYONE).tcp(80, SYN), PASS, Reason::Admitted);
    let began = Instant::now();
    while bench.run(&v4(ANYONE).tcp(80, SYN)) == DROP {
        assert!(began.elapsed() < Duration::from_secs(5), "no token came back");
    }
    assert!(began.elapsed() >= Duration::from_millis(15), "too early: {:?}", began.elapsed());
}

/// `ingress` alone, with numbers that no configuration asks for.
fn with_flood_gauge(sources_max: u64) -> Ebpf {
    let (every_port, second_ns) = (u64::MAX, 1_000_000_000_u64);
    let mut ebpf = EbpfLoader::new()
        .override_global(globals::PORT_FILTER, &every_port, true)
        .override_global(globals::RATE_INTERVAL_NS, &second_ns, true)
        .override_global(globals::FLOOD_SOURCES_MAX, &sources_max, true)
        .load(kernel::object().unwrap())
        .unwrap();
    let ours = SocketAddr::from((OUR_V4, 80));
    let map = ebpf.map_mut(names::LISTENER_BY_DST).unwrap();
    let mut listeners: HashMap<_, Destination, Listener> = map.try_into().unwrap();
    listeners.insert(Destination::from(ours), Listener::new(0), 0).unwrap();
    let program: &mut Xdp = ebpf.program_mut(names::INGRESS).unwrap().try_into().unwrap();
    program.load().unwrap();
    ebpf
}

/// Above a rate of new sources the table takes no more of them, and they pass; those that it has
/// are still limited.
#[test]
fn a_flood_of_sources_does_not_turn_the_table_over() {
    if skip_without_privileges() {
        return;
    }
    // The gauge is each processor's own.
    let mut here = CpuSet::new();
    here.set(sched_getcpu());
    sched_setaffinity(None, &here).unwrap();
    let ebpf = with_flood_gauge(10);
    let program: &Xdp = ebpf.program(names::INGRESS).unwrap().try_into().unwrap();
    let run = |source: [u8; 4]| {
        let frame = v4(source).tcp(80, SYN);
        let options = TestRunOptions { data_in: Some(frame.bytes()), ..TestRunOptions::default() };
        program.test_run(options).unwrap().return_value
    };
    let count = |reason: Reason| {
        let map = ebpf.map(names::COUNT_BY_REASON).unwrap();
        let counts: PerCpuArray<_, u64> = map.try_into().unwrap();
        counts.get(&(reason as u32), 0).unwrap().iter().sum::<u64>()
    };
    let began = Instant::now();
    for host in 0..50 {
        assert_eq!(run([11, 0, 0, host]), PASS);
    }
    // The first ten are known, the others are not.
    let again: Vec<_> = (0..50).map(|host| run([11, 0, 0, host])).collect();
    assert!(began.elapsed() < Duration::from_secs(1), "too slow to tell");
    assert!(again[..10].iter().all(|&verdict| verdict == DROP), "{again:?}");
    assert!(again[10..].iter().all(|&verdict| verdict == PASS), "{again:?}");
    assert_eq!(count(Reason::Admitted), 10);
    assert_eq!(count(Reason::RateLimited), 10);
    assert_eq!(count(Reason::Untracked), 80);
}
