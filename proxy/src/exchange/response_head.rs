//! The head of a node's response as the downstream gets it: the same bytes on either lane, and the
//! node's own wherever the proxy has nothing to say about them.

use std::{mem, ops::Range};

use http::StatusCode;

use crate::{
    http::{
        answer::After,
        fields::{self, ForwardedField, Framing, Name},
        framing::{BodyLength, Version},
        head::{RequestHead, ResponseHead},
        name::Known,
    },
    pipeline::Plan,
    plugin::ResponseEdits,
    worker::Worker,
};

/// Room for what a head gains on its way, bytes; one that gains more costs another allocation.
pub(crate) const GAINED: usize = 256;

/// Ours, whatever the downstream's is (RFC 9112 section 2.3).
const VERSION: &[u8] = b"HTTP/1.1 ";

/// How a response leaves, as far as its head has to say it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Leaving {
    /// The downstream's.
    version: Version,
    pub(crate) framing: Framing,
    pub(crate) after: After,
    /// Whether the end of the connection is the end of the body.
    pub(crate) ends_with_connection: bool,
    /// What is said of the connection if the downstream cannot know it from the version.
    connection: Option<&'static str>,
}

impl Leaving {
    /// `status` is that of the downstream, if not the node's; one that has a body, and which may stand
    /// in place of one that has none. `is_filtered`: the length is not what the node said. `after` is what there is to expect of a
    /// connection if the framing lets it stay.
    pub(crate) fn new(
        request: &RequestHead,
        response: &ResponseHead,
        status: Option<StatusCode>,
        is_filtered: bool,
        after: After,
    ) -> Self {
        let version = request.version();
        let length = response.body_length();
        let framing = match (length, version) {
            (BodyLength::Empty, _) if awaits_body(request, response, status) => Framing::Empty,
            (BodyLength::Empty | BodyLength::Fixed(_), _) if !is_filtered => Framing::Length,
            (BodyLength::Empty, _) | (_, Version::Http10) => Framing::Unsaid,
            (_, Version::Http11) => Framing::Chunked,
        };
        let ends_with_connection = framing == Framing::Unsaid && length != BodyLength::Empty;
        let after = if ends_with_connection { After::Close } else { after };
        let connection = after.option(version);
        Self { version, framing, after, ends_with_connection, connection }
    }

    fn stays_open(self) -> bool {
        self.version == Version::Http11 && self.after == After::KeepAlive
    }
}

/// Whether the downstream takes for granted that a response has a body which the node knows to have
/// none: the node was asked something else, or has answered something else.
fn awaits_body(request: &RequestHead, response: &ResponseHead, status: Option<StatusCode>) -> bool {
    let status = status.unwrap_or(response.status());
    !request.is_head() && !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Writes the head of `head` behind what there is in `out`.
pub(crate) fn write(
    out: &mut Vec<u8>,
    head: &ResponseHead,
    plan: &Plan<'_>,
    edits: &ResponseEdits<'_>,
    worker: &Worker,
    leaving: Leaving,
) {
    out.reserve(head.bytes().len() + GAINED);
    match edits.status {
        Some(status) => {
            let reason = status.canonical_reason().unwrap_or_default().as_bytes();
            push(out, [VERSION, status.as_str().as_bytes(), b" ", reason, b"\r\n"]);
        }
        None => {
            let status = head.status();
            push(out, [VERSION, status.as_str().as_bytes(), b" ", head.reason(), b"\r\n"]);
        }
    }
    let bytes = head.bytes();
    let part = |lines: Range<usize>| bytes.get(lines).unwrap_or_default();
    // Received lines that stand side by side leave together.
    let mut lines = 0..0;
    let mut has_date = false;
    let has_edits = !edits.fields.is_empty() || !plan.response.is_empty();
    fields::forwarded_response_fields(head, leaving.framing, leaving.stays_open())
        .filter(|field| {
            !has_edits || !edits.fields.replaces(field) && !plan.response.replaces(field)
        })
        .for_each(|field| {
            has_date |= field.known == Known::Date;
            let Some(line) = received_line(head, &field) else {
                let (name, value) = (field.name.as_bytes(), field.value.as_bytes());
                return push(out, [part(mem::take(&mut lines)), name, b": ", value, b"\r\n"]);
            };
            if line.start != lines.end {
                out.extend_from_slice(part(mem::replace(&mut lines, line.start..line.start)));
            }
            lines.end = line.end;
        });
    out.extend_from_slice(part(lines));
    if has_edits {
        let is_received = |name: &str| head.field(name).is_some();
        for (name, value) in plan.response.made(is_received).chain(edits.fields.made(is_received)) {
            has_date |= *name == http::header::DATE;
            push(out, [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
        }
    }
    if let Some(option) = leaving.connection {
        push(out, [b"connection: ", option.as_bytes(), b"\r\n"]);
    }
    if !has_date {
        push(out, [b"date: ", worker.date().as_bytes(), b"\r\n"]);
    }
    out.extend_from_slice(b"\r\n");
}

/// Where the line of a field stands that leaves as it was received. What frames the message has no
/// blanks that anybody could read differently.
fn received_line(head: &ResponseHead, field: &ForwardedField<'_>) -> Option<Range<usize>> {
    let (Name::Received(name), value) = (field.name, field.value.as_bytes()) else { return None };
    let line = head.line(name, value);
    let is_plain = || {
        let behind_name = head.bytes().get(line.start + name.len()..).unwrap_or_default();
        behind_name.starts_with(b": ") && line.len() == name.len() + value.len() + b": \r\n".len()
    };
    (field.known != Known::ContentLength || is_plain()).then_some(line)
}

/// Inlined, as most parts are constants.
#[inline(always)]
pub(crate) fn push<const N: usize>(out: &mut Vec<u8>, parts: [&[u8]; N]) {
    parts.into_iter().for_each(|part| out.extend_from_slice(part));
}
