//! Windows that are counted here and told to a Redis at intervals: `sync_interval`.
//!
//! What a request needs to know is what Redis said last and what has been counted here since. A window
//! of which nothing is known, or nothing new for long, is asked for first. Everything that was counted
//! is told, also if nobody comes any more.

use std::{
    collections::VecDeque,
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::plugin::{
    Due, Script, Step, Telling,
    limit::Shared,
    table::{Full, Table},
};

/// Windows that Redis is told of in one step, during which it does nothing else.
const WINDOWS_MAX: usize = 64;
/// Numbers that the script returns of each window.
const NUMBERS: usize = 4;

static TELL: Script = Script::new(
    concat!(include_str!("window.lua"), include_str!("tell.lua")),
    |windows, numbers| {
        numbers.len() == NUMBERS * windows && numbers.iter().all(|number| *number >= 0)
    },
);

/// The windows of one plugin.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) shared: Shared,
    interval: Duration,
    /// `fixed` or `sliding`.
    kind: &'static str,
    windows: Table<Window>,
    owed: Mutex<Owed>,
}

/// A window, by what Redis calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) key: Vec<u8>,
    pub(super) length: Duration,
}

#[derive(Debug, Default)]
struct Owed {
    /// Something was counted in these that Redis was not told; each is here once.
    windows: VecDeque<Named>,
    /// When Redis was asked last, whatever about.
    asked: Option<Instant>,
    /// Whether somebody tells it.
    is_told: bool,
}

/// What is known of a window.
#[derive(Debug, Default)]
struct Window {
    /// When Redis was asked last.
    asked: Option<Instant>,
    /// `None`: it has not answered yet.
    end: Option<Instant>,
    /// From when on none of this means anything.
    until: Option<Instant>,
    /// Requests that Redis has counted.
    used: u64,
    /// Those that it is being told of.
    telling: u64,
    /// Those that it is to be told of.
    owed: u64,
    /// Whether it is among [`Owed::windows`].
    is_listed: bool,
}

/// How a request stands to a window.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) is_allowed: bool,
    pub(super) remaining: u64,
    pub(super) left: Duration,
}

impl Told {
    pub(super) fn new(shared: Shared, interval: Duration, kind: &'static str) -> Told {
        Told { shared, interval, kind, windows: Table::new(), owed: Mutex::default() }
    }

    /// Whether enough is known of a window to count in it.
    pub(super) fn is_known(&self, window: &Named, now: Instant) -> bool {
        // Whoever tells is to come first.
        let patience = self.interval + self.interval / 2;
        let is_known = |window: &Window| {
            let is_recent = window.asked.is_some_and(|asked| now - asked < patience);
            is_recent && window.end.is_some_and(|end| now < end)
        };
        self.windows.with(self.windows.key(&window.key), now, is_known).unwrap_or(false)
    }

    /// What tells Redis of some windows and asks for them.
    pub(super) fn ask(&self, windows: &[Named], now: Instant) -> Result<Step, Full> {
        let mut asked = Vec::with_capacity(windows.len());
        for window in windows {
            asked.push((window, self.take(window, now)?));
        }
        self.lock().asked = Some(now);
        Ok(self.step(&asked))
    }

    fn step(&self, windows: &[(&Named, u64)]) -> Step {
        let mut arguments = vec![self.kind.into()];
        for (window, told) in windows {
            arguments.push(told.to_string().into());
            arguments.push(window.length.as_millis().to_string().into());
        }
        let keys = windows.iter().map(|(window, _)| window.key.clone()).collect();
        Step { script: &TELL, keys, arguments }
    }

    /// What Redis is to be told of a window, from now on by whoever asked.
    fn take(&self, window: &Named, now: Instant) -> Result<u64, Full> {
        self.windows.amend(self.windows.key(&window.key), now, |known| known.take(window, now))
    }

    /// The same of one that is listed no more.
    fn take_listed(&self, window: &Named, now: Instant) -> Result<u64, Full> {
        self.windows.amend(self.windows.key(&window.key), now, |known| {
            known.is_listed = false;
            known.take(window, now)
        })
    }

    /// What Redis has answered of windows, in their order; `None`: nothing, so that it has to be told
    /// again. It may have heard: better twice than never.
    pub(super) fn learn(&self, windows: &[Named], numbers: Option<&[i64]>, now: Instant) {
        let mut numbers = numbers.map(|numbers| numbers.as_chunks::<NUMBERS>().0.iter());
        for window in windows {
            let answer = numbers.as_mut().and_then(Iterator::next);
            let answer = answer.map(|numbers| numbers.map(i64::unsigned_abs));
            let is_owed = self.windows.amend(self.windows.key(&window.key), now, |known| {
                known.learn(answer, now);
                (known.until.unwrap_or(now), known.list())
            });
            if is_owed == Ok(true) {
                self.lock().windows.push_back(window.clone());
            }
        }
    }

    /// Counts a request unless it is one too many.
    pub(super) fn count(&self, window: &Named, limit: u64, now: Instant) -> Result<Counted, Full> {
        let (counted, is_to_be_listed) =
            self.windows.amend(self.windows.key(&window.key), now, |known| {
                let used = known.used + known.telling + known.owed;
                let is_allowed = used < limit;
                known.owed += u64::from(is_allowed);
                let left = known.end.map_or(window.length, |end| end.saturating_duration_since(now));
                let remaining = limit.saturating_sub(used + u64::from(is_allowed));
                let until = *known.until.get_or_insert(now + window.length);
                let counted = Counted { is_allowed, remaining, left };
                (until, (counted, known.list()))
            })?;
        if is_to_be_listed {
            self.lock().windows.push_back(window.clone());
        }
        Ok(counted)
    }

    fn lock(&self) -> MutexGuard<'_, Owed> {
        // Nothing that runs under the lock can leave half of it.
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Window {
    /// Until when it matters, and what Redis is told of it.
    fn take(&mut self, named: &Named, now: Instant) -> (Instant, u64) {
        let told = mem::take(&mut self.owed);
        self.telling += told;
        self.asked = Some(now);
        (*self.until.get_or_insert(now + named.length), told)
    }

    /// Whether it is to be listed, which it is then.
    fn list(&mut self) -> bool {
        self.owed > 0 && !mem::replace(&mut self.is_listed, true)
    }

    fn learn(&mut self, answer: Option<[u64; NUMBERS]>, now: Instant) {
        match answer {
            Some([told, used, left, lasts]) => {
                self.telling = self.telling.saturating_sub(told);
                self.used = used;
                self.end = Some(now + Duration::from_millis(left));
                self.until = Some(now + Duration::from_millis(lasts));
            }
            None => {
                self.owed += mem::take(&mut self.telling);
                self.asked = None;
            }
        }
    }
}

impl Telling for Told {
    fn interval(&self) -> Duration {
        self.interval
    }

    fn begin(&self) -> bool {
        !mem::replace(&mut self.lock().is_told, true)
    }

    fn due(&self, now: Instant) -> Due {
        loop {
            let mut owed = self.lock();
            if owed.windows.is_empty() {
                // What was asked for is counted in for as long, and by then told.
                let patience = 2 * self.interval;
                let is_over = owed.asked.is_none_or(|asked| now - asked >= patience);
                owed.is_told = !is_over;
                return if is_over { Due::Over } else { Due::Nothing };
            }
            let count = owed.windows.len().min(WINDOWS_MAX);
            let windows: Vec<Named> = owed.windows.drain(..count).collect();
            drop(owed);
            let told = windows.iter().map(|window| {
                let told = self.take_listed(window, now);
                (window, told.unwrap_or(0))
            });
            let told: Vec<_> = told.filter(|(_, told)| *told > 0).collect();
            if !told.is_empty() {
                self.lock().asked = Some(now);
                return Due::Step(self.step(&told));
            }
        }
    }

    fn told(&self, step: &Step, numbers: Option<&[i64]>, now: Instant) {
        let lengths = step.arguments.iter().skip(2).step_by(2);
        let windows = step.keys.iter().zip(lengths).map(|(key, length)| {
            let length = str::from_utf8(length).ok().and_then(|length| length.parse().ok());
            Named { key: key.clone(), length: Duration::from_millis(length.unwrap_or(0)) }
        });
        self.learn(&windows.collect::<Vec<_>>(), numbers, now);
    }
}

#[cfg(test)]
mod tests;
