//! The report as one HTML page without a script: the tables of the Markdown one, charts, and each
//! single measurement. Written as XML, so that any parser can check that it is whole.

use std::fmt::Write as _;

use super::{
    Outcome, Report, Row,
    chart::{self, Bar, Colours, Escaped, Line},
    table::{self, CPU, CaseTable, Cells, Column, P99, RATE, Verdict},
    target,
};
use crate::statistics::{Spread, ratios};

/// Scenarios whose cases differ in one number only: a size or a count of connections.
const OVER_A_NUMBER: [(&str, &str); 5] = [
    ("A4", "connections"),
    ("B1", "connections"),
    ("B2", "connections"),
    ("B3", "connections"),
    ("B6", "size of the body"),
];

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;max-width:76rem;margin:2rem auto;\
    padding:0 1rem;color:#111827;background:#fff}table{border-collapse:collapse;margin:.6rem 0;\
    font-size:13px}th,td{border:1px solid #d1d5db;padding:.2rem .5rem;text-align:right}\
    th{background:#f3f4f6}td:first-child,th:first-child,td.text{text-align:left}\
    .failed{color:#b91c1c;font-weight:bold}.absent{color:#6b7280}svg{display:block;margin:1rem 0;\
    max-width:100%;height:auto;font-family:system-ui,sans-serif}";

pub(crate) fn render(report: &Report) -> String {
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\
         <title>Tandem: benchmark report</title><style>{STYLE}</style></head>\n<body>\n\
         <h1>Tandem: benchmark report</h1>\n"
    );
    if let Some(reason) = &report.about.not_quotable {
        let reason = Escaped(reason);
        let _ = writeln!(page, "<p class=\"failed\">Not to be quoted: {reason}.</p>");
    }
    page.push_str("<ul>\n");
    for line in report.about.lines() {
        let _ = writeln!(page, "<li>{}</li>", Escaped(&line));
    }
    page.push_str("</ul>\n");
    targets(report, &mut page);
    let cases = table::cases(report);
    let colours = Colours(contestants(report));
    for scenario in scenarios(&cases) {
        let title = Escaped(table::scenario_title(scenario));
        let _ = writeln!(page, "<h2>{}: {title}</h2>", Escaped(scenario));
        let cases: Vec<&CaseTable<'_>> =
            cases.iter().filter(|case| case.scenario == scenario).collect();
        let over = OVER_A_NUMBER.iter().find(|(id, _)| *id == scenario && cases.len() > 1);
        if let Some((_, what)) = over {
            for (kind, cases) in kinds(&cases) {
                line_charts(report, &cases, &format!("{what}{kind}"), &colours, &mut page);
            }
        }
        for case in cases {
            case_table(case, &mut page);
            if over.is_none() {
                bar_charts(report, case, &colours, &mut page);
            }
        }
    }
    measurements(report, &mut page);
    page.push_str("</body></html>\n");
    page
}

fn contestants(report: &Report) -> Vec<&str> {
    let mut contestants: Vec<&str> = Vec::new();
    for row in &report.rows {
        if !contestants.contains(&row.contestant.as_str()) {
            contestants.push(&row.contestant);
        }
    }
    contestants
}

fn scenarios<'a>(cases: &[CaseTable<'a>]) -> Vec<&'a str> {
    let mut scenarios = Vec::new();
    for case in cases {
        if !scenarios.contains(&case.scenario) {
            scenarios.push(case.scenario);
        }
    }
    scenarios
}

/// Cases that differ in the last part of their label only, by the parts before it.
fn kinds<'a, 'c>(cases: &[&'a CaseTable<'c>]) -> Vec<(String, Vec<&'a CaseTable<'c>>)> {
    let mut kinds: Vec<(String, Vec<&CaseTable<'_>>)> = Vec::new();
    for case in cases {
        let kind =
            case.case.rsplit_once('-').map_or_else(String::new, |(kind, _)| format!(", {kind}"));
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, cases)) => cases.push(case),
            None => kinds.push((kind, vec![case])),
        }
    }
    kinds
}

fn targets(report: &Report, page: &mut String) {
    let targets = target::lines(report);
    if targets.is_empty() {
        return;
    }
    page.push_str("<h2>Targets</h2>\n<table>\n");
    header(page, &["target", "bound", "median (min–max)", "met"]);
    for target in targets {
        let (class, is_met) = match target.is_met {
            Some(true) => ("met", "yes"),
            Some(false) => ("failed", "no"),
            None => ("met", "–"),
        };
        let cells = [&target.what, &target.bound, &target.values].map(|cell| Escaped(cell));
        let [what, bound, values] = cells;
        let _ = writeln!(
            page,
            "<tr><td>{what}</td><td>{bound}</td><td>{values}</td>\
             <td class=\"{class}\">{is_met}</td></tr>"
        );
    }
    page.push_str("</table>\n");
}

fn header(page: &mut String, titles: &[&str]) {
    page.push_str("<tr>");
    for title in titles {
        let _ = write!(page, "<th>{}</th>", Escaped(title));
    }
    page.push_str("</tr>\n");
}

fn case_table(case: &CaseTable<'_>, page: &mut String) {
    let _ = writeln!(page, "<h3>{} {}</h3>\n<table>", Escaped(case.scenario), Escaped(case.case));
    let mut titles = vec!["contestant"];
    titles.extend(&case.titles);
    header(page, &titles);
    for (contestant, cells) in &case.lines {
        let _ = write!(page, "<tr><td>{}</td>", Escaped(contestant));
        match cells {
            Cells::Figures(cells) => {
                for cell in cells {
                    let _ = write!(page, "<td>{}</td>", Escaped(cell));
                }
            }
            Cells::Verdict(verdict) => {
                let class = match verdict {
                    Verdict::Failed { .. } => "failed",
                    Verdict::Absent { .. } => "absent",
                };
                let _ = write!(
                    page,
                    "<td class=\"text {class}\" colspan=\"{}\">{}</td>",
                    case.titles.len().max(1),
                    Escaped(&said(*verdict))
                );
            }
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table>\n");
    if let Some(note) = case.note {
        let _ = writeln!(page, "<p>{}</p>", Escaped(note));
    }
}

fn said(verdict: Verdict<'_>) -> String {
    match verdict {
        Verdict::Failed { round, reason } => format!("FAILED in round {round}: {reason}"),
        Verdict::Absent { reason } => format!("absent: {reason}"),
    }
}

/// A figure in its column's unit; what stands in its place, if the row has none.
fn spread(
    report: &Report,
    case: &CaseTable<'_>,
    contestant: &str,
    column: &Column,
) -> Result<Spread, String> {
    if let Some(verdict) = table::verdict(report, case.scenario, case.case, contestant) {
        return Err(said(verdict));
    }
    let series = report.series(case.scenario, case.case, contestant, column.figure);
    let scaled = series.into_iter().flatten().map(|value| value / column.unit);
    Spread::of(scaled).ok_or_else(|| "–".into())
}

fn bar_charts(report: &Report, case: &CaseTable<'_>, colours: &Colours<'_>, page: &mut String) {
    if case.kind != super::Table::Load {
        return;
    }
    for column in [&RATE, &CPU] {
        let bars: Vec<Bar<'_>> = case
            .lines
            .iter()
            .map(|(contestant, _)| Bar {
                contestant,
                value: spread(report, case, contestant, column),
            })
            .collect();
        let title = format!("{} {}: {}", case.scenario, case.case, column.title);
        page.push_str(&chart::bars(&title, &bars, colours));
    }
}

fn line_charts(
    report: &Report,
    cases: &[&CaseTable<'_>],
    what: &str,
    colours: &Colours<'_>,
    page: &mut String,
) {
    let Some(first) = cases.first() else { return };
    let places: Vec<&str> = cases.iter().map(|case| case.case).collect();
    let mut contestants: Vec<&str> = Vec::new();
    for (contestant, _) in cases.iter().flat_map(|case| &case.lines) {
        if !contestants.contains(contestant) {
            contestants.push(contestant);
        }
    }
    let mut draw = |title: &str, point: &dyn Fn(&CaseTable<'_>, &str) -> Option<Spread>| {
        let lines: Vec<Line<'_>> = contestants
            .iter()
            .map(|contestant| Line {
                contestant,
                points: cases.iter().map(|case| point(case, contestant)).collect(),
            })
            .collect();
        let title = format!("{}: {title} over {what}", first.scenario);
        page.push_str(&chart::lines(&title, &places, &lines, colours));
    };
    for column in [&RATE, &CPU, &P99] {
        draw(column.title, &|case, contestant| spread(report, case, contestant, column).ok());
    }
    // Over many sizes the figures differ by decades, and contestants by a tenth: that shows here.
    for column in [&RATE, &CPU] {
        draw(&format!("{} ÷ direct", column.title), &|case, contestant| {
            if table::verdict(report, case.scenario, case.case, contestant).is_some() {
                return None;
            }
            let series = |name| report.series(case.scenario, case.case, name, column.figure);
            Spread::of(ratios(&series(contestant), &series("direct")))
        });
    }
}

/// Every row of the raw data.
fn measurements(report: &Report, page: &mut String) {
    let _ = writeln!(
        page,
        "<h2>Every measurement</h2>\n<details><summary>{} rows; all their figures are in \
         report.json</summary>\n<table>",
        report.rows.len()
    );
    header(page, &["scenario", "case", "contestant", "round", "outcome"]);
    for row in &report.rows {
        let Row { scenario, case, contestant, round, .. } = row;
        let (scenario, case, contestant) = (Escaped(scenario), Escaped(case), Escaped(contestant));
        let (class, outcome) = outcome(row);
        let _ = writeln!(
            page,
            "<tr><td>{scenario}</td><td>{case}</td><td>{contestant}</td><td>{round}</td>\
             <td class=\"text {class}\">{}</td></tr>",
            Escaped(&outcome)
        );
    }
    page.push_str("</table>\n</details>\n");
}

fn outcome(row: &Row) -> (&'static str, String) {
    match &row.outcome {
        Outcome::Failed { reason } => ("failed", format!("FAILED: {reason}")),
        Outcome::Absent { reason } => ("absent", format!("absent: {reason}")),
        Outcome::Measured { figures, disturbances } => {
            let mut said: Vec<String> = table::columns(row.table)
                .iter()
                .filter_map(|Column { title, figure, unit, digits, .. }| {
                    let value = figures.get(*figure)? / unit;
                    Some(format!("{value:.digits$} {title}"))
                })
                .collect();
            said.extend(disturbances.iter().map(|reason| format!("disturbed: {reason}")));
            ("measured", said.join(", "))
        }
    }
}

#[cfg(test)]
mod tests;
