use super::super::trial::{Seen, Trial, findings};

#[track_caller]
fn check(settings: &str, peer: &str, is_allowed: bool) {
    let trial = Trial::new(&format!("{{ ip-restriction: {{ {settings} }} }}"), "").from(peer);
    match trial.ask("GET /", "") {
        Seen::Forwarded { .. } => assert!(is_allowed, "{settings} {peer}"),
        Seen::Answered { status, fields, body } => {
            let body = body.trim_end();
            assert_eq!(body, "{\"message\":\"Your IP address is not allowed\"}");
            assert_eq!((status, &*fields, is_allowed), (403, "", false), "{settings} {peer}");
        }
        Seen::Called(call) => panic!("{call:?}"),
    }
}

#[test]
fn only_listed_addresses_pass_a_whitelist_and_all_others_a_blacklist() {
    let lists = "[10.0.0.0/8, 192.0.2.7, '2001:db8::/32', '::1']";
    for (peer, is_listed) in [
        ("10.0.0.0", true),
        ("10.255.255.255", true),
        ("11.0.0.0", false),
        ("9.255.255.255", false),
        ("192.0.2.7", true),
        ("192.0.2.8", false),
        ("2001:db8::1", true),
        ("2001:db9::", false),
        ("::1", true),
        ("::2", false),
        ("::ffff:10.1.2.3", true),
        ("::ffff:11.1.2.3", false),
    ] {
        check(&format!("whitelist: {lists}"), peer, is_listed);
        check(&format!("blacklist: {lists}"), peer, !is_listed);
    }
    check("blacklist: ['::/0']", "10.0.0.1", true);
    check("blacklist: ['::ffff:10.0.0.0/104']", "10.0.0.1", false);
    check("whitelist: [10.1.2.3/8]", "10.9.9.9", true);
}

#[test]
fn what_a_client_says_of_itself_does_not_count() {
    let trial = Trial::new("{ ip-restriction: { whitelist: [10.0.0.1] } }", "");
    for fields in ["x-forwarded-for: 10.0.0.1\r\n", "x-real-ip: 10.0.0.1\r\n"] {
        assert_eq!(trial.ask("GET /", fields).status(), Some(403), "{fields}");
    }
}

#[test]
fn message_and_status_are_those_configured() {
    let settings = "whitelist: [10.0.0.1], message: \"no \\\"way\\\"\", response_code: 404";
    let trial = Trial::new(&format!("{{ ip-restriction: {{ {settings} }} }}"), "");
    let expected = Seen::Answered {
        status: 404,
        fields: String::new(),
        body: "{\"message\":\"no \\\"way\\\"\"}\n".into(),
    };
    assert_eq!(trial.ask("GET /", ""), expected);
}

#[test]
fn what_cannot_be_meant_is_a_configuration_error() {
    let long = "x".repeat(1025);
    let one_list = "needs exactly one of `whitelist` and `blacklist`";
    let size = "needs 1 to 1024 characters";
    for (settings, key, problem) in [
        ("", "", one_list),
        ("whitelist: [10.0.0.1], blacklist: [10.0.0.2]", "", one_list),
        ("whitelist: []", ".whitelist", "needs 1 to 65536 items"),
        ("blacklist: 10.0.0.1", ".blacklist", "expected a list, found `10.0.0.1`"),
        (
            "whitelist: [10.0.0.1, 10.0.0.256]",
            ".whitelist[1]",
            "expected a prefix such as `203.0.113.0/24` or `2001:db8::/32`, found `10.0.0.256`",
        ),
        ("whitelist: [::1], message: ''", ".message", size),
        (&format!("whitelist: [::1], message: {long}"), ".message", size),
        ("whitelist: [::1], response_code: 200", ".response_code", "expected `403` or `404`, found `200`"),
    ] {
        let found = findings(&format!("{{ ip-restriction: {{ {settings} }} }}"), "");
        assert_eq!(found, [format!("routes[0].plugins.ip-restriction{key}: {problem}")]);
    }
}
