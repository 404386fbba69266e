//! The record of one request or one tunnel: filled along the way, finished once.
//!
//! A record that is dropped unfinished was cancelled by the downstream, and says so.

use std::{
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use crate::{
    access_log::Entry,
    connection::Lane,
    error::Fault,
    forward::{Moved, Transfer, Via},
    http::{answer::Answer, fields::Scheme, head::RequestHead},
    kernel::Passed,
    metrics::{Direction, NORMAL_END, RouteMetrics},
    plugin::{Chain, Consumer, Detail, Finished, Kept, KeptBody, LoggedBodies},
    route::stream::StreamRoute,
    snapshot::Snapshot,
    upstream::{balance::NodeIndex, group::Upstream, health::Outcome},
    variable::Ends,
    worker::{ListenerCx, Worker},
};

pub(crate) struct RequestRecord {
    worker: Rc<Worker>,
    listener: Rc<ListenerCx>,
    downstream: SocketAddr,
    at: Option<SystemTime>,
    started: Instant,
    /// Whether somebody logs it: what only logs say is not looked for otherwise.
    is_logged: bool,
    head: Option<RequestHead>,
    lane: Option<Lane>,
    route: Option<Routed>,
    /// Position among the consumers.
    consumer: Option<usize>,
    /// Whom the downstream speaks for.
    client: Option<IpAddr>,
    /// Only where a log hook asks for it; boxed, as few do.
    detail: Option<Box<Detail>>,
    /// Bytes that are kept of bodies for it, by [`Direction`].
    kept_sizes: [usize; 2],
    /// What plugins have asked to be kept until the end.
    kept: Kept,
    /// Where the request went, if not where its route leads to.
    diverted: Option<Arc<Upstream>>,
    node: Option<SocketAddr>,
    /// The node whose response is under way, and what it is judged by when that is over.
    answering: Option<(NodeIndex, Outcome)>,
    status: Option<u16>,
    upstream_status: Option<u16>,
    connect: Option<Duration>,
    first_byte: Option<Duration>,
    is_reused: bool,
    fault: Option<Fault>,
    /// Body bytes by [`Direction`].
    spliced: [u64; 2],
    /// Bytes of the downstream's connection that were delivered without TCP, by [`Direction`].
    delivered: [u64; 2],
    /// Whether that was so for any of the node's.
    is_node_delivered: bool,
    /// When the response had gone to the client past us.
    passed: Option<Duration>,
    /// Body bytes that have, if any of the response has.
    past: Option<u64>,
    is_finished: bool,
}

/// The configured route that the record belongs to.
#[derive(Clone)]
pub(crate) enum Routed {
    /// By its position in these rules; `None`: none of them took the request.
    Http(Snapshot, Option<usize>),
    Stream(Arc<StreamRoute>),
}

impl RequestRecord {
    pub(crate) fn begin(
        worker: &Rc<Worker>,
        listener: &Rc<ListenerCx>,
        downstream: SocketAddr,
    ) -> Self {
        Self {
            worker: Rc::clone(worker),
            listener: Rc::clone(listener),
            downstream,
            at: worker.access_log.is_some().then(SystemTime::now),
            started: Instant::now(),
            is_logged: worker.access_log.is_some(),
            head: None,
            lane: None,
            route: None,
            consumer: None,
            client: None,
            detail: None,
            kept_sizes: [0; 2],
            kept: Kept::default(),
            diverted: None,
            node: None,
            answering: None,
            status: None,
            upstream_status: None,
            connect: None,
            first_byte: None,
            is_reused: false,
            fault: None,
            spliced: [0; 2],
            delivered: [0; 2],
            is_node_delivered: false,
            passed: None,
            past: None,
            is_finished: false,
        }
    }

    pub(crate) fn head(&mut self, head: &RequestHead) {
        self.head = Some(head.clone());
    }

    /// `None` if no head ever came.
    pub(crate) fn method(&self) -> Option<&str> {
        self.head.as_ref().map(RequestHead::method)
    }

    pub(crate) fn lane(&mut self, lane: Lane) {
        self.lane = Some(lane);
    }

    pub(crate) fn route(&mut self, route: Routed) {
        self.route = Some(route);
    }

    /// Who was authenticated, and whom the downstream speaks for; the route is known.
    pub(crate) fn asked_by(&mut self, consumer: Option<&Consumer>, client: Option<IpAddr>) {
        self.consumer = consumer.map(|consumer| consumer.index);
        self.client = client;
        let Some(hooks) = self.chain().map(|chain| chain.hooks(consumer)) else { return };
        self.is_logged |= hooks.log;
        self.kept_sizes = [hooks.kept_response, hooks.kept_request];
        if hooks.log_detail {
            self.detail.get_or_insert_default();
        }
    }

    /// Where the body that is about to pass is kept, if it is.
    pub(crate) fn keep_body(&mut self, direction: Direction) -> Option<KeptBody> {
        let size_max = self.kept_sizes[direction as usize];
        let detail = self.detail.as_deref_mut().filter(|_| size_max > 0)?;
        let kept = KeptBody::new(size_max, &self.worker.logged);
        let slot = match direction {
            Direction::Sent => &mut detail.response,
            Direction::Recv => &mut detail.request,
        };
        *slot = Some(kept.clone());
        Some(kept)
    }

    /// The plugins that the request passes.
    fn chain(&self) -> Option<&Chain> {
        match self.route.as_ref()? {
            Routed::Http(rules, Some(index)) => Some(&rules.routes()[*index].chain),
            Routed::Http(rules, None) => Some(rules.unrouted()),
            Routed::Stream(_) => None,
        }
    }

    /// This head leaves, and whatever is behind it.
    pub(crate) fn sends(&mut self, head: &[u8]) {
        if let Some(detail) = &mut self.detail {
            detail.send(head);
        }
    }

    /// This leaves, in place of a node's response.
    pub(crate) fn answer(&mut self, answer: &Answer) {
        self.status(answer.status.as_u16());
        if let Some(kept) = self.keep_body(Direction::Sent) {
            kept.piece(answer.body_for(self.method()));
        }
        if let Some(detail) = &mut self.detail {
            detail.answer(answer);
        }
    }

    pub(crate) fn diverted(&mut self, upstream: &Arc<Upstream>) {
        self.diverted = Some(Arc::clone(upstream));
    }

    /// This node's response is the one that leaves.
    pub(crate) fn answered_by(&mut self, node: NodeIndex, status: u16) {
        self.answering = Some((node, Outcome::Status(status)));
    }

    /// Its response has broken off, and it is to blame.
    pub(crate) fn blame(&mut self, fault: Fault) {
        if let (Some((_, outcome)), Some(broken)) = (&mut self.answering, Outcome::of_fault(fault))
        {
            *outcome = broken;
        }
    }

    /// The node has answered `upstream`, of which plugins have made `downstream`, if anything else.
    pub(crate) fn answered(&mut self, upstream: u16, downstream: Option<http::StatusCode>) {
        self.upstream_status = Some(upstream);
        self.status(downstream.map_or(upstream, |status| status.as_u16()));
    }

    pub(crate) fn keep(&mut self, kept: Kept) {
        self.kept = kept;
    }

    /// When the request was let in.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// The node that was tried last, and how long dialling took if it was dialled.
    pub(crate) fn node(&mut self, node: SocketAddr, connect: Option<Duration>) {
        self.node = Some(node);
        self.is_reused = connect.is_none();
        if let Some(detail) = &mut self.detail {
            let now = self.started.elapsed();
            detail.ask(now.saturating_sub(connect.unwrap_or_default()));
        }
        if let Some(connect) = connect {
            self.connect = Some(self.connect.unwrap_or_default() + connect);
        }
    }

    /// The response head is on its way.
    pub(crate) fn status(&mut self, status: u16) {
        self.status = Some(status);
        if self.is_logged {
            self.first_byte = Some(self.started.elapsed());
        }
    }

    /// Body bytes that were not copied on their way.
    pub(crate) fn spliced(&mut self, direction: Direction, bytes: u64) {
        self.spliced[direction as usize] += bytes;
    }

    /// Bytes that the kernel delivered between the downstream and us, heads included.
    pub(crate) fn delivered(&mut self, bytes: [u64; 2]) {
        self.delivered = bytes;
    }

    /// The response has gone to the client past us, whole.
    pub(crate) fn passed(&mut self, passed: &Passed) {
        self.passed_in_part(passed);
        self.passed = Some(self.after(passed.at));
    }

    /// Some of the response has, its head at least.
    pub(crate) fn passed_in_part(&mut self, passed: &Passed) {
        self.status = Some(passed.status);
        self.first_byte = Some(self.after(passed.begun));
        self.past = Some(passed.passed);
    }

    fn after(&self, at: std::time::Instant) -> Duration {
        at.saturating_duration_since(self.started.into_std())
    }

    /// The kernel delivered between the node and us.
    pub(crate) fn node_delivered(&mut self) {
        self.is_node_delivered = true;
    }

    /// Why it did not go well; the first reason stays.
    pub(crate) fn fault(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
    }

    /// Once, and then it is dropped. What was neither spliced nor delivered went `via`.
    pub(crate) fn finish(&mut self, sent_bytes: u64, recv_bytes: u64, via: Via) {
        self.emit_exchange(sent_bytes, recv_bytes, via);
    }

    pub(crate) fn finish_tunnel(mut self, transfer: &Transfer) {
        self.emit(transfer.sent, transfer.recv, transfer.via);
    }

    fn emit_exchange(&mut self, sent_bytes: u64, recv_bytes: u64, carried: Via) {
        let sent = self.moved(Direction::Sent, sent_bytes, carried);
        let recv = self.moved(Direction::Recv, recv_bytes, carried);
        self.emit(sent, recv, self.via(carried));
    }

    /// Writes the access-log line and counts; the one place that does.
    fn emit(&mut self, sent: Moved, recv: Moved, via: Via) {
        self.is_finished = true;
        let total = self.passed.unwrap_or_else(|| self.started.elapsed());
        let end = self.fault.map_or(NORMAL_END, |fault| fault.consequence().end);
        if let Some(fault) = self.fault {
            self.worker.metrics.fault(fault);
        }
        if let Some(lane) = self.lane {
            self.worker.metrics.lane(lane);
        }
        let metrics = self.route_metrics();
        metrics.finished(self.status, end, total);
        metrics.moved(Direction::Sent, sent);
        metrics.moved(Direction::Recv, recv);
        if let (Some((node, outcome)), Some(upstream)) = (self.answering, self.upstream()) {
            upstream.observe(node, outcome);
        }
        let (sent_bytes, recv_bytes) = (sent.total(), recv.total());
        self.log_hooks(sent_bytes, recv_bytes, total);
        let (Some(log), Some(at)) = (&self.worker.access_log, self.at) else { return };
        let head = self.head.as_ref();
        log.write(&Entry {
            at,
            downstream: self.downstream,
            listener: &self.listener.name,
            route: self.route_id(),
            upstream: self.upstream().map(|upstream| &**upstream.id()),
            node: self.node,
            method: head.map(RequestHead::method),
            host: head.and_then(RequestHead::host),
            path: head.map(|head| head.path_and_query().0),
            status: self.status,
            sent_bytes,
            recv_bytes,
            total,
            connect: self.connect,
            first_byte: self.first_byte,
            is_reused: self.is_reused,
            lane: self.lane,
            via,
            end,
        });
    }

    /// By the paths that were noted on the way, the rest as `carried`.
    fn moved(&self, direction: Direction, bytes: u64, carried: Via) -> Moved {
        let past = match direction {
            Direction::Sent => self.past.map_or(0, |past| past.min(bytes)),
            Direction::Recv => 0,
        };
        let bytes = bytes - past;
        // What went past us was delivered too, and what was spliced into a socket may have been.
        let delivered = self.delivered[direction as usize].saturating_sub(past).min(bytes);
        let spliced = self.spliced[direction as usize].min(bytes - delivered);
        Moved::default()
            .and(Via::Bypass, past)
            .and(Via::Local, delivered)
            .and(Via::Splice, spliced)
            .and(carried, bytes - delivered - spliced)
    }

    /// What is said of the whole: the path on which the kernel did most for any part of it.
    fn via(&self, carried: Via) -> Via {
        if self.past.is_some() {
            Via::Bypass
        } else if self.is_node_delivered || self.delivered != [0; 2] {
            Via::Local
        } else if self.spliced != [0; 2] {
            Via::Splice
        } else {
            carried
        }
    }

    fn log_hooks(&self, sent_bytes: u64, recv_bytes: u64, total: Duration) {
        let (Some(Routed::Http(rules, index)), Some(chain), Some(head)) =
            (&self.route, self.chain(), &self.head)
        else {
            return;
        };
        let consumer = self.consumer.and_then(|index| rules.consumers().get(index));
        if !chain.hooks(consumer).log {
            return;
        }
        let (peer, local, status) = (self.downstream, self.listener.address, self.status);
        let client = self.client.unwrap_or(peer.ip());
        let finished = Finished {
            head,
            ends: Ends { peer, client, local, scheme: Scheme::Http },
            router: rules.router(),
            route: index.map(|index| &rules.routes()[index].names),
            node: self.node,
            connect: self.connect,
            first_byte: self.first_byte,
            begun: self.worker.clock.at(self.started.into_std()).unix(),
            detail: self.detail.as_deref(),
            bodies: LoggedBodies::default(),
            consumer,
            status,
            upstream_status: self.upstream_status.or(status.filter(|_| self.node.is_some())),
            kept: &self.kept,
            sent_bytes,
            recv_bytes,
            total,
        };
        chain.log(&finished);
        let kept = self.detail.iter().flat_map(|detail| [&detail.request, &detail.response]);
        for cut in kept.flatten().filter_map(|body| body.look().cut()) {
            self.worker.metrics.logged_body_cut(cut);
        }
    }

    fn route_metrics(&self) -> &RouteMetrics {
        let (listener, metrics) = (&self.listener, &self.worker.metrics);
        match &self.route {
            Some(Routed::Http(rules, Some(index))) => {
                let route = &rules.routes()[*index];
                route
                    .metrics
                    .get(listener.number, || metrics.route(&listener.name, &route.names.id))
            }
            Some(Routed::Stream(route)) => {
                let id = &route.config.id;
                route.metrics.get(listener.number, || metrics.route(&listener.name, id))
            }
            Some(Routed::Http(_, None)) | None => &listener.no_route,
        }
    }

    fn route_id(&self) -> Option<&str> {
        match self.route.as_ref()? {
            Routed::Http(rules, index) => Some(&rules.routes()[(*index)?].names.id),
            Routed::Stream(route) => Some(&route.config.id),
        }
    }

    fn upstream(&self) -> Option<&Upstream> {
        let of_route = match self.route.as_ref()? {
            Routed::Http(rules, index) => rules.routes()[(*index)?].upstream.as_deref(),
            Routed::Stream(route) => Some(&*route.upstream),
        };
        self.diverted.as_deref().or(of_route)
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        if !self.is_finished {
            self.fault(Fault::DownstreamReset);
            self.emit_exchange(0, 0, Via::User);
        }
    }
}
