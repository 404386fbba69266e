//! A bypass is one response that goes from the node straight to the client, past us: userspace arms
//! it before it sends the request, `local` claims it for the node's response, `bypass` says after each
//! call of the node how much of the response is in the client's queue; or, if the client is on another
//! host, in the send queue of our end of its connection.

use crate::shared_layout;

/// A downstream connection that responses may go to past us. Written by our own end when it begins to
/// deliver, or by `remote` if the client is on another host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Client {
    /// Our end: the kernel's `struct sock`, and its cookie.
    pub own_sock: u64,
    pub own: u64,
    /// The client's; 0 if that is on another host.
    pub sock: u64,
    pub cookie: u64,
}

shared_layout!(Client, size = 32, align = 8, {
    0 => own_sock: u64, 8 => own: u64, 16 => sock: u64, 24 => cookie: u64,
});

/// What a connection to a node has of it. A cache line of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Bypass {
    /// A generation and a state ([`turn`]), changed by compare-and-swap, but for arming: then nobody
    /// else may change it.
    pub turn: u64,
    /// Where the response may go: 1 + the index of its [`Client`]. Written by userspace before it
    /// arms.
    pub client: u32,
    /// Of the response that is claimed, written before it is gone: its status,
    pub status: u32,
    /// and the bytes of its head and of its body.
    pub head_size: u32,
    pub body_size: u32,
    /// Process and thread of whoever sends it.
    pub sender: u64,
    /// When the last of it so far was in the client's queue, `CLOCK_MONOTONIC`.
    pub done_ns: u64,
    /// Until the claim the program that reads the response's head has its state here, and not on its
    /// stack, because the verifier follows what is there through every turn of a loop.
    pub progress: Progress,
}

shared_layout!(Bypass, size = 64, align = 8, {
    0 => turn: u64, 8 => client: u32, 12 => status: u32, 16 => head_size: u32, 20 => body_size: u32,
    24 => sender: u64, 32 => done_ns: u64, 40 => progress: Progress,
});

/// How far a claimed response has come. The programs of the node's socket write, one call at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Progress {
    /// When the first of it was in the client's queue, `CLOCK_MONOTONIC`; 0: it is not, or not known to
    /// be.
    pub begun_ns: u64,
    /// Bytes that are queued for certain.
    pub queued: u32,
    /// Bytes that were redirected in the node's present call. What of them is queued is known when that
    /// is over, or when the kernel has the next message of it.
    pub offered: u32,
    /// Messages redirected since the client was last seen with nothing unread.
    pub unread_messages: u64,
}

shared_layout!(Progress, size = 24, align = 8, {
    0 => begun_ns: u64, 8 => queued: u32, 12 => offered: u32, 16 => unread_messages: u64,
});

impl Bypass {
    /// Bytes of the response that is claimed, head and body. Whoever claims it makes sure that there
    /// are so many.
    #[inline(always)]
    pub const fn size(&self) -> u32 {
        self.head_size.wrapping_add(self.body_size)
    }
}

/// Whose turn it is.
///
/// | from      | to      | by                                                                  |
/// |-----------|---------|---------------------------------------------------------------------|
/// | any but `STARTED` | `ARMED` | userspace, with the next generation, before it sends a request |
/// | `ARMED`   | `IDLE`  | userspace, which carries the response itself                        |
/// | `ARMED`   | `SPILLED` | `local`: not a response for it; userspace carries it              |
/// | `ARMED`, `FLOWING` | `STARTED` | `local`, before it redirects: the node's call has it      |
/// | `STARTED` | `SPILLED` | `local` or `bypass`: nothing of it was queued after all            |
/// | `STARTED` | `DONE`  | `bypass`, when the call is over: all of it is queued                |
/// | `STARTED` | `FLOWING` | `bypass`, when the call is over: more is to come                  |
/// | `STARTED`, `FLOWING` | `HANDED_OVER` | `local` or `bypass`: userspace carries what is not queued |
/// | `STARTED` | `BROKEN` | `local` or `bypass`: nobody knows what of it is queued             |
/// | `FLOWING` | `IDLE`  | userspace, which gives both connections up                          |
pub mod turn {
    pub const IDLE: u64 = 0;
    pub const ARMED: u64 = 1;
    pub const STARTED: u64 = 2;
    pub const DONE: u64 = 3;
    pub const SPILLED: u64 = 4;
    pub const BROKEN: u64 = 5;
    pub const FLOWING: u64 = 6;
    pub const HANDED_OVER: u64 = 7;

    const STATE: u64 = 0xff;

    #[inline(always)]
    pub const fn state(turn: u64) -> u64 {
        turn & STATE
    }

    /// The same generation in another state.
    #[inline(always)]
    pub const fn with(turn: u64, state: u64) -> u64 {
        turn & !STATE | state
    }

    /// The next generation, armed.
    #[inline(always)]
    pub const fn next(turn: u64) -> u64 {
        with(turn.wrapping_add(STATE + 1), ARMED)
    }
}

#[cfg(test)]
mod tests {
    use super::turn;

    #[test]
    fn a_turn_keeps_its_generation_in_every_state() {
        let first = turn::next(turn::IDLE);
        assert_eq!(turn::state(first), turn::ARMED);
        let done = turn::with(first, turn::DONE);
        assert_eq!(turn::state(done), turn::DONE);
        let second = turn::next(done);
        assert_eq!(turn::state(second), turn::ARMED);
        assert_ne!(second, first);
        assert_eq!(turn::state(turn::next(turn::with(u64::MAX, turn::BROKEN))), turn::ARMED);
    }
}
