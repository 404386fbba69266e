//! The one list of metric names, with their help and how much a dashboard may rely on them.

use prometheus_client::registry::{Metric, Registry};

/// What a dashboard may rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stability {
    /// Name, labels and meaning stay.
    Stable,
    /// May change with the mechanism it describes.
    Unstable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A metric as the README lists it.
#[derive(Debug, Clone, Copy)]
pub struct Described {
    /// As a query spells it; a histogram's series add `_bucket`, `_sum` and `_count`.
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
    pub stability: Stability,
}

impl Described {
    pub(super) fn register(&self, registry: &mut Registry, metric: &(impl Metric + Clone)) {
        // The encoder appends the counter's suffix and, to the help, the final dot.
        let name = match self.kind {
            Kind::Counter => self.name.strip_suffix("_total").unwrap_or(self.name),
            Kind::Gauge | Kind::Histogram => self.name,
        };
        registry.register(name, self.help, metric.clone());
    }
}

macro_rules! metrics {
    ($($id:ident = $name:literal, $kind:ident, $labels:expr, $stability:ident, $help:literal;)*) => {
        $(pub(super) const $id: Described = Described {
            name: $name,
            kind: Kind::$kind,
            labels: &$labels,
            help: $help,
            stability: Stability::$stability,
        };)*

        /// Every metric there is.
        pub const METRICS: &[Described] = &[$($id),*];
    };
}

metrics! {
    CONNECTIONS_ACTIVE = "tandem_downstream_connections_active", Gauge, ["listener"], Stable,
        "Downstream connections that are open";
    CONNECTIONS = "tandem_downstream_connections_total", Counter, ["listener"], Stable,
        "Downstream connections that were accepted";
    REFUSED = "tandem_downstream_refused_total", Counter, ["listener", "reason"], Stable,
        "Downstream connections closed before a byte of them was read";
    ACCEPT_ERRORS = "tandem_listener_accept_errors_total", Counter, ["listener", "kind"], Stable,
        "Calls of accept that gave no connection";
    REQUESTS = "tandem_downstream_requests_total", Counter,
        ["listener", "route", "class", "end"], Stable,
        "Requests and tunnels that ended, by class of the status and end code";
    REQUEST_DURATION = "tandem_request_duration_seconds", Histogram, ["route"], Stable,
        "Time from the first byte of a request to the last byte of its answer, or a tunnel's life";
    CONNECTS = "tandem_upstream_connects_total", Counter, ["upstream", "result"], Stable,
        "Nodes dialled";
    RETRIES = "tandem_upstream_retries_total", Counter, ["upstream"], Stable,
        "Requests sent to a further node or over a further connection";
    RETRIES_REFUSED = "tandem_upstream_retries_refused_total", Counter, ["upstream"], Stable,
        "Requests that were not sent again because the budget for that was used up";
    POOL_IDLE = "tandem_upstream_pool_idle", Gauge, ["upstream"], Stable,
        "Upstream connections that wait in a pool";
    POOL_CHECKOUTS = "tandem_upstream_pool_checkouts_total", Counter,
        ["upstream", "result"], Stable,
        "Connections asked of a pool";
    NODE_UP = "tandem_upstream_node_up", Gauge, ["upstream", "node", "host"], Stable,
        "Whether a node takes requests, as checks and outlier detection see it";
    CHECKS = "tandem_upstream_checks_total", Counter, ["upstream", "result"], Stable,
        "Probes of nodes";
    CHECKS_DELAYED = "tandem_upstream_checks_delayed_total", Counter, ["upstream"], Stable,
        "Probes that had to wait because as many were under way as may be";
    EJECTIONS = "tandem_upstream_ejections_total", Counter, ["upstream", "result"], Stable,
        "Outliers: ejected, or refused because as many were as may be";
    ALL_DOWN = "tandem_upstream_all_down_total", Counter, ["upstream"], Stable,
        "Requests and connections for which no node was up, so that all were used";
    FORWARD_BYTES = "tandem_forward_bytes_total", Counter, ["direction", "via"], Stable,
        "Body and tunnel bytes, by the path that carried them";
    TUNNEL_FALLBACKS = "tandem_forward_fallbacks_total", Counter, ["reason"], Unstable,
        "Tunnels that could not have the datapath their route asks for";
    FORWARD_PIPES = "tandem_forward_pipes", Gauge, ["state"], Stable,
        "Pipes for splicing that are open: busy with bytes, or idle";
    FAULTS = "tandem_faults_total", Counter, ["fault"], Stable,
        "Faults of the data path";
    LANE_REQUESTS = "tandem_lane_requests_total", Counter, ["lane"], Unstable,
        "Requests by who carried them";
    CALLS = "tandem_calls_total", Counter, ["purpose", "result"], Unstable,
        "Requests of the proxy's own, by what they were for and what came of them";
    CALL_LIMITS = "tandem_call_limits_total", Counter, ["purpose", "limit"], Unstable,
        "Requests of the proxy's own that had to wait for look-ups of others of their purpose, or whose connection was one too many to be kept";
    MIRROR_DROPPED = "tandem_mirror_dropped_total", Counter, ["reason"], Unstable,
        "Copies of requests that were not sent";
    LIMIT_ERRORS = "tandem_limit_errors_total", Counter, ["plugin", "reason"], Stable,
        "Requests that a Redis could not count, and those it was not told of that they are over";
    KERNEL_INFO = "tandem_kernel_info", Gauge, ["mode", "xdp_mode", "abi"], Unstable,
        "The mode in which the kernel plane runs";
    KERNEL_PACKETS = "tandem_kernel_packets_total", Counter, ["program", "reason"], Unstable,
        "Packets and connections seen by a BPF program, by reason of its verdict";
    ACCESS_LOG_DROPPED = "tandem_access_log_dropped_total", Counter, [], Stable,
        "Access-log lines that were not written because the queue was full or the target failed";
    LOG_DROPPED = "tandem_log_dropped_total", Counter, [], Stable,
        "Lines of the process's own log that were not written because the queue was full or stderr failed";
    LOOKUPS = "tandem_dns_lookups_total", Counter, ["result"], Stable,
        "Lookups of what a name resolves to; cut: answered, with more addresses than are taken";
    LOG_FILE_DROPPED = "tandem_log_file_dropped_total", Counter, ["path"], Stable,
        "Lines of a logger that were not written because the queue was full, the line too long or the file not writable";
    LOGGED_BODIES_CUT = "tandem_logged_bodies_cut_total", Counter, ["reason"], Stable,
        "Bodies of which a log has only the beginning: longer than asked for, or no memory for more";
    ENCODINGS_SKIPPED = "tandem_encodings_skipped_total", Counter, [], Stable,
        "Responses that left as they were because encoders had all the memory they may have";
    FILTERS_CUT = "tandem_filters_cut_total", Counter, [], Stable,
        "Bodies whose filters saw them piece by piece because filters held all the memory they may have";
    RELOADS = "tandem_config_reloads_total", Counter, ["result"], Stable,
        "Configurations that were read while running: applied, invalid, or refused because only a start reads what they change";
    RELOADED = "tandem_config_last_reload_successful", Gauge, [], Stable,
        "Whether the last configuration that was read is the one that runs";
    BUILD_INFO = "tandem_build_info", Gauge, ["version"], Stable,
        "The version that runs";
}
