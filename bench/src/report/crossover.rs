//! From which size on splicing pays, by the rule that sets `limits.splice_min`: the smallest size of
//! the sweep B6 from which on it costs no more CPU per request than copying, at any larger size.

use super::{Report, table::CPU, target::Line};
use crate::{
    scenario::{SWEEP, SWEEPS, Sweep},
    statistics::{Spread, ratios},
};

/// One line for each way of sending that the report has both paths of.
pub(super) fn lines(report: &Report) -> Vec<Line> {
    SWEEPS.iter().filter_map(|Sweep { prefix, whose, .. }| line(report, prefix, whose)).collect()
}

fn line(report: &Report, prefix: &str, whose: &str) -> Option<Line> {
    let ratios = medians(report, prefix);
    if ratios.is_empty() {
        return None;
    }
    let from = crossover(&ratios).unwrap_or("none");
    let each = ratios.iter().map(|(label, ratio)| format!("{label} {ratio:.2}"));
    let each = each.collect::<Vec<_>>().join(", ");
    Some(Line {
        what: format!("B6, {whose}: size from which on splicing costs no more CPU than copying"),
        bound: "–".into(),
        values: format!("{from} (spliced ÷ copied: {each})"),
        is_met: None,
    })
}

/// CPU per request spliced ÷ copied, by size in ascending order.
fn medians(report: &Report, prefix: &str) -> Vec<(&'static str, f64)> {
    let ratio = |label: &str| {
        let case = format!("{prefix}{label}");
        let [spliced, copied] = ["tandem off splice", "tandem off user"]
            .map(|contestant| report.series("B6", &case, contestant, CPU.figure));
        Spread::of(ratios(&spliced, &copied)).map(|spread| spread.median)
    };
    SWEEP.iter().filter_map(|(label, ..)| Some((*label, ratio(label)?))).collect()
}

fn crossover<'a>(ratios: &[(&'a str, f64)]) -> Option<&'a str> {
    ratios.iter().rev().map_while(|(label, ratio)| (*ratio <= 1.0).then_some(*label)).last()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample::{measured, report, row};

    #[test]
    fn splicing_pays_from_where_no_larger_size_speaks_against_it() {
        for (ratios, from) in [
            (&[("4KiB", 1.2), ("16KiB", 1.0), ("64KiB", 0.8)][..], Some("16KiB")),
            (&[("4KiB", 0.9), ("16KiB", 1.1), ("64KiB", 0.8)], Some("64KiB")),
            (&[("4KiB", 0.9), ("16KiB", 0.8), ("64KiB", 1.01)], None),
            (&[("4KiB", 0.9)], Some("4KiB")),
            (&[], None),
        ] {
            assert_eq!(crossover(ratios), from, "{ratios:?}");
        }
    }

    #[test]
    fn each_way_of_sending_has_its_own_line() {
        let rows = [
            ("1MiB", 90.0, 100.0),
            ("64KiB", 50.0, 100.0),
            ("16KiB", 110.0, 100.0),
            ("upload-64KiB", 200.0, 100.0),
        ]
        .map(|(case, spliced, copied)| {
            [("tandem off splice", spliced), ("tandem off user", copied)].map(|(name, cpu)| {
                row(("B6", case), name, 1, measured(&[("cpu_us_per_request", cpu)]))
            })
        });
        let report = report(rows.into_iter().flatten().collect());
        let found = lines(&report);
        let found: Vec<_> = found.iter().map(|line| (&*line.what, &*line.values)).collect();
        let what = "size from which on splicing costs no more CPU than copying";
        assert_eq!(
            found,
            [
                (
                    &*format!("B6, bodies of nodes: {what}"),
                    "64KiB (spliced ÷ copied: 16KiB 1.10, 64KiB 0.50, 1MiB 0.90)"
                ),
                (&*format!("B6, bodies of clients: {what}"), "none (spliced ÷ copied: 64KiB 2.00)"),
            ]
        );
    }
}
