//! Responses that go to the client past us: userspace arms, the programs carry.

use std::{
    mem::offset_of,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use aya::{
    Btf, Ebpf,
    programs::{BtfTracePoint, tp_btf::BtfTracePointLink},
};
use proxy_common::{
    bypass::{Bypass, Progress, turn},
    limits::LEGS_MAX,
    names,
};
use rustix::time::{ClockId, clock_gettime};

use crate::{kernel::sockets::map_array, sys::mapped::MappedWords};

/// The kernel's tracepoint at the end of every call that sends (v6.3).
const SENT: &str = "sock_send_length";

/// What it takes: without the program that sees a response queued, none is armed.
#[derive(Debug)]
pub(super) struct Bypasses {
    words: Arc<MappedWords>,
    _confirmation: BtfTracePointLink,
}

impl Bypasses {
    pub(super) fn attach(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let btf = Btf::from_sys_fs().context("read the kernel's types")?;
        let program = ebpf.program_mut(names::BYPASS).context("no program `bypass`")?;
        let program: &mut BtfTracePoint = program.try_into().context("program `bypass`")?;
        program.load(SENT, &btf).context("load program `bypass`")?;
        let link = program.attach().with_context(|| format!("attach `bypass` to {SENT}"))?;
        let confirmation = program.take_link(link)?;
        // Last: a program cannot be loaded when one of its maps has been taken out of the object.
        let words = Arc::new(map_array::<Bypass>(ebpf, names::BYPASSES, 2 * LEGS_MAX)?);
        Ok(Self { words, _confirmation: confirmation })
    }

    /// `place` is that of a connection to a node, `client` the
    /// [`Client`](proxy_common::bypass::Client) that its next response may go to. `None`: something
    /// else is still on its way.
    pub(super) fn arm(&self, place: u32, client: u32) -> Option<Armed> {
        Armed::new(&self.words, place, client)
    }

    /// Forgets what whoever had the place before was waiting for.
    pub(super) fn reset(&self, place: u32) {
        let byte = place as usize * size_of::<Bypass>() + offset_of!(Bypass, turn);
        if let Some(word) = self.words.word(byte / size_of::<u64>()) {
            let next = turn::next(word.load(Ordering::Relaxed));
            word.store(turn::with(next, turn::IDLE), Ordering::Relaxed);
        }
    }
}

/// What has become of a response that was armed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The node has not answered.
    Waiting,
    /// More of it is being queued, just now.
    Going,
    /// A part of it has gone, and more is to come.
    Flowing(Passed),
    Gone(Passed),
    /// A part of it has gone. The rest comes to us.
    HandedOver(Passed),
    /// It comes, or came, to us.
    Ours,
    /// Nobody knows what of it the kernel has queued, so nobody can complete it.
    Broken,
}

/// A response that the client has in its queue: its head, and some of its body at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    pub status: u16,
    /// Bytes of its body.
    pub body_size: u64,
    /// Bytes of that which have gone.
    pub passed: u64,
    /// When the first of the response had gone,
    pub begun: Instant,
    /// and the last so far.
    pub at: Instant,
}

impl Passed {
    /// Bytes of the body that have not gone.
    pub const fn rest(&self) -> u64 {
        self.body_size.saturating_sub(self.passed)
    }
}

/// A response that may go past us. Dropped, it may not any more.
#[derive(Debug)]
pub struct Armed {
    words: Arc<MappedWords>,
    place: u32,
    turn: u64,
}

impl Armed {
    fn new(words: &Arc<MappedWords>, place: u32, client: u32) -> Option<Self> {
        let mut armed = Self { words: Arc::clone(words), place, turn: 0 };
        let before = armed.word(offset_of!(Bypass, turn))?.load(Ordering::Relaxed);
        if turn::state(before) == turn::STARTED {
            return None;
        }
        // With it goes the status, which is of the response before.
        armed.word(offset_of!(Bypass, client))?.store(client.into(), Ordering::Relaxed);
        armed.turn = turn::next(before);
        // Last: the program that sees it sees what was written before.
        armed.word(offset_of!(Bypass, turn))?.store(armed.turn, Ordering::Release);
        Some(armed)
    }

    pub fn turn(&self) -> Turn {
        let Some(now) = self.word(offset_of!(Bypass, turn)) else { return Turn::Ours };
        self.read(now.load(Ordering::Acquire))
    }

    /// Userspace carries the response, unless it is too late for that.
    pub fn take_back(&self) -> Turn {
        match self.change(turn::ARMED, turn::IDLE) {
            Ok(()) => Turn::Ours,
            Err(now) => self.read(now),
        }
    }

    /// Nothing more of it goes past us, but for what does just now (`Going`).
    pub fn stop(&self) -> Turn {
        let mut now = self.take_back();
        // Until the node's call neither begins nor ends between two looks.
        loop {
            let changed = match now {
                Turn::Flowing(_) => self.change(turn::FLOWING, turn::IDLE),
                Turn::Going => self.change(turn::STARTED, turn::BROKEN),
                Turn::Waiting | Turn::Gone(_) | Turn::HandedOver(_) | Turn::Ours | Turn::Broken => {
                    return now;
                }
            };
            match (changed, now) {
                // Between the two looks more may have gone.
                (Ok(()), Turn::Flowing(_)) => return self.passed().map_or(now, Turn::Flowing),
                (Ok(()), _) => return now,
                (Err(other), _) => now = self.read(other),
            }
        }
    }

    /// # Errors
    /// It was not in state `from`, but this.
    fn change(&self, from: u64, to: u64) -> Result<(), u64> {
        let [from, to] = [from, to].map(|state| turn::with(self.turn, state));
        let Some(word) = self.word(offset_of!(Bypass, turn)) else { return Ok(()) };
        word.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).map(drop)
    }

    fn read(&self, now: u64) -> Turn {
        if turn::with(now, turn::ARMED) != self.turn {
            // Of another generation: whoever armed it has forgotten this one.
            return Turn::Ours;
        }
        match turn::state(now) {
            turn::ARMED => Turn::Waiting,
            turn::STARTED => Turn::Going,
            turn::FLOWING => self.passed().map_or(Turn::Broken, Turn::Flowing),
            turn::DONE => self.passed().map_or(Turn::Broken, Turn::Gone),
            turn::HANDED_OVER => self.passed().map_or(Turn::Broken, Turn::HandedOver),
            turn::BROKEN => Turn::Broken,
            _ => Turn::Ours,
        }
    }

    /// What of a response that has begun has gone at least. `None`: not even its head.
    pub fn passed(&self) -> Option<Passed> {
        const PROGRESS: usize = offset_of!(Bypass, progress);
        let word = |offset| self.word(offset).map_or(0, |word| word.load(Ordering::Relaxed));
        let halves = |offset| [word(offset) as u32, (word(offset) >> u32::BITS) as u32];
        let now = clock_gettime(ClockId::Monotonic);
        let now = Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32);
        let here = Instant::now();
        let instant = |ns| here.checked_sub(now.saturating_sub(Duration::from_nanos(ns)));
        let [_, status] = halves(offset_of!(Bypass, client));
        let [head_size, body_size] = halves(offset_of!(Bypass, head_size));
        let [queued, _] = halves(PROGRESS + offset_of!(Progress, queued));
        Some(Passed {
            status: status as u16,
            body_size: body_size.into(),
            passed: queued.checked_sub(head_size)?.into(),
            begun: instant(word(PROGRESS + offset_of!(Progress, begun_ns))).unwrap_or(here),
            at: instant(word(offset_of!(Bypass, done_ns))).unwrap_or(here),
        })
    }

    /// The word in which a field lies. Of two fields in one, the second is the upper half: BPF objects
    /// are little endian, and so is this machine.
    fn word(&self, field: usize) -> Option<&AtomicU64> {
        let byte = self.place as usize * size_of::<Bypass>() + field;
        self.words.word(byte / size_of::<u64>())
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> Arc<MappedWords> {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        Arc::new(MappedWords::map(&file, 512).unwrap())
    }

    fn set(words: &MappedWords, place: usize, field: usize, value: u64) {
        let at = (place * size_of::<Bypass>() + field) / 8;
        words.word(at).unwrap().store(value, Ordering::Relaxed);
    }

    const QUEUED: usize = offset_of!(Bypass, progress) + offset_of!(Progress, queued);

    #[test]
    fn a_part_of_a_response_is_gone_and_no_more_of_it_once_it_is_stopped() {
        let words = words();
        let armed = Armed::new(&words, 1, 7).unwrap();
        let state = |state| set(&words, 1, 0, turn::with(armed.turn, state));
        set(&words, 1, offset_of!(Bypass, client), 200 << 32 | 7);
        set(&words, 1, offset_of!(Bypass, head_size), 1000 << 32 | 100);
        set(&words, 1, QUEUED, 400);
        let rest = |turn| match turn {
            Turn::Flowing(passed) | Turn::HandedOver(passed) => Some(passed.rest()),
            Turn::Waiting | Turn::Going | Turn::Gone(_) | Turn::Ours | Turn::Broken => None,
        };
        state(turn::HANDED_OVER);
        assert!(matches!(armed.turn(), Turn::HandedOver(_)));
        assert_eq!((rest(armed.turn()), rest(armed.stop())), (Some(700), Some(700)));
        state(turn::STARTED);
        assert_eq!((armed.stop(), armed.turn()), (Turn::Going, Turn::Broken), "the last of it");
        assert_eq!(armed.passed().map(|passed| passed.passed), Some(300));
        state(turn::FLOWING);
        assert!(matches!(armed.take_back(), Turn::Flowing(_)), "too late to carry it");
        assert!(matches!(armed.turn(), Turn::Flowing(_)));
        assert_eq!((rest(armed.stop()), armed.turn()), (Some(700), Turn::Ours));
        state(turn::FLOWING);
        set(&words, 1, QUEUED, 99);
        assert_eq!(armed.turn(), Turn::Broken, "less than its head");
        set(&words, 1, QUEUED, 400);
        let turn = armed.turn;
        drop(armed);
        let word = words.word(size_of::<Bypass>() / 8).unwrap().load(Ordering::Relaxed);
        assert_eq!(word, turn::with(turn, turn::IDLE));
    }

    #[test]
    fn a_response_is_gone_or_ours() {
        let words = words();
        let armed = Armed::new(&words, 3, 7).unwrap();
        assert_eq!(armed.turn(), Turn::Waiting);
        let state = |state| set(&words, 3, 0, turn::with(armed.turn, state));
        state(turn::STARTED);
        assert_eq!((armed.turn(), armed.take_back()), (Turn::Going, Turn::Going));
        assert!(Armed::new(&words, 3, 8).is_none(), "something is on its way");
        set(&words, 3, offset_of!(Bypass, client), 404 << 32 | 7);
        set(&words, 3, offset_of!(Bypass, head_size), 12 << 32 | 100);
        set(&words, 3, QUEUED, 77 << 32 | 112);
        state(turn::DONE);
        let Turn::Gone(passed) = armed.turn() else { panic!("{:?}", armed.turn()) };
        assert_eq!((passed.status, passed.body_size, passed.passed), (404, 12, 12));
        assert!(matches!(armed.take_back(), Turn::Gone(_)), "too late");
        state(turn::SPILLED);
        assert_eq!(armed.turn(), Turn::Ours);
        state(turn::BROKEN);
        assert_eq!(armed.turn(), Turn::Broken);
    }

    #[test]
    fn what_was_armed_for_an_earlier_response_says_nothing_of_a_later_one() {
        let words = words();
        let first = Armed::new(&words, 0, 1).unwrap();
        assert_eq!(first.take_back(), Turn::Ours);
        let second = Armed::new(&words, 0, 2).unwrap();
        set(&words, 0, 0, turn::with(second.turn, turn::DONE));
        assert_eq!(first.turn(), Turn::Ours);
        assert_eq!(first.take_back(), Turn::Ours);
        assert!(matches!(second.turn(), Turn::Gone(_)));
        drop(second);
        let third = Armed::new(&words, 0, 3).unwrap();
        drop(Armed::new(&words, 1, 3));
        assert_eq!(third.turn(), Turn::Waiting);
    }
}
