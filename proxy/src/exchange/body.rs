//! Bodies on their way through, one piece at a time: a side that does not take the next piece holds
//! the other side back.

use std::{
    cell::Cell,
    error::Error,
    fmt,
    pin::Pin,
    rc::{Rc, Weak},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::held::{self, Held};
use crate::{
    connection::ConnectionCx,
    deadlines::Wait,
    error::Fault,
    mirror::Tap,
    plugin::{BodyFilters, KeptBody},
    upstream::{
        balance::Picked,
        connection::{Detached, UpstreamConnection, driven},
    },
};

/// How far a request body has come, shared by the body and whoever waits for the response.
#[derive(Debug, Default, Clone)]
pub(crate) struct Upload(Rc<UploadState>);

#[derive(Debug, Default)]
struct UploadState {
    stage: Cell<Stage>,
    has_moved: Cell<bool>,
    /// The node has answered, and its response is under way.
    is_answered: Cell<bool>,
    /// No more of it will come, which the node is not told while it answers.
    is_abandoned: Cell<bool>,
}

/// Whose turn it is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The downstream's, to send more.
    #[default]
    Downstream,
    /// The node's, to take what there is.
    Node,
    /// The last byte has been handed to the upstream connection.
    Complete,
}

impl Upload {
    pub(crate) fn stage(&self) -> Stage {
        self.0.stage.get()
    }

    /// Whether anything was handed over since the last time.
    pub(crate) fn take_moved(&self) -> bool {
        self.0.has_moved.take()
    }

    /// The response is over. Whether the rest of the request is worth waiting for.
    pub(crate) fn response_over(&self) -> bool {
        self.0.is_answered.set(false);
        !self.0.is_abandoned.get()
    }

    /// Whether a body that does not come whole leaves the response as it is. hyper would end both.
    fn is_left_behind(&self, cx: &Weak<ConnectionCx>) -> bool {
        let has_left = |cx: Rc<ConnectionCx>| cx.body_fault() == Some(Fault::DownstreamReset);
        self.0.is_answered.get() && !cx.upgrade().is_none_or(has_left)
    }

    fn moved_to(&self, stage: Stage) {
        self.0.stage.set(stage);
        self.0.has_moved.set(true);
    }
}

/// A request body from the downstream to the node. Trailers are dropped (RFC 9110 section 6.5.1).
#[derive(Debug)]
pub(crate) struct RequestBody {
    content: Option<Content>,
    /// Gets a copy.
    tap: Option<Box<Tap>>,
    /// Gets its beginning.
    kept: Option<KeptBody>,
    upload: Upload,
    cx: Weak<ConnectionCx>,
}

/// A request body that nobody has begun to read, and what is left of its copies.
#[derive(Debug, Default)]
pub(crate) struct Unsent {
    pub(crate) content: Option<Content>,
    pub(crate) tap: Option<Box<Tap>>,
    pub(crate) kept: Option<KeptBody>,
}

/// Where a request body comes from.
#[derive(Debug)]
pub(crate) enum Content {
    Coming(Incoming),
    Held(Held),
}

impl Content {
    /// `None`: hyper has nothing to do with it.
    pub(crate) fn of(body: held::Body) -> Option<Content> {
        match body {
            held::Body::Plain => None,
            held::Body::Hyper(incoming) => Some(Content::Coming(incoming)),
            held::Body::Held(held) => Some(Content::Held(held)),
        }
    }

    fn poll_data(&mut self, task: &mut Context<'_>) -> PolledFrame {
        match self {
            Content::Coming(incoming) => poll_data(incoming, task),
            Content::Held(held) => Poll::Ready(held.piece().map(|piece| Ok(Frame::data(piece)))),
        }
    }

    /// Whether there is nothing more, nor an end that is written.
    fn is_over(&self) -> bool {
        match self {
            Content::Coming(incoming) => incoming.is_end_stream(),
            Content::Held(held) => held.length() == Some(0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Content::Coming(incoming) => incoming.size_hint(),
            Content::Held(held) => {
                held.length().map_or_else(SizeHint::default, SizeHint::with_exact)
            }
        }
    }

    /// Who is waited for first.
    fn stage(&self) -> Stage {
        match self {
            Content::Coming(_) => Stage::Downstream,
            Content::Held(_) => Stage::Node,
        }
    }
}

type PolledFrame = Poll<Option<Result<Frame<Bytes>, hyper::Error>>>;

impl RequestBody {
    pub(crate) fn new(unsent: Unsent, upload: &Upload, cx: &Rc<ConnectionCx>) -> Self {
        let Unsent { content, mut tap, kept } = unsent;
        let content = content.filter(|content| !content.is_over());
        upload.0.stage.set(content.as_ref().map_or(Stage::Complete, Content::stage));
        if let (None, Some(tap)) = (&content, &mut tap) {
            tap.complete();
        }
        Self { content, tap, kept, upload: upload.clone(), cx: Rc::downgrade(cx) }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> PolledFrame {
        let Self { content: Some(content), tap, kept, upload, cx } = &mut *self else {
            return Poll::Ready(None);
        };
        if upload.0.is_abandoned.get() {
            return Poll::Pending;
        }
        let Poll::Ready(frame) = content.poll_data(task) else {
            upload.0.stage.set(Stage::Downstream);
            return Poll::Pending;
        };
        if matches!(frame, Some(Err(_))) && upload.is_left_behind(cx) {
            upload.0.is_abandoned.set(true);
            return Poll::Pending;
        }
        let is_last = frame.is_none() || content.is_over();
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            tap.take_if(|tap| !tap.piece(data));
            kept.take_if(|kept| !kept.piece(data));
        }
        if is_last && let Some(mut tap) = tap.take() {
            tap.complete();
        }
        upload.moved_to(if is_last { Stage::Complete } else { Stage::Node });
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.content.as_ref().is_none_or(Content::is_over)
    }

    fn size_hint(&self) -> SizeHint {
        self.content.as_ref().map_or(SizeHint::with_exact(0), Content::size_hint)
    }
}

/// The next data frame; a trailer frame is the end.
fn poll_data(incoming: &mut Incoming, task: &mut Context<'_>) -> PolledFrame {
    Pin::new(incoming)
        .poll_frame(task)
        .map(|frame| frame.filter(|frame| !frame.as_ref().is_ok_and(Frame::is_trailers)))
}

/// A response body to the downstream. When it is dropped, the response is over: the upstream
/// connection goes back to the pool if the response is complete, and is closed if it is not.
pub(crate) struct ResponseBody {
    cx: Rc<ConnectionCx>,
    source: Source,
    /// The node, which is busy with it.
    node: Option<Picked>,
}

enum Source {
    /// An answer of the proxy.
    Own(Option<Bytes>),
    Node(Box<NodeBody>),
}

struct NodeBody {
    incoming: Incoming,
    is_complete: bool,
    /// What came before it broke off is still to be written.
    is_breaking_off: bool,
    /// What plugins do with the body on its way.
    filters: BodyFilters,
    carrier: Carrier,
}

/// Who moves the bytes of the upstream connection.
enum Carrier {
    /// This body, whenever it is asked for more.
    Held(UpstreamConnection),
    /// A task: the node answers while the request is still being sent, and the rest of the request
    /// must not depend on how fast the downstream reads the answer.
    Detached(Detached),
    Gone,
}

impl ResponseBody {
    pub(crate) fn answer(cx: &Rc<ConnectionCx>, body: Bytes) -> Self {
        let body = (!body.is_empty()).then_some(body);
        Self { cx: Rc::clone(cx), source: Source::Own(body), node: None }
    }

    /// What is left for hyper of a response that leaves with its head: its end.
    pub(crate) fn whole(
        cx: &Rc<ConnectionCx>,
        connection: UpstreamConnection,
        size: usize,
    ) -> Self {
        cx.count_sent(size as u64);
        cx.worker.pool.borrow_mut().checkin(connection, &cx.worker.kernel);
        Self { cx: Rc::clone(cx), source: Source::Own(None), node: None }
    }

    pub(crate) fn upstream(
        cx: &Rc<ConnectionCx>,
        connection: UpstreamConnection,
        upload: &Upload,
        incoming: Incoming,
        filters: BodyFilters,
    ) -> Self {
        let carrier = if upload.stage() == Stage::Complete {
            Carrier::Held(connection)
        } else {
            upload.0.is_answered.set(true);
            Carrier::Detached(connection.spawn(upload.clone()))
        };
        let is_complete = incoming.is_end_stream();
        let body = NodeBody { incoming, is_complete, is_breaking_off: false, filters, carrier };
        Self { cx: Rc::clone(cx), source: Source::Node(Box::new(body)), node: None }
    }

    /// The node counts as busy until this is dropped.
    pub(crate) fn keep_busy(&mut self, node: Picked) {
        self.node = Some(node);
    }
}

impl NodeBody {
    /// The next piece as the plugins want it; those they swallow are no pieces.
    fn poll_filtered(
        &mut self,
        cx: &ConnectionCx,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        loop {
            if self.filters.is_empty() {
                let polled = self.poll_data(cx, task);
                if let Poll::Ready(Some(Ok(frame))) = &polled
                    && let Some(data) = frame.data_ref()
                {
                    self.filters.see(data);
                }
                return polled;
            }
            let piece = match self.is_complete {
                true => None,
                false => match self.poll_data(cx, task) {
                    Poll::Pending => return self.poll_paused(),
                    Poll::Ready(piece) => piece.transpose()?,
                },
            };
            let piece = match piece.map(Frame::into_data) {
                Some(Ok(data)) => self.filters.piece(data),
                Some(Err(_)) => continue,
                None => self.filters.end(),
            };
            if !piece.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
        }
    }

    /// Nothing more has come: what is due so far is passed on, unless it is the end.
    fn poll_paused(&mut self) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        let due = if self.is_breaking_off { Bytes::new() } else { self.filters.pause() };
        if due.is_empty() { Poll::Pending } else { Poll::Ready(Some(Ok(Frame::data(due)))) }
    }

    fn poll_data(
        &mut self,
        cx: &ConnectionCx,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        if self.is_breaking_off {
            return Poll::Ready(Some(Err(Aborted)));
        }
        let frame = match &mut self.carrier {
            Carrier::Held(connection) => match poll_data(&mut self.incoming, &mut driven()) {
                Poll::Pending => {
                    connection.poll_drive(task);
                    poll_data(&mut self.incoming, &mut driven())
                }
                ready @ Poll::Ready(_) => ready,
            },
            Carrier::Detached(_) | Carrier::Gone => poll_data(&mut self.incoming, task),
        };
        match frame {
            Poll::Pending => {
                if cx.deadlines.has_expired(Wait::Upstream) {
                    return self.break_off(cx, task, Fault::ResponseBodyTimedOut);
                }
                cx.deadlines.start(Wait::Upstream, cx.node_waits.get().response_body);
                Poll::Pending
            }
            Poll::Ready(Some(Err(error))) => {
                tracing::debug!(%error, "response body");
                let fault = self.carrier.fault().unwrap_or(Fault::ResponseTruncated);
                self.break_off(cx, task, fault)
            }
            Poll::Ready(frame) => {
                cx.deadlines.stop(Wait::Upstream);
                self.is_complete = frame.is_none() || self.incoming.is_end_stream();
                Poll::Ready(frame.map(|frame| frame.map_err(|_| Aborted)))
            }
        }
    }

    /// hyper forgets what it has not written when a body fails, so the failure waits for one round
    /// in which it writes.
    fn break_off(
        &mut self,
        cx: &ConnectionCx,
        task: &Context<'_>,
        fault: Fault,
    ) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        cx.broke_off(fault);
        self.carrier = Carrier::Gone;
        self.is_breaking_off = true;
        task.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Carrier {
    fn fault(&self) -> Option<Fault> {
        match self {
            Carrier::Held(connection) => connection.fault(),
            Carrier::Detached(detached) => detached.fault(),
            Carrier::Gone => None,
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Aborted;

    fn poll_frame(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        let Self { cx, source, .. } = self.get_mut();
        let frame = match source {
            Source::Own(body) => Poll::Ready(body.take().map(|body| Ok(Frame::data(body)))),
            Source::Node(body) => body.poll_filtered(cx, task),
        };
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            cx.count_sent(frame.data_ref().map_or(0, |data| data.len() as u64));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(body) => body.is_none(),
            Source::Node(body) => body.is_complete && body.filters.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(body) => {
                SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64))
            }
            Source::Node(body) if body.filters.is_empty() => body.incoming.size_hint(),
            Source::Node(_) => SizeHint::default(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.cx.deadlines.stop(Wait::Upstream);
        if let Source::Node(body) = &mut self.source
            && body.is_complete
        {
            match std::mem::replace(&mut body.carrier, Carrier::Gone) {
                Carrier::Held(connection) => {
                    let worker = &self.cx.worker;
                    worker.pool.borrow_mut().checkin(connection, &worker.kernel);
                }
                Carrier::Detached(detached) => detached.finish(),
                Carrier::Gone => {}
            }
        }
        if self.is_end_stream() {
            self.cx.response_over();
        }
    }
}

/// The response broke off; hyper closes the downstream connection, which is how HTTP/1.1 says so.
#[derive(Debug)]
pub(crate) struct Aborted;

impl fmt::Display for Aborted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the response broke off")
    }
}

impl Error for Aborted {}
