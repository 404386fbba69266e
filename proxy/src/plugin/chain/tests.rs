//! Which of several plugins of one name counts, seen by the message with which it refuses.

use super::super::trial::{Seen, Trial};

/// Refuses everybody with this message.
fn refusing(message: &str) -> String {
    format!("ip-restriction: {{ blacklist: [0.0.0.0/0], message: {message} }}")
}

/// A route `/*` that asks for a key, with what `route` and `rest` say beside that.
fn trial(route: &str, rest: &str) -> Trial {
    Trial::of(&format!(
        "listeners: [{{ name: web, address: \"127.0.0.1:80\" }}]\n\
         routes: [{{ id: r, uri: /r, upstream_id: u, {route} }}]\n\
         upstreams: [{{ id: u, nodes: {{ \"127.0.0.1:8080\": 1 }} }}]\n{rest}\n"
    ))
}

/// Who has refused a request, if anybody has.
fn refuser(trial: &Trial, target: &str) -> Option<String> {
    match trial.ask(&format!("GET {target}"), "apikey: k\r\n") {
        Seen::Answered { body, .. } => Some(body.trim().to_owned()),
        Seen::Forwarded { .. } | Seen::Called(_) => None,
    }
}

#[track_caller]
fn check(route: &str, rest: &str, expected: Option<&str>) {
    let expected = expected.map(|message| format!("{{\"message\":\"{message}\"}}"));
    assert_eq!(refuser(&trial(route, rest), "/r"), expected, "{route} {rest}");
}

#[test]
fn the_routes_own_plugin_counts_before_those_of_its_plugin_config_and_its_service() {
    let service = format!("services: [{{ id: s, plugins: {{ {} }} }}]\n", refusing("service"));
    let config = format!("plugin_configs: [{{ id: c, plugins: {{ {} }} }}]\n", refusing("config"));
    let own = format!("plugins: {{ {} }}", refusing("route"));
    let rest = format!("{service}{config}");
    let both = "service_id: s, plugin_config_id: c";
    check(&format!("{both}, {own}"), &rest, Some("route"));
    check(both, &rest, Some("config"));
    check("service_id: s", &rest, Some("service"));
    check("", &rest, None);
    // One that is disabled stands before the others, too.
    let off = "plugins: { ip-restriction: { blacklist: [0.0.0.0/0], _meta: { disable: true } } }";
    check(&format!("{both}, {off}"), &rest, None);
}

#[test]
fn the_consumers_plugin_counts_before_its_groups_and_both_before_the_routes() {
    let auth = format!("plugins: {{ key-auth: {{}}, {} }}", refusing("route"));
    let consumer = |plugins: &str, group: &str| {
        format!(
            "consumers: [{{ username: a, plugins: {{ key-auth: {{ key: k }} {plugins} }} {group} }}]\n\
             consumer_groups: [{{ id: g, plugins: {{ {} }} }}]\n",
            refusing("group")
        )
    };
    let own = format!(", {}", refusing("consumer"));
    check(&auth, &consumer(&own, ", group_id: g"), Some("consumer"));
    check(&auth, &consumer("", ", group_id: g"), Some("group"));
    check(&auth, &consumer("", ""), Some("route"));
    let off = ", ip-restriction: { blacklist: [0.0.0.0/0], _meta: { disable: true } }";
    check(&auth, &consumer(off, ", group_id: g"), None);
    // What the route does not have is the consumer's to bring along.
    check("plugins: { key-auth: {} }", &consumer(&own, ""), Some("consumer"));
    check("", &consumer(&own, ""), None);
}

#[test]
fn a_group_cannot_make_somebody_else_of_a_consumer() {
    let rest = "consumer_groups: [{ id: g, plugins: { limit-count: { count: 9, time_window: 9, rejected_code: 503 } } }]\n\
        consumers:\n\
        - { username: a, plugins: { key-auth: { key: k } }, group_id: g, labels: { custom_id: one } }\n\
        - { username: b, plugins: { basic-auth: { username: b, password: p } } }\n";
    let trial = trial("plugins: { key-auth: {}, basic-auth: {} }", rest);
    // `basic-auth` runs first; `key-auth` has the last word, and leaves nothing of the other behind.
    let seen = trial.ask("GET /r", "authorization: Basic Yjpw\r\napikey: k\r\n");
    assert_eq!(
        (seen.field("x-consumer-username"), seen.field("x-consumer-custom-id")),
        (Some("a"), Some("one"))
    );
}

#[test]
fn global_rules_apply_to_everything_and_before_the_rest() {
    let global = format!("global_rules: [{{ id: 1, plugins: {{ {} }} }}]\n", refusing("global"));
    let own = format!("plugins: {{ {} }}", refusing("route"));
    check(&own, &global, Some("global"));
    let unrouted = trial("", &global);
    assert_eq!(refuser(&unrouted, "/elsewhere"), Some("{\"message\":\"global\"}".to_owned()));
    let free = trial("", "");
    assert_eq!(
        refuser(&free, "/elsewhere"),
        Some("{\"error_msg\":\"404 Route Not Found\"}".to_owned())
    );
}

#[test]
fn a_plugin_has_a_filter_an_error_response_and_a_priority_of_its_own() {
    let with = |meta: &str| {
        format!("plugins: {{ ip-restriction: {{ blacklist: [0.0.0.0/0], _meta: {{ {meta} }} }} }}")
    };
    let filtered = trial(&with("filter: [[arg_x, ==, y]]"), "");
    assert_eq!(refuser(&filtered, "/r?x=z"), None);
    assert!(refuser(&filtered, "/r?x=y").is_some());
    let dressed = trial(&with("error_response: { why: not }"), "");
    assert_eq!(refuser(&dressed, "/r").as_deref(), Some("{\"why\":\"not\"}"));
    let dressed = trial(&with("error_response: no"), "");
    assert_eq!(refuser(&dressed, "/r").as_deref(), Some("no"));
    for (own, meta, content_type) in [
        ("", "error_response: { why: not }", None),
        ("", "error_response: '{\"why\": \"not\"}'", None),
        ("", "error_response: '{why}'", Some("text/plain; charset=utf-8")),
        ("", "error_response: no", Some("text/plain; charset=utf-8")),
        ("body: x", "error_response: { why: not }", None),
        (
            "body: x, headers: { content-type: a/b }",
            "error_response: no",
            Some("text/plain; charset=utf-8"),
        ),
    ] {
        let plugins = format!(
            "plugins: {{ fault-injection: {{ abort: {{ http_status: 500, {own} }}, _meta: {{ {meta} }} }} }}"
        );
        let seen = trial(&plugins, "").ask("GET /r", "");
        assert_eq!(seen.field("content-type"), content_type, "{own} {meta}");
    }
    let both = |priority: i32| {
        let plugins = format!(
            "plugins: {{ {}, ua-restriction: {{ denylist: [x], message: ua, _meta: {{ priority: {priority} }} }} }}",
            refusing("ip")
        );
        refuser(&trial(&plugins, ""), "/r")
    };
    assert!(both(5000).is_some_and(|body| body.contains("ua")));
    assert!(both(1).is_some_and(|body| body.contains("ip")));
}
