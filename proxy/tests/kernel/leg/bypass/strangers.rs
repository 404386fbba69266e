//! Nobody but the node that was asked can answer, and nobody but the client that asked is answered.
//!
//! What the kernel knows of a connection lies in a place that another one is given later. Whoever is
//! left at the other end of the first one must not reach the second.

use super::*;

const STRANGERS: usize = 6;
/// More than there are places in use before: whichever is free, a connection to the node has it.
const CLIENTS: usize = 16;
const TIMEOUT: Duration = Duration::from_millis(400);

fn start_both() -> (Node, TestProxy) {
    let node = Node::start();
    let proxy = start(&node, "timeouts: { response: 400ms }");
    (node, proxy)
}

/// Clients whose responses go past the proxy.
fn ready(place: Place, proxy: &TestProxy) -> Vec<Client> {
    let passed = passed(proxy);
    let mut clients: Vec<_> =
        (0..CLIENTS).map(|_| Client::connect(place, proxy.address("web"))).collect();
    clients.iter_mut().for_each(|client| until_passed(client, &passed));
    clients
}

/// Has something armed for each, on a connection to the node of its own.
fn arm(node: &Node, proxy: &TestProxy, clients: &mut [Client]) -> Vec<Ask> {
    // A place stays empty for a while before it is given to anybody.
    thread::park_timeout(Duration::from_millis(60));
    let passed = passed(proxy);
    eventually("a connection for each that joins", || {
        let before = passed.since();
        let asks: Vec<_> = (0..CLIENTS).map(|_| Ask::new(Kind::Held, 50)).collect();
        ask_all(clients, &asks);
        asks.iter().for_each(|ask| node.wait_for(ask));
        asks.iter().for_each(|ask| node.release(ask));
        answer_all(clients, &asks);
        (passed.since() >= before + CLIENTS as u64).then_some(())
    });
    let asks: Vec<_> = (0..CLIENTS).map(|_| Ask::new(Kind::Held, 1_000)).collect();
    ask_all(clients, &asks);
    asks.iter().for_each(|ask| node.wait_for(ask));
    asks
}

pub(super) fn ask_all(clients: &mut [Client], asks: &[Ask]) {
    for (client, ask) in clients.iter_mut().zip(asks) {
        client.send(&ask.request()).expect("sent");
    }
}

pub(super) fn answer_all(clients: &mut [Client], asks: &[Ask]) {
    for (client, ask) in clients.iter_mut().zip(asks) {
        client.answer(ask).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// None has heard anything, and each then gets its own response.
fn check(node: &Node, clients: &mut [Client], asks: &[Ask]) {
    let heard = clients.iter().filter(|client| client.has_more()).count();
    assert_eq!(heard, 0, "clients that somebody else has answered");
    asks.iter().for_each(|ask| node.release(ask));
    answer_all(clients, asks);
    assert!(!clients.iter().any(Client::has_more));
}

/// A node that was given up on still has a socket that believes in its connection.
#[test]
fn a_late_answer_goes_to_nobody() {
    at_both(a_late_answer_goes_to_nobody_at);
}

fn a_late_answer_goes_to_nobody_at(place: Place) {
    let (node, proxy) = start_both();
    let passed = passed(&proxy);
    let mut clients = ready(place, &proxy);
    let mut impatient = Client::connect(place, proxy.address("web"));
    let mut late = Vec::new();
    for _ in 0..STRANGERS {
        until_passed(&mut impatient, &passed);
        let (ask, open) = (Ask::new(Kind::Held, 1_000), node.open());
        let asked = Instant::now();
        impatient.send(&ask.request()).expect("sent");
        let heard = impatient.hear(true).expect("an answer of the proxy's own");
        let taken = asked.elapsed();
        assert_eq!(heard.status(), 504, "{}", heard.head);
        assert!(taken >= TIMEOUT && taken < 2 * TIMEOUT, "{taken:?}");
        let Logged { status, via, end, .. } = Logged::find(&proxy, &ask);
        assert_eq!((&*status, &*end, via == "bypass"), ("504", "sH", false));
        // It does not know yet.
        assert_eq!(node.open(), open);
        late.push(ask);
    }
    let asks = arm(&node, &proxy, &mut clients);
    let before = passed.since();
    late.iter().for_each(|ask| node.release(ask));
    assert_eq!(passed.since(), before, "a late answer that went past");
    check(&node, &mut clients, &asks);
    assert!(!impatient.has_more());
    eventually("the end of what was given up", || (node.open() <= CLIENTS).then_some(()));
}

/// A client whose connection has ended may still send, and what it sends is no response.
#[test]
fn a_client_cannot_answer_another_one() {
    at_both(a_client_cannot_answer_another_one_at);
}

fn a_client_cannot_answer_another_one_at(place: Place) {
    let (node, proxy) = start_both();
    let passed = passed(&proxy);
    let mut clients = ready(place, &proxy);
    let mut strangers: Vec<_> =
        (0..STRANGERS).map(|_| Client::connect(place, proxy.address("web"))).collect();
    for stranger in &mut strangers {
        until_passed(stranger, &passed);
        let last = Ask::plain(10);
        stranger.send(&last.request_with("connection: close\r\n")).expect("sent");
        stranger.answer(&last).expect("answered");
        stranger.end().expect("the end");
    }
    let asks = arm(&node, &proxy, &mut clients);
    let before = passed.since();
    for stranger in &mut strangers {
        // Taken or not.
        drop(stranger.send(&Ask::plain(30).response()));
    }
    assert_eq!(passed.since(), before, "a request that went past as a response");
    check(&node, &mut clients, &asks);
}
