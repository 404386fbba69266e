//! What leads to an upstream: routes by request, stream routes by connection.

use std::{net::IpAddr, sync::Arc};

use super::{
    Datapath, KernelMode, Listener, Protocol, Route, Service, StreamRoute, bounds,
    expression::expression,
    pattern,
    planned::Kind,
    plugins::Scope,
    process::Listeners,
    reader::{Section, Value},
    resource,
    shared::{self, Listed},
    upstream::{Owner, Upstreams, passing},
};
use crate::{plugin::PluginSet, variable::Moment};

/// Reads `routes`; those with `status: 0` are checked and left out.
pub(super) fn routes<'t>(
    root: &mut Section<'t>,
    upstreams: &mut Upstreams<'t>,
    shared: &Shared,
    scope: &Scope<'_>,
) -> Vec<Route> {
    resource::all(root, "routes", |section, id| route(section, id, upstreams, shared, scope))
}

/// What routes refer to.
pub(super) struct Shared {
    pub(super) services: Listed<Service>,
    pub(super) plugin_configs: Listed<PluginSet>,
}

fn route<'t>(
    mut section: Section<'t>,
    id: Option<Arc<str>>,
    upstreams: &mut Upstreams<'t>,
    shared: &Shared,
    scope: &Scope<'_>,
) -> Option<Route> {
    let name = resource::described(&mut section);
    let has_uri = section.has("uri") || section.has("uris");
    let uris = resource::one_or_list(&mut section, "uri", "uris", pattern::uri);
    if !has_uri {
        section.error("`uri` or `uris` is missing");
    }
    let hosts = resource::one_or_list(&mut section, "host", "hosts", pattern::host);
    let hosts = hosts.unwrap_or_default();
    let methods = section.take("methods");
    let methods = methods.and_then(|value| resource::each_once(&value, pattern::method));
    let remote_addrs =
        resource::one_or_list(&mut section, "remote_addr", "remote_addrs", pattern::network);
    let vars = section.take("vars").and_then(|value| expression(&value, Moment::Request));
    let priority = section.leaf_or("priority", 0);
    let status = section.take("status").and_then(|value| value.within(&(0..=1u16)));
    let leads_somewhere =
        ["plugins", "upstream", "upstream_id", "service_id"].iter().any(|key| section.has(key));
    if !leads_somewhere {
        section.error("`upstream`, `upstream_id`, `service_id` or `plugins` is missing");
    }
    let timeout = passing::timeout(&mut section);
    let plugins = shared::plugins(&mut section, "route", id.as_ref(), scope);
    let plugin_config = section.take("plugin_config_id");
    let plugin_config =
        plugin_config.map(|value| shared.plugin_configs.refer(&value, "plugin config"));
    let service = section.take("service_id");
    let service = service.map(|value| shared.services.refer(&value, "service"));
    let upstream = upstreams.resolve(&mut section, Owner::Route, id.as_deref());
    section.finish(Kind::Route);
    if status == Some(0) {
        return None;
    }
    // What is referred to and is not there has been reported.
    let (plugin_config, service) = (complete(plugin_config)?, complete(service)?);
    let inherited = service.as_ref().and_then(|service| service.upstream.clone());
    let hosts = match &service {
        Some(service) if hosts.is_empty() => service.hosts.clone(),
        Some(_) | None => hosts,
    };
    Some(Route {
        id: id?,
        name,
        uris: uris?,
        hosts,
        methods: methods.unwrap_or_default(),
        remote_addrs: remote_addrs.unwrap_or_default(),
        vars,
        priority,
        timeout,
        plugins,
        plugin_config,
        upstream: upstream.ok()?.or(inherited),
        service,
    })
}

/// `None`: it was asked for, and there is none.
fn complete<T>(found: Option<Option<T>>) -> Option<Option<T>> {
    match found {
        Some(Some(found)) => Some(Some(found)),
        Some(None) => None,
        None => Some(None),
    }
}

/// Reads `stream_routes`, each of which some `tcp` listener has to be able to lead to.
pub(super) fn stream_routes<'t>(
    root: &mut Section<'t>,
    upstreams: &mut Upstreams<'t>,
    listeners: &Listeners,
    kernel: KernelMode,
) -> Vec<StreamRoute> {
    resource::all(root, "stream_routes", |section, id| {
        stream_route(section, id, upstreams, listeners, kernel)
    })
}

fn stream_route<'t>(
    mut section: Section<'t>,
    id: Option<Arc<str>>,
    upstreams: &mut Upstreams<'t>,
    listeners: &Listeners,
    kernel: KernelMode,
) -> Option<StreamRoute> {
    resource::described(&mut section);
    let (server_port, server_addr) = local_end(&mut section, listeners);
    let remote_addr = section.take("remote_addr").and_then(|value| pattern::network(&value));
    let datapath =
        section.take("datapath").map_or(Some(Datapath::Splice), |value| datapath(&value, kernel));
    if !section.has("upstream") && !section.has("upstream_id") {
        section.error("`upstream_id` or `upstream` is missing");
    }
    let upstream = upstreams.resolve(&mut section, Owner::StreamRoute, id.as_deref());
    section.finish(Kind::StreamRoute);
    Some(StreamRoute {
        id: id?,
        server_port,
        server_addr,
        remote_addr,
        datapath: datapath?,
        upstream: upstream.ok()??,
    })
}

/// `server_port` and `server_addr`, to which some listener has to be able to lead.
fn local_end(section: &mut Section<'_>, listeners: &Listeners) -> (Option<u16>, Option<IpAddr>) {
    let (server_port, server_addr) = (section.take("server_port"), section.take("server_addr"));
    let port = server_port.as_ref().and_then(|value| value.within(&(1..=u16::MAX)));
    let address = server_addr.as_ref().and_then(local_address);
    let given =
        server_port.filter(|_| port.is_some()).or(server_addr.filter(|_| address.is_some()));
    if let Some(value) = given
        && listeners.is_whole
        && !listeners.list.iter().any(|listener| leads_to(listener, port, address))
    {
        value.error("no listener with `protocol: tcp` is bound there");
    }
    (port, address)
}

fn local_address(value: &Value<'_>) -> Option<IpAddr> {
    let address = value.leaf::<IpAddr>()?;
    if address.is_unspecified() {
        value.error(format!("no connection has the address `{address}`; without the key any fits"));
        return None;
    }
    bounds::check_address(&value.place, address);
    Some(address)
}

fn datapath(value: &Value<'_>, kernel: KernelMode) -> Option<Datapath> {
    let words =
        [("user", Datapath::User), ("splice", Datapath::Splice), ("sockmap", Datapath::Sockmap)];
    let datapath = value.one_of(&words, &["local", "xdp"])?;
    if datapath == Datapath::Sockmap && kernel == KernelMode::Off {
        value.place.warning("`sockmap` becomes `splice` under `kernel.mode: off`");
    }
    Some(datapath)
}

/// Whether a connection of this listener can have this local port and address.
fn leads_to(listener: &Listener, port: Option<u16>, address: Option<IpAddr>) -> bool {
    let bound = listener.address;
    listener.protocol == Protocol::Tcp
        && port.is_none_or(|port| bound.port() == port)
        && address.is_none_or(|address| bounds::takes(bound.ip(), address))
}
