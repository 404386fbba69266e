use bytes::BytesMut;

use super::*;
use crate::http::{
    fields::{ForwardedField, Name, Value},
    gate::RequestGate,
    head::{HeadLimits, RequestHead},
    name::Known,
};

fn head(request_line: &str, fields: &str) -> RequestHead {
    let text = format!("{request_line} HTTP/1.1\r\nhost: a\r\n{fields}\r\n");
    let limits = HeadLimits { size_max: 4096, fields_max: 20, target_size_max: 1024 };
    let parsed = RequestGate::new(limits).head(&mut BytesMut::from(&*text));
    parsed.expect("a valid head").expect("a whole head")
}

fn config() -> KeyAuthConfig {
    KeyAuthConfig {
        header: "apikey".into(),
        query: "apikey".into(),
        realm: "key".into(),
        hide_credentials: false,
        anonymous_consumer: None,
    }
}

fn consumers() -> Arc<Consumers> {
    let consumer =
        |name: &str, key: &str| Consumer { username: name.into(), key_auth: Some(key.into()) };
    Arc::new(Consumers::new(&[consumer("alice", "alice-secret"), consumer("bob", "b&b secret")]))
}

/// What came of a request: who was attached and which query the node sees, or the refusal's status.
#[derive(Debug, PartialEq, Eq)]
enum Result {
    Attached { consumer: String, query: Option<String>, hides_field: bool },
    Refused(u16),
}

fn run(config: &KeyAuthConfig, head: &RequestHead) -> Result {
    let plugin = build(config, &consumers());
    let mut cx = RequestContext {
        head,
        source: [127, 0, 0, 1].into(),
        query: head.path_and_query().1.map(Cow::Borrowed),
        edits: crate::plugin::FieldEdits::default(),
        consumer: None,
    };
    let sent_key = ForwardedField {
        name: Name::Received(b"apikey"),
        value: Value::Received(b""),
        known: Known::Other,
    };
    match plugin.request(&mut cx) {
        Outcome::Continue => {
            let consumer = cx.consumer.expect("a consumer is attached").to_string();
            let set: Vec<_> = cx.edits.set_fields().collect();
            assert_eq!(set, [("x-consumer-username", &consumer.parse().expect("a value"))]);
            Result::Attached {
                consumer,
                query: cx.query.map(Cow::into_owned),
                hides_field: cx.edits.replaces(&sent_key),
            }
        }
        Outcome::Answer(answer) => Result::Refused(answer.status.as_u16()),
        Outcome::Call(call) => panic!("{call:?}"),
    }
}

#[track_caller]
fn check(config: &KeyAuthConfig, line: &str, fields: &str, expected: &Result) {
    assert_eq!(run(config, &head(line, fields)), *expected, "{line} {fields}");
}

fn attached(consumer: &str, query: Option<&str>) -> Result {
    let query = query.map(str::to_owned);
    Result::Attached { consumer: consumer.into(), query, hides_field: false }
}

#[test]
fn a_key_in_the_field_or_in_the_query_attaches_its_consumer() {
    let config = config();
    check(&config, "GET /", "apikey: alice-secret\r\n", &attached("alice", None));
    check(&config, "GET /", "APIKEY: alice-secret\r\n", &attached("alice", None));
    let query = "apikey=alice-secret";
    check(&config, &format!("GET /?{query}"), "", &attached("alice", Some(query)));
    let query = "a=1&%61pikey=b%26b%20secret&b=2";
    check(&config, &format!("GET /?{query}"), "", &attached("bob", Some(query)));
}

#[test]
fn whatever_is_not_exactly_one_known_key_is_refused() {
    let config = config();
    for fields in [
        "",
        "apikey: \r\n",
        "apikey: alice-secre\r\n",
        "apikey: alice-secret2\r\n",
        "apikey: ALICE-SECRET\r\n",
        "apikey: alice-secret\r\napikey: alice-secret\r\n",
        "apikey: wrong\r\napikey: alice-secret\r\n",
        "api-key: alice-secret\r\n",
    ] {
        check(&config, "GET /", fields, &Result::Refused(401));
    }
    for query in ["apikey", "apikey=", "apikey=x", "Apikey=alice-secret", "xapikey=alice-secret"] {
        check(&config, &format!("GET /?{query}"), "", &Result::Refused(401));
    }
    let twice = "GET /?apikey=alice-secret&apikey=alice-secret";
    check(&config, twice, "", &Result::Refused(401));
    // The field is looked at first, and it is wrong.
    check(&config, "GET /?apikey=alice-secret", "apikey: x\r\n", &Result::Refused(401));
}

#[test]
fn hidden_credentials_are_taken_out_wherever_they_stand() {
    let config = KeyAuthConfig { hide_credentials: true, ..config() };
    let hidden = |query: Option<&str>| Result::Attached {
        consumer: "alice".into(),
        query: query.map(str::to_owned),
        hides_field: true,
    };
    check(&config, "GET /?a=1", "apikey: alice-secret\r\n", &hidden(Some("a=1")));
    check(&config, "GET /?apikey=alice-secret", "", &hidden(None));
    check(&config, "GET /?a=1&%61pikey=alice-secret&b", "", &hidden(Some("a=1&b")));
    check(&config, "GET /?a&apikey=other", "apikey: alice-secret\r\n", &hidden(Some("a")));
}

#[test]
fn an_anonymous_consumer_stands_in_for_a_missing_or_wrong_key() {
    let config = KeyAuthConfig { anonymous_consumer: Some("guest".into()), ..config() };
    check(&config, "GET /", "", &attached("guest", None));
    check(&config, "GET /", "apikey: wrong\r\n", &attached("guest", None));
    check(&config, "GET /", "apikey: alice-secret\r\n", &attached("alice", None));
}
