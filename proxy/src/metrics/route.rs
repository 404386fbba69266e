//! What a route counts: requests and tunnels by how they ended, their time, their bytes.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use prometheus_client::metrics::{counter::Counter, family::Family};

use super::{BytesLabels, Families, Name, RequestLabels, RouteLabels, duration::DurationHistogram};
use crate::{
    error::Fault,
    forward::{Moved, Via},
};

/// `end` label of a request or tunnel that ended in good order.
pub const NORMAL_END: &str = "--";

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
    pub(super) fn new(
        families: &Families,
        bytes: &ByteCounters,
        listener: Name,
        route: Name,
    ) -> RouteMetrics {
        let labels = RouteLabels { route: Arc::clone(&route) };
        RouteMetrics {
            requests: families.requests.clone(),
            cells: Box::new([const { [const { OnceLock::new() }; ENDS.count] }; CLASSES.len()]),
            duration: families.durations.get_or_create_owned(&labels),
            bytes: bytes.clone(),
            listener,
            route,
        }
    }

    /// A request (`status` of its answer, if one left) or a tunnel (`None`) that ended.
    ///
    /// `end` is an end code of the fault table or [`NORMAL_END`].
    pub fn finished(&self, status: Option<u16>, end: &'static str, duration: Duration) {
        let (class, end) = (class_index(status), end_index(end));
        let cell = self.cells[class][end]
            .get_or_init(|| self.requests.get_or_create_owned(&self.labels(class, end)));
        cell.inc();
        self.duration.observe(duration);
    }

    /// Takes its series off the page. Those that other listeners have in common with it come back when
    /// they are moved.
    pub(super) fn forget(&self, families: &Families) {
        for (class, ends) in self.cells.iter().enumerate() {
            for (end, _) in ends.iter().enumerate().filter(|(_, cell)| cell.get().is_some()) {
                families.requests.remove(&self.labels(class, end));
            }
        }
        families.durations.remove(&RouteLabels { route: Arc::clone(&self.route) });
    }

    fn labels(&self, class: usize, end: usize) -> RequestLabels {
        RequestLabels {
            listener: Arc::clone(&self.listener),
            route: Arc::clone(&self.route),
            class: CLASSES[class],
            end: ENDS.codes[end],
        }
    }

    /// Body or tunnel bytes that were moved.
    pub fn moved(&self, direction: Direction, moved: Moved) {
        for via in Via::ALL {
            // Most paths carried nothing, and every worker shares the counters.
            if moved.by(via) > 0 {
                self.bytes.0[direction as usize][via as usize].inc_by(moved.by(via));
            }
        }
    }
}

/// `class` labels by hundreds of the status; the first is for no answer at all.
pub(super) const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

pub(super) fn class_index(status: Option<u16>) -> usize {
    let hundreds = status.map_or(0, |status| usize::from(status / 100));
    if hundreds < CLASSES.len() { hundreds } else { 0 }
}

/// The end codes that exist: [`NORMAL_END`], then each one of the fault table once.
pub(super) const ENDS: Ends = Ends::of_fault_table();

pub(super) struct Ends {
    pub(super) codes: [&'static str; Fault::ALL.len() + 1],
    pub(super) count: usize,
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

pub(super) fn end_index(end: &'static str) -> usize {
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
    pub(super) const ALL: [Direction; 2] = [Direction::Sent, Direction::Recv];

    const fn label(self) -> &'static str {
        match self {
            Direction::Sent => "sent",
            Direction::Recv => "recv",
        }
    }
}

/// By direction and via.
#[derive(Debug, Clone)]
pub(super) struct ByteCounters([[Counter; Via::ALL.len()]; Direction::ALL.len()]);

impl ByteCounters {
    pub(super) fn new(family: &Family<BytesLabels, Counter>) -> ByteCounters {
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
