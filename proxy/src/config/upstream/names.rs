//! What an upstream's names resolve to, as nodes.

use std::{collections::HashSet, net::SocketAddr, sync::Arc};

use super::{
    super::{NamedNode, Node, Upstream},
    balancing,
};
use crate::dns::{Found, Question, Service};

/// Nodes of one upstream that has names; `chash` has room for as many, whatever they weigh.
const NODES_MAX: usize = 4096;
/// Further nodes that one request is tried on: each costs a look at all nodes, and a connection.
const RETRIES_MAX: usize = 255;
/// What a `Host` without a port means.
const HTTP_PORT: u16 = 80;

impl Upstream {
    /// The same with these nodes.
    pub(super) fn with_nodes(self, nodes: Vec<Node>) -> Upstream {
        // Each node is tried at most once.
        let others = nodes.len().saturating_sub(1).min(RETRIES_MAX);
        let retries = self.retries_asked.map_or(others, |retries| others.min(retries.into()));
        Upstream { nodes, retries, ..self }
    }

    /// An upstream as the file has it, with what its names resolve to among the nodes, and how many
    /// addresses there was no room for.
    pub(crate) fn resolved<'f>(
        self: &Arc<Self>,
        found: impl Fn(&Question) -> &'f [Found],
    ) -> (Arc<Upstream>, usize) {
        if self.names.is_empty() {
            return (Arc::clone(self), 0);
        }
        let mut nodes = self.nodes.clone();
        for name in &self.names {
            nodes.extend(found(&name.question).iter().map(|found| name.node(found)));
        }
        // Names that differ in a dot at their end, or in the port of their records alone.
        let mut seen = HashSet::with_capacity(nodes.len());
        nodes.retain(|node| seen.insert(node.identity()));
        let too_many = nodes.len().saturating_sub(NODES_MAX);
        nodes.truncate(NODES_MAX);
        let unfit = balancing::fit(&mut nodes, self.balancing);
        (Arc::new(Upstream::clone(self).with_nodes(nodes)), too_many + unfit)
    }
}

impl NamedNode {
    fn node(&self, found: &Found) -> Node {
        let Found { address, service } = found;
        let (name, port, weight, priority) = match service {
            None => (&self.question.name, self.port, self.weight, self.priority),
            Some(Service { target, port, weight, priority }) => {
                // RFC 2782: the lowest priority first, and weight 0 is a very small chance.
                let priority = self.priority.saturating_sub((*priority).into());
                let port = if *port == 0 { self.port } else { *port };
                (target, port, u32::from(*weight).max(1), priority)
            }
        };
        let address = SocketAddr::new(*address, port);
        Node { address, host: Some(host(name, port)), weight, priority }
    }
}

/// As `Host` has it: the port is said if it is not the scheme's.
fn host(name: &str, port: u16) -> Arc<str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if port == HTTP_PORT { name.into() } else { format!("{name}:{port}").into() }
}

#[cfg(test)]
mod tests;
