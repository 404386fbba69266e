//! Where requests are counted: here, or in a Redis that several share.

use std::{fmt::Display, sync::Arc, time::Duration};

use ring::digest;

use crate::{
    client::Trust,
    config::plugins::{Section, Value},
    plugin::{
        hex::hex,
        script::{Question, Server, Step, Teller, Undoing},
    },
};

/// `policy`.
#[derive(Debug)]
pub(in crate::plugin) enum Policy {
    Local,
    Redis(Shared),
}

/// Counting in Redis, in the name of one resource.
#[derive(Debug)]
pub(in crate::plugin) struct Shared {
    plugin: &'static str,
    server: Arc<Server>,
    /// Of all its keys; what follows is this plugin's own.
    prefix: Box<str>,
}

/// What only `policy: redis` reads.
const KEYS: [&str; 11] = [
    "redis_host",
    "redis_port",
    "redis_username",
    "redis_password",
    "redis_database",
    "redis_timeout",
    "redis_ssl",
    "redis_ssl_verify",
    "redis_keepalive_timeout",
    "redis_keepalive_pool",
    KEY_TTL,
];
pub(in crate::plugin) const KEY_TTL: &str = "key_ttl";
/// Milliseconds.
const TIMEOUT_MAX: u64 = 60_000;
const IDLE_TIMEOUT_MAX: u64 = 86_400_000;
/// Bytes of a host's name (RFC 1035 section 2.3.4).
const HOST_SIZE_MAX: usize = 253;
/// Bytes of a value that stands in a key as it is; of others their hash does.
const VALUE_SIZE_MAX: usize = 64;

impl Policy {
    /// `policy`, with what belongs to it; who has the same `owner` shares what Redis counts.
    pub(in crate::plugin) fn read(
        section: &mut Section<'_>,
        owner: Option<&str>,
        plugin: &'static str,
    ) -> Option<Policy> {
        let words = [("local", false), ("redis", true)];
        let planned = ["redis-cluster", "redis-sentinel"];
        let policy = section.take("policy").map(|value| value.one_of(&words, &planned));
        if policy.unwrap_or(Some(false))? {
            let server = server(section)?;
            let prefix = format!("tandem:{plugin}:{}", owner?).into();
            return Some(Policy::Redis(Shared { plugin, server: Arc::new(server), prefix }));
        }
        for key in KEYS {
            if let Some(value) = section.take(key) {
                value.error("needs `policy: redis`");
            }
        }
        Some(Policy::Local)
    }
}

fn server(section: &mut Section<'_>) -> Option<Server> {
    let host = section.require("redis_host").and_then(|value| host(&value));
    let port = section.within_or("redis_port", 1..=u16::MAX, 6379);
    let username = section.take("redis_username").map(Value::secret);
    let password = section.take("redis_password").map(Value::secret);
    if let (Some(username), None) = (&username, &password) {
        username.error("needs `redis_password`");
    }
    let database = section.within_or("redis_database", 0..=i32::MAX as u32, 0);
    let timeout = section.within_or("redis_timeout", 1..=TIMEOUT_MAX, 1000);
    let idle = section.within_or("redis_keepalive_timeout", 1..=IDLE_TIMEOUT_MAX, 10_000);
    if let Some(value) = section.take("redis_keepalive_pool") {
        value.error("each worker has one connection to a Redis; remove it");
    }
    let tls = tls(section);
    let text = |value: Option<Value<'_>>| match value {
        Some(value) => value.leaf::<String>().map(|text| Some(text.into_boxed_str())),
        None => Some(None),
    };
    Some(Server {
        host: host?,
        port,
        username: text(username)?,
        password: text(password)?,
        database,
        tls,
        timeout: Duration::from_millis(timeout),
        idle_timeout: Duration::from_millis(idle),
    })
}

/// Whom to trust, if the server speaks TLS.
fn tls(section: &mut Section<'_>) -> Option<Trust> {
    let is_tls = section.leaf_or("redis_ssl", false);
    let verify = section.take("redis_ssl_verify").map(|value| (value.leaf(), value));
    match (is_tls, verify) {
        (true, Some((Some(true), _))) => Some(Trust::System),
        (true, Some(_)) => Some(Trust::Anybody),
        (true, None) => {
            let advice = "anybody can pose as this Redis; set `redis_ssl_verify: true`";
            section.place().warning(advice);
            Some(Trust::Anybody)
        }
        (false, Some((Some(true), value))) => {
            value.error("needs `redis_ssl: true`");
            None
        }
        (false, _) => None,
    }
}

/// The owner of what the members of a group count.
pub(in crate::plugin) fn group_owner(group: &str) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    match is_short(group, is_plain) {
        true => format!("group:{group}"),
        false => format!("group:{}", hashed(group.as_bytes())),
    }
}

fn is_short(text: &str, is_plain: impl Fn(&u8) -> bool) -> bool {
    text.len() <= VALUE_SIZE_MAX && text.as_bytes().iter().all(is_plain)
}

fn hashed(value: &[u8]) -> String {
    format!("#{}", hex(digest::digest(&digest::SHA256, value)))
}

fn host(value: &Value<'_>) -> Option<Box<str>> {
    let is_host =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
    let host = value.text("is neither a name nor an address", |text| {
        (1..=HOST_SIZE_MAX).contains(&text.len()) && text.bytes().all(is_host)
    });
    host.map(String::into_boxed_str)
}

impl Shared {
    /// What Redis keeps under `rule` for a value that a client may have chosen.
    pub(in crate::plugin) fn key(&self, rule: impl Display, value: &[u8]) -> Vec<u8> {
        let mut key = format!("{}:{rule}:", self.prefix).into_bytes();
        match str::from_utf8(value) {
            Ok(text) if !text.starts_with('#') && is_short(text, u8::is_ascii_graphic) => {
                key.extend_from_slice(value);
            }
            Ok(_) | Err(_) => key.extend_from_slice(hashed(value).as_bytes()),
        }
        key
    }

    pub(in crate::plugin) fn ask(&self, step: Step, undoing: Option<Undoing>) -> Arc<Question> {
        let Self { plugin, server, .. } = self;
        Arc::new(Question { plugin, server: Arc::clone(server), step, undoing, teller: None })
    }

    /// Where `question` goes, in nobody's name.
    #[cfg(test)]
    pub(in crate::plugin) fn of(question: &Question) -> Shared {
        let Question { plugin, server, .. } = question;
        Shared { plugin, server: Arc::clone(server), prefix: Box::default() }
    }

    /// Has `teller` begin too, if it has not.
    pub(in crate::plugin) fn ask_with(&self, step: Step, teller: Teller) -> Arc<Question> {
        let Self { plugin, server, .. } = self;
        let (server, teller) = (Arc::clone(server), Some(teller));
        Arc::new(Question { plugin, server, step, undoing: None, teller })
    }
}

#[cfg(test)]
mod tests;
