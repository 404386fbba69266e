//! `limit-count`: so many requests of each key in a time.
//!
//! A `fixed` window begins with the first request of a key. A `sliding` one estimates the requests of
//! the last `time_window` seconds: those of the window under way, and of the one before it the share
//! that still reaches into them. Counting is exact across workers, and with `policy: redis` across
//! whoever shares the Redis, by its clock, as clocks of several hosts differ; with `sync_interval` each
//! of these counts for itself and tells Redis at such intervals, so that they know of each other as late
//! as that. All of one `group` count
//! together, wherever they are configured. Here there are
//! [`ENTRIES_MAX`](super::table::ENTRIES_MAX) keys at a time; a request of one more is refused, or
//! passes with `allow_degradation: true`.

mod told;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderName, HeaderValue};

use self::told::{Counted as CountedThere, Named, Told};
use super::{
    Call, FieldEdits, Kind, Outcome, Phase, Plugin, Reply, RequestContext, Script, Step, Teller,
    limit::{Amount, CountedBy, Policy, Rejection, RuleKey, Shared, group_owner, rules},
    table::{Full, Table},
};
use crate::{
    config::{
        metadata::QuotaFields,
        plugins::{Scope, Section, Value},
    },
    variable::Facts,
};

pub(super) static KIND: Kind =
    Kind { name: "limit-count", priority: 1002, phase: Phase::Access, read, credential: None };

/// Requests in a window.
const COUNT_MAX: u64 = u32::MAX as u64;
/// Seconds of a window: a year.
const WINDOW_MAX: u64 = 366 * 86_400;
/// Seconds of `sync_interval`.
const SYNC_MIN: f64 = 0.1;
const SYNC_MAX: f64 = 3600.0;
/// Bytes of a group's name.
const GROUP_SIZE_MAX: usize = 256;
const UNCLEAR: &str = "failed to limit count";

#[derive(Debug)]
struct LimitCount {
    rules: Box<[Rule]>,
    window: Window,
    rejection: Rejection,
    show_limit_quota_header: bool,
    windows: Windows,
    /// Who counts together.
    group: Option<Box<str>>,
}

/// Where the windows are.
#[derive(Debug)]
enum Windows {
    Here(Table<Counted>),
    Redis(Shared),
    /// Here, but Redis is told.
    Told(Arc<Told>),
}

static HIT: Script = Script::new(
    concat!(include_str!("limit_count/window.lua"), include_str!("limit_count/hit.lua")),
    is_standings,
);

#[derive(Debug)]
struct Rule {
    key: RuleKey,
    count: Amount,
    /// Seconds.
    time_window: Amount,
    fields: [HeaderName; 3],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Window {
    Fixed,
    Sliding,
}

/// What is remembered of a key.
#[derive(Debug, Default)]
struct Counted {
    /// When the window under way began.
    start: Option<Instant>,
    current: u64,
    previous: u64,
}

/// How a request stands to a limit.
#[derive(Debug, PartialEq)]
struct Standing {
    is_allowed: bool,
    limit: u64,
    remaining: u64,
    reset: Duration,
}

fn read(section: &mut Section<'_>, scope: &Scope<'_>) -> Option<Arc<dyn Plugin>> {
    let rules = match section.take("rules") {
        Some(_) if ["count", "time_window"].into_iter().any(|key| section.has(key)) => {
            section.error("count/time_window and rules cannot be specified at the same time");
            // Nothing else is wrong with these.
            for key in ["count", "time_window"] {
                section.take(key);
            }
            None
        }
        Some(list) => rules(&list, Rule::listed),
        None => Rule::only(section, scope).map(|rule| [rule].into()),
    };
    let windows = [("fixed", Window::Fixed), ("sliding", Window::Sliding)];
    let window = section.take("window_type").map(|value| value.one_of(&windows, &[]));
    let group = section.take("group").map(|value| group(&value));
    let owner = group.iter().flatten().map(|group| group_owner(group)).next();
    let policy = Policy::read(section, owner.as_deref().or(scope.owner), KIND.name);
    let rejection = Rejection::read(section, KIND.name);
    let show_limit_quota_header = section.leaf_or("show_limit_quota_header", true);
    let sync = section.take("sync_interval").map(|value| (sync_interval(&value, &rules), value));
    if let (Some((Some(Some(_)), value)), Some(Policy::Local)) = (&sync, &policy) {
        value.error("needs `policy: redis`");
    }
    let (window, sync) = (window.unwrap_or(Some(Window::Fixed))?, sync.map(|(sync, _)| sync));
    Some(Arc::new(LimitCount {
        rules: rules?,
        window,
        rejection: rejection?,
        show_limit_quota_header,
        windows: match (policy?, sync.unwrap_or(Some(None))?) {
            (Policy::Local, _) => Windows::Here(Table::new()),
            (Policy::Redis(shared), None) => Windows::Redis(shared),
            (Policy::Redis(shared), Some(interval)) => {
                Windows::Told(Arc::new(Told::new(shared, interval, window.word())))
            }
        },
        group: match group {
            Some(group) => Some(group?),
            None => None,
        },
    }))
}

/// `Some(None)`: Redis is asked by every request.
fn sync_interval(value: &Value<'_>, rules: &Option<Box<[Rule]>>) -> Option<Option<Duration>> {
    if value.quiet_leaf() == Some(-1.0) {
        return Some(None);
    }
    let seconds = value.within(&(SYNC_MIN..=SYNC_MAX))?;
    let is_shorter = |rule: &Rule| match rule.time_window {
        Amount::Fixed(time) => (time as f64) < seconds,
        Amount::Template(_) => false,
    };
    if rules.iter().flatten().any(is_shorter) {
        value.error("is longer than `time_window`: nobody would know of others in time");
    }
    Some(Some(Duration::from_secs_f64(seconds)))
}

fn group(value: &Value<'_>) -> Option<Box<str>> {
    let is_name = |text: &str| (1..=GROUP_SIZE_MAX).contains(&text.len());
    let name = value.text("needs 1 to 256 bytes", is_name)?;
    Some(name.into())
}

fn amounts(section: &mut Section<'_>) -> Option<(Amount, Amount)> {
    let count = section.require("count").and_then(|value| Amount::read(&value, 1, COUNT_MAX));
    let window = section.require("time_window");
    let window = window.and_then(|value| Amount::read(&value, 1, WINDOW_MAX));
    Some((count?, window?))
}

fn names(section: &Section<'_>, prefix: &str) -> Option<[HeaderName; 3]> {
    let name = |rest| HeaderName::try_from(format!("x-{prefix}-ratelimit-{rest}"));
    match (name("limit"), name("remaining"), name("reset")) {
        (Ok(limit), Ok(remaining), Ok(reset)) => Some([limit, remaining, reset]),
        _ => {
            section.error("`header_prefix` cannot be a part of a field's name");
            None
        }
    }
}

impl Rule {
    /// One of `rules`.
    fn listed(section: &mut Section<'_>, index: usize, key: RuleKey) -> Option<Rule> {
        let prefix = section.take("header_prefix").map(|value| value.leaf::<String>());
        let prefix = prefix.unwrap_or_else(|| Some((index + 1).to_string()));
        let amounts = amounts(section);
        let fields = prefix.and_then(|prefix| names(section, &prefix));
        let (count, time_window) = amounts?;
        Some(Rule { key, count, time_window, fields: fields? })
    }

    /// The one rule of settings without `rules`.
    fn only(section: &mut Section<'_>, scope: &Scope<'_>) -> Option<Rule> {
        let key = CountedBy::read(section, Some("remote_addr"));
        let (count, time_window) = amounts(section)?;
        let QuotaFields(fields) = scope.metadata.quota_fields.clone();
        Some(Rule { key: RuleKey::Always(key?), count, time_window, fields })
    }
}

/// A rule as it applies to one request.
struct Applied<'r> {
    index: usize,
    rule: &'r Rule,
    value: Vec<u8>,
    limit: u64,
    seconds: u64,
}

impl Applied<'_> {
    /// What Redis calls its window.
    fn key(&self, shared: &Shared) -> Vec<u8> {
        let Self { index, limit, seconds, .. } = self;
        shared.key(format_args!("{index}:{limit}:{seconds}"), &self.value)
    }
}

impl Window {
    /// As scripts know it.
    fn word(self) -> &'static str {
        match self {
            Window::Fixed => "fixed",
            Window::Sliding => "sliding",
        }
    }
}

impl Plugin for LimitCount {
    fn group(&self) -> Option<&str> {
        self.group.as_deref()
    }

    fn request(&self, cx: &mut RequestContext<'_>) -> Outcome {
        match &self.windows {
            Windows::Here(table) => self.count(table, cx),
            Windows::Redis(shared) => match self.applied(&cx.facts()) {
                Ok(applied) => Outcome::Call(Call::Redis(shared.ask(self.hit(shared, &applied), None))),
                Err(outcome) => outcome,
            },
            Windows::Told(told) => self.tell(told, cx),
        }
    }

    fn resume(&self, cx: &mut RequestContext<'_>, reply: Reply) -> Outcome {
        let Reply::Redis(replied) = reply else { return self.rejection.unclear(UNCLEAR) };
        let applied = self.applied(&cx.facts());
        if let (Windows::Told(told), Ok(applied)) = (&self.windows, &applied) {
            return match replied.numbers {
                Ok(_) => self.count_told(told, applied, &self.named(told, applied), cx),
                Err(_) => self.rejection.unclear(UNCLEAR),
            };
        }
        let (Ok(numbers), Ok(applied)) = (replied.numbers, applied) else {
            return self.rejection.unclear(UNCLEAR);
        };
        for (standing, applied) in numbers.as_chunks().0.iter().zip(&applied) {
            let standing = Standing::of(*standing, applied.limit);
            if let Some(outcome) = self.judge(&standing, applied.rule, &mut cx.response) {
                return outcome;
            }
        }
        Outcome::Continue
    }
}

impl LimitCount {
    /// Counts here, rule by rule.
    fn count(&self, table: &Table<Counted>, cx: &mut RequestContext<'_>) -> Outcome {
        let now = cx.now().instant;
        let mut has_counted = false;
        for (index, rule) in self.rules.iter().enumerate() {
            let Applied { value, limit, seconds, .. } = match self.apply(index, rule, &cx.facts()) {
                Ok(Some(applied)) => applied,
                Ok(None) => continue,
                Err(outcome) => return outcome,
            };
            has_counted = true;
            // Amounts that depend on the request have a window each.
            let key = table.key(([index as u64, limit, seconds], value));
            let time = Duration::from_secs(seconds);
            let hit = |counted: &mut Counted| counted.hit(self.window, limit, time, now);
            let Ok(standing) = table.amend(key, now, hit) else {
                return self.rejection.uncounted();
            };
            if let Some(outcome) = self.judge(&standing, rule, &mut cx.response) {
                return outcome;
            }
        }
        match has_counted {
            true => Outcome::Continue,
            false => self.rejection.unclear(UNCLEAR),
        }
    }

    /// Has Redis count, by all rules at once.
    fn hit(&self, shared: &Shared, applied: &[Applied<'_>]) -> Step {
        let (mut keys, mut arguments) = (Vec::new(), vec![self.window.word().into()]);
        for applied in applied {
            keys.push(applied.key(shared));
            arguments.push(applied.limit.to_string().into());
            arguments.push((applied.seconds * 1000).to_string().into());
        }
        Step { script: &HIT, keys, arguments }
    }

    /// Counts by what Redis has told, after asking it where that is not known, or not any more.
    fn tell(&self, told: &Arc<Told>, cx: &mut RequestContext<'_>) -> Outcome {
        let applied = match self.applied(&cx.facts()) {
            Ok(applied) => applied,
            Err(outcome) => return outcome,
        };
        let (windows, now) = (self.named(told, &applied), cx.now().instant);
        if windows.iter().all(|window| told.is_known(window, now)) {
            return self.count_told(told, &applied, &windows, cx);
        }
        match told.ask(&windows, now) {
            Ok(step) => {
                let teller = Teller(Arc::<Told>::clone(told));
                Outcome::Call(Call::Redis(told.shared.ask_with(step, teller)))
            }
            Err(Full) => {
                told.learn(&windows, None, now);
                self.rejection.uncounted()
            }
        }
    }

    fn named(&self, told: &Told, applied: &[Applied<'_>]) -> Vec<Named> {
        let named = |applied: &Applied<'_>| Named {
            key: applied.key(&told.shared),
            length: Duration::from_secs(applied.seconds),
        };
        applied.iter().map(named).collect()
    }

    fn count_told(
        &self,
        told: &Told,
        applied: &[Applied<'_>],
        windows: &[Named],
        cx: &mut RequestContext<'_>,
    ) -> Outcome {
        let now = cx.now().instant;
        for (Applied { rule, limit, .. }, window) in applied.iter().zip(windows) {
            let Ok(counted) = told.count(window, *limit, now) else {
                return self.rejection.uncounted();
            };
            let CountedThere { is_allowed, remaining, left: reset } = counted;
            let standing = Standing { is_allowed, limit: *limit, remaining, reset };
            if let Some(outcome) = self.judge(&standing, rule, &mut cx.response) {
                return outcome;
            }
        }
        Outcome::Continue
    }

    /// The rules that apply; there is one at least.
    fn applied(&self, facts: &Facts<'_>) -> Result<Vec<Applied<'_>>, Outcome> {
        let rules = self.rules.iter().enumerate();
        let applied = rules.filter_map(|(index, rule)| self.apply(index, rule, facts).transpose());
        let applied: Vec<_> = applied.collect::<Result<_, _>>()?;
        match applied.is_empty() {
            true => Err(self.rejection.unclear(UNCLEAR)),
            false => Ok(applied),
        }
    }

    /// `None`: the rule does not apply.
    fn apply<'r>(
        &self,
        index: usize,
        rule: &'r Rule,
        facts: &Facts<'_>,
    ) -> Result<Option<Applied<'r>>, Outcome> {
        let value = rule.key.value(facts).into_owned();
        if value.is_empty() {
            return Ok(None);
        }
        let limit = rule.count.value(facts, 1, COUNT_MAX);
        let seconds = rule.time_window.value(facts, 1, WINDOW_MAX);
        let (Some(limit), Some(seconds)) = (limit, seconds) else {
            return Err(self.rejection.unclear(UNCLEAR));
        };
        Ok(Some(Applied { index, rule, value, limit, seconds }))
    }

    /// Tells how the request stands to `rule`, and refuses it if it is one too many.
    fn judge(
        &self,
        standing: &Standing,
        rule: &Rule,
        response: &mut FieldEdits<'_>,
    ) -> Option<Outcome> {
        if self.show_limit_quota_header {
            standing.tell(&rule.fields, response);
        }
        (!standing.is_allowed).then(|| Outcome::Answer(self.rejection.answer()))
    }
}

/// Three numbers of each rule, up to the first that refuses.
fn is_standings(rules: usize, numbers: &[i64]) -> bool {
    let (standings, rest) = numbers.as_chunks::<3>();
    let asked = standings.iter().position(|[is_allowed, ..]| *is_allowed == 0);
    let asked = asked.map_or(rules, |refused| refused + 1);
    let is_valid = |[is_allowed, remaining, left]: &[i64; 3]| {
        matches!(is_allowed, 0 | 1) && *remaining >= 0 && *left >= 0
    };
    rest.is_empty() && standings.len() == asked.min(rules) && standings.iter().all(is_valid)
}

impl Counted {
    /// Counts a request unless it is one too many; also says when all of this will be over.
    fn hit(&mut self, kind: Window, limit: u64, time: Duration, now: Instant) -> (Instant, Standing) {
        let mut start = *self.start.get_or_insert(now);
        let mut elapsed = now.saturating_duration_since(start);
        if elapsed >= time {
            let is_next = kind == Window::Sliding && elapsed < 2 * time;
            self.previous = if is_next { self.current } else { 0 };
            self.current = 0;
            start = if is_next { start + time } else { now };
            elapsed = now.saturating_duration_since(start);
            self.start = Some(start);
        }
        let left = time.saturating_sub(elapsed);
        // Rounded up: what may have been is not given away twice.
        let share = self.previous as f64 * left.as_secs_f64() / time.as_secs_f64();
        let used = self.current.saturating_add(share.ceil() as u64);
        let is_allowed = used < limit;
        self.current += u64::from(is_allowed);
        let remaining = limit.saturating_sub(used + u64::from(is_allowed));
        let until = start + if kind == Window::Sliding { 2 * time } else { time };
        (until, Standing { is_allowed, limit, remaining, reset: left })
    }
}

impl Standing {
    /// As the script tells it.
    fn of([is_allowed, remaining, left]: [i64; 3], limit: u64) -> Standing {
        let [remaining, left] = [remaining, left].map(|number| number.try_into().unwrap_or(0));
        Standing { is_allowed: is_allowed == 1, limit, remaining, reset: Duration::from_millis(left) }
    }

    fn tell(&self, [limit, remaining, reset]: &[HeaderName; 3], response: &mut FieldEdits<'_>) {
        response.set(limit.clone(), self.limit.into());
        response.set(remaining.clone(), self.remaining.into());
        if let Ok(seconds) = HeaderValue::try_from(seconds(self.reset)) {
            response.set(reset.clone(), seconds);
        }
    }
}

/// With two decimals.
fn seconds(time: Duration) -> Vec<u8> {
    let hundredths = (time.as_millis() as u64 + 5) / 10;
    let digit = |number: u64| b'0' + (number % 10) as u8;
    let mut text = itoa::Buffer::new().format(hundredths / 100).as_bytes().to_vec();
    text.extend([b'.', digit(hundredths / 10), digit(hundredths)]);
    text
}

#[cfg(test)]
mod tests;
