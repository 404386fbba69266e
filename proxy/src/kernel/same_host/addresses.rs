//! Under which addresses of this namespace our listeners are reached, kept current in the map.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, bail};
use aya::maps::{HashMap, MapData, MapError};
use proxy_common::{addr::Destination, leg::NO_LEGS, limits::OWN_ADDRESSES_MAX};
use rustix::{
    fd::OwnedFd,
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SocketFlags, SocketType, bind,
        netlink::SocketAddrNetlink,
        recv, socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
};

/// `RTMGRP_IPV4_IFADDR` and `RTMGRP_IPV6_IFADDR` of rtnetlink(7).
const ADDRESS_GROUPS: u32 = 0x10 | 0x100;

/// The map `OWN_ADDRESSES`, and what is in it.
pub(super) struct Addresses {
    map: HashMap<MapData, Destination, u32>,
    /// Whether each takes legs.
    listeners: Vec<(SocketAddr, bool)>,
    written: Reached,
    /// What was read or written last could not be, all of it.
    is_behind: bool,
}

/// Addresses that lead to a listener, and whether that takes legs.
type Reached = std::collections::HashMap<SocketAddr, bool>;

impl Addresses {
    pub(super) fn new(map: HashMap<MapData, Destination, u32>) -> Self {
        Self { map, listeners: Vec::new(), written: Reached::new(), is_behind: false }
    }

    pub(super) fn lead_to(&mut self, listeners: &[(SocketAddr, bool)]) -> anyhow::Result<()> {
        self.listeners = listeners.to_vec();
        self.refresh()
    }

    /// No client's end is looked for any more.
    pub(super) fn take_no_legs(&mut self) -> anyhow::Result<()> {
        self.listeners.iter_mut().for_each(|(_, has_legs)| *has_legs = false);
        self.refresh()
    }

    /// Takes one more listener in, until the next [`refresh`](Self::refresh).
    pub(super) fn add(&mut self, listener: SocketAddr) -> anyhow::Result<()> {
        self.insert(listener, true)
    }

    pub(super) fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Reads the addresses of this namespace anew.
    pub(super) fn refresh(&mut self) -> anyhow::Result<()> {
        let refreshed = self.read_and_write();
        self.is_behind = refreshed.is_err();
        refreshed
    }

    /// What has gone is taken out first, whatever becomes of the rest: it may be somebody else's now.
    fn read_and_write(&mut self) -> anyhow::Result<()> {
        let own = own_addresses()?;
        let mut wanted = Reached::new();
        for (listener, has_legs) in &self.listeners {
            wanted.extend(reached_at(*listener, &own).into_iter().map(|it| (it, *has_legs)));
        }
        let is_gone = |address: &&SocketAddr| !wanted.contains_key(*address);
        let gone: Vec<_> = self.written.keys().filter(is_gone).copied().collect();
        for address in gone {
            match self.map.remove(&Destination::from(address)) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error).context("write map `OWN_ADDRESSES`"),
            }
            self.written.remove(&address);
        }
        if wanted.len() > OWN_ADDRESSES_MAX as usize {
            bail!("{} addresses lead to the listeners; at most {OWN_ADDRESSES_MAX}", wanted.len());
        }
        for (address, has_legs) in wanted {
            if self.written.get(&address) != Some(&has_legs) {
                self.insert(address, has_legs)?;
            }
        }
        Ok(())
    }

    fn insert(&mut self, address: SocketAddr, has_legs: bool) -> anyhow::Result<()> {
        let value = if has_legs { 0 } else { NO_LEGS };
        let inserted = self.map.insert(Destination::from(address), value, 0);
        inserted.context("write map `OWN_ADDRESSES`")?;
        self.written.insert(address, has_legs);
        Ok(())
    }
}

/// Where connections to a listener go: a wildcard stands for each address of its family, and `[::]`
/// for those of both.
fn reached_at(listener: SocketAddr, own: &[IpAddr]) -> Vec<SocketAddr> {
    let is_taken = |own: &&IpAddr| listener.is_ipv6() || own.is_ipv4();
    match listener.ip() {
        ip if ip.is_unspecified() => {
            own.iter().filter(is_taken).map(|own| SocketAddr::new(*own, listener.port())).collect()
        }
        ip => vec![SocketAddr::new(ip, listener.port())],
    }
}

fn own_addresses() -> anyhow::Result<Vec<IpAddr>> {
    let interfaces = if_addrs::get_if_addrs().context("addresses of this namespace")?;
    Ok(interfaces.into_iter().map(|interface| interface.ip()).collect())
}

/// Tells when the addresses of this namespace have changed.
pub(super) struct Changes {
    netlink: OwnedFd,
    patience: Duration,
}

impl Changes {
    /// # Errors
    /// No netlink socket can be had.
    pub(super) fn watch(patience: Duration) -> anyhow::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let netlink = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)
            .context("open a netlink socket")?;
        set_socket_timeout(&netlink, Timeout::Recv, Some(patience)).context("its patience")?;
        bind(&netlink, &SocketAddrNetlink::new(0, ADDRESS_GROUPS)).context("hear rtnetlink")?;
        Ok(Self { netlink, patience })
    }

    /// Waits for a change, as long as the patience lasts. What exactly changed is not of interest,
    /// nor how often: more messages than fit (ENOBUFS) are a change as well.
    pub(super) fn has_come(&self) -> bool {
        match recv(&self.netlink, &mut [0; 4096], RecvFlags::empty()) {
            Ok(_) | Err(Errno::NOBUFS) => true,
            Err(Errno::AGAIN | Errno::INTR) => false,
            Err(error) => {
                tracing::debug!(%error, "rtnetlink");
                std::thread::park_timeout(self.patience);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_stands_for_the_addresses_of_its_family() {
        let own = ["127.0.0.1", "10.0.0.1", "::1"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let reached = |listener: &str| {
            let reached = reached_at(listener.parse().unwrap(), &own);
            reached.iter().map(SocketAddr::to_string).collect::<Vec<_>>()
        };
        assert_eq!(reached("10.0.0.9:80"), ["10.0.0.9:80"]);
        assert_eq!(reached("0.0.0.0:80"), ["127.0.0.1:80", "10.0.0.1:80"]);
        assert_eq!(reached("[::]:80"), ["127.0.0.1:80", "10.0.0.1:80", "[::1]:80"]);
    }
}
