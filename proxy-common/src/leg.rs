//! A leg is one TCP connection of ours whose both ends live on this kernel. Its two sockets find each
//! other by its addresses and initial sequence numbers, and tell the programs what they need to know
//! of the other end.

use crate::{
    addr::{Address, Destination},
    shared_layout,
};

/// What both ends of a connection agree on, as the active end saw it when it was established. Equal
/// addresses and ports exist in several network namespaces; equal sequence numbers as well do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Key {
    pub active: Address,
    pub passive: Address,
    pub active_port_be: [u8; 2],
    pub passive_port_be: [u8; 2],
    /// Of the first byte that the active end sends.
    pub active_seq: u32,
    /// Of the first byte that the passive end sends.
    pub passive_seq: u32,
}

shared_layout!(Key, size = 44, align = 4, {
    0 => active: Address, 16 => passive: Address, 32 => active_port_be: [u8; 2],
    34 => passive_port_be: [u8; 2], 36 => active_seq: u32, 40 => passive_seq: u32,
});

impl Key {
    /// No connection's.
    pub const NONE: Key = Key {
        active: Address::v6([0; 16]),
        passive: Address::v6([0; 16]),
        active_port_be: [0; 2],
        passive_port_be: [0; 2],
        active_seq: 0,
        passive_seq: 0,
    };
}

/// One end of a leg. Written once, by the program that sees the end established, the cookie last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct End {
    /// 0: not seen yet.
    pub cookie: u64,
    /// The kernel's `struct sock`; may be read only between two looks at its cookie.
    pub sock: u64,
    /// Cookie of its network namespace.
    pub namespace: u64,
}

shared_layout!(End, size = 24, align = 8, {
    0 => cookie: u64, 8 => sock: u64, 16 => namespace: u64,
});

/// Both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Leg {
    pub active: End,
    pub passive: End,
    /// When the first of them was seen, `CLOCK_MONOTONIC`.
    pub since_ns: u64,
    /// 1: something was delivered, by either end.
    pub is_fruitful: u64,
}

shared_layout!(Leg, size = 64, align = 8, {
    0 => active: End, 24 => passive: End, 48 => since_ns: u64, 56 => is_fruitful: u64,
});

/// What a socket remembers of its leg. Written by programs that run for this socket, and by whoever
/// owns a socket of ours, while nobody sends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Member {
    pub key: Key,
    /// Bits of [`state`].
    pub state: u32,
    pub cookie: u64,
    /// The other end, once it is known; 0 before.
    pub peer: u64,
    pub peer_sock: u64,
    /// Messages delivered since the other end was last seen with nothing unread.
    pub unread_messages: u64,
    /// [`Received::place`] of this socket and of the other end: where what is delivered is counted.
    pub own_place: u32,
    pub peer_place: u32,
}

shared_layout!(Member, size = 88, align = 8, {
    0 => key: Key, 44 => state: u32, 48 => cookie: u64, 56 => peer: u64, 64 => peer_sock: u64,
    72 => unread_messages: u64, 80 => own_place: u32, 84 => peer_place: u32,
});

/// Bits of [`Member::state`].
pub mod state {
    /// A socket of ours that connects to a node.
    pub const UPSTREAM: u32 = 1;
    /// The end that connected.
    pub const ACTIVE: u32 = 2;
    /// What this socket sent last was delivered, so that nothing of it is on its way through TCP.
    pub const DIRECT: u32 = 4;
    /// Userspace wants everything that this socket sends to go by TCP.
    pub const BY_TCP: u32 = 8;
    /// A socket of ours that accepted.
    pub const DOWNSTREAM: u32 = 16;
    /// From here up: how often userspace found the other end to hold it up.
    pub const ONE_STRIKE: u32 = 256;
}

/// Value of an address in `OWN_ADDRESSES` whose connections are ours and no legs.
pub const NO_LEGS: u32 = u32::MAX;

impl Member {
    /// What userspace writes for a socket that is about to connect to a node.
    pub const UPSTREAM: Member = Member {
        key: Key::NONE,
        state: state::UPSTREAM,
        cookie: 0,
        peer: 0,
        peer_sock: 0,
        unread_messages: 0,
        own_place: 0,
        peer_place: 0,
    };

    /// Where the connection leads: a listener of ours, or a node.
    #[inline(always)]
    pub const fn destination(&self) -> Destination {
        Destination::new(self.key.passive, self.key.passive_port_be)
    }
}

/// How far the bytes that came to a socket by TCP have been seen, so that none is handed out twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Received {
    /// Sequence number of the next byte that has not been seen yet.
    pub next_seq: u32,
    /// Bits of [`crate::tunnel::state`].
    pub state: u32,
    /// Bytes that arrived a second time and were cut off.
    pub trimmed: u64,
    /// Where what is delivered on a socket of ours is counted: 1 + the index of its [`Delivered`]; 0:
    /// nowhere. Never changes.
    pub place: u32,
    pub reserved: u32,
}

shared_layout!(Received, size = 24, align = 8, {
    0 => next_seq: u32, 4 => state: u32, 8 => trimmed: u64, 16 => place: u32, 20 => reserved: u32,
});

/// Bytes that were delivered on a socket of ours so far, whoever had the place before included. Each
/// word is written by one end, and has a cache line of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Delivered {
    /// By this socket.
    pub sent: u64,
    pub reserved_sent: [u64; 7],
    /// To it.
    pub received: u64,
    pub reserved_received: [u64; 7],
}

shared_layout!(Delivered, size = 128, align = 8, {
    0 => sent: u64, 8 => reserved_sent: [u64; 7], 64 => received: u64,
    72 => reserved_received: [u64; 7],
});

/// Where the programs `unread` and `remote` find the cookie they are asked about: behind the Ethernet
/// header that a test run needs.
pub const COOKIE_AT: usize = 14;
/// Behind it: where `remote` finds the place, a `u64` as well.
pub const PLACE_AT: usize = COOKIE_AT + 8;

/// The switch that userspace turns while connections live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Switch {
    /// 1: messages may be delivered directly; 0: everything goes by TCP.
    pub enabled: u64,
}

shared_layout!(Switch, size = 8, align = 8, { 0 => enabled: u64 });
