//! What else has to hold for a route whose host and literal fit.

use ipnet::IpNet;

use super::Candidate;
use crate::{config, expression::Expression, variable::Facts};

/// Conditions of one route; an empty list or `None` always holds.
#[derive(Debug)]
pub(super) struct Conditions {
    methods: Box<[Box<str>]>,
    remote_addrs: Box<[IpNet]>,
    vars: Option<Expression>,
}

/// One that does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Methods,
    RemoteAddrs,
    /// What follows the literal of the pattern.
    Pattern,
    Vars,
}

impl Conditions {
    /// `None` if the route has none.
    pub(super) fn of(route: &config::Route) -> Option<Conditions> {
        let conditions = Conditions {
            methods: route.methods.iter().map(|method| method.as_str().into()).collect(),
            remote_addrs: route.remote_addrs.as_slice().into(),
            vars: route.vars.clone(),
        };
        let is_empty = conditions.methods.is_empty()
            && conditions.remote_addrs.is_empty()
            && conditions.vars.is_none();
        (!is_empty).then_some(conditions)
    }

    fn takes_method(&self, facts: &Facts<'_>) -> bool {
        let method = facts.head.method();
        self.methods.is_empty() || self.methods.iter().any(|taken| **taken == *method)
    }

    fn takes_client(&self, facts: &Facts<'_>) -> bool {
        let client = facts.ends.client;
        self.remote_addrs.is_empty() || self.remote_addrs.iter().any(|net| net.contains(&client))
    }
}

impl Candidate {
    /// The first condition that does not hold for a path that begins with the pattern's literal.
    /// `vars` come last, as they may ask for the pattern's parameters.
    pub(super) fn refusal(&self, facts: &Facts<'_>) -> Option<Refusal> {
        let conditions = self.conditions.as_deref();
        let is_open = !self.pattern.is_exact() && !self.pattern.is_prefix();
        if conditions.is_some_and(|conditions| !conditions.takes_method(facts)) {
            Some(Refusal::Methods)
        } else if conditions.is_some_and(|conditions| !conditions.takes_client(facts)) {
            Some(Refusal::RemoteAddrs)
        } else if is_open && !self.pattern.matches(facts.path) {
            Some(Refusal::Pattern)
        } else {
            let vars = conditions?.vars.as_ref()?;
            let facts = Facts { pattern: Some(&self.pattern), ..*facts };
            (!vars.holds(&facts)).then_some(Refusal::Vars)
        }
    }
}
