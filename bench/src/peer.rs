//! The other proxies: where their binaries are, and one configuration for each.

use std::{
    env,
    fmt::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;
use rustix::process::{Resource, getrlimit};

use crate::{
    contestant::{Auth, KEY, Service},
    scenario::Carrier,
};

/// Downstream connections a peer is told to expect; the most any scenario opens, and room.
const CONNECTIONS_MAX: u64 = 9_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Nginx,
    Haproxy,
    /// HTTP bodies by `splice(2)`, always.
    HaproxySplice,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HaproxySplice => "haproxy splice",
            Self::Nginx | Self::Haproxy => self.binary(),
        })
    }
}

impl Peer {
    const fn binary(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy | Self::HaproxySplice => "haproxy",
        }
    }

    /// The configuration, with names in braces still to be filled in.
    const fn template(self, service: &Service) -> &'static str {
        match (self, service) {
            (Self::Nginx, Service::Http { .. }) => include_str!("../peers/nginx-http.conf"),
            (Self::Nginx, Service::Stream { .. }) => include_str!("../peers/nginx-stream.conf"),
            (Self::Haproxy | Self::HaproxySplice, Service::Http { .. }) => {
                include_str!("../peers/haproxy-http.conf")
            }
            (Self::Haproxy | Self::HaproxySplice, Service::Stream { .. }) => {
                include_str!("../peers/haproxy-stream.conf")
            }
        }
    }

    fn nodes(self, nodes: &[SocketAddr]) -> String {
        let mut lines = String::new();
        for (index, node) in nodes.iter().enumerate() {
            let _ = match self {
                Self::Nginx => writeln!(lines, "        server {node};"),
                Self::Haproxy | Self::HaproxySplice => {
                    writeln!(lines, "    server node{index} {node}")
                }
            };
        }
        lines
    }

    const fn splice(self) -> &'static str {
        match self {
            Self::HaproxySplice => "    option splice-request\n    option splice-response",
            Self::Nginx | Self::Haproxy => "",
        }
    }

    fn auth(self, service: &Service) -> String {
        let Service::Http { auth: Auth::Key, .. } = service else { return String::new() };
        match self {
            Self::Nginx => "            if ($is_known = 0) { return 401; }".into(),
            Self::Haproxy | Self::HaproxySplice => {
                format!(
                    "    http-request deny deny_status 401 unless {{ req.hdr(apikey) -m str {KEY} }}"
                )
            }
        }
    }
}

/// The peers' files, as far as they are there.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    nginx: Option<PathBuf>,
    haproxy: Option<PathBuf>,
    stream_module: Option<PathBuf>,
    /// Where the libraries of unpacked packages are.
    libraries: Vec<PathBuf>,
}

impl Found {
    /// Looks on PATH, in /usr/sbin, then where `cargo xtask` unpacks packages.
    pub(crate) fn look() -> Self {
        let unpacked = unpacked_roots();
        let path = env::var_os("PATH").unwrap_or_default();
        let mut directories: Vec<PathBuf> = env::split_paths(&path).collect();
        directories.push("/usr/sbin".into());
        directories.extend(unpacked.iter().map(|root| root.join("usr/sbin")));
        let find = |name: &str| {
            directories.iter().map(|directory| directory.join(name)).find(|file| file.is_file())
        };
        let roots = std::iter::once(PathBuf::from("/")).chain(unpacked.iter().cloned());
        Self {
            nginx: find("nginx"),
            haproxy: find("haproxy"),
            stream_module: roots
                .map(|root| root.join("usr/lib/nginx/modules/ngx_stream_module.so"))
                .find(|file| file.is_file()),
            libraries: unpacked
                .iter()
                .flat_map(|root| [root.join("usr/lib/x86_64-linux-gnu"), root.join("usr/lib")])
                .filter(|directory| directory.is_dir())
                .collect(),
        }
    }

    fn binary(&self, peer: Peer) -> Option<&Path> {
        match peer {
            Peer::Nginx => self.nginx.as_deref(),
            Peer::Haproxy | Peer::HaproxySplice => self.haproxy.as_deref(),
        }
    }

    pub(crate) fn absence(&self, peer: Peer, carrier: Carrier) -> Option<String> {
        if self.binary(peer).is_none() {
            return Some(format!("not installed; apt-get install {}", peer.binary()));
        }
        let wants_module = peer == Peer::Nginx && carrier == Carrier::Stream;
        (wants_module && self.stream_module.is_none())
            .then(|| "no stream module; apt-get install libnginx-mod-stream".into())
    }

    /// The first line a peer says about itself.
    pub(crate) fn version(&self, peer: Peer) -> Option<String> {
        let mut command = self.environment();
        command.push(self.binary(peer)?.display().to_string());
        let output = Command::new(command.first()?).args(&command[1..]).arg("-v").output().ok()?;
        // nginx answers on stderr, HAProxy on stdout.
        let text = [output.stdout, output.stderr].concat();
        Some(String::from_utf8_lossy(&text).lines().next()?.to_owned())
    }

    fn environment(&self) -> Vec<String> {
        if self.libraries.is_empty() {
            return Vec::new();
        }
        let joined = env::join_paths(&self.libraries).unwrap_or_default();
        vec!["env".into(), format!("LD_LIBRARY_PATH={}", joined.display())]
    }

    /// Writes the configuration into `directory` and returns the command that serves it.
    pub(crate) fn command(
        &self,
        peer: Peer,
        service: &Service,
        address: SocketAddr,
        directory: &Path,
    ) -> anyhow::Result<Vec<String>> {
        let binary = self.binary(peer).with_context(|| format!("{peer} is not installed"))?;
        let stream_module = self.stream_module.as_deref().unwrap_or(Path::new(""));
        let open_files = getrlimit(Resource::Nofile).maximum.unwrap_or(1 << 20);
        let config = fill(
            peer.template(service),
            &[
                ("ADDRESS", address.to_string()),
                ("NODES", peer.nodes(service.nodes())),
                ("AUTH", peer.auth(service)),
                ("KEY", KEY.to_owned()),
                ("SPLICE", peer.splice().to_owned()),
                ("DIRECTORY", directory.display().to_string()),
                ("STREAM_MODULE", stream_module.display().to_string()),
                // A connection needs two files; nginx counts both ends against its limit.
                (
                    "CONNECTIONS",
                    match peer {
                        Peer::Nginx => (2 * CONNECTIONS_MAX).min(open_files).to_string(),
                        // And up to half a pipe, where it splices.
                        Peer::Haproxy | Peer::HaproxySplice => {
                            CONNECTIONS_MAX.min(open_files * 4 / 10 - 100).to_string()
                        }
                    },
                ),
                ("OPEN_FILES", open_files.to_string()),
            ],
        )?;
        let file = directory.join(format!("{}.conf", peer.binary()));
        std::fs::write(&file, config)?;
        let mut command = self.environment();
        command.push(binary.display().to_string());
        let file = file.display().to_string();
        command.extend(match peer {
            Peer::Nginx => {
                vec![
                    "-p".into(),
                    directory.display().to_string(),
                    "-e".into(),
                    "stderr".into(),
                    "-c".into(),
                    file,
                ]
            }
            Peer::Haproxy | Peer::HaproxySplice => vec!["-db".into(), "-f".into(), file],
        });
        Ok(command)
    }
}

/// What `cargo xtask` has unpacked with `dpkg -x`.
fn unpacked_roots() -> Vec<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")));
    let Some(debs) = cache.map(|cache| cache.join("tandem/debs")) else { return Vec::new() };
    let mut roots = vec![debs.clone()];
    if let Ok(entries) = std::fs::read_dir(&debs) {
        roots.extend(entries.filter_map(Result::ok).map(|entry| entry.path()));
    }
    roots.retain(|root| root.join("usr").is_dir());
    roots
}

/// Replaces each `{{NAME}}` outside comments; one that has no value is a mistake in the template.
fn fill(template: &str, values: &[(&str, String)]) -> anyhow::Result<String> {
    let mut text: String = template
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(|line| [line, "\n"])
        .collect();
    for (name, value) in values {
        text = text.replace(&format!("{{{{{name}}}}}"), value);
    }
    match text.split_once("{{") {
        Some((_, rest)) => {
            anyhow::bail!("template: nothing for {{{{{}", rest.lines().next().unwrap_or(""))
        }
        None => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_filled_completely() {
        let found = Found {
            nginx: Some("/usr/sbin/nginx".into()),
            haproxy: Some("/usr/sbin/haproxy".into()),
            stream_module: Some("/m.so".into()),
            libraries: Vec::new(),
        };
        let node = SocketAddr::from(([127, 0, 0, 1], 7001));
        let address = SocketAddr::from(([127, 0, 0, 1], 7000));
        let directory = tempfile::tempdir().unwrap();
        for service in [
            Service::Http { nodes: vec![node, node], auth: Auth::Key },
            Service::Http { nodes: vec![node], auth: Auth::Open },
            Service::Stream { node },
        ] {
            for peer in [Peer::Nginx, Peer::Haproxy, Peer::HaproxySplice] {
                found.command(peer, &service, address, directory.path()).unwrap();
                let file = directory.path().join(format!("{}.conf", peer.binary()));
                let text = std::fs::read_to_string(file).unwrap();
                assert!(
                    text.contains("127.0.0.1:7000") && text.contains("127.0.0.1:7001"),
                    "{text}"
                );
                let has_key = matches!(service, Service::Http { auth: Auth::Key, .. });
                assert_eq!(text.contains("401"), has_key, "{text}");
            }
        }
    }

    #[test]
    fn a_name_without_a_value_is_an_error() {
        assert!(fill("# {{COMMENT}}\nlisten {{ADDRESS}};", &[("ADDRESS", "a".into())]).is_ok());
        assert!(fill("listen {{ADDRESS}};", &[("NODES", String::new())]).is_err());
    }
}
