//! Who is measured, and how each is asked to do the same.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Instant};

use anyhow::Context as _;
use tempfile::TempDir;

use crate::{
    peer::{self, Peer},
    placement::Placement,
    process::{LISTEN_MAX, Program, Site},
    scenario::Carrier,
    tandem::{self, Mode},
    topology::{Role, Topology},
};

/// The key that `key-auth` knows in every scenario that has it.
pub(crate) const KEY: &str = "bench-key";

/// What a contestant has to do.
#[derive(Debug, Clone)]
pub(crate) enum Service {
    /// Route every request to the nodes, round robin.
    Http { nodes: Vec<SocketAddr>, auth: Auth },
    /// Carry every connection to the node.
    Stream { node: SocketAddr },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Auth {
    Open,
    /// Only with [`KEY`] in the field `apikey`; otherwise 401.
    Key,
}

impl Service {
    pub(crate) fn nodes(&self) -> &[SocketAddr] {
        match self {
            Self::Http { nodes, .. } => nodes,
            Self::Stream { node } => std::slice::from_ref(node),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contestant {
    /// No proxy: the load goes straight to the node.
    Direct,
    Peer(Peer),
    Tandem(Mode),
}

impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("direct"),
            Self::Peer(peer) => peer.fmt(f),
            Self::Tandem(mode) => mode.fmt(f),
        }
    }
}

/// A contestant that serves. Dropping it ends its process and removes its directory.
pub(crate) struct Started {
    /// Where the load goes.
    pub(crate) target: SocketAddr,
    /// When the process was started.
    pub(crate) since: Instant,
    /// Where Tandem's metrics are.
    pub(crate) admin: Option<SocketAddr>,
    /// Tandem's configuration, where it is and what it said at first.
    config: Option<(PathBuf, String)>,
    program: Option<Program>,
    _directory: TempDir,
}

impl Started {
    pub(crate) fn pid(&self) -> Option<u32> {
        self.program.as_ref().map(Program::pid)
    }

    /// Gives Tandem rules by which it does the same.
    pub(crate) fn change_rules(&self, version: u32) -> anyhow::Result<()> {
        let (file, text) = self.config.as_ref().context("only Tandem's rules are changed")?;
        let aside = file.with_extension("aside");
        std::fs::write(&aside, tandem::changed(text, version))?;
        Ok(std::fs::rename(aside, file)?)
    }
}

/// The binaries that a run measures.
#[derive(Debug, Clone)]
pub(crate) struct Binaries {
    pub(crate) tandem: PathBuf,
    /// What the binary says about itself.
    pub(crate) tandem_version: String,
    pub(crate) peers: peer::Found,
}

impl Contestant {
    /// Why this contestant cannot take part; its row says so.
    pub(crate) fn absence(self, carrier: Carrier, binaries: &Binaries) -> Option<String> {
        match self {
            Self::Direct => {
                (carrier.nodes() > 1).then(|| "a load without a proxy has one node".into())
            }
            Self::Peer(peer) => binaries.peers.absence(peer, carrier),
            Self::Tandem(_) if !binaries.tandem.exists() => {
                Some(format!("no binary at {}", binaries.tandem.display()))
            }
            Self::Tandem(mode) => tandem::absence(mode, &binaries.tandem_version),
        }
    }

    /// Workers of the proxy; each can use a processor.
    pub(crate) const fn workers(self) -> usize {
        match self {
            Self::Direct | Self::Peer(_) => 1,
            Self::Tandem(mode) => mode.workers,
        }
    }

    /// Who connects to the nodes.
    pub(crate) const fn asker(self) -> Role {
        match self {
            Self::Direct => Role::Client,
            Self::Peer(_) | Self::Tandem(_) => Role::Proxy,
        }
    }

    /// Starts the contestant and waits until it listens. To be called where the client is.
    pub(crate) fn start(
        self,
        service: &Service,
        binaries: &Binaries,
        placement: &Placement,
        topology: &Topology,
    ) -> anyhow::Result<Started> {
        let directory = tempfile::Builder::new().prefix("tandem-bench-").tempdir()?;
        let first = *service.nodes().first().context("a service has a node")?;
        let address = topology.free_address()?;
        let (command, admin, config) = match self {
            Self::Direct => {
                return Ok(Started {
                    target: first,
                    since: Instant::now(),
                    admin: None,
                    config: None,
                    program: None,
                    _directory: directory,
                });
            }
            Self::Peer(peer) => {
                (binaries.peers.command(peer, service, address, directory.path())?, None, None)
            }
            Self::Tandem(mode) => {
                let admin = topology.free_address()?;
                let file = directory.path().join("tandem.yaml");
                let config = tandem::config(mode, topology.network, service, address, admin);
                std::fs::write(&file, &config)?;
                let command = tandem::command(&binaries.tandem, &file);
                (command, Some(admin), Some((file, config)))
            }
        };
        let log = directory.path().join("log");
        let since = Instant::now();
        let namespace = topology.namespace(Role::Proxy);
        let site = Site { cpus: &placement.proxy, namespace: namespace.as_deref() };
        let mut program = Program::start(&command, site, &log)?;
        program.wait_until_listening(address, since, LISTEN_MAX).with_context(|| {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            format!("{self}: {}", log.trim())
        })?;
        if let Some(admin) = admin {
            program.wait_until_listening(admin, since, LISTEN_MAX)?;
        }
        let (target, program) = (address, Some(program));
        Ok(Started { target, since, admin, config, program, _directory: directory })
    }
}
