//! Which route a request takes: what is known of it in, a configured route out.
//!
//! APISIX's precedence, host before path:
//!
//! 1. routes of exactly this host, then of `*.suffix` and `*suffix` from the longest suffix to the
//!    shortest (of the former any depth below the suffix, not the suffix itself; of the latter any
//!    host that ends so), then of `*`, then those that name no host;
//! 2. within those: exact paths, then patterns ([`Pattern`]) by their literal, which is what precedes
//!    the first `:name` or `*`, from the longest to the shortest, whatever their priority;
//! 3. within one path or literal: highest priority first, then the longest pattern, then the order
//!    of the configuration.
//!
//! Methods, addresses of clients, what follows the literal, and `vars` are conditions: a route of
//! which one does not hold is passed over, and the search goes on with the next candidate, down to
//! shorter literals and less specific hosts. The search itself allocates nothing.

mod conditions;
pub mod explain;
pub mod pattern;
pub mod stream;

use std::{cmp::Reverse, collections::HashMap, iter, sync::Arc};

use foldhash::fast::RandomState;

use self::conditions::Conditions;
pub use self::pattern::Pattern;
use crate::{config, http::head::HOST_NAME_SIZE_MAX, variable::Facts};

/// The routes of a configuration, indexed.
#[derive(Debug, Default)]
pub struct Router {
    exact_hosts: HashMap<Box<str>, Paths, RandomState>,
    /// By suffix, the leading dot included if there is one.
    wildcard_hosts: HashMap<Box<str>, Paths, RandomState>,
    /// Of those without one, each length once, the longest first.
    partial_sizes: Vec<usize>,
    /// Of `*`, the shortest wildcard: every host, and none at all.
    every_host: Paths,
    /// Of routes that name no host.
    any_host: Paths,
}

/// The route that was found.
#[derive(Debug, Clone, Copy)]
pub struct Selected<'r> {
    /// In the slice given to [`Router::new`].
    pub index: usize,
    /// By which it was found.
    pub pattern: &'r Pattern,
}

impl Router {
    /// Hosts are lower-case.
    pub fn new(routes: &[config::Route]) -> Router {
        let mut router = Router::default();
        for (index, route) in routes.iter().enumerate() {
            let conditions = Conditions::of(route).map(Arc::new);
            for pattern in &route.uris {
                let candidate = Candidate {
                    index,
                    priority: route.priority,
                    pattern: Arc::clone(pattern),
                    conditions: conditions.clone(),
                };
                if route.hosts.is_empty() {
                    router.any_host.insert(candidate.clone());
                }
                for host in &route.hosts {
                    router.host(host).insert(candidate.clone());
                }
            }
        }
        router.all_paths().for_each(Paths::finish);
        let partial = router.wildcard_hosts.keys().filter(|suffix| !suffix.starts_with('.'));
        router.partial_sizes = partial.map(|suffix| suffix.len()).collect();
        router.partial_sizes.sort_unstable_by_key(|size| Reverse(*size));
        router.partial_sizes.dedup();
        router
    }

    /// The route of a request. Its host is taken in any case, a final dot ignored.
    pub fn select(&self, facts: &Facts<'_>) -> Option<Selected<'_>> {
        let found = self.find(facts, &mut |candidate| candidate.refusal(facts).is_none())?;
        Some(Selected { index: found.index, pattern: &found.pattern })
    }

    /// The first candidate that is taken, in the order of precedence.
    fn find<'r, T>(&'r self, facts: &Facts<'_>, takes: &mut T) -> Option<&'r Candidate>
    where
        T: FnMut(&'r Candidate) -> bool,
    {
        let named = self.find_by_host(facts, takes);
        let every = named.or_else(|| self.every_host.find(facts.path, takes));
        every.or_else(|| self.any_host.find(facts.path, takes))
    }

    fn find_by_host<'r, T>(&'r self, facts: &Facts<'_>, takes: &mut T) -> Option<&'r Candidate>
    where
        T: FnMut(&'r Candidate) -> bool,
    {
        if self.exact_hosts.is_empty() && self.wildcard_hosts.is_empty() {
            return None;
        }
        let mut buffer = [0; HOST_NAME_SIZE_MAX];
        let host = lower_case(facts.head.host_name()?, &mut buffer)?;
        let exact = self.exact_hosts.get(host).and_then(|paths| paths.find(facts.path, takes));
        exact.or_else(|| self.find_wildcard(host, facts.path, takes))
    }

    fn find_wildcard<'r, T>(
        &'r self,
        host: &str,
        path: &str,
        takes: &mut T,
    ) -> Option<&'r Candidate>
    where
        T: FnMut(&'r Candidate) -> bool,
    {
        if self.wildcard_hosts.is_empty() {
            return None;
        }
        let mut suffixes = self.suffixes(host);
        suffixes.find_map(|suffix| self.wildcard_hosts.get(suffix)?.find(path, takes))
    }

    /// What wildcards may name of `host`, the longest first.
    fn suffixes<'h>(&self, host: &'h str) -> impl Iterator<Item = &'h str> {
        // A host that begins with a dot has no label there.
        let dots = host.match_indices('.').map(|(at, _)| at).filter(|at| *at > 0);
        let within = self.partial_sizes.iter().filter_map(|size| host.len().checked_sub(*size));
        let is_other = |at: &usize| host.get(*at..).is_some_and(|end| !end.starts_with('.'));
        let (mut dots, mut within) = (dots.peekable(), within.filter(is_other).peekable());
        iter::from_fn(move || {
            let at = match (dots.peek(), within.peek()) {
                (Some(dot), Some(at)) if at < dot => within.next(),
                (Some(_), _) => dots.next(),
                (None, _) => within.next(),
            };
            at.map(|at| &host[at..])
        })
    }

    fn host(&mut self, pattern: &str) -> &mut Paths {
        if pattern == "*" {
            return &mut self.every_host;
        }
        match pattern.strip_prefix('*') {
            Some(suffix) => self.wildcard_hosts.entry(suffix.into()).or_default(),
            None => self.exact_hosts.entry(pattern.into()).or_default(),
        }
    }

    fn all_paths(&mut self) -> impl Iterator<Item = &mut Paths> {
        let hosts = self.exact_hosts.values_mut().chain(self.wildcard_hosts.values_mut());
        hosts.chain([&mut self.every_host, &mut self.any_host])
    }
}

/// `None` if it cannot be the name of a host.
fn lower_case<'b>(host: &str, buffer: &'b mut [u8; HOST_NAME_SIZE_MAX]) -> Option<&'b str> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let lower = buffer.get_mut(..host.len())?;
    lower.copy_from_slice(host.as_bytes());
    lower.make_ascii_lowercase();
    std::str::from_utf8(lower).ok()
}

/// The paths of one host.
#[derive(Debug, Default)]
struct Paths {
    exact: HashMap<Box<str>, Vec<Candidate>, RandomState>,
    /// Sorted by literal once [`finish`](Self::finish) has run.
    prefixes: Vec<Prefix>,
}

#[derive(Debug)]
struct Prefix {
    literal: Box<str>,
    candidates: Vec<Candidate>,
    /// Index of the longest other prefix of this literal.
    parent: Option<usize>,
}

/// A route under one of its patterns.
#[derive(Debug, Clone)]
struct Candidate {
    index: usize,
    priority: i64,
    pattern: Arc<Pattern>,
    conditions: Option<Arc<Conditions>>,
}

impl Paths {
    fn insert(&mut self, candidate: Candidate) {
        let literal = candidate.pattern.literal().into();
        if candidate.pattern.is_exact() {
            self.exact.entry(literal).or_default().push(candidate);
        } else {
            self.prefixes.push(Prefix { literal, candidates: vec![candidate], parent: None });
        }
    }

    fn finish(&mut self) {
        // Stable, here and below: what is equal keeps the order of the configuration.
        self.prefixes.sort_by(|a, b| a.literal.cmp(&b.literal));
        self.prefixes.dedup_by(|next, kept| {
            let is_same = next.literal == kept.literal;
            if is_same {
                kept.candidates.append(&mut next.candidates);
            }
            is_same
        });
        let buckets = self.prefixes.iter_mut().map(|prefix| &mut prefix.candidates);
        for bucket in self.exact.values_mut().chain(buckets) {
            bucket.sort_by_key(|one| Reverse((one.priority, one.pattern.as_str().len())));
        }
        for at in 1..self.prefixes.len() {
            let parent = self.enclosing(at - 1, &self.prefixes[at].literal);
            self.prefixes[at].parent = parent;
        }
    }

    fn find<'r, T>(&'r self, path: &str, takes: &mut T) -> Option<&'r Candidate>
    where
        T: FnMut(&'r Candidate) -> bool,
    {
        let exact = self.exact.get(path).and_then(|bucket| bucket.iter().find(|one| takes(one)));
        exact.or_else(|| self.find_prefix(path, takes))
    }

    /// From the longest prefix of `path` to the shortest.
    fn find_prefix<'r, T>(&'r self, path: &str, takes: &mut T) -> Option<&'r Candidate>
    where
        T: FnMut(&'r Candidate) -> bool,
    {
        let after = self.prefixes.partition_point(|prefix| *prefix.literal <= *path);
        let mut at = self.enclosing(after.checked_sub(1)?, path);
        while let Some(prefix) = at.and_then(|at| self.prefixes.get(at)) {
            if let Some(found) = prefix.candidates.iter().find(|one| takes(one)) {
                return Some(found);
            }
            at = prefix.parent;
        }
        None
    }

    /// The longest prefix of `path`, where `last` is the greatest literal that does not sort behind
    /// `path`: every literal between a prefix of `path` and `path` itself begins with that prefix,
    /// so the answer is `last` or one of its parents.
    fn enclosing(&self, last: usize, path: &str) -> Option<usize> {
        let mut at = Some(last);
        while let Some(prefix) = at.and_then(|at| self.prefixes.get(at)) {
            if path.starts_with(&*prefix.literal) {
                return at;
            }
            at = prefix.parent;
        }
        None
    }
}

#[cfg(test)]
mod tests;
