//! Names of the constants of a run, written into the object before it is loaded.
//!
//! The verifier knows their values and drops the code they switch off.

/// `u32`: [`crate::ABI_VERSION`] as the object was built. Never overridden, only compared.
pub const ABI_VERSION: &str = "ABI_VERSION";
/// Section that holds `ABI_VERSION` alone, so that userspace can read it as a map of one value.
pub const ABI_SECTION: &str = ".rodata.abi";

/// `u64`: bit `port mod 64` is set for each port a listener has. A port without its bit is not
/// ours, and most foreign packets leave here without a map lookup.
pub const PORT_FILTER: &str = "PORT_FILTER";
/// `u32`: how many prefixes the rule maps hold; 0 skips the lookup.
pub const RULES: &str = "RULES";
/// `u64`: nanoseconds between two connections at the permitted rate; 0: no limit.
pub const RATE_INTERVAL_NS: &str = "RATE_INTERVAL_NS";
/// `u64`: `(burst - 1) × RATE_INTERVAL_NS`.
pub const RATE_TOLERANCE_NS: &str = "RATE_TOLERANCE_NS";
/// `u64`: new sources that one processor tracks in a second.
pub const FLOOD_SOURCES_MAX: &str = "FLOOD_SOURCES_MAX";
/// `u32`: workers that connections are steered to, 1 to `limits::WORKERS_MAX`.
pub const WORKERS: &str = "WORKERS";

/// Bit of a port (network order) in [`PORT_FILTER`].
#[inline(always)]
pub const fn port_bit(port_be: [u8; 2]) -> u64 {
    1 << (u16::from_be_bytes(port_be) % 64)
}

/// `u32`: [`crate::limits`] of `kernel.same_host.window`, bytes.
pub const LOCAL_WINDOW: &str = "LOCAL_WINDOW";
/// `u32`: of `kernel.same_host.egress_max`, bytes; 0: no response goes past us to another host.
pub const EGRESS_MAX: &str = "EGRESS_MAX";
/// `u64`: cookie of the network namespace that we run in.
pub const OWN_NAMESPACE: &str = "OWN_NAMESPACE";
/// `u32`: 1 if the other end may be in another namespace.
pub const CROSS_NAMESPACE: &str = "CROSS_NAMESPACE";
/// `u32`: whose sockets other than ours are eligible; [`ANY_USER`]: everybody's.
pub const TRUSTED_USER: &str = "TRUSTED_USER";
/// No user has this id (`(uid_t) -1`).
pub const ANY_USER: u32 = u32::MAX;

// Offsets in bytes, from the running kernel's BTF: Rust emits no relocations for them.

/// `u32`: of `sk_buff.cb`, whose first word is the sequence number (`tcp_skb_cb.seq`).
pub const SKB_SEQ: &str = "SKB_SEQ";
/// `u32`: of `sk_buff.truesize`.
pub const SKB_TRUESIZE: &str = "SKB_TRUESIZE";
/// `u32`: of `tcp_sock.copied_seq`.
pub const TCP_COPIED_SEQ: &str = "TCP_COPIED_SEQ";
/// `u32`: of `tcp_sock.write_seq`.
pub const TCP_WRITE_SEQ: &str = "TCP_WRITE_SEQ";
/// `u32`: of `tcp_sock.snd_una`.
pub const TCP_SND_UNA: &str = "TCP_SND_UNA";

// Offsets for `establish` and `local`.

/// `u32`: of `tcp_sock.rcv_nxt`.
pub const TCP_RCV_NXT: &str = "TCP_RCV_NXT";
/// `u32`: of `tcp_sock.mss_cache`.
pub const TCP_SEGMENT: &str = "TCP_SEGMENT";
/// `u32`: of `sock_common.skc_cookie`.
pub const SOCK_COOKIE: &str = "SOCK_COOKIE";
/// `u32`: of `sock_common.skc_state`.
pub const SOCK_STATE: &str = "SOCK_STATE";
/// `u32`: of `sock.sk_uid`.
pub const SOCK_USER: &str = "SOCK_USER";
/// `u32`: of `sock_common.skc_flags`.
pub const SOCK_FLAGS: &str = "SOCK_FLAGS";
/// `u32`: bit of `SOCK_ZEROCOPY` in them.
pub const SOCK_ZEROCOPY: &str = "SOCK_ZEROCOPY";
/// `u32`: of `sock.sk_lock`, in it `owned`.
pub const SOCK_OWNED: &str = "SOCK_OWNED";
/// `u32`: of `sock.sk_user_data`.
pub const SOCK_USER_DATA: &str = "SOCK_USER_DATA";
/// `u32`: of `sock.sk_sndbuf`.
pub const SOCK_SEND_MAX: &str = "SOCK_SEND_MAX";
/// `u32`: of `sock.sk_wmem_queued`.
pub const SOCK_SENDING: &str = "SOCK_SENDING";
/// `u32`: of `sock.sk_receive_queue`, in it `qlen`.
pub const SOCK_RECEIVED: &str = "SOCK_RECEIVED";
/// `u32`: of `sock.sk_backlog`, in it `len`.
pub const SOCK_BACKLOG: &str = "SOCK_BACKLOG";
/// `u32`: of `sock.sk_socket`.
pub const SOCK_SOCKET: &str = "SOCK_SOCKET";
/// `u32`: of `socket.file`.
pub const SOCKET_FILE: &str = "SOCKET_FILE";
/// `u32`: of `file.f_flags`.
pub const FILE_FLAGS: &str = "FILE_FLAGS";
/// `u32`: of `inet_connection_sock.icsk_ulp_ops`.
pub const SOCK_ULP: &str = "SOCK_ULP";
/// `u32`: of `sk_psock.msg_tot_len`.
pub const PSOCK_UNREAD: &str = "PSOCK_UNREAD";
/// `u32`: of `sk_psock.ingress_skb`, in it `qlen`.
pub const PSOCK_WAITING: &str = "PSOCK_WAITING";
/// `u32`: of `sk_msg.sg`, in it `start`.
pub const MSG_START: &str = "MSG_START";
