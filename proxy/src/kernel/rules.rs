//! What `ingress` and `worker` are told: the guard's prefixes, the listeners, the numbers.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use aya::{
    Ebpf,
    maps::{HashMap, LpmTrie, Map, lpm_trie::Key},
};
use ipnet::IpNet;
use proxy_common::{
    addr::Destination,
    globals,
    guard::Rule,
    limits::{FLOOD_TURNOVER_S, LISTENERS_MAX, PREFIXES_MAX, SOURCES_MAX, WORKERS_MAX},
    names,
    steering::Listener,
};

use crate::{
    config,
    guard::{Pace, PrefixSet},
};

/// Everything the programs know from the configuration, checked against their limits.
#[derive(Debug)]
pub(super) struct Rules {
    listeners: Vec<(Destination, Listener)>,
    prefixes: Vec<(IpNet, Rule)>,
    pace: Option<Pace>,
    workers: u32,
}

impl Rules {
    pub(super) fn new(
        guard: &config::Guard,
        listeners: &[SocketAddr],
        workers: usize,
    ) -> anyhow::Result<Self> {
        let workers = u32::try_from(workers)?;
        ensure!(workers <= WORKERS_MAX, "{workers} workers, the kernel half steers {WORKERS_MAX}");
        ensure!(
            listeners.len() <= LISTENERS_MAX as usize,
            "{} listeners, the kernel half knows {LISTENERS_MAX}",
            listeners.len(),
        );
        let listeners = destinations(listeners);
        let prefixes = compile(guard);
        ensure!(
            prefixes.len() <= PREFIXES_MAX as usize,
            "{} prefixes in `kernel.guard`, the kernel half holds {PREFIXES_MAX}",
            prefixes.len(),
        );
        Ok(Self { listeners, prefixes, pace: guard.connection_rate.map(Pace::from), workers })
    }

    /// The constants of the run, see `proxy_common::globals`.
    pub(super) fn globals(&self, processors: usize) -> Globals {
        let nanos = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let processors = u64::try_from(processors).unwrap_or(u64::MAX).max(1);
        Globals {
            port_filter: self.listeners.iter().fold(0, |filter, (destination, _)| {
                filter | globals::port_bit(destination.port_be())
            }),
            rules: self.prefixes.len() as u32,
            rate_interval_ns: self.pace.map_or(0, |pace| nanos(pace.interval).max(1)),
            rate_tolerance_ns: self.pace.map_or(0, |pace| nanos(pace.tolerance)),
            flood_sources_max: (u64::from(SOURCES_MAX / FLOOD_TURNOVER_S) / processors).max(1),
            workers: self.workers.max(1),
        }
    }

    /// Buckets to make room for.
    pub(super) fn sources_max(&self) -> u32 {
        self.pace.map_or(1, |_| SOURCES_MAX)
    }

    /// Writes the maps; before anything is attached, so no program sees half of it.
    pub(super) fn write(&self, ebpf: &mut Ebpf) -> anyhow::Result<()> {
        let mut listeners: HashMap<_, Destination, Listener> =
            open(ebpf, names::LISTENER_BY_DST)?.try_into()?;
        for (destination, listener) in &self.listeners {
            listeners.insert(destination, listener, 0).context("add a listener to the map")?;
        }
        for (prefix, rule) in &self.prefixes {
            add(ebpf, *prefix, *rule).with_context(|| format!("add prefix {prefix} to the map"))?;
        }
        Ok(())
    }
}

fn add(ebpf: &mut Ebpf, prefix: IpNet, rule: Rule) -> anyhow::Result<()> {
    let length = u32::from(prefix.prefix_len());
    match prefix {
        IpNet::V4(v4) => {
            let mut map = LpmTrie::try_from(open(ebpf, names::RULE_BY_PREFIX4)?)?;
            map.insert(&Key::new(length, v4.network().octets()), rule, 0)?;
        }
        IpNet::V6(v6) => {
            let mut map = LpmTrie::try_from(open(ebpf, names::RULE_BY_PREFIX6)?)?;
            map.insert(&Key::new(length, v6.network().octets()), rule, 0)?;
        }
    }
    Ok(())
}

/// Values of the globals, named as in `proxy_common::globals`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Globals {
    pub(super) port_filter: u64,
    pub(super) rules: u32,
    pub(super) rate_interval_ns: u64,
    pub(super) rate_tolerance_ns: u64,
    pub(super) flood_sources_max: u64,
    pub(super) workers: u32,
}

/// Where packets for the listeners go. A listener on every IPv6 address gets IPv4 connections too,
/// so it stands under both wildcards.
fn destinations(listeners: &[SocketAddr]) -> Vec<(Destination, Listener)> {
    let mut destinations = Vec::with_capacity(listeners.len());
    for (listener, n) in listeners.iter().zip(0..) {
        destinations.push((Destination::from(*listener), Listener::new(n)));
        if listener.is_ipv6() && listener.ip().is_unspecified() {
            let v4 = SocketAddr::from(([0; 4], listener.port()));
            destinations.push((Destination::from(v4), Listener::new(n)));
        }
    }
    destinations
}

/// The guard's prefixes for a search of the longest one: a denied prefix that lies in an allowed one
/// is left out, and where an allowed one lies in a denied one, it is the longer.
fn compile(guard: &config::Guard) -> Vec<(IpNet, Rule)> {
    let allow: PrefixSet = guard.allow.iter().copied().collect();
    let deny: PrefixSet = guard.deny.iter().copied().collect();
    let denied: Vec<_> = deny.iter().filter(|prefix| !allow.covers(*prefix)).collect();
    if denied.is_empty() {
        return Vec::new();
    }
    let allowed = allow.iter().map(|prefix| (prefix, Rule::ALLOW));
    allowed.chain(denied.into_iter().map(|prefix| (prefix, Rule::DENY))).collect()
}

fn open<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut Map> {
    ebpf.map_mut(name).with_context(|| format!("the object has no map `{name}`"))
}

#[cfg(test)]
mod tests;
