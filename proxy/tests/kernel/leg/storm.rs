//! Clients that pause, write in pieces, read halves, end early and reset, while legs are switched off
//! and on under them.

use std::{
    io::{self, Read as _},
    net::Shutdown,
    ops::RangeInclusive,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use proxy::test_support::eventually;

use super::{
    peer::{CHUNKED_UPLOAD, Wire, ask, connect_from, in_chunk, upload},
    *,
};

const RUNS: u64 = 400;
const AT_A_TIME: usize = 4;
/// While the switch is turned off and on a few times.
const REQUESTS: u64 = 3_000;

/// One client, all of it decided by its seed.
pub(super) struct Script<W> {
    noise: Noise,
    peer: Peer<W>,
}

impl<W: Wire> Script<W> {
    pub(super) fn new(seed: u64, wire: W) -> Self {
        Script { noise: Noise(seed << 20 | 1), peer: Peer::over(wire) }
    }

    fn up_to(&mut self, bound: usize) -> usize {
        self.noise.next() as usize % bound
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.up_to(count) == 0
    }

    /// Mostly small, now and then larger than the window.
    fn size(&mut self) -> usize {
        let shift = if self.one_in(12) { 22 } else { self.up_to(17) };
        1 + self.up_to(1 << shift)
    }

    fn pause(&mut self) {
        if self.one_in(8) {
            let pause = self.up_to(3_000) as u64;
            thread::park_timeout(Duration::from_micros(pause));
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let bound = if self.one_in(3) { 200 } else { 300_000 };
            let (now, later) = rest.split_at((1 + self.up_to(bound)).min(rest.len()));
            self.peer.send(now)?;
            rest = later;
            self.pause();
        }
        Ok(())
    }

    fn answer(&mut self, size: usize) -> io::Result<()> {
        self.peer.answer_head(size)?;
        let mut done = 0;
        while done < size {
            self.pause();
            let part = (1 + self.up_to(400_000)).min(size - done);
            self.peer.answer_body(done, done + part)?;
            done += part;
        }
        Ok(())
    }

    fn body(&mut self, size: usize) -> Vec<u8> {
        self.peer.pattern.at(0, size)
    }

    fn request(&mut self, size: usize) -> Vec<u8> {
        match self.up_to(4) {
            0 | 1 => ask(size).into_bytes(),
            2 => [upload(size).as_bytes(), &self.body(size)].concat(),
            _ => {
                let mut request = CHUNKED_UPLOAD.as_bytes().to_vec();
                let body = self.body(size);
                // A million chunks of one byte take longer than anybody's patience.
                let bound = 1 + size / 5_000 + self.up_to(9_000);
                for chunk in body.chunks(bound) {
                    request.extend_from_slice(&in_chunk(chunk));
                }
                request.extend_from_slice(b"0\r\n\r\n");
                request
            }
        }
    }

    pub(super) fn run(mut self) -> io::Result<()> {
        for _ in 0..2 + self.up_to(6) {
            let size = self.size();
            if self.one_in(10) {
                self.peer.get_until_close(size)?;
                continue;
            }
            let request = self.request(size);
            self.send(&request)?;
            self.answer(size)?;
            self.pause();
        }
        let size = self.size();
        match self.up_to(6) {
            0 => self.end_early(),
            1 => self.reset(),
            2 => self.two_at_once(),
            3 => self.peer.get_and_close(size),
            4 => self.peer.get_cut(size),
            _ => Ok(()),
        }
    }

    /// The end right behind a request does not overtake it.
    fn end_early(&mut self) -> io::Result<()> {
        let size = self.size();
        let request = self.request(size);
        self.send(&request)?;
        self.peer.stream.get_ref().socket().shutdown(Shutdown::Write)?;
        self.answer(size)?;
        match self.peer.stream.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(io::Error::other("more than was asked for")),
        }
    }

    fn two_at_once(&mut self) -> io::Result<()> {
        let (first, second) = (1 + self.up_to(50_000), 1 + self.up_to(50_000));
        let requests = [self.request(first), self.request(second)].concat();
        self.send(&requests)?;
        self.answer(first)?;
        self.answer(second)
    }

    /// Half of a request, or of an answer, and then nothing but a reset.
    fn reset(mut self) -> io::Result<()> {
        let size = self.size();
        let request = self.request(size);
        if self.one_in(2) {
            let part = self.up_to(request.len());
            self.send(&request[..part])?;
        } else {
            self.send(&request)?;
            self.peer.answer_head(size)?;
            let part = self.up_to(size);
            self.peer.answer_body(0, part)?;
        }
        self.peer.reset();
        Ok(())
    }
}

/// How many scripts are run; more by hand: `TANDEM_TEST_RUNS`.
pub(super) fn runs_or(default: u64) -> u64 {
    let runs = std::env::var("TANDEM_TEST_RUNS").ok().and_then(|runs| runs.parse().ok());
    runs.unwrap_or(default)
}

/// Does `work` while `meanwhile` is done again and again.
pub(super) fn while_changing<T>(
    meanwhile: impl Fn(&mut Noise) + Sync,
    work: impl FnOnce() -> T,
) -> T {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut noise = Noise(99);
            while !is_over.load(Ordering::Relaxed) {
                meanwhile(&mut noise);
                thread::park_timeout(Duration::from_micros(noise.next() % 5_000));
            }
        });
        let done = catch_unwind(AssertUnwindSafe(work));
        is_over.store(true, Ordering::Relaxed);
        done.unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// Runs the script of every seed, a few at a time; what went wrong.
pub(super) fn scripts<W: Wire>(
    seeds: RangeInclusive<u64>,
    connect: impl Fn(u64) -> W + Sync,
) -> Vec<String> {
    let (seeds, connect) = (Mutex::new(seeds), &connect);
    let next = || seeds.lock().expect("no panic").next();
    let run = || {
        while let Some(seed) = next() {
            if let Err(error) = Script::new(seed, connect(seed)).run() {
                return Some(format!("seed {seed}: {error}"));
            }
        }
        None
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(run)).collect();
        clients.into_iter().filter_map(|client| client.join().expect("no panic")).collect()
    })
}

/// Runs every seed, on listeners in turn, while `meanwhile` goes on.
pub(super) fn storm(proxy: &TestProxy, listeners: &[&str], meanwhile: impl Fn(&mut Noise) + Sync) {
    let listener_of = |seed: u64| listeners[seed as usize / 7 % listeners.len()];
    let connect = |seed| connect_from(None, proxy.address(listener_of(seed)));
    let failures = while_changing(meanwhile, || scripts(1..=runs_or(RUNS), connect));
    assert!(failures.is_empty(), "{failures:#?}");
    assert_at_rest(proxy);
}

pub(super) fn assert_at_rest(proxy: &TestProxy) {
    assert_eq!(counted(proxy, "tunnel", "out_of_step"), 0);
    eventually("the end of every leg", || (status(proxy, "begun") == 0).then_some(()));
    crate::tunnel::assert_kernel_is_content();
}

fn start() -> (Node, TestProxy) {
    let node = Node::start("127.0.0.1:0");
    let rows = ["name: v4, address: \"127.0.0.1:0\"", "name: v6, address: \"[::1]:0\""];
    let kernel = format!("workers: 2\n{LEGS}");
    let proxy = TestProxy::start(&yaml(&kernel, &rows, node.address, ""));
    (node, proxy)
}

#[test]
fn whatever_clients_do_their_bytes_arrive_once_and_in_order() {
    if skip_without_privileges() {
        return;
    }
    let (_node, proxy) = start();
    let delivered = Counted::delivered(&proxy);
    storm(&proxy, &["v4", "v6"], |_| {});
    assert!(delivered.since() > 1_000, "{}", delivered.since());
}

#[test]
fn switching_under_clients_changes_no_byte() {
    if skip_without_privileges() {
        return;
    }
    let (_node, proxy) = start();
    let delivered = Counted::delivered(&proxy);
    let by_tcp = Counted::start(&proxy, "local", "switched_off");
    storm(&proxy, &["v4", "v6"], |noise| {
        switch(&proxy, if noise.next() % 3 == 0 { "off" } else { "on" });
    });
    assert!(delivered.since() > 100, "{}", delivered.since());
    assert!(by_tcp.since() > 100, "{}", by_tcp.since());
}

/// `TANDEM_TEST_RUNS`: how many requests there are at least.
#[test]
fn the_kill_switch_stops_deliveries_and_no_request() {
    if skip_without_privileges() {
        return;
    }
    let (_node, proxy) = start();
    let delivered = Counted::delivered(&proxy);
    let requests = runs_or(REQUESTS);
    let (is_over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let many_more = || {
        let before = answered.load(Ordering::Relaxed);
        eventually("answers", || (answered.load(Ordering::Relaxed) > before + 200).then_some(()));
    };
    thread::scope(|scope| {
        for client in 0..4 {
            let (is_over, answered, proxy) = (&is_over, &answered, &proxy);
            scope.spawn(move || {
                let mut peer = Peer::connect(proxy.address("v4"));
                let mut noise = Noise(client + 1);
                while !is_over.load(Ordering::Relaxed) {
                    peer.get(noise.next() as usize % 40_000).expect("answered");
                    peer.post(1 + noise.next() as usize % 40_000).expect("echoed");
                    answered.fetch_add(2, Ordering::Relaxed);
                }
            });
        }
        while answered.load(Ordering::Relaxed) < requests as usize {
            let before = delivered.since();
            eventually("deliveries", || (delivered.since() > before + 100).then_some(()));
            switch(&proxy, "off");
            // A message that was being delivered is counted by then.
            many_more();
            let at_rest = delivered.since();
            many_more();
            assert_eq!(delivered.since(), at_rest);
            switch(&proxy, "on");
        }
        is_over.store(true, Ordering::Relaxed);
    });
}
