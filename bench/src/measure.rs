//! One measurement: a contestant, a case, one round.

mod disruption;
mod memory;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use self::{
    disruption::Disrupted,
    memory::{Halted, Transfer},
};
use crate::{
    contestant::{Auth, Binaries, Contestant, KEY, Service, Started},
    load::{
        self, Exchange, Load, Outcome, Pace, Reuse, Running,
        response::{Expected, ExpectedBody},
    },
    machine::{self, CpuUse, Snapshot},
    placement::Placement,
    probe,
    process::{Program, Site},
    scenario::{Carrier, Case, LoadWork, Pacing, Traffic, Work},
    tandem::{self, Carried, Flow, Kernel, Metrics, Mode, PathCounters},
    topology::{Role, Topology},
};

/// The part of a load that is thrown away.
const WARM_UP: Duration = Duration::from_millis(500);

/// How long first or last responses may take. After the first the measurement goes on and shows
/// what is wrong; the last have timed out.
const PATIENCE: Duration = Duration::from_secs(10);

/// The same for an object that itself takes seconds.
const BULK_PATIENCE: Duration = Duration::from_secs(60);

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
    pub(crate) topology: Topology,
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
    /// Starts them where `asker` can connect to them.
    fn start(
        placement: &Placement,
        topology: &Topology,
        asker: Role,
        carrier: Carrier,
        traffic: Traffic,
    ) -> anyhow::Result<Self> {
        let mut nodes = Self { programs: Vec::new(), addresses: Vec::new() };
        let namespace = topology.namespace(Role::Nodes);
        let site = Site { cpus: &placement.load, namespace: namespace.as_deref() };
        let any_port = format!("{}:0", topology.network.nodes_address(asker));
        for index in 0..carrier.nodes() {
            let (program, address) = match traffic {
                Traffic::Echo(_) => Program::start_node(&["echo", &any_port], site)?,
                Traffic::Small | Traffic::Bytes(_) | Traffic::Chunked(_) | Traffic::Upload(_) => {
                    Self::start_http(index, &any_port, placement, topology)?
                }
            };
            nodes.programs.push(program);
            nodes.addresses.push(address);
        }
        Ok(nodes)
    }

    fn start_http(
        index: usize,
        address: &str,
        placement: &Placement,
        topology: &Topology,
    ) -> anyhow::Result<(Program, SocketAddr)> {
        let namespace = topology.namespace(Role::Nodes);
        let site = Site { cpus: &placement.load, namespace: namespace.as_deref() };
        Program::start_node(&["http", address, "--name", &node_name(index)], site)
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
    /// Measures from where the client is. `rate` is what an open loop is asked for, if that is known.
    pub(crate) fn measure(
        &self,
        case: &Case,
        contestant: Contestant,
        rate: Option<f64>,
    ) -> anyhow::Result<Measured> {
        self.topology.run(Role::Client, || match &case.work {
            Work::Load(work) => self.measure_load(work, contestant, rate),
            Work::SlowTransfer { direction, carrier, stall } => {
                let transfer = Transfer { direction: *direction, stall: *stall };
                self.measure_slow_transfers(transfer, *carrier, contestant)
            }
            Work::OpenConnections { connections, activity } => {
                self.measure_open_connections(*connections, *activity, contestant)
            }
            Work::StartUp => self.measure_start_up(contestant),
        })
    }

    /// Starts nodes and in front of them the contestant. It is to be dropped before they are.
    fn start(
        &self,
        placement: &Placement,
        contestant: Contestant,
        carrier: Carrier,
        traffic: Traffic,
    ) -> anyhow::Result<(Nodes, Service, Started)> {
        let topology = &self.topology;
        let nodes = Nodes::start(placement, topology, contestant.asker(), carrier, traffic)?;
        let service = nodes.service(carrier)?;
        let started = contestant.start(&service, &self.binaries, placement, topology)?;
        Ok((nodes, service, started))
    }

    fn measure_start_up(&self, contestant: Contestant) -> anyhow::Result<Measured> {
        let (_nodes, service, started) =
            self.start(&self.placement, contestant, Carrier::HTTP, Traffic::Small)?;
        // A socket may listen before what serves it is loaded.
        let answer = probe::Client::connect(started.target)?.get("/", &[])?;
        ensure!(answer.status == 200, "the first answer has status {}", answer.status);
        let start_up = started.since.elapsed().as_secs_f64();
        let mut figures = Figures::from([("start_up_seconds".to_owned(), start_up)]);
        if let Contestant::Tandem(_) = contestant {
            let size = std::fs::metadata(&self.binaries.tandem)?.len();
            figures.insert("binary_bytes".to_owned(), size as f64);
        }
        if let Contestant::Tandem(Mode { kernel: Kernel::OnWithXdpAndSockmap, .. }) = contestant {
            let tunnel = tandem::tunnel(started.target);
            let answer =
                self.topology.run(Role::Proxy, || probe::Client::connect(tunnel)?.get("/", &[]))?;
            ensure!(answer.status == 200, "the tunnel's answer has status {}", answer.status);
        }
        let carried = Carried { connections: 1, requests: 1, bytes_each: 1, flow: Flow::Free };
        let before = Some(Metrics::none());
        let wrong =
            self.unproved_path(contestant, &service, &started, before, carried, &mut figures)?;
        Ok(wrong.map_or(Measured::Good(figures), Measured::Wrong))
    }

    fn placement_for(&self, work: &LoadWork, contestant: Contestant) -> Placement {
        if work.is_shared {
            self.placement.shared(contestant.workers())
        } else {
            self.placement.clone()
        }
    }

    fn measure_load(
        &self,
        work: &LoadWork,
        contestant: Contestant,
        rate: Option<f64>,
    ) -> anyhow::Result<Measured> {
        let Some(pace) = pace(work.pacing, rate) else {
            return Ok(Measured::Wrong("needs the rate of a closed loop before it".into()));
        };
        let placement = self.placement_for(work, contestant);
        let (mut nodes, service, started) =
            self.start(&placement, contestant, work.carrier, work.traffic)?;
        if let Carrier::Http { auth: Auth::Key, .. } = work.carrier
            && !matches!(contestant, Contestant::Direct)
        {
            check_auth(contestant, started.target)?;
        }
        let mut before_path = started.admin.map(Metrics::read).transpose()?;
        let load = load(work, started.target, pace);

        let running = load::start(&load, &placement.load)?;
        running.wait_until_warm(WARM_UP.min(self.window), load.patience);
        let mut unproved = 0;
        if let (Contestant::Tandem(Mode { kernel: Kernel::SwitchedOff, .. }), Some(admin)) =
            (contestant, started.admin)
        {
            tandem::switch_off(admin)?;
            before_path = Some(Metrics::read(admin)?);
            // And whatever is under way, of which the counters may know already.
            unproved = running.completed() + work.connections as u64;
        }
        let halted = match work.beside {
            Some(beside) => {
                Some(Halted::start(beside, started.target, started.pid(), self.window)?)
            }
            None => None,
        };
        running.begin_measuring();
        let (before, from) = (Snapshot::take()?, Done::of(&running, work.traffic));
        let disrupted = match work.disruption {
            None => {
                wait_for_window(self.window, &running, work.traffic);
                None
            }
            Some(disruption) => {
                let surroundings = (&placement, &self.topology);
                let window = self.window;
                Some(Disrupted::during(disruption, window, &mut nodes, &started, surroundings)?)
            }
        };
        let (after, to) = (Snapshot::take()?, Done::of(&running, work.traffic));
        let mut of_halted = Figures::new();
        halted.iter().try_for_each(|halted| halted.note(&mut of_halted))?;
        let outcome = running.finish()?;
        if let Some(Err(error)) = halted.map(Halted::finish) {
            return Ok(Measured::Wrong(format!("{error:#}")));
        }

        let mut scenario = nodes.pids();
        scenario.push(std::process::id());
        let cpu = CpuUse::between(&before, &after, started.pid(), &scenario, self.processors);
        let mut figures = figures(&cpu, to.requests - from.requests, work, &outcome);
        figures.append(&mut of_halted);
        if let Some(pid) = started.pid() {
            let peak = machine::peak_resident_bytes(pid)?;
            figures.insert("peak_resident_bytes".into(), peak as f64);
        }
        if let Some(wrong) = wrong_answers(work, &outcome) {
            return Ok(Measured::Wrong(match &disrupted {
                Some(_) => wrong + &disruption::faults(&started, before_path.as_ref())?,
                None => wrong,
            }));
        }
        if let Some(disrupted) = &disrupted {
            disrupted.note(&mut figures);
            if let Some(wrong) = disrupted.objection(&started, before_path.as_ref())? {
                return Ok(Measured::Wrong(wrong));
            }
        }
        let carried = carried(work, &outcome, unproved);
        if let Some(wrong) =
            self.unproved_path(contestant, &service, &started, before_path, carried, &mut figures)?
        {
            return Ok(Measured::Wrong(wrong));
        }
        let nothing = (to.completed == from.completed)
            .then(|| "nothing completed while it was measured".to_owned());
        Ok(match cpu.objection().or(nothing) {
            Some(objection) => Measured::Disturbed(objection, figures),
            None => Measured::Good(figures),
        })
    }
}

/// `None` if an open loop is asked for and its rate is not known.
const fn pace(pacing: Pacing, rate: Option<f64>) -> Option<Pace> {
    match (pacing, rate) {
        (Pacing::Closed, _) => Some(Pace::Closed),
        (Pacing::OfOwn(_) | Pacing::OfBestPeer(_), Some(rate)) => Some(Pace::Rate(rate)),
        (Pacing::OfOwn(_) | Pacing::OfBestPeer(_), None) => None,
    }
}

/// What a load has done so far.
struct Done {
    completed: u64,
    /// Bulk objects count by the part of them that has arrived: of a few whole ones, one more or
    /// less would be most of what is measured.
    requests: f64,
}

impl Done {
    fn of(running: &Running, traffic: Traffic) -> Self {
        let completed = running.completed();
        let requests = match traffic.bulk() {
            Some(size) => running.body_bytes() as f64 / size as f64,
            None => completed as f64,
        };
        Self { completed, requests }
    }
}

/// Waits for the window to pass, and for bulk objects until each connection has completed one.
fn wait_for_window(window: Duration, running: &Running, traffic: Traffic) {
    let began = Instant::now();
    while let Some(rest) = window.checked_sub(began.elapsed()) {
        std::thread::park_timeout(rest);
    }
    if traffic.bulk().is_some() {
        running.wait_until_served(BULK_PATIENCE);
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
            get("/", &fields, ExpectedBody::OneOf(bodies))
        }
        Traffic::Bytes(size) => {
            get(&format!("/bytes/{size}"), &fields, ExpectedBody::Pattern(size))
        }
        Traffic::Chunked(size) => {
            get(&format!("/chunked/{size}"), &fields, ExpectedBody::ChunkedPattern(size))
        }
        Traffic::Upload(size) => {
            let length = size.to_string();
            let fields = [&fields[..], &[("content-length", length.as_str())]].concat();
            let counted = format!("received {size} bytes, pattern true\n").into_bytes();
            Exchange::Http {
                request: probe::head("POST", "/stall/0", &fields),
                upload: size,
                expected: Expected { status: 200, body: ExpectedBody::OneOf(vec![counted]) },
            }
        }
    };
    let patience = if work.traffic.bulk().is_some() { BULK_PATIENCE } else { PATIENCE };
    let LoadWork { connections, reuse, .. } = *work;
    Load { target, connections, exchange, reuse, pace, patience }
}

fn get(path: &str, fields: &[(&str, &str)], body: ExpectedBody) -> Exchange {
    let request = probe::head("GET", path, fields);
    Exchange::Http { request, upload: 0, expected: Expected { status: 200, body } }
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

fn figures(cpu: &CpuUse, requests: f64, work: &LoadWork, outcome: &Outcome) -> Figures {
    let count = if requests > 0.0 { requests } else { 1.0 };
    let per_second = requests / cpu.wall_seconds;
    let mut figures = Figures::new();
    let mut add = |name: &str, value: f64| figures.insert(name.to_owned(), value);
    add("requests", requests);
    add("requests_per_second", per_second);
    match work.traffic {
        Traffic::Small => None,
        Traffic::Bytes(size)
        | Traffic::Chunked(size)
        | Traffic::Upload(size)
        | Traffic::Echo(size) => add("body_bytes_per_second", per_second * size as f64),
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
    if work.disruption.is_some() {
        return None;
    }
    let split = &outcome.completed_by_node;
    let is_equal = split.iter().max()?.abs_diff(*split.iter().min()?) <= 1;
    (!is_equal).then(|| format!("unequal split {split:?}"))
}

/// `unproved` requests were completed before the counters were read.
fn carried(work: &LoadWork, outcome: &Outcome, unproved: u64) -> Carried {
    let bytes_each = match work.traffic {
        // The small body and both heads are more than this.
        Traffic::Small => 1,
        Traffic::Bytes(size) | Traffic::Chunked(size) | Traffic::Upload(size) => size,
        Traffic::Echo(size) => 2 * size,
    };
    let requests = outcome.completed().saturating_sub(unproved);
    Carried { connections: outcome.sockets, requests, bytes_each, flow: Flow::Free }
}

impl Bench {
    /// Compares Tandem's counters with what the load has sent; also notes them among the figures.
    fn unproved_path(
        &self,
        contestant: Contestant,
        service: &Service,
        started: &Started,
        before: Option<Metrics>,
        carried: Carried,
        figures: &mut Figures,
    ) -> anyhow::Result<Option<String>> {
        let (Contestant::Tandem(mode), Some(before), Some(admin)) =
            (contestant, before, started.admin)
        else {
            return Ok(None);
        };
        // A tunnel is counted when it ends, which the proxy learns after we have closed it.
        let asked = Instant::now();
        loop {
            let moved = PathCounters::between(&before, &Metrics::read(admin)?);
            let objection = moved.objection(mode, self.topology.network, service, carried);
            if objection.is_none() || asked.elapsed() > COUNTERS_MAX {
                let named = moved.named().map(|(name, value)| (format!("tandem_{name}"), value));
                figures.extend(named);
                return Ok(objection);
            }
            std::thread::park_timeout(COUNTERS_MAX / 20);
        }
    }
}
