//! Puts a proxy together, in order: limits, sockets, kernel plane, shared state, workers, admin.

use std::{
    hash::{BuildHasher, RandomState},
    net::SocketAddr,
    num::NonZeroUsize,
    os::fd::AsFd,
    sync::Arc,
    thread,
};

use anyhow::{Context, bail};
use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::Semaphore,
};

use crate::{
    access_log::AccessLog,
    admin,
    client::Client,
    config::{Config, Datapath, Listener, Workers},
    dns,
    drain::{Hearing, Shutdown},
    guard::Guard,
    http::fields::Pseudonym,
    kernel::KernelPlane,
    key_source,
    listener::{self, BindLock, Group},
    log_files::LogFiles,
    log_queue::{QueueGuard, closing_deadline},
    memory::BodyMemory,
    metrics::Metrics,
    pipeline::Pipeline,
    reload::{self, File, Reloader},
    snapshot::{Publisher, Retired},
    sys::{affinity, cpu_quota, limits},
    upstream::probe,
    worker::{self, Shared, Socket},
};

/// Files kept back for listeners, logs, maps and pipes when the connection limit is derived.
const RESERVED_FILES: u64 = 256;
/// Files one connection may hold: its own socket and its node's.
const FILES_PER_CONNECTION: u64 = 2;
/// Fewer connections at a time than anybody wants: what 768 open files have room for.
const CONNECTIONS_FEW: u64 = 256;
/// Downstream connections there can be a permit for.
const CONNECTIONS_MAX: usize = Semaphore::MAX_PERMITS;

/// A proxy that is bound, loaded and serving.
pub struct App {
    /// Where each listener really listens, in configured order.
    pub listeners: Vec<(Arc<str>, SocketAddr)>,
    pub admin: Option<SocketAddr>,
    pub kernel: Arc<KernelPlane>,
    shutdown: Shutdown,
    hearing: Hearing,
    hangups: Option<Signal>,
    reloader: Arc<Reloader>,
    log_files: Arc<LogFiles>,
    control: runtime::Runtime,
    workers: Vec<thread::JoinHandle<anyhow::Result<()>>>,
    access_log: Option<QueueGuard>,
}

impl App {
    /// Binds, loads and starts everything that `config` asks for.
    ///
    /// # Errors
    /// An address is taken, the access log cannot be opened, or, under `kernel.mode: require`, a
    /// feature of the kernel half cannot be had. Nothing is left behind then.
    pub fn start(config: &Config) -> anyhow::Result<App> {
        let open_files = limits::raise_open_files().context("open-files limit")?;
        let permits = connection_limit(config.limits.connections, open_files)?;
        let cpus = affinity::allowed_cpus().context("affinity mask")?;
        let workers = worker_count(config.workers, cpus.len());
        // Before anybody can see that it is there: who does may send a signal at once.
        let control = runtime::Builder::new_current_thread().enable_all().build()?;
        let shutdown = Shutdown::new();
        let hearing = Hearing::start(shutdown.clone(), config.drain.timeout);
        let hearing = hearing.context("signal handlers")?;
        let [hangups, rotations] = {
            let _within = control.enter();
            let others = [SignalKind::hangup(), SignalKind::user_defined1()].map(signal);
            others.map(|it| it.context("signal handlers"))
        };
        let (hangups, rotations) = (hangups?, rotations?);
        let groups = bind(config, workers)?;
        let kernel = Arc::new(load_kernel(config, &groups, workers)?);
        // Whoever can connect to it finds the listeners steered.
        let admin = config.admin.address.map(|address| admin::bind(address, &control));
        let admin = admin.transpose().context("admin")?;
        let (access_log, access_log_guard) = match &config.log.access {
            Some(access) => AccessLog::open(access).map(|(log, guard)| (Some(log), Some(guard)))?,
            None => (None, None),
        };

        let log_files = Arc::<LogFiles>::default();
        let (shared, retired) = share(config, &kernel, access_log, &log_files, permits, &shutdown);
        control.spawn(retired.free());
        let admin_address = admin.as_ref().map(|admin| admin.address());
        let listeners = config
            .listeners
            .iter()
            .zip(&groups)
            .map(|(listener, group)| (Arc::clone(&listener.name), group.address))
            .collect();
        let (metrics, rules) = (Arc::clone(&shared.metrics), shared.rules.clone());
        let files = Arc::clone(&log_files);
        let reloader = Reloader::new(config, rules.clone(), Arc::clone(&metrics), files);
        let reloader = Arc::new(reloader);
        resolve_names(&control, &reloader, config);
        let access_log_dropped = shared.access_log.as_ref().map(AccessLog::dropped);
        control.spawn(reopen_logs(rotations, shared.access_log.clone(), Arc::clone(&log_files)));
        let workers = start_workers(config, &cpus, groups, &shared, workers, &shutdown)?;
        if let Some(admin) = admin {
            let sources = admin::Sources {
                metrics: Arc::clone(&metrics),
                kernel: Arc::clone(&kernel),
                access_log_dropped,
                reloader: Arc::clone(&reloader),
                log_files: Arc::clone(&log_files),
                body_memory: shared.body_memory.clone(),
                shutdown: shutdown.clone(),
            };
            control.spawn(admin.serve(sources));
        }
        let client = Arc::new(Client::new(Arc::clone(&metrics)));
        control.spawn(key_source::keep_fresh(rules.clone(), Arc::clone(&client)));
        control.spawn(probe::follow(rules.subscribe(), config.limits, client));
        Ok(App {
            listeners,
            admin: admin_address,
            kernel,
            shutdown,
            hearing,
            hangups: Some(hangups),
            reloader,
            log_files,
            control,
            workers,
            access_log: access_log_guard,
        })
    }

    /// Publishes other rules than those with which this was started.
    pub fn reloader(&self) -> Arc<Reloader> {
        Arc::clone(&self.reloader)
    }

    /// Reloads `file`, which holds what this was started with, on SIGHUP and whenever it changes.
    pub(crate) fn follow(&mut self, file: File) {
        if let Some(hangups) = self.hangups.take() {
            self.control.spawn(reload::follow(self.reloader(), file, hangups));
        }
    }

    pub fn worker_count(&self) -> usize {
        self.workers.len()
    }

    pub fn shutdown(&self) -> Shutdown {
        self.shutdown.clone()
    }

    /// Serves until a signal or [`App::shutdown`] has drained it.
    ///
    /// # Errors
    /// A worker broke down; the others are drained first.
    pub fn wait(self) -> anyhow::Result<()> {
        let Self { hearing, control, workers, log_files, mut access_log, .. } = self;
        let finished =
            control.block_on(async { tokio::task::spawn_blocking(move || join(workers)).await });
        drop(hearing);
        control.shutdown_background();
        let deadline = closing_deadline();
        log_files.close(deadline);
        access_log.iter_mut().for_each(|log| log.close(deadline));
        finished.context("waiting for workers")?
    }
}

/// Waits for all workers; the first error counts.
fn join(workers: Vec<thread::JoinHandle<anyhow::Result<()>>>) -> anyhow::Result<()> {
    let mut result = Ok(());
    for worker in workers {
        let ended = worker.join().unwrap_or_else(|_| Err(anyhow::anyhow!("worker panicked")));
        result = result.and(ended);
    }
    result
}

fn worker_count(workers: Workers, cpus: usize) -> usize {
    let quota = cpu_quota::cpu_quota().map_or(cpus, |quota| quota.ceil() as usize);
    workers.count.map_or(cpus.min(quota), NonZeroUsize::get).max(1)
}

/// # Errors
/// Nobody has said how many, and there are files for none.
fn connection_limit(configured: Option<NonZeroUsize>, open_files: u64) -> anyhow::Result<usize> {
    let affordable = open_files.saturating_sub(RESERVED_FILES) / FILES_PER_CONNECTION;
    let advice = "raise `ulimit -n` (systemd: `LimitNOFILE=`) or set `limits.connections`";
    match configured {
        Some(_) => {}
        None if affordable == 0 => bail!(
            "{open_files} open files are too few: {RESERVED_FILES} are kept back, and a connection \
             takes {FILES_PER_CONNECTION}; {advice}"
        ),
        None if affordable < CONNECTIONS_FEW => tracing::warn!(
            open_files,
            connections = affordable,
            "few connections at a time, the others wait; {advice}"
        ),
        None => {}
    }
    let affordable = usize::try_from(affordable).unwrap_or(usize::MAX);
    Ok(configured.map_or(affordable, NonZeroUsize::get).min(CONNECTIONS_MAX))
}

/// Binds every listener, while no other instance does.
fn bind(config: &Config, workers: usize) -> anyhow::Result<Vec<Group>> {
    let _alone = BindLock::acquire();
    let listeners = config.listeners.iter();
    listeners.map(|listener| listener::bind(listener, workers, &config.limits)).collect()
}

fn load_kernel(config: &Config, groups: &[Group], workers: usize) -> anyhow::Result<KernelPlane> {
    let addresses: Vec<SocketAddr> = groups.iter().map(|group| group.address).collect();
    let wants_sockmap =
        config.stream_routes.iter().any(|route| route.datapath == Datapath::Sockmap);
    let mut limits = config.limits;
    if !wants_sockmap {
        limits.sockmap_tunnels = 0;
    }
    let plane = KernelPlane::load(&config.kernel, &limits, &addresses, workers)?;
    for (index, group) in groups.iter().enumerate() {
        let sockets: Vec<_> = group.sockets.iter().map(AsFd::as_fd).collect();
        plane.steer(index, &sockets)?;
    }
    let listeners = addresses.iter().zip(&config.listeners);
    let legs: Vec<_> = listeners.map(|(address, one)| (*address, one.is_same_host)).collect();
    plane.take_legs(&legs)?;
    plane.warn();
    Ok(plane)
}

pub(crate) fn share(
    config: &Config,
    kernel: &Arc<KernelPlane>,
    access_log: Option<AccessLog>,
    log_files: &LogFiles,
    permits: usize,
    shutdown: &Shutdown,
) -> (Shared, Retired) {
    let metrics = Arc::new(Metrics::new());
    let rules = Pipeline::new(config, &config.upstreams, None, &metrics, log_files, pseudonym());
    let (rules, retired) = Publisher::new(Arc::new(rules));
    let shared = Shared {
        timeouts: config.timeouts,
        limits: config.limits,
        rules,
        guard: Arc::new(Guard::new(&config.kernel.guard)),
        metrics,
        access_log,
        body_memory: BodyMemory::new(&config.limits),
        kernel: Arc::clone(kernel),
        permits: Arc::new(Semaphore::new(permits)),
        orders: shutdown.watch(),
    };
    (shared, retired)
}

/// Has every name asked about from now on, and waits for the first answers.
fn resolve_names(control: &runtime::Runtime, reloader: &Arc<Reloader>, config: &Config) {
    control.spawn(dns::follow(Arc::clone(reloader), config.resolver.clone()));
    if config.upstreams.iter().all(|upstream| upstream.names.is_empty()) {
        return;
    }
    let waiting = Arc::clone(reloader);
    let waited = control.spawn_blocking(move || waiting.wait_for_names());
    if let Err(error) = control.block_on(waited) {
        tracing::error!(%error, "waiting for names");
    }
}

/// Opens every log file again on SIGUSR1: whoever rotates them has given them other names.
async fn reopen_logs(
    mut rotations: Signal,
    access_log: Option<AccessLog>,
    log_files: Arc<LogFiles>,
) {
    while rotations.recv().await.is_some() {
        tracing::info!("opening the logs again");
        access_log.iter().for_each(AccessLog::reopen);
        log_files.reopen();
    }
}

/// Names this process in `Via`: two proxies in a row must not take each other for themselves.
fn pseudonym() -> Pseudonym {
    let number = RandomState::new().hash_one(std::process::id()) as u32;
    Pseudonym::new(&format!("tandem-{number:08x}"))
}

fn start_workers(
    config: &Config,
    cpus: &[usize],
    groups: Vec<Group>,
    shared: &Shared,
    count: usize,
    shutdown: &Shutdown,
) -> anyhow::Result<Vec<thread::JoinHandle<anyhow::Result<()>>>> {
    let mut shares: Vec<Vec<Socket>> = (0..count).map(|_| Vec::new()).collect();
    for (listener, group) in config.listeners.iter().zip(groups) {
        if group.sockets.len() != count {
            bail!("listener `{}`: bound for another number of workers", listener.name);
        }
        for (share, socket) in shares.iter_mut().zip(group.sockets) {
            share.push(one(listener, group.address, socket));
        }
    }
    shares
        .into_iter()
        .enumerate()
        .map(|(index, sockets)| {
            let cpu = config.workers.is_pinned.then(|| cpus[index % cpus.len()]);
            worker::spawn(index, cpu, shared.clone(), sockets, shutdown.clone())
                .context("worker thread")
        })
        .collect()
}

pub(crate) fn one(listener: &Listener, address: SocketAddr, socket: socket2::Socket) -> Socket {
    Socket {
        name: Arc::clone(&listener.name),
        protocol: listener.protocol,
        has_express_lane: listener.has_express_lane,
        is_same_host: listener.is_same_host,
        address,
        socket,
    }
}
