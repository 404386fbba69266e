//! The head of a request as the node gets it, built in place from what the gate read: the same bytes
//! on either lane.

use std::{borrow::Cow, net::SocketAddr};

use super::response_head::{GAINED, push};
use crate::{
    http::{
        fields::{self, ForwardedField, Forwarding, Name},
        head::RequestHead,
    },
    pipeline::Plan,
};

/// Writes the head behind what there is in `out`. `node` names the host where the downstream named
/// none, which HTTP/1.0 may.
pub(crate) fn write(
    out: &mut Vec<u8>,
    head: &RequestHead,
    plan: &Plan<'_>,
    forwarding: &Forwarding,
    node: SocketAddr,
) {
    out.reserve(head.bytes().len() + GAINED);
    let method = plan.rewrite.method.as_deref().unwrap_or(head.method());
    push(out, &[method.as_bytes(), b" ", plan.target.as_bytes(), b" HTTP/1.1\r\n"]);
    let host = match &plan.rewrite.host {
        Some(host) => Cow::Borrowed(host.as_bytes()),
        None => head
            .host_bytes()
            .map_or_else(|| Cow::Owned(node.to_string().into_bytes()), Cow::Borrowed),
    };
    for field in fields::forwarded_request_fields(head, forwarding, &host) {
        if !plan.replaces(&field) {
            push_field(out, &field);
        }
    }
    for (name, value) in plan.edits.made(|name| head.field(name).is_some()) {
        push(out, &[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
    }
    out.extend_from_slice(b"\r\n");
}

fn push_field(out: &mut Vec<u8>, field: &ForwardedField<'_>) {
    match field.name {
        Name::Received(name) => out.extend(name.iter().map(u8::to_ascii_lowercase)),
        Name::Made(name) => out.extend_from_slice(name.as_str().as_bytes()),
    }
    push(out, &[b": ", field.value.as_bytes(), b"\r\n"]);
}
