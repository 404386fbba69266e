use super::*;

#[test]
fn near_words_are_suggested_and_far_ones_are_not() {
    let known = ["listeners", "kernel", "routes", "upstreams", "stream_routes", "log"];
    let check = |word, expected| assert_eq!(nearest(word, known.into_iter()), expected, "{word}");
    check("listener", Some("listeners"));
    check("lisetners", Some("listeners"));
    check("Routes", Some("routes"));
    check("rotues", Some("routes"));
    check("streamroutes", Some("stream_routes"));
    check("lgo", Some("log"));
    check("ssl", None);
    check("x", None);
    check("", None);
    check(&"routes".repeat(1000), None);
}

#[test]
fn edits_are_counted_once_each() {
    let check = |typed: &str, candidate, expected| {
        let typed: Vec<char> = typed.chars().collect();
        assert_eq!(edits(&typed, candidate), expected);
    };
    check("routes", "routes", 0);
    check("route", "routes", 1);
    check("rotues", "routes", 1);
    check("Routes", "routes", 1);
    check("routés", "routes", 1);
    check("", "log", 3);
    check("log", "", 3);
}

#[test]
fn alternatives_read_as_a_sentence() {
    let check = |words: &[&str], expected| {
        assert_eq!(alternatives(words.iter().copied()), expected);
    };
    check(&[], "nothing");
    check(&["a"], "`a`");
    check(&["a", "b"], "`a` or `b`");
    check(&["a", "b", "c"], "`a`, `b` or `c`");
}
