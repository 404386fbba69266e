//! Moves the bytes of a tunnel between two sockets, by one of three paths, and says which.

use crate::error::Fault;

/// Which path carried the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Via {
    User,
    Splice,
    Sockmap,
}

impl Via {
    pub const ALL: [Via; 3] = [Via::User, Via::Splice, Via::Sockmap];

    /// Label in the access log and in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Via::User => "user",
            Via::Splice => "splice",
            Via::Sockmap => "sockmap",
        }
    }
}

/// What a tunnel moved before it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// To the downstream, bytes.
    pub sent_bytes: u64,
    /// From the downstream, bytes.
    pub recv_bytes: u64,
    pub via: Via,
    /// `None`: both sides closed in good order.
    pub end: Option<Fault>,
}
