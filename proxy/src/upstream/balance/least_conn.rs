//! The node with the fewest requests under way for its weight: the least `(active + 1) / weight`.
//!
//! Exact across workers: a node is taken only while it has as many as it was chosen for. Of equals
//! the one is taken that was not for the longest time.

use std::{
    cmp::Ordering,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use super::{IsOpen, Member, NodeIndex, Picked, load::Load};

#[derive(Debug)]
pub(super) struct LeastConn {
    candidates: Box<[Candidate]>,
    /// Picks so far.
    turn: AtomicU64,
}

#[derive(Debug)]
struct Candidate {
    index: NodeIndex,
    weight: u64,
    load: Arc<Load>,
}

impl LeastConn {
    pub(super) fn new(members: &[Member]) -> Self {
        let candidate = |member: &Member| Candidate {
            index: member.index,
            weight: member.weight.into(),
            load: Arc::clone(&member.load),
        };
        let turns = members.iter().map(|member| member.load.turn.load(Relaxed));
        let turn = AtomicU64::new(turns.max().unwrap_or(0) + 1);
        Self { candidates: members.iter().map(candidate).collect(), turn }
    }

    pub(super) fn pick(&self, is_open: IsOpen<'_>) -> Option<Picked> {
        loop {
            let open = self.candidates.iter().filter(|candidate| is_open(candidate.index));
            let (best, active) = open
                .map(|candidate| (candidate, candidate.load.active()))
                .min_by(|one, other| compare(*one, *other))?;
            // If not, another worker has taken it: this one goes round at most as often as others
            // get on.
            if best.load.begin_at(active) {
                best.load.turn.store(self.turn.fetch_add(1, Relaxed), Relaxed);
                let load = Some(Arc::clone(&best.load));
                return Some(Picked { index: best.index, load, begun: None });
            }
        }
    }
}

fn compare((one, one_has): (&Candidate, u32), (other, other_has): (&Candidate, u32)) -> Ordering {
    let one_costs = (u64::from(one_has) + 1) * other.weight;
    let other_costs = (u64::from(other_has) + 1) * one.weight;
    let turns = || one.load.turn.load(Relaxed).cmp(&other.load.turn.load(Relaxed));
    one_costs.cmp(&other_costs).then_with(turns)
}
