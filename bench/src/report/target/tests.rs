use super::*;
use crate::report::sample::{absent, failed, measured, report, report_of, row};

#[track_caller]
fn check(report: &Report, what: &str, expected: Option<(&str, &str, Option<bool>)>) {
    let lines = lines(report);
    let found = lines.iter().find(|line| line.what.contains(what));
    let found = found.map(|line| (line.bound.as_str(), line.values.as_str(), line.is_met));
    assert_eq!(found, expected, "{what}");
}

#[test]
fn a1_is_held_against_the_best_of_nginx_and_haproxy_only() {
    let figures = |rate, cpu| measured(&[(RATE, rate), (CPU, cpu)]);
    let report = report(vec![
        row(("A1", "200"), "nginx", 1, figures(100.0, 10.0)),
        row(("A1", "200"), "haproxy", 1, figures(90.0, 12.0)),
        row(("A1", "200"), "caddy", 1, figures(900.0, 1.0)),
        row(("A1", "200"), "tandem off", 1, figures(110.0, 9.5)),
        row(("A1", "200"), "tandem off hyper", 1, figures(80.0, 12.0)),
    ]);
    check(
        &report,
        "A1, hyper both sides: req",
        Some(("≥ 0.85", "0.800 (0.800–0.800)", Some(false))),
    );
    check(
        &report,
        "A1, hyper both sides: CPU",
        Some(("≤ 1.25", "1.200 (1.200–1.200)", Some(true))),
    );
    check(&report, "A1, userspace only: req", Some(("≥ 1.05", "1.100 (1.100–1.100)", Some(true))));
    check(&report, "A1, userspace only: CPU", Some(("≤ 0.92", "0.950 (0.950–0.950)", Some(false))));
    check(&report, "A2", None);
    check(&report, "D1", None);
}

#[test]
fn p99_at_a_common_rate_is_held_against_the_peer_that_set_it() {
    let rate = |contestant, round, value| {
        row(("A1", "200"), contestant, round, measured(&[(RATE, value)]))
    };
    let p99 = |contestant, round, value| {
        row(("A5", AT_PEERS_RATE), contestant, round, measured(&[(P99, value)]))
    };
    let report = report(vec![
        rate("nginx", 1, 100.0),
        rate("haproxy", 1, 90.0),
        p99("nginx", 1, 400.0),
        p99("haproxy", 1, 100.0),
        p99("tandem off", 1, 200.0),
        // In this round the other peer set the rate.
        rate("nginx", 2, 80.0),
        rate("haproxy", 2, 90.0),
        p99("nginx", 2, 400.0),
        p99("haproxy", 2, 100.0),
        p99("tandem off", 2, 50.0),
    ]);
    check(&report, "A5, userspace only", Some(("≤ 1.00", "0.500 (0.500–0.500)", Some(true))));
}

#[test]
fn stress_is_held_against_the_peer_that_was_better_over_the_whole_run() {
    let of = |scenario: (&'static str, &'static str), rates: [(&'static str, [f64; 3]); 3]| {
        rates.into_iter().flat_map(move |(contestant, rates)| {
            let rounds = rates.into_iter().zip(1..);
            rounds.map(move |(rate, round)| {
                row(scenario, contestant, round, measured(&[(RATE, rate)]))
            })
        })
    };
    // HAProxy, the slower one, is the faster one in the last round.
    let plain = [
        ("nginx", [100.0, 100.0, 100.0]),
        ("haproxy", [90.0, 90.0, 200.0]),
        (OFF, [100.0, 100.0, 100.0]),
    ];
    let stress =
        [("nginx", [80.0, 90.0, 70.0]), ("haproxy", [90.0, 90.0, 20.0]), (OFF, [76.0, 76.0, 76.0])];
    let rows = of(("A1", "200"), plain).chain(of(("A3", "500"), stress));
    let line = ("≥ -0.05", "-0.040 (-0.140–0.060)", Some(true));
    check(&report(rows.collect()), "A3 ÷ A1", Some(line));
}

#[test]
fn two_workers_are_compared_with_one_and_large_bodies_with_both_ways_of_haproxy() {
    let figures = |rate, cpu| measured(&[(RATE, rate), (CPU, cpu)]);
    let report = report(vec![
        row(("W1", "200"), "tandem off", 1, figures(100.0, 10.0)),
        row(("W1", "200"), "tandem off 2 workers", 1, figures(150.0, 11.0)),
        row(("B6", "1MiB"), "haproxy", 1, figures(100.0, 10.0)),
        row(("B6", "1MiB"), "haproxy splice", 1, figures(200.0, 10.0)),
        row(("B6", "1MiB"), "tandem off user", 1, figures(900.0, 10.0)),
        row(("B6", "1MiB"), "tandem off splice", 1, figures(900.0, 10.0)),
        row(("B6", "1MiB"), "tandem off", 1, figures(180.0, 10.0)),
        row(("B3", "10"), "haproxy", 1, figures(10.0, 10.0)),
        row(("B3", "10"), "tandem off", 1, figures(12.0, 10.0)),
    ]);
    let cpu = "W1 tandem off, two workers ÷ one: CPU";
    check(&report, cpu, Some(("≤ 1.05", "1.100 (1.100–1.100)", Some(false))));
    let rate = "W1 tandem off, two workers ÷ one: req";
    check(&report, rate, Some(("–", "1.500 (1.500–1.500)", None)));
    check(&report, "W1 tandem on", None);
    check(&report, "B6 1MiB: req", Some(("≥ 1.00", "0.900 (0.900–0.900)", Some(false))));
    check(&report, "B3 10", Some(("≥ 1.00", "1.200 (1.200–1.200)", Some(true))));
}

#[test]
fn one_stall_in_one_round_of_the_buffer_boundary_is_a_failure() {
    let of = |longest: [f64; 2]| {
        let rows = longest.into_iter().zip(1..).map(|(longest, round)| {
            let figures = measured(&[("latency_max_us", longest)]);
            row(("B2", "8"), "tandem off", round, figures)
        });
        report(rows.collect())
    };
    let line = |values, is_met| Some(("< 40.00 in every round", values, Some(is_met)));
    check(&of([2e3, 39e3]), "B2 8, userspace only: longest", line("20.500 (2.000–39.000)", true));
    check(&of([2e3, 40e3]), "B2 8, userspace only: longest", line("21.000 (2.000–40.000)", false));
}

#[test]
fn another_network_is_held_against_its_own_targets_only() {
    let of = |network| {
        let rows = [("A1", "200"), ("same-host", "A2")].map(|case| {
            [("nginx", 100.0), ("haproxy", 90.0), (OFF, 110.0), (SAME_HOST, 140.0)].map(
                |(contestant, rate)| {
                    row(case, contestant, 1, measured(&[(RATE, rate), (CPU, 9.0)]))
                },
            )
        });
        report_of(network, rows.into_iter().flatten().collect())
    };
    for (network, what, bound, is_met) in [
        ("client", "remote client over veth, local node", "≥ 1.30", true),
        ("three", "client, proxy and node in three namespaces", "≥ 1.60", false),
    ] {
        let report = of(network);
        check(&report, what, Some((bound, "1.400 (1.400–1.400)", Some(is_met))));
        assert_eq!(lines(&report).len(), 1, "{network}");
        check(&of("loopback"), what, None);
    }
}

#[test]
fn one_failed_round_misses_the_target_of_a_disruption() {
    let good = || measured(&[(RATE, 100.0)]);
    let report = report(vec![
        row(("C4", "50"), "tandem off", 1, good()),
        row(("C4", "50"), "tandem off", 2, failed("1 × status 502 of 9 wrong")),
        row(("C4", "50"), "tandem off hyper", 1, good()),
        row(("C4", "50"), "tandem on", 1, absent("loading programs needs root")),
    ]);
    let bound = "< 1.00 in every round";
    let dies = "C4, a node dies and comes back";
    let half = Some((bound, "0.500 (0.000–1.000)", Some(false)));
    check(&report, &format!("{dies}, tandem off:"), half);
    let none = Some((bound, "0.000 (0.000–0.000)", Some(true)));
    check(&report, &format!("{dies}, tandem off hyper:"), none);
    check(&report, &format!("{dies}, tandem on:"), None);
    check(&report, "E1", None);
}

#[test]
fn what_is_slow_is_held_against_the_same_load_alone_and_against_no_proxy() {
    let mib = |count: f64| count * MIB;
    let figures =
        |p99, held| measured(&[(P99, p99), ("beside_held_bytes", held), ("beside_tcp_bytes", 1.0)]);
    let report = report(vec![
        row(("E3", ALONE), OFF, 1, measured(&[(P99, 100.0)])),
        row(("E3", SLOW_READERS), OFF, 1, figures(105.0, mib(7.0))),
        row(("E3", SLOW_READERS), "direct", 1, figures(50.0, mib(4.0))),
        row(("E3", SLOW_NODES), OFF, 1, figures(120.0, mib(10.0))),
        row(("E3", SLOW_NODES), "direct", 1, figures(50.0, mib(4.0))),
    ]);
    for (what, bound, value, is_met) in [
        ("slow readers, tandem off: p99", "≤ 1.10", "1.050 (1.050–1.050)", true),
        ("slow readers, tandem off: MiB", "≤ 5.00", "3.000 (3.000–3.000)", true),
        ("slow nodes, tandem off: p99", "≤ 1.10", "1.200 (1.200–1.200)", false),
        ("slow nodes, tandem off: MiB", "≤ 5.00", "6.000 (6.000–6.000)", false),
    ] {
        check(&report, what, Some((bound, value, Some(is_met))));
    }
    check(&report, "E3, slow nodes, tandem on", None);
}
