//! The life of one downstream HTTP connection, from accept to close.
//!
//! ```text
//! head ─┬▶ express ────────────────────────────────────────────────────────────▶ socket
//!       └▶ hyper's server ─▶ exchange (route, plugins, pick, forward) ─▶ hyper ─▶ socket
//! ```
//!
//! [`ConnectionCx`] owns the socket and everything that gate, exchange and record share; [`close`] is
//! the only place that ends a connection.

pub(crate) mod gated;

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    net::SocketAddr,
    os::fd::AsFd as _,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use self::gated::{Downstream, GatedIo};
use crate::{
    deadlines::{Deadlines, Wait},
    drain::{Drained, Order},
    error::Fault,
    exchange, express,
    forward::Via,
    http::{
        answer::{After, Answer},
        fields::{Forwarding, Scheme},
        head::RequestHead,
    },
    inlet::BodySource,
    kernel::{Join, Meter},
    record::RequestRecord,
    worker::{ListenerCx, Worker},
};

/// How long a connection that was answered with bytes still under way is kept open, so that the
/// reset those bytes would provoke does not destroy the answer.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
/// hyper buffers at most this much, in either direction; more only makes one slow side cost more.
const BUFFER_MAX: usize = 64 * 1024;

/// What one downstream connection's stages share.
pub(crate) struct ConnectionCx {
    pub(crate) worker: Rc<Worker>,
    pub(crate) listener: Rc<ListenerCx>,
    pub(crate) peer: SocketAddr,
    pub(crate) deadlines: Deadlines,
    /// What nodes are told about this connection.
    pub(crate) forwarding: Forwarding,
    /// Taken when the connection closes.
    downstream: RefCell<Option<Downstream>>,
    /// The head the gate let in, until the exchange takes it.
    head: RefCell<Option<RequestHead>>,
    record: RefCell<Option<RequestRecord>>,
    phase: Cell<Phase>,
    /// Found between messages: the connection itself answers and closes.
    refusal: Cell<Option<Fault>>,
    /// Found in a body under way: the exchange answers if it still can.
    body_fault: Cell<Option<Fault>>,
    sent_bytes: Cell<u64>,
    leg: Cell<LegState>,
    meter: RefCell<Option<Meter>>,
    order: Cell<Order>,
    waker: RefCell<Option<Waker>>,
}

/// Whether the kernel delivers between the connection and its client, who is on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LegState {
    /// Not asked for: no request has come yet.
    Fresh,
    /// A request has come; a second one shows that it is worth it.
    Used,
    Tcp,
    Joined,
}

/// Who carries a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    Express,
    Hyper,
}

impl Lane {
    pub const ALL: [Lane; 2] = [Lane::Express, Lane::Hyper];

    /// Label in the access log and in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Lane::Express => "express",
            Lane::Hyper => "hyper",
        }
    }
}

/// Where the connection stands in its current exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Between,
    /// A request was let in and its response is not complete.
    Exchange,
    /// The response is complete in hyper's buffer.
    Answered,
}

impl ConnectionCx {
    fn new(
        worker: Rc<Worker>,
        listener: Rc<ListenerCx>,
        stream: TcpStream,
        peer: SocketAddr,
    ) -> Self {
        let pseudonym = worker.pipeline.pseudonym().clone();
        let port = listener.address.port();
        let forwarding = Forwarding::new(peer.ip(), port, Scheme::Http, pseudonym);
        let downstream = RefCell::new(Some(Downstream::new(stream, &worker.limits)));
        Self {
            worker,
            listener,
            peer,
            deadlines: Deadlines::default(),
            forwarding,
            downstream,
            head: RefCell::default(),
            record: RefCell::default(),
            phase: Cell::new(Phase::Between),
            refusal: Cell::default(),
            body_fault: Cell::default(),
            sent_bytes: Cell::default(),
            leg: Cell::new(LegState::Fresh),
            meter: RefCell::default(),
            order: Cell::new(Order::Run),
            waker: RefCell::default(),
        }
    }

    fn order(&self, order: Order) {
        self.order.set(order);
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.order.get() != Order::Run
    }

    pub(crate) fn take_head(&self) -> Option<RequestHead> {
        self.head.borrow_mut().take()
    }

    /// Amends the record of the exchange under way.
    pub(crate) fn record(&self, amend: impl FnOnce(&mut RequestRecord)) {
        if let Some(record) = &mut *self.record.borrow_mut() {
            amend(record);
        }
    }

    pub(crate) fn body_fault(&self) -> Option<Fault> {
        self.body_fault.get()
    }

    /// Whether the downstream has sent, or handed over, only a part of its request.
    pub(crate) fn is_body_owed(&self) -> bool {
        self.downstream.borrow().as_ref().is_none_or(Downstream::is_message_owed)
    }

    pub(crate) fn count_sent(&self, bytes: u64) {
        self.sent_bytes.set(self.sent_bytes.get() + bytes);
    }

    /// The last byte of the response is in hyper's hands, or never will be.
    pub(crate) fn response_over(&self) {
        self.phase.set(Phase::Answered);
    }

    /// The next request's head; `None`: no more requests come.
    pub(crate) fn poll_head(&self, task: &mut Context<'_>) -> Poll<Option<RequestHead>> {
        match &mut *self.downstream.borrow_mut() {
            Some(downstream) => downstream.poll_head(self, task),
            None => Poll::Ready(None),
        }
    }

    /// Lets a request in for hyper.
    pub(crate) fn admit(&self, head: RequestHead) {
        if let Some(downstream) = &mut *self.downstream.borrow_mut() {
            downstream.admit(self, head);
        }
    }

    /// Lets a request in for the express lane; `false`: what came of its body with the head is
    /// broken, and the connection ends with the answer to that.
    pub(crate) fn admit_plain(&self, head: &RequestHead) -> bool {
        let admitted = match &mut *self.downstream.borrow_mut() {
            Some(downstream) => downstream.admit_plain(self, head),
            None => Err(Fault::DownstreamReset),
        };
        self.begin(head.clone(), Lane::Express);
        match admitted {
            Ok(()) => true,
            Err(fault) => {
                self.refuse_begun(fault);
                false
            }
        }
    }

    /// Lets `use_it` at the body of the request in the express lane; `None`: the connection is gone.
    pub(crate) fn with_body<T>(&self, use_it: impl FnOnce(BodySource<'_>) -> T) -> Option<T> {
        self.downstream.borrow_mut().as_mut()?.with_body(use_it)
    }

    /// Body bytes of the request under way that have been taken so far.
    pub(crate) fn recv_bytes(&self) -> u64 {
        self.downstream.borrow().as_ref().map_or(0, Downstream::recv_bytes)
    }

    /// Lets `use_it` at the downstream's socket.
    pub(crate) fn with_downstream<T>(
        &self,
        use_it: impl FnOnce(&mut TcpStream) -> Poll<Result<T, Fault>>,
    ) -> Poll<Result<T, Fault>> {
        match &mut *self.downstream.borrow_mut() {
            Some(downstream) => use_it(downstream.stream_mut()),
            None => Poll::Ready(Err(Fault::DownstreamReset)),
        }
    }

    /// Whether nobody may `splice(2)` from the downstream.
    pub(crate) fn is_leg(&self) -> bool {
        self.leg.get() == LegState::Joined
    }

    /// A connection that lives for more than one request is worth what it costs to deliver directly.
    fn join_leg(&self, stream: &TcpStream) {
        let next = match self.leg.get() {
            LegState::Fresh if self.listener.is_same_host => LegState::Used,
            LegState::Used => match self.worker.kernel.join_leg(stream.as_fd()) {
                Join::Joined(meter) => {
                    *self.meter.borrow_mut() = meter;
                    LegState::Joined
                }
                Join::NotNow => LegState::Used,
                Join::Never => LegState::Tcp,
            },
            LegState::Fresh | LegState::Tcp => LegState::Tcp,
            LegState::Joined => LegState::Joined,
        };
        self.leg.set(next);
    }

    /// The gate let a request in.
    pub(crate) fn begin(&self, head: RequestHead, lane: Lane) {
        let mut record = RequestRecord::begin(&self.worker, &self.listener, self.peer);
        record.head(&head);
        record.lane(lane);
        *self.record.borrow_mut() = Some(record);
        if lane == Lane::Hyper {
            *self.head.borrow_mut() = Some(head);
        }
        self.sent_bytes.set(0);
        self.phase.set(Phase::Exchange);
    }

    /// The gate refuses what came instead of a request.
    fn refuse(&self, fault: Fault) {
        let mut record = RequestRecord::begin(&self.worker, &self.listener, self.peer);
        record.fault(fault);
        *self.record.borrow_mut() = Some(record);
        self.refusal.set(Some(fault));
    }

    /// The same for a request that was let in and turned out broken before anybody saw it.
    fn refuse_begun(&self, fault: Fault) {
        self.record(|record| record.fault(fault));
        self.refusal.set(Some(fault));
    }

    /// Everything is written: the exchange is over and the next request may come in.
    pub(crate) fn flushed(&self, recv_bytes: u64) {
        if self.phase.get() == Phase::Answered {
            self.phase.set(Phase::Between);
            self.finish_record(recv_bytes);
        }
    }

    fn finish_record(&self, recv_bytes: u64) {
        if let Some(mut record) = self.record.borrow_mut().take() {
            if let Some(meter) = &mut *self.meter.borrow_mut() {
                record.delivered(meter.advance());
            }
            record.finish(self.sent_bytes.get(), recv_bytes, Via::User);
        }
    }
}

impl Drained for ConnectionCx {
    fn drain(&self) {
        self.order(self.order.get().max(Order::Drain));
    }

    fn end(&self) {
        self.order(Order::End);
    }
}

/// Serves a connection until either side, a limit or a drain ends it.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    listener: Rc<ListenerCx>,
    stream: TcpStream,
    peer: SocketAddr,
) {
    let cx = Rc::new(ConnectionCx::new(worker, listener, stream, peer));
    let _live = cx.worker.live.register(Rc::clone(&cx) as Rc<dyn Drained>);
    converse(&cx).await;
    close(&cx).await;
}

/// Exchanges until there is nothing more to exchange; between bursts of requests the connection is
/// nothing but a socket that somebody waits on.
async fn converse(cx: &Rc<ConnectionCx>) {
    let first = if cx.listener.has_express_lane { Lane::Express } else { Lane::Hyper };
    let mut lane = first;
    loop {
        let lull = match lane {
            Lane::Express => attend(cx, Box::pin(express::serve(Rc::clone(cx)))).await,
            Lane::Hyper => attend(cx, Box::pin(hyper_lane(cx))).await,
        };
        lane = match lull {
            Lull::Turn(other) => other,
            Lull::Resting => {
                cx.rest();
                if poll_fn(|task| cx.poll_rested(task)).await == Lull::Ended {
                    return;
                }
                first
            }
            Lull::Ended => return,
        }
    }
}

/// Why a lane has nothing more to exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lull {
    /// The next request is for this one.
    Turn(Lane),
    /// The downstream has been silent for a while.
    Resting,
    Ended,
}

/// Runs hyper over the gated bytes, until the next request may be for the express lane. hyper holds
/// two buffers of 8 KiB, which is why it goes when the downstream falls silent.
async fn hyper_lane(cx: &Rc<ConnectionCx>) -> Lull {
    let service = service_fn(|request| exchange::serve(Rc::clone(cx), request));
    let mut http = std::pin::pin!(
        http1::Builder::new()
            // The gate decides what an end of stream means.
            .half_close(true)
            .max_buf_size(BUFFER_MAX)
            .serve_connection(TokioIo::new(GatedIo(Rc::clone(cx))), service),
    );
    poll_fn(|task| match http.as_mut().poll(task) {
        Poll::Ready(result) => {
            if let Err(error) = result {
                tracing::debug!(downstream = %cx.peer, %error, "connection ended");
            }
            Poll::Ready(Lull::Ended)
        }
        Poll::Pending if cx.listener.has_express_lane && cx.awaits_head() => {
            Poll::Ready(Lull::Turn(Lane::Express))
        }
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// Drives a lane, and watches what it does not: the order to drain, a reset by the downstream, and
/// the deadlines.
async fn attend(cx: &Rc<ConnectionCx>, mut lane: Pin<Box<impl Future<Output = Lull>>>) -> Lull {
    poll_fn(|task| {
        cx.remember(task);
        if cx.order.get() == Order::End {
            cx.record(|record| record.fault(Fault::DrainDeadline));
            return Poll::Ready(Lull::Ended);
        }
        loop {
            if let Poll::Ready(lull) = lane.as_mut().poll(task) {
                return Poll::Ready(lull);
            }
            if cx.poll_reset(task).is_ready() {
                return Poll::Ready(Lull::Ended);
            }
            if cx.deadlines.poll_expired(task).is_pending() {
                return Poll::Pending;
            }
            if cx.deadlines.take_expired(Wait::Rest) && cx.phase.get() == Phase::Between {
                return Poll::Ready(Lull::Resting);
            }
        }
    })
    .await
}

impl ConnectionCx {
    fn remember(&self, task: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        match &mut *waker {
            Some(known) => known.clone_from(task.waker()),
            None => *waker = Some(task.waker().clone()),
        }
    }

    fn rest(&self) {
        self.deadlines.stop(Wait::Rest);
        if let Some(downstream) = &mut *self.downstream.borrow_mut() {
            downstream.rest();
        }
    }

    /// Waits for the downstream to break its silence; the idle time runs on.
    fn poll_rested(&self, task: &mut Context<'_>) -> Poll<Lull> {
        self.remember(task);
        let has_expired = self.deadlines.poll_expired(task).is_ready()
            && self.deadlines.has_expired(Wait::Downstream);
        match &*self.downstream.borrow() {
            Some(downstream) if !has_expired && !self.is_draining() => {
                downstream.poll_readable(task).map(|()| Lull::Resting)
            }
            Some(_) | None => Poll::Ready(Lull::Ended),
        }
    }

    fn awaits_head(&self) -> bool {
        self.downstream.borrow().as_ref().is_some_and(Downstream::awaits_head)
    }

    /// Reads ahead while an exchange is under way, a head's worth at most. Ready: the downstream has
    /// reset the connection, nobody waits for the response any more. Its end of stream is no reason
    /// to stop, a downstream may close its sending side after the request.
    fn poll_reset(&self, task: &mut Context<'_>) -> Poll<()> {
        match &mut *self.downstream.borrow_mut() {
            Some(downstream) => downstream.poll_ahead(task).map(|_error| {
                self.record(|record| record.fault(Fault::DownstreamReset));
            }),
            None => Poll::Ready(()),
        }
    }
}

/// Ends the connection: answers what the gate refused, finishes the record, closes.
async fn close(cx: &ConnectionCx) {
    let Some(downstream) = cx.downstream.take() else { return };
    let (mut stream, recv_bytes, is_unread) = downstream.into_parts();
    let has_reset = cx.order.get() == Order::End;
    if let Some(fault) = cx.refusal.get() {
        answer(cx, &mut stream, fault).await;
    } else if cx.phase.get() != Phase::Between {
        let fault = cx.body_fault().unwrap_or(Fault::DownstreamReset);
        cx.record(|record| record.fault(fault));
    }
    cx.finish_record(recv_bytes);
    if !has_reset && (is_unread || cx.refusal.get().is_some()) {
        linger(&mut stream).await;
    }
}

/// The proxy's answer to a head that never became a request.
async fn answer(cx: &ConnectionCx, stream: &mut TcpStream, fault: Fault) {
    let Some(status) = fault.consequence().status else { return };
    let answer = Answer::of(status);
    let mut is_head = false;
    cx.record(|record| {
        record.status(status.as_u16());
        is_head = record.method() == Some("HEAD");
    });
    let method = is_head.then_some("HEAD");
    cx.count_sent(answer.body_for(method).len() as u64);
    let bytes = answer.to_bytes(method, After::Close, &cx.worker.date());
    let written = timeout(cx.worker.timeouts.send, stream.write_all(&bytes)).await;
    if !matches!(written, Ok(Ok(()))) {
        tracing::debug!(downstream = %cx.peer, "answer not taken");
    }
}

/// Sends our FIN and waits a while for the downstream's: closing a socket with unread bytes
/// resets it, and a reset may overtake the answer (RFC 9112 section 9.6).
async fn linger(stream: &mut TcpStream) {
    let drained = async {
        stream.shutdown().await?;
        // Not in the future, which every connection would carry around for it.
        let mut scratch = vec![0; 4096];
        while stream.read(&mut scratch).await? > 0 {}
        std::io::Result::Ok(())
    };
    // Whatever comes of it, the socket is closed next.
    drop(timeout(LINGER_TIMEOUT, drained).await);
}
