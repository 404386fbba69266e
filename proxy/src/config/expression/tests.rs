use std::env::VarError;

use serde_json::json;

use super::*;
use crate::config::{finding::Sink, tree};

/// What `read` makes of a file, and the lines of all errors.
fn with<T>(text: &str, read: impl Fn(&Value<'_>) -> T) -> (T, Vec<String>) {
    let sink = Sink::default();
    let lookup = |name: &str| match name {
        "PORT" => Ok("80".to_owned()),
        "SECRET" => Ok("s3cret".to_owned()),
        _ => Err(VarError::NotPresent),
    };
    let tree = tree::read(text, &lookup, &sink).expect("a tree");
    let value = read(&Value::root(&tree, &sink));
    (value, sink.take_findings("t").0.lines().collect())
}

#[test]
fn a_subtree_is_json_with_the_types_of_the_core_schema() {
    let (value, errors) = with(
        "a: [1, -2, 1.5, 0x10, \"1\", text, true, ~, '']\nb: { c: {} , d: [], \"1\": \"${{PORT}}\" }",
        |value| value.checked_json(),
    );
    assert_eq!(errors, [""; 0]);
    let expected = json!({
        "a": [1, -2, 1.5, 16, "1", "text", true, null, ""],
        "b": { "c": {}, "d": [], "1": 80 },
    });
    assert_eq!(value, Some(expected));
}

#[test]
fn what_json_has_not_is_an_error() {
    let (value, errors) =
        with("[.nan, .inf, { a: 1, a: 2 }, \"${{NONE}}\", 1]", |value| value.checked_json());
    assert_eq!(value, None);
    let starts = [
        "t:1:2: [0]: expected a number that is finite, found `.nan`",
        "t:1:8: [1]: expected a number that is finite, found `.inf`",
        "t:1:22: [2].a: repeats the key",
        "t:1:30: [3]: environment variable `NONE`",
    ];
    assert_eq!(errors.len(), starts.len(), "{errors:?}");
    for (error, start) in errors.iter().zip(starts) {
        assert!(error.starts_with(start), "{error}");
    }
}

fn judged(value: &Value<'_>) -> Option<Expression> {
    expression(value, Moment::Request)
}

#[test]
fn what_nobody_can_know_yet_is_an_error() {
    for (variable, moment, why) in [
        (
            "consumer_name",
            Moment::Request,
            Some("`consumer_name` is not known before the request is auth"),
        ),
        ("consumer_group_id", Moment::Consumer, None),
        ("status", Moment::Consumer, Some("`status` is not known before there is a response")),
        ("upstream_status", Moment::Response, None),
        ("request_time", Moment::Response, Some("`request_time` is known to logs only")),
        ("upstream_addr", Moment::Response, None),
        ("sent_http_a", Moment::Response, Some("`sent_http_a` is known to logs only")),
        ("msec", Moment::Request, None),
        ("uri", Moment::Request, None),
    ] {
        let text = format!("[OR, [uri, /], [AND, [uri, /], [uri, /], [{variable}, x]]]");
        let (found, errors) = with(&text, |value| expression(value, moment));
        assert_eq!(found.is_some(), why.is_none(), "{variable}");
        assert_eq!(errors.len(), why.iter().len(), "{errors:?}");
        errors.iter().zip(why).for_each(|(error, why)| assert!(error.contains(why), "{error}"));
    }
}

#[test]
fn errors_stand_where_the_node_stands() {
    let (found, errors) = with("- [uri, ==, /]\n- [OR, [uri, /], [uri, =, /]]\n", judged);
    assert!(found.is_none());
    assert_eq!(errors, ["t:2:18: [1][2]: invalid operator '='"]);
    let (found, errors) = with("[[uri, /], [arg_a, null]]", judged);
    assert!(found.is_some());
    assert_eq!(errors, [""; 0]);
    for node in ["[\"${{SECRET}}\", ==, x]", "[uri, \"${{SECRET}}\", x]"] {
        let (found, errors) = with(&format!("[{node}]"), judged);
        assert!(found.is_none());
        assert_eq!(errors, ["t:1:2: [0]: unknown variable or operator in the environment"]);
    }
    let (found, errors) = with("uri", judged);
    assert!(found.is_none());
    assert_eq!(errors, ["t:1:1: invalid expression"]);
}
