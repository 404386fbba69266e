use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Frame as Bytes, *};
use crate::frame::{ACK, Frame, More, RST, SYN, eth};

const V4: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 2));
const V6: (Ipv6Addr, Ipv6Addr) = (
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2),
);

fn v4() -> Frame {
    eth().ipv4(V4.0, V4.1)
}

fn v6() -> Frame {
    eth().ipv6(V6.0, V6.1)
}

fn segment((source, destination): (impl Into<IpAddr>, impl Into<IpAddr>), kind: Kind) -> Segment {
    let port_be = 80_u16.to_be_bytes();
    Segment {
        source: source.into().into(),
        destination: Destination::new(destination.into().into(), port_be),
        kind,
    }
}

#[track_caller]
fn check(frame: Frame, expected: Result<Segment, Reason>) {
    assert_eq!(parse(Bytes::from(frame.bytes())), expected, "{frame:?}");
}

#[test]
fn reads_the_segment() {
    let opening = |pair| Ok(segment(pair, Kind::Opening));
    let following = |pair| Ok(segment(pair, Kind::Following));
    check(v4().tcp(80, SYN), opening(V4));
    check(v4().tcp(80, SYN | ACK), following(V4));
    check(v4().tcp(80, ACK), following(V4));
    check(v4().tcp(80, RST), following(V4));
    check(v4().tcp(80, 0xff), following(V4));
    check(v4().tcp(80, !ACK), opening(V4));
    check(v6().tcp(80, SYN), Ok(segment(V6, Kind::Opening)));
    check(v6().tcp(80, ACK), Ok(segment(V6, Kind::Following)));
}

#[test]
fn reads_up_to_two_vlan_tags() {
    let opening = Ok(segment(V4, Kind::Opening));
    check(eth().vlan(7).ipv4(V4.0, V4.1).tcp(80, SYN), opening);
    check(eth().provider_vlan(7).vlan(8).ipv4(V4.0, V4.1).tcp(80, SYN), opening);
    check(eth().vlan(7).vlan(8).ipv6(V6.0, V6.1).tcp(80, SYN), Ok(segment(V6, Kind::Opening)));
    let three = eth().provider_vlan(7).vlan(8).vlan(9);
    check(three.ipv4(V4.0, V4.1).tcp(80, SYN), Err(Reason::VlanTooDeep));
    check(eth().vlan(7).arp(), Err(Reason::NotIp));
}

#[test]
fn reads_ipv4_options_of_any_length() {
    for words in 5..=15 {
        check(v4().ihl(words).tcp(80, SYN), Ok(segment(V4, Kind::Opening)));
    }
    for words in 0..5 {
        check(v4().ihl(words).tcp(80, SYN), Err(Reason::Malformed));
    }
}

#[test]
fn reads_ipv6_extension_headers_up_to_the_bound() {
    let opening = Ok(segment(V6, Kind::Opening));
    check(v6().extension(0, 0).tcp(80, SYN), opening);
    check(v6().extension(60, 3).extension(43, 255).tcp(80, SYN), opening);
    check(v6().authentication_header().tcp(80, SYN), opening);
    let four = v6().extension(0, 0).extension(60, 0).extension(43, 1).authentication_header();
    check(four.clone().tcp(80, SYN), opening);
    check(four.extension(60, 0).tcp(80, SYN), Err(Reason::ExtensionTooDeep));
}

#[test]
fn a_first_fragment_is_read_and_later_ones_are_not() {
    check(v4().dont_fragment().tcp(80, SYN), Ok(segment(V4, Kind::Opening)));
    check(v4().fragment(0, More::Follow).tcp(80, SYN), Ok(segment(V4, Kind::Opening)));
    check(v4().fragment(1, More::Follow).tcp(80, SYN), Err(Reason::LaterFragment));
    check(v4().fragment(0x1fff, More::Last).tcp(80, SYN), Err(Reason::LaterFragment));
    check(v4().fragment(1, More::Last).udp(80), Err(Reason::NotTcp));
    check(v6().fragment_header(0, More::Follow).tcp(80, SYN), Ok(segment(V6, Kind::Opening)));
    check(v6().fragment_header(0, More::Last).tcp(80, SYN), Ok(segment(V6, Kind::Opening)));
    check(v6().fragment_header(1, More::Last).tcp(80, SYN), Err(Reason::LaterFragment));
}

#[test]
fn a_first_fragment_without_flags_may_be_a_syn() {
    let (v4, v6) = (v4().fragment(0, More::Follow), v6().fragment_header(0, More::Follow));
    for (fragment, pair) in [
        (v4.tcp_start(80), segment(V4, Kind::Opening)),
        (v6.tcp_start(80), segment(V6, Kind::Opening)),
    ] {
        check(fragment.clone(), Ok(pair));
        // As to an Ethernet frame that is too short, and with the flags where they would be.
        check(fragment.padding(&[0, 0, 0, 0, 0x50, ACK, 0, 0, 0, 0, 0, 0]), Ok(pair));
    }
}

#[test]
fn padding_is_not_read() {
    check(v4().tcp(80, SYN).length(22), Err(Reason::TooShort));
    check(v6().tcp(80, SYN).length(2), Err(Reason::TooShort));
    check(v4().tcp(80, ACK).padding(&[0xff; 6]), Ok(segment(V4, Kind::Following)));
    // Segments that were merged to more than 64 KiB.
    check(v4().tcp(80, ACK).length(0), Ok(segment(V4, Kind::Following)));
    check(v6().extension(0, 0).tcp(80, ACK).length(0), Ok(segment(V6, Kind::Following)));
}

#[test]
fn what_is_not_tcp_is_named() {
    check(eth().arp(), Err(Reason::NotIp));
    check(v4().udp(80), Err(Reason::NotTcp));
    check(v4().other(1), Err(Reason::NotTcp));
    check(v6().udp(80), Err(Reason::NotTcp));
    check(v6().other(58), Err(Reason::NotTcp));
    // ESP hides what follows it; 59 says that nothing does.
    check(v6().other(50), Err(Reason::NotTcp));
    check(v6().extension(0, 0).other(59), Err(Reason::NotTcp));
}

#[test]
fn headers_that_contradict_themselves_are_malformed() {
    check(v4().version(6).tcp(80, SYN), Err(Reason::Malformed));
    check(v4().version(0).tcp(80, SYN), Err(Reason::Malformed));
    check(v6().version(4).tcp(80, SYN), Err(Reason::Malformed));
}

#[test]
fn every_truncation_is_too_short() {
    let whole = [
        v4().tcp(80, SYN),
        v4().ihl(15).tcp(80, SYN),
        v6().tcp(80, SYN),
        v6().extension(0, 2).fragment_header(0, More::Follow).tcp(80, SYN),
        eth().provider_vlan(1).vlan(2).ipv6(V6.0, V6.1).tcp(80, SYN),
    ];
    for frame in whole {
        for length in 0..frame.bytes().len() {
            check(frame.clone().cut(length), Err(Reason::TooShort));
        }
        assert!(parse(Bytes::from(frame.bytes())).is_ok());
    }
}
