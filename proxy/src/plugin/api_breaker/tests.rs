use std::time::{Duration, Instant};

use super::{super::trial::refused, Circuit};

const MAX: Duration = Duration::from_secs(10);

#[test]
fn every_so_many_failures_open_for_longer() {
    let (mut circuit, now) = (Circuit::default(), Instant::now());
    for expected in [None, Some(2), Some(2), Some(4), Some(4), Some(8), Some(8), Some(10)] {
        circuit.fail(2, MAX, now);
        let open = circuit.open_until.map(|until| (until - now).as_secs());
        assert_eq!(open, expected, "{circuit:?}");
    }
    circuit.failures = u64::MAX / 2;
    circuit.fail(1, MAX, now);
    assert_eq!(circuit.open_until, Some(now + MAX));
}

#[test]
fn successes_in_a_row_forget_the_failures() {
    let (mut circuit, now) = (Circuit::default(), Instant::now());
    circuit.fail(2, MAX, now);
    circuit.succeed(2);
    assert_eq!((circuit.failures, circuit.successes), (1, 1));
    circuit.fail(2, MAX, now);
    assert!(circuit.open_until.is_some());
    circuit.succeed(2);
    assert!(circuit.open_until.is_some());
    circuit.succeed(2);
    assert_eq!((circuit.failures, circuit.open_until), (0, None));
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (settings, message) in [
        ("", "`break_response_code` is missing"),
        ("break_response_code: 199", "from 200 to 599"),
        ("break_response_code: 502, max_breaker_sec: 2", "from 3 to"),
        ("break_response_code: 502, unhealthy: { http_statuses: [499] }", "from 500 to 599"),
        ("break_response_code: 502, unhealthy: { failures: 0 }", "from 1 to"),
        ("break_response_code: 502, healthy: { http_statuses: [] }", "at least one"),
        ("break_response_code: 502, healthy: { failures: 1 }", "unknown key"),
        ("break_response_code: 502, break_response_headers: [{ key: te, value: 1 }]", "itself"),
        ("break_response_code: 502, break_response_headers: [{ key: a, value: 1 }]", "needs `break_response_body`"),
    ] {
        refused("api-breaker", settings, message);
    }
}
