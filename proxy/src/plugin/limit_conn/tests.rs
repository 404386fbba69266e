use std::time::Duration;

use super::{
    super::{
        Call,
        trial::{Seen, Trial, refused},
    },
    Entered, State,
};

fn state() -> State {
    State { keys: Default::default(), shards: Default::default(), unit: 1_000_000.into() }
}

#[test]
fn requests_are_in_flight_until_they_are_not() {
    let state = state();
    let (a, b) = (state.keys.key(&[b"a"]), state.keys.key(&[b"b"]));
    assert!(matches!(state.enter(a, 2), Entered::As(1)));
    assert!(matches!(state.enter(a, 2), Entered::As(2)));
    assert!(matches!(state.enter(a, 2), Entered::TooMany));
    assert!(matches!(state.enter(b, 2), Entered::As(1)));
    state.leave(a);
    assert!(matches!(state.enter(a, 2), Entered::As(2)));
    [a, a, b].into_iter().for_each(|key| state.leave(key));
    assert!(state.shards.iter().all(|shard| shard.lock().expect("no panic").is_empty()));
}

#[test]
fn a_unit_of_delay_follows_what_requests_take() {
    let state = state();
    assert_eq!(state.delay(3), Duration::from_millis(3));
    state.took(Duration::from_millis(9));
    assert_eq!(state.delay(1), Duration::from_millis(5));
    assert_eq!(state.delay(u64::MAX), super::DELAY_MAX);
}

#[test]
fn a_request_that_is_over_makes_room() {
    let trial = Trial::new(
        "{ limit-conn: { conn: 1, burst: 0, default_conn_delay: 1, key: remote_addr } }",
        "",
    );
    for _ in 0..3 {
        assert!(matches!(trial.ask("GET /", ""), Seen::Forwarded { .. }));
    }
}

/// What becomes of a request while another one is in flight, which `limit-req` holds back.
fn beside_another(burst: u64) -> Seen {
    let trial = Trial::new(
        &format!(
            "{{ limit-conn: {{ conn: 1, burst: {burst}, default_conn_delay: 0.5, key: host }}, \
             limit-req: {{ rate: 1, burst: 10, key: host }} }}"
        ),
        "",
    );
    assert!(matches!(trial.ask("GET /", ""), Seen::Forwarded { .. }));
    let mut beside = None;
    trial.ask_with("GET /", "", &mut |_| {
        beside = Some(trial.ask("GET /", ""));
        None
    });
    beside.expect("the other one waits")
}

#[test]
fn one_above_the_limit_waits_and_the_next_is_refused() {
    assert_eq!(beside_another(1), Seen::Called(Call::Delay(Duration::from_millis(500))));
    let (fields, body) = (String::new(), String::new());
    assert_eq!(beside_another(0), Seen::Answered { status: 503, fields, body });
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (settings, message) in [
        ("conn: 1, burst: 0, default_conn_delay: 0.1", "`key` is missing"),
        ("burst: 0, default_conn_delay: 0.1, key: uri", "`conn` is missing"),
        ("conn: 0, burst: 0, default_conn_delay: 0.1, key: uri", "from 1 to"),
        ("conn: 1, burst: 0, default_conn_delay: 0, key: uri", "from 0.000001 to 60"),
        ("conn: 1, burst: 0, default_conn_delay: 1, key: uri, policy: redis", "not built yet"),
        ("default_conn_delay: 1, rules: []", "not built yet"),
    ] {
        refused("limit-conn", settings, message);
    }
}
