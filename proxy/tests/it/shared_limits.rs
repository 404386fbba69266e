//! Limits that several proxies share through a Redis, seen from outside: against a real one that is
//! killed and stopped, and against one that talks nonsense.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use base64ct::{Base64, Encoding as _};
use proxy::test_support::{Client, Node, PATIENCE, TestProxy, eventually, unused_address};
use rcgen::CertifiedKey;
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    lane_pair::{LANES, with_plugins},
    process::Tandem,
};

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const HALF: &str = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nx";

/// A Redis of the test's own; killed when dropped.
struct Redis {
    child: Child,
    address: SocketAddr,
    password: &'static str,
    /// Of its command line.
    more: Vec<String>,
    directory: tempfile::TempDir,
}

impl Redis {
    /// `None`: there is no Redis on this machine.
    fn start() -> Option<Redis> {
        Redis::start_with("", Vec::new())
    }

    /// One that speaks TLS at a second address, and the certificate with which it is `localhost`.
    fn start_secure() -> Option<(Redis, SocketAddr, String)> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
        let CertifiedKey { cert, signing_key } = made.expect("a certificate");
        let files = tempfile::tempdir().expect("a directory");
        let [certificate, key] = [
            ("CERTIFICATE", cert.der().as_ref()),
            ("PRIVATE KEY", signing_key.serialize_der().as_slice()),
        ]
        .map(|(label, der)| pem(label, der));
        let address = unused_address();
        let port = address.port().to_string();
        let mut more: Vec<_> =
            ["--tls-auth-clients", "no", "--tls-port", &port].map(String::from).into();
        for (option, text) in [("--tls-cert-file", &certificate), ("--tls-key-file", &key)] {
            let path = files.path().join(&option[2..]);
            std::fs::write(&path, text).expect("a file");
            more.extend([option.to_owned(), path.display().to_string()]);
        }
        // They are read before it answers.
        Some((Redis::start_with("", more)?, address, certificate))
    }

    #[expect(clippy::print_stdout, reason = "the test runner counts the lines `skipped: …`")]
    fn start_with(password: &'static str, more: Vec<String>) -> Option<Redis> {
        let directory = tempfile::tempdir().expect("a directory");
        let address = unused_address();
        match Redis::spawn(address, password, &more, &directory) {
            Ok(child) => {
                let redis = Redis { child, address, password, more, directory };
                redis.is_up();
                Some(redis)
            }
            Err(_) => {
                let reason = "needs redis-server (sudo apt-get install redis-server)";
                let asked = std::env::var("KERNEL_TESTS").unwrap_or_default();
                assert_ne!(asked, "require", "KERNEL_TESTS=require, but this test {reason}");
                println!("skipped: {reason}");
                None
            }
        }
    }

    fn spawn(
        address: SocketAddr,
        password: &str,
        more: &[String],
        directory: &tempfile::TempDir,
    ) -> std::io::Result<Child> {
        let port = address.port().to_string();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port, "--save", "", "--dir"]);
        command.arg(directory.path()).args(more).stdout(Stdio::null()).stderr(Stdio::null());
        if !password.is_empty() {
            command.args(["--requirepass", password]);
        }
        command.spawn()
    }

    fn is_up(&self) {
        eventually("redis", || {
            let mut stream = TcpStream::connect(self.address).ok()?;
            let mut answer = [0; 1];
            stream.write_all(b"PING\r\n").ok()?;
            stream.read_exact(&mut answer).ok()
        });
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("our child");
    }

    fn restart(&mut self) {
        let child = Redis::spawn(self.address, self.password, &self.more, &self.directory);
        self.child = child.expect("it ran before");
        self.is_up();
    }

    /// What each of some commands is answered, a line or more of its protocol.
    fn ask(&self, commands: &[&str]) -> Vec<String> {
        let mut stream = TcpStream::connect(self.address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let login = match self.password {
            "" => String::new(),
            password => format!("AUTH {password}\r\n"),
        };
        write!(stream, "{login}{}\r\nQUIT\r\n", commands.join("\r\n")).expect("it reads");
        let lines = BufReader::new(stream).lines().map(|line| line.expect("an answer"));
        lines.skip(usize::from(!login.is_empty())).collect()
    }

    /// Waits until no request is in flight that `conn` counts: they leave behind their responses.
    fn nobody_is_in(&self) {
        eventually("nobody is in", || {
            let keys = self.ask(&["KEYS tandem:limit-conn:route:all:0:*"]);
            keys.contains(&"*0".into()).then_some(())
        });
    }

    fn nobody_is_connected(&self) {
        eventually("nobody is connected", || {
            let clients = self.ask(&["INFO clients"]);
            clients.contains(&"connected_clients:1".into()).then_some(())
        });
    }

    /// The settings that lead to it.
    fn settings(&self) -> String {
        settings(self.address)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may have been killed already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// RFC 7468.
fn pem(label: &str, der: &[u8]) -> String {
    let text = Base64::encode_string(der);
    let lines = text.as_bytes().chunks(64).map(|line| str::from_utf8(line).expect("ASCII"));
    let lines: Vec<_> = lines.collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn settings(address: SocketAddr) -> String {
    format!("policy: redis, redis_host: {}, redis_port: {}", address.ip(), address.port())
}

/// A listener for each lane, two workers, and one route for everything to `node`.
fn yaml(node: SocketAddr, plugins: &str) -> String {
    format!("workers: 2\n{}", with_plugins(plugins, node))
}

fn start(node: SocketAddr, plugins: &str) -> TestProxy {
    TestProxy::start(&yaml(node, plugins))
}

fn ask(proxy: &TestProxy, lane: &str) -> u16 {
    Client::connect(proxy.address(lane)).ask(GET).status
}

/// Requests that were answered `status` within patience.
fn becomes(proxy: &TestProxy, status: u16) {
    for lane in LANES {
        eventually("that status", || (ask(proxy, lane) == status).then_some(()));
    }
}

fn errors(proxy: &TestProxy, plugin: &str, reason: &str) -> f64 {
    let labels = format!("plugin=\"{plugin}\",reason=\"{reason}\"");
    proxy.metric(&format!("tandem_limit_errors_total{{{labels}}}"))
}

#[test]
fn a_count_is_exact_across_proxies_workers_and_lanes() {
    const COUNT: usize = 40;
    let Some(redis) = Redis::start() else { return };
    for window in ["fixed", "sliding"] {
        let node = Node::always("x");
        let plugins = format!(
            "{{ limit-count: {{ count: {COUNT}, time_window: 600, window_type: {window}, {} }} }}",
            redis.settings()
        );
        redis.ask(&["FLUSHALL", "SCRIPT FLUSH"]);
        let proxies = [(); 2].map(|()| start(node.address, &plugins));
        let left: Vec<(u16, usize)> = thread::scope(|scope| {
            let ask = |address| {
                move || {
                    let answers = (0..COUNT / 2).map(|_| {
                        let response = Client::connect(address).ask(GET);
                        assert_eq!(response.field("x-ratelimit-limit"), Some("40"));
                        let left = response.field("x-ratelimit-remaining").expect("what is left");
                        (response.status, left.parse().expect("a number"))
                    });
                    answers.collect::<Vec<_>>()
                }
            };
            let lanes = proxies.iter().flat_map(|proxy| LANES.map(|lane| proxy.address(lane)));
            let asking: Vec<_> = lanes.map(|address| scope.spawn(ask(address))).collect();
            asking.into_iter().flat_map(|asking| asking.join().expect("no panic")).collect()
        });
        let allowed = left.iter().filter(|(status, _)| *status == 200).map(|(_, left)| *left);
        assert_eq!(allowed.clone().count(), COUNT, "{window}");
        assert_eq!(allowed.collect::<BTreeSet<_>>(), (0..COUNT).collect());
        assert!(left.iter().all(|answer| matches!(answer, (200, _) | (503, 0))));
        assert_eq!(node.take().len(), COUNT);
        let keys = redis.ask(&["KEYS *"]);
        assert!(keys[2].starts_with("tandem:limit-count:route:all:0:40:600:127.0.0.1"), "{keys:?}");
    }
}

/// What one proxy counts the others know soon, also if nobody asks it any more.
#[test]
fn a_count_that_is_told_at_intervals_is_known_to_all_soon() {
    let Some(mut redis) = Redis::start() else { return };
    for window in ["fixed", "sliding"] {
        let node = Node::always("x");
        let plugins = format!(
            "{{ limit-count: {{ count: 8, time_window: 600, window_type: {window}, \
             sync_interval: 0.3, {} }} }}",
            redis.settings()
        );
        redis.ask(&["FLUSHALL", "SCRIPT FLUSH"]);
        let proxies = [(); 2].map(|()| start(node.address, &plugins));
        for proxy in &proxies {
            for lane in LANES {
                assert_eq!([ask(proxy, lane), ask(proxy, lane)], [200; 2], "{window} {lane}");
            }
        }
        let key = "tandem:limit-count:route:all:0:8:600:127.0.0.1";
        eventually("all are told", || {
            let held = redis.ask(&[&format!("GET {key}")]);
            held.iter().any(|line| line.ends_with(" 8 0")).then_some(())
        });
        // Whoever was told of the others before the last of them asks again when that is long ago.
        let long_ago = Instant::now() + Duration::from_millis(700);
        eventually("that time", || (Instant::now() >= long_ago).then_some(()));
        for proxy in &proxies {
            assert_eq!(LANES.map(|lane| ask(proxy, lane)), [503; 2], "{window}");
        }
        assert_eq!(node.take().len(), 8, "{window}");
    }
    let node = Node::always("x");
    let plugins = |more: &str| {
        let settings = format!("sync_interval: 0.1, {}{more}", redis.settings());
        format!("{{ limit-count: {{ count: 100, time_window: 600, {settings} }} }}")
    };
    redis.ask(&["FLUSHALL"]);
    let closed = start(node.address, &plugins(""));
    let open = start(node.address, &plugins(", allow_degradation: true"));
    let asked = [&closed, &open].map(|proxy| ask(proxy, LANES[0]));
    assert_eq!(asked, [200; 2]);
    // What is not told yet is told at the end.
    open.stop().expect("a clean end");
    let told = redis.ask(&["GET tandem:limit-count:route:all:0:100:600:127.0.0.1"]);
    assert!(told.iter().any(|line| line.ends_with(" 1 0") || line.ends_with(" 2 0")), "{told:?}");
    let open = start(node.address, &plugins(", allow_degradation: true"));
    redis.kill();
    becomes(&closed, 500);
    becomes(&open, 200);
    redis.restart();
    becomes(&closed, 200);
}

/// Nor is anything counted twice that is told again for its sake.
#[test]
fn a_window_that_is_none_takes_nothing_from_one_that_is_told_with_it() {
    let Some(redis) = Redis::start() else { return };
    let node = Node::always("x");
    let rule = |count: u32| format!("{{ count: {count}, time_window: 600, key: a{count} }}");
    let plugins = format!(
        "{{ limit-count: {{ rules: [{}, {}], sync_interval: 0.3, allow_degradation: true, {} }} }}",
        rule(1000),
        rule(2000),
        redis.settings()
    );
    let proxy = start(node.address, &plugins);
    let [whole, broken] = ["0:1000:600:a1000", "1:2000:600:a2000"]
        .map(|name| format!("tandem:limit-count:route:all:{name}"));
    let counted = || -> Option<usize> {
        let held = redis.ask(&[&format!("GET {whole}")]);
        held.iter().find_map(|line| line.strip_suffix(" 0")?.split(' ').next_back()?.parse().ok())
    };
    let mut asked = 0;
    let mut ask = || {
        asked += 1;
        ask(&proxy, "web")
    };
    assert_eq!(ask(), 200);
    eventually("that it is told", || counted().filter(|count| *count == 1));
    redis.ask(&[&format!("SET {broken} none")]);
    // Counted here, as what Redis has said is new; from when that is old on, it is asked.
    eventually("refusals", || {
        assert_eq!(ask(), 200);
        (errors(&proxy, "limit-count", "refused") >= 5.0).then_some(())
    });
    assert_eq!(counted(), Some(1));
    redis.ask(&[&format!("DEL {broken}")]);
    let now = eventually("that the other one is told", || counted().filter(|count| *count > 1));
    assert!(now <= asked, "{now} of {asked}");
}

/// Each path has a route of its own with these plugins.
fn routes(node: SocketAddr, routes: &[(&str, &str)]) -> String {
    let route = |(id, plugins): &(&str, &str)| {
        format!("{{ id: {id}, uri: /{id}, upstream_id: app, plugins: {plugins} }}")
    };
    let routes: Vec<_> = routes.iter().map(route).collect();
    let all = "{ id: all, uri: /*, upstream_id: app, plugins: {} }";
    yaml(node, "{}").replace(all, &routes.join(", "))
}

fn ask_for(proxy: &TestProxy, path: &str) -> u16 {
    let head = GET.replace("GET /", &format!("GET /{path}"));
    Client::connect(proxy.address("web")).ask(head).status
}

#[test]
fn a_group_counts_together_and_through_reloads() {
    let node = Node::always("x");
    let limit = |count, group| {
        format!("{{ limit-count: {{ count: {count}, time_window: 600, group: {group} }} }}")
    };
    let [ours, others, changed] = [limit(2, "ours"), limit(2, "others"), limit(1, "ours")];
    let proxy = TestProxy::start(&routes(node.address, &[("a", &ours), ("b", &ours)]));
    assert_eq!(["a", "b", "a", "b"].map(|path| ask_for(&proxy, path)), [200, 200, 503, 503]);
    // Whoever is in it later, and when all who were have gone.
    let reload = |list: &[_]| proxy.reload(&routes(node.address, list)).expect("a reload");
    reload(&[("a", "{}"), ("b", &others), ("c", &ours)]);
    assert_eq!(["a", "b", "c"].map(|path| ask_for(&proxy, path)), [200, 200, 503]);
    reload(&[("a", &changed), ("b", &changed)]);
    assert_eq!(["a", "b"].map(|path| ask_for(&proxy, path)), [200, 503]);
}

#[test]
fn a_group_counts_together_across_proxies() {
    let Some(redis) = Redis::start() else { return };
    let node = Node::always("x");
    let limit = |group| {
        let redis = redis.settings();
        format!("{{ limit-count: {{ count: 2, time_window: 600, group: {group}, {redis} }} }}")
    };
    let [ours, others] = [limit("ours"), limit("others")];
    let proxies = ["a", "b"]
        .map(|path| TestProxy::start(&routes(node.address, &[(path, &ours), ("c", &others)])));
    let seen = [(0, "a"), (1, "b"), (0, "a"), (1, "b"), (0, "c"), (1, "c"), (0, "c")];
    let seen = seen.map(|(at, path): (usize, _)| ask_for(&proxies[at], path));
    assert_eq!(seen, [200, 200, 503, 503, 200, 200, 503]);
}

#[test]
fn a_window_is_over_after_its_time() {
    let Some(redis) = Redis::start() else { return };
    let node = Node::always("x");
    let plugins =
        format!("{{ limit-count: {{ count: 1, time_window: 1, {} }} }}", redis.settings());
    let proxies = [(); 2].map(|()| start(node.address, &plugins));
    let began = Instant::now();
    assert_eq!(ask(&proxies[0], "web"), 200);
    assert_eq!(ask(&proxies[1], "hyper"), 503);
    eventually("a new window", || (ask(&proxies[1], "web") == 200).then_some(()));
    assert!(began.elapsed() >= Duration::from_millis(950), "{:?}", began.elapsed());
    eventually("nothing is left", || redis.ask(&["DBSIZE"]).contains(&":0".into()).then_some(()));
}

/// Milliseconds since the Unix epoch.
fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a later time").as_millis()
}

#[test]
fn a_sliding_window_keeps_the_share_of_the_last_one() {
    let Some(redis) = Redis::start() else { return };
    let node = Node::always("x");
    let plugins = format!(
        "{{ limit-count: {{ count: 10, time_window: 600, window_type: sliding, {} }} }}",
        redis.settings()
    );
    let proxy = start(node.address, &plugins);
    // Seconds since the window began, requests in it and in the one before, what is left and for how
    // long.
    for (since, current, previous, expected) in [
        (1, 4, 0, Some(("5", 599))),
        (900, 10, 10, Some(("4", 300))),
        (300, 2, 10, Some(("2", 300))),
        (600, 10, 0, None),
        (1200, 10, 10, Some(("9", 600))),
    ] {
        let key = "tandem:limit-count:route:all:0:10:600:127.0.0.1";
        let began = now() - since * 1000;
        redis.ask(&[&format!("SET {key} \"{began} {current} {previous}\"")]);
        let answer = Client::connect(proxy.address("web")).ask(GET);
        let left = answer.field("x-ratelimit-remaining").expect("what is left");
        let reset: f64 = answer.field("x-ratelimit-reset").expect("a time").parse().expect("one");
        match expected {
            Some((remaining, seconds)) => {
                assert_eq!((answer.status, left), (200, remaining), "{since}");
                assert!((reset - f64::from(seconds)).abs() < 60.0, "{since}: {reset}");
            }
            None => assert_eq!((answer.status, left), (503, "0"), "{since}"),
        }
    }
}

#[test]
fn a_bucket_is_one_for_all_and_holds_back() {
    let Some(redis) = Redis::start() else { return };
    let node = Node::always("x");
    let limit = |rest: &str| {
        format!("{{ limit-req: {{ key: remote_addr, {rest}, {} }} }}", redis.settings())
    };
    let full = limit("rate: 0.001, burst: 1, nodelay: true");
    let proxies = [(); 2].map(|()| start(node.address, &full));
    let statuses = proxies.each_ref().map(|proxy| LANES.map(|lane| ask(proxy, lane)));
    assert_eq!(statuses, [[200, 200], [503, 503]]);
    redis.ask(&["FLUSHALL"]);
    let slow = start(node.address, &limit("rate: 5, burst: 1"));
    let began = Instant::now();
    assert_eq!(LANES.map(|lane| ask(&slow, lane)), [200, 200]);
    assert!(began.elapsed() >= Duration::from_millis(190), "{:?}", began.elapsed());
}

fn conn(redis: &Redis, rest: &str) -> String {
    format!(
        "{{ limit-conn: {{ conn: 1, burst: 0, default_conn_delay: 0.1, key: remote_addr, {rest} {} }} }}",
        redis.settings()
    )
}

/// A request that the node has half of.
fn held(proxy: &TestProxy, lane: &str, node: &Node) -> Client {
    let mut client = Client::connect(proxy.address(lane));
    client.send(HALF);
    eventually("half of a body", || node.heard().ends_with('x').then_some(()));
    client
}

#[test]
fn requests_in_flight_count_until_they_are_over_however_they_end() {
    let Some(redis) = Redis::start() else { return };
    let node = Node::always("x");
    let proxies = [(); 2].map(|()| start(node.address, &conn(&redis, "")));
    for lane in LANES {
        let mut slow = held(&proxies[0], lane, &node);
        for proxy in &proxies {
            assert_eq!(LANES.map(|lane| ask(proxy, lane)), [503, 503]);
        }
        assert_eq!(slow.ask("y").status, 200);
        becomes(&proxies[1], 200);
        redis.nobody_is_in();
        // One that goes away, or is cut off, is over as well.
        let gone = held(&proxies[1], lane, &node);
        assert_eq!(ask(&proxies[0], lane), 503);
        socket2::SockRef::from(gone.stream()).set_linger(Some(Duration::ZERO)).expect("a socket");
        drop(gone);
        becomes(&proxies[0], 200);
        redis.nobody_is_in();
    }
}

#[test]
fn what_still_runs_at_the_end_of_a_proxy_does_not_count_any_more() {
    let Some(redis) = Redis::start() else { return };
    let node = Node::always("x");
    let proxy = start(node.address, &conn(&redis, "redis_keepalive_timeout: 1,"));
    let _slow = held(&proxy, "web", &node);
    // Then it takes a new connection to say so.
    redis.nobody_is_connected();
    drop(proxy);
    assert_eq!(redis.ask(&["DBSIZE"])[0], ":0");
}

#[test]
fn a_redis_that_is_busy_is_told_later_who_has_left() {
    let Some(redis) = Redis::start() else { return };
    let node = Node::always("x");
    // With one connection to Redis, on which one call stands behind the other.
    let text = yaml(node.address, &conn(&redis, ""));
    let proxy = TestProxy::start(&text.replace("workers: 2", "workers: 1"));
    redis.ask(&["CONFIG SET lua-time-limit 1"]);
    for lane in LANES {
        let mut slow = held(&proxy, lane, &node);
        let mut busy = TcpStream::connect(redis.address).expect("it listens");
        busy.write_all(b"EVAL 'while true do end' 0\r\n").expect("it reads");
        let is_busy = || redis.ask(&["PING"])[0].starts_with("-BUSY").then_some(());
        eventually("a script that runs", is_busy);
        assert_eq!(slow.ask("y").status, 200);
        assert_eq!(ask(&proxy, lane), 500);
        redis.ask(&["SCRIPT KILL"]);
        redis.nobody_is_in();
        becomes(&proxy, 200);
        redis.nobody_is_in();
        assert_eq!(errors(&proxy, "limit-conn", "undo_lost"), 0.0);
    }
}

/// Half of a request of somebody.
fn half(user: &str) -> String {
    HALF.replace("host: a", &format!("host: a\r\nx-user: {user}"))
}

#[test]
fn what_cannot_be_undone_costs_nobody_else() {
    const USERS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let Some(redis) = Redis::start() else { return };
    let node = Node::always("x");
    let rules = "[{ conn: 1, burst: 0, key: $http_x_user }, { conn: 9, burst: 0, key: all }]";
    let plugins = format!(
        "{{ limit-conn: {{ default_conn_delay: 0.1, redis_timeout: 5000, rules: {rules}, {} }} }}",
        redis.settings()
    );
    let text = yaml(node.address, &plugins).replace("workers: 2", "workers: 1");
    let proxy = TestProxy::start(&text);
    let mut clients = USERS.map(|user| {
        let mut client = Client::connect(proxy.address("web"));
        client.send(half(user));
        client
    });
    let prefix = "tandem:limit-conn:route:all:";
    let all = format!("ZCARD {prefix}1:all");
    eventually("all in", || redis.ask(&[&all]).contains(&":8".into()).then_some(()));
    redis.ask(&[&format!("SET {prefix}0:c x")]);
    // So that what is owed meanwhile is undone at once.
    redis.signal(Signal::STOP);
    for client in &mut clients {
        assert_eq!(client.ask("y").status, 200);
    }
    redis.signal(Signal::CONT);
    eventually("that loss", || (errors(&proxy, "limit-conn", "undo_lost") == 1.0).then_some(()));
    let left = eventually("the others out", || {
        let keys = redis.ask(&["KEYS tandem:*"]);
        keys.contains(&"*1".into()).then_some(keys)
    });
    assert_eq!(left[2], format!("{prefix}0:c"));
    assert_eq!(errors(&proxy, "limit-conn", "undo_lost"), 1.0);
}

#[test]
fn a_redis_that_has_left_is_not_asked_for_ever() {
    let Some(mut redis) = Redis::start() else { return };
    let node = Node::always("x");
    let proxy = start(node.address, &conn(&redis, "key_ttl: 1,"));
    let mut slow = held(&proxy, "web", &node);
    redis.kill();
    proxy.reload(&yaml(node.address, "{}")).expect("a reload");
    assert_eq!(slow.ask("y").status, 200);
    eventually("that it ends", || (errors(&proxy, "limit-conn", "undo_lost") == 1.0).then_some(()));
}

#[test]
fn what_a_killed_proxy_counted_expires() {
    let Some(redis) = Redis::start() else { return };
    let node = Node::always("x");
    let plugins = conn(&redis, "key_ttl: 1,");
    let other = start(node.address, &plugins);
    let rest = "kernel: { mode: off }\n";
    let killed = Tandem::start(&format!("{}{rest}", yaml(node.address, &plugins)));
    let mut slow = Client::connect(killed.address(&["listening", "web"]));
    let began = Instant::now();
    slow.send(HALF);
    eventually("half of a body", || node.heard().ends_with('x').then_some(()));
    assert_eq!(ask(&other, "web"), 503);
    drop(killed);
    becomes(&other, 200);
    assert!(began.elapsed() >= Duration::from_millis(950), "{:?}", began.elapsed());
}

/// A call may be held up on a connection that was given up, and come after what undoes it.
#[test]
fn who_left_before_entering_does_not_enter() {
    const ENTER: &str = include_str!("../../src/plugin/limit_conn/enter.lua");
    const LEAVE: &str = include_str!("../../src/plugin/limit_conn/leave.lua");
    let Some(redis) = Redis::start() else { return };
    let run = |script: &str, numbers: &str, words: &str| {
        let escaped = script.replace('\n', "\\n");
        assert!(!escaped.contains('"'));
        redis.ask(&[&format!("EVAL \"{escaped}\" {numbers} {words}")])
    };
    let enter = |name: &str| run(ENTER, "2", &format!("in over:{name} {name} 60000 1"));
    let leave = |name: &str| run(LEAVE, "2", &format!("in over:{name} {name} 60000"));
    assert_eq!(leave("a")[0], "*0");
    assert_eq!(redis.ask(&["KEYS *"])[..3], ["*1", "$6", "over:a"]);
    assert_eq!(enter("a")[..2], ["*1", ":0"]);
    assert_eq!(enter("b")[..3], ["*2", ":1", ":1"]);
    assert_eq!(enter("c")[..2], ["*1", ":0"]);
    assert_eq!(leave("b")[0], "*0");
    assert_eq!(redis.ask(&["DBSIZE"])[0], ":0", "nothing is left of what came, late or not");
}

#[test]
fn what_a_redis_has_lost_is_not_remembered_for_long() {
    const COUNT: usize = 100;
    let Some(mut redis) = Redis::start() else { return };
    let node = Node::always("x");
    let plugins = conn(&redis, "key_ttl: 31622400,").replace("conn: 1,", "conn: 1000,");
    let proxy = start(node.address, &plugins);
    let mut clients: Vec<_> = (0..COUNT)
        .map(|_| {
            let mut client = Client::connect(proxy.address(LANES[0]));
            client.send(HALF);
            client
        })
        .collect();
    let all = "ZCARD tandem:limit-conn:route:all:0:127.0.0.1";
    let is_in = || redis.ask(&[all]).contains(&format!(":{COUNT}")).then_some(());
    eventually("all in", is_in);
    redis.kill();
    redis.restart();
    for client in &mut clients {
        assert_eq!(client.ask("y").status, 200);
    }
    let keys = eventually("all out", || {
        let keys = redis.ask(&["KEYS tandem:*"]);
        let keys: Vec<_> = keys.into_iter().filter(|key| key.starts_with("tandem:")).collect();
        (keys.len() == COUNT).then_some(keys)
    });
    for key in keys {
        assert!(key.starts_with("tandem:limit-conn:route:all:over:"), "{key}");
        let left = redis.ask(&[&format!("TTL {key}"), &format!("MEMORY USAGE {key}")]);
        let [seconds, bytes] = [&left[0], &left[1]].map(|number| number[1..].parse::<u64>());
        assert!(seconds.is_ok_and(|seconds| (1..=600).contains(&seconds)), "{left:?}");
        assert!(bytes.is_ok_and(|bytes| bytes < 400), "{left:?}");
    }
    becomes(&proxy, 200);
}

/// A limit that nobody reaches, which closes or opens when it cannot be asked.
fn degrading(redis: &str, allow: bool, timeout: u64) -> String {
    format!(
        "{{ limit-count: {{ count: 1000000, time_window: 600, allow_degradation: {allow}, \
         redis_timeout: {timeout}, {redis} }} }}"
    )
}

/// What a connection is answered, until that is enough.
fn load(address: SocketAddr, is_enough: impl Fn(&[u16]) -> bool) -> Vec<u16> {
    let mut client = Client::connect(address);
    let began = Instant::now();
    let mut statuses = Vec::new();
    while !is_enough(&statuses) {
        assert!(began.elapsed() < PATIENCE, "{statuses:?}");
        statuses.push(client.ask(GET).status);
    }
    statuses
}

#[test]
fn a_redis_that_is_killed_under_load_fails_as_configured_and_comes_back() {
    const TIMEOUT: u64 = 5000;
    let Some(mut redis) = Redis::start() else { return };
    let node = Node::always("x");
    let [open, closed] = [true, false]
        .map(|allow| start(node.address, &degrading(&redis.settings(), allow, TIMEOUT)));
    let is_back = AtomicBool::new(false);
    let (is_back, closed) = (&is_back, &closed);
    thread::scope(|scope| {
        let on_both = |proxy: &TestProxy| {
            LANES.map(|lane| {
                let address = proxy.address(lane);
                let is_enough = |statuses: &[u16]| {
                    is_back.load(Ordering::Relaxed) && statuses.ends_with(&[200])
                };
                scope.spawn(move || load(address, is_enough))
            })
        };
        let (opening, closing) = (on_both(&open), on_both(closed));
        eventually("load", || (node.seen().len() > 20).then_some(()));
        redis.kill();
        // That connecting is refused costs nobody the time that it could take.
        eventually("known", || (ask(closed, "hyper") == 500).then_some(()));
        let began = Instant::now();
        for _ in 0..20 {
            let answer = Client::connect(closed.address("web")).ask(GET);
            assert_eq!(answer.text(), "{\"error_msg\":\"failed to limit count\"}\n");
            assert_eq!(answer.status, 500);
        }
        assert!(began.elapsed() < Duration::from_millis(TIMEOUT), "{:?}", began.elapsed());
        assert!(errors(closed, "limit-count", "unreachable") > 0.0);
        assert!(errors(&open, "limit-count", "unreachable") > 0.0);
        assert_eq!(errors(closed, "limit-count", "timeout"), 0.0);
        redis.restart();
        is_back.store(true, Ordering::Relaxed);
        for statuses in opening.map(|load| load.join().expect("no panic")) {
            assert!(statuses.iter().all(|status| *status == 200));
        }
        for statuses in closing.map(|load| load.join().expect("no panic")) {
            assert!(statuses.iter().all(|status| matches!(status, 200 | 500)));
        }
    });
}

#[test]
fn a_redis_that_hangs_holds_nobody_up_for_longer_than_its_timeout() {
    let Some(redis) = Redis::start() else { return };
    let node = Node::always("x");
    // With one connection to Redis.
    let text = yaml(node.address, &conn(&redis, "redis_timeout: 300,"));
    let proxy = TestProxy::start(&text.replace("workers: 2", "workers: 1"));
    becomes(&proxy, 200);
    redis.nobody_is_in();
    node.take();
    redis.signal(Signal::STOP);
    for lane in LANES {
        let began = Instant::now();
        assert_eq!(ask(&proxy, lane), 500);
        assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
    }
    // Somebody waited for it, and nobody does now that it is known.
    assert!(errors(&proxy, "limit-conn", "timeout") > 0.0);
    eventually("known", || {
        let began = Instant::now();
        assert_eq!(ask(&proxy, "web"), 500);
        (began.elapsed() < Duration::from_millis(200)).then_some(())
    });
    assert_eq!(node.take().len(), 0);
    redis.signal(Signal::CONT);
    // What was asked for in vain has been heard meanwhile, and does not count.
    becomes(&proxy, 200);
    redis.signal(Signal::STOP);
    for lane in LANES {
        Client::connect(proxy.address(lane)).send(GET);
    }
    redis.signal(Signal::CONT);
    becomes(&proxy, 200);
    redis.nobody_is_in();
}

#[test]
fn passwords_and_databases_are_told_and_never_logged() {
    let Some(redis) = Redis::start_with("opensesame", Vec::new()) else { return };
    let node = Node::always("x");
    let limit = |password: &str| {
        let redis = format!("{password} redis_database: 3, {}", redis.settings());
        degrading(&redis, false, 1000)
    };
    let proxy = start(node.address, &limit("redis_password: opensesame,"));
    assert_eq!(LANES.map(|lane| ask(&proxy, lane)), [200, 200]);
    assert_eq!(redis.ask(&["DBSIZE", "SELECT 3", "DBSIZE"])[..3], [":0", "+OK", ":1"]);
    let named = limit("redis_username: default, redis_password: opensesame,");
    assert_eq!(ask(&start(node.address, &named), "web"), 200);
    for wrong in ["", "redis_password: closesesame,", "redis_username: x, redis_password: sesame,"]
    {
        let rest = "kernel: { mode: off }\n";
        let tandem = Tandem::start(&format!("{}{rest}", yaml(node.address, &limit(wrong))));
        let mut client = Client::connect(tandem.address(&["listening", "web"]));
        assert_eq!(client.ask(GET).status, 500, "{wrong}");
        tandem.line(&["WARN", "redis does not answer"]);
        assert!(tandem.log().iter().all(|line| !line.contains("sesame")), "{:?}", tandem.log());
    }
}

#[test]
fn a_redis_that_speaks_tls_is_spoken_to_so() {
    let Some((redis, secure, _)) = Redis::start_secure() else { return };
    let node = Node::always("x");
    let limit = |tls: &str| degrading(&format!("{}, {tls}", settings(secure)), false, 1000);
    let proxy = start(node.address, &limit("redis_ssl: true, redis_ssl_verify: false"));
    assert_eq!(LANES.map(|lane| ask(&proxy, lane)), [200, 200]);
    let counted = redis.ask(&["KEYS tandem:*"]);
    assert!(counted.contains(&"*1".into()), "{counted:?}");
    // To somebody who is not known nothing is told, nor in clear to one who speaks TLS, nor the
    // other way round.
    for tls in ["redis_ssl: true, redis_ssl_verify: true", "redis_ssl: false"] {
        let proxy = start(node.address, &limit(tls));
        assert_eq!(ask(&proxy, "web"), 500, "{tls}");
        assert_eq!(errors(&proxy, "limit-count", "unreachable"), 1.0, "{tls}");
    }
    let plain = degrading(&format!("{}, redis_ssl: true", redis.settings()), false, 1000);
    assert_eq!(ask(&start(node.address, &plain), "web"), 500);
}

#[test]
fn the_systems_roots_vouch_for_a_redis() {
    let Some((_redis, secure, certificate)) = Redis::start_secure() else { return };
    let directory = tempfile::tempdir().expect("a directory");
    let roots = directory.path().join("roots.pem");
    std::fs::write(&roots, certificate).expect("a file");
    let variable = format!("SSL_CERT_FILE={}", roots.display());
    let node = Node::always("x");
    // Its certificate has the name, and no address.
    let limit = |host: &str| {
        let settings = settings(secure).replace("127.0.0.1", host);
        let tls = "redis_ssl: true, redis_ssl_verify: true";
        degrading(&format!("{settings}, {tls}"), false, 1000)
    };
    let text = routes(node.address, &[("name", &limit("localhost")), ("ip", &limit("127.0.0.1"))]);
    let tandem =
        Tandem::start_with(&["env", &variable], &format!("{text}kernel: {{ mode: off }}\n"));
    let ask = |path: &str| {
        let mut client = Client::connect(tandem.address(&["listening", "web"]));
        client.ask(GET.replace("GET /", &format!("GET /{path}"))).status
    };
    assert_eq!((ask("name"), ask("ip")), (200, 500));
    tandem.line(&["WARN", "redis does not answer", "127.0.0.1", "certificate"]);
}

#[test]
fn a_connection_that_nobody_uses_is_closed() {
    let Some(redis) = Redis::start() else { return };
    let node = Node::always("x");
    let idle = format!("redis_keepalive_timeout: 1, {}", redis.settings());
    let proxy = start(node.address, &degrading(&idle, false, 1000));
    assert_eq!(ask(&proxy, "web"), 200);
    redis.nobody_is_connected();
    assert_eq!(ask(&proxy, "web"), 200);
}

/// A process that hangs accepts as long as there is room in its backlog.
#[test]
fn a_connection_on_which_nothing_is_answered_is_closed() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let node = Node::always("x");
    let redis = settings(silent.local_addr().expect("an address"));
    let proxy = start(node.address, &degrading(&redis, false, 50));
    assert_eq!(ask(&proxy, "web"), 500);
    let (mut stream, _) = silent.accept().expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).expect("its end");
    assert!(heard.windows(4).any(|word| word == b"PING"));
}

#[test]
fn keys_of_another_kind_are_an_error_and_no_count() {
    let Some(redis) = Redis::start() else { return };
    let node = Node::always("x");
    let proxy = start(node.address, &degrading(&redis.settings(), false, 1000));
    let key = "tandem:limit-count:route:all:0:1000000:600:127.0.0.1";
    for foreign in [format!("RPUSH {key} x"), format!("SET {key} x")] {
        redis.ask(&["FLUSHALL", &foreign]);
        assert_eq!(LANES.map(|lane| ask(&proxy, lane)), [500, 500]);
    }
    assert_eq!(errors(&proxy, "limit-count", "refused"), 4.0);
    redis.ask(&["FLUSHALL"]);
    assert_eq!(LANES.map(|lane| ask(&proxy, lane)), [200, 200]);
    assert_eq!(node.take().len(), 2);
}

/// A server that is no Redis beyond the first question, and answers every further one like this.
fn nonsense(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            thread::spawn(move || {
                let mut heard = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut heard) {
                    let is_first = heard[..count].windows(4).any(|word| word == b"PING");
                    let said = if is_first { "+PONG\r\n" } else { answer };
                    if said.is_empty() || stream.write_all(said.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[test]
fn answers_that_make_no_sense_are_no_answers() {
    let node = Node::always("x");
    for (answer, reason) in [
        ("+OK\r\n", "unexpected"),
        (":1\r\n", "unexpected"),
        ("$-1\r\n", "unexpected"),
        ("*0\r\n", "unexpected"),
        ("*-1\r\n", "unexpected"),
        ("*3\r\n:1\r\n:-1\r\n:0\r\n", "unexpected"),
        ("*3\r\n:1\r\n:1\r\n$1\r\nx\r\n", "unexpected"),
        ("*6\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n", "unexpected"),
        ("-ERR no\r\n", "refused"),
        ("-NOSCRIPT no\r\n", "refused"),
        ("-READONLY no\r\n", "not_ready"),
        ("-LOADING wait\r\n", "not_ready"),
        ("-MISCONF no disk\r\n", "not_ready"),
        ("-OOM no memory\r\n", "not_ready"),
        ("-NOAUTH who are you\r\n", "not_ready"),
        ("-ERR Error running script (call to f_0): @user_script:3: -OOM no\r\n", "not_ready"),
        ("HTTP/1.1 400 Bad Request\r\n\r\n", "broken"),
        ("\0\0\0", "broken"),
        ("", "broken"),
        ("*1000000000\r\n", "timeout"),
        ("$1000000000\r\nx", "timeout"),
    ] {
        let settings = settings(nonsense(answer));
        // Longer than a busy machine takes to answer, where an answer is to come.
        let timeout = if reason == "timeout" { 150 } else { 5000 };
        let closed = start(node.address, &degrading(&settings, false, timeout));
        let open = start(node.address, &degrading(&settings, true, timeout));
        assert_eq!(ask(&closed, "web"), 500, "{answer:?}");
        assert_eq!(node.take().len(), 0);
        assert_eq!(LANES.map(|lane| ask(&open, lane)), [200, 200], "{answer:?}");
        assert_eq!(node.take().len(), 2);
        assert_eq!(errors(&closed, "limit-count", reason), 1.0, "{answer:?}");
    }
}
