//! Of two nodes chosen at random the one whose answer is to be expected first: the least moving
//! average of its latency, times what it would have under way. Weights have no say, as in APISIX.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{IsOpen, Member, NodeIndex, Pick, Picked, load::Load};

/// What a node that does not answer counts as: it is avoided until that has faded (46 s until it
/// is worth 10 ms), or others are busier.
pub(super) const FAILED_LATENCY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Ewma {
    candidates: Box<[Candidate]>,
}

#[derive(Debug)]
struct Candidate {
    index: NodeIndex,
    load: Arc<Load>,
}

impl Ewma {
    pub(super) fn new(members: &[Member]) -> Self {
        let candidate =
            |member: &Member| Candidate { index: member.index, load: Arc::clone(&member.load) };
        Self { candidates: members.iter().map(candidate).collect() }
    }

    pub(super) fn pick(&self, cx: &Pick<'_>, is_open: IsOpen<'_>) -> Option<Picked> {
        let open = self.candidates.iter().filter(|candidate| is_open(candidate.index));
        let count = open.clone().count() as u32;
        let first = below(cx.random as u32, count);
        let distance = below((cx.random >> 32) as u32, count.saturating_sub(1));
        let one = open.clone().nth(first as usize)?;
        let other = open.cycle().nth((first + 1 + distance) as usize)?;
        let now = (cx.clock)();
        let better = one.or(other, now);
        better.load.begin();
        let load = Some(Arc::clone(&better.load));
        Some(Picked { index: better.index, load, begun: Some(now) })
    }
}

impl Candidate {
    /// The better of two. Until both have answered once, what is under way decides.
    fn or<'a>(&'a self, other: &'a Candidate, now: Instant) -> &'a Candidate {
        let active = [&self.load, &other.load].map(|load| load.active() as f32 + 1.0);
        let expected = [&self.load, &other.load].map(|load| load.expected_latency(now));
        let costs = match expected {
            [Some(one), Some(other)] => [one * active[0], other * active[1]],
            [None, _] | [_, None] => active,
        };
        if costs[1] < costs[0] { other } else { self }
    }
}

/// Random bits as a number below `end`; 0 below 0.
fn below(random: u32, end: u32) -> u32 {
    ((u64::from(random) * u64::from(end)) >> 32) as u32
}
