//! Which stream route a TCP connection takes.

use std::{net::SocketAddr, sync::Arc};

use crate::{config, metrics::ByListener, upstream::group::Upstream};

/// A stream route with what it leads to.
#[derive(Debug)]
pub struct StreamRoute {
    pub config: config::StreamRoute,
    pub upstream: Arc<Upstream>,
    pub metrics: ByListener,
}

impl StreamRoute {
    fn matches(&self, local: SocketAddr, peer: SocketAddr) -> bool {
        let config = &self.config;
        config.server_port.is_none_or(|port| port == local.port())
            && config.server_addr.is_none_or(|address| address == local.ip())
            && config.remote_addr.is_none_or(|network| network.contains(&peer.ip()))
    }
}

/// The first route in configured order whose conditions all hold (gateway conventions 5.9).
pub fn select(
    routes: &[Arc<StreamRoute>],
    local: SocketAddr,
    peer: SocketAddr,
) -> Option<&Arc<StreamRoute>> {
    routes.iter().find(|route| route.matches(local, peer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn route(port: Option<u16>, server: Option<&str>, remote: Option<&str>) -> Arc<StreamRoute> {
        let upstream = Arc::<config::Upstream>::default();
        Arc::new(StreamRoute {
            upstream: Arc::new(Upstream::new(&upstream, None, &Metrics::new())),
            metrics: ByListener::new(1),
            config: config::StreamRoute {
                id: "r".into(),
                server_port: port,
                server_addr: server.map(|address| address.parse().expect("an address")),
                remote_addr: remote.map(|network| network.parse().expect("a network")),
                datapath: config::Datapath::User,
                upstream,
            },
        })
    }

    #[track_caller]
    fn check(routes: &[Arc<StreamRoute>], local: &str, peer: &str, expected: Option<usize>) {
        let (local, peer) = (local.parse().expect("local"), peer.parse().expect("peer"));
        let found = select(routes, local, peer);
        let found = found.and_then(|one| routes.iter().position(|other| Arc::ptr_eq(one, other)));
        assert_eq!(found, expected, "{local} from {peer}");
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
