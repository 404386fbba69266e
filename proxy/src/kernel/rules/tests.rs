use std::net::IpAddr;

use super::*;
use crate::config::ConnectionRate;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn guard(allow: &[&str], deny: &[&str]) -> config::Guard {
    let parse = |list: &[&str]| list.iter().map(|text| net(text)).collect();
    config::Guard { allow: parse(allow), deny: parse(deny), connection_rate: None }
}

#[track_caller]
fn check(allow: &[&str], deny: &[&str], expected: &[(&str, Rule)]) {
    let expected: Vec<_> = expected.iter().map(|(prefix, rule)| (net(prefix), *rule)).collect();
    assert_eq!(compile(&guard(allow, deny)), expected);
}

#[test]
fn denied_prefixes_inside_allowed_ones_are_left_out() {
    check(&[], &[], &[]);
    check(&["10.0.0.0/8"], &[], &[]);
    check(&["10.0.0.0/8"], &["10.1.0.0/16"], &[]);
    check(&["10.0.0.0/8"], &["10.0.0.0/8"], &[]);
    let both = [("10.1.0.0/16", Rule::ALLOW), ("10.0.0.0/8", Rule::DENY)];
    check(&["10.1.0.0/16"], &["10.0.0.0/8"], &both);
    // Two halves that allow the whole.
    check(&["10.0.0.0/9", "10.128.0.0/9"], &["10.0.0.0/8"], &[]);
}

#[test]
fn families_are_kept_apart() {
    check(&["::/0"], &["10.0.0.0/8"], &[("::/0", Rule::ALLOW), ("10.0.0.0/8", Rule::DENY)]);
    check(&[], &["::ffff:10.0.0.0/104"], &[("10.0.0.0/8", Rule::DENY)]);
    check(&[], &["::ffff:0.0.0.0/96"], &[("0.0.0.0/0", Rule::DENY)]);
    check(&[], &["::/0"], &[("::/0", Rule::DENY)]);
}

/// What the kernel's longest-prefix search over the compiled rules says.
fn is_denied(rules: &[(IpNet, Rule)], source: IpAddr) -> bool {
    rules
        .iter()
        .filter(|(prefix, _)| prefix.contains(&source))
        .max_by_key(|(prefix, _)| prefix.prefix_len())
        .is_some_and(|(_, rule)| rule.is_denied())
}

/// The compiled rules decide every source as the rules themselves, read naively.
#[test]
fn the_longest_prefix_decides_like_the_rules() {
    let mut random = Random(7);
    for _ in 0..2000 {
        let (allow, deny) = (random.prefixes(), random.prefixes());
        let rules = config::Guard { allow, deny, connection_rate: None };
        let compiled = compile(&rules);
        for source in (0..20).map(|_| random.address()) {
            let is_in = |list: &[IpNet]| list.iter().any(|prefix| prefix.contains(&source));
            let expected = is_in(&rules.deny) && !is_in(&rules.allow);
            assert_eq!(is_denied(&compiled, source), expected, "{source} {rules:?}");
        }
    }
}

/// A reproducible generator over a space so small that prefixes overlap often.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // Knuth's MMIX constants; the upper bits are the good ones.
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn address(&mut self) -> IpAddr {
        let low = (self.next() % 256) as u8;
        match self.next() % 2 {
            0 => IpAddr::from([10, 0, 0, low]),
            _ => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(low)]),
        }
    }

    fn prefixes(&mut self) -> Vec<IpNet> {
        let count = self.next() % 6;
        (0..count)
            .map(|_| {
                let address = self.address();
                let bits = if address.is_ipv4() { 32 } else { 128 };
                let length = bits - (self.next() % 9) as u8;
                IpNet::new(address, length).unwrap()
            })
            .collect()
    }
}

#[track_caller]
fn check_destinations(listeners: &[&str], expected: &[(&str, u32)]) {
    let listeners: Vec<SocketAddr> = listeners.iter().map(|at| at.parse().unwrap()).collect();
    let expected: Vec<_> = expected
        .iter()
        .map(|(at, n)| (Destination::from(at.parse::<SocketAddr>().unwrap()), Listener::new(*n)))
        .collect();
    assert_eq!(destinations(&listeners), expected);
}

#[test]
fn a_listener_on_every_v6_address_hears_v4_too() {
    let v4 = ("0.0.0.0:80", 0);
    let v6 = ("[::]:80", 0);
    check_destinations(&["0.0.0.0:80"], &[v4]);
    check_destinations(&["[::]:80"], &[v6, v4]);
    check_destinations(&["[::1]:80"], &[("[::1]:80", 0)]);
    let two = [v6, v4, ("[::]:81", 1), ("0.0.0.0:81", 1)];
    check_destinations(&["[::]:80", "[::]:81"], &two);
}

#[test]
fn what_exceeds_the_maps_is_refused() {
    let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let listeners: Vec<_> = (1..=65).map(at).collect();
    let rules = |guard: &config::Guard, listeners, workers| Rules::new(guard, listeners, workers);
    assert!(rules(&guard(&[], &[]), &listeners[..64], 64).is_ok());
    assert!(rules(&guard(&[], &[]), &listeners, 1).is_err());
    assert!(rules(&guard(&[], &[]), &listeners[..1], 65).is_err());
    let deny = |count: u32| config::Guard {
        // Every other address, so that nothing merges.
        deny: (0..count).map(|n| IpNet::from(IpAddr::from((n * 2).to_be_bytes()))).collect(),
        ..config::Guard::default()
    };
    assert!(rules(&deny(PREFIXES_MAX), &listeners[..1], 1).is_ok());
    assert!(rules(&deny(PREFIXES_MAX + 1), &listeners[..1], 1).is_err());
}

#[test]
fn the_programs_get_their_numbers() {
    let listeners = ["127.0.0.1:80", "127.0.0.1:9144", "[::1]:81"].map(|at| at.parse().unwrap());
    let rules = Rules::new(&guard(&[], &["10.0.0.0/8"]), &listeners, 2).unwrap();
    let expected = Globals {
        // 80 % 64 = 16, 9144 % 64 = 56, 81 % 64 = 17.
        port_filter: 1 << 16 | 1 << 56 | 1 << 17,
        rules: 1,
        rate_interval_ns: 0,
        rate_tolerance_ns: 0,
        flood_sources_max: u64::from(SOURCES_MAX / FLOOD_TURNOVER_S) / 2,
        workers: 2,
    };
    assert_eq!(rules.globals(2), expected);

    let connection_rate = Some(ConnectionRate { per_second: 100, burst: 5 });
    let limited = config::Guard { connection_rate, ..config::Guard::default() };
    let globals = Rules::new(&limited, &listeners, 2).unwrap().globals(1_000_000);
    assert_eq!(globals.rate_interval_ns, 10_000_000);
    assert_eq!(globals.rate_tolerance_ns, 40_000_000);
    assert_eq!(globals.flood_sources_max, 1);
}
