//! Messages as hyper wants them, built from what the gates read.

use std::{borrow::Cow, net::SocketAddr};

use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header,
    uri::PathAndQuery,
};

use super::body::{RequestBody, ResponseBody};
use crate::{
    error::Fault,
    http::{
        answer::After,
        fields::{self, ForwardedField, Forwarding, Name},
        head::RequestHead,
    },
    pipeline::Plan,
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
        fields.insert(HeaderName::from_static(name), value.clone());
    }
    Ok(request)
}

/// The node's response as hyper's server gets it: how the body is framed follows from the body, and
/// whether the connection stays from the one field. The head that hyper makes of it never leaves.
pub(super) fn stand_in(
    status: StatusCode,
    after: After,
    body: ResponseBody,
) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    if after == After::Close {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
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
