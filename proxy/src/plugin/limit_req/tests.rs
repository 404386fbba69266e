use std::time::Duration;

use super::super::{
    Call, Reply,
    trial::{Seen, Trial, refused},
};

fn trial(settings: &str) -> Trial {
    Trial::new(&format!("{{ limit-req: {{ key: remote_addr, {settings} }} }}"), "")
}

/// Milliseconds of delay; `None`: refused.
fn delay(trial: &Trial) -> Option<u128> {
    let mut delay = Duration::ZERO;
    let seen = trial.ask_with("GET /", "", &mut |call| {
        let Call::Delay(time) = call else { panic!("{call:?}") };
        delay += *time;
        Some(Reply::Delayed)
    });
    match seen {
        Seen::Forwarded { .. } => Some(delay.as_millis()),
        Seen::Answered { status: 503, .. } => None,
        other @ (Seen::Answered { .. } | Seen::Called(_)) => panic!("{other:?}"),
    }
}

#[test]
fn what_comes_too_fast_waits_for_its_turn() {
    let mut trial = trial("rate: 10, burst: 2");
    for (pass, expected) in [
        (0, Some(0)),
        (0, Some(100)),
        (0, Some(200)),
        (0, None),
        (99, None),
        (1, Some(200)),
        (50, None),
        (350, Some(0)),
        (0, Some(100)),
        (10_000, Some(0)),
    ] {
        trial.pass(Duration::from_millis(pass));
        assert_eq!(delay(&trial), expected, "after {pass} ms more");
    }
}

#[test]
fn without_delay_a_burst_passes_at_once() {
    let trial = trial("rate: 0.5, burst: 3, nodelay: true, rejected_code: 429");
    for _ in 0..4 {
        assert_eq!(delay(&trial), Some(0));
    }
    let seen = trial.ask("GET /", "");
    let (fields, body) = (String::new(), String::new());
    assert_eq!(seen, Seen::Answered { status: 429, fields, body });
    assert_eq!(delay(&trial.from("192.0.2.9")), Some(0));
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (settings, message) in [
        ("rate: 1, burst: 0", "`key` is missing"),
        ("burst: 0, key: uri", "`rate` is missing"),
        ("rate: 0, burst: 0, key: uri", "from 0.000001 to"),
        ("rate: 1, burst: -1, key: uri", "from 0 to"),
        ("rate: .nan, burst: 0, key: uri", "a number"),
        ("rate: 1, burst: 3601, key: uri", "more than an hour"),
        ("rate: 1, burst: 0, key: uri, policy: redis-cluster", "not built yet"),
        ("rate: 1, burst: 0, key: uri, rejected_msg: \"\"", "is empty"),
    ] {
        refused("limit-req", settings, message);
    }
}

#[test]
fn one_that_was_held_back_does_not_turn_back_the_time() {
    let (mut bucket, begin) = (super::Bucket::default(), std::time::Instant::now());
    let at = |seconds| begin + Duration::from_secs(seconds);
    assert!(bucket.pour(1.0, 1.0, at(10)).1.is_some());
    assert!(bucket.pour(1.0, 1.0, at(0)).1.is_some());
    assert!(bucket.pour(1.0, 1.0, at(10)).1.is_none());
}
