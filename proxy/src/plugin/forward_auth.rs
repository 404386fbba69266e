//! `forward-auth`: asks somebody else whether a request may pass.
//!
//! The question tells of the request in `X-Forwarded-*`. It is a GET without body, or a POST with the
//! request's own, which no node sees before the answer. A status below 300 lets the request pass, with fields of the answer in place of the client's own; every other is
//! passed on with its body. Redirects are not followed. What keeps the answer from coming, or from
//! coming whole, is a refusal too, unless `allow_degradation` says otherwise; one who refuses has
//! refused all the same.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::{Call, Kind, Outcome, Phase, Plugin, Reply, RequestContext};
use crate::{
    client::{self, Failure, KeepAlive, Purpose, Response, Trust, Url},
    config::plugins::{Scope, Section, field_name, field_templates, held_size_max, list, url},
    http::{answer::Answer, name},
    template::{Groups, Template},
    variable::Variable,
};

pub(super) static KIND: Kind =
    Kind { name: "forward-auth", priority: 2002, phase: Phase::Access, read, credential: None };

/// Names in one list.
const NAMES_MAX: usize = 64;
/// Bytes of an answer that is passed on; of a longer one only the status is.
const ANSWER_SIZE_MAX: usize = 64 << 10;
/// Milliseconds.
const TIMEOUT_MAX: u64 = 60_000;
const KEEPALIVE_TIMEOUT_MAX: u64 = 3_600_000;
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

#[derive(Debug)]
struct ForwardAuth {
    url: Url,
    timeout: Duration,
    trust: Trust,
    keep_alive: Option<KeepAlive>,
    /// Of a body that goes along, bytes; `None`: none does.
    body_size_max: Option<u64>,
    /// Of the request, for the question.
    request_headers: Vec<HeaderName>,
    extra_headers: Vec<(HeaderName, Template)>,
    /// Of the answer, for the node; each also as a name that is removed.
    upstream_headers: Vec<(HeaderName, Arc<str>)>,
    /// Of the answer, for the client that is refused.
    client_headers: Vec<HeaderName>,
    allow_degradation: bool,
    status_on_error: StatusCode,
}

fn read(section: &mut Section<'_>, _scope: &Scope<'_>) -> Option<Arc<dyn Plugin>> {
    let url = section.require("uri").and_then(|value| url(&value));
    let body_size_max = body_size_max(section);
    let timeout = section.within_or("timeout", 1..=TIMEOUT_MAX, 3000);
    let is_verified = section.leaf_or("ssl_verify", true);
    let keep_alive = keep_alive(section);
    let request_headers = names(section, "request_headers");
    let upstream_headers = names(section, "upstream_headers");
    let client_headers = names(section, "client_headers");
    let extra_headers = section.take("extra_headers");
    let extra_headers =
        extra_headers.map_or(Some(Vec::new()), |value| field_templates(&value, Groups::None));
    let allow_degradation = section.leaf_or("allow_degradation", false);
    let status_on_error = section.within_or("status_on_error", 200..=599_u16, 403);
    Some(Arc::new(ForwardAuth {
        url: url?,
        timeout: Duration::from_millis(timeout),
        trust: if is_verified { Trust::System } else { Trust::Anybody },
        keep_alive,
        body_size_max: body_size_max?,
        request_headers: request_headers?,
        extra_headers: extra_headers?,
        upstream_headers: upstream_headers?.into_iter().map(with_text).collect(),
        client_headers: client_headers?,
        allow_degradation,
        status_on_error: StatusCode::from_u16(status_on_error).ok()?,
    }))
}

/// `Some(None)`: the question has no body.
fn body_size_max(section: &mut Section<'_>) -> Option<Option<u64>> {
    const METHODS: [(&str, bool); 2] = [("GET", false), ("POST", true)];
    let method = section.take("request_method");
    let has_body = method.map_or(Some(false), |value| value.one_of(&METHODS, &[]))?;
    Some(held_size_max(section, has_body, "request_method: POST"))
}

fn keep_alive(section: &mut Section<'_>) -> Option<KeepAlive> {
    let is_kept = section.leaf_or("keepalive", true);
    let idle_max = section.within_or("keepalive_pool", 1..=client::IDLE_MAX, 5);
    let idle = section.within_or("keepalive_timeout", 1000..=KEEPALIVE_TIMEOUT_MAX, 60_000);
    is_kept.then_some(KeepAlive { idle_max, idle_timeout: Duration::from_millis(idle) })
}

fn names(section: &mut Section<'_>, key: &'static str) -> Option<Vec<HeaderName>> {
    let Some(value) = section.take(key) else { return Some(Vec::new()) };
    list(&value, NAMES_MAX, |value| field_name(value)?.try_into().ok())
}

fn with_text(name: HeaderName) -> (HeaderName, Arc<str>) {
    let text = name.as_str().into();
    (name, text)
}

impl Plugin for ForwardAuth {
    fn request(&self, cx: &mut RequestContext<'_>) -> Outcome {
        match self.body_size_max {
            Some(size_max) => Outcome::Call(Call::Body { size_max, digest: None }),
            None => self.ask(cx, None),
        }
    }

    fn resume(&self, cx: &mut RequestContext<'_>, reply: Reply) -> Outcome {
        let answered = match reply {
            Reply::Body { content, .. } => return self.ask(cx, Some(content)),
            Reply::Http(answered) => answered.and_then(given),
            Reply::Delayed | Reply::Refreshed | Reply::Redis(_) => Err(Failure::Malformed),
        };
        match answered {
            Ok(answer) if lets_pass(&answer) => {
                self.tell_node(cx, &answer.fields);
                Outcome::Continue
            }
            Ok(answer) => Outcome::Answer(self.refusal(answer)),
            Err(failure) if self.allow_degradation && !self.is_clients_doing(failure) => {
                self.tell_node(cx, &HeaderMap::new());
                Outcome::Continue
            }
            Err(_) => Outcome::Answer(Answer::of(self.status_on_error)),
        }
    }
}

impl ForwardAuth {
    /// Whether a client may have brought that about, by a body that takes longer than there is time or is
    /// more than whoever is asked wants to have.
    fn is_clients_doing(&self, failure: Failure) -> bool {
        match failure {
            Failure::Unresolved | Failure::Unreachable | Failure::OutOfFiles | Failure::Tls => false,
            Failure::Closed | Failure::Malformed | Failure::TooLarge | Failure::TimedOut => {
                self.body_size_max.is_some()
            }
        }
    }

    fn ask(&self, cx: &RequestContext<'_>, body: Option<Bytes>) -> Outcome {
        match self.question(cx, body) {
            Some(question) => Outcome::Call(Call::Http(Box::new(question))),
            // A client has spoilt it.
            None => Outcome::Answer(Answer::of(self.status_on_error)),
        }
    }

    /// `None`: something that belongs into it is nothing that a field can hold.
    fn question(&self, cx: &RequestContext<'_>, body: Option<Bytes>) -> Option<client::Request> {
        Some(client::Request {
            purpose: Purpose::ForwardAuth,
            method: if body.is_some() { Method::POST } else { Method::GET },
            url: self.url.clone(),
            address: None,
            fields: self.fields(cx)?,
            body: body.unwrap_or_default(),
            timeout: self.timeout,
            body_size_max: ANSWER_SIZE_MAX,
            trust: self.trust,
            keep_alive: self.keep_alive,
        })
    }

    fn fields(&self, cx: &RequestContext<'_>) -> Option<HeaderMap> {
        const FORWARDED: [(HeaderName, Variable); 5] = [
            (HeaderName::from_static("x-forwarded-proto"), Variable::Scheme),
            (HeaderName::from_static("x-forwarded-method"), Variable::Method),
            (HeaderName::from_static("x-forwarded-host"), Variable::Host),
            (HeaderName::from_static("x-forwarded-uri"), Variable::RequestUri),
            (HeaderName::from_static("x-forwarded-for"), Variable::RemoteAddr),
        ];
        let facts = cx.facts();
        let mut fields = HeaderMap::new();
        for (name, variable) in FORWARDED {
            if let Some(value) = facts.value(&variable) {
                fields.insert(name, HeaderValue::from_bytes(&value).ok()?);
            }
        }
        for (name, template) in &self.extra_headers {
            let mut value = Vec::new();
            template.expand(&facts, None, &mut value);
            fields.insert(name, HeaderValue::from_bytes(&value).ok()?);
        }
        // Without those nobody could read the body.
        let about_body: &[HeaderName] = match self.body_size_max {
            Some(_) => &[header::CONTENT_TYPE, header::CONTENT_ENCODING],
            None => &[],
        };
        for name in about_body.iter().chain(&self.request_headers) {
            // What is said already must not be the client's to say.
            if fields.contains_key(name) {
                continue;
            }
            for value in cx.forwarded_values(name) {
                fields.append(name, HeaderValue::from_bytes(value).ok()?);
            }
        }
        Some(fields)
    }

    /// What the client has sent under these names does not pass in any case.
    fn tell_node(&self, cx: &mut RequestContext<'_>, answered: &HeaderMap) {
        for (name, text) in &self.upstream_headers {
            cx.edits.remove(text);
            for value in end_to_end(answered, name) {
                cx.edits.add(name.clone(), value.clone());
            }
        }
    }

    /// The answer as the client gets it: with what says what its body is, and no more than is named.
    fn refusal(&self, answered: Response) -> Answer {
        let Response { status, fields, body } = answered;
        let Ok(body) = body else { return Answer::of(status) };
        let mut passed = Vec::new();
        let about_body = [header::CONTENT_TYPE, header::CONTENT_ENCODING];
        let named = self.client_headers.iter().filter(|name| !about_body.contains(name));
        for name in about_body.iter().chain(named) {
            let values = end_to_end(&fields, name);
            passed.extend(values.map(|value| (name.clone(), value.clone())));
        }
        if !body.is_empty() && !fields.contains_key(header::CONTENT_TYPE) {
            passed.push((header::CONTENT_TYPE, TEXT));
        }
        Answer { status, fields: passed, body }
    }
}

fn lets_pass(answer: &Response) -> bool {
    answer.status.as_u16() < 300
}

/// An answer that broke off is none (RFC 9112 section 8), unless it refuses; one that is only longer
/// than we read is.
fn given(answer: Response) -> Result<Response, Failure> {
    match answer.body {
        Err(failure) if lets_pass(&answer) && failure != Failure::TooLarge => Err(failure),
        Ok(_) | Err(_) => Ok(answer),
    }
}

/// The values under `name`, unless they are meant for us alone (RFC 9110 section 7.6.1).
fn end_to_end<'f>(
    fields: &'f HeaderMap,
    name: &'f HeaderName,
) -> impl Iterator<Item = &'f HeaderValue> {
    let options = fields.get_all(header::CONNECTION).iter().map(HeaderValue::as_bytes);
    let is_option = options
        .flat_map(name::list)
        .any(|option| option.eq_ignore_ascii_case(name.as_str().as_bytes()));
    fields.get_all(name).iter().filter(move |_| !is_option)
}

#[cfg(test)]
mod tests;
