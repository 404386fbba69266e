use super::*;

#[track_caller]
fn check(received: &str, path: &str, forward: Option<&str>) {
    let normalised = normalise(received).expect(received);
    assert_eq!(normalised.path, path, "{received}");
    let expected = match forward {
        None => ForwardPath::AsReceived,
        Some(forward) => ForwardPath::Rewritten(forward.to_owned()),
    };
    assert_eq!(normalised.forward, expected, "{received}");
    // What is matched and what is forwarded have no other spelling.
    for text in [Some(path), forward].into_iter().flatten() {
        let again = normalise(text).expect(text);
        assert_eq!((&*again.path, &again.forward), (path, &ForwardPath::AsReceived), "{text}");
    }
}

#[test]
fn what_has_one_spelling_is_forwarded_as_received() {
    for path in [
        "/",
        "*",
        "/a",
        "/a/",
        "/a/b.c/d..e",
        "/a;b=c/d",
        "/...",
        "/.a",
        "/a/..b",
        "/a/b.",
        "/{a|b}^\"[]",
        "/%25",
        "/%252e%252e/a",
        "/%20",
        "/%C3%A9",
        "/%7F",
        "/%3F%23",
        "/a%0A",
        "/.well-known/x",
        "/a;/.a;b",
    ] {
        check(path, path, None);
    }
}

#[test]
fn what_needs_decoding_only_for_the_match_is_forwarded_as_received() {
    check("/%61dmin", "/admin", None);
    check("/%41%5a%7e%2D%5F", "/AZ~-_", None);
    check("/caf%c3%a9", "/caf%C3%A9", None);
    check("/a%3Bb%3d%26%40", "/a;b=&@", None);
    check("/%7Bx%7D%3c%22", "/{x}<\"", None);
}

#[test]
fn empty_and_dot_segments_go() {
    check("//", "/", Some("/"));
    check("//a", "/a", Some("/a"));
    check("/a//b///c//", "/a/b/c/", Some("/a/b/c/"));
    check("/.", "/", Some("/"));
    check("/..", "/", Some("/"));
    check("/../../a", "/a", Some("/a"));
    check("/a/.", "/a/", Some("/a/"));
    check("/a/..", "/", Some("/"));
    check("/a/b/../c", "/a/c", Some("/a/c"));
    check("/a/./b/../../c/", "/c/", Some("/c/"));
    check("/a/b/..//../c", "/c", Some("/c"));
    check("/a//../b", "/b", Some("/b"));
}

#[test]
fn a_hidden_separator_or_dot_is_a_separator_or_a_dot() {
    check("/a%2fb", "/a/b", Some("/a/b"));
    check("/a%2F", "/a/", Some("/a/"));
    check("/a%5Cb", "/a/b", Some("/a/b"));
    check("/a\\b", "/a/b", Some("/a/b"));
    check("/\\a", "/a", Some("/a"));
    check("/x/..\\a", "/a", Some("/a"));
    check("/%2e%2e/a", "/a", Some("/a"));
    check("/x/%2E./a", "/a", Some("/a"));
    check("/x%2f..%2fa", "/a", Some("/a"));
    check("/x/%2e%2e%5ca", "/a", Some("/a"));
    check("/a%2Etxt", "/a.txt", Some("/a.txt"));
}

#[test]
fn a_rewritten_path_keeps_what_is_data() {
    check("/x/../a%3Bb/%61%c3%a9%20", "/a;b/a%C3%A9%20", Some("/a%3Bb/a%C3%A9%20"));
    check("//%3F%23%25/{", "/%3F%23%25/{", Some("/%3F%23%25/{"));
    check("/x%3B/../a", "/a", Some("/a"));
}

#[test]
fn every_spelling_of_a_protected_path_is_that_path() {
    for spelling in [
        "/admin/x",
        "/%61dmin/x",
        "/ADMIN/../admin/x",
        "//admin//x",
        "/./admin/./x",
        "/a/../admin/x",
        "/admin%2fx",
        "/admin%2Fx",
        "/%2e/admin/x",
        "/admin\\x",
        "/\\admin/x",
        "/..%5cadmin/x",
        "/%5Cadmin%5Cx",
        "/a/%2e%2E/admin/x",
        "/a%2f..%2fadmin/x",
        "/admin/y/../x",
        "/../admin/x",
        "/%61%64%6d%69%6e/%78",
    ] {
        assert_eq!(normalise(spelling).unwrap().path, "/admin/x", "{spelling}");
    }
}

#[test]
fn what_has_no_one_spelling_is_refused() {
    for (path, error) in [
        ("", PathError::Relative),
        ("a", PathError::Relative),
        ("**", PathError::Relative),
        ("/%", PathError::Encoding),
        ("/%2", PathError::Encoding),
        ("/%zz", PathError::Encoding),
        ("/%+1", PathError::Encoding),
        ("/%2/a", PathError::Encoding),
        ("/%%30%30", PathError::Encoding),
        ("/a%00", PathError::Nul),
        ("/a/..;/b", PathError::NamelessParameter),
        ("/a/.;x=y/b", PathError::NamelessParameter),
        ("/a/%2e%2e%3b/b", PathError::NamelessParameter),
        ("/a/..;", PathError::NamelessParameter),
        ("/;/b", PathError::NamelessParameter),
        ("/a/;x=1/b", PathError::NamelessParameter),
        ("/a/%3b", PathError::NamelessParameter),
    ] {
        assert_eq!(normalise(path), Err(error), "{path}");
        assert_eq!(error.fault(), Fault::HeadMalformed);
    }
}

#[test]
fn a_plain_path_is_not_copied() {
    assert!(matches!(normalise("/api/v1/items").unwrap().path, Cow::Borrowed(_)));
    assert!(matches!(normalise("/.well-known/%20").unwrap().path, Cow::Borrowed(_)));
}

#[test]
fn configured_literals_take_the_spelling_of_paths() {
    for (literal, canonical) in [
        ("/a/b", "/a/b"),
        ("/caf\u{e9}", "/caf%C3%A9"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/a b", "/a%20b"),
        ("/%61", "/a"),
        ("/100%", "/100%25"),
        ("/%zz", "/%25zz"),
        ("/a?b", "/a%3Fb"),
        ("", ""),
    ] {
        assert_eq!(canonical_literal(literal), canonical, "{literal}");
    }
}
