use std::time::Duration;

use super::{
    super::{
        Call,
        trial::{Seen, Trial, findings, refused},
    },
    Unit,
};

#[test]
fn a_unit_of_delay_follows_what_requests_take() {
    let unit = Unit(1_000_000.into());
    assert_eq!(unit.delay(3), Duration::from_millis(3));
    unit.took(Duration::from_millis(9));
    assert_eq!(unit.delay(1), Duration::from_millis(5));
    assert_eq!(unit.delay(u64::MAX), super::DELAY_MAX);
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

/// A request that is held back while another one comes, and what becomes of that.
fn second(rules: &str, (first, second): (&str, &str)) -> Seen {
    let trial = Trial::new(
        &format!(
            "{{ limit-conn: {{ default_conn_delay: 1, rules: [{rules}] }}, \
             limit-req: {{ rate: 1, burst: 10, key: host }} }}"
        ),
        "",
    );
    assert!(matches!(trial.ask("GET /", first), Seen::Forwarded { .. }));
    let mut beside = None;
    trial.ask_with("GET /", first, &mut |_| {
        beside = Some(trial.ask("GET /", second));
        None
    });
    beside.expect("the other one waits")
}

#[test]
fn rules_hold_one_beside_the_other() {
    const A: &str = "a: a\r\n";
    const B: &str = "a: b\r\n";
    let (fields, body) = (String::new(), String::new());
    let refused = Seen::Answered { status: 503, fields, body };
    let both = "{ conn: 9, burst: 0, key: all }, { conn: 1, burst: 0, key: $http_a }";
    assert_eq!(second(both, (A, A)), refused);
    let held_back = second(both, (A, B));
    assert!(matches!(held_back, Seen::Called(Call::Delay(_))), "{held_back:?}");
    let all = "{ conn: 1, burst: 0, key: all }, { conn: 9, burst: 0, key: $http_a }";
    assert_eq!(second(all, (A, B)), refused);
    // The longest delay.
    let burst = "{ conn: 1, burst: 1, key: all }, { conn: 9, burst: 0, key: $http_a }";
    assert_eq!(second(burst, (A, A)), Seen::Called(Call::Delay(Duration::from_secs(1))));
    // None applies.
    let trial = Trial::new(
        "{ limit-conn: { default_conn_delay: 1, rules: [{ conn: 1, burst: 0, key: $http_a }] } }",
        "",
    );
    assert_eq!(trial.ask("GET /", "").status(), Some(500));
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
        ("default_conn_delay: 1, rules: []", "needs 1 to 32"),
        ("default_conn_delay: 1, rules: [{ conn: 1, burst: 0 }]", "`key` is missing"),
        ("default_conn_delay: 1, rules: [{ conn: 1, key: a }]", "`burst` is missing"),
        ("conn: 1, default_conn_delay: 1, rules: []", "cannot be specified at the same time"),
        (
            "default_conn_delay: 1, rules: [{ conn: 1, burst: 0, key: a }, \
             { conn: 2, burst: 0, key: a }]",
            "duplicate key 'a' in rules",
        ),
    ] {
        refused("limit-conn", settings, message);
    }
}

#[test]
fn what_is_said_twice_is_one_error() {
    let rules = "rules: [{ conn: 1, burst: 1, key: $remote_addr }]";
    let settings = format!("conn: 1, burst: 1, key: uri, default_conn_delay: 1, {rules}");
    let found = findings(&format!("{{ limit-conn: {{ {settings} }} }}"), "");
    assert_eq!(found, [
        "routes[0].plugins.limit-conn: conn/burst/key and rules cannot be specified at the same time",
    ]);
}
