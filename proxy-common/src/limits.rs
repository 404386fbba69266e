//! Bounds of the kernel half, each with its arithmetic. A test sums the maps under
//! [`MAP_MEMORY_MAX`].

/// VLAN tags read: one of the provider, one of the customer (802.1ad).
pub const VLAN_TAGS_MAX: usize = 2;

/// IPv6 extension headers read before TCP. Legal chains seen in the wild have one or two
/// (hop-by-hop, destination options); each costs one loop turn in the verifier.
pub const EXTENSION_HEADERS_MAX: usize = 4;

/// Listeners that can be steered and guarded.
pub const LISTENERS_MAX: u32 = 64;

/// Addresses that lead to them: one on `[::]` stands under the wildcards of both families.
/// 128 × (18 + 4 + 64) B = 11 KiB.
pub const DESTINATIONS_MAX: u32 = 2 * LISTENERS_MAX;

/// Workers that can be steered to: the bits of one `u64`. 64 listeners × 64 workers × 8 B of
/// pointers = 32 KiB.
pub const WORKERS_MAX: u32 = 64;

/// Prefixes in each of the two rule tries. Entries are allocated as they are inserted, at about
/// 64 B: 65 536 × 64 B = 4 MiB for each family.
pub const PREFIXES_MAX: u32 = 65_536;

/// Sources whose rate is tracked at a time. Preallocated: 65 536 × (16 + 8 + 64) B = 5.5 MiB, and
/// only when a rate is configured.
pub const SOURCES_MAX: u32 = 65_536;

/// Seconds that a flood of new sources needs at least to push everyone else out of the table:
/// each processor tracks at most `SOURCES_MAX / FLOOD_TURNOVER_S / processors` new ones a second.
pub const FLOOD_TURNOVER_S: u32 = 4;

/// All maps together, at their configured sizes, on a machine of 64 processors.
pub const MAP_MEMORY_MAX: usize = 32 * 1024 * 1024;

/// Bytes of one direction of a tunnel that may be on their way in the kernel: queued, written, and
/// not acknowledged yet. The peer's send buffer is made to have room for as many. With it and the
/// receive buffer, a reader that does not read costs less than 5 MiB; at a round trip of 80 ms the
/// kernel carries 100 Mbit/s, and what is more goes through userspace.
pub const TUNNEL_WINDOW: u32 = 1024 * 1024;

/// Memory that a tunnel may have queued for the kernel's worker in one direction, in bytes of
/// buffers. Full-sized segments reach the window first; this is for segments so small that a byte of
/// them costs a thousand.
pub const TUNNEL_QUEUE_MAX: u32 = 2 * TUNNEL_WINDOW;

/// Tunnels that fit unless userspace resizes the maps: 4096 × 2 ends × (64 + 64) B = 1 MiB, and two
/// hash maps of 8192 entries of about 80 B = 1.3 MiB.
pub const TUNNELS_DEFAULT: u32 = 4096;

/// Legs at a time, two sockets each. 8192 × (44 + 64 + 64) B = 1.4 MiB, twice as many entries of
/// `RECEIVED` × (8 + 24 + 64) B = 1.5 MiB, of `DELIVERED` × 128 B = 2 MiB, of `CLIENTS` × 32 B and of
/// `BYPASSES` × 64 B = 1.5 MiB, and the storage of each socket is its own.
pub const LEGS_MAX: u32 = 8192;

/// Addresses and ports that lead to our listeners: 64 listeners × 64 addresses.
pub const OWN_ADDRESSES_MAX: u32 = 64 * LISTENERS_MAX;

/// Nodes on this host that are known not to block in their calls: 1024 × (18 + 4 + 64) B = 86 KiB.
pub const NODES_MAX: u32 = 1024;

/// Default of `kernel.same_host.window`: bytes that an end of a leg may have unread of what was
/// delivered directly.
pub const LOCAL_WINDOW_DEFAULT: u32 = 1024 * 1024;

/// Default of `kernel.same_host.egress_max`: bytes of a response, head and body, that may go past us to
/// a client on another host. What is larger is cheaper to splice.
pub const EGRESS_MAX_DEFAULT: u32 = 64 * 1024;

/// Connections of clients on other hosts that responses may go to past us: 8192 × (8 + 64 + 32) B =
/// 0.8 MiB. They have places of their own, so that many of them leave legs theirs.
pub const REMOTE_CLIENTS_MAX: u32 = LEGS_MAX;

/// Messages that may be delivered before the other end is seen with nothing unread: a message of
/// one byte costs about 1 KiB, which nobody charges to the receiver.
pub const UNREAD_MESSAGES_MAX: u64 = 256;

/// Connections to an address of ours in a row that were closed before anything on them was
/// delivered: from then on only one of [`SHORT_LIVED_TAKEN`] is taken, until something is. Entering
/// the map costs a connection about as much as a request.
pub const SHORT_LIVED_MAX: u32 = 64;
pub const SHORT_LIVED_TAKEN: u32 = 16;

/// Bytes that one `bpf_skb_adjust_room` removes at most.
pub const TRIM_STEP_MAX: u32 = 0xfff;

/// 4096 × 4095 B cover any buffer: TCP merges what arrives into buffers of several hundred KiB, and of
/// MiB where senders give it large pages.
pub const TRIM_STEPS_MAX: u32 = 4096;

/// Bytes by which a response that goes past us may exceed `kernel.same_host.window`, if the window is no
/// less: one of 1 MiB passes whole to a client that has not begun to read.
pub const RESPONSE_EXTRA_MAX: u32 = 1 << 20;

/// Bytes of a response head that the kernel half recognises, and so the steps that takes. Heads of
/// nodes have some 200 to 500 B; what sets many cookies or long policies goes through userspace.
pub const HEAD_MAX: u32 = 2048;

/// Fields of such a head: as many as userspace reads without allocating.
pub const HEAD_FIELDS_MAX: u32 = 64;
