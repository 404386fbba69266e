//! Every map of the kernel half. Each says key → value, who writes, who reads, what a miss means.

use aya_ebpf::{Global, btf_maps::PerCpuArray, macros::btf_map};
use proxy_common::Reason;

/// Compared by userspace before anything is attached. In a section of its own, which the loader
/// turns into a map of its own: that is how userspace can read it.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata.abi")]
pub static ABI_VERSION: Global<u32> = Global::new(proxy_common::ABI_VERSION);

/// [`Reason`] → how often, on this processor. The kernel writes, userspace sums; a slot always
/// exists.
#[btf_map]
pub static COUNT_BY_REASON: PerCpuArray<u64, { Reason::COUNT }> = PerCpuArray::new();
