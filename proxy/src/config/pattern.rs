//! The forms of what a route matches on: paths, hosts, methods.

use std::{net::Ipv6Addr, sync::Arc};

use ipnet::IpNet;

use super::{bounds, reader::Value};
use crate::route::Pattern;

/// A path pattern.
///
/// Routes match the normalised path, so a pattern that no normalised path can match is refused.
pub(super) fn uri(value: &Value<'_>) -> Option<Arc<Pattern>> {
    match Pattern::parse(&value.leaf::<String>()?) {
        Ok(pattern) => Some(Arc::new(pattern)),
        Err(error) => {
            value.error(format!("the path {error}"));
            None
        }
    }
}

/// An address or network of clients.
pub(super) fn network(value: &Value<'_>) -> Option<IpNet> {
    let network = value.leaf::<IpNet>()?;
    bounds::check_prefix(&value.place, network);
    Some(network)
}

/// A host pattern: exact, `*.suffix`, `*suffix`, or `*`. Lower-case.
pub(super) fn host(value: &Value<'_>) -> Option<String> {
    let host = value.leaf::<String>()?.to_ascii_lowercase();
    if let Some(address) = ip_literal(&host) {
        return Some(address);
    }
    let literal = host.strip_prefix("*.").or(host.strip_prefix('*')).unwrap_or(&host);
    let problem = if host == "*" {
        return Some(host);
    } else if literal.contains('*') {
        "has a `*` that is not its first character; write `*.example.com`"
    } else if literal.contains(':') {
        "has a port; routes match the name alone"
    } else if literal.is_empty() || literal.len() > bounds::HOST_CHARS_MAX {
        "needs 1 to 253 characters"
    } else if !literal.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')) {
        "has other characters than letters, digits, `-`, `_` and `.`"
    } else if literal.split('.').any(str::is_empty) {
        "has an empty label"
    } else {
        return Some(host);
    };
    value.error(format!("the host {problem}"));
    None
}

/// `[::1]`, as clients spell it in `Host`, however the file does (RFC 5952).
fn ip_literal(host: &str) -> Option<String> {
    let inner = host.strip_prefix('[')?.strip_suffix(']')?;
    let address: Ipv6Addr = inner.parse().ok()?;
    // Of an IPv4-mapped address clients have two spellings.
    let is_mapped = address.to_ipv4_mapped().is_some();
    Some(if is_mapped { host.to_owned() } else { format!("[{address}]") })
}

/// One of the methods that APISIX knows.
pub(super) fn method(value: &Value<'_>) -> Option<String> {
    let words = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "PURGE"];
    value.one_of(&words.map(|word| (word, word)), &["CONNECT"]).map(str::to_owned)
}
