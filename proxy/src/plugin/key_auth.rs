//! `key-auth`: a request must carry the key of a consumer, in a field or in a query argument.
//!
//! Names, defaults and texts are APISIX's. The field is looked at first, then the query argument.

use std::{borrow::Cow, sync::Arc};

use http::{HeaderValue, StatusCode, header::WWW_AUTHENTICATE};

use super::{Consumer, Credential, Kind, Outcome, Phase, Plugin, RequestContext};
use crate::{
    config::plugins::{CredentialAt, Scope, Section, argument_name, consumer, field_name, realm},
    http::{
        answer::Answer,
        query::{arguments, decode},
    },
};

pub(super) static KIND: Kind = Kind {
    name: "key-auth",
    priority: 2500,
    phase: Phase::Rewrite,
    read,
    credential: Some(credential),
};

/// Bytes of a key; it has to fit into a head.
const KEY_SIZE_MAX: usize = 4096;
const KEY_FORM: &str =
    "needs 1 to 4096 bytes, without control characters and without blanks at its ends";

#[derive(Debug)]
struct KeyAuth {
    /// Request field that carries the key, lower-case.
    header: Arc<str>,
    /// Query argument that carries it.
    query: String,
    /// Whether the key is taken out of what the node sees.
    hide_credentials: bool,
    challenge: HeaderValue,
    /// Attached when the key is missing or wrong.
    anonymous_consumer: Option<String>,
}

fn read(section: &mut Section<'_>, scope: &Scope<'_>) -> Option<Arc<dyn Plugin>> {
    let header = section.take_or("header", "apikey", field_name);
    let query = section.take_or("query", "apikey", argument_name);
    let realm = section.take_or("realm", "key", realm);
    let hide_credentials = section.leaf_or("hide_credentials", false);
    let anonymous_consumer = match section.take("anonymous_consumer") {
        Some(value) => Some(consumer(&value, scope)?),
        None => None,
    };
    Some(Arc::new(KeyAuth {
        header: header?.into(),
        query: query?,
        hide_credentials,
        challenge: challenge(&realm?),
        anonymous_consumer,
    }))
}

/// [`realm`] lets only printable ASCII into a realm.
fn challenge(realm: &str) -> HeaderValue {
    HeaderValue::try_from(format!("apikey realm=\"{realm}\""))
        .unwrap_or(HeaderValue::from_static("apikey"))
}

fn credential<'t>(section: &mut Section<'t>) -> Option<CredentialAt<'t>> {
    let value = section.require("key")?;
    let key = value.text(KEY_FORM, |key| {
        // A field's value has neither control characters nor blanks at its ends.
        (1..=KEY_SIZE_MAX).contains(&key.len())
            && key.trim() == key
            && !key.contains(char::is_control)
    })?;
    let credential =
        Credential { kind: KIND.name, id: key.into_bytes().into(), detail: Arc::new(()) };
    Some(CredentialAt { credential, place: value.place })
}

impl Plugin for KeyAuth {
    fn request(&self, cx: &mut RequestContext<'_>) -> Outcome {
        let refusal = match self.owner(cx) {
            Ok(consumer) => return self.attach(cx, consumer),
            Err(refusal) => refusal,
        };
        let consumers = cx.consumers;
        match self.anonymous_consumer.as_deref().and_then(|name| consumers.named(name)) {
            Some(anonymous) => self.attach(cx, anonymous),
            None => Outcome::Answer(
                Answer::message(StatusCode::UNAUTHORIZED, refusal)
                    .field(WWW_AUTHENTICATE, self.challenge.clone()),
            ),
        }
    }
}

impl KeyAuth {
    /// Whose key the request carries, or what is wrong with it.
    fn owner<'a>(&self, cx: &RequestContext<'a>) -> Result<&'a Consumer, &'static str> {
        // A field that is there twice is ambiguous: which one would the node believe?
        let mut fields = cx.request.head.values(&self.header);
        let (key, is_repeated) = match fields.next() {
            Some(value) => (Some(Cow::Borrowed(value)), fields.next().is_some()),
            None => {
                let mut arguments =
                    cx.query.as_deref().into_iter().flat_map(|q| arguments(q, &self.query));
                (arguments.next().map(|(_, value)| value), arguments.next().is_some())
            }
        };
        match key {
            None => Err("Missing API key in request"),
            Some(_) if is_repeated => Err("Invalid API key in request"),
            Some(key) => cx
                .consumers
                .owner::<()>(KIND.name, &key)
                .map(|(consumer, ())| consumer)
                .ok_or("Invalid API key in request"),
        }
    }

    fn attach<'a>(&self, cx: &mut RequestContext<'a>, consumer: &'a Consumer) -> Outcome {
        if self.hide_credentials {
            cx.edits.remove(&self.header);
            cx.query = cx.query.take().and_then(|query| without_argument(query, &self.query));
        }
        cx.attach(consumer);
        Outcome::Continue
    }
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
