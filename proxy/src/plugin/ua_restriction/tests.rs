use super::super::trial::{Seen, Trial, findings};

#[track_caller]
fn check(settings: &str, fields: &str, is_allowed: bool) {
    let trial = Trial::new(&format!("{{ ua-restriction: {{ {settings} }} }}"), "");
    match trial.ask("GET /", fields) {
        Seen::Forwarded { .. } => assert!(is_allowed, "{settings} {fields}"),
        refused @ (Seen::Answered { .. } | Seen::Called(_)) => {
            let body = "{\"message\":\"Not allowed\"}\n".into();
            let expected = Seen::Answered { status: 403, fields: String::new(), body };
            assert_eq!((refused, is_allowed), (expected, false), "{settings} {fields}");
        }
    }
}

#[test]
fn only_listed_agents_pass_an_allowlist_and_all_others_a_denylist() {
    let patterns = "[my-bot1, '(Baiduspider)/(\\d+)\\.(\\d+)', '(?i)^curl/']";
    for (agent, is_listed) in [
        ("my-bot1", true),
        ("a my-bot1/2.0 b", true),
        ("my-bot2", false),
        ("MY-BOT1", false),
        ("Baiduspider/3.0", true),
        ("Baiduspider/x.0", false),
        ("CURL/8", true),
        ("x curl/8", false),
        ("", false),
    ] {
        let fields = format!("User-Agent: {agent}\r\n");
        check(&format!("allowlist: {patterns}"), &fields, is_listed);
        check(&format!("denylist: {patterns}"), &fields, !is_listed);
    }
}

#[test]
fn of_several_agents_each_counts() {
    let (good, bad) = ("user-agent: good\r\n", "user-agent: bad\r\n");
    for (fields, has_good, has_bad) in
        [(format!("{good}{bad}"), true, true), (format!("{bad}{good}"), true, true), (format!("{good}{good}"), true, false)]
    {
        check("allowlist: [good]", &fields, has_good && !has_bad);
        check("denylist: [bad]", &fields, !has_bad);
    }
}

#[test]
fn who_does_not_say_what_it_is_is_refused_unless_that_is_allowed() {
    for list in ["allowlist: [x]", "denylist: [x]"] {
        check(list, "", false);
        check(&format!("{list}, bypass_missing: true"), "", true);
        check(&format!("{list}, bypass_missing: false"), "", false);
    }
    check("allowlist: [x], bypass_missing: true", "user-agent: y\r\n", false);
}

#[test]
fn what_is_configured_is_said() {
    let trial = Trial::new("{ ua-restriction: { denylist: [x], message: 'go, \"bot\"' } }", "");
    let body = "{\"message\":\"go, \\\"bot\\\"\"}\n".into();
    let expected = Seen::Answered { status: 403, fields: String::new(), body };
    assert_eq!(trial.ask("GET /", "user-agent: x\r\n"), expected);
}

#[test]
fn what_cannot_be_meant_is_a_configuration_error() {
    let one_list = "needs exactly one of `allowlist` and `denylist`";
    for (settings, key, problem) in [
        ("", "", one_list),
        ("allowlist: [a], denylist: [b]", "", one_list),
        ("allowlist: []", ".allowlist", "needs 1 to 1024 items"),
        ("denylist: ['']", ".denylist[0]", "needs a pattern"),
        ("denylist: [a, 'b(']", ".denylist[1]", "the pattern is invalid: unclosed group"),
        (
            "denylist: ['(?!x)']",
            ".denylist[0]",
            "the pattern is invalid: look-around, including look-ahead and look-behind, is not \
             supported",
        ),
        (
            "denylist: ['(\\w{500}){500}']",
            ".denylist[0]",
            "the pattern is too large",
        ),
    ] {
        let found = findings(&format!("{{ ua-restriction: {{ {settings} }} }}"), "");
        assert_eq!(found, [format!("routes[0].plugins.ua-restriction{key}: {problem}")]);
    }
}
