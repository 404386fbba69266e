//! Which node of an upstream is next: pure, and shared by all workers.
//!
//! Nodes are tried by priority: those of a lower one only when all of the higher ones have been tried
//! or are down. Within a priority the upstream's `type` decides. Nodes of weight 0 get nothing; when
//! none that is left is up, all that are left are used.

mod chash;
mod ewma;
mod least_conn;
mod load;
mod maglev;
mod round_robin;

use std::{cell::OnceCell, cmp::Reverse, collections::HashMap, fmt, sync::Arc, time::Instant};

use md5::{Digest as _, Md5};

pub(crate) use self::{
    chash::POINTS_PER_WEIGHT as RING_POINTS_PER_WEIGHT, maglev::NODES_MAX as MAGLEV_NODES_MAX,
};
use self::{
    chash::Ring, ewma::Ewma, least_conn::LeastConn, load::Load, maglev::Maglev,
    round_robin::RoundRobin,
};
use crate::config::{Balancing, Node};

/// Position among the nodes of a [`Balancer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeIndex(u32);

impl NodeIndex {
    pub(super) fn at(position: usize) -> Self {
        Self(position as u32)
    }

    /// The position, for whoever else has something to say of each node.
    pub fn position(self) -> usize {
        self.0 as usize
    }
}

#[derive(Debug)]
pub struct Balancer {
    balancing: Balancing,
    nodes: Box<[Node]>,
    /// Highest priority first.
    levels: Box<[Level]>,
}

/// The nodes of one priority.
#[derive(Debug)]
struct Level {
    members: Box<[Member]>,
    algorithm: Algorithm,
}

#[derive(Debug)]
enum Algorithm {
    RoundRobin(RoundRobin),
    Chash(Ring),
    LeastConn(LeastConn),
    Ewma(Ewma),
    Maglev(Maglev),
}

/// A node that takes part in balancing.
#[derive(Debug, Clone)]
struct Member {
    index: NodeIndex,
    node: Node,
    /// Of the smallest whole numbers in the configured ratio.
    weight: u32,
    load: Arc<Load>,
}

/// What a node is picked by.
pub struct Pick<'a> {
    pub tried: &'a Tried,
    /// What `chash` and `maglev` hash; the others do not look at it.
    pub key: &'a [u8],
    /// Asked by `ewma` alone.
    pub clock: &'a dyn Fn() -> Instant,
    /// For `ewma`.
    pub random: u64,
    pub is_up: &'a dyn Fn(NodeIndex) -> bool,
    /// Whether a node that is up gets this one, if others of its priority could; `None`: all do.
    pub is_warm: Option<&'a dyn Fn(NodeIndex) -> bool>,
}

/// Whether a node may be picked.
type IsOpen<'a> = &'a dyn Fn(NodeIndex) -> bool;

/// The nodes one request has already tried, each of them a bit.
#[derive(Debug, Default, Clone)]
pub struct Tried {
    words: Vec<u64>,
    count: usize,
}

impl Tried {
    /// Each node once.
    pub fn insert(&mut self, node: NodeIndex) {
        let (word, bit) = Tried::place(node);
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= bit;
        self.count += 1;
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn contains(&self, node: NodeIndex) -> bool {
        let (word, bit) = Tried::place(node);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    fn place(node: NodeIndex) -> (usize, u64) {
        let bits = u64::BITS as usize;
        (node.position() / bits, 1 << (node.position() % bits))
    }
}

/// A node that was picked; it counts as busy with the request until this is dropped.
#[must_use = "the node counts as busy until this is dropped"]
#[derive(Debug)]
pub struct Picked {
    index: NodeIndex,
    /// `None`: nobody asks how busy it is.
    load: Option<Arc<Load>>,
    /// `None`: nobody asks how long it takes.
    begun: Option<Instant>,
}

impl Picked {
    fn uncounted(index: NodeIndex) -> Self {
        Self { index, load: None, begun: None }
    }

    pub fn index(&self) -> NodeIndex {
        self.index
    }

    /// The node has begun to answer.
    pub fn answered(&self, clock: impl FnOnce() -> Instant) {
        if let (Some(load), Some(begun)) = (&self.load, self.begun) {
            let now = clock();
            load.observe(now.saturating_duration_since(begun), now);
        }
    }

    /// The node did not answer.
    pub fn failed(&self, clock: impl FnOnce() -> Instant) {
        if let (Some(load), Some(_)) = (&self.load, self.begun) {
            load.observe(ewma::FAILED_LATENCY, clock());
        }
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        if let Some(load) = &self.load {
            load.end();
        }
    }
}

impl Balancer {
    /// What is known of nodes that `before` had too is kept, unless they are balanced otherwise now.
    pub fn new(nodes: &[Node], balancing: Balancing, before: Option<&Balancer>) -> Self {
        let before = before.filter(|before| before.balancing == balancing);
        let mut known: HashMap<_, _> = before
            .into_iter()
            .flat_map(Balancer::members)
            .map(|member| (member.node.identity(), Arc::clone(&member.load)))
            .collect();
        let mut load = |node: &Node| {
            known.remove(&node.identity()).unwrap_or_else(|| Arc::new(Load::new(balancing)))
        };
        let mut members: Vec<_> = (0..)
            .zip(nodes)
            .filter(|(_, node)| node.weight > 0)
            .map(|(index, node)| Member {
                index: NodeIndex(index),
                node: node.clone(),
                weight: node.weight,
                load: load(node),
            })
            .collect();
        members.sort_by_key(|member| Reverse(member.node.priority));
        let levels = members
            .chunk_by(|one, next| one.node.priority == next.node.priority)
            .map(|members| Level::new(members, balancing, before))
            .collect();
        Self { balancing, nodes: nodes.into(), levels }
    }

    pub fn node(&self, index: NodeIndex) -> &Node {
        &self.nodes[index.position()]
    }

    /// The next node for a request that has tried `cx.tried`, one that is up if there is one.
    /// `None`: there is no node left.
    pub fn pick(&self, cx: &Pick<'_>) -> Option<Picked> {
        let is_left = |node| !cx.tried.contains(node);
        let is_left_and_up = |node| is_left(node) && (cx.is_up)(node);
        // Asked only if one is down.
        let is_none_up = OnceCell::new();
        let is_none_up = || {
            let ask = || !self.members().any(|member| is_left_and_up(member.index));
            *is_none_up.get_or_init(ask)
        };
        let is_open = |node| is_left_and_up(node) || (is_left(node) && is_none_up());
        // The only one that was up may have gone down meanwhile.
        self.pick_open(cx, &is_open).or_else(|| self.pick_open(cx, &is_left))
    }

    /// This node, whatever it has; also one of weight 0, which is given nobody new.
    pub fn claim(&self, index: NodeIndex, clock: impl FnOnce() -> Instant) -> Picked {
        let known = self.members().find(|member| member.index == index);
        let Some(Member { load, .. }) = known else { return Picked::uncounted(index) };
        let begun = match self.balancing {
            Balancing::Ewma => Some(clock()),
            Balancing::LeastConn => None,
            Balancing::RoundRobin | Balancing::Chash | Balancing::Maglev => {
                return Picked::uncounted(index);
            }
        };
        load.begin();
        Picked { index, load: Some(Arc::clone(load)), begun }
    }

    fn pick_open(&self, cx: &Pick<'_>, is_open: IsOpen<'_>) -> Option<Picked> {
        self.levels.iter().find_map(|level| level.pick(cx, is_open))
    }

    /// That of one priority.
    fn cycle(&self, priority: i32) -> Option<&RoundRobin> {
        let is_it = |level: &&Level| level.members[0].node.priority == priority;
        match &self.levels.iter().find(is_it)?.algorithm {
            Algorithm::RoundRobin(cycle) => Some(cycle),
            Algorithm::Chash(_)
            | Algorithm::Maglev(_)
            | Algorithm::LeastConn(_)
            | Algorithm::Ewma(_) => None,
        }
    }

    fn members(&self) -> impl Iterator<Item = &Member> {
        self.levels.iter().flat_map(|level| &level.members)
    }
}

impl Level {
    fn new(members: &[Member], balancing: Balancing, before: Option<&Balancer>) -> Self {
        let mut members = members.to_vec();
        let divisor = members.iter().fold(0, |divisor, member| gcd(divisor, member.weight));
        members.iter_mut().for_each(|member| member.weight /= divisor);
        let algorithm = match balancing {
            Balancing::RoundRobin => {
                let cycle = before.and_then(|before| before.cycle(members[0].node.priority));
                Algorithm::RoundRobin(RoundRobin::new(&members, cycle))
            }
            Balancing::Chash => Algorithm::Chash(Ring::new(&members)),
            Balancing::LeastConn => Algorithm::LeastConn(LeastConn::new(&members)),
            Balancing::Ewma => Algorithm::Ewma(Ewma::new(&members)),
            Balancing::Maglev => Algorithm::Maglev(Maglev::new(&members)),
        };
        Self { members: members.into(), algorithm }
    }

    fn pick(&self, cx: &Pick<'_>, is_open: IsOpen<'_>) -> Option<Picked> {
        let warm = cx.is_warm.and_then(|is_warm| {
            let is_open_and_warm = |node| is_open(node) && is_warm(node);
            self.pick_open(cx, &is_open_and_warm)
        });
        warm.or_else(|| self.pick_open(cx, is_open))
    }

    fn pick_open(&self, cx: &Pick<'_>, is_open: IsOpen<'_>) -> Option<Picked> {
        let is_any_open = || self.members.iter().any(|member| is_open(member.index));
        match &self.algorithm {
            Algorithm::RoundRobin(cycle) if self.is_tried(cx.tried) => cycle.pick_next(is_open),
            Algorithm::RoundRobin(cycle) => cycle.pick(is_open, is_any_open),
            Algorithm::Chash(ring) => ring.pick(cx.key, is_open, is_any_open),
            Algorithm::Maglev(table) => table.pick(cx.key, is_open, is_any_open),
            Algorithm::LeastConn(nodes) => return nodes.pick(is_open),
            Algorithm::Ewma(nodes) => return nodes.pick(cx, is_open),
        }
        .map(Picked::uncounted)
    }

    fn is_tried(&self, tried: &Tried) -> bool {
        !tried.is_empty() && self.members.iter().any(|member| tried.contains(member.index))
    }
}

impl fmt::Debug for Pick<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pick").field("tried", self.tried).finish_non_exhaustive()
    }
}

/// Greatest common divisor; `gcd(0, n)` is `n`.
pub(crate) fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The four little-endian words of the MD5 digest (RFC 1321) of `bytes`, which is what ketama hashes
/// with. Nothing depends on its being hard to forge.
pub(super) fn hash(bytes: &[u8]) -> [u32; 4] {
    let digest = Md5::digest(bytes);
    std::array::from_fn(|word| {
        u32::from_le_bytes(std::array::from_fn(|byte| digest[4 * word + byte]))
    })
}

#[cfg(test)]
mod tests;
