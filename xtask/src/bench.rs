//! `cargo xtask bench …`: the release binaries and the peers, then everything is up to `bench/`.

use std::{
    ffi::OsString,
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result};

use crate::{build_ebpf, cache::Cache, cargo_build, command, peers::Peers, workspace};

pub(crate) fn run(arguments: &[OsString]) -> Result<ExitCode> {
    if let Err(error) = build_ebpf::run() {
        println!("without the kernel half: {error:#}");
    }
    let peers = Peers::find_or_fetch(&Cache::open()?);
    for missing in peers.missing() {
        println!("missing: {missing}");
    }
    let tandem = cargo_build::profile(profile(arguments), "proxy", "tandem")?;
    let mut bench = command(arguments, &tandem)?;
    let status = peers
        .equip(&mut bench)
        .status()
        .with_context(|| format!("start `{}`", command::shown(&bench)))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What counts instructions tells them by their lines.
fn profile(arguments: &[OsString]) -> &'static str {
    if is_one_of(arguments, &["instructions", "plugins", "routes"]) { "counted" } else { "release" }
}

fn is_one_of(arguments: &[OsString], tasks: &[&str]) -> bool {
    arguments.first().is_some_and(|word| tasks.iter().any(|task| word == task))
}

/// The harness, built, on a binary of the proxy.
pub(crate) fn command(arguments: &[OsString], tandem: &Path) -> Result<Command> {
    let mut bench = cargo_build::start(cargo_build::release("bench", "bench")?);
    bench.args(arguments);
    // Where bench/ looks by itself; another target directory it has to be told.
    let usual = workspace::root().join("target").join(profile(arguments)).join("tandem");
    let measures = ["run", "quick", "smoke", "instructions", "plugins", "routes", "reload"];
    if is_one_of(arguments, &measures) && tandem != usual {
        bench.arg("--tandem").arg(tandem);
    }
    Ok(bench)
}
