//! A bypass is one response that goes from the node straight to the client, past us: userspace arms
//! it before it sends the request, `local` claims it for the node's response, `bypass` says that the
//! response is in the client's queue; or, if the client is on another host, in the send queue of our
//! end of its connection.

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
    /// When it was in the client's queue, `CLOCK_MONOTONIC`.
    pub done_ns: u64,
    /// Of the program that reads the response's head. Here, and not on its stack, because the verifier
    /// follows what is on the stack through every turn of a loop.
    pub scratch: [u64; 3],
}

shared_layout!(Bypass, size = 64, align = 8, {
    0 => turn: u64, 8 => client: u32, 12 => status: u32, 16 => head_size: u32, 20 => body_size: u32,
    24 => sender: u64, 32 => done_ns: u64, 40 => scratch: [u64; 3],
});

/// Whose turn it is.
///
/// | from      | to      | by                                                                  |
/// |-----------|---------|---------------------------------------------------------------------|
/// | any but `STARTED` | `ARMED` | userspace, with the next generation, before it sends a request |
/// | `ARMED`   | `IDLE`  | userspace, which carries the response itself                        |
/// | `ARMED`   | `SPILLED` | `local`: not a response for it; userspace carries it              |
/// | `ARMED`   | `STARTED` | `local`, before it redirects                                      |
/// | `STARTED` | `SPILLED` | `local` or `bypass`: nothing of it was queued after all            |
/// | `STARTED` | `DONE`  | `bypass`: all of it is queued                                       |
/// | `STARTED` | `BROKEN` | `bypass`: a part of it is queued; `local`: more came in the same call |
pub mod turn {
    pub const IDLE: u64 = 0;
    pub const ARMED: u64 = 1;
    pub const STARTED: u64 = 2;
    pub const DONE: u64 = 3;
    pub const SPILLED: u64 = 4;
    pub const BROKEN: u64 = 5;

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
