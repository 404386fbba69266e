//! `bpf-linker`: on `PATH`, in the cache, or built into the cache.

use std::{
    ffi::OsString,
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{cache::Cache, command, workspace};

/// Later versions dropped the use of rustc's own LLVM and want the system's.
const VERSION: &str = "0.10.3";
/// The majors for which this version has a feature that uses rustc's own LLVM.
const LLVM_MAJORS: [u32; 3] = [20, 21, 22];

/// The last nightly that is known to have the newest of them.
const NIGHTLY: &str = "nightly-2026-05-20";

pub(super) struct Linker {
    path: PathBuf,
    /// Which LLVM it was made for; unknown for one that was not installed by cargo.
    llvm_major: Option<u32>,
}

impl Linker {
    pub(super) fn llvm_major(&self) -> Option<u32> {
        self.llvm_major
    }

    /// `PATH` with this linker first.
    pub(super) fn search_path(&self) -> Result<OsString> {
        let own = self.path.parent().map(Path::to_owned);
        let inherited = std::env::var_os("PATH").unwrap_or_default();
        let all = own.into_iter().chain(std::env::split_paths(&inherited));
        std::env::join_paths(all).context("PATH has a directory that cannot be listed in it")
    }
}

impl fmt::Display for Linker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bpf-linker {VERSION}, ")?;
        match self.llvm_major {
            Some(major) => write!(f, "LLVM {major}, ")?,
            None => write!(f, "LLVM unknown, ")?,
        }
        write!(f, "{}", workspace::shown(&self.path))
    }
}

pub(super) fn find_or_fetch(cache: &Cache) -> Result<Linker> {
    let wanted = llvm_of_host()?;
    if let Some(linker) = on_path()
        && linker.llvm_major.is_none_or(|major| major == wanted)
    {
        return Ok(linker);
    }
    let entry = cache.entry_or_make(
        &format!("bpf-linker-{VERSION}"),
        |entry| llvm_in_receipt(entry) == Some(wanted) && binary(entry).is_file(),
        |stage| install(stage, wanted),
    )?;
    Ok(Linker { path: binary(&entry), llvm_major: Some(wanted) })
}

fn binary(root: &Path) -> PathBuf {
    root.join("bin/bpf-linker")
}

fn on_path() -> Option<Linker> {
    let path = command::find("bpf-linker")?;
    let says = command::read(Command::new(&path).arg("--version")).ok()?;
    if says.trim() != format!("bpf-linker {VERSION}") {
        return None;
    }
    let root = path.parent().and_then(Path::parent)?;
    Some(Linker { llvm_major: llvm_in_receipt(root), path })
}

/// The major to build for: the host compiler's, so that on most machines one LLVM serves all.
fn llvm_of_host() -> Result<u32> {
    let host = super::compiler::Version::of(Command::new("rustc").arg("-vV"))?;
    if LLVM_MAJORS.contains(&host.llvm_major) {
        return Ok(host.llvm_major);
    }
    // Whether this fits is seen when the BPF compiler is known.
    Ok(LLVM_MAJORS[LLVM_MAJORS.len() - 1])
}

/// Reads the feature from the receipt that `cargo install` leaves beside `bin`.
fn llvm_in_receipt(root: &Path) -> Option<u32> {
    feature_in_receipt(&fs::read_to_string(root.join(".crates2.json")).ok()?)
}

fn feature_in_receipt(receipt: &str) -> Option<u32> {
    let (_, own) = receipt.split_once(&format!("\"bpf-linker {VERSION} "))?;
    let (_, features) = own.split_once("\"features\":[")?;
    let (features, _) = features.split_once(']')?;
    let feature = features.split(',').map(|word| word.trim().trim_matches('"'));
    feature.filter_map(|word| word.strip_prefix("rust-llvm-")?.parse().ok()).next()
}

/// What to do for a linker that goes with a compiler.
pub(super) fn advice(llvm_major: u32) -> String {
    if !LLVM_MAJORS.contains(&llvm_major) {
        let [oldest, .., newest] = LLVM_MAJORS;
        return format!(
            "bpf-linker {VERSION} knows LLVM {oldest} to {newest}, take another compiler: `rustup \
             toolchain install {NIGHTLY} --profile minimal --component rust-src`"
        );
    }
    format!(
        "`cargo install bpf-linker --version {VERSION} --locked --no-default-features --features \
         rust-llvm-{llvm_major}`"
    )
}

fn install(stage: &Path, llvm_major: u32) -> Result<()> {
    println!(
        "building bpf-linker {VERSION} for LLVM {llvm_major}; this takes a minute or two, once"
    );
    let mut install = Command::new(command::cargo_program());
    command::without_build_environment(&mut install)
        .args(["install", "bpf-linker", "--version", VERSION, "--locked", "--no-default-features"])
        .args(["--features", &format!("rust-llvm-{llvm_major}"), "--root"])
        .arg(stage);
    if command::run(&mut install).is_err() {
        bail!(
            "bpf-linker is missing and could not be built (see above; it takes a network and a C \
             compiler); {}",
            advice(llvm_major)
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_llvm_feature_from_cargos_receipt() {
        fn check(receipt: &str, expected: Option<u32>) {
            assert_eq!(feature_in_receipt(receipt), expected, "{receipt}");
        }
        let head = r#"{"installs":{"bpf-linker 0.10.3 (registry+x)":{"bins":["bpf-linker"],"#;
        check(&format!(r#"{head}"features":["rust-llvm-22"],"target":"x"}}"#), Some(22));
        check(&format!(r#"{head}"features":["llvm-21","rust-llvm-21"],"target":"x"}}"#), Some(21));
        check(&format!(r#"{head}"features":["llvm-22"],"target":"x"}}"#), None);
        check(&format!(r#"{head}"features":[],"target":"x"}}"#), None);
        check(r#"{"installs":{"other 1.0.0 (x)":{"features":["rust-llvm-22"]}}"#, None);
        check(r#"{"installs":{"bpf-linker 0.13.0 (x)":{"features":["rust-llvm-22"]}}"#, None);
        check("", None);
    }
}
