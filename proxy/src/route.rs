//! Which route a request takes: `(host, path, method)` in, the index of a configured route out.
//!
//! APISIX's precedence, host before path:
//!
//! 1. routes of exactly this host, then of `*.suffix` from the longest suffix to the shortest (any
//!    depth below the suffix, not the suffix itself), then of `*`, then those that name no host;
//! 2. within those: exact paths, then prefixes (`/a*`) from the longest to the shortest, whatever
//!    their priority;
//! 3. within one path or prefix: highest priority first, then the order of the configuration.
//!
//! The method is a condition: a route that does not take it is passed over, and the search goes on
//! with the next candidate, down to shorter prefixes and less specific hosts. Selecting allocates
//! nothing.

pub mod pattern;
pub mod stream;

use std::{cmp::Reverse, collections::HashMap};

pub use self::pattern::Pattern;
use crate::{
    config,
    http::{head::HOST_NAME_SIZE_MAX, path::canonical_literal},
};

/// The routes of a configuration, indexed.
#[derive(Debug, Default)]
pub struct Router {
    exact_hosts: HashMap<Box<str>, Paths>,
    /// By suffix, the leading dot included.
    wildcard_hosts: HashMap<Box<str>, Paths>,
    /// Of `*`, the shortest wildcard: every host, and none at all.
    every_host: Paths,
    /// Of routes that name no host.
    any_host: Paths,
}

impl Router {
    /// Hosts are lower-case. A `*` ends a path pattern's literal; what follows it is not looked at,
    /// as the configuration refuses it.
    pub fn new(routes: &[config::Route]) -> Router {
        let mut router = Router::default();
        for (index, route) in routes.iter().enumerate() {
            let candidate = Candidate {
                index,
                priority: route.priority,
                methods: route.methods.iter().map(|method| method.as_str().into()).collect(),
            };
            if route.hosts.is_empty() {
                router.any_host.insert(&route.uris, &candidate);
            }
            for host in &route.hosts {
                router.host(host).insert(&route.uris, &candidate);
            }
        }
        router.all_paths().for_each(Paths::finish);
        router
    }

    /// The route's index in the slice given to [`new`](Self::new). `host` comes without its port,
    /// in any case, a final dot ignored; `path` comes normalised.
    pub fn select(&self, host: Option<&str>, path: &str, method: &str) -> Option<usize> {
        let has_hosts = !self.exact_hosts.is_empty() || !self.wildcard_hosts.is_empty();
        let mut buffer = [0; HOST_NAME_SIZE_MAX];
        if let Some(host) =
            host.filter(|_| has_hosts).and_then(|host| lower_case(host, &mut buffer))
        {
            let exact = self.exact_hosts.get(host).and_then(|paths| paths.select(path, method));
            if let Some(index) = exact.or_else(|| self.select_wildcard(host, path, method)) {
                return Some(index);
            }
        }
        let every = self.every_host.select(path, method);
        every.or_else(|| self.any_host.select(path, method))
    }

    fn select_wildcard(&self, host: &str, path: &str, method: &str) -> Option<usize> {
        if self.wildcard_hosts.is_empty() {
            return None;
        }
        // The first dot begins the longest suffix. A host that begins with one has no label there.
        let mut suffixes =
            host.match_indices('.').filter(|(at, _)| *at > 0).map(|(at, _)| &host[at..]);
        suffixes.find_map(|suffix| self.wildcard_hosts.get(suffix)?.select(path, method))
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
    exact: HashMap<Box<str>, Vec<Candidate>>,
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

#[derive(Debug, Clone)]
struct Candidate {
    index: usize,
    priority: i64,
    methods: Box<[Box<str>]>,
}

impl Paths {
    fn insert(&mut self, uris: &[String], candidate: &Candidate) {
        for uri in uris {
            match uri.split_once('*') {
                Some((literal, _)) => self.prefixes.push(Prefix {
                    literal: canonical_literal(literal).into(),
                    candidates: vec![candidate.clone()],
                    parent: None,
                }),
                None => {
                    let literal = canonical_literal(uri).into();
                    self.exact.entry(literal).or_default().push(candidate.clone());
                }
            }
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
            bucket.sort_by_key(|candidate| Reverse(candidate.priority));
        }
        for at in 1..self.prefixes.len() {
            let parent = self.enclosing(at - 1, &self.prefixes[at].literal);
            self.prefixes[at].parent = parent;
        }
    }

    fn select(&self, path: &str, method: &str) -> Option<usize> {
        let exact = self.exact.get(path).and_then(|bucket| first_taking(bucket, method));
        exact.or_else(|| self.select_prefix(path, method))
    }

    /// From the longest prefix of `path` to the shortest.
    fn select_prefix(&self, path: &str, method: &str) -> Option<usize> {
        let after = self.prefixes.partition_point(|prefix| *prefix.literal <= *path);
        let mut at = self.enclosing(after.checked_sub(1)?, path);
        while let Some(prefix) = at.and_then(|at| self.prefixes.get(at)) {
            if let Some(index) = first_taking(&prefix.candidates, method) {
                return Some(index);
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

fn first_taking(bucket: &[Candidate], method: &str) -> Option<usize> {
    let takes = |candidate: &&Candidate| {
        candidate.methods.is_empty() || candidate.methods.iter().any(|taken| **taken == *method)
    };
    bucket.iter().find(takes).map(|candidate| candidate.index)
}

#[cfg(test)]
mod tests;
