//! `api-breaker`: spares nodes that fail.
//!
//! What is counted is the node's status for each host and path. Every `failures`-th unhealthy one
//! opens the circuit for 2, 4, 8, … seconds, up to `max_breaker_sec`; `successes` healthy ones
//! forget all of that. While it is open, requests are answered here, with a text or with what looks
//! like JSON. There are
//! [`ENTRIES_MAX`](super::table::ENTRIES_MAX) paths in trouble at a time; what is more is not
//! counted.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};

use super::{
    Finished, Hooks, Kind, Outcome, Phase, Plugin, RequestContext,
    table::{Key, Table},
};
use crate::{
    config::plugins::{Scope, Section, Value, field_key, field_template, scalar_template},
    http::answer::Answer,
    template::{Groups, Template},
    variable::{Facts, Variable},
};

pub(super) static KIND: Kind =
    Kind { name: "api-breaker", priority: 1005, phase: Phase::Access, read, credential: None };

/// Seconds: a day.
const BREAK_MAX: u64 = 86_400;
const COUNT_MAX: u64 = 1_000_000;

#[derive(Debug)]
struct ApiBreaker {
    code: StatusCode,
    body: Option<Template>,
    fields: Vec<(HeaderName, Template)>,
    max_break: Duration,
    unhealthy: Judgement,
    healthy: Judgement,
    circuits: Arc<Table<Circuit>>,
}

/// Which statuses are so, and how many of them matter.
#[derive(Debug)]
struct Judgement {
    statuses: Vec<u16>,
    count: u64,
}

/// What is remembered of a path.
#[derive(Debug, Default)]
struct Circuit {
    failures: u64,
    successes: u64,
    open_until: Option<Instant>,
}

/// A request whose response is judged.
#[derive(Debug)]
struct Watched {
    circuits: Arc<Table<Circuit>>,
    key: Key,
    begun: Instant,
}

fn read(section: &mut Section<'_>, _scope: &Scope<'_>) -> Option<Arc<dyn Plugin>> {
    let code = section.require("break_response_code");
    let code = code.and_then(|value| value.within(&(200..=599_u16)));
    let body = section.take("break_response_body");
    let has_body = body.is_some();
    let body = body.map_or(Some(None), |it| scalar_template(&it, Groups::None).map(Some));
    let fields = section.take("break_response_headers");
    if let (Some(fields), false) = (&fields, has_body) {
        fields.error("needs `break_response_body`");
    }
    let fields = fields.map_or(Some(Vec::new()), |value| fields_of(&value));
    let seconds = section.within_or("max_breaker_sec", 3..=BREAK_MAX, 300);
    let unhealthy = Judgement::read(section, "unhealthy", ("failures", 500..=599, 500));
    let healthy = Judgement::read(section, "healthy", ("successes", 200..=499, 200));
    Some(Arc::new(ApiBreaker {
        code: StatusCode::from_u16(code?).ok()?,
        body: body?,
        fields: fields?,
        max_break: Duration::from_secs(seconds),
        unhealthy: unhealthy?,
        healthy: healthy?,
        circuits: Arc::new(Table::new()),
    }))
}

/// `[{key, value}, …]`.
fn fields_of(value: &Value<'_>) -> Option<Vec<(HeaderName, Template)>> {
    let read = value.items()?.into_iter().map(|item| {
        let mut section = item.section()?;
        let name = section.require("key");
        let name = name.and_then(|key| field_key(&key.place, &key.leaf::<String>()?));
        let text = section.require("value");
        let text = text.and_then(|value| field_template(&value, Groups::None));
        section.finish_plugin();
        Some((name?, text?))
    });
    let read: Vec<_> = read.collect();
    read.into_iter().collect()
}

impl Judgement {
    fn read(
        section: &mut Section<'_>,
        key: &'static str,
        (count_key, range, default): (&'static str, std::ops::RangeInclusive<u16>, u16),
    ) -> Option<Judgement> {
        let Some(mut section) = section.section(key) else {
            return Some(Judgement { statuses: vec![default], count: 3 });
        };
        let statuses = section.take("http_statuses").map_or(Some(vec![default]), |value| {
            let items = value.items()?;
            if items.is_empty() {
                value.error("needs at least one status");
                return None;
            }
            let statuses: Vec<_> = items.iter().map(|item| item.within(&range)).collect();
            statuses.into_iter().collect()
        });
        let count = section.within_or(count_key, 1..=COUNT_MAX, 3);
        section.finish_plugin();
        Some(Judgement { statuses: statuses?, count })
    }

    fn meets(&self, status: u16) -> bool {
        self.statuses.contains(&status)
    }
}

impl Plugin for ApiBreaker {
    fn request(&self, cx: &mut RequestContext<'_>) -> Outcome {
        let facts = cx.facts();
        // What the record counts from.
        let begun = cx.request.origin.now.instant;
        let now = cx.now().instant;
        let host = facts.value(&Variable::Host).unwrap_or_default();
        let key = self.circuits.key((&host, facts.path));
        let is_open =
            |circuit: &Circuit| circuit.open_until.is_some_and(|until| now < until);
        if self.circuits.with(key, now, is_open) == Some(true) {
            return Outcome::Answer(self.answer(&facts));
        }
        cx.keep(Watched { circuits: Arc::clone(&self.circuits), key, begun });
        Outcome::Continue
    }

    fn hooks(&self) -> Hooks {
        Hooks { log: true, ..Hooks::default() }
    }

    fn log(&self, exchange: &Finished<'_>) {
        let mut watched = exchange.kept.all::<Watched>();
        let watched = watched.find(|one| Arc::ptr_eq(&one.circuits, &self.circuits));
        if let (Some(watched), Some(status)) = (watched, exchange.upstream_status) {
            self.judge(watched.key, status, watched.begun + exchange.total);
        }
    }
}

impl ApiBreaker {
    fn answer(&self, facts: &Facts<'_>) -> Answer {
        let expand = |template: &Template| {
            let mut text = Vec::new();
            template.expand(facts, None, &mut text);
            text
        };
        let Some(body) = &self.body else {
            return Answer::with_body(self.code, Bytes::new());
        };
        let mut answer = Answer::with_body(self.code, expand(body).into());
        for (name, template) in &self.fields {
            // A value that a client has spoilt is left out.
            if let Ok(value) = HeaderValue::from_bytes(&expand(template)) {
                answer.fields.push((name.clone(), value));
            }
        }
        match answer.body.trim_ascii_start() {
            [b'{' | b'[', ..] => answer,
            _text => answer.as_text(),
        }
    }

    fn judge(&self, key: Key, status: u16, now: Instant) {
        let is_known = || self.circuits.with(key, now, |_| ()).is_some();
        if self.unhealthy.meets(status) {
            let fail = |circuit: &mut Circuit| {
                circuit.fail(self.unhealthy.count, self.max_break, now);
                (now + self.max_break, ())
            };
            // What is not counted is let through.
            let _uncounted = self.circuits.amend(key, now, fail);
        } else if self.healthy.meets(status) && is_known() {
            let succeed = |circuit: &mut Circuit| {
                circuit.succeed(self.healthy.count);
                (now + self.max_break, ())
            };
            let _uncounted = self.circuits.amend(key, now, succeed);
        }
    }
}

impl Circuit {
    fn fail(&mut self, failures: u64, max: Duration, now: Instant) {
        self.failures += 1;
        self.successes = 0;
        if self.failures.is_multiple_of(failures) {
            let times = u32::try_from(self.failures / failures).unwrap_or(u32::MAX);
            let seconds = 2_u64.checked_pow(times).unwrap_or(u64::MAX);
            self.open_until = Some(now + Duration::from_secs(seconds).min(max));
        }
    }

    fn succeed(&mut self, successes: u64) {
        self.successes += 1;
        if self.successes >= successes {
            *self = Circuit::default();
        }
    }
}

#[cfg(test)]
mod tests;
