//! Where the packets go: over loopback, or over veth pairs between network namespaces of this run.
//!
//! The machine's own namespace gets neither addresses nor interfaces. Namespaces and pairs are made
//! by `ip` and keep the defaults of the kernel, but for the settings that the report names. Threads
//! and programs enter a namespace before they make their first socket.

use std::{
    fmt,
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
    low_level::emulate_default_handler,
};

use crate::machine::NAMESPACE_SETTINGS;

/// Where `ip netns` keeps namespaces by name (ip-netns(8)).
const DIRECTORY: &str = "/run/netns";

/// What stands before the process id in the names of ours.
const PREFIX: &str = "tandem-bench-";

/// What separates client, proxy and nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Network {
    /// Everything on loopback.
    Loopback,
    /// The client in a network namespace of its own, proxy and nodes together in another.
    Client,
    /// Client, proxy and nodes each in a network namespace of their own.
    Three,
}

/// Who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Proxy,
    Nodes,
}

/// A veth pair: who connects, and who listens. Each interface is named after who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pair {
    connecting: (Role, Ipv4Addr),
    listening: (Role, Ipv4Addr),
}

// Addresses of RFC 2544, which are for benchmarks.
const CLIENT_TO_PROXY: Pair = Pair {
    connecting: (Role::Client, Ipv4Addr::new(198, 18, 0, 2)),
    listening: (Role::Proxy, Ipv4Addr::new(198, 18, 0, 1)),
};
const PROXY_TO_NODES: Pair = Pair {
    connecting: (Role::Proxy, Ipv4Addr::new(198, 18, 1, 2)),
    listening: (Role::Nodes, Ipv4Addr::new(198, 18, 1, 1)),
};
/// For the load without a proxy: one hop, through nobody's namespace.
const CLIENT_TO_NODES: Pair = Pair {
    connecting: (Role::Client, Ipv4Addr::new(198, 18, 2, 2)),
    listening: (Role::Nodes, Ipv4Addr::new(198, 18, 2, 1)),
};

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loopback => "everything on loopback",
            Self::Client => {
                "client in a network namespace of its own (veth), node beside the proxy"
            }
            Self::Three => "client, proxy and node in three network namespaces (veth)",
        })
    }
}

impl Network {
    /// As the command line calls it.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Client => "client",
            Self::Three => "three",
        }
    }

    /// Where a proxy listens.
    pub(crate) const fn proxy_address(self) -> Ipv4Addr {
        match self {
            Self::Loopback => Ipv4Addr::LOCALHOST,
            Self::Client | Self::Three => CLIENT_TO_PROXY.listening.1,
        }
    }

    /// Where the nodes listen that `asker` connects to.
    pub(crate) const fn nodes_address(self, asker: Role) -> Ipv4Addr {
        match (self, asker) {
            (Self::Loopback, _) => Ipv4Addr::LOCALHOST,
            (Self::Client, _) => CLIENT_TO_PROXY.listening.1,
            (Self::Three, Role::Client) => CLIENT_TO_NODES.listening.1,
            (Self::Three, Role::Proxy | Role::Nodes) => PROXY_TO_NODES.listening.1,
        }
    }

    /// The interface of the proxy by which the client's packets come in.
    pub(crate) const fn downstream_interface(self) -> &'static str {
        match self {
            Self::Loopback => "lo",
            Self::Client | Self::Three => Role::Client.label(),
        }
    }

    /// Who has a namespace.
    const fn inhabitants(self) -> &'static [Role] {
        match self {
            Self::Loopback => &[],
            Self::Client => &[Role::Client, Role::Proxy],
            Self::Three => &[Role::Client, Role::Proxy, Role::Nodes],
        }
    }

    const fn pairs(self) -> &'static [Pair] {
        match self {
            Self::Loopback => &[],
            Self::Client => &[CLIENT_TO_PROXY],
            Self::Three => &[CLIENT_TO_PROXY, PROXY_TO_NODES, CLIENT_TO_NODES],
        }
    }

    /// In whose namespace somebody is.
    const fn home(self, role: Role) -> Role {
        match (self, role) {
            (Self::Client, Role::Nodes) => Role::Proxy,
            (Self::Loopback | Self::Client | Self::Three, role) => role,
        }
    }
}

impl Role {
    const fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Proxy => "proxy",
            Self::Nodes => "nodes",
        }
    }
}

/// The namespaces of a run; dropping it removes them.
pub(crate) struct Topology {
    pub(crate) network: Network,
    namespaces: Vec<Namespace>,
}

impl Topology {
    /// Makes what `network` needs. Takes root and `ip`, but for loopback.
    pub(crate) fn build(network: Network) -> anyhow::Result<Self> {
        let mut topology = Self { network, namespaces: Vec::new() };
        if network.inhabitants().is_empty() {
            return Ok(topology);
        }
        if let Some(reason) = absence() {
            bail!("network `{}`: {reason}", network.label());
        }
        remove_namespaces(|owner| owner == std::process::id() || !is_alive(owner));
        remove_own_on_signals()?;
        for role in network.inhabitants() {
            topology.namespaces.push(Namespace::add(*role)?);
        }
        for pair in network.pairs() {
            join(pair)?;
        }
        for role in network.inhabitants() {
            topology.run(*role, copy_settings()?)?;
        }
        Ok(topology)
    }

    /// The file of the namespace that somebody is in; `None`: the machine's own.
    pub(crate) fn namespace(&self, role: Role) -> Option<PathBuf> {
        let home = self.network.home(role);
        let has_one = self.namespaces.iter().any(|namespace| namespace.inhabitant == home);
        has_one.then(|| Path::new(DIRECTORY).join(Namespace::name(home)))
    }

    /// Runs `in_it` where `role` is. Threads and programs that it starts are there too, unless they
    /// enter another namespace.
    pub(crate) fn run<T: Send>(
        &self,
        role: Role,
        in_it: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        let Some(namespace) = self.namespace(role) else { return in_it() };
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                enter(&namespace)?;
                in_it()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// An address of the proxy that is free now. Somebody may take it before it is used; then the
    /// start fails.
    pub(crate) fn free_address(&self) -> anyhow::Result<SocketAddr> {
        self.run(Role::Proxy, || free_address(self.network.proxy_address()))
    }

    /// What a report has to say about the veth pairs, one to a line.
    pub(crate) fn links(&self) -> anyhow::Result<Vec<String>> {
        self.network.pairs().iter().map(link).collect()
    }
}

/// Makes a pair between two namespaces.
fn join(pair: &Pair) -> anyhow::Result<()> {
    let Pair { connecting: (here, near), listening: (there, far) } = *pair;
    ip(&format!(
        "-n {} link add {} type veth peer name {} netns {}",
        Namespace::name(here),
        there.label(),
        here.label(),
        Namespace::name(there)
    ))?;
    for (inhabitant, neighbour, address) in [(here, there, near), (there, here, far)] {
        let (name, interface) = (Namespace::name(inhabitant), neighbour.label());
        ip(&format!("-n {name} address add {address}/24 dev {interface}"))?;
        ip(&format!("-n {name} link set {interface} up"))?;
    }
    Ok(())
}

/// What is missing for any network but loopback.
pub(crate) fn absence() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("making network namespaces needs root");
    }
    let found = Command::new("ip").arg("-V").output();
    let is_there = found.is_ok_and(|output| output.status.success());
    (!is_there).then_some("`ip` is not installed; apt-get install iproute2")
}

/// Moves the calling thread, and with it what it starts from now on, into the namespace of a file.
pub(crate) fn enter(namespace: &Path) -> anyhow::Result<()> {
    let file = File::open(namespace)
        .with_context(|| format!("network namespace {}", namespace.display()))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("enter network namespace {}", namespace.display()))
}

/// A free port of an address of the namespace that the calling thread is in.
pub(crate) fn free_address(address: Ipv4Addr) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((address, 0)).with_context(|| format!("bind {address}"))?;
    Ok(listener.local_addr()?)
}

/// A network namespace with its own loopback; dropping it removes it.
struct Namespace {
    inhabitant: Role,
}

impl Namespace {
    fn add(inhabitant: Role) -> anyhow::Result<Self> {
        let name = Self::name(inhabitant);
        ip(&format!("netns add {name}"))?;
        let namespace = Self { inhabitant };
        ip(&format!("-n {name} link set lo up"))?;
        Ok(namespace)
    }

    fn name(inhabitant: Role) -> String {
        format!("{PREFIX}{}-{}", std::process::id(), inhabitant.label())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // If it cannot be removed now, the next run does it.
        let _ = ip(&format!("netns del {}", Self::name(self.inhabitant)));
    }
}

/// The process whose run made the namespace of that name, if it is one of ours.
fn owner(name: &str) -> Option<u32> {
    let (pid, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
    pid.parse().ok()
}

fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Removes namespaces of runs by process, as far as it can be done.
fn remove_namespaces(is_meant: impl Fn(u32) -> bool) {
    let Ok(entries) = fs::read_dir(DIRECTORY) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if let Some(name) = name.to_str().filter(|name| owner(name).is_some_and(&is_meant)) {
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

/// From the first call on, signals that end this process remove its namespaces before they do.
fn remove_own_on_signals() -> anyhow::Result<()> {
    static IS_WATCHED: AtomicBool = AtomicBool::new(false);
    if IS_WATCHED.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    let watch = move || {
        for signal in signals.forever() {
            remove_namespaces(|owner| owner == std::process::id());
            let _ = emulate_default_handler(signal);
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(watch)?;
    Ok(())
}

/// What gives a namespace the settings of the one that the calling thread is in.
fn copy_settings() -> anyhow::Result<impl FnOnce() -> anyhow::Result<()> + Send> {
    let mut settings = Vec::new();
    for name in NAMESPACE_SETTINGS {
        let file = format!("/proc/sys/{name}");
        let value = fs::read_to_string(&file).with_context(|| format!("read {file}"))?;
        settings.push((file, value));
    }
    Ok(move || {
        for (file, value) in settings {
            if fs::read_to_string(&file).is_ok_and(|found| found != value) {
                fs::write(&file, &value).with_context(|| format!("write {file}"))?;
            }
        }
        Ok(())
    })
}

/// The fields of `ip -json link show` that are reported.
#[derive(Deserialize)]
struct LinkFacts {
    mtu: u32,
    qdisc: String,
    txqlen: u32,
    num_tx_queues: u32,
    gso_max_size: u32,
}

fn link(pair: &Pair) -> anyhow::Result<String> {
    let [here, there] = [pair.connecting.0, pair.listening.0];
    let name = Namespace::name(here);
    let text = ip(&format!("-n {name} -details -json link show dev {}", there.label()))?;
    let facts: Vec<LinkFacts> = serde_json::from_str(&text).context("ip -json link show")?;
    let LinkFacts { mtu, qdisc, txqlen, num_tx_queues, gso_max_size } =
        facts.first().context("ip names no link")?;
    // The driver's default (VETH_FEATURES, seen by `ethtool -k` on 6.18), which `ip` does not show; it
    // is our own interface, and nobody has changed it.
    Ok(format!(
        "veth {}–{}: mtu {mtu}, qdisc {qdisc}, queue length {txqlen}, {num_tx_queues} transmit queues, \
         segmentation offload up to {gso_max_size}, checksum offload on (no checksum is computed)",
        here.label(),
        there.label()
    ))
}

/// Runs `ip` with arguments separated by blanks and returns what it says.
fn ip(arguments: &str) -> anyhow::Result<String> {
    let output = Command::new("ip").args(arguments.split_whitespace()).output();
    let output = output.with_context(|| format!("start `ip {arguments}`"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {arguments}: {}", error.trim());
    Ok(String::from_utf8(output.stdout)?)
}

#[cfg(test)]
mod tests;
