//! `fault-injection`: delays or refuses requests, to see how clients take it.
//!
//! First `delay`, then `abort`. Each meets all requests, or those its `vars` hold for, or
//! `percentage` of them: exactly that share, spread evenly. Body and fields are templates.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};

use super::{Call, Kind, Outcome, Phase, Plugin, Reply, RequestContext};
use crate::{
    config::{
        expression::any_expression,
        plugins::{Scope, Section, Value, field_templates, template},
    },
    expression::Expression,
    http::answer::Answer,
    template::{Groups, Template},
    variable::{Facts, Moment},
};

pub(super) static KIND: Kind =
    Kind { name: "fault-injection", priority: 11000, phase: Phase::Rewrite, read, credential: None };

/// Seconds.
const DELAY_MAX: f64 = 3600.0;

#[derive(Debug)]
struct FaultInjection {
    delay: Option<(Sample, Duration)>,
    abort: Option<(Sample, Abort)>,
}

#[derive(Debug)]
struct Abort {
    status: StatusCode,
    body: Option<Template>,
    fields: Vec<(HeaderName, Template)>,
}

/// Which requests are met.
#[derive(Debug)]
struct Sample {
    vars: Option<Expression>,
    /// Of 2^64; `None`: all.
    share: Option<u64>,
    asked: AtomicU64,
}

fn read(section: &mut Section<'_>, _scope: &Scope<'_>) -> Option<Arc<dyn Plugin>> {
    let delay = section.take("delay").map(|value| delay(&value));
    let abort = section.take("abort").map(|value| abort(&value));
    if delay.is_none() && abort.is_none() {
        section.error("needs `abort` or `delay`");
        return None;
    }
    let delay = delay.map_or(Some(None), |delay| delay.map(Some));
    let abort = abort.map_or(Some(None), |abort| abort.map(Some));
    Some(Arc::new(FaultInjection { delay: delay?, abort: abort? }))
}

fn delay(value: &Value<'_>) -> Option<(Sample, Duration)> {
    let mut section = value.section()?;
    let duration = section.require("duration").and_then(|it| it.within(&(0.0..=DELAY_MAX)));
    let sample = Sample::read(&mut section);
    section.finish_plugin();
    Some((sample?, Duration::from_secs_f64(duration?)))
}

fn abort(value: &Value<'_>) -> Option<(Sample, Abort)> {
    let mut section = value.section()?;
    let status = section.require("http_status").and_then(|it| it.within(&(200..=599_u16)));
    let body = section.take("body").map_or(Some(None), |value| template(&value).map(Some));
    let fields = section
        .take("headers")
        .map_or(Some(Vec::new()), |value| field_templates(&value, Groups::None));
    let sample = Sample::read(&mut section);
    section.finish_plugin();
    let status = StatusCode::from_u16(status?).ok()?;
    Some((sample?, Abort { status, body: body?, fields: fields? }))
}

impl Sample {
    /// `percentage` and `vars`.
    fn read(section: &mut Section<'_>) -> Option<Sample> {
        let percentage = section.take("percentage").map(|it| it.within(&(0..=100_u64)));
        let vars = section.take("vars").map(|value| any_expression(&value, Moment::Consumer));
        let percentage = percentage.unwrap_or(Some(100))?;
        let vars = vars.map_or(Some(None), |vars| vars.map(Some))?;
        let share = (percentage < 100).then(|| (u64::MAX / 100) * percentage);
        Some(Sample { vars, share, asked: AtomicU64::new(0) })
    }

    fn meets(&self, facts: &Facts<'_>) -> bool {
        if !self.vars.as_ref().is_none_or(|vars| vars.holds(facts)) {
            return false;
        }
        let Some(share) = self.share else { return true };
        // Multiples of 2^64 divided by the golden ratio are spread evenly over all 64-bit numbers.
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        self.asked.fetch_add(1, Ordering::Relaxed).wrapping_mul(STEP) < share
    }
}

impl Plugin for FaultInjection {
    fn request(&self, cx: &mut RequestContext<'_>) -> Outcome {
        match &self.delay {
            Some((sample, time)) if sample.meets(&cx.facts()) => {
                Outcome::Call(Call::Delay(*time))
            }
            Some(_) | None => self.abort(cx),
        }
    }

    fn resume(&self, cx: &mut RequestContext<'_>, _delayed: Reply) -> Outcome {
        self.abort(cx)
    }
}

impl FaultInjection {
    fn abort(&self, cx: &RequestContext<'_>) -> Outcome {
        let facts = cx.facts();
        match &self.abort {
            Some((sample, abort)) if sample.meets(&facts) => Outcome::Answer(abort.answer(&facts)),
            Some(_) | None => Outcome::Continue,
        }
    }
}

impl Abort {
    fn answer(&self, facts: &Facts<'_>) -> Answer {
        let expand = |template: &Template| {
            let mut text = Vec::new();
            template.expand(facts, None, &mut text);
            text
        };
        let body = self.body.as_ref().map_or_else(Bytes::new, |body| expand(body).into());
        let mut answer = Answer::with_body(self.status, body);
        for (name, template) in &self.fields {
            // A value that a client has spoilt is left out.
            if let Ok(value) = HeaderValue::from_bytes(&expand(template)) {
                answer.fields.push((name.clone(), value));
            }
        }
        answer.as_text()
    }
}

#[cfg(test)]
mod tests;
