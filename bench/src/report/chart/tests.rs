use super::*;

const fn flat(value: f64) -> Spread {
    Spread { median: value, least: value, greatest: value }
}

#[test]
fn axes_end_at_a_round_number_above_the_greatest_value() {
    for (greatest, step, end) in
        [(0.9, 0.2, 1.0), (55.0, 10.0, 60.0), (60_001.0, 20_000.0, 80_000.0)]
    {
        let Axis::Linear { step: found, end: last } = Axis::linear(greatest) else { panic!() };
        assert!((found - step).abs() < 1e-9 && (last - end).abs() < 1e-9, "{greatest}");
    }
    // Nothing to divide by is no reason to divide by it.
    assert_eq!(Axis::linear(0.0), Axis::linear(1.0));
    assert!(matches!(Axis::for_range(0.0, 1e9), Axis::Linear { .. }));
    assert!(matches!(Axis::for_range(10.0, 300.0), Axis::Linear { .. }));
    let axis = Axis::for_range(20.0, 5000.0);
    assert_eq!(axis, Axis::Logarithmic { first: 1, last: 4 });
    assert_eq!(axis.ticks(), [10.0, 100.0, 1000.0, 10_000.0]);
    assert!((axis.place(100.0) - 1.0 / 3.0).abs() < 1e-9);
}

#[test]
fn numbers_are_short_and_do_not_lose_their_zeros() {
    for (value, text) in [
        (0.0, "0"),
        (100.0, "100"),
        (1234.0, "1234"),
        (20_000.0, "20k"),
        (123_456.0, "123k"),
        (2_500_000.0, "2.5M"),
        (0.05, "0.05"),
        (7.25, "7.25"),
    ] {
        assert_eq!(short(value), text);
    }
}

#[test]
fn what_has_no_value_has_its_reason_and_no_bar() {
    let colours = Colours(vec!["a", "<b>"]);
    let chart = bars(
        "t & t",
        &[
            Bar { contestant: "a", value: Ok(Spread { median: 5.0, least: 4.0, greatest: 6.0 }) },
            Bar { contestant: "<b>", value: Err("FAILED: \"no\"".into()) },
        ],
        &colours,
    );
    assert_eq!(chart.matches("class=\"bar\"").count(), 1, "{chart}");
    assert!(chart.contains("&lt;b&gt;") && chart.contains("FAILED: &quot;no&quot;"), "{chart}");
    assert!(chart.contains("t &amp; t") && !chart.contains("<b>"), "{chart}");
    let nothing = [Bar { contestant: "a", value: Err("absent".into()) }];
    assert_eq!(bars("t", &nothing, &colours), "");
}

#[test]
fn a_line_has_a_gap_where_there_is_no_figure() {
    let colours = Colours(vec!["a"]);
    let segments = |points: Vec<Option<Spread>>| {
        let chart = lines("t", &["1", "2", "3"], &[Line { contestant: "a", points }], &colours);
        (chart.matches("stroke-width=\"2\"").count(), chart.matches("<circle").count())
    };
    assert_eq!(segments(vec![Some(flat(1.0)), Some(flat(2.0)), Some(flat(3.0))]), (2, 3));
    assert_eq!(segments(vec![Some(flat(1.0)), None, Some(flat(3.0))]), (0, 2));
    assert_eq!(segments(vec![None, None, None]), (0, 0));
}
