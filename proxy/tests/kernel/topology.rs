//! Network namespaces for tests. Their names carry the process id; dropping one removes it.

use std::{
    fs::File,
    net::UdpSocket,
    os::fd::{AsFd as _, AsRawFd as _},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace with its own loopback.
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        static CREATED: AtomicU32 = AtomicU32::new(0);
        let n = CREATED.fetch_add(1, Ordering::Relaxed);
        let namespace = Self { name: format!("tandem-{}-{n}", std::process::id()) };
        ip(&format!("netns add {}", namespace.name));
        namespace.ip("link set lo up");
        namespace
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` in the namespace and returns what it says.
    #[track_caller]
    pub(crate) fn ip(&self, arguments: &str) -> String {
        ip(&format!("-n {} {arguments}", self.name))
    }

    /// Runs a closure on a thread of this namespace. Sockets and BPF links made there stay in it.
    #[track_caller]
    pub(crate) fn run<T: Send>(&self, in_it: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/run/netns/{}", self.name)).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                in_it()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// ```text
/// downstream ── veth ── proxy
///  10.1.0.2            10.1.0.1
///  fd00:1::2           fd00:1::1
/// ```
/// Both ends are named `veth`. There are two downstream addresses of each family: `.2` and `.3`.
pub(crate) struct Pair {
    pub(crate) downstream: Namespace,
    pub(crate) proxy: Namespace,
}

impl Pair {
    pub(crate) fn new() -> Self {
        let pair = Self { downstream: Namespace::new(), proxy: Namespace::new() };
        let peer = pair.proxy.name();
        pair.downstream.ip(&format!("link add veth type veth peer name veth netns {peer}"));
        for (namespace, hosts) in [(&pair.downstream, &[2, 3][..]), (&pair.proxy, &[1])] {
            for host in hosts {
                namespace.ip(&format!("address add 10.1.0.{host}/24 dev veth"));
                namespace.ip(&format!("address add fd00:1::{host}/64 dev veth nodad"));
            }
            namespace.ip("link set veth up");
        }
        pair
    }
}

/// ```text
/// downstream ── veth ── proxy ── upstream ── upstream
///  10.1.0.2            10.1.0.1  10.2.0.1    10.2.0.2
///  fd00:1::2           fd00:1::1 fd00:2::1   fd00:2::2
/// ```
/// As [`Pair`], with a node's side: the proxy's interface there is named `upstream`, the other end
/// `veth`. Everything is as the kernel makes it by default, 1500 bytes to a packet.
pub(crate) struct Chain {
    pub(crate) downstream: Namespace,
    pub(crate) proxy: Namespace,
    pub(crate) upstream: Namespace,
}

impl Chain {
    pub(crate) fn new() -> Self {
        let Pair { downstream, proxy } = Pair::new();
        let upstream = Namespace::new();
        let peer = proxy.name();
        upstream.ip(&format!("link add veth type veth peer name upstream netns {peer}"));
        for (namespace, interface, host) in [(&upstream, "veth", 2), (&proxy, "upstream", 1)] {
            namespace.ip(&format!("address add 10.2.0.{host}/24 dev {interface}"));
            namespace.ip(&format!("address add fd00:2::{host}/64 dev {interface} nodad"));
            namespace.ip(&format!("link set {interface} up"));
        }
        Self { downstream, proxy, upstream }
    }

    /// The proxy's interfaces merge packets that follow one another, as those of most hosts do.
    pub(crate) fn merge_packets(&self) {
        self.proxy.run(|| ["veth", "upstream"].map(enable_gro));
    }
}

/// `ethtool -K INTERFACE gro on`, of which fewer machines have the program than the call.
#[track_caller]
fn enable_gro(interface: &str) {
    /// Set generic receive offload, of linux/ethtool.h: the command and its value.
    const ETHTOOL_SGRO: u32 = 0x2c;
    let mut value = [ETHTOOL_SGRO, 1];
    // SAFETY: all of it are integers, or pointers that may be null.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: reads `request` and the two words that it points to.
    let result = unsafe { libc::ioctl(fd, libc::SIOCETHTOOL, &raw mut request) };
    assert_eq!(result, 0, "gro on {interface}: {}", std::io::Error::last_os_error());
}

/// Runs `ip` with arguments separated by blanks and returns what it says.
#[track_caller]
pub(crate) fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {error}");
    String::from_utf8(output.stdout).unwrap()
}
