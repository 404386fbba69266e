//! Nodes that are names, and who is asked for their addresses.

use std::time::Duration;

use proxy::{
    config::{Family, Upstream},
    dns::Records,
};

use super::{check_addition, upstreams::check_upstream, valid, with};

#[test]
fn nodes_may_be_names_that_occur_once() {
    let long = |length: usize| "a".repeat(length);
    check_upstream(
        &format!(
            "    nodes:\n\
             \x20     App.internal: 1\n\
             \x20     app.internal:80: 1\n\
             \x20     app.internal:81: 1\n\
             \x20     -a.internal: 1\n\
             \x20     a..b: 1\n\
             \x20     app.internal:65536: 1\n\
             \x20     {}: 1\n\
             \x20     app.9: 1\n\
             \x20     '[app]:80': 1\n\
             \x20     'app:': 1\n",
            long(64)
        ),
        &[
            "8:7: upstreams[0].nodes[\"app.internal:80\"]: node app.internal:80 is in line 7 already",
            "10:7: upstreams[0].nodes[\"-a.internal\"]: `-a.internal` is neither an address nor a \
             host name",
            "11:7: upstreams[0].nodes[\"a..b\"]: `a..b` is neither an address nor a host name",
            "12:7: upstreams[0].nodes[\"app.internal:65536\"]: invalid port `65536`",
            &format!(
                "13:7: upstreams[0].nodes.{0}: `{0}` is neither an address nor a host name",
                long(64)
            ),
            "14:7: upstreams[0].nodes[\"app.9\"]: `app.9` is neither an address nor a host name",
            "15:7: upstreams[0].nodes[\"[app]:80\"]: `[app]` is neither an address nor a host name",
            "16:7: upstreams[0].nodes[\"app:\"]: invalid port ``",
        ],
    );
    check_upstream(
        "    nodes: [{ host: 'app:80', port: 80, weight: 1 }, { host: app, weight: 1 }, \
         { host: APP, port: 80, weight: 2 }]\n",
        &[
            "6:13: upstreams[0].nodes[0]: `app:80` is neither an address nor a host name",
            "6:80: upstreams[0].nodes[2]: node app:80 is in line 6 already",
        ],
    );
    let config = valid(&with(
        "upstreams: [{ id: u, nodes: [{ host: My_App.internal., weight: 3, priority: -1 }, \
         { host: 10.0.0.1, weight: 1 }] }, { id: v, nodes: { a: 1, '[::1]': 2, b:81: 3 } }]\n",
    ));
    let [u, v] = config.upstreams.as_slice() else { panic!("two upstreams") };
    let names = |upstream: &Upstream| -> Vec<_> {
        let names = upstream.names.iter();
        names.map(|it| (it.question.name.to_string(), it.port, it.weight, it.priority)).collect()
    };
    assert_eq!(names(u), [("my_app.internal.".to_owned(), 80, 3, -1)]);
    assert_eq!(u.nodes[0].address.to_string(), "10.0.0.1:80");
    assert_eq!(names(v), [("a".to_owned(), 80, 1, 0), ("b".to_owned(), 81, 3, 0)]);
    assert_eq!(v.nodes[0].address.to_string(), "[::1]:80");
}

#[test]
fn a_service_is_discovered_by_dns() {
    let check = |keys: &str, expected: &[&str]| {
        let route = "routes: [{ id: r, uri: /, upstream_id: u }]\n";
        check_addition(&format!("upstreams: [{{ id: u, {keys} }}]\n{route}"), expected);
    };
    check(
        "discovery_type: dns",
        &["4:13: upstreams[0]: `service_name` is missing; `discovery_type` alone finds nothing"],
    );
    check(
        "service_name: app",
        &["4:13: upstreams[0]: `discovery_type` is missing; write `discovery_type: dns`"],
    );
    check(
        "discovery_type: dns, service_name: app, nodes: { a: 1 }",
        &["4:13: upstreams[0]: `nodes` and a service to discover at once; keep one of them"],
    );
    for (service, error) in [
        ("10.0.0.1:80", "is an address; write it in `nodes`"),
        ("_http._tcp.app:80", "SRV records have ports of their own; remove this one"),
        ("a/b", "`a/b` is neither an address nor a host name"),
    ] {
        check(
            &format!("discovery_type: dns, service_name: \"{service}\""),
            &[&format!("4:57: upstreams[0].service_name: {error}")],
        );
    }
    check(
        "discovery_type: nacos, service_name: app, discovery_args: {}",
        &[
            "4:38: upstreams[0].discovery_type: `nacos` is not built yet; use `dns`",
            "4:64: upstreams[0].discovery_args: not built yet; remove it",
        ],
    );
    for (service, port, records) in [
        ("App:8080", 8080, Records::Addresses),
        ("App", 80, Records::ServicesOrAddresses),
        ("_http._tcp.App", 80, Records::Services),
    ] {
        let config = valid(&with(&format!(
            "upstreams: [{{ id: u, discovery_type: dns, service_name: \"{service}\" }}]\n"
        )));
        let [name] = config.upstreams[0].names.as_slice() else { panic!("one name") };
        assert_eq!((name.port, name.question.records), (port, records));
        assert!(name.question.name.ends_with("app") && config.upstreams[0].nodes.is_empty());
    }
}

#[test]
fn so_many_names_are_followed() {
    let nodes: Vec<_> = (0..1025).map(|n| format!("a{n}: 1")).collect();
    check_addition(
        &format!(
            "upstreams: [{{ id: u, nodes: {{ {} }} }}]\nroutes: [{{ id: r, uri: /, upstream_id: u }}]\n",
            nodes.join(", ")
        ),
        &["1:1: 1025 nodes with names; at most 1024"],
    );
}

#[test]
fn the_resolver_has_servers_and_times() {
    check_addition(
        "resolver:\n\
         \x20 nameservers: [127.0.0.1, '127.0.0.1:53', '[::1]', '[::1]:0', 0.0.0.0, dns.internal, 239.1.1.1]\n\
         \x20 timeout: 1ms\n\
         \x20 valid: 5s\n\
         \x20 ttl_max: 2s\n\
         \x20 family: ipv5\n\
         \x20 search: [x]\n",
        &[
            "5:28: resolver.nameservers[1]: is in the list already",
            "5:53: resolver.nameservers[3]: `[::1]:0` is no address of a name server",
            "5:64: resolver.nameservers[4]: `0.0.0.0:53` is no address of a name server",
            "5:73: resolver.nameservers[5]: expected the address of a name server, such as \
             `10.0.0.53` or `[2001:db8::53]:5353`",
            "5:87: resolver.nameservers[6]: `239.1.1.1` is a multicast or broadcast address; write \
             the address of one host",
            "6:12: resolver.timeout: expected a time with its unit (`250ms`, `5s`, `10m`, `1h`) from \
             10ms to 1m, found `1ms`",
            "7:10: resolver.valid: stands in place of every TTL; keep it, or `ttl_min` and `ttl_max`",
            "9:11: resolver.family: expected `prefer_ipv4`, `prefer_ipv6`, `both`, `ipv4` or `ipv6`, \
             found `ipv5`; did you mean `ipv4`?",
            "10:3: resolver.search: unknown key; known here: `nameservers`, `timeout`, `valid`, \
             `ttl_min`, `ttl_max` or `family`",
        ],
    );
    check_addition(
        "resolver: { ttl_min: 2m, ttl_max: 1m, nameservers: [1.1.1.1, 1.1.1.2, 1.1.1.3, 1.1.1.4, \
         1.1.1.5, 1.1.1.6, 1.1.1.7, 1.1.1.8, 1.1.1.9] }\n",
        &[
            "4:11: resolver: 9 name servers; at most 8",
            "4:11: resolver: `ttl_min` (2m) is above `ttl_max` (1m)",
        ],
    );
    let seconds = Duration::from_secs;
    let resolver = valid(&with("resolver: { nameservers: ['::1', 10.0.0.53:5353] }\n")).resolver;
    let nameservers: Vec<_> = resolver.nameservers.iter().map(ToString::to_string).collect();
    assert_eq!(nameservers, ["[::1]:53", "10.0.0.53:5353"]);
    assert_eq!((resolver.ttl_min, resolver.ttl_max), (seconds(1), seconds(3600)));
    assert_eq!((resolver.timeout, resolver.family), (seconds(5), Family::PreferIpv4));
    let resolver = valid(&with("resolver: { valid: 7s, timeout: 1s, family: both }\n")).resolver;
    assert_eq!((resolver.ttl_min, resolver.ttl_max), (seconds(7), seconds(7)));
    assert_eq!((resolver.timeout, resolver.family), (seconds(1), Family::Both));
}
