//! What is asked and answered, over plain types.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, StatusCode, Uri,
    uri::{PathAndQuery, Scheme},
};

/// Bytes of a response head.
pub const HEAD_SIZE_MAX: usize = 16 << 10;

/// Somebody who can be asked, and what for: `http://host:port/path?query`.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    pub is_tls: bool,
    /// A name, or an address without brackets.
    pub host: Arc<str>,
    pub port: u16,
    pub target: PathAndQuery,
}

/// Why a text is no [`Url`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadUrl;

impl fmt::Display for BadUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("needs a URL such as `https://host:8443/path`, without user and fragment")
    }
}

impl Url {
    /// # Errors
    /// It is not absolute, neither `http` nor `https`, or has a user or a fragment.
    pub fn parse(text: &str) -> Result<Url, BadUrl> {
        let uri: Uri = text.parse().map_err(|_| BadUrl)?;
        let is_tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(_) | None => return Err(BadUrl),
        };
        let authority = uri.authority().filter(|_| !text.contains('#')).ok_or(BadUrl)?;
        let host = authority.host();
        // With a user in front it does not begin with the host.
        let port = authority.as_str().strip_prefix(host).ok_or(BadUrl)?;
        let port = match port.strip_prefix(':') {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse(),
            None if port.is_empty() => Ok(default_port(is_tls)),
            Some(_) | None => return Err(BadUrl),
        };
        let port = port.ok().filter(|port| *port != 0).ok_or(BadUrl)?;
        let host = host.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() {
            return Err(BadUrl);
        }
        Ok(Url {
            is_tls,
            host: host.into(),
            port,
            target: uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")),
        })
    }

    /// The value of `Host`: the port is said if it is not the scheme's.
    pub fn authority(&self) -> Option<HeaderValue> {
        let Url { host, port, .. } = self;
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_string() };
        let is_default = *port == default_port(self.is_tls);
        let text = if is_default { host } else { format!("{host}:{port}") };
        text.try_into().ok()
    }
}

const fn default_port(is_tls: bool) -> u16 {
    if is_tls { 443 } else { 80 }
}

/// Without the query, which may hold a secret.
impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Url { is_tls, host, port, target } = self;
        let scheme = if *is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{host}:{port}{}", target.path())
    }
}

/// Whose certificate will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trust {
    /// One that the system's roots vouch for, and that names the host of the URL.
    System,
    /// Anyone's.
    Anybody,
}

/// How connections are kept for the next call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepAlive {
    /// Of one client to one host.
    pub idle_max: usize,
    pub idle_timeout: Duration,
}

/// On whose behalf something is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    ForwardAuth,
    HealthCheck,
    Jwks,
    Mirror,
}

impl Purpose {
    pub const ALL: [Purpose; 4] =
        [Purpose::ForwardAuth, Purpose::HealthCheck, Purpose::Jwks, Purpose::Mirror];

    /// Label in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Purpose::ForwardAuth => "forward_auth",
            Purpose::HealthCheck => "health_check",
            Purpose::Jwks => "jwks",
            Purpose::Mirror => "mirror",
        }
    }
}

/// One call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub purpose: Purpose,
    pub method: Method,
    pub url: Url,
    /// Where the host of the URL is, whatever its name resolves to.
    pub address: Option<SocketAddr>,
    /// `host` is the URL's where there is none; those of the connection and of the framing are left
    /// out, and made.
    pub fields: HeaderMap,
    pub body: Bytes,
    /// From looking up the name to the last byte of the response.
    pub timeout: Duration,
    /// Of the response; bytes.
    pub body_size_max: usize,
    pub trust: Trust,
    /// `None`: one connection for this call alone.
    pub keep_alive: Option<KeepAlive>,
}

impl Request {
    /// Whether it may be sent once more if nobody knows what became of it. A question whether somebody
    /// may pass changes nothing, whatever its method.
    pub(super) fn is_repeatable(&self) -> bool {
        self.method.is_idempotent() || self.purpose == Purpose::ForwardAuth
    }
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Never an interim one.
    pub status: StatusCode,
    pub fields: HeaderMap,
    /// Whole, or why it is not.
    pub body: Result<Bytes, Failure>,
}

/// Why there is no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The host's name has no address.
    Unresolved,
    /// No address of the host took a connection.
    Unreachable,
    /// We have no file to dial with.
    OutOfFiles,
    /// Nobody who was trusted, or no TLS at all.
    Tls,
    /// The connection ended before the response did.
    Closed,
    /// What came is no response, or switches protocols.
    Malformed,
    /// A head or a body of more bytes than were allowed.
    TooLarge,
    TimedOut,
}

impl Failure {
    pub const ALL: [Failure; 8] = [
        Failure::Unresolved,
        Failure::Unreachable,
        Failure::OutOfFiles,
        Failure::Tls,
        Failure::Closed,
        Failure::Malformed,
        Failure::TooLarge,
        Failure::TimedOut,
    ];

    /// Label in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Failure::Unresolved => "unresolved",
            Failure::Unreachable => "unreachable",
            Failure::OutOfFiles => "out_of_files",
            Failure::Tls => "tls",
            Failure::Closed => "closed",
            Failure::Malformed => "malformed",
            Failure::TooLarge => "too_large",
            Failure::TimedOut => "timed_out",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Failure::Unresolved => "the host's name has no address",
            Failure::Unreachable => "no connection to the host",
            Failure::OutOfFiles => "no file left to dial the host with",
            Failure::Tls => "no TLS connection with a host that is trusted",
            Failure::Closed => "the connection ended before the response did",
            Failure::Malformed => "no HTTP response",
            Failure::TooLarge => "the response is too large",
            Failure::TimedOut => "no response in time",
        })
    }
}

impl std::error::Error for Failure {}
