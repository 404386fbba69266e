//! The waits of one connection, under one lazily armed timer.
//!
//! Starting and stopping a wait touches no timer wheel: the one `Sleep` is armed for the earliest
//! wait it has seen, and when it fires too early it is armed again. A connection that is never slow
//! pays for one timer in the length of its timeouts, not for one per request.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

/// What a connection can be waiting for, each with a deadline of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Bytes of the downstream: a head, a body, the next request.
    Downstream,
    /// Room in the downstream's socket.
    Send,
    /// Room in the node's socket, for a request that the express lane sends.
    Upload,
    /// The node: a response head, more of a response body.
    Upstream,
    /// For the downstream to have been silent for a while: an idle one gives its buffers up, one that
    /// takes nothing is looked after.
    Rest,
}

const WAITS: usize = 5;

#[derive(Debug)]
struct Armed {
    sleep: Pin<Box<Sleep>>,
    /// Whether the task has been told to be woken by it.
    is_registered: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    at: [Cell<Option<Instant>>; WAITS],
    has_expired: [Cell<bool>; WAITS],
    sleep: RefCell<Option<Armed>>,
    /// No wait that is under way ends before that.
    is_covered: Cell<bool>,
}

impl Armed {
    /// The task never changes, so one registration lasts until the timer fires.
    fn is_waiting(&self) -> bool {
        self.is_registered && !self.sleep.is_elapsed()
    }

    fn rearm(&mut self, deadline: Instant) {
        self.sleep.as_mut().reset(deadline);
        self.is_registered = false;
    }
}

impl Deadlines {
    /// Starts a wait unless it is already under way: polling again does not extend it.
    pub(crate) fn start(&self, wait: Wait, timeout: Duration) {
        self.start_all(&[(wait, timeout)]);
    }

    /// The same for several that begin together, at the price of one.
    pub(crate) fn start_all(&self, waits: &[(Wait, Duration)]) {
        let mut now = None;
        for (wait, timeout) in waits {
            let at = &self.at[*wait as usize];
            if at.get().is_none() {
                let end = *now.get_or_insert_with(Instant::now) + *timeout;
                at.set(Some(end));
                let armed = self.sleep.borrow();
                let is_covered = armed.as_ref().is_some_and(|armed| armed.sleep.deadline() <= end);
                self.is_covered.set(self.is_covered.get() && is_covered);
            }
        }
    }

    /// What was waited for has come, or is not waited for any more.
    pub(crate) fn stop(&self, wait: Wait) {
        self.at[wait as usize].set(None);
        self.has_expired[wait as usize].set(false);
    }

    pub(crate) fn is_under_way(&self, wait: Wait) -> bool {
        self.at[wait as usize].get().is_some()
    }

    /// How long a wait has been under way that was started with `timeout`.
    pub(crate) fn waited(&self, wait: Wait, timeout: Duration) -> Duration {
        let left = |at: Instant| at.saturating_duration_since(Instant::now());
        self.at[wait as usize].get().map_or(Duration::ZERO, |at| timeout.saturating_sub(left(at)))
    }

    pub(crate) fn has_expired(&self, wait: Wait) -> bool {
        self.has_expired[wait as usize].get()
    }

    /// The same, once for each expiry.
    pub(crate) fn take_expired(&self, wait: Wait) -> bool {
        self.has_expired[wait as usize].take()
    }

    /// Ready when a wait has just expired; the caller then polls whoever waits, to let it find out.
    pub(crate) fn poll_expired(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut slot = self.sleep.borrow_mut();
        if self.is_covered.get() && slot.as_ref().is_some_and(Armed::is_waiting) {
            return Poll::Pending;
        }
        let Some(earliest) = self.at.iter().filter_map(Cell::get).min() else {
            return Poll::Pending;
        };
        let armed = slot.get_or_insert_with(|| Armed {
            sleep: Box::pin(tokio::time::sleep_until(earliest)),
            is_registered: false,
        });
        if armed.sleep.deadline() > earliest {
            armed.rearm(earliest);
        }
        self.is_covered.set(true);
        if armed.is_waiting() {
            return Poll::Pending;
        }
        while armed.sleep.as_mut().poll(cx).is_ready() {
            let now = armed.sleep.deadline().max(Instant::now());
            if self.expire(now) {
                armed.rearm(now);
                return Poll::Ready(());
            }
            armed.rearm(earliest);
        }
        armed.is_registered = true;
        Poll::Pending
    }

    fn expire(&self, now: Instant) -> bool {
        let mut is_any = false;
        for (at, has_expired) in self.at.iter().zip(&self.has_expired) {
            if at.get().is_some_and(|at| at <= now) {
                at.set(None);
                has_expired.set(true);
                is_any = true;
            }
        }
        is_any
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn expired(deadlines: &Deadlines) {
        poll_fn(|cx| deadlines.poll_expired(cx)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn fires_the_earliest_wait_and_only_that() {
        let deadlines = Deadlines::default();
        deadlines.start(Wait::Upstream, 3 * SECOND);
        deadlines.start(Wait::Send, SECOND);
        expired(&deadlines).await;
        assert!(deadlines.has_expired(Wait::Send));
        assert!(!deadlines.has_expired(Wait::Upstream));
        expired(&deadlines).await;
        assert!(deadlines.has_expired(Wait::Upstream));
        assert!(!deadlines.has_expired(Wait::Downstream));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stopped_wait_never_fires_and_a_later_one_is_not_cut_short() {
        let deadlines = Deadlines::default();
        deadlines.start(Wait::Downstream, SECOND);
        let early = tokio::time::timeout(SECOND / 2, expired(&deadlines)).await;
        assert!(early.is_err());
        deadlines.stop(Wait::Downstream);
        deadlines.start(Wait::Downstream, 2 * SECOND);
        assert!(tokio::time::timeout(SECOND, expired(&deadlines)).await.is_err());
        assert!(!deadlines.has_expired(Wait::Downstream));
        expired(&deadlines).await;
        assert!(deadlines.has_expired(Wait::Downstream));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_ends_before_the_timer_fires_is_not_missed() {
        let deadlines = Deadlines::default();
        deadlines.start(Wait::Upstream, 5 * SECOND);
        assert!(tokio::time::timeout(SECOND, expired(&deadlines)).await.is_err());
        deadlines.start(Wait::Downstream, 9 * SECOND);
        deadlines.start(Wait::Send, SECOND);
        assert!(tokio::time::timeout(2 * SECOND, expired(&deadlines)).await.is_ok());
        assert!(deadlines.has_expired(Wait::Send));
        assert!(tokio::time::timeout(SECOND, expired(&deadlines)).await.is_err());
        assert!(tokio::time::timeout(3 * SECOND, expired(&deadlines)).await.is_ok());
        assert!(deadlines.has_expired(Wait::Upstream) && !deadlines.has_expired(Wait::Downstream));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_expired_can_be_had_again() {
        let deadlines = Deadlines::default();
        deadlines.start(Wait::Upstream, SECOND);
        expired(&deadlines).await;
        assert!(deadlines.has_expired(Wait::Upstream));
        deadlines.stop(Wait::Upstream);
        assert!(!deadlines.has_expired(Wait::Upstream));
        deadlines.start(Wait::Upstream, SECOND);
        expired(&deadlines).await;
        assert!(deadlines.has_expired(Wait::Upstream));
    }

    #[tokio::test(start_paused = true)]
    async fn starting_again_does_not_extend_a_wait() {
        let deadlines = Deadlines::default();
        deadlines.start(Wait::Send, SECOND);
        deadlines.start(Wait::Send, 60 * SECOND);
        assert!(tokio::time::timeout(2 * SECOND, expired(&deadlines)).await.is_ok());
    }
}
