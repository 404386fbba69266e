//! `ua-restriction`: only some user agents may ask, or all others.
//!
//! Names, defaults and texts are APISIX's, patterns are those of the `regex` crate, which take
//! linear time and have no look-around. A pattern may match anywhere. Of several `User-Agent` fields
//! each has to be allowed.

use std::sync::Arc;

use http::{StatusCode, header::USER_AGENT};
use regex::bytes::{RegexSet, RegexSetBuilder};

use super::{Kind, Outcome, Phase, Plugin, RequestContext};
use crate::{
    config::plugins::{Scope, Section, Value, either, list, message},
    http::answer::Answer,
};

pub(super) static KIND: Kind =
    Kind { name: "ua-restriction", priority: 2999, phase: Phase::Access, read, credential: None };

const PATTERNS_MAX: usize = 1024;
/// Bytes that all patterns together may take when compiled.
const COMPILED_SIZE_MAX: usize = 10 << 20;

#[derive(Debug)]
struct UaRestriction {
    listed: RegexSet,
    /// Whether those that match may ask, or all others.
    is_allowed: bool,
    /// Whether those may ask that do not say what they are.
    bypass_missing: bool,
    refusal: Answer,
}

fn read(section: &mut Section<'_>, _: &Scope<'_>) -> Option<Arc<dyn Plugin>> {
    let listed = either(section, "allowlist", "denylist");
    let bypass_missing = section.leaf_or("bypass_missing", false);
    let message = section.take_or("message", "Not allowed", message);
    let (is_allowed, value) = listed?;
    Some(Arc::new(UaRestriction {
        listed: patterns(&value)?,
        is_allowed,
        bypass_missing,
        refusal: Answer::message(StatusCode::FORBIDDEN, &message?),
    }))
}

fn patterns(value: &Value<'_>) -> Option<RegexSet> {
    let patterns = list(value, PATTERNS_MAX, regex)?;
    let set = compile(&patterns);
    if set.is_err() {
        value.error("the patterns together are too large");
    }
    set.ok()
}

/// A pattern that compiles.
fn regex(value: &Value<'_>) -> Option<String> {
    let pattern = value.text("needs a pattern", |pattern| !pattern.is_empty())?;
    match compile(&[&pattern]) {
        Ok(_) => Some(pattern),
        Err(regex::Error::CompiledTooBig(_)) => {
            value.error("the pattern is too large");
            None
        }
        Err(error) => {
            // The last line says what is wrong, those above show where.
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default();
            value.error(format!("the pattern is invalid: {}", reason.trim_start_matches("error: ")));
            None
        }
    }
}

/// `\d`, `\w` and case are ASCII's, as in APISIX.
fn compile(patterns: &[impl AsRef<str>]) -> Result<RegexSet, regex::Error> {
    RegexSetBuilder::new(patterns).unicode(false).size_limit(COMPILED_SIZE_MAX).build()
}

impl Plugin for UaRestriction {
    fn request(&self, cx: &mut RequestContext<'_>) -> Outcome {
        let mut agents = cx.request.head.values(USER_AGENT.as_str()).peekable();
        let may_ask = match agents.peek() {
            Some(_) => agents.all(|agent| self.listed.is_match(agent) == self.is_allowed),
            None => self.bypass_missing,
        };
        if may_ask { Outcome::Continue } else { Outcome::Answer(self.refusal.clone()) }
    }
}

#[cfg(test)]
mod tests;
