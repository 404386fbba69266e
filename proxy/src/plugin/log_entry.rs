//! What a logger writes of an exchange: one JSON object, APISIX's or as `log_format` has it.
//!
//! In a format a text that begins with `$` is a variable, or a text with variables in it; one that is
//! absent is left out. `route_id` and `service_id` are added. The default has no secrets: neither the
//! query nor any field in which credentials may stand is in it; who wants them names them. Bodies are
//! in it as far as the logger has them: as text if they are UTF-8, in Base64 if not.

use std::{borrow::Cow, net::SocketAddr, ops::Not, sync::Arc, time::Duration};

use base64ct::{Base64, Encoding as _};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value as Json};

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

    /// With its end. Only text, numbers and mappings are in it, so that nothing can be wrong with it.
    pub(crate) fn line(&self, exchange: &Finished<'_>, facts: &Facts<'_>) -> Vec<u8> {
        let written = match self {
            Layout { format: None, extra: None } => {
                serde_json::to_vec(&Entry::new(exchange, facts))
            }
            Layout { .. } => serde_json::to_vec(&self.members(exchange, facts)),
        };
        let mut line = written.unwrap_or_default();
        line.push(b'\n');
        line
    }

    fn members(&self, exchange: &Finished<'_>, facts: &Facts<'_>) -> Map<String, Json> {
        let mut members = match &self.format {
            Some(format) => format.expand(facts),
            None => match serde_json::to_value(Entry::new(exchange, facts)) {
                Ok(Json::Object(members)) => members,
                Ok(_) | Err(_) => Map::new(),
            },
        };
        if let Some(extra) = &self.extra {
            members.extend(extra.expand(facts));
        }
        members.entry("route_id").or_insert_with(|| route_id(facts).into());
        if let Some(service) = facts.service.id {
            members.entry("service_id").or_insert_with(|| service.into());
        }
        members
    }
}

fn route_id<'a>(facts: &Facts<'a>) -> &'a str {
    facts.route.id.unwrap_or("no-matched")
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
    cut(value).into_owned().into()
}

/// What is not UTF-8 becomes U+FFFD.
fn lossy(value: &[u8]) -> Json {
    String::from_utf8_lossy(value).into_owned().into()
}

fn cut(value: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(value.get(..VALUE_SIZE_MAX).unwrap_or(value))
}

/// APISIX's entry, as far as it is nobody's secret.
#[derive(Serialize)]
struct Entry<'a> {
    request: Request<'a>,
    response: Response<'a>,
    server: Server,
    client_ip: String,
    route_id: &'a str,
    service_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    consumer: Option<Named<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<SocketAddr>,
    /// Since the Unix epoch; this and all times are milliseconds.
    start_time: u64,
    latency: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_latency: Option<f64>,
    apisix_latency: f64,
}

#[derive(Serialize)]
struct Request<'a> {
    url: Cow<'a, str>,
    uri: Cow<'a, str>,
    method: &'a str,
    headers: Fields<'a>,
    size: u64,
    #[serde(flatten)]
    body: Body<'a>,
}

#[derive(Serialize)]
struct Response<'a> {
    status: Option<u16>,
    headers: Fields<'a>,
    size: u64,
    #[serde(flatten)]
    body: Body<'a>,
}

#[derive(Serialize)]
struct Server {
    hostname: &'static str,
    version: &'static str,
}

#[derive(Serialize)]
struct Named<'a> {
    username: &'a str,
}

impl<'a> Entry<'a> {
    fn new(exchange: &'a Finished<'_>, facts: &Facts<'a>) -> Entry<'a> {
        let path = exchange.head.path_and_query().0;
        let (scheme, host) =
            (facts.ends.scheme.as_str(), exchange.head.host_name().unwrap_or_default());
        let mut url = format!("{scheme}://{host}:{}{path}", facts.ends.local.port());
        if url.len() > VALUE_SIZE_MAX {
            url = cut(url.as_bytes()).into_owned();
        }
        let received = exchange.head.fields().map(|field| (field.name, field.value));
        let sent = exchange.detail.into_iter().flat_map(|detail| detail.fields());
        let asked = exchange.detail.and_then(|detail| detail.asked()).unwrap_or(exchange.total);
        let answered = exchange.node.map(|_| exchange.total.saturating_sub(asked));
        Entry {
            request: Request {
                url: url.into(),
                uri: cut(path.as_bytes()),
                method: exchange.head.method(),
                headers: Fields::open(received),
                size: exchange.request_length(),
                body: Body::of(exchange.bodies.request),
            },
            response: Response {
                status: exchange.status,
                headers: Fields::open(sent),
                size: exchange.sent_bytes,
                body: Body::of(exchange.bodies.response),
            },
            server: Server { hostname: host::name(), version: env!("CARGO_PKG_VERSION") },
            client_ip: facts.ends.client.to_string(),
            route_id: route_id(facts),
            service_id: facts.service.id.unwrap_or_default(),
            consumer: exchange.consumer.map(|consumer| Named { username: &consumer.username }),
            upstream: exchange.node,
            start_time: exchange.begun.as_millis() as u64,
            latency: milliseconds(exchange.total),
            upstream_latency: answered.map(milliseconds),
            apisix_latency: milliseconds(asked),
        }
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

/// Those that are open, in lower case; several of one name are one, as RFC 9110 section 5.3 joins
/// them.
struct Fields<'a>(Vec<(&'static str, Cow<'a, str>)>);

impl<'a> Fields<'a> {
    fn open(all: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Fields<'a> {
        let mut fields = Vec::<(_, Cow<'_, str>)>::new();
        for (name, value) in all {
            let is_it = |open: &&&str| open.as_bytes().eq_ignore_ascii_case(name);
            let Some(&name) = OPEN_FIELDS.iter().find(is_it) else { continue };
            match fields.iter_mut().find(|(known, _)| *known == name) {
                Some((_, before)) => {
                    let joined = [before.as_bytes(), b", ", value].concat();
                    *before = cut(&joined).into_owned().into();
                }
                None => fields.push((name, cut(value))),
            }
        }
        Fields(fields)
    }
}

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// The body of a message, as far as it was kept.
#[derive(Default, Serialize)]
struct Body<'a> {
    #[serde(rename = "body", skip_serializing_if = "Option::is_none")]
    readable: Option<&'a str>,
    #[serde(rename = "body_base64", skip_serializing_if = "Option::is_none")]
    other: Option<String>,
    #[serde(rename = "body_is_cut", skip_serializing_if = "Not::not")]
    is_cut: bool,
}

impl<'a> Body<'a> {
    fn of(body: Option<LoggedBody<'a>>) -> Body<'a> {
        let Some(LoggedBody { bytes, is_cut }) = body else { return Body::default() };
        let readable = match str::from_utf8(bytes) {
            Ok(text) => Some(text),
            // What was cut may end within a character.
            Err(error) if is_cut && error.error_len().is_none() => {
                str::from_utf8(&bytes[..error.valid_up_to()]).ok()
            }
            Err(_) => None,
        };
        let other = readable.is_none().then(|| Base64::encode_string(bytes));
        Body { readable, other, is_cut }
    }
}
