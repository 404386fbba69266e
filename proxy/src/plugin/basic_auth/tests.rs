use base64ct::{Base64, Encoding};

use super::super::trial::{self, Seen, Trial, findings};

const CONSUMERS: &str = "consumers:
  - { username: alice, labels: { custom_id: a-1 }, plugins: { basic-auth: { username: al, password: 'open sesame' } } }
  - { username: bob, plugins: { basic-auth: { username: bob, password: 'p:q:' } } }
  - { username: eve, plugins: { basic-auth: { username: évé, password: ü } } }
  - { username: guest }";

fn trial(settings: &str) -> Trial {
    Trial::new(&format!("{{ basic-auth: {{ {settings} }} }}"), CONSUMERS)
}

fn basic(credentials: &str) -> String {
    format!("Authorization: Basic {}\r\n", Base64::encode_string(credentials.as_bytes()))
}

#[track_caller]
fn check_attached(trial: &Trial, fields: &str, consumer: &str) -> Seen {
    trial::check_attached(trial, "GET /", fields, consumer)
}

#[track_caller]
fn check_refused(trial: &Trial, fields: &str, message: &str) {
    trial::check_challenged(trial, ("GET /", fields), "Basic realm=\"basic\"", message);
}

#[test]
fn name_and_password_attach_their_consumer() {
    let trial = trial("");
    let seen = check_attached(&trial, &basic("al:open sesame"), "alice");
    assert_eq!(seen.field("x-consumer-custom-id"), Some("a-1"));
    assert_eq!(seen.field("authorization"), Some("Basic YWw6b3BlbiBzZXNhbWU="));
    check_attached(&trial, &basic("al:open sesame").replace("Basic", "bAsIC"), "alice");
    check_attached(&trial, &basic("bob:p:q:"), "bob");
    check_attached(&trial, &basic("évé:ü"), "eve");
    // What a client claims to be is not what it is.
    let forged = format!("{}X-Consumer-Username: eve\r\n", basic("bob:p:q:"));
    check_attached(&trial, &forged, "bob");
}

#[test]
fn without_exactly_one_field_of_the_right_form_the_request_is_refused() {
    let trial = trial("");
    for fields in ["", "proxy-authorization: Basic YWw6b3BlbiBzZXNhbWU=\r\n"] {
        check_refused(&trial, fields, "Missing authorization in request");
    }
    let right = basic("al:open sesame");
    for fields in [
        "authorization: \r\n".to_owned(),
        "authorization: Basic\r\n".to_owned(),
        "authorization: Bearer YWw6b3BlbiBzZXNhbWU=\r\n".to_owned(),
        "authorization: al:open sesame\r\n".to_owned(),
        "authorization: Basic al:open sesame\r\n".to_owned(),
        basic("al"),
        basic(&format!("al:{}", "x".repeat(2000))),
        format!("{right}{right}"),
        format!("{}{right}", basic("al:wrong")),
        right.replace("\r\n", ", Basic YTpi\r\n"),
    ] {
        check_refused(&trial, &fields, "Invalid authorization in request");
    }
}

#[test]
fn whoever_is_not_known_by_this_very_password_is_refused() {
    let trial = trial("");
    for credentials in [
        "al:",
        ":",
        ":open sesame",
        "al:open sesam",
        "al:open sesame ",
        "al:opensesame",
        "al:Open sesame",
        "Al:open sesame",
        "alice:open sesame",
        "al:open sesame\n",
        "al\0:open sesame",
        "bob:p",
        "bob:p:q",
        "bob:open sesame",
        "nobody:",
        "guest:",
    ] {
        check_refused(&trial, &basic(credentials), "Invalid user authorization");
    }
    // Not UTF-8: `é` in Latin-1.
    check_refused(&trial, "authorization: Basic 6XbpOvw=\r\n", "Invalid user authorization");
}

#[test]
fn settings_hide_the_field_name_the_realm_and_let_somebody_stand_in() {
    let hidden = trial("hide_credentials: true");
    let seen = check_attached(&hidden, &basic("bob:p:q:"), "bob");
    assert_eq!(seen.field("authorization"), None);

    let realm = trial("realm: the shop");
    assert_eq!(
        realm.ask("GET /", "").field("www-authenticate"),
        Some("Basic realm=\"the shop\"")
    );

    let open = trial("anonymous_consumer: guest, hide_credentials: true");
    for fields in ["", "authorization: x\r\n", &basic("al:wrong"), &basic("nobody:x")] {
        assert_eq!(check_attached(&open, fields, "guest").field("authorization"), None);
    }
    check_attached(&open, &basic("al:open sesame"), "alice");
}

#[test]
fn what_cannot_be_meant_is_a_configuration_error_that_shows_no_secret() {
    let route = |settings: &str| findings(&format!("{{ basic-auth: {{ {settings} }} }}"), "");
    assert_eq!(
        route("realm: '', hide_credentials: 1, anonymous_consumer: nobody, header: x"),
        [
            "routes[0].plugins.basic-auth.realm: needs 1 to 128 printable characters but `\"` and \
             `\\`",
            "routes[0].plugins.basic-auth.hide_credentials: expected `true` or `false`, found `1`",
            "routes[0].plugins.basic-auth.anonymous_consumer: no consumer is named `nobody`",
            "routes[0].plugins.basic-auth.header: unknown key; known here: `_meta`, `realm`, \
             `hide_credentials` or `anonymous_consumer`",
        ]
    );
    let long = "s3cret".repeat(100);
    let consumer = |credential: &str| {
        let consumer = format!("{{ username: a, plugins: {{ basic-auth: {credential} }} }}");
        findings("{}", &format!("consumers: [{consumer}]"))
    };
    let (name, password) = (super::USERNAME_FORM, super::PASSWORD_FORM);
    for (credential, key, problem) in [
        ("{ username: s3cret }", "", "`password` is missing"),
        ("{ password: s3cret }", "", "`username` is missing"),
        ("{ username: '', password: s3cret }", ".username", name),
        ("{ username: 'a:b', password: s3cret }", ".username", name),
        ("{ username: \"a\\n\", password: s3cret }", ".username", name),
        (&format!("{{ username: {long}, password: s3cret }}"), ".username", name),
        ("{ username: a, password: '' }", ".password", password),
        ("{ username: a, password: \"s3cret\\0\" }", ".password", password),
        (&format!("{{ username: a, password: {long} }}"), ".password", password),
        ("{ username: a, password: 123456 }", ".password", "expected a string, found something else; put it in quotes"),
    ] {
        let expected = format!("consumers[0].plugins.basic-auth{key}: {problem}");
        assert_eq!(consumer(credential), [expected], "{credential}");
    }
    let twice = "consumers:
  - { username: a, plugins: { basic-auth: { username: x, password: one } } }
  - { username: b, plugins: { basic-auth: { username: x, password: two } } }";
    let problem = "consumer `a` has the same basic-auth credential; it belongs to one consumer";
    let expected = format!("consumers[1].plugins.basic-auth.username: {problem}");
    assert_eq!(findings("{}", twice), [expected]);
}

#[test]
fn a_label_that_would_end_a_line_is_refused() {
    for (label, problem) in [
        ("a\\r\\nx-admin: 1", ".labels.custom_id: needs 1 to 256 characters without blanks"),
        ("a\\0", ": the label `custom_id` has characters that no field value can have"),
    ] {
        let consumer = format!("{{ username: a, labels: {{ custom_id: \"{label}\" }} }}");
        let found = findings("{}", &format!("consumers: [{consumer}]"));
        assert_eq!(found, [format!("consumers[0]{problem}")]);
    }
}
