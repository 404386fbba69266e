//! Asks the nodes of every upstream with `checks` whether they are well, and lets ejected ones back in:
//! tasks of the control runtime that come and go with what they are about.

use std::{
    collections::HashMap,
    future::Future,
    hash::{BuildHasher as _, RandomState},
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::{AbortHandle, spawn},
    time::{MissedTickBehavior, interval, sleep_until, timeout},
};

use super::{
    connect,
    group::Upstream,
    health::{Health, NodeHealth, Outcome},
};
use crate::{
    config::{ActiveCheck, CheckKind, Checks, Limits, PassHost},
    error::Fault,
    exchange::request_head::own_host,
    pipeline::Pipeline,
};

/// Probes of all upstreams at a time; each holds a file.
const PROBES_MAX: usize = 128;
/// Head of a response, bytes; hyper takes nothing below 8 KiB.
const HEAD_SIZE_MAX: usize = 8 * 1024;
/// What `User-Agent` says unless `req_headers` does.
const USER_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("tandem/", env!("CARGO_PKG_VERSION")));

/// Probes the nodes of the rules in force, until dropped.
pub(crate) async fn follow(mut rules: watch::Receiver<Arc<Pipeline>>, limits: Limits) {
    let mut prober =
        Prober { limits, permits: Arc::new(Semaphore::new(PROBES_MAX)), watched: HashMap::new() };
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
    permits: Arc<Semaphore>,
    /// By id of the upstream.
    watched: HashMap<Arc<str>, Watched>,
}

/// One upstream.
struct Watched {
    health: Arc<Health>,
    /// `concurrency` of them.
    permits: Arc<Semaphore>,
    probing: HashMap<SocketAddr, Probing>,
    _sweeping: Option<Task>,
}

/// One node.
struct Probing {
    node: Arc<NodeHealth>,
    host: HeaderValue,
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
        let sweeping = health.outliers().map(|rules| {
            let (health, interval) = (Arc::clone(health), rules.interval);
            Task::start(async move { sweep(&health, interval).await })
        });
        let checks = health.checks();
        let before = before.filter(|before| before.health.checks() == checks);
        let (permits, mut known) = match before {
            Some(before) => (before.permits, before.probing),
            None => {
                let concurrency = checks.map_or(0, |checks| checks.active.concurrency);
                (Arc::new(Semaphore::new(concurrency)), HashMap::new())
            }
        };
        let probing = health.nodes().iter().filter_map(|node| {
            let check = &node.checks()?.active;
            let host = host(check, &upstream.config.pass_host, node.address());
            let same = known
                .remove(&node.address())
                .filter(|known| Arc::ptr_eq(&known.node, node) && known.host == host);
            let probing = same.unwrap_or_else(|| self.probe(node, host, &permits));
            Some((node.address(), probing))
        });
        let probing = probing.collect();
        Watched { health: Arc::clone(health), permits, probing, _sweeping: sweeping }
    }

    fn probe(
        &self,
        node: &Arc<NodeHealth>,
        host: HeaderValue,
        permits: &Arc<Semaphore>,
    ) -> Probing {
        let round = Round {
            node: Arc::clone(node),
            host: host.clone(),
            permits: [Arc::clone(permits), Arc::clone(&self.permits)],
            limits: self.limits,
        };
        Probing { node: Arc::clone(node), host, _task: Task::start(round.run()) }
    }
}

async fn sweep(health: &Health, every: Duration) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        health.sweep(Instant::now());
    }
}

/// What the nodes are told is their host.
fn host(check: &ActiveCheck, pass_host: &PassHost, node: SocketAddr) -> HeaderValue {
    match (&check.host, pass_host) {
        (Some(host), _) | (None, PassHost::Rewrite(host)) => host.clone(),
        (None, PassHost::Pass | PassHost::Node) => {
            let host = own_host(target(check, node));
            HeaderValue::from_bytes(&host).expect("addresses are ASCII")
        }
    }
}

fn target(check: &ActiveCheck, node: SocketAddr) -> SocketAddr {
    SocketAddr::new(node.ip(), check.port.unwrap_or(node.port()))
}

/// Probes of one node, one after the other.
struct Round {
    node: Arc<NodeHealth>,
    host: HeaderValue,
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
            let begun = tokio::time::Instant::now();
            let outcome = ask(check, &self.host, self.node.address(), &self.limits).await;
            self.node.probed(outcome, Instant::now);
            drop(permits);
            let interval =
                if self.node.is_well() { check.healthy_interval } else { check.unhealthy_interval };
            sleep_until(begun + jitter.spread(interval)).await;
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

    /// The first time any part of `interval`, then about the whole, a tenth more or less.
    fn spread(&mut self, interval: Duration) -> Duration {
        let random = self.seed.hash_one(self.turn) as f64 / u64::MAX as f64;
        self.turn += 1;
        interval.mul_f64(if self.turn == 1 { random } else { 0.9 + 0.2 * random })
    }
}

/// One probe.
async fn ask(
    check: &ActiveCheck,
    host: &HeaderValue,
    node: SocketAddr,
    limits: &Limits,
) -> Outcome {
    let asked = async {
        let stream = connect::dial(target(check, node), check.timeout, limits, |_| {}).await?;
        match check.kind {
            CheckKind::Tcp => Ok(Outcome::Connected),
            CheckKind::Http => {
                let status = status(stream, request(check, host)).await;
                Ok(status.map_or(Outcome::Closed, |status| Outcome::Status(status.as_u16())))
            }
        }
    };
    match timeout(check.timeout, asked).await {
        Err(_) | Ok(Err(Fault::ConnectTimedOut)) => Outcome::TimedOut,
        Ok(Err(_)) => Outcome::Closed,
        Ok(Ok(outcome)) => outcome,
    }
}

fn request(check: &ActiveCheck, host: &HeaderValue) -> Request<Full<bytes::Bytes>> {
    let mut request = Request::new(Full::new(check.body.clone()));
    *request.method_mut() = check.method.clone();
    *request.uri_mut() = check.path.clone().into();
    let fields = request.headers_mut();
    fields.insert(header::HOST, host.clone());
    fields.insert(header::CONNECTION, HeaderValue::from_static("close"));
    fields.insert(header::USER_AGENT, USER_AGENT);
    for (name, value) in &check.fields {
        if *name == header::USER_AGENT {
            fields.insert(name, value.clone());
        } else {
            fields.append(name, value.clone());
        }
    }
    request
}

/// The status of the response, of which no more than the head is read.
async fn status(
    stream: TcpStream,
    request: Request<Full<bytes::Bytes>>,
) -> Result<StatusCode, hyper::Error> {
    let mut client = http1::Builder::new();
    client.max_buf_size(HEAD_SIZE_MAX);
    let (mut sender, connection) = client.handshake(TokioIo::new(stream)).await?;
    let mut response = pin!(sender.send_request(request));
    let response = tokio::select! {
        biased;
        response = &mut response => response,
        // Whatever it has to say of the response, it has said.
        _ended = connection => response.await,
    };
    Ok(response?.status())
}
