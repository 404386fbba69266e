//! `limit-req`: so many requests a second of each key, as a leaky bucket.
//!
//! What comes faster than `rate` waits for its turn, up to `burst` requests, and what is more is
//! refused. With `nodelay` nobody waits. Counting is exact across workers, and with `policy: redis`
//! across whoever shares the Redis, by its clock. Here there are
//! [`ENTRIES_MAX`](super::table::ENTRIES_MAX) keys at a time; a request of one more is refused, or
//! passes with `allow_degradation: true`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Call, Kind, Outcome, Phase, Plugin, Reply, RequestContext, Script, Step,
    limit::{CountedBy, Policy, Rejection, Shared},
    table::Table,
};
use crate::config::plugins::{Scope, Section};

pub(super) static KIND: Kind =
    Kind { name: "limit-req", priority: 1001, phase: Phase::Access, read, credential: None };

/// Requests a second; fewer than one in 12 days is no rate.
const RATE_MIN: f64 = 1e-6;
const RATE_MAX: f64 = 1e9;
/// How long the last of a burst may have to wait.
const DELAY_MAX: Duration = Duration::from_secs(3600);
/// What is shorter is not worth a timer, as in APISIX.
const DELAY_MIN: Duration = Duration::from_millis(1);
const UNCLEAR: &str = "failed to limit req";

#[derive(Debug)]
struct LimitReq {
    /// Requests a second.
    rate: f64,
    /// Requests that may wait.
    burst: f64,
    key: CountedBy,
    nodelay: bool,
    rejection: Rejection,
    buckets: Buckets,
}

/// Where the buckets are.
#[derive(Debug)]
enum Buckets {
    Here(Table<Bucket>),
    Redis(Shared),
}

static POUR: Script = Script::new(include_str!("limit_req/pour.lua"), is_turn);

/// What is remembered of a key.
#[derive(Debug, Default)]
struct Bucket {
    /// Requests ahead of the rate, when the last one came.
    excess: f64,
    last: Option<Instant>,
}

fn read(section: &mut Section<'_>, scope: &Scope<'_>) -> Option<Arc<dyn Plugin>> {
    let rate = section.require("rate").and_then(|value| value.within(&(RATE_MIN..=RATE_MAX)));
    let burst = section.require("burst").and_then(|value| value.within(&(0.0..=RATE_MAX)));
    let key = CountedBy::read(section, None);
    let nodelay = section.leaf_or("nodelay", false);
    let policy = Policy::read(section, scope.owner, KIND.name);
    let rejection = Rejection::read(section, KIND.name);
    let (rate, burst) = (rate?, burst?);
    if !nodelay && burst / rate > DELAY_MAX.as_secs_f64() {
        section.error("the last request of a `burst` would wait for more than an hour");
        return None;
    }
    Some(Arc::new(LimitReq {
        rate,
        burst,
        key: key?,
        nodelay,
        rejection: rejection?,
        buckets: match policy? {
            Policy::Local => Buckets::Here(Table::new()),
            Policy::Redis(shared) => Buckets::Redis(shared),
        },
    }))
}

impl Plugin for LimitReq {
    fn request(&self, cx: &mut RequestContext<'_>) -> Outcome {
        let now = cx.now().instant;
        let facts = cx.facts();
        let value = self.key.value(&facts);
        let table = match &self.buckets {
            Buckets::Here(table) => table,
            Buckets::Redis(shared) => {
                return Outcome::Call(Call::Redis(shared.ask(self.pour(shared, &value), None)));
            }
        };
        let pour = |bucket: &mut Bucket| bucket.pour(self.rate, self.burst, now);
        match table.amend(table.key(&value), now, pour) {
            Err(_full) => self.rejection.uncounted(),
            Ok(turn) => self.judge(turn),
        }
    }

    fn resume(&self, _cx: &mut RequestContext<'_>, reply: Reply) -> Outcome {
        let replied = match reply {
            Reply::Delayed => return Outcome::Continue,
            Reply::Redis(replied) => replied,
            Reply::Body { .. } | Reply::Http(_) | Reply::Refreshed => {
                return self.rejection.unclear(UNCLEAR);
            }
        };
        match replied.numbers.as_deref() {
            Ok(&[_allowed, delay]) => {
                self.judge(Some(Duration::from_micros(delay.try_into().unwrap_or(0))))
            }
            Ok(_) => self.judge(None),
            Err(_) => self.rejection.unclear(UNCLEAR),
        }
    }
}

impl LimitReq {
    fn pour(&self, shared: &Shared, value: &[u8]) -> Step {
        let arguments = [self.rate, self.burst].map(|number| number.to_string().into());
        Step { script: &POUR, keys: vec![shared.key(0, value)], arguments: arguments.into() }
    }

    /// Holds a request back until its turn comes; refuses it if there is none.
    fn judge(&self, turn: Option<Duration>) -> Outcome {
        match turn {
            None => Outcome::Answer(self.rejection.answer()),
            Some(delay) if delay >= DELAY_MIN && !self.nodelay => Outcome::Call(Call::Delay(delay)),
            Some(_short) => Outcome::Continue,
        }
    }
}

/// Whether a request may pass, and then after how long (µs).
fn is_turn(_buckets: usize, numbers: &[i64]) -> bool {
    match numbers {
        [0] => true,
        [1, delay] => *delay >= 0,
        _ => false,
    }
}

impl Bucket {
    /// How long a request has to wait, `None` if it is one too many; also says when the bucket is
    /// empty.
    fn pour(&mut self, rate: f64, burst: f64, now: Instant) -> (Instant, Option<Duration>) {
        // Another worker may have counted a request that came a little later.
        let now = self.last.map_or(now, |last| last.max(now));
        let excess = match self.last {
            Some(last) => {
                let leaked = now.saturating_duration_since(last).as_secs_f64() * rate;
                (self.excess - leaked + 1.0).max(0.0)
            }
            None => 0.0,
        };
        let is_allowed = excess <= burst;
        if is_allowed {
            (self.excess, self.last) = (excess, Some(now));
        }
        let since = self.last.unwrap_or(now);
        let until = since + Duration::from_secs_f64((self.excess + 1.0) / rate);
        (until, is_allowed.then(|| Duration::from_secs_f64(excess / rate)))
    }
}

#[cfg(test)]
mod tests;
