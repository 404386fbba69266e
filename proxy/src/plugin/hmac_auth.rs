//! `hmac-auth`: a request must be signed with the secret of a consumer
//! (draft-cavage-http-signatures).
//!
//! Names, defaults and texts are APISIX's. A signature is of the consumer's key id and of what the
//! request lists, one line each: `@request-target`, which is the method and the target, or a field.
//! What is not listed is not signed, unless `signed_headers` asks for it. A field that is listed and
//! is not there, or is there twice, is refused.
//!
//! With `validate_request_body` there has to be a `Digest` (RFC 3230), by SHA-256, and the body has to
//! have it. It is read only once the signature is right.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64ct::{Base64, Encoding};
use http::header::{AUTHORIZATION, DATE};
use ring::{digest, hmac};
use subtle::ConstantTimeEq;

use super::{
    Call, Credential, Found, Kind, Outcome, Phase, Plugin, Reply, RequestContext,
    authentication::{Authentication, only},
};
use crate::{
    config::plugins::{CredentialAt, Scope, Section, Value, held_size_max, list},
    http::{
        authorization::{Signature, after_scheme, signature},
        head::RequestHead,
    },
};

pub(super) static KIND: Kind = Kind {
    name: "hmac-auth",
    priority: 2530,
    phase: Phase::Rewrite,
    read,
    credential: Some(credential),
};

/// Bytes of a key id and of a secret.
const KEY_SIZE_MAX: usize = 256;
/// What a signature may list, and what a route may ask for.
const SIGNED_MAX: usize = 64;
/// Bytes of the longest signature there is, that of SHA-512.
const SIGNATURE_SIZE_MAX: usize = 64;
/// Seconds; a year.
const CLOCK_SKEW_MAX: u64 = 365 * 86_400;
const REQUEST_TARGET: &str = "@request-target";
const DIGEST: &str = "digest";
const FAILED: &str = "client request can't be validated";

#[derive(Debug)]
struct HmacAuth {
    allowed_algorithms: Vec<Algorithm>,
    /// How far `Date` may be from now, either way.
    clock_skew: Duration,
    /// What has to be signed, lower-case.
    signed_headers: Vec<String>,
    /// Of a body whose digest is checked, bytes; `None`: none is.
    body_size_max: Option<u64>,
    authentication: Authentication,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Sha1,
    Sha256,
    Sha512,
}

const ALGORITHMS: [(&str, Algorithm); 3] = [
    ("hmac-sha1", Algorithm::Sha1),
    ("hmac-sha256", Algorithm::Sha256),
    ("hmac-sha512", Algorithm::Sha512),
];

/// The secret of a consumer, made ready for each algorithm.
#[derive(Debug)]
struct Secret {
    sha1: hmac::Key,
    sha256: hmac::Key,
    sha512: hmac::Key,
}

impl Secret {
    fn new(secret: &[u8]) -> Self {
        let key = |algorithm| hmac::Key::new(algorithm, secret);
        Self {
            sha1: key(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
            sha256: key(hmac::HMAC_SHA256),
            sha512: key(hmac::HMAC_SHA512),
        }
    }

    fn key(&self, algorithm: Algorithm) -> &hmac::Key {
        match algorithm {
            Algorithm::Sha1 => &self.sha1,
            Algorithm::Sha256 => &self.sha256,
            Algorithm::Sha512 => &self.sha512,
        }
    }
}

fn read(section: &mut Section<'_>, scope: &Scope<'_>) -> Option<Arc<dyn Plugin>> {
    let algorithms = section.take("allowed_algorithms").map(|value| {
        list(&value, ALGORITHMS.len(), |value| value.one_of(&ALGORITHMS, &[]))
    });
    let clock_skew = section.within_or("clock_skew", 1..=CLOCK_SKEW_MAX, 300);
    let signed_headers = match section.take("signed_headers") {
        Some(value) => signed_headers(&value),
        None => Some(vec![DATE.to_string()]),
    };
    let body_size_max = body_size_max(section, signed_headers.as_deref().unwrap_or_default());
    let authentication = Authentication::read(section, scope, "hmac", "hmac")?;
    let every = || ALGORITHMS.iter().map(|(_, algorithm)| *algorithm).collect();
    Some(Arc::new(HmacAuth {
        allowed_algorithms: algorithms.unwrap_or_else(|| Some(every()))?,
        clock_skew: Duration::from_secs(clock_skew),
        signed_headers: signed_headers?,
        body_size_max,
        authentication,
    }))
}

fn signed_headers(value: &Value<'_>) -> Option<Vec<String>> {
    let names: Vec<String> = list(value, SIGNED_MAX, |value| {
        let name = value.text("needs 1 to 50 characters without blanks", |name| {
            (1..=50).contains(&name.len()) && !name.contains(|c: char| c.is_whitespace() || c == '"')
        })?;
        Some(name.to_ascii_lowercase())
    })?;
    if !names.iter().any(|name| name == DATE.as_str()) {
        value.place.warning("without `date` in it a request can be repeated for ever");
    }
    Some(names)
}

fn body_size_max(section: &mut Section<'_>, signed_headers: &[String]) -> Option<u64> {
    let switch = section.take("validate_request_body").filter(|value| value.leaf() == Some(true));
    if let Some(value) = &switch
        && !signed_headers.iter().any(|name| name == DIGEST)
    {
        value.place.warning(
            "without `digest` in `signed_headers` whoever changes a body can change its digest too",
        );
    }
    held_size_max(section, switch.is_some(), "validate_request_body: true")
}

fn credential<'t>(section: &mut Section<'t>) -> Option<CredentialAt<'t>> {
    const FORM: &str = "needs 1 to 256 bytes, without quotes, backslashes and control characters";
    let (key_id, secret) = (section.require("key_id"), section.require("secret_key"));
    let secret = secret?.text("needs 1 to 256 bytes", |key| (1..=KEY_SIZE_MAX).contains(&key.len()));
    let key_id = key_id?;
    // As it can stand between quotes.
    let id = key_id.text(FORM, |id| {
        (1..=KEY_SIZE_MAX).contains(&id.len())
            && !id.contains(|c: char| matches!(c, '"' | '\\') || c.is_control())
    });
    let detail = Arc::new(Secret::new(secret?.as_bytes()));
    let credential = Credential { kind: KIND.name, id: id?.into_bytes().into(), detail, keys: None, name: None };
    Some(CredentialAt { credential, place: key_id.place })
}

impl Plugin for HmacAuth {
    fn request(&self, cx: &mut RequestContext<'_>) -> Outcome {
        let found = self.owner(cx);
        let Some(size_max) = self.body_size_max else { return self.conclude(cx, found) };
        match found.and_then(|_| digest_of(cx.request.head).ok_or(FAILED)) {
            Ok(_) => Outcome::Call(Call::Body { size_max, digest: Some(&digest::SHA256) }),
            Err(refusal) => self.conclude(cx, Err(refusal)),
        }
    }

    fn resume(&self, cx: &mut RequestContext<'_>, reply: Reply) -> Outcome {
        let is_meant = match reply {
            Reply::Body { digest: Some(digest), .. } => {
                digest_of(cx.request.head).is_some_and(|named| named == *digest.as_ref())
            }
            Reply::Body { digest: None, .. }
            | Reply::Delayed
            | Reply::Http(_)
            | Reply::Refreshed
            | Reply::Redis(_) => false,
        };
        // That the signature is right was seen when it came; by now its `Date` may be too old.
        let found = if is_meant { Claim::of(cx).map(|claim| claim.found) } else { Err(FAILED) };
        self.conclude(cx, found)
    }
}

impl HmacAuth {
    fn conclude<'a>(
        &self,
        cx: &mut RequestContext<'a>,
        found: Result<Found<'a>, &'static str>,
    ) -> Outcome {
        self.authentication.conclude(cx, found, |cx| cx.edits.remove(AUTHORIZATION.as_str()))
    }

    /// Who has signed the request, or what is wrong with the signature.
    fn owner<'a>(&self, cx: &RequestContext<'a>) -> Result<Found<'a>, &'static str> {
        let head = cx.request.head;
        let Claim { given, found, secret } = Claim::of(cx)?;
        let algorithm = self.algorithm(given.algorithm).ok_or(FAILED)?;
        let is_signed = self.is_recent(head, cx.now().unix())
            && self.covers_enough(&given)
            && is_signed(head, &given, secret.key(algorithm)).unwrap_or(false);
        if is_signed { Ok(found) } else { Err(FAILED) }
    }

    fn algorithm(&self, name: &str) -> Option<Algorithm> {
        let (_, algorithm) = ALGORITHMS.iter().find(|(known, _)| *known == name)?;
        self.allowed_algorithms.contains(algorithm).then_some(*algorithm)
    }

    /// Whether there is one `Date`, not further from now than the clocks may be.
    fn is_recent(&self, head: &RequestHead, now: Duration) -> bool {
        let is_near = |date: &[u8]| {
            let date = httpdate::parse_http_date(str::from_utf8(date).ok()?).ok()?;
            let date = date.duration_since(SystemTime::UNIX_EPOCH).ok()?;
            Some(date.abs_diff(now) <= self.clock_skew)
        };
        let date = only(head.values(DATE.as_str()), ()).ok().flatten();
        date.and_then(is_near).unwrap_or(false)
    }

    fn covers_enough(&self, given: &Signature<'_>) -> bool {
        let is_listed = |name: &String| listed(given).any(|one| one.eq_ignore_ascii_case(name));
        listed(given).nth(SIGNED_MAX).is_none() && self.signed_headers.iter().all(is_listed)
    }
}

/// Who the request says has signed it, and how; that anybody can say.
struct Claim<'a> {
    given: Signature<'a>,
    found: Found<'a>,
    secret: &'a Secret,
}

impl<'a> Claim<'a> {
    fn of(cx: &RequestContext<'a>) -> Result<Self, &'static str> {
        let value = only(cx.request.head.values(AUTHORIZATION.as_str()), FAILED)?
            .ok_or("client request can't be validated: missing Authorization header")?;
        let parameters = after_scheme(value, "Signature").ok_or(
            "client request can't be validated: Authorization header does not start with \
             'Signature'",
        )?;
        let given = signature(parameters).ok_or(FAILED)?;
        let (found, secret) =
            cx.consumers.owner(KIND.name, given.key_id.as_bytes()).ok_or(FAILED)?;
        Ok(Self { given, found, secret })
    }
}

/// Of SHA-256.
type Digest = [u8; digest::SHA256_OUTPUT_LEN];

/// The one digest that the request says its body has.
fn digest_of(head: &RequestHead) -> Option<Digest> {
    let value = only(head.values(DIGEST), ()).ok()??.strip_prefix(b"SHA-256=")?;
    let mut buffer = Digest::default();
    Base64::decode(value, &mut buffer).ok()?.try_into().ok()
}

fn listed<'v>(given: &Signature<'v>) -> impl Iterator<Item = &'v str> {
    given.headers.split(' ').filter(|name| !name.is_empty())
}

/// In constant time. `None`: something that is listed is not there or ambiguous, or the signature is
/// not Base64.
fn is_signed(head: &RequestHead, given: &Signature<'_>, key: &hmac::Key) -> Option<bool> {
    let mut context = hmac::Context::with_key(key);
    let mut line = |parts: &[&[u8]]| {
        parts.iter().for_each(|part| context.update(part));
        context.update(b"\n");
    };
    line(&[given.key_id.as_bytes()]);
    for name in listed(given) {
        if name == REQUEST_TARGET {
            let (path, query) = head.path_and_query();
            let (mark, query) = query.map_or(("", ""), |query| ("?", query));
            line(&[head.method(), " ", path, mark, query].map(str::as_bytes));
        } else {
            let value = only(head.values(name), ()).ok()??;
            line(&[name.as_bytes(), b": ", value]);
        }
    }
    let mut buffer = [0; SIGNATURE_SIZE_MAX];
    let signature = Base64::decode(given.signature, &mut buffer).ok()?;
    Some(context.sign().as_ref().ct_eq(signature).into())
}

#[cfg(test)]
mod tests;
