//! The cookies of a request (RFC 6265 section 5.4): `name=value` pairs between `;`.

use super::head::RequestHead;

/// Every pair, without the blanks around it.
pub fn pairs(head: &RequestHead) -> impl Iterator<Item = &[u8]> {
    let pairs = head.values("cookie").flat_map(|value| value.split(|byte| *byte == b';'));
    pairs.map(<[u8]>::trim_ascii).filter(|pair| !pair.is_empty())
}

/// The values under `name`, case and all.
pub fn values<'h>(head: &'h RequestHead, name: &str) -> impl Iterator<Item = &'h [u8]> {
    pairs(head).filter_map(move |pair| value(pair, name))
}

/// The value of a pair if it has this name.
pub fn value<'p>(pair: &'p [u8], name: &str) -> Option<&'p [u8]> {
    let equals = memchr::memchr(b'=', pair)?;
    let is_named = pair[..equals].trim_ascii() == name.as_bytes();
    is_named.then(|| pair[equals + 1..].trim_ascii())
}
