//! `jwt-auth`: a request must carry a token (RFC 7519) that a consumer has signed.
//!
//! Names, defaults and texts are APISIX's. A claim of the token names the consumer's key; how a
//! token has to be signed says the consumer, never the token. The token is looked for in the field,
//! then in the query, then among the cookies. `exp` and `nbf` are checked wherever they are.

mod key;
mod key_set;
mod published;

use std::{borrow::Cow, sync::Arc, time::Duration};

use serde_json::Value as Json;

use self::{key::Verifier, key_set::Verified};
#[cfg(test)]
pub(crate) use self::key::p256;
pub(crate) use self::key_set::{BadSet, KeySet, Use};
use super::{
    Call, Credential, Found, Kind, Outcome, Phase, Plugin, Reply, RequestContext,
    authentication::{Authentication, hide_argument, hide_cookie, only},
};
use crate::{
    config::plugins::{
        CredentialAt, Scope, Section, Value, argument_name, cookie_name, field_name, list,
        not_built,
    },
    http::{
        authorization::after_scheme,
        cookie,
        jwt::{self, Claims},
        query::arguments,
    },
    key_source::KeySource,
};

pub(super) static KIND: Kind = Kind {
    name: "jwt-auth",
    priority: 2510,
    phase: Phase::Rewrite,
    read,
    credential: Some(credential),
};

/// Bytes of the name of a claim and of a consumer's key.
const NAME_SIZE_MAX: usize = 1024;
/// Seconds that `exp` and `nbf` may be off; ten years.
const GRACE_MAX: u64 = 10 * 365 * 86_400;
const FAILED: &str = "failed to verify jwt";

#[derive(Debug)]
struct JwtAuth {
    /// Request field that carries the token, lower-case.
    header: Arc<str>,
    query: String,
    cookie: String,
    /// The claim with the consumer's key.
    key_claim: String,
    required: Vec<Time>,
    authentication: Authentication,
}

/// A claim that a token may be required to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Time {
    Expires,
    NotBefore,
}

/// How a consumer signs.
#[derive(Debug)]
struct Signer {
    algorithm: &'static str,
    verifier: Verifier,
    grace: Duration,
}

fn read(section: &mut Section<'_>, scope: &Scope<'_>) -> Option<Arc<dyn Plugin>> {
    let header = section.take_or("header", "authorization", field_name);
    let query = section.take_or("query", "jwt", argument_name);
    let cookie = section.take_or("cookie", "jwt", cookie_name);
    let key_claim = section.take_or("key_claim_name", "key", key_claim);
    let required = section.take("claims_to_verify").map(|value| required(&value));
    not_built(section, "store_in_ctx");
    let authentication = Authentication::read(section, scope, "Bearer", "jwt")?;
    Some(Arc::new(JwtAuth {
        header: header?.into(),
        query: query?,
        cookie: cookie?,
        key_claim: key_claim?,
        required: required.unwrap_or_else(|| Some(Vec::new()))?,
        authentication,
    }))
}

fn key_claim(value: &Value<'_>) -> Option<String> {
    value.text("needs 1 to 1024 bytes, and neither `exp` nor `nbf`", |name| {
        (1..=NAME_SIZE_MAX).contains(&name.len()) && !["exp", "nbf"].contains(&name)
    })
}

fn required(value: &Value<'_>) -> Option<Vec<Time>> {
    const WORDS: [(&str, Time); 2] = [("exp", Time::Expires), ("nbf", Time::NotBefore)];
    list(value, WORDS.len(), |value| value.one_of(&WORDS, &[]))
}

/// `exp`, the life of a token, is for those who sign.
fn credential<'t>(section: &mut Section<'t>) -> Option<CredentialAt<'t>> {
    section.within_or("exp", 1..=u64::MAX, 1);
    let grace = section.within_or("lifetime_grace_period", 0..=GRACE_MAX, 0);
    let value = section.require("key");
    let signing = key::read(section);
    let value = value?;
    let id = value.text("needs 1 to 1024 bytes", |key| (1..=NAME_SIZE_MAX).contains(&key.len()))?;
    let (algorithm, verifier) = signing?;
    let keys = match &verifier {
        Verifier::Source(source) => Some(Arc::clone(source)),
        Verifier::Key(_) | Verifier::Set(_) => None,
    };
    let detail = Arc::new(Signer { algorithm, verifier, grace: Duration::from_secs(grace) });
    let credential = Credential { kind: KIND.name, id: id.into_bytes().into(), detail, keys, name: None };
    Some(CredentialAt { credential, place: value.place })
}

impl Plugin for JwtAuth {
    fn request(&self, cx: &mut RequestContext<'_>) -> Outcome {
        match self.owner(cx) {
            Ok(found) => self.conclude(cx, Ok(found)),
            Err(Refusal::UnknownKey(source)) => Outcome::Call(Call::Keys(source)),
            Err(Refusal::Because(message)) => self.conclude(cx, Err(message)),
        }
    }

    /// Behind a look whether the key is known by now.
    fn resume(&self, cx: &mut RequestContext<'_>, _reply: Reply) -> Outcome {
        let found = self.owner(cx).map_err(|refusal| match refusal {
            Refusal::Because(message) => message,
            Refusal::UnknownKey(_) => FAILED,
        });
        self.conclude(cx, found)
    }
}

/// Why nobody was found.
enum Refusal {
    Because(&'static str),
    /// The token is signed with a key that this may have by now.
    UnknownKey(Arc<KeySource>),
}

impl From<&'static str> for Refusal {
    fn from(message: &'static str) -> Refusal {
        Refusal::Because(message)
    }
}

impl JwtAuth {
    /// Who has signed the token of the request, or what is wrong with it.
    fn owner<'a>(&self, cx: &RequestContext<'a>) -> Result<Found<'a>, Refusal> {
        let text = self.token(cx)?;
        let token = jwt::parse(&text, &self.key_claim).ok_or("JWT token invalid")?;
        let key = token.claims.key.as_ref().and_then(Json::as_str);
        let key = key.ok_or("missing user key in JWT token")?;
        let (found, signer) = cx
            .consumers
            .owner::<Signer>(KIND.name, key.as_bytes())
            .ok_or("Invalid user key in JWT token")?;
        let now = cx.now().unix();
        // What is of no use in any case is no reason to fetch keys.
        if token.algorithm != signer.algorithm || !self.is_valid(&token.claims, now, signer.grace) {
            return Err(FAILED.into());
        }
        let id = token.key_id.as_deref();
        match (signer.verifier.verifies(id, token.signed, &token.signature), &signer.verifier) {
            (Verified::Yes, _) => Ok(found),
            (Verified::Unknown, Verifier::Source(source)) => {
                Err(Refusal::UnknownKey(Arc::clone(source)))
            }
            (Verified::No | Verified::Unknown, _) => Err(FAILED.into()),
        }
    }

    fn conclude<'a>(
        &self,
        cx: &mut RequestContext<'a>,
        found: Result<Found<'a>, &'static str>,
    ) -> Outcome {
        self.authentication.conclude(cx, found, |cx| {
            cx.edits.remove(&self.header);
            hide_argument(cx, &self.query);
            hide_cookie(cx, &self.cookie);
        })
    }

    fn token<'c>(&self, cx: &'c RequestContext<'_>) -> Result<Cow<'c, [u8]>, &'static str> {
        const INVALID: &str = "JWT token invalid";
        let head = cx.request.head;
        if let Some(value) = only(head.values(&self.header), INVALID)? {
            return Ok(Cow::Borrowed(after_scheme(value, "bearer").unwrap_or(value)));
        }
        let query = cx.query.as_deref().into_iter();
        let values = query.flat_map(|query| arguments(query, &self.query));
        if let Some((_, value)) = only(values, INVALID)? {
            return Ok(value);
        }
        let value = only(cookie::values(head, &self.cookie), INVALID)?;
        value.map(Cow::Borrowed).ok_or("Missing JWT token in request")
    }

    /// RFC 7519 sections 4.1.4 and 4.1.5, with clocks that may be off by `grace`. What is no number is
    /// no time.
    fn is_valid(&self, claims: &Claims, now: Duration, grace: Duration) -> bool {
        let (now, grace) = (now.as_secs_f64(), grace.as_secs_f64());
        let has = |time: &Time| match time {
            Time::Expires => claims.expires.is_some(),
            Time::NotBefore => claims.not_before.is_some(),
        };
        let is_ahead = |expires: &Json| expires.as_f64().is_some_and(|at| now < at + grace);
        let is_over = |not_before: &Json| not_before.as_f64().is_some_and(|at| at <= now + grace);
        self.required.iter().all(has)
            && claims.expires.as_ref().is_none_or(is_ahead)
            && claims.not_before.as_ref().is_none_or(is_over)
    }
}

#[cfg(test)]
mod tests;
