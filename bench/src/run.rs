//! The matrix: rounds × cases × contestants, interleaved, so that what the machine does over time
//! meets all contestants alike.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::Context as _;

use crate::{
    contestant::{Binaries, Contestant},
    measure::{Bench, Figures, Measured},
    report::{About, Outcome, Report, Row, Table},
    scenario::{Case, Work},
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
            // Throughput of A1 in this round, which the open loops are set by.
            let mut own_rates = BTreeMap::new();
            for case in &self.cases {
                for contestant in case.contestants.iter().filter(|one| self.takes_part(one)) {
                    let name = contestant.to_string();
                    let outcome = self.measure(case, *contestant, own_rates.get(&name).copied());
                    if let (Outcome::Measured { figures, .. }, "A1") = (&outcome, case.scenario) {
                        let rate = figures.get("requests_per_second").filter(|rate| **rate > 0.0);
                        own_rates.extend(rate.map(|rate| (name.clone(), *rate)));
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

    fn measure(&self, case: &Case, contestant: Contestant, own_rate: Option<f64>) -> Outcome {
        if let Some(reason) = absence(case, contestant, &self.bench.binaries) {
            return Outcome::Absent { reason };
        }
        let mut disturbances = Vec::new();
        let mut disturbed: Option<Figures> = None;
        for _ in 0..ATTEMPTS_MAX {
            match self.bench.measure(case, contestant, own_rate) {
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

fn absence(case: &Case, contestant: Contestant, binaries: &Binaries) -> Option<String> {
    use crate::scenario::{Carrier, LoadWork};
    let carrier = match &case.work {
        Work::Load(LoadWork { carrier, .. }) | Work::SlowTransfer { carrier, .. } => *carrier,
        Work::IdleConnections { .. } | Work::StartUp => Carrier::HTTP,
    };
    contestant.absence(carrier, binaries)
}

const fn table(work: &Work) -> Table {
    match work {
        Work::Load(_) => Table::Load,
        Work::SlowTransfer { .. } => Table::SlowTransfer,
        Work::IdleConnections { .. } => Table::IdleConnections,
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
