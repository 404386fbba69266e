//! Clients that stay with their node, and nodes that get their share by and by, on both lanes.

use std::net::SocketAddr;

use proxy::test_support::{Client, Node, Response, TestProxy, unused_address};

use crate::lane_pair::{LANES, to_upstream};

/// A configuration with one upstream of these keys and nodes, with a weight each.
fn yaml(keys: &str, nodes: &[(SocketAddr, u32)]) -> String {
    let nodes: Vec<_> =
        nodes.iter().map(|(node, weight)| format!("\"{node}\": {weight}")).collect();
    to_upstream(&format!("{keys}, nodes: {{ {} }}", nodes.join(", ")))
}

fn ask(client: &mut Client, cookie: &str) -> Response {
    let field = if cookie.is_empty() { String::new() } else { format!("cookie: {cookie}\r\n") };
    client.ask(format!("GET / HTTP/1.1\r\nhost: a\r\n{field}\r\n"))
}

/// `name=value` of the cookie that a response sets.
fn set(response: &Response) -> Option<String> {
    let line = response.field("set-cookie")?;
    line.split(';').next().map(str::to_owned)
}

#[test]
fn a_client_that_says_its_cookie_stays_with_its_node() {
    let nodes = ["a", "b", "c"].map(Node::always);
    let addresses: Vec<_> = nodes.iter().map(|node| (node.address, 1)).collect();
    for keys in ["type: roundrobin", "type: least_conn", "type: ewma", "type: chash, key: uri"] {
        let proxy =
            TestProxy::start(&yaml(&format!("{keys}, sticky: {{ cookie: tie }}"), &addresses));
        for lane in LANES {
            let mut client = Client::connect(proxy.address(lane));
            let first = ask(&mut client, "");
            let cookie = set(&first).expect("a cookie");
            assert_eq!(
                first.field("set-cookie"),
                Some(&*format!("{cookie}; Path=/; HttpOnly")),
                "{keys} {lane}"
            );
            for _ in 0..7 {
                let next = ask(&mut client, &format!("other=1; {cookie}; tie=0123456789abcdef"));
                assert_eq!((next.text(), set(&next)), (first.text(), None), "{keys} {lane}");
            }
            // Both lanes call the nodes the same.
            let other = Client::connect(proxy.address(LANES[0]))
                .ask(format!("GET / HTTP/1.1\r\nhost: a\r\ncookie: {cookie}\r\n\r\n"));
            assert_eq!(other.text(), first.text(), "{keys} {lane}");
        }
    }
}

#[test]
fn a_cookie_that_names_no_node_is_replaced() {
    let nodes = ["a", "b"].map(Node::always);
    let addresses: Vec<_> = nodes.iter().map(|node| (node.address, 1)).collect();
    let proxy = TestProxy::start(&yaml("sticky: { cookie: tie }", &addresses));
    for lane in LANES {
        let mut client = Client::connect(proxy.address(lane));
        for cookie in ["tie=", "tie=0123456789abcdef", "tie=\"x\"", "Tie=1", "tie"] {
            let answers = [ask(&mut client, cookie), ask(&mut client, cookie)];
            assert_ne!(answers[0].text(), answers[1].text(), "{cookie} {lane}");
            assert!(answers.iter().all(|answer| set(answer).is_some()), "{cookie} {lane}");
        }
    }
}

#[test]
fn whose_node_has_gone_is_tied_to_another() {
    let good = Node::always("good");
    let gone = unused_address();
    for lane in LANES {
        let both =
            TestProxy::start(&yaml("sticky: { cookie: tie }", &[(gone, 1), (good.address, 1)]));
        let alone = TestProxy::start(&yaml("sticky: { cookie: tie }", &[(good.address, 1)]));
        let kept = set(&ask(&mut Client::connect(alone.address(lane)), "")).expect("a cookie");
        let mut client = Client::connect(both.address(lane));
        // Names are the same in every process.
        let stays = ask(&mut client, &kept);
        assert_eq!((stays.text(), set(&stays)), ("good".to_owned(), None), "{lane}");
        let moved = ask(&mut client, "");
        assert_eq!((moved.text(), set(&moved)), ("good".to_owned(), Some(kept)), "{lane}");
    }
}

#[test]
fn a_node_of_weight_0_keeps_who_is_tied_to_it() {
    let (old, new) = (Node::always("old"), Node::always("new"));
    let sticky = "sticky: { cookie: tie }";
    let proxy = TestProxy::start(&yaml(sticky, &[(old.address, 1), (new.address, 0)]));
    for lane in LANES {
        let mut client = Client::connect(proxy.address(lane));
        let before = yaml(sticky, &[(old.address, 1), (new.address, 0)]);
        proxy.reload(&before).expect("applied");
        let tied = set(&ask(&mut client, "")).expect("a cookie");
        proxy.reload(&yaml(sticky, &[(old.address, 0), (new.address, 1)])).expect("applied");
        for _ in 0..4 {
            assert_eq!(ask(&mut client, &tied).text(), "old", "{lane}");
            assert_eq!(ask(&mut client, "").text(), "new", "{lane}");
        }
    }
}

#[test]
fn a_cookie_has_the_attributes_that_it_is_to_have() {
    let node = Node::always("ok");
    let cases = [
        ("max_age: 60", "; Path=/; Max-Age=60; HttpOnly"),
        ("path: /app, http_only: false", "; Path=/app"),
        ("secure: true, same_site: none", "; Path=/; HttpOnly; Secure; SameSite=None"),
        ("same_site: lax", "; Path=/; HttpOnly; SameSite=Lax"),
        ("same_site: strict", "; Path=/; HttpOnly; SameSite=Strict"),
    ];
    for (keys, attributes) in cases {
        let keys = format!("sticky: {{ cookie: tie, {keys} }}");
        let proxy = TestProxy::start(&yaml(&keys, &[(node.address, 1)]));
        for lane in LANES {
            let answer = ask(&mut Client::connect(proxy.address(lane)), "");
            let line = answer.field("set-cookie").expect("a cookie");
            assert!(line.ends_with(attributes), "{line} {keys} {lane}");
            assert_eq!(line.len(), "tie=0123456789abcdef".len() + attributes.len(), "{line}");
        }
    }
}

#[test]
fn a_node_that_comes_later_gets_its_share_by_and_by() {
    const REQUESTS: usize = 300;
    for lane in LANES {
        for (keys, share) in [
            ("type: roundrobin", REQUESTS / 2..=REQUESTS / 2),
            // A tenth of its share at first, by chance, and the window is a day. Its share is all
            // requests that find the other node's last one unfinished.
            ("slow_start: { window: 86400 }", 1..=REQUESTS / 4),
            ("type: least_conn, slow_start: { window: 86400 }", 1..=REQUESTS / 4),
            // It is over at once.
            ("slow_start: { window: 0.001 }", REQUESTS / 2 - 5..=REQUESTS / 2 + 5),
        ] {
            let (old, new) = (Node::always("old"), Node::always("new"));
            let proxy = TestProxy::start(&yaml(keys, &[(old.address, 1)]));
            proxy.reload(&yaml(keys, &[(old.address, 1), (new.address, 1)])).expect("applied");
            let mut client = Client::connect(proxy.address(lane));
            let got = (0..REQUESTS).filter(|_| ask(&mut client, "").text() == "new").count();
            assert!(share.contains(&got), "{lane} {keys}: {got}");
        }
    }
}
