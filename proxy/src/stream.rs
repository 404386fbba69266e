//! The life of one L4 connection: stream route, node, tunnel, record, close.

use std::{cell::Cell, net::SocketAddr, rc::Rc, sync::Arc};

use tokio::{net::TcpStream, sync::Notify, time::Instant};

use crate::{
    drain::Drained,
    error::{Fault, Retry},
    forward::{self, Via},
    http::fields::Scheme,
    record::{RequestRecord, Routed},
    route::stream,
    sys::socket,
    upstream::{
        balance::{Picked, Tried},
        connect,
        group::Upstream,
        health::Outcome,
    },
    variable::Ends,
    worker::{ListenerCx, Worker},
};

/// Serves one TCP connection until either side, the idle timeout or a drain deadline ends it.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    listener: Rc<ListenerCx>,
    mut downstream: TcpStream,
    peer: SocketAddr,
) {
    let order = Rc::new(TunnelOrder::default());
    let _live = worker.live.register(Rc::clone(&order) as Rc<dyn Drained>);
    let mut record = RequestRecord::begin(&worker, &listener, peer);
    let local = downstream.local_addr().unwrap_or(listener.address);
    let local = SocketAddr::new(local.ip().to_canonical(), local.port());
    // A tunnel outlives many rules; it holds its own route and no other.
    let selected = stream::select(worker.rules.now().stream_routes(), local, peer).cloned();
    let Some(route) = selected else {
        record.fault(Fault::NoRoute);
        return record.finish(0, 0, Via::User);
    };
    record.route(Routed::Stream(Arc::clone(&route)));
    let ends = Ends { peer, client: peer.ip().to_canonical(), local, scheme: Scheme::Http };
    let (mut upstream, _busy) = match reach(&worker, &route.upstream, ends, &mut record).await {
        Ok(reached) => reached,
        Err(fault) => {
            record.fault(fault);
            // A connection to nowhere is refused the way a closed port refuses it.
            if let Err(error) = socket::reset_on_close(&downstream) {
                tracing::debug!(downstream = %peer, %error, "linger");
            }
            return record.finish(0, 0, Via::User);
        }
    };
    let deadline = order.ended();
    let transfer = forward::run(
        &mut downstream,
        &mut upstream,
        route.config.datapath,
        &worker.tunnels,
        deadline,
    )
    .await;
    if let Some(fallback) = transfer.fallback {
        worker.metrics.forward_fallback(fallback);
    }
    if let Some(fault) = transfer.end {
        record.fault(fault);
    }
    record.finish_tunnel(&transfer);
}

/// A connection to one of the upstream's nodes, which is busy until what was picked is dropped; one
/// that does not take it is passed over.
async fn reach(
    worker: &Worker,
    upstream: &Upstream,
    ends: Ends,
    record: &mut RequestRecord,
) -> Result<(TcpStream, Picked), Fault> {
    let metrics = &upstream.metrics;
    let key =
        upstream.config.hash_key.as_ref().map(|key| key.of_connection(ends)).unwrap_or_default();
    let connect_timeout = worker.timeouts.of_node(upstream.config.timeout).connect;
    let retries_end = upstream.config.retry_timeout.map(|timeout| Instant::now() + timeout);
    let retry_on = &upstream.config.retry_on;
    let mut tried = Tried::default();
    let mut last = Fault::NoNode;
    while tried.len() <= upstream.config.retries {
        let Some(picked) = worker.pick(upstream, &tried, key.as_bytes()) else { break };
        if !tried.is_empty() {
            if retries_end.is_some_and(|end| Instant::now() >= end) {
                return Err(Fault::RetriesTimedOut);
            }
            metrics.redial();
        }
        let node = upstream.balancer.node(picked.index()).address;
        let started = Instant::now();
        let dialled = connect::dial(node, connect_timeout, &worker.limits, |_| {}).await;
        record.node(node, Some(started.elapsed()));
        worker.dialled(upstream, node, &dialled);
        let fault = match dialled {
            Ok(stream) => {
                picked.answered(std::time::Instant::now);
                upstream.observe(picked.index(), Outcome::Connected);
                return Ok((stream, picked));
            }
            Err(fault) => fault,
        };
        if fault.is_of_node() {
            picked.failed(std::time::Instant::now);
        }
        if let Some(outcome) = Outcome::of_fault(fault) {
            upstream.observe(picked.index(), outcome);
        }
        if fault.consequence().retry != Retry::NextNode || !retry_on.connect_failure {
            return Err(fault);
        }
        last = fault;
        tried.insert(picked.index());
    }
    Err(last)
}

/// A tunnel has no end of its own that a drain could wait for sooner than the deadline: it runs on
/// until then.
#[derive(Default)]
struct TunnelOrder {
    is_ended: Cell<bool>,
    changed: Notify,
}

impl TunnelOrder {
    async fn ended(&self) {
        while !self.is_ended.get() {
            self.changed.notified().await;
        }
    }
}

impl Drained for TunnelOrder {
    fn drain(&self) {}

    fn end(&self) {
        self.is_ended.set(true);
        self.changed.notify_one();
    }
}
