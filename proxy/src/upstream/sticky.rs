//! A cookie that leads a client back to the node that it was given first.

use std::{collections::HashMap, fmt::Write as _, net::SocketAddr, sync::Arc};

use http::HeaderValue;

use super::balance::{self, NodeIndex};
use crate::{
    config::{self, StickyCookie},
    http::{cookie, head::RequestHead},
};

/// What the nodes of one upstream are called in cookies.
#[derive(Debug)]
pub struct Sticky {
    cookie: Arc<str>,
    by_name: HashMap<NodeName, NodeIndex>,
    by_address: HashMap<SocketAddr, (NodeName, HeaderValue)>,
}

/// 16 hexadecimal digits. Whoever can guess the address can tell that it is the node's.
type NodeName = [u8; 16];

impl Sticky {
    /// `None`: the upstream wants none.
    pub fn new(upstream: &config::Upstream) -> Option<Sticky> {
        let sticky = upstream.sticky.as_ref()?;
        let mut by_name = HashMap::new();
        let mut by_address = HashMap::new();
        for (position, node) in upstream.nodes.iter().enumerate() {
            let name = name_of(&upstream.id, node.address);
            by_name.entry(name).or_insert(NodeIndex::at(position));
            by_address.insert(node.address, (name, line(sticky, name)));
        }
        Some(Sticky { cookie: Arc::clone(&sticky.cookie), by_name, by_address })
    }

    /// The node that a request names, if it names one that there is.
    pub fn named_by(&self, request: &RequestHead) -> Option<NodeIndex> {
        self.by_name.get(&self.name_in(request)?).copied()
    }

    /// `Set-Cookie` of a response by `node`, unless the request names that one already.
    pub fn line(&self, request: &RequestHead, node: SocketAddr) -> Option<&HeaderValue> {
        let (name, line) = self.by_address.get(&node)?;
        (self.name_in(request) != Some(*name)).then_some(line)
    }

    fn name_in(&self, request: &RequestHead) -> Option<NodeName> {
        cookie::values(request, &self.cookie).next()?.try_into().ok()
    }
}

/// The same in every process and after every restart; another in every upstream.
fn name_of(upstream: &str, node: SocketAddr) -> NodeName {
    let [first, second, ..] = balance::hash(format!("{upstream}\n{node}").as_bytes());
    let digits = format!("{first:08x}{second:08x}");
    digits.as_bytes().try_into().expect("twice eight digits")
}

/// RFC 6265 section 4.1.
fn line(sticky: &StickyCookie, name: NodeName) -> HeaderValue {
    let StickyCookie { cookie, max_age, path, secure, http_only, same_site } = sticky;
    let mut line = format!("{cookie}={}; Path={path}", String::from_utf8_lossy(&name));
    if let Some(max_age) = max_age {
        write!(line, "; Max-Age={max_age}").expect("a String takes everything");
    }
    if *http_only {
        line.push_str("; HttpOnly");
    }
    if *secure {
        line.push_str("; Secure");
    }
    if let Some(same_site) = same_site {
        write!(line, "; SameSite={}", same_site.word()).expect("a String takes everything");
    }
    HeaderValue::try_from(line).expect("the parts are checked")
}
