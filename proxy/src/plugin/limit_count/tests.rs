use std::time::Duration;

use super::super::{
    Reply,
    trial::{Seen, Trial, refused},
};

fn trial(settings: &str) -> Trial {
    Trial::new(&format!("{{ limit-count: {{ {settings} }} }}"), "")
}

/// Whether a request passes.
fn passes(trial: &Trial, line: &str, fields: &str) -> bool {
    match trial.ask(line, fields) {
        Seen::Forwarded { .. } => true,
        Seen::Answered { status: 503, .. } => false,
        other @ (Seen::Answered { .. } | Seen::Called(_)) => panic!("{other:?}"),
    }
}

fn told(trial: &Trial) -> String {
    match trial.ask("GET /", "") {
        Seen::Forwarded { response, .. } => response,
        Seen::Answered { status, fields, body } => format!("{status} {fields}{body}"),
        other @ Seen::Called(_) => panic!("{other:?}"),
    }
}

#[test]
fn a_fixed_window_begins_with_the_first_request() {
    let mut trial = trial("count: 2, time_window: 10, rejected_msg: \"no \\\"more\\\"\"");
    let quota = |remaining, reset| {
        format!(
            "x-ratelimit-limit: 2\nx-ratelimit-remaining: {remaining}\nx-ratelimit-reset: {reset}\n"
        )
    };
    assert_eq!(told(&trial), quota(1, "10.00"));
    trial.pass(Duration::from_millis(2500));
    assert_eq!(told(&trial), quota(0, "7.50"));
    let refusal = format!("503 {}{{\"error_msg\":\"no \\\"more\\\"\"}}\n", quota(0, "7.50"));
    assert_eq!(told(&trial), refusal);
    trial.pass(Duration::from_millis(7434));
    assert!(told(&trial).contains("x-ratelimit-reset: 0.07\n"));
    trial.pass(Duration::from_millis(65));
    assert!(!passes(&trial, "GET /", ""));
    trial.pass(Duration::from_millis(1));
    assert_eq!(told(&trial), quota(1, "10.00"));
}

#[test]
fn a_sliding_window_keeps_the_share_of_the_last_one() {
    let mut trial = trial("count: 10, time_window: 10, window_type: sliding");
    let allowed = |trial: &Trial| (0..20).filter(|_| passes(trial, "GET /", "")).count();
    assert_eq!(allowed(&trial), 10);
    for (seconds, expected) in [(9, 0), (1, 0), (1, 1), (4, 4), (5, 5), (30, 10)] {
        trial.pass(Duration::from_secs(seconds));
        assert_eq!(allowed(&trial), expected, "after {seconds} s more");
    }
}

#[test]
fn a_request_that_was_held_back_counts_when_it_goes_on() {
    let mut trial = Trial::new(
        "{ fault-injection: { delay: { duration: 12, vars: [[[http_slow, ==, y]]] } }, \
         limit-count: { count: 1, time_window: 10 } }",
        "",
    );
    let slow = trial.ask_with("GET /", "slow: y\r\n", &mut |_| Some(Reply::Delayed));
    assert!(matches!(slow, Seen::Forwarded { .. }), "{slow:?}");
    trial.pass(Duration::from_secs(21));
    assert!(!passes(&trial, "GET /", ""));
    trial.pass(Duration::from_secs(1));
    assert!(passes(&trial, "GET /", ""));
}

#[test]
fn keys_are_counted_by_themselves() {
    const A: &str = "x-user: a\r\n";
    const B: &str = "x-user: b\r\n";
    let settings = "count: 1, time_window: 10, key";
    let by_field = trial(&format!("{settings}: http_x_user"));
    assert!(passes(&by_field, "GET /", A) && passes(&by_field, "GET /", B));
    assert!(!passes(&by_field, "GET /", A));
    // Without the field, by address.
    assert!(passes(&by_field, "GET /", "") && !passes(&by_field, "GET /", "x-user: \r\n"));
    let by_both =
        trial(&format!("{settings}: \"$remote_addr $http_x_user\", key_type: var_combination"));
    assert!(passes(&by_both, "GET /", A) && passes(&by_both, "GET /", B));
    assert!(!passes(&by_both, "GET /", A));
    let by_both = by_both.from("192.0.2.9");
    assert!(passes(&by_both, "GET /", A));
    let constant = trial(&format!("{settings}: all, key_type: constant"));
    assert!(passes(&constant, "GET /", A));
    assert!(!passes(&constant.from("192.0.2.9"), "GET /", B));
}

#[test]
fn amounts_may_depend_on_the_request() {
    let trial = trial("count: \"${http_x_limit ?? 1}\", time_window: \"$arg_window\", key: uri");
    let ask = |path: &str, fields| trial.ask(&format!("GET {path}"), fields).status();
    assert_eq!(ask("/?window=5", ""), None);
    assert_eq!(ask("/?window=5", ""), Some(503));
    assert_eq!(ask("/?window=5", "x-limit: 2\r\n"), None);
    for window in ["0", "-1", "x", "", "99999999999"] {
        assert_eq!(ask(&format!("/?window={window}"), ""), Some(500), "{window}");
    }
}

#[test]
fn rules_hold_one_beside_the_other() {
    let trial = trial(
        "rules: [{ count: 1, time_window: 10, key: \"$http_x_user\", header_prefix: User }, \
         { count: 3, time_window: 60, key: all }]",
    );
    let seen = trial.ask("GET /", "x-user: a\r\n");
    let Seen::Forwarded { response, .. } = seen else { panic!("{seen:?}") };
    assert!(response.starts_with("x-user-ratelimit-limit: 1\n"), "{response}");
    assert!(response.contains("x-2-ratelimit-remaining: 2\n"), "{response}");
    assert!(!passes(&trial, "GET /", "x-user: a\r\n"));
    assert!(passes(&trial, "GET /", "x-user: b\r\n"));
    assert!(passes(&trial, "GET /", ""));
    assert!(!passes(&trial, "GET /", "x-user: c\r\n"));
}

#[test]
fn metadata_names_the_fields() {
    let metadata = "plugin_metadata: [{ id: limit-count, limit_header: X-Limit, \
                    reset_header: x-reset }]";
    let told = |settings: &str| {
        told(&Trial::new(&format!("{{ limit-count: {{ {settings} }} }}"), metadata))
    };
    let expected = "x-limit: 2\nx-ratelimit-remaining: 1\nx-reset: 10.00\n";
    assert_eq!(told("count: 2, time_window: 10"), expected);
    let rules = told("rules: [{ count: 2, time_window: 10, key: a }]");
    assert!(rules.starts_with("x-1-ratelimit-limit: 2\n"), "{rules}");
}

#[test]
fn what_cannot_be_said_is_not_said() {
    let trial = trial("count: 1, time_window: 1, show_limit_quota_header: false");
    assert_eq!(told(&trial), "");
    assert_eq!(told(&trial), "503 ");
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (settings, message) in [
        ("count: 1", "`time_window` is missing"),
        ("count: 0, time_window: 1", "from 1 to"),
        ("count: \"$nothing\", time_window: 1", "unknown variable `nothing`"),
        ("count: 1, time_window: 1, key: nothing", "unknown variable `nothing`"),
        ("count: 1, time_window: 1, rules: []", "cannot be specified at the same time"),
        ("rules: []", "needs 1 to 32"),
        (
            "rules: [{ count: 1, time_window: 1, key: a }, { count: 2, time_window: 1, key: a }]",
            "duplicate key 'a' in rules",
        ),
        ("count: 1, time_window: 1, group: \"\"", "needs 1 to 256 bytes"),
        ("count: 1, time_window: 1, rejected_code: 600", "from 200 to 599"),
        ("count: 1, time_window: 1, window_type: round", "expected"),
    ] {
        refused("limit-count", settings, message);
    }
}

/// Two routes of these settings each, from line 3 on, and a consumer with those of the first.
fn of_groups(settings: [&str; 2]) -> String {
    let [first, second] = settings;
    let route = |id: &str, settings: &str| {
        format!("  - {{ id: {id}, uri: /{id}, upstream_id: u, plugins: {{ limit-count: {{ {settings} }} }} }}\n")
    };
    format!(
        "listeners: [{{ name: web, address: \"127.0.0.1:80\" }}]\nroutes:\n{}{}\
         upstreams: [{{ id: u, nodes: {{ \"127.0.0.1:8080\": 1 }} }}]\n\
         consumers: [{{ username: c, plugins: {{ limit-count: {{ {first} }} }} }}]\n",
        route("a", first),
        route("b", second)
    )
}

#[test]
fn a_group_counts_together() {
    const SETTINGS: &str = "count: 2, time_window: 10, group";
    let [g, h] = ["g", "h"].map(|name| format!("{SETTINGS}: {name}"));
    for (settings, expected) in [
        ([&*g, &*g], [None, None, Some(503), Some(503)]),
        ([&*g, "group: g, time_window: 10, count: 2, _meta: { priority: 1 }"], [None, None, Some(503), Some(503)]),
        ([&*g, "count: 2, time_window: 10, group: 'g'"], [None, None, Some(503), Some(503)]),
        ([&*g, &*h], [None; 4]),
        ([&*g, "count: 2, time_window: 10"], [None; 4]),
    ] {
        let trial = Trial::of(&of_groups(settings));
        let seen = ["/a", "/b", "/a", "/b"].map(|path| trial.ask(&format!("GET {path}"), ""));
        assert_eq!(seen.map(|seen| seen.status()), expected, "{settings:?}");
    }
}

#[test]
fn a_group_has_the_same_settings_everywhere() {
    const FIRST: &str = "count: 2, time_window: 10, group: g";
    for second in ["count: 3, time_window: 10, group: g", "count: 2, time_window: 10, group: g, policy: local"] {
        let text = of_groups([FIRST, second]);
        let errors = crate::config::Config::parse(&text, "t.yaml").expect_err(second).to_string();
        let (place, what) = ("routes[1].plugins.limit-count.group: ", "group conf mismatched: ");
        let told = errors.lines().find(|line| line.contains(what)).expect(&errors);
        assert!(told.starts_with("t.yaml:4:") && told.contains(place), "{told}");
        assert!(told.contains("other settings in line "), "{told}");
    }
}

#[test]
fn who_has_no_value_is_counted_by_the_address() {
    let settings = "count: 1, time_window: 60, key_type: var_combination, key: \"$http_a $http_b\"";
    let trial = trial(settings).from("192.0.2.7");
    assert!(passes(&trial, "GET /", ""));
    assert!(!passes(&trial, "GET /", ""));
    let trial = trial.from("192.0.2.8");
    assert!(passes(&trial, "GET /", ""));
    assert!(passes(&trial, "GET /", "a: 1\r\n"));
}

#[test]
fn what_is_said_twice_is_one_error() {
    let rules = "rules: [{ count: 1, time_window: 1, key: $remote_addr }]";
    let found = super::super::trial::findings(&format!("{{ limit-count: {{ count: 1, time_window: 1, {rules} }} }}"), "");
    assert_eq!(found, [
        "routes[0].plugins.limit-count: count/time_window and rules cannot be specified at the same time",
    ]);
}
