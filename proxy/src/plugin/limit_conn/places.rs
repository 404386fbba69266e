//! Requests in flight that are counted here, by key: one table for all workers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::plugin::table::{ByKey, Key, Keys, SHARDS};

/// Keys with requests in flight.
pub(super) const KEYS_MAX: usize = 1 << 18;

#[derive(Debug, Default)]
pub(super) struct Places {
    keys: Keys,
    /// Requests in flight by their key.
    shards: [Mutex<ByKey<u64>>; SHARDS],
}

/// That of one request, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    of: Arc<Places>,
    key: Key,
}

#[derive(Debug)]
pub(super) enum Entered {
    /// This many are in flight now.
    As(u64, Place),
    TooMany,
    Full,
}

impl Places {
    pub(super) fn key(&self, rule: usize, value: &[u8]) -> Key {
        self.keys.key((rule, value))
    }

    pub(super) fn enter(self: &Arc<Self>, key: Key, max: u64) -> Entered {
        let mut shard = self.shard(key);
        if shard.len() >= KEYS_MAX / SHARDS && !shard.contains_key(&key) {
            return Entered::Full;
        }
        let count = shard.entry(key).or_insert(0);
        if *count >= max {
            return Entered::TooMany;
        }
        *count += 1;
        Entered::As(*count, Place { of: Arc::clone(self), key })
    }

    fn leave(&self, key: Key) {
        let mut shard = self.shard(key);
        let left = shard.get_mut(&key).map_or(0, |count| {
            *count = count.saturating_sub(1);
            *count
        });
        if left == 0 {
            shard.remove(&key);
        }
    }

    fn shard(&self, key: Key) -> MutexGuard<'_, ByKey<u64>> {
        self.shards[key.shard()].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.of.leave(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_in_flight_until_they_are_not() {
        let places = Arc::new(Places::default());
        let (a, b) = (places.key(0, b"a"), places.key(1, b"a"));
        let Entered::As(1, first) = places.enter(a, 2) else { panic!("no room") };
        let Entered::As(2, second) = places.enter(a, 2) else { panic!("no room") };
        assert!(matches!(places.enter(a, 2), Entered::TooMany));
        let Entered::As(1, other) = places.enter(b, 2) else { panic!("no room") };
        drop(first);
        let Entered::As(2, third) = places.enter(a, 2) else { panic!("no room") };
        drop((second, third, other));
        assert!(places.shards.iter().all(|shard| shard.lock().expect("no panic").is_empty()));
    }
}
