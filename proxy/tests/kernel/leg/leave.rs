//! What is left when connections end, and when the proxy does.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Command, Stdio},
    sync::atomic::Ordering,
    thread,
};

use aya::programs::loaded_programs;
use proxy::test_support::Client;

use super::{storm::runs_or, *};

const CONNECTIONS: u64 = 5_000;
pub(super) const AT_A_TIME: u64 = 8;
/// More places than are taken or were given back a moment ago, whatever the number of connections was.
pub(super) const PLACES_MAX: usize = 500;

/// `TANDEM_TEST_RUNS`: how many.
#[test]
fn connections_that_end_leave_nothing() {
    if skip_without_privileges() {
        return;
    }
    let connections = runs_or(CONNECTIONS);
    let node = Node::start("127.0.0.1:0");
    let proxy = proxy(LEGS, node.address);
    let found = Counted::start(&proxy, "establish", "found");
    let full = Counted::start(&proxy, "establish", "full");
    let delivered = Counted::delivered(&proxy);
    let maps = Maps::of(&proxy);
    let before = (maps.entries(), sockets());
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                for _ in 0..connections / AT_A_TIME {
                    let mut peer = Peer::connect(proxy.address("web"));
                    peer.get(10).expect("answered");
                    // The node closes as well, so the next one finds none to reuse.
                    peer.last(10).expect("answered");
                }
            });
        }
    });
    // Each of the node's; of clients that come and go like these, one in 16.
    assert!(found.since() > connections + connections / 20, "{}", found.since());
    assert!(delivered.since() > 0, "nothing was delivered");
    assert_eq!(full.since(), 0);
    eventually("no leg", || (status(&proxy, "found") + status(&proxy, "begun") == 0).then_some(()));
    eventually("no connection at the node", || {
        (node.connections.load(Ordering::Relaxed) == 0).then_some(())
    });
    eventually("empty maps", || (maps.entries() == before.0).then_some(()));
    // What the kernel keeps with a socket goes with it.
    let many = before.1 + connections as usize / 4;
    eventually("no socket", || (sockets() < many).then_some(()));
    // And the next one is served as the first, in a place of one before.
    let mut peer = Peer::connect(proxy.address("web"));
    warm_up(&mut peer, &delivered);
    assert!((1..PLACES_MAX).contains(&(maps.last_place() as usize)), "{}", maps.last_place());
}

/// How many TCP sockets there are, of whomever.
fn sockets() -> usize {
    let text = fs::read_to_string("/proc/net/sockstat").expect("the kernel's numbers");
    let tcp = text.lines().find_map(|line| line.strip_prefix("TCP: ")).expect("those of TCP");
    let mut words = tcp.split(' ').skip_while(|word| *word != "alloc");
    words.nth(1).expect("a number").parse().expect("a number")
}

/// A proxy in another process, killed when dropped.
pub(super) struct Process {
    child: Child,
    pub(super) web: SocketAddr,
    admin: SocketAddr,
}

impl Process {
    pub(super) fn start(node: SocketAddr) -> Process {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("tandem.yaml");
        let listener = format!("name: web, {ANY_PORT}");
        let text = yaml(LEGS, &[&listener], node, "");
        let rest = "workers: 1\nadmin: { address: \"127.0.0.1:0\" }\n";
        fs::write(&path, text + rest).expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
        command.args(["run", "-c"]).arg(&path).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary runs");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let (mut web, mut admin) = (None, None);
        while let (None, _) | (_, None) = (web, admin) {
            let line = lines.next().expect("it says where it listens").expect("text");
            let Some((_, address)) = line.split_once("address=") else { continue };
            let address = address.split_whitespace().next().and_then(|it| it.parse().ok());
            let role = if line.contains("web") { &mut web } else { &mut admin };
            *role = address.or(*role);
        }
        // Whoever writes more must not wait for a reader.
        thread::spawn(move || lines.for_each(drop));
        let found = "found above";
        Process { child, web: web.expect(found), admin: admin.expect(found) }
    }

    pub(super) fn page(&self, path: &str) -> String {
        let mut client = Client::connect(self.admin);
        client.ask(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).text()
    }

    fn delivered(&self) -> u64 {
        let sample = "tandem_kernel_packets_total{program=\"local\",reason=\"delivered\"} ";
        let page = self.page("/metrics");
        let value = page.lines().find_map(|line| line.strip_prefix(sample));
        value.map_or(0, |value| value.parse().expect("a number"))
    }

    pub(super) fn programs(&self) -> Vec<u32> {
        let value: serde_json::Value =
            serde_json::from_str(&self.page("/bpf/status")).expect("JSON");
        let rows = value["programs"].as_array().expect("programs");
        rows.iter().map(|row| row["id"].as_u64().expect("an id") as u32).collect()
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn kill(&mut self) {
        // Fails only if it is dead already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

#[test]
fn a_killed_proxy_leaves_ended_connections_and_nothing_else() {
    if skip_without_privileges() {
        return;
    }
    let node = Node::start("127.0.0.1:0");
    let mut process = Process::start(node.address);
    let programs = process.programs();
    assert!(!programs.is_empty());
    let before = process.delivered();
    let mut peers: Vec<_> = (0..8).map(|_| Peer::connect(process.web)).collect();
    for peer in &mut peers {
        eventually("deliveries", || {
            let before = process.delivered();
            (0..4).for_each(|_| peer.get(100).expect("answered"));
            (process.delivered() > before + 4).then_some(())
        });
    }
    // Some are in the middle of an answer, one has been delivered half a request, the rest idle.
    for peer in &mut peers[..4] {
        peer.send(peer::ask(64 << 20).as_bytes()).expect("sent");
        peer.answer_head(64 << 20).expect("begun");
    }
    peers[4].send(peer::upload(1 << 20).as_bytes()).expect("sent");
    assert!(process.delivered() > before + 8);
    process.kill();
    for peer in &mut peers {
        let mut rest = Vec::new();
        // The end or a reset, but soon; not that nothing comes.
        if let Err(error) = peer.stream.read_to_end(&mut rest) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
        assert!(rest.len() < 64 << 20);
    }
    eventually("no connection at the node", || {
        (node.connections.load(Ordering::Relaxed) == 0).then_some(())
    });
    // A socket in the map keeps the programs, and they the map, until it is closed.
    drop(peers);
    eventually("no program", || {
        let mut left = loaded_programs().filter_map(Result::ok);
        (!left.any(|program| programs.contains(&program.id()))).then_some(())
    });
    crate::tunnel::assert_kernel_is_content();
    let next = Process::start(node.address);
    let mut peer = Peer::connect(next.web);
    let before = next.delivered();
    eventually("deliveries by the next one", || {
        (0..4).for_each(|_| peer.get(100).expect("answered"));
        (next.delivered() > before + 4).then_some(())
    });
}

/// A socket in the map keeps the programs, and they the map.
#[test]
fn what_was_delivered_is_read_after_the_proxy_is_gone() {
    if skip_without_privileges() {
        return;
    }
    const SIZE: usize = 300_000;
    let node = Node::start("127.0.0.1:0");
    for _ in 0..2 {
        let proxy = proxy(LEGS, node.address);
        let delivered = Counted::delivered(&proxy);
        let mut peer = Peer::connect(proxy.address("web"));
        warm_up(&mut peer, &delivered);
        peer.send(peer::ask(SIZE).as_bytes()).expect("sent");
        peer.answer_head(SIZE).expect("begun");
        peer.answer_body(0, 10).expect("begun");
        eventually("unread bytes", || (status(&proxy, "unread_bytes") > 100_000).then_some(()));
        eventually("the end of the answer, for us", || {
            let lines = proxy.access_log(0);
            lines.iter().any(|line| line.contains(&format!("/give/{SIZE}"))).then_some(())
        });
        proxy.stop().expect("a clean end");
        peer.answer_body(10, SIZE).expect("the whole answer");
    }
}

fn tandem(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_tandem")).args(arguments).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).expect("text"))
}

#[test]
fn the_command_line_switches_a_running_proxy() {
    if skip_without_privileges() {
        return;
    }
    let node = Node::start("127.0.0.1:0");
    let running = Process::start(node.address);
    let admin = running.admin.to_string();
    for (to, is_enabled) in [("off", false), ("on", true)] {
        let (is_fine, said) = tandem(&["bpf", "same-host", to, "--admin", &admin]);
        assert!(is_fine && said.contains(&format!("\"is_enabled\":{is_enabled}")), "{said}");
    }
    // Where nothing is delivered there is nothing to switch.
    let other = proxy(TCP, node.address);
    assert_eq!(other.ask_admin("PUT", "/bpf/same_host/on").status, 409);
    assert_eq!(other.admin("/bpf/same_host/on").status, 405);
}

#[test]
fn the_doctor_says_what_works() {
    if skip_without_privileges() {
        return;
    }
    let (is_fine, said) = tandem(&["bpf", "doctor"]);
    assert!(is_fine, "{said}");
    for program in ["worker", "local", "tunnel"] {
        let line = said.lines().find(|line| line.starts_with(program)).expect(program);
        assert!(line.contains(" works: "), "{line}");
    }
    let (is_fine, said) = tandem(&["bpf", "doctor", "--cgroup", "/no-such-cgroup"]);
    assert!(!is_fine && said.contains("local    does not work: "), "{said}");
}
