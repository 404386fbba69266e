//! `limit-count`: so many requests of each key in a time.
//!
//! A `fixed` window begins with the first request of a key. A `sliding` one estimates the requests of
//! the last `time_window` seconds: those of the window under way, and of the one before it the share
//! that still reaches into them. Counting is exact across workers. There are
//! [`ENTRIES_MAX`](super::table::ENTRIES_MAX) keys at a time; a request of one more is refused, or
//! passes with `allow_degradation: true`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderName, HeaderValue};

use super::{
    FieldEdits, Kind, Outcome, Phase, Plugin, RequestContext,
    limit::{Amount, CountedBy, Rejection},
    table::Table,
};
use crate::{
    config::plugins::{Scope, Section, Value, template},
    template::Template,
    variable::Facts,
};

pub(super) static KIND: Kind =
    Kind { name: "limit-count", priority: 1002, phase: Phase::Access, read, credential: None };

/// Requests in a window.
const COUNT_MAX: u64 = u32::MAX as u64;
/// Seconds of a window: a year.
const WINDOW_MAX: u64 = 366 * 86_400;
const RULES_MAX: usize = 32;
const UNCLEAR: &str = "failed to limit count";

#[derive(Debug)]
struct LimitCount {
    rules: Box<[Rule]>,
    window: Window,
    rejection: Rejection,
    show_limit_quota_header: bool,
    table: Table<Counted>,
}

#[derive(Debug)]
struct Rule {
    key: RuleKey,
    count: Amount,
    /// Seconds.
    time_window: Amount,
    fields: [HeaderName; 3],
}

#[derive(Debug)]
enum RuleKey {
    Always(CountedBy),
    /// A rule whose key is empty does not apply.
    IfAny(Template),
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

fn read(section: &mut Section<'_>, _scope: &Scope<'_>) -> Option<Arc<dyn Plugin>> {
    let rules = match section.take("rules") {
        Some(_) if section.has("count") || section.has("time_window") => {
            section.error("count/time_window and rules cannot be specified at the same time");
            return None;
        }
        Some(rules) => many(&rules),
        None => Rule::only(section).map(|rule| vec![rule]),
    };
    let windows = [("fixed", Window::Fixed), ("sliding", Window::Sliding)];
    let window = section.take("window_type").map(|value| value.one_of(&windows, &[]));
    let rejection = Rejection::read(section, KIND.name);
    let show_limit_quota_header = section.leaf_or("show_limit_quota_header", true);
    for key in ["group", "sync_interval"] {
        if section.take(key).is_some() {
            section.error(format!("`{key}` is not built yet; remove it"));
        }
    }
    Some(Arc::new(LimitCount {
        rules: rules?.into(),
        window: window.unwrap_or(Some(Window::Fixed))?,
        rejection: rejection?,
        show_limit_quota_header,
        table: Table::new(),
    }))
}

fn many(rules: &Value<'_>) -> Option<Vec<Rule>> {
    let items = rules.items()?;
    if items.is_empty() || items.len() > RULES_MAX {
        rules.error(format!("needs 1 to {RULES_MAX} rules"));
        return None;
    }
    let mut keys: Vec<String> = Vec::new();
    let mut read = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let mut section = item.section()?;
        let key = section.require("key");
        if let Some(text) = key.as_ref().and_then(Value::quiet_leaf::<String>) {
            if keys.contains(&text) {
                item.error(format!("duplicate key '{text}' in rules"));
            }
            keys.push(text);
        }
        let prefix = section.take("header_prefix").map(|value| value.leaf::<String>());
        let prefix = prefix.unwrap_or_else(|| Some((index + 1).to_string()));
        let amounts = amounts(&mut section);
        let names = prefix.and_then(|prefix| names(&section, &format!("x-{prefix}-")));
        section.finish_plugin();
        let (count, time_window) = amounts?;
        let key = RuleKey::IfAny(template(&key?)?);
        read.push(Rule { key, count, time_window, fields: names? });
    }
    Some(read)
}

fn amounts(section: &mut Section<'_>) -> Option<(Amount, Amount)> {
    let count = section.require("count").and_then(|value| Amount::read(&value, 1, COUNT_MAX));
    let window = section.require("time_window");
    let window = window.and_then(|value| Amount::read(&value, 1, WINDOW_MAX));
    Some((count?, window?))
}

fn names(section: &Section<'_>, prefix: &str) -> Option<[HeaderName; 3]> {
    let name = |rest| HeaderName::try_from(format!("{prefix}ratelimit-{rest}").to_ascii_lowercase());
    match (name("limit"), name("remaining"), name("reset")) {
        (Ok(limit), Ok(remaining), Ok(reset)) => Some([limit, remaining, reset]),
        _ => {
            section.error("`header_prefix` cannot be a part of a field's name");
            None
        }
    }
}

impl Rule {
    /// The one rule of settings without `rules`.
    fn only(section: &mut Section<'_>) -> Option<Rule> {
        let key = CountedBy::read(section, Some("remote_addr"));
        let (count, time_window) = amounts(section)?;
        let fields = names(section, "x-")?;
        Some(Rule { key: RuleKey::Always(key?), count, time_window, fields })
    }
}

impl Plugin for LimitCount {
    fn request(&self, cx: &mut RequestContext<'_>) -> Outcome {
        let mut has_counted = false;
        for (index, rule) in self.rules.iter().enumerate() {
            let counted = self.count(index, rule, &cx.facts(), cx.request.origin.now.instant);
            let standing = match counted {
                Ok(Some(standing)) => standing,
                Ok(None) => continue,
                Err(outcome) => return outcome,
            };
            has_counted = true;
            if self.show_limit_quota_header {
                standing.tell(&rule.fields, &mut cx.response);
            }
            if !standing.is_allowed {
                return Outcome::Answer(self.rejection.answer());
            }
        }
        match has_counted {
            true => Outcome::Continue,
            false => self.rejection.unclear(UNCLEAR),
        }
    }
}

impl LimitCount {
    /// `None`: the rule does not apply.
    fn count(
        &self,
        index: usize,
        rule: &Rule,
        facts: &Facts<'_>,
        now: Instant,
    ) -> Result<Option<Standing>, Outcome> {
        let value = match &rule.key {
            RuleKey::Always(key) => key.value(facts).into_owned(),
            RuleKey::IfAny(template) => {
                let mut value = Vec::new();
                template.expand(facts, &[], &mut value);
                value
            }
        };
        if value.is_empty() {
            return Ok(None);
        }
        let limit = rule.count.value(facts, 1, COUNT_MAX);
        let seconds = rule.time_window.value(facts, 1, WINDOW_MAX);
        let (Some(limit), Some(seconds)) = (limit, seconds) else {
            return Err(self.rejection.unclear(UNCLEAR));
        };
        let time = Duration::from_secs(seconds);
        // Amounts that depend on the request have a window each.
        let key = self.table.key(&[
            &index.to_ne_bytes(),
            &limit.to_ne_bytes(),
            &seconds.to_ne_bytes(),
            &value,
        ]);
        let hit = |counted: &mut Counted| counted.hit(self.window, limit, time, now);
        self.table.amend(key, now, hit).map(Some).map_err(|_full| self.rejection.uncounted())
    }
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
    fn tell(&self, [limit, remaining, reset]: &[HeaderName; 3], response: &mut FieldEdits<'_>) {
        response.set(limit.clone(), self.limit.into());
        response.set(remaining.clone(), self.remaining.into());
        let seconds = format!("{:.2}", self.reset.as_secs_f64());
        if let Ok(seconds) = HeaderValue::try_from(seconds) {
            response.set(reset.clone(), seconds);
        }
    }
}

#[cfg(test)]
mod tests;
