//! A set of address prefixes, searched in logarithmic time.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Prefixes of both families, merged: sorted and disjoint, so one binary search answers.
///
/// IPv6 prefixes never contain IPv4 sources, not even `::/0`; a prefix inside `::ffff:0:0/96` is
/// the IPv4 prefix that it spells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PrefixSet {
    v4: Vec<Ipv4Net>,
    v6: Vec<Ipv6Net>,
}

impl PrefixSet {
    /// `address` in canonical form: IPv4 if it is a mapped one.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.covers(address.into())
    }

    /// Whether every address of `prefix` is in the set.
    pub(crate) fn covers(&self, prefix: IpNet) -> bool {
        match prefix {
            IpNet::V4(prefix) => {
                let after = self.v4.partition_point(|net| net.network() <= prefix.network());
                self.v4[..after].last().is_some_and(|net| net.contains(&prefix))
            }
            IpNet::V6(prefix) => {
                let after = self.v6.partition_point(|net| net.network() <= prefix.network());
                self.v6[..after].last().is_some_and(|net| net.contains(&prefix))
            }
        }
    }

    /// The merged prefixes.
    pub(crate) fn iter(&self) -> impl Iterator<Item = IpNet> + '_ {
        let v4 = self.v4.iter().copied().map(IpNet::V4);
        v4.chain(self.v6.iter().copied().map(IpNet::V6))
    }
}

impl FromIterator<IpNet> for PrefixSet {
    fn from_iter<I: IntoIterator<Item = IpNet>>(prefixes: I) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for prefix in prefixes {
            match canonical(prefix.trunc()) {
                IpNet::V4(prefix) => v4.push(prefix),
                IpNet::V6(prefix) => v6.push(prefix),
            }
        }
        Self { v4: Ipv4Net::aggregate(&v4), v6: Ipv6Net::aggregate(&v6) }
    }
}

/// The IPv4 prefix that a prefix of mapped addresses spells (RFC 4291 section 2.5.5.2).
fn canonical(prefix: IpNet) -> IpNet {
    const MAPPED_BITS: u8 = 96;
    let IpNet::V6(v6) = prefix else { return prefix };
    let (Some(address), Some(length)) =
        (v6.network().to_ipv4_mapped(), v6.prefix_len().checked_sub(MAPPED_BITS))
    else {
        return prefix;
    };
    Ipv4Net::new(address, length).map_or(prefix, IpNet::V4)
}
