//! Ends of all kinds: whoever goes, nobody waits for ever, and nothing is left.

use std::{
    collections::{HashMap, HashSet},
    io::Read as _,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use super::*;
use crate::{
    leg::{
        leave::{AT_A_TIME, PLACES_MAX, Process},
        storm::{assert_at_rest, runs_or},
    },
    remains::InKernel,
};

#[test]
fn bytes_behind_a_response_reach_nobody() {
    at_both(bytes_behind_a_response_reach_nobody_at);
}

fn bytes_behind_a_response_reach_nobody_at(place: Place) {
    const ROUNDS: usize = 40;
    let node = Node::start();
    let proxy = start(&node, "");
    let passed = passed(&proxy);
    let mut clients = [(); 2].map(|()| Client::connect(place, proxy.address("web")));
    for kind in [Kind::Late, Kind::Extra] {
        let mut late = 0;
        for round in 0..ROUNDS {
            clients.iter_mut().for_each(|client| until_passed(client, &passed));
            let (before, accepted) = (passed.since(), node.accepted());
            let ask = Ask::new(kind, 300);
            clients[0].ask(&ask).expect("answered");
            node.wait_written(&ask);
            late += passed.since() - before;
            // Of whoever comes first, be it before the sweep.
            clients[round % 2].ask(&Ask::plain(200)).expect("the right answer");
            clients[1 - round % 2].ask(&Ask::plain(200)).expect("the right answer");
            assert_eq!(node.accepted(), accepted + 1, "{kind:?}: the connection is not used again");
            assert!(!clients.iter().any(Client::has_more));
        }
        assert_eq!(late > ROUNDS as u64 / 2, kind == Kind::Late, "{kind:?}: {late} went past");
    }
    eventually("one connection that is left", || (node.open() == 1).then_some(()));
}

/// Everything this process has open.
fn files() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("our files").count()
}

#[test]
fn whoever_leaves_nothing_hangs_and_nothing_is_left() {
    at_both(whoever_leaves_nothing_hangs_and_nothing_is_left_at);
}

fn whoever_leaves_nothing_hangs_and_nothing_is_left_at(place: Place) {
    const ROUNDS: u64 = 320;
    let node = Node::start();
    let proxy = start(&node, "workers: 2\nlimits: { pool_idle_max: 4 }");
    let passed = passed(&proxy);
    // Every worker has all that it ever opens.
    let mut first: Vec<_> = (0..8).map(|_| Client::connect(place, proxy.address("web"))).collect();
    first.iter_mut().for_each(|client| until_passed(client, &passed));
    drop(first);
    proxy.check_metric("tandem_downstream_connections_active{listener=\"web\"}", 0.0);
    let before = files() - 2 * node.open();
    let next = AtomicUsize::new(1);
    let (rounds, mut answered) = (runs_or(ROUNDS) as usize, HashSet::new());
    let run = || {
        let mut answered = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed > rounds {
                return answered;
            }
            let mut visit = Visit::new(place, seed as u64, &proxy);
            visit.run().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            answered.extend(visit.answered);
        }
    };
    thread::scope(|scope| {
        let visitors: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
        visitors.into_iter().for_each(|visitor| answered.extend(visitor.join().expect("no panic")));
    });
    assert!(passed.since() > ROUNDS, "{}", passed.since());
    proxy.check_metric("tandem_downstream_connections_active{listener=\"web\"}", 0.0);
    eventually("no connection but the pool's", || {
        let idle = proxy.metric("tandem_upstream_pool_idle{upstream=\"app\"}") as usize;
        (idle == node.open() && idle <= 8).then_some(())
    });
    // Both ends of those.
    eventually("no file more", || (files() <= before + 2 * node.open()).then_some(()));
    let mut records = HashMap::new();
    for line in proxy.access_log(answered.len()) {
        *records.entry(Logged::of(&line).path).or_insert(0) += 1;
    }
    assert!(records.values().all(|count| *count == 1), "a request that was recorded twice");
    for path in answered {
        assert!(records.contains_key(&path), "{path} was answered and is not recorded");
    }
    for id in node.seen() {
        let part = format!("/{id}/");
        assert!(records.keys().any(|path| path.contains(&part)), "{id} is not recorded");
    }
    check_rest();
    assert_at_rest(&proxy);
}

/// `TANDEM_TEST_RUNS`: how many.
#[test]
fn clients_that_come_and_go_leave_nothing() {
    at_both(clients_that_come_and_go_leave_nothing_at);
}

fn clients_that_come_and_go_leave_nothing_at(place: Place) {
    let clients = runs_or(3_000);
    let node = Node::start();
    let proxy = start(&node, "");
    let (passed, maps) = (passed(&proxy), Maps::of(&proxy));
    let before = maps.remote_places();
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                for _ in 0..clients / AT_A_TIME {
                    let mut client = Client::connect(place, proxy.address("web"));
                    (0..4).for_each(|_| client.ask(&Ask::plain(10)).expect("answered"));
                }
            });
        }
    });
    assert!(passed.since() > clients, "{}", passed.since());
    // The pool's connections stay.
    eventually("nothing of clients in the maps", || {
        let [legs, received, sockets, remote] = maps.entries().map(|(_, count)| count);
        let of_nodes = 2 * node.open();
        (legs.max(received).max(sockets) <= of_nodes && remote == 0).then_some(())
    });
    let mut client = Client::connect(place, proxy.address("web"));
    until_passed(&mut client, &passed);
    let places = [maps.last_place() as usize, maps.remote_places()];
    assert!(places.iter().all(|places| *places < PLACES_MAX), "{places:?}");
    assert_eq!(places[1] > before, place == Place::Elsewhere);
}

/// Nothing is left armed for a client that is gone, and nothing waits for its response.
#[test]
fn a_client_that_resets_while_it_waits_is_forgotten() {
    at_both(a_client_that_resets_while_it_waits_is_forgotten_at);
}

fn a_client_that_resets_while_it_waits_is_forgotten_at(place: Place) {
    let node = Node::start();
    let proxy = start(&node, "");
    let passed = passed(&proxy);
    for _ in 0..3 {
        let mut client = Client::connect(place, proxy.address("web"));
        until_passed(&mut client, &passed);
        let (ask, before) = (Ask::new(Kind::Held, 100), judged(&proxy));
        client.send(&ask.request()).expect("sent");
        node.wait_for(&ask);
        client.reset();
        let logged = Logged::find(&proxy, &ask);
        assert_eq!((&*logged.status, &*logged.end), ("-", "CD"), "{logged:?}");
        proxy.check_metric("tandem_downstream_connections_active{listener=\"web\"}", 0.0);
        check_rest();
        node.release(&ask);
        assert_eq!(judged(&proxy), before, "it is not armed any more");
    }
}

/// A client that is good for a while and then leaves, or whose node does.
struct Visit {
    noise: Noise,
    client: Option<Client>,
    answered: Vec<String>,
}

impl Visit {
    fn new(place: Place, seed: u64, proxy: &TestProxy) -> Visit {
        let client = Some(Client::connect(place, proxy.address("web")));
        Visit { noise: Noise(seed << 20 | 1), client, answered: Vec::new() }
    }

    fn up_to(&mut self, bound: u64) -> u64 {
        self.noise.next() % bound
    }

    fn run(&mut self) -> io::Result<()> {
        let client = self.client.as_mut().expect("not gone");
        for _ in 0..4 + self.noise.next() % 3 {
            let ask = Ask::plain(self.noise.next() as usize % 3_000);
            client.ask(&ask)?;
            self.answered.push(ask.path());
        }
        let kinds = [
            Kind::Plain,
            Kind::Parts,
            Kind::Pieces,
            Kind::Half,
            Kind::HalfEnd,
            Kind::End,
            Kind::Reset,
        ];
        let mut ask = Ask::new(kinds[self.up_to(7) as usize], 2 + self.up_to(3_000) as usize);
        ask.pause = self.up_to(3_000);
        let mut client = self.client.take().expect("not gone");
        client.send(&ask.request())?;
        if self.up_to(4) > 0 {
            thread::park_timeout(Duration::from_micros(self.up_to(3_500)));
        }
        match self.up_to(4) {
            0 => client.reset(),
            1 => drop(client),
            2 => {
                client.shut_down()?;
                self.hear(&mut client, &ask)?;
            }
            _ => self.hear(&mut client, &ask)?,
        }
        Ok(())
    }

    fn hear(&mut self, client: &mut Client, ask: &Ask) -> io::Result<()> {
        if matches!(ask.kind, Kind::Half | Kind::HalfEnd) {
            return match client.answer(ask) {
                Ok(()) => Err(io::Error::other("a half is a whole")),
                Err(_) => Ok(()),
            };
        }
        if matches!(ask.kind, Kind::End | Kind::Reset) {
            let heard = client.hear(true)?;
            if heard.status() != 502 {
                return Err(io::Error::other(heard.head));
            }
        } else {
            client.answer(ask)?;
        }
        self.answered.push(ask.path());
        Ok(())
    }
}

#[test]
fn a_killed_proxy_ends_connections_whose_responses_go_past_it() {
    at_both(a_killed_proxy_ends_connections_whose_responses_go_past_it_at);
}

fn a_killed_proxy_ends_connections_whose_responses_go_past_it_at(place: Place) {
    const CLIENTS: usize = 8;
    let node = Node::start();
    let mut process = Process::start(node.address);
    let in_kernel = InKernel::of(process.id());
    in_kernel.check_loaded();
    let sample = "tandem_kernel_packets_total{program=\"bypass\",reason=\"passed\"} ";
    let passed = |process: &Process| {
        let page = process.page("/metrics");
        let value = page.lines().find_map(|line| line.strip_prefix(sample));
        value.map_or(0, |value| value.parse::<u64>().expect("a number"))
    };
    let (web, is_killed) = (process.web, AtomicBool::new(false));
    thread::scope(|scope| {
        let load = |seed: u64| {
            let mut client = Client::connect(place, web);
            let mut noise = Noise(seed << 20 | 1);
            loop {
                if let Err(error) = client.ask(&random(&mut noise)) {
                    assert!(is_killed.load(Ordering::SeqCst), "{error}");
                    // Soon the end, whatever came before it.
                    let mut rest = Vec::new();
                    drop(client.stream.read_to_end(&mut rest));
                    return Instant::now();
                }
            }
        };
        let clients: Vec<_> =
            (1..=CLIENTS as u64).map(|seed| scope.spawn(move || load(seed))).collect();
        let many = passed(&process) + 500;
        eventually("responses that go past", || (passed(&process) > many).then_some(()));
        is_killed.store(true, Ordering::SeqCst);
        process.kill();
        let killed = Instant::now();
        for client in clients {
            let ended = client.join().expect("no panic");
            assert!(ended.saturating_duration_since(killed) < Duration::from_secs(1));
        }
        eventually("no connection at the node", || (node.open() == 0).then_some(()));
        assert!(killed.elapsed() < Duration::from_secs(1), "{:?}", killed.elapsed());
    });
    in_kernel.check_gone();
    let next = Process::start(node.address);
    let mut client = Client::connect(place, next.web);
    eventually("responses that go past the next one", || {
        let before = passed(&next);
        (0..4).for_each(|_| client.ask(&Ask::plain(100)).expect("answered"));
        (passed(&next) >= before + 4).then_some(())
    });
}
