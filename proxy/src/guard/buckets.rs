//! Token buckets of the sources seen lately, in a table of fixed size.
//!
//! A bucket is kept as the time at which it will be full again, as in `proxy-ebpf`: one whose time
//! has passed says nothing and its place is free. Where a set of the table is full of buckets that
//! do say something, the one closest to full is forgotten.

use std::{
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use proxy_common::{
    addr::{Address, Source},
    limits::SOURCES_MAX,
};

use super::Pace;

/// Buckets that share a lock; the table is searched within one set only.
const WAYS: usize = 8;
/// 8 192 sets × 8 × 32 B = 2 MiB, allocated only where a rate is configured.
const SETS: usize = SOURCES_MAX as usize / WAYS;

#[derive(Debug)]
pub(super) struct Buckets {
    pace: Pace,
    sets: Box<[Mutex<[Bucket; WAYS]>]>,
    /// Keyed at random: which sources share a set cannot be chosen from outside.
    hasher: RandomState,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    source: Source,
    /// Since the guard began.
    full_at: Duration,
}

impl Buckets {
    pub(super) fn new(pace: Pace) -> Self {
        let empty = Bucket {
            source: Source::from(Address::from(IpAddr::from([0; 4]))),
            full_at: Duration::ZERO,
        };
        let sets = (0..SETS).map(|_| Mutex::new([empty; WAYS])).collect();
        Self { pace, sets, hasher: RandomState::new() }
    }

    /// Takes a token of the source's bucket, if there is one. `now` counts from the guard's begin.
    pub(super) fn take(&self, source: Address, now: Duration) -> bool {
        let source = Source::from(source);
        let index = self.hasher.hash_one(source) % SETS as u64;
        let Some(set) = self.sets.get(index as usize) else { return true };
        let mut set = set.lock().unwrap_or_else(PoisonError::into_inner);
        let known = set.iter().position(|bucket| bucket.source == source);
        let place = match known {
            Some(place) => set.get_mut(place),
            None => set.iter_mut().min_by_key(|bucket| bucket.full_at),
        };
        let Some(bucket) = place else { return true };
        let ahead = match known {
            Some(_) => bucket.full_at.saturating_sub(now),
            None => Duration::ZERO,
        };
        if ahead > self.pace.tolerance {
            return false;
        }
        *bucket = Bucket { source, full_at: now + ahead + self.pace.interval };
        true
    }
}
