//! What `chash` and `maglev` hash of a request: `hash_on` and `key` of an upstream.

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
};

use percent_encoding::percent_decode_str;

use crate::http::head::RequestHead;

/// Literals and variables, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashKey(Box<[Part]>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(Box<str>),
    Variable(Variable),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Variable {
    Uri,
    RequestUri,
    QueryString,
    Host,
    RemoteAddr,
    RemotePort,
    ServerAddr,
    Consumer,
    Field(Box<str>),
    Argument(Box<str>),
    Cookie(Box<str>),
}

/// What there is to hash of.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// `None`: a TCP connection.
    pub request: Option<Request<'a>>,
    /// Whom the peer speaks for.
    pub client: IpAddr,
    pub peer: SocketAddr,
    pub local: SocketAddr,
}

#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub head: &'a RequestHead,
    /// Path and query as the node sees them.
    pub target: &'a str,
    pub consumer: Option<&'a str>,
}

impl HashKey {
    /// `hash_on: header`.
    pub fn field(name: &str) -> Self {
        Self::of_variable(Variable::Field(name.into()))
    }

    /// `hash_on: cookie`.
    pub fn cookie(name: &str) -> Self {
        Self::of_variable(Variable::Cookie(name.into()))
    }

    /// `hash_on: consumer`.
    pub fn consumer() -> Self {
        Self::of_variable(Variable::Consumer)
    }

    /// `hash_on: vars`. `None`: no variable has this name.
    pub fn variable(name: &str) -> Option<Self> {
        Variable::parse(name).map(Self::of_variable)
    }

    /// `hash_on: vars_combinations`: `$name` for each variable, between any text.
    ///
    /// # Errors
    /// The name of which there is no variable.
    pub fn combination(text: &str) -> Result<Self, &str> {
        let mut pieces = text.split('$');
        let mut parts = vec![Part::Literal(pieces.next().unwrap_or("").into())];
        for piece in pieces {
            let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
            let end = piece.find(|c| !is_name(c)).unwrap_or(piece.len());
            let (name, rest) = piece.split_at(end);
            parts.push(Part::Variable(Variable::parse(name).ok_or(name)?));
            parts.push(Part::Literal(rest.into()));
        }
        parts.retain(|part| !matches!(part, Part::Literal(text) if text.is_empty()));
        Ok(Self(parts.into()))
    }

    fn of_variable(variable: Variable) -> Self {
        Self([Part::Variable(variable)].into())
    }

    /// Whether a TCP connection has everything that it asks for.
    pub fn is_of_connection(&self) -> bool {
        self.0.iter().all(|part| match part {
            Part::Literal(_)
            | Part::Variable(Variable::RemoteAddr | Variable::RemotePort | Variable::ServerAddr) => true,
            Part::Variable(_) => false,
        })
    }

    /// The address of the client where nothing that it asks for is there.
    pub fn value<'a>(&self, facts: &Facts<'a>) -> Cow<'a, [u8]> {
        if let [Part::Variable(variable)] = &*self.0 {
            return facts.value(variable).unwrap_or_else(|| facts.client());
        }
        let mut value = Vec::new();
        let mut is_any = false;
        for part in &self.0 {
            match part {
                Part::Literal(text) => value.extend_from_slice(text.as_bytes()),
                Part::Variable(variable) => {
                    let found = facts.value(variable);
                    is_any |= found.is_some();
                    value.extend_from_slice(&found.unwrap_or_default());
                }
            }
        }
        if is_any { Cow::Owned(value) } else { facts.client() }
    }
}

impl Variable {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "uri" => Variable::Uri,
            "request_uri" => Variable::RequestUri,
            "query_string" => Variable::QueryString,
            "host" => Variable::Host,
            "remote_addr" => Variable::RemoteAddr,
            "remote_port" => Variable::RemotePort,
            "server_addr" => Variable::ServerAddr,
            "consumer_name" => Variable::Consumer,
            _ => {
                let (prefix, rest) = name.split_once('_').filter(|(_, rest)| !rest.is_empty())?;
                match prefix {
                    "http" => Variable::Field(rest.replace('_', "-").into()),
                    "arg" => Variable::Argument(rest.into()),
                    "cookie" => Variable::Cookie(rest.into()),
                    _ => return None,
                }
            }
        })
    }
}

impl<'a> Facts<'a> {
    fn client(&self) -> Cow<'a, [u8]> {
        printed(self.client.to_canonical())
    }

    fn value(&self, variable: &Variable) -> Option<Cow<'a, [u8]>> {
        let request = || self.request.as_ref();
        match variable {
            Variable::RemoteAddr => Some(self.client()),
            Variable::RemotePort => Some(printed(self.peer.port())),
            Variable::ServerAddr => Some(printed(self.local.ip().to_canonical())),
            Variable::Uri => Some(text(request()?.split().0)),
            Variable::RequestUri => Some(text(request()?.target)),
            Variable::QueryString => request()?.split().1.map(text),
            Variable::Host => {
                let name = request()?.head.host_name()?;
                Some(Cow::Owned(name.to_ascii_lowercase().into_bytes()))
            }
            Variable::Consumer => request()?.consumer.map(text),
            Variable::Field(name) => request()?.head.field(name).map(Cow::Borrowed),
            Variable::Argument(name) => request()?.argument(name),
            Variable::Cookie(name) => request()?.cookie(name).map(Cow::Borrowed),
        }
    }
}

impl<'a> Request<'a> {
    fn split(&self) -> (&'a str, Option<&'a str>) {
        match self.target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (self.target, None),
        }
    }

    fn argument(&self, name: &str) -> Option<Cow<'a, [u8]>> {
        let pairs =
            self.split().1?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let mut values = pairs
            .filter(|(key, _)| percent_decode_str(key).eq(name.bytes()))
            .map(|(_, value)| percent_decode_str(value).into());
        values.next()
    }

    /// RFC 6265 section 5.4: `name=value` pairs between `;`.
    fn cookie(&self, name: &str) -> Option<&'a [u8]> {
        let pairs = self.head.values("cookie").flat_map(|value| value.split(|byte| *byte == b';'));
        let mut values = pairs.filter_map(|pair| {
            let equals = memchr::memchr(b'=', pair)?;
            let is_named = pair[..equals].trim_ascii() == name.as_bytes();
            is_named.then(|| pair[equals + 1..].trim_ascii())
        });
        values.next()
    }
}

fn text(text: &str) -> Cow<'_, [u8]> {
    Cow::Borrowed(text.as_bytes())
}

fn printed<'a>(value: impl ToString) -> Cow<'a, [u8]> {
    Cow::Owned(value.to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::http::{gate::RequestGate, head::HeadLimits};

    fn head(text: &str) -> RequestHead {
        let limits = HeadLimits { size_max: 4096, fields_max: 20, target_size_max: 1024 };
        let parsed = RequestGate::new(limits).head(&mut BytesMut::from(text));
        parsed.expect("a valid head").expect("a whole head")
    }

    fn key(kind: &str, name: &str) -> HashKey {
        match kind {
            "header" => HashKey::field(name),
            "cookie" => HashKey::cookie(name),
            "consumer" => HashKey::consumer(),
            "vars" => HashKey::variable(name).expect("a variable"),
            _ => HashKey::combination(name).expect("variables"),
        }
    }

    #[test]
    fn a_key_is_what_the_request_has_or_the_client() {
        let head = head(
            "GET /a?x=1 HTTP/1.1\r\nhost: A.example:80\r\nX-User: u1\r\n\
             cookie: c=1; sid=s2; sid=3\r\n\r\n",
        );
        let request = Request { head: &head, target: "/a?x=1&y=%41", consumer: Some("bob") };
        let facts = Facts {
            request: Some(request),
            client: [192, 0, 2, 7].into(),
            peer: ([127, 0, 0, 1], 1234).into(),
            local: ([127, 0, 0, 1], 80).into(),
        };
        for (kind, name, expected) in [
            ("header", "x-user", "u1"),
            ("header", "x-other", "192.0.2.7"),
            ("cookie", "sid", "s2"),
            ("cookie", "SID", "192.0.2.7"),
            ("consumer", "", "bob"),
            ("vars", "uri", "/a"),
            ("vars", "request_uri", "/a?x=1&y=%41"),
            ("vars", "query_string", "x=1&y=%41"),
            ("vars", "host", "a.example"),
            ("vars", "arg_y", "A"),
            ("vars", "arg_z", "192.0.2.7"),
            ("vars", "remote_port", "1234"),
            ("vars", "server_addr", "127.0.0.1"),
            ("vars_combinations", "$http_x_user/$arg_x$cookie_none.", "u1/1."),
            ("vars_combinations", "a $arg_z$cookie_none", "192.0.2.7"),
        ] {
            let value = key(kind, name).value(&facts);
            assert_eq!(String::from_utf8_lossy(&value), expected, "{kind} {name}");
        }
        let connection = Facts { request: None, ..facts };
        for (kind, name, expected, is_of_connection) in [
            ("vars", "remote_addr", "192.0.2.7", true),
            ("vars_combinations", "$remote_addr:$remote_port", "192.0.2.7:1234", true),
            ("header", "x-user", "192.0.2.7", false),
            ("vars_combinations", "$remote_port$uri", "1234", false),
        ] {
            let key = key(kind, name);
            assert_eq!(String::from_utf8_lossy(&key.value(&connection)), expected, "{kind} {name}");
            assert_eq!(key.is_of_connection(), is_of_connection, "{kind} {name}");
        }
    }

    #[test]
    fn a_combination_names_the_variable_that_is_none() {
        assert_eq!(HashKey::combination("$uri$nothing/"), Err("nothing"));
        assert_eq!(HashKey::combination("a$"), Err(""));
    }
}
