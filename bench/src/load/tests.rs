use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
};

use super::{response::ExpectedBody, *};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const RIGHT: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes";

/// Serves each connection on a thread of its own; returns where.
fn serve(script: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let _ = std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let script = script.clone();
            let _ = std::thread::spawn(move || script(stream));
        }
    });
    address
}

/// Answers each request with the next of `answers`, the last one for ever.
fn answers(answers: &'static [&'static [u8]]) -> impl Fn(TcpStream) + Clone + Send {
    move |mut stream: TcpStream| {
        let last = answers.last().into_iter().cycle();
        for answer in answers.iter().chain(last) {
            let mut request = [0; REQUEST.len()];
            if stream.read_exact(&mut request).is_err() {
                return;
            }
            assert_eq!(request, REQUEST);
            if answer.is_empty() || stream.write_all(answer).is_err() {
                return;
            }
        }
    }
}

fn http(target: SocketAddr, connections: usize, reuse: Reuse) -> Load {
    let body = ExpectedBody::OneOf(vec![b"yes".to_vec()]);
    let exchange = Exchange::Http {
        request: REQUEST.to_vec(),
        upload: 0,
        expected: Expected { status: 200, body },
    };
    Load {
        target,
        connections,
        exchange,
        reuse,
        pace: Pace::Closed,
        patience: Duration::from_secs(10),
    }
}

fn run(load: &Load) -> Outcome {
    let cpus = CpuList::allowed().unwrap();
    let running = start(load, &cpus).unwrap();
    running.wait_until_warm(Duration::from_millis(20), Duration::from_secs(10));
    running.begin_measuring();
    // Enough if each thread has seen the phase and gone round once more.
    let from = running.completed();
    let deadline = Instant::now() + Duration::from_secs(10);
    while running.completed() < from + 50
        && running.sum(|counters| &counters.failed) == 0
        && Instant::now() < deadline
    {
        std::thread::yield_now();
    }
    running.finish().unwrap()
}

#[test]
fn a_closed_loop_keeps_its_connections_and_counts_what_was_right() {
    let outcome = run(&http(serve(answers(&[RIGHT])), 5, Reuse::KeepAlive));
    assert_eq!(outcome.failures, BTreeMap::new());
    assert_eq!(outcome.sockets, 5);
    assert!(outcome.completed() >= 50);
    assert!(!outcome.latency.is_empty() && outcome.latency.len() < outcome.completed());
}

#[track_caller]
fn check_failure(script: &'static [&'static [u8]], failure: &Failure) {
    let outcome = run(&http(serve(answers(script)), 1, Reuse::KeepAlive));
    assert!(outcome.failures.contains_key(failure), "{:?}", outcome.failures);
}

#[test]
fn one_wrong_answer_among_right_ones_is_seen() {
    check_failure(&[RIGHT, RIGHT, b""], &Failure::Closed);
    check_failure(
        &[RIGHT, b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 3\r\n\r\nyes"],
        &Failure::Status(502),
    );
    check_failure(&[RIGHT, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno"], &Failure::Length);
    check_failure(&[RIGHT, b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nnay"], &Failure::Body);
    check_failure(
        &[RIGHT, b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyesHTTP/1.1"],
        &Failure::Surplus,
    );
}

#[test]
fn a_connection_per_request_counts_only_when_the_other_side_has_ended_it() {
    let one_answer = |mut stream: TcpStream| {
        let mut request = [0; REQUEST.len()];
        if stream.read_exact(&mut request).is_ok() {
            let _ = stream.write_all(RIGHT);
        }
    };
    let outcome = run(&http(serve(one_answer), 3, Reuse::PerRequest));
    assert_eq!(outcome.failures, BTreeMap::new());
    assert!(outcome.sockets >= outcome.completed(), "{}", outcome.sockets);
    assert!(outcome.completed() >= 50);
}

#[test]
fn an_echo_is_compared_byte_by_byte() {
    let run_flipping = |flip: u8| {
        let target = serve(move |mut stream: TcpStream| {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                buffer[length - 1] ^= flip;
                if stream.write_all(&buffer[..length]).is_err() {
                    return;
                }
            }
        });
        let exchange = Exchange::Echo { size: 300_000 };
        run(&Load { exchange, ..http(target, 2, Reuse::KeepAlive) })
    };
    assert_eq!(run_flipping(0).failures, BTreeMap::new());
    let failures = run_flipping(1).failures;
    assert!(failures.contains_key(&Failure::Body), "{failures:?}");
}

#[test]
fn an_upload_follows_its_request_whole_and_over_and_over() {
    const SIZE: usize = 300_000;
    let target = serve(|mut stream: TcpStream| {
        let mut request = vec![0; REQUEST.len() + SIZE];
        while stream.read_exact(&mut request).is_ok() {
            let (head, body) = request.split_at(REQUEST.len());
            let is_right = head == REQUEST && crate::pattern::Pattern::new().matches(0, body);
            if !is_right || stream.write_all(RIGHT).is_err() {
                return;
            }
        }
    });
    let mut load = http(target, 2, Reuse::KeepAlive);
    if let Exchange::Http { upload, .. } = &mut load.exchange {
        *upload = SIZE as u64;
    }
    let outcome = run(&load);
    assert_eq!(outcome.failures, BTreeMap::new());
    assert!(outcome.completed() >= 50);
}

#[test]
fn an_open_loop_keeps_its_rate() {
    let load =
        Load { pace: Pace::Rate(2000.0), ..http(serve(answers(&[RIGHT])), 8, Reuse::KeepAlive) };
    let began = Instant::now();
    let outcome = run(&load);
    let most = began.elapsed().as_secs_f64() * 2000.0 + 8.0;
    assert_eq!(outcome.failures, BTreeMap::new());
    assert!(outcome.completed() as f64 <= most, "{} > {most}", outcome.completed());
}

#[test]
fn connections_are_dealt_out_to_the_last() {
    for (total, parts) in [(1, 1), (7, 2), (500, 3), (3, 3)] {
        let shares: Vec<usize> = (0..parts).map(|part| share(total, parts, part)).collect();
        assert_eq!(shares.iter().sum::<usize>(), total);
        assert!(shares.iter().max() <= shares.iter().min().map(|least| least + 1).as_ref());
    }
}
