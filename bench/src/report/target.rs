//! What Tandem has to reach, as far as the rows of a report can tell.

use std::fmt::Write as _;

use super::{Report, Series};
use crate::scenario::IDLE_CONNECTIONS;
use crate::statistics::{Better, Spread, best, ratios};

/// One line: what, the bound, the values by round.
struct Target {
    what: &'static str,
    bound: Bound,
    values: Vec<f64>,
}

#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    fn holds(self, median: f64) -> bool {
        match self {
            Self::AtLeast(bound) => median >= bound,
            Self::AtMost(bound) => median <= bound,
        }
    }
}

const MIB: f64 = 1024.0 * 1024.0;
const RATE: &str = "requests_per_second";
const CPU: &str = "cpu_us_per_request";

pub(super) fn render(report: &Report) -> String {
    let targets: Vec<Target> =
        targets(report).into_iter().filter(|target| !target.values.is_empty()).collect();
    if targets.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "\n## Targets\n\n| target | bound | median (min–max) | met |\n|---|---|---:|---|\n",
    );
    for Target { what, bound, values } in targets {
        let Some(spread) = Spread::of(values) else { continue };
        let Spread { median, least, greatest } = spread;
        let limit = match bound {
            Bound::AtLeast(limit) => format!("≥ {limit:.2}"),
            Bound::AtMost(limit) => format!("≤ {limit:.2}"),
        };
        let is_met = if bound.holds(median) { "yes" } else { "**no**" };
        let _ = writeln!(
            text,
            "| {what} | {limit} | {median:.3} ({least:.3}–{greatest:.3}) | {is_met} |"
        );
    }
    text
}

fn targets(report: &Report) -> Vec<Target> {
    let off = "tandem off";
    let to_peer = |scenario, case, contestant, figure, better| {
        let mine = report.series(scenario, case, contestant, figure);
        ratios(&mine, &best(&report.peers(scenario, case, figure), better))
    };
    let a1 = |contestant| report.series("A1", "200", contestant, RATE);
    let within = |scenario, case, contestant| {
        ratios(&report.series(scenario, case, contestant, RATE), &a1(contestant))
    };
    let mut targets = vec![
        Target {
            what: "A1, userspace only: requests/s ÷ better peer",
            bound: Bound::AtLeast(0.85),
            values: to_peer("A1", "200", off, RATE, Better::Higher),
        },
        Target {
            what: "A1, userspace only: CPU per request ÷ better peer",
            bound: Bound::AtMost(1.25),
            values: to_peer("A1", "200", off, CPU, Better::Lower),
        },
        Target {
            what: "A2 ÷ A1, userspace only",
            bound: Bound::AtLeast(0.97),
            values: within("A2", "200", off),
        },
        Target {
            what: "A3 ÷ A1, userspace only, less the better peer's own",
            bound: Bound::AtLeast(-0.05),
            values: stress_differences(report, off),
        },
        Target {
            what: "L1 1 MiB download: splice ÷ HAProxy splicing",
            bound: Bound::AtLeast(1.0),
            values: versus(report, "get-1MiB", "tandem off splice", "haproxy"),
        },
        Target {
            what: "L1 1 MiB echo: splice ÷ HAProxy splicing",
            bound: Bound::AtLeast(1.0),
            values: versus(report, "echo-1MiB", "tandem off splice", "haproxy"),
        },
    ];
    for (what, case) in [
        ("L1 16 KiB echo: sockmap ÷ user", "echo-16KiB"),
        ("L1 1 MiB echo: sockmap ÷ user", "echo-1MiB"),
        ("L1 16 KiB download: sockmap ÷ user", "get-16KiB"),
        ("L1 1 MiB download: sockmap ÷ user", "get-1MiB"),
    ] {
        let values = versus(report, case, "tandem on sockmap", "tandem off");
        targets.push(Target { what, bound: Bound::AtLeast(1.0), values });
    }
    targets.extend(memory_targets(report));
    targets
}

fn versus(report: &Report, case: &str, ours: &str, theirs: &str) -> Vec<f64> {
    ratios(&report.series("L1", case, ours, RATE), &report.series("L1", case, theirs, RATE))
}

/// A3 ÷ A1 of ours less the same of the peer that was better at it, round by round.
fn stress_differences(report: &Report, ours: &str) -> Vec<f64> {
    let own_ratio = |contestant: &str| -> Series {
        let stress = report.series("A3", "500", contestant, RATE);
        let plain = report.series("A1", "200", contestant, RATE);
        stress.iter().zip(plain).map(|(stress, plain)| Some((*stress)? / plain?)).collect()
    };
    let peers = best(&["nginx", "haproxy"].map(own_ratio), Better::Higher);
    own_ratio(ours).iter().zip(peers).filter_map(|(ours, peer)| Some((*ours)? - peer?)).collect()
}

fn memory_targets(report: &Report) -> Vec<Target> {
    let added = |case: &str, contestant: &str| -> Vec<f64> {
        let ours = report.series("M1", case, contestant, "held_bytes");
        let direct = report.series("M1", case, "direct", "held_bytes");
        ours.iter()
            .zip(direct)
            .filter_map(|(ours, direct)| Some(((*ours)? - direct?) / MIB))
            .collect()
    };
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
        targets.push(Target { what, bound: Bound::AtMost(5.0), values: added(case, contestant) });
    }
    let scaled = |scenario: &str, case: &str, contestant: &str, figure: &str, unit: f64| {
        let series = report.series(scenario, case, contestant, figure);
        series.into_iter().flatten().map(|value| value / unit).collect::<Vec<f64>>()
    };
    for (what, limit, contestant) in [
        ("S1 start to first answer without BPF, ms", 100.0, "tandem off"),
        ("S1 start to first answer with BPF, ms", 500.0, "tandem on"),
    ] {
        let values = scaled("S1", "", contestant, "start_up_seconds", 1e-3);
        targets.push(Target { what, bound: Bound::AtMost(limit), values });
    }
    targets.push(Target {
        what: "S1 release binary, MiB",
        bound: Bound::AtMost(12.0),
        values: scaled("S1", "", "tandem off", "binary_bytes", MIB),
    });
    targets.push(Target {
        what: "D3 process memory of an idle connection, KiB",
        bound: Bound::AtMost(24.0),
        values: scaled("D3", &IDLE_CONNECTIONS.to_string(), "tandem off", "process_bytes", 1024.0),
    });
    targets
}
