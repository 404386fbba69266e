//! What the proxy asks others of its own accord, seen from all sides.

mod forward_auth;
mod key_sets;
mod mirror;
mod posts;
mod secure;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use proxy::test_support::{Node, PATIENCE, TestProxy};

/// A proxy in front of `node` with these plugins on its only route.
fn yaml(is_express: bool, node: &Node, plugins: &str) -> String {
    TestProxy::yaml(&[node.address])
        .replace("name: web,", &format!("name: web, express_lane: {is_express},"))
        .replace("uri: /*,", &format!("uri: /*, plugins: {{ {plugins} }},"))
}

fn proxy(is_express: bool, node: &Node, plugins: &str) -> TestProxy {
    TestProxy::start(&yaml(is_express, node, plugins))
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")
}

/// Serves each connection with `serve`, which ends with it.
fn host(serve: impl Fn(TcpStream) + Send + Sync + Clone + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            let serve = serve.clone();
            thread::spawn(move || serve(stream));
        }
    });
    address
}

/// The head of a request without body.
fn read_head(mut stream: impl std::io::Read) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

/// Answers one request with these bytes and closes.
fn saying(answer: &'static [u8]) -> SocketAddr {
    host(move |mut stream| {
        if read_head(&mut stream).is_some() {
            drop(stream.write_all(answer));
            // Not before everything was read, which a reset would take along.
            drop(stream.shutdown(std::net::Shutdown::Write));
            drop(stream.read(&mut [0]));
        }
    })
}
