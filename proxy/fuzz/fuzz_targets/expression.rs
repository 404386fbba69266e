//! Expressions: whatever JSON is one, joining it to itself says the same, or the opposite; whatever
//! is none says where.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use proxy::{
    expression::{DEPTH_MAX, Expression, ExpressionError, Flaw, NODES_MAX},
    http::{
        fields::Scheme,
        gate::RequestGate,
        head::{HeadLimits, RequestHead},
    },
    variable::{Ends, Facts},
};
use serde_json::{Value as Json, json};

const REQUEST: &str = "GET /a/b?n=10&t=text&t=more HTTP/1.1\r\nhost: A.example:80\r\n\
                       x-ip: 192.0.2.9\r\ncookie: s=1; t=2\r\n\r\n";

fuzz_target!(|data: &[u8]| {
    let Ok(value) = serde_json::from_slice::<Json>(data) else { return };
    let head = head();
    let address = "192.0.2.1:4000".parse().expect("an address");
    let ends = Ends { peer: address, client: address.ip(), local: address, scheme: Scheme::Http };
    let facts = Facts::new(&head, "/a/b", head.path_and_query().1, ends);
    match Expression::parse(&value) {
        Ok(expression) => check_joined(&value, expression.holds(&facts), &facts),
        Err(error) => check_error(&value, &error),
    }
});

fn head() -> RequestHead {
    let limits = HeadLimits { size_max: 4096, fields_max: 20, target_size_max: 1024 };
    let parsed = RequestGate::new(limits).head(&mut BytesMut::from(REQUEST));
    parsed.expect("a valid head").expect("a whole head")
}

fn check_joined(value: &Json, holds: bool, facts: &Facts<'_>) {
    // A list without nodes is an expression and not a node.
    if value.as_array().is_some_and(Vec::is_empty) {
        return assert!(holds);
    }
    for (joined, expected) in [
        (json!([value]), holds),
        (json!(["AND", value, value]), holds),
        (json!(["OR", value, value]), holds),
        (json!(["!AND", value, value]), !holds),
        (json!(["!OR", value, value]), !holds),
    ] {
        match Expression::parse(&joined) {
            Ok(expression) => assert_eq!(expression.holds(facts), expected, "{joined}"),
            Err(error) => assert!(matches!(error.flaw, Flaw::TooDeep | Flaw::TooLarge)),
        }
    }
    let any = Expression::any_of(&json!([value, value]));
    assert!(any.map_or(true, |any| any.holds(facts) == holds));
}

fn check_error(value: &Json, error: &ExpressionError) {
    assert!(error.path.len() <= DEPTH_MAX);
    let place = error.path.iter().try_fold(value, |value, index| value.get(*index));
    assert!(place.is_some(), "{:?}", error.path);
    let message = error.to_string();
    assert!(!message.is_empty() && !message.contains(char::is_control), "{message:?}");
    if error.flaw == Flaw::TooLarge {
        assert!(value.to_string().len() > NODES_MAX);
    }
}
