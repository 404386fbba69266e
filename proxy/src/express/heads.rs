//! Heads as bytes, built in place from what the gates read. The same fields in the same order and
//! case as hyper's lane sends them.

use std::{borrow::Cow, net::SocketAddr};

use crate::{
    http::{
        answer::After,
        fields::{self, ForwardedField, Forwarding, Name, Pseudonym},
        head::{RequestHead, ResponseHead},
        name::Known,
    },
    pipeline::Plan,
    plugin::FieldEdits,
    worker::Worker,
};

/// Room for what a head gains on its way, bytes; one that gains more costs another allocation.
const GAINED: usize = 256;

/// The request as the node gets it.
pub(super) fn request(
    out: &mut Vec<u8>,
    head: &RequestHead,
    plan: &Plan<'_>,
    forwarding: &Forwarding,
    node: SocketAddr,
) {
    out.reserve(head.bytes().len() + GAINED);
    push(out, &[head.method().as_bytes(), b" ", plan.target.as_bytes(), b" HTTP/1.1\r\n"]);
    let host =
        head.host_bytes().map_or_else(|| Cow::Owned(node.to_string().into_bytes()), Cow::Borrowed);
    for field in fields::forwarded_request_fields(head, forwarding, &host) {
        if !plan.replaces(&field) {
            push_field(out, &field);
        }
    }
    for (name, value) in plan.edits.set_fields() {
        push(out, &[name.as_bytes(), b": ", value, b"\r\n"]);
    }
    out.extend_from_slice(b"\r\n");
}

/// How a response leaves, as far as its head has to say it.
#[derive(Debug, Clone, Copy)]
pub(super) struct ResponseEnds {
    pub(super) is_chunked: bool,
    /// Its length is not what the node said.
    pub(super) is_filtered: bool,
    pub(super) after: After,
}

/// The node's response as the downstream gets it.
pub(super) fn response(
    out: &mut Vec<u8>,
    head: &ResponseHead,
    plan: &Plan<'_>,
    pseudonym: &Pseudonym,
    worker: &Worker,
    ends: ResponseEnds,
) {
    out.reserve(head.bytes().len() + GAINED);
    let status = head.status();
    let reason = status.canonical_reason().unwrap_or_default();
    push(out, &[b"HTTP/1.1 ", status.as_str().as_bytes(), b" ", reason.as_bytes(), b"\r\n"]);
    let mut edits = FieldEdits::default();
    if plan.route.chain.hooks().response_head {
        plan.route.chain.response_head(head, &mut edits);
    }
    let mut has_date = false;
    for field in fields::forwarded_response_fields(head, pseudonym) {
        let is_framing = matches!(field.known, Known::ContentLength | Known::TransferEncoding);
        if edits.replaces(&field) || is_framing && (ends.is_filtered || ends.is_chunked) {
            continue;
        }
        has_date |= field.known == Known::Date;
        push_field(out, &field);
    }
    if ends.is_chunked {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    for (name, value) in edits.set_fields() {
        has_date |= name.eq_ignore_ascii_case("date");
        push(out, &[name.as_bytes(), b": ", value, b"\r\n"]);
    }
    if ends.after == After::Close {
        out.extend_from_slice(b"connection: close\r\n");
    }
    if !has_date {
        push(out, &[b"date: ", worker.date().as_bytes(), b"\r\n"]);
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

fn push(out: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|part| out.extend_from_slice(part));
}
