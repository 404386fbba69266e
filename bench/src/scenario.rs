//! What is sent: each scenario as the cases it consists of, each case with its contestants.

use std::time::Duration;

use anyhow::bail;

use crate::{
    contestant::{Auth, Contestant},
    load::{Reuse, response::BULK_MIN},
    peer::Peer,
    tandem::{Datapath, Kernel, Lane, Mode, SPLICED_MIN, Splicing},
};

/// Every id that `bench run` knows, with what it is.
pub(crate) const SCENARIOS: [(&str, &str); 25] = [
    ("A0", "direct to the node"),
    ("A1", "plain proxy, keep-alive, 200 connections, small body"),
    ("A2", "key-auth, otherwise A1"),
    ("A3", "500 connections, otherwise A1"),
    ("A4", "ramp of 10 to 1000 connections"),
    ("A5", "constant rate, open loop, shares of A1: the contestant's own, the best peer's"),
    ("B1", "14.7 kB object, 100 to 1500 connections"),
    ("B2", "16,384-byte body plus head (buffer boundary), 8 and 1000 to 5000 connections"),
    ("B3", "12.7 MB object, 1 to 100 connections"),
    ("B4", "100 and 800 MB objects, 1 and 2 connections, every byte compared"),
    ("B6", "bodies of 64 B to 64 MiB, down, in chunks and up: by each path, by others"),
    ("C1", "three nodes, round robin, 10 connections"),
    ("C2", "three nodes, round robin, 50 connections"),
    ("C3", "three nodes, round robin, 100 connections"),
    ("C4", "one of three nodes dies (SIGKILL) and comes back, over and over, 50 connections"),
    ("D1", "a connection for each request, 100 to 1000 at a time"),
    ("D3", "memory of a connection after one request, idle, and active: in the middle of another"),
    ("E1", "the rules change every 100 ms, 50 connections"),
    ("E3", "slow readers or slow nodes beside 50 connections that are not"),
    ("L1", "TCP stream route: connection rate, echo and download by size"),
    ("M1", "slow readers and slow nodes: memory added to the same transfer without a proxy"),
    ("S1", "from start to the first answer, size of the binary"),
    ("W1", "A1 with two workers beside one, load and nodes anywhere"),
    ("same-host", "client, proxy and node on one host, delivered directly: A2, D1, 1 MiB bodies"),
    ("X1", "XDP guard towards the client (loopback: generic): A1 and D1 with and without"),
];

/// How much of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// For figures.
    Full,
    /// One size of each, few connections: does it work?
    Smoke,
}

/// One table of the report.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) scenario: &'static str,
    pub(crate) label: String,
    pub(crate) work: Work,
    pub(crate) contestants: Vec<Contestant>,
}

impl Case {
    /// Whether its bodies are of a size at which splicing must show.
    const fn proves_splicing(&self) -> bool {
        match self.work {
            Work::Load(LoadWork {
                traffic: Traffic::Bytes(size) | Traffic::Chunked(size) | Traffic::Upload(size),
                ..
            }) => size >= SPLICED_MIN,
            Work::Load(_)
            | Work::SlowTransfer { .. }
            | Work::OpenConnections { .. }
            | Work::StartUp => false,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Work {
    Load(LoadWork),
    SlowTransfer { direction: Direction, carrier: Carrier, stall: Duration },
    OpenConnections { connections: usize, activity: Activity },
    StartUp,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct LoadWork {
    pub(crate) carrier: Carrier,
    pub(crate) traffic: Traffic,
    pub(crate) connections: usize,
    pub(crate) reuse: Reuse,
    pub(crate) pacing: Pacing,
    /// What happens to the service meanwhile.
    pub(crate) disruption: Option<Disruption>,
    /// What else it carries meanwhile, without getting on.
    pub(crate) beside: Option<Beside>,
    /// Load and nodes may run where the proxy does, wherever the other scenarios have them.
    pub(crate) is_shared: bool,
}

impl LoadWork {
    const fn http(traffic: Traffic, connections: usize) -> Self {
        Self {
            carrier: Carrier::HTTP,
            traffic,
            connections,
            reuse: Reuse::KeepAlive,
            pacing: Pacing::Closed,
            disruption: None,
            beside: None,
            is_shared: false,
        }
    }
}

/// Large transfers that come to a halt before a load is measured, and go on behind that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Beside {
    pub(crate) direction: Direction,
    pub(crate) transfers: usize,
}

/// What no request may notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disruption {
    /// A node is killed, and comes back.
    NodeDies,
    /// The configuration changes.
    Reloads,
}

/// Closed loop, or open loop at a share of a throughput that A1 had in the same round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Pacing {
    Closed,
    /// Of the contestant's own.
    OfOwn(f64),
    /// Of the best peer's: the same rate for all.
    OfBestPeer(f64),
}

/// Which service carries the traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carrier {
    Http { nodes: usize, auth: Auth },
    Stream,
}

impl Carrier {
    pub(crate) const HTTP: Self = Self::Http { nodes: 1, auth: Auth::Open };

    pub(crate) const fn nodes(self) -> usize {
        match self {
            Self::Http { nodes, .. } => nodes,
            Self::Stream => 1,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// GET, and the node's small body.
    Small,
    /// GET, and that many bytes of the pattern.
    Bytes(u64),
    /// The same in chunks.
    Chunked(u64),
    /// POST of that many bytes of the pattern, and what the node says of them.
    Upload(u64),
    /// That many bytes there and back, without HTTP.
    Echo(u64),
}

impl Traffic {
    /// The size of an object that takes so long that whole ones are too coarse a measure.
    pub(crate) const fn bulk(self) -> Option<u64> {
        match self {
            Self::Bytes(size) if size >= BULK_MIN => Some(size),
            Self::Small | Self::Bytes(_) | Self::Chunked(_) | Self::Upload(_) | Self::Echo(_) => {
                None
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// The node sends, the client does not read for a while.
    Download,
    /// The client sends, the node does not read for a while.
    Upload,
}

/// What a connection that has had a request is doing when its memory is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activity {
    Idle,
    /// It is in the middle of another one, which the node has seen the beginning of.
    Active,
}

/// 14.7 kB and 12.7 MB as the reports this goes back to had them.
const OBJECT_SMALL: u64 = 14_700;
const OBJECT_LARGE: u64 = 12_700_000;

/// A body that with its head is just too long for a buffer of 16 KiB.
const OBJECT_BOUNDARY: u64 = 16_384;

/// B2: so few that nobody waits for a turn, and a stall is one.
pub(crate) const CONNECTIONS_FEW: usize = 8;

/// B4: objects by label.
const OBJECTS_BULK: [(&str, u64); 2] = [("100MB", 100_000_000), ("800MB", 800_000_000)];

/// B6: bodies by label, in ascending order, each with as many connections as keep the proxy busy.
pub(crate) const SWEEP: [(&str, u64, usize); 11] = [
    ("64B", 64, 64),
    ("1KiB", 1 << 10, 64),
    ("4KiB", 4 << 10, 64),
    ("16KiB", 16 << 10, 64),
    ("32KiB", 32 << 10, 64),
    ("64KiB", 64 << 10, 64),
    ("128KiB", 128 << 10, 64),
    ("256KiB", 256 << 10, 64),
    ("1MiB", 1 << 20, 8),
    ("8MiB", 8 << 20, 8),
    ("64MiB", 64 << 20, 2),
];

/// B6: up to this size a node's response is one call, and may go past the proxy.
const PASSED_MAX: u64 = 64 << 10;

/// One way in which B6 sends bodies.
pub(crate) struct Sweep {
    /// Of the labels of its cases.
    pub(crate) prefix: &'static str,
    pub(crate) whose: &'static str,
    traffic: fn(u64) -> Traffic,
    /// Those of [`SWEEP`] that it has.
    labels: &'static [&'static str],
}

pub(crate) const SWEEPS: [Sweep; 3] = [
    Sweep {
        prefix: "",
        whose: "bodies of nodes",
        traffic: Traffic::Bytes,
        labels: &[
            "64B", "1KiB", "4KiB", "16KiB", "32KiB", "64KiB", "128KiB", "256KiB", "1MiB", "8MiB",
            "64MiB",
        ],
    },
    Sweep {
        prefix: "chunked-",
        whose: "bodies of nodes in chunks",
        traffic: Traffic::Chunked,
        // Of less, most may have been read with the head.
        labels: &["256KiB", "1MiB"],
    },
    Sweep {
        prefix: "upload-",
        whose: "bodies of clients",
        traffic: Traffic::Upload,
        labels: &["16KiB", "64KiB", "256KiB", "1MiB"],
    },
];

/// A5: the case in which everybody gets four fifths of what the best peer can do.
pub(crate) const AT_PEERS_RATE: &str = "80%-of-best-peer";

/// E3: its cases.
pub(crate) const ALONE: &str = "alone";
pub(crate) const SLOW_READERS: &str = "slow-readers";
pub(crate) const SLOW_NODES: &str = "slow-nodes";

/// D3: the labels of active connections begin with it.
pub(crate) const ACTIVE: &str = "active-";

/// D3: the load needs a file for each and a proxy up to two and a half, of the 20,000 that a container
/// gets.
pub(crate) const OPEN_CONNECTIONS: usize = 7_500;

fn http_contestants() -> Vec<Contestant> {
    vec![
        Contestant::Direct,
        Contestant::Peer(Peer::Nginx),
        Contestant::Peer(Peer::Haproxy),
        Contestant::Peer(Peer::Envoy),
        Contestant::Peer(Peer::Caddy),
        Contestant::Tandem(Mode::http(Kernel::Off)),
        Contestant::Tandem(Mode::http(Kernel::On)),
    ]
}

/// Everybody, and Tandem with hyper on both sides.
fn lane_contestants() -> Vec<Contestant> {
    let mut contestants = http_contestants();
    let hyper = Mode { lane: Lane::Hyper, ..Mode::http(Kernel::Off) };
    contestants.push(Contestant::Tandem(hyper));
    contestants
}

/// Everybody, and Tandem where what is slow is delivered to directly.
fn beside_contestants() -> Vec<Contestant> {
    let mut contestants = lane_contestants();
    contestants.push(Contestant::Tandem(Mode::http(Kernel::SameHost)));
    contestants
}

/// Where bodies are large enough to splice, HAProxy is also asked to.
fn large_contestants() -> Vec<Contestant> {
    let mut contestants = http_contestants();
    let haproxy = Contestant::Peer(Peer::Haproxy);
    let after = contestants.iter().position(|one| *one == haproxy).map_or(0, |index| index + 1);
    contestants.insert(after, Contestant::Peer(Peer::HaproxySplice));
    contestants
}

/// Tandem as it comes, and by the paths that B6 compares. What goes past the proxy is one message.
fn sweep_contestants(traffic: Traffic) -> Vec<Contestant> {
    let mut contestants = large_contestants();
    contestants.retain(|one| *one != Contestant::Tandem(Mode::http(Kernel::On)));
    contestants.extend(
        [Splicing::Never, Splicing::Always]
            .map(|splicing| Contestant::Tandem(Mode { splicing, ..Mode::http(Kernel::Off) })),
    );
    contestants.push(Contestant::Tandem(Mode::http(Kernel::Local)));
    if matches!(traffic, Traffic::Bytes(size) if size <= PASSED_MAX) {
        contestants.push(Contestant::Tandem(Mode::http(Kernel::Bypass)));
    }
    contestants
}

/// Both lanes, without the kernel half, with it, and with all of it that there is. Peers stay out: what
/// they send again, and whom they let finish, is a matter of how they are configured.
fn disrupted_contestants() -> Vec<Contestant> {
    let mut contestants = Vec::new();
    for kernel in [Kernel::Off, Kernel::On, Kernel::SameHost] {
        contestants.extend(
            [Lane::Express, Lane::Hyper]
                .map(|lane| Contestant::Tandem(Mode { lane, ..Mode::http(kernel) })),
        );
    }
    contestants
}

/// Peers stay out: their second worker would show how they deal connections out, not ours.
fn worker_contestants() -> Vec<Contestant> {
    let mut contestants = vec![Contestant::Direct];
    for kernel in [Kernel::Off, Kernel::On] {
        contestants.extend(
            [1, 2].map(|workers| Contestant::Tandem(Mode { workers, ..Mode::http(kernel) })),
        );
    }
    contestants
}

fn stream_contestants() -> Vec<Contestant> {
    let mut contestants = vec![Contestant::Direct];
    contestants.extend(Peer::PROGRAMS.map(Contestant::Peer));
    contestants.extend(Datapath::ALL.map(|datapath| {
        let kernel = match datapath {
            Datapath::User | Datapath::Splice => Kernel::Off,
            Datapath::Sockmap => Kernel::On,
        };
        Contestant::Tandem(Mode { datapath, ..Mode::http(kernel) })
    }));
    contestants
}

fn xdp_contestants() -> Vec<Contestant> {
    [Kernel::Off, Kernel::On, Kernel::OnWithXdp]
        .map(|kernel| Contestant::Tandem(Mode::http(kernel)))
        .to_vec()
}

/// The cases of `id`; `ID/LABEL` takes one case of a scenario.
pub(crate) fn cases(id: &str, extent: Extent) -> anyhow::Result<Vec<Case>> {
    let (id, label) = id.split_once('/').map_or((id, None), |(id, label)| (id, Some(label)));
    let Some((scenario, _)) = SCENARIOS.iter().find(|(known, _)| known.eq_ignore_ascii_case(id))
    else {
        let known: Vec<&str> = SCENARIOS.iter().map(|(id, _)| *id).collect();
        bail!("no scenario `{id}`; there are {}", known.join(" "));
    };
    let mut cases = all_cases(scenario, extent);
    if let Some(label) = label {
        cases.retain(|case| case.label == label);
        if cases.is_empty() {
            bail!("scenario {scenario} has no case `{label}`");
        }
    }
    Ok(cases)
}

fn all_cases(scenario: &'static str, extent: Extent) -> Vec<Case> {
    let maker = Maker { scenario, extent };
    match scenario {
        "A0" => among(|| vec![Contestant::Direct], maker.small(&[200])),
        "A1" => among(lane_contestants, maker.small(&[200])),
        "A2" => among(lane_contestants, maker.http(&[200], Traffic::Small, 1, Auth::Key)),
        "A3" => maker.small(&[500]),
        "A4" => maker.small(&[10, 50, 100, 250, 500, 1000]),
        "A5" => maker.open_loop(),
        "B1" => maker.object(&[100, 500, 1000, 1500], OBJECT_SMALL, http_contestants),
        "B2" => {
            let counts = [CONNECTIONS_FEW, 1000, 1500, 2500, 5000];
            maker.object(&counts, OBJECT_BOUNDARY, http_contestants)
        }
        "B3" => maker.object(&[1, 2, 4, 10, 50, 80, 100], OBJECT_LARGE, large_contestants),
        "B4" => maker.bulk(),
        "B6" => maker.sweep(),
        "C1" => maker.http(&[10], Traffic::Small, 3, Auth::Open),
        "C2" => maker.http(&[50], Traffic::Small, 3, Auth::Open),
        "C3" => maker.http(&[100], Traffic::Small, 3, Auth::Open),
        "C4" => maker.disrupted(Disruption::NodeDies),
        "D1" => maker.connection_rate(&[100, 500, 1000], Carrier::HTTP, http_contestants),
        "D3" => maker.open_connections(),
        "E1" => maker.disrupted(Disruption::Reloads),
        "E3" => maker.beside(),
        "L1" => maker.stream(),
        "M1" => maker.slow_transfers(),
        "S1" => vec![maker.case(String::new(), Work::StartUp, {
            let mut contestants = http_contestants();
            contestants.remove(0);
            contestants.push(Contestant::Tandem(Mode::http(Kernel::OnWithXdpAndSockmap)));
            contestants
        })],
        "W1" => maker.workers(),
        "same-host" => maker.same_host(),
        "X1" => maker.xdp(),
        _ => Vec::new(),
    }
}

/// The same cases among others.
fn among(contestants: impl Fn() -> Vec<Contestant>, mut cases: Vec<Case>) -> Vec<Case> {
    for case in &mut cases {
        case.contestants = contestants();
    }
    cases
}

/// Makes the cases of one scenario.
struct Maker {
    scenario: &'static str,
    extent: Extent,
}

impl Maker {
    fn case(&self, label: String, work: Work, contestants: Vec<Contestant>) -> Case {
        Case { scenario: self.scenario, label, work, contestants }
    }

    /// Connection counts as given, or a few of the first.
    fn connections(&self, counts: &[usize]) -> Vec<usize> {
        match self.extent {
            Extent::Full => counts.to_vec(),
            Extent::Smoke => counts.iter().take(1).map(|count| *count.min(&20)).collect(),
        }
    }

    fn small(&self, counts: &[usize]) -> Vec<Case> {
        self.http(counts, Traffic::Small, 1, Auth::Open)
    }

    fn http(&self, counts: &[usize], traffic: Traffic, nodes: usize, auth: Auth) -> Vec<Case> {
        let work = |connections| LoadWork {
            carrier: Carrier::Http { nodes, auth },
            ..LoadWork::http(traffic, connections)
        };
        self.connections(counts)
            .into_iter()
            .map(|connections| {
                let label = connections.to_string();
                self.case(label, Work::Load(work(connections)), http_contestants())
            })
            .collect()
    }

    fn object(
        &self,
        counts: &[usize],
        size: u64,
        contestants: fn() -> Vec<Contestant>,
    ) -> Vec<Case> {
        among(contestants, self.http(counts, Traffic::Bytes(size), 1, Auth::Open))
    }

    fn bulk(&self) -> Vec<Case> {
        // As long as the full one, a smoke run would be mostly this.
        let (objects, counts) = match self.extent {
            Extent::Full => (&OBJECTS_BULK[..], &[1, 2][..]),
            Extent::Smoke => (&[("1MB", 1_000_000)][..], &[1][..]),
        };
        let mut cases = Vec::new();
        for (name, size) in objects {
            for &connections in counts {
                let work = LoadWork::http(Traffic::Bytes(*size), connections);
                let label = format!("{name}-{connections}");
                cases.push(self.case(label, Work::Load(work), large_contestants()));
            }
        }
        cases
    }

    fn sweep(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        for Sweep { prefix, traffic, labels, .. } in SWEEPS {
            let sizes = SWEEP.iter().filter(|(label, ..)| labels.contains(label));
            let of_sweep = sizes.map(|(label, size, connections)| {
                let connections = self.connections(&[*connections])[0];
                let work = LoadWork::http(traffic(*size), connections);
                let contestants = sweep_contestants(work.traffic);
                self.case(format!("{prefix}{label}"), Work::Load(work), contestants)
            });
            match self.extent {
                Extent::Full => cases.extend(of_sweep),
                // One of which the counters have to prove the path.
                Extent::Smoke => {
                    cases.extend(of_sweep.filter(|case| case.proves_splicing()).take(1))
                }
            }
        }
        cases
    }

    fn disrupted(&self, disruption: Disruption) -> Vec<Case> {
        let mut cases = self.http(&[50], Traffic::Small, 3, Auth::Open);
        for case in &mut cases {
            if let Work::Load(work) = &mut case.work {
                work.disruption = Some(disruption);
            }
        }
        among(disrupted_contestants, cases)
    }

    /// A smoke run has ours alone.
    fn beside(&self) -> Vec<Case> {
        let (transfers, ours) = match self.extent {
            Extent::Full => (16, Vec::new()),
            Extent::Smoke => {
                let lanes = [Lane::Express, Lane::Hyper];
                let mode = |lane| Mode { lane, ..Mode::http(Kernel::Off) };
                (2, lanes.map(|lane| Contestant::Tandem(mode(lane))).to_vec())
            }
        };
        let beside = |direction| Some(Beside { direction, transfers });
        let cases = [
            (ALONE, None),
            (SLOW_READERS, beside(Direction::Download)),
            (SLOW_NODES, beside(Direction::Upload)),
        ];
        let cases = cases.into_iter().filter(|(_, it)| self.extent == Extent::Full || it.is_some());
        let work = LoadWork::http(Traffic::Small, self.connections(&[50])[0]);
        let made = cases.map(|(label, beside)| {
            let contestants = if ours.is_empty() { beside_contestants() } else { ours.clone() };
            self.case(label.into(), Work::Load(LoadWork { beside, ..work }), contestants)
        });
        made.collect()
    }

    fn workers(&self) -> Vec<Case> {
        let mut cases = among(worker_contestants, self.small(&[200]));
        for case in &mut cases {
            if let Work::Load(work) = &mut case.work {
                work.is_shared = true;
            }
        }
        cases
    }

    fn open_loop(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        for (label, pacing) in [
            ("50%", Pacing::OfOwn(0.5)),
            ("80%", Pacing::OfOwn(0.8)),
            (AT_PEERS_RATE, Pacing::OfBestPeer(0.8)),
        ] {
            for mut case in self.small(&[200]) {
                if let Work::Load(work) = &mut case.work {
                    work.pacing = pacing;
                }
                case.label = label.into();
                case.contestants.remove(0);
                cases.push(case);
            }
        }
        cases
    }

    fn connection_rate(
        &self,
        counts: &[usize],
        carrier: Carrier,
        contestants: fn() -> Vec<Contestant>,
    ) -> Vec<Case> {
        self.connections(counts)
            .into_iter()
            .map(|connections| {
                let work = LoadWork {
                    carrier,
                    reuse: Reuse::PerRequest,
                    ..LoadWork::http(Traffic::Small, connections)
                };
                self.case(connections.to_string(), Work::Load(work), contestants())
            })
            .collect()
    }

    fn stream(&self) -> Vec<Case> {
        let mut cases = self.connection_rate(&[100], Carrier::Stream, stream_contestants);
        for case in &mut cases {
            case.label = "connect".into();
        }
        for (label, traffic, connections) in [
            ("echo-128B", Traffic::Echo(128), 100),
            ("echo-16KiB", Traffic::Echo(16 << 10), 100),
            ("echo-1MiB", Traffic::Echo(1 << 20), 8),
            ("get-16KiB", Traffic::Bytes(16 << 10), 100),
            ("get-1MiB", Traffic::Bytes(1 << 20), 8),
        ] {
            let connections = self.connections(&[connections])[0];
            // A tunnel in the kernel works on whichever processor its bytes come in: split, `sockmap`
            // would have the load's processor and leave the proxy's idle.
            let work = LoadWork {
                carrier: Carrier::Stream,
                is_shared: true,
                ..LoadWork::http(traffic, connections)
            };
            cases.push(self.case(label.into(), Work::Load(work), stream_contestants()));
        }
        cases
    }

    fn xdp(&self) -> Vec<Case> {
        let mut cases = self.small(&[200]);
        cases.extend(self.connection_rate(&[100], Carrier::HTTP, http_contestants));
        for (case, label) in cases.iter_mut().zip(["keep-alive", "connection-rate"]) {
            case.label = label.into();
        }
        among(xdp_contestants, cases)
    }

    fn same_host(&self) -> Vec<Case> {
        let mut cases = self.http(&[200], Traffic::Small, 1, Auth::Key);
        cases.extend(self.connection_rate(&[500], Carrier::HTTP, http_contestants));
        cases.extend(self.object(&[8], 1 << 20, large_contestants));
        for (case, label) in cases.iter_mut().zip(["A2", "D1", "1MiB"]) {
            case.label = label.into();
            let on = |one: &Contestant| *one == Contestant::Tandem(Mode::http(Kernel::On));
            case.contestants.retain(|one| !on(one));
            case.contestants.push(Contestant::Tandem(Mode::http(Kernel::SameHost)));
        }
        let Some(keyed) = cases.first_mut() else { return cases };
        let mut at_a_rate = keyed.clone();
        keyed.contestants.push(Contestant::Tandem(Mode::http(Kernel::SwitchedOff)));
        at_a_rate.label = AT_PEERS_RATE.into();
        at_a_rate.contestants.retain(|one| *one != Contestant::Direct);
        if let Work::Load(work) = &mut at_a_rate.work {
            work.pacing = Pacing::OfBestPeer(0.8);
        }
        cases.push(at_a_rate);
        cases
    }

    fn open_connections(&self) -> Vec<Case> {
        let connections = match self.extent {
            Extent::Full => OPEN_CONNECTIONS,
            Extent::Smoke => 100,
        };
        let mut contestants = http_contestants();
        contestants.remove(0);
        [(String::new(), Activity::Idle), (ACTIVE.to_owned(), Activity::Active)]
            .map(|(prefix, activity)| {
                let work = Work::OpenConnections { connections, activity };
                self.case(format!("{prefix}{connections}"), work, contestants.clone())
            })
            .into()
    }

    fn slow_transfers(&self) -> Vec<Case> {
        let stall = match self.extent {
            Extent::Full => Duration::from_secs(2),
            Extent::Smoke => Duration::from_millis(200),
        };
        let mut cases = Vec::new();
        for (direction, word) in [(Direction::Download, "download"), (Direction::Upload, "upload")]
        {
            for (carrier, prefix, contestants) in [
                (Carrier::HTTP, "http", http_contestants as fn() -> Vec<Contestant>),
                (Carrier::Stream, "stream", stream_contestants),
            ] {
                let work = Work::SlowTransfer { direction, carrier, stall };
                cases.push(self.case(format!("{prefix}-{word}"), work, contestants()));
            }
        }
        cases
    }
}

#[cfg(test)]
mod tests;
