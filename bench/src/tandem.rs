//! Ours: the modes it is measured in, its configuration, and what its metrics must show.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
};

use crate::{
    contestant::{Auth, KEY, Service},
    probe,
    topology::Network,
};

/// One way to run Tandem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mode {
    pub(crate) kernel: Kernel,
    /// For TCP services only.
    pub(crate) datapath: Datapath,
    /// For HTTP services only.
    pub(crate) splicing: Splicing,
    /// For HTTP services only.
    pub(crate) lane: Lane,
    pub(crate) workers: usize,
}

/// Who carries plain HTTP/1.1 requests: `listeners[].express_lane`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// As it comes.
    Express,
    /// `express_lane: false`
    Hyper,
}

impl Lane {
    /// As the label `lane` of the metrics calls it.
    const fn label(self) -> &'static str {
        match self {
            Self::Express => "express",
            Self::Hyper => "hyper",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// `kernel.mode: off`
    Off,
    /// `kernel.mode: require`, no XDP: on loopback every packet of load and nodes would meet the
    /// generic XDP hook too.
    On,
    /// `kernel.mode: require`, with XDP on the interface by which the client's packets come in.
    OnWithXdp,
    /// The same, and beside the service a stream route with `datapath: sockmap`, for [`tunnel`].
    OnWithXdpAndSockmap,
    /// `kernel.mode: require`, with `kernel.same_host` for whoever shares the proxy's namespace; where
    /// nobody does, for other namespaces too.
    SameHost,
    /// The same, switched off once the load is warm: its sockets are in the map, its bytes go by TCP.
    SwitchedOff,
    /// `kernel.same_host` without `bypass`: every response comes to the proxy.
    Local,
    /// As [`SameHost`](Self::SameHost), and most responses must have gone past the proxy.
    Bypass,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Datapath {
    User,
    Splice,
    Sockmap,
}

/// Which HTTP bodies are spliced: `limits.splice_min`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Splicing {
    /// As it comes.
    Default,
    /// `none`
    Never,
    /// `1B`: whatever can be.
    Always,
}

/// Of bodies, or chunks, from this size on, most must have been spliced unless [`Splicing::Never`] is
/// claimed: it is the default of `limits.splice_min`. Shorter ones may have come with their head, and
/// are then copied with it.
pub(crate) const SPLICED_MIN: u64 = 64 << 10;

impl Datapath {
    pub(crate) const ALL: [Self; 3] = [Self::User, Self::Splice, Self::Sockmap];

    /// As the configuration and the label `via` call it.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Splice => "splice",
            Self::Sockmap => "sockmap",
        }
    }
}

impl Mode {
    pub(crate) const fn http(kernel: Kernel) -> Self {
        Self {
            kernel,
            datapath: Datapath::User,
            splicing: Splicing::Default,
            lane: Lane::Express,
            workers: 1,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kernel {
            Kernel::Off => "tandem off",
            Kernel::On => "tandem on",
            Kernel::OnWithXdp => "tandem on+xdp",
            Kernel::OnWithXdpAndSockmap => "tandem on+xdp+sockmap",
            Kernel::SameHost => "tandem same-host",
            Kernel::SwitchedOff => "tandem same-host by TCP",
            Kernel::Local => "tandem local",
            Kernel::Bypass => "tandem bypass",
        })?;
        match self.datapath {
            Datapath::User => {}
            Datapath::Splice | Datapath::Sockmap => write!(f, " {}", self.datapath.label())?,
        }
        match self.splicing {
            Splicing::Default => {}
            Splicing::Never => f.write_str(" user")?,
            Splicing::Always => f.write_str(" splice")?,
        }
        match self.lane {
            Lane::Express => {}
            Lane::Hyper => write!(f, " {}", self.lane.label())?,
        }
        match self.workers {
            1 => Ok(()),
            workers => write!(f, " {workers} workers"),
        }
    }
}

/// What the binary says about itself.
pub(crate) fn version(binary: &Path) -> String {
    match Command::new(binary).arg("version").output() {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().replace('\n', "; ")
        }
        Ok(output) => format!("{}: {}", binary.display(), output.status),
        Err(error) => format!("{}: {error}", binary.display()),
    }
}

/// Why this mode cannot be had from a binary of that version, by this user.
pub(crate) fn absence(mode: Mode, version: &str) -> Option<String> {
    if mode.kernel == Kernel::Off {
        return None;
    }
    if version.contains("without") {
        return Some("built without the BPF object; cargo xtask build-ebpf".into());
    }
    (!rustix::process::geteuid().is_root()).then(|| "loading programs needs root".into())
}

pub(crate) fn command(binary: &Path, config: &Path) -> Vec<String> {
    vec![binary.display().to_string(), "run".into(), "-c".into(), config.display().to_string()]
}

/// The configuration file: no access log, and what the mode does not say as it comes.
pub(crate) fn config(
    mode: Mode,
    network: Network,
    service: &Service,
    address: SocketAddr,
    admin: SocketAddr,
) -> String {
    let (kernel, interfaces) = match mode.kernel {
        Kernel::Off => ("off", ""),
        Kernel::On => ("require", ""),
        Kernel::OnWithXdp | Kernel::OnWithXdpAndSockmap => {
            ("require", network.downstream_interface())
        }
        Kernel::SameHost | Kernel::SwitchedOff | Kernel::Local | Kernel::Bypass => ("require", ""),
    };
    let same_host = same_host(mode.kernel, network);
    let protocol = match (service, mode.lane) {
        (Service::Http { .. }, Lane::Express) => "http",
        (Service::Http { .. }, Lane::Hyper) => "http, express_lane: false",
        (Service::Stream { .. }, _) => "tcp",
    };
    let nodes: Vec<String> = service.nodes().iter().map(|node| format!("\"{node}\": 1")).collect();
    let nodes = nodes.join(", ");
    let limits = match mode.splicing {
        Splicing::Default => "",
        Splicing::Never => "limits: { splice_min: none }\n",
        Splicing::Always => "limits: { splice_min: 1B }\n",
    };
    // Of an address of its own, so that the service's port will do.
    let beside = match mode.kernel {
        Kernel::OnWithXdpAndSockmap => {
            format!("  - {{ name: tunnel, address: {}, protocol: tcp }}\n", tunnel(address))
        }
        Kernel::Off
        | Kernel::On
        | Kernel::OnWithXdp
        | Kernel::SameHost
        | Kernel::SwitchedOff
        | Kernel::Local
        | Kernel::Bypass => String::new(),
    };
    let workers = mode.workers;
    let mut text = format!(
        "workers: {workers}\n{limits}\
         listeners:\n  - {{ name: bench, address: {address}, protocol: {protocol} }}\n{beside}\
         kernel:\n  mode: \"{kernel}\"\n  xdp: {{ interfaces: [{interfaces}], mode: auto }}\n{same_host}\
         admin: {{ address: {admin} }}\n\
         log: {{ level: warn }}\n\
         upstreams:\n  - {{ id: app, type: roundrobin, nodes: {{ {nodes} }} }}\n"
    );
    let _ = match service {
        Service::Http { auth: Auth::Open, .. } => {
            write!(text, "routes:\n  - {{ id: all, uri: /*, upstream_id: app }}\n")
        }
        Service::Http { auth: Auth::Key, .. } => write!(
            text,
            "routes:\n  - {{ id: all, uri: /*, upstream_id: app, plugins: {{ key-auth: {{}} }} }}\n\
             consumers:\n  - {{ username: bench, plugins: {{ key-auth: {{ key: {KEY} }} }} }}\n"
        ),
        Service::Stream { .. } => write!(
            text,
            "stream_routes:\n  - {{ id: all, server_port: {}, datapath: {}, upstream_id: app }}\n",
            address.port(),
            mode.datapath.label()
        ),
    };
    if mode.kernel == Kernel::OnWithXdpAndSockmap {
        let _ = write!(
            text,
            "stream_routes:\n  - {{ id: tunnel, server_port: {}, datapath: sockmap, upstream_id: app }}\n",
            address.port()
        );
    }
    text
}

/// The key `kernel.same_host` as a line, if the mode has it.
fn same_host(kernel: Kernel, network: Network) -> String {
    let bypass = match kernel {
        Kernel::Off | Kernel::On | Kernel::OnWithXdp | Kernel::OnWithXdpAndSockmap => {
            return String::new();
        }
        Kernel::SameHost | Kernel::SwitchedOff | Kernel::Bypass => "",
        Kernel::Local => ", bypass: false",
    };
    let scope = match network {
        Network::Loopback | Network::Client => "",
        Network::Three => ", cross_namespace: true",
    };
    format!("  same_host: {{ enabled: true, cgroup: /{scope}{bypass} }}\n")
}

/// What [`config`] has made of an HTTP service, with one route more, and with nodes of another weight,
/// which makes another upstream of them.
pub(crate) fn changed(config: &str, version: u32) -> String {
    let reweighed = config.replace("\": 1", &format!("\": {}", 1 + version % 2));
    format!("{reweighed}  - {{ id: version, uri: /version/{version}, upstream_id: app }}\n")
}

/// Where [`Kernel::OnWithXdpAndSockmap`] carries connections to the node of the service at `address`,
/// for whoever is where the proxy is.
pub(crate) fn tunnel(address: SocketAddr) -> SocketAddr {
    (Ipv4Addr::new(127, 0, 0, 2), address.port()).into()
}

/// Has everything go by TCP from here on, of sockets that are in the map as well.
pub(crate) fn switch_off(admin: SocketAddr) -> anyhow::Result<()> {
    let answer = probe::Client::connect(admin)?.put("/bpf/same_host/off")?;
    anyhow::ensure!(answer.status == 200, "the switch answered {}", answer.status);
    Ok(())
}

/// One reading of the metrics page.
pub(crate) struct Metrics(String);

impl Metrics {
    /// What has happened before the start.
    pub(crate) const fn none() -> Self {
        Self(String::new())
    }

    pub(crate) fn read(admin: SocketAddr) -> anyhow::Result<Self> {
        let answer = probe::Client::connect(admin)?.get("/metrics", &[])?;
        anyhow::ensure!(answer.status == 200, "/metrics answered {}", answer.status);
        Ok(Self(String::from_utf8(answer.body)?))
    }

    /// The sum of a metric over every series that has all of `labels`.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let series = self.0.lines().filter_map(|line| line.strip_prefix(name));
        series.filter_map(|rest| series_value(rest, labels)).sum()
    }
}

impl Metrics {
    /// Each value that `label` has in a metric, with its sum.
    pub(crate) fn by_label(&self, name: &str, label: &str) -> BTreeMap<String, f64> {
        let mark = format!("{label}=\"");
        let value = |line: &str| {
            let (_, rest) = line.strip_prefix(name)?.split_once(&mark)?;
            Some(rest.split_once('"')?.0.to_owned())
        };
        let values = self.0.lines().filter_map(value);
        values.map(|value| (value.clone(), self.sum(name, &[(label, &value)]))).collect()
    }
}

/// The value of `{label="x",…} 12` or ` 12`, if it has the labels.
fn series_value(rest: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let (found, value) = match rest.strip_prefix('{') {
        Some(rest) => rest.rsplit_once('}')?,
        None => ("", rest.strip_prefix(' ').map(|_| rest)?),
    };
    let has = |(label, value): &(&str, &str)| {
        let wanted = format!("{label}=\"{value}\"");
        found.split(',').any(|pair| pair == wanted)
    };
    labels.iter().all(has).then(|| value.split_whitespace().next()?.parse().ok()).flatten()
}

/// What a load has sent through a mode, by which its counters are judged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Carried {
    pub(crate) connections: u64,
    pub(crate) requests: u64,
    /// At least, of each request and its answer together.
    pub(crate) bytes_each: u64,
    pub(crate) flow: Flow,
}

/// Whether what was sent was also read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    Free,
    /// It came to a halt on the way.
    Stalled,
}

/// Of each request that came to a halt, sockmap has at least moved this, which is less than its
/// window.
const REDIRECTED_MIN: u64 = 64 << 10;

/// What moved between two readings, as far as it tells which path the bytes took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct PathCounters {
    pub(crate) worker_picks: f64,
    pub(crate) ingress_packets: f64,
    /// Messages that went by no TCP.
    pub(crate) delivered: f64,
    /// Responses that have gone from the node to the client.
    pub(crate) passed: f64,
    /// Messages of sockets in the map that went by TCP because of the switch.
    pub(crate) switched_off: f64,
    /// Connections that are not delivered because their client is in another namespace.
    pub(crate) other_namespace: f64,
    pub(crate) express_requests: f64,
    pub(crate) hyper_requests: f64,
    pub(crate) user_bytes: f64,
    pub(crate) splice_bytes: f64,
    pub(crate) sockmap_bytes: f64,
}

impl PathCounters {
    pub(crate) fn between(before: &Metrics, after: &Metrics) -> Self {
        let moved = |name: &str, labels: &[(&str, &str)]| {
            after.sum(name, labels) - before.sum(name, labels)
        };
        let via = |via| moved("tandem_forward_bytes_total", &[("via", via)]);
        let lane = |lane: Lane| moved("tandem_lane_requests_total", &[("lane", lane.label())]);
        let program = |program, reason| {
            moved("tandem_kernel_packets_total", &[("program", program), ("reason", reason)])
        };
        Self {
            // Only what the program decided itself: the kernel's choice has other reasons.
            worker_picks: program("worker", "steered"),
            ingress_packets: program("ingress", "forwarded") + program("ingress", "admitted"),
            delivered: program("local", "delivered"),
            passed: program("bypass", "passed"),
            switched_off: program("local", "switched_off"),
            other_namespace: program("establish", "other_namespace"),
            express_requests: lane(Lane::Express),
            hyper_requests: lane(Lane::Hyper),
            user_bytes: via(Datapath::User.label()),
            splice_bytes: via(Datapath::Splice.label()),
            sockmap_bytes: via(Datapath::Sockmap.label()),
        }
    }

    /// For the raw data.
    pub(crate) fn named(&self) -> [(&'static str, f64); 11] {
        [
            ("worker_picks", self.worker_picks),
            ("ingress_packets", self.ingress_packets),
            ("delivered", self.delivered),
            ("passed", self.passed),
            ("switched_off", self.switched_off),
            ("other_namespace", self.other_namespace),
            ("express_requests", self.express_requests),
            ("hyper_requests", self.hyper_requests),
            ("user_bytes", self.user_bytes),
            ("splice_bytes", self.splice_bytes),
            ("sockmap_bytes", self.sockmap_bytes),
        ]
    }

    /// Why a row may not claim the path of `mode`, after a load.
    pub(crate) fn objection(
        &self,
        mode: Mode,
        network: Network,
        service: &Service,
        carried: Carried,
    ) -> Option<String> {
        let Carried { connections, requests, bytes_each, flow } = carried;
        let bytes = bytes_each * requests;
        let kernel = match mode.kernel {
            Kernel::Off => none("kernel packets", self.worker_picks + self.ingress_packets),
            Kernel::On => short("worker picks", self.worker_picks, connections),
            Kernel::OnWithXdp => self.objection_to_xdp(connections, requests),
            Kernel::OnWithXdpAndSockmap => self
                .objection_to_xdp(connections, requests)
                .or_else(|| short("bytes by sockmap", self.sockmap_bytes, 1)),
            Kernel::SameHost => self.objection_to_delivery(network, mode.lane, carried),
            Kernel::Local => self
                .objection_to_delivery(network, mode.lane, carried)
                .or_else(|| none("responses past the proxy", self.passed)),
            // Both connections have to be known for one first.
            Kernel::Bypass => self
                .objection_to_delivery(network, mode.lane, carried)
                .or_else(|| short("responses past the proxy", self.passed, requests / 2)),
            Kernel::SwitchedOff => {
                short("messages by TCP, in the map", self.switched_off, requests)
                    .or_else(|| none("messages delivered", self.delivered))
            }
        };
        let lane = match (service, mode.lane) {
            (Service::Http { .. }, Lane::Express) => {
                short("requests by the express lane", self.express_requests, requests)
                    .or_else(|| none("requests by hyper", self.hyper_requests))
            }
            (Service::Http { .. }, Lane::Hyper) => {
                short("requests by hyper", self.hyper_requests, requests)
                    .or_else(|| none("requests by the express lane", self.express_requests))
            }
            (Service::Stream { .. }, _) => None,
        };
        // hyper does not splice, and from a leg of the same host nobody can.
        let is_delivered = matches!(mode.kernel, Kernel::SameHost | Kernel::Local | Kernel::Bypass);
        let can_splice = mode.lane == Lane::Express && !is_delivered;
        let path = match (service, mode.datapath) {
            (Service::Http { .. }, _) => match mode.splicing {
                Splicing::Default | Splicing::Always if bytes_each >= SPLICED_MIN && can_splice => {
                    short("bytes by splice", self.splice_bytes, bytes / 2)
                }
                Splicing::Default | Splicing::Always => None,
                Splicing::Never => short("bytes by user", self.user_bytes, bytes)
                    .or_else(|| none("bytes by splice", self.splice_bytes)),
            },
            (Service::Stream { .. }, Datapath::User) => {
                short("bytes by user", self.user_bytes, bytes)
                    .or_else(|| none("other bytes", self.splice_bytes + self.sockmap_bytes))
            }
            (Service::Stream { .. }, Datapath::Splice) => {
                short("bytes by splice", self.splice_bytes, bytes)
                    .or_else(|| none("other bytes", self.user_bytes + self.sockmap_bytes))
            }
            (Service::Stream { .. }, Datapath::Sockmap) => {
                // Past its window sockmap spills to userspace and back. Where everybody reads, the
                // bulk must not; where nobody does, the bulk may.
                let least = match flow {
                    Flow::Free => bytes / 2,
                    Flow::Stalled => requests * REDIRECTED_MIN,
                };
                short("bytes by sockmap", self.sockmap_bytes, least)
                    .or_else(|| none("bytes by splice", self.splice_bytes))
            }
        };
        kernel.or(lane).or(path)
    }

    fn objection_to_xdp(&self, connections: u64, requests: u64) -> Option<String> {
        short("worker picks", self.worker_picks, connections)
            .or_else(|| short("ingress packets", self.ingress_packets, requests))
    }

    fn objection_to_delivery(
        &self,
        network: Network,
        lane: Lane,
        carried: Carried,
    ) -> Option<String> {
        let messages = delivered_messages(network, lane, carried);
        // A response that has gone past us was not delivered to us, nor by us.
        let delivered = self.delivered + 2.0 * self.passed;
        short("messages delivered", delivered, messages * carried.requests)
            .or_else(|| self.objection_to_clients(network, carried.connections))
    }

    /// Why clients were not taken for what they are: remote where they are alone in a namespace.
    fn objection_to_clients(&self, network: Network, connections: u64) -> Option<String> {
        let what = "clients in another namespace";
        match network {
            Network::Client => short(what, self.other_namespace, connections),
            Network::Loopback | Network::Three => none(what, self.other_namespace),
        }
    }
}

fn short(what: &str, seen: f64, wanted: u64) -> Option<String> {
    (seen < wanted as f64).then(|| format!("{what}: {seen} counted, {wanted} expected"))
}

fn none(what: &str, seen: f64) -> Option<String> {
    (seen > 0.0).then(|| format!("{what}: {seen} counted, none expected"))
}

/// Messages that must have been delivered for each request. A small request and its response are two
/// on each leg; a node's first ones go by TCP, so its leg alone never has two for each. A client's is
/// taken from the second request on. hyper's connections to nodes are no legs. Large bodies are many
/// messages, and prove less.
const fn delivered_messages(network: Network, lane: Lane, carried: Carried) -> u64 {
    let of_clients = match network {
        Network::Client => 0,
        Network::Loopback | Network::Three if carried.requests > carried.connections => 1,
        Network::Loopback | Network::Three => 0,
    };
    match lane {
        Lane::Express => of_clients + 1,
        Lane::Hyper => of_clients,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# TYPE tandem_kernel_packets_total counter\n\
        tandem_kernel_packets_total{program=\"worker\",reason=\"steered\"} 5\n\
        tandem_kernel_packets_total{reason=\"all_drained\",program=\"worker\"} 2\n\
        tandem_kernel_packets_total{program=\"ingress\",reason=\"forwarded\"} 100\n\
        tandem_forward_bytes_total{direction=\"upstream\",via=\"splice\"} 1e3\n\
        tandem_forward_bytes_total{direction=\"downstream\",via=\"splice\"} 24\n\
        tandem_build_info 1\n";

    #[test]
    fn metrics_are_summed_over_matching_series() {
        let page = Metrics(PAGE.into());
        for (name, labels, sum) in [
            ("tandem_kernel_packets_total", &[("program", "worker")][..], 7.0),
            ("tandem_kernel_packets_total", &[("program", "worker"), ("reason", "steered")], 5.0),
            ("tandem_kernel_packets_total", &[("program", "work")], 0.0),
            ("tandem_forward_bytes_total", &[("via", "splice")], 1024.0),
            ("tandem_build_info", &[], 1.0),
            ("tandem_build", &[], 0.0),
        ] {
            assert_eq!(page.sum(name, labels), sum, "{name} {labels:?}");
        }
    }

    #[test]
    fn sums_are_had_by_the_values_of_a_label() {
        let page = Metrics(PAGE.into());
        let by_program = page.by_label("tandem_kernel_packets_total", "program");
        let expected = [("ingress", 100.0), ("worker", 7.0)];
        assert_eq!(by_program, expected.map(|(name, n)| (name.to_owned(), n)).into());
        assert_eq!(page.by_label("tandem_build_info", "program").len(), 0);
    }

    #[test]
    fn changed_rules_have_another_route_and_other_weights() {
        let node = SocketAddr::from(([127, 0, 0, 1], 7));
        let service = Service::Http { nodes: vec![node, node], auth: Auth::Open };
        let config = config(Mode::http(Kernel::Off), Network::Loopback, &service, node, node);
        for (version, weight) in [(1, 2), (2, 1)] {
            let changed = changed(&config, version);
            let weights = changed.matches(&format!("\"127.0.0.1:7\": {weight}")).count();
            assert_eq!(weights, 2, "{changed}");
            let lines: Vec<&str> = changed.lines().rev().take(3).collect();
            let route = format!("  - {{ id: version, uri: /version/{version}, upstream_id: app }}");
            assert_eq!(lines, [&route, "  - { id: all, uri: /*, upstream_id: app }", "routes:"]);
        }
    }

    #[test]
    fn a_row_without_its_counters_is_refused() {
        let node = SocketAddr::from(([127, 0, 0, 1], 1));
        let stream = Service::Stream { node };
        let moved = PathCounters::between(&Metrics(String::new()), &Metrics(PAGE.into()));
        let check = |kernel, datapath, connections, requests, bytes_each| {
            let mode = Mode { datapath, ..Mode::http(kernel) };
            let carried = Carried { connections, requests, bytes_each, flow: Flow::Free };
            moved.objection(mode, Network::Loopback, &stream, carried)
        };
        assert_eq!(check(Kernel::OnWithXdp, Datapath::Splice, 5, 100, 10), None);
        assert!(check(Kernel::OnWithXdp, Datapath::Splice, 6, 100, 10).is_some());
        assert!(check(Kernel::OnWithXdp, Datapath::Splice, 5, 101, 10).is_some());
        assert!(check(Kernel::On, Datapath::Splice, 5, 1, 1025).is_some());
        assert!(check(Kernel::Off, Datapath::Splice, 0, 0, 0).is_some());
        assert!(check(Kernel::On, Datapath::User, 0, 0, 0).is_some());
        assert!(check(Kernel::On, Datapath::Sockmap, 0, 1, 10).is_some());
    }

    #[test]
    fn sockmap_moves_the_bulk_unless_nobody_reads() {
        let stream = Service::Stream { node: SocketAddr::from(([127, 0, 0, 1], 1)) };
        let check = |flow, sockmap_bytes: u64| {
            let moved = PathCounters {
                worker_picks: 2.0,
                sockmap_bytes: sockmap_bytes as f64,
                user_bytes: 1e9,
                ..PathCounters::between(&Metrics::none(), &Metrics::none())
            };
            let mode = Mode { datapath: Datapath::Sockmap, ..Mode::http(Kernel::On) };
            let carried = Carried { connections: 2, requests: 2, bytes_each: 1 << 20, flow };
            moved.objection(mode, Network::Loopback, &stream, carried).is_none()
        };
        assert!(check(Flow::Free, 1 << 20) && !check(Flow::Free, (1 << 20) - 1));
        assert!(check(Flow::Stalled, 128 << 10) && !check(Flow::Stalled, (128 << 10) - 1));
    }

    #[test]
    fn an_http_row_that_claims_a_path_is_refused_without_its_bytes() {
        let node = SocketAddr::from(([127, 0, 0, 1], 1));
        let http = Service::Http { nodes: vec![node], auth: Auth::Open };
        let check = |splicing, user_bytes, splice_bytes, bytes_each| {
            let moved = PathCounters {
                express_requests: 2.0,
                user_bytes,
                splice_bytes,
                ..PathCounters::between(&Metrics::none(), &Metrics::none())
            };
            let mode = Mode { splicing, ..Mode::http(Kernel::Off) };
            let carried = Carried { connections: 1, requests: 2, bytes_each, flow: Flow::Free };
            moved.objection(mode, Network::Loopback, &http, carried)
        };
        let large = SPLICED_MIN as f64;
        assert_eq!(check(Splicing::Always, 0.0, large, SPLICED_MIN), None);
        assert!(check(Splicing::Always, 2.0 * large, large - 1.0, SPLICED_MIN).is_some());
        assert_eq!(check(Splicing::Always, 2.0 * large, 0.0, SPLICED_MIN - 1), None);
        assert_eq!(check(Splicing::Never, 2.0 * large, 0.0, SPLICED_MIN), None);
        assert!(check(Splicing::Never, 2.0 * large, 1.0, SPLICED_MIN).is_some());
        assert!(check(Splicing::Never, 2.0 * large - 1.0, 0.0, SPLICED_MIN).is_some());
        assert_eq!(check(Splicing::Default, 0.0, large, SPLICED_MIN), None);
        assert!(check(Splicing::Default, 2.0 * large, large - 1.0, SPLICED_MIN).is_some());
        assert_eq!(check(Splicing::Default, 2.0 * large, 0.0, SPLICED_MIN - 1), None);
    }

    #[test]
    fn an_http_row_is_refused_without_its_lane() {
        let http = Service::Http { nodes: Vec::new(), auth: Auth::Open };
        let check = |lane, express_requests, hyper_requests| {
            let moved = PathCounters {
                express_requests,
                hyper_requests,
                ..PathCounters::between(&Metrics::none(), &Metrics::none())
            };
            let mode = Mode { lane, ..Mode::http(Kernel::Off) };
            let carried = Carried { connections: 1, requests: 9, bytes_each: 1, flow: Flow::Free };
            moved.objection(mode, Network::Loopback, &http, carried).is_none()
        };
        assert!(check(Lane::Express, 9.0, 0.0) && check(Lane::Hyper, 0.0, 9.0));
        assert!(!check(Lane::Express, 8.0, 0.0) && !check(Lane::Hyper, 0.0, 8.0));
        assert!(!check(Lane::Express, 9.0, 1.0) && !check(Lane::Hyper, 1.0, 9.0));
    }

    #[test]
    fn a_same_host_row_needs_its_legs_and_clients_where_they_are() {
        let http = Service::Http { nodes: Vec::new(), auth: Auth::Open };
        let check_on = |lane, network, connections, delivered, other_namespace| {
            let by = |one| if lane == one { 100.0 } else { 0.0 };
            let moved = PathCounters {
                delivered,
                other_namespace,
                express_requests: by(Lane::Express),
                hyper_requests: by(Lane::Hyper),
                ..PathCounters::between(&Metrics::none(), &Metrics::none())
            };
            let carried = Carried { connections, requests: 100, bytes_each: 1, flow: Flow::Free };
            let mode = Mode { lane, ..Mode::http(Kernel::SameHost) };
            moved.objection(mode, network, &http, carried).is_none()
        };
        let check = |network, connections, delivered, other_namespace| {
            check_on(Lane::Express, network, connections, delivered, other_namespace)
        };
        for network in [Network::Loopback, Network::Three] {
            assert!(check(network, 5, 200.0, 0.0));
            // The node's leg alone, as its first connection leaves it.
            assert!(!check(network, 5, 199.0, 0.0));
            assert!(!check(network, 5, 400.0, 1.0));
            // A connection for each request.
            assert!(check(network, 100, 100.0, 0.0));
            assert!(!check(network, 100, 99.0, 0.0));
        }
        // Clients' legs alone.
        assert!(check_on(Lane::Hyper, Network::Loopback, 5, 100.0, 0.0));
        assert!(!check_on(Lane::Hyper, Network::Loopback, 5, 99.0, 0.0));
        assert!(check_on(Lane::Hyper, Network::Client, 5, 0.0, 5.0));
        assert!(check(Network::Client, 5, 100.0, 5.0));
        assert!(!check(Network::Client, 5, 99.0, 5.0));
        assert!(!check(Network::Client, 5, 100.0, 4.0));
    }

    #[test]
    fn the_configuration_trusts_other_namespaces_only_where_nobody_shares_ours() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let service = Service::Http { nodes: vec![address], auth: Auth::Open };
        let config = |kernel, network| {
            super::config(Mode::http(kernel), network, &service, address, address)
        };
        for (network, crosses, interface) in [
            (Network::Loopback, false, "[lo]"),
            (Network::Client, false, "[client]"),
            (Network::Three, true, "[client]"),
        ] {
            let same_host = config(Kernel::SameHost, network);
            assert!(same_host.contains("same_host: { enabled: true"), "{same_host}");
            assert_eq!(same_host.contains("cross_namespace: true"), crosses, "{same_host}");
            assert!(!config(Kernel::On, network).contains("same_host"));
            for (kernel, is_bypassed) in [(Kernel::Local, false), (Kernel::Bypass, true)] {
                let text = config(kernel, network);
                let changed = same_host.replace(" }\nadmin", ", bypass: false }\nadmin");
                assert_eq!(text, if is_bypassed { same_host.clone() } else { changed });
            }
            let guarded = config(Kernel::OnWithXdp, network);
            assert!(guarded.contains(&format!("interfaces: {interface}")), "{guarded}");
        }
        let hyper = Mode { lane: Lane::Hyper, ..Mode::http(Kernel::Off) };
        for (mode, is_off) in [(Mode::http(Kernel::Off), false), (hyper, true)] {
            let text = super::config(mode, Network::Loopback, &service, address, address);
            assert_eq!(text.contains("protocol: http, express_lane: false }"), is_off, "{text}");
        }
    }

    #[test]
    fn a_row_with_all_programs_needs_packets_and_bytes_of_each() {
        let http = Service::Http { nodes: Vec::new(), auth: Auth::Open };
        let check = |worker_picks, ingress_packets, sockmap_bytes| {
            let moved = PathCounters {
                worker_picks,
                ingress_packets,
                sockmap_bytes,
                express_requests: 1.0,
                ..PathCounters::between(&Metrics::none(), &Metrics::none())
            };
            let mode = Mode::http(Kernel::OnWithXdpAndSockmap);
            let carried = Carried { connections: 1, requests: 1, bytes_each: 1, flow: Flow::Free };
            moved.objection(mode, Network::Loopback, &http, carried).is_none()
        };
        assert!(check(1.0, 1.0, 1.0));
        assert!(!check(0.0, 1.0, 1.0) && !check(1.0, 0.0, 1.0) && !check(1.0, 1.0, 0.0));
    }

    #[test]
    fn a_row_of_a_path_on_this_host_needs_responses_past_the_proxy_or_none() {
        let http = Service::Http { nodes: Vec::new(), auth: Auth::Open };
        let check = |kernel, delivered, passed| {
            let moved = PathCounters {
                delivered,
                passed,
                express_requests: 10.0,
                ..PathCounters::between(&Metrics::none(), &Metrics::none())
            };
            let carried = Carried { connections: 1, requests: 10, bytes_each: 1, flow: Flow::Free };
            moved.objection(Mode::http(kernel), Network::Loopback, &http, carried).is_none()
        };
        assert!(check(Kernel::Local, 40.0, 0.0));
        assert!(!check(Kernel::Local, 40.0, 1.0) && !check(Kernel::Local, 10.0, 0.0));
        assert!(check(Kernel::Bypass, 20.0, 5.0) && check(Kernel::SameHost, 20.0, 0.0));
        assert!(!check(Kernel::Bypass, 40.0, 4.0) && !check(Kernel::Bypass, 9.0, 5.0));
    }

    #[test]
    fn each_mode_has_a_name_of_its_own() {
        let off = Mode::http(Kernel::Off);
        assert_eq!(off.to_string(), "tandem off");
        let user = Mode { splicing: Splicing::Never, ..off };
        assert_eq!(user.to_string(), "tandem off user");
        let splice = Mode { splicing: Splicing::Always, ..off };
        assert_eq!(splice.to_string(), "tandem off splice");
        let hyper = Mode { lane: Lane::Hyper, ..off };
        assert_eq!(hyper.to_string(), "tandem off hyper");
        let two = Mode { workers: 2, ..Mode::http(Kernel::On) };
        assert_eq!(two.to_string(), "tandem on 2 workers");
        let same_host = [Kernel::SameHost, Kernel::Local, Kernel::Bypass].map(Mode::http);
        let names = same_host.map(|mode| mode.to_string());
        assert_eq!(names, ["tandem same-host", "tandem local", "tandem bypass"]);
    }
}
