//! From which size on splicing pays, by the rule that sets `limits.splice_min`: the smallest size of
//! the sweep B6 from which on it costs no more CPU per request than copying, at any larger size. And
//! what delivery on this host costs beside that.

use super::{Report, table::CPU, target::Line};
use crate::{
    scenario::{SWEEP, SWEEPS, Sweep},
    statistics::{Spread, ratios},
};

/// For each way of sending those lines that the report has both paths of.
pub(super) fn lines(report: &Report) -> Vec<Line> {
    let of_sweep = |Sweep { prefix, whose, .. }: &Sweep| {
        let paths = [("local", "tandem local"), ("bypass", "tandem bypass")];
        let delivered = paths.map(|path| delivery_line(report, (prefix, whose), path));
        splice_line(report, prefix, whose).into_iter().chain(delivered.into_iter().flatten())
    };
    SWEEPS.iter().flat_map(of_sweep).collect()
}

fn splice_line(report: &Report, prefix: &str, whose: &str) -> Option<Line> {
    let ratios = medians(report, prefix, ["tandem off splice", "tandem off user"]);
    let from = crossover(&ratios).unwrap_or("none");
    let each = listed(&ratios)?;
    Some(Line {
        what: format!("B6, {whose}: size from which on splicing costs no more CPU than copying"),
        bound: "–".into(),
        values: format!("{from} (spliced ÷ copied: {each})"),
        is_met: None,
    })
}

fn delivery_line(
    report: &Report,
    (prefix, whose): (&str, &str),
    (via, contestant): (&str, &str),
) -> Option<Line> {
    Some(Line {
        what: format!("B6, {whose}: CPU per request via `{via}` ÷ without the kernel half"),
        bound: "–".into(),
        values: listed(&medians(report, prefix, [contestant, "tandem off"]))?,
        is_met: None,
    })
}

/// `None`: there is nothing to list.
fn listed(ratios: &[(&str, f64)]) -> Option<String> {
    let each = ratios.iter().map(|(label, ratio)| format!("{label} {ratio:.2}"));
    (!ratios.is_empty()).then(|| each.collect::<Vec<_>>().join(", "))
}

/// CPU per request of one path ÷ another, by size in ascending order.
fn medians(report: &Report, prefix: &str, paths: [&str; 2]) -> Vec<(&'static str, f64)> {
    let ratio = |label: &str| {
        let case = format!("{prefix}{label}");
        let [over, under] = paths.map(|path| report.series("B6", &case, path, CPU.figure));
        Spread::of(ratios(&over, &under)).map(|spread| spread.median)
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
    fn delivery_is_held_against_what_there_is_without_it() {
        let rows = [("tandem local", 60.0), ("tandem bypass", 40.0), ("tandem off", 80.0)].map(
            |(name, cpu)| row(("B6", "64B"), name, 1, measured(&[("cpu_us_per_request", cpu)])),
        );
        let report = report(rows.into());
        let found = lines(&report);
        let found: Vec<_> = found.iter().map(|line| (&*line.what, &*line.values)).collect();
        let what = |via| {
            format!("B6, bodies of nodes: CPU per request via `{via}` ÷ without the kernel half")
        };
        assert_eq!(found, [(&*what("local"), "64B 0.75"), (&*what("bypass"), "64B 0.50")]);
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
