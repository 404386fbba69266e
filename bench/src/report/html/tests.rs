use super::*;
use crate::report::sample::{absent, failed, measured, report, row};

const FIGURES: [(&str, f64); 3] =
    [("requests_per_second", 1000.0), ("cpu_us_per_request", 20.0), ("latency_p99_us", 1500.0)];

/// One case with bars, one scenario with lines, and names that would break a careless page.
fn sample() -> Report {
    let mut rows = vec![
        row(("A1", "200"), "direct", 1, measured(&FIGURES)),
        row(("A1", "200"), "nginx", 1, failed("3 × <status> \"502\" & 'more'")),
        row(("A1", "200"), "haproxy", 1, absent("not installed; apt-get install haproxy")),
        row(("A1", "200"), "tandem </td><script>", 1, measured(&FIGURES)),
    ];
    for round in [1, 2] {
        for case in ["100", "500"] {
            rows.push(row(("B1", case), "direct", round, measured(&FIGURES)));
            rows.push(row(("B1", case), "tandem off", round, measured(&FIGURES)));
        }
        rows.push(row(("B1", "1000"), "tandem off", round, failed("timed out")));
    }
    report(rows)
}

/// The names of the elements in the order in which they begin; each must end, in its place.
fn elements(page: &str) -> Vec<&str> {
    let mut open = Vec::new();
    let mut names = Vec::new();
    let mut rest = page.strip_prefix("<!DOCTYPE html>").unwrap();
    while let Some((before, tag)) = rest.split_once('<') {
        assert!(!before.contains('>'), "{before}");
        let quoted = tag.split('"').scan(false, |is_quoted, part| {
            *is_quoted = !*is_quoted;
            Some((part, *is_quoted))
        });
        let mut end = 0;
        for (part, is_outside) in quoted {
            match part.find('>').filter(|_| is_outside) {
                Some(found) => {
                    end += found;
                    break;
                }
                None => end += part.len() + 1,
            }
        }
        let (inside, after) = (&tag[..end], &tag[end + 1..]);
        assert!(!inside.contains('<'), "{inside}");
        let name = inside.trim_start_matches('/').split([' ', '/']).next().unwrap();
        if inside.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "{inside}");
        } else {
            names.push(name);
            if !inside.ends_with('/') {
                open.push(name);
            }
        }
        rest = after;
    }
    assert_eq!(open, Vec::<&str>::new());
    names
}

#[test]
fn the_page_is_well_formed_and_has_no_script() {
    let page = render(&sample());
    let names = elements(&page);
    assert!(!names.contains(&"script"), "{page}");
    // Bars of A1, requests and CPU; lines of B1, five figures.
    assert_eq!(names.iter().filter(|name| **name == "svg").count(), 2 + 5);
    let ampersands = page.match_indices('&').map(|(at, _)| &page[at..]);
    for entity in ampersands {
        let known = ["&amp;", "&lt;", "&gt;", "&quot;", "&#39;"];
        assert!(known.iter().any(|known| entity.starts_with(known)), "{}", &entity[..10]);
    }
}

#[test]
fn every_row_of_the_raw_data_is_there() {
    let report = sample();
    let page = render(&report);
    for Row { scenario, case, contestant, round, outcome, .. } in &report.rows {
        let contestant = Escaped(contestant);
        let start = format!(
            "<tr><td>{scenario}</td><td>{case}</td><td>{contestant}</td><td>{round}</td>\
             <td class=\"text "
        );
        let (_, rest) = page.split_once(&start).unwrap_or_else(|| panic!("no {start}"));
        let said = match outcome {
            Outcome::Measured { .. } => "1000 requests/s, 20.0 machine CPU µs/request, 1.50 p99 ms",
            Outcome::Failed { .. } => "FAILED: ",
            Outcome::Absent { .. } => "absent: ",
        };
        assert!(rest.lines().next().unwrap().contains(said), "{start}");
    }
}

#[test]
fn a_failed_row_has_its_reason_and_no_bar() {
    let page = render(&sample());
    let reason = "FAILED in round 1: 3 × &lt;status&gt; &quot;502&quot; &amp; &#39;more&#39;";
    assert!(
        page.contains(&format!("<td>nginx</td><td class=\"text failed\" colspan=\"7\">{reason}"))
    );
    // Two charts with two bars each: direct and ours.
    let (a1, _) = page.split_once("<h2>B1").unwrap();
    assert_eq!(a1.matches("class=\"bar\"").count(), 4);
    // In its table, and in place of a bar in both charts.
    assert_eq!(a1.matches(reason).count(), 1 + 2);
}

#[test]
fn a_report_read_back_from_its_json_makes_the_same_page() {
    let report = sample();
    let again: Report = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
    assert_eq!(render(&again), render(&report));
}

#[test]
fn sizes_that_are_sent_in_other_ways_have_lines_of_their_own() {
    let cases = ["64KiB", "1MiB", "upload-64KiB", "upload-1MiB"];
    let rows = cases.map(|case| row(("B6", case), "tandem off", 1, measured(&FIGURES)));
    let page = render(&report(rows.into()));
    assert!(
        page.contains("over size of the body<") && page.contains("over size of the body, upload<")
    );
    // Each of requests, CPU and p99; ratios have nothing to be of.
    assert_eq!(elements(&page).iter().filter(|name| **name == "svg").count(), 2 * 3);
}
