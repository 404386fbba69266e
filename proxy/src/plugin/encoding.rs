//! Content codings: which responses are encoded, for whom, as what.
//!
//! `gzip`, `brotli` and `zstd` only say how they would do it and for which responses. Whether and
//! which of them does is decided here, once for a response and behind all other plugins: what they
//! make of head and body is what is encoded. A coding has to be named by the downstream, and the one
//! it wants most is taken (RFC 9110 section 12.5.3); of those that it wants alike zstd before brotli
//! before gzip.
//!
//! An encoded response is another representation: `ETag` becomes weak, and what was said of its
//! length, of ranges and of digests is dropped. Responses that are parts, that are encoded already or
//! that must not be transformed (RFC 9111 section 5.2.2.6) stay as they are.

mod accept;
mod encoder;

use std::sync::Arc;

use http::{
    HeaderName, HeaderValue, StatusCode,
    header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, ETAG, VARY},
};

use self::accept::Accepted;
pub(super) use self::encoder::{BrotliMode, Coder, ZSTD_LEVEL_MAX};
use super::{FieldEdits, ResponseEdits, Shape};
use crate::{
    config::plugins::{Section, Value, list},
    http::{
        framing::{BodyLength, Version},
        head::{RequestHead, ResponseHead},
        name,
    },
    memory::Memory,
};

/// Media types of one plugin.
const TYPES_MAX: usize = 256;
/// Bytes that `min_length` may ask for.
const MIN_LENGTH_MAX: u64 = 1 << 30;
/// True of the body as it was.
const OF_THE_BODY: [&str; 5] =
    ["accept-ranges", "content-digest", "content-md5", "digest", "repr-digest"];

/// How a plugin encodes, and which responses.
#[derive(Debug)]
pub struct Encoding {
    coder: Coder,
    types: Types,
    /// Bytes, of bodies whose length is announced.
    min_length: u64,
    /// Of the downstream.
    min_version: Version,
    /// Whether caches are told that it depends on the request.
    varies: bool,
}

#[derive(Debug)]
enum Types {
    Any,
    /// Without parameters.
    Listed(Vec<String>),
}

impl Encoding {
    /// What all codings have in common, beside their `coder`.
    pub(super) fn read(section: &mut Section<'_>, coder: Coder) -> Option<Encoding> {
        let types = section.take("types").map(|value| types(&value));
        let min_length = section.within_or("min_length", 1..=MIN_LENGTH_MAX, 20);
        let version = section.take("http_version").map(|value| version(&value));
        let varies = section.leaf_or("vary", false);
        Some(Encoding {
            coder,
            types: types.unwrap_or_else(|| Some(Types::Listed(vec!["text/html".to_owned()])))?,
            min_length,
            min_version: version.unwrap_or(Some(Version::Http11))?,
            varies,
        })
    }

    fn is_for(&self, request: &RequestHead, content_type: &[u8], length: Option<u64>) -> bool {
        let is_known = match (self.min_version, request.version()) {
            (Version::Http10, _) | (_, Version::Http11) => true,
            (Version::Http11, Version::Http10) => false,
        };
        is_known
            && length.is_none_or(|length| length >= self.min_length)
            && self.types.have(content_type)
    }
}

impl Types {
    fn have(&self, content_type: &[u8]) -> bool {
        let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
        let essence = essence.trim_ascii();
        match self {
            Types::Any => !essence.is_empty(),
            Types::Listed(types) => {
                types.iter().any(|one| one.as_bytes().eq_ignore_ascii_case(essence))
            }
        }
    }
}

/// A list of media types, or `*`.
fn types(value: &Value<'_>) -> Option<Types> {
    if value.quiet_leaf::<String>().as_deref() == Some("*") {
        return Some(Types::Any);
    }
    let is_token =
        |part: &str| !part.is_empty() && part != "*" && part.bytes().all(name::is_token_byte);
    let is_type = |text: &str| {
        text.split_once('/').is_some_and(|(kind, rest)| is_token(kind) && is_token(rest))
    };
    let one = |value: &Value<'_>| {
        value.text(
            "is not a media type such as `text/html`; `*` alone, not in a list, is any",
            is_type,
        )
    };
    list(value, TYPES_MAX, one).map(Types::Listed)
}

/// `1.1` is a number to YAML.
fn version(value: &Value<'_>) -> Option<Version> {
    match value.written()? {
        "1.0" => Some(Version::Http10),
        "1.1" => Some(Version::Http11),
        _ => {
            value.error("expected 1.0 or 1.1");
            None
        }
    }
}

/// The head of a response as the plugins have left it.
struct Outgoing<'a> {
    head: &'a ResponseHead,
    /// What was to be changed before there was a response, and since.
    early: &'a FieldEdits<'a>,
    edits: &'a ResponseEdits<'a>,
}

impl<'a> Outgoing<'a> {
    fn values(&self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        let Outgoing { head, early, edits } = *self;
        let is_replaced = early.replaces_name(name) || edits.fields.replaces_name(name);
        let received = (!is_replaced).then(|| head.values(name.as_str()));
        let is_received = |name: &str| head.field(name).is_some();
        let made = early.made(is_received).chain(edits.fields.made(is_received));
        let made = made.filter(move |(made, _)| *made == name).map(|(_, value)| value.as_bytes());
        received.into_iter().flatten().chain(made)
    }

    /// Whether an element of a list says so.
    fn lists(&self, name: &'a HeaderName, wanted: &[&str]) -> bool {
        self.values(name).flat_map(name::list).any(|element| is_one_of(element, wanted))
    }

    fn is_encodable(&self, request: &RequestHead) -> bool {
        let is_whole = |status: StatusCode| {
            !matches!(
                status,
                StatusCode::NO_CONTENT
                    | StatusCode::RESET_CONTENT
                    | StatusCode::PARTIAL_CONTENT
                    | StatusCode::NOT_MODIFIED
            )
        };
        let has_body = self.head.body_length() != BodyLength::Empty || request.method() == "HEAD";
        let mut encodings = self.values(&CONTENT_ENCODING).flat_map(name::list);
        has_body
            && is_whole(self.head.status())
            && self.edits.status.is_none_or(is_whole)
            && encodings.all(|coding| coding.eq_ignore_ascii_case(b"identity"))
            && self.values(&CONTENT_RANGE).next().is_none()
            && !self.lists(&CACHE_CONTROL, &["no-transform"])
            && !request
                .values(CACHE_CONTROL.as_str())
                .flat_map(name::list)
                .any(|directive| is_one_of(directive, &["no-transform"]))
    }

    /// What caches know the response by, which no other representation of it may have.
    fn weak_etag(&self) -> Option<HeaderValue> {
        let etag = self.values(&ETAG).next().filter(|etag| etag.starts_with(b"\""))?;
        HeaderValue::from_bytes(&[b"W/", etag].concat()).ok()
    }

    fn has_weak_etag(&self) -> bool {
        self.values(&ETAG).next().is_some_and(|etag| etag.starts_with(b"W/"))
    }
}

fn is_one_of(element: &[u8], wanted: &[&str]) -> bool {
    wanted.iter().any(|one| one.as_bytes().eq_ignore_ascii_case(element))
}

/// The length that the body would have, if that is announced.
fn announced(head: &ResponseHead) -> Option<u64> {
    match head.body_length() {
        BodyLength::Fixed(length) => Some(length),
        // To HEAD.
        BodyLength::Empty => str::from_utf8(head.field("content-length")?).ok()?.parse().ok(),
        BodyLength::Chunked | BodyLength::UntilClose => None,
    }
}

/// What is to be done with a response.
struct Choice<'e> {
    encoding: Option<&'e Encoding>,
    varies: bool,
    /// The field `ETag`, if it changes; `Some(None)`: it goes.
    etag: Option<Option<HeaderValue>>,
}

fn choose<'e>(
    encodings: impl Iterator<Item = &'e Encoding>,
    request: &RequestHead,
    outgoing: &Outgoing<'_>,
    length: Option<u64>,
) -> Option<Choice<'e>> {
    let content_type = outgoing.values(&CONTENT_TYPE).next()?;
    let accepted = Accepted::of(request.values("accept-encoding"));
    let (mut best, mut varies) = (None, false);
    for encoding in encodings.filter(|one| one.is_for(request, content_type, length)) {
        varies |= encoding.varies;
        let wanted = accepted.weight(encoding.coder.names()).map(|it| (it, encoding.coder.rank()));
        if wanted > best.map(|(wanted, _)| wanted) {
            best = wanted.map(|wanted| (wanted, encoding));
        }
    }
    Some(Choice {
        encoding: best.map(|(_, encoding)| encoding),
        varies: varies && !outgoing.lists(&VARY, &["accept-encoding", "*"]),
        etag: (!outgoing.has_weak_etag()).then(|| outgoing.weak_etag()),
    })
}

/// Encodes the response of `shape` if one of `encodings` is for it. `early` is what was to be changed
/// about the response before there was one.
pub(super) fn apply<'e>(
    encodings: impl Iterator<Item = &'e Encoding>,
    request: &RequestHead,
    head: &ResponseHead,
    early: &FieldEdits<'_>,
    memory: &Arc<Memory>,
    shape: &mut Shape<'_>,
) {
    let mut encodings = encodings.peekable();
    if encodings.peek().is_none() {
        return;
    }
    let length = announced(head).filter(|_| !shape.is_filtered);
    let outgoing = Outgoing { head, early, edits: &shape.edits };
    if !outgoing.is_encodable(request) {
        return;
    }
    let Some(choice) = choose(encodings, request, &outgoing, length) else { return };
    let fields = &mut shape.edits.fields;
    if choice.varies {
        fields.add(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    let Some(encoding) = choice.encoding else { return };
    if head.body_length() != BodyLength::Empty {
        let Some(filter) = encoder::start(encoding.coder, length, memory) else { return };
        shape.filters.encode_by(filter);
    }
    shape.is_filtered = true;
    fields.set(CONTENT_ENCODING, HeaderValue::from_static(encoding.coder.names()[0]));
    for name in OF_THE_BODY {
        fields.remove(name);
    }
    match choice.etag {
        Some(Some(weak)) => fields.set(ETAG, weak),
        Some(None) => fields.remove("etag"),
        None => {}
    }
}

#[cfg(test)]
mod tests;
