//! `ip-restriction`: only clients of some addresses may ask, or those of all others.
//!
//! Names, defaults and texts are APISIX's. What counts is the address of the client, which is the
//! peer's unless a trusted one speaks for another.

use std::sync::Arc;

use http::StatusCode;
use ipnet::IpNet;

use super::{Kind, Outcome, Phase, Plugin, RequestContext};
use crate::{
    config::plugins::{Scope, Section, Value, either, list, message},
    guard::PrefixSet,
    http::answer::Answer,
};

pub(super) static KIND: Kind =
    Kind { name: "ip-restriction", priority: 3000, phase: Phase::Access, read, credential: None };

const PREFIXES_MAX: usize = 65_536;

#[derive(Debug)]
struct IpRestriction {
    listed: PrefixSet,
    /// Whether those in the list may ask, or all others.
    is_allowed: bool,
    refusal: Answer,
}

fn read(section: &mut Section<'_>, _: &Scope<'_>) -> Option<Arc<dyn Plugin>> {
    let listed = either(section, "whitelist", "blacklist");
    let message = section.take_or("message", "Your IP address is not allowed", message);
    let statuses =
        [("403", StatusCode::FORBIDDEN), ("404", StatusCode::NOT_FOUND)];
    let status = match section.take("response_code") {
        Some(value) => value.one_of(&statuses, &[]),
        None => Some(StatusCode::FORBIDDEN),
    };
    let (is_allowed, value) = listed?;
    Some(Arc::new(IpRestriction {
        listed: list(&value, PREFIXES_MAX, Value::leaf::<IpNet>)?.into_iter().collect(),
        is_allowed,
        refusal: Answer::message(status?, &message?),
    }))
}

impl Plugin for IpRestriction {
    fn request(&self, cx: &mut RequestContext<'_>) -> Outcome {
        if self.listed.contains(cx.request.client.to_canonical()) == self.is_allowed {
            Outcome::Continue
        } else {
            Outcome::Answer(self.refusal.clone())
        }
    }
}

#[cfg(test)]
mod tests;
