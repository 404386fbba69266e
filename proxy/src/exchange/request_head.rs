//! The head of a request as the node gets it, built in place from what the gate read: the same bytes
//! on either lane.

use std::{borrow::Cow, net::SocketAddr};

use super::response_head::{GAINED, push};
use crate::{
    config::{Node, PassHost},
    http::{
        fields::{ForwardedField, Forwarding, Name, PushField, forward_request_fields},
        head::RequestHead,
    },
    pipeline::Plan,
};

/// What a `Host` without a port means.
const HTTP_PORT: u16 = 80;

/// Writes the head behind what there is in `out`. `node` names the host where the downstream named
/// none, which HTTP/1.0 may.
pub(crate) fn write(
    out: &mut Vec<u8>,
    head: &RequestHead,
    plan: &Plan<'_>,
    forwarding: &Forwarding,
    node: &Node,
) {
    out.reserve(head.bytes().len() + GAINED);
    push(out, [plan.method(), b" ", plan.target.as_bytes(), b" HTTP/1.1\r\n"]);
    let host = host(head, plan).unwrap_or_else(|| own_host(node));
    let client = plan.represented().map(|client| client.to_string());
    let is_replaced = |name: &[u8]| plan.replaces(name);
    forward_request_fields(out, head, forwarding, &host, client.as_deref(), is_replaced);
    for (name, value) in plan.edits.made(|name| head.field(name).is_some()) {
        push(out, [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
    }
    out.extend_from_slice(b"\r\n");
}

/// What plugins say, then the upstream, then the downstream; `None`: it is the node's own.
pub(crate) fn host<'a>(head: &'a RequestHead, plan: &'a Plan<'_>) -> Option<Cow<'a, [u8]>> {
    match (&plan.rewrite.host, &plan.upstream.config.pass_host) {
        (Some(host), _) | (None, PassHost::Rewrite(host)) => Some(Cow::Borrowed(host.as_bytes())),
        (None, PassHost::Node) => None,
        (None, PassHost::Pass) => head.host_bytes().map(Cow::Borrowed),
    }
}

/// A node's name, or else its address. The port is said if it is not the scheme's.
fn own_host(node: &Node) -> Cow<'_, [u8]> {
    if let Some(host) = &node.host {
        return Cow::Borrowed(host.as_bytes());
    }
    let host = match node.address {
        SocketAddr::V4(v4) if v4.port() == HTTP_PORT => v4.ip().to_string(),
        SocketAddr::V6(v6) if v6.port() == HTTP_PORT => format!("[{}]", v6.ip()),
        SocketAddr::V4(_) | SocketAddr::V6(_) => node.address.to_string(),
    };
    Cow::Owned(host.into_bytes())
}

impl PushField<'_> for Vec<u8> {
    /// Inlined, as most names are constants.
    #[inline(always)]
    fn push_field(&mut self, field: ForwardedField<'_>) {
        match field.name {
            Name::Received(name) => self.extend(name.iter().map(u8::to_ascii_lowercase)),
            Name::Made(name) => self.extend_from_slice(name.as_bytes()),
        }
        push(self, [b": ", field.value.as_bytes(), b"\r\n"]);
    }
}
