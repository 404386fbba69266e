use super::{
    super::trial::{Seen, Trial, refused},
    Entry, Rule,
};

fn turns(weights: &[(&str, i64)], count: usize) -> String {
    let entry = |(name, weight): &(&str, i64)| Entry {
        upstream: (!name.is_empty()).then(|| (*name).into()),
        weight: *weight,
    };
    let debts = vec![0; weights.len()].into_boxed_slice().into();
    let rule =
        Rule { matches: Vec::new(), entries: weights.iter().map(entry).collect(), debts };
    (0..count).map(|_| rule.next().unwrap_or("-").to_owned()).collect()
}

#[test]
fn turns_are_taken_smoothly_by_weight() {
    assert_eq!(turns(&[("a", 5), ("b", 1), ("c", 1)], 14), "aabacaaaabacaa");
    assert_eq!(turns(&[("a", 1), ("", 1)], 4), "a-a-");
    assert_eq!(turns(&[("a", 0), ("b", 2)], 3), "bbb");
    assert_eq!(turns(&[("a", 0)], 2), "--");
}

/// The address tells which upstream it is.
fn node(trial: &Trial, line: &str) -> Option<String> {
    match trial.ask(line, "") {
        Seen::Forwarded { upstream, .. } => Some(upstream),
        Seen::Answered { .. } | Seen::Called(_) => None,
    }
}

#[test]
fn the_first_rule_that_holds_says_where_to_go() {
    let plugins = "{ traffic-split: { rules: [\
        { match: [{ vars: [[arg_a, ==, x]] }, { vars: [[arg_b, ==, y]] }], \
          weighted_upstreams: [{ upstream_id: u2 }] }, \
        { match: [{ vars: [[arg_c, ==, z]] }], \
          weighted_upstreams: [{ upstream_id: u2, weight: 1 }, { weight: 1 }] }] } }";
    let trial = Trial::with_upstreams(plugins, "{ id: u2, nodes: { \"127.0.0.1:8082\": 1 } }");
    for (line, expected) in [
        ("GET /?a=x", "u2"),
        ("GET /?b=y&c=z", "u2"),
        ("GET /?c=z", "u2"),
        ("GET /?c=z", "u"),
        ("GET /?c=z", "u2"),
        ("GET /", "u"),
    ] {
        assert_eq!(node(&trial, line).as_deref(), Some(expected), "{line}");
    }
}

#[test]
fn upstreams_in_place_are_told_apart_by_where_they_stand() {
    let one = "{ upstream: { nodes: { \"127.0.0.1:8082\": 1 } } }";
    let rule = |arg: &str| {
        let matches = format!("match: [{{ vars: [[arg_a, ==, {arg}]] }}]");
        format!("{{ {matches}, weighted_upstreams: [{one}, {{ weight: 0 }}, {one}] }}")
    };
    let plugins = format!("{{ traffic-split: {{ rules: [{}, {}] }} }}", rule("x"), rule("y"));
    let trial = Trial::new(&plugins, "");
    for (line, expected) in [
        ("GET /?a=x", "route:r:traffic-split:0:0"),
        ("GET /?a=x", "route:r:traffic-split:0:2"),
        ("GET /?a=y", "route:r:traffic-split:1:0"),
        ("GET /?a=z", "u"),
    ] {
        assert_eq!(node(&trial, line).as_deref(), Some(expected), "{line}");
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (settings, message) in [
        ("", "`rules` is missing"),
        ("rules: []", "needs 1 to 64 rules"),
        ("rules: [{}]", "`weighted_upstreams` is missing"),
        ("rules: [{ weighted_upstreams: [] }]", "needs 1 to 20 upstreams"),
        ("rules: [{ weighted_upstreams: [{ upstream_id: v }] }]", "no upstream has the id `v`"),
        ("rules: [{ weighted_upstreams: [{ weight: -1 }] }]", "from 0 to"),
        ("rules: [{ weighted_upstreams: [{ upstream: {} }] }]", "`nodes` is missing"),
        ("rules: [{ weighted_upstreams: [{ upstream: { nodes: 1 } }] }]", "[0].upstream.nodes: "),
        ("rules: [{ match: [{ vars: [[a, b, c, d, e]] }], weighted_upstreams: [{}] }]", "vars"),
    ] {
        refused("traffic-split", settings, message);
    }
    let nodes = "nodes: { \"127.0.0.1:1\": 1 }";
    for (entry, message) in [
        (format!("upstream: {{ {nodes}, x: 1 }}"), "[0].upstream.x: unknown key"),
        (format!("upstream: {{ {nodes}, scheme: tcp }}"), "a route needs `http`"),
        (format!("upstream_id: u, upstream: {{ {nodes} }}"), "`upstream_id` and `upstream` at"),
    ] {
        let settings = format!("rules: [{{ weighted_upstreams: [{{ {entry} }}] }}]");
        refused("traffic-split", &settings, message);
    }
}
