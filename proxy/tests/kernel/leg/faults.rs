//! Neighbours that are in the middle of a call for as long as the test likes, with their socket locked:
//! nobody waits for them but who has to, and every byte is where it belongs.

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    thread,
};

use proxy::test_support::PATIENCE;

use super::{
    peer::{Waiting, Wire, ask, connect_from, upload},
    trap::{Call, Latch, Trapped, skip_without_userfaultfd},
    *,
};

/// Of what is sent to whoever is caught.
const SIZE: usize = 300_000;
/// Of that, what is there before; less than the window.
const EARLY: usize = 100_000;
const ROUNDS: usize = 5;
/// Served meanwhile by the only worker.
const OTHERS: usize = 50;

fn start(node: SocketAddr) -> TestProxy {
    proxy(&format!("workers: 1\n{LEGS}"), node)
}

/// Holds back what a node writes in large pieces.
#[derive(Default)]
struct Gate {
    is_closed: Mutex<bool>,
    has_opened: Condvar,
}

impl Gate {
    fn set(&self, is_closed: bool) {
        *self.is_closed.lock().expect("no panic") = is_closed;
        self.has_opened.notify_all();
    }

    fn pass(&self) {
        let is_closed = self.is_closed.lock().expect("no panic");
        let waited =
            self.has_opened.wait_timeout_while(is_closed, PATIENCE, |is_closed| *is_closed);
        assert!(!waited.expect("no panic").1.timed_out(), "the gate: not within {PATIENCE:?}");
    }
}

/// A node behind it, from the second large piece on.
struct Gated {
    inner: Waiting,
    gate: Arc<Gate>,
    large: usize,
}

impl Read for Gated {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.inner.read(into)
    }
}

impl Write for Gated {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        const LARGE: usize = 10_000;
        if bytes.len() < LARGE {
            self.large = 0;
            return self.inner.write(bytes);
        }
        if self.large > 0 {
            self.gate.pass();
        }
        self.large += 1;
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Wire for Gated {
    fn socket(&self) -> &TcpStream {
        self.inner.socket()
    }
}

/// Once somebody is caught, sends him more: whoever else comes is answered all the same. `busy` counts
/// from before, as what is on its way when he is caught may be what finds him so.
fn check_others(busy: &Counted<'_>, latch: &Latch, other: &mut Peer, send: impl FnOnce()) {
    latch.wait_caught();
    send();
    eventually("somebody who is busy", || (busy.since() > 0).then_some(()));
    for _ in 0..OTHERS {
        other.get(100).expect("answered");
    }
    latch.let_go();
}

#[test]
fn a_client_that_is_caught_in_a_call_holds_nobody_up() {
    if skip_without_privileges() || skip_without_userfaultfd() {
        return;
    }
    [Call::Receive, Call::Send].into_iter().for_each(check_client);
}

fn check_client(call: Call) {
    let (gate, latch) = (Arc::<Gate>::default(), Arc::<Latch>::default());
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let closed = Arc::clone(&gate);
    let gated = move |stream| Gated { inner: Waiting(stream), gate: Arc::clone(&closed), large: 0 };
    let node = Node::over(listener, gated);
    let proxy = start(node.address);
    let delivered = Counted::delivered(&proxy);
    let mut other = Peer::connect(proxy.address("web"));
    let stream = connect_from(None, proxy.address("web"));
    let mut caught = Peer::over(Trapped::new(stream, call, &latch));
    let next = [upload(2_000).into_bytes(), caught.pattern.at(0, 2_000)].concat();
    for _ in 0..ROUNDS {
        warm_up(&mut other, &delivered);
        warm_up(&mut caught, &delivered);
        gate.set(true);
        caught.send(ask(SIZE).as_bytes()).expect("sent");
        eventually("unread bytes", || (status(&proxy, "unread_bytes") > 20_000).then_some(()));
        let busy = Counted::start(&proxy, "local", "receiver_busy");
        latch.set();
        thread::scope(|scope| {
            let answered = scope.spawn(|| match call {
                Call::Receive => caught.answer(SIZE),
                Call::Send => {
                    caught.send(&next)?;
                    caught.answer(SIZE)?;
                    caught.answer(2_000)
                }
            });
            check_others(&busy, &latch, &mut other, || gate.set(false));
            answered.join().expect("no panic").expect("every byte");
        });
    }
    super::storm::assert_at_rest(&proxy);
}

#[test]
fn a_node_that_is_caught_in_a_call_holds_nobody_up() {
    if skip_without_privileges() || skip_without_userfaultfd() {
        return;
    }
    let latch = Arc::<Latch>::default();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let shared = Arc::clone(&latch);
    let trapped = move |stream| Trapped::new(Waiting(stream), Call::Receive, &shared);
    let node = Node::over(listener, trapped);
    let proxy = start(node.address);
    let delivered = Counted::delivered(&proxy);
    let [mut peer, mut other] = [(); 2].map(|()| Peer::connect(proxy.address("web")));
    let body = peer.pattern.at(0, SIZE);
    for _ in 0..ROUNDS {
        warm_up(&mut other, &delivered);
        warm_up(&mut peer, &delivered);
        let busy = Counted::start(&proxy, "local", "receiver_busy");
        // Its head is too short to be caught with.
        latch.set();
        peer.send(upload(SIZE).as_bytes()).expect("sent");
        peer.send(&body[..EARLY]).expect("sent");
        check_others(&busy, &latch, &mut other, || {
            peer.send(&body[EARLY..]).expect("sent");
        });
        peer.answer(SIZE).expect("every byte");
    }
    super::storm::assert_at_rest(&proxy);
}
