//! The same where who says what when matters: answers before the request's end, stalls, aborts.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use proxy::test_support::{PATIENCE, TestProxy, eventually};
use socket2::SockRef;

use super::{Seen, plain, plain_line, plain_sample, summed};

/// What one side does, in this order. At the end it reads until the other side closes.
#[derive(Debug, Clone, Copy)]
enum Step {
    Say(&'static str),
    /// Reads until so much has come in all.
    Hear(&'static str),
    /// Says more than the other side can take without reading, as far as that goes.
    SayMuch,
    /// For longer than a stalled upload is waited for, shorter than a response is.
    Pause,
    /// Lets the other side's `Await` go on.
    Signal,
    Await,
    /// Reads nothing for longer than anybody waits.
    Stall,
    EndSending,
    Close,
    Reset,
}
use Step::{Await, Close, EndSending, Hear, Pause, Reset, Say, SayMuch, Signal, Stall};

/// What client and node do, and how the downstream's record ends.
struct Talk {
    client: &'static [Step],
    node: &'static [Step],
    end: &'static str,
}

const fn talk(client: &'static [Step], node: &'static [Step], end: &'static str) -> Talk {
    Talk { client, node, end }
}

const GET: Step = Say("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
const POST: Step = Say("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 90000000\r\n\r\n0123456789");
const CHUNKED: Step = Say("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n\
     5\r\nhello\r\n");
const HEAD: Step = Hear("\r\n\r\n");
const HALF: Step = Say("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst");
const REST: Step = Say("other");

const TALKS: &[Talk] = &[
    // Answered early; the rest of the request is not taken, or does not come, or is broken.
    talk(
        &[POST, Hear("first"), SayMuch, Hear("firstother")],
        &[HEAD, HALF, Pause, REST, Stall],
        "--",
    ),
    talk(&[POST, Hear("firstother")], &[HEAD, HALF, Pause, REST], "--"),
    talk(&[CHUNKED, Hear("firstother")], &[HEAD, HALF, Pause, REST], "--"),
    talk(
        &[CHUNKED, Hear("first"), Say("x\r\n"), Hear("firstother")],
        &[HEAD, HALF, Pause, REST],
        "--",
    ),
    talk(
        &[CHUNKED, Hear("firstother"), Say("0\r\n\r\n")],
        &[HEAD, HALF, REST, Hear("0\r\n\r\n")],
        "--",
    ),
    talk(&[POST, SayMuch], &[HEAD, HALF, REST, Reset], "--"),
    // Timeouts.
    talk(&[Say("GET / HT")], &[], "cR"),
    talk(&[POST], &[], "cD"),
    talk(&[POST, SayMuch], &[Stall], "sH"),
    talk(&[GET], &[Stall], "sH"),
    talk(&[GET], &[HEAD, HALF, Stall], "sD"),
    talk(&[GET, Stall], &[HEAD, Say("HTTP/1.1 200 OK\r\n\r\n"), SayMuch], "cL"),
    // Aborts of the downstream.
    talk(&[POST, Await, Reset], &[HEAD, Signal], "CD"),
    talk(&[POST, EndSending], &[HEAD], "CD"),
    talk(&[CHUNKED, EndSending], &[HEAD], "CD"),
    talk(&[GET, Await, Reset], &[HEAD, Signal], "CD"),
    talk(&[GET, Hear("first"), Reset], &[HEAD, HALF], "CD"),
    talk(&[GET, EndSending], &[HEAD, HALF, REST], "--"),
    // Aborts of the node.
    talk(&[GET], &[HEAD, Close], "SH"),
    talk(&[GET], &[HEAD, Reset], "SH"),
    talk(&[GET], &[HEAD, HALF, Close], "SD"),
    talk(&[GET, Hear("first")], &[HEAD, HALF, Pause, Reset], "SD"),
    talk(
        &[GET],
        &[
            HEAD,
            Say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n3\r\not"),
            Close,
        ],
        "SD",
    ),
    talk(
        &[GET],
        &[HEAD, Say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\nx"), Close],
        "SH",
    ),
    talk(
        &[POST, SayMuch],
        &[HEAD, Say("HTTP/1.1 413 No\r\ncontent-length: 2\r\n\r\nno"), Close],
        "--",
    ),
    // What a response may be made of.
    talk(
        &[GET],
        &[
            HEAD,
            Say("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early"),
            Pause,
            Say(" Hints\r\nlink: x\r\n\r\n"),
            Pause,
            HALF,
            Pause,
            REST,
        ],
        "--",
    ),
    talk(&[GET], &[HEAD, Say("HTTP/1.1 200 OK\r\n\r\nfirst"), Pause, REST, Close], "--"),
    talk(
        &[GET],
        &[
            HEAD,
            Say(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x\r\n\r\n5\r\nfirst\r\n",
            ),
            Pause,
            Say("5\r\nother\r\n0\r\nx: "),
            Pause,
            Say("y\r\n\r\n"),
        ],
        "--",
    ),
    talk(
        &[CHUNKED, Say("0\r\nx: y"), Say("\r\n\r\n"), Hear("firstother")],
        &[Hear("0\r\n\r\n"), HALF, REST],
        "--",
    ),
];

const PAUSE: Duration = Duration::from_millis(1500);
const STALL: Duration = Duration::from_secs(8);
const SECTIONS: &str = "timeouts: { head: 1s, body: 1s, send: 1s, response: 5s, response_body: 5s, idle: 1s }\n\
     limits: { splice_min: none }\n";

#[derive(Debug, Default)]
struct Signalled(AtomicBool);

/// Everything a side hears while it follows its script.
fn follow(mut stream: TcpStream, steps: &[Step], signal: &Signalled) -> Vec<u8> {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_write_timeout(Some(PAUSE / 2)).expect("a timeout");
    let mut heard = Vec::new();
    for step in steps {
        match step {
            // Who has left does not listen.
            Say(text) => drop(stream.write_all(text.as_bytes())),
            Hear(text) => {
                let is_heard = |heard: &[u8]| String::from_utf8_lossy(heard).contains(text);
                while !is_heard(&heard) && hear(&mut stream, &mut heard) {}
            }
            SayMuch => {
                let much = vec![b'x'; 1 << 20];
                while stream.write_all(&much).is_ok() {}
            }
            Pause => thread::park_timeout(PAUSE),
            Signal => signal.0.store(true, Relaxed),
            Await => eventually("a signal", || signal.0.load(Relaxed).then_some(())),
            Stall => thread::park_timeout(STALL),
            EndSending => drop(stream.shutdown(Shutdown::Write)),
            Close => return heard,
            Reset => {
                SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("an option");
                return heard;
            }
        }
    }
    while hear(&mut stream, &mut heard) {}
    heard
}

fn hear(stream: &mut TcpStream, heard: &mut Vec<u8>) -> bool {
    let mut chunk = vec![0; 1 << 16];
    match stream.read(&mut chunk) {
        Ok(0) => false,
        Ok(count) => {
            heard.extend_from_slice(&chunk[..count]);
            true
        }
        Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
        Err(error) => panic!("not closed: {error}"),
    }
}

/// A node that follows the script on its first connection, and what it hears there.
fn node(talk: &'static Talk, signal: &Arc<Signalled>) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let heard: Arc<Mutex<Vec<u8>>> = Arc::default();
    let (tell, signal) = (Arc::clone(&heard), Arc::clone(signal));
    thread::spawn(move || {
        let (stream, _) = listener.accept().expect("the proxy connects");
        let mut heard = tell.lock().unwrap_or_else(PoisonError::into_inner);
        *heard = follow(stream, talk.node, &signal);
    });
    (address, heard)
}

fn run(talk: &'static Talk, is_express: bool) -> Seen {
    let signal = Arc::default();
    let (address, heard) = node(talk, &signal);
    let yaml = TestProxy::yaml(&[address])
        .replace("\"127.0.0.1:0\" }", &format!("\"127.0.0.1:0\", express_lane: {is_express} }}"));
    let proxy = TestProxy::start(&(yaml + SECTIONS));
    let stream = TcpStream::connect(proxy.address("web")).expect("the proxy accepts");
    let downstream = follow(stream, talk.client, &signal);
    proxy.check_metric("tandem_downstream_connections_active{listener=\"web\"}", 0.0);
    let page = proxy.admin("/metrics").text();
    let counted = |line: &&str| line.starts_with("tandem_downstream_requests_total{");
    let records = page.lines().filter(counted).filter_map(|line| line.rsplit(' ').next());
    let records = records.map(|count| count.parse::<f64>().expect("a number")).sum::<f64>();
    let log = proxy.access_log(records as usize);
    // Nobody can tell how far a side gets that says as much as it can.
    let says_much = |steps: &[Step]| steps.iter().any(|step| matches!(step, SayMuch));
    let text = |bytes: &[u8], is_cut: bool| {
        let text = String::from_utf8_lossy(bytes);
        let head = text.split_once("\r\n\r\n").map(|(head, _)| head.to_owned());
        plain(&head.filter(|_| is_cut).unwrap_or(text.into_owned()))
    };
    let [of_client, of_node] = [talk.client, talk.node].map(says_much);
    let says_much = of_client || of_node;
    let has_bytes = |name: &str| says_much && name.contains("forward_bytes");
    drop(proxy);
    let heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
    Seen {
        downstream: text(&downstream, of_node),
        node: vec![text(&heard, of_client)],
        log: log
            .iter()
            .map(|line| without_bytes(&plain_line(line, is_express), says_much))
            .collect(),
        metrics: summed(page.lines().filter_map(plain_sample).filter(|(name, _)| !has_bytes(name))),
    }
}

fn without_bytes(line: &str, says_much: bool) -> String {
    let words = line.split(' ').enumerate().map(|(at, word)| match at {
        10 | 11 if says_much => "*",
        _ => word,
    });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn both_lanes_say_the_same_when_they_do() {
    thread::scope(|scope| {
        let running: Vec<_> = TALKS
            .iter()
            .map(|talk| {
                let lanes =
                    [true, false].map(|is_express| scope.spawn(move || run(talk, is_express)));
                (talk, lanes)
            })
            .collect();
        let mut differing = Vec::new();
        for (talk, lanes) in running {
            let [express, hyper] = lanes.map(|lane| lane.join().expect("no panic"));
            let ends = |seen: &Seen| seen.log.last().is_some_and(|line| line.ends_with(talk.end));
            if express != hyper || !ends(&express) {
                differing.push(format!(
                    "client {:?}\nnode {:?}\nis to end `{}`\n{express:#?}\n{hyper:#?}",
                    talk.client, talk.node, talk.end
                ));
            }
        }
        assert!(differing.is_empty(), "{}", differing.join("\n\n"));
    });
}
