//! Addresses and ports as they cross: bytes in network order, without alignment, so that neither
//! side swaps and no key has padding.

use core::net::{IpAddr, SocketAddr};

use crate::shared_layout;

/// First twelve bytes of an IPv4 address that is written as an IPv6 one (RFC 4291 section 2.5.5.2).
pub const V4_MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// An IPv6 address, or an IPv4 one in its mapped form. One form for both: `::ffff:192.0.2.1` and
/// `192.0.2.1` are the same source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Address {
    octets: [u8; 16],
}

shared_layout!(Address, size = 16, align = 1, { 0 => octets: [u8; 16] });

impl Address {
    pub const fn v4(octets: [u8; 4]) -> Self {
        let [a, b, c, d] = octets;
        Self { octets: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] }
    }

    /// A mapped IPv4 address stays what it is.
    pub const fn v6(octets: [u8; 16]) -> Self {
        Self { octets }
    }

    pub const fn octets(self) -> [u8; 16] {
        self.octets
    }

    /// The IPv4 address in it, if it is one.
    pub const fn as_v4(self) -> Option<[u8; 4]> {
        match self.octets {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] => Some([a, b, c, d]),
            _ => None,
        }
    }

    /// An address that each network namespace has for itself: loopback, or of one link (IPv6).
    pub const fn is_local_to_namespace(self) -> bool {
        match self.as_v4() {
            Some([first, ..]) => first == 127,
            None => {
                let is_loopback =
                    matches!(self.octets, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
                is_loopback || matches!(self.octets, [0xfe, 0x80..=0xbf, ..])
            }
        }
    }

    /// The address that stands for "any" in the family of this one.
    pub const fn unspecified(self) -> Self {
        match self.as_v4() {
            Some(_) => Self::v4([0; 4]),
            None => Self::v6([0; 16]),
        }
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::v4(v4.octets()),
            IpAddr::V6(v6) => Self::v6(v6.octets()),
        }
    }
}

/// Where a packet goes to or a listener is bound: key of `LISTENER_BY_DST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Destination {
    address: Address,
    port_be: [u8; 2],
}

shared_layout!(Destination, size = 18, align = 1, { 0 => address: Address, 16 => port_be: [u8; 2] });

impl Destination {
    pub const fn new(address: Address, port_be: [u8; 2]) -> Self {
        Self { address, port_be }
    }

    pub const fn address(self) -> Address {
        self.address
    }

    /// In network order.
    pub const fn port_be(self) -> [u8; 2] {
        self.port_be
    }

    /// The key under which a listener on every address of this one's family stands.
    pub const fn wildcard(self) -> Self {
        Self { address: self.address.unspecified(), port_be: self.port_be }
    }
}

impl From<SocketAddr> for Destination {
    fn from(address: SocketAddr) -> Self {
        Self::new(address.ip().into(), address.port().to_be_bytes())
    }
}

/// Whose rate is counted: an IPv4 address, or the /64 of an IPv6 address. A single host may pick
/// any address of its /64 (RFC 4291 section 2.5.1), so a finer key would be no key at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Source {
    prefix: Address,
}

shared_layout!(Source, size = 16, align = 1, { 0 => prefix: Address });

impl From<Address> for Source {
    #[inline(always)]
    fn from(address: Address) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = address.octets;
        match address.as_v4() {
            Some(_) => Self { prefix: address },
            None => Self { prefix: Address::v6([a, b, c, d, e, f, g, h, 0, 0, 0, 0, 0, 0, 0, 0]) },
        }
    }
}

#[cfg(test)]
mod tests {
    use core::net::SocketAddr;

    use super::*;

    #[track_caller]
    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn v4_and_its_mapped_form_are_one_address() {
        assert_eq!(address("192.0.2.1"), address("::ffff:192.0.2.1"));
        assert_eq!(address("::ffff:192.0.2.1").as_v4(), Some([192, 0, 2, 1]));
        assert_eq!(address("::fffe:192.0.2.1").as_v4(), None);
        assert_eq!(address("::192.0.2.1").as_v4(), None);
    }

    #[test]
    fn wildcards_stay_in_their_family() {
        let wildcard =
            |text: &str| Destination::from(text.parse::<SocketAddr>().unwrap()).wildcard();
        assert_eq!(wildcard("192.0.2.1:80"), wildcard("0.0.0.0:80"));
        assert_eq!(wildcard("[2001:db8::1]:80"), wildcard("[::]:80"));
        assert_ne!(wildcard("192.0.2.1:80"), wildcard("[::]:80"));
        assert_ne!(wildcard("192.0.2.1:80"), wildcard("192.0.2.1:81"));
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_an_ipv6_64() {
        let source = |text| Source::from(address(text));
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:0:0:2"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
    }
}
