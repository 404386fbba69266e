//! Weighted round robin, exact over a cycle across all workers.
//!
//! The cycle is laid out once, smoothly: a node of weight 3 among 6 does not get three in a row.
//! Picking is one `fetch_add`, so two workers that pick at the same time get two different slots,
//! and after a whole cycle every node has had exactly its share.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{IsOpen, Member, NodeIndex};

/// Slots are as many as the sum of all weights, which the validator bounds.
#[derive(Debug)]
pub(super) struct RoundRobin {
    cycle: Box<[NodeIndex]>,
    position: AtomicUsize,
}

impl RoundRobin {
    /// `before` is that of the nodes before they changed: who has had a turn is not first again.
    pub(super) fn new(members: &[Member], before: Option<&RoundRobin>) -> Self {
        let position = before.map_or(0, |before| before.position.load(Ordering::Relaxed));
        Self { cycle: cycle(members), position: AtomicUsize::new(position) }
    }

    /// The next slot of the cycle. One whose node is not open is nobody's, so that the others keep
    /// their shares.
    pub(super) fn pick(
        &self,
        is_open: IsOpen<'_>,
        is_any_open: impl Fn() -> bool,
    ) -> Option<NodeIndex> {
        let first = self.take_slot();
        if is_open(first) {
            return Some(first);
        }
        if !is_any_open() {
            return None;
        }
        let taken = (1..self.cycle.len()).map(|_| self.take_slot()).find(|node| is_open(*node));
        // Others may have taken just the slots of what is open.
        taken.or_else(|| self.pick_next(is_open))
    }

    /// The next open node, without taking a slot from anybody.
    pub(super) fn pick_next(&self, is_open: IsOpen<'_>) -> Option<NodeIndex> {
        let (start, len) = (self.position.load(Ordering::Relaxed), self.cycle.len());
        (0..len).map(|step| self.cycle[start.wrapping_add(step) % len]).find(|node| is_open(*node))
    }

    fn take_slot(&self) -> NodeIndex {
        self.cycle[self.position.fetch_add(1, Ordering::Relaxed) % self.cycle.len()]
    }
}

/// The smooth weighted sequence known from nginx: in each step every node gains its weight, the
/// richest is chosen and pays the total.
fn cycle(members: &[Member]) -> Box<[NodeIndex]> {
    let total: i64 = members.iter().map(|member| i64::from(member.weight)).sum();
    let mut credit = vec![0_i64; members.len()];
    (0..total)
        .filter_map(|_| {
            let gains = credit.iter_mut().zip(members);
            gains.for_each(|(credit, member)| *credit += i64::from(member.weight));
            let richest = (0..credit.len()).rev().max_by_key(|&at| credit[at])?;
            credit[richest] -= total;
            Some(members[richest].index)
        })
        .collect()
}
