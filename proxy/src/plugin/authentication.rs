//! What the plugins that authenticate share: settings, and what follows from who was found.

use http::{
    HeaderValue, StatusCode,
    header::{COOKIE, WWW_AUTHENTICATE},
};

use super::{Found, Outcome, RequestContext};
use crate::{
    config::plugins::{Scope, Section, consumer, realm},
    http::{answer::Answer, cookie, query::arguments},
};

/// `hide_credentials`, `realm` and `anonymous_consumer`.
#[derive(Debug)]
pub(super) struct Authentication {
    /// Whether the credential is taken out of what the node sees.
    hide_credentials: bool,
    challenge: HeaderValue,
    /// Attached when the credential is missing or wrong.
    anonymous_consumer: Option<String>,
}

impl Authentication {
    /// The challenge (RFC 9110 section 11.6.1) names `scheme`, and `default_realm` unless configured.
    pub(super) fn read(
        section: &mut Section<'_>,
        scope: &Scope<'_>,
        scheme: &'static str,
        default_realm: &str,
    ) -> Option<Self> {
        let realm = section.take_or("realm", default_realm, realm);
        let hide_credentials = section.leaf_or("hide_credentials", false);
        let anonymous_consumer = match section.take("anonymous_consumer") {
            Some(value) => Some(consumer(&value, scope)?),
            None => None,
        };
        Some(Self { hide_credentials, challenge: challenge(scheme, &realm?), anonymous_consumer })
    }

    /// Attaches who was found or, if nobody was, who stands in; without either the request is
    /// refused. `hide` takes the credential out of what the node sees.
    pub(super) fn conclude<'a>(
        &self,
        cx: &mut RequestContext<'a>,
        found: Result<Found<'a>, &'static str>,
        hide: impl FnOnce(&mut RequestContext<'a>),
    ) -> Outcome {
        let consumers = cx.consumers;
        let anonymous = || consumers.named(self.anonymous_consumer.as_deref()?);
        match found.or_else(|refusal| anonymous().ok_or(refusal)) {
            Ok(found) => {
                if self.hide_credentials {
                    hide(cx);
                }
                cx.attach(found);
                Outcome::Continue
            }
            Err(refusal) => Outcome::Answer(
                Answer::message(StatusCode::UNAUTHORIZED, refusal)
                    .field(WWW_AUTHENTICATE, self.challenge.clone()),
            ),
        }
    }
}

/// [`realm`] lets only printable ASCII into a realm.
fn challenge(scheme: &'static str, realm: &str) -> HeaderValue {
    HeaderValue::try_from(format!("{scheme} realm=\"{realm}\""))
        .unwrap_or(HeaderValue::from_static(scheme))
}

/// The one value there is. Several are ambiguous: which one would the node believe?
///
/// # Errors
/// There are several.
pub(super) fn only<T, E>(values: impl IntoIterator<Item = T>, repeated: E) -> Result<Option<T>, E> {
    let mut values = values.into_iter();
    let first = values.next();
    if values.next().is_some() { Err(repeated) } else { Ok(first) }
}

/// Takes every piece that names the argument `name` out of the query that the node sees; the others
/// stay as they were received.
pub(super) fn hide_argument(cx: &mut RequestContext<'_>, name: &str) {
    let Some(query) = cx.query.as_deref() else { return };
    if arguments(query, name).next().is_none() {
        return;
    }
    let is_kept = |piece: &&str| arguments(piece, name).next().is_none();
    let kept: Vec<&str> = query.split('&').filter(is_kept).collect();
    cx.query = (!kept.is_empty()).then(|| kept.join("&").into());
}

/// Takes every cookie of this name out of what the node sees; the others become one field.
pub(super) fn hide_cookie(cx: &mut RequestContext<'_>, name: &str) {
    let head = cx.request.head;
    if cookie::values(head, name).next().is_none() {
        return;
    }
    cx.edits.remove(COOKIE.as_str());
    let kept: Vec<&[u8]> =
        cookie::pairs(head).filter(|pair| cookie::value(pair, name).is_none()).collect();
    if let (false, Ok(value)) = (kept.is_empty(), HeaderValue::from_bytes(&kept.join(&b"; "[..]))) {
        cx.edits.set(COOKIE, value);
    }
}
