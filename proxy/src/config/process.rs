//! The sections that only a process can know: workers, listeners, kernel, admin, log, times, limits.

use std::{
    collections::HashMap, net::SocketAddr, num::NonZeroUsize, path::PathBuf, sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use proxy_common::limits::{EGRESS_MAX_DEFAULT, LOCAL_WINDOW_DEFAULT};

use super::{
    AccessLog, Admin, ConnectionRate, Drain, Guard, Kernel, KernelMode, Limits, Listener, Log,
    LogFormat, LogTarget, Protocol, SameHost, Timeouts, Workers, Xdp, XdpMode,
    bounds::{self, Overlap},
    leaf::{Id, Size},
    planned::Kind,
    reader::{Section, Value},
};

/// `workers: auto | N | {count: auto | N, pin: true | false}`.
pub(super) fn workers(root: &mut Section<'_>) -> Workers {
    let default = Workers::default();
    let Some(value) = root.take("workers") else { return default };
    if !value.is_mapping() {
        return Workers { count: worker_count(&value), ..default };
    }
    let Some(mut section) = value.section() else { return default };
    let workers = Workers {
        count: section.take("count").and_then(|value| worker_count(&value)),
        is_pinned: section.leaf_or("pin", default.is_pinned),
    };
    section.finish(Kind::Workers);
    workers
}

fn worker_count(value: &Value<'_>) -> Option<NonZeroUsize> {
    value.word_or("auto", &(1..=bounds::WORKERS_MAX))?.and_then(NonZeroUsize::new)
}

/// The listeners of a file, while stream routes are compared with them.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    pub(super) list: Vec<Listener>,
    /// None was left out for an error, so that what seems to be missing really is.
    pub(super) is_whole: bool,
}

/// At least one; each name and each address once.
pub(super) fn listeners(root: &mut Section<'_>) -> Listeners {
    let Some(value) = root.require("listeners") else { return Listeners::default() };
    let Some(items) = value.items() else { return Listeners::default() };
    if items.is_empty() {
        value.error("is empty; a proxy needs at least one listener");
    }
    if items.len() > bounds::LISTENERS_MAX {
        value.error(format!("{} listeners; at most {}", items.len(), bounds::LISTENERS_MAX));
        return Listeners::default();
    }
    let mut lines = HashMap::new();
    let mut listeners = Listeners { list: Vec::new(), is_whole: !items.is_empty() };
    for item in items {
        let Some((name, address, listener)) = listener(&item) else {
            listeners.is_whole = false;
            continue;
        };
        if let Some(line) = lines.insert(Arc::clone(&listener.name), name.place.line()) {
            name.error(format!("the listener of line {line} has this name; names are unique"));
        }
        report_overlap(&address, &listener, &listeners.list);
        listeners.list.push(listener);
    }
    listeners
}

fn report_overlap(address: &Value<'_>, listener: &Listener, others: &[Listener]) {
    let overlaps =
        others.iter().map(|other| (bounds::overlap(listener.address, other.address), other));
    match overlaps.into_iter().find(|(overlap, _)| *overlap != Overlap::None) {
        None | Some((Overlap::None, _)) => {}
        Some((Overlap::Same, other)) => {
            address.error(format!("listener `{}` has this address", other.name));
        }
        Some((Overlap::Wildcard, other)) => address.error(format!(
            "overlaps listener `{}` on {}; bind one of them",
            other.name, other.address
        )),
    }
}

/// One listener, with its name and its address as the file has them.
fn listener<'t>(item: &Value<'t>) -> Option<(Value<'t>, Value<'t>, Listener)> {
    let mut section = item.section()?;
    let (name, address) = (section.require("name"), section.require("address"));
    let protocol = section.take("protocol").map_or(Some(Protocol::Http), |value| {
        let words = [("http", Protocol::Http), ("tcp", Protocol::Tcp)];
        value.one_of(&words, &["h2c", "http2", "https", "tls", "udp"])
    });
    let express_lane = section.take("express_lane");
    let same_host = section.take("same_host");
    let has_express_lane = match (&express_lane, protocol) {
        (Some(value), Some(Protocol::Tcp)) => {
            value.error("only a listener with `protocol: http` has lanes");
            false
        }
        (Some(value), _) => value.leaf().unwrap_or(true),
        (None, _) => true,
    };
    let is_same_host = match (&same_host, protocol) {
        (Some(value), Some(Protocol::Tcp)) => {
            value.error("only a listener with `protocol: http` delivers directly");
            false
        }
        (Some(value), _) => value.leaf().unwrap_or(true),
        (None, protocol) => protocol == Some(Protocol::Http),
    };
    section.finish(Kind::Listener);
    let (name_leaf, address_leaf) =
        (name.as_ref().and_then(Value::leaf::<Id>), address.as_ref().and_then(Value::leaf));
    let (name, address) = (name?, address?);
    let listener = Listener {
        name: name_leaf?.0,
        address: address_leaf?,
        protocol: protocol?,
        has_express_lane,
        is_same_host,
    };
    bounds::check_address(&address.place, listener.address.ip());
    Some((name, address, listener))
}

pub(super) fn kernel(root: &mut Section<'_>) -> Kernel {
    let default = Kernel::default();
    let Some(mut section) = root.section("kernel") else { return default };
    let mode = section.take("mode").and_then(|value| {
        let words = [
            ("off", KernelMode::Off),
            ("auto", KernelMode::Auto),
            ("require", KernelMode::Require),
        ];
        value.one_of(&words, &[])
    });
    let mode = mode.unwrap_or(default.mode);
    let kernel = Kernel {
        mode,
        xdp: section.section("xdp").map_or(default.xdp, |section| xdp(section, mode)),
        guard: section.section("guard").map_or(default.guard, guard),
        same_host: section.section("same_host").and_then(|section| same_host(section, mode)),
    };
    section.finish(Kind::Kernel);
    kernel
}

fn xdp(mut section: Section<'_>, kernel: KernelMode) -> Xdp {
    let default = Xdp::default();
    let interfaces = section.take("interfaces").and_then(|value| {
        let names = interfaces(&value)?;
        if kernel == KernelMode::Off && !names.is_empty() {
            value.place.warning("no XDP program is attached under `kernel.mode: off`");
        }
        Some(names)
    });
    let mode = section.take("mode").and_then(|value| {
        let words =
            [("auto", XdpMode::Auto), ("native", XdpMode::Native), ("generic", XdpMode::Generic)];
        value.one_of(&words, &["offload"])
    });
    section.finish(Kind::Xdp);
    Xdp { interfaces: interfaces.unwrap_or(default.interfaces), mode: mode.unwrap_or(default.mode) }
}

/// Names are checked for their form only: which interfaces there are, the kernel plane finds out.
fn interfaces(value: &Value<'_>) -> Option<Vec<String>> {
    let items = value.items()?;
    if items.len() > bounds::INTERFACES_MAX {
        value.error(format!("{} interfaces; at most {}", items.len(), bounds::INTERFACES_MAX));
        return None;
    }
    let mut names: Vec<String> = Vec::new();
    for item in items {
        let Some(name) = item.leaf::<String>() else { continue };
        // linux/netdevice.h, dev_valid_name: 15 bytes, no slash, colon or blank.
        let is_valid = (1..=15).contains(&name.len())
            && !matches!(&*name, "." | "..")
            && !name.contains(|c: char| matches!(c, '/' | ':' | '\0') || c.is_whitespace());
        if !is_valid {
            item.error("not the name of an interface; at most 15 bytes, no `/`, `:` or blank");
        } else if names.contains(&name) {
            item.error(format!("`{name}` is in the list already"));
        } else {
            names.push(name);
        }
    }
    Some(names)
}

/// Complete even if it is not enabled, so that enabling it is one word.
fn same_host(mut section: Section<'_>, kernel: KernelMode) -> Option<SameHost> {
    let enabled = section.require("enabled");
    let is_enabled = enabled.as_ref().and_then(Value::leaf::<bool>);
    if let (Some(value), Some(true), KernelMode::Off) = (&enabled, is_enabled, kernel) {
        value.place.warning("everything goes by TCP under `kernel.mode: off`");
    }
    let cgroup = section.require("cgroup").and_then(|value| {
        let cgroup = value.leaf::<String>()?;
        let is_path = cgroup.starts_with('/')
            && !cgroup.contains('\0')
            && !cgroup.split('/').any(|part| matches!(part, "." | ".."));
        if !is_path {
            value.error("expected a cgroup as `/proc/PID/cgroup` has it, such as `/` or `/pods`");
        }
        is_path.then_some(cgroup)
    });
    let uid = section.take("uid").and_then(|value| value.within(&bounds::USER_ID));
    let is_cross_namespace =
        section.take("cross_namespace").and_then(|value| value.leaf()).unwrap_or(false);
    let default = Size(u64::from(LOCAL_WINDOW_DEFAULT));
    let Size(window) = section.within_or("window", bounds::LOCAL_WINDOW, default);
    let window = u32::try_from(window).unwrap_or(u32::MAX);
    let is_bypassed = section.leaf_or("bypass", true);
    let egress_max = section.take("egress_max");
    if let (Some(value), false) = (&egress_max, is_bypassed) {
        value.place.warning("has no effect without `bypass`");
    }
    let default = Size(u64::from(EGRESS_MAX_DEFAULT));
    let egress_max = egress_max.and_then(|value| value.within(&bounds::EGRESS_MAX));
    let Size(egress_max) = egress_max.unwrap_or(default);
    let egress_max = u32::try_from(egress_max).unwrap_or(u32::MAX);
    section.finish(Kind::SameHost);
    let cgroup = cgroup?;
    let same_host = SameHost { cgroup, uid, is_cross_namespace, window, is_bypassed, egress_max };
    is_enabled?.then_some(same_host)
}

fn guard(mut section: Section<'_>) -> Guard {
    let mut prefixes = |key| section.take(key).map(|value| prefixes(&value)).unwrap_or_default();
    let (allow, deny) = (prefixes("allow"), prefixes("deny"));
    let count = allow.len() + deny.len();
    if count > bounds::GUARD_PREFIXES_MAX {
        section.error(format!(
            "{count} prefixes; the kernel's tables hold {}, merge neighbours into shorter prefixes",
            bounds::GUARD_PREFIXES_MAX
        ));
    }
    let connection_rate = section.section("connection_rate").and_then(connection_rate);
    section.finish(Kind::Guard);
    Guard { allow, deny, connection_rate }
}

fn prefixes(value: &Value<'_>) -> Vec<IpNet> {
    let items = value.items().unwrap_or_default();
    let mut lines = HashMap::with_capacity(items.len());
    let mut prefixes = Vec::with_capacity(items.len());
    for item in items {
        let Some(prefix) = item.leaf::<IpNet>() else { continue };
        bounds::check_prefix(&item.place, prefix);
        if let Some(line) = lines.insert(prefix, item.place.line()) {
            item.error(format!("`{prefix}` is in line {line} already"));
        }
        prefixes.push(prefix);
    }
    prefixes
}

fn connection_rate(mut section: Section<'_>) -> Option<ConnectionRate> {
    let mut number =
        |key| section.require(key).and_then(|value| value.within(&bounds::CONNECTION_RATE));
    let (per_second, burst) = (number("per_second"), number("burst"));
    section.finish(Kind::ConnectionRate);
    Some(ConnectionRate { per_second: per_second?, burst: burst? })
}

pub(super) fn admin(root: &mut Section<'_>, listeners: &[Listener]) -> Admin {
    let Some(mut section) = root.section("admin") else { return Admin::default() };
    let value = section.require("address");
    section.finish(Kind::Admin);
    let address = value.as_ref().and_then(Value::leaf::<SocketAddr>);
    if let (Some(value), Some(address)) = (value, address) {
        bounds::check_address(&value.place, address.ip());
        let taken = listeners
            .iter()
            .find(|listener| bounds::overlap(address, listener.address) != Overlap::None);
        if let Some(listener) = taken {
            value.error(format!("overlaps listener `{}` on {}", listener.name, listener.address));
        }
        if !address.ip().is_loopback() {
            value.place.warning("reachable from other machines, and asks for no key");
        }
    }
    Admin { address }
}

pub(super) fn log(root: &mut Section<'_>) -> Log {
    let default = Log::default();
    let Some(mut section) = root.section("log") else { return default };
    let level = section.take("level").and_then(|value| {
        use tracing::Level;
        let words = [
            ("error", Level::ERROR),
            ("warn", Level::WARN),
            ("info", Level::INFO),
            ("debug", Level::DEBUG),
            ("trace", Level::TRACE),
        ];
        value.one_of(&words, &[])
    });
    let format = section.take("format").and_then(|value| log_format(&value));
    let log = Log {
        level: level.unwrap_or(default.level),
        format: format.unwrap_or(default.format),
        access: section.section("access").and_then(access_log),
    };
    section.finish(Kind::Log);
    log
}

fn access_log(mut section: Section<'_>) -> Option<AccessLog> {
    let target = section.require("target").and_then(|value| log_target(&value));
    let format = section.take("format").map_or(Some(LogFormat::Text), |value| log_format(&value));
    section.finish(Kind::AccessLog);
    Some(AccessLog { target: target?, format: format? })
}

fn log_format(value: &Value<'_>) -> Option<LogFormat> {
    value.one_of(&[("text", LogFormat::Text), ("json", LogFormat::Json)], &[])
}

fn log_target(value: &Value<'_>) -> Option<LogTarget> {
    let text = value.leaf::<String>()?;
    match text.as_str() {
        "stdout" => Some(LogTarget::Stdout),
        "stderr" => Some(LogTarget::Stderr),
        path if path.contains('\0') => {
            value.error("contains U+0000, which no path has; remove it");
            None
        }
        path if path.starts_with('/') => Some(LogTarget::File(PathBuf::from(path))),
        _ => {
            value.error("expected `stdout`, `stderr` or a file as an absolute path");
            None
        }
    }
}

pub(super) fn timeouts(root: &mut Section<'_>) -> Timeouts {
    let d = Timeouts::default();
    let Some(mut section) = root.section("timeouts") else { return d };
    let mut wait = |key, default: Duration| section.within_or(key, bounds::WAIT, default);
    let timeouts = Timeouts {
        head: wait("head", d.head),
        body: wait("body", d.body),
        idle: wait("idle", d.idle),
        connect: wait("connect", d.connect),
        response: wait("response", d.response),
        response_body: wait("response_body", d.response_body),
        send: wait("send", d.send),
        pool_idle: wait("pool_idle", d.pool_idle),
        stream_idle: wait("stream_idle", d.stream_idle),
    };
    section.finish(Kind::Timeouts);
    timeouts
}

pub(super) fn limits(root: &mut Section<'_>) -> Limits {
    let d = Limits::default();
    let Some(mut section) = root.section("limits") else { return d };
    let connections = section
        .take("connections")
        .and_then(|value| value.word_or("auto", &bounds::CONNECTIONS)?.and_then(NonZeroUsize::new));
    let body_size_max = section
        .take("body_size_max")
        .and_then(|value| value.word_or("none", &bounds::BODY_SIZE)?)
        .map(|Size(bytes)| bytes);
    let splice_min = section
        .take("splice_min")
        .and_then(|value| value.word_or("none", &bounds::SPLICE_MIN))
        .map_or(d.splice_min, |least| least.map_or(u64::MAX, |Size(bytes)| bytes));
    let receive_buffer = section
        .take("receive_buffer")
        .and_then(|value| value.word_or("auto", &bounds::BUFFER_SIZE))
        .map_or(d.receive_buffer, |size| size.and_then(|Size(bytes)| usize::try_from(bytes).ok()));
    let head_fields_max =
        section.within_or("head_fields_max", bounds::HEAD_FIELDS, d.head_fields_max);
    let pool_idle_max = section.within_or("pool_idle_max", bounds::POOL_IDLE, d.pool_idle_max);
    let sockmap_tunnels =
        section.within_or("sockmap_tunnels", bounds::SOCKMAP_TUNNELS, d.sockmap_tunnels);
    let mut size = |key, range, default| in_bytes(&mut section, key, range, default);
    let limits = Limits {
        connections,
        head_size_max: size("head_size_max", bounds::HEAD_SIZE, d.head_size_max),
        head_fields_max,
        target_size_max: size("target_size_max", bounds::TARGET_SIZE, d.target_size_max),
        body_size_max,
        pool_idle_max,
        stream_buffer_max: size("stream_buffer_max", bounds::BUFFER_SIZE, d.stream_buffer_max),
        pipe_size: size("pipe_size", bounds::PIPE_SIZE, d.pipe_size),
        splice_min,
        send_buffer: size("send_buffer", bounds::BUFFER_SIZE, d.send_buffer),
        receive_buffer,
        unsent_max: size("unsent_max", bounds::BUFFER_SIZE, d.unsent_max),
        sockmap_tunnels,
        encoder_memory: size("encoder_memory", bounds::BODY_MEMORY, d.encoder_memory),
        filter_memory: size("filter_memory", bounds::BODY_MEMORY, d.filter_memory),
    };
    if limits.target_size_max > limits.head_size_max {
        section.error("`target_size_max` is above `head_size_max`, of which a target is a part");
    }
    section.finish(Kind::Limits);
    limits
}

fn in_bytes(
    section: &mut Section<'_>,
    key: &'static str,
    range: std::ops::RangeInclusive<Size>,
    default: usize,
) -> usize {
    section
        .take(key)
        .and_then(|value| value.within(&range))
        // Every range but the body's, which is not read here, ends far below 4 GiB.
        .and_then(|Size(bytes)| usize::try_from(bytes).ok())
        .unwrap_or(default)
}

pub(super) fn drain(root: &mut Section<'_>) -> Drain {
    let d = Drain::default();
    let Some(mut section) = root.section("drain") else { return d };
    let drain = Drain { timeout: section.within_or("timeout", bounds::DRAIN_WAIT, d.timeout) };
    section.finish(Kind::Drain);
    drain
}
