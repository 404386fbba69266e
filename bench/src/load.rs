//! The load generator: N connections over a few pinned threads, each exchange checked.
//!
//! Closed loop: a connection sends its next request when the response to the last one is complete
//! and right. Open loop: requests fall due at a constant rate, and latency counts from then, so a
//! proxy that stalls cannot slow down the clock that measures it.

pub(crate) mod chunked;
pub(crate) mod response;
mod thread;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, ensure};
use hdrhistogram::Histogram;

use self::response::{Expected, Failure};
use crate::placement::{CpuList, pin_thread};

/// What is sent, where to, and how hard.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) target: SocketAddr,
    pub(crate) connections: usize,
    pub(crate) exchange: Exchange,
    pub(crate) reuse: Reuse,
    pub(crate) pace: Pace,
    /// How long what is in flight may take once the run is over; beyond it, it has timed out.
    pub(crate) patience: Duration,
}

#[derive(Debug, Clone)]
pub(crate) enum Exchange {
    Http {
        request: Vec<u8>,
        /// Bytes of the pattern that follow it.
        upload: u64,
        expected: Expected,
    },
    /// That many bytes of the pattern, sent and expected back.
    Echo { size: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reuse {
    KeepAlive,
    /// A connection for each request, which the other side has to end.
    PerRequest,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Pace {
    Closed,
    /// Requests a second, over all threads.
    Rate(f64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Warming,
    Measuring,
    Over,
}

#[derive(Default)]
struct Shared {
    phase: AtomicU8,
}

impl Shared {
    fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Warming,
            1 => Phase::Measuring,
            _ => Phase::Over,
        }
    }

    fn set(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }
}

/// Written by one thread, read by whoever measures.
#[derive(Default)]
struct Counters {
    completed: AtomicU64,
    ready: AtomicU64,
    /// Connections of which an exchange has ended in the measured part.
    served: AtomicU64,
    /// Of bodies of the pattern, also of those that are not complete.
    body_bytes: AtomicU64,
    failed: AtomicU64,
}

impl Counters {
    fn completed(&self) {
        self.completed.fetch_add(1, Ordering::Relaxed);
    }

    fn ready(&self) {
        self.ready.fetch_add(1, Ordering::Relaxed);
    }

    fn served(&self) {
        self.served.fetch_add(1, Ordering::Relaxed);
    }

    fn received(&self, body_bytes: u64) {
        self.body_bytes.store(body_bytes, Ordering::Relaxed);
    }

    fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }
}

/// Everything a run has seen.
pub(crate) struct Outcome {
    /// Microseconds, measured part only.
    pub(crate) latency: Histogram<u64>,
    /// Warm-up included.
    pub(crate) completed_by_node: Vec<u64>,
    pub(crate) sockets: u64,
    pub(crate) failures: BTreeMap<Failure, u64>,
}

impl Outcome {
    /// Exchanges of the whole run, warm-up included.
    pub(crate) fn completed(&self) -> u64 {
        self.completed_by_node.iter().sum()
    }
}

/// A load that is running. Dropping it ends it.
pub(crate) struct Running {
    shared: Arc<Shared>,
    threads: Vec<(Arc<Counters>, JoinHandle<anyhow::Result<thread::Seen>>)>,
    connections: usize,
}

/// Starts a load: one thread on each of `cpus`, connections dealt out evenly.
pub(crate) fn start(load: &Load, cpus: &CpuList) -> anyhow::Result<Running> {
    let shared = Arc::new(Shared::default());
    let n_threads = cpus.len().min(load.connections);
    ensure!(n_threads > 0, "a load needs a connection and a processor");
    let interval = match load.pace {
        Pace::Closed => None,
        Pace::Rate(rate) => Some(
            Duration::try_from_secs_f64(n_threads as f64 / rate)
                .with_context(|| format!("{rate} requests a second"))?,
        ),
    };
    let mut threads = Vec::with_capacity(n_threads);
    for (thread_index, cpu) in cpus.iter().take(n_threads).enumerate() {
        let share = share(load.connections, n_threads, thread_index);
        let counters = Arc::new(Counters::default());
        let (load, shared) = (load.clone(), Arc::clone(&shared));
        let thread_counters = Arc::clone(&counters);
        let handle =
            std::thread::Builder::new().name(format!("load-{thread_index}")).spawn(move || {
                pin_thread(&CpuList::one(cpu))?;
                let thread = thread::Thread::new(&load, &shared, &thread_counters, interval)?;
                Ok(thread.run(share)?)
            })?;
        threads.push((counters, handle));
    }
    Ok(Running { shared, threads, connections: load.connections })
}

fn share(total: usize, parts: usize, part: usize) -> usize {
    total / parts + usize::from(part < total % parts)
}

impl Running {
    fn sum(&self, counter: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        self.threads.iter().map(|(counters, _)| counter(counters).load(Ordering::Relaxed)).sum()
    }

    /// Exchanges completed since the start.
    pub(crate) fn completed(&self) -> u64 {
        self.sum(|counters| &counters.completed)
    }

    /// Bytes of patterned bodies received since the start.
    pub(crate) fn body_bytes(&self) -> u64 {
        self.sum(|counters| &counters.body_bytes)
    }

    /// Waits until each connection has had an exchange end in the measured part. Returns early once
    /// something has failed, and at the deadline.
    pub(crate) fn wait_until_served(&self, deadline: Duration) {
        let started = Instant::now();
        while started.elapsed() < deadline
            && self.sum(|counters| &counters.failed) == 0
            && self.sum(|counters| &counters.served) < self.connections as u64
        {
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Waits until each connection has had an exchange and `warm_up` has passed. Returns early
    /// once something has failed: then there is nothing to measure.
    pub(crate) fn wait_until_warm(&self, warm_up: Duration, deadline: Duration) {
        let started = Instant::now();
        while started.elapsed() < deadline && self.sum(|counters| &counters.failed) == 0 {
            let is_ready = self.sum(|counters| &counters.ready) >= self.connections as u64;
            if is_ready && started.elapsed() >= warm_up {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    pub(crate) fn begin_measuring(&self) {
        self.shared.set(Phase::Measuring);
    }

    /// Ends the load and waits for the last responses.
    pub(crate) fn finish(mut self) -> anyhow::Result<Outcome> {
        self.shared.set(Phase::Over);
        let mut total: Option<Outcome> = None;
        for (_, handle) in self.threads.drain(..) {
            let seen = handle.join().map_err(|_| anyhow!("a load thread panicked"))??;
            match &mut total {
                None => {
                    total = Some(Outcome {
                        latency: seen.latency,
                        completed_by_node: seen.completed_by_node,
                        sockets: seen.sockets,
                        failures: seen.failures,
                    });
                }
                Some(total) => {
                    total.latency.add(&seen.latency)?;
                    total.sockets += seen.sockets;
                    for (sum, n) in total.completed_by_node.iter_mut().zip(seen.completed_by_node) {
                        *sum += n;
                    }
                    for (failure, n) in seen.failures {
                        *total.failures.entry(failure).or_default() += n;
                    }
                }
            }
        }
        total.context("a load has at least one thread")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.set(Phase::Over);
    }
}

#[cfg(test)]
mod tests;
