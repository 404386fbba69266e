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
