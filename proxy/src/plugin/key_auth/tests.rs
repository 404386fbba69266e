use super::super::trial::{self, Trial, check_attached, findings};

const CONSUMERS: &str = "consumers:
  - { username: alice, plugins: { key-auth: { key: alice-secret } } }
  - { username: bob, plugins: { key-auth: { key: \"b&b secret\" } } }
  - { username: guest }";

fn trial(settings: &str) -> Trial {
    Trial::new(&format!("{{ key-auth: {{ {settings} }} }}"), CONSUMERS)
}

#[track_caller]
fn check_refused(trial: &Trial, line: &str, fields: &str, message: &str) {
    trial::check_challenged(trial, (line, fields), "apikey realm=\"key\"", message);
}

#[test]
fn a_key_in_the_field_or_in_the_query_attaches_its_consumer() {
    let trial = trial("");
    check_attached(&trial, "GET /", "apikey: alice-secret\r\n", "alice");
    let seen = check_attached(&trial, "GET /", "APIKEY: alice-secret\r\n", "alice");
    assert_eq!(seen.field("apikey"), Some("alice-secret"));
    for (line, consumer) in [
        ("GET /?apikey=alice-secret", "alice"),
        ("GET /?a=1&%61pikey=b%26b%20secret&b=2", "bob"),
    ] {
        let seen = check_attached(&trial, line, "", consumer);
        assert_eq!(seen.line(), Some(&*format!("{line} HTTP/1.1")));
    }
}

#[test]
fn whatever_is_not_exactly_one_known_key_is_refused() {
    let trial = trial("");
    for fields in ["", "api-key: alice-secret\r\n"] {
        check_refused(&trial, "GET /", fields, "Missing API key in request");
    }
    for fields in [
        "apikey: \r\n",
        "apikey: alice-secre\r\n",
        "apikey: alice-secret2\r\n",
        "apikey: ALICE-SECRET\r\n",
        "apikey: alice-secret\r\napikey: alice-secret\r\n",
        "apikey: wrong\r\napikey: alice-secret\r\n",
    ] {
        check_refused(&trial, "GET /", fields, "Invalid API key in request");
    }
    for query in ["apikey", "apikey=", "apikey=x", "apikey=alice-secret&apikey=alice-secret"] {
        check_refused(&trial, &format!("GET /?{query}"), "", "Invalid API key in request");
    }
    for query in ["Apikey=alice-secret", "xapikey=alice-secret"] {
        check_refused(&trial, &format!("GET /?{query}"), "", "Missing API key in request");
    }
    // The field is looked at first, and it is wrong.
    let line = "GET /?apikey=alice-secret";
    check_refused(&trial, line, "apikey: x\r\n", "Invalid API key in request");
}

#[test]
fn hidden_credentials_are_taken_out_wherever_they_stand() {
    let trial = trial("hide_credentials: true");
    for (line, fields, expected) in [
        ("GET /?a=1", "apikey: alice-secret\r\n", "GET /?a=1 HTTP/1.1"),
        ("GET /?apikey=alice-secret", "", "GET / HTTP/1.1"),
        ("GET /?a=1&%61pikey=alice-secret&b", "", "GET /?a=1&b HTTP/1.1"),
        ("GET /?a&apikey=other", "apikey: alice-secret\r\n", "GET /?a HTTP/1.1"),
    ] {
        let seen = check_attached(&trial, line, fields, "alice");
        assert_eq!((seen.line(), seen.field("apikey")), (Some(expected), None));
    }
}

#[test]
fn an_anonymous_consumer_stands_in_for_a_missing_or_wrong_key() {
    let trial = trial("anonymous_consumer: guest");
    check_attached(&trial, "GET /", "", "guest");
    check_attached(&trial, "GET /", "apikey: wrong\r\n", "guest");
    check_attached(&trial, "GET /", "apikey: alice-secret\r\n", "alice");
}

/// Everybody could guess it.
#[test]
fn what_stands_for_a_key_is_not_the_key() {
    let problem = "references to secrets are not built yet; write `${{VAR}}`";
    for key in ["$secret://vault/1/alice/key", "$ENV://KEY", "$env://KEY/name"] {
        let plugins = format!("plugins: {{ key-auth: {{ key: \"{key}\" }} }}");
        for consumer in [
            format!("{{ username: a, {plugins} }}"),
            format!("{{ username: a }}, {{ id: a/credentials/b, {plugins} }}"),
        ] {
            let found = findings("{}", &format!("consumers: [{consumer}]"));
            assert!(found.iter().any(|line| line.ends_with(problem)), "{consumer}: {found:?}");
        }
        let settings = format!("{{ csrf: {{ key: \"{key}\" }} }}");
        let found = findings(&settings, "");
        assert_eq!(found, [format!("routes[0].plugins.csrf.key: {problem}")]);
    }
}
