//! `redirect`: answers with another place to ask.
//!
//! `uri` is a template. `regex_uri` is a regular expression and what stands in place of its first
//! match in the path; where it does not match, the request goes on. `http_to_https` sends whoever
//! came without TLS to the same URI with it, and port 443.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header::LOCATION};

use super::{Kind, Outcome, Phase, Plugin, RequestContext};
use crate::{
    config::plugins::{Scope, Section, Value, regex_pairs, template},
    http::{answer::Answer, path::is_uri_byte},
    template::{Search, Template, push_encoded},
    variable::{Facts, Variable},
};

pub(super) static KIND: Kind =
    Kind { name: "redirect", priority: 900, phase: Phase::Rewrite, read, credential: None };

#[derive(Debug)]
struct Redirect {
    target: Target,
    ret_code: StatusCode,
    /// Percent-encodes what a URI cannot have; without, such a request is refused.
    encode_uri: bool,
    append_query_string: bool,
}

#[derive(Debug)]
enum Target {
    Uri(Template),
    RegexUri(Search, Template),
    Https,
}

fn read(section: &mut Section<'_>, _scope: &Scope<'_>) -> Option<Arc<dyn Plugin>> {
    let uri = section.take("uri");
    let regex_uri = section.take("regex_uri");
    let is_https = section.leaf_or("http_to_https", false);
    let code = section.within_or("ret_code", 200..=599_u16, 302);
    let encode_uri = section.leaf_or("encode_uri", false);
    let append_query_string = section.leaf_or("append_query_string", false);
    if is_https && append_query_string {
        section.error("only one of `http_to_https` and `append_query_string` can be configured.");
        return None;
    }
    let target = match (uri, regex_uri, is_https) {
        (Some(uri), None, false) => Target::Uri(target_uri(&uri)?),
        (None, Some(pair), false) => match regex_pairs(&pair)?.as_slice() {
            [(search, replacement)] => Target::RegexUri(search.clone(), replacement.clone()),
            _ => {
                pair.error("needs a regular expression and what stands in place of its match");
                return None;
            }
        },
        (None, None, true) => Target::Https,
        _ => {
            section.error("needs one of `uri`, `regex_uri` and `http_to_https: true`");
            return None;
        }
    };
    let ret_code = StatusCode::from_u16(code).ok()?;
    Some(Arc::new(Redirect { target, ret_code, encode_uri, append_query_string }))
}

fn target_uri(value: &Value<'_>) -> Option<Template> {
    value.text("needs at least 2 characters", |uri| uri.chars().count() >= 2)?;
    template(value)
}

impl Plugin for Redirect {
    fn request(&self, cx: &mut RequestContext<'_>) -> Outcome {
        let facts = cx.facts();
        let Some((code, mut uri)) = self.target(&facts) else { return Outcome::Continue };
        if let Some(query) = facts.query.filter(|query| self.append_query_string && !query.is_empty())
        {
            uri.push(if uri.contains(&b'?') { b'&' } else { b'?' });
            uri.extend_from_slice(query.as_bytes());
        }
        if self.encode_uri {
            uri = encoded(&uri);
        }
        // What a client has put into a variable may be no value of a field.
        let location = HeaderValue::from_bytes(&uri).ok();
        Outcome::Answer(match location.filter(|_| !uri.is_empty()) {
            Some(uri) => Answer::with_body(code, Bytes::new()).field(LOCATION, uri),
            None => Answer::of(StatusCode::BAD_REQUEST),
        })
    }
}

impl Redirect {
    /// `None`: the request goes on.
    fn target(&self, facts: &Facts<'_>) -> Option<(StatusCode, Vec<u8>)> {
        let mut uri = Vec::new();
        match &self.target {
            Target::Uri(template) => template.expand(facts, None, &mut uri),
            Target::RegexUri(search, replacement) => {
                let path = facts.path.as_bytes();
                uri = replacement.substitute(&search.find(path)?, path, facts, |_| true);
            }
            Target::Https => return https(facts),
        }
        Some((self.ret_code, uri))
    }
}

/// RFC 9110 section 15.4: with 308 the method stays, which matters where there may be a body.
fn https(facts: &Facts<'_>) -> Option<(StatusCode, Vec<u8>)> {
    let said = facts.head.field("x-forwarded-proto");
    let scheme = said.unwrap_or(facts.ends.scheme.as_str().as_bytes());
    if scheme.eq_ignore_ascii_case(b"https") {
        return None;
    }
    let code = match facts.head.method() {
        "GET" | "HEAD" => StatusCode::MOVED_PERMANENTLY,
        _ => StatusCode::PERMANENT_REDIRECT,
    };
    let value = |variable| facts.value(&variable).unwrap_or_default();
    let host = value(Variable::Host);
    // Without a host there is nowhere to go.
    if host.is_empty() {
        return Some((code, Vec::new()));
    }
    let uri = value(Variable::RequestUri);
    Some((code, [b"https://", &*host, &*uri].concat()))
}

fn encoded(uri: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(uri.len());
    uri.iter().for_each(|byte| push_encoded(*byte, is_uri_byte, &mut encoded));
    encoded
}

#[cfg(test)]
mod tests;
