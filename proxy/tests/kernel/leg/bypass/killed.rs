//! Nodes and clients that are killed while a response goes past the proxy, byte by byte: whoever is left
//! sees the end, the record has what went past, and nothing stays behind.

use std::{
    env,
    io::{BufRead as _, BufReader, ErrorKind, Read as _},
    process::{ChildStdout, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use super::*;
use crate::tunnel::child::Killed;

/// Set for the child: what it is, where it listens or connects, and a size.
const ROLE: &str = "TANDEM_TEST_KILLED";
const SAYS: &str = "child: ";
/// Of a body, bytes: it may go past us, and nobody lives until its end.
const SIZE: usize = 30_000;
/// Of it, what has come when somebody is killed, at least.
const BEGUN: usize = 30;
const ROUNDS: usize = 6;
const SOON: Duration = Duration::from_secs(2);

fn drip(size: usize) -> Ask {
    Ask { pause: 500, ..Ask::new(Kind::Drip, size) }
}

/// The child, until it is killed. Does nothing as a test of its own.
#[test]
fn child_process() {
    let Ok(role) = env::var(ROLE) else { return };
    let [role, address, size] = *role.split(' ').collect::<Vec<_>>() else { panic!("{role}") };
    let (address, size) = (address.parse().expect("an address"), size.parse().expect("a size"));
    let place = match role {
        "node" => {
            println!("{SAYS}{}", Node::at(address).address);
            loop {
                thread::park();
            }
        }
        "here" => Place::Here,
        _ => Place::Elsewhere,
    };
    let mut client = Client::connect(place, address);
    (0..30).for_each(|_| client.ask(&Ask::plain(100)).expect("answered"));
    let ask = drip(size);
    println!("{SAYS}{}", ask.path());
    client.send(&ask.request()).expect("sent");
    let mut heard = 0;
    loop {
        heard += client.stream.read(&mut [0; 4096]).expect("more");
        println!("{SAYS}{}", heard.saturating_sub(ask.head().len()));
    }
}

struct Child {
    process: Killed,
    stdout: BufReader<ChildStdout>,
}

impl Child {
    fn start(role: &str, address: SocketAddr, size: usize) -> Child {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "leg::bypass::killed::child_process", "--nocapture"])
            .env(ROLE, format!("{role} {address} {size}"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Child { process: Killed(child), stdout }
    }

    /// What it says next; `None`: it is dead.
    fn says(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.stdout.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            // The test runner's own words may stand in front.
            if let Some((_, said)) = line.trim_end().split_once(SAYS) {
                return Some(said.to_owned());
            }
        }
    }

    fn stop(&self) {
        let pid = Pid::from_child(&self.process.0);
        kill_process(pid, Signal::STOP).expect("it runs");
    }
}

/// No connection of clients, and no end of a leg but those of `open` connections to a node.
#[track_caller]
fn check_freed(proxy: &TestProxy, maps: &Maps, open: impl Fn() -> usize) {
    proxy.check_metric("tandem_downstream_connections_active{listener=\"web\"}", 0.0);
    eventually("nothing left", || {
        let [legs, received, sockets, remote] = maps.entries().map(|(_, count)| count);
        (legs.max(received).max(sockets) <= 2 * open() && remote == 0).then_some(())
    });
}

#[test]
fn a_node_that_is_killed_within_a_response_leaves_what_it_has_sent() {
    at_both(a_node_that_is_killed_within_a_response_leaves_what_it_has_sent_at);
}

fn a_node_that_is_killed_within_a_response_leaves_what_it_has_sent_at(place: Place) {
    let mut node = Child::start("node", "127.0.0.1:0".parse().unwrap(), 0);
    let address = node.says().expect("it listens").parse().expect("an address");
    let proxy = TestProxy::start(&yaml(LEGS, &[WEB], address, ""));
    let (passed, maps, mut gone) = (passed(&proxy), Maps::of(&proxy), 0);
    for _ in 0..ROUNDS {
        let mut client = Client::connect(place, proxy.address("web"));
        until_passed(&mut client, &passed);
        let (before, ask) = (passed.since(), drip(SIZE));
        client.send(&ask.request()).expect("sent");
        let mut heard = vec![0; ask.head().len() + BEGUN];
        client.stream.read_exact(&mut heard).expect("begun");
        node.process.kill();
        let killed = Instant::now();
        if let Err(error) = client.stream.read_to_end(&mut heard) {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
        assert!(killed.elapsed() < SOON, "{:?}", killed.elapsed());
        assert!(ask.response().starts_with(&heard), "other bytes");
        let logged = Logged::find(&proxy, &ask);
        assert_eq!((&*logged.status, &*logged.end), ("200", "SD"), "{logged:?}");
        assert_eq!(logged.sent as usize, heard.len() - ask.head().len(), "{logged:?}");
        gone += usize::from(logged.via == "bypass");
        assert_eq!(passed.since(), before, "it did not pass");
        drop(client);
        check_freed(&proxy, &maps, || 0);
        node = Child::start("node", address, 0);
        node.says().expect("it listens again");
    }
    assert!(gone >= ROUNDS / 2, "{gone}");
    until_passed(&mut Client::connect(place, proxy.address("web")), &passed);
    check_rest();
}

#[test]
fn a_client_that_is_killed_within_a_response_ends_it() {
    at_both(a_client_that_is_killed_within_a_response_ends_it_at);
}

fn a_client_that_is_killed_within_a_response_ends_it_at(place: Place) {
    let node = Node::start();
    let proxy = start(&node, "");
    let (passed, maps, mut gone) = (passed(&proxy), Maps::of(&proxy), 0);
    let role = if place == Place::Here { "here" } else { "elsewhere" };
    for round in 0..ROUNDS {
        let mut client = Child::start(role, proxy.address("web"), SIZE + round);
        let path = client.says().expect("what it asks for");
        let mut heard = 0;
        let mut hear = |client: &mut Child| {
            let said = client.says();
            heard = said.as_ref().map_or(heard, |said| said.parse().expect("a number"));
            said.map(|_| heard)
        };
        while hear(&mut client).expect("it lives") < BEGUN as u64 {}
        // Whoever is stopped leaves something unread.
        if round % 2 == 1 {
            client.stop();
            thread::park_timeout(Duration::from_millis(30));
        }
        client.process.kill();
        let killed = Instant::now();
        while hear(&mut client).is_some() {}
        let logged = Logged::of(&log_of(&proxy, &format!(" {path} "), 1)[0]);
        assert!(killed.elapsed() < SOON, "{:?}", killed.elapsed());
        assert_eq!((&*logged.status, &*logged.end), ("200", "CD"), "{logged:?}");
        assert!((heard..SIZE as u64 / 2).contains(&logged.sent), "{heard}, {logged:?}");
        gone += usize::from(logged.via == "bypass");
        eventually("no connection of its", || (node.open() == 0).then_some(()));
        check_freed(&proxy, &maps, || 0);
        let mut next = Client::connect(place, proxy.address("web"));
        until_passed(&mut next, &passed);
        drop(next);
        check_freed(&proxy, &maps, || node.open());
    }
    assert!(gone >= ROUNDS / 2, "{gone}");
    check_rest();
}
