//! Why a request takes the route it takes: every candidate that was looked at, in order.

use std::{
    fmt::{self, Write as _},
    iter,
    net::{IpAddr, SocketAddr},
};

use bytes::BytesMut;

use super::{Pattern, Router, conditions::Refusal};
use crate::{
    config::{Config, Protocol},
    http::{
        fields::Scheme,
        gate::RequestGate,
        head::{HeadLimits, RequestHead},
        path,
    },
    variable::{Ends, Facts},
};

/// A request that nobody has sent.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub method: &'a str,
    /// `http://HOST[:PORT][/PATH][?QUERY]`, or `https`.
    pub url: &'a str,
    /// `name: value`, `host` aside.
    pub fields: &'a [String],
    pub client: IpAddr,
}

/// A route that was looked at under one of its patterns.
#[derive(Debug, Clone, Copy)]
struct Looked<'r> {
    index: usize,
    pattern: &'r Pattern,
    /// `None`: it takes the request, and nothing was looked at behind it.
    refusal: Option<Refusal>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::Methods => "no: the method is not among `methods`",
            Refusal::RemoteAddrs => "no: the client is not among `remote_addrs`",
            Refusal::Pattern => "no: the path goes on otherwise than the pattern",
            Refusal::Vars => "no: `vars` do not hold",
        })
    }
}

impl Router {
    /// Everything that [`select`](Self::select) looks at: routes of other hosts, and of literals
    /// that the path does not begin with, are not.
    fn explain(&self, facts: &Facts<'_>) -> Vec<Looked<'_>> {
        let mut looked = Vec::new();
        self.find(facts, &mut |candidate| {
            let refusal = candidate.refusal(facts);
            looked.push(Looked { index: candidate.index, pattern: &candidate.pattern, refusal });
            refusal.is_none()
        });
        looked
    }
}

/// A line for each candidate, the last one for what came of it, and whether a route takes the
/// request.
///
/// # Errors
/// The proxy would not look for a route, and why.
pub fn report(config: &Config, asked: &Asked<'_>) -> Result<(String, bool), String> {
    let limits = HeadLimits {
        size_max: config.limits.head_size_max,
        fields_max: config.limits.head_fields_max,
        target_size_max: config.limits.target_size_max,
    };
    let (head, scheme) = request_head(asked, limits)?;
    let (received, query) = head.path_and_query();
    let path = path::normalise(received).map_err(|error| format!("refused: {error:?} path"))?.path;
    let listener = config.listeners.iter().find(|listener| listener.protocol == Protocol::Http);
    let client = asked.client.to_canonical();
    let ends = Ends {
        peer: SocketAddr::new(client, 0),
        client,
        local: listener.ok_or("no listener with `protocol: http`")?.address,
        scheme,
    };
    let router = Router::new(&config.routes);
    let looked = router.explain(&Facts::new(&head, &path, query, ends));
    let mut text = String::new();
    let mut winner = None;
    for Looked { index, pattern, refusal } in looked {
        let id = &config.routes[index].id;
        let verdict = refusal.map_or_else(|| "yes".to_owned(), |refusal| refusal.to_string());
        writeln!(text, "{id} {} {verdict}", pattern.as_str()).map_err(|error| error.to_string())?;
        winner = refusal.is_none().then_some(id);
    }
    text += &winner.map_or_else(|| "no route\n".to_owned(), |id| format!("route {id}\n"));
    Ok((text, winner.is_some()))
}

/// The request's head, read as one from the wire is, and the URL's scheme.
fn request_head(asked: &Asked<'_>, limits: HeadLimits) -> Result<(RequestHead, Scheme), String> {
    let schemes = [("http://", Scheme::Http), ("https://", Scheme::Https)];
    let split = |(prefix, scheme)| Some((asked.url.strip_prefix(prefix)?, scheme));
    let (rest, scheme) =
        schemes.into_iter().find_map(split).ok_or("the URL is not `http://HOST/PATH`")?;
    let (host, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let slash = if target.starts_with('/') { "" } else { "/" };
    let host = format!("host: {host}");
    let fields = iter::once(&host).chain(asked.fields).map(|line| format!("{line}\r\n"));
    let fields: String = fields.collect();
    let text = format!("{} {slash}{target} HTTP/1.1\r\n{fields}\r\n", asked.method);
    let mut bytes = BytesMut::from(&*text);
    match RequestGate::new(limits).head(&mut bytes) {
        Ok(Some(head)) if bytes.is_empty() => Ok((head, scheme)),
        Ok(_) => Err("not one request".to_owned()),
        Err(error) => Err(format!("refused: {:?}", error.flaw())),
    }
}

#[cfg(test)]
mod tests;
