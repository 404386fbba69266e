//! Asks the nodes of every upstream with `checks` whether they are well, and lets ejected ones back in:
//! tasks of the control runtime that come and go with what they are about.

use std::{
    collections::HashMap,
    future::Future,
    hash::{BuildHasher as _, RandomState},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue, header, uri::Authority};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::{AbortHandle, spawn},
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    connect,
    group::Upstream,
    health::{Health, NodeHealth, Outcome},
};
use crate::{
    client::{Client, Failure, Purpose, Request, Url},
    config::{ActiveCheck, CheckKind, Checks, Limits, Node, PassHost},
    error::Fault,
    pipeline::Pipeline,
};

/// Probes of all upstreams at a time; each holds a file.
const PROBES_MAX: usize = 128;
/// What is read of the body of a response, so that most nodes see it taken; bytes.
const BODY_SIZE_MAX: usize = 16 * 1024;
/// What `User-Agent` says unless `req_headers` does.
const USER_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("tandem/", env!("CARGO_PKG_VERSION")));

/// Probes the nodes of the rules in force, until dropped.
pub(crate) async fn follow(
    mut rules: watch::Receiver<Arc<Pipeline>>,
    limits: Limits,
    client: Arc<Client>,
) {
    let mut prober = Prober {
        limits,
        client,
        permits: Arc::new(Semaphore::new(PROBES_MAX)),
        watched: HashMap::new(),
    };
    loop {
        let pipeline = Arc::clone(&rules.borrow_and_update());
        prober.take_over(&pipeline);
        drop(pipeline);
        if rules.changed().await.is_err() {
            return;
        }
    }
}

/// Everything that is probed.
struct Prober {
    limits: Limits,
    client: Arc<Client>,
    permits: Arc<Semaphore>,
    /// By id of the upstream.
    watched: HashMap<Arc<str>, Watched>,
}

/// One upstream.
struct Watched {
    health: Arc<Health>,
    /// `concurrency` of them.
    permits: Arc<Semaphore>,
    /// By [`Node::identity`].
    probing: HashMap<(SocketAddr, Option<Arc<str>>), Probing>,
    sweeping: Option<Sweeping>,
}

/// Ends one interval after the other, whatever becomes of the nodes meanwhile.
struct Sweeping {
    every: Duration,
    health: watch::Sender<Arc<Health>>,
    _task: Task,
}

impl Sweeping {
    /// `None`: nobody asks for it. `before` goes on unless the interval is another one.
    fn of(health: &Arc<Health>, before: Option<Sweeping>) -> Option<Sweeping> {
        let every = health.outliers()?.interval;
        if let Some(same) = before.filter(|before| before.every == every) {
            same.health.send_replace(Arc::clone(health));
            return Some(same);
        }
        let (health, latest) = watch::channel(Arc::clone(health));
        Some(Sweeping { every, health, _task: Task::start(sweep(latest, every)) })
    }
}

/// One node.
struct Probing {
    node: Arc<NodeHealth>,
    question: Arc<Question>,
    _task: Task,
}

/// Ends when dropped.
struct Task(AbortHandle);

impl Task {
    fn start(task: impl Future<Output = ()> + Send + 'static) -> Task {
        Task(spawn(task).abort_handle())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Prober {
    /// What is the same as before goes on undisturbed.
    fn take_over(&mut self, pipeline: &Pipeline) {
        let mut before = std::mem::take(&mut self.watched);
        for upstream in pipeline.upstreams() {
            let Some(health) = &upstream.health else { continue };
            let watched = match before.remove(upstream.id()) {
                Some(same) if Arc::ptr_eq(&same.health, health) => same,
                before => self.watch(upstream, health, before),
            };
            self.watched.insert(Arc::clone(upstream.id()), watched);
        }
    }

    fn watch(&self, upstream: &Upstream, health: &Arc<Health>, before: Option<Watched>) -> Watched {
        let checks = health.checks();
        let (before, swept) = match before {
            Some(Watched { health: judged, permits, probing, sweeping }) => {
                ((judged.checks() == checks).then_some((permits, probing)), sweeping)
            }
            None => (None, None),
        };
        let sweeping = Sweeping::of(health, swept);
        let (permits, mut known) = before.unwrap_or_else(|| {
            let concurrency = checks.map_or(0, |checks| checks.active.concurrency);
            (Arc::new(Semaphore::new(concurrency)), HashMap::new())
        });
        let nodes = health.nodes().iter().zip(&upstream.config.nodes);
        let probing = nodes.filter_map(|(node, config)| {
            let check = &node.checks()?.active;
            let question = Question::of(check, &upstream.config.pass_host, config);
            let identity = config.identity();
            let same = known
                .remove(&identity)
                .filter(|known| Arc::ptr_eq(&known.node, node) && *known.question == question);
            let probing = same.unwrap_or_else(|| self.probe(node, question, &permits));
            Some((identity, probing))
        });
        let probing = probing.collect();
        Watched { health: Arc::clone(health), permits, probing, sweeping }
    }

    fn probe(
        &self,
        node: &Arc<NodeHealth>,
        question: Question,
        permits: &Arc<Semaphore>,
    ) -> Probing {
        let question = Arc::new(question);
        let round = Round {
            node: Arc::clone(node),
            question: Arc::clone(&question),
            client: Arc::clone(&self.client),
            permits: [Arc::clone(permits), Arc::clone(&self.permits)],
            limits: self.limits,
        };
        Probing { node: Arc::clone(node), question, _task: Task::start(round.run()) }
    }
}

async fn sweep(health: watch::Receiver<Arc<Health>>, every: Duration) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let health = Arc::clone(&health.borrow());
        health.sweep(Instant::now());
    }
}

/// Probes of one node, one after the other.
struct Round {
    node: Arc<NodeHealth>,
    question: Arc<Question>,
    client: Arc<Client>,
    /// Of the upstream, of all.
    permits: [Arc<Semaphore>; 2],
    limits: Limits,
}

impl Round {
    async fn run(self) {
        let Some(checks) = self.node.checks().map(Arc::clone) else { return };
        let Checks { active: check, .. } = &*checks;
        let mut jitter = Jitter::new();
        loop {
            let Some(permits) = self.permits().await else { return };
            let begun = Instant::now();
            if let Some(outcome) = self.question.ask(&self.client, &self.limits).await {
                self.node.probed(outcome, Instant::now);
            }
            drop(permits);
            self.rest(check, begun, jitter.part()).await;
        }
    }

    /// Waits for `part` of the interval since `begun`. What requests meet may change the state
    /// meanwhile, and with it the interval.
    async fn rest(&self, check: &ActiveCheck, begun: Instant, part: f64) {
        let look = check.healthy_interval.min(check.unhealthy_interval);
        loop {
            let interval =
                if self.node.is_well() { check.healthy_interval } else { check.unhealthy_interval };
            let left = interval.mul_f64(part).saturating_sub(begun.elapsed());
            if left.is_zero() {
                return;
            }
            sleep(left.min(look)).await;
        }
    }

    /// `None`: there will never be any.
    async fn permits(&self) -> Option<[OwnedSemaphorePermit; 2]> {
        let [own, all] = &self.permits;
        if own.available_permits() == 0 || all.available_permits() == 0 {
            self.node.probe_delayed();
        }
        let own = Arc::clone(own).acquire_owned().await.ok()?;
        Some([own, Arc::clone(all).acquire_owned().await.ok()?])
    }
}

/// Keeps nodes that were first probed together from being probed together ever after.
struct Jitter {
    seed: RandomState,
    turn: u64,
}

impl Jitter {
    fn new() -> Self {
        Self { seed: RandomState::new(), turn: 0 }
    }

    /// How much of an interval is waited for: the first time any part, then the whole, a tenth more
    /// or less.
    fn part(&mut self) -> f64 {
        let random = self.seed.hash_one(self.turn) as f64 / u64::MAX as f64;
        self.turn += 1;
        if self.turn == 1 { random } else { 0.9 + 0.2 * random }
    }
}

/// What a node is asked.
#[derive(Debug, PartialEq, Eq)]
enum Question {
    /// For a response.
    Http(Box<Request>),
    /// Only to take a connection.
    Tcp { address: SocketAddr, timeout: Duration },
}

impl Question {
    fn of(check: &ActiveCheck, pass_host: &PassHost, node: &Node) -> Question {
        let ip = node.address.ip();
        let address = SocketAddr::new(ip, check.port.unwrap_or(node.address.port()));
        let timeout = check.timeout;
        let is_tls = match check.kind {
            CheckKind::Tcp => return Question::Tcp { address, timeout },
            CheckKind::Http => false,
            CheckKind::Https => true,
        };
        let own = node.host.as_deref().and_then(|host| HeaderValue::try_from(host).ok());
        let host = match (&check.host, pass_host) {
            (Some(host), _) | (None, PassHost::Rewrite(host)) => Some(host),
            (None, PassHost::Pass | PassHost::Node) => own.as_ref(),
        };
        let name = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
        let name = name.map_or(ip.to_string(), |name| name.host().to_owned());
        Question::Http(Box::new(Request {
            purpose: Purpose::HealthCheck,
            method: check.method.clone(),
            url: Url {
                is_tls,
                host: name.trim_matches(['[', ']']).into(),
                port: address.port(),
                target: check.path.clone(),
            },
            address: Some(address),
            fields: fields(check, host),
            body: check.body.clone(),
            timeout,
            body_size_max: BODY_SIZE_MAX,
            trust: check.trust,
            keep_alive: None,
        }))
    }

    /// `None`: we have no file to ask with.
    async fn ask(&self, client: &Client, limits: &Limits) -> Option<Outcome> {
        Some(match self {
            Question::Http(request) => match client.call(request).await {
                Ok(response) => Outcome::Status(response.status.as_u16()),
                Err(Failure::TimedOut) => Outcome::TimedOut,
                Err(Failure::OutOfFiles) => return None,
                Err(_) => Outcome::Closed,
            },
            Question::Tcp { address, timeout } => {
                match connect::dial(*address, *timeout, limits, |_| {}).await {
                    Ok(_) => Outcome::Connected,
                    Err(Fault::ConnectTimedOut) => Outcome::TimedOut,
                    Err(Fault::OutOfFiles) => return None,
                    Err(_) => Outcome::Closed,
                }
            }
        })
    }
}

fn fields(check: &ActiveCheck, host: Option<&HeaderValue>) -> HeaderMap {
    let mut fields = HeaderMap::new();
    if let Some(host) = host {
        fields.insert(header::HOST, host.clone());
    }
    for (name, value) in &check.fields {
        fields.append(name, value.clone());
    }
    fields.entry(header::USER_AGENT).or_insert(USER_AGENT);
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nodes that are first probed together are not probed together again.
    #[test]
    fn probes_spread() {
        let mut first: Vec<_> = (0..50)
            .map(|_| {
                let mut jitter = Jitter::new();
                let first = jitter.part();
                assert!((0.0..=1.0).contains(&first), "{first}");
                assert!((0..20).all(|_| (0.9..=1.1).contains(&jitter.part())));
                first
            })
            .collect();
        first.sort_unstable_by(f64::total_cmp);
        assert!(first[49] - first[0] > 0.5, "{first:?}");
    }
}
