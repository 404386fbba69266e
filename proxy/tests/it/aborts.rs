//! Either side leaves at any moment, over and over: nothing is left behind, everything is recorded.

mod large;

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::Duration,
};

use proxy::test_support::{PATIENCE, TestProxy, eventually};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;

use crate::seeded::{self, Seeded};

const RUNS: u64 = 1000;
/// Each request says how the node is to answer.
const REQUESTS: [&str; 4] = [
    "GET /fixed HTTP/1.1\r\nhost: a\r\n\r\n",
    "GET /chunked HTTP/1.1\r\nhost: a\r\nx: aaaaaaaaaaaaaaaaaaaaaaaa\r\n\r\n",
    "POST /fixed HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n0123456789",
    "POST /chunked HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n",
];
const FIXED: &str = "HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n01234567890123456789";
const CHUNKED: &str =
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";

/// Ends a connection with FIN or with RST.
fn leave(stream: &TcpStream, with_reset: bool) {
    if with_reset {
        SockRef::from(stream).set_linger(Some(Duration::ZERO)).expect("an option");
    } else {
        // The other side may have gone first.
        drop(stream.shutdown(Shutdown::Both));
    }
}

/// Answers each connection's requests; in the middle of some it leaves.
fn node() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for (at, stream) in (1_u64..).zip(listener.incoming()) {
            let stream = stream.expect("the proxy connects");
            thread::spawn(move || answer(stream, Seeded::new(at)));
        }
    });
    address
}

fn answer(mut stream: TcpStream, mut seeded: Seeded) {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut heard = Vec::new();
    loop {
        let mut chunk = [0; 1024];
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return,
            Ok(count) => heard.extend_from_slice(&chunk[..count]),
        }
        let text = String::from_utf8_lossy(&heard);
        let is_whole = text.ends_with("0123456789")
            || text.ends_with("\r\n0\r\n\r\n")
            || text.starts_with("GET") && text.ends_with("\r\n\r\n");
        if !is_whole {
            continue;
        }
        let reply = if text.contains("/fixed") { FIXED } else { CHUNKED };
        let is_kept = text.contains("/calm") || seeded.below(4) > 0;
        let sent = if is_kept { reply.len() } else { seeded.below(reply.len() + 1) };
        if stream.write_all(&reply.as_bytes()[..sent]).is_err() || !is_kept {
            leave(&stream, seeded.below(2) == 0);
            return;
        }
        heard.clear();
    }
}

/// Sends some of a request, reads some of the response, leaves.
fn client(address: std::net::SocketAddr, seeded: &mut Seeded) {
    let mut stream = TcpStream::connect(address).expect("the proxy accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let with_reset = seeded.below(2) == 0;
    for _ in 0..=seeded.below(3) {
        let request = REQUESTS[seeded.below(REQUESTS.len())].as_bytes();
        let is_whole = seeded.below(3) > 0;
        let sent = if is_whole { request.len() } else { seeded.below(request.len()) };
        if stream.write_all(&request[..sent]).is_err() || !is_whole {
            break;
        }
        let mut some = vec![0; 1 + seeded.below(200)];
        if seeded.below(3) > 0 && !matches!(stream.read(&mut some), Ok(1..)) {
            break;
        }
    }
    leave(&stream, with_reset);
}

#[test]
fn whoever_leaves_leaves_nothing_behind() {
    let proxy = TestProxy::to(&[node()]);
    let address = proxy.address("web");
    let seed = seeded::seed();
    println!("{}={seed}", seeded::VARIABLE);
    let mut seeded = Seeded::new(seed);
    for _ in 0..RUNS {
        client(address, &mut seeded);
    }
    let sum = |name: &str| -> f64 {
        let page = proxy.admin("/metrics").text();
        let samples = page.lines().filter(|line| line.starts_with(name));
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    eventually("all connections accepted and closed", || {
        let accepted = sum("tandem_downstream_connections_total{");
        let active = sum("tandem_downstream_connections_active{");
        (accepted == RUNS as f64 && active == 0.0).then_some(())
    });
    // Each record that was begun was finished once, in the log and in the metrics.
    let records = sum("tandem_downstream_requests_total{");
    let lanes = sum("tandem_lane_requests_total{");
    let unheard: f64 = ["head_closed", "head_timeout", "head_malformed"]
        .iter()
        .map(|label| sum(&format!("tandem_faults_total{{fault=\"{label}\"}}")))
        .sum();
    assert_eq!(records, lanes + unheard);
    assert_eq!(proxy.access_log(records as usize).len(), records as usize);
    assert!(lanes > RUNS as f64 / 2.0, "{lanes}");
    // What is pooled is still good: an idle connection is one that has nothing of its past.
    let mut last = proxy.client();
    for _ in 0..100 {
        let response = last.ask("GET /calm/fixed HTTP/1.1\r\nhost: a\r\n\r\n");
        assert_eq!((response.status, response.text().len()), (200, 20));
    }
    proxy.stop().expect("a clean end");
}

/// What became of a node that sends without an end.
#[derive(Debug, PartialEq, Eq)]
enum Sending {
    HeldBack,
    Over,
}

/// A node that never blocks in a call, and that looks for nothing but room while it sends.
fn sends_on(mut stream: TcpStream, told: &mpsc::Sender<Sending>) {
    stream.set_nonblocking(true).expect("an option");
    let patience = Timespec::try_from(PATIENCE).expect("a short time");
    let waits = |stream: &TcpStream, flags| {
        poll(&mut [PollFd::new(stream, flags)], Some(&patience)).is_ok_and(|ready| ready > 0)
    };
    let mut request = [0; 1024];
    while waits(&stream, PollFlags::IN) {
        let Ok(count @ 1..) = stream.read(&mut request) else { return };
        if !request[..count].starts_with(b"GET /endless ") {
            stream.write_all(FIXED.as_bytes()).expect("room");
            continue;
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").expect("room");
        loop {
            match stream.write(&[b'x'; 1 << 16]) {
                Ok(_) => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return drop(told.send(Sending::Over)),
            }
            drop(told.send(Sending::HeldBack));
            if !waits(&stream, PollFlags::OUT) {
                return;
            }
        }
    }
}

#[test]
fn a_node_that_sends_on_is_let_go_with_its_client() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let proxy = TestProxy::to(&[listener.local_addr().expect("an address")]);
    let (told, telling) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, told) = (stream.expect("the proxy connects"), told.clone());
            thread::spawn(move || sends_on(stream, &told));
        }
    });
    let mut client = proxy.client();
    // It takes the kernel a few to find out that the node does not block.
    for _ in 0..8 {
        assert_eq!(client.ask("GET / HTTP/1.1\r\nhost: a\r\n\r\n").status, 200);
    }
    client.send("GET /endless HTTP/1.1\r\nhost: a\r\n\r\n").until(b"\r\n\r\n");
    assert_eq!(telling.recv_timeout(PATIENCE), Ok(Sending::HeldBack));
    // Until nothing moves any more.
    while telling.recv_timeout(Duration::from_millis(200)).is_ok() {}
    leave(client.stream(), true);
    drop(client);
    eventually("the node is let go", || {
        telling.try_iter().any(|it| it == Sending::Over).then_some(())
    });
}
