//! Consistent hashing on a ring, with the points of ketama (Jones, 2007): a key stays with its node
//! while that is open, and when a node comes or goes, only its own share of the keys moves.

use super::{IsOpen, Member, NodeIndex, hash};

/// Digests of `ADDRESS-N` that a node has for each unit of its weight, with four points each.
const DIGESTS_PER_WEIGHT: u32 = 40;
/// Points of a node for each unit of its weight.
pub(crate) const POINTS_PER_WEIGHT: u32 = 4 * DIGESTS_PER_WEIGHT;

#[derive(Debug)]
pub(super) struct Ring {
    /// Sorted.
    points: Box<[Point]>,
}

#[derive(Debug)]
struct Point {
    at: u32,
    node: NodeIndex,
}

impl Ring {
    /// The same for every order of `members`.
    pub(super) fn new(members: &[Member]) -> Self {
        let mut members: Vec<_> = members.iter().collect();
        members.sort_by_key(|member| member.node.address);
        let points = members.iter().flat_map(|member| {
            (0..DIGESTS_PER_WEIGHT * member.weight)
                .flat_map(|n| hash(format!("{}-{n}", member.node.address).as_bytes()))
                .map(|at| Point { at, node: member.index })
        });
        let mut points: Box<[_]> = points.collect();
        // Stable: of two nodes at one point it is always the same that comes first.
        points.sort_by_key(|point| point.at);
        Self { points }
    }

    /// The first open node from the key's place on.
    pub(super) fn pick(
        &self,
        key: &[u8],
        is_open: IsOpen<'_>,
        is_any_open: impl Fn() -> bool,
    ) -> Option<NodeIndex> {
        let [place, ..] = hash(key);
        let start = self.points.partition_point(|point| point.at < place);
        let (before, behind) = self.points.split_at(start);
        let mut nodes = behind.iter().chain(before).map(|point| point.node);
        let first = nodes.next()?;
        if is_open(first) {
            return Some(first);
        }
        if is_any_open() { nodes.find(|node| is_open(*node)) } else { None }
    }
}
