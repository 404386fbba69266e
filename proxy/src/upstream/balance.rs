//! Weighted round robin over the nodes of one upstream, exact over a cycle across all workers.
//!
//! The cycle is laid out once, smoothly: a node of weight 3 among 6 does not get three in a row.
//! Picking is one `fetch_add`, so two workers that pick at the same time get two different slots,
//! and after a whole cycle every node has had exactly its share.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::Node;

/// Slots of a cycle at most; the validator refuses weights whose reduced sum is larger.
pub const CYCLE_SLOTS_MAX: usize = 65_536;

/// Position among the nodes of a [`Balancer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeIndex(u32);

#[derive(Debug)]
pub struct Balancer {
    nodes: Box<[Node]>,
    cycle: Box<[NodeIndex]>,
    position: AtomicUsize,
}

/// The nodes one request has already tried.
#[derive(Debug, Default, Clone)]
pub struct Tried(Vec<NodeIndex>);

impl Tried {
    pub fn insert(&mut self, node: NodeIndex) {
        self.0.push(node);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Balancer {
    /// Lays out the cycle. Nodes of weight 0 are left out unless all are 0, as in APISIX.
    pub fn new(nodes: &[Node]) -> Self {
        Self { nodes: nodes.into(), cycle: cycle(nodes), position: AtomicUsize::new(0) }
    }

    pub fn node(&self, index: NodeIndex) -> &Node {
        &self.nodes[index.0 as usize]
    }

    /// The next node of the cycle; for a retry, the next one of the cycle that was not tried yet,
    /// without taking a slot from anybody. `None`: there is no node left.
    pub fn pick(&self, tried: &Tried) -> Option<NodeIndex> {
        let len = self.cycle.len();
        if len == 0 {
            return None;
        }
        if tried.is_empty() {
            return Some(self.cycle[self.position.fetch_add(1, Ordering::Relaxed) % len]);
        }
        let start = self.position.load(Ordering::Relaxed);
        (0..len)
            .map(|step| self.cycle[start.wrapping_add(step) % len])
            .find(|node| !tried.0.contains(node))
    }
}

/// The smooth weighted sequence known from nginx: in each step every node gains its weight, the
/// richest is chosen and pays the total.
fn cycle(nodes: &[Node]) -> Box<[NodeIndex]> {
    let mut weights: Vec<u64> = nodes.iter().map(|node| u64::from(node.weight)).collect();
    if weights.iter().all(|&weight| weight == 0) {
        weights.fill(1);
    }
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    weights.iter_mut().for_each(|weight| *weight /= divisor);
    let total: u64 = weights.iter().sum();

    let mut credit = vec![0_i64; nodes.len()];
    (0..total)
        .filter_map(|_| {
            credit.iter_mut().zip(&weights).for_each(|(credit, &weight)| *credit += weight as i64);
            let richest = (0..credit.len()).rev().max_by_key(|&index| credit[index])?;
            credit[richest] -= total as i64;
            Some(NodeIndex(richest as u32))
        })
        .collect()
}

/// Greatest common divisor; `gcd(0, n)` is `n`.
pub(crate) fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use super::*;

    fn balancer(weights: &[u32]) -> Balancer {
        let nodes: Vec<Node> = (1..)
            .zip(weights)
            .map(|(port, &weight)| Node { address: ([127, 0, 0, 1], port).into(), weight })
            .collect();
        Balancer::new(&nodes)
    }

    fn check_cycle(weights: &[u32], expected: &[u32]) {
        let balancer = balancer(weights);
        let picked: Vec<u32> = expected
            .iter()
            .map(|_| balancer.pick(&Tried::default()).expect("there are nodes").0)
            .collect();
        assert_eq!(picked, expected, "weights {weights:?}");
    }

    #[test]
    fn spreads_weights_smoothly() {
        check_cycle(&[1], &[0, 0]);
        check_cycle(&[1, 1, 1], &[0, 1, 2, 0, 1, 2]);
        check_cycle(&[5, 1, 1], &[0, 0, 1, 0, 2, 0, 0]);
        check_cycle(&[2, 4], &[1, 0, 1, 1, 0, 1]);
    }

    #[test]
    fn weight_zero_gets_nothing_unless_all_are_zero() {
        check_cycle(&[0, 1], &[1, 1, 1]);
        check_cycle(&[0, 0], &[0, 1, 0, 1]);
    }

    #[test]
    fn no_nodes_is_no_pick() {
        assert_eq!(balancer(&[]).pick(&Tried::default()), None);
    }

    #[test]
    fn a_retry_goes_to_each_other_node_once_and_takes_no_slot() {
        let balancer = balancer(&[1, 1, 1]);
        let mut tried = Tried::default();
        let mut seen = Vec::new();
        while let Some(node) = balancer.pick(&tried) {
            seen.push(node.0);
            tried.insert(node);
        }
        assert_eq!(seen, [0, 1, 2]);
        assert_eq!(balancer.pick(&Tried::default()), Some(NodeIndex(1)));
    }

    #[test]
    fn is_exact_over_a_cycle_across_threads() {
        const CYCLES_PER_THREAD: usize = 1000;
        let balancer = Arc::new(balancer(&[1, 2, 3]));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let balancer = Arc::clone(&balancer);
                thread::spawn(move || {
                    let mut counts = [0_usize; 3];
                    for _ in 0..6 * CYCLES_PER_THREAD {
                        counts[balancer.pick(&Tried::default()).expect("nodes").0 as usize] += 1;
                    }
                    counts
                })
            })
            .collect();
        let total = threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .fold([0; 3], |sum, counts| std::array::from_fn(|node| sum[node] + counts[node]));
        assert_eq!(total, [4 * CYCLES_PER_THREAD, 8 * CYCLES_PER_THREAD, 12 * CYCLES_PER_THREAD]);
    }
}
