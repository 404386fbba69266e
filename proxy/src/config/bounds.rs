//! How much of everything a file may ask for, and which addresses get in each other's way.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    time::Duration,
};

use ipnet::IpNet;
use proxy_common::limits;

use super::{leaf::Size, reader::Place};

/// Bytes of a configuration file.
pub(super) const FILE_SIZE_MAX: u64 = 8 << 20;
/// Worker threads; more than any machine of today has processors.
pub(super) const WORKERS_MAX: usize = 1024;
pub(super) const LISTENERS_MAX: usize = limits::LISTENERS_MAX as usize;
pub(super) const INTERFACES_MAX: usize = 64;
/// Prefixes of `guard.allow` and `guard.deny` together; the kernel's tries hold as many.
pub(super) const GUARD_PREFIXES_MAX: usize = limits::PREFIXES_MAX as usize;
/// New connections a second of one source, and how many at once.
pub(super) const CONNECTION_RATE: RangeInclusive<u32> = 1..=1_000_000;
/// Slots of one cycle of weighted round robin.
pub(super) const CYCLE_SLOTS_MAX: u64 = 65_536;
/// Points of one ring of `chash`, 8 bytes each.
pub(super) const RING_POINTS_MAX: u64 = 1 << 20;
pub(super) const WEIGHT: RangeInclusive<u32> = 0..=65_535;
/// Characters of a host name, RFC 1035 section 2.3.4.
pub(super) const HOST_CHARS_MAX: usize = 253;
/// Names of one file that are resolved, each asked about by itself.
pub(super) const NAMES_MAX: usize = 1024;
pub(super) const NAMESERVERS_MAX: usize = 8;
/// How long an answer counts, and one lookup may take.
pub(super) const TTL: RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(86_400);
pub(super) const LOOKUP_WAIT: RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(60);
/// Ids that a dangling reference is compared with for a suggestion; among more none is made.
pub(super) const SUGGESTED_FROM_MAX: usize = 1000;

/// Every wait but the drain's; a day is longer than anybody means.
pub(super) const WAIT: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(86_400);
/// The same, where the Admin API has a number of seconds.
pub(super) const SECONDS: RangeInclusive<f64> = 0.001..=86_400.0;
/// Between two probes of a node, or two looks at ejected ones.
pub(super) const CHECK_INTERVAL: RangeInclusive<f64> = 0.01..=86_400.0;
/// Results in a row that a state of a node may ask for.
pub(super) const CHECK_COUNT_MAX: u8 = 254;
/// Nodes and requests that a percentage of failures may ask for.
pub(super) const OUTLIER_HOSTS: RangeInclusive<usize> = 1..=65_536;
pub(super) const OUTLIER_REQUESTS: RangeInclusive<u32> = 1..=1_000_000_000;
/// `concurrency` of an upstream's probes.
pub(super) const PROBES: RangeInclusive<usize> = 1..=1024;
/// Bytes.
pub(super) const PROBE_PATH_MAX: usize = 4096;
/// Bytes.
pub(super) const PROBE_BODY_MAX: usize = 64 << 10;
/// Seconds that a cookie is kept; browsers keep none for longer than 400 days.
pub(super) const COOKIE_AGE: RangeInclusive<u32> = 1..=34_560_000;
pub(super) const DRAIN_WAIT: RangeInclusive<Duration> =
    Duration::ZERO..=Duration::from_secs(86_400);

pub(super) const HEAD_SIZE: RangeInclusive<Size> = kib(1)..=kib(1024);
pub(super) const HEAD_FIELDS: RangeInclusive<usize> = 1..=1024;
pub(super) const TARGET_SIZE: RangeInclusive<Size> = Size(64)..=kib(1024);
pub(super) const BODY_SIZE: RangeInclusive<Size> = Size(0)..=kib(1 << 30);
pub(super) const CONNECTIONS: RangeInclusive<usize> = 1..=16_777_216;
pub(super) const POOL_IDLE: RangeInclusive<usize> = 0..=65_536;
/// Buffers: from a page to more than any connection has in flight.
pub(super) const BUFFER_SIZE: RangeInclusive<Size> = kib(4)..=kib(64 << 10);
/// The kernel's own ceiling for an unprivileged pipe is 1 MiB; with CAP_SYS_RESOURCE 2 GiB. Smaller
/// ones than these are not used, copying is cheaper (`forward::pipes`).
pub(super) const PIPE_SIZE: RangeInclusive<Size> = kib(64)..=kib(64 << 10);
/// Up to a tebibyte.
pub(super) const BODY_MEMORY: RangeInclusive<Size> = kib(0)..=kib(1 << 30);
pub(super) const SPLICE_MIN: RangeInclusive<Size> = Size(1)..=kib(1 << 30);
/// User ids; `(uid_t) -1` is nobody's.
pub(super) const USER_ID: RangeInclusive<u32> = 0..=u32::MAX - 1;
pub(super) const LOCAL_WINDOW: RangeInclusive<Size> = kib(64)..=kib(16 << 10);
pub(super) const EGRESS_MAX: RangeInclusive<Size> = Size(0)..=kib(1 << 10);
pub(super) const SOCKMAP_TUNNELS: RangeInclusive<u32> = 1..=65_536;

const fn kib(n: u64) -> Size {
    Size(n << 10)
}

/// How two addresses that are to be bound get along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overlap {
    None,
    Same,
    /// One is the wildcard of the other's family: the kernel refuses the second bind.
    Wildcard,
}

/// Port 0 is another port each time it is bound.
pub(super) fn overlap(a: SocketAddr, b: SocketAddr) -> Overlap {
    if a.port() != b.port() || a.port() == 0 {
        Overlap::None
    } else if a.ip() == b.ip() {
        Overlap::Same
    } else if takes(a.ip(), b.ip()) || takes(b.ip(), a.ip()) {
        Overlap::Wildcard
    } else {
        Overlap::None
    }
}

/// Whether a listener bound to `bound` gets connections to `address`: `[::]` takes IPv4 too
/// ([`crate::sys::socket::listening`]).
pub(super) fn takes(bound: IpAddr, address: IpAddr) -> bool {
    bound == address || (bound.is_unspecified() && (bound.is_ipv6() || address.is_ipv4()))
}

/// Refuses an address that no end of a TCP connection has.
pub(super) fn check_address(place: &Place<'_>, address: IpAddr) {
    refuse_mapped(place, address);
    if address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        place.error(format!(
            "`{address}` is a multicast or broadcast address; write the address of one host"
        ));
    }
}

/// Refuses a prefix whose text says more or something else than it means.
pub(super) fn check_prefix(place: &Place<'_>, prefix: IpNet) {
    if prefix != prefix.trunc() {
        place.error(format!("bits are set behind the prefix; write `{}`", prefix.trunc()));
    }
    refuse_mapped(place, prefix.addr());
}

/// Refuses an IPv4 address in IPv6 clothes: it would be another key in every table.
fn refuse_mapped(place: &Place<'_>, address: IpAddr) {
    if let IpAddr::V6(address) = address
        && let Some(v4) = address.to_ipv4_mapped()
    {
        place.error(format!("an IPv4-mapped address; write it as `{v4}`"));
    }
}
