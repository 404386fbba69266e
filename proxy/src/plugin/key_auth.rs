//! `key-auth`: a request must carry the key of a consumer, in a field or in a query argument.
//!
//! Names, defaults and texts are APISIX's. The field is looked at first, then the query argument.

use std::{
    borrow::Cow,
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    sync::Arc,
};

use http::{HeaderValue, StatusCode, header::WWW_AUTHENTICATE};
use percent_encoding::percent_decode_str;
use subtle::ConstantTimeEq;

use super::{Consumers, Outcome, Plugin, RequestContext};
use crate::{config::Consumer, http::answer::Answer};

/// `key-auth` as a route configures it.
#[derive(Debug, Clone)]
pub struct KeyAuthConfig {
    /// Request field that carries the key; `apikey` by default, lower-case.
    pub header: String,
    /// Query argument that carries it; `apikey` by default.
    pub query: String,
    /// In `WWW-Authenticate`; `key` by default.
    pub realm: String,
    /// Whether the key is taken out of what the node sees.
    pub hide_credentials: bool,
    /// Attached when the key is missing or wrong.
    pub anonymous_consumer: Option<String>,
}

/// The consumers' keys.
///
/// A key is looked up under a hash that is keyed anew in each process and compared in constant
/// time, so how long a refusal takes says nothing about how much of a guess was right.
#[derive(Debug, Default)]
pub struct Keyring {
    hasher: RandomState,
    owners: HashMap<u64, Vec<Owner>>,
}

#[derive(Debug)]
struct Owner {
    key: Arc<str>,
    name: ConsumerName,
}

/// Who is attached, as the record and as nodes know it.
#[derive(Debug)]
struct ConsumerName {
    username: Arc<str>,
    /// The same, as the value of a field.
    value: HeaderValue,
}

impl ConsumerName {
    fn new(username: &Arc<str>) -> Self {
        // The validator lets only letters, digits, `-` and `_` into a name.
        let value = HeaderValue::from_str(username).unwrap_or(HeaderValue::from_static(""));
        Self { username: Arc::clone(username), value }
    }
}

impl Keyring {
    pub(super) fn new(consumers: &[Consumer]) -> Self {
        let mut keyring = Self::default();
        for consumer in consumers {
            if let Some(key) = &consumer.key_auth {
                let hash = keyring.hasher.hash_one(key.as_bytes());
                let owners = keyring.owners.entry(hash).or_default();
                let name = ConsumerName::new(&consumer.username);
                owners.push(Owner { key: Arc::clone(key), name });
            }
        }
        keyring
    }

    fn owner(&self, key: &[u8]) -> Option<&ConsumerName> {
        let owners = self.owners.get(&self.hasher.hash_one(key))?;
        owners.iter().find(|owner| owner.key.as_bytes().ct_eq(key).into()).map(|owner| &owner.name)
    }
}

#[derive(Debug)]
struct KeyAuth {
    config: KeyAuthConfig,
    /// What is taken out of what the node sees.
    hidden: Option<Arc<str>>,
    challenge: HeaderValue,
    anonymous: Option<ConsumerName>,
    consumers: Arc<Consumers>,
}

pub(super) fn build(config: &KeyAuthConfig, consumers: &Arc<Consumers>) -> Arc<dyn Plugin> {
    Arc::new(KeyAuth {
        challenge: challenge(&config.realm),
        hidden: config.hide_credentials.then(|| config.header.as_str().into()),
        anonymous: config.anonymous_consumer.as_deref().map(|name| ConsumerName::new(&name.into())),
        config: config.clone(),
        consumers: Arc::clone(consumers),
    })
}

/// The validator lets only printable ASCII into a realm.
fn challenge(realm: &str) -> HeaderValue {
    HeaderValue::try_from(format!("apikey realm=\"{realm}\""))
        .unwrap_or(HeaderValue::from_static("apikey"))
}

impl Plugin for KeyAuth {
    fn request(&self, cx: &mut RequestContext<'_>) -> Outcome {
        let refusal = match self.owner(cx) {
            Ok(name) => return self.attach(cx, name),
            Err(refusal) => refusal,
        };
        match &self.anonymous {
            Some(anonymous) => self.attach(cx, anonymous),
            None => Outcome::Answer(
                Answer::with_reason(StatusCode::UNAUTHORIZED, refusal)
                    .field(WWW_AUTHENTICATE, self.challenge.clone()),
            ),
        }
    }
}

impl KeyAuth {
    /// Whose key the request carries, or what is wrong with it.
    fn owner(&self, cx: &RequestContext<'_>) -> Result<&ConsumerName, &'static str> {
        // A field that is there twice is ambiguous: which one would the node believe?
        let mut fields = cx.head.values(&self.config.header);
        let (key, is_repeated) = match fields.next() {
            Some(value) => (Some(Cow::Borrowed(value)), fields.next().is_some()),
            None => {
                let mut arguments =
                    cx.query.as_deref().into_iter().flat_map(|q| arguments(q, &self.config.query));
                (arguments.next().map(|(_, value)| value), arguments.next().is_some())
            }
        };
        match key {
            None => Err("Missing API key in request"),
            Some(_) if is_repeated => Err("Invalid API key in request"),
            Some(key) => self.consumers.keys.owner(&key).ok_or("Invalid API key in request"),
        }
    }

    fn attach(&self, cx: &mut RequestContext<'_>, name: &ConsumerName) -> Outcome {
        if let Some(field) = &self.hidden {
            cx.edits.remove(field);
            cx.query =
                cx.query.take().and_then(|query| without_argument(query, &self.config.query));
        }
        cx.edits.set("x-consumer-username", name.value.clone());
        cx.consumer = Some(Arc::clone(&name.username));
        Outcome::Continue
    }
}

/// The pieces of `query` whose decoded name is `name`, each with its decoded value.
fn arguments<'q>(query: &'q str, name: &str) -> impl Iterator<Item = (&'q str, Cow<'q, [u8]>)> {
    query.split('&').filter_map(move |piece| {
        let (key, value) = piece.split_once('=').unwrap_or((piece, ""));
        (*decode(key) == *name.as_bytes()).then(|| (piece, decode(value)))
    })
}

fn decode(text: &str) -> Cow<'_, [u8]> {
    percent_decode_str(text).into()
}

/// The query without every piece that names `name`, the others as they were received.
fn without_argument<'q>(query: Cow<'q, str>, name: &str) -> Option<Cow<'q, str>> {
    if arguments(&query, name).next().is_none() {
        return Some(query);
    }
    let kept: Vec<&str> = query
        .split('&')
        .filter(|piece| {
            *decode(piece.split_once('=').map_or(*piece, |(key, _)| key)) != *name.as_bytes()
        })
        .collect();
    (!kept.is_empty()).then(|| Cow::Owned(kept.join("&")))
}

#[cfg(test)]
mod tests;
