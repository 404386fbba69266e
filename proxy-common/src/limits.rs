//! Bounds of the kernel half, each with its arithmetic.

/// VLAN tags read: one of the provider, one of the customer (802.1ad).
pub const VLAN_TAGS_MAX: usize = 2;

/// IPv6 extension headers read before TCP. Legal chains seen in the wild have one or two
/// (hop-by-hop, destination options); each costs one loop turn in the verifier.
pub const EXTENSION_HEADERS_MAX: usize = 4;
