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
    bypass::{Bypass, turn},
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
    /// It is being queued, just now.
    Going,
    Gone(Passed),
    /// It comes, or came, to us.
    Ours,
    /// The kernel has queued a part of it: nobody can complete it.
    Broken,
}

/// A response that the client has in its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    pub status: u16,
    /// Bytes.
    pub body_size: u64,
    pub at: Instant,
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
        let Some(word) = self.word(offset_of!(Bypass, turn)) else { return Turn::Ours };
        let idle = turn::with(self.turn, turn::IDLE);
        match word.compare_exchange(self.turn, idle, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Turn::Ours,
            Err(now) => self.read(now),
        }
    }

    fn read(&self, now: u64) -> Turn {
        if turn::with(now, turn::ARMED) != self.turn {
            // Of another generation: whoever armed it has forgotten this one.
            return Turn::Ours;
        }
        match turn::state(now) {
            turn::ARMED => Turn::Waiting,
            turn::STARTED => Turn::Going,
            turn::DONE => Turn::Gone(self.passed()),
            turn::BROKEN => Turn::Broken,
            _ => Turn::Ours,
        }
    }

    fn passed(&self) -> Passed {
        let word = |offset| self.word(offset).map_or(0, |word| word.load(Ordering::Relaxed));
        let upper_half = |offset| (word(offset) >> u32::BITS) as u32;
        let now = clock_gettime(ClockId::Monotonic);
        let now = Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32);
        let done = Duration::from_nanos(word(offset_of!(Bypass, done_ns)));
        let at = Instant::now().checked_sub(now.saturating_sub(done));
        Passed {
            status: upper_half(offset_of!(Bypass, client)) as u16,
            body_size: upper_half(offset_of!(Bypass, head_size)).into(),
            at: at.unwrap_or_else(Instant::now),
        }
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
        self.take_back();
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
        state(turn::DONE);
        let Turn::Gone(passed) = armed.turn() else { panic!("{:?}", armed.turn()) };
        assert_eq!((passed.status, passed.body_size), (404, 12));
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
