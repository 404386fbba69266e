//! Every map and global of the kernel half. Each map says key → value, who writes, who reads, what
//! a miss means, what a full map does. Capacities come from `limits`.

use aya_ebpf::{
    Global,
    bindings::BPF_F_MMAPABLE,
    btf_maps::{
        Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ReusePortSockArray, SkStorage, SockHash,
    },
    macros::btf_map,
};
use proxy_common::{
    Reason,
    addr::{Destination, Source},
    bypass::{Bypass, Client},
    globals::ANY_USER,
    guard::{Bucket, FloodGauge, Rule},
    leg::{self, Delivered, Leg, Member, Received, Switch},
    limits::{
        DESTINATIONS_MAX, LEGS_MAX, LISTENERS_MAX, LOCAL_WINDOW_DEFAULT, NODES_MAX,
        OWN_ADDRESSES_MAX, PREFIXES_MAX, REMOTE_CLIENTS_MAX, SOURCES_MAX, TUNNELS_DEFAULT,
        WORKERS_MAX,
    },
    steering::{DrainedWorkers, Listener},
    tunnel::{Control, Flow},
};

/// Compared by userspace before anything is attached. In a section of its own, which the loader
/// turns into a map of its own: that is how userspace can read it.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata.abi")]
pub(crate) static ABI_VERSION: Global<u32> = Global::new(proxy_common::ABI_VERSION);

/// Globals, all set by userspace before the load; their meaning is in `proxy_common::globals`.
#[unsafe(no_mangle)]
pub(crate) static PORT_FILTER: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static RULES: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static RATE_INTERVAL_NS: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static RATE_TOLERANCE_NS: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static FLOOD_SOURCES_MAX: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static WORKERS: Global<u32> = Global::new(1);

/// [`Reason`] → how often, on this processor. The kernel writes, userspace sums; a slot always
/// exists.
#[btf_map]
pub(crate) static COUNT_BY_REASON: PerCpuArray<u64, { Reason::COUNT }> = PerCpuArray::new();

/// Address and port → listener. Userspace writes before anything is attached; `ingress` looks up
/// where a packet goes, `worker` where a listening socket is bound. A miss: not ours. Userspace
/// refuses more listeners than fit.
#[btf_map]
pub(crate) static LISTENER_BY_DST: HashMap<Destination, Listener, { DESTINATIONS_MAX as usize }> =
    HashMap::new();

/// IPv4 prefix → rule. Userspace writes before `ingress` is attached. A miss: no rule, passes.
/// Userspace refuses more prefixes than fit.
#[btf_map]
pub(crate) static RULE_BY_PREFIX4: LpmTrie<[u8; 4], Rule, { PREFIXES_MAX as usize }> =
    LpmTrie::new();

/// IPv6 prefix → rule; else as [`RULE_BY_PREFIX4`].
#[btf_map]
pub(crate) static RULE_BY_PREFIX6: LpmTrie<[u8; 16], Rule, { PREFIXES_MAX as usize }> =
    LpmTrie::new();

/// Source → its token bucket. The kernel writes and reads. A miss: a source not seen lately, its
/// bucket is full. When the map is full the source that was quiet longest is forgotten.
#[btf_map]
pub(crate) static RATE_BY_SOURCE: LruHashMap<Source, Bucket, { SOURCES_MAX as usize }> =
    LruHashMap::new();

/// 0 → new sources of this second, on this processor. The kernel writes and reads; the slot
/// always exists.
#[btf_map]
pub(crate) static FLOOD_GAUGE: PerCpuArray<FloodGauge, 1> = PerCpuArray::new();

/// [`Listener::slot`] → listening socket. Userspace writes when a listener is ready; the kernel
/// removes a socket that closes. A miss: the kernel chooses, counted.
#[btf_map]
pub(crate) static WORKER_SOCKETS: ReusePortSockArray<{ (LISTENERS_MAX * WORKERS_MAX) as usize }> =
    ReusePortSockArray::new();

/// 0 → workers that get nothing new. Userspace writes, the kernel reads; the slot always exists.
#[btf_map]
pub(crate) static DRAINED_WORKERS: Array<DrainedWorkers, 1> = Array::new();

// Offsets in this kernel, for `tunnel`.
#[unsafe(no_mangle)]
pub(crate) static SKB_SEQ: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static SKB_TRUESIZE: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static TCP_COPIED_SEQ: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static TCP_WRITE_SEQ: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static TCP_SND_UNA: Global<u32> = Global::new(0);

/// Ends of tunnels: two for each, downstream first. Userspace sizes the four maps below alike.
const TUNNEL_ENDS: usize = 2 * TUNNELS_DEFAULT as usize;

/// Cookie → socket at an end of a tunnel or of a leg. Userspace inserts ours, `establish` others';
/// closing a socket removes it. A miss: the peer is gone, or not there yet; userspace, or TCP, gets
/// the bytes. Full, or refused: the tunnel is carried by `splice`, the leg by TCP.
#[btf_map]
pub(crate) static SOCKETS: SockHash<u64, TUNNEL_ENDS> = SockHash::new();

/// Cookie → place of the end in the two arrays. Userspace writes. A miss: no tunnel any more,
/// userspace gets the bytes. Full: as above.
#[btf_map]
pub(crate) static TUNNEL_END: HashMap<u64, u32, TUNNEL_ENDS> = HashMap::new();

/// End → what userspace says about it. Userspace writes, through its mapping, word by word; the
/// kernel reads. A slot always exists.
#[btf_map]
pub(crate) static TUNNEL_CONTROL: Array<Control, TUNNEL_ENDS, { BPF_F_MMAPABLE as usize }> =
    Array::new();

/// End → what the kernel says about it. The kernel writes, userspace reads through its mapping, and
/// zeroes it before a socket leads there. A slot always exists.
#[btf_map]
pub(crate) static TUNNEL_FLOW: Array<Flow, TUNNEL_ENDS, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Constants of `establish` and `local`; their meaning is in `proxy_common::globals`.
#[unsafe(no_mangle)]
pub(crate) static LOCAL_WINDOW: Global<u32> = Global::new(LOCAL_WINDOW_DEFAULT);
#[unsafe(no_mangle)]
pub(crate) static EGRESS_MAX: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static OWN_NAMESPACE: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static CROSS_NAMESPACE: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static TRUSTED_USER: Global<u32> = Global::new(ANY_USER);

// Offsets in this kernel, for `establish` and `local`.
#[unsafe(no_mangle)]
pub(crate) static TCP_RCV_NXT: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static TCP_SEGMENT: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static SOCK_COOKIE: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static SOCK_STATE: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static SOCK_USER: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static SOCK_FLAGS: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static SOCK_ZEROCOPY: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static SOCK_OWNED: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static SOCK_USER_DATA: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static SOCK_SEND_MAX: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static SOCK_SENDING: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static SOCK_RECEIVED: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static SOCK_BACKLOG: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static SOCK_SOCKET: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static SOCKET_FILE: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static FILE_FLAGS: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static SOCK_ULP: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static PSOCK_UNREAD: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static PSOCK_WAITING: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static MSG_START: Global<u32> = Global::new(0);

/// Connection → its ends on this host. `establish` writes, each end its half, and removes when either
/// closes; userspace removes those of which it saw one end only for a second. A miss: the other end
/// is not on this host. Full: the connection goes by TCP, counted.
#[btf_map]
pub(crate) static LEGS: HashMap<leg::Key, Leg, { LEGS_MAX as usize }> = HashMap::new();

/// Socket → what it remembers of its leg. Userspace marks our sockets before they connect; then the
/// programs that run for the socket write. Gone with the socket. A miss: not an end of a leg.
#[btf_map]
pub(crate) static MEMBER: SkStorage<Member> = SkStorage::new();

/// Cookie of a leg's socket → how far its bytes by TCP have been seen. Made by whoever puts the socket
/// into [`SOCKETS`], then written by `tunnel`; `establish` removes. A miss: not an end of a leg. Full:
/// the socket stays out of the map.
#[btf_map]
pub(crate) static RECEIVED: HashMap<u64, Received, { 2 * LEGS_MAX as usize }> = HashMap::new();

/// Place of a socket of ours → what was delivered on it. `local` counts, userspace reads in its own
/// memory; a place always exists.
#[btf_map]
pub(crate) static DELIVERED: Array<
    Delivered,
    { 2 * LEGS_MAX as usize },
    { BPF_F_MMAPABLE as usize },
> = Array::new();

/// Place of a socket of ours that accepted → its ends; behind those of legs, those of clients on other
/// hosts. `local` writes when it begins to deliver there, or `remote`, and `local` reads for a bypass; a
/// place always exists.
#[btf_map]
pub(crate) static CLIENTS: Array<Client, { (2 * LEGS_MAX + REMOTE_CLIENTS_MAX) as usize }> =
    Array::new();

/// Place of a socket of ours that connected → the response that may go past us. Userspace arms,
/// `local` claims, `bypass` confirms, all by compare-and-swap; a place always exists.
#[btf_map]
pub(crate) static BYPASSES: Array<Bypass, { 2 * LEGS_MAX as usize }, { BPF_F_MMAPABLE as usize }> =
    Array::new();

/// Cookie → our end of a connection to a client on another host, to which responses may go past us. No
/// program is attached to it: what it receives and what we send there is TCP's. Userspace inserts;
/// closing a socket removes it. A miss: userspace carries the response. Full: as well.
#[btf_map]
pub(crate) static REMOTE_CLIENTS: SockHash<u64, { REMOTE_CLIENTS_MAX as usize }> = SockHash::new();

/// Address and port where one of our listeners takes legs, for each address of our namespace → how
/// many connections to it were worth nothing lately (`direct::takes`), or [`leg::NO_LEGS`].
/// Userspace makes and removes entries as addresses change, `establish` and `local` count, about. A
/// miss: not to us.
#[btf_map]
pub(crate) static OWN_ADDRESSES: HashMap<Destination, u32, { OWN_ADDRESSES_MAX as usize }> =
    HashMap::new();

/// Address and port of a node → 1 if what it accepts does not block, 0 once something did. `local`
/// writes what it sees, userspace reads. A miss: not known; its sockets stay out of the map. When it
/// is full the node that was not asked for longest is forgotten.
#[btf_map]
pub(crate) static NODES: LruHashMap<Destination, u32, { NODES_MAX as usize }> = LruHashMap::new();

/// 0 → the switch. Userspace writes; the slot always exists.
#[btf_map]
pub(crate) static SAME_HOST: Array<Switch, 1> = Array::new();
