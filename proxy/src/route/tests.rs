use super::*;
use crate::{config::Route, plugin::PluginSet};

/// A route by its URIs, hosts, methods (each separated by blanks) and priority.
fn route((uris, hosts, methods, priority): (&str, &str, &str, i64)) -> Route {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
    Route {
        id: uris.into(),
        uris: words(uris),
        hosts: words(hosts),
        methods: words(methods),
        priority,
        name: None,
        plugins: PluginSet::default(),
        plugin_config: None,
        service: None,
        upstream: None,
    }
}

/// Each row: host, path, method, and the number of the route that is selected.
#[track_caller]
fn check(routes: &[(&str, &str, &str, i64)], rows: &[(&str, &str, &str, Option<usize>)]) {
    let routes: Vec<_> = routes.iter().copied().map(route).collect();
    let router = Router::new(&routes);
    for &(host, path, method, expected) in rows {
        let host = (!host.is_empty()).then_some(host);
        assert_eq!(router.select(host, path, method), expected, "{host:?} {path} {method}");
    }
}

#[test]
fn exact_beats_prefix_and_longer_beats_shorter_whatever_the_priority() {
    check(
        &[("/*", "", "", 100), ("/a/*", "", "", 50), ("/a/b", "", "", -1), ("/a/b*", "", "", 0)],
        &[
            ("", "/a/b", "GET", Some(2)),
            ("", "/a/bc", "GET", Some(3)),
            ("", "/a/b/c", "GET", Some(3)),
            ("", "/a/c", "GET", Some(1)),
            ("", "/a/", "GET", Some(1)),
            ("", "/a", "GET", Some(0)),
            ("", "/", "GET", Some(0)),
            ("", "*", "OPTIONS", None),
        ],
    );
}

#[test]
fn a_prefix_is_of_characters_not_of_segments() {
    check(
        &[("/blog*", "", "", 0), ("/news/*", "", "", 0)],
        &[
            ("", "/blog", "GET", Some(0)),
            ("", "/blogs", "GET", Some(0)),
            ("", "/blog/x", "GET", Some(0)),
            ("", "/news/x", "GET", Some(1)),
            ("", "/news/", "GET", Some(1)),
            ("", "/news", "GET", None),
            ("", "/blo", "GET", None),
            ("", "/Blog", "GET", None),
        ],
    );
}

#[test]
fn priority_orders_equal_literals_then_the_configuration() {
    check(
        &[
            ("/a*", "", "", 0),
            ("/a*", "", "", 5),
            ("/a*", "", "", 5),
            ("/x", "", "", 0),
            ("/x", "", "", 1),
            ("/x", "", "", 1),
        ],
        &[("", "/a", "GET", Some(1)), ("", "/x", "GET", Some(4))],
    );
}

#[test]
fn a_method_that_is_not_taken_falls_through() {
    check(
        &[
            ("/a/b", "", "GET HEAD", 0),
            ("/a/b", "", "PUT", -1),
            ("/a/*", "", "POST", 9),
            ("/a/*", "", "POST DELETE", 0),
            ("/*", "", "", 0),
        ],
        &[
            ("", "/a/b", "GET", Some(0)),
            ("", "/a/b", "PUT", Some(1)),
            ("", "/a/b", "POST", Some(2)),
            ("", "/a/b", "DELETE", Some(3)),
            ("", "/a/b", "PATCH", Some(4)),
            ("", "/a/b", "get", Some(4)),
        ],
    );
    check(&[("/a", "", "GET", 0)], &[("", "/a", "POST", None)]);
}

#[test]
fn host_beats_path() {
    check(
        &[
            ("/a/b", "", "", 9),
            ("/*", "foo.com", "", 0),
            ("/a/*", "*.foo.com", "", 0),
            ("/a/*", "*.bar.foo.com", "", 0),
            ("/only", "*.bar.foo.com foo.com", "POST", 0),
            ("/star", "*", "", 0),
        ],
        &[
            ("foo.com", "/a/b", "GET", Some(1)),
            ("FOO.com.", "/a/b", "GET", Some(1)),
            ("x.foo.com", "/a/b", "GET", Some(2)),
            ("x.y.foo.com", "/a/b", "GET", Some(2)),
            ("bar.foo.com", "/a/b", "GET", Some(2)),
            ("x.bar.foo.com", "/a/b", "GET", Some(3)),
            ("x.y.BAR.foo.com", "/a/b", "GET", Some(3)),
            ("x.bar.foo.com", "/only", "POST", Some(4)),
            ("foo.com", "/only", "POST", Some(4)),
            ("foo.com", "/only", "GET", Some(1)),
            ("x.bar.foo.com", "/only", "GET", None),
            ("xfoo.com", "/a/b", "GET", Some(0)),
            (".foo.com", "/a/b", "GET", Some(0)),
            ("", "/a/b", "GET", Some(0)),
            ("other", "/star", "GET", Some(5)),
            ("x.foo.com", "/star", "GET", Some(5)),
            ("x.foo.com", "/none", "GET", None),
        ],
    );
    // `*` is a host like others, whatever the path.
    check(
        &[("/a/b", "", "", 9), ("/a/*", "*", "POST", 0), ("/a/*", "*.foo.com", "PUT", 0)],
        &[
            ("other", "/a/b", "POST", Some(1)),
            ("", "/a/b", "POST", Some(1)),
            ("x.foo.com", "/a/b", "PUT", Some(2)),
            ("x.foo.com", "/a/b", "POST", Some(1)),
            ("x.foo.com", "/a/b", "GET", Some(0)),
            ("other", "/a/b", "PUT", Some(0)),
        ],
    );
    let long = "x".repeat(HOST_NAME_SIZE_MAX);
    check(
        &[("/", "*.foo.com", "", 0), ("/", "", "", 0)],
        &[(&format!("{long}.foo.com"), "/", "GET", Some(1))],
    );
}

#[test]
fn several_uris_and_hosts_are_all_of_them() {
    check(
        &[("/a /b/*", "one two", "", 0)],
        &[
            ("one", "/a", "GET", Some(0)),
            ("two", "/b/c", "GET", Some(0)),
            ("two", "/b", "GET", None),
            ("three", "/a", "GET", None),
        ],
    );
    check(&[], &[("one", "/", "GET", None)]);
}

#[test]
fn patterns_are_compared_in_the_spelling_of_normalised_paths() {
    check(
        &[("/caf\u{e9}/*", "", "", 0), ("/a%20b", "", "", 0), ("/*", "", "", 0)],
        &[("", "/caf%C3%A9/x", "GET", Some(0)), ("", "/a%20b", "GET", Some(1))],
    );
}

/// The rules said once more, slowly: every candidate that matches, the best of them.
fn select_slowly(routes: &[Route], host: &str, path: &str, method: &str) -> Option<usize> {
    let matches = |pattern: &str, text: &str| match pattern.split_once('*') {
        Some((literal, "")) => text.starts_with(literal).then_some((0, literal.len())),
        _ => (pattern == text).then_some((1, pattern.len())),
    };
    let host_rank = |pattern: &str| match pattern.strip_prefix('*') {
        Some("") => Some((1, 0)),
        Some(suffix) => {
            (host.len() > suffix.len() && host.ends_with(suffix)).then_some((1, suffix.len()))
        }
        None => (pattern == host).then_some((2, 0)),
    };
    let mut best = None;
    for (index, route) in routes.iter().enumerate() {
        let hosts: Vec<_> = match route.hosts.is_empty() {
            true => vec![(0, 0)],
            false => route.hosts.iter().filter_map(|pattern| host_rank(pattern)).collect(),
        };
        let takes = route.methods.is_empty() || route.methods.iter().any(|taken| taken == method);
        for host in hosts {
            for uri in route.uris.iter().filter_map(|uri| matches(uri, path)) {
                let rank = (host, uri, route.priority, Reverse(index));
                if takes && best.is_none_or(|best| rank > best) {
                    best = Some(rank);
                }
            }
        }
    }
    best.map(|(_, _, _, Reverse(index))| index)
}

#[test]
fn the_index_selects_what_the_rules_select() {
    // A fixed sequence is enough: every combination of a few short parts comes up many times.
    let mut state: u64 = 1;
    let mut pick = |bound: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound
    };
    let uris =
        ["/", "/*", "*", "/a", "/a*", "/a/*", "/a/b", "/a/b*", "/ab*", "/b/*", "/a/b/c", "/a/b/*"];
    let hosts = ["", "", "*", "x", "a.x", "*.x", "*.a.x", "*.b.a.x", "x *.a.x"];
    let methods = ["", "", "GET", "POST", "GET PUT"];
    let paths = ["/", "/a", "/ab", "/a/", "/a/b", "/a/bc", "/a/b/c", "/b", "/b/", "/c", "*"];
    let names = ["x", "a.x", "b.a.x", "c.b.a.x", "y", "ax"];
    for _ in 0..300 {
        let count = 1 + pick(8);
        let routes: Vec<_> = (0..count)
            .map(|_| {
                let uri = [uris[pick(uris.len())], uris[pick(uris.len())]].join(" ");
                route((
                    &uri,
                    hosts[pick(hosts.len())],
                    methods[pick(methods.len())],
                    pick(3) as i64,
                ))
            })
            .collect();
        let router = Router::new(&routes);
        for host in names {
            for path in paths {
                for method in ["GET", "POST", "DELETE"] {
                    let expected = select_slowly(&routes, host, path, method);
                    let selected = router.select(Some(host), path, method);
                    assert_eq!(selected, expected, "{host} {path} {method} in {routes:?}");
                }
            }
        }
    }
}
