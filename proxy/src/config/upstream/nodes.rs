//! Where an upstream leads: `nodes`, by address or by name, or `service_name`.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use super::{
    super::{
        Balancing, NamedNode, Node, bounds,
        planned::Kind,
        reader::{Place, Section, Value},
        tree::shown,
    },
    balancing,
};
use crate::dns::{Question, Records};

/// Of nodes without a port.
const HTTP_PORT: u16 = 80;
/// Characters of one label, RFC 1035 section 2.3.4.
const LABEL_CHARS_MAX: usize = 63;

/// What an upstream leads to, in the order of the file.
#[derive(Debug, Default)]
pub(super) struct Listed {
    pub(super) nodes: Vec<Node>,
    pub(super) names: Vec<NamedNode>,
}

/// `nodes`, or `service_name` with `discovery_type`. `None`: there is an error.
pub(super) fn listed(section: &mut Section<'_>, balancing: Balancing) -> Option<Listed> {
    let (service, kind) = (section.take("service_name"), section.take("discovery_type"));
    if service.is_none() && kind.is_none() {
        return section.require("nodes").and_then(|value| nodes(&value, balancing));
    }
    if section.take("nodes").is_some() {
        section.error("`nodes` and a service to discover at once; keep one of them");
    }
    let planned = ["consul", "consul_kv", "eureka", "kubernetes", "nacos", "tars"];
    let is_dns = kind.as_ref().and_then(|value| value.one_of(&[("dns", ())], &planned));
    match (&service, &kind) {
        (None, _) => {
            section.error("`service_name` is missing; `discovery_type` alone finds nothing")
        }
        (_, None) => section.error("`discovery_type` is missing; write `discovery_type: dns`"),
        (Some(_), Some(_)) => {}
    }
    let named = service.as_ref().and_then(service_name);
    is_dns?;
    Some(Listed { nodes: Vec::new(), names: vec![named?] })
}

/// `{"127.0.0.1:80": 1}` or `[{host: 127.0.0.1, port: 80, weight: 1, priority: 0}]`; none of them is an
/// upstream that has nobody just now.
fn nodes(value: &Value<'_>, balancing: Balancing) -> Option<Listed> {
    let read: Vec<(Place<'_>, Option<Item>)> = if value.is_mapping() {
        value.pairs()?.into_iter().map(item_of_pair).collect()
    } else {
        value.items()?.into_iter().map(|item| (item.place.clone(), item_of_list(&item))).collect()
    };
    let mut lines = HashMap::with_capacity(read.len());
    let mut weights = Vec::with_capacity(read.len());
    let mut listed = Listed::default();
    let mut is_whole = true;
    for (place, item) in read {
        let Some(item) = item else {
            is_whole = false;
            continue;
        };
        if let Some(line) = lines.insert(item.target.clone(), place.line()) {
            place.error(format!("node {} is in line {line} already", item.target));
        }
        weights.push((item.priority, item.weight));
        listed.push(item);
    }
    if is_whole {
        balancing::check_size(value, &weights, balancing);
    }
    // Here, as a name may have no address yet, and its weight counts all the same.
    if weights.iter().all(|(_, weight)| *weight == 0) {
        listed.nodes.iter_mut().for_each(|node| node.weight = 1);
        listed.names.iter_mut().for_each(|name| name.weight = 1);
    }
    is_whole.then_some(listed)
}

impl Listed {
    fn push(&mut self, Item { target: Target { host, port }, weight, priority }: Item) {
        match host {
            Host::Address(ip) => {
                let address = SocketAddr::new(ip, port);
                self.nodes.push(Node { address, host: None, weight, priority });
            }
            Host::Name(name) => {
                let question = Question { name, records: Records::Addresses };
                self.names.push(NamedNode { question, port, weight, priority });
            }
        }
    }
}

#[derive(Debug)]
struct Item {
    target: Target,
    weight: u32,
    priority: i32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Target {
    host: Host,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Host {
    Address(IpAddr),
    /// In lower case.
    Name(Arc<str>),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(ip) => SocketAddr::new(*ip, self.port).fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

fn item_of_pair<'t>(
    (place, key, weight): (Place<'t>, &str, Value<'t>),
) -> (Place<'t>, Option<Item>) {
    let target = target(&place, key);
    let weight = weight.within(&bounds::WEIGHT);
    let item = target.zip(weight).map(|(target, weight)| Item { target, weight, priority: 0 });
    (place, item)
}

fn item_of_list(item: &Value<'_>) -> Option<Item> {
    let mut section = item.section()?;
    let host = section.require("host").and_then(|value| value.leaf::<String>());
    let port = section.take("port").map(|value| value.within(&(1..=u16::MAX)));
    let weight = section.require("weight").and_then(|value| value.within(&bounds::WEIGHT));
    let priority = section.leaf_or("priority", 0);
    section.finish(Kind::Node);
    let host = host.and_then(|text| self::host(&item.place, &text));
    let port = port.unwrap_or(Some(HTTP_PORT));
    Some(Item { target: Target { host: host?, port: port? }, weight: weight?, priority })
}

/// `HOST:PORT`, or `HOST` alone for port 80.
fn target(place: &Place<'_>, text: &str) -> Option<Target> {
    let (host, port) = split(text);
    let port = match port {
        Some(port) => self::port(place, port)?,
        None => HTTP_PORT,
    };
    Some(Target { host: self::host(place, host)?, port })
}

/// Host and port as they are written; the colons of an IPv6 address alone begin no port.
fn split(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((host, port)) if text.parse::<Ipv6Addr>().is_err() && !text.ends_with(']') => {
            (host, Some(port))
        }
        Some(_) | None => (text, None),
    }
}

fn port(place: &Place<'_>, text: &str) -> Option<u16> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(0) => place.error("port 0 cannot be dialled"),
        Ok(port) if is_number => return Some(port),
        Ok(_) | Err(_) => place.error(format!("invalid port `{}`", shown(text))),
    }
    None
}

/// An address, of IPv6 in brackets as in APISIX, or a name.
fn host(place: &Place<'_>, text: &str) -> Option<Host> {
    let bracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let address = match (bracketed, text.parse::<IpAddr>()) {
        (Some(inner), _) => inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        (None, Ok(IpAddr::V6(v6))) => {
            place.error(format!("an IPv6 address stands in brackets; write `[{v6}]`"));
            return None;
        }
        (None, Ok(address)) => Some(address),
        (None, Err(_)) if is_host_name(text) => {
            return Some(Host::Name(text.to_ascii_lowercase().into()));
        }
        (None, Err(_)) => None,
    };
    match address {
        Some(ip) if ip.is_unspecified() => place.error(format!("`{ip}` is no address of a node")),
        Some(ip) => {
            bounds::check_address(place, ip);
            return Some(Host::Address(ip));
        }
        None => place.error(format!("`{}` is neither an address nor a host name", shown(text))),
    }
    None
}

/// Labels of letters, digits, `-` and, as many use it, `_` (RFC 1123 section 2.1). The last one is no
/// number: that would be a mistyped address.
fn is_host_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        (1..=LABEL_CHARS_MAX).contains(&label.len())
            && label.chars().all(is_allowed)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    name.len() <= bounds::HOST_CHARS_MAX
        && name.split('.').all(is_label)
        && !name.rsplit('.').next().is_some_and(is_number)
}

/// `NAME:PORT` for addresses, `NAME` for SRV records or else addresses, `_SERVICE._PROTOCOL.NAME` for
/// SRV records alone.
fn service_name(value: &Value<'_>) -> Option<NamedNode> {
    let text: String = value.leaf()?;
    let Target { host, port } = target(&value.place, &text)?;
    let Host::Name(name) = host else {
        value.error("is an address; write it in `nodes`");
        return None;
    };
    let has_port = split(&text).1.is_some();
    let records = match (name.starts_with('_'), has_port) {
        (true, true) => {
            value.error("SRV records have ports of their own; remove this one");
            return None;
        }
        (true, false) => Records::Services,
        (false, true) => Records::Addresses,
        (false, false) => Records::ServicesOrAddresses,
    };
    let question = Question { name, records };
    Some(NamedNode { question, port, weight: 1, priority: 0 })
}
