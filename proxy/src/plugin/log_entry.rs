//! What a logger writes of an exchange: one JSON object, APISIX's or as `log_format` has it.
//!
//! In a format a text that begins with `$` is a variable, or a text with variables in it; one that is
//! absent is left out. `route_id` and `service_id` are added. The default has no secrets: neither the
//! query nor any field in which credentials may stand is in it; who wants them names them. Bodies are
//! in it as far as the logger has them: as text if they are UTF-8, in Base64 if not.

use std::{borrow::Cow, net::SocketAddr, sync::Arc, time::Duration};

use base64ct::{Base64, Encoding as _};
use serde_json::{Map, Value as Json};

use super::{Finished, LoggedBody, json};
use crate::{
    config::plugins::{Section, Value},
    http::name::is_spelled,
    sys::host,
    template::{Groups, Template},
    variable::{Facts, Logged, Variable, push_address},
};

/// Mappings inside each other, as in APISIX.
const DEPTH_MAX: usize = 5;
/// Members of one mapping.
const MEMBERS_MAX: usize = 128;
/// Bytes of one value; the rest is left out.
const VALUE_SIZE_MAX: usize = 8 << 10;
/// The fields as members behind others, whose quote they close.
macro_rules! members {
    ($($name:literal)*) => { [$(concat!("\",\"", $name, "\":\"")),*] };
}

/// Fields of a request and of a response that say nothing that is not for everyone, the shortest first.
const OPEN_FIELDS: [&str; 40] = members! {
    "te"
    "age"
    "via"
    "date"
    "etag"
    "host"
    "vary"
    "allow"
    "range"
    "accept"
    "expect"
    "origin"
    "pragma"
    "server"
    "expires"
    "if-match"
    "if-range"
    "forwarded"
    "x-real-ip"
    "connection"
    "user-agent"
    "retry-after"
    "traceparent"
    "content-type"
    "x-request-id"
    "accept-ranges"
    "cache-control"
    "content-range"
    "if-none-match"
    "last-modified"
    "content-length"
    "accept-encoding"
    "accept-language"
    "x-forwarded-for"
    "content-encoding"
    "content-language"
    "if-modified-since"
    "transfer-encoding"
    "x-forwarded-proto"
    "if-unmodified-since"
};
/// Bytes of such a member beside the name.
const QUOTES: (usize, usize) = ("\",\"".len(), "\":\"".len());
/// Where among them those of a size are.
const OPEN_BY_SIZE: [(usize, usize); size_of_name(39) + 1] = by_size();
/// Bytes of a line that is seldom longer, but for bodies.
const LINE_SIZE_HINT: usize = 1024;

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
        if self.is_default() {
            return default_line(exchange);
        }
        let mut line = serde_json::to_vec(&self.members(exchange, facts)).unwrap_or_default();
        line.push(b'\n');
        line
    }

    /// Whether it asks for no variables.
    pub(crate) fn is_default(&self) -> bool {
        self.format.is_none() && self.extra.is_none()
    }

    fn members(&self, exchange: &Finished<'_>, facts: &Facts<'_>) -> Map<String, Json> {
        let mut members = match &self.format {
            Some(format) => format.expand(facts),
            None => serde_json::from_slice(&entry(exchange)).unwrap_or_default(),
        };
        if let Some(extra) = &self.extra {
            members.extend(extra.expand(facts));
        }
        members.entry("route_id").or_insert_with(|| route_id(facts.route.id).into());
        if let Some(service) = facts.service.id {
            members.entry("service_id").or_insert_with(|| service.into());
        }
        members
    }
}

/// With its end.
pub(super) fn default_line(exchange: &Finished<'_>) -> Vec<u8> {
    let mut line = entry(exchange);
    line.push(b'\n');
    line
}

fn route_id(id: Option<&str>) -> &str {
    id.unwrap_or("no-matched")
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
    lossy(cut(value))
}

/// What is not UTF-8 becomes U+FFFD.
fn lossy(value: &[u8]) -> Json {
    String::from_utf8_lossy(value).into_owned().into()
}

fn cut(value: &[u8]) -> &[u8] {
    value.get(..VALUE_SIZE_MAX).unwrap_or(value)
}

/// APISIX's entry, as far as it is nobody's secret, as it is written: a tree of it would cost more than
/// all the rest. Times are milliseconds.
fn entry(exchange: &Finished<'_>) -> Vec<u8> {
    let path = exchange.head.path_and_query().0;
    let received = exchange.head.fields().map(|field| (field.name, field.value));
    let sent = exchange.detail.into_iter().flat_map(|detail| detail.fields());
    let asked = exchange.detail.and_then(|detail| detail.asked()).unwrap_or(exchange.total);
    let mut line = Line(Vec::with_capacity(LINE_SIZE_HINT));
    line.raw("{\"request\":{\"url\":").url(exchange, path);
    line.raw(",\"uri\":").text(path.as_bytes());
    line.raw(",\"method\":").text(exchange.head.method_bytes());
    line.raw(",\"headers\":").fields(received);
    line.raw(",\"size\":").number(exchange.request_length());
    line.body(exchange.bodies.request);
    line.raw("},\"response\":{\"status\":");
    match exchange.status {
        Some(status) => line.number(status),
        None => line.raw("null"),
    };
    line.raw(",\"headers\":").fields(sent);
    line.raw(",\"size\":").number(exchange.sent_bytes);
    line.body(exchange.bodies.response);
    line.raw("},\"server\":{\"hostname\":").text(host::name().as_bytes());
    line.raw(concat!(",\"version\":\"", env!("CARGO_PKG_VERSION"), "\"},\"client_ip\":\""));
    push_address(exchange.ends.client, &mut line.0);
    let route = exchange.route;
    line.raw("\",\"route_id\":").text(route_id(route.map(|route| &*route.id)).as_bytes());
    let service = route.and_then(|route| route.service_id.as_deref()).unwrap_or_default();
    line.raw(",\"service_id\":").text(service.as_bytes());
    if let Some(consumer) = exchange.consumer {
        line.raw(",\"consumer\":{\"username\":").text(consumer.username.as_bytes()).raw("}");
    }
    if let Some(node) = exchange.node {
        line.raw(",\"upstream\":\"").socket(node).raw("\"");
    }
    line.raw(",\"start_time\":").number(exchange.begun.as_millis() as u64);
    line.raw(",\"latency\":").milliseconds(exchange.total);
    if exchange.node.is_some() {
        line.raw(",\"upstream_latency\":").milliseconds(exchange.total.saturating_sub(asked));
    }
    line.raw(",\"apisix_latency\":").milliseconds(asked).raw("}");
    line.0
}

/// A line under way.
struct Line(Vec<u8>);

impl Line {
    fn raw(&mut self, text: &'static str) -> &mut Self {
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    fn text(&mut self, value: &[u8]) -> &mut Self {
        json::push(cut(value), &mut self.0);
        self
    }

    fn number(&mut self, number: impl itoa::Integer) -> &mut Self {
        self.0.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
        self
    }

    /// With as many decimals as there are, one at least.
    fn milliseconds(&mut self, time: Duration) -> &mut Self {
        let micros = time.as_micros() as u64;
        let digit = |number: u64| b'0' + (number % 10) as u8;
        self.number(micros / 1000);
        let decimals = [b'.', digit(micros / 100), digit(micros / 10), digit(micros)];
        let size = match decimals {
            [.., b'0', b'0'] => 2,
            [.., b'0'] => 3,
            _ => 4,
        };
        self.0.extend_from_slice(&decimals[..size]);
        self
    }

    fn socket(&mut self, address: SocketAddr) -> &mut Self {
        match address {
            SocketAddr::V4(address) => {
                push_address((*address.ip()).into(), &mut self.0);
                self.raw(":").number(address.port())
            }
            SocketAddr::V6(address) => {
                self.0.extend_from_slice(address.to_string().as_bytes());
                self
            }
        }
    }

    fn url(&mut self, exchange: &Finished<'_>, path: &str) {
        let host = exchange.head.host_name().unwrap_or_default();
        let (scheme, port) = (exchange.ends.scheme.as_str(), exchange.ends.local.port());
        if host.len() + path.len() + "https://:65535".len() > VALUE_SIZE_MAX {
            self.text(format!("{scheme}://{host}:{port}{path}").as_bytes());
            return;
        }
        self.raw("\"").raw(scheme).raw("://").content(host.as_bytes()).raw(":").number(port);
        self.content(path.as_bytes()).raw("\"");
    }

    /// Those that are open, in lower case; several of one name are one, as RFC 9110 section 5.3 joins
    /// them.
    fn fields<'f>(&mut self, all: impl Iterator<Item = (&'f [u8], &'f [u8])> + Clone) {
        let (start, mut seen) = (self.0.len(), 0_u64);
        for (name, value) in all.clone() {
            let Some(at) = open_field(name) else { continue };
            if seen & 1 << at != 0 {
                self.0.truncate(start);
                return self.joined_fields(all);
            }
            self.member(at, seen == 0).content(value);
            seen |= 1 << at;
        }
        self.raw(if seen == 0 { "{}" } else { "\"}" });
    }

    /// The same where one repeats.
    fn joined_fields<'f>(&mut self, all: impl Iterator<Item = (&'f [u8], &'f [u8])>) {
        let mut open: Vec<(usize, Cow<'f, [u8]>)> = Vec::new();
        for (name, value) in all {
            let Some(at) = open_field(name) else { continue };
            match open.iter_mut().find(|(known, _)| *known == at) {
                Some((_, before)) => {
                    let mut joined = [before, &b", "[..], value].concat();
                    joined.truncate(VALUE_SIZE_MAX);
                    *before = joined.into();
                }
                None => open.push((at, value.into())),
            }
        }
        for (number, (at, value)) in open.iter().enumerate() {
            self.member(*at, number == 0).content(value);
        }
        self.raw("\"}");
    }

    /// The beginning of one of the open fields, up to its value.
    fn member(&mut self, at: usize, is_first: bool) -> &mut Self {
        // The first closes nothing.
        let (begin, closed) = if is_first { ("{", "\",".len()) } else { ("", 0) };
        self.raw(begin).raw(&OPEN_FIELDS[at][closed..])
    }

    /// Within quotes.
    fn content(&mut self, value: &[u8]) -> &mut Self {
        json::push_content(cut(value), &mut self.0);
        self
    }

    /// A body as far as it was kept: as text if that is what it is, in Base64 if not.
    fn body(&mut self, body: Option<LoggedBody<'_>>) {
        let Some(LoggedBody { bytes, is_cut }) = body else { return };
        let readable = match str::from_utf8(bytes) {
            Ok(_) => Some(bytes),
            // What was cut may end within a character.
            Err(error) if is_cut && error.error_len().is_none() => {
                Some(&bytes[..error.valid_up_to()])
            }
            Err(_) => None,
        };
        match readable {
            Some(text) => json::push(text, &mut self.raw(",\"body\":").0),
            None => {
                self.raw(",\"body_base64\":\"");
                self.0.extend_from_slice(Base64::encode_string(bytes).as_bytes());
                self.raw("\"");
            }
        }
        if is_cut {
            self.raw(",\"body_is_cut\":true");
        }
    }
}

/// Which of the open fields this is.
fn open_field(name: &[u8]) -> Option<usize> {
    let (start, end) = *OPEN_BY_SIZE.get(name.len())?;
    (start..end)
        .find(|at| is_spelled(name, &OPEN_FIELDS[*at].as_bytes()[QUOTES.0..QUOTES.0 + name.len()]))
}

const fn size_of_name(at: usize) -> usize {
    OPEN_FIELDS[at].len() - QUOTES.0 - QUOTES.1
}

const fn by_size() -> [(usize, usize); size_of_name(39) + 1] {
    let mut ranges = [(0, 0); size_of_name(39) + 1];
    let mut at = 0;
    while at < OPEN_FIELDS.len() {
        let size = size_of_name(at);
        assert!(at == 0 || size_of_name(at - 1) <= size, "the shortest first");
        if ranges[size].1 == 0 {
            ranges[size].0 = at;
        }
        at += 1;
        ranges[size].1 = at;
    }
    ranges
}
