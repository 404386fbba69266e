//! Maglev hashing (Eisenbud et al., NSDI 2016, section 3.4): one look into a table that nodes have
//! filled in turns, each in an order of its own. Shares are more even than on a ring; when a node
//! comes or goes, little more moves than its own share.

use super::{IsOpen, Member, NodeIndex, hash};

/// Entries; a prime, so that every skip reaches every entry.
const TABLE_SIZE: u32 = 65_537;
/// The paper has a hundred entries for each node, for shares that differ by 1 %.
pub(crate) const NODES_MAX: u64 = TABLE_SIZE as u64 / 100;

#[derive(Debug)]
pub(super) struct Maglev {
    table: Box<[NodeIndex]>,
}

/// A node while the table is being filled.
struct Filler {
    index: NodeIndex,
    weight: u64,
    /// What it has gained and not used; an entry costs the largest weight of all.
    credit: u64,
    next: u32,
    skip: u32,
}

impl Filler {
    fn new(member: &Member) -> Self {
        let [offset, skip, ..] = hash(member.node.address.to_string().as_bytes());
        Self {
            index: member.index,
            weight: member.weight.into(),
            credit: 0,
            next: offset % TABLE_SIZE,
            skip: skip % (TABLE_SIZE - 1) + 1,
        }
    }

    /// Takes the first free entry in its own order.
    fn take(&mut self, table: &mut [Option<NodeIndex>]) {
        loop {
            let entry = &mut table[self.next as usize];
            self.next = (self.next + self.skip) % TABLE_SIZE;
            if entry.is_none() {
                *entry = Some(self.index);
                return;
            }
        }
    }
}

impl Maglev {
    /// The same for every order of `members`.
    pub(super) fn new(members: &[Member]) -> Self {
        let mut members: Vec<_> = members.iter().collect();
        members.sort_by_key(|member| member.node.address);
        let mut fillers: Vec<_> = members.into_iter().map(Filler::new).collect();
        let price = fillers.iter().map(|filler| filler.weight).max().unwrap_or(0);
        let mut table = vec![None; TABLE_SIZE as usize];
        let mut free = table.len();
        while free > 0 {
            for filler in &mut fillers {
                filler.credit += filler.weight;
                if filler.credit >= price && free > 0 {
                    filler.credit -= price;
                    filler.take(&mut table);
                    free -= 1;
                }
            }
        }
        Self { table: table.into_iter().flatten().collect() }
    }

    /// The node of the key's entry, or of the first behind it whose node is open.
    pub(super) fn pick(
        &self,
        key: &[u8],
        is_open: IsOpen<'_>,
        is_any_open: impl Fn() -> bool,
    ) -> Option<NodeIndex> {
        let [low, high, ..] = hash(key).map(u64::from);
        let entry = (high << 32 | low) % u64::from(TABLE_SIZE);
        let (before, behind) = self.table.split_at(entry as usize);
        let mut nodes = behind.iter().chain(before).copied();
        let first = nodes.next()?;
        if is_open(first) {
            return Some(first);
        }
        if is_any_open() { nodes.find(|node| is_open(*node)) } else { None }
    }
}
