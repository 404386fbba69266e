//! Which processors the proxy under test has, and which the load and the nodes have.

use std::{fmt, io, str::FromStr};

use anyhow::ensure;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::{Deserialize, Serialize};

/// Processors by number, in ascending order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CpuList(Vec<usize>);

impl CpuList {
    pub(crate) fn one(cpu: usize) -> Self {
        Self(vec![cpu])
    }

    /// What this process may run on.
    pub(crate) fn allowed() -> io::Result<Self> {
        let set = sched_getaffinity(None)?;
        Ok(Self((0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect()))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().copied()
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<String> = self.0.iter().map(usize::to_string).collect();
        f.write_str(&numbers.join(","))
    }
}

impl FromStr for CpuList {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.split(',').map(str::parse).collect::<Result<_, _>>()?))
    }
}

/// Pins the calling thread, and with it every process it starts.
pub(crate) fn pin_thread(cpus: &CpuList) -> io::Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus.iter() {
        set.set(cpu);
    }
    Ok(sched_setaffinity(None, &set)?)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Layout {
    /// The proxy alone on the last processor, load and nodes on the others: requests a second are
    /// what the proxy's processor can do, as long as the direct row is faster.
    Split,
    /// The proxy on the last processor, load and nodes anywhere: the machine is always full, and
    /// requests a second follow from CPU per request.
    Shared,
}

/// Who runs where. Only processors that this process was given are used.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Placement {
    pub(crate) layout: Layout,
    pub(crate) proxy: CpuList,
    pub(crate) load: CpuList,
}

impl Placement {
    pub(crate) fn new(layout: Layout, allowed: &CpuList) -> anyhow::Result<Self> {
        let Some((&last, others)) = allowed.0.split_last() else {
            anyhow::bail!("no processor to run on");
        };
        ensure!(
            !others.is_empty(),
            "two processors are needed: one for the proxy, one for the load"
        );
        let load = match layout {
            Layout::Split => CpuList(others.to_vec()),
            Layout::Shared => allowed.clone(),
        };
        Ok(Self { layout, proxy: CpuList::one(last), load })
    }

    /// The same processors with load and nodes anywhere, and the proxy on the last `n_proxy`.
    pub(crate) fn shared(&self, n_proxy: usize) -> Self {
        let mut all: Vec<usize> = self.load.iter().chain(self.proxy.iter()).collect();
        all.sort_unstable();
        all.dedup();
        let first = all.len().saturating_sub(n_proxy.max(1));
        let proxy = CpuList(all[first..].to_vec());
        Self { layout: Layout::Shared, proxy, load: CpuList(all) }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "proxy on CPU {}, load and nodes on CPU {}", self.proxy, self.load)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proxy_gets_the_last_allowed_processor() {
        let allowed: CpuList = "1,4,6".parse().unwrap();
        let split = Placement::new(Layout::Split, &allowed).unwrap();
        assert_eq!((split.proxy.to_string(), split.load.to_string()), ("6".into(), "1,4".into()));
        let shared = Placement::new(Layout::Shared, &allowed).unwrap();
        assert_eq!(
            (shared.proxy.to_string(), shared.load.to_string()),
            ("6".into(), "1,4,6".into())
        );
        assert!(Placement::new(Layout::Split, &CpuList::one(3)).is_err());
        for from in [&split, &shared] {
            let two = from.shared(2);
            assert_eq!(
                (two.proxy.to_string(), two.load.to_string()),
                ("4,6".into(), "1,4,6".into())
            );
            assert_eq!(from.shared(1).proxy, shared.proxy);
            assert_eq!(from.shared(9).proxy, shared.load);
        }
    }
}
