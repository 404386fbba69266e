//! Who may be authenticated, and by what.

use std::{
    any::Any,
    collections::{HashMap, hash_map::RandomState},
    fmt,
    hash::BuildHasher,
    sync::Arc,
};

use http::HeaderValue;
use subtle::ConstantTimeEq;

use super::chain::Chain;
use crate::{config, key_source::KeySource};

/// What a consumer is known by to one plugin that authenticates.
#[derive(Clone)]
pub struct Credential {
    /// The plugin.
    pub kind: &'static str,
    /// What a request is looked up by: a key, a user name. No two consumers have the same.
    pub id: Arc<[u8]>,
    /// What only that plugin understands: a password, a public key.
    pub detail: Arc<dyn Any + Send + Sync>,
    /// Where it comes from, if not from the configuration.
    pub keys: Option<Arc<KeySource>>,
    /// What nodes are told it is called, if it is a resource of its own.
    pub name: Option<HeaderValue>,
}

/// Without what is secret.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// Somebody who may be authenticated.
#[derive(Debug)]
pub struct Consumer {
    /// Position among the consumers.
    pub index: usize,
    pub username: Arc<str>,
    /// The same, as the value of a field.
    pub username_value: HeaderValue,
    /// Label `custom_id`.
    pub custom_id: Option<HeaderValue>,
    pub group: Option<Arc<str>>,
    /// What applies to this consumer's requests, instead of what the route says by the same name.
    pub chain: Option<Chain>,
}

/// Who was authenticated.
#[derive(Debug, Clone, Copy)]
pub struct Found<'c> {
    pub consumer: &'c Consumer,
    /// The name of the credential, if it has one.
    pub credential: Option<&'c HeaderValue>,
}

/// Everybody a plugin may authenticate.
///
/// A credential is looked up under a hash that is keyed anew for each configuration and compared in
/// constant time, so how long a refusal takes says nothing about how much of a guess was right.
#[derive(Debug, Default)]
pub struct Consumers {
    list: Vec<Consumer>,
    by_name: HashMap<Arc<str>, usize>,
    hasher: RandomState,
    /// By that hash.
    owners: HashMap<u64, Vec<Owner>, foldhash::fast::RandomState>,
}

#[derive(Debug)]
struct Owner {
    credential: Credential,
    consumer: usize,
}

impl Consumers {
    /// `chain` has what applies to each consumer beside the route's.
    pub fn new(
        consumers: &[config::Consumer],
        mut chain: impl FnMut(&config::Consumer) -> Option<Chain>,
    ) -> Self {
        let mut all = Self::default();
        for (index, config) in consumers.iter().enumerate() {
            // The validator lets only letters, digits, `-` and `_` into a name.
            let value = HeaderValue::from_str(&config.username);
            all.list.push(Consumer {
                index,
                username: Arc::clone(&config.username),
                username_value: value.unwrap_or(HeaderValue::from_static("")),
                custom_id: config.custom_id.clone(),
                group: config.group.clone(),
                chain: chain(config),
            });
            all.by_name.insert(Arc::clone(&config.username), index);
            for credential in &config.credentials {
                let hash = all.hasher.hash_one(&*credential.id);
                let owner = Owner { credential: credential.clone(), consumer: index };
                all.owners.entry(hash).or_default().push(owner);
            }
        }
        all
    }

    /// Whose credential this is to the plugin `kind`, and what that plugin knows of it.
    pub fn owner<T: 'static>(&self, kind: &'static str, id: &[u8]) -> Option<(Found<'_>, &T)> {
        let owners = self.owners.get(&self.hasher.hash_one(id))?;
        let is_meant =
            |owner: &&Owner| owner.credential.kind == kind && owner.credential.id.ct_eq(id).into();
        let Owner { credential, consumer } = owners.iter().find(is_meant)?;
        let consumer = self.list.get(*consumer)?;
        let found = Found { consumer, credential: credential.name.as_ref() };
        Some((found, credential.detail.downcast_ref()?))
    }

    pub fn named(&self, name: &str) -> Option<Found<'_>> {
        let consumer = self.list.get(*self.by_name.get(name)?)?;
        Some(Found { consumer, credential: None })
    }

    pub fn get(&self, index: usize) -> Option<&Consumer> {
        self.list.get(index)
    }
}
