//! One worker: a pinned thread, a `LocalRuntime`, its own sockets, pool and pipes.

use std::{
    cell::{Cell, Ref, RefCell},
    fmt::Write as _,
    hash::{BuildHasher as _, RandomState},
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use httpdate::HttpDate;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, LocalOptions},
    sync::{Semaphore, watch},
};

use crate::{
    access_log::AccessLog,
    client::Client,
    config::{Limits, Protocol, Timeouts},
    drain::{self, Live, Order, Shutdown},
    error::Fault,
    express::bypass::Passages,
    forward::TunnelContext,
    guard::Guard,
    http::head::RequestHead,
    kernel::KernelPlane,
    listener,
    memory::{BodyMemory, Memory},
    metrics::{ListenerMetrics, Metrics, RouteMetrics},
    mirror::Mirrors,
    plugin::{HELD_BYTES_MAX, LOGGED_BYTES_MAX, Now},
    redis::Links,
    seldom::Seldom,
    snapshot::{Publisher, Rules},
    sys::affinity,
    upstream::{
        balance::{Pick, Picked, Tried},
        connect,
        connection::UpstreamConnection,
        group::Upstream,
        plain::PlainConnection,
        pool::Pool,
    },
};

/// How often idle upstream connections are looked through.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// What connections get to close after they were told to end.
const END_GRACE: Duration = Duration::from_millis(500);

/// Everything a worker is made of that all workers share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) timeouts: Timeouts,
    pub(crate) limits: Limits,
    pub(crate) rules: Publisher,
    pub(crate) guard: Arc<Guard>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) access_log: Option<AccessLog>,
    pub(crate) body_memory: BodyMemory,
    pub(crate) kernel: Arc<KernelPlane>,
    /// One for each downstream connection there may be.
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) orders: watch::Receiver<Order>,
}

/// One worker's share of a listener.
pub(crate) struct Socket {
    pub(crate) name: Arc<str>,
    pub(crate) protocol: Protocol,
    pub(crate) has_express_lane: bool,
    pub(crate) is_same_host: bool,
    pub(crate) address: SocketAddr,
    pub(crate) socket: socket2::Socket,
}

/// What every connection of a worker can reach.
pub(crate) struct Worker {
    pub(crate) timeouts: Timeouts,
    pub(crate) limits: Limits,
    pub(crate) rules: Rules,
    pub(crate) guard: Arc<Guard>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) access_log: Option<AccessLog>,
    pub(crate) body_memory: BodyMemory,
    pub(crate) kernel: Arc<KernelPlane>,
    /// Of the express lane.
    pub(crate) plain_pool: RefCell<Pool<Box<PlainConnection>>>,
    /// Of hyper's lane.
    pub(crate) pool: RefCell<Pool<UpstreamConnection>>,
    pub(crate) client: Arc<Client>,
    pub(crate) mirrors: Mirrors,
    /// Of what is kept of bodies for logs.
    pub(crate) logged: Arc<Memory>,
    /// Of bodies that are here whole before they are forwarded.
    pub(crate) held: Arc<Memory>,
    date: RefCell<Date>,
    pub(crate) clock: Clock,
    pub(crate) tunnels: TunnelContext,
    pub(crate) passages: Passages,
    pub(crate) redis: Links,
    pub(crate) live: Live,
    shortages: Seldom,
    random: Cell<u64>,
}

/// What every connection of one listener on one worker can reach.
pub(crate) struct ListenerCx {
    pub(crate) name: Arc<str>,
    pub(crate) protocol: Protocol,
    pub(crate) has_express_lane: bool,
    pub(crate) is_same_host: bool,
    pub(crate) address: SocketAddr,
    pub(crate) metrics: Arc<ListenerMetrics>,
    /// Position among the listeners.
    pub(crate) number: usize,
    pub(crate) no_route: Arc<RouteMetrics>,
}

/// Drains the other workers when one ends, for whatever reason.
struct EndTogether(Shutdown);

impl Drop for EndTogether {
    fn drop(&mut self) {
        self.0.drain();
    }
}

/// Starts a worker thread, pinned to `cpu` if there is one.
///
/// # Errors
/// The thread cannot be created.
pub(crate) fn spawn(
    index: usize,
    cpu: Option<usize>,
    shared: Shared,
    sockets: Vec<Socket>,
    shutdown: Shutdown,
) -> io::Result<thread::JoinHandle<anyhow::Result<()>>> {
    thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        let _together = EndTogether(shutdown);
        if let Some(cpu) = cpu
            && let Err(error) = affinity::pin_current_thread(cpu)
        {
            tracing::warn!(worker = index, cpu, %error, "not pinned");
        }
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default())
            .context("worker runtime")?;
        let ended = runtime.block_on(run(index, shared, sockets));
        // A name that is being looked up cannot be called back, and nobody waits for it any more.
        runtime.shutdown_background();
        ended
    })
}

async fn run(index: usize, shared: Shared, sockets: Vec<Socket>) -> anyhow::Result<()> {
    let mut orders = shared.orders.clone();
    let permits = Arc::clone(&shared.permits);
    let worker = Rc::new(Worker::new(shared));
    let mut accepting = Vec::with_capacity(sockets.len());
    for (number, socket) in sockets.into_iter().enumerate() {
        let listener = Rc::new(ListenerCx::new(&worker, number, &socket));
        let socket = TcpListener::from_std(socket.socket.into())
            .with_context(|| format!("listener `{}`", listener.name))?;
        accepting.push(tokio::task::spawn_local(listener::accept(
            Rc::clone(&worker),
            listener,
            socket,
            Arc::clone(&permits),
            orders.clone(),
        )));
    }
    let sweeping = tokio::task::spawn_local(sweep(Rc::clone(&worker)));
    let passing = tokio::task::spawn_local(tend_passages(Rc::clone(&worker)));

    drain::ordered(&mut orders, Order::Drain).await;
    worker.kernel.drain_worker(index);
    worker.live.drain();
    for accept in accepting {
        if let Err(error) = accept.await {
            tracing::error!(worker = index, %error, "accept loop");
        }
    }
    sweeping.abort();
    worker.pool.borrow_mut().clear();
    worker.plain_pool.borrow_mut().clear();
    worker.client.clear();
    tokio::select! {
        () = worker.live.emptied() => {}
        () = drain::ordered(&mut orders, Order::End) => {
            worker.live.end();
            // What does not even close in time is cut off with the runtime.
            drop(tokio::time::timeout(END_GRACE, worker.live.emptied()).await);
        }
    }
    passing.abort();
    worker.redis.settled().await;
    Ok(())
}

async fn tend_passages(worker: Rc<Worker>) {
    worker.passages.tend().await;
}

async fn sweep(worker: Rc<Worker>) {
    let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
    loop {
        ticks.tick().await;
        worker.clock.set();
        // A worker without requests must not keep old rules.
        drop(worker.rules.now());
        worker.pool.borrow_mut().sweep();
        worker.plain_pool.borrow_mut().sweep();
        worker.client.sweep();
        worker.redis.sweep();
    }
}

impl Worker {
    pub(crate) fn new(shared: Shared) -> Self {
        let (idle_max, pool_idle) = (shared.limits.pool_idle_max, shared.timeouts.pool_idle);
        let redis = Links::new(Arc::clone(&shared.metrics));
        Self {
            plain_pool: RefCell::new(Pool::new(idle_max, pool_idle)),
            pool: RefCell::new(Pool::new(idle_max, pool_idle)),
            client: Arc::new(Client::new(Arc::clone(&shared.metrics))),
            mirrors: Mirrors::default(),
            held: Arc::new(Memory::new(HELD_BYTES_MAX)),
            logged: Arc::new(Memory::new(LOGGED_BYTES_MAX)),
            date: RefCell::default(),
            clock: Clock::default(),
            tunnels: TunnelContext::new(
                Arc::clone(&shared.kernel),
                &shared.limits,
                &shared.timeouts,
                shared.metrics.pipes(),
            ),
            timeouts: shared.timeouts,
            limits: shared.limits,
            rules: Rules::new(&shared.rules),
            guard: shared.guard,
            metrics: shared.metrics,
            access_log: shared.access_log,
            body_memory: shared.body_memory,
            kernel: shared.kernel,
            passages: Passages::new(&shared.limits),
            redis,
            live: Live::default(),
            shortages: Seldom::default(),
            // Any number but 0.
            random: Cell::new(RandomState::new().hash_one(()) | 1),
        }
    }

    /// Counts what dialling a node came to.
    pub(crate) fn dialled(
        &self,
        upstream: &Upstream,
        node: SocketAddr,
        result: &Result<TcpStream, Fault>,
    ) {
        upstream.metrics.connect(connect::result(result));
        if matches!(result, Err(Fault::OutOfFiles)) && self.shortages.is_time() {
            tracing::warn!(
                upstream = &**upstream.id(),
                %node,
                "no file to dial with; raise the open-files limit or lower `limits.connections`"
            );
        }
    }

    /// A node of `upstream` that was not tried yet, one that is up if there is one.
    pub(crate) fn pick(&self, upstream: &Upstream, tried: &Tried, key: &[u8]) -> Option<Picked> {
        let health = upstream.health.as_deref();
        let random = self.random();
        let is_warm =
            |node| health.is_none_or(|health| health.is_warm(node, random, Instant::now()));
        let picked = upstream.balancer.pick(&Pick {
            tried,
            key,
            clock: &Instant::now,
            random,
            is_up: &|node| health.is_none_or(|health| health.is_up(node)),
            is_warm: upstream.config.slow_start.is_some().then_some(&is_warm),
        })?;
        if let Some(health) = health
            && tried.is_empty()
            && !health.is_up(picked.index())
        {
            health.was_all_down();
        }
        Some(picked)
    }

    /// The node that a request is tied to, if that is up.
    pub(crate) fn pick_tied(&self, upstream: &Upstream, request: &RequestHead) -> Option<Picked> {
        let node = upstream.sticky.as_ref()?.named_by(request)?;
        let is_up = upstream.health.as_ref().is_none_or(|health| health.is_up(node));
        is_up.then(|| upstream.balancer.claim(node, Instant::now))
    }

    /// Good enough to choose a node by (xorshift64, Marsaglia 2003).
    fn random(&self) -> u64 {
        let mut random = self.random.get();
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        self.random.set(random);
        random
    }
}

/// The time of day of an instant that is known, without asking the system for it: as far as the clock
/// was set within the last [`SWEEP_INTERVAL`].
pub(crate) struct Clock(Cell<(Instant, Duration)>);

impl Default for Clock {
    fn default() -> Self {
        Self(Cell::new(Clock::read()))
    }
}

impl Clock {
    fn read() -> (Instant, Duration) {
        // A system whose clock says 1960 has other troubles.
        (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    fn set(&self) {
        self.0.set(Clock::read());
    }

    pub(crate) fn at(&self, instant: Instant) -> Now {
        Now { instant, known: self.0.get() }
    }
}

/// The time as `Date` has it, made anew once a second, in place.
#[derive(Default)]
struct Date {
    second: Option<u64>,
    text: String,
}

impl Worker {
    /// Now, as an IMF-fixdate (RFC 9110 section 5.6.7).
    pub(crate) fn date(&self) -> Ref<'_, str> {
        let now = SystemTime::now();
        let second = now.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs());
        let mut date = self.date.borrow_mut();
        if second.is_none() || date.second != second {
            date.second = second;
            date.text.clear();
            write!(date.text, "{}", HttpDate::from(now)).expect("a String takes everything");
        }
        drop(date);
        Ref::map(self.date.borrow(), |date| &*date.text)
    }
}

impl ListenerCx {
    pub(crate) fn new(worker: &Worker, number: usize, socket: &Socket) -> Self {
        let metrics = &worker.metrics;
        Self {
            name: Arc::clone(&socket.name),
            protocol: socket.protocol,
            has_express_lane: socket.has_express_lane,
            is_same_host: socket.is_same_host,
            address: socket.address,
            metrics: metrics.listener(&socket.name),
            number,
            no_route: metrics.route(&socket.name, crate::metrics::NO_ROUTE),
        }
    }
}
