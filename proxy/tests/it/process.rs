//! The binary as an operator meets it: exit codes, signals, messages, and what the process is made of.

use std::{
    io::{BufRead, BufReader, PipeReader, Read, Write},
    net::{SocketAddr, TcpListener},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use proxy::test_support::{Client, Node, TestProxy, eventually, unused_address};
use rustix::process::{Pid, Signal, kill_process};

use crate::system_calls::can_trace;

const BINARY: &str = env!("CARGO_BIN_EXE_tandem");
const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const HALF: &str = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nx";

/// A configuration for everything to `node`: in userspace, with one worker, unless `sections` says
/// otherwise.
pub(crate) fn yaml(node: SocketAddr, sections: &str) -> String {
    let mut text = format!("{}{sections}\n", TestProxy::yaml(&[node]));
    for default in ["kernel: { mode: off }", "workers: 1"] {
        let (key, _) = default.split_once(' ').expect("a key");
        if !text.lines().any(|line| line.starts_with(key)) {
            text.push_str(default);
            text.push('\n');
        }
    }
    text
}

struct File {
    path: PathBuf,
    _directory: tempfile::TempDir,
}

fn file(text: &str) -> File {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("tandem.yaml");
    std::fs::write(&path, text).expect("a file");
    File { path, _directory: directory }
}

/// Runs to the end.
fn run(arguments: &[&str]) -> Output {
    Command::new(BINARY).args(arguments).output().expect("the binary runs")
}

fn run_file(action: &str, file: &File) -> Output {
    run(&[action, "-c", file.path.to_str().expect("a path")])
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A running tandem; killed when dropped.
pub(crate) struct Tandem {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    file: File,
}

impl Tandem {
    pub(crate) fn start(yaml: &str) -> Tandem {
        Tandem::start_with(&[], yaml)
    }

    /// Behind `wrapper`, a command that runs another one.
    pub(crate) fn start_with(wrapper: &[&str], yaml: &str) -> Tandem {
        Tandem::start_on(wrapper, file(yaml))
    }

    /// On a file that leads through two links, as a mounted ConfigMap does.
    pub(crate) fn start_mounted(yaml: &str) -> Tandem {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir(at("..1")).expect("a directory");
        std::fs::write(at("..1/tandem.yaml"), yaml).expect("a file");
        symlink("..1", at("..data")).expect("a link");
        symlink("..data/tandem.yaml", at("tandem.yaml")).expect("a link");
        Tandem::start_on(&[], File { path: at("tandem.yaml"), _directory: directory })
    }

    fn start_on(wrapper: &[&str], file: File) -> Tandem {
        let words: Vec<_> = wrapper.iter().copied().chain([BINARY, "run", "-c"]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(&file.path).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary runs");
        let log = Arc::new(Mutex::new(Vec::new()));
        follow(child.stderr.take().expect("a pipe"), &log);
        Tandem { child, log, file }
    }

    /// Writes the file anew, in place.
    pub(crate) fn rewrite(&self, yaml: &str) {
        std::fs::write(&self.file.path, yaml).expect("a file");
    }

    pub(crate) fn path(&self) -> &Path {
        &self.file.path
    }

    /// Where the file stands.
    pub(crate) fn directory(&self) -> &Path {
        self.file.path.parent().expect("a directory")
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().expect("no panic").clone()
    }

    /// The log once a line has all of `words` in it, and that line.
    pub(crate) fn line(&self, words: &[&str]) -> String {
        eventually(&format!("a line with {words:?}"), || {
            self.log().into_iter().find(|line| words.iter().all(|word| line.contains(word)))
        })
    }

    /// Where it says it listens.
    pub(crate) fn address(&self, words: &[&str]) -> SocketAddr {
        let line = self.line(words);
        let (_, address) = line.split_once("address=").expect("an address");
        address.trim().parse().expect("an address")
    }

    pub(crate) fn web(&self) -> SocketAddr {
        self.address(&["listening", "web"])
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.web())
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it runs");
    }

    pub(crate) fn exit(&mut self) -> ExitStatus {
        eventually("the end", || self.child.try_wait().expect("our child"))
    }

    /// What is in a directory of `/proc` about it.
    pub(crate) fn proc(&self, directory: &str) -> Vec<PathBuf> {
        let path = format!("/proc/{}/{directory}", self.pid().as_raw_nonzero());
        let entries = std::fs::read_dir(path).expect("our child");
        entries.map(|entry| entry.expect("an entry").path()).collect()
    }
}

/// Reads `log` into `lines` to its end.
fn follow(log: impl Read + Send + 'static, lines: &Arc<Mutex<Vec<String>>>) {
    let lines = Arc::clone(lines);
    thread::spawn(move || {
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            lines.lock().expect("no panic").push(line);
        }
    });
}

impl Drop for Tandem {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn a_signal_drains_and_a_request_under_way_is_finished() {
    let node = Node::always("ok");
    for signal in [Signal::TERM, Signal::INT] {
        let mut tandem = Tandem::start(&yaml(node.address, ""));
        let (mut idle, mut busy) = (tandem.client(), tandem.client());
        assert_eq!(idle.ask(GET).status, 200);
        busy.send(HALF);
        eventually("the request at the node", || node.heard().ends_with('x').then_some(()));
        tandem.signal(signal);
        idle.closed();
        assert!(tandem.child.try_wait().expect("our child").is_none());
        let response = busy.send("y").response();
        assert_eq!((response.status, response.field("connection")), (200, Some("close")));
        busy.closed();
        assert_eq!(tandem.exit().code(), Some(0));
        tandem.line(&["INFO", "drained"]);
    }
}

/// The process stands still while requests come, so that it learns of them when it gets the order, sooner
/// or later.
#[test]
fn a_drain_serves_every_request_that_has_arrived() {
    const CLIENTS: usize = 40;
    /// Longer than `REST_AFTER`.
    const SILENCE: Duration = Duration::from_millis(700);
    let node = Node::always("ok");
    let cases =
        [(true, Duration::ZERO), (true, SILENCE), (false, Duration::ZERO), (false, SILENCE)];
    // Which of the two a worker sees first is chance.
    for (is_express, silence) in cases.repeat(2) {
        let text = yaml(node.address, "")
            .replace("name: web,", &format!("name: web, express_lane: {is_express},"));
        let mut tandem = Tandem::start(&text);
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| tandem.client()).collect();
        clients.iter_mut().for_each(|client| assert_eq!(client.ask(GET).status, 200));
        thread::park_timeout(silence);
        tandem.signal(Signal::STOP);
        for client in &mut clients {
            client.send(GET);
        }
        tandem.signal(Signal::TERM);
        tandem.signal(Signal::CONT);
        for client in &mut clients {
            assert_eq!(client.response().status, 200);
            client.closed();
        }
        assert_eq!(tandem.exit().code(), Some(0));
    }
}

/// Whoever starts a process may want it gone before it says that it is there.
#[test]
fn a_signal_that_comes_early_drains_as_well() {
    let free = unused_address();
    let text = yaml(free, "").replace("127.0.0.1:0", &free.to_string());
    for _ in 0..5 {
        let mut tandem = Tandem::start(&text);
        eventually("it listens", || std::net::TcpStream::connect(free).ok());
        tandem.signal(Signal::TERM);
        assert_eq!(tandem.exit().code(), Some(0));
    }
}

#[test]
fn a_second_signal_ends_at_once() {
    let node = Node::always("ok");
    let mut tandem = Tandem::start(&yaml(node.address, "drain: { timeout: 1h }"));
    let (mut idle, mut busy) = (tandem.client(), tandem.client());
    assert_eq!(idle.ask(GET).status, 200);
    busy.send(HALF);
    eventually("the request at the node", || node.heard().ends_with('x').then_some(()));
    tandem.signal(Signal::TERM);
    // Drains, and would go on for an hour.
    idle.closed();
    tandem.signal(Signal::TERM);
    busy.closed();
    assert_eq!(tandem.exit().code(), Some(0));
}

#[test]
fn nobody_has_to_read_the_log() {
    let node = Node::always("ok");
    let address = unused_address();
    let text = yaml(node.address, "").replace("127.0.0.1:0", &address.to_string());
    let file = file(&text);
    let mut command = Command::new(BINARY);
    command.args(["run", "-c"]).arg(&file.path).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary runs");
    drop(child.stderr.take());
    eventually("it listens", || std::net::TcpStream::connect(address).ok());
    let mut tandem = Tandem { child, log: Arc::default(), file };
    assert_eq!(Client::connect(address).ask(GET).text(), "ok");
    tandem.signal(Signal::TERM);
    assert_eq!(tandem.exit().code(), Some(0));
}

/// More than the process gets to write what still waits, and to end.
const END_MAX: Duration = Duration::from_secs(5);

/// With a pipe for stdout and stderr that is full and that nobody reads; serves on `address`.
fn start_unread(yaml: &str, address: SocketAddr) -> (Tandem, PipeReader) {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let size = rustix::pipe::fcntl_setpipe_size(&writer, 4096).expect("a small pipe");
    writer.write_all(&vec![b'\n'; size]).expect("it is empty");
    let file = file(&yaml.replace("127.0.0.1:0", &address.to_string()));
    let mut command = Command::new(BINARY);
    command.args(["run", "-c"]).arg(&file.path);
    command.stdout(writer.try_clone().expect("a pipe")).stderr(writer);
    let child = command.spawn().expect("the binary runs");
    (Tandem { child, log: Arc::default(), file }, reader)
}

#[test]
fn a_log_that_nobody_reads_holds_up_neither_requests_nor_the_end() {
    let node = Node::always("ok");
    for sections in ["", "log: { access: { target: stdout } }", "log: { level: debug }"] {
        let address = unused_address();
        let text = yaml(node.address, &format!("drain: {{ timeout: 1h }}\n{sections}"));
        let (mut tandem, _reader) = start_unread(&text, address);
        eventually("it listens", || std::net::TcpStream::connect(address).ok());
        for _ in 0..20 {
            assert_eq!(Client::connect(address).ask(GET).status, 200);
        }
        let told = Instant::now();
        tandem.signal(Signal::TERM);
        assert_eq!(tandem.exit().code(), Some(0));
        assert!(told.elapsed() < END_MAX, "{sections}: {:?}", told.elapsed());
    }
}

#[test]
fn a_second_signal_ends_at_once_whoever_reads_the_log() {
    let node = Node::always("ok");
    let address = unused_address();
    let sections = "drain: { timeout: 1h }\nlog: { access: { target: stderr } }";
    let (mut tandem, _reader) = start_unread(&yaml(node.address, sections), address);
    eventually("it listens", || std::net::TcpStream::connect(address).ok());
    let (mut idle, mut busy) = (Client::connect(address), Client::connect(address));
    assert_eq!(idle.ask(GET).status, 200);
    busy.send(HALF);
    eventually("the request at the node", || node.heard().ends_with('x').then_some(()));
    tandem.signal(Signal::TERM);
    idle.closed();
    let told = Instant::now();
    tandem.signal(Signal::TERM);
    assert_eq!(tandem.exit().code(), Some(0));
    assert!(told.elapsed() < END_MAX, "{:?}", told.elapsed());
}

#[test]
fn what_the_log_has_no_room_for_is_counted_and_said_when_somebody_reads() {
    let node = Node::always("ok");
    let (address, admin) = (unused_address(), unused_address());
    let sections = format!("admin: {{ address: \"{admin}\" }}");
    let (mut tandem, reader) = start_unread(&yaml(node.address, &sections), address);
    eventually("it listens", || std::net::TcpStream::connect(admin).ok());
    let dropped = || {
        let page = Client::connect(admin).ask("GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n").text();
        let sample = "tandem_log_dropped_total ";
        let line = page.lines().find_map(|line| line.strip_prefix(sample)).expect("the counter");
        line.parse::<u64>().expect("a number")
    };
    assert_eq!(dropped(), 0);
    // Each reload has a long line for each of these.
    let wrong: String = (0..100).map(|at| format!("{}{at}: 1\n", "x".repeat(900))).collect();
    tandem.rewrite(&wrong);
    eventually("more than the queue holds", || {
        tandem.signal(Signal::HUP);
        (dropped() > 0).then_some(())
    });
    follow(reader, &tandem.log);
    tandem.line(&["WARN", "lines of this log were lost", "lines="]);
    tandem.line(&["INFO", "serving"]);
    tandem.signal(Signal::TERM);
    assert_eq!(tandem.exit().code(), Some(0));
    tandem.line(&["INFO", "drained"]);
}

#[test]
fn an_error_at_start_waits_for_nobody_and_is_there_for_whoever_reads() {
    let node = Node::always("ok");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address");
    let start = || start_unread(&yaml(node.address, ""), address);
    let ((mut unread, _reader), started) = (start(), Instant::now());
    assert_eq!(unread.exit().code(), Some(1));
    assert!(started.elapsed() < END_MAX, "{:?}", started.elapsed());
    let (mut read, reader) = start();
    follow(reader, &read.log);
    assert_eq!(read.exit().code(), Some(1));
    read.line(&["tandem: listener `web`: bind "]);
}

#[test]
fn a_fifo_that_nobody_reads_holds_up_nothing() {
    let node = Node::always("ok");
    let directory = tempfile::tempdir().expect("a directory");
    let fifo = directory.path().join("access");
    let made = Command::new("mkfifo").arg(&fifo).status().expect("mkfifo");
    assert!(made.success());
    let sections = format!("log: {{ access: {{ target: {} }} }}", fifo.display());
    let mut tandem = Tandem::start(&yaml(node.address, &sections));
    tandem.line(&["WARN", "nobody reads the FIFO"]);
    let mut client = tandem.client();
    assert_eq!(client.ask(GET).status, 200);
    tandem.signal(Signal::USR1);
    tandem.line(&["WARN", "a log is not opened again", "nobody reads the FIFO"]);
    // Whoever comes later has the lines from then on.
    let path = fifo.clone();
    let (lines, line) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let fifo = std::fs::File::open(path).expect("our FIFO");
        BufReader::new(fifo).lines().map_while(Result::ok).try_for_each(|line| lines.send(line))
    });
    let line = eventually("a line", || {
        assert_eq!(client.ask(GET).status, 200);
        line.try_recv().ok()
    });
    assert!(line.contains(" GET "), "{line}");
    tandem.signal(Signal::TERM);
    assert_eq!(tandem.exit().code(), Some(0));
}

#[test]
fn a_log_that_may_not_grow_ends_nothing() {
    const SIZE_MAX: u64 = 4096;
    let node = Node::always("ok");
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("access.log");
    let sections = format!(
        "admin: {{ address: \"127.0.0.1:0\" }}\nlog: {{ access: {{ target: {} }} }}",
        log.display()
    );
    let wrapper = ["prlimit", &format!("--fsize={SIZE_MAX}")];
    let mut tandem = Tandem::start_with(&wrapper, &yaml(node.address, &sections));
    let mut admin = Client::connect(tandem.address(&["admin listening"]));
    let mut client = tandem.client();
    eventually("a lost line", || {
        assert_eq!(client.ask(GET).status, 200);
        let page = admin.ask("GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n").text();
        (!page.contains("\ntandem_access_log_dropped_total 0\n")).then_some(())
    });
    assert_eq!(std::fs::metadata(&log).expect("a log").len(), SIZE_MAX);
    tandem.signal(Signal::TERM);
    assert_eq!(tandem.exit().code(), Some(0));
}

#[test]
fn a_drain_has_a_deadline() {
    let node = Node::always("ok");
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("access.log");
    let sections =
        format!("drain: {{ timeout: 200ms }}\nlog: {{ access: {{ target: {} }} }}", log.display());
    let mut tandem = Tandem::start(&yaml(node.address, &sections));
    let mut busy = tandem.client();
    busy.send(HALF);
    eventually("the request at the node", || node.heard().ends_with('x').then_some(()));
    tandem.signal(Signal::TERM);
    busy.closed();
    assert_eq!(tandem.exit().code(), Some(0));
    tandem.line(&["WARN", "drain deadline"]);
    let line = std::fs::read_to_string(&log).expect("a log");
    assert!(line.trim_end().ends_with(" KD"), "{line}");
}

#[test]
fn a_second_instance_is_told_that_the_address_is_taken() {
    let node = Node::always("ok");
    let first = Tandem::start(&yaml(node.address, ""));
    let address = first.web().to_string();
    let text = yaml(node.address, "").replace("127.0.0.1:0", &address);
    let second = run_file("run", &file(&text));
    assert_eq!(second.status.code(), Some(1));
    let message = stderr(&second);
    assert!(
        message.contains(&format!("listener `web`: bind {address}: Address already in use")),
        "{message}"
    );
    assert_eq!(first.client().ask(GET).status, 200);
    // Nor may the admin address be taken.
    let sections = format!("admin: {{ address: \"{address}\" }}");
    let third = run_file("run", &file(&yaml(node.address, &sections)));
    assert_eq!(third.status.code(), Some(1));
    assert!(stderr(&third).contains("Address already in use"), "{}", stderr(&third));
}

/// The kernel lets two sockets have an address if both are bound before either listens.
#[test]
fn of_two_that_start_together_one_has_the_address() {
    if !can_trace() {
        return;
    }
    let node = Node::always("ok");
    let slowly = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=listen", "-e"];
    let slowly = [&slowly[..], &["inject=listen:delay_enter=100ms"]].concat();
    let tcp = "stream_routes: [{ id: all, upstream_id: app }]";
    for (what, protocol, sections) in
        [("listener `web`", "http", ""), ("listener `web`", "tcp", tcp), ("admin", "http", "")]
    {
        let address = unused_address().to_string();
        let text = yaml(node.address, sections);
        let text = match what {
            "admin" => format!("{text}admin: {{ address: \"{address}\" }}\n"),
            _ => text.replace("127.0.0.1:0\"", &format!("{address}\", protocol: {protocol}")),
        };
        let mut two = [(); 2].map(|()| Tandem::start_with(&slowly, &text));
        let has_ended = |one: &mut Tandem| one.child.try_wait().expect("our child").is_some();
        let ended = eventually("one that ends", || two.iter_mut().position(has_ended));
        two.swap(0, ended);
        let [refused, serving] = &mut two;
        assert_eq!(refused.exit().code(), Some(1));
        refused.line(&[what, &format!("bind {address}: Address already in use")]);
        serving.line(&["INFO", "serving"]);
    }
}

#[test]
fn a_file_that_is_wrong_is_said_to_be_with_its_lines() {
    let address: SocketAddr = ([127, 0, 0, 1], 1).into();
    let text = yaml(address, "limitz: {}\ntimeouts: { head: soon }");
    let wrong = file(&text);
    let path = wrong.path.display();
    for action in ["check", "run"] {
        let output = run_file(action, &wrong);
        assert_eq!(output.status.code(), Some(1), "{action}");
        let message = stderr(&output);
        for place in [format!("{path}:4:"), format!("{path}:5:")] {
            assert!(message.contains(&place), "{action}: {message}");
        }
        assert!(output.stdout.is_empty());
    }
    let unreadable = file("listeners: [\n  {]\n");
    let output = run_file("run", &unreadable);
    assert_eq!(output.status.code(), Some(1));
    let place = format!("{}:2:", unreadable.path.display());
    assert!(stderr(&output).contains(&place), "{}", stderr(&output));
    let missing = run(&["run", "-c", "/nowhere/tandem.yaml"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(stderr(&missing).contains("/nowhere/tandem.yaml"), "{}", stderr(&missing));

    let right = file(&yaml(address, ""));
    let output = run_file("check", &right);
    assert_eq!(output.status.code(), Some(0));
    let expected = format!("{}: valid\n", right.path.display());
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}

#[test]
fn a_file_says_which_route_a_request_takes() {
    let routes = "routes: [{ id: post, uri: /a, methods: [POST], upstream_id: app }, \
                  { id: own, uri: \"/:x\", vars: [[http_x, y], [remote_addr, \"::1\"]], \
                  upstream_id: app }]";
    let text = yaml(([127, 0, 0, 1], 1).into(), "");
    let file = file(&text.replace("routes: [{ id: all, uri: /*, upstream_id: app }]", routes));
    let ask = |arguments: &[&str]| {
        let path = file.path.to_str().expect("a path");
        let output = run(&[&["routes", "match", "-c", path], arguments].concat());
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr(&output),
        )
    };
    let post = "post /a no: the method is not among `methods`\n";
    for (arguments, code, stdout, stderr) in [
        (&["POST", "http://h/a"][..], 0, "post /a yes\nroute post\n".to_owned(), ""),
        (
            &["GET", "http://h/a", "-H", "X: y", "--from", "::1"],
            0,
            format!("{post}own /:x yes\nroute own\n"),
            "",
        ),
        (
            &["GET", "http://h/a", "-H", "X: y"],
            1,
            format!("{post}own /:x no: `vars` do not hold\nno route\n"),
            "",
        ),
        (&["GET", "/a"], 1, String::new(), "tandem: the URL is not `http://HOST/PATH`\n"),
    ] {
        assert_eq!(ask(arguments), (Some(code), stdout, stderr.to_owned()), "{arguments:?}");
    }
}

#[test]
fn a_warning_in_the_log_has_its_place() {
    let node = Node::always("ok");
    let tandem = Tandem::start(&yaml(node.address, "admin: { address: \"0.0.0.0:0\" }"));
    let place = format!("{}:4:19: admin.address: reachable", tandem.file.path.display());
    tandem.line(&["WARN", &place]);
}

#[test]
fn wrong_usage_is_2() {
    for arguments in [&[][..], &["run"], &["serve"], &["check", "-c"], &["bpf"], &["version", "x"]]
    {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let message = stderr(&output);
        let helps = message.contains("Usage:") || message.contains("--help");
        assert!(helps, "{arguments:?}: {message}");
    }
    let version = run(&["version"]);
    assert_eq!(version.status.code(), Some(0));
    let text = String::from_utf8_lossy(&version.stdout).into_owned();
    assert!(text.starts_with("tandem ") && text.contains("kernel ABI"), "{text}");
    assert_eq!(run(&["--help"]).status.code(), Some(0));
}

#[test]
fn bpf_status_asks_the_running_one() {
    let node = Node::always("ok");
    let tandem = Tandem::start(&yaml(node.address, "admin: { address: \"127.0.0.1:0\" }"));
    let admin = tandem.address(&["admin listening"]).to_string();
    let output = run(&["bpf", "status", "--admin", &admin]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(status["features"].is_array(), "{status}");
    drop(tandem);
    let output = run(&["bpf", "status", "--admin", &admin]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&admin), "{}", stderr(&output));
}

/// What takes the capabilities away from whoever has some.
fn powerless() -> &'static [&'static str] {
    match rustix::process::geteuid().is_root() {
        true => &["setpriv", "--bounding-set=-all", "--inh-caps=-all"],
        false => &[],
    }
}

#[test]
fn without_privileges_auto_serves_and_require_does_not() {
    let node = Node::always("ok");
    let mut require =
        Tandem::start_with(powerless(), &yaml(node.address, "kernel: { mode: require }"));
    assert_eq!(require.exit().code(), Some(1));
    require.line(&["tandem: "]);
    assert!(!require.log().iter().any(|line| line.contains("listening")), "{:?}", require.log());

    let auto = Tandem::start_with(powerless(), &yaml(node.address, "kernel: { mode: auto }"));
    assert_eq!(auto.client().ask(GET).status, 200);
    let warnings: Vec<_> = auto.log().into_iter().filter(|line| line.contains(" WARN ")).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    auto.line(&["serving", "kernel=\"userspace\""]);
}

#[test]
fn with_fewer_capabilities_than_programs_take_the_missing_one_is_named() {
    if !rustix::process::geteuid().is_root() || !proxy::kernel::is_built_in() {
        println!("skipped: takes root and the BPF object; `sudo cargo xtask test`");
        return;
    }
    let wrapper = ["setpriv", "--bounding-set=-all,+bpf,+net_admin", "--inh-caps=-all"];
    let node = Node::always("ok");
    let mut tandem = Tandem::start_with(&wrapper, &yaml(node.address, "kernel: { mode: require }"));
    assert_eq!(tandem.exit().code(), Some(1));
    tandem.line(&["tandem: ", "CAP_PERFMON"]);
}

#[test]
fn memory_comes_in_small_pages() {
    let node = Node::always("ok");
    let tandem = Tandem::start(&yaml(node.address, ""));
    tandem.line(&["INFO", "serving"]);
    let status = std::fs::read_to_string(format!("/proc/{}/status", tandem.child.id()));
    assert!(status.expect("a status").contains("\nTHP_enabled:\t0\n"));
}

#[test]
fn few_files_are_few_connections_and_too_few_are_an_error() {
    let node = Node::always("ok");
    let with_files = |files: &str| {
        Tandem::start_with(
            &["prlimit", &format!("--nofile={files}:{files}")],
            &yaml(node.address, ""),
        )
    };
    let mut too_few = with_files("257");
    assert_eq!(too_few.exit().code(), Some(1));
    too_few.line(&["tandem: 257 open files are too few", "ulimit -n", "limits.connections"]);
    let few = with_files("300");
    assert_eq!(few.client().ask(GET).status, 200);
    few.line(&["WARN", "open_files=300 connections=22", "ulimit -n"]);
}

#[test]
fn running_out_of_files_never_stops_accepting() {
    const FILES: usize = 64;
    let node = Node::always("ok");
    let sections = "limits: { connections: 10000 }\nadmin: { address: \"127.0.0.1:0\" }";
    let wrapper = ["prlimit", &format!("--nofile={FILES}:{FILES}")];
    let tandem = Tandem::start_with(&wrapper, &yaml(node.address, sections));
    for _ in 0..2 {
        let mut clients: Vec<_> = (0..2 * FILES).map(|_| tandem.client()).collect();
        for client in &mut clients {
            client.send("GET / HTTP/1.1\r\n");
        }
        tandem.line(&["WARN", "accept", "open-files limit"]);
        drop(clients);
        // Those that were never accepted are served now, and so is who comes next: as soon as there
        // is a file for its node as well.
        eventually("an answer", || (tandem.client().ask(GET).status == 200).then_some(()));
    }
    let mut admin = Client::connect(tandem.address(&["admin listening"]));
    let page = admin.ask("GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n").text();
    let counter = "tandem_listener_accept_errors_total{listener=\"web\",kind=\"process_files\"} ";
    let count = page.lines().find_map(|line| line.strip_prefix(counter)).expect("counted");
    assert!(count.parse::<u64>().expect("a number") > 0);
}

#[test]
fn running_out_of_files_in_a_drain_refuses_nobody_who_has_connected() {
    const FILES: usize = 64;
    let node = Node::always("ok");
    let wrapper = ["prlimit", &format!("--nofile={FILES}:{FILES}")];
    let mut tandem =
        Tandem::start_with(&wrapper, &yaml(node.address, "limits: { connections: 10000 }"));
    let mut accepted: Vec<_> = (0..2 * FILES).map(|_| tandem.client()).collect();
    for client in &mut accepted {
        client.send("GET / HTTP/1.1\r\n");
    }
    tandem.line(&["WARN", "accept", "open-files limit"]);
    let mut waiting = accepted.split_off(FILES);
    tandem.signal(Signal::TERM);
    tandem.line(&["draining"]);
    drop(accepted);
    for client in &mut waiting {
        assert_eq!(client.ask("host: a\r\n\r\n").status, 200);
    }
    assert_eq!(tandem.exit().code(), Some(0));
}

#[test]
fn no_node_is_to_blame_when_there_is_no_file_to_dial_with() {
    const FILES: usize = 64;
    const REQUESTS: usize = 5;
    let nodes = [Node::always("ok"), Node::always("ok")];
    let wrapper = ["prlimit", &format!("--nofile={FILES}:{FILES}")];
    let strict = "type: roundrobin, outlier_detection: \
                  { consecutive_5xx: 1, consecutive_gateway_failure: 1 },";
    for is_express in [true, false] {
        let text = TestProxy::yaml(&[nodes[0].address, nodes[1].address])
            .replace("name: web,", &format!("name: web, express_lane: {is_express},"))
            .replace("type: roundrobin,", strict);
        let sections = "admin: { address: \"127.0.0.1:0\" }\nlimits: { connections: 10000 }\n\
                        kernel: { mode: off }\nworkers: 1\n";
        let mut tandem = Tandem::start_with(&wrapper, &format!("{text}{sections}"));
        let mut admin = Client::connect(tandem.address(&["admin listening"]));
        let mut page = || admin.ask("GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n").text();
        page();
        let mut clients: Vec<_> = (0..2 * FILES).map(|_| tandem.client()).collect();
        tandem.line(&["WARN", "accept", "open-files limit"]);
        for client in &mut clients[..REQUESTS] {
            assert_eq!(client.ask(GET).status, 503);
        }
        // A request is counted when its answer has left.
        for line in [
            format!("tandem_faults_total{{fault=\"out_of_files\"}} {REQUESTS}"),
            format!(
                "tandem_upstream_connects_total{{upstream=\"app\",result=\"out_of_files\"}} {REQUESTS}"
            ),
            "tandem_upstream_connects_total{upstream=\"app\",result=\"refused\"} 0".to_owned(),
            "tandem_upstream_retries_total{upstream=\"app\"} 0".to_owned(),
            format!(
                "tandem_downstream_requests_total{{listener=\"web\",route=\"all\",class=\"5xx\",\
                 end=\"RC\"}} {REQUESTS}"
            ),
        ] {
            eventually(&line, || page().lines().any(|found| found == line).then_some(()));
        }
        let log = tandem.log();
        let told = |words: &str| log.iter().filter(|line| line.contains(words)).count();
        assert_eq!((told("no file to dial with"), told("ejected")), (1, 0), "{log:?}");
        clients.truncate(REQUESTS);
        for client in &mut clients {
            eventually("a file", || (client.ask(GET).status == 200).then_some(()));
        }
        tandem.signal(Signal::TERM);
        assert_eq!(tandem.exit().code(), Some(0));
    }
}

#[test]
fn no_node_is_down_when_there_is_no_file_to_probe_it_with() {
    const FILES: usize = 64;
    let node = Node::always("ok");
    let wrapper = ["prlimit", &format!("--nofile={FILES}:{FILES}")];
    let checked = "type: roundrobin, checks: { active: { healthy: { interval: 0.05 }, \
                   unhealthy: { interval: 0.05, tcp_failures: 1 } } },";
    let sections = "limits: { connections: 10000 }\nadmin: { address: \"127.0.0.1:0\" }";
    let text = yaml(node.address, sections).replace("type: roundrobin,", checked);
    let tandem = Tandem::start_with(&wrapper, &text);
    let mut admin = Client::connect(tandem.address(&["admin listening"]));
    let mut page = || admin.ask("GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n").text();
    page();
    let _clients: Vec<_> = (0..2 * FILES).map(|_| tandem.client()).collect();
    let short = "tandem_calls_total{purpose=\"health_check\",result=\"out_of_files\"} ";
    let page = eventually("a probe without a file", || {
        let page = page();
        let count = page.lines().find_map(|line| line.strip_prefix(short))?;
        (count != "0").then_some(page)
    });
    let up = format!("tandem_upstream_node_up{{upstream=\"app\",node=\"{}\"}} 1", node.address);
    let failed = "tandem_upstream_checks_total{upstream=\"app\",result=\"tcp_failure\"} 0";
    for line in [&*up, failed] {
        assert!(page.lines().any(|found| found == line), "no {line} in\n{page}");
    }
}

#[test]
fn nobody_waits_for_whoever_reads_the_access_log() {
    // Several times what a pipe holds, about 100 bytes each.
    const REQUESTS: usize = 3000;
    let node = Node::always("ok");
    let mut tandem =
        Tandem::start(&yaml(node.address, "log: { access: { target: stdout, format: json } }"));
    let mut client = tandem.client();
    for _ in 0..REQUESTS / 100 {
        client.send(GET.repeat(100));
        for _ in 0..100 {
            assert_eq!(client.response().status, 200);
        }
    }
    drop(client);
    // Its end does not wait either, for longer than what is queued deserves.
    tandem.signal(Signal::TERM);
    assert_eq!(tandem.exit().code(), Some(0));
    // What did get into the pipe is whole lines but for the last.
    let mut text = String::new();
    tandem.child.stdout.take().expect("a pipe").read_to_string(&mut text).expect("text");
    let (lines, _) = text.rsplit_once('\n').expect("lines");
    assert!(lines.lines().count() > 100);
    for line in lines.lines() {
        serde_json::from_str::<serde_json::Value>(line).expect("JSON");
    }
}

#[test]
fn the_log_has_a_level_and_a_format() {
    let node = Node::always("ok");
    let mut json = Tandem::start(&yaml(node.address, "log: { format: json }"));
    json.line(&["serving"]);
    json.signal(Signal::TERM);
    json.exit();
    json.line(&["drained"]);
    for line in json.log() {
        serde_json::from_str::<serde_json::Value>(&line).expect(&line);
    }
    let free = unused_address();
    let text =
        yaml(node.address, "log: { level: error }").replace("127.0.0.1:0", &free.to_string());
    let mut silent = Tandem::start(&text);
    eventually("it listens", || std::net::TcpStream::connect(free).ok());
    silent.signal(Signal::TERM);
    assert_eq!(silent.exit().code(), Some(0));
    assert_eq!(silent.log(), Vec::<String>::new());
}

#[test]
fn the_access_log_may_go_to_stderr() {
    let node = Node::always("ok");
    let tandem = Tandem::start(&yaml(node.address, "log: { access: { target: stderr } }"));
    assert_eq!(tandem.client().ask(GET).status, 200);
    let line = tandem.line(&[" web ", " GET ", " 200 "]);
    assert!(line.ends_with(" express user --"), "{line}");
}

/// Peak of resident memory while one tunnel moves as much as it can at a time, bytes.
fn peak_with_buffers_of(size: &str) -> u64 {
    const BYTES: usize = 256 << 20;
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let node = listener.local_addr().expect("an address");
    let sending = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the proxy connects");
        let piece = vec![7; 1 << 20];
        for _ in 0..BYTES / piece.len() {
            stream.write_all(&piece).expect("the proxy reads");
        }
    });
    let sections = format!(
        "limits: {{ stream_buffer_max: {size} }}\n\
         stream_routes: [{{ id: l4, datapath: user, upstream_id: app }}]"
    );
    let text = yaml(node, &sections).replace(
        "listeners: [",
        "listeners: [{ name: l4, address: \"127.0.0.1:0\", protocol: tcp }, ",
    );
    // Huge pages would make its memory grow by 2 MiB at a time, a small buffer or none.
    let tandem = Tandem::start_with(&["env", "MIMALLOC_ALLOW_THP=0"], &text);
    let client = std::net::TcpStream::connect(tandem.address(&["listening", "l4"]));
    let received = std::io::copy(&mut client.expect("it listens"), &mut std::io::sink());
    assert_eq!(received.expect("all of it"), BYTES as u64);
    sending.join().expect("a node");
    let status = std::fs::read_to_string(format!("/proc/{}/status", tandem.child.id()));
    let status = status.expect("our child");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
    peak.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

#[test]
fn a_copied_tunnel_has_a_buffer_no_larger_than_asked_for() {
    let (small, large) = (peak_with_buffers_of("64KiB"), peak_with_buffers_of("8MiB"));
    assert!(large > small + (1 << 20), "{small} and {large}");
}

/// Names and affinities of the worker threads.
fn workers(tandem: &Tandem) -> Vec<(String, String)> {
    let read = |path: PathBuf| std::fs::read_to_string(path).expect("a thread");
    let mut workers: Vec<_> = tandem
        .proc("task")
        .into_iter()
        .map(|task| (read(task.join("comm")).trim().to_owned(), read(task.join("status"))))
        .filter(|(name, _)| name.starts_with("worker-"))
        .map(|(name, status)| (name, allowed(&status)))
        .collect();
    workers.sort();
    workers
}

fn allowed(status: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.expect("an affinity").trim().to_owned()
}

#[test]
fn there_are_as_many_workers_as_asked_for_pinned_or_not() {
    let node = Node::always("ok");
    let own = allowed(&std::fs::read_to_string("/proc/self/status").expect("ourselves"));
    for pin in [true, false] {
        let sections = format!("workers: {{ count: 3, pin: {pin} }}");
        let tandem = Tandem::start(&yaml(node.address, &sections));
        assert_eq!(tandem.client().ask(GET).status, 200);
        // A thread is there a moment before it has pinned itself.
        let workers = eventually("three workers", || {
            let workers = workers(&tandem);
            let is_done = workers.iter().all(|(_, cpus)| !pin || cpus.parse::<u32>().is_ok());
            (workers.len() == 3 && is_done).then_some(workers)
        });
        for (at, (name, cpus)) in workers.into_iter().enumerate() {
            assert_eq!(name, format!("worker-{at}"));
            assert!(pin || cpus == own, "{cpus}");
        }
    }
}

#[test]
fn a_spliced_tunnel_has_pipes_of_the_size_asked_for() {
    let node = Node::always("ok");
    let sections = "limits: { pipe_size: 128KiB }\nstream_routes: [{ id: l4, datapath: splice, upstream_id: app }]";
    let text = yaml(node.address, sections).replace(
        "listeners: [",
        "listeners: [{ name: l4, address: \"127.0.0.1:0\", protocol: tcp }, ",
    );
    let tandem = Tandem::start(&text);
    let mut client = Client::connect(tandem.address(&["listening", "l4"]));
    assert_eq!(client.ask(GET).text(), "ok");
    let sizes: Vec<_> = tandem
        .proc("fd")
        .into_iter()
        .filter(|fd| {
            std::fs::read_link(fd).is_ok_and(|to| to.to_string_lossy().starts_with("pipe:"))
        })
        .filter_map(|fd| rustix::pipe::fcntl_getpipe_size(std::fs::File::open(fd).ok()?).ok())
        .collect();
    assert!(sizes.contains(&(128 * 1024)), "{sizes:?}");
}

#[test]
fn without_a_target_there_is_no_access_log() {
    let node = Node::always("ok");
    let mut tandem = Tandem::start(&yaml(node.address, ""));
    let mut client = tandem.client();
    for _ in 0..3 {
        assert_eq!(client.ask("GET /secret HTTP/1.1\r\nhost: a\r\n\r\n").status, 200);
    }
    tandem.signal(Signal::TERM);
    assert_eq!(tandem.exit().code(), Some(0));
    tandem.line(&["drained"]);
    let mut text = String::new();
    tandem.child.stdout.take().expect("a pipe").read_to_string(&mut text).expect("text");
    assert_eq!(text, "");
    assert!(!tandem.log().iter().any(|line| line.contains("/secret")), "{:?}", tandem.log());
}

/// The pipe takes 64 KiB, the queue 2 MiB; what is behind that is lost, and nobody waits.
#[test]
fn lines_of_the_access_log_that_nobody_reads_are_dropped_and_counted() {
    const BATCH: usize = 100;
    const BATCHES_MAX: usize = 20;
    /// Of a path, and so less than a line has.
    const LINE_SIZE_MIN: usize = 4000;
    let sections = "admin: { address: \"127.0.0.1:0\" }\nlog: { access: { target: stdout } }";
    let text = yaml(unused_address(), sections).replace("uri: /*", "uri: /only");
    let tandem = Tandem::start(&text);
    let dropped = || {
        let mut admin = Client::connect(tandem.address(&["admin listening"]));
        let page = admin.ask("GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n").text();
        let sample = "tandem_access_log_dropped_total ";
        let line = page.lines().find_map(|line| line.strip_prefix(sample)).expect("the counter");
        line.parse::<f64>().expect("a number")
    };
    assert_eq!(dropped(), 0.0);
    let mut client = tandem.client();
    let lost = (1..=BATCHES_MAX).find_map(|batch| {
        let request = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(LINE_SIZE_MIN));
        client.send(request.repeat(BATCH));
        for _ in 0..BATCH {
            assert_eq!(client.response().status, 404);
        }
        let lost = dropped();
        (lost > 0.0).then_some((batch * BATCH, lost))
    });
    let (asked, lost) = lost.expect("more than the queue holds");
    let kept = (2 << 20) / (2 * LINE_SIZE_MIN);
    assert!(asked > kept && lost < (asked - kept) as f64, "{lost} of {asked}");
}
