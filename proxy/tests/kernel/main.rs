//! Tests of the kernel half. Each begins with [`skip_without_privileges`].

#![expect(clippy::unwrap_used, reason = "a failing helper is a failing test")]
#![expect(clippy::print_stdout, reason = "the test runner counts the lines `skipped: …`")]

mod bind;
mod equivalence;
mod guard;
mod leg;
mod load;
mod remains;
mod steer;
mod storm;
mod topology;
mod tunnel;
mod verdict;

use std::{net::SocketAddr, process::Command};

use proxy::{
    config::{Guard, Kernel, KernelMode, Limits, Xdp, XdpMode},
    kernel::{self, KernelPlane},
};

/// Whether this test cannot run here: says why, in a line that the test runner counts. Under
/// `KERNEL_TESTS=require` that is a failure.
#[must_use]
pub(crate) fn skip_without_privileges() -> bool {
    let reason = if kernel::object().is_none() {
        "needs the BPF object (cargo xtask build-ebpf)"
    } else if !has_capabilities() {
        "needs CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN (network namespaces)"
    } else {
        return false;
    };
    skip(reason)
}

/// The same for tests of what an operator sees.
#[must_use]
pub(crate) fn skip_without_bpftool() -> bool {
    let version = Command::new("bpftool").arg("version").output();
    !version.is_ok_and(|output| output.status.success())
        && skip("needs bpftool (Debian package `bpftool`)")
}

/// What bpftool says, arguments separated by blanks.
#[track_caller]
pub(crate) fn bpftool(arguments: &str) -> serde_json::Value {
    let mut command = Command::new("bpftool");
    let output = command.arg("-j").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "bpftool {arguments}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Says what this test lacks; always true, but under `KERNEL_TESTS=require`, when that is a failure.
#[must_use]
pub(crate) fn skip(reason: &str) -> bool {
    assert!(
        std::env::var_os("KERNEL_TESTS").is_none_or(|asked| asked != "require"),
        "KERNEL_TESTS=require, but this test {reason}"
    );
    println!("skipped: {reason}");
    true
}

fn has_capabilities() -> bool {
    /// CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_BPF of linux/capability.h.
    const NEEDED: u64 = 1 << 12 | 1 << 21 | 1 << 39;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(effective.trim(), 16).unwrap() & NEEDED == NEEDED
}

/// `kernel:` of a configuration that requires everything it asks for.
pub(crate) fn required(interfaces: &[&str], mode: XdpMode, guard: Guard) -> Kernel {
    let interfaces = interfaces.iter().map(|&name| name.to_owned()).collect();
    Kernel { mode: KernelMode::Require, xdp: Xdp { interfaces, mode }, guard, same_host: None }
}

/// Those that a configuration has by default, but without tunnels.
pub(crate) fn limits() -> Limits {
    Limits { sockmap_tunnels: 0, ..Limits::default() }
}

/// A plane for one listener per address.
pub(crate) fn load(kernel: &Kernel, listeners: &[SocketAddr], workers: usize) -> KernelPlane {
    KernelPlane::load(kernel, &limits(), listeners, workers).unwrap_or_else(|e| panic!("{e:#}"))
}

/// Asserts that of all counters exactly these moved, by exactly this much.
#[track_caller]
pub(crate) fn check_counters(plane: &KernelPlane, moved: &[(&str, u64)]) {
    let reasons: Vec<_> = plane.counters().iter().map(|counter| counter.reason).collect();
    check_counters_of(plane, &reasons, moved);
}

/// Asserts that of these counters exactly those moved, by exactly this much.
#[track_caller]
pub(crate) fn check_counters_of(plane: &KernelPlane, reasons: &[&str], moved: &[(&str, u64)]) {
    let counted: Vec<_> = plane
        .counters()
        .into_iter()
        .filter(|counter| counter.packets != 0 && reasons.contains(&counter.reason))
        .map(|counter| (counter.reason, counter.packets))
        .collect();
    assert_eq!(counted, moved);
}
