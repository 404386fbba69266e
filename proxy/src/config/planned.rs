//! Keys that a user of APISIX, or a reader of Tandem's plans, may write and that do nothing yet.
//!
//! They are refused by name: a key that is silently ignored is a key somebody relies on.

/// Which mapping a key stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Root,
    Workers,
    Listener,
    Kernel,
    Xdp,
    Guard,
    SameHost,
    ConnectionRate,
    Admin,
    Log,
    AccessLog,
    Timeouts,
    Limits,
    Drain,
    Resolver,
    Route,
    Upstream,
    Node,
    NodeTimeout,
    KeepalivePool,
    RetryBudget,
    SlowStart,
    Sticky,
    Checks,
    ActiveCheck,
    PassiveCheck,
    /// `healthy` or `unhealthy` of a check.
    CheckHalf,
    OutlierDetection,
    Consumer,
    StreamRoute,
    Service,
    /// A plugin config, a consumer group or a global rule.
    PluginSet,
    /// The names of plugins.
    Plugins,
    /// The settings of one plugin.
    Plugin,
    PluginMetadata,
    Meta,
}

/// Why a key is refused, if it is one that is known and not built, or one that never will be.
pub(super) fn refusal(kind: Kind, key: &str) -> Option<String> {
    if is_lua(kind, key) {
        return Some("runs Lua, which Tandem does not; remove it".to_owned());
    }
    planned(kind).contains(&key).then(|| "not built yet; remove it".to_owned())
}

fn is_lua(kind: Kind, key: &str) -> bool {
    let keys: &[&str] = if kind == Kind::Route {
        &["filter_func", "script", "script_id"]
    } else if kind == Kind::Service {
        &["script"]
    } else if kind == Kind::Meta {
        &["pre_function"]
    } else {
        &[]
    };
    keys.contains(&key)
}

const fn planned(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Root => &[
            "discovery",
            "instance",
            "plugins",
            "protos",
            "secrets",
            "ssl",
            "ssls",
            "tls",
            "tracing",
        ],
        Kind::Listener => &["http2", "limits", "proxy_protocol", "ssl", "timeouts", "tls"],
        Kind::Kernel => &["pin", "steer"],
        Kind::Admin => &["key", "tls"],
        Kind::AccessLog => &["fields", "sampling"],
        Kind::Route => &["enable_websocket"],
        Kind::Service => &["enable_websocket"],
        Kind::Upstream => &["discovery_args", "tls"],
        Kind::Node => &["metadata"],
        Kind::StreamRoute => &["plugins", "protocol", "service_id", "sni"],
        Kind::Plugins => PLUGINS,
        Kind::Plugin => &[
            "redis_cluster_name",
            "redis_cluster_nodes",
            "redis_cluster_ssl",
            "redis_cluster_ssl_verify",
            "redis_sentinels",
        ],
        Kind::Workers
        | Kind::Xdp
        | Kind::SameHost
        | Kind::Guard
        | Kind::ConnectionRate
        | Kind::Log
        | Kind::Timeouts
        | Kind::NodeTimeout
        | Kind::KeepalivePool
        | Kind::RetryBudget
        | Kind::SlowStart
        | Kind::Sticky
        | Kind::Checks
        | Kind::ActiveCheck
        | Kind::PassiveCheck
        | Kind::CheckHalf
        | Kind::OutlierDetection
        | Kind::Limits
        | Kind::Drain
        | Kind::Resolver
        | Kind::Consumer
        | Kind::PluginSet
        | Kind::PluginMetadata
        | Kind::Meta => &[],
    }
}

/// APISIX's plugins that are not built yet.
const PLUGINS: &[&str] = &[
    "ai-proxy",
    "echo",
    "error-log-logger",
    "grpc-transcode",
    "grpc-web",
    "http-logger",
    "kafka-logger",
    "ldap-auth",
    "mocking",
    "multi-auth",
    "opa",
    "openid-connect",
    "opentelemetry",
    "prometheus",
    "proxy-cache",
    "proxy-control",
    "public-api",
    "referer-restriction",
    "request-validation",
    "syslog",
    "tcp-logger",
    "udp-logger",
    "uri-blocker",
    "workflow",
    "zipkin",
];
