use ipnet::IpNet;

use super::*;

fn prefixes(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|prefix| prefix.parse().unwrap()).collect()
}

#[track_caller]
fn check(allow: &[&str], deny: &[&str], source: &str, expected: Result<(), Fault>) {
    let rules =
        config::Guard { allow: prefixes(allow), deny: prefixes(deny), connection_rate: None };
    let source = source.parse().unwrap();
    assert_eq!(Guard::new(&rules).admit(source, Instant::now()), expected, "{source}");
}

#[test]
fn prefixes_decide() {
    const DENIED: Result<(), Fault> = Err(Fault::GuardDenied);
    check(&[], &[], "192.0.2.1", Ok(()));
    check(&[], &["192.0.2.0/24"], "192.0.2.1", DENIED);
    check(&[], &["192.0.2.0/24"], "192.0.3.1", Ok(()));
    // Allow beats deny, whichever is longer, and alone denies nobody.
    check(&["192.0.2.0/24"], &["192.0.2.1/32"], "192.0.2.1", Ok(()));
    check(&["192.0.2.1/32"], &["192.0.2.0/24"], "192.0.2.1", Ok(()));
    check(&["192.0.2.1/32"], &["192.0.2.0/24"], "192.0.2.2", DENIED);
    check(&["192.0.2.0/24"], &[], "198.51.100.1", Ok(()));
}

#[test]
fn a_mapped_source_is_an_ipv4_source() {
    const DENIED: Result<(), Fault> = Err(Fault::GuardDenied);
    check(&[], &["192.0.2.0/24"], "::ffff:192.0.2.1", DENIED);
    check(&[], &["::ffff:192.0.2.0/120"], "192.0.2.1", DENIED);
    check(&[], &["::/0"], "192.0.2.1", Ok(()));
    check(&[], &["::/0"], "::ffff:192.0.2.1", Ok(()));
    check(&[], &["::/0"], "2001:db8::1", DENIED);
    check(&[], &["0.0.0.0/0"], "2001:db8::1", Ok(()));
}

fn limited(per_second: u32, burst: u32) -> Guard {
    let connection_rate = Some(ConnectionRate { per_second, burst });
    Guard::new(&config::Guard { connection_rate, ..config::Guard::default() })
}

#[test]
fn a_source_gets_its_burst_and_then_the_rate() {
    let guard = limited(10, 3);
    let began = Instant::now();
    let admit = |after_ms: u64| {
        guard.admit([192, 0, 2, 1].into(), began + Duration::from_millis(after_ms)).is_ok()
    };
    let admitted = [0, 0, 0, 0, 99, 100, 101, 200, 9000, 9000, 9000, 9000].map(admit);
    let expected = [true, true, true, false, false, true, false, true, true, true, true, false];
    assert_eq!(admitted, expected);
}

#[test]
fn sources_do_not_share_a_bucket_but_a_v6_64_does() {
    let guard = limited(1, 1);
    let now = Instant::now();
    let admit = |source: &str| guard.admit(source.parse().unwrap(), now);
    assert_eq!(admit("192.0.2.1"), Ok(()));
    assert_eq!(admit("192.0.2.1"), Err(Fault::RateLimited));
    assert_eq!(admit("::ffff:192.0.2.1"), Err(Fault::RateLimited));
    assert_eq!(admit("192.0.2.2"), Ok(()));
    assert_eq!(admit("2001:db8::1"), Ok(()));
    assert_eq!(admit("2001:db8::2"), Err(Fault::RateLimited));
    assert_eq!(admit("2001:db8:0:1::2"), Ok(()));
}

#[test]
fn a_denied_source_costs_no_token() {
    let connection_rate = Some(ConnectionRate { per_second: 1, burst: 1 });
    let rules =
        config::Guard { deny: prefixes(&["192.0.2.0/24"]), connection_rate, ..Default::default() };
    let guard = Guard::new(&rules);
    let now = Instant::now();
    assert_eq!(guard.admit([192, 0, 2, 1].into(), now), Err(Fault::GuardDenied));
    assert_eq!(guard.admit([192, 0, 2, 1].into(), now), Err(Fault::GuardDenied));
}

/// More sources than there are buckets: memory stays what it is, newcomers are admitted.
#[test]
fn the_table_forgets_rather_than_grows() {
    let guard = limited(1, 2);
    let now = Instant::now();
    for n in 0..4 * proxy_common::limits::SOURCES_MAX {
        assert_eq!(guard.admit(n.to_be_bytes().into(), now), Ok(()));
    }
}

/// Bucket for bucket the same arithmetic as the program's.
#[test]
fn a_bucket_decides_like_the_programs() {
    for (per_second, burst) in [(1, 1), (7, 3), (50, 1), (1000, 20), (3, 1000)] {
        let rate = ConnectionRate { per_second, burst };
        let pace = Pace::from(rate);
        let program = proxy_ebpf::rate::Rate {
            interval_ns: pace.interval.as_nanos() as u64,
            tolerance_ns: pace.tolerance.as_nanos() as u64,
        };
        let guard = limited(per_second, burst);
        let began = Instant::now();
        // The guard's clock starts with its first connection.
        let (mut full_at_ns, mut now_ns) = (0, 0);
        for n in 0..5000_u64 {
            let taken = program.take(full_at_ns, now_ns);
            let admitted = guard.admit([192, 0, 2, 1].into(), began + Duration::from_nanos(now_ns));
            assert_eq!(taken.is_some(), admitted.is_ok(), "{rate:?} at {now_ns}");
            full_at_ns = taken.unwrap_or(full_at_ns);
            now_ns += n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 38;
        }
    }
}
