use std::{cell::Cell, sync::Arc, time::Duration};

use crate::client::Trust;
use crate::plugin::{
    Call, Failure, Question, Replied, Reply, Undo,
    trial::{Seen, Trial, refused},
};

const REDIS: &str = "policy: redis, redis_host: redis.example";

fn trial(plugin: &str, settings: &str) -> Trial {
    Trial::new(&format!("{{ {plugin}: {{ {settings}, {REDIS} }} }}"), "")
}

/// What is asked first.
fn asked(trial: &Trial, line: &str, fields: &str) -> Arc<Question> {
    match trial.ask(line, fields) {
        Seen::Called(Call::Redis(question)) => question,
        other @ (Seen::Forwarded { .. } | Seen::Answered { .. } | Seen::Called(_)) => {
            panic!("{other:?}")
        }
    }
}

fn texts(bytes: &[Vec<u8>]) -> Vec<&str> {
    bytes.iter().map(|bytes| str::from_utf8(bytes).expect("UTF-8")).collect()
}

/// What becomes of a request when Redis has answered with `numbers`, and what it is held back for.
fn replied(trial: &Trial, numbers: Result<&[i64], Failure>) -> (Seen, Duration) {
    let mut delay = Duration::ZERO;
    let seen = trial.ask_with("GET /", "", &mut |call| match call {
        Call::Redis(question) => {
            let numbers = numbers.map(<[i64]>::to_vec);
            let script = question.step.script;
            let is_answer =
                |numbers: &Vec<i64>| (script.is_answer)(question.step.keys.len(), numbers);
            assert!(numbers.as_ref().map_or(true, is_answer), "{numbers:?}");
            Some(Reply::Redis(Replied { numbers, undo: Undo::default() }))
        }
        Call::Delay(time) => {
            delay = *time;
            Some(Reply::Delayed)
        }
        Call::Body { .. } | Call::Http(_) | Call::Keys(_) => None,
    });
    (seen, delay)
}

fn refusal(status: u16, body: &str) -> Seen {
    Seen::Answered { status, fields: String::new(), body: body.into() }
}

#[test]
fn a_server_is_described_by_its_keys_and_hides_its_password() {
    let trial = trial(
        "limit-count",
        "count: 1, time_window: 60, redis_port: 6380, redis_username: u, redis_password: hidden, \
         redis_database: 3, redis_timeout: 250, redis_keepalive_timeout: 2000, redis_ssl: false",
    );
    let server = &asked(&trial, "GET /", "").server;
    assert_eq!((&*server.host, server.port, server.database), ("redis.example", 6380, 3));
    assert_eq!(server.username.as_deref(), Some("u"));
    assert_eq!(server.password.as_deref(), Some("hidden"));
    assert_eq!(server.timeout, Duration::from_millis(250));
    assert_eq!(server.idle_timeout, Duration::from_secs(2));
    assert!(!format!("{server:?}").contains("hidden"));
    let trial = self::trial("limit-count", "count: 1, time_window: 60");
    let server = &asked(&trial, "GET /", "").server;
    assert_eq!((server.port, server.database), (6379, 0));
    assert_eq!((&server.username, &server.password), (&None, &None));
    assert_eq!(server.timeout, Duration::from_secs(1));
}

#[test]
fn whom_to_trust_is_said_or_warned_of() {
    let warning = "anybody can pose as this Redis; set `redis_ssl_verify: true`";
    for (settings, expected, warned) in [
        ("redis_ssl: false", None, false),
        ("redis_ssl_verify: false", None, false),
        ("redis_ssl: true", Some(Trust::Anybody), true),
        ("redis_ssl: true, redis_ssl_verify: false", Some(Trust::Anybody), false),
        ("redis_ssl: true, redis_ssl_verify: true", Some(Trust::System), false),
    ] {
        let settings = format!("count: 1, time_window: 60, {settings}");
        let trial = trial("limit-count", &settings);
        assert_eq!(asked(&trial, "GET /", "").server.tls, expected, "{settings}");
        let plugins = format!("{{ limit-count: {{ {settings}, {REDIS} }} }}");
        let told = crate::plugin::trial::findings(&plugins, "");
        assert_eq!(told.iter().any(|line| line.ends_with(warning)), warned, "{told:?}");
    }
}

#[test]
fn keys_name_the_resource_the_plugin_and_the_value() {
    let by_field = trial("limit-count", "count: 5, time_window: 60, key: http_x_user");
    let check = |value: &str, expected: &str| {
        let question = asked(&by_field, "GET /", &format!("x-user: {value}\r\n"));
        assert_eq!(texts(&question.step.keys), [expected], "{value}");
        assert_eq!(texts(&question.step.arguments), ["fixed", "5", "60000"]);
    };
    check("a", "tandem:limit-count:route:r:0:5:60:a");
    check("a:b", "tandem:limit-count:route:r:0:5:60:a:b");
    for value in ["a b", "#a", "\u{e4}", &"x".repeat(65)] {
        let question = asked(&by_field, "GET /", &format!("x-user: {value}\r\n"));
        let key = texts(&question.step.keys)[0];
        let hash = key.strip_prefix("tandem:limit-count:route:r:0:5:60:#").expect("a hash");
        assert!(hash.len() == 64 && hash.bytes().all(|digit| digit.is_ascii_hexdigit()), "{key}");
    }
}

#[test]
fn what_several_share_is_counted_in_its_name() {
    let limit = format!("plugins: {{ limit-req: {{ rate: 1, burst: 0, key: uri, {REDIS} }} }}");
    for (resource, owner) in [
        (format!("global_rules: [{{ id: g, {limit} }}]"), "global_rule:g"),
        (format!("services: [{{ id: s, {limit} }}]"), "service:s"),
        (format!("plugin_configs: [{{ id: p, {limit} }}]"), "plugin_configs:p"),
    ] {
        let refers = ["service", "plugin_config"].map(|kind| {
            let id = owner.split_once(':').filter(|(known, _)| known.starts_with(kind));
            id.map_or_else(String::new, |(_, id)| format!(", {kind}_id: {id}"))
        });
        let text = format!(
            "listeners: [{{ name: web, address: \"127.0.0.1:80\" }}]\n\
             routes: [{{ id: r, uri: /*, upstream_id: u{} }}]\n\
             upstreams: [{{ id: u, nodes: {{ \"127.0.0.1:8080\": 1 }} }}]\n{resource}\n",
            refers.concat()
        );
        let question = asked(&Trial::of(&text), "GET /a", "");
        let expected = format!("tandem:limit-req:{owner}:0:/a");
        assert_eq!(texts(&question.step.keys), [expected.as_str()]);
        assert_eq!(texts(&question.step.arguments), ["1", "0"]);
    }
}

#[test]
fn what_a_group_counts_is_counted_in_its_name() {
    for (group, expected) in [("g-1", "g-1"), ("a#b", "#"), ("a:b", "#")] {
        let trial = trial("limit-count", &format!("count: 5, time_window: 60, group: \"{group}\""));
        let step = &asked(&trial, "GET /", "").step;
        let key = texts(&step.keys)[0];
        let begins = format!("tandem:limit-count:group:{expected}");
        assert!(key.starts_with(&begins) && key.ends_with(":0:5:60:192.0.2.1"), "{key}");
        assert_eq!(key.split(':').count(), 8, "{key}");
    }
}

#[test]
fn all_rules_are_asked_at_once_and_told_by_their_own_fields() {
    let trial = trial(
        "limit-count",
        "window_type: sliding, rules: [{ count: 2, time_window: 1, key: a }, \
         { count: 9, time_window: 9, key: $http_x_none }, { count: 3, time_window: 2, key: c }]",
    );
    let step = &asked(&trial, "GET /", "").step;
    assert_eq!(
        texts(&step.keys),
        ["tandem:limit-count:route:r:0:2:1:a", "tandem:limit-count:route:r:2:3:2:c"]
    );
    assert_eq!(texts(&step.arguments), ["sliding", "2", "1000", "3", "2000"]);
    let (seen, _) = replied(&trial, Ok(&[1, 1, 1000, 0, 0, 1500]));
    let Seen::Answered { status: 503, fields, .. } = seen else { panic!("{seen:?}") };
    assert!(fields.contains("x-1-ratelimit-remaining: 1\nx-1-ratelimit-reset: 1.00\n"), "{fields}");
    assert!(fields.contains("x-3-ratelimit-limit: 3\nx-3-ratelimit-remaining: 0\n"), "{fields}");
    assert!(fields.contains("x-3-ratelimit-reset: 1.50\n"), "{fields}");
}

#[test]
fn answers_are_recognised() {
    let is_answer = |plugin: &str, settings: &str, numbers: &[i64]| {
        let step = &asked(&trial(plugin, settings), "GET /", "").step;
        (step.script.is_answer)(step.keys.len(), numbers)
    };
    let rules =
        "rules: [{ count: 2, time_window: 1, key: a }, { count: 3, time_window: 2, key: c }]";
    for (numbers, expected) in [
        (&[1, 1, 1, 1, 2, 2][..], true),
        (&[1, 1, 1, 0, 0, 2], true),
        (&[0, 0, 1], true),
        (&[0, 0, 1, 1, 2, 2], false),
        (&[1, 1, 1], false),
        (&[1, 1, 1, 1, 2, 2, 1, 1, 1], false),
        (&[1, 1, 1, 1, 2], false),
        (&[1, -1, 1, 1, 2, 2], false),
        (&[2, 1, 1, 1, 2, 2], false),
        (&[], false),
    ] {
        assert_eq!(is_answer("limit-count", rules, numbers), expected, "{numbers:?}");
    }
    for (numbers, expected) in
        [(&[0][..], true), (&[1, 0], true), (&[1], false), (&[1, -1], false), (&[], false)]
    {
        let settings = "rate: 1, burst: 0, key: uri";
        assert_eq!(is_answer("limit-req", settings, numbers), expected, "{numbers:?}");
    }
    for (numbers, expected) in
        [(&[0][..], true), (&[1, 1], true), (&[1], false), (&[1, 0], false), (&[1, 1, 1], false)]
    {
        let settings = "conn: 1, burst: 0, default_conn_delay: 1, key: uri";
        assert_eq!(is_answer("limit-conn", settings, numbers), expected, "{numbers:?}");
    }
}

#[test]
fn without_an_answer_requests_are_refused_or_pass_uncounted() {
    for (plugin, settings, message) in [
        ("limit-count", "count: 1, time_window: 60", "failed to limit count"),
        ("limit-req", "rate: 1, burst: 0, key: uri", "failed to limit req"),
        (
            "limit-conn",
            "conn: 1, burst: 0, default_conn_delay: 1, key: uri",
            "failed to limit conn",
        ),
    ] {
        let closed = trial(plugin, settings);
        let open = trial(plugin, &format!("{settings}, allow_degradation: true"));
        for failure in Failure::ALL {
            let body = format!("{{\"error_msg\":\"{message}\"}}\n");
            assert_eq!(replied(&closed, Err(failure)).0, refusal(500, &body));
            assert!(matches!(replied(&open, Err(failure)).0, Seen::Forwarded { .. }));
        }
    }
}

#[test]
fn turns_come_as_redis_says() {
    let bucket = trial("limit-req", "rate: 1, burst: 9, key: uri, rejected_code: 429");
    let (seen, delay) = replied(&bucket, Ok(&[1, 2_500_000]));
    assert!(matches!(seen, Seen::Forwarded { .. }));
    assert_eq!(delay, Duration::from_millis(2500));
    assert_eq!(replied(&bucket, Ok(&[0])).0, refusal(429, ""));
    let conn = "conn: 2, burst: 9, default_conn_delay: 0.5, key: uri";
    let conn = trial("limit-conn", &format!("{conn}, only_use_default_delay: true"));
    for (count, expected) in [(1, 0), (2, 0), (3, 500), (5, 1000)] {
        let (seen, delay) = replied(&conn, Ok(&[1, count]));
        assert!(matches!(seen, Seen::Forwarded { .. }));
        assert_eq!(delay, Duration::from_millis(expected));
    }
    assert_eq!(replied(&conn, Ok(&[0])).0, refusal(503, ""));
}

/// Whether something is left to be undone once a request is through.
fn is_undone(numbers: Result<&[i64], Failure>) -> bool {
    let trial = trial("limit-conn", "conn: 1, burst: 0, default_conn_delay: 1, key: uri");
    let undone = std::rc::Rc::new(Cell::new(false));
    trial.ask_with("GET /", "", &mut |_| {
        let undone = std::rc::Rc::clone(&undone);
        let numbers = numbers.map(<[i64]>::to_vec);
        Some(Reply::Redis(Replied { numbers, undo: Undo::new(move || undone.set(true)) }))
    });
    undone.get()
}

#[test]
fn who_has_entered_leaves_and_who_has_not_does_not() {
    assert!(is_undone(Ok(&[1, 1])));
    assert!(is_undone(Err(Failure::TimedOut)));
    assert!(!is_undone(Ok(&[0])));
    let settings = "default_conn_delay: 1, key_ttl: 60, rules: \
                    [{ conn: 1, burst: 1, key: a }, { conn: 5, burst: 0, key: b }]";
    let question = asked(&trial("limit-conn", settings), "GET /", "");
    let enter = texts(&question.step.arguments);
    assert_eq!(enter[1..], ["60000", "2", "5"]);
    let leave = question.undoing.as_ref().expect("something to undo");
    assert_eq!(leave.lasts, Duration::from_secs(60));
    let keys = texts(&question.step.keys);
    assert_eq!(keys[..2], ["tandem:limit-conn:route:r:0:a", "tandem:limit-conn:route:r:1:b"]);
    assert_eq!(leave.steps.len(), 2);
    for (step, key) in leave.steps.iter().zip(keys.iter()) {
        assert_eq!(texts(&step.keys), [*key, keys[2]]);
        assert_eq!(texts(&step.arguments), [enter[0], "60000"]);
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (settings, message) in [
        ("policy: redis", "`redis_host` is missing"),
        ("policy: redis, redis_host: \"\"", "is neither a name nor an address"),
        ("policy: redis, redis_host: \"a b\"", "is neither a name nor an address"),
        ("policy: redis, redis_host: a, redis_port: 0", "from 1 to"),
        ("policy: redis, redis_host: a, redis_timeout: 0", "from 1 to"),
        ("policy: redis, redis_host: a, redis_timeout: 1s", "expected"),
        ("policy: redis, redis_host: a, redis_database: -1", "from 0 to"),
        ("policy: redis, redis_host: a, redis_username: u", "needs `redis_password`"),
        ("policy: redis, redis_host: a, redis_keepalive_pool: 5", "one connection to a Redis"),
        ("policy: redis, redis_host: a, redis_ssl: 1", "expected"),
        ("policy: redis, redis_host: a, redis_ssl: true, redis_ssl_verify: 1", "expected"),
        ("policy: redis, redis_host: a, redis_ssl_verify: true", "needs `redis_ssl: true`"),
        ("sync_interval: 1", "needs `policy: redis`"),
        ("policy: redis, redis_host: a, sync_interval: 0", "from 0.1 to 3600"),
        ("policy: redis, redis_host: a, sync_interval: -2", "from 0.1 to 3600"),
        ("policy: redis, redis_host: a, sync_interval: 1.5", "is longer than `time_window`"),
        ("policy: redis, redis_host: a, key_ttl: 1", "unknown key"),
        ("policy: redis-cluster, redis_cluster_name: a", "`redis-cluster` is not built yet"),
        ("policy: redis-sentinel", "`redis-sentinel` is not built yet"),
        ("policy: local, redis_host: a", "needs `policy: redis`"),
        ("redis_timeout: 1", "needs `policy: redis`"),
        ("policy: memcached", "expected `local` or `redis`"),
    ] {
        refused("limit-count", &format!("count: 1, time_window: 1, {settings}"), message);
    }
    let conn = "conn: 1, burst: 0, default_conn_delay: 1, key: uri";
    refused("limit-conn", &format!("{conn}, key_ttl: 1"), "needs `policy: redis`");
    refused("limit-conn", &format!("{conn}, {REDIS}, key_ttl: 0"), "from 1 to");
    let password =
        "count: 1, time_window: 1, policy: redis, redis_host: a, redis_password: [hidden]";
    let told = crate::plugin::trial::findings(&format!("{{ limit-count: {{ {password} }} }}"), "");
    assert!(!told.is_empty() && told.iter().all(|line| !line.contains("hidden")), "{told:?}");
}
