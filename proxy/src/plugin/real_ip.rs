//! `real-ip`: whom the peer speaks for, as a variable says it.
//!
//! Only a peer of `trusted_addresses` is believed, if there are any. Of `http_x_forwarded_for` the
//! last address counts; with `recursive` the last one that is not trusted itself, or the first. What
//! is no address is ignored. A port may stand behind the address, and is ignored too. Plugins and
//! variables behind this one see that address, and so does the node as `X-Real-IP`;
//! `X-Forwarded-For`, which names whom a request came through, goes on with the peer.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;

use super::{Kind, Outcome, Phase, Plugin, RequestContext, authentication::only};
use crate::{
    config::plugins::{Scope, Section, Value},
    variable::{Facts, Moment, Variable},
};

pub(super) static KIND: Kind =
    Kind { name: "real-ip", priority: 23000, phase: Phase::Rewrite, read, credential: None };

#[derive(Debug)]
struct RealIp {
    source: Source,
    /// `None`: everybody.
    trusted: Option<Box<[IpNet]>>,
    recursive: bool,
}

#[derive(Debug)]
enum Source {
    /// A list to which every proxy appends.
    XForwardedFor,
    /// In this spelling and no other, and once: what a proxy in front sets stands beside what its client
    /// has sent in another spelling, or a second time.
    Field(String),
    Single(Variable),
}

fn read(section: &mut Section<'_>, _scope: &Scope<'_>) -> Option<Arc<dyn Plugin>> {
    let source = section.require("source").and_then(|value| source(&value));
    let trusted = section.take("trusted_addresses").map(|value| networks(&value));
    let recursive = section.leaf_or("recursive", false);
    let trusted = trusted.map_or(Some(None), |trusted| trusted.map(Some));
    Some(Arc::new(RealIp { source: source?, trusted: trusted?, recursive }))
}

fn source(value: &Value<'_>) -> Option<Source> {
    let name = value.leaf::<String>()?;
    match Variable::parse(&name) {
        Ok(Variable::Field(name)) => {
            let name = name.replace('_', "-").to_ascii_lowercase();
            let is_list = name == "x-forwarded-for";
            Some(if is_list { Source::XForwardedFor } else { Source::Field(name) })
        }
        Ok(variable) => {
            let known = variable.check_known(Moment::Request);
            let known = known.map(|()| Source::Single(variable));
            known.map_err(|error| value.error(error.to_string())).ok()
        }
        Err(unknown) => {
            value.error(unknown.to_string());
            None
        }
    }
}

fn networks(value: &Value<'_>) -> Option<Box<[IpNet]>> {
    let items = value.items()?;
    if items.is_empty() {
        value.error("needs at least one address");
        return None;
    }
    let networks: Vec<_> = items.iter().map(|item| item.leaf::<IpNet>()).collect();
    networks.into_iter().collect()
}

impl Plugin for RealIp {
    fn request(&self, cx: &mut RequestContext<'_>) -> Outcome {
        let peer = cx.request.origin.peer.ip().to_canonical();
        if self.trusts(peer).unwrap_or(true)
            && let Some(client) = self.client(&cx.facts())
        {
            cx.request.client = client;
        }
        Outcome::Continue
    }
}

impl RealIp {
    /// `None`: nobody in particular is trusted.
    fn trusts(&self, address: IpAddr) -> Option<bool> {
        let trusted = self.trusted.as_ref()?;
        Some(trusted.iter().any(|network| network.contains(&address)))
    }

    fn client(&self, facts: &Facts<'_>) -> Option<IpAddr> {
        match &self.source {
            Source::XForwardedFor => self.forwarded_for(facts),
            Source::Field(name) => address(only(facts.head.values(name), ()).ok()??),
            Source::Single(variable) => address(&facts.value(variable)?),
        }
    }

    fn forwarded_for(&self, facts: &Facts<'_>) -> Option<IpAddr> {
        let values = facts.head.values("x-forwarded-for");
        let mut hops: Vec<&[u8]> =
            values.flat_map(|value| value.split(|byte| *byte == b',')).collect();
        let mut client = address(hops.pop()?)?;
        while self.recursive && self.trusts(client) == Some(true) {
            // A trusted one has told of what stands before it.
            let Some(hop) = hops.pop() else { break };
            client = address(hop)?;
        }
        Some(client)
    }
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text).ok()?.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse::<SocketAddr>().ok().filter(|it| it.port() > 0);
    let address = bare.parse().ok().or_else(|| with_port().map(|address| address.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests;
