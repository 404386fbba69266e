//! What leads to an upstream: routes by request, stream routes by connection.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::{
    Datapath, Listener, Protocol, Route, StreamRoute, bounds,
    consumers::Names,
    pattern,
    planned::Kind,
    plugins,
    reader::{Section, Value},
    resource,
    upstream::Upstreams,
};

/// Reads `routes`; those with `status: 0` are checked and left out.
pub(super) fn routes<'t>(
    root: &mut Section<'t>,
    upstreams: &mut Upstreams<'t>,
    consumers: &Names,
) -> Vec<Route> {
    let mut routes = Vec::new();
    resource::each(root, "routes", |section, id| {
        routes.extend(route(section, id, upstreams, consumers));
    });
    routes
}

fn route<'t>(
    mut section: Section<'t>,
    id: Option<Arc<str>>,
    upstreams: &mut Upstreams<'t>,
    consumers: &Names,
) -> Option<Route> {
    resource::described(&mut section);
    let has_uri = section.has("uri") || section.has("uris");
    let uris = resource::one_or_list(&mut section, "uri", "uris", pattern::uri);
    if !has_uri {
        section.error("`uri` or `uris` is missing");
    }
    let hosts = resource::one_or_list(&mut section, "host", "hosts", pattern::host);
    let hosts = hosts.unwrap_or_default();
    let is_any = hosts.iter().any(|host| host == "*");
    if is_any && hosts.len() > 1 {
        section.error("`hosts` names `*` beside others; `*` alone means any host");
    }
    let methods = section.take("methods");
    let methods = methods.and_then(|value| resource::each_once(&value, pattern::method));
    let priority = section.leaf_or("priority", 0);
    let status = section.take("status").and_then(|value| value.within(&(0..=1u16)));
    let plugins = section.take("plugins");
    let plugins = plugins.map(|value| plugins::of_route(&value, consumers)).unwrap_or_default();
    let upstream = upstreams.resolve(&mut section, "route", id.as_deref());
    section.finish(Kind::Route);
    if status == Some(0) {
        return None;
    }
    Some(Route {
        id: id?,
        uris: uris?,
        hosts: if is_any { Vec::new() } else { hosts },
        methods: methods.unwrap_or_default(),
        priority,
        plugins,
        upstream: upstream?,
    })
}

/// Reads `stream_routes`, each of which some `tcp` listener has to be able to lead to.
pub(super) fn stream_routes<'t>(
    root: &mut Section<'t>,
    upstreams: &mut Upstreams<'t>,
    listeners: &[Listener],
) -> Vec<StreamRoute> {
    let mut routes = Vec::new();
    resource::each(root, "stream_routes", |section, id| {
        routes.extend(stream_route(section, id, upstreams, listeners));
    });
    routes
}

fn stream_route<'t>(
    mut section: Section<'t>,
    id: Option<Arc<str>>,
    upstreams: &mut Upstreams<'t>,
    listeners: &[Listener],
) -> Option<StreamRoute> {
    resource::described(&mut section);
    let server_port = section.take("server_port");
    let port = server_port.as_ref().and_then(|value| value.within(&(1..=u16::MAX)));
    let server_addr = section.take("server_addr");
    let address = server_addr.as_ref().and_then(Value::leaf::<IpAddr>);
    if let (Some(value), Some(address)) = (&server_addr, address) {
        bounds::refuse_mapped(&value.place, address);
    }
    if let Some(value) = server_port.as_ref().filter(|_| port.is_some()).or(server_addr.as_ref())
        && !listeners.iter().any(|listener| leads_to(listener, port, address))
    {
        value.error("no listener with `protocol: tcp` is bound there");
    }
    let remote_addr = section.take("remote_addr").and_then(|value| value.leaf::<IpNet>());
    let datapath = section.take("datapath").map_or(Some(Datapath::Splice), |value| {
        let words = [
            ("user", Datapath::User),
            ("splice", Datapath::Splice),
            ("sockmap", Datapath::Sockmap),
        ];
        value.one_of(&words, &["local", "xdp"])
    });
    let upstream = upstreams.resolve(&mut section, "stream_route", id.as_deref());
    section.finish(Kind::StreamRoute);
    Some(StreamRoute {
        id: id?,
        server_port: port,
        server_addr: address,
        remote_addr: remote_addr.map(|prefix| prefix.trunc()),
        datapath: datapath?,
        upstream: upstream?,
    })
}

/// Whether a connection of this listener can have this local port and address.
fn leads_to(listener: &Listener, port: Option<u16>, address: Option<IpAddr>) -> bool {
    let bound = listener.address;
    let is_on = |address: IpAddr| {
        let is_wildcard = bound.ip().is_unspecified() && bound.is_ipv4() == address.is_ipv4();
        bound.ip() == address || is_wildcard
    };
    listener.protocol == Protocol::Tcp
        && port.is_none_or(|port| bound.port() == port)
        && address.is_none_or(is_on)
}
