use std::time::Duration;

use super::super::{
    Call, Reply,
    trial::{Seen, Trial, refused},
};

fn trial(settings: &str) -> Trial {
    Trial::new(&format!("{{ fault-injection: {{ {settings} }} }}"), "")
}

#[test]
fn an_abort_has_the_body_and_fields_it_is_given() {
    let trial = trial(
        "abort: { http_status: 418, body: \"no $uri\", headers: { X-A: 1, x-b: \"$arg_b\" } }",
    );
    let seen = trial.ask("GET /x?b=y%0d", "");
    let fields = "x-a: 1\ncontent-type: text/plain; charset=utf-8\n".to_owned();
    assert_eq!(seen, Seen::Answered { status: 418, fields, body: "no /x".into() });
    assert_eq!(trial.ask("GET /x?b=y", "").field("x-b"), Some("y"));
}

#[test]
fn a_delay_comes_before_the_abort() {
    let trial = trial("delay: { duration: 0.25 }, abort: { http_status: 503 }");
    assert_eq!(trial.ask("GET /", ""), Seen::Called(Call::Delay(Duration::from_millis(250))));
    let seen = trial.ask_with("GET /", "", &mut |_| Some(Reply::Delayed));
    assert_eq!(seen.status(), Some(503));
}

#[test]
fn exactly_the_share_is_met() {
    for percentage in [0, 1, 33, 50, 99, 100] {
        let trial =
            trial(&format!("abort: {{ http_status: 500, percentage: {percentage} }}"));
        let met = (0..1000).filter(|_| trial.ask("GET /", "").status().is_some()).count();
        assert!(met.abs_diff(percentage * 10) <= 2, "{percentage}: {met}");
    }
}

#[test]
fn only_what_is_meant_is_met() {
    let trial = trial(
        "abort: { http_status: 500, vars: [[[arg_a, ==, x]], [[http_b, ==, y]]] }",
    );
    for (line, fields, is_met) in [
        ("GET /?a=x", "", true),
        ("GET /", "b: y\r\n", true),
        ("GET /?a=y", "b: x\r\n", false),
    ] {
        assert_eq!(trial.ask(line, fields).status().is_some(), is_met, "{line}");
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (settings, message) in [
        ("", "needs `abort` or `delay`"),
        ("abort: { body: x }", "`http_status` is missing"),
        ("abort: { http_status: 199 }", "from 200 to 599"),
        ("abort: { http_status: 500, percentage: 101 }", "from 0 to 100"),
        ("abort: { http_status: 500, headers: { Content-Length: 1 } }", "makes itself"),
        ("abort: { http_status: 500, vars: [[[a]]] }", "invalid expression"),
        ("abort: { http_status: 500, code: 1 }", "unknown key"),
        ("delay: {}", "`duration` is missing"),
        ("delay: { duration: 3601 }", "from 0 to 3600"),
    ] {
        refused("fault-injection", settings, message);
    }
}
