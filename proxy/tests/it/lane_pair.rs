//! Proxies with two listeners, one for each lane, and one route for everything.

use std::net::SocketAddr;

/// The listeners.
pub(crate) const LANES: [&str; 2] = ["web", "hyper"];
/// Their section of a configuration; another listener may follow.
pub(crate) const LISTENERS: &str = "listeners:\n\
     - { name: web, address: \"127.0.0.1:0\" }\n\
     - { name: hyper, address: \"127.0.0.1:0\", express_lane: false }\n";

/// A configuration with one route to an upstream `app` with these keys.
pub(crate) fn to_upstream(keys: &str) -> String {
    format!(
        "{LISTENERS}\
         routes: [{{ id: all, uri: /*, upstream_id: app }}]\n\
         upstreams: [{{ id: app, {keys} }}]\n"
    )
}

/// The same with these plugins on the route, and one node.
pub(crate) fn with_plugins(plugins: &str, node: SocketAddr) -> String {
    format!(
        "{LISTENERS}\
         routes: [{{ id: all, uri: /*, upstream_id: app, plugins: {plugins} }}]\n\
         upstreams: [{{ id: app, nodes: {{ \"{node}\": 1 }} }}]\n"
    )
}

/// `nodes:` in the map form, all of weight 1.
pub(crate) fn nodes_of(nodes: &[SocketAddr]) -> String {
    let nodes: Vec<_> = nodes.iter().map(|node| format!("\"{node}\": 1")).collect();
    format!("nodes: {{ {} }}", nodes.join(", "))
}
