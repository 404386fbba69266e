//! What Tandem has to reach, as far as the rows of a report can tell.

use super::{Outcome, REFERENCE_PEERS, Report, Series, crossover};
use crate::{
    scenario::{
        ACTIVE, ALONE, AT_PEERS_RATE, CONNECTIONS_FEW, OPEN_CONNECTIONS, SLOW_NODES, SLOW_READERS,
    },
    statistics::{Better, Spread, best, ratios},
    topology::Network,
};

/// What is to be reached, and the values by round.
struct Target {
    what: String,
    bound: Bound,
    values: Vec<f64>,
}

#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
    /// In every round: one too many is a failure, whatever the others were.
    AlwaysBelow(f64),
    /// To be seen, whatever it is.
    Reported,
}

impl Bound {
    fn holds(self, values: Spread) -> Option<bool> {
        match self {
            Self::AtLeast(bound) => Some(values.median >= bound),
            Self::AtMost(bound) => Some(values.median <= bound),
            Self::AlwaysBelow(bound) => Some(values.greatest < bound),
            Self::Reported => None,
        }
    }
}

/// A target as a line of a table.
pub(super) struct Line {
    pub(super) what: String,
    pub(super) bound: String,
    pub(super) values: String,
    /// `None` if nothing is asked for.
    pub(super) is_met: Option<bool>,
}

const MIB: f64 = 1024.0 * 1024.0;
const RATE: &str = "requests_per_second";
const CPU: &str = "cpu_us_per_request";
const P99: &str = "latency_p99_us";

/// Ours without the kernel half, as it comes: what most targets are about.
const OFF: &str = "tandem off";
/// The same with hyper on both sides.
const HYPER: &str = "tandem off hyper";
const SAME_HOST: &str = "tandem same-host";
const BY_TCP: &str = "tandem same-host by TCP";

/// The targets of the report's network that it has values for.
pub(super) fn lines(report: &Report) -> Vec<Line> {
    let targets = match report.about.network {
        Network::Loopback => loopback_targets(report),
        Network::Client => {
            vec![namespace_target(report, "remote client over veth, local node", 1.3)]
        }
        Network::Three => {
            vec![namespace_target(report, "client, proxy and node in three namespaces", 1.6)]
        }
    };
    let mut lines: Vec<Line> = targets.into_iter().filter_map(line).collect();
    if report.about.network == Network::Loopback {
        lines.extend(crossover::lines(report));
    }
    lines
}

fn loopback_targets(report: &Report) -> Vec<Target> {
    let mut targets = lane_targets(report);
    targets.extend(boundary_and_splice_targets(report));
    targets.extend(worker_targets(report));
    targets.extend(disruption_targets(report));
    targets.extend(beside_targets(report));
    targets.extend(stream_targets(report));
    targets.extend(memory_targets(report));
    targets.extend(same_host_targets(report));
    targets
}

fn namespace_target(report: &Report, what: &str, bound: f64) -> Target {
    Target {
        what: format!("same-host A2, {what}: requests/s ÷ best of nginx, HAProxy"),
        bound: Bound::AtLeast(bound),
        values: to_peer(report, ("same-host", "A2"), SAME_HOST, RATE, Better::Higher),
    }
}

fn line(Target { what, bound, values }: Target) -> Option<Line> {
    let spread = Spread::of(values)?;
    let Spread { median, least, greatest } = spread;
    Some(Line {
        what,
        bound: match bound {
            Bound::AtLeast(limit) => format!("≥ {limit:.2}"),
            Bound::AtMost(limit) => format!("≤ {limit:.2}"),
            Bound::AlwaysBelow(limit) => format!("< {limit:.2} in every round"),
            Bound::Reported => "–".into(),
        },
        values: format!("{median:.3} ({least:.3}–{greatest:.3})"),
        is_met: bound.holds(spread),
    })
}

/// A figure of one contestant over the best of nginx and HAProxy.
fn to_peer(
    report: &Report,
    (scenario, case): (&str, &str),
    contestant: &str,
    figure: &str,
    better: Better,
) -> Vec<f64> {
    let mine = report.series(scenario, case, contestant, figure);
    ratios(&mine, &best(&report.peers(scenario, case, figure), better))
}

/// A figure of one contestant in a unit.
fn scaled(
    report: &Report,
    (scenario, case): (&str, &str),
    contestant: &str,
    figure: &str,
    unit: f64,
) -> Vec<f64> {
    let series = report.series(scenario, case, contestant, figure);
    series.into_iter().flatten().map(|value| value / unit).collect()
}

/// The labels of the cases that a scenario has in this report, in their order.
fn cases_of<'a>(report: &'a Report, scenario: &str) -> Vec<&'a str> {
    let mut labels: Vec<&str> = Vec::new();
    for row in report.rows.iter().filter(|row| row.scenario == scenario) {
        if !labels.contains(&row.case.as_str()) {
            labels.push(&row.case);
        }
    }
    labels
}

fn lane_targets(report: &Report) -> Vec<Target> {
    let mut targets = Vec::new();
    for (lane, contestant, cpu_most, rate_least) in
        [("userspace only", OFF, 0.92, 1.05), ("hyper both sides", HYPER, 1.25, 0.85)]
    {
        for scenario in ["A1", "A2"] {
            let case = (scenario, "200");
            targets.push(Target {
                what: format!("{scenario}, {lane}: CPU per request ÷ best of nginx, HAProxy"),
                bound: Bound::AtMost(cpu_most),
                values: to_peer(report, case, contestant, CPU, Better::Lower),
            });
            targets.push(Target {
                what: format!("{scenario}, {lane}: requests/s ÷ best of nginx, HAProxy"),
                bound: Bound::AtLeast(rate_least),
                values: to_peer(report, case, contestant, RATE, Better::Higher),
            });
        }
    }
    for case in cases_of(report, "D1") {
        targets.push(Target {
            what: format!("D1 {case}, userspace only: connections/s ÷ best of nginx, HAProxy"),
            bound: Bound::AtLeast(1.05),
            values: to_peer(report, ("D1", case), OFF, RATE, Better::Higher),
        });
    }
    targets.push(Target {
        what: "A2 ÷ A1, userspace only: requests/s".into(),
        bound: Bound::AtLeast(0.98),
        values: ratios(
            &report.series("A2", "200", OFF, RATE),
            &report.series("A1", "200", OFF, RATE),
        ),
    });
    targets.push(Target {
        what: "A3 ÷ A1, userspace only, less the better peer's own".into(),
        bound: Bound::AtLeast(-0.05),
        values: stress_differences(report, OFF),
    });
    targets.push(Target {
        what: "A5, userspace only: p99 at 80 % of the best peer's A1 ÷ that peer's p99".into(),
        bound: Bound::AtMost(1.0),
        values: p99_to_fastest_peer(report, ("A1", "200"), "A5", OFF),
    });
    targets
}

/// Our p99 at the common rate ÷ that of the peer that set the rate.
fn p99_to_fastest_peer(
    report: &Report,
    setter: (&str, &str),
    scenario: &str,
    ours: &str,
) -> Vec<f64> {
    let fastest = p99_of_fastest_peer(report, setter, scenario);
    ratios(&report.series(scenario, AT_PEERS_RATE, ours, P99), &fastest)
}

/// Round by round, the p99 under the common rate of the peer that set the rate.
fn p99_of_fastest_peer(report: &Report, (setter, case): (&str, &str), scenario: &str) -> Series {
    let [rates, latencies] = [(setter, case, RATE), (scenario, AT_PEERS_RATE, P99)]
        .map(|(scenario, case, figure)| report.peers(scenario, case, figure));
    let rounds = rates.iter().map(Vec::len).max().unwrap_or(0);
    (0..rounds)
        .map(|round| {
            let fastest = (0..REFERENCE_PEERS.len())
                .filter_map(|peer| Some((peer, (*rates.get(peer)?.get(round)?)?)))
                .max_by(|(_, one), (_, other)| one.total_cmp(other))?;
            *latencies.get(fastest.0)?.get(round)?
        })
        .collect()
}

fn boundary_and_splice_targets(report: &Report) -> Vec<Target> {
    let mut targets = Vec::new();
    for case in cases_of(report, "B2") {
        targets.push(Target {
            what: format!("B2 {case}, userspace only: p99 ÷ best of nginx, HAProxy"),
            bound: Bound::AtMost(1.0),
            values: to_peer(report, ("B2", case), OFF, P99, Better::Lower),
        });
    }
    let few = CONNECTIONS_FEW.to_string();
    targets.push(Target {
        what: format!("B2 {few}, userspace only: longest response, ms (a delayed ACK takes 40)"),
        bound: Bound::AlwaysBelow(40.0),
        values: scaled(report, ("B2", &few), OFF, "latency_max_us", 1e3),
    });
    let mut cases: Vec<(&str, &str)> =
        cases_of(report, "B3").into_iter().map(|case| ("B3", case)).collect();
    cases.push(("B6", "1MiB"));
    for (scenario, case) in cases {
        let haproxy =
            ["haproxy", "haproxy splice"].map(|peer| report.series(scenario, case, peer, RATE));
        let mine = report.series(scenario, case, OFF, RATE);
        targets.push(Target {
            what: format!("{scenario} {case}: requests/s ÷ HAProxy, the better of two ways"),
            bound: Bound::AtLeast(1.0),
            values: ratios(&mine, &best(&haproxy, Better::Higher)),
        });
    }
    targets
}

fn worker_targets(report: &Report) -> Vec<Target> {
    let mut targets = Vec::new();
    for one in [OFF, "tandem on"] {
        let two = format!("{one} 2 workers");
        for (what, figure, bound) in
            [("CPU per request", CPU, Bound::AtMost(1.05)), ("requests/s", RATE, Bound::Reported)]
        {
            targets.push(Target {
                what: format!("W1 {one}, two workers ÷ one: {what}"),
                bound,
                values: ratios(
                    &report.series("W1", "200", &two, figure),
                    &report.series("W1", "200", one, figure),
                ),
            });
        }
    }
    targets
}

/// One request that fails takes the figures of its round.
fn disruption_targets(report: &Report) -> Vec<Target> {
    let mut targets = Vec::new();
    for (scenario, what) in [("C4", "a node dies and comes back"), ("E1", "reloads")] {
        for contestant in
            [OFF, HYPER, "tandem on", "tandem on hyper", SAME_HOST, "tandem same-host hyper"]
        {
            targets.push(Target {
                what: format!("{scenario}, {what}, {contestant}: rounds with a failed request"),
                bound: Bound::AlwaysBelow(1.0),
                values: failed_rounds(report, scenario, contestant),
            });
        }
    }
    targets
}

/// What is slow costs nobody else anything, and no more memory than what holds it up.
fn beside_targets(report: &Report) -> Vec<Target> {
    let mut targets = Vec::new();
    for (case, what) in [(SLOW_READERS, "slow readers"), (SLOW_NODES, "slow nodes")] {
        for contestant in [OFF, HYPER, "tandem on", SAME_HOST] {
            let [beside, alone] =
                [case, ALONE].map(|case| report.series("E3", case, contestant, P99));
            targets.push(Target {
                what: format!("E3, {what}, {contestant}: p99 of the others ÷ without"),
                bound: Bound::AtMost(1.1),
                values: ratios(&beside, &alone),
            });
            targets.push(Target {
                what: format!("E3, {what}, {contestant}: MiB added by each"),
                bound: Bound::AtMost(5.0),
                values: added(report, ("E3", case), contestant, "beside_held_bytes"),
            });
        }
    }
    targets
}

/// What a contestant holds beyond what the same takes without a proxy, MiB.
fn added(
    report: &Report,
    (scenario, case): (&str, &str),
    contestant: &str,
    figure: &str,
) -> Vec<f64> {
    let [ours, direct] =
        [contestant, "direct"].map(|name| report.series(scenario, case, name, figure));
    let pairs = ours.into_iter().zip(direct);
    pairs.filter_map(|(ours, direct)| Some((ours? - direct?) / MIB)).collect()
}

/// For each round in which a contestant took part, 1 if it failed and 0 if not.
fn failed_rounds(report: &Report, scenario: &str, contestant: &str) -> Vec<f64> {
    let rows = report.rows.iter();
    let rows = rows.filter(|row| row.scenario == scenario && row.contestant == contestant);
    rows.filter_map(|row| match row.outcome {
        Outcome::Measured { .. } => Some(0.0),
        Outcome::Failed { .. } => Some(1.0),
        Outcome::Absent { .. } => None,
    })
    .collect()
}

fn stream_targets(report: &Report) -> Vec<Target> {
    let mut targets = Vec::new();
    for (what, case, ours, theirs) in [
        ("1 MiB download: splice ÷ HAProxy splicing", "get-1MiB", "tandem off splice", "haproxy"),
        ("1 MiB echo: splice ÷ HAProxy splicing", "echo-1MiB", "tandem off splice", "haproxy"),
        ("16 KiB echo: sockmap ÷ user", "echo-16KiB", "tandem on sockmap", OFF),
        ("1 MiB echo: sockmap ÷ user", "echo-1MiB", "tandem on sockmap", OFF),
        ("16 KiB download: sockmap ÷ user", "get-16KiB", "tandem on sockmap", OFF),
        ("1 MiB download: sockmap ÷ user", "get-1MiB", "tandem on sockmap", OFF),
    ] {
        let [ours, theirs] = [ours, theirs].map(|name| report.series("L1", case, name, RATE));
        targets.push(Target {
            what: format!("L1 {what}"),
            bound: Bound::AtLeast(1.0),
            values: ratios(&ours, &theirs),
        });
    }
    targets
}

fn same_host_targets(report: &Report) -> Vec<Target> {
    let case = |label| ("same-host", label);
    let over = |label, figure, theirs: &[&str], better| {
        let (scenario, case) = case(label);
        let theirs: Vec<_> =
            theirs.iter().map(|name| report.series(scenario, case, name, figure)).collect();
        ratios(&report.series(scenario, case, SAME_HOST, figure), &best(&theirs, better))
    };
    let haproxy = ["haproxy", "haproxy splice"];
    [
        (
            "A2: CPU per request ÷ direct",
            Bound::AtMost(1.0),
            over("A2", CPU, &["direct"], Better::Lower),
        ),
        (
            "A2: requests/s ÷ best of nginx, HAProxy",
            Bound::AtLeast(1.6),
            to_peer(report, case("A2"), SAME_HOST, RATE, Better::Higher),
        ),
        (
            "A2: in the map, by TCP: CPU per request ÷ off",
            Bound::AtMost(1.15),
            ratios(
                &report.series("same-host", "A2", BY_TCP, CPU),
                &report.series("same-host", "A2", OFF, CPU),
            ),
        ),
        (
            "A2: p99 at 80 % of the best peer's rate ÷ that peer's p99",
            Bound::AtMost(1.0),
            p99_to_fastest_peer(report, case("A2"), "same-host", SAME_HOST),
        ),
        ("D1: on ÷ off", Bound::AtLeast(0.95), over("D1", RATE, &[OFF], Better::Higher)),
        ("1 MiB: ÷ nginx", Bound::AtLeast(3.0), over("1MiB", RATE, &["nginx"], Better::Higher)),
        (
            "1 MiB: ÷ HAProxy, the better of two ways",
            Bound::AtLeast(1.6),
            over("1MiB", RATE, &haproxy, Better::Higher),
        ),
    ]
    .map(|(what, bound, values)| Target { what: format!("same-host {what}"), bound, values })
    .into()
}

/// A3 ÷ A1 of ours less the same of the better peer, round by round. Which peer is better is one
/// answer for the whole run: the greatest of two ratios that vary is greater than either.
fn stress_differences(report: &Report, ours: &str) -> Vec<f64> {
    let own_ratio = |contestant: &str| -> Series {
        let stress = report.series("A3", "500", contestant, RATE);
        let plain = report.series("A1", "200", contestant, RATE);
        stress.iter().zip(plain).map(|(stress, plain)| Some((*stress)? / plain?)).collect()
    };
    let median = |peer: &str| {
        Spread::of(report.series("A1", "200", peer, RATE).into_iter().flatten())
            .map(|rate| rate.median)
    };
    let better = REFERENCE_PEERS
        .into_iter()
        .filter_map(|peer| Some((peer, median(peer)?)))
        .max_by(|(_, one), (_, other)| one.total_cmp(other));
    let Some((peer, _)) = better else { return Vec::new() };
    let pairs = own_ratio(ours).into_iter().zip(own_ratio(peer));
    pairs.filter_map(|(ours, peer)| Some(ours? - peer?)).collect()
}

fn memory_targets(report: &Report) -> Vec<Target> {
    let mut targets = Vec::new();
    for (what, case, contestant) in [
        ("M1 HTTP download: MiB added", "http-download", "tandem off"),
        ("M1 HTTP upload: MiB added", "http-upload", "tandem off"),
        ("M1 stream download, user: MiB added", "stream-download", "tandem off"),
        ("M1 stream upload, user: MiB added", "stream-upload", "tandem off"),
        ("M1 stream download, splice: MiB added", "stream-download", "tandem off splice"),
        ("M1 stream upload, splice: MiB added", "stream-upload", "tandem off splice"),
        ("M1 stream download, sockmap: MiB added", "stream-download", "tandem on sockmap"),
        ("M1 stream upload, sockmap: MiB added", "stream-upload", "tandem on sockmap"),
    ] {
        let values = added(report, ("M1", case), contestant, "held_bytes");
        targets.push(Target { what: what.into(), bound: Bound::AtMost(5.0), values });
    }
    for (what, limit, contestant) in [
        ("S1 start to first answer without BPF, ms", 100.0, "tandem off"),
        ("S1 start to first answer with BPF, ms", 500.0, "tandem on"),
        ("S1 start to first answer with XDP and sockmap too, ms", 500.0, "tandem on+xdp+sockmap"),
    ] {
        let values = scaled(report, ("S1", ""), contestant, "start_up_seconds", 1e-3);
        targets.push(Target { what: what.into(), bound: Bound::AtMost(limit), values });
    }
    targets.push(Target {
        what: "S1 release binary, MiB".into(),
        bound: Bound::AtMost(12.0),
        values: scaled(report, ("S1", ""), OFF, "binary_bytes", MIB),
    });
    for (what, prefix, bound) in
        [("an idle", "", Bound::AtMost(8.0)), ("an active", ACTIVE, Bound::Reported)]
    {
        let case = format!("{prefix}{OPEN_CONNECTIONS}");
        targets.push(Target {
            what: format!("D3 process memory of {what} connection, KiB"),
            bound,
            values: scaled(report, ("D3", &case), OFF, "process_bytes", 1024.0),
        });
    }
    targets
}

#[cfg(test)]
mod tests;
