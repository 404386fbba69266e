use std::{iter, net::IpAddr};

use bytes::BytesMut;
use serde_json::json;

use super::*;
use crate::{
    config::Route,
    expression::Expression,
    http::{
        fields::Scheme,
        gate::RequestGate,
        head::{HeadLimits, RequestHead},
    },
    plugin::PluginSet,
    variable::Ends,
};

/// A route by its URIs, hosts, methods (each separated by blanks) and priority.
fn route((uris, hosts, methods, priority): (&str, &str, &str, i64)) -> Route {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
    let pattern = |text| Arc::new(Pattern::parse(text).expect(text));
    Route {
        id: uris.into(),
        uris: uris.split_whitespace().map(pattern).collect(),
        hosts: words(hosts),
        methods: words(methods),
        remote_addrs: Vec::new(),
        vars: None,
        priority,
        name: None,
        timeout: None,
        plugins: PluginSet::default(),
        plugin_config: None,
        service: None,
        upstream: None,
    }
}

/// No host: an old request without one.
fn head(host: &str, method: &str) -> RequestHead {
    let text = match host {
        "" => format!("{method} / HTTP/1.0\r\n\r\n"),
        host => format!("{method} / HTTP/1.1\r\nhost: {host}\r\n\r\n"),
    };
    let limits = HeadLimits { size_max: 4096, fields_max: 20, target_size_max: 1024 };
    let parsed = RequestGate::new(limits).head(&mut BytesMut::from(&*text));
    parsed.expect(host).expect("a whole head")
}

fn facts<'a>(
    head: &'a RequestHead,
    path: &'a str,
    query: Option<&'a str>,
    client: IpAddr,
) -> Facts<'a> {
    let peer = "192.0.2.1:4000".parse().unwrap();
    let ends = Ends { peer, client, local: peer, scheme: Scheme::Http };
    Facts::new(head, path, query, ends)
}

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

/// Each row: host, path, method, and the number of the route that is selected.
#[track_caller]
fn check(routes: &[(&str, &str, &str, i64)], rows: &[(&str, &str, &str, Option<usize>)]) {
    let routes: Vec<_> = routes.iter().copied().map(route).collect();
    let router = Router::new(&routes);
    for &(host, path, method, expected) in rows {
        let head = head(host, method);
        let selected = router.select(&facts(&head, path, None, CLIENT));
        let index = selected.map(|selected| selected.index);
        assert_eq!(index, expected, "{host:?} {path} {method}");
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
            ("", "/a/b", "GET", Some(0)),
            ("other", "/star", "GET", Some(5)),
            ("x.foo.com", "/star", "GET", Some(5)),
            ("x.foo.com", "/none", "GET", None),
        ],
    );
    // Without a dot behind it the `*` stands for any beginning, none too.
    check(
        &[
            ("/*", "*foo.com", "", 0),
            ("/a*", "*.foo.com", "", 0),
            ("/*", "*.com", "", 0),
            ("/*", "*r.foo.com", "", 0),
            ("/*", "foo.com", "GET", 0),
            ("/*", "*o", "", 0),
        ],
        &[
            ("foo.com", "/a", "GET", Some(4)),
            ("foo.com", "/a", "POST", Some(0)),
            ("xFoo.com.", "/a", "GET", Some(0)),
            ("x.y-foo.com", "/a", "GET", Some(0)),
            ("x.foo.com", "/a", "GET", Some(1)),
            ("x.foo.com", "/b", "GET", Some(0)),
            ("bar.foo.com", "/a", "GET", Some(3)),
            ("r.foo.com", "/a", "GET", Some(3)),
            ("oo.com", "/a", "GET", Some(2)),
            ("o", "/a", "GET", Some(5)),
            ("com", "/a", "GET", None),
            ("", "/a", "GET", None),
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

#[test]
fn parameters_are_behind_the_literal_that_precedes_them() {
    check(
        &[
            ("/a/:x", "", "", 0),
            ("/a/*", "", "", 0),
            ("/a/b", "", "", -9),
            ("/a/:x/c", "", "", 0),
            ("/a/*/d", "", "", 1),
            ("/:x/b", "", "", 9),
            ("/a/b/*", "", "", 0),
            ("/:x/*rest", "", "", 0),
        ],
        &[
            ("", "/a/b", "GET", Some(2)),
            ("", "/a/x", "GET", Some(0)),
            ("", "/a/x/c", "GET", Some(3)),
            ("", "/a/x/e", "GET", Some(1)),
            ("", "/a/x/d", "GET", Some(4)),
            ("", "/a/x/y/d", "GET", Some(4)),
            ("", "/a/b/d", "GET", Some(6)),
            ("", "/z/b", "GET", Some(5)),
            ("", "/z/b/c", "GET", Some(7)),
            ("", "/z", "GET", None),
        ],
    );
}

#[test]
fn of_one_literal_and_priority_the_longest_pattern_is_first() {
    check(
        &[("/a/*", "", "", 0), ("/a/:x", "", "", 0), ("/a/:long", "", "POST", 0)],
        &[("", "/a/b", "GET", Some(1)), ("", "/a/b", "POST", Some(2)), ("", "/a/", "GET", Some(0))],
    );
}

#[test]
fn the_pattern_by_which_a_route_was_found_knows_its_parameters() {
    let routes = [route(("/a/:x /b/*y /c", "", "", 0))];
    let router = Router::new(&routes);
    let head = head("h", "GET");
    for (path, name, value) in [
        ("/a/1", "x", Some("1")),
        ("/b/2/3", "y", Some("2/3")),
        ("/b/2", "x", None),
        ("/c", "x", None),
    ] {
        let selected = router.select(&facts(&head, path, None, CLIENT)).expect(path);
        assert_eq!(selected.pattern.parameter(path, name), value, "{path} {name}");
    }
}

#[test]
fn a_condition_that_does_not_hold_falls_through() {
    let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let vars = |value| Some(Expression::parse(&value).unwrap());
    let routes = [
        Route {
            remote_addrs: addresses(&["10.0.0.0/8", "::1/128"]),
            ..route(("/a/b", "h", "", 0))
        },
        Route { vars: vars(json!([["arg_v", "==", "2"]])), ..route(("/a/:x", "h", "", 0)) },
        Route { vars: vars(json!([["uri_param_x", "==", "c"]])), ..route(("/a/:x", "h", "", -1)) },
        Route { vars: vars(json!([])), ..route(("/a/*", "*", "", 0)) },
        Route {
            remote_addrs: addresses(&["10.0.0.1/32"]),
            vars: vars(json!([["remote_addr", "==", "10.0.0.1"], ["uri_param_x", null]])),
            ..route(("/d", "", "GET", 0))
        },
    ];
    let router = Router::new(&routes);
    for (host, method, path, query, client, expected) in [
        ("h", "GET", "/a/b", None, "10.1.2.3", Some(0)),
        ("h", "GET", "/a/b", None, "::1", Some(0)),
        ("h", "GET", "/a/b", Some("v=2"), "11.1.2.3", Some(1)),
        ("h", "GET", "/a/b", Some("v=1"), "11.1.2.3", Some(3)),
        ("h", "GET", "/a/c", Some("v=1"), "11.1.2.3", Some(2)),
        ("h", "GET", "/a/c", Some("v=2"), "11.1.2.3", Some(1)),
        ("o", "GET", "/a/c", Some("v=2"), "11.1.2.3", Some(3)),
        ("h", "GET", "/d", None, "10.0.0.1", Some(4)),
        ("h", "GET", "/d", None, "10.0.0.2", None),
        ("h", "POST", "/d", None, "10.0.0.1", None),
    ] {
        let head = head(host, method);
        let facts = facts(&head, path, query, client.parse().unwrap());
        let index = router.select(&facts).map(|selected| selected.index);
        assert_eq!(index, expected, "{host} {method} {path} {query:?} {client}");
    }
}

/// The rules said once more, slowly: every candidate that matches, the best of them.
fn select_slowly(routes: &[Route], host: &str, facts: &Facts<'_>) -> Option<usize> {
    let host_rank = |pattern: &str| match pattern.strip_prefix('*') {
        Some("") => Some((1, 0)),
        Some(suffix) => {
            let is_below = host != suffix || !suffix.starts_with('.');
            (is_below && host.ends_with(suffix)).then_some((1, suffix.len()))
        }
        None => (pattern == host).then_some((2, 0)),
    };
    let mut best = None;
    for (index, route) in routes.iter().enumerate() {
        let hosts: Vec<_> = match route.hosts.is_empty() {
            true => vec![(0, 0)],
            false => route.hosts.iter().filter_map(|pattern| host_rank(pattern)).collect(),
        };
        let holds = [
            route.methods.is_empty() || route.methods.iter().any(|one| one == facts.head.method()),
            route.remote_addrs.is_empty()
                || route.remote_addrs.iter().any(|net| net.contains(&facts.ends.client)),
            route.vars.as_ref().is_none_or(|vars| vars.holds(facts)),
        ];
        for host in hosts {
            for uri in route.uris.iter().filter(|uri| matches_slowly(uri.as_str(), facts.path)) {
                let literal = match uri.as_str().find([':', '*']) {
                    None => (1, 0),
                    Some(size) => (0, size),
                };
                let rank = (host, literal, route.priority, uri.as_str().len(), Reverse(index));
                if holds == [true; 3] && best.is_none_or(|best| rank > best) {
                    best = Some(rank);
                }
            }
        }
    }
    best.map(|(_, _, _, _, Reverse(index))| index)
}

/// Tries every way; without names.
fn matches_slowly(pattern: &str, path: &str) -> bool {
    if let Some(literal) = pattern.strip_suffix('*').filter(|literal| !literal.contains([':', '*']))
    {
        return path.starts_with(literal);
    }
    fn bind(pattern: &[&str], path: &[&str]) -> bool {
        match (pattern, path) {
            ([], []) => true,
            (["*", rest @ ..], [_, left @ ..]) => bind(rest, left) || bind(pattern, left),
            ([first, rest @ ..], [text, left @ ..]) => {
                let takes = if first.starts_with(':') { !text.is_empty() } else { first == text };
                takes && bind(rest, left)
            }
            ([], _) | (_, []) => false,
        }
    }
    bind(&pattern.split('/').collect::<Vec<_>>(), &path.split('/').collect::<Vec<_>>())
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
    let uris = [
        "/", "/*", "/a", "/a*", "/a/*", "/a/b", "/a/b*", "/ab*", "/b/*", "/a/b/c", "/a/b/*", "/:x",
        "/a/:x", "/:x/b", "/*/c", "/a/:y/c", "/:x/*", "/a/*/:z",
    ];
    let hosts = ["", "", "*", "x", "a.x", "*.x", "*x", "*.a.x", "*a.x", "*.b.a.x", "x *.a.x"];
    let methods = ["", "", "GET", "POST", "GET PUT"];
    let vars = [None, None, Some(json!([["arg_v", "1"]])), Some(json!([["arg_v", "~=", "1"]]))];
    let vars = vars.map(|vars| vars.map(|vars| Expression::parse(&vars).unwrap()));
    let clients: [IpAddr; 2] = ["10.0.0.1".parse().unwrap(), CLIENT];
    let paths = ["/", "/a", "/ab", "/a/", "/a/b", "/a/bc", "/a/b/c", "/b", "/b/", "/c", "*"];
    let names = ["x", "a.x", "b.a.x", "c.b.a.x", "y", "ax"];
    let heads = names.map(|name| ["GET", "POST", "DELETE"].map(|method| head(name, method)));
    for _ in 0..150 {
        let routes: Vec<_> = iter::repeat_with(|| {
            let uri = [uris[pick(uris.len())], uris[pick(uris.len())]].join(" ");
            let (host, method) = (hosts[pick(hosts.len())], methods[pick(methods.len())]);
            let is_local = pick(4) == 0;
            Route {
                remote_addrs: is_local.then(|| "10.0.0.0/8".parse().unwrap()).into_iter().collect(),
                vars: vars[pick(vars.len())].clone(),
                ..route((&uri, host, method, pick(3) as i64))
            }
        })
        .take(8)
        .collect();
        let router = Router::new(&routes);
        for (host, head) in
            iter::zip(names, &heads).flat_map(|(n, h)| h.iter().map(move |h| (n, h)))
        {
            for (path, client) in paths.iter().flat_map(|path| clients.map(|client| (path, client)))
            {
                for query in [None, Some("v=1")] {
                    let facts = facts(head, path, query, client);
                    let expected = select_slowly(&routes, host, &facts);
                    let selected = router.select(&facts).map(|selected| selected.index);
                    assert_eq!(selected, expected, "{host} {path} {head:?} in {routes:?}");
                }
            }
        }
    }
}
