use super::super::trial::{Seen, Trial, refused};

/// The address that other plugins see.
#[track_caller]
fn check(settings: &str, line: &str, fields: &str, expected: &str) {
    let plugins = format!(
        "{{ real-ip: {{ {settings} }}, \
         fault-injection: {{ abort: {{ http_status: 200, body: $remote_addr }} }} }}"
    );
    let seen = Trial::new(&plugins, "").ask(line, fields);
    let Seen::Answered { body, .. } = &seen else { panic!("{seen:?}") };
    assert_eq!(body, expected, "{settings} {line} {fields}");
}

const PEER: &str = "192.0.2.1";

#[test]
fn the_last_forwarded_address_counts() {
    const XFF: &str = "source: http_x_forwarded_for, trusted_addresses: [192.0.2.0/24]";
    for (fields, expected) in [
        ("", PEER),
        ("x-forwarded-for: 203.0.113.7\r\n", "203.0.113.7"),
        ("x-forwarded-for: 203.0.113.7, 198.51.100.1\r\n", "198.51.100.1"),
        ("x-forwarded-for: 203.0.113.7\r\nX-Forwarded-For: 198.51.100.1:81\r\n", "198.51.100.1"),
        ("x-forwarded-for: [2001:db8::1]:443\r\n", "2001:db8::1"),
        ("x-forwarded-for: ::ffff:203.0.113.7\r\n", "203.0.113.7"),
        ("x-forwarded-for: 203.0.113.7, unknown\r\n", PEER),
        ("x-forwarded-for: 203.0.113.7,\r\n", PEER),
        ("x-forwarded-for: 203.0.113.7:0\r\n", PEER),
    ] {
        check(XFF, "GET /", fields, expected);
    }
}

#[test]
fn trusted_addresses_are_passed_by() {
    const XFF: &str = "source: http_x_forwarded_for, recursive: true, \
                       trusted_addresses: [192.0.2.0/24, 10.0.0.0/8]";
    for (list, expected) in [
        ("203.0.113.7, 198.51.100.1, 10.1.1.1, 192.0.2.7", "198.51.100.1"),
        ("10.0.0.1, 10.0.0.2", "10.0.0.1"),
        ("203.0.113.7, what, 10.0.0.2", PEER),
    ] {
        check(XFF, "GET /", &format!("x-forwarded-for: {list}\r\n"), expected);
    }
}

#[test]
fn other_variables_have_one_address() {
    check("source: arg_realip", "GET /?realip=203.0.113.7", "", "203.0.113.7");
    check("source: http_x_real", "GET /", "x-real: 203.0.113.7, 1.1.1.1\r\n", PEER);
}

#[test]
fn a_peer_that_is_not_trusted_is_not_believed() {
    let settings = "source: arg_realip, trusted_addresses: [10.0.0.0/8, 2001:db8::/32]";
    check(settings, "GET /?realip=203.0.113.7", "", PEER);
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (settings, message) in [
        ("", "`source` is missing"),
        ("source: nothing", "unknown variable `nothing`"),
        ("source: arg_a, trusted_addresses: []", "at least one"),
        ("source: arg_a, trusted_addresses: [host]", "expected"),
    ] {
        refused("real-ip", settings, message);
    }
}

/// What a trusted proxy sets stands beside what its client has sent.
#[test]
fn a_client_cannot_speak_before_its_proxy() {
    let trial = Trial::new(
        "{ real-ip: { source: http_x_real_ip, trusted_addresses: [192.0.2.1] }, \
           ip-restriction: { whitelist: [10.0.0.0/8] } }",
        "",
    );
    for (fields, status) in [
        ("x-real-ip: 10.1.1.1\r\n", None),
        ("x-real-ip: 203.0.113.9\r\n", Some(403)),
        ("x_real_ip: 10.1.1.1\r\nx-real-ip: 203.0.113.9\r\n", Some(403)),
        ("x_real_ip: 10.1.1.1\r\n", Some(403)),
        ("x-real-ip: 10.1.1.1\r\nx-real-ip: 203.0.113.9\r\n", Some(403)),
    ] {
        assert_eq!(trial.ask("GET /", fields).status(), status, "{fields}");
    }
    let listed = Trial::new(
        "{ real-ip: { source: http_x-forwarded-for, trusted_addresses: [192.0.2.1] }, \
           ip-restriction: { whitelist: [10.0.0.0/8] } }",
        "",
    );
    let fields = "x-forwarded-for: 10.1.1.1\r\nx-forwarded-for: 203.0.113.9\r\n";
    assert_eq!(listed.ask("GET /", fields).status(), Some(403));
}

#[test]
fn nodes_are_told_who_the_client_is_and_whom_it_came_through() {
    let settings = "{ real-ip: { source: http_x_forwarded_for, trusted_addresses: [192.0.2.1] } }";
    let fields = "x-forwarded-for: 203.0.113.7\r\nx-real-ip: 1.1.1.1\r\n";
    for (peer, client) in [("192.0.2.1", "203.0.113.7"), ("::ffff:192.0.2.1", "203.0.113.7"), ("198.51.100.1", "198.51.100.1")] {
        let seen = Trial::new(settings, "").from(peer).ask("GET /", fields);
        let peer = peer.trim_start_matches("::ffff:");
        assert_eq!(seen.field("x-real-ip"), Some(client), "{peer}");
        assert_eq!(seen.field("x-forwarded-for"), Some(&*format!("203.0.113.7, {peer}")));
    }
    let seen = Trial::new(settings, "").from("::ffff:198.51.100.1").ask("GET /", fields);
    assert_eq!(seen.field("x-real-ip"), Some("198.51.100.1"));
}
