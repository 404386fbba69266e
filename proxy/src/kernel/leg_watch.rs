//! Whether the other end of a leg holds a worker up.
//!
//! Delivering a message waits for whoever is in a call on the receiver. `local` looks before, which
//! leaves a gap; somebody who stays there, in a page fault perhaps, is not delivered to any more. A
//! worker that had to leave its processor to others is as late, but it has not slept. That is looked at
//! for a while after a call was slow, as it costs a system call.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use crate::sys;

/// No call on the other end takes this long.
const HELD_UP_MAX: Duration = Duration::from_millis(5);
/// Nor does a worker wait this long for its processor.
const PREEMPTED_MAX: Duration = Duration::from_millis(100);
/// How long it is looked at whether a worker sleeps, after a call that was slow.
const ALERT_TIME: Duration = Duration::from_secs(60);

thread_local! {
    /// When a call of this worker was slow last.
    static SLOW: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Times what may deliver to the other end of a leg.
#[derive(Debug, Clone, Copy)]
pub struct LegWatch(Option<Watch>);

#[derive(Debug, Clone, Copy)]
struct Watch {
    started: Instant,
    /// How often the worker had slept before; `None`: it was not looked at.
    sleeps: Option<u64>,
}

impl LegWatch {
    /// Costs nothing if it is no leg.
    pub fn start(is_leg: bool) -> Self {
        Self(is_leg.then(|| {
            let started = Instant::now();
            let is_recent = |slow: Instant| started.saturating_duration_since(slow) < ALERT_TIME;
            let is_alert = SLOW.get().is_some_and(is_recent);
            Watch { started, sleeps: is_alert.then(sys::thread::sleeps) }
        }))
    }

    /// Whether the other end has held this worker up since.
    pub(super) fn has_been_held_up(&self) -> bool {
        let Some(Watch { started, sleeps }) = self.0 else { return false };
        let now = Instant::now();
        let elapsed = now.saturating_duration_since(started);
        if elapsed <= HELD_UP_MAX {
            return false;
        }
        SLOW.set(Some(now));
        is_held_up(elapsed, sleeps.map(|before| sys::thread::sleeps().saturating_sub(before)))
    }
}

/// Of a call that was slow. `slept`: how often, if that was looked at.
fn is_held_up(elapsed: Duration, slept: Option<u64>) -> bool {
    match slept {
        Some(times) => times > 0,
        None => elapsed > PREEMPTED_MAX,
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const SLOW_CALL: Duration = Duration::from_millis(10);

    fn is_held_up_by(call: impl FnOnce()) -> bool {
        let watch = LegWatch::start(true);
        call();
        watch.has_been_held_up()
    }

    fn work() {
        let began = Instant::now();
        while began.elapsed() < SLOW_CALL {}
    }

    #[test]
    fn a_slow_call_that_nobody_looked_into_counts_if_it_was_very_slow() {
        assert!(!is_held_up(PREEMPTED_MAX, None));
        assert!(is_held_up(PREEMPTED_MAX + SLOW_CALL, None));
        assert!(!is_held_up(PREEMPTED_MAX + SLOW_CALL, Some(0)));
        assert!(is_held_up(SLOW_CALL, Some(1)));
    }

    #[test]
    fn who_sleeps_is_held_up_and_who_works_is_not() {
        // From here on it is looked at.
        is_held_up_by(work);
        assert!(SLOW.get().is_some());
        assert!(!is_held_up_by(work));
        assert!(is_held_up_by(|| thread::park_timeout(SLOW_CALL)));
    }

    #[test]
    fn what_is_no_leg_holds_nobody_up() {
        let watch = LegWatch::start(false);
        thread::park_timeout(SLOW_CALL);
        assert!(!watch.has_been_held_up());
        assert_eq!(SLOW.get(), None);
    }
}
