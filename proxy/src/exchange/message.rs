//! Heads as hyper wants them, built from what the gates read.

use std::{borrow::Cow, net::SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri, header, uri::PathAndQuery};
use hyper::ext::ReasonPhrase;

use super::body::{RequestBody, ResponseBody};
use crate::{
    error::Fault,
    http::{
        fields::{self, ForwardedField, Forwarding, Name},
        framing::Version,
        head::{RequestHead, ResponseHead},
    },
    pipeline::Plan,
    plugin::FieldEdits,
};

/// Room that most heads fit in, so that the map is laid out once.
const FIELDS_EXPECTED: usize = 24;

/// The request as the node gets it. `node` names the host where the downstream named none, which
/// HTTP/1.0 may.
///
/// # Errors
/// [`Fault::Internal`] if hyper's types refuse what the gate let through.
pub(super) fn upstream_request(
    head: &RequestHead,
    plan: &Plan<'_>,
    forwarding: &Forwarding,
    node: SocketAddr,
    body: RequestBody,
) -> Result<Request<RequestBody>, Fault> {
    let mut request = Request::new(body);
    *request.method_mut() = head.method().parse().map_err(|_| Fault::Internal)?;
    *request.uri_mut() = match &plan.target {
        // Lies in the head: no copy.
        Cow::Borrowed(target) => PathAndQuery::from_maybe_shared(head.slice(target.as_bytes())),
        Cow::Owned(target) => PathAndQuery::try_from(target.as_str()),
    }
    .map(Uri::from)
    .map_err(|_| Fault::HeadMalformed)?;
    let host =
        head.host_bytes().map_or_else(|| Cow::Owned(node.to_string().into_bytes()), Cow::Borrowed);
    let all = fields::forwarded_request_fields(head, forwarding, &host);
    let kept = all.filter(|field| !plan.replaces(field));
    let fields = request.headers_mut();
    fields.reserve(FIELDS_EXPECTED);
    append(fields, head.bytes(), kept)?;
    for (name, value) in plan.edits.set_fields() {
        let value = HeaderValue::from_maybe_shared(value.clone()).map_err(|_| Fault::Internal)?;
        fields.insert(HeaderName::from_static(name), value);
    }
    Ok(request)
}

/// The node's response as the downstream gets it.
///
/// # Errors
/// [`Fault::Internal`] if hyper's types refuse what the gate let through.
pub(super) fn downstream_response(
    head: &RequestHead,
    plan: &Plan<'_>,
    forwarding: &Forwarding,
    response_head: &ResponseHead,
    length_is_unknown: bool,
    body: ResponseBody,
) -> Result<Response<ResponseBody>, Fault> {
    let mut response = Response::new(body);
    *response.status_mut() = response_head.status();
    if response_head.status().canonical_reason().is_none() {
        response.extensions_mut().insert(ReasonPhrase::from_static(b""));
    }
    let fields = response.headers_mut();
    fields.reserve(FIELDS_EXPECTED);
    let mut edits = FieldEdits::default();
    if plan.route.chain.hooks().response_head {
        plan.route.chain.response_head(response_head, &mut edits);
    }
    let all = fields::forwarded_response_fields(response_head, forwarding.pseudonym());
    let kept = all.filter(|field| !edits.replaces(field));
    append(fields, response_head.bytes(), kept)?;
    if length_is_unknown {
        fields.remove(header::CONTENT_LENGTH);
    }
    if head.version() == Version::Http10 {
        fields.remove(header::TRANSFER_ENCODING);
    }
    for (name, value) in edits.set_fields() {
        let value = HeaderValue::from_maybe_shared(value.clone()).map_err(|_| Fault::Internal)?;
        fields.insert(HeaderName::from_static(name), value);
    }
    Ok(response)
}

/// Copies no value that lies in the head.
fn append<'a>(
    to: &mut HeaderMap,
    head_bytes: &bytes::Bytes,
    fields: impl Iterator<Item = ForwardedField<'a>>,
) -> Result<(), Fault> {
    for ForwardedField { name, value, .. } in fields {
        let name = match name {
            Name::Received(name) => HeaderName::from_bytes(name).map_err(|_| Fault::Internal)?,
            Name::Made(name) => name.clone(),
        };
        let value = HeaderValue::from_maybe_shared(value.into_bytes(head_bytes));
        to.append(name, value.map_err(|_| Fault::Internal)?);
    }
    Ok(())
}
