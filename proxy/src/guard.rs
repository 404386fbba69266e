//! Who may connect: allowed and denied prefixes, and a rate of new connections for each source.
//!
//! Asked at accept, before a byte is read, in every mode. The program `ingress` holds an early copy
//! of the same rules, so that abuse is dropped before it costs anything; this is the one that
//! counts. An IPv4 source that arrives on an IPv6 socket is an IPv4 source.

mod buckets;
mod prefixes;

use std::{
    net::IpAddr,
    sync::OnceLock,
    time::{Duration, Instant},
};

use self::buckets::Buckets;
pub(crate) use self::prefixes::PrefixSet;
use crate::{
    config::{self, ConnectionRate},
    error::Fault,
};

/// The guard's rules and the buckets of the sources seen lately. Shared by all workers: a source is
/// spread over them, its rate is one.
#[derive(Debug)]
pub struct Guard {
    allow: PrefixSet,
    deny: PrefixSet,
    /// `None`: no limit.
    rate: Option<Buckets>,
    /// What the buckets count time from: the first connection.
    began: OnceLock<Instant>,
}

impl Guard {
    pub fn new(config: &config::Guard) -> Self {
        Self {
            allow: config.allow.iter().copied().collect(),
            deny: config.deny.iter().copied().collect(),
            rate: config.connection_rate.map(|rate| Buckets::new(rate.into())),
            began: OnceLock::new(),
        }
    }

    /// Whether a new connection from `source` is taken.
    ///
    /// Prefixes first: allow beats deny, whichever is longer, and allow alone denies nobody. Then
    /// the rate, which holds for allowed sources as well.
    ///
    /// # Errors
    /// [`Fault::GuardDenied`] or [`Fault::RateLimited`].
    pub fn admit(&self, source: IpAddr, now: Instant) -> Result<(), Fault> {
        let source = source.to_canonical();
        if self.deny.contains(source) && !self.allow.contains(source) {
            return Err(Fault::GuardDenied);
        }
        let Some(buckets) = &self.rate else { return Ok(()) };
        let began = *self.began.get_or_init(|| now);
        if buckets.take(source.into(), now.saturating_duration_since(began)) {
            Ok(())
        } else {
            Err(Fault::RateLimited)
        }
    }
}

/// A rate as both halves reckon with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Between two connections at the permitted rate.
    pub(crate) interval: Duration,
    /// How far ahead of now a bucket may be full again: all tokens but the one being taken.
    pub(crate) tolerance: Duration,
}

impl From<ConnectionRate> for Pace {
    fn from(rate: ConnectionRate) -> Self {
        let interval = Duration::from_secs(1) / rate.per_second.max(1);
        Self { interval, tolerance: interval.saturating_mul(rate.burst.max(1) - 1) }
    }
}

#[cfg(test)]
mod tests;
