use super::*;

/// Parameters in the order of the pattern.
type Parameters = &'static [(&'static str, &'static str)];

#[test]
fn segments_and_the_rest_are_bound() {
    let rows: &[(&str, &str, Option<Parameters>)] = &[
        ("/a", "/a", Some(&[])),
        ("/a", "/a/", None),
        ("/a*", "/ab/c", Some(&[])),
        ("/a*", "/a", Some(&[])),
        ("/a/*", "/a", None),
        ("/a/*", "/a/", Some(&[])),
        ("/a/*rest", "/a/", Some(&[("rest", "")])),
        ("/a/*rest", "/a/b/c", Some(&[("rest", "b/c")])),
        ("/a/:x", "/a/1", Some(&[("x", "1")])),
        ("/a/:x", "/a/", None),
        ("/a/:x", "/a/1/", None),
        ("/a/:x", "/a/1/2", None),
        ("/a/:x/", "/a/1/", Some(&[("x", "1")])),
        ("/a/:x/", "/a/1", None),
        ("/:x/b/:y", "/1/b/2", Some(&[("x", "1"), ("y", "2")])),
        ("/:x/b/:y", "/1/c/2", None),
        ("/:x/*y", "/1/2/3", Some(&[("x", "1"), ("y", "2/3")])),
        ("/:x/*y", "/1", None),
        ("/a/*/b", "/a/1/b", Some(&[])),
        ("/a/*/b", "/a/1/2/b", Some(&[])),
        ("/a/*/b", "/a/b", None),
        ("/a/*/b", "/a/1/b/c", None),
        ("/a/*x/b/*y", "/a/1/b/2/b/3", Some(&[("x", "1/b/2"), ("y", "3")])),
        ("/a/*x/b/*y", "/a/1/b/", Some(&[("x", "1"), ("y", "")])),
        ("/a/*x/b/*y", "/a/b/b/3", Some(&[("x", "b"), ("y", "3")])),
        ("/a/*x/b/*y", "/a/b/3", None),
        ("/*x/:y/c/*z/d", "/1/2/3/c/4/c/5/d", Some(&[("x", "1/2/3/c"), ("y", "4"), ("z", "5")])),
        ("/*/*", "/1", None),
        ("/*x/*y", "/1/2/3", Some(&[("x", "1/2"), ("y", "3")])),
        ("/v1/x:batch", "/v1/x:batch", Some(&[])),
        ("/%3Ax/%2A", "/:x/*", Some(&[])),
        ("/:x/caf\u{e9}%2Fy", "/1/caf%C3%A9/y", Some(&[("x", "1")])),
        ("/*", "*", None),
    ];
    for &(text, path, expected) in rows {
        let pattern = Pattern::parse(text).expect(text);
        assert_eq!(pattern.matches(path), expected.is_some(), "{text} {path}");
        let names = pattern.open.iter().filter_map(Segment::name);
        let found: Vec<_> =
            names.filter_map(|name| Some((name, pattern.parameter(path, name)?))).collect();
        assert_eq!(found, expected.unwrap_or_default(), "{text} {path}");
        assert_eq!(pattern.parameter(path, "none"), None);
        assert_eq!(pattern.parameter(path, ""), None);
    }
}

#[test]
fn literals_end_at_the_first_parameter_or_star() {
    for (text, literal, is_exact, is_prefix) in [
        ("/a/b", "/a/b", true, false),
        ("/a/b*", "/a/b", false, true),
        ("/a/*rest", "/a/", false, true),
        ("/a/:x/*", "/a/", false, false),
        ("/a/*/:x", "/a/", false, false),
        ("/x:y/:z", "/x:y/", false, false),
    ] {
        let pattern = Pattern::parse(text).expect(text);
        assert_eq!((pattern.as_str(), pattern.literal()), (text, literal));
        assert_eq!((pattern.is_exact(), pattern.is_prefix()), (is_exact, is_prefix), "{text}");
    }
}

#[test]
fn what_no_path_matches_is_refused() {
    for (text, problem) in [
        ("a", "must start with `/`"),
        ("", "must start with `/`"),
        ("*", "must start with `/`"),
        ("/a*b", "inside a segment"),
        ("/a*/b", "inside a segment"),
        ("/:x/a*", "inside a segment"),
        ("/a?b", "`?` or `#`"),
        ("/:x/a#", "`?` or `#`"),
        ("/:x/a b", "blanks"),
        ("/a//b", "empty segments"),
        ("/:x//b", "empty segments"),
        ("/a/./b", "`.` and `..`"),
        ("/:x/%2e%2e", "`.` and `..`"),
        ("/:", "without a name"),
        ("/:x/:x", "twice"),
        ("/:x.y", "letters, digits"),
        ("/*x*", "letters, digits"),
    ] {
        let error = Pattern::parse(text).expect_err(text).to_string();
        assert!(error.contains(problem), "{text}: {error}");
    }
    let text = |count| "/:a".to_owned() + &"/b".repeat(count);
    assert!(Pattern::parse(&text(OPEN_SEGMENTS_MAX - 1)).is_ok());
    assert!(Pattern::parse(&text(OPEN_SEGMENTS_MAX)).is_err());
}
