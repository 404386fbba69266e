//! `csrf`: a request that may change something must repeat a cookie of ours in a field, which only a
//! page of the same site can read.
//!
//! Names, defaults and texts are APISIX's. A token is signed with a key of the route; every response
//! brings a new one.

use std::{
    collections::hash_map::RandomState,
    fmt,
    hash::BuildHasher,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use base64ct::{Base64, Encoding};
use http::{HeaderValue, StatusCode, header::SET_COOKIE};
use ring::digest;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use super::{Kind, Outcome, Phase, Plugin, RequestContext, authentication::only, hex::hex};
use crate::{
    config::plugins::{Scope, Section, cookie_name, field_name},
    http::{answer::Answer, cookie},
};

pub(super) static KIND: Kind =
    Kind { name: "csrf", priority: 2980, phase: Phase::Access, read, credential: None };

/// Seconds; ten years.
const EXPIRES_MAX: u64 = 10 * 365 * 86_400;
/// Bytes of a token.
const TOKEN_SIZE_MAX: usize = 1024;
/// What changes nothing (RFC 9110 section 9.2.1).
const SAFE_METHODS: [&str; 3] = ["GET", "HEAD", "OPTIONS"];

struct Csrf {
    key: String,
    /// Seconds that a token is good for; 0: for ever.
    expires: u64,
    /// Of the cookie.
    name: String,
    /// The same, lower-case.
    field: String,
    /// Random numbers are hashes of a count.
    hasher: RandomState,
    count: AtomicU64,
}

/// Without the key.
impl fmt::Debug for Csrf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Csrf").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Serialize, Deserialize)]
struct Token {
    random: u64,
    /// When it was made, seconds since the Unix epoch; APISIX's name.
    expires: u64,
    sign: String,
}

fn read(section: &mut Section<'_>, _: &Scope<'_>) -> Option<Arc<dyn Plugin>> {
    let key = section.require("key").map(|value| {
        value.secret().text("needs 1 to 1024 bytes", |key| (1..=1024).contains(&key.len()))
    });
    let expires = section.within_or("expires", 0..=EXPIRES_MAX, 7200);
    let name = match section.take("name") {
        // A name for both a cookie and a field.
        Some(value) => field_name(&value).and_then(|field| Some((cookie_name(&value)?, field))),
        None => Some(("apisix-csrf-token".to_owned(), "apisix-csrf-token".to_owned())),
    };
    let (name, field) = name?;
    let (hasher, count) = (RandomState::new(), AtomicU64::new(0));
    Some(Arc::new(Csrf { key: key??, expires, name, field, hasher, count }))
}

impl Plugin for Csrf {
    fn request(&self, cx: &mut RequestContext<'_>) -> Outcome {
        let now = cx.now().unix();
        if let Ok(cookie) = HeaderValue::try_from(self.cookie(now)) {
            cx.response.add(SET_COOKIE, cookie);
        }
        match self.check(cx, now) {
            Ok(()) => Outcome::Continue,
            Err(refusal) => {
                let body = format!("{{\"error_msg\":\"{refusal}\"}}\n");
                Outcome::Answer(Answer::with_body(StatusCode::UNAUTHORIZED, body.into()))
            }
        }
    }
}

impl Csrf {
    fn check(&self, cx: &RequestContext<'_>, now: Duration) -> Result<(), &'static str> {
        const MISMATCH: &str = "csrf token mismatch";
        let head = cx.request.head;
        if SAFE_METHODS.contains(&head.method()) {
            return Ok(());
        }
        let field = only(head.values(&self.field), MISMATCH)?.filter(|token| !token.is_empty());
        let field = field.ok_or("no csrf token in headers")?;
        let cookie = only(cookie::values(head, &self.name), MISMATCH)?.ok_or("no csrf cookie")?;
        if !bool::from(field.ct_eq(cookie)) {
            return Err(MISMATCH);
        }
        let is_good = self.is_good(cookie, now).unwrap_or(false);
        if is_good { Ok(()) } else { Err("Failed to verify the csrf token signature") }
    }

    /// Whether we made a token, and not too long ago; `None` if it is none.
    fn is_good(&self, token: &[u8], now: Duration) -> Option<bool> {
        let mut buffer = [0; TOKEN_SIZE_MAX];
        let token = Base64::decode(token, &mut buffer).ok()?;
        let Token { random, expires, sign } = serde_json::from_slice(token).ok()?;
        let is_signed = self.sign(random, expires).as_bytes().ct_eq(sign.as_bytes());
        let age = now.as_secs().saturating_sub(expires);
        Some(is_signed.into() && (self.expires == 0 || age <= self.expires))
    }

    fn cookie(&self, now: Duration) -> String {
        let random = self.hasher.hash_one(self.count.fetch_add(1, Ordering::Relaxed));
        let made = now.as_secs();
        let token = Token { random, expires: made, sign: self.sign(random, made) };
        let token = Base64::encode_string(serde_json::json!(token).to_string().as_bytes());
        let mut cookie = format!("{}={token};path=/;SameSite=Lax", self.name);
        if self.expires != 0 {
            let end = SystemTime::UNIX_EPOCH + now + Duration::from_secs(self.expires);
            cookie += &format!(";Expires={}", httpdate::fmt_http_date(end));
        }
        cookie
    }

    /// SHA-256, in hexadecimal.
    fn sign(&self, random: u64, expires: u64) -> String {
        let text = format!("{{expires:{expires},random:{random},key:{}}}", self.key);
        hex(digest::digest(&digest::SHA256, text.as_bytes()))
    }
}

#[cfg(test)]
mod tests;
