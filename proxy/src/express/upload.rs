//! A request on its way to a node: the head, then the body as the downstream sends it.

use std::{
    future::poll_fn,
    io, mem,
    os::fd::AsFd as _,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Buf;
use tokio::{net::TcpStream, task::spawn_local, time::timeout};

use super::relay::{Broken, Relay, Splicing};
use crate::{
    connection::ConnectionCx,
    deadlines::Wait,
    error::Fault,
    exchange::{
        DISCARDED_BODY_MAX,
        held::{Held, HeldSource},
    },
    http::{
        answer::After,
        framing::{BodyLength, FramingError},
        head::RequestHead,
    },
    inlet::{self, BodySource},
    kernel::LegWatch,
    metrics::Direction,
    mirror::Tap,
    plugin::{BodyFilters, KeptBody},
    upstream::{connection::AFTERMATH_MAX, plain::PlainConnection},
    worker::Worker,
};

/// Read at a time of a body that nobody wants.
const DISCARD_SIZE: usize = 4096;

pub(super) struct Upload {
    relay: Relay,
    /// The body, if it does not come from the downstream any more.
    held: Option<HeldSource>,
    stage: Stage,
    /// The node's response has begun, and no longer depends on this.
    is_answered: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// No byte of the body has been taken.
    Untouched,
    Moving,
    Complete,
    /// The node takes no more, and may have answered all the same; or it has answered, and there is
    /// no more to be had of the downstream.
    Refused,
}

impl Upload {
    /// What is left of copies goes along, and what is kept for logs.
    pub(super) fn new(head: &RequestHead, tap: Option<Box<Tap>>, kept: Option<KeptBody>) -> Upload {
        let is_chunked = head.body_length() == BodyLength::Chunked;
        let mut filters = BodyFilters::default();
        filters.keep(kept);
        let mut relay = Relay::new(is_chunked, filters);
        relay.copy_to(tap);
        Upload { relay, held: None, stage: Stage::Untouched, is_answered: false }
    }

    /// The body is here already, if it is.
    pub(super) fn take_from(&mut self, held: Option<Held>) {
        self.held = held.map(Held::source);
    }

    /// It is to be sent once more, having no body or none that was touched.
    pub(super) fn restart(&mut self, head: &RequestHead) {
        if !self.is_untouched() {
            *self = Upload::new(head, None, None);
        }
    }

    pub(super) fn is_untouched(&self) -> bool {
        self.stage == Stage::Untouched
    }

    /// The response head has come: from here on, whoever holds this up ends nothing but this.
    pub(super) fn answered(&mut self) {
        self.is_answered = true;
    }

    pub(super) fn is_complete(&self) -> bool {
        self.stage == Stage::Complete
    }

    /// Whether nothing more will be moved.
    pub(super) fn is_over(&self) -> bool {
        match self.stage {
            Stage::Untouched | Stage::Moving => false,
            Stage::Complete | Stage::Refused => true,
        }
    }

    /// Moves what can be moved: what is in `out`, then the body.
    ///
    /// # Errors
    /// The downstream broke off. Before the node has answered also: the body did not come, or not
    /// well-formed; the node was too slow with taking it.
    pub(super) fn advance(
        &mut self,
        cx: &ConnectionCx,
        node: &mut TcpStream,
        out: &mut Vec<u8>,
        task: &mut Context<'_>,
    ) -> Result<(), Fault> {
        if self.is_over() {
            return Ok(());
        }
        let Err(fault) = self.advance_until_fault(cx, node, out, task) else { return Ok(()) };
        if !self.is_answered || fault == Fault::DownstreamReset {
            return Err(fault);
        }
        tracing::debug!(?fault, "rest of a request");
        cx.deadlines.stop(Wait::Upload);
        cx.deadlines.stop(Wait::Downstream);
        self.end(Stage::Refused);
        Ok(())
    }

    /// Nothing more will be moved. What was held is given up now: the response may take its time.
    fn end(&mut self, stage: Stage) {
        self.stage = stage;
        self.held = None;
    }

    fn advance_until_fault(
        &mut self,
        cx: &ConnectionCx,
        node: &mut TcpStream,
        out: &mut Vec<u8>,
        task: &mut Context<'_>,
    ) -> Result<(), Fault> {
        let moved = cx
            .with_body(|source| self.poll(source, node, out, cx.splicing(cx.is_leg()), task))
            .unwrap_or(Poll::Ready(Err(Broken::Source)));
        let news = self.relay.take_news();
        cx.count_spliced(Direction::Recv, &news);
        let (wait, patience, late) = if news.is_writing {
            (Wait::Upload, cx.node_waits.get().send, Fault::ResponseTimedOut)
        } else {
            (Wait::Downstream, cx.worker.timeouts.body, Fault::BodyTimedOut)
        };
        if news.has_moved || moved.is_ready() {
            cx.deadlines.stop(Wait::Upload);
            cx.deadlines.stop(Wait::Downstream);
        }
        match moved {
            Poll::Ready(Ok(())) => self.end(Stage::Complete),
            Poll::Ready(Err(Broken::Starved)) if cx.worker.kernel.deliver_no_more(node.as_fd()) => {
                task.waker().wake_by_ref();
            }
            Poll::Ready(Err(Broken::Target | Broken::Starved)) => self.end(Stage::Refused),
            Poll::Ready(Err(Broken::Source)) => return Err(Fault::DownstreamReset),
            Poll::Ready(Err(Broken::Framing(error))) => return Err(error.request_fault()),
            Poll::Pending if cx.deadlines.has_expired(wait) => return Err(late),
            Poll::Pending => cx.deadlines.start(wait, patience),
        }
        Ok(())
    }

    fn poll(
        &mut self,
        source: BodySource<'_>,
        node: &mut TcpStream,
        out: &mut Vec<u8>,
        splicing: Splicing<'_>,
        task: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        let mut source = match &mut self.held {
            Some(held) => held.in_place_of(source),
            None => source,
        };
        if self.stage == Stage::Untouched {
            self.stage = Stage::Moving;
            // What has come of the body leaves with the head.
            let framed = self.relay.frame(source.reader, source.input, out);
            framed.map_err(Broken::Framing)?;
        }
        self.relay.poll(&mut source, out, node, splicing, task)
    }

    /// Moves the rest, for a node that has answered before it had it all. What the connection to the
    /// downstream is good for afterwards, if it was to be good for anything.
    pub(super) async fn conclude(
        &mut self,
        cx: &ConnectionCx,
        mut node: Box<PlainConnection>,
        out: &mut Vec<u8>,
        after: After,
    ) -> After {
        let Some(held) = self.held.take() else {
            return match after {
                After::KeepAlive => self.finish(cx, &mut node.stream, out).await,
                After::Close => After::Close,
            };
        };
        cx.deadlines.stop(Wait::Upload);
        let relay = mem::replace(&mut self.relay, Relay::new(false, BodyFilters::default()));
        let (worker, out) = (Rc::clone(&cx.worker), mem::take(out));
        drop(spawn_local(Rest { worker, node, out, relay, held }.deliver()));
        self.end(Stage::Refused);
        after
    }

    /// Moves what is still to come from the downstream, as long as the node keeps its end open.
    async fn finish(
        &mut self,
        cx: &ConnectionCx,
        node: &mut TcpStream,
        out: &mut Vec<u8>,
    ) -> After {
        let moved = poll_fn(|task| match self.advance(cx, node, out, task) {
            Ok(()) if self.is_over() || has_said_more(node, task) => Poll::Ready(Ok(())),
            Ok(()) => Poll::Pending,
            Err(fault) => Poll::Ready(Err(fault)),
        });
        match timeout(AFTERMATH_MAX, moved).await {
            Ok(Ok(())) if self.is_complete() => After::KeepAlive,
            Ok(_) | Err(_) => After::Close,
        }
    }
}

/// What is left of a body that is here, for a node that has answered before it had it all: nobody else
/// waits for it. All of them together have the room that there is for such bodies.
struct Rest {
    worker: Rc<Worker>,
    node: Box<PlainConnection>,
    out: Vec<u8>,
    relay: Relay,
    held: HeldSource,
}

impl Rest {
    /// Moves it, as long as the node keeps its end open, and closes the connection.
    async fn deliver(mut self) {
        let moved = poll_fn(|task| match self.poll(task) {
            Poll::Pending if !has_said_more(&self.node.stream, task) => Poll::Pending,
            Poll::Pending | Poll::Ready(_) => Poll::Ready(()),
        });
        if timeout(AFTERMATH_MAX, moved).await.is_err() {
            tracing::debug!("rest of a request not taken");
        }
    }

    fn poll(&mut self, task: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let Self { worker, node, out, relay, held } = self;
        let watch = LegWatch::start(node.is_leg());
        let pipes = &worker.tunnels.pipes;
        let moved = relay.poll_rest(held.rest(), out, &mut node.stream, pipes, task);
        worker.kernel.check_leg(&watch, node.stream.as_fd());
        let is_starved = matches!(moved, Poll::Ready(Err(Broken::Starved)));
        if is_starved && worker.kernel.deliver_no_more(node.stream.as_fd()) {
            task.waker().wake_by_ref();
            return Poll::Pending;
        }
        moved
    }
}

/// Whether there is anything to read behind a response, be it the end.
fn has_said_more(node: &TcpStream, task: &mut Context<'_>) -> bool {
    while node.poll_read_ready(task).is_ready() {
        match node.try_read(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(_) | Err(_) => return true,
        }
    }
    false
}

/// Reads what is left of a request that is not forwarded, and forgets it.
///
/// # Errors
/// The body did not come, or not well-formed.
pub(super) async fn discard(cx: &ConnectionCx) -> Result<After, Fault> {
    poll_fn(|task| {
        let discarded = cx
            .with_body(|source| poll_discard(source, task))
            .unwrap_or(Poll::Ready(Err(Fault::DownstreamReset)));
        match discarded {
            Poll::Ready(Ok(Discarded::Some)) => {
                cx.deadlines.stop(Wait::Downstream);
                task.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(Ok(Discarded::All(after))) => {
                cx.deadlines.stop(Wait::Downstream);
                Poll::Ready(Ok(after))
            }
            Poll::Ready(Err(fault)) => Poll::Ready(Err(fault)),
            Poll::Pending if cx.deadlines.has_expired(Wait::Downstream) => {
                Poll::Ready(Err(Fault::BodyTimedOut))
            }
            Poll::Pending => {
                cx.deadlines.start(Wait::Downstream, cx.worker.timeouts.body);
                Poll::Pending
            }
        }
    })
    .await
}

enum Discarded {
    Some,
    /// All there is, or all that is worth it.
    All(After),
}

fn poll_discard(
    BodySource { stream, input, reader }: BodySource<'_>,
    task: &mut Context<'_>,
) -> Poll<Result<Discarded, Fault>> {
    let discarded = reader.advance(input).map_err(FramingError::request_fault)?;
    input.advance(discarded);
    if reader.is_complete() {
        return Poll::Ready(Ok(Discarded::All(After::KeepAlive)));
    }
    if reader.payload_bytes() >= DISCARDED_BODY_MAX {
        return Poll::Ready(Ok(Discarded::All(After::Close)));
    }
    inlet::poll_read(stream, task, input, DISCARD_SIZE).map(|read| match read {
        Ok(1..) => Ok(Discarded::Some),
        Ok(0) | Err(_) => Err(Fault::DownstreamReset),
    })
}
