//! What plugins remember of keys: one table for all workers, exact, of bounded size.
//!
//! A key is known by a hash of 128 bits that is keyed anew for each table: no client can make two
//! keys meet, nothing of what it sends is stored, and every entry has the same size.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, hash_map::RandomState},
    hash::{BuildHasher, Hash},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use foldhash::fast::RandomState as Scattered;

/// Workers that ask at once seldom meet.
pub(super) const SHARDS: usize = 16;
/// Live entries of one table: about 100 bytes each.
pub(super) const ENTRIES_MAX: usize = 1 << 18;
/// Entries whose time is over that one new entry may have to remove.
const PURGED_MAX: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key(u128);

/// The table holds as many live entries as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

/// What is kept of keys; they are hashes that nobody can choose.
pub(super) type ByKey<V> = HashMap<Key, V, Scattered>;

/// Makes [`Key`]s.
#[derive(Debug, Default)]
pub(super) struct Keys([RandomState; 2]);

impl Keys {
    pub(super) fn key(&self, what: impl Hash) -> Key {
        let [high, low] = &self.0;
        Key(u128::from(high.hash_one(&what)) << 64 | u128::from(low.hash_one(&what)))
    }
}

impl Key {
    /// Which of the shards it belongs to.
    pub(super) fn shard(self) -> usize {
        (self.0 % SHARDS as u128) as usize
    }
}

#[derive(Debug)]
pub(super) struct Table<V> {
    keys: Keys,
    shards: Box<[Mutex<Shard<V>>]>,
}

#[derive(Debug)]
struct Shard<V> {
    entries: ByKey<Entry<V>>,
    /// Not later than each entry's own time, and one for each entry.
    deadlines: BinaryHeap<Reverse<(Instant, Key)>>,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    /// From when on it means nothing.
    until: Instant,
}

impl<V: Default> Table<V> {
    pub(super) fn new() -> Self {
        let shard =
            || Mutex::new(Shard { entries: ByKey::default(), deadlines: BinaryHeap::new() });
        Self { keys: Keys::default(), shards: (0..SHARDS).map(|_| shard()).collect() }
    }

    pub(super) fn key(&self, what: impl Hash) -> Key {
        self.keys.key(what)
    }

    /// Lets `amend` at what is remembered of `key`; a new value, if nothing is. It says until when
    /// that means something.
    pub(super) fn amend<R>(
        &self,
        key: Key,
        now: Instant,
        amend: impl FnOnce(&mut V) -> (Instant, R),
    ) -> Result<R, Full> {
        let mut shard = self.shard(key);
        if let Some(entry) = shard.entries.get_mut(&key) {
            if entry.until <= now {
                entry.value = V::default();
            }
            let (until, came) = amend(&mut entry.value);
            entry.until = until;
            return Ok(came);
        }
        shard.purge(now);
        if shard.entries.len() >= ENTRIES_MAX / SHARDS {
            return Err(Full);
        }
        let mut value = V::default();
        let (until, came) = amend(&mut value);
        shard.deadlines.push(Reverse((until, key)));
        shard.entries.insert(key, Entry { value, until });
        Ok(came)
    }

    /// What is remembered of `key`, and still means something.
    pub(super) fn with<R>(&self, key: Key, now: Instant, see: impl FnOnce(&V) -> R) -> Option<R> {
        let shard = self.shard(key);
        shard.entries.get(&key).filter(|entry| entry.until > now).map(|entry| see(&entry.value))
    }

    fn shard(&self, key: Key) -> MutexGuard<'_, Shard<V>> {
        self.shards[key.shard()].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V> Shard<V> {
    /// Forgets some of what means nothing any more.
    fn purge(&mut self, now: Instant) {
        for _ in 0..PURGED_MAX {
            let Some(Reverse((_, key))) = self.deadlines.peek().copied().filter(|it| it.0.0 <= now)
            else {
                return;
            };
            self.deadlines.pop();
            match self.entries.get(&key) {
                Some(entry) if entry.until > now => {
                    self.deadlines.push(Reverse((entry.until, key)));
                }
                Some(_) | None => {
                    self.entries.remove(&key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn count(table: &Table<u32>, name: usize, now: Instant, until: Instant) -> Result<u32, Full> {
        let key = table.key(name);
        table.amend(key, now, |value| {
            *value += 1;
            (until, *value)
        })
    }

    #[test]
    fn a_value_is_forgotten_when_its_time_is_over() {
        let (table, now) = (Table::new(), Instant::now());
        assert_eq!(count(&table, 1, now, now + SECOND), Ok(1));
        assert_eq!(count(&table, 1, now, now + 2 * SECOND), Ok(2));
        assert_eq!(count(&table, 2, now, now + SECOND), Ok(1));
        let later = now + SECOND;
        assert_eq!(count(&table, 1, later, later + SECOND), Ok(3));
        assert_eq!(count(&table, 2, later, later + SECOND), Ok(1));
        assert_eq!(table.with(table.key(3_usize), now, |value| *value), None);
    }

    #[test]
    fn parts_of_a_key_do_not_run_together() {
        let table = Table::<u32>::new();
        let key = |one: &[u8], other: &[u8]| table.key((one, other));
        assert_ne!(key(b"a", b"bc"), key(b"ab", b"c"));
        assert_eq!(key(b"a", b"bc"), key(b"a", b"bc"));
    }

    #[test]
    fn a_full_table_takes_no_more_until_something_is_over() {
        let (table, now) = (Table::new(), Instant::now());
        let mut refused = 0;
        for name in 0..2 * ENTRIES_MAX {
            refused += usize::from(count(&table, name, now, now + SECOND).is_err());
        }
        assert_eq!(refused, ENTRIES_MAX);
        assert_eq!(count(&table, 0, now, now + SECOND), Ok(2));
        let later = now + SECOND;
        for name in 0..100 {
            assert!(count(&table, 4 * ENTRIES_MAX + name, later, later + SECOND).is_ok());
        }
    }
}
