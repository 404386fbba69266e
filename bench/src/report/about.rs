//! What a result is worth nothing without: kernel, commit, versions, settings, pinning.

use std::{collections::BTreeMap, fs, process::Command};

use serde::{Deserialize, Serialize};

use crate::{
    contestant::Binaries, machine::NAMESPACE_SETTINGS, measure::Bench, peer::Peer,
    placement::Placement, run::Noise, topology::Network,
};

/// A setting of the whole machine that bears on every figure.
const BPF_JIT: &str = "net/core/bpf_jit_enable";

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct About {
    /// What was asked for, as on the command line.
    pub(crate) command: String,
    /// Seconds since 1970 at the start.
    pub(crate) started_at: u64,
    pub(crate) kernel: String,
    pub(crate) processor: String,
    pub(crate) processors: usize,
    pub(crate) placement: Placement,
    #[serde(alias = "topology")]
    pub(crate) network: Network,
    /// Its veth pairs.
    #[serde(default)]
    pub(crate) links: Vec<String>,
    pub(crate) commit: String,
    pub(crate) versions: BTreeMap<String, String>,
    pub(crate) settings: BTreeMap<String, String>,
    pub(crate) window_seconds: f64,
    pub(crate) rounds: u32,
    /// Why the figures are not to be quoted, if they are not.
    pub(crate) not_quotable: Option<String>,
}

impl About {
    pub(crate) fn collect(bench: &Bench, rounds: u32, noise: Noise) -> anyhow::Result<Self> {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let not_quotable = match noise {
            Noise::Refuse if rounds >= 5 => None,
            Noise::Refuse => Some(format!("{rounds} rounds of the five that a figure needs")),
            Noise::Tolerate => Some("measured whatever else the machine did".into()),
        };
        Ok(Self {
            command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
            started_at: since_epoch.map_or(0, |elapsed| elapsed.as_secs()),
            kernel: read("/proc/sys/kernel/osrelease"),
            processor: processor(),
            processors: bench.processors,
            placement: bench.placement.clone(),
            network: bench.topology.network,
            links: bench.topology.links()?,
            commit: commit(),
            versions: versions(&bench.binaries),
            settings: NAMESPACE_SETTINGS
                .iter()
                .chain([&BPF_JIT])
                .map(|name| ((*name).to_owned(), read(&format!("/proc/sys/{name}"))))
                .collect(),
            window_seconds: bench.window.as_secs_f64(),
            rounds,
            not_quotable,
        })
    }
}

impl About {
    /// What stands at the head of a report, a fact to a line.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            format!("command: bench {}", self.command),
            format!(
                "{} rounds of {} s, interleaved; medians (min–max); ratios pair by pair within a \
                 round",
                self.rounds, self.window_seconds
            ),
            format!(
                "kernel {}, {} × {}, {}",
                self.kernel, self.processors, self.processor, self.placement
            ),
            format!("network: {}", self.network),
        ];
        lines.extend(self.links.iter().cloned());
        lines.push(format!("commit {}", self.commit));
        lines.extend(self.versions.iter().map(|(name, version)| format!("{name}: {version}")));
        let settings = self.settings.iter().map(|(name, value)| format!("{name} = {value}"));
        lines.push(settings.collect::<Vec<_>>().join(", "));
        lines
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path)
        .map_or_else(|error| error.to_string(), |text| text.trim().replace('\t', " "))
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or_else(|| "unknown".into(), |(_, name)| name.to_owned())
}

/// The commit of the working directory, `+` if it has changes.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let Some(head) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".into() };
    let changes = git(&["status", "--porcelain", "--untracked-files=no"]).unwrap_or_default();
    if changes.is_empty() { head } else { format!("{head}+") }
}

fn versions(binaries: &Binaries) -> BTreeMap<String, String> {
    let mut versions = BTreeMap::from([("tandem".to_owned(), binaries.tandem_version.clone())]);
    for peer in Peer::PROGRAMS {
        let version = binaries.peers.version(peer).unwrap_or_else(|| "not installed".into());
        versions.insert(peer.to_string(), version);
    }
    versions
}
