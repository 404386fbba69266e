//! What is still to be undone at one Redis: in order, many in one call.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use crate::plugin::Step;

/// What may wait to be undone, some 200 bytes each; of more each is left to expire.
const OWED_MAX: usize = 1 << 14;
/// Undone in one call.
const UNDONE_AT_ONCE: usize = 64;
/// How long somebody tries: a server may be gone for good, or have left the configuration.
const UNDONE_WITHIN: Duration = Duration::from_secs(600);

/// Something to be undone.
#[derive(Debug)]
pub(super) struct Debt {
    /// Who asked for it.
    pub(super) plugin: &'static str,
    pub(super) step: Step,
    /// From when on nobody tries any more.
    until: Instant,
}

#[derive(Debug)]
pub(super) struct Owed {
    debts: VecDeque<Debt>,
    /// How many are tried in one call: fewer while one that is refused is looked for.
    at_once: usize,
}

impl Debt {
    /// One that has undone itself after `lasts`.
    pub(super) fn new(plugin: &'static str, step: Step, lasts: Duration) -> Debt {
        Debt { plugin, step, until: Instant::now() + lasts.min(UNDONE_WITHIN) }
    }
}

impl Owed {
    pub(super) fn new() -> Owed {
        Owed { debts: VecDeque::new(), at_once: UNDONE_AT_ONCE }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.debts.is_empty()
    }

    /// Gives back what there is no room for.
    pub(super) fn push(&mut self, debt: Debt) -> Option<Debt> {
        if self.debts.len() >= OWED_MAX {
            return Some(debt);
        }
        self.debts.push_back(debt);
        None
    }

    /// The first that can be undone in one call, and how many these are.
    pub(super) fn next(&self) -> Option<(Step, usize)> {
        let mut step = self.debts.front()?.step.clone();
        let alike = self.debts.iter().take(self.at_once);
        let alike = alike.take_while(|next| next.step.script == step.script).count();
        for Debt { step: next, .. } in self.debts.iter().take(alike).skip(1) {
            step.keys.extend_from_slice(&next.keys);
            step.arguments.extend_from_slice(&next.arguments);
        }
        Some((step, alike))
    }

    /// The first `count` are undone.
    pub(super) fn done(&mut self, count: usize) {
        self.debts.drain(..count.min(self.debts.len()));
        self.at_once = (self.at_once * 2).min(UNDONE_AT_ONCE);
    }

    /// One of the first `count` cannot be undone: it, or `None` while it is not known which.
    pub(super) fn refused(&mut self, count: usize) -> Option<Debt> {
        self.at_once = (count / 2).max(1);
        if count > 1 { None } else { self.debts.pop_front() }
    }

    /// Those whose time is over.
    pub(super) fn take_late(&mut self, now: Instant) -> Vec<Debt> {
        let (late, owed) = self.debts.drain(..).partition(|debt| debt.until <= now);
        self.debts = owed;
        Vec::from(late)
    }

    pub(super) fn take_all(&mut self) -> Vec<Debt> {
        self.debts.drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::Script;

    static SCRIPT: Script = Script::new("return {}", |_, numbers| numbers.is_empty());
    static OTHER: Script = Script::new("return {1}", |_, _| true);
    const HOUR: Duration = Duration::from_secs(3600);

    fn debt(script: &'static Script, name: usize, lasts: Duration) -> Debt {
        let name = || vec![name.to_string().into_bytes()];
        Debt::new("test", Step { script, keys: name(), arguments: name() }, lasts)
    }

    fn owed(count: usize) -> Owed {
        let mut owed = Owed::new();
        assert!((0..count).all(|name| owed.push(debt(&SCRIPT, name, HOUR)).is_none()));
        owed
    }

    #[test]
    fn what_is_alike_is_undone_at_once() {
        assert!(Owed::new().next().is_none());
        let mut owed = owed(UNDONE_AT_ONCE + 1);
        let (step, count) = owed.next().expect("something");
        assert_eq!((count, step.keys.len(), step.arguments.len()), (64, 64, 64));
        assert_eq!((&*step.keys[63], step.script), (&b"63"[..], &SCRIPT));
        owed.done(count);
        assert!(owed.push(debt(&OTHER, 0, HOUR)).is_none());
        let (step, count) = owed.next().expect("something");
        assert_eq!((count, step.keys), (1, vec![b"64".to_vec()]));
    }

    #[test]
    fn one_that_is_refused_costs_itself_alone_and_few_calls() {
        for bad in [0, 1, 37, 63, 64, 199] {
            let mut owed = owed(200);
            let (mut undone, mut lost, mut calls) = (0, Vec::new(), 0);
            while let Some((step, count)) = owed.next() {
                calls += 1;
                if step.keys.contains(&bad.to_string().into_bytes()) {
                    lost.extend(owed.refused(count));
                } else {
                    owed.done(count);
                    undone += count;
                }
            }
            assert_eq!((undone, lost.len()), (199, 1), "{bad}");
            assert_eq!(lost[0].step.keys, [bad.to_string().into_bytes()]);
            assert!(calls <= 32, "{bad}: {calls}");
        }
    }

    #[test]
    fn only_so_much_waits() {
        let mut owed = owed(OWED_MAX);
        assert!(owed.push(debt(&SCRIPT, 0, HOUR)).is_some());
        assert_eq!(owed.take_all().len(), OWED_MAX);
        assert!(owed.is_empty());
    }

    #[test]
    fn nothing_waits_for_longer_than_it_counts_nor_for_ever() {
        let mut owed = owed(1);
        assert!(owed.push(debt(&SCRIPT, 1, Duration::from_secs(1))).is_none());
        let now = Instant::now();
        assert!(owed.take_late(now).is_empty());
        let late = owed.take_late(now + Duration::from_secs(1));
        assert_eq!((late.len(), &late[0].step.keys[0][..]), (1, &b"1"[..]));
        assert!(owed.take_late(now + UNDONE_WITHIN - Duration::from_secs(1)).is_empty());
        assert_eq!(owed.take_late(now + UNDONE_WITHIN).len(), 1);
        assert!(owed.is_empty());
    }
}
