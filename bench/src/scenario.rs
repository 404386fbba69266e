//! What is sent: each scenario as the cases it consists of, each case with its contestants.

use anyhow::bail;

use crate::{
    contestant::{Auth, Contestant},
    load::Reuse,
    peer::Peer,
    tandem::{Datapath, Kernel, Mode},
};

/// Every id that `bench run` knows, with what it is.
pub(crate) const SCENARIOS: [(&str, &str); 17] = [
    ("A0", "direct to the node"),
    ("A1", "plain proxy, keep-alive, 200 connections, small body"),
    ("A2", "key-auth, otherwise A1"),
    ("A3", "500 connections, otherwise A1"),
    ("A4", "ramp of 10 to 1000 connections"),
    ("A5", "constant rate, open loop, 50 % and 80 % of the contestant's own A1"),
    ("B1", "14.7 kB object, 100 to 1500 connections"),
    ("B3", "12.7 MB object, 1 to 100 connections"),
    ("C1", "three nodes, round robin, 10 connections"),
    ("C2", "three nodes, round robin, 50 connections"),
    ("C3", "three nodes, round robin, 100 connections"),
    ("D1", "a connection for each request, 100 to 1000 at a time"),
    ("D3", "process memory of an idle connection after one request"),
    ("L1", "TCP stream route: connection rate, echo and download by size"),
    ("M1", "slow readers and slow nodes: memory added to the same transfer without a proxy"),
    ("S1", "from start to the first answer, size of the binary"),
    ("X1", "XDP guard on loopback (generic): A1 and D1 with and without"),
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

#[derive(Debug, Clone)]
pub(crate) enum Work {
    Load(LoadWork),
    SlowTransfer { direction: Direction, carrier: Carrier },
    IdleConnections { connections: usize },
    StartUp,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct LoadWork {
    pub(crate) carrier: Carrier,
    pub(crate) traffic: Traffic,
    pub(crate) connections: usize,
    pub(crate) reuse: Reuse,
    /// Open loop at this share of the contestant's A1 throughput in the same round.
    pub(crate) share_of_own: Option<f64>,
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
    /// That many bytes there and back, without HTTP.
    Echo(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// The node sends, the client does not read for a while.
    Download,
    /// The client sends, the node does not read for a while.
    Upload,
}

/// 14.7 kB and 12.7 MB as the reports this goes back to had them.
const OBJECT_SMALL: u64 = 14_700;
const OBJECT_LARGE: u64 = 12_700_000;

/// The load needs a file for each and a proxy up to two and a half, of the 20,000 that a container
/// gets.
pub(crate) const IDLE_CONNECTIONS: usize = 7_500;

fn http_contestants() -> Vec<Contestant> {
    vec![
        Contestant::Direct,
        Contestant::Peer(Peer::Nginx),
        Contestant::Peer(Peer::Haproxy),
        Contestant::Tandem(Mode::http(Kernel::Off)),
        Contestant::Tandem(Mode::http(Kernel::On)),
    ]
}

fn stream_contestants() -> Vec<Contestant> {
    let mut contestants =
        vec![Contestant::Direct, Contestant::Peer(Peer::Nginx), Contestant::Peer(Peer::Haproxy)];
    contestants.extend(Datapath::ALL.map(|datapath| {
        let kernel = match datapath {
            Datapath::User | Datapath::Splice => Kernel::Off,
            Datapath::Sockmap => Kernel::On,
        };
        Contestant::Tandem(Mode { kernel, datapath })
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
        "A0" => {
            let mut cases = maker.small(&[200]);
            for case in &mut cases {
                case.contestants = vec![Contestant::Direct];
            }
            cases
        }
        "A1" => maker.small(&[200]),
        "A2" => maker.http(&[200], Traffic::Small, 1, Auth::Key),
        "A3" => maker.small(&[500]),
        "A4" => maker.small(&[10, 50, 100, 250, 500, 1000]),
        "A5" => maker.open_loop(&[0.5, 0.8]),
        "B1" => maker.http(&[100, 500, 1000, 1500], Traffic::Bytes(OBJECT_SMALL), 1, Auth::Open),
        "B3" => {
            maker.http(&[1, 2, 4, 10, 50, 80, 100], Traffic::Bytes(OBJECT_LARGE), 1, Auth::Open)
        }
        "C1" => maker.http(&[10], Traffic::Small, 3, Auth::Open),
        "C2" => maker.http(&[50], Traffic::Small, 3, Auth::Open),
        "C3" => maker.http(&[100], Traffic::Small, 3, Auth::Open),
        "D1" => maker.connection_rate(&[100, 500, 1000], Carrier::HTTP, http_contestants),
        "D3" => vec![maker.idle()],
        "L1" => maker.stream(),
        "M1" => maker.slow_transfers(),
        "S1" => vec![maker.case(String::new(), Work::StartUp, {
            let mut contestants = http_contestants();
            contestants.remove(0);
            contestants
        })],
        "X1" => maker.xdp(),
        _ => Vec::new(),
    }
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
            traffic,
            connections,
            reuse: Reuse::KeepAlive,
            share_of_own: None,
        };
        self.connections(counts)
            .into_iter()
            .map(|connections| {
                let label = connections.to_string();
                self.case(label, Work::Load(work(connections)), http_contestants())
            })
            .collect()
    }

    fn open_loop(&self, shares: &[f64]) -> Vec<Case> {
        let mut cases = Vec::new();
        for share in shares {
            for mut case in self.small(&[200]) {
                if let Work::Load(work) = &mut case.work {
                    work.share_of_own = Some(*share);
                }
                case.label = format!("{:.0}%", share * 100.0);
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
                    traffic: Traffic::Small,
                    connections,
                    reuse: Reuse::PerRequest,
                    share_of_own: None,
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
            let work = LoadWork {
                carrier: Carrier::Stream,
                traffic,
                connections: self.connections(&[connections])[0],
                reuse: Reuse::KeepAlive,
                share_of_own: None,
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
            case.contestants = xdp_contestants();
        }
        cases
    }

    fn idle(&self) -> Case {
        let connections = match self.extent {
            Extent::Full => IDLE_CONNECTIONS,
            Extent::Smoke => 100,
        };
        let mut contestants = http_contestants();
        contestants.remove(0);
        self.case(connections.to_string(), Work::IdleConnections { connections }, contestants)
    }

    fn slow_transfers(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        for (direction, word) in [(Direction::Download, "download"), (Direction::Upload, "upload")]
        {
            for (carrier, prefix, contestants) in [
                (Carrier::HTTP, "http", http_contestants as fn() -> Vec<Contestant>),
                (Carrier::Stream, "stream", stream_contestants),
            ] {
                let work = Work::SlowTransfer { direction, carrier };
                cases.push(self.case(format!("{prefix}-{word}"), work, contestants()));
            }
        }
        cases
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_has_cases_and_every_case_its_own_label() {
        for (id, _) in SCENARIOS {
            for extent in [Extent::Full, Extent::Smoke] {
                let cases = cases(id, extent).unwrap();
                assert!(!cases.is_empty(), "{id}");
                let mut labels: Vec<&str> = cases.iter().map(|case| case.label.as_str()).collect();
                labels.sort_unstable();
                labels.dedup();
                assert_eq!(labels.len(), cases.len(), "{id}");
                assert!(cases.iter().all(|case| !case.contestants.is_empty()), "{id}");
            }
        }
    }

    #[test]
    fn one_case_can_be_asked_for() {
        let cases = cases("b3/100", Extent::Full).unwrap();
        assert!(matches!(
            &cases[..],
            [Case { work: Work::Load(LoadWork { connections: 100, .. }), .. }]
        ));
        assert!(super::cases("B3/7", Extent::Full).is_err());
        assert!(super::cases("Z9", Extent::Full).is_err());
    }
}
