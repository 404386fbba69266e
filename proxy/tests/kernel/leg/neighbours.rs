//! Programs of others on both sides: what each client says to each node arrives byte for byte,
//! whatever both do and while delivery is switched off and on, and the counters say who was delivered
//! to.

mod plan;
mod programs;
mod styles;

use std::{cell::Cell, env, iter, net::TcpListener, ops::RangeInclusive, process::Command};

use self::{
    programs::{Language, Program, Talker, Workshop, is_missing, say_listening, until_stdin_ends},
    styles::{STYLES, Style, Styled},
};
use super::{
    peer::connect_from,
    storm::{assert_at_rest, runs_or, scripts, while_changing},
    *,
};

/// Conversations of each pair, half of them while delivery is switched.
const RUNS: u64 = 6;
/// Batches within which something must be delivered; one may be all resets.
const BATCHES_MAX: usize = 20;
/// Set for the process of nodes in every style.
const STYLED: &str = "TANDEM_TEST_STYLED";
/// Clients' legs and nodes', and nodes' alone.
const BOTH: &str = "both";
const NODES_ONLY: &str = "nodes_only";

/// Whether a node is delivered to.
#[derive(Clone, Copy)]
enum Reach {
    Always,
    /// Until one of its sockets is seen in the moment between being accepted and being told not to
    /// block; then never more.
    UntilSeenToBlock,
    /// It blocks.
    Never,
}

enum Client {
    /// The one of the other tests.
    Waiting,
    Styled(Style),
    Program(Language, Talker),
}

impl Client {
    /// Every one that can be had here.
    fn all(workshop: &Workshop) -> Vec<Client> {
        let languages = Language::ALL.into_iter().filter(|language| !language.is_missing());
        let programs = languages.map(|it| Client::Program(it, workshop.client(it)));
        iter::once(Client::Waiting).chain(STYLES.map(Client::Styled)).chain(programs).collect()
    }

    fn name(&self) -> &'static str {
        match self {
            Client::Waiting => "the usual client",
            Client::Styled(style) => style.name,
            Client::Program(language, _) => language.name(),
        }
    }

    fn blocks(&self) -> bool {
        match self {
            Client::Program(language, _) => *language == Language::BlockingPython,
            Client::Waiting | Client::Styled(_) => false,
        }
    }

    /// Does the conversations of these seeds; what went wrong.
    fn converse(&mut self, to: SocketAddr, seeds: RangeInclusive<u64>) -> Vec<String> {
        match self {
            Client::Waiting => scripts(seeds, |_| connect_from(None, to)),
            Client::Styled(style) => {
                scripts(seeds, |_| Styled::new(connect_from(None, to).0, *style))
            }
            Client::Program(_, talker) => talker.converse(to, seeds),
        }
    }
}

/// A node, met by one client after the other with seeds of their own.
struct Meeting<'a> {
    node: &'a str,
    proxy: TestProxy,
    next_seed: Cell<u64>,
}

impl<'a> Meeting<'a> {
    fn new(node: &'a str, address: SocketAddr, upstream: &str) -> Self {
        let rows = [
            format!("name: {BOTH}, {ANY_PORT}"),
            format!("name: {NODES_ONLY}, {ANY_PORT}, same_host: false"),
        ];
        let rows = rows.each_ref().map(String::as_str);
        let proxy =
            TestProxy::start(&yaml(&format!("workers: 2\n{LEGS}"), &rows, address, upstream));
        // As different as the names are; the same in every run.
        let first = node.bytes().fold(7, |seed, byte| (seed * 31 + u64::from(byte)) % 100_000);
        Meeting { node, proxy, next_seed: Cell::new(first * 10_000) }
    }

    fn converse(&self, client: &mut Client, listener: &str, count: u64) {
        let first = self.next_seed.get();
        self.next_seed.set(first + count);
        let to = self.proxy.address(listener);
        let failures = client.converse(to, first..=first + count - 1);
        assert!(failures.is_empty(), "{} to {}: {failures:#?}", client.name(), self.node);
    }

    /// In batches, until something was delivered.
    fn converse_until_delivered(&self, client: &mut Client, listener: &str, count: u64) {
        let delivered = Counted::delivered(&self.proxy);
        let is_delivered = (0..BATCHES_MAX).any(|_| {
            self.converse(client, listener, count);
            delivered.since() > 0
        });
        assert!(is_delivered, "{} to {}: nothing was delivered", client.name(), self.node);
    }

    /// Where only the node can be delivered to: whether it is.
    fn check_reach(&self, client: &mut Client, reach: Reach, count: u64) {
        let delivered = Counted::delivered(&self.proxy);
        let not_in_map = Counted::start(&self.proxy, "local", "no_receiver");
        match reach {
            Reach::Always => self.converse_until_delivered(client, NODES_ONLY, count),
            Reach::UntilSeenToBlock | Reach::Never => self.converse(client, NODES_ONLY, count),
        }
        let (direct, by_tcp) = (delivered.since(), not_in_map.since());
        let is_right = match reach {
            Reach::Always => direct > 0,
            Reach::UntilSeenToBlock => direct > 0 || by_tcp > 0,
            Reach::Never => direct == 0 && by_tcp > 0,
        };
        assert!(is_right, "{} to {}: {direct} and {by_tcp} by TCP", client.name(), self.node);
    }

    fn converse_while_switching(&self, client: &mut Client, count: u64) {
        let proxy = &self.proxy;
        let turn = |noise: &mut Noise| {
            switch(proxy, if noise.next().is_multiple_of(3) { "off" } else { "on" });
        };
        while_changing(turn, || self.converse(client, BOTH, count));
        switch(proxy, "on");
    }

    /// Nothing is left once the node is gone.
    fn end(&self, node: impl Sized) {
        drop(node);
        assert_at_rest(&self.proxy);
        eventually("no leg", || (status(&self.proxy, "found") == 0).then_some(()));
    }
}

/// Every client meets a node: first only the node can be delivered to, then both, now and then.
fn check_node(clients: &mut [Client], name: &str, node: (Program, SocketAddr), reach: Reach) {
    let (program, address) = node;
    let meeting = Meeting::new(name, address, "");
    let (first_seed, half) = (meeting.next_seed.get(), runs_or(RUNS).div_ceil(2));
    for client in &mut *clients {
        meeting.check_reach(client, reach, half);
    }
    let delivered = Counted::delivered(&meeting.proxy);
    let switched_off = Counted::start(&meeting.proxy, "local", "switched_off");
    for client in clients {
        meeting.converse_while_switching(client, half);
    }
    let (delivered, switched_off) = (delivered.since(), switched_off.since());
    assert!(delivered > 0 && switched_off > 0, "{name}: {delivered}, {switched_off}");
    meeting.end(program);
    let runs = meeting.next_seed.get() - first_seed;
    println!(
        "{name}: {runs} conversations; while switching {delivered} delivered, {switched_off} not"
    );
}

fn start_clients() -> (Workshop, Vec<Client>) {
    let workshop = Workshop::new();
    let clients = Client::all(&workshop);
    (workshop, clients)
}

fn is_without(programs: &[&str]) -> bool {
    skip_without_privileges() || programs.iter().any(|program| is_missing(program))
}

/// A node that passes on to ours what a file cannot answer.
fn application() -> SocketAddr {
    Node::start("127.0.0.1:0").address
}

#[test]
fn nginx_hears_and_is_heard() {
    if is_without(&["nginx"]) {
        return;
    }
    let (workshop, mut clients) = start_clients();
    for (name, listen, sendfile) in [
        ("nginx with sendfile", "", "on"),
        ("nginx without sendfile", "", "off"),
        ("nginx with deferred accept", "deferred", "on"),
    ] {
        let node = workshop.nginx(application(), listen, sendfile);
        check_node(&mut clients, name, node, Reach::Always);
    }
}

#[test]
fn apache_hears_and_is_heard() {
    if is_without(&["apache2"]) {
        return;
    }
    let (workshop, mut clients) = start_clients();
    let node = workshop.apache(application());
    check_node(&mut clients, "Apache", node, Reach::UntilSeenToBlock);
}

#[test]
fn interpreters_hear_and_are_heard() {
    if is_without(&["python3", "node"]) {
        return;
    }
    let (workshop, mut clients) = start_clients();
    for (language, reach) in [
        (Language::Python, Reach::UntilSeenToBlock),
        (Language::BlockingPython, Reach::Never),
        (Language::Node, Reach::Always),
    ] {
        check_node(&mut clients, language.name(), workshop.node(language), reach);
    }
}

#[test]
fn go_hears_and_is_heard() {
    if is_without(&["go"]) {
        return;
    }
    let (workshop, mut clients) = start_clients();
    check_node(&mut clients, Language::Go.name(), workshop.node(Language::Go), Reach::Always);
}

#[test]
fn whatever_way_they_wait_and_read_and_write_they_hear_and_are_heard() {
    if skip_without_privileges() {
        return;
    }
    let (_workshop, mut clients) = start_clients();
    for (index, style) in STYLES.iter().enumerate() {
        check_node(&mut clients, style.name, styled_node(index), Reach::Always);
    }
}

fn styled_node(index: usize) -> (Program, SocketAddr) {
    let mut command = Command::new(env::current_exe().expect("this program"));
    command.args(["--exact", "leg::neighbours::styled_process", "--nocapture"]);
    Program::start_listening(command.env(STYLED, index.to_string()))
}

/// A node in another process. Does nothing as a test of its own.
#[test]
fn styled_process() {
    let Ok(index) = env::var(STYLED) else { return };
    let style = STYLES[index.parse::<usize>().expect("a number")];
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let node = Node::over(listener, move |socket| Styled::new(socket, style));
    say_listening(node.address);
    until_stdin_ends();
}

/// Where the node cannot be, what is delivered is between the client and the proxy.
#[test]
fn every_client_that_does_not_block_is_delivered_to() {
    if skip_without_privileges() {
        return;
    }
    let (_workshop, mut clients) = start_clients();
    let node = Node::start("127.0.0.1:0");
    let meeting = Meeting::new("our node", node.address, "same_host: false");
    for client in &mut clients {
        if !client.blocks() {
            meeting.converse_until_delivered(client, BOTH, RUNS);
            continue;
        }
        let delivered = Counted::delivered(&meeting.proxy);
        let blocking = Counted::start(&meeting.proxy, "establish", "blocking");
        meeting.converse(client, BOTH, RUNS);
        let who = client.name();
        assert_eq!((delivered.since(), blocking.since()), (0, RUNS), "{who}");
    }
    meeting.end(());
}
