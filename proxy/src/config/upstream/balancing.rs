//! `type`, `hash_on` and `key` of an upstream, and what each type asks of its nodes.

use std::collections::BTreeMap;

use super::super::{
    Balancing, Node, bounds,
    reader::{Section, Value},
    tree::shown,
};
use crate::{
    template::{Groups, Template},
    upstream::{
        balance::{MAGLEV_NODES_MAX, RING_POINTS_PER_WEIGHT, gcd},
        hash_key::HashKey,
    },
    variable::Variable,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HashOn {
    Vars,
    Header,
    Cookie,
    Consumer,
    Combination,
}

/// What names of fields and cookies look like in the Admin API.
const NAME_PATTERN: &str = "^[a-zA-Z0-9-_]+$";
/// What `hash_on: vars` may name, beside `arg_*`.
const VARIABLES: [&str; 7] =
    ["uri", "server_addr", "request_uri", "remote_port", "remote_addr", "query_string", "host"];

/// The type, and what it hashes, if it does.
pub(super) fn balancing(section: &mut Section<'_>) -> (Balancing, Option<HashKey>) {
    let words = [
        ("roundrobin", Balancing::RoundRobin),
        ("chash", Balancing::Chash),
        ("least_conn", Balancing::LeastConn),
        ("ewma", Balancing::Ewma),
        ("maglev", Balancing::Maglev),
    ];
    let value = section.take("type");
    let balancing = value.as_ref().and_then(|value| value.one_of(&words, &[]));
    let balancing = balancing.unwrap_or(Balancing::RoundRobin);
    let place = section.place().clone();
    let (on, key) = (section.take("hash_on"), section.take("key"));
    let is_hashing = matches!(balancing, Balancing::Chash | Balancing::Maglev);
    if let Some(unused) = on.as_ref().or(key.as_ref()).filter(|_| !is_hashing) {
        unused.place.warning("only `chash` and `maglev` look at it");
    }
    let on = on.map_or(Some(HashOn::Vars), |value| hash_on(&value));
    let hash_key = match (on, &key) {
        (Some(HashOn::Consumer), _) => Some(HashKey::Variable(Variable::ConsumerName)),
        (Some(on), Some(key)) => hash_key(on, key),
        (Some(_), None) if is_hashing => {
            place.error("missing key; `key` says what to hash");
            None
        }
        (Some(_), None) | (None, _) => None,
    };
    (balancing, hash_key.filter(|_| is_hashing))
}

fn hash_on(value: &Value<'_>) -> Option<HashOn> {
    let words = [
        ("vars", HashOn::Vars),
        ("header", HashOn::Header),
        ("cookie", HashOn::Cookie),
        ("consumer", HashOn::Consumer),
        ("vars_combinations", HashOn::Combination),
    ];
    value.one_of(&words, &[])
}

fn hash_key(on: HashOn, value: &Value<'_>) -> Option<HashKey> {
    let text: String = value.leaf()?;
    let is_name = |text: &str| {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        !text.is_empty() && text.chars().all(is_allowed)
    };
    let mismatch = |pattern: &str| {
        let text = shown(&text);
        value.error(format!("failed to match pattern \"{pattern}\" with \"{text}\""));
    };
    let variable = match on {
        HashOn::Combination => return combination(value, &text),
        HashOn::Consumer => return Some(HashKey::Variable(Variable::ConsumerName)),
        HashOn::Header | HashOn::Cookie if !is_name(&text) => {
            mismatch(NAME_PATTERN);
            return None;
        }
        HashOn::Header => Some(Variable::Field(text.as_str().into())),
        HashOn::Cookie => Some(Variable::Cookie(text.as_str().into())),
        HashOn::Vars => {
            let is_listed = VARIABLES.contains(&&*text) || text.starts_with("arg_");
            let parsed = || Variable::parse(&text).ok();
            parsed().filter(|_| is_listed && is_name(&text))
        }
    };
    if variable.is_none() {
        mismatch(&format!("^(({})|arg_[0-9a-zA-Z_-]+)$", VARIABLES.join("|")));
    }
    variable.map(HashKey::Variable)
}

fn combination(value: &Value<'_>, text: &str) -> Option<HashKey> {
    match Template::parse(text, Groups::None) {
        Ok(template) if template.as_literal().is_some() => {
            value.error("names no variable; write `$uri`");
            None
        }
        Ok(template) => Some(HashKey::Combination(template)),
        Err(error) => {
            value.error(error.to_string());
            None
        }
    }
}

/// Refuses weights for which the type would lay out too much.
pub(super) fn check_size(value: &Value<'_>, nodes: &[Node], balancing: Balancing) {
    let mut levels: BTreeMap<i32, Vec<u32>> = BTreeMap::new();
    for node in nodes {
        levels.entry(node.priority).or_default().push(node.weight);
    }
    for weights in levels.values() {
        let divisor = weights.iter().copied().fold(0, gcd);
        let sum: u64 = weights.iter().copied().map(u64::from).sum();
        // All weights 0: each node counts once.
        let units = sum.checked_div(divisor.into()).unwrap_or(weights.len() as u64);
        let (what, size, max) = match balancing {
            Balancing::RoundRobin => ("cycle of {} slots", units, bounds::CYCLE_SLOTS_MAX),
            Balancing::Chash => {
                let points = units * u64::from(RING_POINTS_PER_WEIGHT);
                ("ring of {} points", points, bounds::RING_POINTS_MAX)
            }
            Balancing::Maglev => {
                let nodes = weights.len() as u64;
                if nodes > MAGLEV_NODES_MAX {
                    value.error(format!(
                        "{nodes} nodes of one priority; `maglev` has room for {MAGLEV_NODES_MAX}"
                    ));
                }
                continue;
            }
            Balancing::LeastConn | Balancing::Ewma => continue,
        };
        if size > max {
            let what = what.replace("{}", &size.to_string());
            value.error(format!(
                "the weights make a {what}, at most {max}; use smaller weights or weights with a \
                 common divisor"
            ));
        }
    }
}
