use super::*;
use crate::report::{
    Outcome, Row,
    sample::{self, absent, failed},
};

fn row(contestant: &str, round: u32, outcome: Outcome) -> Row {
    sample::row(("A1", "200"), contestant, round, outcome)
}

fn measured(rate: f64, cpu: f64) -> Outcome {
    sample::measured(&[("requests_per_second", rate), ("cpu_us_per_request", cpu)])
}

fn report() -> Report {
    sample::report(vec![
        row("direct", 1, measured(100.0, 10.0)),
        row("nginx", 1, measured(50.0, 20.0)),
        row("haproxy", 1, measured(40.0, 16.0)),
        row("envoy", 1, measured(99.0, 1.0)),
        row("tandem off", 1, measured(45.0, 32.0)),
        row("tandem on", 1, absent("no binary")),
        row("direct", 2, measured(200.0, 10.0)),
        row("nginx", 2, measured(60.0, 20.0)),
        row("haproxy", 2, measured(100.0, 20.0)),
        row("envoy", 2, measured(199.0, 1.0)),
        row("tandem off", 2, measured(110.0, 10.0)),
        row("tandem on", 2, absent("no binary")),
    ])
}

#[test]
fn ratios_are_taken_within_rounds_to_the_better_of_nginx_and_haproxy() {
    let text = render(&report());
    let line = text.lines().find(|line| line.starts_with("| tandem off")).unwrap();
    assert_eq!(
        line,
        "| tandem off | 78 (45–110) | 0.50 (0.45–0.55) | 1.00 (0.90–1.10) | 21.0 (10.0–32.0) \
         | 2.10 (1.00–3.20) | 1.25 (0.50–2.00) |"
    );
    assert!(text.contains("| requests/s | ÷ direct | ÷ best of nginx, HAProxy |"), "{text}");
    assert!(text.contains("| tandem on | absent: no binary |"), "{text}");
}

#[test]
fn one_failed_round_takes_the_figures_of_the_row() {
    let mut report = report();
    report.rows.push(row("nginx", 3, failed("3 × status 502")));
    let text = render(&report);
    assert!(text.contains("| nginx | **FAILED** in round 3: 3 × status 502 |"), "{text}");
    assert_eq!(report.failures(), 1);
}

#[test]
fn a_report_says_which_network_it_was_in_all_its_forms() {
    for (network, said) in [
        ("loopback", "network: everything on loopback"),
        ("three", "network: client, proxy and node in three network namespaces"),
    ] {
        let report = sample::report_of(network, Vec::new());
        assert!(render(&report).contains(said));
        assert!(crate::report::render_html(&report).contains(said));
        let raw = serde_json::to_value(&report).unwrap();
        assert_eq!(raw["about"]["network"], network);
    }
}
