//! `consumer-restriction`: only some consumers, groups, routes or services may be asked, or all
//! others, and by some methods only.
//!
//! Names, defaults and texts are APISIX's, and so is the order: who is in the blacklist is refused;
//! if there is a whitelist, who is in it passes and everybody else is refused; who is in neither
//! list may ask by the methods of its entry in `allowed_by_methods`, by all if it has none.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use http::StatusCode;

use super::{Kind, Outcome, Phase, Plugin, RequestContext};
use crate::{
    config::plugins::{Scope, Section, Value, list, message, nothing_else},
    http::answer::Answer,
};

pub(super) static KIND: Kind = Kind {
    name: "consumer-restriction",
    priority: 2400,
    phase: Phase::Access,
    read,
    credential: None,
};

const NAMES_MAX: usize = 65_536;
const METHODS_MAX: usize = 32;
const METHODS: [&str; 10] =
    ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "CONNECT", "TRACE", "PURGE"];

/// What is restricted.
#[derive(Debug, Clone, Copy)]
enum Subject {
    ConsumerName,
    ConsumerGroupId,
    ServiceId,
    RouteId,
}

#[derive(Debug)]
struct ConsumerRestriction {
    subject: Subject,
    blacklist: HashSet<String>,
    /// `None`: everybody who is not in the blacklist.
    whitelist: Option<HashSet<String>>,
    methods: HashMap<String, HashSet<String>>,
    /// To requests that have no such name.
    missing: Answer,
    refusal: Answer,
}

fn read(section: &mut Section<'_>, _: &Scope<'_>) -> Option<Arc<dyn Plugin>> {
    let subject = subject(section);
    let blacklist = section.take("blacklist").map(|value| names(&value));
    let whitelist = section.take("whitelist").map(|value| names(&value));
    let methods = section.take("allowed_by_methods").map(|value| allowed_by_methods(&value));
    let code = section.within_or("rejected_code", 200..=599, 403_u16);
    let told = section.take("rejected_msg").map(|value| message(&value));
    if blacklist.is_none() && whitelist.is_none() && methods.is_none() {
        section.error("needs `blacklist`, `whitelist` or `allowed_by_methods`");
        return None;
    }
    let (subject, name) = subject?;
    let told = told.unwrap_or_else(|| Some(format!("The {name} is forbidden.")))?;
    let missing = format!("The request is rejected, please check the {name} for this request");
    Some(Arc::new(ConsumerRestriction {
        subject,
        blacklist: blacklist.unwrap_or_else(|| Some(HashSet::new()))?,
        whitelist: match whitelist {
            Some(names) => Some(names?),
            None => None,
        },
        methods: methods.unwrap_or_else(|| Some(HashMap::new()))?,
        missing: Answer::message(StatusCode::UNAUTHORIZED, &missing),
        refusal: Answer::message(StatusCode::from_u16(code).ok()?, &told),
    }))
}

/// `type`, and how it is spelt.
fn subject(section: &mut Section<'_>) -> Option<(Subject, &'static str)> {
    const SUBJECTS: [(&str, (Subject, &str)); 4] = [
        ("consumer_name", (Subject::ConsumerName, "consumer_name")),
        ("consumer_group_id", (Subject::ConsumerGroupId, "consumer_group_id")),
        ("service_id", (Subject::ServiceId, "service_id")),
        ("route_id", (Subject::RouteId, "route_id")),
    ];
    match section.take("type") {
        Some(value) => value.one_of(&SUBJECTS, &[]),
        None => Some(SUBJECTS[0].1),
    }
}

fn names(value: &Value<'_>) -> Option<HashSet<String>> {
    Some(list(value, NAMES_MAX, name)?.into_iter().collect())
}

fn name(value: &Value<'_>) -> Option<String> {
    value.text("needs a name", |name| !name.is_empty())
}

/// Whom each entry is about, and by which methods it may ask.
fn allowed_by_methods(value: &Value<'_>) -> Option<HashMap<String, HashSet<String>>> {
    let mut methods: HashMap<String, HashSet<String>> = HashMap::new();
    for (user, allowed) in list(value, NAMES_MAX, entry)? {
        if methods.insert(user, allowed).is_some() {
            value.error("names a user twice");
            return None;
        }
    }
    Some(methods)
}

fn entry(value: &Value<'_>) -> Option<(String, HashSet<String>)> {
    let mut section = value.section()?;
    let (user, methods) = (section.require("user"), section.require("methods"));
    nothing_else(section);
    let methods = list(&methods?, METHODS_MAX, |value| {
        value.one_of(&METHODS.map(|method| (method, method)), &[])
    });
    Some((name(&user?)?, methods?.into_iter().map(str::to_owned).collect()))
}

impl Plugin for ConsumerRestriction {
    fn request(&self, cx: &mut RequestContext<'_>) -> Outcome {
        let Some(name) = self.subject.name(cx) else {
            return Outcome::Answer(self.missing.clone());
        };
        if self.may_ask(name, cx.request.head.method()) {
            Outcome::Continue
        } else {
            Outcome::Answer(self.refusal.clone())
        }
    }
}

impl ConsumerRestriction {
    fn may_ask(&self, name: &str, method: &str) -> bool {
        if self.blacklist.contains(name) {
            return false;
        }
        match &self.whitelist {
            Some(whitelist) => whitelist.contains(name),
            None => self.methods.get(name).is_none_or(|methods| methods.contains(method)),
        }
    }
}

impl Subject {
    fn name<'a>(self, cx: &RequestContext<'a>) -> Option<&'a str> {
        let (consumer, route) = (cx.request.consumer, cx.request.route);
        match self {
            Subject::ConsumerName => Some(&*consumer?.username),
            Subject::ConsumerGroupId => consumer?.group.as_deref(),
            Subject::ServiceId => route?.service_id.as_deref(),
            Subject::RouteId => route.map(|route| &*route.id),
        }
    }
}

#[cfg(test)]
mod tests;
