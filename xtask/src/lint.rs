//! `cargo xtask lint`: everything that can be said about the sources without running them, cheap
//! first. Every step runs, so that one call shows all there is to do.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{
    build_ebpf::Toolchain,
    cache::Cache,
    command, tidy,
    tool::{self, Tool},
    workspace,
};

/// The fuzz targets are a workspace of their own.
const FUZZ_MANIFEST: &str = "proxy/fuzz/Cargo.toml";

/// What became of a step.
pub(crate) enum Outcome {
    Passed,
    /// Could not be done here; the text says what would make it possible.
    Skipped(String),
}

type Step = fn() -> Result<Outcome>;

const STEPS: [(&str, Step); 7] = [
    ("fmt", fmt),
    ("tidy", tidy),
    ("clippy, host", clippy_host),
    ("clippy, fuzz", clippy_fuzz),
    ("clippy, BPF target", clippy_bpf),
    ("doc", doc),
    ("deny", deny),
];

/// A step by its name, and what became of it.
pub(crate) type Done = (&'static str, Result<Outcome>);

pub(crate) fn run() -> Result<()> {
    let steps = run_steps();
    match steps.iter().filter(|(_, outcome)| outcome.is_err()).count() {
        0 => Ok(()),
        1 => bail!("lint: 1 step failed"),
        count => bail!("lint: {count} steps failed"),
    }
}

/// Runs all of them, and prints what became of each at the end.
pub(crate) fn run_steps() -> Vec<Done> {
    let mut steps = Vec::new();
    for (name, step) in STEPS {
        println!("== {name}");
        steps.push((name, step()));
    }
    println!("== lint");
    for (name, outcome) in &steps {
        match outcome {
            Ok(Outcome::Passed) => println!("{name:<20} ok"),
            Ok(Outcome::Skipped(why)) => println!("{name:<20} SKIPPED: {why}"),
            Err(error) => println!("{name:<20} FAILED: {error:#}"),
        }
    }
    steps
}

fn fmt() -> Result<Outcome> {
    require_component("rustfmt")?;
    command::run(command::cargo().args(["fmt", "--all", "--check"]))?;
    if workspace::root().join(FUZZ_MANIFEST).is_file() {
        let arguments = ["fmt", "--manifest-path", FUZZ_MANIFEST, "--check"];
        command::run(command::cargo().args(arguments))?;
    }
    Ok(Outcome::Passed)
}

fn tidy() -> Result<Outcome> {
    tidy::run(workspace::root())?;
    Ok(Outcome::Passed)
}

/// The kernel half apart: together with the rest, `proxy-common/user` would be on for it too.
fn clippy_host() -> Result<Outcome> {
    require_component("clippy")?;
    for packages in [["--workspace", "--exclude=proxy-ebpf"], ["--package", "proxy-ebpf"]] {
        let mut clippy = command::cargo();
        clippy.arg("clippy").args(packages).args([
            "--all-features",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]);
        command::run(&mut clippy)?;
    }
    Ok(Outcome::Passed)
}

/// Nothing is linked, so libFuzzer need not be compiled: what is named instead is not looked at.
fn clippy_fuzz() -> Result<Outcome> {
    require_component("clippy")?;
    let mut clippy = command::cargo();
    // A directory of its own: fuzzing builds with libFuzzer, and with other flags.
    clippy.args(["clippy", "--manifest-path", FUZZ_MANIFEST, "--target-dir", "target/fuzz-lint"]);
    clippy.args(["--", "-D", "warnings"]).env("CUSTOM_LIBFUZZER_PATH", "/dev/null");
    command::run(&mut clippy)?;
    Ok(Outcome::Passed)
}

fn clippy_bpf() -> Result<Outcome> {
    let toolchain = match Toolchain::find_or_fetch() {
        Ok(toolchain) => toolchain,
        Err(error) => return Ok(Outcome::Skipped(format!("{error:#}"))),
    };
    let Some(driver) = toolchain.compiler().clippy_driver() else {
        let compiler = toolchain.compiler();
        return Ok(Outcome::Skipped(format!("{compiler} has no clippy; add its clippy component")));
    };
    let mut check = toolchain.cargo("check")?;
    check
        .args(["--bin", crate::build_ebpf::BINARY])
        .env("RUSTC_WORKSPACE_WRAPPER", driver)
        // How cargo-clippy hands arguments to its driver.
        .env("CLIPPY_ARGS", "-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__");
    command::run(&mut check)?;
    Ok(Outcome::Passed)
}

fn doc() -> Result<Outcome> {
    let mut doc = command::cargo();
    doc.env("RUSTDOCFLAGS", "-D warnings");
    doc.args(["doc", "--workspace", "--no-deps", "--document-private-items"]);
    command::run(&mut doc)?;
    Ok(Outcome::Passed)
}

/// Advisories are left out: they need a network and change without us.
fn deny() -> Result<Outcome> {
    let deny = match tool::find_or_build(&Cache::open()?, Tool::Deny) {
        Ok(deny) => deny,
        Err(error) => return Ok(Outcome::Skipped(format!("{error:#}"))),
    };
    let mut check = Command::new(deny);
    check.current_dir(workspace::root());
    check.args(["--workspace", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"]);
    command::run(&mut check)?;
    Ok(Outcome::Passed)
}

fn require_component(component: &str) -> Result<()> {
    let subcommand = if component == "rustfmt" { "fmt" } else { component };
    command::read(command::cargo().args([subcommand, "--version"]))
        .map(|_| ())
        .with_context(|| format!("{component} is missing; `rustup component add {component}`"))
}
