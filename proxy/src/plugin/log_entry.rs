//! What a logger writes of an exchange: one JSON object, APISIX's or as `log_format` has it.
//!
//! In a format a text that begins with `$` is a variable, or a text with variables in it; one that is
//! absent is left out. `route_id` and `service_id` are added. The default has no secrets: neither the
//! query nor any field in which credentials may stand is in it; who wants them names them. Bodies are
//! in it as far as the logger has them: as text if they are UTF-8, in Base64 if not.

use std::{sync::Arc, time::Duration};

use base64ct::{Base64, Encoding as _};
use serde_json::{Map, Value as Json, json};

use super::{Finished, LoggedBody};
use crate::{
    config::plugins::{Section, Value},
    sys::host,
    template::{Groups, Template},
    variable::{Facts, Logged, Variable},
};

/// Mappings inside each other, as in APISIX.
const DEPTH_MAX: usize = 5;
/// Members of one mapping.
const MEMBERS_MAX: usize = 128;
/// Bytes of one value; the rest is left out.
const VALUE_SIZE_MAX: usize = 8 << 10;
/// Fields of a request and of a response that say nothing that is not for everyone.
const OPEN_FIELDS: [&str; 40] = [
    "accept",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "cache-control",
    "connection",
    "content-encoding",
    "content-language",
    "content-length",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "forwarded",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "origin",
    "pragma",
    "range",
    "retry-after",
    "server",
    "te",
    "traceparent",
    "transfer-encoding",
    "user-agent",
    "vary",
    "via",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-real-ip",
    "x-request-id",
];

/// `log_format` and `log_format_extra`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Layout {
    /// In place of the default.
    format: Option<Arc<Format>>,
    /// Beside that, or the default.
    extra: Option<Arc<Format>>,
}

/// Members in the order of the configuration.
#[derive(Debug)]
struct Format(Vec<(String, Member)>);

#[derive(Debug)]
enum Member {
    Literal(Json),
    Variable(Variable),
    Text(Template),
    Inner(Format),
}

impl Layout {
    pub(crate) fn read(section: &mut Section<'_>) -> Option<Layout> {
        let mut read = |key| section.take(key).map(|value| Format::read(&value, 1));
        let (format, extra) = (read("log_format"), read("log_format_extra"));
        let shared = |format: Option<Option<Format>>| match format {
            Some(format) => format.map(Arc::new).map(Some),
            None => Some(None),
        };
        Some(Layout { format: shared(format)?, extra: shared(extra)? })
    }

    /// With what `other` has and this has not.
    pub(crate) fn or(self, other: &Layout) -> Layout {
        Layout {
            format: self.format.or_else(|| other.format.clone()),
            extra: self.extra.or_else(|| other.extra.clone()),
        }
    }

    pub(crate) fn entry(&self, exchange: &Finished<'_>, facts: &Facts<'_>) -> Json {
        let mut entry = match &self.format {
            Some(format) => format.expand(facts),
            None => default(exchange, facts),
        };
        if let Some(extra) = &self.extra {
            entry.extend(extra.expand(facts));
        }
        let route = facts.route.id.unwrap_or("no-matched");
        entry.entry("route_id").or_insert_with(|| route.into());
        if let Some(service) = facts.service.id {
            entry.entry("service_id").or_insert_with(|| service.into());
        }
        Json::Object(entry)
    }
}

impl Format {
    fn read(value: &Value<'_>, depth: usize) -> Option<Format> {
        let pairs = value.pairs()?;
        if depth > DEPTH_MAX {
            value.error(format!("more than {DEPTH_MAX} mappings inside each other"));
            return None;
        }
        if pairs.is_empty() || pairs.len() > MEMBERS_MAX {
            value.error(format!("needs 1 to {MEMBERS_MAX} members"));
            return None;
        }
        let members = pairs
            .into_iter()
            .map(|(_, name, value)| Some((name.to_owned(), Member::read(&value, depth)?)));
        // All are read, so that all errors are found.
        let members: Vec<_> = members.collect();
        members.into_iter().collect::<Option<_>>().map(Format)
    }

    fn expand(&self, facts: &Facts<'_>) -> Map<String, Json> {
        let members = self.0.iter();
        members.filter_map(|(name, member)| Some((name.clone(), member.expand(facts)?))).collect()
    }
}

impl Member {
    fn read(value: &Value<'_>, depth: usize) -> Option<Member> {
        if value.is_mapping() {
            return Format::read(value, depth + 1).map(Member::Inner);
        }
        if value.sequence().is_some() {
            value.error("is a list; write a text, a number or a mapping");
            return None;
        }
        let json = value.checked_json()?;
        let Some(name) = json.as_str().and_then(|text| text.strip_prefix('$')) else {
            return Some(Member::Literal(json));
        };
        // As in a template a name without braces has no `-` and the like.
        let is_alone = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if is_alone && let Ok(variable) = Variable::parse(name) {
            return Some(Member::Variable(variable));
        }
        let template = Template::parse(json.as_str().unwrap_or_default(), Groups::None);
        template.map(Member::Text).map_err(|error| value.error(error.to_string())).ok()
    }

    fn expand(&self, facts: &Facts<'_>) -> Option<Json> {
        match self {
            Member::Literal(json) => Some(json.clone()),
            // As much as the logger has of it.
            Member::Variable(variable) if is_body(variable) => {
                facts.value(variable).map(|value| lossy(&value))
            }
            Member::Variable(variable) => facts.value(variable).map(|value| text(&value)),
            Member::Text(template) => {
                let mut value = Vec::new();
                template.expand(facts, None, &mut value);
                Some(text(&value))
            }
            Member::Inner(format) => Some(Json::Object(format.expand(facts))),
        }
    }
}

fn is_body(variable: &Variable) -> bool {
    matches!(variable, Variable::Logged(Logged::RequestBody | Logged::ResponseBody))
}

fn text(value: &[u8]) -> Json {
    lossy(value.get(..VALUE_SIZE_MAX).unwrap_or(value))
}

/// What is not UTF-8 becomes U+FFFD.
fn lossy(value: &[u8]) -> Json {
    String::from_utf8_lossy(value).into_owned().into()
}

/// Puts a body into the mapping of its message.
fn put_body(message: &mut Json, body: Option<LoggedBody<'_>>) {
    let Some(LoggedBody { bytes, is_cut }) = body else { return };
    let readable = match str::from_utf8(bytes) {
        Ok(text) => Some(text),
        // What was cut may end within a character.
        Err(error) if is_cut && error.error_len().is_none() => {
            str::from_utf8(&bytes[..error.valid_up_to()]).ok()
        }
        Err(_) => None,
    };
    match readable {
        Some(text) => message["body"] = text.into(),
        None => message["body_base64"] = Base64::encode_string(bytes).into(),
    }
    if is_cut {
        message["body_is_cut"] = true.into();
    }
}

/// Those that are open, in lower case; several of one name are one, as RFC 9110 section 5.3 joins
/// them.
fn fields<'f>(all: impl Iterator<Item = (&'f [u8], &'f [u8])>) -> Map<String, Json> {
    let mut fields = Map::<String, Json>::new();
    for (name, value) in all {
        let is_it = |open: &&&str| open.as_bytes().eq_ignore_ascii_case(name);
        let Some(name) = OPEN_FIELDS.iter().find(is_it) else { continue };
        let joined = match fields.get(*name).and_then(Json::as_str) {
            Some(before) => text(&[before.as_bytes(), b", ", value].concat()),
            None => text(value),
        };
        fields.insert((*name).to_owned(), joined);
    }
    fields
}

fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

/// APISIX's entry, as far as it is nobody's secret.
fn default(exchange: &Finished<'_>, facts: &Facts<'_>) -> Map<String, Json> {
    let value = |variable| facts.value(&variable).map_or(Json::Null, |value| text(&value));
    let path = exchange.head.path_and_query().0;
    let (scheme, host) =
        (facts.ends.scheme.as_str(), exchange.head.host_name().unwrap_or_default());
    let url = format!("{scheme}://{host}:{}{path}", facts.ends.local.port());
    let mut entry = Map::new();
    let mut put = |name: &str, value: Json| entry.insert(name.to_owned(), value);
    let mut request = json!({
        "url": text(url.as_bytes()),
        "uri": text(path.as_bytes()),
        "method": exchange.head.method(),
        "headers": fields(exchange.head.fields().map(|field| (field.name, field.value))),
        "size": exchange.request_length(),
    });
    put_body(&mut request, exchange.bodies.request);
    put("request", request);
    let sent = exchange.detail.into_iter().flat_map(|detail| detail.fields());
    let mut response = json!({
        "status": exchange.status,
        "headers": fields(sent),
        "size": exchange.sent_bytes,
    });
    put_body(&mut response, exchange.bodies.response);
    put("response", response);
    let version = env!("CARGO_PKG_VERSION");
    put("server", json!({ "hostname": host::name(), "version": version }));
    put("client_ip", value(Variable::RemoteAddr));
    put("service_id", facts.service.id.unwrap_or_default().into());
    put("start_time", (exchange.begun.as_millis() as u64).into());
    put("latency", milliseconds(exchange.total).into());
    let asked = exchange.detail.and_then(|detail| detail.asked()).unwrap_or(exchange.total);
    put("apisix_latency", milliseconds(asked).into());
    if let Some(node) = exchange.node {
        put("upstream", node.to_string().into());
        put("upstream_latency", milliseconds(exchange.total.saturating_sub(asked)).into());
    }
    if let Some(consumer) = exchange.consumer {
        put("consumer", json!({ "username": &*consumer.username }));
    }
    entry
}
