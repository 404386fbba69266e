//! Connections that go on by other rules, and sockets that go on without their connection.

use std::{
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
};

use rustix::net::connect_unspec;
use socket2::SockRef;

use super::{peer::Waiting, *};

/// Ends the connection, not the socket, and connects that to `to`.
fn connect_anew(stream: TcpStream, to: SocketAddr) -> Waiting {
    connect_unspec(&stream).expect("disconnected");
    let connected = SockRef::from(&stream).connect(&to.into());
    let is_begun = |error: &io::Error| error.raw_os_error() == Some(libc::EINPROGRESS);
    assert!(connected.as_ref().map_or_else(is_begun, |()| true), "{connected:?}");
    Waiting(stream)
}

#[test]
fn a_socket_that_is_connected_anew_brings_nothing_along() {
    if skip_without_privileges() {
        return;
    }
    ["on", "off"].into_iter().for_each(check_connected_anew);
}

fn check_connected_anew(switched: &str) {
    let node = Node::start("127.0.0.1:0");
    let proxy = proxy(LEGS, node.address);
    let delivered = Counted::delivered(&proxy);
    let mut peer = Peer::connect(proxy.address("web"));
    warm_up(&mut peer, &delivered);
    peer.send(peer::ask(1000).as_bytes()).expect("sent");
    eventually("a response that nobody reads", || {
        (status(&proxy, "unread_bytes") >= 1000).then_some(())
    });
    switch(&proxy, switched);

    let elsewhere = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = elsewhere.local_addr().expect("an address");
    let mut stream = connect_anew(peer.stream.into_inner().0, address);
    let (mut other, _) = elsewhere.accept().expect("connected");
    let before = delivered.since();
    let mut bytes = [0; 1000];
    for round in 0..100 {
        other.write_all(&[round; 1000]).expect("sent");
        stream.read_exact(&mut bytes).expect("arrived");
        assert_eq!(bytes, [round; 1000]);
        stream.write_all(&bytes).expect("sent");
        other.read_exact(&mut bytes).expect("arrived");
        assert_eq!(bytes, [round; 1000]);
    }
    assert_eq!(delivered.since(), before, "none of ours");

    switch(&proxy, "on");
    let mut peer = Peer::over(connect_anew(stream.0, proxy.address("web")));
    warm_up(&mut peer, &delivered);
    assert!(delivered.since() > before);
}

/// Whether so many requests were delivered to the node, whose client has TCP.
fn reaches_directly(proxy: &TestProxy, peer: &mut Peer) -> bool {
    let delivered = Counted::delivered(proxy);
    (0..10).for_each(|_| peer.get(100).expect("answered"));
    delivered.since() > 0
}

#[test]
fn connections_to_nodes_follow_a_reload() {
    if skip_without_privileges() {
        return;
    }
    let node = Node::start("127.0.0.1:0");
    let listener = format!("name: web, {ANY_PORT}, same_host: false");
    let yaml = |upstream| yaml(LEGS, &[&listener], node.address, upstream);
    let proxy = TestProxy::start(&yaml(""));
    let mut peer = Peer::connect(proxy.address("web"));
    warm_up(&mut peer, &Counted::delivered(&proxy));
    assert!(reaches_directly(&proxy, &mut peer));
    proxy.reload(&yaml("same_host: false")).expect("valid");
    assert!(!reaches_directly(&proxy, &mut peer));
    proxy.reload(&yaml("same_host: true")).expect("valid");
    warm_up(&mut peer, &Counted::delivered(&proxy));
    // One that is not kept need not be found.
    proxy.reload(&yaml("keepalive_pool: { requests: 1 }")).expect("valid");
    peer.get(100).expect("answered");
    let begun = Counted::start(&proxy, "establish", "begun");
    assert!(!reaches_directly(&proxy, &mut peer));
    assert_eq!(begun.since(), 0);
}
