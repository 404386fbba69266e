//! One request and its response: decide, reach a node, forward, answer. Which node is next, what a
//! plugin is owed and what may be sent again is decided here for both lanes; the rest is hyper's lane.
//!
//! ```text
//! take head ─▶ pipeline ─┬▶ answer (drain what is left of the request first)
//!                        └▶ attempt on a node ─▶ response head ─▶ body streams by itself
//!                              ▲      │ in vain: the next node (`nodes`)
//!                              └──────┘ stale pooled connection: once more, if replayable
//! ```

pub(crate) mod body;
pub(crate) mod held;
pub(crate) mod nodes;
pub(crate) mod request_head;
pub(crate) mod response_head;

use std::{
    mem,
    net::{IpAddr, SocketAddr},
    os::fd::BorrowedFd,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};

use self::{
    body::{Aborted, Content, RequestBody, ResponseBody, Stage, Unsent, Upload},
    held::Body,
    nodes::{Answered, over_nodes},
    response_head::Leaving,
};
use crate::{
    config::Node,
    connection::ConnectionCx,
    deadlines::Wait,
    error::Fault,
    http::{
        answer::{After, Answer},
        framing::{BodyLength, Version},
        head::{RequestHead, ResponseHead},
    },
    metrics::{Checkout, Direction},
    mirror,
    pipeline::{Decision, Paused, Plan, Refusal, Route},
    plugin::{self, Call, Consumer, Origin, Shape},
    record::Routed,
    snapshot::Snapshot,
    upstream::{
        connect,
        connection::{Asked, Coming, Method, UpstreamConnection},
        group::Upstream,
    },
};

/// What is left of a request body is read and thrown away before the proxy's own answer, up to this
/// size, so that the connection stays usable; a longer one is answered at once and closed.
pub(crate) const DISCARDED_BODY_MAX: u64 = 64 * 1024;
/// How long that is waited for in all. Whoever sends more slowly is answered then, and closed.
pub(crate) const DISCARD_TIME: Duration = Duration::from_millis(250);

/// Serves one request that the gate let in. Dropping the future cancels the exchange: the upstream
/// connection closes and the record says who left.
///
/// # Errors
/// A fault that is not answered: the downstream connection closes.
pub(crate) async fn serve(
    cx: Rc<ConnectionCx>,
    body: Incoming,
) -> Result<Response<ResponseBody>, Aborted> {
    let Some(head) = cx.take_head() else {
        // hyper saw a request that the gate did not: a bug of ours, and never the node's problem.
        tracing::error!("request without a gated head");
        return refuse(&cx, None, Fault::Internal, After::Close);
    };
    let rules = cx.worker.rules.now();
    let origin = cx.origin();
    let mut body = Body::Hyper(body);
    let mut decision = decide(&cx, &rules, &head, &origin);
    let plan = loop {
        match decision {
            Decision::Forward(ref plan) => break plan,
            Decision::Answer(Refusal { answer, fault, .. }) => {
                return Box::pin(decline(&cx, &head, answer, fault, body)).await;
            }
            // Boxed, as few requests have to carry that around.
            Decision::Call(paused) => {
                decision = Box::pin(perform(&cx, &rules, paused, &mut body)).await;
            }
        }
    };
    let (tap, kept) = (mirror::copy(&cx, &head, plan), cx.keep_body(Direction::Recv));
    let mut body = Unsent { content: Content::of(body), tap, kept };
    let answer =
        over_nodes(&cx, plan, async |node: &Node| attempt(&cx, &head, plan, node, &mut body).await);
    match answer.await {
        Ok((answered, picked)) => {
            let mut reply = respond(&cx, &head, plan, answered);
            reply.body.keep_busy(picked);
            Ok(reply.into_response())
        }
        Err(fault) => Box::pin(give_up(&cx, plan, fault, body.content)).await,
    }
}

/// Answers a request in place of its node.
async fn decline(
    cx: &Rc<ConnectionCx>,
    head: &RequestHead,
    answer: Answer,
    fault: Fault,
    body: Body,
) -> Result<Response<ResponseBody>, Aborted> {
    let is_endless = fault == Fault::BodyTooLarge && head.body_length() == BodyLength::Chunked;
    let discarded = match body {
        Body::Hyper(_) if is_endless => Ok(After::Close),
        Body::Hyper(body) => discard(head, body).await,
        Body::Plain | Body::Held(_) => Ok(After::KeepAlive),
    };
    match (discarded, cx.body_fault()) {
        (Ok(after), None) => Ok(own_answer(cx, Some(head), answer, fault, after)),
        (_, broken) => refuse(cx, Some(head), broken.unwrap_or(fault), After::Close),
    }
}

/// Answers a request that no node has answered.
async fn give_up(
    cx: &Rc<ConnectionCx>,
    plan: &Plan<'_>,
    fault: Fault,
    body: Option<Content>,
) -> Result<Response<ResponseBody>, Aborted> {
    let head = plan.request.head;
    let after = leave(cx, head, body).await;
    let fault = cx.body_fault().unwrap_or(fault);
    match fault.consequence().status {
        Some(status) => Ok(own_answer(cx, Some(head), plan.answer(status), fault, after)),
        None => refuse(cx, Some(head), fault, after),
    }
}

/// A node's response whose head is here.
struct Heard {
    connection: UpstreamConnection,
    upload: Upload,
    head: ResponseHead,
    coming: Coming,
}

impl Answered for Heard {
    fn status(&self) -> u16 {
        self.head.status().as_u16()
    }

    fn at(&self) -> std::time::Instant {
        std::time::Instant::now()
    }
}

/// What a node has answered, without the head, which leaves in place of the one that hyper makes.
struct Reply {
    status: StatusCode,
    after: After,
    body: ResponseBody,
}

impl Reply {
    /// As hyper's server gets it: how the body is framed follows from the body, and whether the
    /// connection stays from the one field.
    fn into_response(self) -> Response<ResponseBody> {
        let mut response = Response::new(self.body);
        *response.status_mut() = self.status;
        close_behind(&mut response, self.after);
        response
    }
}

/// hyper closes the connection behind a response that says so.
fn close_behind(response: &mut Response<ResponseBody>, after: After) {
    if after == After::Close {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}

/// What the pipeline decides, noted in the record. It is not moved again: whoever asks keeps it where
/// it is.
pub(crate) fn decide<'a>(
    cx: &ConnectionCx,
    rules: &'a Snapshot,
    head: &'a RequestHead,
    origin: &'a Origin,
) -> Decision<'a> {
    let mut decision = rules.decide(head, origin);
    note(cx, rules, &mut decision);
    decision
}

/// Does what a plugin has asked for, and decides on.
pub(crate) async fn perform<'a>(
    cx: &ConnectionCx,
    rules: &'a Snapshot,
    mut paused: Box<Paused<'a>>,
    body: &mut Body,
) -> Decision<'a> {
    let (head, body_size_max) = (paused.head(), paused.body_size_max());
    // Nothing is left behind when the downstream does not wait.
    let reply = match &mut paused.call {
        Call::Delay(time) => {
            tokio::time::sleep(*time).await;
            plugin::Reply::Delayed
        }
        Call::Body { size_max, digest } => {
            let size_max = body_size_max.map_or(*size_max, |max| max.min(*size_max));
            match body.hold(cx, head, size_max, *digest).await {
                Ok((content, digest)) => plugin::Reply::Body { content, digest },
                Err(fault) => {
                    let mut decision = paused.refuse(fault);
                    note(cx, rules, &mut decision);
                    return decision;
                }
            }
        }
        Call::Http(request) => {
            // A question that comes back here would ask itself.
            request.fields.extend(cx.forwarding.pseudonym().field().map(|via| (header::VIA, via)));
            plugin::Reply::Http(Box::pin(cx.worker.client.call(request)).await)
        }
        Call::Keys(source) => {
            source.refresh(&cx.worker.client).await;
            plugin::Reply::Refreshed
        }
        Call::Redis(question) => plugin::Reply::Redis(cx.worker.redis.ask(question).await),
    };
    let mut decision = paused.resume(reply, Instant::now().into_std());
    note(cx, rules, &mut decision);
    decision
}

fn note<'a>(cx: &ConnectionCx, rules: &Snapshot, decision: &mut Decision<'a>) {
    match decision {
        Decision::Forward(plan) => {
            let kept = mem::take(&mut plan.kept);
            let client = Some(plan.request.client);
            note_route(cx, rules, Some(plan.route), plan.request.consumer, client);
            cx.record(|record| record.keep(kept));
            if plan.is_diverted() {
                cx.record(|record| record.diverted(plan.upstream));
            }
            if let Some(max) = plan.body_size_max
                && let Err(fault) = cx.limit_body(max)
            {
                *decision = Decision::Answer(plan.refuse(fault));
            }
        }
        Decision::Answer(refusal) => {
            let kept = mem::take(&mut refusal.kept);
            note_route(cx, rules, refusal.route, refusal.consumer, refusal.client);
            cx.record(|record| record.keep(kept));
        }
        Decision::Call(paused) => {
            note_route(cx, rules, paused.route(), paused.consumer(), Some(paused.client()));
        }
    }
}

fn note_route(
    cx: &ConnectionCx,
    rules: &Snapshot,
    route: Option<&Route>,
    consumer: Option<&Consumer>,
    client: Option<IpAddr>,
) {
    cx.record(|record| {
        record.route(Routed::Http(rules.clone(), route.map(|route| route.index)));
        record.asked_by(consumer, client);
    });
}

/// Whether it is worth reading what is left of a request that is not forwarded, so that its
/// connection can be used again.
pub(crate) fn is_discardable(head: &RequestHead) -> bool {
    match head.body_length() {
        BodyLength::Empty => true,
        // Reading would invite the body; the answer tells the downstream to keep it.
        _ if head.expects_continue() => false,
        BodyLength::Fixed(length) => length <= DISCARDED_BODY_MAX,
        BodyLength::Chunked | BodyLength::UntilClose => true,
    }
}

/// Reads what is left of a request that is not forwarded, if it comes soon.
///
/// # Errors
/// The body broke off, or is not well-formed; `ConnectionCx::body_fault` says which.
async fn discard(head: &RequestHead, body: Incoming) -> Result<After, ()> {
    if !is_discardable(head) {
        return Ok(After::Close);
    }
    timeout(DISCARD_TIME, read_out(body)).await.unwrap_or(Ok(After::Close))
}

async fn read_out(mut body: Incoming) -> Result<After, ()> {
    let mut left = DISCARDED_BODY_MAX;
    while let Some(frame) = body.frame().await {
        let length = frame.map_err(|_| ())?.data_ref().map_or(0, |data| data.len() as u64);
        left = left.saturating_sub(length);
        if left == 0 && !body.is_end_stream() {
            return Ok(After::Close);
        }
    }
    Ok(After::KeepAlive)
}

/// What becomes of the connection when no node answered: a body that nobody has begun to read is
/// read, one that went to a node in part is not.
async fn leave(cx: &ConnectionCx, head: &RequestHead, body: Option<Content>) -> After {
    match body {
        Some(Content::Coming(body)) => discard(head, body).await.unwrap_or(After::Close),
        Some(Content::Held(_)) => After::KeepAlive,
        None if cx.body_fault().is_some() || cx.is_body_owed() => After::Close,
        None => After::KeepAlive,
    }
}

/// The proxy's own answer to a fault, if it has one.
fn refuse(
    cx: &Rc<ConnectionCx>,
    asked: Option<&RequestHead>,
    fault: Fault,
    afterwards: After,
) -> Result<Response<ResponseBody>, Aborted> {
    let Some(status) = fault.consequence().status else {
        cx.record(|record| record.fault(fault));
        return Err(Aborted);
    };
    Ok(own_answer(cx, asked, Answer::of(status), fault, afterwards))
}

/// `asked`: the request, if it is known.
fn own_answer(
    cx: &Rc<ConnectionCx>,
    asked: Option<&RequestHead>,
    answer: Answer,
    fault: Fault,
    afterwards: After,
) -> Response<ResponseBody> {
    cx.record(|record| {
        record.fault(fault);
        record.answer(&answer);
    });
    let after = match (afterwards, asked) {
        (After::KeepAlive, Some(head)) => after(cx, head),
        (After::Close, _) | (After::KeepAlive, None) => After::Close,
    };
    let version = asked.map_or(Version::Http11, RequestHead::version);
    cx.lead_with(answer.head(after.option(version), &cx.worker.date()));
    // hyper drops what cannot be sent, and nobody would learn that the answer is over.
    let is_bodiless = answer.is_bodiless() || asked.is_some_and(RequestHead::is_head);
    let body = if is_bodiless { Bytes::new() } else { answer.body };
    let mut response = Response::new(ResponseBody::answer(cx, body));
    *response.status_mut() = answer.status;
    close_behind(&mut response, after);
    response
}

/// One node: over a pooled connection if there is one, over a new one if there is none or the
/// pooled one was stale and the request can be sent again.
async fn attempt(
    cx: &Rc<ConnectionCx>,
    head: &RequestHead,
    plan: &Plan<'_>,
    node: &Node,
    body: &mut Unsent,
) -> Result<Heard, Fault> {
    let metrics = &plan.upstream.metrics;
    let pooled = cx.worker.pool.borrow_mut().checkout(plan.upstream, node.address);
    if let Some(connection) = pooled {
        metrics.checkout(Checkout::Reused);
        cx.record(|record| record.node(node.address, None));
        match send(cx, head, plan, node, connection, mem::take(body)).await {
            Err(Fault::StaleConnection) if plan.is_replayable() => {
                metrics.checkout(Checkout::Stale);
                metrics.retry();
            }
            result => return result,
        }
    }
    metrics.checkout(Checkout::New);
    let connection = Box::pin(connect(cx, plan.upstream, node.address)).await?;
    send(cx, head, plan, node, connection, mem::take(body)).await
}

async fn connect(
    cx: &ConnectionCx,
    upstream: &Arc<Upstream>,
    node: SocketAddr,
) -> Result<UpstreamConnection, Fault> {
    let stream = dial(cx, upstream, node, false).await?;
    UpstreamConnection::handshake(stream, node, &cx.worker.limits, upstream).await.map_err(
        |error| {
            tracing::error!(%error, "client handshake");
            Fault::Internal
        },
    )
}

/// Opens a connection to a node, which may become a leg or not, and records how long it took.
pub(crate) async fn dial(
    cx: &ConnectionCx,
    upstream: &Upstream,
    node: SocketAddr,
    is_leg: bool,
) -> Result<TcpStream, Fault> {
    let worker = &cx.worker;
    let started = Instant::now();
    let mark = |socket: BorrowedFd<'_>| {
        if is_leg {
            worker.kernel.mark_upstream(socket);
        }
    };
    let dialled = connect::dial(node, cx.node_waits.get().connect, &worker.limits, mark).await;
    cx.record(|record| record.node(node, Some(started.elapsed())));
    worker.dialled(upstream, node, &dialled);
    dialled
}

/// Sends the request over `connection` to `node` and waits for the response head.
async fn send(
    cx: &Rc<ConnectionCx>,
    head: &RequestHead,
    plan: &Plan<'_>,
    node: &Node,
    mut connection: UpstreamConnection,
    body: Unsent,
) -> Result<Heard, Fault> {
    let upload = Upload::default();
    let body = RequestBody::new(body, &upload, cx);
    let mut bytes = Vec::new();
    request_head::write(&mut bytes, head, plan, &cx.forwarding, node);
    let takes_whole = upload.stage() == Stage::Complete && !plan.run.hooks().response_body;
    let asked = Asked { method: Method::of(plan.method()), takes_whole };
    let sent = connection.send(asked, bytes, body, || expired(cx, &upload)).await;
    cx.deadlines.stop(Wait::Upstream);
    let (head, coming) = sent.map_err(|fault| cx.body_fault().unwrap_or(fault))?;
    Ok(Heard { connection, upload, head, coming })
}

/// Makes of it what the downstream gets.
fn respond(cx: &Rc<ConnectionCx>, head: &RequestHead, plan: &Plan<'_>, heard: Heard) -> Reply {
    let Heard { connection, upload, head: response_head, coming } = heard;
    let Shape { edits, mut filters, is_filtered } =
        plan.shape(connection.node, &response_head, &cx.worker.body_memory);
    filters.keep(cx.keep_body(Direction::Sent));
    let status = response_head.status();
    cx.record(|record| record.answered(status.as_u16(), edits.status));
    let leaving = Leaving::new(head, &response_head, edits.status, is_filtered, after(cx, head));
    cx.is_end_meant.set(leaving.ends_with_connection);
    let mut bytes = Vec::new();
    response_head::write(&mut bytes, &response_head, plan, &edits, &cx.worker, leaving);
    cx.record(|record| record.sends(&bytes));
    let body = match coming {
        Coming::Whole(whole) => {
            filters.see(&whole);
            bytes.extend_from_slice(&whole);
            ResponseBody::whole(cx, connection, whole.len())
        }
        Coming::Streaming(incoming) => {
            ResponseBody::upstream(cx, connection, &upload, incoming, filters)
        }
    };
    cx.lead_with(bytes);
    Reply { status: edits.status.unwrap_or(status), after: leaving.after, body }
}

/// What the downstream may expect of its connection behind this response.
pub(crate) fn after(cx: &ConnectionCx, head: &RequestHead) -> After {
    if head.keeps_alive() && !cx.is_draining() { After::KeepAlive } else { After::Close }
}

/// Whether the node is overdue: with its response head once the request has left, with taking more
/// of the request before that. While the downstream is to send more, its own deadline runs.
fn expired(cx: &ConnectionCx, upload: &Upload) -> bool {
    if upload.take_moved() {
        cx.deadlines.stop(Wait::Upstream);
    }
    match upload.stage() {
        Stage::Downstream => cx.deadlines.stop(Wait::Upstream),
        Stage::Node => cx.deadlines.start(Wait::Upstream, cx.node_waits.get().send),
        Stage::Complete => cx.deadlines.start(Wait::Upstream, cx.node_waits.get().response),
    }
    cx.deadlines.has_expired(Wait::Upstream)
}
