//! Userspace side of `worker`: which socket stands in which slot, and who is drained.

use std::{
    os::fd::BorrowedFd,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, bail, ensure};
use aya::{
    Ebpf,
    maps::{Array, MapData, ReusePortSockArray},
    programs::SkReuseport,
};
use proxy_common::{
    names,
    steering::{DrainedWorkers, Listener},
};

/// The program and its two maps. Only control code comes here, so two locks are enough.
pub(super) struct Steering {
    workers: usize,
    sockets: Mutex<ReusePortSockArray<MapData>>,
    drained: Mutex<Array<MapData, DrainedWorkers>>,
}

impl Steering {
    pub(super) fn new(ebpf: &mut Ebpf, workers: usize) -> anyhow::Result<Self> {
        let sockets = ebpf.take_map(names::WORKER_SOCKETS).context("no map `WORKER_SOCKETS`")?;
        let drained = ebpf.take_map(names::DRAINED_WORKERS).context("no map `DRAINED_WORKERS`")?;
        Ok(Self {
            workers,
            sockets: Mutex::new(sockets.try_into().context("open map `WORKER_SOCKETS`")?),
            drained: Mutex::new(drained.try_into().context("open map `DRAINED_WORKERS`")?),
        })
    }

    /// Fills a listener's slots, then attaches: the program never runs before its sockets stand.
    pub(super) fn steer(
        &self,
        program: &SkReuseport,
        listener: usize,
        sockets: &[BorrowedFd<'_>],
    ) -> anyhow::Result<()> {
        ensure!(
            sockets.len() == self.workers,
            "listener {listener} has {} sockets for {} workers",
            sockets.len(),
            self.workers,
        );
        let Some(first) = sockets.first() else { bail!("listener {listener} has no socket") };
        let listener = Listener::new(u32::try_from(listener)?);
        let mut map = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        for (worker, socket) in (0..).zip(sockets) {
            map.set(listener.slot(worker), socket, 0)
                .with_context(|| format!("add the socket of worker {worker} to the map"))?;
        }
        program.attach(first).context("attach `worker` to the listener")
    }

    pub(super) fn drain(&self, worker: usize) -> anyhow::Result<()> {
        ensure!(worker < self.workers, "there is no worker {worker}");
        let mut map = self.drained.lock().unwrap_or_else(PoisonError::into_inner);
        let drained = map.get(&0, 0).context("read the drained workers")?;
        map.set(0, drained.with(u32::try_from(worker)?), 0).context("write the drained workers")
    }
}
