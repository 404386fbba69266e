//! All of it at once, while the switch is turned.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::leg::storm::{assert_at_rest, runs_or, while_changing};

const CONNECTIONS: u64 = 16;
const REQUESTS: u64 = 250;

/// One client, all of it decided by its seed.
struct Script<'p> {
    noise: Noise,
    place: Place,
    proxy: &'p TestProxy,
    client: Client,
    answered: usize,
}

impl<'p> Script<'p> {
    fn new(place: Place, seed: u64, proxy: &'p TestProxy) -> Self {
        let client = Client::connect(place, proxy.address("web"));
        Script { noise: Noise(seed << 20 | 1), place, proxy, client, answered: 0 }
    }

    fn up_to(&mut self, bound: u64) -> u64 {
        self.noise.next() % bound
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.up_to(count) == 0
    }

    fn pause(&mut self) {
        if self.one_in(8) {
            thread::park_timeout(Duration::from_micros(self.up_to(3_000)));
        }
    }

    fn again(&mut self) {
        self.client = Client::connect(self.place, self.proxy.address("web"));
    }

    fn run(&mut self) -> io::Result<()> {
        for _ in 0..runs_or(REQUESTS) {
            self.pause();
            match self.up_to(40) {
                0 => self.leave()?,
                1 | 2 => self.at_once()?,
                3 => self.unread()?,
                4 => self.broken()?,
                5 | 6 => self.upload()?,
                _ => {
                    let ask = self.any();
                    self.client.ask(&ask)?;
                    self.answered += 1;
                }
            }
        }
        if self.client.has_more() {
            return Err(io::Error::other("more than was asked for"));
        }
        Ok(())
    }

    /// Something that has an answer, and a connection behind it.
    fn any(&mut self) -> Ask {
        let mut ask = if self.one_in(2) { random(&mut self.noise) } else { mixed(&mut self.noise) };
        if self.one_in(30) {
            ask.size = 1 + self.up_to(1_500_000) as usize;
        }
        if self.one_in(20) {
            ask.kind = if ask.method == "HEAD" { ask.kind } else { Kind::Extra };
        }
        ask
    }

    fn at_once(&mut self) -> io::Result<()> {
        let asks: Vec<_> = (0..2 + self.up_to(2)).map(|_| random(&mut self.noise)).collect();
        let requests: Vec<_> = asks.iter().map(Ask::request).collect();
        self.client.send(&requests.concat())?;
        self.pause();
        self.all(&asks)?;
        if self.one_in(2) {
            // One that may have its responses past the proxy again.
            self.again();
        }
        Ok(())
    }

    fn all(&mut self, asks: &[Ask]) -> io::Result<()> {
        for ask in asks {
            self.client.answer(ask)?;
            self.answered += 1;
            self.pause();
        }
        Ok(())
    }

    /// Each sent when the one before should have been answered, and read much later.
    fn unread(&mut self) -> io::Result<()> {
        let asks: Vec<_> = (0..3).map(|_| random(&mut self.noise)).collect();
        for ask in &asks {
            self.client.send(&ask.request())?;
            thread::park_timeout(Duration::from_micros(self.up_to(6_000)));
        }
        self.all(&asks)
    }

    fn upload(&mut self) -> io::Result<()> {
        let mut ask = random(&mut self.noise);
        ask.method = "POST";
        let body = vec![b'u'; 1 + self.up_to(5_000) as usize];
        self.client.send(&ask.request_with(&format!("content-length: {}\r\n", body.len())))?;
        self.pause();
        self.client.send(&body)?;
        self.all(&[ask])
    }

    fn leave(&mut self) -> io::Result<()> {
        let ask = random(&mut self.noise);
        self.client.send(&ask.request())?;
        self.pause();
        let old = std::mem::replace(
            &mut self.client,
            Client::connect(self.place, self.proxy.address("web")),
        );
        if self.one_in(2) {
            old.reset();
        }
        Ok(())
    }

    /// The node breaks off.
    fn broken(&mut self) -> io::Result<()> {
        let kinds = [Kind::Half, Kind::HalfEnd, Kind::End, Kind::Reset];
        let mut ask = Ask::new(kinds[self.up_to(4) as usize], 2 + self.up_to(2_000) as usize);
        ask.pause = self.up_to(1_000);
        if matches!(ask.kind, Kind::Half | Kind::HalfEnd) {
            return match self.client.ask(&ask) {
                Ok(()) => Err(io::Error::other("a half is a whole")),
                Err(_) => {
                    self.again();
                    Ok(())
                }
            };
        }
        self.client.send(&ask.request())?;
        let heard = self.client.hear(true)?;
        if heard.status() != 502 {
            return Err(io::Error::other(heard.head));
        }
        Ok(())
    }
}

fn storm(place: Place, proxy: &TestProxy, meanwhile: impl Fn(&mut Noise) + Sync) -> usize {
    let answered = AtomicUsize::new(0);
    let run = |seed| {
        let mut script = Script::new(place, seed, proxy);
        let done = script.run().map_err(|error| format!("seed {seed}: {error}"));
        answered.fetch_add(script.answered, Ordering::Relaxed);
        done.err()
    };
    let failures: Vec<_> = while_changing(meanwhile, || {
        thread::scope(|scope| {
            let clients: Vec<_> =
                (1..=CONNECTIONS).map(|seed| scope.spawn(move || run(seed))).collect();
            clients.into_iter().filter_map(|client| client.join().expect("no panic")).collect()
        })
    });
    assert!(failures.is_empty(), "{failures:#?}");
    answered.into_inner()
}

#[test]
fn whatever_happens_each_client_gets_its_own_responses() {
    at_both(whatever_happens_each_client_gets_its_own_responses_at);
}

fn whatever_happens_each_client_gets_its_own_responses_at(place: Place) {
    let node = Node::start();
    let proxy = start(&node, "workers: 2");
    let passed = passed(&proxy);
    let started = Instant::now();
    let answered = storm(place, &proxy, |_| {});
    println!("{answered} answers, {} past the proxy, {:?}", passed.since(), started.elapsed());
    assert!(passed.since() as usize > answered / 8, "{} of {answered}", passed.since());
    let before = passed.since();
    let answered = storm(place, &proxy, |noise| {
        switch(&proxy, if noise.next() % 3 == 0 { "off" } else { "on" });
    });
    println!("{answered} answers, {} past the proxy", passed.since() - before);
    assert!(passed.since() - before > 100, "{}", passed.since() - before);
    switch(&proxy, "on");
    assert_eq!(counted(&proxy, "bypass", "broken"), 0);
    proxy.check_metric("tandem_downstream_connections_active{listener=\"web\"}", 0.0);
    check_rest();
    assert_at_rest(&proxy);
}
