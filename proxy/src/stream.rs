//! The life of one L4 connection: stream route, node, tunnel, record, close.

use std::{
    cell::Cell,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
};

use ipnet::IpNet;
use tokio::{net::TcpStream, sync::Notify, time::Instant};

use crate::{
    config::{self, Datapath},
    drain::Drained,
    error::{Fault, Retry},
    forward::{self, Via},
    pipeline::Upstream,
    record::{RequestRecord, RouteIndex},
    sys::socket,
    upstream::{balance::Tried, connect},
    worker::{ListenerCx, Worker},
};

/// A stream route with what it leads to.
#[derive(Debug)]
pub(crate) struct StreamRoute {
    pub(crate) id: Arc<str>,
    server_port: Option<u16>,
    server_addr: Option<IpAddr>,
    remote_addr: Option<IpNet>,
    datapath: Datapath,
    pub(crate) upstream: Arc<Upstream>,
}

impl StreamRoute {
    /// The configured stream routes, in configured order.
    pub(crate) fn all(
        configs: &[config::StreamRoute],
        upstreams: &[Arc<Upstream>],
    ) -> Arc<[StreamRoute]> {
        configs
            .iter()
            .map(|config| StreamRoute {
                id: Arc::clone(&config.id),
                server_port: config.server_port,
                server_addr: config.server_addr,
                remote_addr: config.remote_addr,
                datapath: config.datapath,
                upstream: Upstream::find(upstreams, &config.upstream),
            })
            .collect()
    }

    fn matches(&self, local: SocketAddr, peer: SocketAddr) -> bool {
        self.server_port.is_none_or(|port| port == local.port())
            && self.server_addr.is_none_or(|address| address == local.ip())
            && self.remote_addr.is_none_or(|network| network.contains(&peer.ip()))
    }
}

/// The first route in configured order whose conditions all hold (gateway conventions 5.9).
fn select(routes: &[StreamRoute], local: SocketAddr, peer: SocketAddr) -> Option<usize> {
    routes.iter().position(|route| route.matches(local, peer))
}

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
    let Some(index) = select(&worker.stream_routes, local, peer) else {
        record.fault(Fault::NoRoute);
        return record.finish(0, 0, Via::User);
    };
    record.route(RouteIndex::Stream(index));
    let route = &worker.stream_routes[index];
    let mut upstream = match reach(&worker, &route.upstream, &mut record).await {
        Ok(upstream) => upstream,
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
    let transfer =
        forward::run(&mut downstream, &mut upstream, route.datapath, &worker.tunnels, deadline)
            .await;
    if let Some(fallback) = transfer.fallback {
        worker.metrics.forward_fallback(fallback);
    }
    if let Some(fault) = transfer.end {
        record.fault(fault);
    }
    record.finish_tunnel(&transfer);
}

/// A connection to one of the upstream's nodes; one that does not take it is passed over.
async fn reach(
    worker: &Worker,
    upstream: &Upstream,
    record: &mut RequestRecord,
) -> Result<TcpStream, Fault> {
    let metrics = &worker.upstream_metrics[upstream.index];
    let mut tried = Tried::default();
    let mut last = Fault::NoNode;
    while tried.len() <= upstream.retries {
        let Some(index) = upstream.balancer.pick(&tried) else { break };
        if !tried.is_empty() {
            metrics.retry();
        }
        let node = upstream.balancer.node(index).address;
        let started = Instant::now();
        let dialled = connect::dial(node, worker.timeouts.connect, &worker.limits, |_| {}).await;
        record.node(node, Some(started.elapsed()));
        metrics.connect(connect::result(&dialled));
        match dialled {
            Ok(stream) => return Ok(stream),
            Err(fault) if fault.consequence().retry == Retry::NextNode => last = fault,
            Err(fault) => return Err(fault),
        }
        tried.insert(index);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn route(port: Option<u16>, server: Option<&str>, remote: Option<&str>) -> StreamRoute {
        let upstream =
            config::Upstream { id: "u".into(), nodes: Vec::new(), retries: 0, is_same_host: true };
        StreamRoute {
            id: "r".into(),
            server_port: port,
            server_addr: server.map(|address| address.parse().expect("an address")),
            remote_addr: remote.map(|network| network.parse().expect("a network")),
            datapath: Datapath::User,
            upstream: Arc::new(Upstream::new(0, &upstream)),
        }
    }

    #[track_caller]
    fn check(routes: &[StreamRoute], local: &str, peer: &str, expected: Option<usize>) {
        let (local, peer) = (local.parse().expect("local"), peer.parse().expect("peer"));
        assert_eq!(select(routes, local, peer), expected, "{local} from {peer}");
    }

    #[test]
    fn the_first_route_whose_conditions_all_hold_is_taken() {
        let routes = [
            route(Some(9100), Some("10.0.0.1"), None),
            route(Some(9100), None, Some("192.0.2.0/24")),
            route(Some(9200), None, None),
        ];
        check(&routes, "10.0.0.1:9100", "198.51.100.1:1", Some(0));
        check(&routes, "10.0.0.2:9100", "192.0.2.7:1", Some(1));
        check(&routes, "10.0.0.2:9100", "198.51.100.1:1", None);
        check(&routes, "[::1]:9200", "[::1]:1", Some(2));
        check(&routes, "10.0.0.1:9300", "192.0.2.7:1", None);
        check(&[], "10.0.0.1:9100", "192.0.2.7:1", None);
    }
}
