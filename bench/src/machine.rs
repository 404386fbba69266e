//! What the machine did: processor time, processes and memory, as `/proc` tells it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::Instant,
};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

/// Ticks per second of `/proc`. `USER_HZ` has been 100 on every architecture Tandem runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// The flag of kernel threads in `/proc/PID/stat`, include/linux/sched.h.
const PF_KTHREAD: u64 = 0x0020_0000;

/// How much more than processors × wall time `/proc/stat` may account for.
const CPU_SURPLUS_MAX: f64 = 0.03;

/// How much less it may account for. Idle time is exact, but busy time is sampled by a tick that
/// stops in idle: of a processor that is often idle for less than a tick, 10 to 12 % are in neither
/// (measured on Linux 6.18 with `CONFIG_TICK_CPU_ACCOUNTING`; on a busy one, below 1 %).
const CPU_UNSAMPLED_MAX: f64 = 0.10;

/// How much of the machine the hypervisor may take.
const STOLEN_MAX: f64 = 0.03;

/// How much of the machine processes outside the scenario may use.
const FOREIGN_MAX: f64 = 0.02;

/// Kernel settings that bear on every figure, the same for all contestants and in each namespace.
pub(crate) const NAMESPACE_SETTINGS: [&str; 6] = [
    "net/core/somaxconn",
    "net/ipv4/tcp_congestion_control",
    "net/ipv4/tcp_rmem",
    "net/ipv4/tcp_wmem",
    "net/ipv4/tcp_notsent_lowat",
    "net/ipv4/ip_local_port_range",
];

/// The first line of `/proc/stat`, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CpuTicks {
    busy: u64,
    idle: u64,
    stolen: u64,
}

impl CpuTicks {
    pub(crate) fn parse(stat: &str) -> anyhow::Result<Self> {
        let line = stat.lines().next().and_then(|line| line.strip_prefix("cpu "));
        let fields: Vec<u64> = line
            .context("/proc/stat: no line for all processors")?
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        // Guest time is part of user time already.
        let [user, nice, system, idle, iowait, irq, softirq, stolen, ..] = fields[..] else {
            bail!("/proc/stat: {} fields", fields.len());
        };
        Ok(Self { busy: user + nice + system + irq + softirq, idle: idle + iowait, stolen })
    }
}

/// The fields of `/proc/PID/stat` that are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ProcessTicks {
    parent: u32,
    is_kernel_thread: bool,
    own: u64,
    /// Of children that have ended and been waited for.
    children: u64,
}

impl ProcessTicks {
    fn parse(stat: &str) -> Option<Self> {
        // The name stands in parentheses and may itself contain blanks and parentheses.
        let fields: Vec<&str> = stat.get(stat.rfind(')')? + 1..)?.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Self {
            parent: u32::try_from(number(1)?).ok()?,
            is_kernel_thread: number(6)? & PF_KTHREAD != 0,
            own: number(11)? + number(12)?,
            children: number(13)? + number(14)?,
        })
    }
}

/// One look at the whole machine.
pub(crate) struct Snapshot {
    at: Instant,
    cpu: CpuTicks,
    processes: BTreeMap<u32, ProcessTicks>,
}

impl Snapshot {
    pub(crate) fn take() -> anyhow::Result<Self> {
        Ok(Self {
            at: Instant::now(),
            cpu: CpuTicks::parse(&fs::read_to_string("/proc/stat")?)?,
            processes: processes()?,
        })
    }
}

fn processes() -> anyhow::Result<BTreeMap<u32, ProcessTicks>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may have ended meanwhile.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        if let Some(ticks) = ProcessTicks::parse(&stat) {
            found.insert(pid, ticks);
        }
    }
    Ok(found)
}

/// `roots` and everything that descends from them.
fn tree(roots: &[u32], processes: &BTreeMap<u32, ProcessTicks>) -> BTreeSet<u32> {
    let mut members: BTreeSet<u32> = roots.iter().copied().collect();
    loop {
        let before = members.len();
        let children = processes.iter().filter(|(_, ticks)| members.contains(&ticks.parent));
        let children: Vec<u32> = children.map(|(pid, _)| *pid).collect();
        members.extend(children);
        if members.len() == before {
            return members;
        }
    }
}

/// `root` and everything that descends from it, now.
pub(crate) fn tree_of(root: u32) -> anyhow::Result<BTreeSet<u32>> {
    Ok(tree(&[root], &processes()?))
}

/// Processor time between two looks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CpuUse {
    pub(crate) wall_seconds: f64,
    /// Of the whole machine: what was neither idle nor stolen. More exact than what the tick has
    /// sampled as user, system and interrupts.
    pub(crate) busy_seconds: f64,
    /// Taken by the hypervisor.
    pub(crate) stolen_seconds: f64,
    /// Of the program under test and its children.
    pub(crate) proxy_seconds: f64,
    /// Of processes that have no part in the scenario.
    pub(crate) foreign_seconds: f64,
    /// Everything `/proc/stat` accounts for, busy time as sampled, ÷ (processors × wall time).
    pub(crate) accounted: f64,
    pub(crate) processors: usize,
}

impl CpuUse {
    /// `proxy` is the program under test, if there is one; `scenario` everybody else who takes
    /// part, this process included.
    pub(crate) fn between(
        before: &Snapshot,
        after: &Snapshot,
        proxy: Option<u32>,
        scenario: &[u32],
        processors: usize,
    ) -> Self {
        let seconds = |ticks: u64| ticks as f64 / TICKS_PER_SECOND;
        let wall_seconds = after.at.duration_since(before.at).as_secs_f64();
        let proxies = tree(proxy.as_slice(), &after.processes);
        let members = tree(scenario, &after.processes);
        let (mut proxy_ticks, mut foreign_ticks) = (0, 0);
        // What has ended was waited for by its parent, whose children's time then has all of it,
        // also what it had used before the first look.
        let ended = before.processes.iter().filter(|(pid, _)| !after.processes.contains_key(pid));
        let ended_ticks: u64 = ended.map(|(_, ticks)| ticks.own + ticks.children).sum();
        for (pid, now) in &after.processes {
            let then = before.processes.get(pid);
            let own = now.own.saturating_sub(then.map_or(0, |then| then.own));
            if proxies.contains(pid) {
                proxy_ticks += own;
            } else if !members.contains(pid) && !now.is_kernel_thread {
                // Children that began and ended in between show only here.
                let children = then.map_or(0, |then| now.children.saturating_sub(then.children));
                foreign_ticks += own + children;
            }
        }
        let sampled = after.cpu.busy - before.cpu.busy;
        let idle = after.cpu.idle.saturating_sub(before.cpu.idle);
        let stolen = after.cpu.stolen - before.cpu.stolen;
        let capacity = wall_seconds * processors as f64;
        Self {
            wall_seconds,
            busy_seconds: (capacity - seconds(idle + stolen)).max(0.0),
            stolen_seconds: seconds(stolen),
            proxy_seconds: seconds(proxy_ticks),
            foreign_seconds: seconds(u64::saturating_sub(foreign_ticks, ended_ticks)),
            accounted: seconds(sampled + idle + stolen) / capacity,
            processors,
        }
    }

    /// Why the round this was measured in has to be repeated.
    pub(crate) fn objection(&self) -> Option<String> {
        let capacity = self.wall_seconds * self.processors as f64;
        let (stolen, foreign) = (self.stolen_seconds / capacity, self.foreign_seconds / capacity);
        if !(1.0 - CPU_UNSAMPLED_MAX..=1.0 + CPU_SURPLUS_MAX).contains(&self.accounted) {
            return Some(format!("CPU time adds up to {:.1} %", self.accounted * 100.0));
        }
        if stolen > STOLEN_MAX {
            return Some(format!("the hypervisor took {:.1} %", stolen * 100.0));
        }
        (foreign > FOREIGN_MAX).then(|| format!("other processes used {:.1} %", foreign * 100.0))
    }
}

/// Processors that are online, whoever may use them.
pub(crate) fn processors() -> anyhow::Result<usize> {
    let stat = fs::read_to_string("/proc/stat")?;
    let is_one = |line: &&str| {
        line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    Ok(stat.lines().filter(is_one).count())
}

/// The most memory a program and its children have ever had resident, bytes.
pub(crate) fn peak_resident_bytes(root: u32) -> anyhow::Result<u64> {
    let mut total = 0;
    for pid in tree_of(root)? {
        // A child that has just ended has nothing resident.
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        total += kibibytes(&status, "VmHWM:").unwrap_or(0);
    }
    Ok(total * 1024)
}

/// What a program and its children hold that nobody else does, and their share of the rest, bytes.
pub(crate) fn proportional_bytes(root: u32) -> anyhow::Result<u64> {
    let mut total = 0;
    for pid in tree_of(root)? {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        total += kibibytes(&rollup, "Pss:").unwrap_or(0);
    }
    Ok(total * 1024)
}

/// A line `Name:   123 kB`.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Memory that the kernel holds for sockets and for itself, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KernelMemory {
    /// TCP's `mem` of `/proc/net/sockstat`, which is of all network namespaces together.
    pub(crate) tcp_bytes: u64,
    /// `SUnreclaim` of `/proc/meminfo`.
    pub(crate) slab_bytes: u64,
}

impl KernelMemory {
    pub(crate) fn now() -> anyhow::Result<Self> {
        let sockstat = fs::read_to_string("/proc/net/sockstat")?;
        let meminfo = fs::read_to_string("/proc/meminfo")?;
        Self::parse(&sockstat, &meminfo, rustix::param::page_size() as u64)
            .context("/proc/net/sockstat or /proc/meminfo")
    }

    fn parse(sockstat: &str, meminfo: &str, page_size: u64) -> Option<Self> {
        let tcp = sockstat.lines().find_map(|line| line.strip_prefix("TCP:"))?;
        let mut words = tcp.split_whitespace().skip_while(|word| *word != "mem").skip(1);
        let pages: u64 = words.next()?.parse().ok()?;
        Some(Self {
            tcp_bytes: pages * page_size,
            slab_bytes: kibibytes(meminfo, "SUnreclaim:")? * 1024,
        })
    }
}

#[cfg(test)]
mod tests;
