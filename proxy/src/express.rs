//! The express lane: HTTP/1.1 requests whose message is plain, carried with one read and one write
//! for each side and nothing in between.
//!
//! ```text
//! head ─▶ is it for here? ─▶ pipeline ─┬▶ own answer
//!   ▲         │ no: hyper's lane       └▶ node: upload ─▶ response head ─▶ relay ─▶ record
//!   └─────────┴──────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! It serves requests without expectation, upgrade or trailers. What decides about a request, and
//! what is counted, is what hyper's lane uses too.

mod begun;
pub(crate) mod bypass;
pub(crate) mod relay;
mod upload;

use std::{
    future::poll_fn,
    io::IoSlice,
    net::SocketAddr,
    os::fd::AsFd as _,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::BytesMut;
use tokio::time::timeout;

use self::{
    bypass::{Next, Stir},
    relay::{Broken, News, Relay},
    upload::Upload,
};
use crate::{
    config::Node,
    connection::{ConnectionCx, Lane, Lull},
    deadlines::Wait,
    error::Fault,
    exchange::{
        self, DISCARD_TIME, after,
        held::Body,
        nodes::{Answered, over_nodes},
        request_head,
        response_head::{self, Leaving},
    },
    http::{
        answer::{After, Answer},
        fields::Framing,
        framing::{BodyLength, BodyReader, FramingError, Version},
        gate::ResponseGate,
        head::{RequestHead, ResponseHead},
    },
    inlet::{self, BodySource, head_limits},
    kernel::{LegWatch, Passed},
    lead,
    metrics::{Checkout, Direction},
    mirror,
    pipeline::{Decision, Plan, Refusal},
    plugin::Shape,
    record::RequestRecord,
    upstream::{connection::Method, group::Upstream, plain::PlainConnection},
};

/// Reused by every exchange of a connection, given up when it rests.
struct Buffers {
    /// What is about to be written to the node.
    request: Vec<u8>,
    /// What is about to be written to the downstream.
    response: Vec<u8>,
    /// What the node has sent.
    input: BytesMut,
    gate: ResponseGate,
}

/// Serves requests until one is not for this lane or the connection has nothing more to say.
pub(crate) async fn serve(cx: Rc<ConnectionCx>) -> Lull {
    let gate = ResponseGate::new(head_limits(&cx.worker.limits));
    let mut buffers =
        Buffers { request: Vec::new(), response: Vec::new(), input: BytesMut::new(), gate };
    loop {
        let Some(head) = poll_fn(|task| cx.poll_head(task)).await else { return Lull::Ended };
        if !is_plain(&head) {
            cx.admit(head);
            return Lull::Turn(Lane::Hyper);
        }
        if !cx.admit_plain(&head) {
            return Lull::Ended;
        }
        match exchange(&cx, &head, &mut buffers).await {
            Ok(After::KeepAlive) => {}
            Ok(After::Close) => return Lull::Ended,
            Err(fault) => {
                cx.record(|record| record.fault(fault));
                return Lull::Ended;
            }
        }
    }
}

/// Whether nothing about the message is special.
fn is_plain(head: &RequestHead) -> bool {
    head.version() == Version::Http11 && !head.expects_continue() && !head.announces_more()
}

/// One request, from its head to the last byte of its response.
///
/// # Errors
/// The response is not, or not wholly, where it belongs.
async fn exchange(
    cx: &ConnectionCx,
    head: &RequestHead,
    buffers: &mut Buffers,
) -> Result<After, Fault> {
    let rules = cx.worker.rules.now();
    let origin = cx.origin();
    let mut body = Body::Plain;
    let mut decision = exchange::decide(cx, &rules, head, &origin);
    let plan = loop {
        match decision {
            Decision::Forward(ref plan) => break plan,
            Decision::Answer(Refusal { answer, fault, .. }) => {
                return refuse(cx, head, answer, fault).await;
            }
            // Boxed, as few requests have to carry that around.
            Decision::Call(paused) => {
                decision = Box::pin(exchange::perform(cx, &rules, paused, &mut body)).await;
            }
        }
    };
    let (tap, kept) = (mirror::copy(cx, head, plan), cx.keep_body(Direction::Recv));
    let mut upload = Upload::new(head, tap, kept);
    upload.take_from(body.held());
    let forward = Forward { cx, head, plan };
    let _accounted = begun::Accounted(cx);
    let asked =
        over_nodes(cx, plan, async |node: &Node| forward.attempt(node, &mut upload, buffers).await);
    match asked.await {
        Ok(((connection, Reply::Head(response)), picked)) => {
            let _busy = picked;
            forward.respond(connection, response, &mut upload, buffers).await
        }
        Ok(((connection, Reply::Begun(_)), picked)) => {
            let _busy = picked;
            forward.see_off(connection, &mut upload, buffers).await
        }
        Ok(((connection, Reply::Passed { passed, is_silent }), _picked)) => {
            Ok(forward.passed(connection, &passed, is_silent && upload.is_complete()))
        }
        Err(fault) => {
            let Some(status) = fault.consequence().status else { return Err(fault) };
            let answer = plan.answer(status);
            if upload.is_untouched() {
                refuse(cx, head, answer, fault).await
            } else {
                own_answer(cx, head, answer, fault, after(cx, head)).await
            }
        }
    }
}

/// Answers a request of which no node has seen anything, and the rest of whose body nobody wants.
async fn refuse(
    cx: &ConnectionCx,
    head: &RequestHead,
    answer: Answer,
    fault: Fault,
) -> Result<After, Fault> {
    if cx.is_body_owed() && !exchange::is_discardable(head) {
        return own_answer(cx, head, answer, fault, After::Close).await;
    }
    let discarded = match cx.is_body_owed() {
        // Boxed, as few refused requests have a body.
        true => Box::pin(timeout(DISCARD_TIME, upload::discard(cx))).await,
        false => Ok(Ok(After::KeepAlive)),
    };
    match discarded {
        Ok(Ok(After::KeepAlive)) => own_answer(cx, head, answer, fault, after(cx, head)).await,
        Ok(Ok(After::Close)) | Err(_) => own_answer(cx, head, answer, fault, After::Close).await,
        Ok(Err(fault)) => {
            let Some(status) = fault.consequence().status else { return Err(fault) };
            own_answer(cx, head, Answer::of(status), fault, After::Close).await
        }
    }
}

async fn own_answer(
    cx: &ConnectionCx,
    head: &RequestHead,
    answer: Answer,
    fault: Fault,
    after: After,
) -> Result<After, Fault> {
    cx.record(|record| {
        record.fault(fault);
        record.answer(&answer);
    });
    let after = if cx.is_body_owed() { After::Close } else { after };
    let bytes = answer.to_bytes(Some(head.method()), after, &cx.worker.date());
    let mut left = &bytes[..];
    poll_fn(|task| {
        while !left.is_empty() {
            let written =
                cx.poll_send(task, |to, task| lead::poll_send(to, task, &[IoSlice::new(left)]));
            match std::task::ready!(written) {
                Ok(count) => left = &left[count..],
                Err(_) => return Poll::Ready(Err(Fault::DownstreamReset)),
            }
        }
        Poll::Ready(Ok(()))
    })
    .await?;
    cx.count_sent(answer.body_for(Some(head.method())).len() as u64);
    cx.exchange_over();
    Ok(after)
}

/// What came of a request.
enum Reply {
    Head(ResponseHead),
    /// A part of the response has gone to the client past us, its head at least.
    Begun(Passed),
    /// The whole response has gone to the client past us.
    Passed {
        passed: Passed,
        /// Whether the node has said nothing else.
        is_silent: bool,
    },
}

impl Answered for (Box<PlainConnection>, Reply) {
    fn status(&self) -> u16 {
        match &self.1 {
            Reply::Head(head) => head.status().as_u16(),
            Reply::Begun(passed) | Reply::Passed { passed, is_silent: _ } => passed.status,
        }
    }

    fn at(&self) -> Instant {
        match &self.1 {
            Reply::Head(_) => Instant::now(),
            Reply::Begun(passed) | Reply::Passed { passed, is_silent: _ } => passed.begun,
        }
    }
}

/// A request on its way to a node, and the response on its way back.
struct Forward<'a> {
    cx: &'a ConnectionCx,
    head: &'a RequestHead,
    plan: &'a Plan<'a>,
}

impl Forward<'_> {
    /// One node: over a pooled connection if there is one, over a new one if there is none or the
    /// pooled one was stale and the request can be sent again.
    async fn attempt(
        &self,
        node: &Node,
        upload: &mut Upload,
        buffers: &mut Buffers,
    ) -> Result<(Box<PlainConnection>, Reply), Fault> {
        let Forward { cx, head, plan } = self;
        let metrics = &plan.upstream.metrics;
        upload.restart(head);
        if let Some(mut connection) = checkout(cx, plan.upstream, node.address).await {
            metrics.checkout(Checkout::Reused);
            cx.record(|record| record.node(node.address, None));
            match self.ask(node, &mut connection, upload, buffers).await {
                Err(Fault::StaleConnection) if plan.is_replayable() => {
                    metrics.checkout(Checkout::Stale);
                    metrics.retry();
                    upload.restart(head);
                }
                result => return result.map(|reply| (connection, reply)),
            }
        }
        metrics.checkout(Checkout::New);
        let is_leg =
            plan.upstream.config.is_same_host && cx.worker.plain_pool.borrow().keeps(plan.upstream);
        let stream = exchange::dial(cx, plan.upstream, node.address, is_leg).await?;
        let mut connection = Box::new(PlainConnection::new(stream, node.address, plan.upstream));
        let reply = self.ask(node, &mut connection, upload, buffers).await?;
        Ok((connection, reply))
    }

    /// Sends the request, as far as the node wants it, and waits for the final response head, or for
    /// the response to have gone past us, or a part of it.
    async fn ask(
        &self,
        node: &Node,
        connection: &mut PlainConnection,
        upload: &mut Upload,
        buffers: &mut Buffers,
    ) -> Result<Reply, Fault> {
        let cx = self.cx;
        if connection.meter().is_some() && self.may_be_passed(node) {
            cx.arm(connection);
        }
        let Buffers { request, input, gate, .. } = buffers;
        input.clear();
        gate.restart();
        request.clear();
        request_head::write(request, self.head, self.plan, &cx.forwarding, node);
        let method = Method::of(self.plan.method()).as_str();
        let response = poll_fn(|task| {
            advance(upload, cx, connection, request, task)?;
            let has_expired = cx.deadlines.has_expired(Wait::Upstream);
            let stir = |task: &mut Context<'_>| Stir {
                node: connection.stream.poll_read_ready(task).is_ready(),
                client: cx.has_read_ahead(),
                deadline: has_expired,
                drain: cx.is_draining(),
            };
            let response = match cx.passage.next(stir, task) {
                Next::Over { passed, is_silent } => {
                    return Poll::Ready(Ok(Reply::Passed { passed, is_silent }));
                }
                Next::Begun(passed) => return Poll::Ready(Ok(Reply::Begun(passed))),
                Next::Close => return Poll::Ready(Err(Fault::BypassBroken)),
                Next::Wait => Poll::Pending,
                Next::Carry => poll_response_head(method, connection, input, gate, task),
            };
            if response.is_pending() && upload.is_over() {
                if has_expired {
                    return Poll::Ready(Err(Fault::ResponseTimedOut));
                }
                cx.deadlines.start(Wait::Upstream, cx.node_waits.get().response);
            }
            response.map_ok(Reply::Head)
        })
        .await;
        cx.deadlines.stop(Wait::Upstream);
        note_delivery(cx, connection);
        let response = response.or_else(|fault| match cx.passage.give_up() {
            Next::Over { passed, is_silent } => Ok(Reply::Passed { passed, is_silent }),
            Next::Begun(passed) => Ok(Reply::Begun(passed)),
            // Nobody may write behind what may be on its way.
            Next::Close => Err(Fault::BypassBroken),
            Next::Carry | Next::Wait => Err(fault),
        });
        match response {
            // Nothing was heard on a connection that had rested: the node had given it up.
            Err(Fault::UpstreamClosed) if connection.is_reused && input.is_empty() => {
                Err(Fault::StaleConnection)
            }
            response => response,
        }
    }

    /// Whether nothing in userspace has to see the response of `node` to this request.
    fn may_be_passed(&self, node: &Node) -> bool {
        let hooks = self.plan.run.hooks();
        self.head.body_length() == BodyLength::Empty
            && !self.head.is_head()
            && Method::of(self.plan.method()) == Method::Other
            && !hooks.response_head
            && !hooks.response_body
            && !hooks.log_detail
            && self.plan.response.is_empty()
            && self.plan.upstream.config.retry_on.statuses.is_empty()
            && self.plan.tie(node.address).is_none()
            && after(self.cx, self.head) == After::KeepAlive
    }

    /// The response is where it belongs without us. The node's connection is given back if it can be.
    fn passed(
        &self,
        connection: Box<PlainConnection>,
        passed: &Passed,
        is_reusable: bool,
    ) -> After {
        let cx = self.cx;
        cx.record(|record| record.passed(passed));
        cx.count_sent(passed.body_size);
        cx.exchange_passed();
        if is_reusable {
            cx.worker.plain_pool.borrow_mut().checkin(connection, &cx.worker.kernel);
        }
        After::KeepAlive
    }

    /// Passes the response on, beside what is left of the request, and gives the node's connection
    /// back.
    async fn respond(
        &self,
        connection: Box<PlainConnection>,
        response: ResponseHead,
        upload: &mut Upload,
        buffers: &mut Buffers,
    ) -> Result<After, Fault> {
        let cx = self.cx;
        let after = after(cx, self.head);
        let mut carried = match self.lead(connection.node, response, after, buffers) {
            Ok(carried) => carried,
            Err(fault) => {
                cx.broke_off(fault);
                let Some(status) = fault.consequence().status else { return Err(fault) };
                return own_answer(cx, self.head, self.plan.answer(status), fault, after).await;
            }
        };
        self.carry(connection, &mut carried, after, upload, buffers).await
    }

    /// Moves what is about to leave and what is behind it, and gives the node's connection back.
    async fn carry(
        &self,
        mut connection: Box<PlainConnection>,
        carried: &mut Carried,
        after: After,
        upload: &mut Upload,
        buffers: &mut Buffers,
    ) -> Result<After, Fault> {
        let cx = self.cx;
        upload.answered();
        let carried_all = carried.carry(cx, &mut connection, upload, buffers).await;
        carried_all.inspect_err(|fault| cx.broke_off(*fault))?;
        cx.exchange_over();
        if !upload.is_over() && carried.keeps_alive {
            return Ok(upload.conclude(cx, connection, &mut buffers.request, after).await);
        }
        let is_reusable = carried.keeps_alive && buffers.input.is_empty() && upload.is_complete();
        if is_reusable {
            cx.worker.plain_pool.borrow_mut().checkin(connection, &cx.worker.kernel);
        }
        Ok(if cx.is_body_owed() { After::Close } else { after })
    }

    /// Decides how the response is framed and builds its head, with what came of its body behind it.
    ///
    /// # Errors
    /// That is malformed, and no byte of the response has left.
    fn lead(
        &self,
        node: SocketAddr,
        response: ResponseHead,
        after: After,
        buffers: &mut Buffers,
    ) -> Result<Carried, Fault> {
        let Forward { cx, head, plan } = self;
        let Buffers { response: out, input, .. } = buffers;
        let length = response.body_length();
        let Shape { edits, mut filters, is_filtered } =
            plan.shape(node, &response, &cx.worker.body_memory);
        filters.keep(cx.keep_body(Direction::Sent));
        let leaving = Leaving::new(head, &response, edits.status, is_filtered, after);
        out.clear();
        response_head::write(out, &response, plan, &edits, &cx.worker, leaving);
        let mut relay = Relay::new(leaving.framing == Framing::Chunked, filters);
        // To one who may send nothing more (RFC 9112 section 9.6): what came in between would turn the
        // end into a reset, which takes along what has not left.
        if !head.keeps_alive() && !cx.is_leg() {
            relay.be_last();
        }
        let mut reader = BodyReader::new(length);
        relay.frame(&mut reader, input, out).map_err(FramingError::response_fault)?;
        cx.record(|record| {
            record.answered(response.status().as_u16(), edits.status);
            record.sends(out);
        });
        let keeps_alive = response.keeps_alive() && length != BodyLength::UntilClose;
        Ok(Carried { relay, reader, keeps_alive })
    }
}

/// A response whose head is about to leave. The node's own head is gone: its bytes lie in the input
/// buffer, which can be used again only when nobody else holds them.
struct Carried {
    relay: Relay,
    reader: BodyReader,
    /// Whether the node's connection can be used again behind it.
    keeps_alive: bool,
}

impl Carried {
    /// Moves it, beside what is left of the request.
    async fn carry(
        &mut self,
        cx: &ConnectionCx,
        connection: &mut PlainConnection,
        upload: &mut Upload,
        buffers: &mut Buffers,
    ) -> Result<(), Fault> {
        let Buffers { request, response: out, input, .. } = buffers;
        let carried = poll_fn(|task| {
            advance(upload, cx, connection, request, task)?;
            let splicing = cx.splicing(connection.is_leg());
            cx.with_downstream(|downstream| {
                let stream = &mut connection.stream;
                let mut source = BodySource { stream, input, reader: &mut self.reader };
                let timed = LegWatch::start(cx.is_leg());
                let moved = self.relay.poll(&mut source, out, downstream, splicing, task);
                cx.check_leg(&timed, downstream.as_fd());
                let news = self.relay.take_news();
                watch(cx, moved, &news, || cx.deliver_no_more(downstream.as_fd(), task))
            })
        })
        .await;
        note_delivery(cx, connection);
        carried?;
        cx.stop_sending();
        cx.deadlines.stop(Wait::Upstream);
        Ok(())
    }
}

/// A connection that waits for a request; if there is none, perhaps one whose response has gone.
async fn checkout(
    cx: &ConnectionCx,
    upstream: &Arc<Upstream>,
    node: SocketAddr,
) -> Option<Box<PlainConnection>> {
    let pooled = cx.worker.plain_pool.borrow_mut().checkout(upstream, node);
    if pooled.is_some() || !cx.worker.passages.look() {
        return pooled;
    }
    tokio::task::yield_now().await;
    cx.worker.plain_pool.borrow_mut().checkout(upstream, node)
}

/// Moves the request on, and watches whether the node holds us up.
fn advance(
    upload: &mut Upload,
    cx: &ConnectionCx,
    connection: &mut PlainConnection,
    request: &mut Vec<u8>,
    task: &mut Context<'_>,
) -> Result<(), Fault> {
    let watch = LegWatch::start(connection.is_leg());
    let advanced = upload.advance(cx, &mut connection.stream, request, task);
    cx.worker.kernel.check_leg(&watch, connection.stream.as_fd());
    advanced
}

/// Reads until a final head is whole. Interim ones are swallowed; the gate bounds how many.
fn poll_response_head(
    method: &str,
    connection: &mut PlainConnection,
    input: &mut BytesMut,
    gate: &mut ResponseGate,
    task: &mut Context<'_>,
) -> Poll<Result<ResponseHead, Fault>> {
    loop {
        match gate.head(input, method) {
            Ok(Some(head)) if head.is_interim() => continue,
            Ok(Some(head)) => return Poll::Ready(Ok(head)),
            Ok(None) => {}
            Err(error) => return Poll::Ready(Err(error.fault())),
        }
        let read = inlet::poll_read_head(&mut connection.stream, task, input);
        match std::task::ready!(read) {
            Ok(0) | Err(_) => return Poll::Ready(Err(Fault::UpstreamClosed)),
            // From here on, whatever happens is about this request.
            Ok(_) => connection.is_reused = false,
        }
    }
}

/// Notes in the record whether the kernel has delivered between the node and us.
fn note_delivery(cx: &ConnectionCx, connection: &mut PlainConnection) {
    if connection.was_delivered() {
        cx.record(RequestRecord::node_delivered);
    }
}

/// Keeps the deadlines of a relay: whoever is waited for has its own.
fn watch(
    cx: &ConnectionCx,
    moved: Poll<Result<(), Broken>>,
    news: &News,
    may_try_again: impl Fn() -> bool,
) -> Poll<Result<(), Fault>> {
    cx.count_sent(news.copied + news.spliced);
    cx.count_spliced(Direction::Sent, news);
    if news.has_moved {
        cx.stop_sending();
        cx.deadlines.stop(Wait::Upstream);
    }
    match moved {
        Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
        Poll::Ready(Err(Broken::Framing(error))) => Poll::Ready(Err(error.response_fault())),
        Poll::Ready(Err(Broken::Source)) => Poll::Ready(Err(Fault::UpstreamReset)),
        Poll::Ready(Err(Broken::Starved)) if may_try_again() => Poll::Pending,
        Poll::Ready(Err(Broken::Target | Broken::Starved)) => {
            Poll::Ready(Err(Fault::DownstreamReset))
        }
        Poll::Pending if news.is_writing && cx.deadlines.has_expired(Wait::Send) => {
            Poll::Ready(Err(Fault::SendTimedOut))
        }
        Poll::Pending if news.is_writing => {
            cx.wait_to_send();
            Poll::Pending
        }
        Poll::Pending if cx.deadlines.has_expired(Wait::Upstream) => {
            Poll::Ready(Err(Fault::ResponseBodyTimedOut))
        }
        Poll::Pending => {
            cx.deadlines.start(Wait::Upstream, cx.node_waits.get().response_body);
            Poll::Pending
        }
    }
}
