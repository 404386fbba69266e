//! The report as Markdown: what it was measured on, one table for each case, then the targets.

use std::fmt::Write as _;

use super::{
    Report,
    table::{self, CaseTable, Cells, Verdict},
    target,
};

pub(crate) fn render(report: &Report) -> String {
    let mut text = String::from("# Tandem: benchmark report\n\n");
    if let Some(reason) = &report.about.not_quotable {
        let _ = writeln!(text, "**Not to be quoted: {reason}.**\n");
    }
    for line in report.about.lines() {
        let _ = writeln!(text, "- {line}");
    }
    for case in table::cases(report) {
        let title = table::scenario_title(case.scenario);
        let _ = writeln!(text, "\n## {} {}\n\n{title}\n", case.scenario, case.case);
        render_case(&case, &mut text);
    }
    render_targets(report, &mut text);
    text
}

fn render_case(case: &CaseTable<'_>, text: &mut String) {
    let titles = case.titles.iter().flat_map(|title| [" | ", title]).collect::<String>();
    let _ = writeln!(text, "| contestant{titles} |");
    let _ = writeln!(text, "|---{}|", "|---:".repeat(case.titles.len()));
    for (contestant, cells) in &case.lines {
        let cells = match cells {
            Cells::Figures(cells) => cells.join(" | "),
            Cells::Verdict(Verdict::Failed { round, reason }) => {
                format!("**FAILED** in round {round}: {}", in_a_cell(reason))
            }
            Cells::Verdict(Verdict::Absent { reason }) => format!("absent: {}", in_a_cell(reason)),
        };
        let _ = writeln!(text, "| {contestant} | {cells} |");
    }
    if let Some(note) = case.note {
        let _ = writeln!(text, "\n{note}");
    }
}

fn in_a_cell(text: &str) -> String {
    text.replace(['|', '\n'], " ")
}

fn render_targets(report: &Report, text: &mut String) {
    let targets = target::lines(report);
    if targets.is_empty() {
        return;
    }
    text.push_str(
        "\n## Targets\n\n| target | bound | median (min–max) | met |\n|---|---|---:|---|\n",
    );
    for target in targets {
        let is_met = match target.is_met {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "–",
        };
        let _ =
            writeln!(text, "| {} | {} | {} | {is_met} |", target.what, target.bound, target.values);
    }
}

#[cfg(test)]
mod tests;
