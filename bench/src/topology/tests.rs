use super::*;

const NETWORKS: [Network; 3] = [Network::Loopback, Network::Client, Network::Three];

#[test]
fn who_listens_is_one_hop_from_who_connects() {
    for network in NETWORKS {
        for (asker, asked, address) in [
            (Role::Client, Role::Proxy, network.proxy_address()),
            (Role::Client, Role::Nodes, network.nodes_address(Role::Client)),
            (Role::Proxy, Role::Nodes, network.nodes_address(Role::Proxy)),
        ] {
            let homes = [asker, asked].map(|role| network.home(role));
            let joins = |pair: &&Pair| homes == [pair.connecting.0, pair.listening.0];
            match network.pairs().iter().find(joins) {
                Some(pair) => assert_eq!(address, pair.listening.1, "{network} {asker:?}"),
                None if network == Network::Loopback => assert!(address.is_loopback()),
                // Within a namespace any address of it will do.
                None => assert_eq!((homes[0], address), (homes[1], network.proxy_address())),
            }
        }
    }
}

#[test]
fn pairs_join_namespaces_that_are_there_by_networks_of_their_own() {
    for network in NETWORKS {
        let mut networks = Vec::new();
        for Pair { connecting, listening } in network.pairs() {
            assert!(
                [connecting, listening].iter().all(|end| network.inhabitants().contains(&end.0))
            );
            assert_ne!(connecting.0, listening.0);
            let [near, far] = [connecting, listening].map(|end| end.1.octets());
            assert!(near[..3] == far[..3] && near[3] != far[3]);
            networks.push([near[0], near[1], near[2]]);
        }
        let n_pairs = networks.len();
        networks.dedup();
        assert_eq!(networks.len(), n_pairs);
    }
}

#[test]
fn only_names_that_runs_give_are_taken_for_leftovers() {
    let own = Namespace::name(Role::Proxy);
    assert_eq!(owner(&own), Some(std::process::id()));
    assert!(is_alive(std::process::id()) && !is_alive(u32::MAX));
    for (name, pid) in [
        ("tandem-bench-12-client", Some(12)),
        ("tandem-bench-12", None),
        ("tandem-bench--client", None),
        ("tandem-12-0", None),
        ("x-tandem-bench-12-client", None),
    ] {
        assert_eq!(owner(name), pid, "{name}");
    }
}

#[test]
fn a_link_is_reported_as_ip_shows_it() {
    let text = r#"[{"ifindex":2,"ifname":"proxy","mtu":1500,"qdisc":"noqueue","txqlen":1000,
        "num_tx_queues":2,"num_rx_queues":2,"gso_max_size":65536,"linkinfo":{"info_kind":"veth"}}]"#;
    let facts: Vec<LinkFacts> = serde_json::from_str(text).unwrap();
    assert_eq!((facts[0].mtu, facts[0].txqlen), (1500, 1000));
}
