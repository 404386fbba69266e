//! `key-auth`: a request must carry the key of a consumer, in a field or in a query argument.
//!
//! Names, defaults and texts are APISIX's. The field is looked at first, then the query argument.

use std::{borrow::Cow, sync::Arc};

use super::{
    Credential, Found, Kind, Outcome, Phase, Plugin, RequestContext,
    authentication::{Authentication, hide_argument, only},
};
use crate::{
    config::plugins::{CredentialAt, Scope, Section, argument_name, field_name},
    http::query::arguments,
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
    authentication: Authentication,
}

fn read(section: &mut Section<'_>, scope: &Scope<'_>) -> Option<Arc<dyn Plugin>> {
    let header = section.take_or("header", "apikey", field_name);
    let query = section.take_or("query", "apikey", argument_name);
    let authentication = Authentication::read(section, scope, "apikey", "key")?;
    Some(Arc::new(KeyAuth { header: header?.into(), query: query?, authentication }))
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
        Credential { kind: KIND.name, id: key.into_bytes().into(), detail: Arc::new(()), keys: None, name: None };
    Some(CredentialAt { credential, place: value.place })
}

impl Plugin for KeyAuth {
    fn request(&self, cx: &mut RequestContext<'_>) -> Outcome {
        let found = self.owner(cx);
        self.authentication.conclude(cx, found, |cx| {
            cx.edits.remove(&self.header);
            hide_argument(cx, &self.query);
        })
    }
}

impl KeyAuth {
    /// Whose key the request carries, or what is wrong with it.
    fn owner<'a>(&self, cx: &RequestContext<'a>) -> Result<Found<'a>, &'static str> {
        const INVALID: &str = "Invalid API key in request";
        let key = match only(cx.request.head.values(&self.header), INVALID)? {
            Some(value) => Cow::Borrowed(value),
            None => {
                let query = cx.query.as_deref().into_iter();
                let values = query.flat_map(|query| arguments(query, &self.query));
                only(values, INVALID)?.ok_or("Missing API key in request")?.1
            }
        };
        let (found, ()) = cx.consumers.owner(KIND.name, &key).ok_or(INVALID)?;
        Ok(found)
    }
}

#[cfg(test)]
mod tests;
