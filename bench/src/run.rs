//! The matrix: rounds × cases × contestants, interleaved, so that what the machine does over time
//! meets all contestants alike.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::Context as _;

use crate::{
    contestant::{Binaries, Contestant},
    measure::{Bench, Figures, Measured},
    process,
    report::{About, Outcome, REFERENCE_PEERS, Report, Row, Table},
    scenario::{Carrier, Case, LoadWork, Pacing, Work},
};

/// Attempts at one measurement while others disturb it.
const ATTEMPTS_MAX: u32 = 3;

/// What to do with a measurement that was disturbed in every attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Noise {
    /// The row fails.
    Refuse,
    /// It counts, and the report says that it is not to be quoted.
    Tolerate,
}

pub(crate) struct Run {
    pub(crate) bench: Bench,
    pub(crate) cases: Vec<Case>,
    pub(crate) rounds: u32,
    pub(crate) noise: Noise,
    /// Only these, by name; all if empty.
    pub(crate) only: Vec<String>,
    /// Where the raw data goes after every round.
    pub(crate) raw: Option<PathBuf>,
}

impl Run {
    pub(crate) fn execute(&self, about: About) -> anyhow::Result<Report> {
        let mut report = Report { about, rows: Vec::new() };
        for round in 1..=self.rounds {
            let mut rates = Rates::default();
            for case in &self.cases {
                for contestant in case.contestants.iter().filter(|one| self.takes_part(one)) {
                    let name = contestant.to_string();
                    let rate = rates.asked_for(case, &name);
                    let outcome = self.measure(case, *contestant, rate);
                    if let Outcome::Measured { figures, .. } = &outcome {
                        rates.note(case, &name, figures);
                    }
                    progress(round, case, &name, &outcome);
                    report.rows.push(Row {
                        scenario: case.scenario.to_owned(),
                        case: case.label.clone(),
                        table: table(&case.work),
                        contestant: name,
                        round,
                        outcome,
                    });
                }
            }
            if let Some(raw) = &self.raw {
                let text = serde_json::to_string_pretty(&report)?;
                std::fs::write(raw, text).with_context(|| format!("write {}", raw.display()))?;
            }
        }
        Ok(report)
    }

    fn takes_part(&self, contestant: &Contestant) -> bool {
        self.only.is_empty() || self.only.contains(&contestant.to_string())
    }

    fn measure(&self, case: &Case, contestant: Contestant, rate: Option<f64>) -> Outcome {
        if let Some(reason) = absence(case, contestant, &self.bench.binaries) {
            return Outcome::Absent { reason };
        }
        let mut disturbances = Vec::new();
        let mut disturbed: Option<Figures> = None;
        for _ in 0..ATTEMPTS_MAX {
            match self.bench.measure(case, contestant, rate) {
                Ok(Measured::Good(figures)) => return Outcome::Measured { figures, disturbances },
                Ok(Measured::Wrong(reason)) => return Outcome::Failed { reason },
                Err(error) => return Outcome::Failed { reason: format!("{error:#}") },
                Ok(Measured::Disturbed(reason, figures)) => {
                    disturbances.push(reason);
                    disturbed = Some(figures);
                }
            }
            if self.noise == Noise::Tolerate {
                break;
            }
        }
        match (self.noise, disturbed) {
            (Noise::Tolerate, Some(figures)) => Outcome::Measured { figures, disturbances },
            (Noise::Tolerate | Noise::Refuse, _) => {
                Outcome::Failed { reason: format!("no quiet round: {}", disturbances.join("; ")) }
            }
        }
    }
}

/// Throughput of closed loops in this round, by scenario and contestant.
#[derive(Default)]
struct Rates(BTreeMap<(&'static str, String), f64>);

impl Rates {
    /// Notes what sets the rate of open loops: A1, and A2 among the cases of `same-host`.
    fn note(&mut self, case: &Case, contestant: &str, figures: &Figures) {
        let sets_rate = match case.scenario {
            "A1" => true,
            "same-host" => case.label == "A2",
            _ => false,
        };
        let rate = figures.get("requests_per_second").filter(|rate| sets_rate && **rate > 0.0);
        let noted = rate.map(|rate| ((case.scenario, contestant.to_owned()), *rate));
        self.0.extend(noted);
    }

    fn asked_for(&self, case: &Case, contestant: &str) -> Option<f64> {
        let Work::Load(LoadWork { pacing, .. }) = &case.work else { return None };
        let setter = if case.scenario == "A5" { "A1" } else { case.scenario };
        let of = |contestant: &str| self.0.get(&(setter, contestant.to_owned())).copied();
        match pacing {
            Pacing::Closed => None,
            Pacing::OfOwn(share) => Some(share * of(contestant)?),
            Pacing::OfBestPeer(share) => {
                let peers = REFERENCE_PEERS.iter().filter_map(|peer| of(peer));
                Some(share * peers.max_by(f64::total_cmp)?)
            }
        }
    }
}

/// What a connection costs in open files, at most: a proxy has two ends and up to half a pipe.
const FILES_PER_TWO_CONNECTIONS: usize = 5;

fn absence(case: &Case, contestant: Contestant, binaries: &Binaries) -> Option<String> {
    let (carrier, connections) = match &case.work {
        Work::Load(LoadWork { carrier, connections, .. }) => (*carrier, *connections),
        Work::SlowTransfer { carrier, .. } => (*carrier, 0),
        Work::OpenConnections { connections, .. } => (Carrier::HTTP, *connections),
        Work::StartUp => (Carrier::HTTP, 0),
    };
    let files = connections * FILES_PER_TWO_CONNECTIONS / 2;
    let limit = process::open_files_max();
    if files as u64 > limit {
        return Some(format!("{connections} connections need {files} open files of {limit}"));
    }
    contestant.absence(carrier, binaries)
}

const fn table(work: &Work) -> Table {
    match work {
        Work::Load(_) => Table::Load,
        Work::SlowTransfer { .. } => Table::SlowTransfer,
        Work::OpenConnections { .. } => Table::OpenConnections,
        Work::StartUp => Table::StartUp,
    }
}

#[expect(clippy::print_stderr, reason = "progress for whoever waits; the report goes to stdout")]
fn progress(round: u32, case: &Case, contestant: &str, outcome: &Outcome) {
    let said = match outcome {
        Outcome::Absent { reason } => format!("absent: {reason}"),
        Outcome::Failed { reason } => format!("FAILED: {reason}"),
        Outcome::Measured { figures, disturbances } => {
            let figure = |name: &str| figures.get(name);
            let mut said = match (figure("requests_per_second"), figure("held_bytes")) {
                (Some(rate), _) => {
                    let cpu = figure("cpu_us_per_request").copied().unwrap_or(f64::NAN);
                    format!("{rate:.0} requests/s, {cpu:.1} µs CPU each")
                }
                (None, Some(held)) => format!("{:.0} KiB held", held / 1024.0),
                (None, None) => "done".into(),
            };
            if !disturbances.is_empty() {
                said = format!("{said} (disturbed: {})", disturbances.join("; "));
            }
            said
        }
    };
    eprintln!("round {round}  {} {}  {contestant}: {said}", case.scenario, case.label);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario;

    #[test]
    fn an_open_loop_is_set_by_its_own_rate_or_by_the_best_reference_peers() {
        for extent in [scenario::Extent::Full, scenario::Extent::Smoke] {
            let cases = |id: &str| scenario::cases(id, extent).unwrap();
            check_open_loops(&cases("A1")[0], &cases("A5"), &[Some(50.0), Some(80.0), Some(160.0)]);
            let same_host = cases("same-host");
            check_open_loops(&same_host[0], &same_host[3..], &[Some(160.0)]);
            let mut rates = Rates::default();
            let figures = Figures::from([("requests_per_second".to_owned(), 1.0)]);
            for other in [&cases("A2")[0], &same_host[1]] {
                rates.note(other, "nginx", &figures);
            }
            assert_eq!(rates.0.len(), 0);
        }
    }

    /// What nginx is asked for, if it does 100 requests a second and HAProxy 200.
    #[track_caller]
    fn check_open_loops(setter: &Case, open: &[Case], expected: &[Option<f64>]) {
        let mut rates = Rates::default();
        for (name, rate) in
            [("direct", 900.0), ("nginx", 100.0), ("haproxy", 200.0), ("envoy", 400.0)]
        {
            let figures = Figures::from([("requests_per_second".to_owned(), rate)]);
            rates.note(setter, name, &figures);
        }
        let asked = |contestant: &str| -> Vec<Option<f64>> {
            open.iter().map(|case| rates.asked_for(case, contestant)).collect()
        };
        assert_eq!(asked("nginx"), expected);
        assert_eq!(asked("tandem off").last(), Some(&Some(160.0)));
        assert_eq!(rates.asked_for(setter, "nginx"), None);
    }
}
