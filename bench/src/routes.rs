//! What a large table of routes costs a request: instructions with ten routes and with ten thousand,
//! asked the same. Every tenth of the thousands is one of the ten.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
};

use anyhow::ensure;

use crate::{
    callgrind::{self, Counted},
    placement::Placement,
    probe,
    process::{Program, Site},
    topology::free_address,
};

pub(crate) const MANY: usize = 10_000;
const FEW: usize = 10;
/// Between two of the few; prime to the number of kinds, so that every kind is among them.
const STEP: usize = MANY / FEW + 1;

/// Requests of each route that are not counted, and that are.
const REQUESTS_FIRST: u32 = 30;
const REQUESTS: u32 = 300;

/// What may be added, of a request's instructions.
const ADDED_MAX: f64 = 0.03;

const UPSTREAMS: usize = 100;

/// How a route is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Exact,
    Prefix,
    Parameter,
    Host,
    HostSuffix,
}

impl Kind {
    const ALL: [Self; 5] =
        [Self::Exact, Self::Prefix, Self::Parameter, Self::Host, Self::HostSuffix];

    const fn of(index: usize) -> Self {
        Self::ALL[index % Self::ALL.len()]
    }

    const fn label(self) -> &'static str {
        match self {
            Self::Exact => "exact path",
            Self::Prefix => "prefix",
            Self::Parameter => "path with a parameter",
            Self::Host => "exact host",
            Self::HostSuffix => "suffix of the host",
        }
    }

    /// What the route at `index` matches by.
    fn keys(self, index: usize) -> String {
        match self {
            Self::Exact => format!("uri: /exact/{index:05}"),
            Self::Prefix => format!("uri: /prefix/{index:05}/*"),
            Self::Parameter => format!("uri: '/parameter/{index:05}/:id/end'"),
            Self::Host => format!("uri: /*, host: h{index:05}.bench.test"),
            Self::HostSuffix => format!("uri: '/host/:id', host: '*.s{index:05}.bench.test'"),
        }
    }

    /// Path and host of a request for it.
    fn asked(self, index: usize) -> (String, String) {
        let host = || "bench.test".to_owned();
        match self {
            Self::Exact => (format!("/exact/{index:05}"), host()),
            Self::Prefix => (format!("/prefix/{index:05}/a/b"), host()),
            Self::Parameter => (format!("/parameter/{index:05}/7/end"), host()),
            Self::Host => ("/a/b".to_owned(), format!("h{index:05}.bench.test")),
            Self::HostSuffix => ("/host/7".to_owned(), format!("a.s{index:05}.bench.test")),
        }
    }
}

/// Routes of all kinds, at these indices; every fifth has a plugin that remembers something.
/// `first` is what stands in front of the routes.
pub(crate) fn config(
    (address, node): (SocketAddr, SocketAddr),
    indices: impl Iterator<Item = usize>,
    first: &str,
) -> anyhow::Result<String> {
    let mut text = format!(
        "workers: 1\n\
         listeners: [{{ name: bench, address: {address} }}]\n\
         kernel: {{ mode: \"off\" }}\n\
         upstreams:\n"
    );
    for index in 0..UPSTREAMS {
        writeln!(text, "  - {{ id: u{index}, nodes: {{ \"{node}\": 1 }} }}")?;
    }
    writeln!(text, "routes:\n{first}")?;
    for index in indices {
        let kind = Kind::of(index);
        let plugins = match kind {
            Kind::Exact => ", plugins: { limit-count: { count: 1000000, time_window: 60 } }",
            Kind::Prefix | Kind::Parameter | Kind::Host | Kind::HostSuffix => "",
        };
        let (keys, upstream) = (kind.keys(index), index % UPSTREAMS);
        writeln!(text, "  - {{ id: r{index}, {keys}, upstream_id: u{upstream}{plugins} }}")?;
    }
    Ok(text)
}

/// A node and where a proxy may listen.
pub(crate) fn ends(placement: &Placement) -> anyhow::Result<(Program, SocketAddr, SocketAddr)> {
    let site = Site { cpus: &placement.load, namespace: None };
    let (program, node) = Program::start_node(&["http", "127.0.0.1:0", "--name", "node"], site)?;
    Ok((program, free_address(Ipv4Addr::LOCALHOST)?, node))
}

/// The routes that are asked for, those with few routes have no others.
fn few() -> impl Iterator<Item = usize> + Clone {
    (0..FEW).map(|index| index * STEP).take_while(|index| *index < MANY)
}

/// Counts both tables and returns a table of what each kind of route costs.
pub(crate) fn report(tandem: &Path, placement: &Placement) -> anyhow::Result<String> {
    let with_few = counted(tandem, placement, few())?;
    let with_many = counted(tandem, placement, 0..MANY)?;
    let mut text =
        format!("| found by | {FEW} routes | {MANY} routes | more |\n|---|---:|---:|---:|\n");
    let share = |few: u64, many: u64| many as f64 / few as f64 - 1.0;
    let mean = |counts: &[u64]| counts.iter().sum::<u64>() / counts.len() as u64;
    for (at, kind) in Kind::ALL.iter().enumerate() {
        let of = |counts: &[u64]| {
            let own: Vec<u64> = counts.iter().skip(at).step_by(Kind::ALL.len()).copied().collect();
            mean(&own)
        };
        let (few, many) = (of(&with_few), of(&with_many));
        let more = 100.0 * share(few, many);
        writeln!(text, "| {} | {few} | {many} | {more:+.1} % |", kind.label())?;
    }
    let (few, many) = (mean(&with_few), mean(&with_many));
    let more = share(few, many);
    let verdict = if more <= ADDED_MAX { "met" } else { "MISSED" };
    writeln!(
        text,
        "instructions per request: {FEW} routes {few}, {MANY} routes {many}, {:+.1} %; \
         target ≤ {:.0} %: {verdict}",
        100.0 * more,
        100.0 * ADDED_MAX
    )?;
    Ok(text)
}

/// Instructions of a request for each of the few routes.
fn counted(
    tandem: &Path,
    placement: &Placement,
    indices: impl Iterator<Item = usize>,
) -> anyhow::Result<Vec<u64>> {
    let (_node, address, node) = ends(placement)?;
    let mut proxy =
        Counted::start(tandem, placement, (&config((address, node), indices, "")?, address))?;
    let mut client = probe::Client::connect(address)?;
    let mut ask = |index: usize, requests: u32| {
        let (path, host) = Kind::of(index).asked(index);
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: bench\r\n\r\n");
        for _ in 0..requests {
            let answer = client.exchange(request.as_bytes())?;
            ensure!(answer.status == 200, "{host}{path}: status {}", answer.status);
        }
        anyhow::Ok(())
    };
    for index in few() {
        ask(index, REQUESTS_FIRST)?;
    }
    proxy.begin()?;
    few()
        .map(|index| {
            ask(index, REQUESTS)?;
            Ok(callgrind::total(&proxy.take()?)? / u64::from(REQUESTS))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_few_are_among_the_many_and_of_every_kind() {
        let few: Vec<usize> = few().collect();
        assert_eq!(few.len(), FEW);
        for (at, index) in few.iter().enumerate() {
            assert_eq!(Kind::of(*index), Kind::ALL[at % Kind::ALL.len()]);
        }
    }
}
