//! Faults of the data path and the one table of what follows from each.
//!
//! A stage's own error becomes a [`Fault`] where side and phase are known; an `io::Error` alone
//! does not know whose socket failed, so there is no conversion from it.

use http::StatusCode;

/// What went wrong with a request or a proxied connection, where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    // downstream, head
    HeadMalformed,
    HeadTooLarge,
    TargetTooLong,
    HeadTimedOut,
    /// The downstream closed before the head was whole.
    HeadClosed,
    VersionUnsupported,
    MethodRefused,
    ExpectationRefused,
    // downstream, framing and body
    FramingAmbiguous,
    BodyMalformed,
    BodyTooLarge,
    BodyTimedOut,
    /// The downstream closed or reset while something was still owed to it or expected from it.
    DownstreamReset,
    SendTimedOut,
    // local
    GuardDenied,
    RateLimited,
    NoRoute,
    Denied,
    Loop,
    /// It is for whoever it has come to: forwarded as often as it says (`Max-Forwards`), or `OPTIONS *`.
    EndOfChain,
    /// The route leads nowhere, and no plugin has answered.
    NoUpstream,
    /// The upstream's names resolve to nothing.
    NoNode,
    /// There is no room for a body that a plugin has to see.
    BodyMemory,
    DrainDeadline,
    Internal,
    /// No file is left to dial a node with.
    OutOfFiles,
    // upstream
    ConnectRefused,
    ConnectTimedOut,
    /// There were nodes left to try, and no time (`retry_timeout`).
    RetriesTimedOut,
    /// A pooled connection turned out to be closed before it answered.
    StaleConnection,
    UpstreamClosed,
    ResponseMalformed,
    ResponseTimedOut,
    ResponseTruncated,
    ResponseBodyTimedOut,
    UpstreamReset,
    TunnelTimedOut,
    /// The kernel has begun to queue a response at the client, and nobody can complete it.
    BypassBroken,
}

/// What follows from a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Consequence {
    /// Answered if no response head has left yet; `None` closes without an answer.
    pub status: Option<StatusCode>,
    pub retry: Retry,
    /// Two letters of the access log: who ended it, in which phase.
    pub end: &'static str,
    /// Metric label.
    pub label: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    Never,
    /// Nothing was sent: any request may go to the next node.
    NextNode,
    /// Once, on a new connection, if the request can be replayed.
    FreshConnection,
    /// To the next node, if the upstream wants that and the request can be replayed.
    AfterReset,
    AfterTimeout,
}

impl Fault {
    pub const ALL: [Fault; 38] = [
        Fault::HeadMalformed,
        Fault::HeadTooLarge,
        Fault::TargetTooLong,
        Fault::HeadTimedOut,
        Fault::HeadClosed,
        Fault::VersionUnsupported,
        Fault::MethodRefused,
        Fault::ExpectationRefused,
        Fault::FramingAmbiguous,
        Fault::BodyMalformed,
        Fault::BodyTooLarge,
        Fault::BodyTimedOut,
        Fault::DownstreamReset,
        Fault::SendTimedOut,
        Fault::GuardDenied,
        Fault::RateLimited,
        Fault::NoRoute,
        Fault::Denied,
        Fault::Loop,
        Fault::EndOfChain,
        Fault::NoUpstream,
        Fault::NoNode,
        Fault::BodyMemory,
        Fault::DrainDeadline,
        Fault::Internal,
        Fault::OutOfFiles,
        Fault::ConnectRefused,
        Fault::ConnectTimedOut,
        Fault::RetriesTimedOut,
        Fault::StaleConnection,
        Fault::UpstreamClosed,
        Fault::ResponseMalformed,
        Fault::ResponseTimedOut,
        Fault::ResponseTruncated,
        Fault::ResponseBodyTimedOut,
        Fault::UpstreamReset,
        Fault::TunnelTimedOut,
        Fault::BypassBroken,
    ];

    /// Whether it tells something about the node.
    pub fn is_of_node(self) -> bool {
        self.consequence().end.starts_with(['S', 's'])
    }

    /// The table. End codes: first letter `C` downstream, `S` upstream, `P` proxy by policy, `I`
    /// internal, `K` operator, `R` something has run out, lower case `c`, `s` their timeout; second letter `A` accept, `R` request head, `F` plugin, `P` pick, `C` connect, `H` response head, `D` data,
    /// `L` last bytes downstream.
    pub const fn consequence(self) -> Consequence {
        use Retry::{AfterReset, AfterTimeout, FreshConnection, Never, NextNode};
        const fn row(
            status: u16,
            retry: Retry,
            end: &'static str,
            label: &'static str,
        ) -> Consequence {
            let status = match StatusCode::from_u16(status) {
                Ok(status) => Some(status),
                Err(_) => None,
            };
            Consequence { status, retry, end, label }
        }
        /// Not a status code: the connection is closed without an answer.
        const CLOSE: u16 = 0;
        match self {
            Fault::HeadMalformed => row(400, Never, "PR", "head_malformed"),
            Fault::HeadTooLarge => row(431, Never, "PR", "head_too_large"),
            Fault::TargetTooLong => row(414, Never, "PR", "target_too_long"),
            Fault::HeadTimedOut => row(408, Never, "cR", "head_timeout"),
            Fault::HeadClosed => row(CLOSE, Never, "CR", "head_closed"),
            Fault::VersionUnsupported => row(505, Never, "PR", "version_unsupported"),
            Fault::MethodRefused => row(405, Never, "PR", "method_refused"),
            Fault::ExpectationRefused => row(417, Never, "PR", "expectation_refused"),
            Fault::FramingAmbiguous => row(400, Never, "PR", "framing_ambiguous"),
            Fault::BodyMalformed => row(400, Never, "PD", "body_malformed"),
            Fault::BodyTooLarge => row(413, Never, "PD", "body_too_large"),
            Fault::BodyTimedOut => row(408, Never, "cD", "body_timeout"),
            Fault::DownstreamReset => row(CLOSE, Never, "CD", "downstream_reset"),
            Fault::SendTimedOut => row(CLOSE, Never, "cL", "send_timeout"),
            Fault::GuardDenied => row(CLOSE, Never, "PA", "guard_denied"),
            Fault::RateLimited => row(CLOSE, Never, "PA", "rate_limited"),
            Fault::NoRoute => row(404, Never, "PF", "no_route"),
            Fault::Denied => row(401, Never, "PF", "denied"),
            Fault::Loop => row(508, Never, "PF", "loop"),
            Fault::EndOfChain => row(405, Never, "PF", "end_of_chain"),
            Fault::NoUpstream => row(503, Never, "PP", "no_upstream"),
            Fault::NoNode => row(503, Never, "SP", "no_node"),
            Fault::BodyMemory => row(503, Never, "RF", "body_memory"),
            Fault::DrainDeadline => row(CLOSE, Never, "KD", "drain_deadline"),
            Fault::Internal => row(500, Never, "IF", "internal"),
            Fault::OutOfFiles => row(503, Never, "RC", "out_of_files"),
            Fault::ConnectRefused => row(502, NextNode, "SC", "connect_refused"),
            Fault::ConnectTimedOut => row(504, NextNode, "sC", "connect_timeout"),
            Fault::RetriesTimedOut => row(502, Never, "sC", "retry_timeout"),
            Fault::StaleConnection => row(502, FreshConnection, "SH", "stale_connection"),
            Fault::UpstreamClosed => row(502, AfterReset, "SH", "upstream_closed"),
            Fault::ResponseMalformed => row(502, Never, "SH", "response_malformed"),
            Fault::ResponseTimedOut => row(504, AfterTimeout, "sH", "response_timeout"),
            Fault::ResponseTruncated => row(CLOSE, Never, "SD", "response_truncated"),
            Fault::ResponseBodyTimedOut => row(CLOSE, Never, "sD", "response_body_timeout"),
            Fault::UpstreamReset => row(CLOSE, Never, "SD", "upstream_reset"),
            Fault::TunnelTimedOut => row(CLOSE, Never, "cD", "tunnel_timeout"),
            Fault::BypassBroken => row(CLOSE, Never, "RD", "bypass_broken"),
        }
    }
}

impl Fault {
    /// What it is answered with; 500 for one that is not meant to be answered.
    pub fn status(self) -> StatusCode {
        self.consequence().status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_fault_has_its_own_label() {
        let labels: HashSet<_> = Fault::ALL.iter().map(|fault| fault.consequence().label).collect();
        assert_eq!(labels.len(), Fault::ALL.len());
    }

    #[test]
    fn nothing_is_retried_once_a_response_has_begun() {
        let retried: Vec<_> =
            Fault::ALL.into_iter().filter(|f| f.consequence().retry != Retry::Never).collect();
        assert_eq!(
            retried,
            [
                Fault::ConnectRefused,
                Fault::ConnectTimedOut,
                Fault::StaleConnection,
                Fault::UpstreamClosed,
                Fault::ResponseTimedOut,
            ]
        );
    }

    #[test]
    fn end_codes_are_two_letters() {
        assert!(Fault::ALL.iter().all(|fault| fault.consequence().end.len() == 2));
    }
}
