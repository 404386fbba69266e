//! The configuration: one YAML file in, one immutable, validated snapshot out.
//!
//! Everything here is typed so that later stages have nothing left to check: ids are resolved,
//! ranges are enforced, defaults are filled in. Every error of a file is reported at once, each
//! with file, line, column and path; keys of what is not built yet are errors, never ignored.
//!
//! The way of a file: text, events of the YAML parser, a tree with positions (`tree`), typed sections
//! (`process`, `routes`, `upstream`, `consumers`) read through `reader`, which takes known keys and
//! refuses the rest.

mod bounds;
mod consumers;
mod env;
pub(crate) mod expression;
mod finding;
mod leaf;
mod load;
pub(crate) mod metadata;
mod pattern;
mod planned;
pub(crate) mod plugins;
mod process;
mod reader;
mod resolver;
mod resource;
mod routes;
mod shared;
mod tree;
mod upstream;

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use http::HeaderValue;
use ipnet::IpNet;

pub use self::{
    finding::{ConfigErrors, Finding, Findings, Mark},
    load::{Report, check},
    upstream::checks::{ActiveCheck, CheckKind, Checks, Judgement, OutlierDetection, PassiveCheck},
};
pub(crate) use self::{load::Document, reader::nearest, tree::shown};
use crate::{
    dns::Question,
    expression::Expression,
    plugin::{Credential, PluginSet},
    route::Pattern,
    upstream::{
        hash_key::HashKey,
        retry::{RetryBudget, RetryOn},
    },
};

/// A whole configuration, valid as it stands.
#[derive(Debug, Clone)]
pub struct Config {
    pub workers: Workers,
    pub listeners: Vec<Listener>,
    pub kernel: Kernel,
    pub admin: Admin,
    pub log: Log,
    pub timeouts: Timeouts,
    pub limits: Limits,
    pub drain: Drain,
    pub resolver: Resolver,
    pub routes: Vec<Route>,
    /// In the order in which they run.
    pub global_rules: Vec<PluginSet>,
    /// Every upstream that a route refers to: the listed ones, and those written in place under the
    /// ids `route:ID` and `stream_route:ID`, or that of a resource and a place in a plugin of it
    /// (`route:ID:traffic-split:RULE:ENTRY`).
    pub upstreams: Vec<Arc<Upstream>>,
    pub consumers: Vec<Consumer>,
    pub stream_routes: Vec<StreamRoute>,
    /// What is valid and probably not meant; to be logged at start.
    pub warnings: Findings,
}

impl Config {
    /// The sections that only a start reads, as far as `other` has something else there.
    pub fn differs_at_start(&self, other: &Config) -> Vec<&'static str> {
        [
            ("workers", self.workers != other.workers),
            ("listeners", self.listeners != other.listeners),
            ("kernel", self.kernel != other.kernel),
            ("admin", self.admin != other.admin),
            ("log", self.log != other.log),
            ("timeouts", self.timeouts != other.timeouts),
            ("limits", self.limits != other.limits),
            ("drain", self.drain != other.drain),
            ("resolver", self.resolver != other.resolver),
        ]
        .into_iter()
        .filter_map(|(section, differs)| differs.then_some(section))
        .collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workers {
    /// `None` is `auto`: one for each processor of the affinity mask, at most the CPU quota.
    pub count: Option<NonZeroUsize>,
    /// Whether each worker thread is pinned to one processor of the affinity mask.
    pub is_pinned: bool,
}

impl Default for Workers {
    fn default() -> Workers {
        Workers { count: None, is_pinned: true }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    pub name: Arc<str>,
    pub address: SocketAddr,
    pub protocol: Protocol,
    /// `express_lane`: whether plain HTTP/1.1 requests pass hyper by.
    pub has_express_lane: bool,
    /// `same_host`: whether clients on this host are delivered to directly, if anybody is.
    pub is_same_host: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http,
    Tcp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    pub mode: KernelMode,
    pub xdp: Xdp,
    pub guard: Guard,
    /// `None`: everything goes by TCP.
    pub same_host: Option<SameHost>,
}

impl Default for Kernel {
    fn default() -> Kernel {
        Kernel {
            mode: KernelMode::Auto,
            xdp: Xdp::default(),
            guard: Guard::default(),
            same_host: None,
        }
    }
}

/// Whose sockets on this host are delivered to directly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SameHost {
    /// As `/proc/PID/cgroup` writes it; its descendants too. Ours must be among them.
    pub cgroup: String,
    /// `None`: everybody's in the cgroup.
    pub uid: Option<u32>,
    /// Whether the other end may be in another network namespace.
    pub is_cross_namespace: bool,
    /// Bytes that an end may have unread of what was delivered.
    pub window: u32,
    /// Whether a node's response may go to a client past us.
    pub is_bypassed: bool,
    /// The largest that may do so to a client on another host, bytes of head and body; 0: none.
    pub egress_max: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelMode {
    /// No BPF at all.
    Off,
    /// What cannot be had is replaced by userspace, with one warning.
    Auto,
    /// Every kernel feature asked for loads, or the process exits with 1.
    Require,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Xdp {
    /// Empty: no XDP program is attached.
    pub interfaces: Vec<String>,
    pub mode: XdpMode,
}

impl Default for Xdp {
    fn default() -> Xdp {
        Xdp { interfaces: Vec::new(), mode: XdpMode::Auto }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpMode {
    /// Native, and generic where the driver has no native XDP.
    Auto,
    Native,
    Generic,
}

/// Who may connect. Enforced at accept in every mode; `ingress` holds an early copy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guard {
    /// Beats `deny`; alone it denies nobody.
    pub allow: Vec<IpNet>,
    pub deny: Vec<IpNet>,
    pub connection_rate: Option<ConnectionRate>,
}

/// A token bucket for each source address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionRate {
    /// New connections a second.
    pub per_second: u32,
    /// How many may come at once.
    pub burst: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Admin {
    /// `None`: no admin listener.
    pub address: Option<SocketAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    pub level: tracing::Level,
    pub format: LogFormat,
    /// `None`: no access log is written.
    pub access: Option<AccessLog>,
}

impl Default for Log {
    fn default() -> Log {
        Log { level: tracing::Level::INFO, format: LogFormat::Text, access: None }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessLog {
    pub target: LogTarget,
    pub format: LogFormat,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    Stdout,
    Stderr,
    File(PathBuf),
}

/// How long each wait may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// From the first byte of a request head to its last; also from accept to the first byte.
    pub head: Duration,
    /// Between two reads of a request body.
    pub body: Duration,
    /// A downstream connection between two requests.
    pub idle: Duration,
    /// Dialling one node.
    pub connect: Duration,
    /// From the request's last byte to the end of the response head.
    pub response: Duration,
    /// Between two reads of a response body.
    pub response_body: Duration,
    /// Between two writes that the downstream accepts, or, of a request body, the node.
    pub send: Duration,
    /// A pooled upstream connection between two requests.
    pub pool_idle: Duration,
    /// A tunnel in which neither direction moves.
    pub stream_idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        let seconds = Duration::from_secs;
        Timeouts {
            head: seconds(10),
            body: seconds(30),
            idle: seconds(75),
            connect: seconds(5),
            response: seconds(60),
            response_body: seconds(60),
            send: seconds(60),
            pool_idle: seconds(60),
            stream_idle: seconds(600),
        }
    }
}

/// How long each wait for a node may take.
#[derive(Debug, Clone, Copy)]
pub struct NodeWaits {
    pub connect: Duration,
    pub send: Duration,
    pub response: Duration,
    pub response_body: Duration,
}

impl Timeouts {
    /// For a node to which `timeout` applies.
    pub fn of_node(&self, timeout: Option<NodeTimeout>) -> NodeWaits {
        match timeout {
            Some(NodeTimeout { connect, send, read }) => {
                NodeWaits { connect, send, response: read, response_body: read }
            }
            None => NodeWaits {
                connect: self.connect,
                send: self.send,
                response: self.response,
                response_body: self.response_body,
            },
        }
    }
}

/// How much of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Downstream connections at a time; `None` derives it from the open-files limit.
    pub connections: Option<NonZeroUsize>,
    /// Request line and fields together, bytes; beyond it 431.
    pub head_size_max: usize,
    /// Fields in a head; beyond it 431.
    pub head_fields_max: usize,
    /// Request target, bytes; beyond it 414.
    pub target_size_max: usize,
    /// Request body, bytes; `None` is unlimited; beyond it 413.
    pub body_size_max: Option<u64>,
    /// Idle connections kept to one node by one worker.
    pub pool_idle_max: usize,
    /// Ceiling of the adaptive copy buffer of a `user` tunnel, bytes for each direction.
    pub stream_buffer_max: usize,
    /// Capacity asked for each `splice` pipe, bytes.
    pub pipe_size: usize,
    /// An HTTP body, or a chunk of it, must be announced to be as long to be spliced instead of
    /// copied, bytes; `u64::MAX` (`none`) copies all.
    pub splice_min: u64,
    /// `SO_SNDBUF` asked for on our ends, bytes.
    pub send_buffer: usize,
    /// `SO_RCVBUF` asked for on our ends, bytes; `None` (`auto`) leaves it to the kernel.
    pub receive_buffer: Option<usize>,
    /// `TCP_NOTSENT_LOWAT` on our ends, bytes.
    pub unsent_max: usize,
    /// Tunnels that the kernel may move at a time (capacity of its maps); beyond it `splice`.
    pub sockmap_tunnels: u32,
    /// What the encoders of responses may hold, bytes, all together; a response for which there is no
    /// room leaves as it is.
    pub encoder_memory: usize,
    /// What the filters of bodies may hold, bytes, all together; a body for which there is no room is
    /// changed piece by piece.
    pub filter_memory: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: None,
            head_size_max: 16 << 10,
            head_fields_max: 100,
            target_size_max: 8 << 10,
            body_size_max: None,
            pool_idle_max: 320,
            stream_buffer_max: 256 << 10,
            pipe_size: 256 << 10,
            splice_min: 64 << 10,
            send_buffer: 1 << 20,
            receive_buffer: Some(1 << 20),
            unsent_max: 512 << 10,
            sockmap_tunnels: 4096,
            encoder_memory: 256 << 20,
            filter_memory: 256 << 20,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    /// From SIGTERM until what still runs is closed.
    pub timeout: Duration,
}

impl Default for Drain {
    fn default() -> Drain {
        Drain { timeout: Duration::from_secs(30) }
    }
}

/// Who is asked what names resolve to, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolver {
    /// Empty: those of `/etc/resolv.conf`, with its search list.
    pub nameservers: Vec<SocketAddr>,
    /// One name, with all it takes to resolve it.
    pub timeout: Duration,
    /// An answer counts for as long as its TTL says, between these two.
    pub ttl_min: Duration,
    pub ttl_max: Duration,
    pub family: Family,
}

impl Default for Resolver {
    fn default() -> Resolver {
        Resolver {
            nameservers: Vec::new(),
            timeout: Duration::from_secs(5),
            ttl_min: Duration::from_secs(1),
            ttl_max: Duration::from_secs(3600),
            family: Family::PreferIpv4,
        }
    }
}

/// Which addresses of a name become nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv6 addresses only if there are no others.
    PreferIpv4,
    PreferIpv6,
    Both,
    Ipv4,
    Ipv6,
}

#[derive(Debug, Clone)]
pub struct Route {
    pub id: Arc<str>,
    pub name: Option<Arc<str>>,
    pub uris: Vec<Arc<Pattern>>,
    /// Lower-case; exact, starting with `*.`, or `*` alone. Empty: behind all of those, any host.
    pub hosts: Vec<String>,
    /// Empty: any method.
    pub methods: Vec<String>,
    /// Empty: any client.
    pub remote_addrs: Vec<IpNet>,
    pub vars: Option<Expression>,
    /// Orders routes of the same literal prefix, highest first.
    pub priority: i64,
    /// In place of what the upstream says.
    pub timeout: Option<NodeTimeout>,
    pub plugins: PluginSet,
    /// Plugins of `plugin_config_id`, behind the route's own.
    pub plugin_config: Option<Arc<PluginSet>>,
    /// Its plugins apply behind all of these.
    pub service: Option<Arc<Service>>,
    /// Its own, or its service's; `None`: only plugins answer.
    pub upstream: Option<Arc<Upstream>>,
}

/// What several routes have in common.
#[derive(Debug)]
pub struct Service {
    pub id: Arc<str>,
    pub name: Option<Arc<str>>,
    pub plugins: PluginSet,
    /// Of routes that name none.
    pub hosts: Vec<String>,
    pub upstream: Option<Arc<Upstream>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    pub id: Arc<str>,
    /// In a file that was read, those with an address; in rules, also what `names` resolve to.
    pub nodes: Vec<Node>,
    /// `nodes` with a name, or `service_name`.
    pub names: Vec<NamedNode>,
    pub balancing: Balancing,
    /// `hash_on` and `key`; `None`: nothing is hashed.
    pub hash_key: Option<HashKey>,
    pub pass_host: PassHost,
    /// Further nodes tried after the first one.
    pub retries: usize,
    pub retry_on: RetryOn,
    pub retry_budget: RetryBudget,
    /// `retries` as the file says; `None`: as many as there are other nodes.
    pub retries_asked: Option<u16>,
    /// How long after the first try another one may begin; `None`: however long it takes.
    pub retry_timeout: Option<Duration>,
    /// In place of what [`Timeouts`] says.
    pub timeout: Option<NodeTimeout>,
    pub keepalive_pool: KeepalivePool,
    /// `same_host`: whether nodes on this host are delivered to directly, if anybody is.
    pub is_same_host: bool,
    pub sticky: Option<StickyCookie>,
    /// `slow_start.window`: how long a node that has come, or come back, gets less than its share.
    pub slow_start: Option<Duration>,
    pub checks: Option<Arc<Checks>>,
    pub outlier_detection: Option<OutlierDetection>,
}

impl Default for Upstream {
    fn default() -> Upstream {
        Upstream {
            id: Arc::default(),
            nodes: Vec::new(),
            names: Vec::new(),
            balancing: Balancing::RoundRobin,
            hash_key: None,
            pass_host: PassHost::Pass,
            retries: 0,
            retry_on: RetryOn::default(),
            retry_budget: RetryBudget::default(),
            retries_asked: None,
            retry_timeout: None,
            timeout: None,
            keepalive_pool: KeepalivePool::default(),
            is_same_host: true,
            sticky: None,
            slow_start: None,
            checks: None,
            outlier_detection: None,
        }
    }
}

/// `sticky`: the cookie that leads clients back to their node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StickyCookie {
    pub cookie: Arc<str>,
    /// Seconds; `None`: until the browser is closed.
    pub max_age: Option<u32>,
    pub path: Box<str>,
    pub secure: bool,
    pub http_only: bool,
    pub same_site: Option<SameSite>,
}

/// Of cookies (RFC 6265bis section 4.1.2.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameSite {
    Lax,
    Strict,
    None,
}

impl SameSite {
    pub const fn word(self) -> &'static str {
        match self {
            SameSite::Lax => "Lax",
            SameSite::Strict => "Strict",
            SameSite::None => "None",
        }
    }
}

impl Upstream {
    /// Whether anything is known of its nodes but where they are.
    pub fn is_judged(&self) -> bool {
        self.checks.is_some() || self.outlier_detection.is_some() || self.slow_start.is_some()
    }
}

/// What a node gets as `Host`, unless a plugin says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PassHost {
    /// What the downstream sent.
    Pass,
    /// The node's own name or address, with its port if that is not 80.
    Node,
    /// `upstream_host`.
    Rewrite(HeaderValue),
}

/// `timeout` of a route or an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeTimeout {
    /// [`Timeouts::connect`]; the only one that counts for a TCP connection.
    pub connect: Duration,
    /// [`Timeouts::send`], towards the node.
    pub send: Duration,
    /// [`Timeouts::response`] and [`Timeouts::response_body`].
    pub read: Duration,
}

/// Which connections to a node one worker keeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeepalivePool {
    /// In place of [`Limits::pool_idle_max`].
    pub size: Option<usize>,
    /// In place of [`Timeouts::pool_idle`].
    pub idle_timeout: Option<Duration>,
    /// Requests that a connection carries at most; `None`: as many as come.
    pub requests: Option<u32>,
}

/// `type`: who is next among the nodes of one priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balancing {
    RoundRobin,
    /// A ring of hashes.
    Chash,
    LeastConn,
    Ewma,
    /// A table of hashes; not in APISIX.
    Maglev,
}

impl Balancing {
    /// Whether a key of the request says which node it is.
    pub fn is_hashing(self) -> bool {
        match self {
            Balancing::Chash | Balancing::Maglev => true,
            Balancing::RoundRobin | Balancing::LeastConn | Balancing::Ewma => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub address: SocketAddr,
    /// What [`PassHost::Node`] sends for a node that was found by its name.
    pub host: Option<Arc<str>>,
    /// Share among the nodes of its priority; 0 gets nothing unless all nodes are 0.
    pub weight: u32,
    /// Used only when no node of a higher one is left.
    pub priority: i32,
}

impl Node {
    /// What it is known by: under another name the same address is another node.
    pub fn identity(&self) -> (SocketAddr, Option<Arc<str>>) {
        (self.address, self.host.clone())
    }
}

/// What is resolved into nodes, one for each address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedNode {
    pub question: Question,
    /// Of nodes for which the answer names none.
    pub port: u16,
    /// [`Node::weight`], unless the answer has weights.
    pub weight: u32,
    /// [`Node::priority`]; what an answer says ranks below it.
    pub priority: i32,
}

#[derive(Debug, Clone)]
pub struct Consumer {
    pub username: Arc<str>,
    /// What it is known by; secrets.
    pub credentials: Vec<Credential>,
    /// Label `custom_id`.
    pub custom_id: Option<HeaderValue>,
    pub group: Option<Arc<str>>,
    pub group_plugins: Option<Arc<PluginSet>>,
    /// Of its requests, instead of what the route has by the same name.
    pub plugins: PluginSet,
}

#[derive(Debug, Clone)]
pub struct StreamRoute {
    pub id: Arc<str>,
    /// `None`: any port of a `tcp` listener.
    pub server_port: Option<u16>,
    /// `None`: any local address.
    pub server_addr: Option<IpAddr>,
    /// `None`: any source.
    pub remote_addr: Option<IpNet>,
    pub datapath: Datapath,
    pub upstream: Arc<Upstream>,
}

/// Who moves the bytes of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Datapath {
    User,
    Splice,
    Sockmap,
}

#[cfg(test)]
mod tests;
