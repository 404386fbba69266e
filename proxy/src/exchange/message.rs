//! Messages as hyper wants them: stand-ins, whose heads never leave.

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as _;

use super::body::{RequestBody, ResponseBody};
use crate::http::answer::After;

/// A request as hyper's client gets it: how the body is framed follows from the body. Of the methods
/// only one that usually has a body may have one whose length is not known.
pub(super) fn request(body: RequestBody) -> Request<RequestBody> {
    let method = if body.is_end_stream() { Method::GET } else { Method::POST };
    let mut request = Request::new(body);
    *request.method_mut() = method;
    request
}

/// The node's response as hyper's server gets it: how the body is framed follows from the body, and
/// whether the connection stays from the one field.
pub(super) fn response(
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
