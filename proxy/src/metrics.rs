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
mod names;

use std::{
    collections::HashMap,
    fmt, io,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use self::duration::DurationHistogram;
pub use self::names::{Described, METRICS, Stability};
use crate::{error::Fault, forward::Via};

/// `route` label of a request that matched none.
pub const NO_ROUTE: &str = "-";

/// `end` label of a request or tunnel that ended in good order.
pub const NORMAL_END: &str = "--";

/// All metrics of a process; shared by every worker.
pub struct Metrics {
    registry: Registry,
    families: Families,
    faults: [Counter; Fault::ALL.len()],
    bytes: ByteCounters,
    tunnels_active: [Gauge; Via::ALL.len()],
    listeners: Table<Arc<str>, ListenerMetrics>,
    routes: Table<(Arc<str>, Arc<str>), RouteMetrics>,
    upstreams: Table<Arc<str>, UpstreamMetrics>,
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
    pool_idle: Family<UpstreamLabels, Gauge>,
    checkouts: Family<UpstreamResultLabels, Counter>,
    bytes: Family<BytesLabels, Counter>,
    tunnels_active: Family<ViaLabels, Gauge>,
    fallbacks: Family<FallbackLabels, Counter>,
    faults: Family<FaultLabels, Counter>,
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
struct ViaLabels {
    via: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FallbackLabels {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FaultLabels {
    fault: &'static str,
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
        let mut registry = Registry::default();
        families.register(&mut registry);
        let build = Family::<BuildLabels, Gauge>::default();
        build.get_or_create(&BuildLabels { version: env!("CARGO_PKG_VERSION") }).set(1);
        names::BUILD_INFO.register(&mut registry, &build);

        let faults = Fault::ALL.map(|fault| {
            let fault = fault.consequence().label;
            families.faults.get_or_create_owned(&FaultLabels { fault })
        });
        let tunnels_active = Via::ALL.map(|via| {
            families.tunnels_active.get_or_create_owned(&ViaLabels { via: via.label() })
        });
        let bytes = ByteCounters::new(&families.bytes);
        Metrics {
            registry,
            families,
            faults,
            bytes,
            tunnels_active,
            listeners: Table::default(),
            routes: Table::default(),
            upstreams: Table::default(),
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
            let labels = RouteLabels { route: Arc::clone(route) };
            RouteMetrics {
                listener: Arc::clone(listener),
                route: Arc::clone(route),
                requests: self.families.requests.clone(),
                cells: Box::new([const { [const { OnceLock::new() }; ENDS.count] }; CLASSES.len()]),
                duration: self.families.durations.get_or_create_owned(&labels),
                bytes: self.bytes.clone(),
            }
        })
    }

    pub fn upstream(&self, id: &str) -> Arc<UpstreamMetrics> {
        resolve(&self.upstreams, Name::from(id), |id| {
            UpstreamMetrics::new(&self.families, Arc::clone(id))
        })
    }

    /// Counts a fault of the data path, wherever it happened.
    pub fn fault(&self, fault: Fault) {
        self.faults[fault as usize].inc();
    }

    /// A tunnel that runs over `via` until the guard is dropped.
    pub fn tunnel(&self, via: Via) -> GaugeGuard {
        GaugeGuard::new(&self.tunnels_active[via as usize])
    }

    /// A tunnel that could not have the datapath its route asks for. Not for the request path: the
    /// series is looked up by a hash.
    pub fn tunnel_fallback(&self, reason: &'static str) {
        self.families.fallbacks.get_or_create(&FallbackLabels { reason }).inc();
    }

    /// One page in the OpenMetrics text format, kernel counters included.
    pub fn encode(&self, kernel: &KernelSample, access_log_dropped: u64) -> String {
        let mut page = String::with_capacity(PAGE_SIZE_HINT);
        let sampled = sampled(kernel, access_log_dropped);
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
        names::POOL_IDLE.register(registry, &self.pool_idle);
        names::POOL_CHECKOUTS.register(registry, &self.checkouts);
        names::FORWARD_BYTES.register(registry, &self.bytes);
        names::TUNNELS_ACTIVE.register(registry, &self.tunnels_active);
        names::TUNNEL_FALLBACKS.register(registry, &self.fallbacks);
        names::FAULTS.register(registry, &self.faults);
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

/// What only exists when somebody asks: read from the kernel and from the access log.
fn sampled(kernel: &KernelSample, access_log_dropped: u64) -> Registry {
    let mut registry = Registry::default();
    let info = Family::<KernelLabels, Gauge>::default();
    let KernelSample { mode, xdp_mode, abi, packets: _ } = *kernel;
    info.get_or_create(&KernelLabels { mode, xdp_mode, abi }).set(1);
    names::KERNEL_INFO.register(&mut registry, &info);

    let packets = Family::<PacketLabels, Counter>::default();
    for count in &kernel.packets {
        let PacketCount { program, reason, packets: n } = *count;
        packets.get_or_create(&PacketLabels { program, reason }).inc_by(n);
    }
    names::KERNEL_PACKETS.register(&mut registry, &packets);

    let dropped = Counter::<u64>::default();
    dropped.inc_by(access_log_dropped);
    names::ACCESS_LOG_DROPPED.register(&mut registry, &dropped);
    registry
}

/// What the kernel plane says of itself when a page is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelSample {
    /// The mode that runs, not the one asked for.
    pub mode: &'static str,
    pub xdp_mode: &'static str,
    pub abi: u32,
    pub packets: Vec<PacketCount>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketCount {
    pub program: &'static str,
    pub reason: &'static str,
    pub packets: u64,
}

impl KernelSample {
    /// No kernel plane.
    pub const OFF: KernelSample =
        KernelSample { mode: "off", xdp_mode: "off", abi: 0, packets: Vec::new() };
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

/// Handles of one listener.
#[derive(Debug)]
pub struct ListenerMetrics {
    listener: Name,
    active: Gauge,
    connections: Counter,
    refusals: Family<RefusedLabels, Counter>,
    /// By `Fault as usize`; filled on first use, so that only what happens has a series.
    refused: [OnceLock<Counter>; Fault::ALL.len()],
    accept_errors: [Counter; AcceptError::ALL.len()],
}

impl ListenerMetrics {
    fn new(families: &Families, listener: Name) -> ListenerMetrics {
        let labels = ListenerLabels { listener: Arc::clone(&listener) };
        ListenerMetrics {
            active: families.connections_active.get_or_create_owned(&labels),
            connections: families.connections.get_or_create_owned(&labels),
            refusals: families.refused.clone(),
            refused: [const { OnceLock::new() }; Fault::ALL.len()],
            accept_errors: AcceptError::ALL.map(|kind| {
                families.accept_errors.get_or_create_owned(&AcceptErrorLabels {
                    listener: Arc::clone(&listener),
                    kind: kind.label(),
                })
            }),
            listener,
        }
    }

    /// A downstream connection, counted as accepted now and as active until the guard is dropped.
    pub fn connection(&self) -> GaugeGuard {
        self.connections.inc();
        GaugeGuard::new(&self.active)
    }

    /// A connection closed before a byte of it was read.
    pub fn refused(&self, fault: Fault) {
        let counter = self.refused[fault as usize].get_or_init(|| {
            self.refusals.get_or_create_owned(&RefusedLabels {
                listener: Arc::clone(&self.listener),
                reason: fault.consequence().label,
            })
        });
        counter.inc();
    }

    pub fn accept_error(&self, error: &io::Error) {
        self.accept_errors[AcceptError::of(error) as usize].inc();
    }
}

/// Why `accept(2)` gave no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AcceptError {
    /// EMFILE: this process has no descriptor left.
    ProcessFiles,
    /// ENFILE: the machine has none left.
    SystemFiles,
    /// ENOBUFS, ENOMEM.
    Memory,
    /// ECONNABORTED and what Linux passes on from the connection itself.
    Connection,
    Other,
}

impl AcceptError {
    const ALL: [AcceptError; 5] = [
        AcceptError::ProcessFiles,
        AcceptError::SystemFiles,
        AcceptError::Memory,
        AcceptError::Connection,
        AcceptError::Other,
    ];

    const fn label(self) -> &'static str {
        match self {
            AcceptError::ProcessFiles => "process_files",
            AcceptError::SystemFiles => "system_files",
            AcceptError::Memory => "memory",
            AcceptError::Connection => "connection",
            AcceptError::Other => "other",
        }
    }

    fn of(error: &io::Error) -> AcceptError {
        match error.raw_os_error() {
            Some(libc::EMFILE) => AcceptError::ProcessFiles,
            Some(libc::ENFILE) => AcceptError::SystemFiles,
            Some(libc::ENOBUFS | libc::ENOMEM) => AcceptError::Memory,
            // accept(2): "Linux accept() passes already-pending network errors on the new socket".
            Some(
                libc::ECONNABORTED
                | libc::ECONNRESET
                | libc::EPROTO
                | libc::ENETDOWN
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::EHOSTUNREACH
                | libc::EOPNOTSUPP
                | libc::ENETUNREACH,
            ) => AcceptError::Connection,
            _ => AcceptError::Other,
        }
    }
}

/// Handles of one route on one listener.
#[derive(Debug)]
pub struct RouteMetrics {
    listener: Name,
    route: Name,
    requests: Family<RequestLabels, Counter>,
    /// By class and end; filled on first use, so that only what happens has a series.
    cells: Box<[[OnceLock<Counter>; ENDS.count]; CLASSES.len()]>,
    duration: DurationHistogram,
    bytes: ByteCounters,
}

impl RouteMetrics {
    /// A request (`status` of its answer, if one left) or a tunnel (`None`) that ended.
    ///
    /// `end` is an end code of the fault table or [`NORMAL_END`].
    pub fn finished(&self, status: Option<u16>, end: &'static str, duration: Duration) {
        let (class, end) = (class_index(status), end_index(end));
        let cell = self.cells[class][end].get_or_init(|| {
            self.requests.get_or_create_owned(&RequestLabels {
                listener: Arc::clone(&self.listener),
                route: Arc::clone(&self.route),
                class: CLASSES[class],
                end: ENDS.codes[end],
            })
        });
        cell.inc();
        self.duration.observe(duration);
    }

    /// Body or tunnel bytes that were moved.
    pub fn bytes(&self, direction: Direction, via: Via, n: u64) {
        self.bytes.0[direction as usize][via as usize].inc_by(n);
    }
}

/// `class` labels by hundreds of the status; the first is for no answer at all.
const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

fn class_index(status: Option<u16>) -> usize {
    let hundreds = status.map_or(0, |status| usize::from(status / 100));
    if hundreds < CLASSES.len() { hundreds } else { 0 }
}

/// The end codes that exist: [`NORMAL_END`], then each one of the fault table once.
const ENDS: Ends = Ends::of_fault_table();

struct Ends {
    codes: [&'static str; Fault::ALL.len() + 1],
    count: usize,
}

impl Ends {
    const fn of_fault_table() -> Ends {
        let mut ends = Ends { codes: [NORMAL_END; Fault::ALL.len() + 1], count: 1 };
        let mut i = 0;
        while i < Fault::ALL.len() {
            let code = Fault::ALL[i].consequence().end;
            if ends.position(code).is_none() {
                ends.codes[ends.count] = code;
                ends.count += 1;
            }
            i += 1;
        }
        ends
    }

    const fn position(&self, code: &str) -> Option<usize> {
        let code = code.as_bytes();
        let mut i = 0;
        while i < self.count {
            let known = self.codes[i].as_bytes();
            if code.len() == 2 && known[0] == code[0] && known[1] == code[1] {
                return Some(i);
            }
            i += 1;
        }
        None
    }
}

fn end_index(end: &'static str) -> usize {
    const INTERNAL: usize = match ENDS.position(Fault::Internal.consequence().end) {
        Some(index) => index,
        None => unreachable!(),
    };
    let index = ENDS.position(end);
    debug_assert!(index.is_some(), "`{end}` is not an end code");
    index.unwrap_or(INTERNAL)
}

/// Which way bytes went, seen from the downstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To the downstream.
    Sent,
    /// From the downstream.
    Recv,
}

impl Direction {
    const ALL: [Direction; 2] = [Direction::Sent, Direction::Recv];

    const fn label(self) -> &'static str {
        match self {
            Direction::Sent => "sent",
            Direction::Recv => "recv",
        }
    }
}

/// By direction and via.
#[derive(Debug, Clone)]
struct ByteCounters([[Counter; Via::ALL.len()]; Direction::ALL.len()]);

impl ByteCounters {
    fn new(family: &Family<BytesLabels, Counter>) -> ByteCounters {
        ByteCounters(Direction::ALL.map(|direction| {
            Via::ALL.map(|via| {
                family.get_or_create_owned(&BytesLabels {
                    direction: direction.label(),
                    via: via.label(),
                })
            })
        }))
    }
}

/// Handles of one upstream.
#[derive(Debug)]
pub struct UpstreamMetrics {
    connects: [Counter; ConnectResult::ALL.len()],
    checkouts: [Counter; Checkout::ALL.len()],
    pool_idle: Gauge,
    retries: Counter,
}

impl UpstreamMetrics {
    fn new(families: &Families, upstream: Name) -> UpstreamMetrics {
        let labels = UpstreamLabels { upstream: Arc::clone(&upstream) };
        let with = |result| UpstreamResultLabels { upstream: Arc::clone(&upstream), result };
        UpstreamMetrics {
            connects: ConnectResult::ALL
                .map(|result| families.connects.get_or_create_owned(&with(result.label()))),
            checkouts: Checkout::ALL
                .map(|result| families.checkouts.get_or_create_owned(&with(result.label()))),
            pool_idle: families.pool_idle.get_or_create_owned(&labels),
            retries: families.retries.get_or_create_owned(&labels),
        }
    }

    /// One node was dialled.
    pub fn connect(&self, result: ConnectResult) {
        self.connects[result as usize].inc();
    }

    /// A connection was asked of the pool.
    pub fn checkout(&self, result: Checkout) {
        self.checkouts[result as usize].inc();
    }

    /// A connection that waits in the pool until the guard is dropped.
    pub fn pool_idle(&self) -> GaugeGuard {
        GaugeGuard::new(&self.pool_idle)
    }

    /// A request went to a further node, or once more over a new connection.
    pub fn retry(&self) {
        self.retries.inc();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectResult {
    Connected,
    /// Refused, unreachable, or anything else but the deadline.
    Refused,
    TimedOut,
}

impl ConnectResult {
    const ALL: [ConnectResult; 3] =
        [ConnectResult::Connected, ConnectResult::Refused, ConnectResult::TimedOut];

    const fn label(self) -> &'static str {
        match self {
            ConnectResult::Connected => "connected",
            ConnectResult::Refused => "refused",
            ConnectResult::TimedOut => "timeout",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checkout {
    /// An idle connection that still lives.
    Reused,
    /// None was idle: one has to be dialled.
    New,
    /// An idle connection that turned out to be closed; another checkout follows.
    Stale,
}

impl Checkout {
    const ALL: [Checkout; 3] = [Checkout::Reused, Checkout::New, Checkout::Stale];

    const fn label(self) -> &'static str {
        match self {
            Checkout::Reused => "reused",
            Checkout::New => "new",
            Checkout::Stale => "stale",
        }
    }
}

#[cfg(test)]
mod tests;
