//! Names of programs and maps, once. At most 15 bytes: the kernel cuts the rest off, and
//! `bpftool … name` then no longer finds them.

// programs
/// xdp: the guard.
pub const INGRESS: &str = "ingress";
/// sk_reuseport: worker choice.
pub const WORKER: &str = "worker";
/// sk_skb verdict: moves the bytes of a tunnel.
pub const TUNNEL: &str = "tunnel";

// maps
pub const COUNT_BY_REASON: &str = "COUNT_BY_REASON";
