//! The report as Markdown: what it was measured on, one table for each case, then the targets.

use std::fmt::Write as _;

use super::{Outcome, Report, Row, Table, target};
use crate::statistics::{Better, Spread, best, ratios};

/// A figure as a column.
struct Column {
    title: &'static str,
    figure: &'static str,
    /// The figure is divided by this.
    unit: f64,
    digits: usize,
    /// Columns of ratios follow, to direct and to the best peer.
    compared: Option<Better>,
}

const fn plain(title: &'static str, figure: &'static str, unit: f64, digits: usize) -> Column {
    Column { title, figure, unit, digits, compared: None }
}

const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * 1024.0;

const LOAD: [Column; 7] = [
    Column {
        title: "requests/s",
        figure: "requests_per_second",
        unit: 1.0,
        digits: 0,
        compared: Some(Better::Higher),
    },
    plain("body MiB/s", "body_bytes_per_second", MIB, 0),
    Column {
        title: "machine CPU µs/request",
        figure: "cpu_us_per_request",
        unit: 1.0,
        digits: 1,
        compared: Some(Better::Lower),
    },
    plain("proxy CPU µs/request", "proxy_cpu_us_per_request", 1.0, 1),
    plain("p50 ms", "latency_p50_us", 1e3, 2),
    plain("p99 ms", "latency_p99_us", 1e3, 2),
    plain("peak RSS MiB", "peak_resident_bytes", MIB, 1),
];

const SLOW_TRANSFER: [Column; 4] = [
    plain("held MiB", "held_bytes", MIB, 2),
    plain("process MiB", "process_bytes", MIB, 2),
    plain("TCP MiB", "tcp_bytes", MIB, 2),
    plain("slab MiB", "slab_bytes", MIB, 2),
];

const IDLE_CONNECTIONS: [Column; 3] = [
    plain("process KiB/connection", "process_bytes", KIB, 2),
    plain("TCP KiB/connection", "tcp_bytes", KIB, 2),
    plain("slab KiB/connection", "slab_bytes", KIB, 2),
];

const START_UP: [Column; 2] = [
    plain("start to first answer ms", "start_up_seconds", 1e-3, 1),
    plain("binary MiB", "binary_bytes", MIB, 2),
];

const fn columns(table: Table) -> &'static [Column] {
    match table {
        Table::Load => &LOAD,
        Table::SlowTransfer => &SLOW_TRANSFER,
        Table::IdleConnections => &IDLE_CONNECTIONS,
        Table::StartUp => &START_UP,
    }
}

/// The direct row over the better peer; below it, the peers may have waited for the load.
const DIRECT_RATIO_MIN: f64 = 1.2;

pub(crate) fn render(report: &Report) -> String {
    let mut text = about(report);
    for (scenario, case, table) in cases(report) {
        let title = crate::scenario::SCENARIOS
            .iter()
            .find_map(|(id, title)| (*id == scenario).then_some(*title))
            .unwrap_or("");
        let _ = writeln!(text, "\n## {scenario} {case}\n\n{title}\n");
        render_case(report, scenario, case, table, &mut text);
    }
    text.push_str(&target::render(report));
    text
}

fn about(report: &Report) -> String {
    let about = &report.about;
    let mut text = String::from("# Tandem: benchmark report\n\n");
    if let Some(reason) = &about.not_quotable {
        let _ = writeln!(text, "**Not to be quoted: {reason}.**\n");
    }
    let _ = writeln!(text, "- command: `bench {}`", about.command);
    let _ = writeln!(
        text,
        "- {} rounds of {} s, interleaved; medians (min–max); ratios pair by pair within a round",
        about.rounds, about.window_seconds
    );
    let _ = writeln!(
        text,
        "- kernel {}, {} × {}, {}, {}",
        about.kernel, about.processors, about.processor, about.topology, about.placement
    );
    let _ = writeln!(text, "- commit {}", about.commit);
    for (name, version) in &about.versions {
        let _ = writeln!(text, "- {name}: {version}");
    }
    let settings: Vec<String> =
        about.settings.iter().map(|(name, value)| format!("{name} = {value}")).collect();
    let _ = writeln!(text, "- {}", settings.join(", "));
    text
}

/// The cases in the order in which they were measured.
fn cases(report: &Report) -> Vec<(&str, &str, Table)> {
    let mut cases: Vec<(&str, &str, Table)> = Vec::new();
    for row in &report.rows {
        let case = (row.scenario.as_str(), row.case.as_str(), row.table);
        if !cases.contains(&case) {
            cases.push(case);
        }
    }
    cases
}

fn render_case(report: &Report, scenario: &str, case: &str, table: Table, text: &mut String) {
    let rows: Vec<&Row> =
        report.rows.iter().filter(|row| row.scenario == scenario && row.case == case).collect();
    let has = |column: &&Column| {
        rows.iter().any(|row| match &row.outcome {
            Outcome::Measured { figures, .. } => figures.contains_key(column.figure),
            Outcome::Failed { .. } | Outcome::Absent { .. } => false,
        })
    };
    let columns: Vec<&Column> = columns(table).iter().filter(has).collect();
    let mut titles = vec!["contestant"];
    for column in &columns {
        titles.push(column.title);
        if column.compared.is_some() {
            titles.extend(["÷ direct", "÷ best peer"]);
        }
    }
    let _ = writeln!(text, "| {} |", titles.join(" | "));
    let _ = writeln!(text, "|---{}|", "|---:".repeat(titles.len() - 1));
    let mut contestants: Vec<&str> = Vec::new();
    for row in &rows {
        if !contestants.contains(&row.contestant.as_str()) {
            contestants.push(&row.contestant);
        }
    }
    for contestant in contestants {
        let mine = rows.iter().filter(|row| row.contestant == contestant);
        let cells = match verdict(mine.copied()) {
            Some(verdict) => verdict,
            None => columns
                .iter()
                .flat_map(|column| cells(report, scenario, case, contestant, column))
                .collect::<Vec<_>>()
                .join(" | "),
        };
        let _ = writeln!(text, "| {contestant} | {cells} |");
    }
    if table == Table::Load && is_bound_by_load(report, scenario, case) {
        text.push_str(
            "\nThe direct row is hardly faster than a proxy: the load may be the limit.\n",
        );
    }
}

/// Whether the load alone does not clearly outrun what was measured through a proxy.
fn is_bound_by_load(report: &Report, scenario: &str, case: &str) -> bool {
    const RATE: &str = "requests_per_second";
    let direct = report.series(scenario, case, "direct", RATE);
    let peers = best(&report.peers(scenario, case, RATE), Better::Higher);
    Spread::of(ratios(&direct, &peers)).is_some_and(|spread| spread.median < DIRECT_RATIO_MIN)
}

/// What stands instead of figures.
fn verdict<'a>(rows: impl Iterator<Item = &'a Row>) -> Option<String> {
    rows.filter_map(|row| match &row.outcome {
        Outcome::Measured { .. } => None,
        Outcome::Failed { reason } => {
            Some(format!("**FAILED** in round {}: {}", row.round, reason.replace(['|', '\n'], " ")))
        }
        Outcome::Absent { reason } => Some(format!("absent: {reason}")),
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

#[cfg(test)]
mod tests;
