//! Names of programs and maps, once. At most 15 bytes: the kernel cuts the rest off, and
//! `bpftool … name` then no longer finds them.

// programs

/// xdp: the guard.
pub const INGRESS: &str = "ingress";
/// sk_reuseport: worker choice.
pub const WORKER: &str = "worker";
/// sk_skb verdict: moves the bytes of a tunnel.
pub const TUNNEL: &str = "tunnel";
/// sock_ops: finds the two ends of a connection on this host.
pub const ESTABLISH: &str = "establish";
/// sk_msg: delivers what is sent to the other end of a leg.
pub const LOCAL: &str = "local";
/// BTF tracepoint: says that a node's response is in the client's queue.
pub const BYPASS: &str = "bypass";
/// classifier, attached nowhere: what a socket of `SOCKETS` has unread.
pub const UNREAD: &str = "unread";
/// classifier, attached nowhere: notes where in the kernel the connection of a remote client is.
pub const REMOTE: &str = "remote";

// maps

pub const COUNT_BY_REASON: &str = "COUNT_BY_REASON";
pub const LISTENER_BY_DST: &str = "LISTENER_BY_DST";
pub const RULE_BY_PREFIX4: &str = "RULE_BY_PREFIX4";
pub const RULE_BY_PREFIX6: &str = "RULE_BY_PREFIX6";
pub const RATE_BY_SOURCE: &str = "RATE_BY_SOURCE";
pub const FLOOD_GAUGE: &str = "FLOOD_GAUGE";
pub const WORKER_SOCKETS: &str = "WORKER_SOCKETS";
pub const DRAINED_WORKERS: &str = "DRAINED_WORKERS";

pub const SOCKETS: &str = "SOCKETS";
pub const TUNNEL_END: &str = "TUNNEL_END";
pub const TUNNEL_CONTROL: &str = "TUNNEL_CONTROL";
pub const TUNNEL_FLOW: &str = "TUNNEL_FLOW";

pub const LEGS: &str = "LEGS";
pub const MEMBER: &str = "MEMBER";
pub const RECEIVED: &str = "RECEIVED";
pub const DELIVERED: &str = "DELIVERED";
pub const CLIENTS: &str = "CLIENTS";
pub const BYPASSES: &str = "BYPASSES";
pub const REMOTE_CLIENTS: &str = "REMOTE_CLIENTS";
pub const OWN_ADDRESSES: &str = "OWN_ADDRESSES";
pub const NODES: &str = "NODES";
pub const SAME_HOST: &str = "SAME_HOST";
