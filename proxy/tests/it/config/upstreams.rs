//! Upstreams, their nodes and what is asked of these.

use std::time::Duration;

use proxy::config::{CheckKind, Judgement};

use super::{check_addition, check_errors, valid, with};

/// An upstream `u` of line 5 with these keys, referred to by the route of line 7 or later.
pub(super) fn check_upstream(keys: &str, expected: &[&str]) {
    check_addition(
        &format!("upstreams:\n  - id: u\n{keys}routes: [{{ id: r, uri: /, upstream_id: u }}]\n"),
        expected,
    );
}

#[test]
fn nodes_are_addresses_that_occur_once() {
    check_upstream("", &["5:5: upstreams[0]: `nodes` is missing"]);
    for none in ["{}", "[]", "{}, type: maglev, key: uri"] {
        valid(&with(&format!(
            "upstreams: [{{ id: u, nodes: {none} }}]\nroutes: [{{ id: r, uri: /, upstream_id: u }}]\n"
        )));
    }
    check_upstream("    nodes: 5\n", &["6:12: upstreams[0].nodes: expected a list, found `5`"]);
    check_upstream(
        "    nodes:\n\
         \x20     127.0.0.1:80: 1\n\
         \x20     \"127.0.0.1:80\": 1\n\
         \x20     127.0.0.256:80: 1\n\
         \x20     127.0.0.1:x: 1\n\
         \x20     ::1: 1\n\
         \x20     127.0.0.1:0: 1\n\
         \x20     0.0.0.0:80: 1\n\
         \x20     '[::ffff:127.0.0.1]:80': 1\n\
         \x20     127.0.0.2:80: 65536\n\
         \x20     127.0.0.3:80: -1\n",
        &[
            "8:7: upstreams[0].nodes[\"127.0.0.1:80\"]: repeats the key of line 7; remove one",
            "9:7: upstreams[0].nodes[\"127.0.0.256:80\"]: `127.0.0.256` is neither an address nor a \
             host name",
            "10:7: upstreams[0].nodes[\"127.0.0.1:x\"]: invalid port `x`",
            "11:7: upstreams[0].nodes[\"::1\"]: an IPv6 address stands in brackets; write `[::1]`",
            "12:7: upstreams[0].nodes[\"127.0.0.1:0\"]: port 0 cannot be dialled",
            "13:7: upstreams[0].nodes[\"0.0.0.0:80\"]: `0.0.0.0` is no address of a node",
            "14:7: upstreams[0].nodes[\"[::ffff:127.0.0.1]:80\"]: an IPv4-mapped address; write \
             it as `127.0.0.1`",
            "15:21: upstreams[0].nodes[\"127.0.0.2:80\"]: expected a whole number from 0 to \
             65535, found `65536`",
            "16:21: upstreams[0].nodes[\"127.0.0.3:80\"]: expected a whole number from 0 to \
             65535, found `-1`",
        ],
    );
    check_upstream(
        "    nodes:\n\
         \x20     - { host: 127.0.0.1, port: 80, weight: 1 }\n\
         \x20     - { host: 127.0.0.1, port: 80, weight: 2 }\n\
         \x20     - { host: '::1', port: 80, weight: 1 }\n\
         \x20     - { host: app, port: 0 }\n",
        &[
            "8:9: upstreams[0].nodes[1]: node 127.0.0.1:80 is in line 7 already",
            "9:9: upstreams[0].nodes[2]: an IPv6 address stands in brackets; write `[::1]`",
            "10:9: upstreams[0].nodes[3]: `weight` is missing",
            "10:28: upstreams[0].nodes[3].port: expected a whole number from 1 to 65535, found `0`",
        ],
    );
}

#[test]
fn what_is_hashed_is_named_and_of_its_kind() {
    let nodes = "    nodes: { \"127.0.0.1:80\": 1 }\n";
    let check = |keys: &str, expected: &[&str]| check_upstream(&format!("{nodes}{keys}"), expected);
    let missing = ["5:5: upstreams[0]: missing key; `key` says what to hash"];
    check("    type: chash\n", &missing);
    check("    type: maglev\n    hash_on: cookie\n", &missing);
    check(
        "    type: chash\n    hash_on: consumers\n    key: a\n",
        &["8:14: upstreams[0].hash_on: expected `vars`, `header`, `cookie`, `consumer` or \
           `vars_combinations`, found `consumers`; did you mean `consumer`?"],
    );
    for (on, key, expected) in [
        ("header", "'a b'", "failed to match pattern \"^[a-zA-Z0-9-_]+$\" with \"a b\""),
        ("cookie", "''", "failed to match pattern \"^[a-zA-Z0-9-_]+$\" with \"\""),
        (
            "vars_combinations",
            "$uri$nothing",
            "unknown variable `nothing`; write `\\$` for a `$` that means itself",
        ),
        ("vars_combinations", "plain", "names no variable; write `$uri`"),
    ] {
        let keys = format!("    type: chash\n    hash_on: {on}\n    key: {key}\n");
        check(&keys, &[&format!("9:10: upstreams[0].key: {expected}")]);
    }
    for key in ["http_x", "arg_", "arg_a b", "body"] {
        check(
            &format!("    type: chash\n    key: {key}\n"),
            &[&format!(
                "8:10: upstreams[0].key: failed to match pattern \"^((uri|server_addr|request_uri|\
                 remote_port|remote_addr|query_string|host)|arg_[0-9a-zA-Z_-]+)$\" with \"{key}\""
            )],
        );
    }
}

#[test]
fn hosts_waits_and_pools_of_upstreams_are_ones_that_there_can_be() {
    let nodes = "    nodes: { \"127.0.0.1:80\": 1 }\n";
    let check = |keys: &str, expected: &[&str]| check_upstream(&format!("{nodes}{keys}"), expected);
    let empty = "`upstream_host` can't be empty when `pass_host` is `rewrite`";
    check("    pass_host: rewrite\n", &[&format!("5:5: upstreams[0]: {empty}")]);
    for (host, expected) in [("''", empty), ("a b", "is no host, with or without a port")] {
        check(
            &format!("    pass_host: rewrite\n    upstream_host: {host}\n"),
            &[&format!("8:20: upstreams[0].upstream_host: {expected}")],
        );
    }
    check(
        "    timeout: { connect: 0, send: 5s, read: 86401, idle: 1 }\n",
        &[
            "7:25: upstreams[0].timeout.connect: expected a number from 0.001 to 86400, found `0`",
            "7:34: upstreams[0].timeout.send: expected a number from 0.001 to 86400, found `5s`",
            "7:44: upstreams[0].timeout.read: expected a number from 0.001 to 86400, found `86401`",
            "7:51: upstreams[0].timeout.idle: unknown key; known here: `connect`, `send` or `read`",
        ],
    );
    check(
        "    retry_timeout: -1\n    keepalive_pool: { size: 0, idle_timeout: .nan, requests: 0 }\n",
        &[
            "7:20: upstreams[0].retry_timeout: expected a number from 0 to 86400, found `-1`",
            "8:29: upstreams[0].keepalive_pool.size: expected a whole number from 1 to 65536, found \
             `0`",
            "8:46: upstreams[0].keepalive_pool.idle_timeout: expected a number from 0 to 86400, \
             found `.nan`",
            "8:62: upstreams[0].keepalive_pool.requests: expected a whole number from 1 to \
             4294967295, found `0`",
        ],
    );
    check(
        "    retry_on: [resets, 399]\n    retry_budget: { percent: 101, min: 1 }\n",
        &[
            "7:16: upstreams[0].retry_on[0]: expected `connect-failure`, `reset`, `timeout`, \
             `gateway-error` or `5xx`, found `resets`; did you mean `reset`?",
            "7:24: upstreams[0].retry_on[1]: expected a whole number from 400 to 599, found `399`",
            "8:30: upstreams[0].retry_budget.percent: expected a whole number from 0 to 100, found \
             `101`",
            "8:35: upstreams[0].retry_budget.min: unknown key; known here: `percent` or \
             `min_per_second`",
        ],
    );
    check(
        "    sticky: { cookie: a=b, path: app, max_age: 0, same_site: none }\n    type: chash\n    \
         key: uri\n    slow_start: { window: 0 }\n",
        &[
            "7:13: upstreams[0].sticky: browsers ignore cookies with `same_site: none` and without \
             `secure: true`",
            "7:23: upstreams[0].sticky.cookie: expected the name of a cookie",
            "7:34: upstreams[0].sticky.path: expected a path as in `/app`",
            "7:48: upstreams[0].sticky.max_age: expected a whole number from 1 to 34560000, found \
             `0`",
            "10:17: upstreams[0].slow_start: `chash` and `maglev` give each key its node from the \
             start; remove it",
            "10:27: upstreams[0].slow_start.window: expected a number from 0.001 to 86400, found \
             `0`",
        ],
    );
}

#[test]
fn checks_are_ones_that_can_be_made() {
    let nodes = "    nodes: { \"127.0.0.1:80\": 1 }\n";
    let check = |keys: &str, expected: &[&str]| check_upstream(&format!("{nodes}{keys}"), expected);
    check(
        "    checks: { passive: {}, shift: 1 }\n",
        &[
            "7:13: upstreams[0].checks: `active` is missing",
            "7:28: upstreams[0].checks.shift: unknown key; known here: `active` or `passive`",
        ],
    );
    check(
        "    checks:\n\
         \x20     active:\n\
         \x20       type: udp\n\
         \x20       timeout: 0\n\
         \x20       concurrency: 0\n\
         \x20       host: a b\n\
         \x20       port: 0\n\
         \x20       http_method: CONNECT\n\
         \x20       http_path: probe\n\
         \x20       req_headers: [x, 'host: a', 'a b: c', \"x: a\\r\\nb\", 'x: y', 'x: y']\n\
         \x20       healthy: { interval: 0.001, http_statuses: [], successes: 0 }\n\
         \x20       unhealthy: { http_statuses: [199, 200, 200], tcp_failures: 255, failures: 1 }\n\
         \x20     passive:\n\
         \x20       healthy: { interval: 1, successes: 0 }\n\
         \x20       unhealthy: { http_failures: 0, tcp_failures: 0, timeouts: 255 }\n",
        &[
            "9:15: upstreams[0].checks.active.type: expected `http`, `https` or `tcp`, found `udp`",
            "10:18: upstreams[0].checks.active.timeout: expected a number from 0.001 to 86400, \
             found `0`",
            "11:22: upstreams[0].checks.active.concurrency: expected a whole number from 1 to 1024, \
             found `0`",
            "12:15: upstreams[0].checks.active.host: is no host, with or without a port",
            "13:15: upstreams[0].checks.active.port: expected a whole number from 1 to 65535, \
             found `0`",
            "14:22: upstreams[0].checks.active.http_method: expected `GET`, `HEAD`, `POST`, `PUT`, \
             `PATCH`, `DELETE`, `OPTIONS` or `TRACE`, found `CONNECT`",
            "15:20: upstreams[0].checks.active.http_path: is no path of a request; it starts with \
             `/`, and what is not ASCII, a blank or a `#` is percent-encoded",
            "16:23: upstreams[0].checks.active.req_headers[0]: is no field; write `name: value`",
            "16:26: upstreams[0].checks.active.req_headers[1]: is a field that the proxy makes \
             itself",
            "16:37: upstreams[0].checks.active.req_headers[2]: is not the name of a field",
            "16:47: upstreams[0].checks.active.req_headers[3]: is no value of a field",
            "16:68: upstreams[0].checks.active.req_headers[5]: is in the list already",
            "17:30: upstreams[0].checks.active.healthy.interval: expected a number from 0.01 to \
             86400, found `0.001`",
            "17:52: upstreams[0].checks.active.healthy.http_statuses: is empty; remove the key if \
             there is nothing to say",
            "17:67: upstreams[0].checks.active.healthy.successes: expected a whole number from 1 to \
             254, found `0`",
            "18:38: upstreams[0].checks.active.unhealthy.http_statuses[0]: expected a whole number \
             from 200 to 599, found `199`",
            "18:48: upstreams[0].checks.active.unhealthy.http_statuses[2]: is in the list already",
            "18:68: upstreams[0].checks.active.unhealthy.tcp_failures: expected a whole number from \
             1 to 254, found `255`",
            "18:73: upstreams[0].checks.active.unhealthy.failures: unknown key; did you mean \
             `tcp_failures`?",
            "20:20: upstreams[0].checks.passive.healthy.interval: unknown key; known here: \
             `http_statuses` or `successes`",
            "21:67: upstreams[0].checks.passive.unhealthy.timeouts: expected a whole number from 0 \
             to 254, found `255`",
        ],
    );
    check(
        "    outlier_detection: { consecutive_5xx: 0, interval: 0, max_ejection_percent: 101 }\n",
        &[
            "7:24: upstreams[0].outlier_detection: every threshold is 0, so that nothing is ever \
             ejected; remove it",
            "7:56: upstreams[0].outlier_detection.interval: expected a number from 0.01 to 86400, \
             found `0`",
            "7:81: upstreams[0].outlier_detection.max_ejection_percent: expected a whole number \
             from 0 to 100, found `101`",
        ],
    );
}

#[test]
fn checks_have_the_defaults_of_apisix() {
    let config = valid(&with(
        "routes: [{ id: r, uri: /, upstream_id: u }]\n\
         upstreams: [{ id: u, nodes: { \"127.0.0.1:80\": 1 }, checks: { active: {}, passive: {} }, \
         outlier_detection: {} }]\n",
    ));
    let upstream = &config.upstreams[0];
    let checks = upstream.checks.as_deref().expect("checks");
    let (active, passive) = (&checks.active, checks.passive.as_ref().expect("passive"));
    assert_eq!((active.kind, active.path.as_str()), (CheckKind::Http, "/"));
    assert_eq!((active.method.as_str(), active.concurrency), ("GET", 10));
    let second = Duration::from_secs(1);
    let times = [active.timeout, active.healthy_interval, active.unhealthy_interval];
    assert_eq!(times, [second; 3]);
    assert_eq!(active.judgement.healthy_statuses, [200, 302]);
    let unhealthy = [429, 404, 500, 501, 502, 503, 504, 505];
    assert_eq!(active.judgement.unhealthy_statuses, unhealthy);
    let counts = |it: &Judgement| [it.successes, it.http_failures, it.tcp_failures, it.timeouts];
    assert_eq!(counts(&active.judgement), [2, 5, 2, 3]);
    assert_eq!(passive.kind, CheckKind::Http);
    let healthy: Vec<u16> = (200..=208).chain([226]).chain(300..=308).collect();
    assert_eq!(passive.judgement.healthy_statuses, healthy);
    assert_eq!(passive.judgement.unhealthy_statuses, [429, 500, 503]);
    assert_eq!(counts(&passive.judgement), [5, 5, 2, 7]);
    let outliers = upstream.outlier_detection.as_ref().expect("outliers");
    assert_eq!([outliers.consecutive_5xx, outliers.consecutive_gateway_failure], [5, 0]);
    assert_eq!(outliers.max_ejection_percent, 10);
    assert_eq!(outliers.failure_percentage_threshold, 0);
    assert_eq!(outliers.failure_percentage_minimum_hosts, 5);
    assert_eq!(outliers.failure_percentage_request_volume, 50);
    let times = [outliers.interval, outliers.base_ejection_time, outliers.max_ejection_time];
    assert_eq!(times, [10, 30, 300].map(Duration::from_secs));
}

#[test]
fn what_a_type_would_lay_out_is_bounded() {
    let weights = |kind: &str, a: u32| {
        format!(
            "    type: {kind}\n    key: uri\n    nodes: {{ \"127.0.0.1:80\": {a}, \"127.0.0.1:81\": 1 }}\n"
        )
    };
    check_upstream(
        &weights("chash", 6553),
        &["8:12: upstreams[0].nodes: the weights make a ring of 1048640 points, at most 1048576; \
           use smaller weights or weights with a common divisor"],
    );
    for (kind, weight) in [("chash", 6552), ("maglev", 65_535), ("least_conn", 65_535)] {
        let text = format!("upstreams:\n  - id: u\n{}", weights(kind, weight));
        assert_eq!(valid(&with(&text)).upstreams.len(), 1);
    }
    let many: Vec<_> = (1..=656).map(|port| format!("\"127.0.0.1:{port}\": 1")).collect();
    check_upstream(
        &format!("    type: maglev\n    key: uri\n    nodes: {{ {} }}\n", many.join(", ")),
        &["8:12: upstreams[0].nodes: 656 nodes of one priority; `maglev` has room for 655"],
    );
}

#[test]
fn both_forms_of_nodes_mean_the_same() {
    let config = valid(&with(
        "upstreams:\n\
         \x20 - { id: a, nodes: { \"127.0.0.1:80\": 3, \"[::1]:81\": 0 } }\n\
         \x20 - { id: b, retries: 9, nodes: [{ host: 127.0.0.1, port: 80, weight: 3 }, \
         { host: '[::1]', port: 81, weight: 0 }] }\n\
         \x20 - { id: 7, retries: 0, nodes: { \"127.0.0.1:80\": 1, \"127.0.0.1:81\": 1 } }\n",
    ));
    let [a, b, c] = config.upstreams.as_slice() else { panic!("three upstreams") };
    assert_eq!(a.nodes, b.nodes);
    assert_eq!([a.retries, b.retries, c.retries], [1, 1, 0], "a node is tried once at most");
    assert_eq!(&*c.id, "7");
}

#[test]
fn weights_whose_cycle_is_too_long_are_refused() {
    let weights =
        |a: u32, b: u32| format!("    nodes: {{ \"127.0.0.1:80\": {a}, \"127.0.0.1:81\": {b} }}\n");
    check_upstream(
        &weights(65_535, 2),
        &["6:12: upstreams[0].nodes: the weights make a cycle of 65537 slots, at most 65536; use \
           smaller weights or weights with a common divisor"],
    );
    for (a, b) in [(65_535, 1), (65_535, 65_535), (65_534, 65_532), (0, 0), (0, 65_535)] {
        let nodes = weights(a, b);
        valid(&with(&format!(
            "upstreams:\n  - id: u\n{nodes}routes: [{{ id: r, uri: /, upstream_id: u }}]\n"
        )));
    }
}

#[test]
fn a_scheme_is_that_of_who_uses_the_upstream() {
    let nodes = "nodes: { \"127.0.0.1:80\": 1 }";
    let yaml = |of_route: &str, of_stream_route: &str| {
        with(&format!(
            "upstreams:\n\
             \x20 - {{ id: http, scheme: http, {nodes} }}\n\
             \x20 - {{ id: tcp, scheme: tcp, {nodes} }}\n\
             \x20 - {{ id: both, {nodes} }}\n\
             routes: [{{ id: r, uri: /, {of_route} }}]\n\
             stream_routes: [{{ id: s, {of_stream_route} }}]\n"
        ))
    };
    valid(&yaml("upstream_id: http", "upstream_id: tcp"));
    valid(&yaml("upstream_id: both", "upstream_id: both"));
    check_errors(
        &yaml("upstream_id: tcp", "upstream_id: http"),
        &[
            "8:40: routes[0].upstream_id: the upstream has `scheme: tcp`, a route needs `http`; \
             change or remove the scheme",
            "9:39: stream_routes[0].upstream_id: the upstream has `scheme: http`, a stream_route \
             needs `tcp`; change or remove the scheme",
        ],
    );
    check_errors(
        &yaml(
            &format!("upstream: {{ scheme: tcp, {nodes} }}"),
            &format!("upstream: {{ scheme: http, {nodes} }}"),
        ),
        &[
            "8:47: routes[0].upstream.scheme: the upstream has `scheme: tcp`, a route needs \
             `http`; change or remove the scheme",
            "9:46: stream_routes[0].upstream.scheme: the upstream has `scheme: http`, a \
             stream_route needs `tcp`; change or remove the scheme",
        ],
    );
}
