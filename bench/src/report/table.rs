//! The cases of a report as tables of text; Markdown and HTML write the same ones.

use super::{Outcome, Report, Row, Table};
use crate::statistics::{Better, Spread, best, ratios};

/// A figure as a column.
pub(super) struct Column {
    pub(super) title: &'static str,
    pub(super) figure: &'static str,
    /// The figure is divided by this.
    pub(super) unit: f64,
    pub(super) digits: usize,
    /// Columns of ratios follow, to direct and to the best of the reference peers.
    compared: Option<Better>,
}

const fn plain(title: &'static str, figure: &'static str, unit: f64, digits: usize) -> Column {
    Column { title, figure, unit, digits, compared: None }
}

const fn compared(
    title: &'static str,
    figure: &'static str,
    digits: usize,
    better: Better,
) -> Column {
    Column { title, figure, unit: 1.0, digits, compared: Some(better) }
}

const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * 1024.0;

pub(super) const RATE: Column = compared("requests/s", "requests_per_second", 0, Better::Higher);
pub(super) const CPU: Column =
    compared("machine CPU µs/request", "cpu_us_per_request", 1, Better::Lower);
pub(super) const P99: Column = plain("p99 ms", "latency_p99_us", 1e3, 2);

const LOAD: [Column; 10] = [
    RATE,
    plain("body MiB/s", "body_bytes_per_second", MIB, 0),
    CPU,
    plain("proxy CPU µs/request", "proxy_cpu_us_per_request", 1.0, 1),
    plain("p50 ms", "latency_p50_us", 1e3, 2),
    P99,
    plain("max ms", "latency_max_us", 1e3, 2),
    plain("peak RSS MiB", "peak_resident_bytes", MIB, 1),
    plain("deaths of a node", "node_deaths", 1.0, 0),
    plain("reloads", "reloads", 1.0, 0),
];

const SLOW_TRANSFER: [Column; 4] = [
    plain("held MiB", "held_bytes", MIB, 2),
    plain("process MiB", "process_bytes", MIB, 2),
    plain("TCP MiB", "tcp_bytes", MIB, 2),
    plain("slab MiB", "slab_bytes", MIB, 2),
];

const OPEN_CONNECTIONS: [Column; 3] = [
    plain("process KiB/connection", "process_bytes", KIB, 2),
    plain("TCP KiB/connection", "tcp_bytes", KIB, 2),
    plain("slab KiB/connection", "slab_bytes", KIB, 2),
];

const START_UP: [Column; 2] = [
    plain("start to first answer ms", "start_up_seconds", 1e-3, 1),
    plain("binary MiB", "binary_bytes", MIB, 2),
];

pub(super) const fn columns(table: Table) -> &'static [Column] {
    match table {
        Table::Load => &LOAD,
        Table::SlowTransfer => &SLOW_TRANSFER,
        Table::OpenConnections => &OPEN_CONNECTIONS,
        Table::StartUp => &START_UP,
    }
}

/// The direct row over the best peer; below it, the peers may have waited for the load.
const DIRECT_RATIO_MIN: f64 = 1.2;

/// What one case has as a table.
pub(super) struct CaseTable<'a> {
    pub(super) scenario: &'a str,
    pub(super) case: &'a str,
    pub(super) kind: Table,
    /// Of the columns after the contestant.
    pub(super) titles: Vec<&'static str>,
    pub(super) lines: Vec<(&'a str, Cells<'a>)>,
    /// What a reader has to know before believing it.
    pub(super) note: Option<&'static str>,
}

pub(super) enum Cells<'a> {
    Figures(Vec<String>),
    Verdict(Verdict<'a>),
}

/// What stands instead of figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict<'a> {
    Failed { round: u32, reason: &'a str },
    Absent { reason: &'a str },
}

/// What a scenario is about, in a sentence.
pub(super) fn scenario_title(scenario: &str) -> &'static str {
    let mut known = crate::scenario::SCENARIOS.iter();
    known.find_map(|(id, title)| (*id == scenario).then_some(*title)).unwrap_or("")
}

/// The cases in the order in which they were measured.
pub(super) fn cases(report: &Report) -> Vec<CaseTable<'_>> {
    let mut cases: Vec<(&str, &str, Table)> = Vec::new();
    for row in &report.rows {
        let case = (row.scenario.as_str(), row.case.as_str(), row.table);
        if !cases.contains(&case) {
            cases.push(case);
        }
    }
    cases
        .into_iter()
        .map(|(scenario, case, kind)| case_table(report, scenario, case, kind))
        .collect()
}

fn case_table<'a>(
    report: &'a Report,
    scenario: &'a str,
    case: &'a str,
    kind: Table,
) -> CaseTable<'a> {
    let rows: Vec<&Row> =
        report.rows.iter().filter(|row| row.scenario == scenario && row.case == case).collect();
    let has = |column: &&Column| {
        rows.iter().any(|row| match &row.outcome {
            Outcome::Measured { figures, .. } => figures.contains_key(column.figure),
            Outcome::Failed { .. } | Outcome::Absent { .. } => false,
        })
    };
    let columns: Vec<&Column> = columns(kind).iter().filter(has).collect();
    let mut titles = Vec::new();
    for column in &columns {
        titles.push(column.title);
        if column.compared.is_some() {
            titles.extend(["÷ direct", "÷ best of nginx, HAProxy"]);
        }
    }
    let mut contestants: Vec<&str> = Vec::new();
    for row in &rows {
        if !contestants.contains(&row.contestant.as_str()) {
            contestants.push(&row.contestant);
        }
    }
    let line = |contestant: &'a str| match verdict(report, scenario, case, contestant) {
        Some(verdict) => (contestant, Cells::Verdict(verdict)),
        None => {
            let cells =
                columns.iter().flat_map(|one| cells(report, scenario, case, contestant, one));
            (contestant, Cells::Figures(cells.collect()))
        }
    };
    let is_bound = kind == Table::Load && is_bound_by_load(report, scenario, case);
    CaseTable {
        scenario,
        case,
        kind,
        titles,
        lines: contestants.into_iter().map(line).collect(),
        note: is_bound
            .then_some("The direct row is hardly faster than a proxy: the load may be the limit."),
    }
}

/// Whether the load alone does not clearly outrun what was measured through a proxy.
fn is_bound_by_load(report: &Report, scenario: &str, case: &str) -> bool {
    let direct = report.series(scenario, case, "direct", RATE.figure);
    let peers = best(&report.peers(scenario, case, RATE.figure), Better::Higher);
    Spread::of(ratios(&direct, &peers)).is_some_and(|spread| spread.median < DIRECT_RATIO_MIN)
}

/// One failed round is enough to take a contestant's figures in a case.
pub(super) fn verdict<'a>(
    report: &'a Report,
    scenario: &str,
    case: &str,
    contestant: &str,
) -> Option<Verdict<'a>> {
    let rows = report
        .rows
        .iter()
        .filter(|row| row.scenario == scenario && row.case == case && row.contestant == contestant);
    rows.filter_map(|row| match &row.outcome {
        Outcome::Measured { .. } => None,
        Outcome::Failed { reason } => Some(Verdict::Failed { round: row.round, reason }),
        Outcome::Absent { reason } => Some(Verdict::Absent { reason }),
    })
    .next()
}

fn cells(
    report: &Report,
    scenario: &str,
    case: &str,
    contestant: &str,
    column: &Column,
) -> Vec<String> {
    let series = report.series(scenario, case, contestant, column.figure);
    let scaled = series.iter().flatten().map(|value| value / column.unit);
    let mut cells = vec![cell(Spread::of(scaled), column.digits)];
    if let Some(better) = column.compared {
        let direct = report.series(scenario, case, "direct", column.figure);
        let peer = best(&report.peers(scenario, case, column.figure), better);
        cells.push(cell(Spread::of(ratios(&series, &direct)), 2));
        cells.push(cell(Spread::of(ratios(&series, &peer)), 2));
    }
    cells
}

fn cell(spread: Option<Spread>, digits: usize) -> String {
    spread.map_or_else(
        || "–".into(),
        |Spread { median, least, greatest }| {
            if (greatest - least).abs() < f64::EPSILON {
                format!("{median:.digits$}")
            } else {
                format!("{median:.digits$} ({least:.digits$}–{greatest:.digits$})")
            }
        },
    )
}
