//! What the stages of one downstream connection share: its socket, the record of the exchange under
//! way, its deadlines, and where it stands.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    os::fd::{AsFd as _, BorrowedFd},
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{net::TcpStream, time::Instant};

use super::{
    Lane, Lull,
    gated::{Downstream, REST_AFTER},
    leg::ClientLeg,
};
use crate::{
    config::NodeWaits,
    deadlines::{Deadlines, Wait},
    drain::{Drained, Order},
    error::Fault,
    express::{
        bypass::Passage,
        relay::{News, Splicing},
    },
    forward::{Fallback, Via},
    http::{
        fields::{Forwarding, Scheme},
        head::RequestHead,
    },
    inlet::BodySource,
    kernel::{LegWatch, Meter},
    lead::Lead,
    metrics::Direction,
    plugin::{KeptBody, Origin},
    record::RequestRecord,
    sys,
    upstream::plain::PlainConnection,
    worker::{ListenerCx, Worker},
};

/// A downstream that was waited for so long, in sum, may be what its node gives up: shorter than the
/// patience of any node, be it with a pause or with a whole response.
const STALL_MIN: Duration = Duration::from_secs(1);

/// What one downstream connection's stages share.
pub(crate) struct ConnectionCx {
    pub(crate) worker: Rc<Worker>,
    pub(crate) listener: Rc<ListenerCx>,
    pub(crate) peer: SocketAddr,
    pub(crate) deadlines: Deadlines,
    /// Of the exchange under way.
    pub(crate) node_waits: Cell<NodeWaits>,
    /// What nodes are told about this connection.
    pub(crate) forwarding: Forwarding,
    /// Taken when the connection closes.
    pub(super) downstream: RefCell<Option<Downstream>>,
    /// The head the gate let in for hyper's lane, until the exchange takes it.
    head: RefCell<Option<RequestHead>>,
    /// The head of the response that hyper is about to write.
    pub(super) lead: RefCell<Option<Lead>>,
    pub(super) record: RefCell<Option<RequestRecord>>,
    pub(super) phase: Cell<Phase>,
    /// Found between messages: the connection itself answers and closes.
    pub(super) refusal: Cell<Option<Fault>>,
    /// Found in a body under way: the exchange answers if it still can.
    pub(super) body_fault: Cell<Option<Fault>>,
    sent_bytes: Cell<u64>,
    /// How long the response under way has waited for the downstream, in sum.
    stalled: Cell<Duration>,
    leg: ClientLeg,
    pub(crate) passage: Rc<Passage>,
    /// The downstream takes our FIN for the end of the response under way.
    pub(crate) is_end_meant: Cell<bool>,
    pub(super) order: Cell<Order>,
    waker: RefCell<Option<Waker>>,
}

/// Where the connection stands in its current exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Between,
    /// A request was let in and its response is not complete.
    Exchange,
    /// The response is complete, and not all of it written: hyper's lane alone has this.
    Answered,
}

impl ConnectionCx {
    pub(super) fn new(
        worker: Rc<Worker>,
        listener: Rc<ListenerCx>,
        stream: TcpStream,
        peer: SocketAddr,
    ) -> Self {
        let pseudonym = worker.rules.now().pseudonym().clone();
        let port = listener.address.port();
        let forwarding = Forwarding::new(peer.ip(), port, Scheme::Http, pseudonym);
        let downstream = RefCell::new(Some(Downstream::new(stream, &worker.limits)));
        let node_waits = Cell::new(worker.timeouts.of_node(None));
        Self {
            worker,
            listener,
            peer,
            deadlines: Deadlines::default(),
            node_waits,
            forwarding,
            downstream,
            head: RefCell::default(),
            lead: RefCell::default(),
            record: RefCell::default(),
            phase: Cell::new(Phase::Between),
            refusal: Cell::default(),
            body_fault: Cell::default(),
            sent_bytes: Cell::default(),
            stalled: Cell::default(),
            leg: ClientLeg::default(),
            passage: Rc::default(),
            is_end_meant: Cell::default(),
            order: Cell::new(Order::Run),
            waker: RefCell::default(),
        }
    }

    pub(super) fn order(&self, order: Order) {
        self.order.set(order);
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.order.get() != Order::Run
    }

    pub(super) fn hand_over(&self, head: RequestHead) {
        *self.head.borrow_mut() = Some(head);
    }

    pub(crate) fn take_head(&self) -> Option<RequestHead> {
        self.head.borrow_mut().take()
    }

    /// `head` leaves in place of the one that hyper makes of the response it is given next.
    pub(crate) fn lead_with(&self, head: Vec<u8>) {
        *self.lead.borrow_mut() = Some(Lead::response(head));
    }

    /// Where and when the request under way has come from.
    pub(crate) fn origin(&self) -> Origin {
        let record = self.record.borrow();
        let instant = record.as_ref().map_or_else(Instant::now, RequestRecord::started);
        let now = self.worker.clock.at(instant.into_std());
        Origin { peer: self.peer, local: self.listener.address, now }
    }

    /// Amends the record of the exchange under way.
    pub(crate) fn record(&self, amend: impl FnOnce(&mut RequestRecord)) {
        if let Some(record) = &mut *self.record.borrow_mut() {
            amend(record);
        }
    }

    /// The downstream is not waited for any more.
    pub(crate) fn stop_sending(&self) {
        self.note_stall();
        self.deadlines.stop(Wait::Send);
    }

    fn note_stall(&self) {
        let waited = self.deadlines.waited(Wait::Send, self.worker.timeouts.send);
        if waited > Duration::ZERO {
            self.stalled.set(self.stalled.get().saturating_add(waited));
            self.deadlines.stop(Wait::Rest);
        }
    }

    /// The downstream takes nothing. If it is on this host, it may have left without a word.
    pub(crate) fn wait_to_send(&self) {
        self.deadlines.start(Wait::Send, self.worker.timeouts.send);
        if self.listener.is_same_host && self.leg.may_leave_silently() {
            self.deadlines.start(Wait::Rest, REST_AFTER);
        }
    }

    /// Whether a downstream that takes nothing never will, having been closed. TCP would have reset the
    /// connection; so do we.
    pub(super) fn has_left(&self) -> bool {
        let downstream = self.downstream.borrow();
        let stream = downstream.as_ref().map(Downstream::stream);
        let Some(stream) = stream.filter(|_| self.deadlines.is_under_way(Wait::Send)) else {
            return false;
        };
        if !self.leg.has_left(&self.worker.kernel, stream.as_fd()) {
            return false;
        }
        super::reset(stream);
        self.record(|record| record.fault(Fault::DownstreamReset));
        true
    }

    /// Whether the downstream is known to be gone. A node whose response goes past us may hear of that
    /// before we do.
    pub(crate) fn is_deserted(&self) -> bool {
        let downstream = self.downstream.borrow();
        let Some(downstream) = &*downstream else { return true };
        let socket = downstream.stream().as_fd();
        // Without that a client that has closed is not closed, for 40 ms.
        drop(sys::socket::acknowledge_now(socket));
        sys::socket::is_over(socket).unwrap_or(false)
            || self.leg.has_left(&self.worker.kernel, socket)
    }

    /// The response under way has broken off behind its head. The node is not to blame if it had to
    /// wait for the downstream: to read, or to send the rest of its request. One that was silent while
    /// there was room had not to wait for a reader.
    pub(crate) fn broke_off(&self, fault: Fault) {
        self.note_stall();
        let has_waited = self.stalled.get() >= STALL_MIN && fault != Fault::ResponseBodyTimedOut;
        let is_held_up = has_waited || self.is_body_owed();
        self.record(|record| {
            record.fault(fault);
            if !is_held_up {
                record.blame(fault);
            }
        });
    }

    /// Where the body that is about to pass is kept, if it is.
    pub(crate) fn keep_body(&self, direction: Direction) -> Option<KeptBody> {
        self.record.borrow_mut().as_mut()?.keep_body(direction)
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

    /// hyper has been given the last byte of the response, or never will be.
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
        match admitted {
            Ok(()) => true,
            Err(fault) => {
                self.refuse_begun(fault);
                false
            }
        }
    }

    /// Allows the request under way no more than `max` bytes of content.
    ///
    /// # Errors
    /// What came of it is more, or announces more.
    pub(crate) fn limit_body(&self, max: u64) -> Result<(), Fault> {
        self.downstream.borrow_mut().as_mut().map_or(Ok(()), |it| it.limit_body(max))
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
        self.leg.has_joined()
    }

    /// Lets the response to the request that is about to be sent go straight to the client.
    pub(crate) fn arm(&self, connection: &PlainConnection) {
        let Some(node) = connection.meter().filter(|_| self.passage.is_open(&self.worker.passages))
        else {
            return;
        };
        if let Some(downstream) = self.downstream.borrow().as_ref().filter(|it| it.is_quiet()) {
            let (kernel, socket) = (&self.worker.kernel, downstream.stream().as_fd());
            let arm = |client: &Meter| self.passage.arm(&self.worker.passages, node, client);
            self.leg.with_meter(kernel, socket, arm);
        }
    }

    /// Whether the client has sent more than the request under way.
    pub(crate) fn has_read_ahead(&self) -> bool {
        self.downstream.borrow().as_ref().is_some_and(Downstream::has_read_ahead)
    }

    /// Whether a response that may go past us has to be taken back for the client's haste.
    pub(super) fn is_impatient(&self, task: &Context<'_>) -> bool {
        self.has_read_ahead() && self.passage.is_overtaken(task)
    }

    /// A client that holds us up might hold up its node as well.
    pub(crate) fn check_leg(&self, watch: &LegWatch, socket: BorrowedFd<'_>) {
        if self.worker.kernel.check_leg(watch, socket) {
            self.passage.close();
        }
    }

    /// A client without memory for what is delivered to it gets everything by TCP. Whether what was not
    /// sent is to be sent again.
    pub(crate) fn deliver_no_more(&self, socket: BorrowedFd<'_>, task: &Context<'_>) -> bool {
        let may_try_again = self.worker.kernel.deliver_no_more(socket);
        if may_try_again {
            self.passage.close();
            task.waker().wake_by_ref();
        }
        may_try_again
    }

    /// What the kernel delivers directly, `splice(2)` does not find.
    pub(crate) fn splicing(&self, source_is_leg: bool) -> Splicing<'_> {
        let min = if source_is_leg { u64::MAX } else { self.worker.limits.splice_min };
        Splicing { pipes: &self.worker.tunnels.pipes, min }
    }

    pub(crate) fn count_spliced(&self, direction: Direction, news: &News) {
        if news.spliced > 0 {
            self.record(|record| record.spliced(direction, news.spliced));
        }
        if news.has_fallen_back {
            self.worker.metrics.forward_fallback(Fallback::NoPipe);
        }
    }

    /// A request is let in: its exchange and its record begin.
    pub(super) fn begin(&self, head: &RequestHead, lane: Lane, stream: &TcpStream) {
        if self.listener.is_same_host {
            self.leg.another_request(&self.worker.kernel, stream.as_fd());
        }
        let mut slot = self.record.borrow_mut();
        let record = slot.insert(RequestRecord::begin(&self.worker, &self.listener, self.peer));
        record.head(head);
        record.lane(lane);
        self.sent_bytes.set(0);
        self.stalled.set(Duration::ZERO);
        self.phase.set(Phase::Exchange);
    }

    /// The gate refuses what came instead of a request.
    pub(super) fn refuse(&self, fault: Fault) {
        let mut record = RequestRecord::begin(&self.worker, &self.listener, self.peer);
        record.fault(fault);
        *self.record.borrow_mut() = Some(record);
        self.refusal.set(Some(fault));
    }

    /// The same for a request that was let in and turned out broken before anybody saw it.
    pub(super) fn refuse_begun(&self, fault: Fault) {
        self.record(|record| record.fault(fault));
        self.refusal.set(Some(fault));
    }

    /// hyper has written all it had: if that was the last of the response, the exchange is over.
    pub(super) fn flushed(&self, recv_bytes: u64) -> bool {
        let is_over = self.phase.get() == Phase::Answered;
        if is_over {
            self.end_exchange(recv_bytes);
        }
        is_over
    }

    /// The express lane has written the last byte of the response.
    pub(crate) fn exchange_over(&self) {
        // Read before that was written: the client does not wait for its responses.
        if self.has_read_ahead() {
            self.passage.close();
        }
        self.exchange_passed();
    }

    /// The response is in the client's queue without the lane, and the next request may be here.
    pub(crate) fn exchange_passed(&self) {
        self.end_exchange(self.recv_bytes());
    }

    /// The next request may come in.
    fn end_exchange(&self, recv_bytes: u64) {
        self.phase.set(Phase::Between);
        self.finish_record(recv_bytes);
    }

    pub(super) fn finish_record(&self, recv_bytes: u64) {
        let mut slot = self.record.borrow_mut();
        if let Some(record) = &mut *slot {
            record.delivered(self.leg.take_delivered());
            record.finish(self.sent_bytes.get(), recv_bytes, Via::User);
            *slot = None;
        }
    }

    pub(super) fn remember(&self, task: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        match &mut *waker {
            Some(known) => known.clone_from(task.waker()),
            None => *waker = Some(task.waker().clone()),
        }
    }

    pub(super) fn rest(&self) {
        self.deadlines.stop(Wait::Rest);
        if let Some(downstream) = &mut *self.downstream.borrow_mut() {
            downstream.rest();
        }
    }

    /// Waits for the downstream to break its silence; the idle time runs on.
    pub(super) fn poll_rested(&self, task: &mut Context<'_>) -> Poll<Lull> {
        self.remember(task);
        // Whatever else was waited for: only a deadline that is pending wakes again.
        while self.deadlines.poll_expired(task).is_ready() {}
        let has_expired = self.deadlines.has_expired(Wait::Downstream);
        let is_over = has_expired || self.is_draining();
        match &*self.downstream.borrow() {
            Some(downstream) if !is_over => downstream.poll_readable(task).map(|()| Lull::Resting),
            Some(downstream) if downstream.has_arrived() => Poll::Ready(Lull::Resting),
            Some(_) | None => Poll::Ready(Lull::Ended),
        }
    }

    pub(super) fn awaits_head(&self) -> bool {
        self.downstream.borrow().as_ref().is_some_and(Downstream::awaits_head)
    }

    /// Reads ahead while an exchange is under way, a head's worth at most. Ready: the downstream has
    /// reset the connection, nobody waits for the response any more. Its end of stream is no reason
    /// to stop, a downstream may close its sending side after the request.
    pub(super) fn poll_reset(&self, task: &mut Context<'_>) -> Poll<()> {
        match &mut *self.downstream.borrow_mut() {
            Some(downstream) => downstream.poll_ahead(task).map(|_error| {
                self.record(|record| record.fault(Fault::DownstreamReset));
            }),
            None => Poll::Ready(()),
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
