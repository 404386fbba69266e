use std::time::Duration;

use base64ct::{Base64, Encoding};
use ring::digest;

use super::super::trial::{BEGIN, Seen, Trial, findings};

const NAME: &str = "apisix-csrf-token";

fn trial(settings: &str) -> Trial {
    Trial::new(&format!("{{ csrf: {{ key: open sesame, {settings} }} }}"), "")
}

/// What a response sets, whole, and the token in it.
#[track_caller]
fn cookie(seen: &Seen, name: &str) -> (String, String) {
    let (Seen::Forwarded { response: fields, .. } | Seen::Answered { fields, .. }) = seen else {
        panic!("{seen:?}")
    };
    let value = fields.strip_prefix("set-cookie: ").and_then(|rest| rest.strip_suffix('\n'));
    let value = value.unwrap_or_else(|| panic!("{seen:?}"));
    let (pair, _) = value.split_once(';').unwrap();
    let token = pair.strip_prefix(name).unwrap().strip_prefix('=').unwrap();
    (value.to_owned(), token.to_owned())
}

fn both(name: &str, token: &str) -> String {
    format!("{name}: {token}\r\ncookie: a=1; {name}={token}; b=2\r\n")
}

#[track_caller]
fn check_refused(trial: &Trial, fields: &str, message: &str) {
    let seen = trial.ask("POST /", fields);
    cookie(&seen, NAME);
    let Seen::Answered { status, body, .. } = seen else { panic!("{seen:?}") };
    assert_eq!((status, body), (401, format!("{{\"error_msg\":\"{message}\"}}\n")), "{fields}");
}

#[track_caller]
fn check_forwarded(trial: &Trial, line: &str, fields: &str) -> Seen {
    let seen = trial.ask(line, fields);
    assert!(matches!(seen, Seen::Forwarded { .. }), "{line} {fields}: {seen:?}");
    seen
}

#[test]
fn every_response_brings_a_new_token() {
    let trial = trial("");
    let (value, first) = cookie(&check_forwarded(&trial, "GET /", ""), NAME);
    let expires = "Thu, 01 Jan 2026 02:00:00 GMT";
    assert_eq!(value, format!("{NAME}={first};path=/;SameSite=Lax;Expires={expires}"));
    let (_, second) = cookie(&trial.ask("POST /", ""), NAME);
    assert_ne!(first, second);
    for method in ["GET", "HEAD", "OPTIONS"] {
        check_forwarded(&trial, &format!("{method} /"), "");
    }
    for token in [&first, &second] {
        for method in ["POST", "PUT", "DELETE", "PATCH", "get"] {
            check_forwarded(&trial, &format!("{method} /"), &both(NAME, token));
        }
    }
}

#[test]
fn a_token_is_signed_as_apisix_signs_it() {
    let trial = trial("");
    let (_, token) = cookie(&trial.ask("GET /", ""), NAME);
    let json = Base64::decode_vec(&token).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["expires"], BEGIN);
    let text = format!("{{expires:{BEGIN},random:{},key:open sesame}}", json["random"]);
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    let hex: Vec<String> = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(json["sign"], hex.concat());
}

#[test]
fn without_the_same_token_in_field_and_cookie_a_request_is_refused() {
    let trial = trial("");
    let (_, token) = cookie(&trial.ask("GET /", ""), NAME);
    let (_, other) = cookie(&trial.ask("GET /", ""), NAME);
    let cookie = format!("cookie: {NAME}={token}\r\n");
    let field = format!("{NAME}: {token}\r\n");
    for (fields, message) in [
        (String::new(), "no csrf token in headers"),
        (cookie.clone(), "no csrf token in headers"),
        (format!("{NAME}: \r\n{cookie}"), "no csrf token in headers"),
        (field.clone(), "no csrf cookie"),
        (format!("{field}cookie: x{NAME}={token}; {token}\r\n"), "no csrf cookie"),
        (format!("{field}cookie: {NAME}={other}\r\n"), "csrf token mismatch"),
        (format!("{field}cookie: {NAME}=\r\n"), "csrf token mismatch"),
        (format!("{field}{field}{cookie}"), "csrf token mismatch"),
        (format!("{field}{cookie}{cookie}"), "csrf token mismatch"),
        (format!("{NAME}: {other}\r\n{field}{cookie}"), "csrf token mismatch"),
    ] {
        check_refused(&trial, &fields, message);
    }
}

#[test]
fn a_token_that_we_have_not_made_is_refused() {
    let trial = trial("");
    let (_, theirs) =
        cookie(&Trial::new("{ csrf: { key: other } }", "").ask("GET /", ""), NAME);
    let (_, ours) = cookie(&trial.ask("GET /", ""), NAME);
    let json = String::from_utf8(Base64::decode_vec(&ours).unwrap()).unwrap();
    let encode = |json: String| Base64::encode_string(json.as_bytes());
    let later = json.replace(&BEGIN.to_string(), &(BEGIN + 1).to_string());
    let sign = json.find("\"sign\":\"").unwrap() + 8;
    for token in [
        "x".to_owned(),
        "\u{fc}".to_owned(),
        theirs,
        ours[..ours.len() - 4].to_owned(),
        encode(" ".into()),
        encode("[]".into()),
        encode("{}".into()),
        encode(later),
        encode(format!("{}{}", &json[..sign], "\"}")),
        encode(json.replace("\"sign\":\"", "\"sign\":\"0")),
        encode(json.replace("\"random\":", "\"random\":0,\"random\":")),
        encode(format!("{json}{}", " ".repeat(2000))),
    ] {
        check_refused(&trial, &both(NAME, &token), "Failed to verify the csrf token signature");
    }
}

#[test]
fn a_token_is_good_until_it_expires() {
    for (settings, life) in [("", Some(7200)), ("expires: 5", Some(5)), ("expires: 0", None)] {
        let mut trial = trial(settings);
        let (value, token) = cookie(&trial.ask("GET /", ""), NAME);
        assert_eq!(value.contains("Expires="), life.is_some());
        trial.pass(Duration::from_secs(life.unwrap_or(1 << 30)));
        check_forwarded(&trial, "POST /", &both(NAME, &token));
        if life.is_some() {
            trial.pass(Duration::from_secs(1));
            let message = "Failed to verify the csrf token signature";
            check_refused(&trial, &both(NAME, &token), message);
        }
    }
}

#[test]
fn the_name_is_that_of_the_cookie_and_of_the_field() {
    let trial = trial("name: X-Mine");
    let (_, token) = cookie(&trial.ask("GET /", ""), "X-Mine");
    check_forwarded(&trial, "POST /", &both("X-Mine", &token));
    check_forwarded(&trial, "POST /", &format!("x-mine: {token}\r\ncookie: X-Mine={token}\r\n"));
    let seen = trial.ask("POST /", &both("x-mine", &token));
    assert_eq!(seen.status(), Some(401));
}

#[test]
fn what_cannot_be_meant_is_a_configuration_error_that_shows_no_secret() {
    let long = "s3cret".repeat(200);
    for (settings, key, problem) in [
        ("expires: 1", "", "`key` is missing"),
        ("key: ''", ".key", "needs 1 to 1024 bytes"),
        (&long, ".key", "needs 1 to 1024 bytes"),
        ("key: [s3cret]", ".key", "expected a string, found a list"),
        ("key: 123456", ".key", "expected a string, found something else; put it in quotes"),
        ("key: k, name: 'a b'", ".name", "is not the name of a field"),
        (
            "key: k, expires: -1",
            ".expires",
            "expected a whole number from 0 to 315360000, found `-1`",
        ),
    ] {
        let settings = if settings == long { format!("key: {settings}") } else { settings.into() };
        let found = findings(&format!("{{ csrf: {{ {settings} }} }}"), "");
        assert_eq!(found, [format!("routes[0].plugins.csrf{key}: {problem}")]);
    }
}
