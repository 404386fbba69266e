//! Keys that a user of APISIX, or a reader of Tandem's plans, may write and that do nothing yet.
//!
//! They are refused by name: a key that is silently ignored is a key somebody relies on.

/// Which mapping a key stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
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
    Route,
    Upstream,
    Node,
    Consumer,
    StreamRoute,
    RoutePlugins,
    ConsumerPlugins,
    /// The settings of one plugin.
    Plugin,
}

/// Why a key is refused, if it is one that is known and not built, or one that never will be.
pub(super) fn refusal(kind: Kind, key: &str) -> Option<String> {
    if is_lua(kind, key) {
        return Some("runs Lua, which Tandem does not; remove it".to_owned());
    }
    planned(kind).contains(&key).then(|| "not built yet; remove it".to_owned())
}

fn is_lua(kind: Kind, key: &str) -> bool {
    kind == Kind::Route && matches!(key, "filter_func" | "script" | "script_id")
}

const fn planned(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Root => &[
            "consumer_groups",
            "credentials",
            "discovery",
            "global_rules",
            "instance",
            "plugin_configs",
            "plugin_metadata",
            "plugins",
            "protos",
            "resolver",
            "secrets",
            "services",
            "ssl",
            "ssls",
            "tls",
            "tracing",
        ],
        Kind::Listener => &["http2", "limits", "proxy_protocol", "ssl", "timeouts", "tls"],
        Kind::Kernel => &["pin", "steer"],
        Kind::Admin => &["key", "tls"],
        Kind::AccessLog => &["fields", "sampling"],
        Kind::Route => &[
            "enable_websocket",
            "plugin_config_id",
            "remote_addr",
            "remote_addrs",
            "service_id",
            "timeout",
            "vars",
        ],
        Kind::Upstream => &[
            "checks",
            "discovery_args",
            "discovery_type",
            "hash_on",
            "keepalive_pool",
            "key",
            "retry_timeout",
            "service_name",
            "timeout",
            "tls",
            "upstream_host",
        ],
        Kind::Node => &["metadata", "priority"],
        Kind::Consumer => &["group_id"],
        Kind::StreamRoute => &["plugins", "protocol", "service_id", "sni"],
        Kind::RoutePlugins | Kind::ConsumerPlugins => PLUGINS,
        Kind::Plugin => &["_meta"],
        Kind::Workers
        | Kind::Xdp
        | Kind::SameHost
        | Kind::Guard
        | Kind::ConnectionRate
        | Kind::Log
        | Kind::Timeouts
        | Kind::Limits
        | Kind::Drain => &[],
    }
}

/// APISIX's plugins that are not built yet.
const PLUGINS: &[&str] = &[
    "ai-proxy",
    "api-breaker",
    "basic-auth",
    "brotli",
    "client-control",
    "consumer-restriction",
    "cors",
    "csrf",
    "echo",
    "error-log-logger",
    "fault-injection",
    "file-logger",
    "forward-auth",
    "grpc-transcode",
    "grpc-web",
    "gzip",
    "hmac-auth",
    "http-logger",
    "ip-restriction",
    "jwt-auth",
    "kafka-logger",
    "ldap-auth",
    "limit-conn",
    "limit-count",
    "limit-req",
    "mocking",
    "multi-auth",
    "opa",
    "openid-connect",
    "opentelemetry",
    "prometheus",
    "proxy-cache",
    "proxy-control",
    "proxy-mirror",
    "proxy-rewrite",
    "public-api",
    "real-ip",
    "redirect",
    "referer-restriction",
    "request-id",
    "request-validation",
    "response-rewrite",
    "syslog",
    "tcp-logger",
    "traffic-split",
    "ua-restriction",
    "udp-logger",
    "uri-blocker",
    "workflow",
    "zipkin",
];
