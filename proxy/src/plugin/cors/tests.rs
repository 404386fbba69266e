use super::super::trial::{Seen, Trial, refused};

const ALL: &str = "access-control-allow-methods: *\naccess-control-max-age: 5\n\
                   access-control-allow-headers: *\n";

fn trial(settings: &str) -> Trial {
    Trial::new(&format!("{{ cors: {{ {settings} }}, key-auth: {{}} }}"), "consumers: []")
}

/// The fields of the response to a request whose key is missing.
fn fields(settings: &str, request: &str) -> String {
    let Seen::Answered { status: 401, fields, .. } = trial(settings).ask("GET /", request) else {
        panic!("{settings}: not refused")
    };
    fields.replace("www-authenticate: apikey realm=\"key\"\n", "")
}

#[test]
fn any_options_request_is_answered_before_authentication() {
    for (fields, name) in [("", ""), ("origin: https://a.example\r\n", "with an origin")] {
        let seen = trial("").ask("OPTIONS /x", fields);
        let fields = format!("access-control-allow-origin: *\n{ALL}");
        assert_eq!(seen, Seen::Answered { status: 200, fields, body: String::new() }, "{name}");
    }
}

#[test]
fn origins_get_what_they_are_allowed() {
    const A: &str = "origin: https://a.example\r\n";
    const B: &str = "origin: https://b.example:81\r\n";
    const LISTED: &str = "allow_origins: \"https://a.example,http://b.example\"";
    const REGEX: &str = "allow_origins_by_regex: [\"^https://.*\\\\.?b\\\\.example(:[0-9]+)?$\"]";
    for (settings, request, origin, varies) in [
        ("", A, Some("*"), false),
        ("allow_origins: \"**\"", A, Some("https://a.example"), true),
        ("allow_origins: \"**\"", "", Some("*"), true),
        (LISTED, A, Some("https://a.example"), true),
        (LISTED, "", None, true),
        (LISTED, B, None, true),
        (LISTED, "origin: https://a.example.evil\r\n", None, true),
        ("allow_origins: null", "origin: null\r\n", Some("null"), true),
        (REGEX, A, None, true),
        (REGEX, B, Some("https://b.example:81"), true),
    ] {
        let vary = if varies { "vary: Origin\n" } else { "" };
        let settings = settings.replace(": null", ": \"null\"");
        let expected = origin.map_or_else(String::new, |origin| {
            format!("access-control-allow-origin: {origin}\n{ALL}")
        });
        assert_eq!(fields(&settings, request), format!("{vary}{expected}"), "{settings} {request}");
    }
}

#[test]
fn metadata_has_lists_for_all() {
    let metadata = "plugin_metadata: [{ id: cors, allow_origins: { \
                    a: \"https://a.example,https://aa.example\", b: \"https://b.example\" } }]";
    let settings = "allow_origins: \"https://c.example\", allow_origins_by_metadata";
    for (names, allowed) in [("[a]", "a aa c"), ("[b]", "b c"), ("[b, a]", "a aa b c")] {
        let trial = Trial::new(&format!("{{ cors: {{ {settings}: {names} }} }}"), metadata);
        let is_allowed = |name: &&str| {
            let origin = format!("https://{name}.example");
            let Seen::Forwarded { response, .. } =
                trial.ask("GET /", &format!("origin: {origin}\r\n"))
            else {
                panic!("{name}: not forwarded")
            };
            assert!(response.contains("vary: Origin\n"), "{response}");
            response.contains(&format!("access-control-allow-origin: {origin}\n"))
        };
        let seen: Vec<_> = ["a", "aa", "b", "c", "d"].into_iter().filter(is_allowed).collect();
        assert_eq!(seen.join(" "), allowed, "{names}");
    }
}

#[test]
fn everything_that_can_be_said_is_said_once() {
    let settings = "allow_origins: \"**\", allow_methods: \"**\", allow_headers: \"**\", \
                    expose_headers: \"X-A,X-B\", max_age: 60, allow_credential: true, \
                    timing_allow_origins: \"https://a.example\"";
    let request = "origin: https://a.example\r\naccess-control-request-headers: x-c, x-d\r\n";
    let expected = "vary: Origin\ntiming-allow-origin: https://a.example\n\
                    access-control-allow-origin: https://a.example\n\
                    access-control-allow-methods: \
                    GET,POST,PUT,DELETE,PATCH,HEAD,OPTIONS,CONNECT,TRACE\n\
                    access-control-max-age: 60\naccess-control-expose-headers: X-A,X-B\n\
                    access-control-allow-headers: x-c, x-d\n\
                    access-control-allow-credentials: true\n";
    let mut seen: Vec<_> = fields(settings, request).lines().map(str::to_owned).collect();
    let mut expected: Vec<_> = expected.lines().map(str::to_owned).collect();
    seen.sort();
    expected.sort();
    assert_eq!(seen, expected);
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (settings, message) in [
        ("allow_credential: true", "'allow_credential' is true"),
        ("allow_origins: \"a.example\"", "needs `*`, `**`, `null`"),
        ("allow_origins: \"https://a.example, https://b.example\"", "no blanks"),
        ("allow_origins_by_regex: [\"(\"]", "invalid regular expression"),
        ("allow_origins_by_regex: []", "at least one"),
        ("allow_methods: \"GET\\nX: y\"", "characters that no field can have"),
        ("allow_origins_by_metadata: [a]", "has no such name"),
        ("allow_origins_by_metadata: []", "needs 1 to 64 items"),
        ("max_age: soon", "a whole number"),
    ] {
        refused("cors", settings, message);
    }
}

#[test]
fn what_no_field_can_say_is_reported() {
    for key in ["allow_methods", "allow_headers", "expose_headers"] {
        refused("cors", &format!("{key}: \"X\u{2011}Token\""), "outside of ASCII");
    }
}
