//! `proxy-rewrite`: what the node sees in place of what was received: path, method, host, fields.
//!
//! `uri` is a template; of `regex_uri` the first regular expression that matches has its match
//! replaced. What follows a `?` of the configuration stands before the received query. Values are
//! percent-encoded, so that a client adds neither a query nor a line; a path into which it has
//! brought a dot segment is refused. Without these two keys, `use_real_request_uri_unsafe` sends the
//! path as it was received, in a spelling that no route was matched with. A HEAD request keeps its
//! method, as its response has no body whatever the node is asked.

use std::{borrow::Cow, sync::Arc};

use http::{HeaderName, HeaderValue, StatusCode};

use super::{Kind, Outcome, Phase, Plugin, RequestContext, RequestEdits};
use crate::{
    config::plugins::{
        Scope, Section, Value, field_lists, field_name, field_templates, regex_pairs, template,
    },
    http::{
        answer::Answer,
        path::{self, is_uri_byte},
    },
    template::{Groups, Search, Template, push_encoded},
};

pub(super) static KIND: Kind =
    Kind { name: "proxy-rewrite", priority: 1008, phase: Phase::Rewrite, read, credential: None };

/// Characters of `uri`.
const URI_CHARS_MAX: usize = 4096;
const METHODS: [&str; 14] = [
    "GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "MKCOL", "COPY", "MOVE", "PROPFIND", "LOCK",
    "UNLOCK", "PATCH", "TRACE",
];

#[derive(Debug)]
struct ProxyRewrite {
    path: Path,
    method: Option<&'static str>,
    host: Option<HeaderValue>,
    fields: Fields,
}

#[derive(Debug)]
enum Path {
    AsIs,
    /// As it was received.
    Real,
    Uri(Template),
    Regex(Vec<(Search, Template)>),
}

/// In the order in which they apply.
#[derive(Debug, Default)]
struct Fields {
    add: Vec<(HeaderName, Template)>,
    set: Vec<(HeaderName, Template)>,
    /// Further values of what is set.
    more: Vec<(HeaderName, Template)>,
    remove: Vec<Arc<str>>,
}

fn read(section: &mut Section<'_>, _scope: &Scope<'_>) -> Option<Arc<dyn Plugin>> {
    let keys = ["uri", "regex_uri", "method", "host", "headers", "use_real_request_uri_unsafe"];
    if !keys.iter().any(|key| section.has(key)) {
        section.error("needs at least one key");
        return None;
    }
    let uri = section.take("uri").map(|value| uri(&value));
    let regex = section.take("regex_uri").map(|value| {
        let pairs = regex_pairs(&value)?;
        if pairs.is_empty() {
            value.error("needs a regular expression and what stands in place of its match");
        }
        Some(pairs)
    });
    let is_real = section.leaf_or("use_real_request_uri_unsafe", false);
    let method = section.take("method").map(|it| it.one_of(&METHODS.map(|one| (one, one)), &[]));
    let host = section.take("host").map(|value| host(&value));
    let path = match (uri, regex) {
        (Some(uri), _) => Path::Uri(uri?),
        (None, Some(pairs)) => Path::Regex(pairs?),
        (None, None) if is_real => Path::Real,
        (None, None) => Path::AsIs,
    };
    let fields = section.take("headers").map(|value| fields(&value, path.groups()));
    Some(Arc::new(ProxyRewrite {
        path,
        method: method.map_or(Some(None), |method| method.map(Some))?,
        host: host.map_or(Some(None), |host| host.map(Some))?,
        fields: fields.unwrap_or_else(|| Some(Fields::default()))?,
    }))
}

fn uri(value: &Value<'_>) -> Option<Template> {
    value.text("needs 1 to 4096 characters and begins with `/`", |uri| {
        uri.starts_with('/') && uri.chars().count() <= URI_CHARS_MAX
    })?;
    template(value)
}

fn host(value: &Value<'_>) -> Option<HeaderValue> {
    let host = value.text("is not a host, or a host and a port", |text| {
        let (name, port) = text.split_once(':').unwrap_or((text, "80"));
        !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
            && port.bytes().all(|byte| byte.is_ascii_digit())
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    })?;
    HeaderValue::try_from(host).ok()
}

/// `{add, set, remove}`, or names and values, which are set.
fn fields(value: &Value<'_>, groups: Groups) -> Option<Fields> {
    if !["add", "set", "remove"].iter().any(|key| value.member(key).is_some()) {
        let set = field_templates(value, groups)?;
        return Some(Fields { set, ..Fields::default() });
    }
    let mut section = value.section()?;
    let add = section.take("add").map(|value| field_lists(&value, groups));
    let set = section.take("set").map(|value| field_lists(&value, groups));
    let remove = section.take("remove").map(|value| {
        let names: Vec<_> = value.items()?.iter().map(field_name).collect();
        names.into_iter().map(|name| name.map(Arc::from)).collect::<Option<_>>()
    });
    section.finish_plugin();
    let mut fields =
        Fields { remove: remove.unwrap_or_else(|| Some(Vec::new()))?, ..Fields::default() };
    for (name, values) in add.unwrap_or_else(|| Some(Vec::new()))? {
        fields.add.extend(values.into_iter().map(|value| (name.clone(), value)));
    }
    for (name, values) in set.unwrap_or_else(|| Some(Vec::new()))? {
        let mut values = values.into_iter().map(|value| (name.clone(), value));
        fields.set.extend(values.next());
        fields.more.extend(values);
    }
    Some(fields)
}

impl Path {
    /// What may be named in fields.
    fn groups(&self) -> Groups {
        match self {
            Path::Regex(pairs) => {
                let most = pairs.iter().map(|(search, _)| search.groups()).max();
                Groups::UpTo(most.unwrap_or(0))
            }
            Path::AsIs | Path::Real | Path::Uri(_) => Groups::None,
        }
    }
}

impl Plugin for ProxyRewrite {
    fn request(&self, cx: &mut RequestContext<'_>) -> Outcome {
        let facts = cx.request.facts_with(cx.query.as_deref());
        // In the path as it is matched; the fields may name its groups too.
        let mut found = None;
        let uri = match &self.path {
            Path::AsIs => None,
            Path::Real => Some(cx.request.head.path_and_query().0.as_bytes().to_vec()),
            Path::Uri(template) => {
                let mut uri = Vec::new();
                template.expand_encoded(&facts, None, is_path_byte, &mut uri);
                Some(uri)
            }
            Path::Regex(pairs) => pairs.iter().find_map(|(search, replacement)| {
                let path = facts.path.as_bytes();
                let found = found.insert(search.find(path)?);
                Some(replacement.substitute(found, path, &facts, is_path_byte))
            }),
        };
        let value = |template: &Template| {
            let mut value = Vec::new();
            template.expand(&facts, found.as_ref(), &mut value);
            HeaderValue::try_from(value).ok()
        };
        // A value that a client has spoilt is left out, and the client's own field with it.
        let add = |edits: &mut RequestEdits<'_>, fields: &[(HeaderName, Template)]| {
            for (name, template) in fields {
                if let Some(value) = value(template) {
                    edits.add(name.clone(), value);
                }
            }
        };
        add(&mut cx.edits, &self.fields.add);
        for (name, template) in &self.fields.set {
            match value(template) {
                Some(value) => cx.edits.set(name.clone(), value),
                None => cx.edits.remove(&Arc::from(name.as_str())),
            }
        }
        add(&mut cx.edits, &self.fields.more);
        self.fields.remove.iter().for_each(|name| cx.edits.remove(name));
        if let Some(host) = &self.host {
            cx.rewrite.host = Some(host.clone());
        }
        if let Some(method) = self.method.filter(|_| cx.request.head.method() != "HEAD") {
            cx.rewrite.method = Some(Cow::Borrowed(method));
        }
        match uri.map_or(Ok(()), |uri| self.rewrite(cx, uri)) {
            Ok(()) => Outcome::Continue,
            Err(status) => Outcome::Answer(Answer::of(status)),
        }
    }
}

impl ProxyRewrite {
    fn rewrite(&self, cx: &mut RequestContext<'_>, uri: Vec<u8>) -> Result<(), StatusCode> {
        // Encoded, it is ASCII.
        let mut path =
            String::from_utf8(encoded(uri)).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
        if !path.starts_with('/') {
            return Err(StatusCode::INTERNAL_SERVER_ERROR);
        }
        if let Some(end) = memchr::memchr(b'?', path.as_bytes()) {
            let query = &path[end + 1..];
            let received = cx.query.as_deref().filter(|received| !received.is_empty());
            cx.query = Some(Cow::Owned(match received {
                Some(received) => format!("{query}&{received}"),
                None => query.to_owned(),
            }));
            path.truncate(end);
        }
        cx.rewrite.path = Some(match &self.path {
            Path::AsIs | Path::Real => path,
            Path::Uri(_) | Path::Regex(_) => one_spelling(path)?,
        });
        Ok(())
    }
}

/// As it may stand in a request line.
fn encoded(uri: Vec<u8>) -> Vec<u8> {
    let plain = |byte| is_uri_byte(byte) && byte != b'#';
    if uri.iter().all(|byte| plain(*byte)) {
        return uri;
    }
    let mut encoded = Vec::with_capacity(uri.len());
    uri.iter().for_each(|byte| push_encoded(*byte, plain, &mut encoded));
    encoded
}

/// What a value may bring into a path.
fn is_path_byte(byte: u8) -> bool {
    is_uri_byte(byte) && !matches!(byte, b'?' | b'#')
}

/// Without empty segments. A dot segment would lead to where the configuration does not.
fn one_spelling(path: String) -> Result<String, StatusCode> {
    let normalised = path::normalise(&path).map_err(|_| StatusCode::BAD_REQUEST)?;
    match normalised.forward {
        path::ForwardPath::AsReceived => Ok(path),
        path::ForwardPath::Rewritten(_) if has_dot_segment(&path) => Err(StatusCode::BAD_REQUEST),
        path::ForwardPath::Rewritten(path) => Ok(path),
    }
}

/// Whether a node may read a segment as `.` or `..`.
fn has_dot_segment(path: &str) -> bool {
    let lower = path.to_ascii_lowercase().replace("%2e", ".").replace("%2f", "/");
    lower.replace("%5c", "/").split(['/', '\\']).any(|segment| matches!(segment, "." | ".."))
}

#[cfg(test)]
mod tests;
