//! How much may be delivered to a receiver that does not read, or put into a send queue that does not
//! drain: pure arithmetic.
//!
//! Neither has a backpressure of its own that the sender would notice. What may not be delivered goes by
//! TCP, whose window closes.

use proxy_common::{
    Reason,
    leg::NO_LEGS,
    limits::{SHORT_LIVED_MAX, SHORT_LIVED_TAKEN, UNREAD_MESSAGES_MAX},
};

/// A message that is to be delivered, in bytes: its size, what the receiver has not read, and how much
/// that may become.
#[derive(Clone, Copy)]
pub struct Message {
    pub size: u32,
    pub unread: u32,
    pub window: u32,
}

/// Whether a message may be delivered; if so it is counted in `messages`, those delivered since the
/// receiver had nothing unread.
///
/// # Errors
/// [`Reason::UnreadBytes`], [`Reason::UnreadMessages`].
#[inline(always)]
pub fn admit(messages: &mut u64, message: Message) -> Result<(), Reason> {
    if message.unread == 0 {
        *messages = 0;
    }
    if message.unread.saturating_add(message.size) > message.window {
        return Err(Reason::UnreadBytes);
    }
    if *messages >= UNREAD_MESSAGES_MAX {
        return Err(Reason::UnreadMessages);
    }
    *messages += 1;
    Ok(())
}

/// The send queue of a socket, in bytes: of memory that it still takes, of data in one segment.
#[derive(Clone, Copy)]
pub struct SendQueue {
    pub free: u32,
    pub segment: u32,
}

/// Whether a send queue takes a message at once, whatever becomes of it there. What is there twice
/// covers the bookkeeping of large segments; a client may ask for small ones, of which each is charged
/// like a large one if its window keeps them apart.
#[inline(always)]
pub const fn fits(size: u32, queue: SendQueue) -> bool {
    /// What options may take from a segment.
    const OPTIONS_MAX: u32 = 40;
    /// `SKB_TRUESIZE` of a buffer with room for headers only, 960 on v6.18.
    const BUFFER_COST: u64 = 1280;
    let Some(segments) = size.checked_div(queue.segment.saturating_sub(OPTIONS_MAX)) else {
        return false;
    };
    // Neither the first nor the last one is full.
    let cost = (segments as u64 + 2) * BUFFER_COST + size as u64;
    size <= queue.free / 2 && cost <= queue.free as u64
}

/// Whether the connection that comes is taken, after `barren` others in a row that were closed before
/// anything on them was delivered. From [`SHORT_LIVED_MAX`] on it counts those that come.
#[inline(always)]
pub const fn takes(barren: &mut u32) -> bool {
    let count = *barren;
    if count < SHORT_LIVED_MAX {
        return true;
    }
    *barren = if count >= NO_LEGS - 1 { SHORT_LIVED_MAX } else { count + 1 };
    count.is_multiple_of(SHORT_LIVED_TAKEN)
}

/// A connection that was taken is closed, and nothing on it was delivered.
#[inline(always)]
pub const fn was_barren(barren: &mut u32) {
    if *barren < SHORT_LIVED_MAX {
        *barren += 1;
    }
}

/// Something on a connection was delivered: others may be worth it too.
#[inline(always)]
pub const fn was_fruitful(barren: &mut u32) {
    if *barren != NO_LEGS {
        *barren = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: u32 = 1000;

    #[track_caller]
    fn check(messages: u64, size: u32, unread: u32, expected: Result<u64, Reason>) {
        let mut count = messages;
        let admitted = admit(&mut count, Message { size, unread, window: WINDOW });
        assert_eq!(admitted.map(|()| count), expected);
    }

    #[test]
    fn bytes_stay_within_the_window() {
        check(0, WINDOW, 0, Ok(1));
        check(0, WINDOW + 1, 0, Err(Reason::UnreadBytes));
        check(1, 1, WINDOW - 1, Ok(2));
        check(1, 1, WINDOW, Err(Reason::UnreadBytes));
        check(1, u32::MAX, 1, Err(Reason::UnreadBytes));
    }

    #[test]
    fn a_send_queue_takes_less_in_small_segments() {
        let fits = |size, free, segment| fits(size, SendQueue { free, segment });
        assert!(fits(64 << 10, 128 << 10, 1448));
        assert!(!fits((64 << 10) + 1, 128 << 10, 1448));
        assert!(fits(100, 4608, 1448) && fits(0, 2560, 1448) && !fits(0, 2559, 1448));
        assert!(!fits(60_000, 128 << 10, 76) && fits(60_000, 4 << 20, 76));
        assert!(!fits(1, u32::MAX, 40) && !fits(1 << 20, u32::MAX >> 2, 41));
    }

    #[test]
    fn connections_that_come_together_are_all_taken() {
        let mut barren = SHORT_LIVED_MAX - 1;
        assert!((0..1000).all(|_| takes(&mut barren)));
    }

    #[test]
    fn of_many_barren_connections_few_are_taken() {
        let mut barren = 0;
        for _ in 0..2 * SHORT_LIVED_MAX {
            was_barren(&mut barren);
        }
        assert_eq!(barren, SHORT_LIVED_MAX);
        let come = 0..10 * SHORT_LIVED_TAKEN;
        assert_eq!(come.filter(|_| takes(&mut barren)).count(), 10);
        was_fruitful(&mut barren);
        assert!(barren == 0 && takes(&mut barren));
        barren = NO_LEGS - 1;
        takes(&mut barren);
        assert_eq!(barren, SHORT_LIVED_MAX);
        barren = NO_LEGS;
        was_barren(&mut barren);
        was_fruitful(&mut barren);
        assert_eq!(barren, NO_LEGS);
    }

    #[test]
    fn messages_are_bounded_until_nothing_is_unread() {
        check(UNREAD_MESSAGES_MAX - 1, 1, 1, Ok(UNREAD_MESSAGES_MAX));
        check(UNREAD_MESSAGES_MAX, 1, 1, Err(Reason::UnreadMessages));
        check(UNREAD_MESSAGES_MAX, 1, 0, Ok(1));
    }
}
