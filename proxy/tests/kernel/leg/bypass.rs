//! Bypass: a response that goes past the proxy is the one that was asked for, whole, at the client that
//! asked; and whatever may not go that way does not. Counters and the access log say which way it went.

mod ends;
mod faults;
mod killed;
mod node;
mod refused;
mod remote;
mod several;
mod storm;
mod strangers;

use std::{
    io, thread,
    time::{Duration, Instant},
};

use self::node::{Ask, Client, Kind, Node};
use super::*;

/// Rows of `listeners`: one, `web`.
const WEB: &str = "name: web, address: \"127.0.0.1:0\"";

/// Where a client is, as the kernel sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// On this host: a response goes into its queue.
    Here,
    /// On another one, by all that the kernel knows: into the send queue of our end.
    Elsewhere,
}

fn at_both(case: fn(Place)) {
    if !skip_without_privileges() {
        [Place::Here, Place::Elsewhere].into_iter().for_each(case);
    }
}

fn start(node: &Node, more: &str) -> TestProxy {
    TestProxy::start(&format!("{more}\n{}", yaml(LEGS, &[WEB], node.address, "")))
}

fn passed(proxy: &TestProxy) -> Counted<'_> {
    Counted::start(proxy, "bypass", "passed")
}

/// All that was ever decided about responses for which something was armed.
fn judged(proxy: &TestProxy) -> u64 {
    let reasons = [
        "claimed",
        "claimed_remote",
        "passed",
        "head",
        "not_whole",
        "taken_back",
        "client_not_ready",
        "client_unread",
        "client_in_flight",
        "no_room",
        "not_taken_in",
        "broken",
        "continued",
        "handed_over",
    ];
    reasons.iter().map(|reason| counted(proxy, "bypass", reason)).sum()
}

/// Small exchanges until responses go past the proxy.
#[track_caller]
fn until_passed(client: &mut Client, passed: &Counted<'_>) {
    eventually("responses that go past", || {
        let before = passed.since();
        (0..4).for_each(|_| client.ask(&Ask::plain(100)).expect("answered"));
        (passed.since() >= before + 4).then_some(())
    });
}

/// One line of the access log.
#[derive(Debug, Clone, PartialEq)]
struct Logged {
    path: String,
    status: String,
    sent: u64,
    recv: u64,
    /// Milliseconds.
    total: f64,
    first_byte: Option<f64>,
    is_reused: bool,
    lane: String,
    via: String,
    end: String,
}

impl Logged {
    fn of(line: &str) -> Logged {
        let fields: Vec<_> = line.split(' ').collect();
        let [.., path, status, sent, recv, total, _connect, first, reused, lane, via, end] =
            fields[..]
        else {
            panic!("{line}")
        };
        let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("{line}"));
        Logged {
            path: path.to_owned(),
            status: status.to_owned(),
            sent: number(sent) as u64,
            recv: number(recv) as u64,
            total: number(total),
            first_byte: (first != "-").then(|| number(first)),
            is_reused: reused == "reused",
            lane: lane.to_owned(),
            via: via.to_owned(),
            end: end.to_owned(),
        }
    }

    /// Of one request, once it is there.
    #[track_caller]
    fn find(proxy: &TestProxy, ask: &Ask) -> Logged {
        let path = format!(" {} ", ask.path());
        Logged::of(&log_of(proxy, &path, 1)[0])
    }
}

fn requests(proxy: &TestProxy, class: &str) -> f64 {
    let page = proxy.admin("/metrics").text();
    let of_class = |line: &&str| {
        line.starts_with("tandem_downstream_requests_total{")
            && line.contains(&format!("class=\"{class}\""))
    };
    let value = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
    page.lines().filter(of_class).filter_map(value).sum()
}

#[test]
fn responses_go_past_the_proxy_and_are_recorded_as_if_they_had_not() {
    at_both(responses_go_past_the_proxy_and_are_recorded_as_if_they_had_not_at);
}

fn responses_go_past_the_proxy_and_are_recorded_as_if_they_had_not_at(place: Place) {
    const REQUESTS: usize = 120;
    let node = Node::start();
    let proxy = start(&node, "");
    let passed = passed(&proxy);
    let claimed =
        ["claimed", "claimed_remote"].map(|reason| Counted::start(&proxy, "bypass", reason));
    let mut client = Client::connect(place, proxy.address("web"));
    until_passed(&mut client, &passed);
    let before = passed.since();
    let statuses = [200, 404, 500, 206, 503];
    let mut asked = Vec::new();
    for round in 0..REQUESTS {
        let mut ask = Ask::plain([0, 1, 100, 5_000, 16_000][round / statuses.len() % 5]);
        (ask.status, ask.pause) = (statuses[round % statuses.len()], 300);
        let started = Instant::now();
        client.ask(&ask).expect("answered");
        asked.push((ask, started.elapsed().as_secs_f64() * 1e3));
        // We are told by the next request at the latest.
        thread::park_timeout(Duration::from_millis(1));
    }
    assert!(!client.has_more());
    let passes = passed.since() - before;
    assert!(passes as usize >= REQUESTS - REQUESTS / 10, "{passes} of {REQUESTS}");
    let by_place = [Place::Here, Place::Elsewhere].map(|other| other == place);
    assert_eq!(claimed.map(|claimed| claimed.since() > 0), by_place);
    let mut late = 0;
    for (ask, taken) in &asked {
        let logged = Logged::find(&proxy, ask);
        assert_eq!((&logged.status, logged.sent), (&ask.status.to_string(), ask.size as u64));
        assert_eq!((&*logged.lane, &*logged.end, logged.recv), ("express", "--", 0));
        assert!(logged.is_reused);
        let first_byte = logged.first_byte.expect("a first byte");
        assert!(0.3 <= first_byte && first_byte <= logged.total, "{logged:?}");
        assert!(logged.total <= taken + 20.0, "{taken} {logged:?}");
        late += usize::from(logged.via == "bypass" && logged.total > taken + 0.1);
    }
    // When it was there, not when we were told; but it is there a little before the node's call is over,
    // and the node may be off its processor in between.
    assert!(late <= REQUESTS / 10, "{late} of {REQUESTS}");
    check_totals(&proxy, passed.since());
}

/// What metrics say of all requests is what the access log says.
#[track_caller]
fn check_totals(proxy: &TestProxy, passes: u64) {
    let lines: Vec<_> = proxy.access_log(1).iter().map(|line| Logged::of(line)).collect();
    let bytes = |via: &str| {
        let via = lines.iter().filter(|line| line.via == via);
        via.map(|line| line.sent).sum::<u64>() as f64
    };
    let bypassed = "tandem_forward_bytes_total{direction=\"sent\",via=\"bypass\"}";
    assert_eq!(proxy.metric(bypassed), bytes("bypass"));
    for class in ["2xx", "4xx", "5xx"] {
        let of_class = lines.iter().filter(|line| line.status.starts_with(&class[..1]));
        assert_eq!(requests(proxy, class), of_class.count() as f64, "{class}");
    }
    let bypassed = lines.iter().filter(|line| line.via == "bypass");
    assert_eq!(bypassed.count() as u64, passes);
}

/// A response that has gone past pins its node's connection no longer than until the next sweep.
#[test]
fn one_connection_to_the_node_serves_two_clients() {
    at_both(one_connection_to_the_node_serves_two_clients_at);
}

fn one_connection_to_the_node_serves_two_clients_at(place: Place) {
    const ROUNDS: usize = 100;
    let node = Node::start();
    let proxy = start(&node, "");
    let passed = passed(&proxy);
    let mut clients = [(); 2].map(|()| Client::connect(place, proxy.address("web")));
    clients.iter_mut().for_each(|client| until_passed(client, &passed));
    let (before, accepted) = (passed.since(), node.accepted());
    for round in 0..ROUNDS {
        for client in &mut clients {
            client.ask(&Ask::plain(1_000)).expect("answered");
            if round % 10 == 0 {
                // Long enough for the sweep, and too short for anything else.
                let idle = || proxy.metric("tandem_upstream_pool_idle{upstream=\"app\"}");
                eventually("connections that are free", || {
                    (idle() == node.open() as f64).then_some(())
                });
            }
        }
    }
    let passes = passed.since() - before;
    assert!(passes as usize > 2 * ROUNDS - ROUNDS / 5, "{passes}");
    // A client may have its response before the node's call is over, and the other one asks then.
    let more = node.accepted() - accepted;
    assert!(more <= ROUNDS / 20, "the other client's connection was free: {more}");
}

#[test]
fn an_idle_client_frees_its_connection_within_the_sweep() {
    at_both(an_idle_client_frees_its_connection_within_the_sweep_at);
}

fn an_idle_client_frees_its_connection_within_the_sweep_at(place: Place) {
    let node = Node::start();
    let proxy = start(&node, "");
    let passed = passed(&proxy);
    let mut client = Client::connect(place, proxy.address("web"));
    until_passed(&mut client, &passed);
    for _ in 0..20 {
        let before = passed.since();
        let ask = Ask::plain(10);
        client.ask(&ask).expect("answered");
        let answered = Instant::now();
        // Nobody asks anything any more: only the sweep can have written this.
        Logged::find(&proxy, &ask);
        assert!(answered.elapsed() < Duration::from_millis(200), "{:?}", answered.elapsed());
        assert!(passed.since() <= before + 1);
    }
    proxy.check_metric("tandem_upstream_pool_idle{upstream=\"app\"}", 1.0);
    check_rest();
}

/// Whoever has nothing to wait for does not wake up every few milliseconds, let alone all the time.
#[track_caller]
fn check_rest() {
    const MEASURED: Duration = Duration::from_millis(300);
    // The sweep would be 30; some wake-ups are for what has just ended.
    const SWITCHES_MAX: u64 = 12;
    eventually("a worker at rest", || {
        let before = worker_activity();
        thread::park_timeout(MEASURED);
        let after = worker_activity();
        let is_idle = u128::from(after[1] - before[1]) < MEASURED.as_nanos() / 10;
        (after[0] - before[0] <= SWITCHES_MAX && is_idle).then_some(())
    });
}

/// How often the threads of workers of this process have waited, and for how many nanoseconds they
/// have run.
fn worker_activity() -> [u64; 2] {
    let mut sum = [0; 2];
    for task in std::fs::read_dir("/proc/self/task").expect("our threads").flatten() {
        let read = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        if !read("comm").starts_with("worker-") {
            continue;
        }
        let status = read("status");
        let waited = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        let run = read("schedstat");
        for (sum, value) in sum.iter_mut().zip([waited, run.split(' ').next()]) {
            *sum += value.and_then(|value| value.trim().parse::<u64>().ok()).unwrap_or_default();
        }
    }
    sum
}

#[test]
fn a_client_that_has_not_read_gets_its_responses_in_order() {
    if skip_without_privileges() {
        return;
    }
    let node = Node::start();
    let proxy = start(&node, "");
    let passed = passed(&proxy);
    let mut client = Client::connect(Place::Here, proxy.address("web"));
    for size in [1, 3_000, 60_000] {
        until_passed(&mut client, &passed);
        let unread = Counted::start(&proxy, "bypass", "client_unread");
        let asks: Vec<_> = (0..6).map(|_| Ask::plain(size)).collect();
        for ask in &asks {
            // Each when the one before is answered: nothing is pipelined.
            client.send(&ask.request()).expect("sent");
            node.wait_written(ask);
            Logged::find(&proxy, ask);
        }
        assert!(unread.since() >= 4, "{} of {}", unread.since(), asks.len());
        for (place, ask) in asks.iter().enumerate() {
            client.answer(ask).unwrap_or_else(|error| panic!("{size}, {place}: {error}"));
        }
        assert!(!client.has_more());
    }
}

#[test]
fn a_client_that_pipelines_gets_its_responses_in_order_and_never_past_the_proxy() {
    at_both(a_client_that_pipelines_gets_its_responses_in_order_and_never_past_the_proxy_at);
}

fn a_client_that_pipelines_gets_its_responses_in_order_and_never_past_the_proxy_at(place: Place) {
    const CLIENTS: u64 = 12;
    const ROUNDS: usize = 40;
    let node = Node::start();
    let proxy = start(&node, "");
    let passed = passed(&proxy);
    for client_seed in 1..=CLIENTS {
        let mut noise = Noise(client_seed << 20 | 1);
        let mut client = Client::connect(place, proxy.address("web"));
        until_passed(&mut client, &passed);
        for _ in 0..ROUNDS {
            let count = 1 + noise.next() as usize % 3;
            let asks: Vec<_> = (0..count).map(|_| random(&mut noise)).collect();
            // In one write or several, with the first answer perhaps between them.
            let is_at_once = noise.next().is_multiple_of(2);
            let requests: Vec<_> = asks.iter().map(Ask::request).collect();
            if is_at_once {
                client.send(&requests.concat()).expect("sent");
            } else {
                for request in requests {
                    client.send(&request).expect("sent");
                    thread::park_timeout(Duration::from_micros(noise.next() % 2_000));
                }
            }
            for ask in &asks {
                client.answer(ask).unwrap_or_else(|error| panic!("seed {client_seed}: {error}"));
            }
        }
        assert!(!client.has_more());
        pipeline(&mut client);
        let before = judged(&proxy);
        for _ in 0..10 {
            client.ask(&Ask::plain(100)).expect("answered");
        }
        assert_eq!(judged(&proxy), before, "seed {client_seed}: it has pipelined");
    }
}

/// Two requests at once, the first of which is answered when both have arrived for certain.
fn pipeline(client: &mut Client) {
    let mut asks = [Ask::plain(10), Ask::plain(20)];
    asks[0].pause = 1_000;
    client.send(&asks.map(|ask| ask.request()).concat()).expect("sent");
    asks.iter().for_each(|ask| client.answer(ask).expect("answered"));
}

#[test]
fn whoever_pipelines_from_the_start_is_never_armed_for() {
    at_both(whoever_pipelines_from_the_start_is_never_armed_for_at);
}

fn whoever_pipelines_from_the_start_is_never_armed_for_at(place: Place) {
    let node = Node::start();
    let proxy = start(&node, "");
    let mut other = Client::connect(place, proxy.address("web"));
    until_passed(&mut other, &passed(&proxy));
    // By what is pipelined behind what.
    for first in ["GET", "HEAD"] {
        let mut client = Client::connect(place, proxy.address("web"));
        let mut asks = [Ask::plain(10), Ask::plain(20)];
        asks[0].method = first;
        client.send(&asks.map(|ask| ask.request()).concat()).expect("sent");
        asks.iter().for_each(|ask| client.answer(ask).expect("answered"));
        let before = judged(&proxy);
        for _ in 0..20 {
            client.ask(&Ask::plain(100)).expect("answered");
        }
        assert_eq!(judged(&proxy), before, "{first}");
    }
}

/// Small, soon or not quite.
fn random(noise: &mut Noise) -> Ask {
    let mut ask = Ask::plain(noise.next() as usize % 4_000);
    if noise.next().is_multiple_of(2) {
        ask.pause = noise.next() % 3_000;
    }
    ask
}

/// What a client heard of one script, and what was recorded of it.
#[derive(Debug, PartialEq)]
struct Told {
    /// Heads, and what their bodies come to.
    heard: Vec<(String, usize, u64)>,
    recorded: Vec<(String, String, u64, u64, String, String)>,
}

/// The same conversation with two proxies.
#[test]
fn with_and_without_it_clients_and_records_are_told_the_same() {
    at_both(with_and_without_it_clients_and_records_are_told_the_same_at);
}

fn with_and_without_it_clients_and_records_are_told_the_same_at(place: Place) {
    let node = Node::start();
    let off = LEGS.replace("cgroup: /", "cgroup: /, bypass: false");
    let mut noise = Noise(11);
    let asks: Vec<_> = (0..300).map(|_| mixed(&mut noise)).collect();
    let [on, off] = [(LEGS, true), (&off, false)].map(|(kernel, is_on)| {
        let proxy = proxy(kernel, node.address);
        let passed = passed(&proxy);
        let told = converse(Client::connect(place, proxy.address("web")), &proxy, &asks)
            .expect("answered");
        if is_on {
            assert!(passed.since() > 60, "{}", passed.since());
        } else {
            assert_eq!(judged(&proxy), 0);
        }
        told
    });
    for (at, (on, off)) in on.heard.iter().zip(&off.heard).enumerate() {
        assert_eq!(on, off, "{:?}", asks[at]);
    }
    for (on, off) in on.recorded.iter().zip(&off.recorded) {
        assert_eq!(on, off);
    }
    assert_eq!(on, off);
}

/// Whatever leaves the client's connection open.
fn mixed(noise: &mut Noise) -> Ask {
    let kinds = [
        Kind::Plain,
        Kind::Plain,
        Kind::Plain,
        Kind::Plain,
        Kind::Pieces,
        Kind::Parts,
        Kind::Chunked,
        Kind::Unmeasured,
        Kind::Undated,
        Kind::Closing,
        Kind::Early,
        Kind::EarlyAlone,
        Kind::Wide,
    ];
    let mut ask = Ask::new(kinds[noise.next() as usize % kinds.len()], 0);
    ask.size = noise.next() as usize % (1 << (noise.next() % 16)) + 2;
    ask.status = [200, 200, 404, 500, 206][noise.next() as usize % 5];
    if noise.next().is_multiple_of(8) {
        ask.method = "HEAD";
    }
    // Nobody can tell chunks for a HEAD from none.
    if ask.method == "HEAD" {
        ask.kind = Kind::Plain;
    }
    ask
}

fn converse(mut client: Client, proxy: &TestProxy, asks: &[Ask]) -> io::Result<Told> {
    let mut told = Told { heard: Vec::new(), recorded: Vec::new() };
    for ask in asks {
        client.send(&ask.request())?;
        let heard = client.hear(ask.method != "HEAD")?;
        let sum = heard.body.iter().fold(7, |sum: u64, byte| {
            sum.rotate_left(5).wrapping_mul(0x9e37_79b9) ^ u64::from(*byte)
        });
        told.heard.push((normal(&heard.head), heard.body.len(), sum));
    }
    assert!(!client.has_more());
    for line in proxy.access_log(asks.len()) {
        let Logged { path, status, sent, recv, lane, end, .. } = Logged::of(&line);
        told.recorded.push((path, status, sent, recv, lane, end));
    }
    Ok(told)
}

/// A head without what a lane adds to it, and the kernel does not, for as long as there is such a
/// thing; and without the time.
fn normal(head: &str) -> String {
    let lines = head.lines().filter(|line| !line.starts_with("via: "));
    let is_nodes = |line: &&str| !line.starts_with("date: ") || line.contains("1994");
    let mut lines: Vec<_> = lines.filter(is_nodes).collect();
    lines.sort_unstable();
    lines.join("\n")
}
