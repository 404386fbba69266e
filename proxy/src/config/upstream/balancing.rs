//! `type`, `hash_on` and `key` of an upstream, and what each type asks of its nodes.

use std::collections::{BTreeMap, HashSet};

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
    variable::{Moment, Variable},
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
    let is_hashing = balancing.is_hashing();
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
        Ok(template) => match template.check_known(Moment::Consumer) {
            Ok(()) => Some(HashKey::Combination(template)),
            Err(error) => {
                value.error(error.to_string());
                None
            }
        },
        Err(error) => {
            value.error(error.to_string());
            None
        }
    }
}

/// Refuses weights, each with its priority, for which the type would lay out too much.
pub(super) fn check_size(value: &Value<'_>, weights: &[(i32, u32)], balancing: Balancing) {
    let mut levels: BTreeMap<i32, Vec<u32>> = BTreeMap::new();
    for (priority, weight) in weights {
        levels.entry(*priority).or_default().push(*weight);
    }
    for weights in levels.values() {
        let Layout { size, max } = Layout::of(weights, balancing);
        if size <= max {
            continue;
        }
        let what = match balancing {
            Balancing::Maglev => {
                value.error(format!("{size} nodes of one priority; `maglev` has room for {max}"));
                continue;
            }
            Balancing::RoundRobin => format!("cycle of {size} slots"),
            Balancing::Chash => format!("ring of {size} points"),
            Balancing::LeastConn | Balancing::Ewma => continue,
        };
        value.error(format!(
            "the weights make a {what}, at most {max}; use smaller weights or weights with a \
             common divisor"
        ));
    }
}

/// What a type lays out for the nodes of one priority, and how much of it there may be.
struct Layout {
    size: u64,
    max: u64,
}

impl Layout {
    fn of(weights: &[u32], balancing: Balancing) -> Layout {
        let divisor = weights.iter().copied().fold(0, gcd);
        let sum: u64 = weights.iter().copied().map(u64::from).sum();
        let count = weights.len() as u64;
        // All weights 0: each node counts once.
        let units = sum.checked_div(divisor.into()).unwrap_or(count);
        let (size, max) = match balancing {
            Balancing::RoundRobin => (units, bounds::CYCLE_SLOTS_MAX),
            Balancing::Chash => {
                (units * u64::from(RING_POINTS_PER_WEIGHT), bounds::RING_POINTS_MAX)
            }
            Balancing::Maglev => (count, MAGLEV_NODES_MAX),
            Balancing::LeastConn | Balancing::Ewma => (0, 0),
        };
        Layout { size, max }
    }
}

/// Makes nodes that nobody has checked fit their type: the weights of a priority are halved until it
/// has room for them (none becomes 0), and nodes that it has no room for at all are left out. Says how
/// many those are.
pub(super) fn fit(nodes: &mut Vec<Node>, balancing: Balancing) -> usize {
    let mut levels: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
    for (index, node) in nodes.iter().enumerate() {
        levels.entry(node.priority).or_default().push(index);
    }
    let mut left_out = HashSet::new();
    for indices in levels.values_mut() {
        if balancing == Balancing::Maglev {
            let room = usize::try_from(MAGLEV_NODES_MAX).unwrap_or(usize::MAX);
            left_out.extend(indices.drain(room.min(indices.len())..));
        }
        let weights = |nodes: &[Node]| -> Vec<u32> {
            indices.iter().map(|index| nodes[*index].weight).collect()
        };
        let is_too_large = |nodes: &[Node]| {
            let Layout { size, max } = Layout::of(&weights(nodes), balancing);
            size > max
        };
        while is_too_large(nodes) && weights(nodes).iter().any(|weight| *weight > 1) {
            for index in indices.iter() {
                let weight = nodes[*index].weight;
                nodes[*index].weight = weight.div_ceil(2);
            }
        }
    }
    let mut index = 0..;
    nodes.retain(|_| index.next().is_none_or(|index| !left_out.contains(&index)));
    left_out.len()
}
