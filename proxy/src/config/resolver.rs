//! `resolver`: who is asked what names resolve to, and for how long answers count.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::{
    Family, Resolver, bounds,
    leaf::Leaf as _,
    planned::Kind,
    reader::{Section, Value},
    resource,
};

const DNS_PORT: u16 = 53;

pub(super) fn resolver(root: &mut Section<'_>) -> Resolver {
    let default = Resolver::default();
    let Some(mut section) = root.section("resolver") else { return default };
    let nameservers = resource::listed(&mut section, "nameservers", nameserver).unwrap_or_default();
    if nameservers.len() > bounds::NAMESERVERS_MAX {
        let count = nameservers.len();
        section.error(format!("{count} name servers; at most {}", bounds::NAMESERVERS_MAX));
    }
    let timeout = section.within_or("timeout", bounds::LOOKUP_WAIT, default.timeout);
    let (ttl_min, ttl_max) = ttl(&mut section, &default);
    let family = section.take("family").and_then(|value| {
        let words = [
            ("prefer_ipv4", Family::PreferIpv4),
            ("prefer_ipv6", Family::PreferIpv6),
            ("both", Family::Both),
            ("ipv4", Family::Ipv4),
            ("ipv6", Family::Ipv6),
        ];
        value.one_of(&words, &[])
    });
    section.finish(Kind::Resolver);
    Resolver { nameservers, timeout, ttl_min, ttl_max, family: family.unwrap_or(default.family) }
}

/// `valid` in place of what answers say, or the bounds of that.
fn ttl(section: &mut Section<'_>, default: &Resolver) -> (Duration, Duration) {
    let mut time = |key| section.take(key).map(|value| (value.within(&bounds::TTL), value));
    let (valid, min, max) = (time("valid"), time("ttl_min"), time("ttl_max"));
    match (valid, min, max) {
        (Some((_, valid)), Some(_), _) | (Some((_, valid)), _, Some(_)) => {
            valid.error("stands in place of every TTL; keep it, or `ttl_min` and `ttl_max`");
            (default.ttl_min, default.ttl_max)
        }
        (Some((valid, _)), None, None) => {
            valid.map_or((default.ttl_min, default.ttl_max), |valid| (valid, valid))
        }
        (None, min, max) => {
            let min = min.and_then(|(min, _)| min).unwrap_or(default.ttl_min);
            let max = max.and_then(|(max, _)| max).unwrap_or(default.ttl_max);
            if min > max {
                section.error(format!(
                    "`ttl_min` ({}) is above `ttl_max` ({})",
                    min.spell(),
                    max.spell()
                ));
            }
            (min, max)
        }
    }
}

/// An address with a port, or without for 53.
fn nameserver(value: &Value<'_>) -> Option<SocketAddr> {
    let text: String = value.leaf()?;
    let address = text.parse().or_else(|_| {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        bare.unwrap_or(&text).parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DNS_PORT))
    });
    match address {
        Ok(address) if address.port() == 0 || address.ip().is_unspecified() => {
            value.error(format!("`{address}` is no address of a name server"));
        }
        Ok(address) => {
            bounds::check_address(&value.place, address.ip());
            return Some(address);
        }
        Err(_) => value.error(
            "expected the address of a name server, such as `10.0.0.53` or `[2001:db8::53]:5353`",
        ),
    }
    None
}
