//! Named groups of nodes, listed or written in place.

mod balancing;
pub(super) mod checks;
mod names;
mod nodes;
pub(super) mod passing;
mod retrying;
mod sticky;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use foldhash::fast::RandomState;

use super::{
    Upstream, bounds,
    leaf::Id,
    planned::Kind,
    reader::{self, Place, Section, Value},
    resource,
};
use crate::upstream::hash_key::HashKey;

/// All upstreams of a file, while routes are resolved against them.
#[derive(Debug, Default)]
pub(super) struct Upstreams<'t> {
    list: Vec<Arc<Upstream>>,
    /// `None`: has an error, so that a reference to it is not another one.
    by_id: HashMap<Arc<str>, Option<Listed>, RandomState>,
    places: Vec<(Arc<str>, Place<'t>)>,
    referred: HashSet<Arc<str>, RandomState>,
}

#[derive(Debug)]
struct Listed {
    upstream: Arc<Upstream>,
    scheme: Option<Scheme>,
}

/// What an upstream serves; one without `scheme` serves either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Http,
    Tcp,
}

impl Scheme {
    fn word(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Tcp => "tcp",
        }
    }
}

/// There is an error, and it is in the sink.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reported;

/// Who leads to an upstream.
#[derive(Debug, Clone, Copy)]
pub(super) enum Owner {
    Route,
    Service,
    StreamRoute,
}

impl Owner {
    fn word(self) -> &'static str {
        match self {
            Owner::Route => "route",
            Owner::Service => "service",
            Owner::StreamRoute => "stream_route",
        }
    }

    fn scheme(self) -> Scheme {
        match self {
            Owner::Route | Owner::Service => Scheme::Http,
            Owner::StreamRoute => Scheme::Tcp,
        }
    }
}

impl<'t> Upstreams<'t> {
    /// Reads `upstreams`.
    pub(super) fn read(root: &mut Section<'t>) -> Upstreams<'t> {
        let mut upstreams = Upstreams::default();
        resource::each(root, "upstreams", |section, id| {
            let place = section.place().clone();
            let fields = fields(section);
            let Some(id) = id else { return };
            let listed = fields.map(|fields| {
                let scheme = fields.scheme.as_ref().map(|(scheme, _)| *scheme);
                let upstream = Arc::new(fields.with_id(Arc::clone(&id)));
                upstreams.list.push(Arc::clone(&upstream));
                Listed { upstream, scheme }
            });
            upstreams.by_id.insert(Arc::clone(&id), listed);
            upstreams.places.push((id, place));
        });
        upstreams
    }

    /// What `upstream_id` or `upstream` of a route says, if there is one of them.
    ///
    /// An upstream written in place gets the id `owner:id`, which no listed one can have.
    ///
    /// # Errors
    /// They say something that is wrong, which has been reported.
    pub(super) fn resolve(
        &mut self,
        section: &mut Section<'t>,
        owner: Owner,
        owner_id: Option<&str>,
    ) -> Result<Option<Arc<Upstream>>, Reported> {
        let (reference, inline) = (section.take("upstream_id"), section.take("upstream"));
        match (reference, inline) {
            (Some(_), Some(_)) => {
                section.error("`upstream_id` and `upstream` at once; keep one of them");
                Err(Reported)
            }
            (None, None) => Ok(None),
            (Some(reference), None) => self.refer(&reference, owner).map(Some).ok_or(Reported),
            (None, Some(inline)) => {
                self.in_place(&inline, owner, owner_id).map(Some).ok_or(Reported)
            }
        }
    }

    fn in_place(
        &mut self,
        value: &Value<'t>,
        owner: Owner,
        owner_id: Option<&str>,
    ) -> Option<Arc<Upstream>> {
        let id = owner_id.map(|id| format!("{}:{id}", owner.word()));
        let upstream = in_place(value, owner, id)?;
        self.list.push(Arc::clone(&upstream));
        Some(upstream)
    }

    fn refer(&mut self, reference: &Value<'_>, owner: Owner) -> Option<Arc<Upstream>> {
        let Id(id) = reference.leaf()?;
        let Some(listed) = self.by_id.get(&id) else {
            unknown(reference, &id, self.by_id.keys());
            return None;
        };
        self.referred.insert(id);
        let listed = listed.as_ref()?;
        if let Some(scheme) = listed.scheme {
            check_scheme(&reference.place, scheme, owner);
        }
        check_request_only(&reference.place, &listed.upstream, owner);
        Some(Arc::clone(&listed.upstream))
    }

    /// What plugins may refer to.
    pub(super) fn known(&self) -> Known {
        let scheme = |listed: &Option<Listed>| listed.as_ref().and_then(|listed| listed.scheme);
        Known(self.by_id.iter().map(|(id, listed)| (Arc::clone(id), scheme(listed))).collect())
    }

    /// Plugins refer to these, and have those written in place.
    pub(super) fn are_referred(&mut self, by_plugins: ByPlugins) {
        self.referred.extend(by_plugins.referred);
        self.list.extend(by_plugins.in_place);
    }

    /// All of them, listed and in place; warns of those that nothing refers to.
    pub(super) fn finish(self) -> Vec<Arc<Upstream>> {
        for (id, place) in &self.places {
            if !self.referred.contains(id) {
                place.warning(format!("no route refers to upstream `{id}`"));
            }
        }
        self.list
    }
}

/// Upstreams to which plugins lead.
#[derive(Debug, Default)]
pub(super) struct ByPlugins {
    /// Of the listed ones.
    referred: HashSet<Arc<str>>,
    in_place: Vec<Arc<Upstream>>,
}

impl ByPlugins {
    pub(super) fn refer(&mut self, id: Arc<str>) {
        self.referred.insert(id);
    }

    /// Reads one that is written in place; `id` is one that no listed one can have.
    pub(super) fn read(&mut self, value: &Value<'_>, id: Option<String>) -> Option<Arc<str>> {
        let upstream = in_place(value, Owner::Route, id)?;
        let id = Arc::clone(&upstream.id);
        self.in_place.push(upstream);
        Some(id)
    }
}

/// An upstream where it is used. All of it is read without an `id` too, so that all errors are found.
fn in_place(value: &Value<'_>, owner: Owner, id: Option<String>) -> Option<Arc<Upstream>> {
    let fields = fields(value.section()?)?;
    if let Some((scheme, place)) = &fields.scheme {
        check_scheme(place, *scheme, owner);
    }
    check_request_only(&value.place, &fields.upstream, owner);
    Some(Arc::new(fields.with_id(id?.into())))
}

/// The listed upstreams, those with errors included.
#[derive(Debug)]
pub(super) struct Known(HashMap<Arc<str>, Option<Scheme>>);

impl Known {
    /// Whether a route may lead to `id`; otherwise that is reported.
    pub(super) fn check(&self, reference: &Value<'_>, id: &str) -> Option<()> {
        let Some(scheme) = self.0.get(id) else {
            unknown(reference, id, self.0.keys());
            return None;
        };
        if let Some(scheme) = scheme {
            check_scheme(&reference.place, *scheme, Owner::Route);
        }
        Some(())
    }
}

fn unknown<'i>(reference: &Value<'_>, id: &str, ids: impl ExactSizeIterator<Item = &'i Arc<str>>) {
    let near = (ids.len() <= bounds::SUGGESTED_FROM_MAX)
        .then(|| reader::nearest(id, ids.map(AsRef::as_ref)))
        .flatten();
    let hint = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
    reference.error(format!("no upstream has the id `{id}`{hint}"));
}

fn check_scheme(place: &Place<'_>, scheme: Scheme, owner: Owner) {
    if scheme != owner.scheme() {
        place.error(format!(
            "the upstream has `scheme: {}`, a {} needs `{}`; change or remove the scheme",
            scheme.word(),
            owner.word(),
            owner.scheme().word()
        ));
    }
}

/// A TCP connection has nothing of a request that could be hashed.
fn check_request_only(place: &Place<'_>, upstream: &Upstream, owner: Owner) {
    match owner {
        Owner::StreamRoute => {}
        Owner::Service | Owner::Route => return,
    }
    if !upstream.hash_key.as_ref().is_none_or(HashKey::is_of_connection) {
        place.error(
            "the upstream hashes what only requests have; a stream_route needs `hash_on: vars` and \
             `remote_addr`, `remote_port` or `server_addr`",
        );
    }
    if upstream.sticky.is_some() {
        place.error("the upstream is `sticky` by a cookie, which only requests have");
    }
}

/// An upstream before it has an id.
struct Fields<'t> {
    upstream: Upstream,
    scheme: Option<(Scheme, Place<'t>)>,
}

impl Fields<'_> {
    fn with_id(self, id: Arc<str>) -> Upstream {
        Upstream { id, ..self.upstream }
    }
}

fn fields(mut section: Section<'_>) -> Option<Fields<'_>> {
    resource::described(&mut section);
    let (balancing, hash_key) = balancing::balancing(&mut section);
    let scheme = section.take("scheme").and_then(|value| scheme(&value));
    let pass_host = passing::pass_host(&mut section);
    let retry_on = retrying::retry_on(&mut section);
    let retry_budget = retrying::retry_budget(&mut section);
    let retry_timeout = retrying::retry_timeout(&mut section);
    let timeout = passing::timeout(&mut section);
    let keepalive_pool = passing::keepalive_pool(&mut section);
    let retries = section.take("retries").map(|value| value.within(&(0..=u16::MAX)));
    let is_same_host = section.leaf_or("same_host", true);
    let sticky = sticky::sticky(&mut section);
    let slow_start = sticky::slow_start(&mut section, balancing);
    let checks = checks::checks(&mut section);
    let outlier_detection = checks::outlier_detection(&mut section);
    let listed = nodes::listed(&mut section, balancing);
    section.finish(Kind::Upstream);
    let listed = listed?;
    let upstream = Upstream {
        id: Arc::default(),
        nodes: Vec::new(),
        names: listed.names,
        balancing,
        hash_key,
        pass_host: pass_host?,
        retry_on: retry_on?,
        retry_budget,
        retries: 0,
        retries_asked: retries.map_or(Some(None), |retries| retries.map(Some))?,
        retry_timeout,
        timeout,
        keepalive_pool,
        is_same_host,
        sticky: sticky?,
        slow_start,
        checks,
        outlier_detection,
    };
    Some(Fields { upstream: upstream.with_nodes(listed.nodes), scheme })
}

fn scheme<'t>(value: &Value<'t>) -> Option<(Scheme, Place<'t>)> {
    let words = [Scheme::Http, Scheme::Tcp].map(|scheme| (scheme.word(), scheme));
    let planned = ["grpc", "grpcs", "h2c", "https", "kafka", "tls", "udp"];
    Some((value.one_of(&words, &planned)?, value.place.clone()))
}
