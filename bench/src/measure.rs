//! One measurement: a contestant, a case, one round.

mod memory;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use crate::{
    contestant::{Auth, Binaries, Contestant, KEY, Service, Started},
    load::{
        self, Exchange, Load, Outcome, Pace, Reuse,
        response::{Expected, ExpectedBody},
    },
    machine::{self, CpuUse, Snapshot},
    placement::Placement,
    probe,
    process::Program,
    scenario::{Carrier, Case, LoadWork, Traffic, Work},
    tandem::{Metrics, PathCounters},
};

/// The part of a load that is thrown away.
const WARM_UP: Duration = Duration::from_millis(500);

/// How long the first responses may take; then the measurement goes on and shows what is wrong.
const WARM_UP_MAX: Duration = Duration::from_secs(10);

/// How long counters may lag behind the load.
const COUNTERS_MAX: Duration = Duration::from_secs(2);

/// Named values of one measurement. Seconds, bytes and microseconds as the name says.
pub(crate) type Figures = BTreeMap<String, f64>;

/// How a measurement ended.
pub(crate) enum Measured {
    Good(Figures),
    /// An answer was wrong, or a claim not proved: no figures.
    Wrong(String),
    /// The machine was not ours alone: worth another try.
    Disturbed(String, Figures),
}

/// What does not change within a run.
pub(crate) struct Bench {
    pub(crate) binaries: Binaries,
    pub(crate) placement: Placement,
    /// Measured part of a load.
    pub(crate) window: Duration,
    pub(crate) processors: usize,
}

/// Nodes that serve, with what they say.
struct Nodes {
    programs: Vec<Program>,
    addresses: Vec<SocketAddr>,
}

impl Nodes {
    fn start(bench: &Bench, carrier: Carrier, traffic: Traffic) -> anyhow::Result<Self> {
        let mut nodes = Self { programs: Vec::new(), addresses: Vec::new() };
        for index in 0..carrier.nodes() {
            let name = node_name(index);
            let arguments: &[&str] = match traffic {
                Traffic::Echo(_) => &["echo", "127.0.0.1:0"],
                Traffic::Small | Traffic::Bytes(_) => &["http", "127.0.0.1:0", "--name", &name],
            };
            let (program, address) = Program::start_node(arguments, &bench.placement.load)?;
            nodes.programs.push(program);
            nodes.addresses.push(address);
        }
        Ok(nodes)
    }

    fn service(&self, carrier: Carrier) -> anyhow::Result<Service> {
        Ok(match carrier {
            Carrier::Http { auth, .. } => Service::Http { nodes: self.addresses.clone(), auth },
            Carrier::Stream => {
                Service::Stream { node: *self.addresses.first().context("a stream has a node")? }
            }
        })
    }

    fn pids(&self) -> Vec<u32> {
        self.programs.iter().map(Program::pid).collect()
    }
}

fn node_name(index: usize) -> String {
    format!("node-{index}")
}

impl Bench {
    /// `own_rate` is the contestant's own A1 throughput in this round, if it has been measured.
    pub(crate) fn measure(
        &self,
        case: &Case,
        contestant: Contestant,
        own_rate: Option<f64>,
    ) -> anyhow::Result<Measured> {
        match &case.work {
            Work::Load(work) => self.measure_load(work, contestant, own_rate),
            Work::SlowTransfer { direction, carrier } => {
                self.measure_slow_transfer(*direction, *carrier, contestant)
            }
            Work::IdleConnections { connections } => {
                self.measure_idle_connections(*connections, contestant)
            }
            Work::StartUp => self.measure_start_up(contestant),
        }
    }

    fn measure_start_up(&self, contestant: Contestant) -> anyhow::Result<Measured> {
        let nodes = Nodes::start(self, Carrier::HTTP, Traffic::Small)?;
        let started =
            contestant.start(&nodes.service(Carrier::HTTP)?, &self.binaries, &self.placement)?;
        // A socket may listen before what serves it is loaded.
        let answer = probe::Client::connect(started.target)?.get("/", &[])?;
        ensure!(answer.status == 200, "the first answer has status {}", answer.status);
        let start_up = started.since.elapsed().as_secs_f64();
        let mut figures = Figures::from([("start_up_seconds".to_owned(), start_up)]);
        if let Contestant::Tandem(_) = contestant {
            let size = std::fs::metadata(&self.binaries.tandem)?.len();
            figures.insert("binary_bytes".to_owned(), size as f64);
        }
        Ok(Measured::Good(figures))
    }

    fn measure_load(
        &self,
        work: &LoadWork,
        contestant: Contestant,
        own_rate: Option<f64>,
    ) -> anyhow::Result<Measured> {
        let pace = match (work.share_of_own, own_rate) {
            (None, _) => Pace::Closed,
            (Some(share), Some(rate)) => Pace::Rate(share * rate),
            (Some(_), None) => return Ok(Measured::Wrong("needs A1 in the same run".into())),
        };
        let nodes = Nodes::start(self, work.carrier, work.traffic)?;
        let service = nodes.service(work.carrier)?;
        let started = contestant.start(&service, &self.binaries, &self.placement)?;
        if let Carrier::Http { auth: Auth::Key, .. } = work.carrier
            && !matches!(contestant, Contestant::Direct)
        {
            check_auth(contestant, started.target)?;
        }
        let before_path = started.admin.map(Metrics::read).transpose()?;
        let load = load(work, started.target, pace);

        let running = load::start(&load, &self.placement.load)?;
        running.wait_until_warm(WARM_UP.min(self.window), WARM_UP_MAX);
        running.begin_measuring();
        let (before, from) = (Snapshot::take()?, running.completed());
        let began = Instant::now();
        std::thread::park_timeout(self.window);
        while let Some(rest) = self.window.checked_sub(began.elapsed()) {
            std::thread::park_timeout(rest);
        }
        let (after, to) = (Snapshot::take()?, running.completed());
        let outcome = running.finish()?;

        let mut scenario = nodes.pids();
        scenario.push(std::process::id());
        let cpu = CpuUse::between(&before, &after, started.pid(), &scenario, self.processors);
        let mut figures = figures(&cpu, to - from, work, &outcome);
        if let Some(pid) = started.pid() {
            let peak = machine::peak_resident_bytes(pid)?;
            figures.insert("peak_resident_bytes".into(), peak as f64);
        }
        if let Some(wrong) = wrong_answers(work, &outcome) {
            return Ok(Measured::Wrong(wrong));
        }
        if let Some(wrong) = unproved_path(
            contestant,
            &service,
            &started,
            before_path,
            work,
            &outcome,
            &mut figures,
        )? {
            return Ok(Measured::Wrong(wrong));
        }
        let nothing = (to == from).then(|| "nothing completed while it was measured".to_owned());
        Ok(match cpu.objection().or(nothing) {
            Some(objection) => Measured::Disturbed(objection, figures),
            None => Measured::Good(figures),
        })
    }
}

fn load(work: &LoadWork, target: SocketAddr, pace: Pace) -> Load {
    let mut fields = Vec::new();
    if let Carrier::Http { auth: Auth::Key, .. } = work.carrier {
        fields.push(("apikey", KEY));
    }
    if work.reuse == Reuse::PerRequest {
        fields.push(("connection", "close"));
    }
    let exchange = match work.traffic {
        Traffic::Echo(size) => Exchange::Echo { size },
        Traffic::Small => {
            let bodies = (0..work.carrier.nodes())
                .map(|index| format!("hello from {}\n", node_name(index)).into_bytes())
                .collect();
            Exchange::Http {
                request: probe::request("/", &fields),
                expected: Expected { status: 200, body: ExpectedBody::OneOf(bodies) },
            }
        }
        Traffic::Bytes(size) => Exchange::Http {
            request: probe::request(&format!("/bytes/{size}"), &fields),
            expected: Expected { status: 200, body: ExpectedBody::Pattern(size) },
        },
    };
    Load { target, connections: work.connections, exchange, reuse: work.reuse, pace }
}

/// 401 without the key and with a wrong one, 200 with it. Of Tandem it is asked that all of it
/// works on one connection.
fn check_auth(contestant: Contestant, target: SocketAddr) -> anyhow::Result<()> {
    let mut client = probe::Client::connect(target)?;
    for (key, status) in [(None, 401), (Some("wrong"), 401), (Some(KEY), 200)] {
        if !matches!(contestant, Contestant::Tandem(_)) {
            client = probe::Client::connect(target)?;
        }
        let fields: Vec<(&str, &str)> = key.map(|key| ("apikey", key)).into_iter().collect();
        let answer = client.get("/", &fields).with_context(|| format!("apikey {key:?}"))?;
        ensure!(answer.status == status, "apikey {key:?}: status {}", answer.status);
    }
    Ok(())
}

fn figures(cpu: &CpuUse, requests: u64, work: &LoadWork, outcome: &Outcome) -> Figures {
    let count = requests.max(1) as f64;
    let per_second = requests as f64 / cpu.wall_seconds;
    let mut figures = Figures::new();
    let mut add = |name: &str, value: f64| figures.insert(name.to_owned(), value);
    add("requests", requests as f64);
    add("requests_per_second", per_second);
    match work.traffic {
        Traffic::Small => None,
        Traffic::Bytes(size) | Traffic::Echo(size) => {
            add("body_bytes_per_second", per_second * size as f64)
        }
    };
    add("wall_seconds", cpu.wall_seconds);
    add("cpu_busy_seconds", cpu.busy_seconds);
    add("cpu_stolen_seconds", cpu.stolen_seconds);
    add("cpu_proxy_seconds", cpu.proxy_seconds);
    add("cpu_foreign_seconds", cpu.foreign_seconds);
    add("cpu_accounted", cpu.accounted);
    add("cpu_us_per_request", cpu.busy_seconds * 1e6 / count);
    add("proxy_cpu_us_per_request", cpu.proxy_seconds * 1e6 / count);
    add("sockets", outcome.sockets as f64);
    add("completed", outcome.completed() as f64);
    for (name, quantile) in
        [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)]
    {
        let value = outcome.latency.value_at_quantile(quantile);
        add(&format!("latency_{name}_us"), value as f64);
    }
    for (node, completed) in outcome.completed_by_node.iter().enumerate() {
        add(&format!("completed_by_node_{node}"), *completed as f64);
    }
    figures
}

/// What the load has seen that it should not have.
fn wrong_answers(work: &LoadWork, outcome: &Outcome) -> Option<String> {
    if !outcome.failures.is_empty() {
        let list: Vec<String> =
            outcome.failures.iter().map(|(failure, n)| format!("{n} × {failure}")).collect();
        return Some(format!("{} of {} wrong", list.join(", "), outcome.completed()));
    }
    if outcome.completed() == 0 {
        return Some("no response".into());
    }
    if work.reuse == Reuse::KeepAlive && outcome.sockets != work.connections as u64 {
        return Some(format!("{} sockets for {} connections", outcome.sockets, work.connections));
    }
    let split = &outcome.completed_by_node;
    let is_equal = split.iter().max()?.abs_diff(*split.iter().min()?) <= 1;
    (!is_equal).then(|| format!("unequal split {split:?}"))
}

/// Compares Tandem's counters with what the load has sent; also notes them among the figures.
fn unproved_path(
    contestant: Contestant,
    service: &Service,
    started: &Started,
    before: Option<Metrics>,
    work: &LoadWork,
    outcome: &Outcome,
    figures: &mut Figures,
) -> anyhow::Result<Option<String>> {
    let (Contestant::Tandem(mode), Some(before), Some(admin)) = (contestant, before, started.admin)
    else {
        return Ok(None);
    };
    let bytes_each = match work.traffic {
        // The small body and both heads are more than this.
        Traffic::Small => 1,
        Traffic::Bytes(size) => size,
        Traffic::Echo(size) => 2 * size,
    };
    let completed = outcome.completed();
    // A tunnel is counted when it ends, which the proxy learns after we have closed it.
    let asked = Instant::now();
    loop {
        let moved = PathCounters::between(&before, &Metrics::read(admin)?);
        let objection =
            moved.objection(mode, service, outcome.sockets, completed, bytes_each * completed);
        if objection.is_none() || asked.elapsed() > COUNTERS_MAX {
            let named = moved.named().map(|(name, value)| (format!("tandem_{name}"), value));
            figures.extend(named);
            return Ok(objection);
        }
        std::thread::park_timeout(COUNTERS_MAX / 20);
    }
}
