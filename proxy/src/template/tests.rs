use bytes::BytesMut;
use regex::bytes::Regex;

use super::*;
use crate::{
    http::{
        fields::Scheme,
        gate::RequestGate,
        head::{HeadLimits, RequestHead},
    },
    variable::Ends,
};

fn head() -> RequestHead {
    let limits = HeadLimits { size_max: 4096, fields_max: 20, target_size_max: 1024 };
    let text = "GET /a?b=%41&e= HTTP/1.1\r\nhost: shop\r\nx-y: z\r\n\r\n";
    let parsed = RequestGate::new(limits).head(&mut BytesMut::from(text));
    parsed.expect("a valid head").expect("a whole head")
}

fn expand(template: &Template, found: Option<&Found<'_>>) -> String {
    let head = head();
    let ends = Ends {
        peer: "192.0.2.1:4000".parse().unwrap(),
        client: "192.0.2.1".parse().unwrap(),
        local: "198.51.100.1:80".parse().unwrap(),
        scheme: Scheme::Http,
    };
    let mut out = b">".to_vec();
    template.expand(&Facts::new(&head, "/a", head.path_and_query().1, ends), found, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn references_are_replaced() {
    for (text, expected) in [
        ("$uri", ">/a"),
        ("$host$uri", ">shop/a"),
        ("$scheme://$host:$server_port$uri", ">http://shop:80/a"),
        ("a${uri}b", ">a/ab"),
        ("${ uri }", ">/a"),
        ("$arg_b-", ">A-"),
        ("${http_x-y}", ">z"),
        ("$arg_none.", ">."),
        ("${arg_none}.", ">."),
        ("${arg_none ?? the default}.", ">the default."),
        ("${arg_none??x}.", ">x."),
        ("${arg_e ?? x}.", ">."),
        ("${arg_b ?? x}.", ">A."),
        ("\\$uri $uri", ">$uri /a"),
        ("\\${uri}", ">${uri}"),
        ("\\\\$uri", ">\\$uri"),
        ("\u{e9}$uri\u{e9}", ">\u{e9}/a\u{e9}"),
    ] {
        let template = Template::parse(text, Groups::None).expect(text);
        assert_eq!(expand(&template, None), expected, "{text}");
    }
}

#[test]
fn a_text_without_variables_is_known_as_one() {
    for (text, expected) in [
        ("", Some("")),
        ("text", Some("text")),
        ("5 $, $(x) $", Some("5 $, $(x) $")),
        ("\\$uri", Some("$uri")),
        ("a\\b", Some("a\\b")),
        ("$uri", None),
        ("a$uri", None),
    ] {
        let template = Template::parse(text, Groups::None).expect(text);
        assert_eq!(template.as_literal(), expected, "{text}");
        if let Some(literal) = expected {
            assert_eq!(expand(&template, None), format!(">{literal}"));
        }
    }
}

#[test]
fn groups_are_those_of_the_regular_expression() {
    let found = Search::new(Regex::new("a(one)l(two)?l").unwrap()).find(b"-aonell-").unwrap();
    for (text, expected) in [
        ("$1", ">one"),
        ("/$1x/$0", ">/onex/aonell"),
        ("${1}2$2.", ">one2."),
        ("${2 ?? none}", ">none"),
        ("$uri", ">/a"),
    ] {
        let template = Template::parse(text, Groups::UpTo(2)).expect(text);
        assert_eq!(expand(&template, Some(&found)), expected, "{text}");
    }
    let template = Template::parse("$2.", Groups::UpTo(2)).unwrap();
    assert_eq!(expand(&template, None), ">.");
}

#[test]
fn what_means_nothing_is_an_error() {
    let unknown = |name: &str| TemplateError::Variable(UnknownVariable(name.into()));
    for (text, groups, expected) in [
        ("$uris", Groups::None, unknown("uris")),
        ("$5", Groups::None, unknown("5")),
        ("${}", Groups::None, unknown("")),
        ("${ ?? x}", Groups::None, unknown("")),
        ("${$uri}", Groups::None, unknown("$uri")),
        ("a${uri", Groups::None, TemplateError::Unclosed),
        ("$3", Groups::UpTo(2), TemplateError::Group("3".into())),
        ("${1x}", Groups::UpTo(2), TemplateError::Group("1x".into())),
        ("$99999999999999999999", Groups::UpTo(2), {
            TemplateError::Group("99999999999999999999".into())
        }),
    ] {
        assert_eq!(Template::parse(text, groups), Err(expected), "{text}");
    }
    assert!(Template::parse(&"$uri".repeat(REFERENCES_MAX), Groups::None).is_ok());
    let error = Template::parse(&"$uri".repeat(REFERENCES_MAX + 1), Groups::None);
    assert_eq!(error, Err(TemplateError::TooMany));
    let message = Template::parse("$uris", Groups::None).unwrap_err().to_string();
    let expected =
        "unknown variable `uris`; did you mean `uri`?; write `\\$` for a `$` that means itself";
    assert_eq!(message, expected);
}
