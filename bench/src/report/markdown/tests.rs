use super::*;
use crate::{measure::Figures, report::About};

fn about() -> About {
    serde_json::from_value(serde_json::json!({
        "command": "run A1", "started_at": 0, "kernel": "6.18", "processor": "cpu",
        "processors": 2, "placement": {"layout": "split", "proxy": [1], "load": [0]},
        "topology": "loopback", "commit": "abc", "versions": {}, "settings": {},
        "window_seconds": 5.0, "rounds": 2, "not_quotable": null,
    }))
    .unwrap()
}

fn row(contestant: &str, round: u32, outcome: Outcome) -> Row {
    Row {
        scenario: "A1".into(),
        case: "200".into(),
        table: Table::Load,
        contestant: contestant.into(),
        round,
        outcome,
    }
}

fn measured(rate: f64, cpu: f64) -> Outcome {
    let figures = Figures::from([
        ("requests_per_second".to_owned(), rate),
        ("cpu_us_per_request".to_owned(), cpu),
    ]);
    Outcome::Measured { figures, disturbances: Vec::new() }
}

fn report() -> Report {
    let rows = vec![
        row("direct", 1, measured(100.0, 10.0)),
        row("nginx", 1, measured(50.0, 20.0)),
        row("haproxy", 1, measured(40.0, 16.0)),
        row("tandem off", 1, measured(45.0, 32.0)),
        row("tandem on", 1, Outcome::Absent { reason: "no binary".into() }),
        row("direct", 2, measured(200.0, 10.0)),
        row("nginx", 2, measured(60.0, 20.0)),
        row("haproxy", 2, measured(100.0, 20.0)),
        row("tandem off", 2, measured(110.0, 10.0)),
        row("tandem on", 2, Outcome::Absent { reason: "no binary".into() }),
    ];
    Report { about: about(), rows }
}

#[test]
fn ratios_are_taken_within_rounds_to_the_peer_that_was_better_then() {
    let text = render(&report());
    let line = text.lines().find(|line| line.starts_with("| tandem off")).unwrap();
    assert_eq!(
        line,
        "| tandem off | 78 (45–110) | 0.50 (0.45–0.55) | 1.00 (0.90–1.10) | 21.0 (10.0–32.0) \
         | 2.10 (1.00–3.20) | 1.25 (0.50–2.00) |"
    );
    assert!(text.contains("| tandem on | absent: no binary |"), "{text}");
}

#[test]
fn one_failed_round_takes_the_figures_of_the_row() {
    let mut report = report();
    report.rows.push(row("nginx", 3, Outcome::Failed { reason: "3 × status 502".into() }));
    let text = render(&report);
    assert!(text.contains("| nginx | **FAILED** in round 3: 3 × status 502 |"), "{text}");
    assert_eq!(report.failures(), 1);
}
