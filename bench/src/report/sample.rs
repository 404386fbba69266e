//! Reports for the tests of this module.

use super::{About, Outcome, Report, Row, Table};
use crate::measure::Figures;

pub(super) fn report(rows: Vec<Row>) -> Report {
    report_of("loopback", rows)
}

/// As [`report`], of a network by its label.
pub(super) fn report_of(network: &str, rows: Vec<Row>) -> Report {
    let about: About = serde_json::from_value(serde_json::json!({
        "command": "run A1", "started_at": 0, "kernel": "6.18", "processor": "cpu",
        "processors": 2, "placement": {"layout": "split", "proxy": [1], "load": [0]},
        "network": network, "commit": "abc", "versions": {}, "settings": {},
        "window_seconds": 5.0, "rounds": 2, "not_quotable": null,
    }))
    .unwrap();
    Report { about, rows }
}

pub(super) fn row(case: (&str, &str), contestant: &str, round: u32, outcome: Outcome) -> Row {
    Row {
        scenario: case.0.into(),
        case: case.1.into(),
        table: Table::Load,
        contestant: contestant.into(),
        round,
        outcome,
    }
}

pub(super) fn measured(figures: &[(&str, f64)]) -> Outcome {
    let figures: Figures = figures.iter().map(|(name, value)| ((*name).into(), *value)).collect();
    Outcome::Measured { figures, disturbances: Vec::new() }
}

pub(super) fn failed(reason: &str) -> Outcome {
    Outcome::Failed { reason: reason.into() }
}

pub(super) fn absent(reason: &str) -> Outcome {
    Outcome::Absent { reason: reason.into() }
}
