//! The kernel half as it runs, feature by feature.

use std::{
    net::SocketAddr,
    os::fd::BorrowedFd,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, bail};
use aya::{
    Ebpf,
    maps::MapInfo,
    programs::{SchedClassifier, SkReuseport, Xdp},
};
use proxy_common::names;

use super::{
    btf::Btf,
    ingress::{self, Attached},
    loader::{self, SocketSetup},
    log::{self, LogReader},
    rules::Rules,
    same_host::{self, Meter, SameHost},
    sockets::{self, Sockets},
    sockmap::{self, Tunnel, TunnelRefused, Tunnels},
    stats::{Counter, Counters},
    status::{self, Feature, FeatureState, MapStatus, ProgramStatus, Status},
    steering::Steering,
};
use crate::config::{Kernel, KernelMode, Limits};

/// Dropped in the order of the fields: the links first, so that nothing is judged by half a plane,
/// then what holds maps, then the programs with the rest of the maps. `worker` stays with a
/// listener's sockets until they are closed.
pub(super) struct Loaded {
    asked: KernelMode,
    ingress: Vec<Attached>,
    same_host: Option<SameHost>,
    tunnels: Option<Tunnels>,
    steering: Option<Steering>,
    counters: Counters,
    _log: Option<LogReader>,
    features: Mutex<Vec<Feature>>,
    ebpf: Ebpf,
}

impl Loaded {
    /// # Errors
    /// Nothing could be loaded; under `require`, anything that was asked for could not.
    pub(super) fn new(
        object: Option<&[u8]>,
        config: &Kernel,
        limits: &Limits,
        listeners: &[SocketAddr],
        workers: usize,
    ) -> anyhow::Result<Self> {
        let object = object.context(
            "built without the BPF object; run `cargo xtask build-ebpf` and build again",
        )?;
        let rules = Rules::new(&config.guard, listeners, workers)?;
        let setup = socket_setup(config, limits);
        let mut ebpf = loader::create(object, &rules, &setup)?;
        let counters = Counters::new(&mut ebpf)?;
        let log = start_log(&mut ebpf);
        let mut features = Features { asked: config.mode, list: Vec::new() };

        let steering = load_steering(&mut ebpf, workers);
        let steering = features.settle(names::WORKER, steering, |_| {
            format!("steers among {workers} workers by hash")
        })?;
        let SocketSetup { tunnels, offsets, same_host } = setup;
        let mut sockets = SharedSockets { offsets: offsets.map(drop), loaded: None };
        // Before the first socket is in the map: it keeps the programs that were there.
        let same_host = match (&config.same_host, same_host) {
            (Some(asked), Some(setup)) => {
                let loaded = setup
                    .and_then(|_| sockets.get(&mut ebpf))
                    .and_then(|sockets| SameHost::load(&mut ebpf, asked, sockets));
                features.settle(names::LOCAL, loaded, |_| {
                    format!("delivers to sockets of the cgroup `{}`", asked.cgroup)
                })?
            }
            _ => {
                features.not_asked(names::LOCAL, "`kernel.same_host` is not enabled");
                None
            }
        };
        match (&same_host, &config.same_host) {
            (Some(same_host), Some(asked)) if asked.is_bypassed => {
                let loaded = same_host.load_bypass(&mut ebpf, asked.uid);
                let loaded = features.settle(names::BYPASS, loaded, |()| {
                    "small responses of nodes go straight to clients".to_owned()
                })?;
                if loaded.is_some() && asked.egress_max > 0 {
                    let loaded = same_host.load_egress(&mut ebpf, asked.uid);
                    features.settle(names::REMOTE, loaded, |()| {
                        format!("up to {} bytes, to clients on other hosts too", asked.egress_max)
                    })?;
                }
            }
            (Some(_), _) => features.not_asked(names::BYPASS, "`kernel.same_host.bypass` is off"),
            (None, _) => features.not_asked(names::BYPASS, "nothing is delivered on this host"),
        }
        let tunnels = if limits.sockmap_tunnels > 0 {
            let tunnels =
                sockets.get(&mut ebpf).and_then(|shared| Tunnels::load(&mut ebpf, tunnels, shared));
            features.settle(names::TUNNEL, tunnels, |_| {
                format!("moves up to {} tunnels", limits.sockmap_tunnels)
            })?
        } else {
            features.not_asked(names::TUNNEL, "no stream route asks for `datapath: sockmap`");
            None
        };
        // Last: from here on packets are judged.
        let ingress = if config.xdp.interfaces.is_empty() {
            features.not_asked(names::INGRESS, "`kernel.xdp.interfaces` names none");
            Vec::new()
        } else {
            let attached = loader::verify::<Xdp>(&mut ebpf, names::INGRESS)
                .and_then(|program| ingress::attach(program, &config.xdp));
            features
                .settle(names::INGRESS, attached, |on| ingress::describe(on))?
                .unwrap_or_default()
        };
        Ok(Self {
            asked: config.mode,
            ingress,
            same_host,
            tunnels,
            steering,
            counters,
            _log: log,
            features: Mutex::new(features.list),
            ebpf,
        })
    }

    pub(super) fn steer(&self, listener: usize, sockets: &[BorrowedFd<'_>]) -> anyhow::Result<()> {
        let Some(steering) = &self.steering else { return Ok(()) };
        let steered =
            self.worker_program().and_then(|program| steering.steer(program, listener, sockets));
        let Err(error) = steered else { return Ok(()) };
        let error = error.context(format!("steer listener {listener}"));
        if self.asked == KernelMode::Require {
            return Err(error);
        }
        self.fall_back(names::WORKER, &format!("{error:#}"));
        Ok(())
    }

    pub(super) fn drain_worker(&self, worker: usize) {
        if let Some(Err(error)) = self.same_host.as_ref().map(SameHost::take_no_more) {
            let reason = format!("{error:#}");
            tracing::warn!(reason, "clients of others may still be taken for ours");
        }
        let Some(steering) = &self.steering else { return };
        if let Err(error) = steering.drain(worker) {
            let reason = format!("{error:#}");
            tracing::warn!(worker, reason, "a draining worker may still get connections");
        }
    }

    pub(super) fn tunnel(
        &self,
        downstream: BorrowedFd<'_>,
        upstream: BorrowedFd<'_>,
    ) -> Result<Tunnel, TunnelRefused> {
        match &self.tunnels {
            Some(tunnels) => tunnels.open(downstream, upstream),
            None => Err(TunnelRefused::KernelOff),
        }
    }

    pub(super) fn unread(&self) -> u64 {
        match (&self.same_host, self.unread_program()) {
            (Some(same_host), Some(program)) => same_host.unread(program),
            _ => 0,
        }
    }

    pub(super) fn admit_remote(&self, socket: BorrowedFd<'_>) -> Option<Meter> {
        let program = self.ebpf.program(names::REMOTE)?.try_into().ok()?;
        self.same_host.as_ref()?.admit_remote(program, socket)
    }

    /// Says where each listener is bound, and whether it takes clients on this host for ends of legs.
    pub(super) fn take_legs(&self, listeners: &[(SocketAddr, bool)]) -> anyhow::Result<()> {
        let taken = self.same_host.as_ref().map_or(Ok(()), |it| it.take_legs(listeners));
        let Err(error) = taken else { return Ok(()) };
        let error = error.context("find the clients on this host");
        if self.asked == KernelMode::Require {
            return Err(error);
        }
        self.fall_back(names::LOCAL, &format!("{error:#}"));
        Ok(())
    }

    fn unread_program(&self) -> Option<&SchedClassifier> {
        self.ebpf.program(names::UNREAD)?.try_into().ok()
    }

    pub(super) fn same_host(&self) -> Option<&SameHost> {
        self.same_host.as_ref()
    }

    pub(super) fn status(&self) -> Status {
        let mut features = self.features.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(loss) = ingress::loss(&self.ingress) {
            fall_back(&mut features, names::INGRESS, &loss);
        }
        Status {
            asked: self.asked.into(),
            running: status::running(&features),
            detail: None,
            xdp_mode: ingress::mode_label(&self.ingress),
            same_host: self.same_host.as_ref().map(SameHost::legs),
            abi: proxy_common::ABI_VERSION,
            features,
            programs: self.programs(),
            maps: self.maps(),
        }
    }

    pub(super) fn counters(&self) -> Vec<Counter> {
        self.counters.of(|program| self.is_loaded(program))
    }

    fn is_loaded(&self, program: &str) -> bool {
        self.ebpf.program(program).is_some_and(|program| program.fd().is_ok())
    }

    fn worker_program(&self) -> anyhow::Result<&SkReuseport> {
        let program = self.ebpf.program(names::WORKER).context("no program `worker`")?;
        Ok(program.try_into()?)
    }

    /// Notes that a feature does not do, or not do all, of what it was loaded for.
    fn fall_back(&self, name: &str, reason: &str) {
        fall_back(&mut self.features.lock().unwrap_or_else(PoisonError::into_inner), name, reason);
    }

    fn programs(&self) -> Vec<ProgramStatus> {
        let infos = self.ebpf.programs().filter_map(|(_, program)| program.info().ok());
        let mut programs: Vec<_> = infos
            .map(|info| ProgramStatus {
                name: info.name_as_str().unwrap_or_default().to_owned(),
                id: info.id(),
                verified_instructions: info.verified_instruction_count(),
            })
            .collect();
        programs.sort_by(|a, b| a.name.cmp(&b.name));
        programs
    }

    /// The maps that the programs use. Asking for a map by its id takes CAP_SYS_ADMIN; without it
    /// the list is empty.
    fn maps(&self) -> Vec<MapStatus> {
        let infos = self.ebpf.programs().filter_map(|(_, program)| program.info().ok());
        let mut ids: Vec<u32> =
            infos.filter_map(|info| info.map_ids().ok().flatten()).flatten().collect();
        ids.sort_unstable();
        ids.dedup();
        let infos = ids.into_iter().filter_map(|id| MapInfo::from_id(id).ok());
        infos
            .map(|info| MapStatus {
                name: info.name_as_str().unwrap_or_default().to_owned(),
                id: info.id(),
                entries_max: info.max_entries(),
            })
            .collect()
    }
}

fn socket_setup(config: &Kernel, limits: &Limits) -> SocketSetup {
    let btf = || Btf::of_this_kernel();
    let is_asked = limits.sockmap_tunnels > 0 || config.same_host.is_some();
    let offsets = if is_asked {
        btf().and_then(|btf| sockets::offsets(&btf, &sockets::FIELDS))
    } else {
        Ok(Vec::new())
    };
    let same_host = config.same_host.as_ref();
    let same_host =
        same_host.map(|asked| btf().and_then(|btf| same_host::Setup::new(asked, limits, &btf)));
    SocketSetup { tunnels: sockmap::Setup::new(limits), offsets, same_host }
}

/// The map of sockets, loaded by the first feature that needs it.
struct SharedSockets {
    offsets: anyhow::Result<()>,
    loaded: Option<Sockets>,
}

impl SharedSockets {
    fn get(&mut self, ebpf: &mut Ebpf) -> anyhow::Result<Sockets> {
        if let Some(sockets) = &self.loaded {
            return Ok(sockets.clone());
        }
        if let Err(error) = &self.offsets {
            bail!("{error:#}");
        }
        let sockets = Sockets::load(ebpf)?;
        self.loaded = Some(sockets.clone());
        Ok(sockets)
    }
}

fn load_steering(ebpf: &mut Ebpf, workers: usize) -> anyhow::Result<Steering> {
    loader::verify::<SkReuseport>(ebpf, names::WORKER)?;
    Steering::new(ebpf, workers)
}

/// Without its log a program works as well.
fn start_log(ebpf: &mut Ebpf) -> Option<LogReader> {
    if log::LEVEL == 0 {
        return None;
    }
    match LogReader::start(ebpf) {
        Ok(reader) => Some(reader),
        Err(error) => {
            let reason = format!("{error:#}");
            tracing::warn!(reason, "log records of the kernel half are lost");
            None
        }
    }
}

fn fall_back(features: &mut [Feature], name: &str, reason: &str) {
    let Some(feature) = features.iter_mut().find(|feature| feature.name == name) else { return };
    match feature.state {
        FeatureState::Fallback => feature.detail = format!("{}; {reason}", feature.detail),
        FeatureState::Running | FeatureState::Off => reason.clone_into(&mut feature.detail),
    }
    feature.state = FeatureState::Fallback;
}

/// What became of each feature, in the order of loading.
struct Features {
    asked: KernelMode,
    list: Vec<Feature>,
}

impl Features {
    /// Notes that a feature runs, or under `auto` that it does not.
    fn settle<T>(
        &mut self,
        name: &'static str,
        loaded: anyhow::Result<T>,
        describe: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<Option<T>> {
        let (state, detail, loaded) = match loaded {
            Ok(loaded) => (FeatureState::Running, describe(&loaded), Some(loaded)),
            Err(error) if self.asked == KernelMode::Require => return Err(error),
            Err(error) => (FeatureState::Fallback, format!("{error:#}"), None),
        };
        self.list.push(Feature { name, state, detail });
        Ok(loaded)
    }

    fn not_asked(&mut self, name: &'static str, why: &str) {
        self.list.push(Feature { name, state: FeatureState::Off, detail: why.to_owned() });
    }
}
