//! Debian's compiler with BPF targets, unpacked into the cache; nothing is installed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{apt, cache::Cache};

/// Cache entries are this and the version.
pub(super) const PREFIX: &str = "rustc-web-";
const COMPILER: &str = "rustc-web";
const BPF_CORE: &str = "libstd-rust-web-dev-bpf";
/// Lints the kernel half; building does without it.
const CLIPPY: &str = "rust-web-clippy";
/// The compiler's library packages have its version in their names.
const LIBRARY_PREFIX: &str = "libstd-rust-web-";
/// Has Debian's lists include the suite that keeps the compiler up to date.
pub(super) const ADD_SECURITY_SUITE: &str = ". /etc/os-release && echo \"deb \
     http://deb.debian.org/debian-security $VERSION_CODENAME-security main\" | sudo tee \
     /etc/apt/sources.list.d/security.list && sudo apt-get update";

/// The packages to unpack, all of one version.
struct Packages {
    version: String,
    names: Vec<String>,
}

/// `usr` is the unpacked directory of that name.
pub(super) fn library_directory(usr: &Path) -> PathBuf {
    apt::library_directory(usr.parent().unwrap_or(usr))
}

/// Downloads and unpacks the newest version; returns the name of its cache entry.
pub(super) fn fetch(cache: &Cache) -> Result<String> {
    apt::require().context("route (a) needs no apt")?;
    apt::with_lists(|| {
        let packages = resolve()?;
        let name = format!("{PREFIX}{}", packages.version.replace(':', "_"));
        let is_usable = |entry: &Path| entry.join("usr/bin/rustc").is_file();
        cache.entry_or_make(&name, is_usable, |stage| packages.unpack(stage))?;
        Ok(name)
    })
}

impl Packages {
    fn unpack(&self, stage: &Path) -> Result<()> {
        let version = &self.version;
        println!("downloading Debian's {COMPILER} {version} (120 MB, once); nothing is installed");
        apt::unpack(&self.pinned(), stage)?;
        // Debian 12 lacks only LLVM, newer ones may have that too.
        apt::complete("usr/bin/rustc", &self.names, stage)
    }

    fn pinned(&self) -> Vec<String> {
        self.names.iter().map(|name| format!("{name}={}", self.version)).collect()
    }
}

fn resolve() -> Result<Packages> {
    let missing = |name: &str, version: &str| {
        format!(
            "package {name}{version} is not in the package lists; on Debian `{ADD_SECURITY_SUITE}`, \
             elsewhere route (a)"
        )
    };
    let version = apt::candidate(COMPILER)?.with_context(|| missing(COMPILER, ""))?;
    if release(&version) < release(env!("CARGO_PKG_RUST_VERSION")) {
        bail!(
            "{COMPILER} {version} is too old, {} is needed; is the security suite among the \
             sources of apt? `{ADD_SECURITY_SUITE}`",
            env!("CARGO_PKG_RUST_VERSION")
        );
    }
    let mut names = vec![COMPILER.to_owned()];
    let mut next = 0;
    while let Some(name) = names.get(next).cloned() {
        for dependency in apt::dependencies(&name)? {
            if dependency.starts_with(LIBRARY_PREFIX) && !names.contains(&dependency) {
                names.push(dependency);
            }
        }
        next += 1;
    }
    if apt::candidate(BPF_CORE)?.as_ref() != Some(&version) {
        bail!(missing(BPF_CORE, &format!(" in version {version}")));
    }
    names.push(BPF_CORE.to_owned());
    if apt::candidate(CLIPPY)?.as_ref() == Some(&version) {
        names.push(CLIPPY.to_owned());
    }
    Ok(Packages { version, names })
}

/// `1.96.0+dfsg1-1~deb12u2` as major and minor, an epoch left out.
fn release(version: &str) -> Option<(u32, u32)> {
    let version = version.split_once(':').map_or(version, |(_, rest)| rest);
    let mut parts = version.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_releases_by_number() {
        assert_eq!(release("1.96.0+dfsg1-1~deb12u2"), Some((1, 96)));
        assert_eq!(release("1:2.7-1"), Some((2, 7)));
        assert_eq!(release("unknown"), None);
        assert!(release("1.100.0") > release("1.95"));
        assert!(release("1.85.0+dfsg3") < release("1.95"));
    }
}
