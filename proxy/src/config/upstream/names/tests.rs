use std::net::IpAddr;

use super::{super::super::Balancing, *};
use crate::dns::Records;

fn named(name: &str, port: u16, weight: u32, priority: i32) -> NamedNode {
    let question = Question { name: name.into(), records: Records::Addresses };
    NamedNode { question, port, weight, priority }
}

fn address(last: u16) -> IpAddr {
    let [high, low] = last.to_be_bytes();
    [10, 0, high, low].into()
}

fn found(last: u16) -> Found {
    Found { address: address(last), service: None }
}

fn service(last: u16, target: &str, [priority, weight, port]: [u16; 3]) -> Found {
    let service = Service { target: target.into(), port, weight, priority };
    Found { service: Some(service), ..found(last) }
}

fn upstream(balancing: Balancing, names: Vec<NamedNode>) -> Arc<Upstream> {
    let own = Node { address: ([10, 9, 9, 9], 80).into(), host: None, weight: 1, priority: 0 };
    Arc::new(Upstream { nodes: vec![own], names, balancing, ..Upstream::default() })
}

/// Address, `Host`, weight and priority of each node, but for the upstream's own.
fn nodes(upstream: &Upstream) -> Vec<(String, &str, u32, i32)> {
    fn one(node: &Node) -> (String, &str, u32, i32) {
        let host = node.host.as_deref().unwrap_or_default();
        (node.address.to_string(), host, node.weight, node.priority)
    }
    upstream.nodes[1..].iter().map(one).collect()
}

#[test]
fn each_address_of_a_name_is_a_node_as_configured() {
    let upstream = upstream(
        Balancing::RoundRobin,
        vec![named("app.internal.", 8080, 3, -1), named("x", 80, 1, 0), named("none", 80, 1, 0)],
    );
    let answers = [found(1), found(2)];
    let (resolved, left_out) = upstream.resolved(|question| match &*question.name {
        "app.internal." => &answers,
        "x" => &answers[..1],
        _ => &[],
    });
    assert_eq!(left_out, 0);
    assert_eq!(
        nodes(&resolved),
        [
            ("10.0.0.1:8080".to_owned(), "app.internal:8080", 3, -1),
            ("10.0.0.2:8080".to_owned(), "app.internal:8080", 3, -1),
            ("10.0.0.1:80".to_owned(), "x", 1, 0),
        ]
    );
    assert_eq!(upstream.retries, 0, "one node");
    assert_eq!(resolved.retries, 3, "all others");
}

#[test]
fn what_has_the_same_name_and_address_is_one_node() {
    let names = ["x", "x.", "y"].map(|name| named(name, 80, 1, 0));
    let upstream = upstream(Balancing::RoundRobin, names.into());
    let answers = [found(1), found(2)];
    let (resolved, left_out) = upstream.resolved(|_| &answers);
    let hosts: Vec<_> = nodes(&resolved).into_iter().map(|(_, host, ..)| host).collect();
    assert_eq!((hosts, left_out), (vec!["x", "x", "y", "y"], 0));
}

#[test]
fn services_bring_port_weight_and_rank() {
    let upstream = upstream(Balancing::LeastConn, vec![named("_http._tcp.x", 80, 1, 0)]);
    let answers = [
        service(1, "a.x.", [0, 5, 8080]),
        service(2, "b.x.", [10, 0, 80]),
        service(3, "c.x", [65_535, 65_535, 0]),
    ];
    let (resolved, _) = upstream.resolved(|_| &answers);
    assert_eq!(
        nodes(&resolved),
        [
            ("10.0.0.1:8080".to_owned(), "a.x:8080", 5, 0),
            ("10.0.0.2:80".to_owned(), "b.x", 1, -10),
            ("10.0.0.3:80".to_owned(), "c.x", 65_535, -65_535),
        ]
    );
}

#[test]
fn an_upstream_without_names_is_itself() {
    let upstream = upstream(Balancing::RoundRobin, Vec::new());
    let (resolved, _) = upstream.resolved(|_| panic!("nothing to ask"));
    assert!(Arc::ptr_eq(&upstream, &resolved));
}

/// Nobody has checked what a server says: it must fit whatever the type lays out.
#[test]
fn weights_of_others_are_made_smaller_until_they_fit() {
    let records = [[0, 65_535, 80], [0, 65_534, 80], [0, 1, 80], [1, 7, 80]];
    let answers: Vec<_> =
        (1..).zip(records).map(|(last, record)| service(last, "a", record)).collect();
    for (balancing, expected) in [
        (Balancing::RoundRobin, [32_768, 32_767, 1, 7]),
        (Balancing::Chash, [2048, 2048, 1, 7]),
        (Balancing::LeastConn, [65_535, 65_534, 1, 7]),
    ] {
        let upstream = upstream(balancing, vec![named("_x._tcp", 80, 1, 5)]);
        let (resolved, left_out) = upstream.resolved(|_| &answers);
        let weights: Vec<_> = resolved.nodes[1..].iter().map(|node| node.weight).collect();
        assert_eq!((weights, left_out), (expected.to_vec(), 0), "{balancing:?}");
    }
}

#[test]
fn there_is_room_for_so_many() {
    let answers: Vec<_> = (0..5000).map(found).collect();
    for (balancing, kept) in
        [(Balancing::RoundRobin, 4096), (Balancing::Chash, 4096), (Balancing::Maglev, 655)]
    {
        let upstream = upstream(balancing, vec![named("a", 80, 1, 0)]);
        let (resolved, left_out) = upstream.resolved(|_| &answers);
        assert_eq!((resolved.nodes.len(), left_out), (kept, 5001 - kept), "{balancing:?}");
        assert_eq!(resolved.retries, RETRIES_MAX, "{balancing:?}");
    }
}
