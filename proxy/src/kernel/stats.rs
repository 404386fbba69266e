//! Reads the counters: one per-CPU array, summed.

use anyhow::Context as _;
use aya::{
    Ebpf,
    maps::{MapData, PerCpuArray},
};
use proxy_common::{Reason, names};
use serde::Serialize;

/// How often a program gave a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Counter {
    pub program: &'static str,
    pub reason: &'static str,
    pub packets: u64,
}

pub(super) struct Counters {
    count_by_reason: PerCpuArray<MapData, u64>,
}

impl Counters {
    pub(super) fn new(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let map = ebpf.take_map(names::COUNT_BY_REASON).context("no map `COUNT_BY_REASON`")?;
        Ok(Self { count_by_reason: PerCpuArray::try_from(map).context("open the counters")? })
    }

    /// Those of the named programs, in the order of their numbers. Each processor's count only
    /// grows; the sum is not a snapshot of one moment. A counter that cannot be read is left out.
    pub(super) fn of(&self, is_running: impl Fn(&str) -> bool) -> Vec<Counter> {
        let reasons = Reason::ALL.into_iter().filter(|reason| is_running(reason.program()));
        reasons.filter_map(|reason| self.read(reason)).collect()
    }

    fn read(&self, reason: Reason) -> Option<Counter> {
        let of_each_cpu = self.count_by_reason.get(&(reason as u32), 0).ok()?;
        let packets = of_each_cpu.iter().fold(0_u64, |sum, &count| sum.wrapping_add(count));
        Some(Counter { program: reason.program(), reason: reason.label(), packets })
    }
}
