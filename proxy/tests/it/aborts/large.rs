//! The same in the middle of bodies that are spliced: either side stalls or leaves, a node cannot be
//! reached, or answers early. Afterwards the process is what it was before.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use proxy::test_support::{Client, PATIENCE, unused_address};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::leave;
use crate::{
    process::Tandem,
    seeded::{self, Seeded},
};

const RUNS: u64 = 400;
/// Side by side: a run is spent with waiting for the most part.
const CLIENTS: u64 = 16;
/// More than the sockets and pipes on the way hold together.
const SIZE_MAX: usize = 8 << 20;
const PIECE: usize = 50_000;
/// Of the proxy, with either side.
const TIMEOUT: &str = "150ms";
/// A node that has answered may keep an upload waiting for half a minute in hyper's lane.
const SETTLING: Duration = Duration::from_secs(40);

/// What either side makes of a message: head, body in pieces, end.
fn message(head: &str, is_chunked: bool, size: usize) -> Vec<u8> {
    let framing = match is_chunked {
        true => "transfer-encoding: chunked".to_owned(),
        false => format!("content-length: {size}"),
    };
    let mut bytes = format!("{head}\r\n{framing}\r\n\r\n").into_bytes();
    let mut left = size;
    while left > 0 {
        let piece = left.min(PIECE);
        if is_chunked {
            bytes.extend(format!("{piece:x}\r\n").bytes());
        }
        bytes.resize(bytes.len() + piece, b'x');
        if is_chunked {
            bytes.extend(b"\r\n");
        }
        left -= piece;
    }
    if is_chunked {
        bytes.extend(b"0\r\n\r\n");
    }
    bytes
}

fn size(seeded: &mut Seeded) -> usize {
    *seeded.of(&[0, 20, 3000, 70_000, 1 << 20, SIZE_MAX])
}

/// Everything there is to read, or about so much of it; whether it was so much.
fn read_some(stream: &mut TcpStream, mut due: usize) -> bool {
    let mut chunk = vec![0; 1 << 16];
    while due > 0 {
        let room = chunk.len().min(due);
        match stream.read(&mut chunk[..room]) {
            Ok(0) | Err(_) => return false,
            Ok(count) => due -= count,
        }
    }
    true
}

/// A chunked body, whose data ends in no `0`, or about so much of it.
fn read_chunks(stream: &mut TcpStream, due: usize) -> Option<()> {
    let mut received = Vec::new();
    let mut chunk = vec![0; 1 << 16];
    while received.len() < due && !received.ends_with(b"0\r\n\r\n") {
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return None,
            Ok(count) => received.extend_from_slice(&chunk[..count]),
        }
    }
    Some(())
}

/// What a node does with a request that names its seed; it leaves or stalls, or all goes well.
fn node() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("the proxy connects");
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
            thread::spawn(move || while answer(&stream).is_some() {});
        }
    });
    address
}

/// One exchange; `None`: the connection is over.
fn answer(mut stream: &TcpStream) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("ASCII");
    let words: Vec<_> = head.split(['/', ' ']).collect();
    let mut seeded = Seeded::new(words[2].parse().expect("a seed"));
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let (body, is_chunked) = match length {
        Some(length) => (length.parse().expect("a length"), false),
        None if head.contains("chunked") => (usize::MAX, true),
        None => (0, false),
    };
    let size = size(&mut seeded);
    let reply = message("HTTP/1.1 200 OK", seeded.is_one_in(2), size);
    let manner = seeded.below(5);
    let is_early = seeded.is_one_in(3);
    let (taken, sent) = match manner {
        // Well-behaved, at least towards the client.
        0..=2 => (body, reply.len()),
        _ => (seeded.below(body.min(SIZE_MAX) + 1), seeded.below(reply.len() + 1)),
    };
    let mut reading = stream.try_clone().expect("a descriptor");
    let mut take = |due| match is_chunked {
        true => read_chunks(&mut reading, due),
        false => read_some(&mut reading, due).then_some(()),
    };
    if !is_early {
        take(taken)?;
    }
    if manner <= 2 || taken == body || is_early {
        stream.write_all(&reply[..sent]).ok()?;
    }
    if is_early {
        take(taken)?;
    }
    match manner {
        0..=2 => Some(()),
        3 => {
            leave(stream, seeded.is_one_in(2));
            None
        }
        _ => {
            // It stalls until it is given up, without reading what would tell.
            let hung_up = PollFd::new(&stream, PollFlags::RDHUP);
            let _ = poll(&mut [hung_up], Some(&Timespec { tv_sec: 2, tv_nsec: 0 }));
            None
        }
    }
}

/// Sends some of a request, reads some of the response or none of it for a while, leaves.
fn client(address: SocketAddr, seed: u64) {
    let mut seeded = Seeded::new(seed);
    let mut stream = TcpStream::connect(address).expect("the proxy accepts");
    // Who waits for longer than the proxy does will not be served.
    let patience = Duration::from_millis(400);
    stream.set_read_timeout(Some(patience)).expect("a timeout");
    stream.set_write_timeout(Some(patience)).expect("a timeout");
    let with_reset = seeded.is_one_in(2);
    for _ in 0..=seeded.below(3) {
        let route = if seeded.is_one_in(10) { "dead/" } else { "" };
        let size = if seeded.is_one_in(2) { 0 } else { size(&mut seeded) };
        let line = format!("POST /{route}{}/{size} HTTP/1.1\r\nhost: a", seeded.next());
        let request = message(&line, seeded.is_one_in(2), size);
        let is_whole = seeded.below(3) > 0;
        let sent = if is_whole { request.len() } else { seeded.below(request.len()) };
        if stream.write_all(&request[..sent]).is_err() {
            break;
        }
        match seeded.below(3) {
            // It reads nothing until the proxy may have given it up.
            0 if seeded.is_one_in(4) => thread::park_timeout(patience),
            0 => {}
            1 => drop(read_some(&mut stream, seeded.below(SIZE_MAX))),
            _ => drop(stream.read(&mut [0; 100])),
        }
        if !is_whole {
            break;
        }
    }
    leave(&stream, with_reset);
}

struct Page(String);

impl Page {
    fn of(admin: SocketAddr) -> Page {
        Page(Client::connect(admin).ask("GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n").text())
    }

    /// The sum of all samples that begin so.
    fn sum(&self, name: &str) -> f64 {
        let samples = self.0.lines().filter(|line| line.starts_with(name));
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

/// What must be as it was: open connections, idle ones to nodes, busy pipes, and descriptors beside
/// those of idle pipes.
fn held(tandem: &Tandem, admin: SocketAddr) -> [f64; 4] {
    let page = Page::of(admin);
    let idle_pipes = page.sum("tandem_forward_pipes{state=\"idle\"}");
    [
        page.sum("tandem_downstream_connections_active{"),
        page.sum("tandem_upstream_pool_idle{"),
        page.sum("tandem_forward_pipes{state=\"busy\"}"),
        tandem.proc("fd").len() as f64 - 2.0 * idle_pipes,
    ]
}

#[test]
fn whoever_leaves_in_the_middle_of_a_large_body_leaves_nothing_behind() {
    let seed = seeded::seed();
    println!("{}={seed}", seeded::VARIABLE);
    let is_express = std::env::var_os("TANDEM_TEST_LANE").is_none_or(|lane| lane != "hyper");
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("access.log");
    let text = format!(
        "listeners: [{{ name: web, address: \"127.0.0.1:0\", express_lane: {is_express} }}]\n\
         routes:\n\
         - {{ id: dead, uri: /dead/*, upstream_id: dead }}\n\
         - {{ id: all, uri: /*, upstream_id: app }}\n\
         upstreams:\n\
         - {{ id: app, type: roundrobin, nodes: {{ \"{}\": 1 }} }}\n\
         - {{ id: dead, type: roundrobin, nodes: {{ \"{}\": 1 }} }}\n\
         limits: {{ splice_min: 1B }}\n\
         timeouts: {{ body: {TIMEOUT}, response: {TIMEOUT}, response_body: {TIMEOUT}, \
         send: {TIMEOUT}, pool_idle: 1s }}\n\
         admin: {{ address: \"127.0.0.1:0\" }}\n\
         log: {{ access: {{ target: {} }} }}\n\
         kernel: {{ mode: off }}\nworkers: 1\n",
        node(),
        unused_address(),
        log.display(),
    );
    let tandem = Tandem::start(&text);
    let (web, admin) = (tandem.web(), tandem.address(&["admin listening"]));
    // Once without the admin connections that have just asked.
    let samples = (0..10).map(|_| {
        thread::park_timeout(Duration::from_millis(20));
        held(&tandem, admin)
    });
    let before = samples.min_by(|one, other| one[3].total_cmp(&other[3])).expect("some");
    let next = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while let run @ 0..RUNS = next.fetch_add(1, Relaxed) {
                    client(web, seed.wrapping_mul(RUNS).wrapping_add(run));
                }
            });
        }
    });
    assert_eq!(settled(&tandem, admin, before), before);
    let page = Page::of(admin);
    assert_eq!(page.sum("tandem_downstream_connections_total{"), RUNS as f64);
    let records = page.sum("tandem_downstream_requests_total{");
    let lanes = page.sum("tandem_lane_requests_total{");
    let fault = |label: &str| page.sum(&format!("tandem_faults_total{{fault=\"{label}\"}}"));
    let unheard: f64 = ["head_closed", "head_timeout", "head_malformed"].map(fault).iter().sum();
    assert_eq!(records, lanes + unheard);
    let lines = std::fs::read_to_string(&log).expect("a log").lines().count();
    assert_eq!(lines as f64, records);
    // All of it happened.
    for label in [
        "connect_refused",
        "downstream_reset",
        "body_timeout",
        "send_timeout",
        "response_timeout",
        "response_truncated",
        "response_body_timeout",
    ] {
        assert!(fault(label) > 0.0, "no {label} in\n{}", page.0);
    }
    for direction in ["sent", "recv"] {
        let spliced =
            format!("tandem_forward_bytes_total{{direction=\"{direction}\",via=\"splice\"}}");
        assert_eq!(page.sum(&spliced) > 0.0, is_express, "{direction}");
    }
}

/// What is held, once it is as `expected` or will not be any more.
fn settled(tandem: &Tandem, admin: SocketAddr, expected: [f64; 4]) -> [f64; 4] {
    let started = Instant::now();
    loop {
        let held = held(tandem, admin);
        if held == expected || started.elapsed() > SETTLING {
            return held;
        }
        thread::park_timeout(Duration::from_millis(100));
    }
}
