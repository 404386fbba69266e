//! `limit-conn`: so many requests of each key at once.
//!
//! Up to `conn` are in flight without further ado. Of `burst` more each waits: one unit of delay for
//! each `conn` that are in flight before it. A unit is `default_conn_delay` at first, then what
//! requests have taken of late, unless `only_use_default_delay`. A request is in flight until the
//! last byte of its response. Counting is exact across workers. There are [`KEYS_MAX`] keys at a
//! time; a request of one more is refused, or passes with `allow_degradation: true`.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    Call, Finished, Hooks, Kind, Outcome, Phase, Plugin, RequestContext,
    limit::{Amount, CountedBy, Rejection},
    table::{Key, Keys, SHARDS},
};
use crate::config::plugins::{Scope, Section};

pub(super) static KIND: Kind =
    Kind { name: "limit-conn", priority: 1003, phase: Phase::Access, read, credential: None };

/// Keys with requests in flight.
const KEYS_MAX: usize = 1 << 18;
/// Requests of a key in flight.
const COUNT_MAX: u64 = 1 << 32;
/// Seconds.
const UNIT_MAX: f64 = 60.0;
/// How long a request may be held back.
const DELAY_MAX: Duration = Duration::from_secs(600);
const DELAY_MIN: Duration = Duration::from_millis(1);
const UNCLEAR: &str = "failed to limit conn";

#[derive(Debug)]
struct LimitConn {
    conn: Amount,
    burst: Amount,
    key: CountedBy,
    only_use_default_delay: bool,
    rejection: Rejection,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    keys: Keys,
    /// Requests in flight by their key.
    shards: [Mutex<HashMap<Key, u64>>; SHARDS],
    /// Of delay, nanoseconds.
    unit: AtomicU64,
}

/// A request in flight.
#[derive(Debug)]
struct InFlight {
    state: Arc<State>,
    key: Key,
    delay: Duration,
}

fn read(section: &mut Section<'_>, _scope: &Scope<'_>) -> Option<Arc<dyn Plugin>> {
    if section.take("rules").is_some() {
        section.error("`rules` is not built yet; use `key`, `conn` and `burst`");
    }
    let conn = section.require("conn").and_then(|value| Amount::read(&value, 1, COUNT_MAX));
    let burst = section.require("burst").and_then(|value| Amount::read(&value, 0, COUNT_MAX));
    let unit = section.require("default_conn_delay");
    let unit = unit.and_then(|value| value.within(&(1e-6..=UNIT_MAX)));
    let key = CountedBy::read(section, None);
    let only_use_default_delay = section.leaf_or("only_use_default_delay", false);
    let rejection = Rejection::read(section, KIND.name);
    let state = Arc::new(State {
        keys: Keys::default(),
        shards: Default::default(),
        unit: AtomicU64::new(nanoseconds(Duration::from_secs_f64(unit?))),
    });
    let (conn, burst, key, rejection) = (conn?, burst?, key?, rejection?);
    Some(Arc::new(LimitConn { conn, burst, key, only_use_default_delay, rejection, state }))
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Plugin for LimitConn {
    fn request(&self, cx: &mut RequestContext<'_>) -> Outcome {
        let facts = cx.facts();
        let conn = self.conn.value(&facts, 1, COUNT_MAX);
        let (Some(conn), Some(burst)) = (conn, self.burst.value(&facts, 0, COUNT_MAX)) else {
            return self.rejection.unclear(UNCLEAR);
        };
        let key = self.state.keys.key(&[&self.key.value(&facts)]);
        let count = match self.state.enter(key, conn + burst) {
            Entered::As(count) => count,
            Entered::TooMany => return Outcome::Answer(self.rejection.answer()),
            Entered::Full => return self.rejection.uncounted(),
        };
        let delay = self.state.delay((count - 1) / conn);
        cx.keep(InFlight { state: Arc::clone(&self.state), key, delay });
        match delay >= DELAY_MIN {
            true => Outcome::Call(Call::Delay(delay)),
            false => Outcome::Continue,
        }
    }

    fn hooks(&self) -> Hooks {
        Hooks { log: !self.only_use_default_delay, ..Hooks::default() }
    }

    fn log(&self, exchange: &Finished<'_>) {
        let mut all = exchange.kept.all::<InFlight>();
        if let Some(own) = all.find(|one| Arc::ptr_eq(&one.state, &self.state)) {
            self.state.took(exchange.total.saturating_sub(own.delay));
        }
    }
}

enum Entered {
    /// This many are in flight now.
    As(u64),
    TooMany,
    Full,
}

impl State {
    fn enter(&self, key: Key, max: u64) -> Entered {
        let mut shard = self.shard(key);
        if shard.len() >= KEYS_MAX / SHARDS && !shard.contains_key(&key) {
            return Entered::Full;
        }
        let count = shard.entry(key).or_insert(0);
        if *count >= max {
            return Entered::TooMany;
        }
        *count += 1;
        Entered::As(*count)
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

    fn shard(&self, key: Key) -> std::sync::MutexGuard<'_, HashMap<Key, u64>> {
        self.shards[key.shard()].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn delay(&self, units: u64) -> Duration {
        let unit = self.unit.load(Ordering::Relaxed);
        Duration::from_nanos(unit.saturating_mul(units)).min(DELAY_MAX)
    }

    /// The unit comes half-way to what a request has taken.
    fn took(&self, time: Duration) {
        let unit = self.unit.load(Ordering::Relaxed);
        self.unit.store(unit / 2 + nanoseconds(time) / 2, Ordering::Relaxed);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.state.leave(self.key);
    }
}

#[cfg(test)]
mod tests;
