//! The express lane: HTTP/1.1 requests whose message is plain, carried with one read and one write
//! for each side and nothing in between.
//!
//! ```text
//! head ─▶ is it for here? ─▶ pipeline ─┬▶ own answer
//!   ▲         │ no: hyper's lane       └▶ node: head and body out, head in ─▶ relay ─▶ record
//!   └─────────┴──────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! It serves requests without expectation, upgrade or trailers whose body, if there is one, came
//! with the head. What decides about a request, and what is counted, is what hyper's lane uses too.

mod heads;
mod relay;

use std::{future::poll_fn, io, net::SocketAddr, pin::Pin, rc::Rc, task::Poll};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use tokio::{io::AsyncWrite, net::TcpStream};

use self::relay::{Broken, Relay, Waits};
use crate::{
    connection::{ConnectionCx, Lane, Lull},
    deadlines::Wait,
    error::Fault,
    exchange::{self, Decided},
    http::{
        answer::{After, Answer},
        framing::{BodyLength, Version},
        gate::ResponseGate,
        head::{RequestHead, ResponseHead},
        name::Known,
    },
    inlet::{self, head_limits},
    metrics::Checkout,
    pipeline::Plan,
    upstream::plain::PlainConnection,
};

/// Read at a time while a response head is looked for; most small responses fit whole.
const HEAD_READ_SIZE: usize = 4096;

/// Reused by every exchange of a connection, given up when it rests.
struct Buffers {
    /// What is about to be written, in either direction.
    out: Vec<u8>,
    /// What the node has sent.
    input: BytesMut,
    gate: ResponseGate,
}

/// Serves requests until one is not for this lane or the connection has nothing more to say.
pub(crate) async fn serve(cx: Rc<ConnectionCx>) -> Lull {
    let gate = ResponseGate::new(head_limits(&cx.worker.limits));
    let mut buffers = Buffers { out: Vec::new(), input: BytesMut::new(), gate };
    loop {
        let Some(head) = poll_fn(|task| cx.poll_head(task)).await else { return Lull::Ended };
        let body = if is_plain(&head) { cx.take_whole_body(head.body_length()) } else { None };
        let Some(body) = body else {
            cx.admit(head);
            return Lull::Turn(Lane::Hyper);
        };
        cx.begin(head.clone(), Lane::Express);
        if exchange(&cx, &head, &body, &mut buffers).await == After::Close {
            return Lull::Ended;
        }
    }
}

/// Whether nothing about the message is special.
fn is_plain(head: &RequestHead) -> bool {
    head.version() == Version::Http11
        && !head.expects_continue()
        && !head.fields().any(|field| matches!(field.known, Known::Upgrade | Known::Trailer))
}

/// One request, from its head to the last byte of its response.
async fn exchange(
    cx: &ConnectionCx,
    head: &RequestHead,
    body: &Bytes,
    buffers: &mut Buffers,
) -> After {
    let served = match exchange::decide(cx, head).await {
        Decided::Forward(plan) => match ask_nodes(cx, head, &plan, body, buffers).await {
            Ok((connection, response)) => {
                respond(cx, head, &plan, connection, response, buffers).await
            }
            Err(fault) => refuse(cx, head, fault).await,
        },
        Decided::Answer(answer, fault) => own_answer(cx, head, answer, fault).await,
    };
    match served {
        Ok(after) => {
            cx.response_over();
            cx.flushed(body.len() as u64);
            after
        }
        Err(fault) => {
            cx.record(|record| record.fault(fault));
            After::Close
        }
    }
}

/// What the downstream may expect of its connection behind this response.
fn after(cx: &ConnectionCx, head: &RequestHead) -> After {
    if head.keeps_alive() && !cx.is_draining() { After::KeepAlive } else { After::Close }
}

async fn refuse(cx: &ConnectionCx, head: &RequestHead, fault: Fault) -> Result<After, Fault> {
    // A fault without a status of its own never gets here with a downstream that still listens.
    let status = fault.consequence().status.unwrap_or(StatusCode::BAD_GATEWAY);
    own_answer(cx, head, Answer::of(status), fault).await
}

async fn own_answer(
    cx: &ConnectionCx,
    head: &RequestHead,
    answer: Answer,
    fault: Fault,
) -> Result<After, Fault> {
    cx.record(|record| {
        record.fault(fault);
        record.status(answer.status.as_u16());
    });
    let after = after(cx, head);
    let bytes = answer.to_bytes(Some(head.method()), after, &cx.worker.date());
    let mut left = &bytes[..];
    poll_fn(|task| {
        while !left.is_empty() {
            let written = cx.poll_send(task, |stream, task| stream.poll_write(task, left));
            match std::task::ready!(written) {
                Ok(count) => left = &left[count..],
                Err(_) => return Poll::Ready(Err(Fault::DownstreamReset)),
            }
        }
        Poll::Ready(Ok(()))
    })
    .await?;
    cx.count_sent(answer.body_for(Some(head.method())).len());
    Ok(after)
}

/// Gets a response head from one of the upstream's nodes.
async fn ask_nodes(
    cx: &ConnectionCx,
    head: &RequestHead,
    plan: &Plan<'_>,
    body: &Bytes,
    buffers: &mut Buffers,
) -> Result<(PlainConnection, ResponseHead), Fault> {
    exchange::over_nodes(cx, plan, async |node| attempt(cx, head, plan, node, body, buffers).await)
        .await
}

/// One node: over a pooled connection if there is one, over a new one if there is none or the
/// pooled one was stale and the request can be sent again.
async fn attempt(
    cx: &ConnectionCx,
    head: &RequestHead,
    plan: &Plan<'_>,
    node: SocketAddr,
    body: &Bytes,
    buffers: &mut Buffers,
) -> Result<(PlainConnection, ResponseHead), Fault> {
    let metrics = &cx.worker.upstream_metrics[plan.route.upstream.index];
    let pooled = cx.worker.plain_pool.borrow_mut().checkout(node);
    if let Some(mut connection) = pooled {
        metrics.checkout(Checkout::Reused);
        cx.record(|record| record.node(node, None));
        match ask(cx, head, plan, &mut connection, body, buffers).await {
            Err(Fault::StaleConnection) if exchange::is_replayable(head) => {
                metrics.checkout(Checkout::Stale);
                metrics.retry();
            }
            result => return result.map(|response| (connection, response)),
        }
    }
    metrics.checkout(Checkout::New);
    let stream = exchange::dial(cx, metrics, node).await?;
    let mut connection = PlainConnection::new(stream, node, metrics);
    let response = ask(cx, head, plan, &mut connection, body, buffers).await?;
    Ok((connection, response))
}

/// Sends the request and waits for the final response head.
async fn ask(
    cx: &ConnectionCx,
    head: &RequestHead,
    plan: &Plan<'_>,
    connection: &mut PlainConnection,
    body: &Bytes,
    buffers: &mut Buffers,
) -> Result<ResponseHead, Fault> {
    let Buffers { out, input, gate } = buffers;
    input.clear();
    gate.restart();
    out.clear();
    heads::request(out, head, plan, &cx.forwarding, connection.node);
    let response = send(cx, &mut connection.stream, out, body).await;
    let response = match response {
        Ok(()) => response_head(cx, head.method(), connection, input, gate).await,
        Err(fault) => Err(fault),
    };
    cx.deadlines.stop(Wait::Upstream);
    match response {
        // Nothing was heard on a connection that had rested: the node had given it up.
        Err(Fault::UpstreamClosed) if connection.is_reused && input.is_empty() => {
            Err(Fault::StaleConnection)
        }
        response => response,
    }
}

async fn send(
    cx: &ConnectionCx,
    stream: &mut TcpStream,
    head: &[u8],
    body: &[u8],
) -> Result<(), Fault> {
    let (mut head, mut body) = (head, body);
    poll_fn(|task| {
        while !(head.is_empty() && body.is_empty()) {
            let slices = [io::IoSlice::new(head), io::IoSlice::new(body)];
            let written = if body.is_empty() {
                Pin::new(&mut *stream).poll_write(task, head)
            } else {
                Pin::new(&mut *stream).poll_write_vectored(task, &slices)
            };
            match written {
                Poll::Ready(Ok(count)) => {
                    cx.deadlines.stop(Wait::Upstream);
                    let of_head = count.min(head.len());
                    head = &head[of_head..];
                    body = &body[count - of_head..];
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Fault::UpstreamClosed)),
                Poll::Pending if cx.deadlines.has_expired(Wait::Upstream) => {
                    return Poll::Ready(Err(Fault::ResponseTimedOut));
                }
                Poll::Pending => {
                    cx.deadlines.start(Wait::Upstream, cx.worker.timeouts.send);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    })
    .await
}

/// Reads until a final head is whole. Interim ones are swallowed; the gate bounds how many.
async fn response_head(
    cx: &ConnectionCx,
    method: &str,
    connection: &mut PlainConnection,
    input: &mut BytesMut,
    gate: &mut ResponseGate,
) -> Result<ResponseHead, Fault> {
    poll_fn(|task| {
        loop {
            match gate.head(input, method) {
                Ok(Some(head)) if head.is_interim() => continue,
                Ok(Some(head)) => return Poll::Ready(Ok(head)),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Err(error.fault())),
            }
            match inlet::poll_read(&mut connection.stream, task, input, HEAD_READ_SIZE) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Fault::UpstreamClosed)),
                // From here on, whatever happens is about this request.
                Poll::Ready(Ok(_)) => connection.is_reused = false,
                Poll::Pending if cx.deadlines.has_expired(Wait::Upstream) => {
                    return Poll::Ready(Err(Fault::ResponseTimedOut));
                }
                Poll::Pending => {
                    cx.deadlines.start(Wait::Upstream, cx.worker.timeouts.response);
                    return Poll::Pending;
                }
            }
        }
    })
    .await
}

/// Passes the response on and gives the node's connection back.
async fn respond(
    cx: &ConnectionCx,
    head: &RequestHead,
    plan: &Plan<'_>,
    mut connection: PlainConnection,
    response: ResponseHead,
    buffers: &mut Buffers,
) -> Result<After, Fault> {
    let Buffers { out, input, .. } = buffers;
    let after = after(cx, head);
    let filters = plan.route.chain.response_body(&response);
    let is_chunked = match response.body_length() {
        BodyLength::Empty => false,
        BodyLength::Fixed(_) => !filters.is_empty(),
        BodyLength::Chunked | BodyLength::UntilClose => true,
    };
    out.clear();
    let ends = heads::ResponseEnds { is_chunked, is_filtered: !filters.is_empty(), after };
    heads::response(out, &response, plan, cx.forwarding.pseudonym(), &cx.worker, ends);
    let keeps_alive = response.keeps_alive();
    let mut relay = Relay::new(response.body_length(), is_chunked, filters);
    // What came with the head is judged before the head leaves.
    if let Err(error) = relay.frame(input, out) {
        return refuse(cx, head, error.response_fault()).await;
    }
    cx.record(|record| record.status(response.status().as_u16()));
    // Its bytes lie in `input`, which can be used again only when nobody else holds them.
    drop(response);
    let relayed = poll_fn(|task| {
        cx.with_downstream(|downstream| {
            let moved = relay.poll(&mut connection.stream, input, out, downstream, task);
            cx.count_sent(relay.take_sent());
            watch(cx, moved, &relay.take_waits())
        })
    })
    .await;
    cx.deadlines.stop(Wait::Send);
    cx.deadlines.stop(Wait::Upstream);
    relayed?;
    if keeps_alive && input.is_empty() && relay.is_delimited() {
        cx.worker.plain_pool.borrow_mut().checkin(connection);
    }
    Ok(after)
}

/// Keeps the deadlines of a relay: whoever is waited for has its own.
fn watch(
    cx: &ConnectionCx,
    moved: Poll<Result<(), Broken>>,
    waits: &Waits,
) -> Poll<Result<(), Fault>> {
    if waits.has_moved {
        cx.deadlines.stop(Wait::Send);
        cx.deadlines.stop(Wait::Upstream);
    }
    match moved {
        Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
        Poll::Ready(Err(broken)) => Poll::Ready(Err(broken.fault())),
        Poll::Pending if waits.is_writing && cx.deadlines.has_expired(Wait::Send) => {
            Poll::Ready(Err(Fault::SendTimedOut))
        }
        Poll::Pending if waits.is_writing => {
            cx.deadlines.start(Wait::Send, cx.worker.timeouts.send);
            Poll::Pending
        }
        Poll::Pending if cx.deadlines.has_expired(Wait::Upstream) => {
            Poll::Ready(Err(Fault::ResponseBodyTimedOut))
        }
        Poll::Pending => {
            cx.deadlines.start(Wait::Upstream, cx.worker.timeouts.response_body);
            Poll::Pending
        }
    }
}
