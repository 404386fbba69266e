//! Which nodes of an upstream take requests, by what probes and requests meet: pure, and shared by all
//! workers.
//!
//! A request asks by one load for each node it looks at, and says what it has met by one more, unless
//! that changes something. What is known of a node stays for as long as the node and what it is judged
//! by do. `upstream::probe` asks the nodes.

mod standing;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
    time::{Duration, Instant},
};

use self::standing::{Report, Standing, State};
use super::balance::NodeIndex;
use crate::{
    config::{self, Checks, Node, OutlierDetection},
    error::Fault,
    metrics::{CheckResult, Ejection, HealthMetrics, Metrics},
};

/// What a request, a connection or a probe has met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered.
    Status(u16),
    /// There is nothing that would be answered.
    Connected,
    /// It was refused, reset or answered by what is no response.
    Closed,
    TimedOut,
}

impl Outcome {
    /// `None`: the fault says nothing of the node. That a node has given up an idle connection is its
    /// right.
    pub fn of_fault(fault: Fault) -> Option<Outcome> {
        if !fault.is_of_node() || fault == Fault::StaleConnection {
            return None;
        }
        let is_timeout = fault.consequence().end.starts_with('s');
        Some(if is_timeout { Outcome::TimedOut } else { Outcome::Closed })
    }

    const fn is_server_error(self) -> bool {
        match self {
            Outcome::Status(status) => 500 <= status && status <= 599,
            Outcome::Connected => false,
            Outcome::Closed | Outcome::TimedOut => true,
        }
    }

    const fn is_gateway_failure(self) -> bool {
        match self {
            Outcome::Status(status) => 502 <= status && status <= 504,
            Outcome::Connected => false,
            Outcome::Closed | Outcome::TimedOut => true,
        }
    }

    /// Any but 0, which is none.
    const fn pack(self) -> u32 {
        match self {
            Outcome::Status(status) => 1 << 16 | status as u32,
            Outcome::Connected => 2 << 16,
            Outcome::Closed => 3 << 16,
            Outcome::TimedOut => 4 << 16,
        }
    }

    const fn unpack(word: u32) -> Option<Outcome> {
        match word >> 16 {
            1 => Some(Outcome::Status(word as u16)),
            2 => Some(Outcome::Connected),
            3 => Some(Outcome::Closed),
            4 => Some(Outcome::TimedOut),
            _ => None,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Status(status) => write!(f, "status {status}"),
            Outcome::Connected => f.write_str("connected"),
            Outcome::Closed => f.write_str("no connection or no whole response"),
            Outcome::TimedOut => f.write_str("timed out"),
        }
    }
}

/// What makes a node an outlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Excess {
    ServerErrors,
    GatewayFailures,
    /// Of the requests of an interval.
    Percentage,
}

impl Excess {
    const fn label(self) -> &'static str {
        match self {
            Excess::ServerErrors => "consecutive_5xx",
            Excess::GatewayFailures => "consecutive_gateway_failure",
            Excess::Percentage => "failure_percentage",
        }
    }
}

/// What a node that comes up gets of its share at once.
const FIRST_SHARE: f64 = 0.1;

/// Of one upstream.
#[derive(Debug)]
pub struct Health {
    judge: Arc<Judge>,
    /// As the balancer has them.
    nodes: Box<[Arc<NodeHealth>]>,
    succession: Arc<Succession>,
    /// Position in it.
    number: u64,
}

/// What was and is known of the nodes of one upstream, as its configuration changes: what is met later
/// speaks to the latest, by whatever rules the request began.
#[derive(Debug, Default)]
struct Succession {
    /// Position of the latest.
    number: AtomicU64,
    /// `None`: nobody asks any more.
    latest: Mutex<Weak<Health>>,
}

impl Succession {
    fn is_latest(&self, health: &Health) -> bool {
        self.number.load(Acquire) == health.number
    }

    fn latest(&self) -> Option<Arc<Health>> {
        lock(&self.latest).upgrade()
    }

    /// What is made with its position is the latest from now on.
    fn next(&self, make: impl FnOnce(u64) -> Option<Arc<Health>>) -> Option<Arc<Health>> {
        let mut latest = lock(&self.latest);
        let number = self.number.load(Relaxed) + 1;
        let made = make(number);
        *latest = made.as_ref().map_or_else(Weak::new, Arc::downgrade);
        self.number.store(number, Release);
        made
    }
}

/// What the nodes of an upstream are judged by; the same for as long as that is.
#[derive(Debug)]
struct Judge {
    upstream: Arc<str>,
    checks: Option<Arc<Checks>>,
    outliers: Option<OutlierDetection>,
    /// How long it takes a node that comes up to get its whole share.
    slow_start: Option<Duration>,
    metrics: Arc<HealthMetrics>,
    /// Held while a node is ejected, so that no more are than may be.
    ejecting: Mutex<()>,
}

/// Of one node, shared by all workers.
#[derive(Debug)]
pub struct NodeHealth {
    judge: Arc<Judge>,
    /// [`config::Node::identity`].
    identity: (SocketAddr, Option<Arc<str>>),
    /// A [`Standing`].
    standing: AtomicU64,
    /// When it came up while others were, milliseconds from `begin` on; 0: nobody minds.
    risen: AtomicU64,
    begin: Instant,
    /// The last [`Outcome`] that spoke against it; 0: there was none.
    last_failure: AtomicU32,
    interval: Tally,
    history: Mutex<History>,
}

/// Requests since the last sweep, where that is asked for.
#[derive(Debug, Default)]
struct Tally {
    all: AtomicU64,
    failed: AtomicU64,
}

impl Tally {
    fn add(&self, has_failed: bool) {
        self.all.fetch_add(1, Relaxed);
        if has_failed {
            self.failed.fetch_add(1, Relaxed);
        }
    }

    /// All and failed ones; one that is added meanwhile may be counted in different intervals.
    fn take(&self) -> (u64, u64) {
        let failed = self.failed.swap(0, Relaxed);
        (self.all.swap(0, Relaxed), failed)
    }
}

/// What is of interest only when something changes.
#[derive(Debug)]
struct History {
    /// Since when it takes requests, or takes none.
    since: Instant,
    /// Ejections that are not forgotten.
    ejections: u32,
    ejected_until: Instant,
    /// When the number of ejections changed last, or the ejection ended.
    eased: Instant,
}

/// What a page says of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View<'a> {
    pub upstream: &'a str,
    pub node: SocketAddr,
    /// The name that the node has its address from.
    pub host: Option<&'a str>,
    pub is_up: bool,
    pub state: &'static str,
    /// Since when `is_up` is what it is.
    pub since: Instant,
    pub last_failure: Option<Outcome>,
}

impl Health {
    /// `None`: nobody asks for it. `before` is that of the upstream before its configuration changed.
    pub fn new(
        config: &config::Upstream,
        before: Option<&Health>,
        metrics: &Metrics,
        now: Instant,
    ) -> Option<Arc<Health>> {
        let succession = before.map(|before| &before.succession);
        if !config.is_judged() {
            return succession?.next(|_| None);
        }
        let known = before.filter(|before| before.judge.checks == config.checks);
        let known: HashMap<_, _> = known
            .into_iter()
            .flat_map(|before| &before.nodes)
            .map(|node| (&node.identity, node))
            .collect();
        let kept = before.filter(|before| before.judge.judges_by(config));
        let judge = match kept {
            Some(kept) => Arc::clone(&kept.judge),
            None => Arc::new(Judge::new(config, metrics)),
        };
        let were_there: HashSet<_> =
            before.iter().flat_map(|before| &before.nodes).map(|node| node.address()).collect();
        let nodes = config.nodes.iter().map(Node::identity).map(|node| match known.get(&node) {
            Some(known) if kept.is_some() => Arc::clone(known),
            Some(known) => Arc::new(known.judged_by(&judge)),
            None => {
                let new = NodeHealth::new(&judge, node, now);
                // At a start names are resolved when the rest is there already.
                if !were_there.is_empty() && !were_there.contains(&new.address()) {
                    new.rise(now);
                }
                Arc::new(new)
            }
        });
        let nodes = nodes.collect();
        let succession = succession.map_or_else(Arc::default, Arc::clone);
        Arc::clone(&succession)
            .next(|number| Some(Arc::new(Health { judge, nodes, succession, number })))
    }

    pub fn nodes(&self) -> &[Arc<NodeHealth>] {
        &self.nodes
    }

    pub fn checks(&self) -> Option<&Arc<Checks>> {
        self.judge.checks.as_ref()
    }

    pub fn outliers(&self) -> Option<&OutlierDetection> {
        self.judge.outliers.as_ref()
    }

    pub fn is_up(&self, node: NodeIndex) -> bool {
        self.nodes[node.position()].is_up()
    }

    /// Whether `node` takes the request that drew this number: of all requests it would get, one that
    /// comes up takes a share that grows with the time since.
    pub fn is_warm(&self, node: NodeIndex, random: u64, now: Instant) -> bool {
        let position = node.position();
        let node = &self.nodes[position];
        let risen = node.risen.load(Relaxed);
        let Some(window) = self.judge.slow_start.filter(|_| risen > 0) else { return true };
        let since = node.age(now).saturating_sub(risen) as f64;
        let share = (since / (window.as_secs_f64() * 1e3)).max(FIRST_SHARE);
        // Another number for each node.
        let drawn = random.wrapping_mul(2 * position as u64 + 1);
        (drawn as f64) < share * u64::MAX as f64
    }

    /// A request went to a node although none was up.
    pub fn was_all_down(&self) {
        self.judge.metrics.all_down();
    }

    /// What a request or a connection has met on `node`, in the light of the rules that are in force
    /// by now.
    pub fn observe(&self, node: NodeIndex, outcome: Outcome, clock: impl Fn() -> Instant) {
        let node = &self.nodes[node.position()];
        if self.succession.is_latest(self) {
            return self.note(node, outcome, clock);
        }
        let Some(latest) = self.succession.latest() else { return };
        if let Some(same) = latest.nodes.iter().find(|other| other.identity == node.identity) {
            latest.note(same, outcome, clock);
        }
    }

    fn note(&self, node: &NodeHealth, outcome: Outcome, clock: impl Fn() -> Instant) {
        let passive = self.judge.checks.as_ref().and_then(|checks| checks.passive.as_ref());
        if let Some(check) = passive
            && let Some(report) = Report::of(outcome, check.kind, &check.judgement)
        {
            node.report(report, report.limit(&check.judgement), outcome, &clock);
        }
        if let Some(rules) = &self.judge.outliers {
            if outcome.is_server_error() {
                node.note_failure(outcome);
            }
            if rules.failure_percentage_threshold > 0 {
                node.interval.add(outcome.is_server_error());
            }
            if let Some(excess) = node.met(outcome, rules) {
                self.eject(node, rules, excess, clock());
            }
        }
    }

    /// Ends an interval: readmits whose time is over, and ejects who has failed too often in it.
    pub fn sweep(&self, now: Instant) {
        if let Some(rules) = &self.judge.outliers {
            self.nodes.iter().for_each(|node| node.sweep(rules, now));
            if rules.failure_percentage_threshold > 0 {
                self.compare(rules, now);
            }
        }
    }

    fn compare(&self, rules: &OutlierDetection, now: Instant) {
        let volume = u64::from(rules.failure_percentage_request_volume);
        let tallies = self.nodes.iter().map(|node| (node, node.interval.take()));
        let busy: Vec<_> = tallies.filter(|(_, (all, _))| *all >= volume).collect();
        if busy.len() < rules.failure_percentage_minimum_hosts {
            return;
        }
        let threshold = u64::from(rules.failure_percentage_threshold);
        for (node, (all, failed)) in busy {
            if failed.saturating_mul(100) >= all.saturating_mul(threshold) {
                self.eject(node, rules, Excess::Percentage, now);
            }
        }
    }

    fn eject(&self, node: &NodeHealth, rules: &OutlierDetection, excess: Excess, now: Instant) {
        let _no_other = lock(&self.judge.ejecting);
        if node.standing().is_ejected {
            return;
        }
        let ejected = self.nodes.iter().filter(|node| node.standing().is_ejected).count();
        let share = self.nodes.len() * usize::from(rules.max_ejection_percent) / 100;
        if ejected >= share.max(1) {
            return self.judge.metrics.ejection(Ejection::Refused);
        }
        let seconds = node.eject(rules, now).as_secs_f64();
        self.judge.metrics.ejection(Ejection::Ejected);
        let (upstream, node, cause) = (&self.judge.upstream, node.address(), excess.label());
        tracing::warn!(%upstream, %node, cause, seconds, "node ejected");
    }
}

impl Judge {
    fn new(config: &config::Upstream, metrics: &Metrics) -> Judge {
        Judge {
            upstream: Arc::clone(&config.id),
            checks: config.checks.clone(),
            outliers: config.outlier_detection.clone(),
            slow_start: config.slow_start,
            metrics: metrics.health(&config.id),
            ejecting: Mutex::default(),
        }
    }

    fn judges_by(&self, config: &config::Upstream) -> bool {
        self.checks == config.checks
            && self.outliers == config.outlier_detection
            && self.slow_start == config.slow_start
    }
}

impl NodeHealth {
    /// New nodes take requests.
    fn new(
        judge: &Arc<Judge>,
        identity: (SocketAddr, Option<Arc<str>>),
        now: Instant,
    ) -> NodeHealth {
        let history = History { since: now, ejections: 0, ejected_until: now, eased: now };
        NodeHealth {
            judge: Arc::clone(judge),
            identity,
            standing: AtomicU64::new(Standing::default().pack()),
            risen: AtomicU64::new(0),
            begin: now,
            last_failure: AtomicU32::new(0),
            interval: Tally::default(),
            history: Mutex::new(history),
        }
    }

    /// The same in the eyes of checks, with other rules for outliers, by which it is none yet.
    fn judged_by(&self, judge: &Arc<Judge>) -> NodeHealth {
        let since = lock(&self.history).since;
        let node = NodeHealth {
            begin: self.begin,
            ..NodeHealth::new(judge, self.identity.clone(), since)
        };
        node.standing.store(self.standing().readmitted().pack(), Relaxed);
        node.last_failure.store(self.last_failure.load(Relaxed), Relaxed);
        node.risen.store(self.risen.load(Relaxed), Relaxed);
        node
    }

    fn address(&self) -> SocketAddr {
        self.identity.0
    }

    pub fn is_up(&self) -> bool {
        self.standing().is_up()
    }

    pub fn checks(&self) -> Option<&Arc<Checks>> {
        self.judge.checks.as_ref()
    }

    /// Whether checks see it as up, ejected or not.
    pub fn is_well(&self) -> bool {
        self.standing().state.is_up()
    }

    pub fn view(&self) -> View<'_> {
        let standing = self.standing();
        View {
            upstream: &self.judge.upstream,
            node: self.address(),
            host: self.identity.1.as_deref(),
            is_up: standing.is_up(),
            state: if standing.is_ejected { "ejected" } else { standing.state.label() },
            since: lock(&self.history).since,
            last_failure: Outcome::unpack(self.last_failure.load(Relaxed)),
        }
    }

    /// What a probe has met.
    pub fn probed(&self, outcome: Outcome, clock: impl Fn() -> Instant) {
        let Some(Checks { active, .. }) = self.judge.checks.as_deref() else { return };
        let report = Report::of(outcome, active.kind, &active.judgement);
        self.judge.metrics.check(report.map_or(CheckResult::Ignored, Report::result));
        let Some(report) = report else { return };
        self.report(report, report.limit(&active.judgement), outcome, &clock);
        if report == Report::Success && self.standing().is_ejected {
            self.readmit(&mut lock(&self.history), "probe", clock());
        }
    }

    /// A probe had to wait for others.
    pub fn probe_delayed(&self) {
        self.judge.metrics.check_delayed();
    }

    fn standing(&self) -> Standing {
        Standing::unpack(self.standing.load(Acquire))
    }

    /// Before and after; a load and nothing else if both are the same.
    fn change(&self, make: impl Fn(Standing) -> Standing) -> (Standing, Standing) {
        let made = |word| {
            let made = make(Standing::unpack(word)).pack();
            (made != word).then_some(made)
        };
        match self.standing.fetch_update(AcqRel, Acquire, made) {
            Ok(before) => (Standing::unpack(before), make(Standing::unpack(before))),
            Err(same) => (Standing::unpack(same), Standing::unpack(same)),
        }
    }

    fn note_failure(&self, outcome: Outcome) {
        self.last_failure.store(outcome.pack(), Relaxed);
    }

    fn report(&self, report: Report, limit: u8, outcome: Outcome, clock: &impl Fn() -> Instant) {
        if report != Report::Success {
            self.note_failure(outcome);
        }
        let (before, after) = self.change(|standing| standing.reported(report, limit));
        if before.is_up() != after.is_up() {
            self.turn(&mut lock(&self.history), after, clock());
        }
        if before.state.is_up() != after.state.is_up() {
            self.log(after.state, outcome);
        }
    }

    /// It takes requests from now on, or takes none.
    fn turn(&self, history: &mut History, after: Standing, now: Instant) {
        history.since = now;
        if after.is_up() {
            self.rise(now);
        }
    }

    fn rise(&self, now: Instant) {
        self.risen.store(self.age(now), Relaxed);
    }

    /// Milliseconds, and one more.
    fn age(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.begin).as_millis() as u64 + 1
    }

    fn log(&self, state: State, cause: Outcome) {
        let (upstream, node, state_is) = (&self.judge.upstream, self.address(), state.label());
        if state.is_up() {
            tracing::info!(%upstream, %node, state = state_is, %cause, "node is up");
        } else {
            tracing::warn!(%upstream, %node, state = state_is, %cause, "node is down");
        }
    }

    fn met(&self, outcome: Outcome, rules: &OutlierDetection) -> Option<Excess> {
        let (before, _) = self.change(|standing| standing.met(outcome, rules).0);
        before.met(outcome, rules).1
    }

    /// For how long.
    fn eject(&self, rules: &OutlierDetection, now: Instant) -> Duration {
        let mut history = lock(&self.history);
        let (before, after) = self.change(Standing::ejected);
        if before.is_up() != after.is_up() {
            self.turn(&mut history, after, now);
        }
        history.ejections = history.ejections.saturating_add(1);
        let time = rules.base_ejection_time.saturating_mul(history.ejections);
        let time = time.min(rules.max_ejection_time.max(rules.base_ejection_time));
        history.ejected_until = now + time;
        time
    }

    fn readmit(&self, history: &mut History, cause: &str, now: Instant) {
        let (before, after) = self.change(Standing::readmitted);
        if !before.is_ejected {
            return;
        }
        if before.is_up() != after.is_up() {
            self.turn(history, after, now);
        }
        history.eased = now;
        let (upstream, node) = (&self.judge.upstream, self.address());
        tracing::info!(%upstream, %node, cause, "node is not ejected any more");
    }

    fn sweep(&self, rules: &OutlierDetection, now: Instant) {
        let mut history = lock(&self.history);
        if self.standing().is_ejected {
            if now >= history.ejected_until {
                self.readmit(&mut history, "time", now);
            }
            return;
        }
        while history.ejections > 0 && now >= history.eased + rules.interval {
            history.ejections -= 1;
            history.eased += rules.interval;
        }
    }
}

impl Report {
    const fn result(self) -> CheckResult {
        match self {
            Report::Success => CheckResult::Success,
            Report::HttpFailure => CheckResult::HttpFailure,
            Report::TcpFailure => CheckResult::TcpFailure,
            Report::Timeout => CheckResult::Timeout,
        }
    }
}

/// Nothing that runs under these locks leaves anything half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
