//! Sets of keys in the settings: in a file, or at a URL.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};

use super::key_set::{KeySet, SET_SIZE_MAX, Use};
use crate::{
    client::{Purpose, Request, Trust},
    config::plugins::{Section, Value, file, url},
    key_source::{KeySource, Settings},
};

/// Seconds; a week.
const TTL_MAX: u64 = 7 * 86_400;
/// Seconds.
const INTERVAL_MAX: u64 = 3600;
/// Milliseconds.
const TIMEOUT_MAX: u64 = 60_000;

/// As it is when the configuration is read.
pub(super) fn in_file(value: &Value<'_>, usage: Use) -> Option<KeySet> {
    let json = file(value, SET_SIZE_MAX)?;
    KeySet::parse(&json, usage).map_err(|bad| value.error(bad.to_string())).ok()
}

/// `value` is that of `jwks_url`, `section` has the rest.
pub(super) fn at_url(
    value: &Value<'_>,
    section: &mut Section<'_>,
    usage: Use,
) -> Option<Arc<KeySource>> {
    let ttl = section.within_or("jwks_ttl", 1..=TTL_MAX, 300);
    let interval = section.within_or("jwks_interval", 1..=INTERVAL_MAX, 10);
    let timeout = section.within_or("jwks_timeout", 1..=TIMEOUT_MAX, 3000);
    let is_verified = section.leaf_or("ssl_verify", true);
    let url = url(value)?;
    if !url.is_tls {
        value.place.warning("whoever is on the way can replace keys that come by http; use https");
    }
    let json = HeaderValue::from_static("application/json, application/jwk-set+json");
    let request = Request {
        purpose: Purpose::Jwks,
        method: Method::GET,
        url,
        address: None,
        fields: HeaderMap::from_iter([(header::ACCEPT, json)]),
        body: Bytes::new(),
        timeout: Duration::from_millis(timeout),
        body_size_max: SET_SIZE_MAX,
        trust: if is_verified { Trust::System } else { Trust::Anybody },
        keep_alive: None,
    };
    let (ttl, interval) = (Duration::from_secs(ttl), Duration::from_secs(interval));
    Some(Arc::new(KeySource::new(Settings { request, usage, ttl, interval })))
}
