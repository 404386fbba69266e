//! What expressions and templates call the parts of a request: names in, bytes out.
//!
//! Names are NGINX's and APISIX's. A name is parsed once, when the configuration is read; one that
//! means nothing here is an error there, never an empty value later. A variable that this request
//! has no value for (a field that was not sent, a consumer nobody authenticated) is absent.

mod logged;

use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, SocketAddr},
};

pub use self::logged::Logged;
use crate::{
    config::{nearest, shown},
    http::{
        cookie,
        fields::Scheme,
        head::{RequestHead, Version},
        name::is_token_byte,
        query,
    },
    plugin::{Finished, Now, is_alike},
    route::pattern::{Pattern, is_parameter_part},
    sys::host,
};

/// The name of one value of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Variable {
    /// `uri`: the normalised path.
    Uri,
    /// `request_uri`: the normalised path and the query.
    RequestUri,
    /// `real_request_uri`: path and query as received.
    RealRequestUri,
    /// `args`, `query_string`: the query without `?`.
    Args,
    /// `is_args`: `?` if there is a query that is not empty, otherwise empty.
    IsArgs,
    /// `host`: without port and final dot, lower-case.
    Host,
    /// `http_host`: with its port, as received.
    HttpHost,
    /// `request_method`, `method`
    Method,
    /// `scheme`: `http` or `https`.
    Scheme,
    /// `server_protocol`: `HTTP/1.0` or `HTTP/1.1`.
    ServerProtocol,
    /// `remote_addr`: the client, if need be as a trusted proxy tells it.
    RemoteAddr,
    /// `remote_port`: of the connection.
    RemotePort,
    /// `realip_remote_addr`: of the connection, whatever a trusted proxy tells.
    RealipRemoteAddr,
    /// `server_addr`: the listener's.
    ServerAddr,
    /// `server_port`
    ServerPort,
    ConsumerName,
    ConsumerGroupId,
    RouteId,
    RouteName,
    ServiceId,
    ServiceName,
    /// `status`: of the response; absent before there is one.
    Status,
    /// `upstream_status`: of the node's response; absent before there is one.
    UpstreamStatus,
    /// `http_NAME`: the first field of this name, in any case, `-` and `_` alike.
    Field(Box<str>),
    /// `arg_NAME`: the first argument of the query of this name, decoded.
    Argument(Box<str>),
    /// `cookie_NAME`: the first cookie of this name, case and all.
    Cookie(Box<str>),
    /// `uri_param_NAME`: what `:NAME` or `*NAME` of the route's pattern stands for.
    Parameter(Box<str>),
    /// `hostname`: this host's.
    Hostname,
    /// Of an exchange that is over.
    Logged(Logged),
}

/// From when on a variable can have a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moment {
    /// The head of the request is here.
    Request,
    /// It is known who sends it.
    Consumer,
    /// The head of a response is here.
    Response,
    /// The exchange is over.
    Log,
}

/// A variable that can have no value where it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TooEarly(pub Variable);

impl fmt::Display for TooEarly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(variable) = self;
        let named = NAMES.iter().find(|(_, known)| known == variable);
        let name = match (named, variable) {
            (Some((name, _)), _) => *name,
            (None, Variable::Logged(Logged::SentField(name))) => &format!("sent_http_{name}"),
            (None, _) => "it",
        };
        let why = match variable.known_from() {
            Moment::Request => "cannot be asked for here",
            Moment::Consumer => "is not known before the request is authenticated",
            Moment::Response => "is not known before there is a response",
            Moment::Log => "is known to logs only",
        };
        write!(f, "`{name}` {why}")
    }
}

/// Names that are whole.
const NAMES: &[(&str, Variable)] = &[
    ("args", Variable::Args),
    ("balancer_ip", Variable::Logged(Logged::NodeAddress)),
    ("balancer_port", Variable::Logged(Logged::NodePort)),
    ("body_bytes_sent", Variable::Logged(Logged::BodyBytesSent)),
    ("consumer_group_id", Variable::ConsumerGroupId),
    ("consumer_name", Variable::ConsumerName),
    ("host", Variable::Host),
    ("hostname", Variable::Hostname),
    ("http_host", Variable::HttpHost),
    ("is_args", Variable::IsArgs),
    ("method", Variable::Method),
    ("msec", Variable::Logged(Logged::Msec)),
    ("query_string", Variable::Args),
    ("real_request_uri", Variable::RealRequestUri),
    ("realip_remote_addr", Variable::RealipRemoteAddr),
    ("remote_addr", Variable::RemoteAddr),
    ("remote_port", Variable::RemotePort),
    ("request_body", Variable::Logged(Logged::RequestBody)),
    ("request_length", Variable::Logged(Logged::RequestLength)),
    ("request_method", Variable::Method),
    ("request_time", Variable::Logged(Logged::RequestTime)),
    ("request_uri", Variable::RequestUri),
    ("resp_body", Variable::Logged(Logged::ResponseBody)),
    ("route_id", Variable::RouteId),
    ("route_name", Variable::RouteName),
    ("scheme", Variable::Scheme),
    ("server_addr", Variable::ServerAddr),
    ("server_port", Variable::ServerPort),
    ("server_protocol", Variable::ServerProtocol),
    ("service_id", Variable::ServiceId),
    ("service_name", Variable::ServiceName),
    ("status", Variable::Status),
    ("time_iso8601", Variable::Logged(Logged::TimeIso8601)),
    ("time_local", Variable::Logged(Logged::TimeLocal)),
    ("upstream_addr", Variable::Logged(Logged::Node)),
    ("upstream_connect_time", Variable::Logged(Logged::ConnectTime)),
    ("upstream_header_time", Variable::Logged(Logged::HeaderTime)),
    ("upstream_response_time", Variable::Logged(Logged::ResponseTime)),
    ("upstream_status", Variable::UpstreamStatus),
    ("uri", Variable::Uri),
];

/// What names begin with that go on with one of the client's or the operator's choice.
struct Prefix {
    text: &'static str,
    /// What it goes on with.
    what: &'static str,
    is_part: fn(char) -> bool,
    variable: fn(Box<str>) -> Variable,
}

const PREFIXES: &[Prefix] = &[
    Prefix { text: "http_", what: FIELD, is_part: is_token_part, variable: Variable::Field },
    Prefix { text: "arg_", what: ARGUMENT, is_part: is_query_part, variable: Variable::Argument },
    Prefix { text: "cookie_", what: COOKIE, is_part: is_token_part, variable: Variable::Cookie },
    Prefix {
        text: "uri_param_",
        what: "a parameter's name",
        is_part: is_parameter_part,
        variable: Variable::Parameter,
    },
    Prefix {
        text: "sent_http_",
        what: FIELD,
        is_part: is_token_part,
        variable: |name| Variable::Logged(Logged::SentField(name)),
    },
];

const FIELD: &str = "a field's name";
const ARGUMENT: &str = "an argument's name";
const COOKIE: &str = "a cookie's name";

/// Of fields (RFC 9110 section 5.6.2) and cookies (RFC 6265 section 4.1.1). A `$` would be allowed
/// there, but what has one is a text with variables in it that stands where a variable belongs.
fn is_token_part(c: char) -> bool {
    c != '$' && u8::try_from(c).is_ok_and(is_token_byte)
}

/// Of arguments, as they are decoded.
fn is_query_part(c: char) -> bool {
    !c.is_whitespace() && !c.is_control() && !matches!(c, '$' | '&' | '=' | '#')
}

impl Prefix {
    /// What follows the prefix, if it is this one.
    fn rest<'n>(&self, name: &'n str) -> Option<&'n str> {
        name.strip_prefix(self.text).filter(|rest| !rest.is_empty())
    }
}

/// A name that means nothing here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownVariable(pub String);

impl UnknownVariable {
    /// What the name goes on with, and the first character of it that cannot be there.
    fn flaw(&self) -> Option<(&'static str, char)> {
        PREFIXES.iter().find_map(|prefix| {
            let rest = prefix.rest(&self.0)?;
            Some((prefix.what, rest.chars().find(|c| !(prefix.is_part)(*c))?))
        })
    }
}

impl fmt::Display for UnknownVariable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(name) = self;
        write!(f, "unknown variable `{}`", shown(name))?;
        if let Some((what, flaw)) = self.flaw() {
            return write!(f, "; {what} has no `{}`", flaw.escape_debug());
        }
        match nearest(name, NAMES.iter().map(|(known, _)| *known)) {
            Some(near) => write!(f, "; did you mean `{near}`?"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for UnknownVariable {}

impl Variable {
    /// # Errors
    /// The name is not known, a prefix alone, or goes on with what nothing can be named.
    pub fn parse(name: &str) -> Result<Variable, UnknownVariable> {
        if let Some((_, variable)) = NAMES.iter().find(|(known, _)| *known == name) {
            return Ok(variable.clone());
        }
        let named = PREFIXES.iter().find_map(|prefix| {
            let rest = prefix.rest(name).filter(|rest| rest.chars().all(prefix.is_part))?;
            Some((prefix.variable)(rest.into()))
        });
        named.ok_or_else(|| UnknownVariable(name.to_owned()))
    }

    /// # Errors
    /// It has no value before `moment` is over.
    pub fn check_known(&self, moment: Moment) -> Result<(), TooEarly> {
        if self.known_from() > moment { Err(TooEarly(self.clone())) } else { Ok(()) }
    }

    const fn known_from(&self) -> Moment {
        match self {
            Variable::Uri
            | Variable::RequestUri
            | Variable::RealRequestUri
            | Variable::Args
            | Variable::IsArgs
            | Variable::Host
            | Variable::HttpHost
            | Variable::Method
            | Variable::Scheme
            | Variable::ServerProtocol
            | Variable::RemoteAddr
            | Variable::RemotePort
            | Variable::RealipRemoteAddr
            | Variable::ServerAddr
            | Variable::ServerPort
            | Variable::RouteId
            | Variable::RouteName
            | Variable::ServiceId
            | Variable::ServiceName
            | Variable::Field(_)
            | Variable::Argument(_)
            | Variable::Cookie(_)
            | Variable::Parameter(_)
            | Variable::Hostname => Moment::Request,
            Variable::ConsumerName | Variable::ConsumerGroupId => Moment::Consumer,
            Variable::Status | Variable::UpstreamStatus => Moment::Response,
            Variable::Logged(logged) => logged.known_from(),
        }
    }
}

/// What is known of a request, borrowed from those who know it.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub head: &'a RequestHead,
    /// The path, normalised.
    pub path: &'a str,
    /// As the node will see it, without `?`.
    pub query: Option<&'a str>,
    pub ends: Ends,
    /// The pattern by which the route was found; `None` too of an exchange that is over.
    pub pattern: Option<&'a Pattern>,
    pub route: Named<'a>,
    pub service: Named<'a>,
    pub consumer_name: Option<&'a str>,
    pub consumer_group_id: Option<&'a str>,
    /// Of the response that the downstream gets.
    pub status: Option<u16>,
    pub upstream_status: Option<u16>,
    /// The node that has answered.
    pub node: Option<SocketAddr>,
    /// When it was decided about the request.
    pub now: Option<&'a Now>,
    /// What is known once the exchange is over.
    pub finished: Option<&'a Finished<'a>>,
}

/// The two ends of a downstream connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Theirs.
    pub peer: SocketAddr,
    /// Whom they speak for.
    pub client: IpAddr,
    /// The listener's.
    pub local: SocketAddr,
    pub scheme: Scheme,
}

/// A configured resource, as far as there is one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Named<'a> {
    pub id: Option<&'a str>,
    pub name: Option<&'a str>,
}

impl<'a> Facts<'a> {
    /// What is known before there is a route.
    pub fn new(head: &'a RequestHead, path: &'a str, query: Option<&'a str>, ends: Ends) -> Self {
        Self {
            head,
            path,
            query,
            ends,
            pattern: None,
            route: Named::default(),
            service: Named::default(),
            consumer_name: None,
            consumer_group_id: None,
            status: None,
            upstream_status: None,
            node: None,
            now: None,
            finished: None,
        }
    }

    /// The value of a variable, `None` if it is absent. Allocates only what has to be put together:
    /// numbers, addresses, what was encoded or in upper case.
    pub fn value(&self, variable: &Variable) -> Option<Cow<'a, [u8]>> {
        match variable {
            Variable::Uri => Some(text(self.path)),
            Variable::RequestUri => Some(self.request_uri()),
            Variable::RealRequestUri => Some(self.real_request_uri()),
            Variable::Args => self.query.map(text),
            Variable::IsArgs => {
                Some(text(self.query.map_or("", |query| if query.is_empty() { "" } else { "?" })))
            }
            Variable::Host => self.head.host_name().map(host),
            Variable::HttpHost => self.head.host().map(text),
            Variable::Method => Some(text(self.head.method())),
            Variable::Scheme => Some(text(self.ends.scheme.as_str())),
            Variable::ServerProtocol => Some(text(match self.head.version() {
                Version::Http10 => "HTTP/1.0",
                Version::Http11 => "HTTP/1.1",
            })),
            Variable::RemoteAddr => Some(address(self.ends.client)),
            Variable::RemotePort => Some(printed(self.ends.peer.port())),
            Variable::RealipRemoteAddr => Some(address(self.ends.peer.ip())),
            Variable::ServerAddr => Some(address(self.ends.local.ip())),
            Variable::ServerPort => Some(printed(self.ends.local.port())),
            Variable::ConsumerName => self.consumer_name.map(text),
            Variable::ConsumerGroupId => self.consumer_group_id.map(text),
            Variable::RouteId => self.route.id.map(text),
            Variable::RouteName => self.route.name.map(text),
            Variable::ServiceId => self.service.id.map(text),
            Variable::ServiceName => self.service.name.map(text),
            Variable::Status => self.status.map(printed),
            Variable::UpstreamStatus => self.upstream_status.map(printed),
            Variable::Field(name) => self.fields(name).next().map(Cow::Borrowed),
            Variable::Argument(name) => self.arguments(name).next(),
            Variable::Cookie(name) => cookie::values(self.head, name).next().map(Cow::Borrowed),
            Variable::Hostname => Some(text(host::name())),
            Variable::Logged(logged) => logged.value(self),
            Variable::Parameter(name) => self.pattern()?.parameter(self.path, name).map(text),
        }
    }

    /// Whether some value of a variable is so: fields, arguments and cookies may come repeated.
    pub fn has(&self, variable: &Variable, is_so: impl Fn(&[u8]) -> bool) -> bool {
        if let Variable::Field(name) = variable {
            self.fields(name).any(is_so)
        } else if let Variable::Argument(name) = variable {
            self.arguments(name).any(|value| is_so(&value))
        } else if let Variable::Cookie(name) = variable {
            cookie::values(self.head, name).any(is_so)
        } else {
            self.value(variable).is_some_and(|value| is_so(&value))
        }
    }

    /// The value of a variable as an address, if it is one.
    pub fn address(&self, variable: &Variable) -> Option<IpAddr> {
        if *variable == Variable::RemoteAddr {
            return Some(self.ends.client);
        }
        let value = self.value(variable)?;
        let address: IpAddr = str::from_utf8(&value).ok()?.trim().parse().ok()?;
        Some(address.to_canonical())
    }

    /// The pattern by which the route was found; looked for again when the exchange is over.
    pub(crate) fn pattern(&self) -> Option<&'a Pattern> {
        self.pattern.or_else(|| self.finished?.pattern(self))
    }

    fn request_uri(&self) -> Cow<'a, [u8]> {
        match (self.query, self.head.path_and_query(), self.head.path_with_query()) {
            (None, _, _) => text(self.path),
            (query, received, Some(whole)) if received == (self.path, query) => text(whole),
            (Some(query), _, _) => Cow::Owned([self.path, "?", query].concat().into_bytes()),
        }
    }

    fn real_request_uri(&self) -> Cow<'a, [u8]> {
        match (self.head.path_with_query(), self.head.path_and_query()) {
            (Some(whole), _) => text(whole),
            (None, (path, None)) => text(path),
            (None, (path, Some(query))) => Cow::Owned([path, "?", query].concat().into_bytes()),
        }
    }

    fn fields(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let is_alike = move |field: &[u8]| is_alike(field, name.as_bytes());
        let is_dashed = move |field: &[u8]| is_alike(field) && !field.contains(&b'_');
        // What is spelled with `_` is another field to most nodes, and must not stand before this one.
        let has_dashed = self.head.fields().any(|field| is_dashed(field.name));
        let is_meant =
            move |field: &[u8]| if has_dashed { is_dashed(field) } else { is_alike(field) };
        self.head.fields().filter(move |field| is_meant(field.name)).map(|field| field.value)
    }

    fn arguments(&self, name: &str) -> impl Iterator<Item = Cow<'a, [u8]>> {
        let query = self.query.into_iter();
        query.flat_map(move |query| query::arguments(query, name)).map(|(_, value)| value)
    }
}

fn text(text: &str) -> Cow<'_, [u8]> {
    Cow::Borrowed(text.as_bytes())
}

fn printed<'a>(value: impl ToString) -> Cow<'a, [u8]> {
    Cow::Owned(value.to_string().into_bytes())
}

fn address<'a>(address: IpAddr) -> Cow<'a, [u8]> {
    let mut text = Vec::with_capacity("255.255.255.255.".len());
    push_address(address, &mut text);
    Cow::Owned(text)
}

/// Appends it as `Display` has it, which takes five times as many instructions where it is IPv4.
pub(crate) fn push_address(address: IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(address) => {
            let (mut text, mut size) = ([b'.'; "255.255.255.255.".len()], 0);
            let digit = |number: u8| b'0' + number % 10;
            for octet in address.octets() {
                for (least, unit) in [(100, 100), (10, 10), (0, 1)] {
                    if octet >= least {
                        text[size] = digit(octet / unit);
                        size += 1;
                    }
                }
                size += 1;
            }
            out.extend_from_slice(&text[..size - 1]);
        }
        IpAddr::V6(address) => out.extend_from_slice(address.to_string().as_bytes()),
    }
}

fn host(name: &str) -> Cow<'_, [u8]> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase().into_bytes())
    } else {
        text(name)
    }
}

#[cfg(test)]
mod tests;
