//! The heads that hyper is given in place of those that were received.
//!
//! hyper moves bodies; which fields there are is none of its business. It gets a head that says how
//! the message is framed and whether the connection stays, in one spelling, made from what the gate
//! read. So there is nothing in it that hyper could read differently, and little to parse.

use bytes::Bytes;

use super::{
    framing::{BodyLength, Version},
    head::{RequestHead, ResponseHead},
};

/// Stands for most requests there are.
const PLAIN_GET: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
/// Of a status that never has a body, which no field has to say.
const BODILESS: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";
const LAST_BODILESS: &[u8] = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";

/// For hyper's server. The method is `HEAD` or `GET`: only those two differ in what hyper may send.
pub fn request(head: &RequestHead) -> Bytes {
    let is_head = head.is_head();
    let is_plain = head.version() == Version::Http11
        && head.keeps_alive()
        && head.body_length() == BodyLength::Empty
        && !is_head
        && !head.expects_continue();
    if is_plain {
        return Bytes::from_static(PLAIN_GET);
    }
    let mut text = String::with_capacity(96);
    text.push_str(if is_head { "HEAD / " } else { "GET / " });
    text.push_str(match (head.version(), head.keeps_alive()) {
        (Version::Http11, true) => "HTTP/1.1\r\n",
        (Version::Http11, false) => "HTTP/1.1\r\nconnection: close\r\n",
        (Version::Http10, true) => "HTTP/1.0\r\nconnection: keep-alive\r\n",
        (Version::Http10, false) => "HTTP/1.0\r\n",
    });
    push_framing(&mut text, head.body_length());
    if head.expects_continue() {
        text.push_str("expect: 100-continue\r\n");
    }
    text.push_str("\r\n");
    text.into()
}

/// For hyper's client, of a response of which hyper is to carry `body`.
pub fn response(head: &ResponseHead, body: BodyLength) -> Bytes {
    if matches!(body, BodyLength::Empty | BodyLength::Fixed(0)) {
        return Bytes::from_static(if head.keeps_alive() { BODILESS } else { LAST_BODILESS });
    }
    let mut text = String::with_capacity(96);
    // hyper keeps any reason but the usual one.
    text.push_str("HTTP/1.1 200 OK\r\n");
    if !head.keeps_alive() {
        text.push_str("connection: close\r\n");
    }
    push_framing(&mut text, body);
    text.push_str("\r\n");
    text.into()
}

fn push_framing(text: &mut String, length: BodyLength) {
    match length {
        BodyLength::Empty | BodyLength::UntilClose => {}
        BodyLength::Chunked => text.push_str("transfer-encoding: chunked\r\n"),
        BodyLength::Fixed(length) => {
            text.push_str("content-length: ");
            text.push_str(itoa::Buffer::new().format(length));
            text.push_str("\r\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::http::{
        gate::{RequestGate, ResponseGate},
        head::HeadLimits,
    };

    const LIMITS: HeadLimits = HeadLimits { size_max: 4096, fields_max: 20, target_size_max: 512 };

    #[track_caller]
    fn check_request(received: &str, expected: &str) {
        let head = RequestGate::new(LIMITS).head(&mut BytesMut::from(received));
        assert_eq!(request(&head.expect("valid").expect("whole")), expected, "{received:?}");
    }

    #[track_caller]
    fn check_response(method: &str, received: &str, expected: &str) {
        let head = ResponseGate::new(LIMITS).head(&mut BytesMut::from(received), method);
        let head = head.expect("valid").expect("whole");
        assert_eq!(response(&head, head.body_length()), expected, "{received:?}");
    }

    #[test]
    fn a_request_is_reduced_to_its_framing() {
        let host = "host: a\r\ncookie: x\r\n";
        check_request(&format!("DELETE /x HTTP/1.1\r\n{host}\r\n"), "GET / HTTP/1.1\r\n\r\n");
        check_request(&format!("HEAD /x HTTP/1.1\r\n{host}\r\n"), "HEAD / HTTP/1.1\r\n\r\n");
        check_request(
            &format!("PUT / HTTP/1.1\r\n{host}content-length: 07\r\nexpect: 100-continue\r\n\r\n"),
            "GET / HTTP/1.1\r\ncontent-length: 7\r\nexpect: 100-continue\r\n\r\n",
        );
        check_request(
            &format!(
                "POST / HTTP/1.1\r\n{host}Transfer-Encoding: Chunked\r\nconnection: Close\r\n\r\n"
            ),
            "GET / HTTP/1.1\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n",
        );
        check_request("GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.0\r\n\r\n");
        check_request(
            "GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n",
            "GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n",
        );
    }

    #[test]
    fn a_response_is_reduced_to_its_framing() {
        check_response(
            "GET",
            "HTTP/1.1 200 OK\r\nset-cookie: x\r\ncontent-length: 12\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n",
        );
        check_response(
            "HEAD",
            "HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n",
            "HTTP/1.1 204 No Content\r\n\r\n",
        );
        check_response(
            "GET",
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n",
        );
        check_response(
            "GET",
            "HTTP/1.1 404 No\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n",
            "HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n",
        );
        check_response(
            "GET",
            "HTTP/1.0 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n",
        );
    }
}
