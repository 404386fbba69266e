//! `limit-conn`: so many requests of each key at once.
//!
//! Up to `conn` are in flight without further ado. Of `burst` more each waits: one unit of delay for
//! each `conn` that are in flight before it. A unit is `default_conn_delay` at first, then what
//! requests have taken of late, unless `only_use_default_delay`. A request is in flight until the
//! last byte of its response. Of several `rules` all have to have room; the longest delay holds.
//!
//! Counting is exact across workers, and with `policy: redis` across whoever shares the Redis. There
//! each request has an entry of its own, which goes when the request is over, or by itself `key_ttl`
//! seconds after it began: those of a Tandem that was killed, and of a request that takes longer.
//! Here there are [`KEYS_MAX`](places::KEYS_MAX) keys at a time; a request of one more is refused, or
//! passes with `allow_degradation: true`.

mod places;

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use uuid::Uuid;

use self::places::{Entered, Place, Places};
use super::{
    Call, Finished, Hooks, Kind, Outcome, Phase, Plugin, Reply, RequestContext, Script, Step, Undo,
    Undoing,
    limit::{Amount, CountedBy, KEY_TTL, Policy, Rejection, RuleKey, Shared, rules},
};
use crate::{
    config::plugins::{Scope, Section},
    variable::Facts,
};

pub(super) static KIND: Kind =
    Kind { name: "limit-conn", priority: 1003, phase: Phase::Access, read, credential: None };

/// Requests of a key in flight.
const COUNT_MAX: u64 = 1 << 32;
/// Seconds.
const UNIT_MAX: f64 = 60.0;
/// Seconds that an entry in Redis may last.
const KEY_TTL_MAX: u64 = 366 * 86_400;
/// How long Redis is told of a request that was over before it was counted, milliseconds: the system
/// does not try for longer to deliver what was sent on a connection that was closed (`tcp(7)`,
/// `tcp_orphan_retries`), and what has been delivered runs as soon as anything does.
const OVER_LASTS_MAX: u64 = 600_000;
/// How long a request may be held back.
const DELAY_MAX: Duration = Duration::from_secs(600);
const DELAY_MIN: Duration = Duration::from_millis(1);
const UNCLEAR: &str = "failed to limit conn";

#[derive(Debug)]
struct LimitConn {
    rules: Box<[Rule]>,
    only_use_default_delay: bool,
    rejection: Rejection,
    unit: Arc<Unit>,
    entries: Entries,
}

#[derive(Debug)]
struct Rule {
    key: RuleKey,
    conn: Amount,
    burst: Amount,
}

/// Of delay, nanoseconds.
#[derive(Debug)]
struct Unit(AtomicU64);

/// Where requests in flight are counted.
#[derive(Debug)]
enum Entries {
    Here(Arc<Places>),
    Redis(Remote),
}

#[derive(Debug)]
struct Remote {
    shared: Shared,
    /// How long an entry lasts that nobody takes away, milliseconds.
    lasts: u64,
    /// What the names of our requests begin with, which are nobody else's.
    run: Uuid,
    count: AtomicU64,
}

static ENTER: Script = Script::new(include_str!("limit_conn/enter.lua"), is_entry);
static LEAVE: Script = Script::new(include_str!("limit_conn/leave.lua"), |_, left| left.is_empty());

/// A request in flight.
#[derive(Debug)]
struct InFlight {
    unit: Arc<Unit>,
    delay: Duration,
    _counted: Counted,
}

/// By all rules that apply, until it is dropped.
#[derive(Debug)]
#[expect(dead_code, reason = "what counts is when they are dropped")]
enum Counted {
    Here(Vec<Place>),
    Redis(Undo),
}

/// A rule as it applies to one request.
struct Applied<'f> {
    index: usize,
    value: Cow<'f, [u8]>,
    conn: u64,
    /// Requests that may be in flight.
    max: u64,
}

fn read(section: &mut Section<'_>, scope: &Scope<'_>) -> Option<Arc<dyn Plugin>> {
    let rules = match section.take("rules") {
        Some(_) if ["conn", "burst", "key"].into_iter().any(|key| section.has(key)) => {
            section.error("conn/burst/key and rules cannot be specified at the same time");
            // Nothing else is wrong with these.
            for key in ["conn", "burst", "key"] {
                section.take(key);
            }
            None
        }
        Some(list) => rules(&list, |section, _index, key| Rule::read(section, key)),
        None => Rule::only(section).map(|rule| [rule].into()),
    };
    let unit = section.require("default_conn_delay");
    let unit = unit.and_then(|value| value.within(&(1e-6..=UNIT_MAX)));
    let only_use_default_delay = section.leaf_or("only_use_default_delay", false);
    let rejection = Rejection::read(section, KIND.name);
    let entries = Entries::read(section, scope);
    let unit = Unit(nanoseconds(Duration::from_secs_f64(unit?)).into());
    Some(Arc::new(LimitConn {
        rules: rules?,
        only_use_default_delay,
        rejection: rejection?,
        unit: Arc::new(unit),
        entries: entries?,
    }))
}

impl Entries {
    fn read(section: &mut Section<'_>, scope: &Scope<'_>) -> Option<Entries> {
        let seconds = section.peek(KEY_TTL).map(|value| value.within(&(1..=KEY_TTL_MAX)));
        Some(match Policy::read(section, scope.owner, KIND.name)? {
            Policy::Local => Entries::Here(Arc::default()),
            Policy::Redis(shared) => {
                section.take(KEY_TTL);
                let lasts = seconds.unwrap_or(Some(3600))? * 1000;
                Entries::Redis(Remote { shared, lasts, run: Uuid::new_v4(), count: 0.into() })
            }
        })
    }
}

impl Rule {
    /// The one rule of settings without `rules`.
    fn only(section: &mut Section<'_>) -> Option<Rule> {
        let key = CountedBy::read(section, None).map(RuleKey::Always);
        Rule::read(section, key?)
    }

    fn read(section: &mut Section<'_>, key: RuleKey) -> Option<Rule> {
        let conn = section.require("conn").and_then(|value| Amount::read(&value, 1, COUNT_MAX));
        let burst = section.require("burst").and_then(|value| Amount::read(&value, 0, COUNT_MAX));
        Some(Rule { key, conn: conn?, burst: burst? })
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Plugin for LimitConn {
    fn request(&self, cx: &mut RequestContext<'_>) -> Outcome {
        let facts = cx.facts();
        let applied = match self.applied(&facts) {
            Ok(applied) => applied,
            Err(outcome) => return outcome,
        };
        match &self.entries {
            Entries::Here(places) => match self.enter(places, &applied) {
                Ok((units, counted)) => self.go_on(units, counted, cx),
                Err(outcome) => outcome,
            },
            Entries::Redis(remote) => Outcome::Call(remote.enter(&applied)),
        }
    }

    fn resume(&self, cx: &mut RequestContext<'_>, reply: Reply) -> Outcome {
        let replied = match reply {
            Reply::Delayed => return Outcome::Continue,
            Reply::Redis(replied) => replied,
            Reply::Body { .. } | Reply::Http(_) | Reply::Refreshed => {
                return self.rejection.unclear(UNCLEAR);
            }
        };
        let facts = cx.facts();
        let (Ok(numbers), Ok(applied)) = (replied.numbers, self.applied(&facts)) else {
            return self.rejection.unclear(UNCLEAR);
        };
        match numbers.as_slice() {
            [_entered, counts @ ..] if !counts.is_empty() => {
                let counts = counts.iter().map(|count| (*count).try_into().unwrap_or(0));
                let units = counts.zip(&applied).map(|(count, rule)| rule.units(count));
                let units = units.max().unwrap_or(0);
                self.go_on(units, Counted::Redis(replied.undo), cx)
            }
            _ => {
                replied.undo.forget();
                Outcome::Answer(self.rejection.answer())
            }
        }
    }

    fn hooks(&self) -> Hooks {
        Hooks { log: !self.only_use_default_delay, ..Hooks::default() }
    }

    fn log(&self, exchange: &Finished<'_>) {
        let mut all = exchange.kept.all::<InFlight>();
        if let Some(own) = all.find(|one| Arc::ptr_eq(&one.unit, &self.unit)) {
            self.unit.took(exchange.total.saturating_sub(own.delay));
        }
    }
}

impl LimitConn {
    /// The rules that apply; there is one at least.
    fn applied<'f>(&'f self, facts: &Facts<'f>) -> Result<Vec<Applied<'f>>, Outcome> {
        let mut applied = Vec::with_capacity(self.rules.len());
        for (index, rule) in self.rules.iter().enumerate() {
            let value = rule.key.value(facts);
            if value.is_empty() {
                continue;
            }
            let conn = rule.conn.value(facts, 1, COUNT_MAX);
            let (Some(conn), Some(burst)) = (conn, rule.burst.value(facts, 0, COUNT_MAX)) else {
                return Err(self.rejection.unclear(UNCLEAR));
            };
            applied.push(Applied { index, value, conn, max: conn + burst });
        }
        match applied.is_empty() {
            true => Err(self.rejection.unclear(UNCLEAR)),
            false => Ok(applied),
        }
    }

    /// Counts here; also says how many units of delay that comes to. What one rule has counted is
    /// taken back if another has no room.
    fn enter(
        &self,
        places: &Arc<Places>,
        applied: &[Applied<'_>],
    ) -> Result<(u64, Counted), Outcome> {
        let mut counted = Vec::with_capacity(applied.len());
        let mut units = 0;
        for rule in applied {
            match places.enter(places.key(rule.index, &rule.value), rule.max) {
                Entered::As(count, place) => {
                    units = units.max(rule.units(count));
                    counted.push(place);
                }
                Entered::TooMany => return Err(Outcome::Answer(self.rejection.answer())),
                Entered::Full => return Err(self.rejection.uncounted()),
            }
        }
        Ok((units, Counted::Here(counted)))
    }

    /// Holds the request back for as long as those before it ask for.
    fn go_on(&self, units: u64, counted: Counted, cx: &mut RequestContext<'_>) -> Outcome {
        let delay = self.unit.delay(units);
        cx.keep(InFlight { unit: Arc::clone(&self.unit), delay, _counted: counted });
        match delay >= DELAY_MIN {
            true => Outcome::Call(Call::Delay(delay)),
            false => Outcome::Continue,
        }
    }
}

impl Applied<'_> {
    /// Of delay, for a request with which there are `count`.
    fn units(&self, count: u64) -> u64 {
        count.saturating_sub(1) / self.conn
    }
}

impl Remote {
    fn enter(&self, applied: &[Applied<'_>]) -> Call {
        let request = format!("{}-{}", self.run.simple(), self.count.fetch_add(1, Ordering::Relaxed));
        let (request, lasts) = (request.into_bytes(), self.lasts.to_string().into_bytes());
        let over = self.shared.key("over", &request);
        let over_lasts = self.lasts.min(OVER_LASTS_MAX).to_string().into_bytes();
        let key = |one: &Applied<'_>| self.shared.key(one.index, &one.value);
        let mut keys: Vec<_> = applied.iter().map(key).collect();
        let leave = |key: &Vec<u8>| Step {
            script: &LEAVE,
            keys: vec![key.clone(), over.clone()],
            arguments: vec![request.clone(), over_lasts.clone()],
        };
        let steps = keys.iter().map(leave).collect();
        let leave = Undoing { steps, lasts: Duration::from_millis(self.lasts) };
        keys.push(over);
        let limits = applied.iter().map(|one| one.max.to_string().into_bytes());
        let arguments = [request, lasts].into_iter().chain(limits).collect();
        Call::Redis(self.shared.ask(Step { script: &ENTER, keys, arguments }, Some(leave)))
    }
}

/// Whether a request is in, and then how many are by each rule; one key belongs to no rule.
fn is_entry(keys: usize, numbers: &[i64]) -> bool {
    match numbers {
        [0] => true,
        [1, counts @ ..] => counts.len() + 1 == keys && counts.iter().all(|count| *count > 0),
        _ => false,
    }
}

impl Unit {
    fn delay(&self, units: u64) -> Duration {
        let unit = self.0.load(Ordering::Relaxed);
        Duration::from_nanos(unit.saturating_mul(units)).min(DELAY_MAX)
    }

    /// The unit comes half-way to what a request has taken.
    fn took(&self, time: Duration) {
        let unit = self.0.load(Ordering::Relaxed);
        self.0.store(unit / 2 + nanoseconds(time) / 2, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
