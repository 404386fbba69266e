//! Neighbours whose sockets may have next to no memory for what they have not read.

use std::{
    fs,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use super::{
    bounds::until_at_rest,
    peer::{Waiting, Wire, ask},
    storm::assert_at_rest,
    *,
};
use crate::skip;

const LIMIT: &str = "memory.kmem.tcp.limit_in_bytes";
const SIZE: usize = 4 << 20;
/// More than a node reads of a head.
const LARGE: usize = 8 << 10;
/// Less than a window, and more than the kernel takes of one message: who has not even that much cannot
/// send large ones.
const LITTLE: usize = 768 << 10;

/// A memory cgroup for threads and for the sockets that they open or accept: of version 1, where it is
/// the threads that are in one.
struct Squeezed(PathBuf);

impl Squeezed {
    /// `None`: there is no such thing here.
    fn new() -> Option<Squeezed> {
        static CREATED: AtomicU32 = AtomicU32::new(0);
        let cgroups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let own = cgroups.lines().find_map(|line| line.split_once(":memory:"))?.1;
        let number = CREATED.fetch_add(1, Ordering::Relaxed);
        let name = format!("tandem-{}-{number}", std::process::id());
        let parent = Path::new("/sys/fs/cgroup/memory").join(own.trim_start_matches('/'));
        let squeezed = Squeezed(parent.join(name));
        fs::create_dir(&squeezed.0).ok()?;
        // Only what is opened under a limit counts.
        fs::write(squeezed.0.join(LIMIT), (1_usize << 30).to_string()).ok()?;
        Some(squeezed)
    }

    fn squeeze(&self) {
        fs::write(self.0.join(LIMIT), LITTLE.to_string()).expect("a limit");
    }

    /// On a thread of it, as are those that it starts.
    fn run<T: Send>(&self, in_it: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                // 0 is whoever writes it.
                fs::write(self.0.join("tasks"), "0").expect("a cgroup");
                in_it()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Whether all there was has been used.
    fn is_used_up(&self) -> bool {
        let used = self.0.join("memory.kmem.tcp.max_usage_in_bytes");
        let used = fs::read_to_string(used).expect("a number");
        used.trim().parse::<usize>().expect("a number") >= LITTLE
    }
}

impl Drop for Squeezed {
    fn drop(&mut self) {
        let tasks = fs::read_to_string(self.0.join("tasks")).unwrap_or_default();
        for task in tasks.lines() {
            // It may have ended meanwhile.
            drop(fs::write(self.0.join("../tasks"), task));
        }
        drop(fs::remove_dir(&self.0));
    }
}

fn squeezed() -> Option<Squeezed> {
    if skip_without_privileges() {
        return None;
    }
    let squeezed = Squeezed::new();
    if squeezed.is_none() {
        let _ = skip("needs the memory controller of cgroups of version 1");
    }
    squeezed
}

#[test]
fn a_client_without_memory_gets_its_response_by_tcp() {
    for has_express_lane in [true, false] {
        let Some(squeezed) = squeezed() else { return };
        let listener = format!("name: web, {ANY_PORT}, express_lane: {has_express_lane}");
        let node = Node::start("127.0.0.1:0");
        let proxy = TestProxy::start(&yaml(LEGS, &[&listener], node.address, ""));
        let delivered = Counted::delivered(&proxy);
        let by_tcp = Counted::start(&proxy, "local", "held_up");
        let mut peer = squeezed.run(|| Peer::connect(proxy.address("web")));
        squeezed.squeeze();
        warm_up(&mut peer, &delivered);
        peer.send(ask(SIZE).as_bytes()).expect("sent");
        until_at_rest(&node);
        assert!(squeezed.is_used_up(), "it had memory");
        peer.answer(SIZE).unwrap_or_else(|error| panic!("{listener}: {error}"));
        peer.get(100).expect("the next one");
        assert!(by_tcp.since() > 0, "{listener}");
        assert!(log_of(&proxy, &format!(" /give/{SIZE} "), 1)[0].ends_with(" --"));
        assert_at_rest(&proxy);
    }
}

/// A node that begins to read a body when all of it that will come has come.
struct Late {
    inner: Waiting,
    is_new: bool,
}

impl Read for Late {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let is_body = into.len() > LARGE;
        if is_body && self.is_new {
            thread::park_timeout(Duration::from_millis(300));
        }
        self.is_new = !is_body;
        self.inner.read(into)
    }
}

impl Write for Late {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Wire for Late {
    fn socket(&self) -> &TcpStream {
        self.inner.socket()
    }
}

#[test]
fn a_node_without_memory_gets_its_request_by_tcp() {
    let Some(squeezed) = squeezed() else { return };
    let node = squeezed.run(|| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        Node::over(listener, |stream| Late { inner: Waiting(stream), is_new: true })
    });
    let proxy = proxy(LEGS, node.address);
    let delivered = Counted::delivered(&proxy);
    let by_tcp = Counted::start(&proxy, "local", "held_up");
    let mut peer = Peer::connect(proxy.address("web"));
    warm_up(&mut peer, &delivered);
    squeezed.squeeze();
    for _ in 0..5 {
        peer.post(SIZE).expect("every byte");
    }
    assert!(squeezed.is_used_up(), "it had memory");
    assert!(by_tcp.since() > 0);
    assert_at_rest(&proxy);
}
