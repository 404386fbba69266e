//! What the plugins that limit have in common: what they count by, what they say, and how they
//! answer when they cannot count.

mod policy;

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use http::StatusCode;

pub(super) use self::policy::{KEY_TTL, Policy, Shared, group_owner};
use super::Outcome;
use crate::{
    config::plugins::{Section, Value, template},
    http::answer::Answer,
    template::Template,
    variable::{Facts, Moment, Variable},
};

/// What requests are counted by. Where it is empty, the client's address takes its place.
#[derive(Debug)]
pub(super) enum CountedBy {
    Variable(Variable),
    Combination(Template),
    Constant(Box<[u8]>),
}

impl CountedBy {
    /// `key` and `key_type`.
    pub(super) fn read(section: &mut Section<'_>, default: Option<&str>) -> Option<CountedBy> {
        let kinds = ["var", "var_combination", "constant"].map(|word| (word, word));
        let kind = section.take("key_type").map(|value| value.one_of(&kinds, &[]));
        let key = match default {
            Some(_) => section.take("key"),
            None => Some(section.require("key")?),
        };
        let Some(key) = key else {
            let default = default.unwrap_or_default();
            return Variable::parse(default).map(CountedBy::Variable).ok();
        };
        match kind.unwrap_or(Some("var"))? {
            "var" => variable(&key).map(CountedBy::Variable),
            "var_combination" => template(&key).map(CountedBy::Combination),
            _constant => {
                let text = key.leaf::<String>()?;
                Some(CountedBy::Constant(text.into_bytes().into()))
            }
        }
    }

    pub(super) fn value<'f>(&'f self, facts: &Facts<'f>) -> Cow<'f, [u8]> {
        let value = match self {
            CountedBy::Variable(variable) => facts.value(variable).unwrap_or_default(),
            CountedBy::Combination(template) if template.has_value(facts) => {
                let mut value = Vec::new();
                template.expand(facts, None, &mut value);
                Cow::Owned(value)
            }
            CountedBy::Combination(_) => Cow::default(),
            CountedBy::Constant(text) => Cow::Borrowed(&**text),
        };
        if value.is_empty() {
            return facts.value(&Variable::RemoteAddr).unwrap_or_default();
        }
        value
    }
}

/// What a rule counts by: where one is all there is, every request; else those that have a value.
#[derive(Debug)]
pub(super) enum RuleKey {
    Always(CountedBy),
    IfAny(Template),
}

impl RuleKey {
    /// Empty: the rule does not apply.
    pub(super) fn value<'f>(&'f self, facts: &Facts<'f>) -> Cow<'f, [u8]> {
        match self {
            RuleKey::Always(key) => key.value(facts),
            RuleKey::IfAny(template) => {
                let mut value = Vec::new();
                template.expand(facts, None, &mut value);
                value.into()
            }
        }
    }
}

/// Rules that may stand in one list.
const RULES_MAX: usize = 32;

/// What `read` makes of each item of `rules` with its index and its key; no two keys are the same.
pub(super) fn rules<T>(
    rules: &Value<'_>,
    read: impl Fn(&mut Section<'_>, usize, RuleKey) -> Option<T>,
) -> Option<Box<[T]>> {
    let items = rules.items()?;
    if items.is_empty() || items.len() > RULES_MAX {
        rules.error(format!("needs 1 to {RULES_MAX} rules"));
        return None;
    }
    let mut keys: Vec<String> = Vec::new();
    let mut made = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let mut section = item.section()?;
        let key = section.require("key");
        if let Some(text) = key.as_ref().and_then(Value::quiet_leaf::<String>) {
            if keys.contains(&text) {
                item.error(format!("duplicate key '{text}' in rules"));
            }
            keys.push(text);
        }
        let key = key.and_then(|key| template(&key)).map(RuleKey::IfAny);
        let rule = key.and_then(|key| read(&mut section, index, key));
        section.finish_plugin();
        made.push(rule);
    }
    made.into_iter().collect()
}

fn variable(value: &Value<'_>) -> Option<Variable> {
    let name = value.leaf::<String>()?;
    let variable =
        Variable::parse(&name).map_err(|unknown| value.error(unknown.to_string())).ok()?;
    let known = variable.check_known(Moment::Consumer);
    known.map(|()| variable).map_err(|error| value.error(error.to_string())).ok()
}

/// How a request is refused, and what becomes of one that cannot be counted.
#[derive(Debug)]
pub(super) struct Rejection {
    name: &'static str,
    status: StatusCode,
    body: Bytes,
    allow_degradation: bool,
    /// How many could not be counted.
    uncounted: AtomicU64,
}

impl Rejection {
    /// `rejected_code`, `rejected_msg` and `allow_degradation`.
    pub(super) fn read(section: &mut Section<'_>, name: &'static str) -> Option<Rejection> {
        let code = section.within_or("rejected_code", 200..=599_u16, 503);
        let message = section.take("rejected_msg");
        let message = message.and_then(|value| value.text("is empty", |text| !text.is_empty()));
        let body = message.map_or_else(Bytes::new, |message| {
            format!("{}\n", serde_json::json!({ "error_msg": message })).into()
        });
        Some(Rejection {
            name,
            status: StatusCode::from_u16(code).ok()?,
            body,
            allow_degradation: section.leaf_or("allow_degradation", false),
            uncounted: AtomicU64::new(0),
        })
    }

    pub(super) fn answer(&self) -> Answer {
        Answer::with_body(self.status, self.body.clone())
    }

    /// There is no place to count this request in: it is refused, unless `allow_degradation`.
    pub(super) fn uncounted(&self) -> Outcome {
        let count = self.uncounted.fetch_add(1, Ordering::Relaxed) + 1;
        // Not one line for each: whoever fills the table would fill the log as well.
        if count.is_power_of_two() {
            let Self { name, allow_degradation, .. } = self;
            tracing::warn!(
                plugin = name,
                requests = count,
                allow_degradation,
                "table of keys full"
            );
        }
        match self.allow_degradation {
            true => Outcome::Continue,
            false => Outcome::Answer(self.answer()),
        }
    }

    /// What has been configured as a text with variables is no number for this request, or whoever
    /// counts does not answer.
    pub(super) fn unclear(&self, message: &'static str) -> Outcome {
        if self.allow_degradation {
            return Outcome::Continue;
        }
        let body = format!("{}\n", serde_json::json!({ "error_msg": message }));
        Outcome::Answer(Answer::with_body(StatusCode::INTERNAL_SERVER_ERROR, body.into()))
    }
}

/// A number, or a text with variables that comes to one.
#[derive(Debug)]
pub(super) enum Amount {
    Fixed(u64),
    Template(Arc<Template>),
}

impl Amount {
    pub(super) fn read(value: &Value<'_>, min: u64, max: u64) -> Option<Amount> {
        match value.quiet_leaf::<String>() {
            Some(text) if text.contains('$') => {
                template(value).map(|template| Amount::Template(Arc::new(template)))
            }
            _ => value.within(&(min..=max)).map(Amount::Fixed),
        }
    }

    /// `None`: the text comes to no number from `min` to `max`.
    pub(super) fn value(&self, facts: &Facts<'_>, min: u64, max: u64) -> Option<u64> {
        match self {
            Amount::Fixed(amount) => Some(*amount),
            Amount::Template(template) => {
                let mut text = Vec::new();
                template.expand(facts, None, &mut text);
                let amount = str::from_utf8(&text).ok()?.parse().ok()?;
                (min..=max).contains(&amount).then_some(amount)
            }
        }
    }
}
