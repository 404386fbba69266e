//! What a listener counts.

use std::{
    io,
    sync::{Arc, OnceLock},
};

use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};

use super::{
    AcceptErrorLabels, Families, GaugeGuard, ListenerLabels, Name, RefusedLabels, RouteMetrics,
};
use crate::error::Fault;

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
    pub(super) fn new(families: &Families, listener: Name) -> ListenerMetrics {
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
pub(super) enum AcceptError {
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
    pub(super) const ALL: [AcceptError; 5] = [
        AcceptError::ProcessFiles,
        AcceptError::SystemFiles,
        AcceptError::Memory,
        AcceptError::Connection,
        AcceptError::Other,
    ];

    pub(super) const fn label(self) -> &'static str {
        match self {
            AcceptError::ProcessFiles => "process_files",
            AcceptError::SystemFiles => "system_files",
            AcceptError::Memory => "memory",
            AcceptError::Connection => "connection",
            AcceptError::Other => "other",
        }
    }

    pub(super) fn of(error: &io::Error) -> AcceptError {
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

/// The handles of one route, by the number of the listener; made when they are first used.
#[derive(Debug)]
pub struct ByListener(Box<[OnceLock<Arc<RouteMetrics>>]>);

impl ByListener {
    pub fn new(listeners: usize) -> Self {
        Self((0..listeners).map(|_| OnceLock::new()).collect())
    }

    /// Those of listener `number`, which is one of those given to [`new`](Self::new).
    pub fn get(
        &self,
        number: usize,
        make: impl FnOnce() -> Arc<RouteMetrics>,
    ) -> &Arc<RouteMetrics> {
        self.0[number].get_or_init(make)
    }
}
