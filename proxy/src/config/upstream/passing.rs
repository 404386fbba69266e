//! How requests reach the nodes of an upstream: what they are told is their host, how long they may
//! take, and which connections to them are kept.

use std::{ops::RangeInclusive, time::Duration};

use http::HeaderValue;

use super::super::{
    KeepalivePool, NodeTimeout, PassHost, bounds,
    planned::Kind,
    reader::{Section, Value},
};

/// `pass_host` and `upstream_host`. `None`: there is an error.
pub(super) fn pass_host(section: &mut Section<'_>) -> Option<PassHost> {
    #[derive(Clone, Copy)]
    enum Word {
        Pass,
        Node,
        Rewrite,
    }
    let words = [("pass", Word::Pass), ("node", Word::Node), ("rewrite", Word::Rewrite)];
    let word = section.take("pass_host").map_or(Some(Word::Pass), |it| it.one_of(&words, &[]));
    let host = section.take("upstream_host");
    match (word?, host) {
        (Word::Rewrite, Some(host)) => self::host(&host).map(PassHost::Rewrite),
        (Word::Rewrite, None) => {
            section.error(EMPTY_HOST);
            None
        }
        (word, host) => {
            if let Some(host) = host {
                host.place.warning("has no effect without `pass_host: rewrite`");
            }
            Some(if matches!(word, Word::Node) { PassHost::Node } else { PassHost::Pass })
        }
    }
}

const EMPTY_HOST: &str = "`upstream_host` can't be empty when `pass_host` is `rewrite`";

/// A host, with a port or without.
pub(super) fn host(value: &Value<'_>) -> Option<HeaderValue> {
    let text: String = value.leaf()?;
    let is_allowed =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '[' | ']');
    if text.is_empty() {
        value.error(EMPTY_HOST);
    } else if !text.chars().all(is_allowed) || text.len() > bounds::HOST_CHARS_MAX {
        value.error("is no host, with or without a port");
    } else {
        return HeaderValue::try_from(text).ok();
    }
    None
}

/// `timeout`: all of `connect`, `send` and `read`, in seconds.
pub(in super::super) fn timeout(section: &mut Section<'_>) -> Option<NodeTimeout> {
    let mut timeout = section.section("timeout")?;
    let mut wait = |key| timeout.require(key).and_then(|value| seconds(&value, &bounds::SECONDS));
    let (connect, send, read) = (wait("connect"), wait("send"), wait("read"));
    timeout.finish(Kind::NodeTimeout);
    Some(NodeTimeout { connect: connect?, send: send?, read: read? })
}

pub(super) fn keepalive_pool(section: &mut Section<'_>) -> KeepalivePool {
    let Some(mut pool) = section.section("keepalive_pool") else { return KeepalivePool::default() };
    let size = pool.take("size").and_then(|value| value.within(&(1..=*bounds::POOL_IDLE.end())));
    let idle_timeout = pool
        .take("idle_timeout")
        .and_then(|value| seconds(&value, &(0.0..=*bounds::SECONDS.end())));
    let requests = pool.take("requests").and_then(|value| value.within(&(1..=u32::MAX)));
    pool.finish(Kind::KeepalivePool);
    KeepalivePool { size, idle_timeout, requests }
}

/// A number, as the Admin API has times.
pub(super) fn seconds(value: &Value<'_>, range: &RangeInclusive<f64>) -> Option<Duration> {
    value.within(range).map(Duration::from_secs_f64)
}
