//! Why a program did what it did. Verdict numbers are the programs' own business.

/// Declares [`Reason`] with the program that gives each one and its metric label.
macro_rules! reasons {
    ($($(#[$doc:meta])* $reason:ident = $program:ident, $label:literal;)+) => {
        /// Why a packet, connection or buffer got its verdict. The number indexes the counter map
        /// and is dense from 0; the label is the metric label.
        ///
        /// Only ever written as an index (`as u32`): no number from outside becomes a `Reason`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Reason {
            $($(#[$doc])* $reason,)+
        }

        impl Reason {
            /// Every reason, in the order of their numbers.
            pub const ALL: [Reason; Reason::COUNT] = [$(Reason::$reason,)+];

            /// How many there are: the size of the counter map.
            pub const COUNT: usize = [$($label,)+].len();

            /// Metric label; unique within its program.
            pub const fn label(self) -> &'static str {
                match self { $(Reason::$reason => $label,)+ }
            }

            /// Name of the program that gives this reason.
            pub const fn program(self) -> &'static str {
                match self { $(Reason::$reason => $crate::names::$program,)+ }
            }
        }
    };
}

reasons! {
    // ingress: not for the guard to judge, passes
    /// Neither IPv4 nor IPv6.
    NotIp = INGRESS, "not_ip";
    /// IP, but not TCP.
    NotTcp = INGRESS, "not_tcp";
    /// TCP to an address and port that none of our listeners has.
    NotOurs = INGRESS, "not_ours";
    /// The frame ends inside a header.
    TooShort = INGRESS, "too_short";
    /// A header contradicts itself (version, header length).
    Malformed = INGRESS, "malformed";
    /// More VLAN tags than `limits::VLAN_TAGS_MAX`.
    VlanTooDeep = INGRESS, "vlan_too_deep";
    /// More IPv6 extension headers than `limits::EXTENSION_HEADERS_MAX`.
    ExtensionTooDeep = INGRESS, "extension_too_deep";
    /// A fragment other than the first: it carries no ports.
    LaterFragment = INGRESS, "later_fragment";
    // ingress: judged, passes
    /// A segment of a connection that is already there, or one that opens nothing.
    Forwarded = INGRESS, "forwarded";
    /// A new connection within the rules.
    Admitted = INGRESS, "admitted";
    /// A new connection whose source is not tracked because the table is under a flood.
    Untracked = INGRESS, "untracked";
    // ingress: judged, dropped
    /// The source is in a denied prefix and in no allowed one.
    Blocked = INGRESS, "blocked";
    /// The source opens connections faster than `kernel.guard.connection_rate`.
    RateLimited = INGRESS, "rate_limited";

    // worker
    /// Given to the worker that the hash chose.
    Steered = WORKER, "steered";
    /// The hash chose a drained worker; another one got the connection.
    SteeredAround = WORKER, "steered_around";
    /// Taken over from a worker whose socket was closed before it had accepted.
    Migrated = WORKER, "migrated";
    /// Kernel's choice: the socket's address belongs to no listener we know.
    UnknownListener = WORKER, "unknown_listener";
    /// Kernel's choice: every worker is drained.
    AllDrained = WORKER, "all_drained";
    /// Kernel's choice: the chosen worker has no socket in the map, or not in this group.
    SelectFailed = WORKER, "select_failed";

    // tunnel: queued on the peer
    /// Moved by the kernel.
    Redirected = TUNNEL, "redirected";
    // tunnel: left to userspace
    /// An empty buffer: the end of the stream.
    EndOfStream = TUNNEL, "end_of_stream";
    /// The socket belongs to no tunnel, or to none any more.
    NoTunnel = TUNNEL, "no_tunnel";
    /// The peer is not in the map, or could not take the buffer.
    NoPeer = TUNNEL, "no_peer";
    /// `limits::TUNNEL_WINDOW` is queued on the peer.
    WindowFull = TUNNEL, "window_full";
    /// Userspace still has earlier bytes.
    Following = TUNNEL, "following";
    /// Bytes that cannot be told to be new; userspace resets the connection.
    OutOfStep = TUNNEL, "out_of_step";
    /// The socket is an end of a leg.
    LegSocket = TUNNEL, "leg_socket";
    // tunnel: counted beside the above
    /// Bytes that came a second time were cut off.
    Trimmed = TUNNEL, "trimmed";

    // establish
    /// An end was noted; the other one is not known yet.
    LegBegun = ESTABLISH, "begun";
    /// Both ends are known.
    LegFound = ESTABLISH, "found";
    /// Not a connection to or from us, or its other end is not on this host.
    NotLeg = ESTABLISH, "not_ours_or_remote";
    /// `same_host` is switched off.
    NotTaken = ESTABLISH, "not_taken";
    /// A leg's end was closed.
    LegClosed = ESTABLISH, "closed";
    /// The other end is in another namespace, without `kernel.same_host.cross_namespace`.
    OtherNamespace = ESTABLISH, "other_namespace";
    /// The other end belongs to somebody outside `kernel.same_host.uid`.
    OtherUser = ESTABLISH, "other_user";
    /// The other end blocks in its calls.
    Blocking = ESTABLISH, "blocking";
    /// The other end sends without copying, or has TLS in the kernel.
    NotPlain = ESTABLISH, "not_plain";
    /// Connections to this address have not lived for more than a request lately.
    ShortLived = ESTABLISH, "short_lived";
    /// `limits::LEGS_MAX`.
    LegsFull = ESTABLISH, "full";
    /// The kernel did not take the socket into the map.
    SocketRefused = ESTABLISH, "refused";

    // local: queued at the receiver
    /// Delivered without TCP.
    Delivered = LOCAL, "delivered";
    // local: left to TCP
    /// The socket is no end of a leg, or the other end is not known.
    NoLeg = LOCAL, "no_leg";
    /// `same_host` is switched off.
    SwitchedOff = LOCAL, "switched_off";
    /// The receiver held up a worker, or had no memory.
    HeldUp = LOCAL, "held_up";
    /// The receiver is gone, or is not in the map.
    NoReceiver = LOCAL, "no_receiver";
    /// Somebody is in a call on the receiver.
    ReceiverBusy = LOCAL, "receiver_busy";
    /// A side blocks, sends without copying, or has TLS in the kernel.
    NotEligible = LOCAL, "not_eligible";
    /// What was sent before is still on its way through TCP.
    InFlight = LOCAL, "in_flight";
    /// The receiver has bytes by TCP that have not come to its one queue yet.
    NotQueued = LOCAL, "not_queued";
    /// `kernel.same_host.window` is unread.
    UnreadBytes = LOCAL, "unread_bytes";
    /// `limits::UNREAD_MESSAGES_MAX` were not seen read.
    UnreadMessages = LOCAL, "unread_messages";

    // local and bypass: a response that was to go to the client past us
    /// Redirected.
    BypassBegun = BYPASS, "claimed";
    /// Redirected to our end of the connection to a client on another host.
    EgressBegun = BYPASS, "claimed_remote";
    /// It is in the client's queue, or on its way to it.
    Bypassed = BYPASS, "passed";
    /// Userspace carries the response: its head is not one that is passed on unchanged.
    HeadRefused = BYPASS, "head";
    /// A message is more than the response, or the first one larger than the window.
    NotWhole = BYPASS, "not_whole";
    /// Userspace was quicker to take it back.
    TakenBack = BYPASS, "taken_back";
    /// The client's end cannot be delivered to now.
    ClientNotReady = BYPASS, "client_not_ready";
    /// The client has something unread.
    ClientUnread = BYPASS, "client_unread";
    /// What we sent to the client before is still on its way through TCP.
    ClientInFlight = BYPASS, "client_in_flight";
    /// The client is on another host, and the response is larger than `kernel.same_host.egress_max`, or
    /// than what our end's send queue takes at once for certain.
    NoRoom = BYPASS, "no_room";
    /// The kernel did not queue it: no memory, or the client is gone.
    NotTakenIn = BYPASS, "not_taken_in";
    /// Nobody knows how much of it the kernel has queued.
    TakenInPart = BYPASS, "broken";
    /// A further message of a response was redirected.
    BypassContinued = BYPASS, "continued";
    /// Userspace carries the rest of a response of which a part has gone past it; counted beside why.
    HandedOver = BYPASS, "handed_over";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_dense_from_zero() {
        assert!(Reason::ALL.iter().zip(0..).all(|(reason, n)| *reason as u32 == n));
        assert_eq!(Reason::ALL.len(), Reason::COUNT);
    }

    #[test]
    fn labels_are_unique_metric_labels() {
        for (n, reason) in Reason::ALL.iter().enumerate() {
            let is_plain =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
            assert!(reason.label().bytes().all(is_plain), "{reason:?}");
            let others = Reason::ALL.iter().skip(n + 1);
            let mut same = others.filter(|other| other.label() == reason.label());
            assert_eq!(same.next(), None, "{reason:?}");
        }
    }
}
