//! A compiler with a `core` for the BPF target: (a) a rustup nightly that can build it from source,
//! (b) Debian's compiler, which brings it prebuilt.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{debian, linker::Linker};
use crate::{cache::Cache, command, workspace};

/// What route (a) needs beside rustup.
const INSTALL_NIGHTLY: &str =
    "rustup toolchain install nightly --profile minimal --component rust-src";
const INSTALL_RUSTUP: &str =
    "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y";

pub(crate) struct Compiler {
    route: Route,
    version: Version,
    /// The directory that has `bin/rustc` in it.
    root: PathBuf,
    library_directory: PathBuf,
}

enum Route {
    /// `core` from the toolchain's own sources, with `-Z build-std=core`.
    Sources { toolchain: String },
    /// A prebuilt `core` in packages of the distribution.
    Packages { entry: String },
}

/// What `rustc -vV` says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Version {
    /// `1.96.0` as major and minor.
    release: (u32, u32),
    pub(super) llvm_major: u32,
    /// Its first line.
    line: String,
}

impl Compiler {
    pub(super) fn rustc(&self) -> PathBuf {
        self.root.join("bin/rustc")
    }

    /// Its clippy, if it has one.
    pub(crate) fn clippy_driver(&self) -> Option<PathBuf> {
        Some(self.root.join("bin/clippy-driver")).filter(|path| path.is_file())
    }

    /// Its own cargo, where `-Z` flags have to match; otherwise any cargo will do.
    pub(super) fn cargo(&self) -> Option<PathBuf> {
        match self.route {
            Route::Sources { .. } => Some(self.root.join("bin/cargo")),
            Route::Packages { .. } => None,
        }
    }

    pub(super) fn cargo_arguments(&self) -> &'static [&'static str] {
        match self.route {
            Route::Sources { .. } => &["-Zbuild-std=core"],
            Route::Packages { .. } => &[],
        }
    }

    pub(super) fn library_directory(&self) -> &Path {
        &self.library_directory
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.route {
            Route::Sources { toolchain } => {
                write!(f, "route (a): rustup {toolchain}, build-std, ")?
            }
            Route::Packages { entry } => write!(f, "route (b): Debian {entry}, prebuilt core, ")?,
        }
        let root = workspace::shown(&self.root);
        write!(f, "{}, LLVM {}, {root}", self.version.line, self.version.llvm_major)
    }
}

impl Version {
    pub(super) fn of(command: &mut Command) -> Result<Version> {
        let text = command::read(command)?;
        Version::parse(&text).with_context(|| format!("cannot read `{}`", command::shown(command)))
    }

    fn parse(text: &str) -> Option<Version> {
        let field = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::trim)
        };
        let mut release = field("release")?.split('.').map(|part| part.parse().ok());
        Some(Version {
            release: (release.next()??, release.next()??),
            llvm_major: field("LLVM version")?.split('.').next()?.parse().ok()?,
            line: text.lines().next()?.to_owned(),
        })
    }

    /// Why this compiler will not do, if it will not; `newer` is the command that gets a newer one.
    fn objection(&self, linker: &Linker, newer: &str) -> Option<String> {
        let (major, minor) = self.release;
        if self.release < minimum() {
            let needed = env!("CARGO_PKG_RUST_VERSION");
            return Some(format!(
                "is Rust {major}.{minor}, but {needed} is needed; take a newer one: `{newer}`"
            ));
        }
        // A linker cannot read the bitcode of an LLVM that is newer than its own, and the LLVM it
        // loads is the compiler's.
        let theirs = linker.llvm_major().filter(|theirs| *theirs != self.llvm_major)?;
        Some(format!(
            "has LLVM {}, but the linker is for LLVM {theirs}; {}",
            self.llvm_major,
            super::linker::advice(self.llvm_major)
        ))
    }
}

/// The workspace's `rust-version`.
fn minimum() -> (u32, u32) {
    let mut parts = env!("CARGO_PKG_RUST_VERSION").split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// The first compiler that will do, and why the ones before it do not.
pub(super) fn find_or_fetch(cache: &Cache, linker: &Linker) -> Result<(Compiler, Vec<String>)> {
    let mut notes = Vec::new();
    match rustup_nightlies() {
        Ok(toolchains) if toolchains.is_empty() => {
            notes.push(format!("(a) rustup has no nightly; `{INSTALL_NIGHTLY}`"));
        }
        Ok(toolchains) => {
            for toolchain in toolchains {
                match from_rustup(&toolchain, linker) {
                    Ok(compiler) => return Ok((compiler, notes)),
                    Err(error) => notes.push(format!("(a) {toolchain} {error:#}")),
                }
            }
        }
        Err(error) => notes.push(format!("(a) no nightly: {error:#}")),
    }
    match from_debian(cache, linker) {
        Ok(compiler) => Ok((compiler, notes)),
        Err(error) => {
            notes.push(format!("(b) {error:#}"));
            bail!("no compiler with a `core` for the BPF target:\n  {}", notes.join("\n  "))
        }
    }
}

fn rustup_nightlies() -> Result<Vec<String>> {
    if command::find("rustup").is_none() {
        bail!("rustup is not on PATH; `{INSTALL_RUSTUP}`, then `{INSTALL_NIGHTLY}`");
    }
    let list = command::read(Command::new("rustup").args(["toolchain", "list"]))?;
    Ok(nightlies(&list))
}

fn nightlies(list: &str) -> Vec<String> {
    list.lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| name.starts_with("nightly"))
        .map(str::to_owned)
        .collect()
}

fn from_rustup(toolchain: &str, linker: &Linker) -> Result<Compiler> {
    let mut which = Command::new("rustup");
    which.args(["which", "--toolchain", toolchain, "rustc"]);
    let rustc = PathBuf::from(command::read(&mut which)?.trim());
    let root = rustc.parent().and_then(Path::parent).context("is not laid out as bin/rustc")?;
    let library_directory = root.join("lib");
    if !library_directory.join("rustlib/src/rust/library/core/src/lib.rs").is_file() {
        bail!("has no rust-src; `rustup component add rust-src --toolchain {toolchain}`");
    }
    let version = Version::of(Command::new(&rustc).arg("-vV"))?;
    if let Some(objection) = version.objection(linker, INSTALL_NIGHTLY) {
        bail!("{objection}");
    }
    let route = Route::Sources { toolchain: toolchain.to_owned() };
    Ok(Compiler { route, version, root: root.to_owned(), library_directory })
}

fn from_debian(cache: &Cache, linker: &Linker) -> Result<Compiler> {
    let mut objections = Vec::new();
    for entry in cache.names(debian::PREFIX)?.into_iter().rev() {
        match open_debian(cache, &entry, linker) {
            Ok(compiler) => return Ok(compiler),
            Err(error) => objections.push((entry, error)),
        }
    }
    let entry = debian::fetch(cache)?;
    match objections.into_iter().find(|(tried, _)| *tried == entry) {
        Some((_, error)) => Err(error),
        None => open_debian(cache, &entry, linker),
    }
    .with_context(|| format!("Debian's {entry}"))
}

fn open_debian(cache: &Cache, entry: &str, linker: &Linker) -> Result<Compiler> {
    let root = cache.entry(entry).join("usr");
    let library_directory = debian::library_directory(&root);
    let mut rustc = Command::new(root.join("bin/rustc"));
    let version = Version::of(rustc.env("LD_LIBRARY_PATH", &library_directory).arg("-vV"))?;
    if let Some(objection) = version.objection(linker, debian::ADD_SECURITY_SUITE) {
        bail!("{objection}");
    }
    let route = Route::Packages { entry: entry.to_owned() };
    Ok(Compiler { route, version, root, library_directory })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_rustc_verbose_version() {
        let text = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nbinary: rustc\nhost: x\n\
                    release: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        let version = Version::parse(text).unwrap();
        assert_eq!((version.release, version.llvm_major), ((1, 97), 22));
        assert_eq!(version.line, "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)");
        assert_eq!(Version::parse("rustc 1.97.0\n"), None);
        assert_eq!(Version::parse("release: 1.97.0\n"), None);
        assert_eq!(Version::parse("release: one\nLLVM version: 22.1\n"), None);
    }

    #[test]
    fn takes_only_nightlies_from_rustups_list() {
        let list = "stable-x86_64-unknown-linux-gnu (active, default)\n\
                    nightly-x86_64-unknown-linux-gnu\n\
                    nightly-2026-05-01-x86_64-unknown-linux-gnu (override)\n1.95.0-x\n";
        assert_eq!(
            nightlies(list),
            ["nightly-x86_64-unknown-linux-gnu", "nightly-2026-05-01-x86_64-unknown-linux-gnu"]
        );
        assert!(nightlies("no installed toolchains\n").is_empty());
    }
}
