//! The downstream's byte stream, of which a lane sees one gated request at a time.
//!
//! | reading  | what comes                | what follows                                            |
//! |----------|---------------------------|---------------------------------------------------------|
//! | Head     | a whole, unambiguous head | Message; the exchange begins                            |
//! | Head     | anything else, or too late| Closed; hyper sees the end, the connection answers      |
//! | Message  | the body's last byte      | Hold                                                    |
//! | Message  | bad framing, or too late  | Closed; hyper sees an error, the exchange answers; if   |
//! |          |                           | hyper has seen no head yet, as for one refused          |
//! | Hold     | the response is flushed   | Head                                                    |
//! | Closed   | anything                  | the end of the stream                                   |

use std::{
    io,
    os::fd::AsFd as _,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{ConnectionCx, Lane, context::Phase};
use crate::{
    config::Limits,
    deadlines::Wait,
    error::Fault,
    http::{
        framing::{BodyReader, FramingError},
        gate::RequestGate,
        head::RequestHead,
        stand_in,
    },
    inlet::{BodySource, Inlet, MessageError, head_limits},
    kernel::LegWatch,
    lead,
    sys::socket,
};

/// Silence after which an idle connection gives its buffers up, and at a drain one that has never
/// had a request is given up itself; and one that takes nothing is looked after, again and again.
/// Long beside the pause between two requests of a busy connection, short beside the time that idle
/// ones stay.
pub(super) const REST_AFTER: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    Head,
    Message,
    Hold,
    Closed,
}

/// What a downstream may have sent that nobody has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// It has sent its last byte, which was read.
    Nothing,
    /// A part of its request is missing.
    Message,
    /// Nothing is due.
    Unknown,
}

/// The reading side: socket, gate, and where it stands.
#[derive(Debug)]
pub(super) struct Downstream {
    inlet: Inlet,
    gate: RequestGate,
    reading: Reading,
    /// The downstream has sent its last byte.
    is_at_eof: bool,
    /// Whether a request has been let in before: then there is an idle time between requests.
    is_first: bool,
    /// Bytes read ahead while an exchange is under way.
    ahead_max: usize,
    /// hyper has asked for the next request before this one's response was flushed.
    is_held: bool,
    /// What comes is acknowledged by what is sent back (`listener::open`).
    acknowledges_late: bool,
}

impl Downstream {
    pub(super) fn new(stream: TcpStream, limits: &Limits) -> Self {
        Self {
            inlet: Inlet::new(stream),
            gate: RequestGate::new(head_limits(limits)),
            reading: Reading::Head,
            is_at_eof: false,
            is_first: true,
            ahead_max: limits.head_size_max,
            is_held: false,
            acknowledges_late: true,
        }
    }

    /// Whoever sends a request in pieces may keep the next one back until the last one is acknowledged
    /// (RFC 896).
    fn expect_more(&mut self) {
        if !std::mem::take(&mut self.acknowledges_late) {
            return;
        }
        if let Err(error) = socket::acknowledge_now(self.stream()) {
            tracing::debug!(%error, "acknowledgement");
        }
    }

    /// The socket, the body bytes of the last request, and what may be left to read.
    pub(super) fn into_parts(self) -> (TcpStream, u64, Left) {
        let left = match self.is_message_owed() {
            _ if self.is_at_eof => Left::Nothing,
            true => Left::Message,
            false => Left::Unknown,
        };
        let recv_bytes = self.inlet.payload_bytes();
        (self.inlet.into_stream(), recv_bytes, left)
    }

    /// Whether the request that came last, be it in part, is a `HEAD` request.
    pub(super) fn is_for_head(&self) -> bool {
        self.gate.is_for_head()
    }

    /// Gives up what an idle connection does not need.
    pub(super) fn rest(&mut self) {
        self.inlet.rest();
        self.gate.rest();
    }

    /// Ready when there is something to read, be it the end.
    pub(super) fn poll_readable(&self, task: &mut Context<'_>) -> Poll<()> {
        self.inlet.poll_readable(task)
    }

    /// Whether bytes are in the socket. The kernel is asked, as the runtime may not know of them yet;
    /// it is about to learn.
    pub(super) fn has_arrived(&self) -> bool {
        socket::has_unread(self.stream())
    }

    /// Whether hyper has not been handed all of the message that was let in.
    pub(super) fn is_message_owed(&self) -> bool {
        !self.inlet.is_between_messages()
    }

    /// Ready only when the downstream has reset the connection.
    pub(super) fn poll_ahead(&mut self, task: &mut Context<'_>) -> Poll<io::Error> {
        while self.reading == Reading::Hold
            && !self.is_at_eof
            && self.inlet.buffer().len() < self.ahead_max
        {
            // Nothing comes, as a rule.
            ready!(self.inlet.poll_readable(task));
            match ready!(self.inlet.poll_fill(task)) {
                Ok(0) => self.is_at_eof = true,
                Ok(_) => {}
                Err(error) => return Poll::Ready(error),
            }
        }
        Poll::Pending
    }

    /// Lets a message in for hyper, who is to see a stand-in of its head.
    pub(super) fn admit(&mut self, cx: &ConnectionCx, head: RequestHead) {
        self.inlet.admit(stand_in::request(&head), body_reader(cx, &head));
        self.reading = Reading::Message;
        cx.begin(&head, Lane::Hyper, self.stream());
        cx.hand_over(head);
    }

    /// Lets a message in for the express lane.
    ///
    /// # Errors
    /// What came of its body with the head is malformed or too large.
    pub(super) fn admit_plain(
        &mut self,
        cx: &ConnectionCx,
        head: &RequestHead,
    ) -> Result<(), Fault> {
        cx.begin(head, Lane::Express, self.stream());
        let admitted = self.inlet.admit_body(body_reader(cx, head));
        self.reading = match admitted {
            Ok(()) if self.inlet.is_between_messages() => Reading::Hold,
            Ok(()) => Reading::Message,
            Err(_) => Reading::Closed,
        };
        admitted.map_err(FramingError::request_fault)
    }

    /// Allows the request under way no more than `max` bytes of content.
    ///
    /// # Errors
    /// What came of it is more, or announces more.
    pub(super) fn limit_body(&mut self, max: u64) -> Result<(), Fault> {
        self.inlet.limit_body(max).map_err(FramingError::request_fault)
    }

    /// Lets `use_it` at the body that was let in for the express lane.
    pub(super) fn with_body<T>(&mut self, use_it: impl FnOnce(BodySource<'_>) -> T) -> Option<T> {
        let used = self.inlet.source().map(use_it);
        if self.inlet.is_between_messages() {
            self.reading = Reading::Hold;
        } else if self.inlet.is_drained() {
            self.expect_more();
        }
        used
    }

    /// Whether bytes have come behind the request under way.
    pub(super) fn has_read_ahead(&self) -> bool {
        self.reading == Reading::Hold && !self.inlet.is_drained()
    }

    /// Whether the request under way is whole, and nothing has come behind it, nor the end.
    pub(super) fn is_quiet(&self) -> bool {
        self.reading == Reading::Hold && self.inlet.is_drained() && !self.is_at_eof
    }

    /// Body bytes of the last request so far.
    pub(super) fn recv_bytes(&self) -> u64 {
        self.inlet.payload_bytes()
    }

    /// Whether the last message has gone by and the next has not been looked for.
    pub(super) fn awaits_head(&self) -> bool {
        self.reading == Reading::Head
    }

    pub(super) fn stream(&self) -> &TcpStream {
        self.inlet.stream()
    }

    pub(super) fn stream_mut(&mut self) -> &mut TcpStream {
        self.inlet.stream_mut()
    }

    /// Reads on until the next head is whole. `None`: no more requests come.
    pub(super) fn poll_head(
        &mut self,
        cx: &ConnectionCx,
        task: &mut Context<'_>,
    ) -> Poll<Option<RequestHead>> {
        match self.reading {
            Reading::Head | Reading::Hold => self.reading = Reading::Head,
            Reading::Message | Reading::Closed => return Poll::Ready(None),
        }
        loop {
            match self.gate.head(self.inlet.buffer()) {
                Ok(Some(head)) => {
                    cx.deadlines.stop(Wait::Downstream);
                    self.is_first = false;
                    return Poll::Ready(Some(head));
                }
                Ok(None) => {}
                Err(error) => return self.refuse(cx, error.fault()),
            }
            // The gate has taken an empty line that there may have been.
            let is_empty = self.inlet.buffer().is_empty();
            let is_idle = is_empty && !self.is_first;
            let read = if self.is_at_eof { Poll::Ready(Ok(0)) } else { self.inlet.poll_fill(task) };
            match read {
                Poll::Pending => return self.wait_for_head(cx, is_empty, is_idle),
                Poll::Ready(Ok(0) | Err(_)) if is_empty => {
                    self.is_at_eof = true;
                    return self.end();
                }
                Poll::Ready(Ok(0) | Err(_)) => return self.refuse(cx, Fault::HeadClosed),
                Poll::Ready(Ok(_)) => {
                    cx.deadlines.stop(Wait::Rest);
                    if is_idle {
                        // The idle time is over, the head's has begun.
                        cx.deadlines.stop(Wait::Downstream);
                    }
                }
            }
        }
    }

    /// Nothing is there to read, as far as the runtime knows.
    fn wait_for_head(
        &mut self,
        cx: &ConnectionCx,
        is_empty: bool,
        is_idle: bool,
    ) -> Poll<Option<RequestHead>> {
        let has_expired = cx.deadlines.has_expired(Wait::Downstream);
        if has_expired && !is_empty {
            return self.refuse(cx, Fault::HeadTimedOut);
        }
        if (has_expired || cx.is_draining() && is_idle) && !self.has_arrived() {
            return self.end();
        }
        if !is_empty {
            self.expect_more();
        }
        let timeouts = &cx.worker.timeouts;
        let patience = if is_idle { timeouts.idle } else { timeouts.head };
        let waits = [(Wait::Downstream, patience), (Wait::Rest, REST_AFTER)];
        let rests = is_idle || cx.is_draining() && is_empty;
        cx.deadlines.start_all(if rests { &waits } else { &waits[..1] });
        Poll::Pending
    }

    fn end(&mut self) -> Poll<Option<RequestHead>> {
        self.reading = Reading::Closed;
        Poll::Ready(None)
    }

    fn refuse(&mut self, cx: &ConnectionCx, fault: Fault) -> Poll<Option<RequestHead>> {
        cx.refuse(fault);
        self.end()
    }

    fn poll_message(
        &mut self,
        cx: &ConnectionCx,
        task: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        let is_unseen = self.inlet.is_untouched();
        let fault = match self.inlet.poll_message(task, out) {
            Poll::Pending if cx.deadlines.has_expired(Wait::Downstream) => Fault::BodyTimedOut,
            Poll::Pending => {
                self.expect_more();
                cx.deadlines.start(Wait::Downstream, cx.worker.timeouts.body);
                return Poll::Pending;
            }
            Poll::Ready(Err(MessageError::Framing(error))) => error.request_fault(),
            Poll::Ready(Err(MessageError::Io(_))) => Fault::DownstreamReset,
            Poll::Ready(Ok(())) if self.inlet.is_between_messages() => {
                self.reading = Reading::Hold;
                cx.deadlines.stop(Wait::Downstream);
                return Poll::Ready(Ok(()));
            }
            Poll::Ready(Ok(())) if out.filled().len() == before => Fault::DownstreamReset,
            Poll::Ready(Ok(())) => {
                cx.deadlines.stop(Wait::Downstream);
                return Poll::Ready(Ok(()));
            }
        };
        self.reading = Reading::Closed;
        if is_unseen {
            // Body and head came together, and hyper has seen neither: the request never was one.
            out.set_filled(before);
            cx.refuse_begun(fault);
            return Poll::Ready(Ok(()));
        }
        cx.body_fault.set(Some(fault));
        Poll::Ready(Err(io::ErrorKind::InvalidData.into()))
    }
}

/// Follows the body of a request; one of known length that is too large is refused by its length,
/// where the connection can be kept.
fn body_reader(cx: &ConnectionCx, head: &RequestHead) -> BodyReader {
    let max = cx.worker.limits.body_size_max.unwrap_or(u64::MAX);
    BodyReader::new(head.body_length()).at_most(max)
}

/// What hyper reads and writes.
pub(super) struct GatedIo(pub(super) Rc<ConnectionCx>);

impl AsyncRead for GatedIo {
    fn poll_read(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let cx = &*self.0;
        let mut slot = cx.downstream.borrow_mut();
        let Some(downstream) = &mut *slot else { return Poll::Ready(Ok(())) };
        loop {
            match downstream.reading {
                // The express lane sees the next head first.
                Reading::Head if cx.listener.has_express_lane => return Poll::Pending,
                Reading::Head => match ready!(downstream.poll_head(cx, task)) {
                    Some(head) => downstream.admit(cx, head),
                    None => return Poll::Ready(Ok(())),
                },
                Reading::Message => return downstream.poll_message(cx, task, out),
                Reading::Hold if cx.phase.get() != Phase::Between => {
                    downstream.is_held = true;
                    return Poll::Pending;
                }
                Reading::Hold => downstream.reading = Reading::Head,
                Reading::Closed => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl ConnectionCx {
    /// Writes with the downstream's patience: not a byte taken in `timeouts.send` ends it.
    pub(crate) fn poll_send(
        &self,
        task: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let mut slot = self.downstream.borrow_mut();
        let Some(downstream) = &mut *slot else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let watch = LegWatch::start(self.is_leg());
        let written = write(Pin::new(downstream.inlet.stream_mut()), task);
        self.check_leg(&watch, downstream.stream().as_fd());
        match &written {
            Poll::Ready(Ok(_)) => self.stop_sending(),
            Poll::Ready(Err(error))
                if error.kind() == io::ErrorKind::OutOfMemory
                    && self.deliver_no_more(downstream.stream().as_fd(), task) =>
            {
                return Poll::Pending;
            }
            Poll::Ready(Err(_)) => self.record(|record| record.fault(Fault::DownstreamReset)),
            Poll::Pending if self.deadlines.has_expired(Wait::Send) => {
                self.record(|record| record.fault(Fault::SendTimedOut));
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            Poll::Pending => self.wait_to_send(),
        }
        written
    }
}

impl AsyncWrite for GatedIo {
    fn poll_write(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(task, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let cx = &*self.0;
        lead::poll_write(&cx.lead, slices, |slices| {
            cx.poll_send(task, |stream, task| lead::poll_send(stream, task, slices))
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// hyper flushes when it has written all it has: if the response is over, so is the exchange.
    fn poll_flush(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        let cx = &*self.0;
        if let Some(downstream) = &mut *cx.downstream.borrow_mut()
            && cx.flushed(downstream.recv_bytes())
            && std::mem::take(&mut downstream.is_held)
        {
            task.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    /// Closing is [`super::close`]'s.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
