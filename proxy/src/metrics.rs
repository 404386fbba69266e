//! Every metric of the proxy: names, help sentences, labels, and the handles that move them.
//!
//! A stage asks once, at start, for the handles of its listener, route or upstream and then only adds
//! to atomics: nothing is formatted, hashed or locked for a request. The one exception is the first
//! request of each (class, end) pair of a route, which creates its series. Gauges are moved by guards,
//! so a dropped future cannot leak one.
//!
//! Labels come from closed sets or from the configuration, never from the network. Kernel counters are
//! read when a page is asked for and appear in the same page.

mod duration;
mod health;
mod listener;
mod names;
mod pipe;
mod route;
mod upstream;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use self::{duration::DurationHistogram, route::ByteCounters};
pub use self::{
    health::{CheckResult, Ejection, HealthMetrics, NodeSample},
    listener::{ByListener, ListenerMetrics},
    names::{Described, Kind, METRICS, Stability},
    pipe::PipeMetrics,
    route::{Direction, NORMAL_END, RouteMetrics},
    upstream::{Checkout, ConnectResult, UpstreamMetrics},
};
use crate::{
    client::{Failure, Limit, Purpose},
    config::Config,
    connection::Lane,
    error::Fault,
    forward::Fallback,
    kernel::{self, KernelPlane},
    mirror::Dropped,
    plugin,
};

/// `route` label of a request that matched none.
pub const NO_ROUTE: &str = "-";

/// All metrics of a process; shared by every worker.
pub struct Metrics {
    registry: Registry,
    families: Families,
    faults: [Counter; Fault::ALL.len()],
    lanes: [Counter; Lane::ALL.len()],
    /// By purpose, then how many were answered and how many failed in which way.
    calls: [(Counter, [Counter; Failure::ALL.len()]); Purpose::ALL.len()],
    call_limits: [[Counter; Limit::ALL.len()]; Purpose::ALL.len()],
    bytes: ByteCounters,
    listeners: Table<Arc<str>, ListenerMetrics>,
    routes: Table<(Arc<str>, Arc<str>), RouteMetrics>,
    upstreams: Table<Arc<str>, UpstreamMetrics>,
    healths: Table<Arc<str>, HealthMetrics>,
}

/// Handles by name; locked at start only.
type Table<K, V> = Mutex<HashMap<K, Arc<V>>>;

#[derive(Default)]
struct Families {
    connections_active: Family<ListenerLabels, Gauge>,
    connections: Family<ListenerLabels, Counter>,
    refused: Family<RefusedLabels, Counter>,
    accept_errors: Family<AcceptErrorLabels, Counter>,
    requests: Family<RequestLabels, Counter>,
    durations: Family<RouteLabels, DurationHistogram>,
    connects: Family<UpstreamResultLabels, Counter>,
    retries: Family<UpstreamLabels, Counter>,
    retries_refused: Family<UpstreamLabels, Counter>,
    pool_idle: Family<UpstreamLabels, Gauge>,
    checkouts: Family<UpstreamResultLabels, Counter>,
    checks: Family<UpstreamResultLabels, Counter>,
    checks_delayed: Family<UpstreamLabels, Counter>,
    ejections: Family<UpstreamResultLabels, Counter>,
    all_down: Family<UpstreamLabels, Counter>,
    bytes: Family<BytesLabels, Counter>,
    fallbacks: Family<ReasonLabels, Counter>,
    pipes: Family<PipeLabels, Gauge>,
    faults: Family<FaultLabels, Counter>,
    lanes: Family<LaneLabels, Counter>,
    calls: Family<CallLabels, Counter>,
    call_limits: Family<CallLimitLabels, Counter>,
    lookups: Family<LookupLabels, Counter>,
    mirror_dropped: Family<ReasonLabels, Counter>,
    limit_errors: Family<LimitErrorLabels, Counter>,
    logged_bodies_cut: Family<ReasonLabels, Counter>,
    reloads: Family<ReloadLabels, Counter>,
    reloaded: Gauge,
}

type Name = Arc<str>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerLabels {
    listener: Name,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedLabels {
    listener: Name,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AcceptErrorLabels {
    listener: Name,
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    listener: Name,
    route: Name,
    class: &'static str,
    end: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: Name,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpstreamLabels {
    upstream: Name,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpstreamResultLabels {
    upstream: Name,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BytesLabels {
    direction: &'static str,
    via: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PipeLabels {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FaultLabels {
    fault: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LaneLabels {
    lane: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    purpose: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLimitLabels {
    purpose: &'static str,
    limit: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LookupLabels {
    result: &'static str,
}

/// What came of asking what a name resolves to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    Answered,
    /// Counted beside `Answered`: more addresses than are taken.
    Cut,
    NoRecords,
    Refused,
    TimedOut,
}

impl Lookup {
    const fn label(self) -> &'static str {
        match self {
            Lookup::Answered => "answered",
            Lookup::Cut => "cut",
            Lookup::NoRecords => "no_records",
            Lookup::Refused => "refused",
            Lookup::TimedOut => "timeout",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitErrorLabels {
    plugin: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabels {
    result: &'static str,
}

/// What became of a configuration that was read while another one ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    Applied,
    Invalid,
    /// It changes what only a start reads.
    Refused,
}

impl Reload {
    const fn label(self) -> &'static str {
        match self {
            Reload::Applied => "applied",
            Reload::Invalid => "invalid",
            Reload::Refused => "refused",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PacketLabels {
    program: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KernelLabels {
    mode: &'static str,
    xdp_mode: &'static str,
    abi: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PathLabels {
    path: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    pub fn new() -> Metrics {
        let families = Families::default();
        families.reloaded.set(1);
        let mut registry = Registry::default();
        families.register(&mut registry);
        let build = Family::<BuildLabels, Gauge>::default();
        build.get_or_create(&BuildLabels { version: env!("CARGO_PKG_VERSION") }).set(1);
        names::BUILD_INFO.register(&mut registry, &build);

        let faults = Fault::ALL.map(|fault| {
            let fault = fault.consequence().label;
            families.faults.get_or_create_owned(&FaultLabels { fault })
        });
        let lanes = Lane::ALL
            .map(|lane| families.lanes.get_or_create_owned(&LaneLabels { lane: lane.label() }));
        let calls = Purpose::ALL.map(|purpose| {
            let purpose = purpose.label();
            let counter =
                |result| families.calls.get_or_create_owned(&CallLabels { purpose, result });
            (counter("answered"), Failure::ALL.map(|failure| counter(failure.label())))
        });
        let call_limits = Purpose::ALL.map(|purpose| {
            Limit::ALL.map(|limit| {
                let labels = CallLimitLabels { purpose: purpose.label(), limit: limit.label() };
                families.call_limits.get_or_create_owned(&labels)
            })
        });
        let bytes = ByteCounters::new(&families.bytes);
        Metrics {
            registry,
            families,
            faults,
            lanes,
            calls,
            call_limits,
            bytes,
            listeners: Table::default(),
            routes: Table::default(),
            upstreams: Table::default(),
            healths: Table::default(),
        }
    }

    /// The handles of one listener; the same for every worker that asks.
    pub fn listener(&self, name: &str) -> Arc<ListenerMetrics> {
        resolve(&self.listeners, Name::from(name), |name| {
            ListenerMetrics::new(&self.families, Arc::clone(name))
        })
    }

    /// The handles of one route (or stream route) on one listener; [`NO_ROUTE`] for what matched none.
    pub fn route(&self, listener: &str, route: &str) -> Arc<RouteMetrics> {
        resolve(&self.routes, (Name::from(listener), Name::from(route)), |(listener, route)| {
            RouteMetrics::new(&self.families, &self.bytes, Arc::clone(listener), Arc::clone(route))
        })
    }

    pub fn upstream(&self, id: &str) -> Arc<UpstreamMetrics> {
        resolve(&self.upstreams, Name::from(id), |id| {
            UpstreamMetrics::new(&self.families, Arc::clone(id))
        })
    }

    /// The handles of an upstream whose nodes are judged.
    pub fn health(&self, id: &str) -> Arc<HealthMetrics> {
        resolve(&self.healths, Name::from(id), |id| {
            HealthMetrics::new(&self.families, Arc::clone(id))
        })
    }

    pub fn looked_up(&self, lookup: Lookup) {
        let labels = LookupLabels { result: lookup.label() };
        self.families.lookups.get_or_create_owned(&labels).inc();
    }

    pub fn reloaded(&self, reload: Reload) {
        let labels = ReloadLabels { result: reload.label() };
        self.families.reloads.get_or_create_owned(&labels).inc();
        self.families.reloaded.set(i64::from(reload == Reload::Applied));
    }

    /// Takes the series of routes and upstreams away that `config` does not have. What still runs by
    /// older rules counts on, unseen.
    pub fn forget_all_but(&self, config: &Config) {
        let http = config.routes.iter().map(|route| &*route.id);
        let streams = config.stream_routes.iter().map(|route| &*route.id);
        let routes: HashSet<&str> = http.chain(streams).chain([NO_ROUTE]).collect();
        let upstreams: HashSet<&str> =
            config.upstreams.iter().map(|upstream| &*upstream.id).collect();
        forget(
            &self.routes,
            |(_, route)| routes.contains(&**route),
            |route| {
                route.forget(&self.families);
            },
        );
        forget(
            &self.upstreams,
            |upstream| upstreams.contains(&**upstream),
            |upstream| {
                upstream.forget(&self.families);
            },
        );
        let judged = config.upstreams.iter().filter(|upstream| upstream.is_judged());
        let judged: HashSet<&str> = judged.map(|upstream| &*upstream.id).collect();
        forget(
            &self.healths,
            |upstream| judged.contains(&**upstream),
            |health| {
                health.forget(&self.families);
            },
        );
    }

    /// The handles of one worker's pipes.
    pub fn pipes(&self) -> PipeMetrics {
        PipeMetrics::new(&self.families)
    }

    /// Counts a fault of the data path, wherever it happened.
    pub fn fault(&self, fault: Fault) {
        self.faults[fault as usize].inc();
    }

    /// Counts a request by who carried it.
    pub fn lane(&self, lane: Lane) {
        self.lanes[lane as usize].inc();
    }

    /// Counts a request of our own by what came of it; `None`: an answer.
    pub fn call(&self, purpose: Purpose, failure: Option<Failure>) {
        let (answered, failed) = &self.calls[purpose as usize];
        failure.map_or(answered, |failure| &failed[failure as usize]).inc();
    }

    /// A request of our own that has met a bound of its purpose.
    pub fn call_limit(&self, purpose: Purpose, limit: Limit) {
        self.call_limits[purpose as usize][limit as usize].inc();
    }

    /// A tunnel or a body that could not have the path it was meant for. Not for every request: the
    /// series is looked up by a hash.
    pub fn forward_fallback(&self, fallback: Fallback) {
        let reason = fallback.label();
        self.families.fallbacks.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// Counts a copy of a request that was not sent. Not for every request, as above.
    pub fn mirror_dropped(&self, dropped: Dropped) {
        let reason = dropped.label();
        self.families.mirror_dropped.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// A body of which a log has only the beginning. Looked up by a hash, as above.
    pub fn logged_body_cut(&self, cut: plugin::Cut) {
        let reason = cut.label();
        self.families.logged_bodies_cut.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// A request whose plugin has asked a Redis in vain.
    pub fn limit_error(&self, plugin: &'static str, failure: plugin::Failure) {
        let labels = LimitErrorLabels { plugin, reason: failure.label() };
        self.families.limit_errors.get_or_create(&labels).inc();
    }

    /// One page in the OpenMetrics text format, with what is only known when somebody asks.
    pub fn encode(&self, sample: &Sample) -> String {
        let mut page = String::with_capacity(PAGE_SIZE_HINT);
        let sampled = sampled(sample);
        text::encode_registry(&mut page, &self.registry)
            .and_then(|()| text::encode_registry(&mut page, &sampled))
            .and_then(|()| text::encode_eof(&mut page))
            .expect("writing to a String cannot fail");
        page
    }
}

/// Most pages fit; a larger one grows.
const PAGE_SIZE_HINT: usize = 32 * 1024;

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Families {
    fn register(&self, registry: &mut Registry) {
        names::CONNECTIONS_ACTIVE.register(registry, &self.connections_active);
        names::CONNECTIONS.register(registry, &self.connections);
        names::REFUSED.register(registry, &self.refused);
        names::ACCEPT_ERRORS.register(registry, &self.accept_errors);
        names::REQUESTS.register(registry, &self.requests);
        names::REQUEST_DURATION.register(registry, &self.durations);
        names::CONNECTS.register(registry, &self.connects);
        names::RETRIES.register(registry, &self.retries);
        names::RETRIES_REFUSED.register(registry, &self.retries_refused);
        names::POOL_IDLE.register(registry, &self.pool_idle);
        names::POOL_CHECKOUTS.register(registry, &self.checkouts);
        names::CHECKS.register(registry, &self.checks);
        names::CHECKS_DELAYED.register(registry, &self.checks_delayed);
        names::EJECTIONS.register(registry, &self.ejections);
        names::ALL_DOWN.register(registry, &self.all_down);
        names::FORWARD_BYTES.register(registry, &self.bytes);
        names::TUNNEL_FALLBACKS.register(registry, &self.fallbacks);
        names::FORWARD_PIPES.register(registry, &self.pipes);
        names::FAULTS.register(registry, &self.faults);
        names::LANE_REQUESTS.register(registry, &self.lanes);
        names::CALLS.register(registry, &self.calls);
        names::CALL_LIMITS.register(registry, &self.call_limits);
        names::LOOKUPS.register(registry, &self.lookups);
        names::MIRROR_DROPPED.register(registry, &self.mirror_dropped);
        names::LIMIT_ERRORS.register(registry, &self.limit_errors);
        names::LOGGED_BODIES_CUT.register(registry, &self.logged_bodies_cut);
        names::RELOADS.register(registry, &self.reloads);
        names::RELOADED.register(registry, &self.reloaded);
    }
}

fn resolve<K: Eq + std::hash::Hash + Clone, V>(
    table: &Table<K, V>,
    key: K,
    new: impl FnOnce(&K) -> V,
) -> Arc<V> {
    // Nothing that runs under the lock can leave the map half changed.
    let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handles) = table.get(&key) {
        return Arc::clone(handles);
    }
    let handles = Arc::new(new(&key));
    table.insert(key, Arc::clone(&handles));
    handles
}

/// Takes out of the table whatever is not to stay.
fn forget<K: Eq + std::hash::Hash, V>(
    table: &Table<K, V>,
    stays: impl Fn(&K) -> bool,
    leave: impl Fn(&V),
) {
    let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
    table.retain(|key, handles| {
        let stays = stays(key);
        if !stays {
            leave(handles);
        }
        stays
    });
}

/// What only exists when somebody asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    pub kernel: KernelSample,
    pub logs: LogSample,
    /// Of upstreams whose nodes are judged.
    pub nodes: Vec<NodeSample>,
    /// Responses for whose encoding there was no memory.
    pub encodings_skipped: u64,
    /// Bodies that filters could not hold as a whole.
    pub filters_cut: u64,
}

fn sampled(sample: &Sample) -> Registry {
    let Sample { kernel, logs, nodes, encodings_skipped, filters_cut } = sample;
    let mut registry = Registry::default();
    let info = Family::<KernelLabels, Gauge>::default();
    let KernelSample { mode, xdp_mode, abi, ref counters } = *kernel;
    info.get_or_create(&KernelLabels { mode, xdp_mode, abi }).set(1);
    names::KERNEL_INFO.register(&mut registry, &info);

    let packets = Family::<PacketLabels, Counter>::default();
    for counter in counters {
        let kernel::Counter { program, reason, packets: n } = *counter;
        packets.get_or_create(&PacketLabels { program, reason }).inc_by(n);
    }
    names::KERNEL_PACKETS.register(&mut registry, &packets);

    // A label only where there is one to say: two names may have one address.
    let up = Family::<Vec<(&str, String)>, Gauge>::default();
    for NodeSample { upstream, node, host, is_up } in nodes {
        let mut labels = vec![("upstream", upstream.to_string()), ("node", node.to_string())];
        labels.extend(host.iter().map(|host| ("host", host.clone())));
        up.get_or_create(&labels).set(i64::from(*is_up));
    }
    names::NODE_UP.register(&mut registry, &up);

    let dropped = Counter::<u64>::default();
    dropped.inc_by(logs.access_log);
    names::ACCESS_LOG_DROPPED.register(&mut registry, &dropped);

    let dropped = Counter::<u64>::default();
    dropped.inc_by(logs.process);
    names::LOG_DROPPED.register(&mut registry, &dropped);

    let dropped = Family::<PathLabels, Counter>::default();
    for (path, lines) in &logs.files {
        dropped.get_or_create(&PathLabels { path: path.clone() }).inc_by(*lines);
    }
    names::LOG_FILE_DROPPED.register(&mut registry, &dropped);

    let encodings = Counter::<u64>::default();
    encodings.inc_by(*encodings_skipped);
    names::ENCODINGS_SKIPPED.register(&mut registry, &encodings);

    let cut = Counter::<u64>::default();
    cut.inc_by(*filters_cut);
    names::FILTERS_CUT.register(&mut registry, &cut);
    registry
}

/// How many lines were lost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogSample {
    pub access_log: u64,
    /// Of the process's own log.
    pub process: u64,
    /// Of loggers, by path.
    pub files: Vec<(String, u64)>,
}

/// What the kernel plane says of itself when a page is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelSample {
    /// Who does the work, whatever was asked for.
    pub mode: &'static str,
    pub xdp_mode: &'static str,
    pub abi: u32,
    pub counters: Vec<kernel::Counter>,
}

impl KernelSample {
    pub fn of(plane: &KernelPlane) -> KernelSample {
        let status = plane.status();
        KernelSample {
            mode: status.running.label(),
            xdp_mode: status.xdp_mode.unwrap_or("off"),
            abi: status.abi,
            counters: plane.counters(),
        }
    }
}

/// Raises a gauge by one for as long as it lives.
#[derive(Debug)]
#[must_use = "the gauge falls when the guard is dropped"]
pub struct GaugeGuard(Gauge);

impl GaugeGuard {
    fn new(gauge: &Gauge) -> GaugeGuard {
        gauge.inc();
        GaugeGuard(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests;
