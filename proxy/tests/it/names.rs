//! Names as nodes: what they resolve to, and what becomes of requests when that changes or fails.

mod dnsmasq;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use proxy::test_support::{
    Client, NameServer, Node, Reply, Says, TestProxy, check_refused, eventually,
    gives_up_connections, unused_address,
};

use crate::lane_pair::{LANES, LISTENERS};

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
/// Answers count that long, so that tests need not wait for more.
const SOON: &str = "valid: 20ms";

/// One listener for each lane, one for TCP, and one route for everything to an upstream.
fn yaml(resolver: &str, upstream: &str) -> String {
    format!(
        "{LISTENERS}\
         - {{ name: l4, address: \"127.0.0.1:0\", protocol: tcp }}\n\
         routes: [{{ id: all, uri: /*, upstream_id: app }}]\n\
         stream_routes: [{{ id: l4, upstream_id: app }}]\n\
         upstreams: [{{ id: app, {upstream} }}]\n{resolver}"
    )
}

fn proxy(names: &NameServer, upstream: &str) -> TestProxy {
    TestProxy::start(&yaml(&names.section(SOON), upstream))
}

/// A node on each of these addresses of this host that says the address's last byte, and their port.
fn nodes<const N: usize>(addresses: [u8; N]) -> ([Node; N], u16) {
    let bind = |port: u16| {
        let sockets: Vec<_> = addresses
            .iter()
            .map(|last| TcpListener::bind((Ipv4Addr::new(127, 0, 0, *last), port)))
            .collect::<Result<_, _>>()
            .ok()?;
        <[TcpListener; N]>::try_from(sockets).ok()
    };
    let sockets = (0..100).find_map(|_| bind(unused_address().port())).expect("a free port");
    let port = sockets[0].local_addr().expect("an address").port();
    let nodes = sockets.map(|socket| {
        let SocketAddr::V4(own) = socket.local_addr().expect("an address") else { panic!("IPv4") };
        let last = own.ip().octets()[3].to_string();
        Node::on(socket, move |_| Reply::ok(&last))
    });
    (nodes, port)
}

fn local(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, last)
}

fn says(addresses: impl IntoIterator<Item = u8>) -> Says {
    Says::addresses(60, addresses.into_iter().map(local))
}

/// Asks until the answer is `expected`; nothing else than a good answer may come before.
#[track_caller]
fn check_becomes(client: &mut Client, expected: &str) {
    eventually(expected, || {
        let response = client.ask(GET);
        assert_eq!(response.status, 200);
        (response.text() == expected).then_some(())
    });
}

fn lookups(proxy: &TestProxy, result: &str) -> f64 {
    proxy.metric(&format!("tandem_dns_lookups_total{{result=\"{result}\"}}"))
}

#[test]
fn a_name_is_as_many_nodes_as_it_has_addresses() {
    let ([one, two], port) = nodes([1, 2]);
    let names = NameServer::start();
    names.say("app.internal", says([2, 1]));
    let proxy = proxy(
        &names,
        &format!("pass_host: node, nodes: [{{ host: App.internal, port: {port}, weight: 1 }}]"),
    );
    for lane in LANES {
        let mut client = Client::connect(proxy.address(lane));
        let mut seen: Vec<_> = (0..6).map(|_| client.ask(GET).text()).collect();
        seen.sort();
        assert_eq!(seen, ["1", "1", "1", "2", "2", "2"], "{lane}");
        let host = format!("app.internal:{port}");
        assert!(one.take().iter().all(|seen| seen.field("host") == Some(&host)), "{lane}");
        assert_eq!(two.take().len(), 3);
    }
    let lines = proxy.access_log(12);
    let has = |last: u8| {
        let node = format!("{}:{port}", local(last));
        lines.iter().filter(|line| line.contains(&node)).count()
    };
    assert_eq!((has(1), has(2)), (6, 6), "{lines:?}");
}

/// Ends what runs beside a test, also when that fails.
struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_changed_answer_costs_no_request_and_no_connection_to_what_stays() {
    let ([one, _two, _three], port) = nodes([1, 2, 3]);
    let names = NameServer::start();
    names.say("app.internal", says([1, 2]));
    let proxy = proxy(&names, &format!("nodes: {{ \"app.internal:{port}\": 1 }}"));
    let (is_over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for lane in LANES {
            scope.spawn({
                let (proxy, is_over, answered) = (&proxy, &is_over, &answered);
                move || {
                    let mut client = Client::connect(proxy.address(lane));
                    while !is_over.load(Ordering::Relaxed) {
                        assert_eq!(client.ask(GET).status, 200);
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let _end = SetWhenDropped(&is_over);
        let mut client = proxy.client();
        for round in 0..6 {
            names.say("app.internal", says([1, 3 - round % 2]));
            let wanted = (3 - round % 2).to_string();
            check_becomes(&mut client, &wanted);
            check_becomes(&mut client, "1");
        }
    });
    assert!(answered.load(Ordering::Relaxed) > 0);
    if gives_up_connections() {
        return;
    }
    let connections = one.seen().iter().map(|seen| seen.connection).max();
    assert!(connections.is_some_and(|last| last < 3), "{connections:?}");
}

#[test]
fn changes_are_published_so_often_and_no_more() {
    let (_nodes, port) = nodes([1, 2]);
    let names = NameServer::start();
    names.say("app.internal", says([1]));
    let proxy = proxy(&names, &format!("nodes: {{ \"app.internal:{port}\": 1 }}"));
    let mut client = proxy.client();
    assert_eq!(client.ask(GET).text(), "1", "the first answer is in force at the start");
    let begun = Instant::now();
    for round in 0..6 {
        let last = 2 - round % 2;
        names.say("app.internal", says([last]));
        check_becomes(&mut client, &last.to_string());
    }
    assert!(begun.elapsed() >= 5 * Duration::from_millis(200), "{:?}", begun.elapsed());
}

/// Each name may be another host there.
#[test]
fn what_is_shown_of_an_address_is_shown_of_each_of_its_names() {
    let node = Node::scripted(|seen| {
        let is_sick = seen.field("host").is_some_and(|host| host.starts_with("sick"));
        let status = if is_sick { "500 No" } else { "200 OK" };
        Reply::Bytes(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").into_bytes())
    });
    let names = NameServer::start();
    // Whichever is written last.
    let all = ["a.internal", "sick.internal", "z.internal"];
    all.into_iter().for_each(|name| names.say(name, says([1])));
    let (address, port) = (node.address, node.address.port());
    let [a, sick, z] = all.map(|name| format!("{{ host: {name}, port: {port}, weight: 1 }}"));
    let proxy = proxy(
        &names,
        &format!(
            "checks: {{ active: {{ healthy: {{ interval: 0.02 }}, \
             unhealthy: {{ interval: 0.02, http_failures: 1 }} }} }}, \
             nodes: [{a}, {sick}, {z}, {{ host: 127.0.0.1, port: {port}, weight: 1, priority: -1 }}]"
        ),
    );
    let of = |more: &str| {
        format!("tandem_upstream_node_up{{upstream=\"app\",node=\"{address}\"{more}}}")
    };
    let named = |name: &str| of(&format!(",host=\"{name}:{port}\""));
    proxy.check_metric(&named("sick.internal"), 0.0);
    let page = proxy.admin("/metrics").text();
    let lines = page.lines().filter(|line| line.starts_with("tandem_upstream_node_up{"));
    let mut lines: Vec<_> = lines.collect();
    lines.sort_unstable();
    let mut expected = [
        of("") + " 1",
        named("a.internal") + " 1",
        named("sick.internal") + " 0",
        named("z.internal") + " 1",
    ];
    expected.sort_unstable();
    assert_eq!(lines, expected);
    let health = proxy.admin("/health").text();
    let down = format!("\"node\":\"{address}\",\"host\":\"sick.internal:{port}\",\"is_up\":false");
    assert!(health.contains(&down), "{health}");
    assert!(health.contains(&format!("\"node\":\"{address}\",\"is_up\":true")), "{health}");
}

/// Each name may be another host there, so each is probed.
#[test]
fn an_address_of_two_names_is_probed_under_both() {
    let sick = Node::scripted(|seen| match seen.line().contains(" /probe ") {
        true => Reply::Bytes(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n".to_vec()),
        false => Reply::ok("sick"),
    });
    let well = Node::always("well");
    let names = NameServer::start();
    for name in ["one.internal", "other.internal", "well.internal"] {
        names.say(name, says([1]));
    }
    let [port, well_port] = [&sick, &well].map(|node| node.address.port());
    let proxy = proxy(
        &names,
        &format!(
            "checks: {{ active: {{ http_path: /probe, healthy: {{ interval: 0.02 }}, \
             unhealthy: {{ interval: 0.02, http_failures: 1 }} }} }}, \
             nodes: {{ \"one.internal:{port}\": 1, \"other.internal:{port}\": 1, \
             \"well.internal:{well_port}\": 1 }}"
        ),
    );
    let check_down = || {
        eventually("both down", || {
            let page = proxy.admin("/health").text();
            (page.matches("\"is_up\":false").count() == 2).then_some(())
        });
        for lane in LANES {
            let mut client = Client::connect(proxy.address(lane));
            (0..6).for_each(|_| assert_eq!(client.ask(GET).text(), "well", "{lane}"));
        }
    };
    check_down();
    // What is made anew for others keeps both.
    names.say("other.internal", says([1, 9]));
    eventually("another answer", || {
        proxy.admin("/health").text().contains("127.0.0.9").then_some(())
    });
    names.say("other.internal", says([1]));
    eventually("the first answer", || {
        (!proxy.admin("/health").text().contains("127.0.0.9")).then_some(())
    });
    check_down();
}

/// Each change comes before there is enough to judge by.
#[test]
fn failures_are_counted_through_changed_answers() {
    let sick =
        Node::scripted(|_| Reply::Bytes(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n".to_vec()));
    let (_others, port) = nodes([1, 2]);
    let names = NameServer::start();
    names.say("sick.internal", says([1]));
    names.say("other.internal", says([1]));
    let proxy = proxy(
        &names,
        &format!(
            "outlier_detection: {{ consecutive_5xx: 0, failure_percentage_threshold: 50, \
             failure_percentage_minimum_hosts: 1, failure_percentage_request_volume: 5, interval: 4 }}, \
             nodes: {{ \"sick.internal:{}\": 1, \"other.internal:{port}\": 1 }}",
            sick.address.port()
        ),
    );
    let mut client = proxy.client();
    let mut round = 0;
    eventually("an ejection", || {
        round += 1;
        let other = 1 + round % 2;
        names.say("other.internal", says([other]));
        let shown = format!("{}:{port}", local(other));
        eventually("the change", || proxy.admin("/health").text().contains(&shown).then_some(()));
        // Two for each.
        (0..4).for_each(|_| drop(client.ask(GET)));
        let ejected = "tandem_upstream_ejections_total{upstream=\"app\",result=\"ejected\"}";
        (proxy.metric(ejected) == 1.0).then_some(())
    });
    assert!(round > 2);
}

#[test]
fn the_last_good_answer_stays_whatever_a_server_says() {
    let (_nodes, port) = nodes([1, 2]);
    let names = NameServer::start();
    let lie = || vec![IpAddr::from(local(9)).into()];
    let none = Says::addresses(0, [Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST]);
    names.say("app.internal", says([1]));
    let section = names.section("valid: 20ms, timeout: 150ms");
    let yaml = yaml(&section, &format!("nodes: {{ \"app.internal:{port}\": 1 }}"));
    let proxy = TestProxy::start(&yaml);
    let mut client = proxy.client();
    eventually("an answer in time", || (client.ask(GET).status == 200).then_some(()));
    let mut good = 1;
    for (bad, result) in [
        (Says::NoSuchName, "no_records"),
        (Says::addresses(0, [Ipv4Addr::LOCALHOST; 0]), "no_records"),
        (none, "no_records"),
        (Says::OfAnotherName(lie()), "no_records"),
        (Says::Failure, "refused"),
        (Says::Nothing, "timeout"),
        (Says::WrongId(lie()), "timeout"),
        (Says::ToAnotherQuestion(lie()), "timeout"),
    ] {
        let before = lookups(&proxy, result);
        names.say("app.internal", bad);
        eventually(result, || {
            assert_eq!(client.ask(GET).text(), good.to_string());
            (lookups(&proxy, result) >= before + 2.0).then_some(())
        });
        // Rules that are made anew are made of it too.
        proxy.reload(&yaml).expect("applied");
        assert_eq!(client.ask(GET).text(), good.to_string(), "{result}");
        good = 3 - good;
        names.say("app.internal", says([good]));
        check_becomes(&mut client, &good.to_string());
    }
}

#[test]
fn a_server_that_never_answers_delays_the_start_and_no_more() {
    let (_nodes, port) = nodes([1]);
    let names = NameServer::start();
    names.say("app.internal", Says::Nothing);
    let start = Instant::now();
    let proxy = TestProxy::start(&yaml(
        &names.section("valid: 20ms, timeout: 100ms"),
        &format!("nodes: {{ \"app.internal:{port}\": 1 }}"),
    ));
    assert!(start.elapsed() >= Duration::from_millis(100));
    for lane in LANES {
        let response = Client::connect(proxy.address(lane)).ask(GET);
        assert_eq!(response.text(), r#"{"error_msg":"503 Service Unavailable"}"#, "{lane}");
    }
    check_refused(proxy.address("l4"));
    proxy.check_metric("tandem_faults_total{fault=\"no_node\"}", 3.0);
    let shown = proxy.admin("/dns").text();
    assert!(shown.contains(r#"{"name":"app.internal","found":[],"failure":"no answer in time"}"#));
    names.say("app.internal", says([1]));
    let mut client = proxy.client();
    eventually("a node", || (client.ask(GET).status == 200).then_some(()));
    let shown = proxy.admin("/dns").text();
    assert!(shown.contains(r#"{"name":"app.internal","found":["127.0.0.1"],"failure":null}"#));
}

/// The weight of a name counts before there is an address that has it.
#[test]
fn a_node_of_weight_0_does_not_stand_in_for_a_name_without_an_address() {
    let (_nodes, port) = nodes([1, 2]);
    let names = NameServer::start();
    let nodes =
        |late| format!("nodes: {{ \"late.internal:{port}\": {late}, \"127.0.0.2:{port}\": 0 }}");
    let proxy = proxy(&names, &nodes(1));
    let mut client = proxy.client();
    assert_eq!(client.ask(GET).status, 503);
    // All are 0, so that all count.
    proxy.reload(&yaml(&names.section(SOON), &nodes(0))).expect("applied");
    assert_eq!(client.ask(GET).text(), "2");
    proxy.reload(&yaml(&names.section(SOON), &nodes(1))).expect("applied");
    assert_eq!(client.ask(GET).status, 503);
    names.say("late.internal", says([1]));
    eventually("an address", || (client.ask(GET).status == 200).then_some(()));
    (0..4).for_each(|_| assert_eq!(client.ask(GET).text(), "1"));
}

#[test]
fn services_bring_their_ports_weights_and_ranks() {
    let (_some, port) = nodes([1, 2]);
    let (_others, other_port) = nodes([3]);
    let names = NameServer::start();
    for last in [1, 2, 3, 9] {
        names.say(&format!("n{last}.internal"), says([last]));
    }
    names.say(
        "_http._tcp.app.internal",
        Says::services(
            60,
            &[
                (10, 3, port, "n1.internal"),
                (10, 1, port, "n2.internal"),
                (20, 100, other_port, "n3.internal"),
                (30, 1, other_port, "unknown.internal"),
            ],
        ),
    );
    let proxy = proxy(
        &names,
        "discovery_type: dns, service_name: _http._tcp.app.internal, pass_host: node",
    );
    let mut client = proxy.client();
    let mut seen: Vec<_> = (0..8).map(|_| client.ask(GET).text()).collect();
    seen.sort();
    assert_eq!(seen.concat(), "11111122");
    // The lower rank is for when the higher one cannot be reached.
    names.say(
        "_http._tcp.app.internal",
        Says::services(60, &[(10, 1, port, "n9.internal"), (20, 1, other_port, "n3.internal")]),
    );
    check_becomes(&mut client, "3");
    let shown = proxy.admin("/dns").text();
    assert!(shown.contains(&format!("\"127.0.0.9:{port}\",\"127.0.0.3:{other_port}\"")), "{shown}");
    // A part of it fails: what it was stays.
    names.say("n3.internal", Says::Failure);
    eventually("a failure", || {
        proxy.admin("/dns").text().contains("does not answer").then_some(())
    });
    assert_eq!(client.ask(GET).text(), "3");
}

#[test]
fn a_service_is_srv_records_or_else_addresses() {
    let (_some, port) = nodes([1, 2]);
    let names = NameServer::start();
    names.say("app.internal", says([1]));
    let with_port = format!("discovery_type: dns, service_name: \"app.internal:{port}\"");
    let first = proxy(&names, &with_port);
    assert_eq!(first.client().ask(GET).text(), "1");
    let second = proxy(&names, "discovery_type: dns, service_name: app.internal");
    let shown = second.admin("/dns").text();
    assert!(shown.contains(r#""found":["127.0.0.1"]"#), "{shown}");
    names.say("n2.internal", says([2]));
    names.say("app.internal", Says::services(0, &[(0, 0, port, "n2.internal")]));
    let mut client = second.client();
    eventually("the service", || (client.ask(GET).text() == "2").then_some(()));
    // There are SRV records, if of nobody who could be found: the name's own addresses are no answer.
    let Says::Records { mut records, .. } = says([1]) else { unreachable!() };
    let Says::Records { records: services, .. } = Says::services(0, &[(0, 0, port, "n2.internal")])
    else {
        unreachable!()
    };
    records.extend(services);
    names.say("app.internal", Says::Records { ttl: 0, records });
    names.say("n2.internal", Says::NoSuchName);
    eventually("a failure", || second.admin("/dns").text().contains("no such name").then_some(()));
    assert_eq!(client.ask(GET).text(), "2");
}

#[test]
fn the_family_of_addresses_is_a_choice() {
    let names = NameServer::start();
    let v6 = Ipv6Addr::LOCALHOST;
    let both: [IpAddr; 2] = [v6.into(), local(1).into()];
    names.say("both.internal", Says::addresses(60, both));
    names.say("six.internal", Says::addresses(60, [v6]));
    names.say("alias.internal", Says::alias(60, "six.internal"));
    let found = |family: &str, name: &str| {
        let section = names.section(&format!("family: {family}"));
        let proxy = TestProxy::start(&yaml(&section, &format!("nodes: {{ {name}: 1 }}")));
        let shown = proxy.admin("/dns").text();
        let (_, found) = shown.split_once("\"found\":").expect("a list");
        found.split_once(",\"failure\"").expect("a list").0.to_owned()
    };
    for (family, both, six) in [
        ("prefer_ipv4", r#"["127.0.0.1"]"#, r#"["::1"]"#),
        ("prefer_ipv6", r#"["::1"]"#, r#"["::1"]"#),
        ("both", r#"["127.0.0.1","::1"]"#, r#"["::1"]"#),
        ("ipv4", r#"["127.0.0.1"]"#, "[]"),
        ("ipv6", r#"["::1"]"#, r#"["::1"]"#),
    ] {
        assert_eq!(found(family, "both.internal"), both, "{family}");
        assert_eq!(found(family, "six.internal"), six, "{family}");
    }
    assert_eq!(found("prefer_ipv4", "alias.internal"), r#"["::1"]"#);
    // Of this host's own files, whatever the server says.
    names.say("localhost", says([9]));
    assert_eq!(found("ipv4", "localhost"), r#"["127.0.0.1"]"#);
}

#[test]
fn of_very_many_addresses_some_are_taken() {
    let socket = TcpListener::bind("0.0.0.0:0").expect("a free port");
    let port = socket.local_addr().expect("an address").port();
    let _node = Node::on(socket, |_| Reply::ok("any"));
    let names = NameServer::start();
    // A message has room for no more.
    let many = (0..2000_u16).map(|n| {
        let [high, low] = n.to_be_bytes();
        Ipv4Addr::new(127, 1, high, low)
    });
    names.say("app.internal", Says::addresses(60, many));
    let proxy = proxy(&names, &format!("nodes: {{ \"app.internal:{port}\": 1 }}"));
    assert_eq!(proxy.client().ask(GET).text(), "any");
    assert!(lookups(&proxy, "cut") > 0.0);
    assert_eq!(proxy.admin("/dns").text().matches("127.1.").count(), 256);
}

#[test]
fn what_there_is_no_room_for_is_told_once() {
    let (_nodes, port) = nodes([1, 2]);
    let names = NameServer::start();
    for third in [1, 2, 3] {
        // As many as are taken of one name.
        let many = (0..=255).map(|last| Ipv4Addr::new(127, 1, third, last));
        names.say(&format!("n{third}.internal"), Says::addresses(60, many));
    }
    names.say("moving.internal", says([1]));
    let proxy = TestProxy::start(&format!(
        "listeners: [{{ name: web, address: \"127.0.0.1:0\" }}]\n\
         routes: [{{ id: all, uri: /, upstream_id: moving }}, {{ id: l, uri: /l, upstream_id: large }}]\n\
         upstreams:\n\
         - {{ id: moving, nodes: {{ \"moving.internal:{port}\": 1 }} }}\n\
         - {{ id: large, type: maglev, key: uri, \
             nodes: {{ n1.internal: 1, n2.internal: 1, n3.internal: 1 }} }}\n{}",
        names.section(SOON)
    ));
    let mut client = proxy.client();
    for last in [2, 1, 2] {
        names.say("moving.internal", says([last]));
        check_becomes(&mut client, &last.to_string());
    }
    assert_eq!(lookups(&proxy, "cut"), 1.0);
    // It is news when that changes.
    names.say("n3.internal", says([9]));
    eventually("room", || (!proxy.admin("/dns").text().contains("127.1.3.")).then_some(()));
    names.say(
        "n3.internal",
        Says::addresses(60, (0..=254).map(|last| Ipv4Addr::new(127, 1, 3, last))),
    );
    eventually("news", || (lookups(&proxy, "cut") == 2.0).then_some(()));
}

#[test]
fn of_very_many_dead_nodes_some_are_tried() {
    let names = NameServer::start();
    for third in [1, 2] {
        let many = (0..=255).map(|last| Ipv4Addr::new(127, 1, third, last));
        names.say(&format!("n{third}.internal"), Says::addresses(60, many));
    }
    let port = unused_address().port();
    let nodes = [1, 2].map(|third| format!("\"n{third}.internal:{port}\": 1")).join(", ");
    let proxy = proxy(&names, &format!("retries: 1000, nodes: {{ {nodes} }}"));
    for (tries, lane) in (1..).zip(LANES) {
        assert_eq!(Client::connect(proxy.address(lane)).ask(GET).status, 502, "{lane}");
        proxy.check_metric(
            "tandem_upstream_retries_total{upstream=\"app\"}",
            255.0 * f64::from(tries),
        );
    }
}

#[test]
fn a_tunnel_goes_to_a_name_too() {
    let (_nodes, port) = nodes([1, 2]);
    let names = NameServer::start();
    names.say("app.internal", says([1]));
    let proxy = proxy(&names, &format!("nodes: {{ \"app.internal:{port}\": 1 }}"));
    let ask = || Client::connect(proxy.address("l4")).ask(GET).text();
    assert_eq!(ask(), "1");
    names.say("app.internal", says([2]));
    eventually("the other", || (ask() == "2").then_some(()));
}

#[test]
fn names_of_new_rules_are_resolved_before_they_are_in_force() {
    let (_nodes, port) = nodes([1, 2]);
    let names = NameServer::start();
    names.say("one.internal", says([1]));
    names.say("two.internal", says([2]));
    let to = |name: &str| {
        yaml(&names.section(SOON), &format!("nodes: {{ \"{name}.internal:{port}\": 1 }}"))
    };
    let proxy = TestProxy::start(&to("one"));
    let mut client = proxy.client();
    for (name, expected) in [("two", "2"), ("one", "1"), ("two", "2")] {
        proxy.reload(&to(name)).expect("applied");
        assert_eq!(client.ask(GET).text(), expected);
    }
    let shown = proxy.admin("/dns").text();
    assert!(!shown.contains("one.internal"), "forgotten: {shown}");
    proxy.reload(&to("none")).expect("applied");
    assert_eq!(client.ask(GET).status, 503);
    let refused = proxy.reload(&to("one").replace("20ms", "30ms")).expect_err("refused");
    assert_eq!(refused.sections, ["resolver"]);
}

/// Times between two lookups.
#[test]
fn an_answer_counts_for_its_ttl_within_the_bounds_that_are_set() {
    let settings = [
        ("", 1, 1000),
        ("ttl_min: 300ms", 0, 300),
        ("ttl_max: 300ms, ttl_min: 10ms", 3600, 300),
        ("valid: 300ms", 3600, 300),
    ];
    thread::scope(|scope| {
        for (setting, ttl, milliseconds) in settings {
            scope.spawn(move || {
                let names = NameServer::start();
                names.say("app.internal", Says::addresses(ttl, [local(1)]));
                let upstream = "nodes: { app.internal: 1 }";
                let _proxy = TestProxy::start(&yaml(&names.section(setting), upstream));
                let asked = eventually("a second lookup", || {
                    Some(names.asked("app.internal")).filter(|asked| asked.len() > 1)
                });
                let between = asked[1] - asked[0];
                assert!(between >= Duration::from_millis(milliseconds), "{setting}: {between:?}");
            });
        }
    });
}

/// Answers that count for an hour: nothing is asked again but what was not answered.
#[test]
fn the_turn_of_what_does_not_change_stays() {
    let (_nodes, port) = nodes([1, 2, 3]);
    let names = NameServer::start();
    names.say("still.internal", says([1, 2, 3]));
    names.say("moving.internal", says([1]));
    let proxy = TestProxy::start(&format!(
        "listeners: [{{ name: web, address: \"127.0.0.1:0\" }}]\n\
         routes: [{{ id: s, uri: /, upstream_id: still }}, {{ id: m, uri: /m, upstream_id: moving }}]\n\
         upstreams:\n\
         - {{ id: still, nodes: {{ \"still.internal:{port}\": 1 }} }}\n\
         - {{ id: moving, nodes: {{ \"moving.internal:{port}\": 1 }} }}\n{}",
        names.section(SOON)
    ));
    let mut client = proxy.client();
    let mut seen: Vec<_> = (0..2).map(|_| client.ask(GET).text()).collect();
    names.say("moving.internal", says([2]));
    eventually("the other", || {
        let moved = client.ask("GET /m HTTP/1.1\r\nhost: a\r\n\r\n").text();
        (moved == "2").then_some(())
    });
    seen.push(client.ask(GET).text());
    seen.sort();
    assert_eq!(seen.concat(), "123");
}
