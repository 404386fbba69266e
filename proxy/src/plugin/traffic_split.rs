//! `traffic-split`: which share of the requests goes to which upstream.
//!
//! The first rule that holds counts; one without `match` always does. Its upstreams take turns by
//! weight, each as evenly as can be (smooth weighted round robin), exact across workers. An entry
//! without an upstream stands for the route's own. Where no rule holds, that is where a request goes.
//! An upstream that is written in place is known by the resource that has the plugin, its rule and its
//! place there, as its state has to be found again after a reload.

use std::sync::{Arc, Mutex, PoisonError};

use super::{Kind, Outcome, Phase, Plugin, RequestContext};
use crate::{
    config::{
        expression::expression,
        plugins::{Scope, Section, Value, upstream, upstream_in_place},
    },
    expression::Expression,
    variable::{Facts, Moment},
};

pub(super) static KIND: Kind =
    Kind { name: "traffic-split", priority: 966, phase: Phase::Access, read, credential: None };

const RULES_MAX: usize = 64;
const UPSTREAMS_MAX: usize = 20;
const WEIGHT_MAX: i64 = 1_000_000;

#[derive(Debug)]
struct TrafficSplit {
    rules: Box<[Rule]>,
}

#[derive(Debug)]
struct Rule {
    /// One has to hold; none: always.
    matches: Vec<Expression>,
    entries: Box<[Entry]>,
    /// How far each entry is behind its share.
    debts: Mutex<Box<[i64]>>,
}

#[derive(Debug)]
struct Entry {
    /// `None`: the route's own.
    upstream: Option<Arc<str>>,
    weight: i64,
}

fn read(section: &mut Section<'_>, scope: &Scope<'_>) -> Option<Arc<dyn Plugin>> {
    let rules = section.require("rules")?;
    let items = rules.items()?;
    if items.is_empty() || items.len() > RULES_MAX {
        rules.error(format!("needs 1 to {RULES_MAX} rules"));
    }
    let rules: Vec<_> =
        items.iter().enumerate().map(|(index, item)| rule(item, index, scope)).collect();
    let rules = rules.into_iter().collect::<Option<_>>()?;
    Some(Arc::new(TrafficSplit { rules }))
}

fn rule(value: &Value<'_>, index: usize, scope: &Scope<'_>) -> Option<Rule> {
    let mut section = value.section()?;
    let matches = section.take("match").map_or(Some(Vec::new()), |value| {
        let read: Vec<_> = value.items()?.iter().map(condition).collect();
        read.into_iter().collect()
    });
    let upstreams = section.require("weighted_upstreams");
    section.finish_plugin();
    let upstreams = upstreams?;
    let items = upstreams.items()?;
    if items.is_empty() || items.len() > UPSTREAMS_MAX {
        upstreams.error(format!("needs 1 to {UPSTREAMS_MAX} upstreams"));
    }
    let entries = items.iter().enumerate();
    let entries: Vec<_> = entries.map(|(at, item)| entry(item, (index, at), scope)).collect();
    let entries: Box<[Entry]> = entries.into_iter().collect::<Option<_>>()?;
    let debts = Mutex::new(entries.iter().map(|_| 0).collect());
    Some(Rule { matches: matches?, entries, debts })
}

fn condition(value: &Value<'_>) -> Option<Expression> {
    let mut section = value.section()?;
    let vars = section.require("vars").and_then(|vars| expression(&vars, Moment::Consumer));
    section.finish_plugin();
    vars
}

/// The one `at` this place of this rule.
fn entry(value: &Value<'_>, at: (usize, usize), scope: &Scope<'_>) -> Option<Entry> {
    let mut section = value.section()?;
    let (reference, inline) = (section.take("upstream_id"), section.take("upstream"));
    if reference.is_some() && inline.is_some() {
        section.error("`upstream_id` and `upstream` at once; keep one of them");
    }
    let reference = reference.map(|value| upstream(&value, scope));
    let name = format_args!("{}:{}:{}", KIND.name, at.0, at.1);
    let inline = inline.map(|value| upstream_in_place(&value, scope, name));
    let weight = section.within_or("weight", 0..=WEIGHT_MAX, 1);
    section.finish_plugin();
    let upstream = match reference.or(inline) {
        Some(id) => Some(id?),
        None => None,
    };
    Some(Entry { upstream, weight })
}

impl Plugin for TrafficSplit {
    fn request(&self, cx: &mut RequestContext<'_>) -> Outcome {
        let facts = cx.facts();
        let rule = self.rules.iter().find(|rule| rule.holds(&facts));
        if let Some(id) = rule.and_then(Rule::next) {
            // What the configuration refers to is there.
            let is_there = cx.divert(id);
            debug_assert!(is_there, "{id}");
        }
        Outcome::Continue
    }
}

impl Rule {
    fn holds(&self, facts: &Facts<'_>) -> bool {
        self.matches.is_empty() || self.matches.iter().any(|vars| vars.holds(facts))
    }

    /// Whose turn it is; `None`: the route's own upstream.
    fn next(&self) -> Option<&str> {
        let total: i64 = self.entries.iter().map(|entry| entry.weight).sum();
        if total == 0 {
            return None;
        }
        let mut debts = self.debts.lock().unwrap_or_else(PoisonError::into_inner);
        for (debt, entry) in debts.iter_mut().zip(&self.entries) {
            *debt += entry.weight;
        }
        // The first of those that are behind most.
        let (index, debt) =
            debts.iter_mut().enumerate().min_by_key(|(_, debt)| std::cmp::Reverse(**debt))?;
        *debt -= total;
        self.entries.get(index)?.upstream.as_deref()
    }
}

#[cfg(test)]
mod tests;
