//! `request-id`: a name for each request, which the node and the downstream see.
//!
//! A value that the downstream has sent is kept if it is one value of visible ASCII, at most
//! [`ID_SIZE_MAX`] bytes; otherwise a new one takes its place. The response has it too, unless the
//! node has put a value of its own there.

use std::{iter, str::FromStr, sync::Arc};

use http::{HeaderName, HeaderValue};
use uuid::{NoContext, Timestamp, Uuid};

use super::{Kind, Outcome, Phase, Plugin, RequestContext};
use crate::config::plugins::{Scope, Section, Value, field_name};

pub(super) static KIND: Kind =
    Kind { name: "request-id", priority: 12015, phase: Phase::Rewrite, read, credential: None };

/// Bytes of a value that is kept, and of one that is made.
const ID_SIZE_MAX: usize = 256;
const LETTERS: &str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
/// NanoID's own alphabet and length.
const NANOID_LETTERS: &str = "_-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
const NANOID_SIZE: usize = 21;
/// KSUID's digits, length, and the beginning of its time, seconds since the Unix epoch.
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const KSUID_SIZE: usize = 27;
const KSUID_EPOCH: u64 = 1_400_000_000;

#[derive(Debug)]
struct RequestId {
    name: HeaderName,
    include_in_response: bool,
    algorithm: Algorithm,
}

#[derive(Debug)]
enum Algorithm {
    /// Version 4 of RFC 9562.
    Uuid,
    /// Version 7 of RFC 9562.
    Uuidv7,
    Ksuid,
    /// `length` letters of a set.
    Letters { set: Box<[u8]>, length: usize },
}

fn read(section: &mut Section<'_>, _scope: &Scope<'_>) -> Option<Arc<dyn Plugin>> {
    let name = section.take_or("header_name", "x-request-id", field_name);
    let include_in_response = section.leaf_or("include_in_response", true);
    let algorithm = section.take("algorithm").map(|value| {
        let words = ["uuid", "nanoid", "range_id", "ksuid", "uuidv7"].map(|word| (word, word));
        value.one_of(&words, &[])
    });
    let (set, length) = range_id(section)?;
    let algorithm = match algorithm.unwrap_or(Some("uuid"))? {
        "nanoid" => {
            Algorithm::Letters { set: NANOID_LETTERS.as_bytes().into(), length: NANOID_SIZE }
        }
        "range_id" => Algorithm::Letters { set, length },
        "ksuid" => Algorithm::Ksuid,
        "uuidv7" => Algorithm::Uuidv7,
        _uuid => Algorithm::Uuid,
    };
    let name = HeaderName::from_str(&name?).ok()?;
    Some(Arc::new(RequestId { name, include_in_response, algorithm }))
}

fn range_id(section: &mut Section<'_>) -> Option<(Box<[u8]>, usize)> {
    let Some(mut range) = section.section("range_id") else {
        return Some((LETTERS.as_bytes().into(), 16));
    };
    let length = range.within_or("length", 6..=ID_SIZE_MAX, 16);
    let set = range.take_or("char_set", LETTERS, letters);
    range.finish_plugin();
    Some((set?.into_bytes().into(), length))
}

fn letters(value: &Value<'_>) -> Option<String> {
    value.text("needs 6 to 256 visible ASCII characters", |set| {
        (6..=256).contains(&set.len()) && set.bytes().all(|byte| byte.is_ascii_graphic())
    })
}

impl Plugin for RequestId {
    fn request(&self, cx: &mut RequestContext<'_>) -> Outcome {
        let mut values = cx.request.head.values(self.name.as_str());
        let received = values.next().filter(|value| is_id(value) && values.next().is_none());
        let received = received.and_then(|value| HeaderValue::from_bytes(value).ok());
        let is_new = received.is_none();
        let now = cx.now().unix();
        let id = received.unwrap_or_else(|| self.algorithm.id(now.as_secs(), now.subsec_nanos()));
        if self.include_in_response {
            cx.response.set_default(self.name.clone(), id.clone());
        }
        if is_new {
            cx.edits.set(self.name.clone(), id);
        }
        Outcome::Continue
    }
}

fn is_id(value: &[u8]) -> bool {
    (1..=ID_SIZE_MAX).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic)
}

impl Algorithm {
    /// The time is that since the Unix epoch.
    fn id(&self, seconds: u64, nanoseconds: u32) -> HeaderValue {
        let text = match self {
            Algorithm::Uuid => Uuid::new_v4().to_string(),
            Algorithm::Uuidv7 => {
                Uuid::new_v7(Timestamp::from_unix(NoContext, seconds, nanoseconds)).to_string()
            }
            Algorithm::Ksuid => ksuid(seconds),
            Algorithm::Letters { set, length } => letters_of(set, *length),
        };
        // All of them are of visible ASCII.
        HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("-"))
    }
}

/// What is random of version-4 UUIDs.
fn random() -> impl Iterator<Item = u8> {
    let chosen = |bytes: [u8; 16]| {
        bytes.into_iter().enumerate().filter(|(at, _)| ![6, 8].contains(at)).map(|(_, byte)| byte)
    };
    iter::repeat_with(|| Uuid::new_v4().into_bytes()).flat_map(chosen)
}

fn letters_of(set: &[u8], length: usize) -> String {
    let mut random = random();
    let mut number = || usize::from(u16::from_be_bytes([0; 2].map(|_: u8| random.next().unwrap_or(0))));
    (0..length).map(|_| char::from(set[(number() * set.len()) >> 16])).collect()
}

/// 4 bytes of time and 16 random ones, in base 62.
fn ksuid(seconds: u64) -> String {
    let time = (seconds.saturating_sub(KSUID_EPOCH) as u32).to_be_bytes();
    let mut number: Vec<u8> = time.into_iter().chain(random().take(16)).collect();
    let mut digits = [b'0'; KSUID_SIZE];
    for digit in digits.iter_mut().rev() {
        let mut rest = 0_u32;
        for byte in &mut number {
            let part = rest << 8 | u32::from(*byte);
            // A quotient by 62 of less than 62 × 256.
            *byte = (part / 62) as u8;
            rest = part % 62;
        }
        *digit = BASE62[rest as usize];
    }
    digits.iter().map(|digit| char::from(*digit)).collect()
}

#[cfg(test)]
mod tests;
