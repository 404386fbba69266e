//! New rules while requests come in: what is seen of them, when, and what stays as it was.

use std::{
    fs,
    os::unix::fs::symlink,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use proxy::test_support::{Client, Node, Reply, TestProxy, eventually};
use rustix::process::Signal;

use super::process::{Tandem, yaml};

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

fn named(name: &'static str) -> Node {
    Node::scripted(move |_| Reply::ok(name))
}

fn web(is_express: bool, routes: &str, upstreams: &str) -> String {
    format!(
        "listeners: [{{ name: web, address: \"127.0.0.1:0\", express_lane: {is_express} }}]\n\
         routes: [{routes}]\nupstreams: [{upstreams}]\n"
    )
}

fn upstream(id: &str, node: &Node) -> String {
    format!("{{ id: {id}, nodes: {{ \"{}\": 1 }} }}", node.address)
}

/// Nodes `one` and `two`, and an upstream of the same name for each.
fn two_nodes() -> ([Node; 2], String) {
    let (one, two) = (named("one"), named("two"));
    let upstreams = format!("{}, {}", upstream("one", &one), upstream("two", &two));
    ([one, two], upstreams)
}

/// Everything goes to the upstream `id`.
fn to(is_express: bool, id: &str, upstreams: &str) -> String {
    web(is_express, &format!("{{ id: r, uri: /*, upstream_id: {id} }}"), upstreams)
}

#[test]
fn a_live_connection_sees_new_rules_at_its_next_request() {
    for is_express in [true, false] {
        let (_nodes, upstreams) = two_nodes();
        let to = |id: &str| to(is_express, id, &upstreams);
        let proxy = TestProxy::start(&to("one"));
        let mut client = proxy.client();
        assert_eq!(client.ask(GET).text(), "one");
        proxy.reload(&to("two")).expect("applied");
        assert_eq!(client.ask(GET).text(), "two");
        proxy.reload(&web(is_express, "", &upstreams)).expect("applied");
        assert_eq!(client.ask(GET).status, 404);
        proxy.reload(&to("one")).expect("applied");
        assert_eq!(client.ask(GET).text(), "one");
        proxy.check_metric("tandem_config_reloads_total{result=\"applied\"}", 3.0);
    }
}

#[test]
fn a_request_under_way_ends_by_the_rules_it_began_with() {
    let node = Node::scripted(|seen| match seen.body.len() {
        0 => Reply::ok("empty"),
        _ => Reply::ok("whole"),
    });
    for is_express in [true, false] {
        let route = "{ id: r, uri: /*, upstream_id: one }";
        let proxy = TestProxy::start(&web(is_express, route, &upstream("one", &node)));
        let mut client = proxy.client();
        client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nab");
        eventually("the request is under way", || {
            (proxy.metric("tandem_upstream_connects_total{upstream=\"one\",result=\"connected\"}")
                > 0.0)
                .then_some(())
        });
        proxy.reload(&web(is_express, "", "")).expect("applied");
        client.send("cd");
        assert_eq!(client.response().text(), "whole");
        assert_eq!(client.ask(GET).status, 404);
    }
}

/// Two of three requests of a cycle have been sent: the third node's turn is next, also afterwards.
#[test]
fn what_did_not_change_keeps_its_state() {
    let nodes = [named("a"), named("b"), named("c")];
    let list: Vec<_> = nodes.iter().map(|node| format!("\"{}\": 1", node.address)).collect();
    let group = format!("{{ id: group, nodes: {{ {} }} }}", list.join(", "));
    let other = upstream("other", &nodes[0]);
    let route = "{ id: r, uri: /*, upstream_id: group }";
    let proxy = TestProxy::start(&web(true, route, &group));
    let mut client = proxy.client();
    let mut seen: Vec<_> = (0..2).map(|_| client.ask(GET).text()).collect();
    let more = format!("{route}, {{ id: s, uri: /s, upstream_id: other }}");
    proxy.reload(&web(true, &more, &format!("{group}, {other}"))).expect("applied");
    seen.push(client.ask(GET).text());
    seen.sort();
    assert_eq!(seen, ["a", "b", "c"]);
    let connects = "tandem_upstream_connects_total{upstream=\"group\",result=\"connected\"}";
    proxy.check_metric(connects, 3.0);
    // What is gone is gone from the metrics too.
    let has_other = || proxy.admin("/metrics").text().contains("upstream=\"other\"");
    assert!(has_other());
    proxy.reload(&web(true, route, &group)).expect("applied");
    assert!(!has_other());
    proxy.check_metric(connects, 3.0);
}

#[test]
fn what_a_plugin_counts_survives_as_long_as_its_settings_do() {
    let node = Node::always("x");
    let route = |count: u32, more: &str| {
        let limit = format!("limit-count: {{ count: {count}, time_window: 3600 }}");
        let routes = format!("{{ id: r, uri: /, plugins: {{ {limit} }}, upstream_id: u }}{more}");
        web(true, &routes, &upstream("u", &node))
    };
    let proxy = TestProxy::start(&route(2, ""));
    let mut client = proxy.client();
    assert_eq!([client.ask(GET).status, client.ask(GET).status], [200, 200]);
    proxy.reload(&route(2, ", { id: s, uri: /s, upstream_id: u }")).expect("applied");
    assert_eq!(client.ask(GET).status, 503);
    // Quotes around what is a text without them change nothing.
    let quoted =
        |name: &str| route(2, "").replace("time_window", &format!("policy: {name}, time_window"));
    for name in ["local", "\"local\"", "'local'"] {
        proxy.reload(&quoted(name)).expect("applied");
        let expected = if name == "local" { [200, 200, 503] } else { [503; 3] };
        assert_eq!([(); 3].map(|()| client.ask(GET).status), expected, "{name}");
    }
    proxy.reload(&route(1, "")).expect("applied");
    assert_eq!([client.ask(GET).status, client.ask(GET).status], [200, 503]);
}

/// Its node gets another weight: the connections to it stay.
#[test]
fn connections_to_a_node_outlive_a_change_of_its_upstream() {
    for is_express in [true, false] {
        let node = Node::always("x");
        let with = |weight: u32| {
            let nodes = format!("{{ id: u, nodes: {{ \"{}\": {weight} }} }}", node.address);
            web(is_express, "{ id: r, uri: /*, upstream_id: u }", &nodes)
        };
        let proxy = TestProxy::start(&with(1));
        let mut client = proxy.client();
        assert_eq!(client.ask(GET).status, 200);
        proxy.access_log(1);
        proxy.reload(&with(2)).expect("applied");
        assert_eq!(client.ask(GET).status, 200);
        let seen: Vec<_> = node.seen().iter().map(|seen| seen.connection).collect();
        assert_eq!(seen, [0, 0]);
    }
}

#[test]
fn what_only_a_start_reads_is_refused_whole() {
    let node = Node::always("x");
    let route = "{ id: r, uri: /*, upstream_id: u }";
    let proxy = TestProxy::start(&web(true, route, &upstream("u", &node)));
    let mut client = proxy.client();
    let changed = web(true, "", "") + "timeouts: { head: 3s }\nlimits: { head_size_max: 8KiB }\n";
    let refused = proxy.reload(&changed).expect_err("refused");
    assert_eq!(refused.sections, ["timeouts", "limits"]);
    assert_eq!(client.ask(GET).status, 200, "nothing of it is in force");
    proxy.check_metric("tandem_config_reloads_total{result=\"refused\"}", 1.0);
    proxy.check_metric("tandem_config_last_reload_successful", 0.0);
}

#[test]
fn reloads_under_load_cost_no_request() {
    for is_express in [true, false] {
        let (_nodes, upstreams) = two_nodes();
        let to = |id: &str| to(is_express, id, &upstreams);
        let proxy = TestProxy::start(&to("one"));
        let (is_over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
        thread::scope(|scope| {
            let clients: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut client = proxy.client();
                        let mut seen = [0; 2];
                        while !is_over.load(Ordering::Relaxed) {
                            let response = client.ask(GET);
                            assert_eq!(response.status, 200);
                            seen[usize::from(response.text() == "two")] += 1;
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        seen
                    })
                })
                .collect();
            for round in 0..50 {
                proxy.reload(&to(["two", "one"][round % 2])).expect("applied");
                let before = answered.load(Ordering::Relaxed);
                eventually("more answers", || {
                    (answered.load(Ordering::Relaxed) >= before + 8).then_some(())
                });
            }
            is_over.store(true, Ordering::Relaxed);
            for client in clients {
                let seen = client.join().expect("no error");
                assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
            }
        });
    }
}

/// The binary, and the file as its operator changes it.
#[test]
fn a_changed_file_or_a_hangup_reloads_and_a_bad_file_does_not() {
    let (one, two) = (named("one"), named("two"));
    let tandem = Tandem::start(&yaml(one.address, ""));
    let mut client = tandem.client();
    assert_eq!(client.ask(GET).text(), "one");
    // It may be read for the first time only now, after the start.
    tandem.rewrite(&yaml(two.address, ""));
    tandem.line(&["configuration reloaded"]);
    assert_eq!(client.ask(GET).text(), "two");

    tandem.rewrite("routes: [{ id: r, uri: x }]\n");
    tandem.line(&["configuration not reloaded", ":1:", "the path must start with `/`"]);
    tandem.rewrite(&(yaml(one.address, "") + "drain: { timeout: 7s }\n"));
    tandem.line(&["configuration not reloaded", "`drain` changed", "restart"]);
    assert_eq!(client.ask(GET).text(), "two", "the last good rules");

    tandem.signal(Signal::HUP);
    eventually("a second refusal", || {
        let refusals = tandem.log().iter().filter(|line| line.contains("`drain`")).count();
        (refusals == 2).then_some(())
    });
    tandem.rewrite(&yaml(one.address, ""));
    eventually("the first node again", || (client.ask(GET).text() == "one").then_some(()));
}

#[test]
fn a_file_that_cannot_be_read_is_told_once_and_read_when_it_can() {
    let node = Node::always("x");
    let text = yaml(node.address, "");
    let tandem = Tandem::start(&text);
    let mut client = tandem.client();
    let (path, aside) = (tandem.path(), tandem.directory().join("aside"));
    fs::rename(path, &aside).expect("renamed");
    fs::create_dir(path).expect("a directory");
    tandem.line(&["configuration not reloaded", "directory"]);
    fs::write(tandem.directory().join("other"), "").expect("a file");
    assert_eq!(client.ask(GET).status, 200, "the last good rules");
    fs::remove_dir(path).expect("removed");
    fs::rename(&aside, path).expect("renamed");
    tandem.line(&["configuration reloaded", "cause=File"]);
    let told = tandem.log().iter().filter(|line| line.contains("not reloaded")).count();
    assert_eq!(told, 2, "an error and its count: {:?}", tandem.log());
}

/// As the kubelet does it: the file leads through `..data`, and a rename swaps that.
#[test]
fn the_swap_of_a_config_map_reloads() {
    let nodes = [named("1"), named("2"), named("3")];
    let tandem = Tandem::start_mounted(&yaml(nodes[0].address, ""));
    let directory = tandem.directory();
    let mut client = tandem.client();
    assert_eq!(client.ask(GET).text(), "1");
    for (version, node) in [("..2", &nodes[1]), ("..3", &nodes[2])] {
        fs::create_dir(directory.join(version)).expect("a directory");
        let text = yaml(node.address, "");
        fs::write(directory.join(version).join("tandem.yaml"), text).expect("a file");
        symlink(version, directory.join("..data_tmp")).expect("a link");
        fs::rename(directory.join("..data_tmp"), directory.join("..data")).expect("a swap");
        eventually(version, || (client.ask(GET).text() == version[2..]).then_some(()));
    }
    let mut other = Client::connect(tandem.web());
    assert_eq!(other.ask(GET).text(), "3");
}

#[test]
fn what_is_written_otherwise_is_new_even_if_it_is_the_same_number() {
    let (_nodes, upstreams) = two_nodes();
    let saying = |value: &str| {
        let plugins = format!("{{ response-rewrite: {{ headers: {{ x-version: {value} }} }} }}");
        let route = format!("{{ id: r, uri: /*, upstream_id: one, plugins: {plugins} }}");
        web(true, &route, &upstreams)
    };
    let proxy = TestProxy::start(&saying("1.1"));
    let mut client = proxy.client();
    for value in ["1.1", "1.10", "0x10", "16"] {
        proxy.reload(&saying(value)).expect("applied");
        assert_eq!(client.ask(GET).field("x-version"), Some(value));
    }
}
