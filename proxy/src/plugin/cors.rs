//! `cors`: tells browsers which other origins may read the responses (Fetch, section 3.2).
//!
//! Names, defaults and answers are APISIX's. Any OPTIONS request is answered 200 at once, before
//! authentication. The fields stand in place of the node's; an origin that is not listed gets none
//! of them. `allow_origins_by_regex` is asked instead of `allow_origins`, if it is there, and the lists
//! of the plugin's metadata that `allow_origins_by_metadata` names behind either.

use std::sync::Arc;

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS,
        ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
        ACCESS_CONTROL_MAX_AGE, VARY,
    },
};
use regex::bytes::Regex;

use super::{Hooks, Kind, Outcome, Phase, Plugin, Request, RequestContext};
use crate::{
    config::plugins::{Scope, Section, Value, field_value, list as list_of, regex},
    http::answer::Answer,
};

pub(super) static KIND: Kind =
    Kind { name: "cors", priority: 4000, phase: Phase::Rewrite, read, credential: None };

const ANY: HeaderValue = HeaderValue::from_static("*");
const EVERY_METHOD: &str = "GET,POST,PUT,DELETE,PATCH,HEAD,OPTIONS,CONNECT,TRACE";
const TIMING_ALLOW_ORIGIN: HeaderName = HeaderName::from_static("timing-allow-origin");
/// Lists of metadata.
const LISTS_MAX: usize = 64;
/// What `allow_credential` cannot go with.
const WILD: &str = "you can not set '*' for other option when 'allow_credential' is true";
const ORIGINS_FORM: &str = "needs `*`, `**`, `null`, or origins such as `https://a.example`, with \
                            commas and no blanks between them";

#[derive(Debug)]
struct Cors {
    allow_origins: Origins,
    /// Asked for those that are not among these.
    more_origins: Box<[Origins]>,
    /// Whether the fields depend on who asks.
    varies: bool,
    allow_methods: HeaderValue,
    /// `None`: whatever is asked for.
    allow_headers: Option<HeaderValue>,
    expose_headers: Option<HeaderValue>,
    /// Seconds.
    max_age: HeaderValue,
    allow_credential: bool,
    timing_allow_origins: Option<Origins>,
}

#[derive(Debug)]
enum Origins {
    /// `*`
    Any,
    /// `**`: whoever asks, by name.
    Everyone,
    Listed(Box<[HeaderValue]>),
    Matching(Box<[Regex]>),
}

fn read(section: &mut Section<'_>, scope: &Scope<'_>) -> Option<Arc<dyn Plugin>> {
    let allow_origins = section.take_or("allow_origins", "*", origins);
    let by_regex = section.take("allow_origins_by_regex").map(|value| patterns(&value));
    let allow_methods = section.take_or("allow_methods", "*", list);
    let allow_headers = section.take_or("allow_headers", "*", list);
    let expose_headers = section.take("expose_headers").map(|value| list(&value));
    let max_age = section.leaf_or("max_age", 5_i64);
    let allow_credential = section.leaf_or("allow_credential", false);
    let timing = section.take("timing_allow_origins").map(|value| origins(&value));
    let timing_by_regex =
        section.take("timing_allow_origins_by_regex").map(|value| patterns(&value));
    let more = section.take("allow_origins_by_metadata");
    let more = more.map(|value| list_of(&value, LISTS_MAX, |name| by_metadata(name, scope)));
    let (allow_origins, methods, headers) = (allow_origins?, allow_methods?, allow_headers?);
    let (expose_headers, timing) = (expose_headers.flatten(), timing.flatten());
    let is_wild = [Some(&allow_origins), Some(&methods), Some(&headers)]
        .into_iter()
        .chain([expose_headers.as_ref(), timing.as_ref()])
        .any(|option| option.is_some_and(|option| option == "*"));
    if allow_credential && is_wild {
        section.error(WILD);
        return None;
    }
    let by_regex = by_regex.map_or(Some(None), |patterns| patterns.map(Some))?;
    let timing_by_regex = timing_by_regex.map_or(Some(None), |patterns| patterns.map(Some))?;
    Some(Arc::new(Cors {
        varies: allow_origins != "*" || by_regex.is_some(),
        allow_origins: by_regex.unwrap_or_else(|| Origins::of(&allow_origins)),
        more_origins: more.unwrap_or_else(|| Some(Vec::new()))?.into(),
        allow_methods: value_of(if methods == "**" { EVERY_METHOD } else { &methods }),
        allow_headers: (headers != "**").then(|| value_of(&headers)),
        expose_headers: expose_headers.filter(|list| !list.is_empty()).map(|list| value_of(&list)),
        max_age: max_age.into(),
        allow_credential,
        timing_allow_origins: timing_by_regex
            .or_else(|| timing.map(|timing| Origins::of(&timing))),
    }))
}

/// What [`origins`] and [`list`] let pass is a value.
fn value_of(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

fn list(value: &Value<'_>) -> Option<String> {
    let list = field_value(value)?;
    let text = list.to_str().map(str::to_owned);
    text.map_err(|_| value.error("has characters outside of ASCII")).ok()
}

/// `allow_origins` of this plugin, or of its metadata.
pub(crate) fn origins(value: &Value<'_>) -> Option<String> {
    let is_origin = |one: &str| {
        let (scheme, rest) = one.split_once("://").unwrap_or_default();
        !scheme.is_empty()
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && !rest.is_empty()
            && rest.bytes().all(|byte| byte.is_ascii_graphic())
    };
    value.text(ORIGINS_FORM, |text| {
        matches!(text, "*" | "**" | "null") || text.split(',').all(is_origin)
    })
}

fn by_metadata(value: &Value<'_>, scope: &Scope<'_>) -> Option<Origins> {
    let name = value.leaf::<String>()?;
    let Some(origins) = scope.metadata.allow_origins.get(&name) else {
        value.error("`allow_origins` of `plugin_metadata` of `cors` has no such name");
        return None;
    };
    Some(Origins::of(origins))
}

fn patterns(value: &Value<'_>) -> Option<Origins> {
    let items = value.items()?;
    if items.is_empty() {
        value.error("needs at least one regular expression");
        return None;
    }
    let patterns: Vec<_> = items.iter().map(regex).collect();
    patterns.into_iter().collect::<Option<_>>().map(Origins::Matching)
}

impl Origins {
    fn of(text: &str) -> Origins {
        match text {
            "*" => Origins::Any,
            "**" => Origins::Everyone,
            listed => Origins::Listed(listed.split(',').map(value_of).collect()),
        }
    }

    /// What is said to one who asks from `origin`.
    fn allowed(&self, origin: Option<&HeaderValue>) -> Option<HeaderValue> {
        match self {
            Origins::Any => Some(ANY),
            Origins::Everyone => Some(origin.cloned().unwrap_or(ANY)),
            Origins::Listed(listed) => listed.iter().find(|one| Some(*one) == origin).cloned(),
            Origins::Matching(patterns) => origin
                .filter(|origin| patterns.iter().any(|one| one.is_match(origin.as_bytes())))
                .cloned(),
        }
    }
}

impl Plugin for Cors {
    fn request(&self, cx: &mut RequestContext<'_>) -> Outcome {
        let response = &mut cx.response;
        self.fields(&cx.request, |name, value| {
            if name == VARY { response.add(name, value) } else { response.set(name, value) }
        });
        if cx.request.head.method() == Method::OPTIONS.as_str() {
            return Outcome::Answer(Answer::with_body(StatusCode::OK, Bytes::new()));
        }
        Outcome::Continue
    }

    fn hooks(&self) -> Hooks {
        Hooks { answer: true, ..Hooks::default() }
    }

    /// Of plugins before this one too.
    fn answer(&self, request: &Request<'_>, answer: &mut Answer) {
        self.fields(request, |name, value| answer.fields.push((name, value)));
    }
}

impl Cors {
    fn fields(&self, request: &Request<'_>, mut push: impl FnMut(HeaderName, HeaderValue)) {
        let received = |name| {
            let value = request.head.values(name).next()?;
            HeaderValue::from_bytes(value).ok()
        };
        let origin = received("origin");
        if self.varies {
            push(VARY, HeaderValue::from_static("Origin"));
        }
        let timing = self.timing_allow_origins.as_ref();
        if let Some(origin) = timing.and_then(|origins| origins.allowed(origin.as_ref())) {
            push(TIMING_ALLOW_ORIGIN, origin);
        }
        let mut lists = [&self.allow_origins].into_iter().chain(&self.more_origins);
        let allowed = lists.find_map(|origins| origins.allowed(origin.as_ref()));
        let Some(origin) = allowed else { return };
        push(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        push(ACCESS_CONTROL_ALLOW_METHODS, self.allow_methods.clone());
        push(ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        if let Some(fields) = &self.expose_headers {
            push(ACCESS_CONTROL_EXPOSE_HEADERS, fields.clone());
        }
        let requested = || received("access-control-request-headers");
        if let Some(fields) = self.allow_headers.clone().or_else(requested) {
            push(ACCESS_CONTROL_ALLOW_HEADERS, fields);
        }
        if self.allow_credential {
            push(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }
}

#[cfg(test)]
mod tests;
