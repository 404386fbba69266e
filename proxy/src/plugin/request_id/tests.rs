use std::collections::HashSet;

use super::super::trial::{Seen, Trial, refused};

fn trial(settings: &str) -> Trial {
    Trial::new(&format!("{{ request-id: {{ {settings} }} }}"), "")
}

/// What the node is told, and the downstream.
fn told(trial: &Trial, fields: &str) -> (String, String) {
    let seen = trial.ask("GET /", fields);
    let id = seen.field("x-request-id").expect("an id").to_owned();
    let Seen::Forwarded { response, .. } = seen else { panic!("{seen:?}") };
    (id, response)
}

#[test]
fn every_algorithm_makes_ids_of_its_form() {
    for (settings, length, letters) in [
        ("", 36, "0123456789abcdef-"),
        ("algorithm: uuidv7", 36, "0123456789abcdef-"),
        ("algorithm: nanoid", 21, super::NANOID_LETTERS),
        ("algorithm: range_id", 16, super::LETTERS),
        ("algorithm: range_id, range_id: { length: 40, char_set: abcdef }", 40, "abcdef"),
        ("algorithm: ksuid", 27, super::LETTERS),
    ] {
        let trial = trial(settings);
        let ids: HashSet<String> = (0..100).map(|_| told(&trial, "").0).collect();
        assert_eq!(ids.len(), 100, "{settings}");
        for id in &ids {
            assert_eq!(id.len(), length, "{settings}: {id}");
            assert!(id.chars().all(|letter| letters.contains(letter)), "{settings}: {id}");
        }
        let first = ids.iter().next().expect("an id");
        match settings {
            "" => assert_eq!(&first[14..15], "4"),
            // 1767225600000 ms, version 7.
            "algorithm: uuidv7" => assert_eq!(&first[..15], "019b76da-a800-7"),
            _ => {}
        }
    }
}

#[test]
fn ksuids_hold_the_time() {
    // The reference implementation's: 2025-12-31T23:59:59Z and a second later differ in the front.
    let (early, late) = (super::ksuid(1_767_225_599), super::ksuid(1_767_225_600 + 86_400));
    assert!(early < late, "{early} {late}");
    assert!(super::ksuid(super::KSUID_EPOCH).starts_with("00000"));
}

#[test]
fn what_the_downstream_calls_a_request_is_kept_if_it_can_be() {
    let trial = trial("");
    let (id, response) = told(&trial, "x-request-id: abc-1\r\n");
    assert_eq!((id.as_str(), response.as_str()), ("abc-1", "x-request-id: abc-1\n"));
    let long = "x".repeat(257);
    for value in ["", "a b", "\u{e9}", &long, "a\r\nx-request-id: b"] {
        let seen = trial.ask("GET /", &format!("x-request-id: {value}\r\n"));
        let Seen::Forwarded { head, .. } = &seen else { panic!("{seen:?}") };
        let ids: Vec<_> = head.lines().filter(|line| line.starts_with("x-request-id")).collect();
        assert_eq!(ids.len(), 1, "{head}");
        assert_eq!(seen.field("x-request-id").map(str::len), Some(36), "{value}");
    }
}

#[test]
fn the_response_has_it_unless_told_otherwise() {
    let (id, response) = told(&trial(""), "");
    assert_eq!(response, format!("x-request-id: {id}\n"));
    assert_eq!(told(&trial("include_in_response: false"), "").1, "");
    let trial = Trial::new("{ request-id: { header_name: X-Trace }, key-auth: {} }", "");
    let seen = trial.ask("GET /", "X-Trace: t-1\r\n");
    assert_eq!((seen.status(), seen.field("x-trace")), (Some(401), Some("t-1")));
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (settings, message) in [
        ("algorithm: snowflake", "expected"),
        ("header_name: content-length", "the proxy makes itself"),
        ("range_id: { length: 5 }", "from 6 to 256"),
        ("range_id: { char_set: abc }", "6 to 256"),
        ("range_id: { size: 5 }", "unknown key"),
    ] {
        refused("request-id", settings, message);
    }
}
