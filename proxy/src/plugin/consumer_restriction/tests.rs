use super::super::trial::{Seen, Trial, findings};

const REST: &str = "consumer_groups: [{ id: staff, plugins: {} }, { id: others, plugins: {} }]
consumers:
  - { username: alice, group_id: staff, plugins: { key-auth: { key: a } } }
  - { username: bob, group_id: others, plugins: { key-auth: { key: b } } }
  - { username: carol, plugins: { key-auth: { key: c } } }";

fn trial(settings: &str) -> Trial {
    let plugins = format!("{{ key-auth: {{}}, consumer-restriction: {{ {settings} }} }}");
    Trial::new(&plugins, REST)
}

/// `allowed` has the requests that pass, of those that `asked` has: a method and a key.
#[track_caller]
fn check(settings: &str, asked: &[(&str, &str)], allowed: &[(&str, &str)]) {
    let trial = trial(settings);
    for request @ (method, key) in asked {
        let seen = trial.ask(&format!("{method} /"), &format!("apikey: {key}\r\n"));
        let is_allowed = matches!(seen, Seen::Forwarded { .. });
        assert_eq!(is_allowed, allowed.contains(request), "{settings}: {request:?} {seen:?}");
    }
}

const EACH: [(&str, &str); 3] = [("GET", "a"), ("GET", "b"), ("GET", "c")];

#[test]
fn consumers_are_told_apart_by_name_and_by_group() {
    check("whitelist: [alice]", &EACH, &[("GET", "a")]);
    check("whitelist: [Alice, alic, alicea, nobody]", &EACH, &[]);
    check("blacklist: [alice]", &EACH, &[("GET", "b"), ("GET", "c")]);
    check("blacklist: [alice], whitelist: [alice, bob]", &EACH, &[("GET", "b")]);
    check("type: consumer_name, whitelist: [bob]", &EACH, &[("GET", "b")]);
    check("type: consumer_group_id, whitelist: [staff]", &EACH, &[("GET", "a")]);
    // Who is in no group is not in another one either.
    check("type: consumer_group_id, blacklist: [staff]", &EACH, &[("GET", "b")]);
}

#[test]
fn methods_bind_whom_they_name() {
    let asked = [("GET", "a"), ("POST", "a"), ("GET", "b"), ("POST", "b"), ("POST", "c")];
    let alice = "allowed_by_methods: [{ user: alice, methods: [GET, HEAD] }]";
    let not_alice = [("GET", "a"), ("GET", "b"), ("POST", "b"), ("POST", "c")];
    check(alice, &asked, &not_alice);
    check(&format!("{alice}, whitelist: [alice]"), &asked, &[("GET", "a"), ("POST", "a")]);
    check(&format!("{alice}, blacklist: [bob]"), &asked, &[("GET", "a"), ("POST", "c")]);
    check(&format!("{alice}, whitelist: [bob]"), &asked, &[("GET", "b"), ("POST", "b")]);
}

#[test]
fn routes_and_services_are_told_apart_by_id() {
    check("type: route_id, whitelist: [r]", &EACH, &EACH);
    check("type: route_id, blacklist: [r]", &EACH, &[]);
    // The route has no service.
    check("type: service_id, blacklist: [s]", &EACH, &[]);
}

#[test]
fn a_restriction_of_a_consumer_itself_applies_to_it_alone() {
    let rest = "consumers:
  - { username: alice, plugins: { key-auth: { key: a }, consumer-restriction: { type: route_id, whitelist: [x] } } }
  - { username: bob, plugins: { key-auth: { key: b } } }";
    let trial = Trial::new("{ key-auth: {} }", rest);
    let body = "{\"message\":\"The route_id is forbidden.\"}\n".into();
    let expected = Seen::Answered { status: 403, fields: String::new(), body };
    assert_eq!(trial.ask("GET /", "apikey: a\r\n"), expected);
    assert!(matches!(trial.ask("GET /", "apikey: b\r\n"), Seen::Forwarded { .. }));
}

#[test]
fn refusals_say_what_is_missing_or_forbidden() {
    let answered = |status, message: &str| Seen::Answered {
        status,
        fields: String::new(),
        body: format!("{{\"message\":\"{message}\"}}\n"),
    };
    let forbidden = trial("blacklist: [alice]").ask("GET /", "apikey: a\r\n");
    assert_eq!(forbidden, answered(403, "The consumer_name is forbidden."));
    let configured = trial("blacklist: [alice], rejected_code: 429, rejected_msg: no way");
    assert_eq!(configured.ask("GET /", "apikey: a\r\n"), answered(429, "no way"));
    let unknown = Trial::new("{ consumer-restriction: { blacklist: [alice] } }", "");
    assert_eq!(
        unknown.ask("GET /", "x-consumer-username: bob\r\n"),
        answered(401, "The request is rejected, please check the consumer_name for this request")
    );
    let group = trial("type: consumer_group_id, whitelist: [staff]").ask("GET /", "apikey: c\r\n");
    assert_eq!(
        group,
        answered(401, "The request is rejected, please check the consumer_group_id for this request")
    );
}

#[test]
fn what_cannot_be_meant_is_a_configuration_error() {
    for (settings, key, problem) in [
        ("", "", "needs `blacklist`, `whitelist` or `allowed_by_methods`"),
        ("blacklist: []", ".blacklist", "needs 1 to 65536 items"),
        ("whitelist: ['']", ".whitelist[0]", "needs a name"),
        ("allowed_by_methods: []", ".allowed_by_methods", "needs 1 to 65536 items"),
        (
            "allowed_by_methods: [{ user: a, methods: [GETS] }]",
            ".allowed_by_methods[0].methods[0]",
            "expected `GET`, `POST`, `PUT`, `DELETE`, `PATCH`, `HEAD`, `OPTIONS`, `CONNECT`, \
             `TRACE` or `PURGE`, found `GETS`; did you mean `GET`?",
        ),
        ("allowed_by_methods: [{ user: a }]", ".allowed_by_methods[0]", "`methods` is missing"),
        (
            "allowed_by_methods: [{ user: a, methods: [GET] }, { user: a, methods: [PUT] }]",
            ".allowed_by_methods",
            "names a user twice",
        ),
        (
            "whitelist: [a], rejected_code: 99",
            ".rejected_code",
            "expected a whole number from 200 to 599, found `99`",
        ),
        (
            "whitelist: [a], type: user",
            ".type",
            "expected `consumer_name`, `consumer_group_id`, `service_id` or `route_id`, found \
             `user`",
        ),
    ] {
        let found = findings(&format!("{{ consumer-restriction: {{ {settings} }} }}"), "");
        assert_eq!(found, [format!("routes[0].plugins.consumer-restriction{key}: {problem}")]);
    }
}
