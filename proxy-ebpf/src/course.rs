//! How far a response has come that goes past us, message by message: pure arithmetic.
//!
//! What is queued at the client is never concluded from what was redirected. The kernel says it: the
//! end of the node's call by its result, the next message of the same call by being there.

use proxy_common::{
    Reason,
    bypass::{Bypass, turn},
    limits::RESPONSE_EXTRA_MAX,
};

/// Bytes of a response that may be unread: of what is sent in one call the first messages alone are
/// there before the client can read.
#[inline(always)]
pub const fn window(window: u32) -> u32 {
    let extra = if window < RESPONSE_EXTRA_MAX { window } else { RESPONSE_EXTRA_MAX };
    window.saturating_add(extra)
}

/// Bytes of the response that were not redirected yet.
#[inline(always)]
pub const fn due(bypass: &Bypass) -> u32 {
    let progress = &bypass.progress;
    bypass.size().saturating_sub(progress.queued.saturating_add(progress.offered))
}

/// Everything that was redirected in the present call is queued.
#[inline(always)]
pub const fn all_queued(bypass: &mut Bypass, now_ns: u64) {
    let offered = bypass.progress.offered;
    queued(bypass, offered, now_ns);
}

#[inline(always)]
const fn queued(bypass: &mut Bypass, bytes: u32, now_ns: u64) {
    let progress = &mut bypass.progress;
    progress.offered = 0;
    if bytes == 0 {
        return;
    }
    progress.queued = progress.queued.saturating_add(bytes);
    if progress.begun_ns == 0 {
        progress.begun_ns = now_ns;
    }
    bypass.done_ns = now_ns;
}

/// A call is over of which everything was redirected; it took `taken` bytes, or gave an error. What
/// state follows, and what is to be counted, if anything.
#[inline(always)]
pub fn call_over(bypass: &mut Bypass, taken: i32, now_ns: u64) -> (u64, Option<Reason>) {
    let taken = if taken > 0 { taken as u32 } else { 0 };
    let offered = bypass.progress.offered;
    if taken > offered {
        return (turn::BROKEN, Some(Reason::TakenInPart));
    }
    queued(bypass, taken, now_ns);
    let queued = bypass.progress.queued;
    if queued == bypass.size() {
        (turn::DONE, Some(Reason::Bypassed))
    } else if taken == offered {
        (turn::FLOWING, None)
    } else if queued == 0 {
        (turn::SPILLED, Some(Reason::NotTakenIn))
    } else if queued >= bypass.head_size {
        (turn::HANDED_OVER, Some(Reason::NotTakenIn))
    } else {
        (turn::BROKEN, Some(Reason::TakenInPart))
    }
}

#[cfg(test)]
mod tests {
    use proxy_common::bypass::Progress;

    use super::*;

    const HEAD: u32 = 100;
    const BODY: u32 = 900;

    fn response(queued: u32, offered: u32) -> Bypass {
        let progress = Progress { begun_ns: 0, queued, offered, unread_messages: 0 };
        let (head_size, body_size) = (HEAD, BODY);
        Bypass {
            turn: 0,
            client: 1,
            status: 200,
            head_size,
            body_size,
            sender: 0,
            done_ns: 0,
            progress,
        }
    }

    #[track_caller]
    fn check(queued: u32, offered: u32, taken: i32, state: u64, reason: Option<Reason>, left: u32) {
        let mut bypass = response(queued, offered);
        assert_eq!(call_over(&mut bypass, taken, 7), (state, reason));
        assert_eq!(due(&bypass), left);
    }

    #[test]
    fn a_call_takes_all_a_part_or_nothing() {
        check(0, 1000, 1000, turn::DONE, Some(Reason::Bypassed), 0);
        check(400, 600, 600, turn::DONE, Some(Reason::Bypassed), 0);
        check(0, 400, 400, turn::FLOWING, None, 600);
        check(400, 500, 500, turn::FLOWING, None, 100);
        check(0, 400, -11, turn::SPILLED, Some(Reason::NotTakenIn), 1000);
        check(0, 400, 0, turn::SPILLED, Some(Reason::NotTakenIn), 1000);
        check(400, 500, -12, turn::HANDED_OVER, Some(Reason::NotTakenIn), 600);
        check(400, 500, 499, turn::HANDED_OVER, Some(Reason::NotTakenIn), 101);
        check(0, 400, 100, turn::HANDED_OVER, Some(Reason::NotTakenIn), 900);
    }

    #[test]
    fn nobody_can_go_on_within_a_head_or_behind_what_was_not_redirected() {
        check(0, 400, 99, turn::BROKEN, Some(Reason::TakenInPart), 901);
        check(0, 400, 401, turn::BROKEN, Some(Reason::TakenInPart), 600);
    }

    #[test]
    fn a_response_may_exceed_the_window_by_no_more_than_that() {
        assert_eq!([0, 64 << 10, 1 << 20].map(window), [0, 128 << 10, 2 << 20]);
        assert_eq!([4 << 20, u32::MAX - 1].map(window), [5 << 20, u32::MAX]);
    }

    #[test]
    fn the_first_and_the_last_of_it_have_their_times() {
        let mut bypass = response(0, 0);
        let times = |bypass: &Bypass| (bypass.progress.begun_ns, bypass.done_ns);
        for (offered, now, expected) in [(0, 3, (0, 0)), (200, 5, (5, 5)), (300, 8, (5, 8))] {
            bypass.progress.offered = offered;
            all_queued(&mut bypass, now);
            assert_eq!(times(&bypass), expected);
        }
        assert_eq!((bypass.progress.queued, due(&bypass)), (500, 500));
    }
}
