//! The decision about one request: refuse it, answer it, or forward it, and then how.
//!
//! Pure, and the only one: every lane asks it, and what differs between lanes is who moves bytes.

use std::{borrow::Cow, collections::HashMap, net::IpAddr, sync::Arc};

use http::StatusCode;

use crate::{
    config::{self, Config},
    error::Fault,
    http::{
        answer::Answer,
        fields::{ForwardedField, Pseudonym},
        framing::BodyLength,
        head::RequestHead,
        name::Known,
        path::{self, ForwardPath},
    },
    metrics::{ByListener, Metrics},
    plugin::{self, Call, Chain, Consumers, FieldEdits, Reply, RequestContext, Step},
    route::{Router, stream::StreamRoute},
    upstream::group::Upstream,
};

/// Everything a request is decided by; immutable and shared by all workers.
#[derive(Debug)]
pub struct Pipeline {
    router: Router,
    routes: Box<[Route]>,
    stream_routes: Box<[StreamRoute]>,
    upstreams: HashMap<Arc<str>, Arc<Upstream>>,
    /// This process in `Via` and in loop detection.
    pseudonym: Pseudonym,
    body_size_max: Option<u64>,
}

/// A route with everything it leads to.
#[derive(Debug)]
pub struct Route {
    pub id: Arc<str>,
    /// Position among the routes of its pipeline.
    pub index: usize,
    pub chain: Chain,
    pub upstream: Arc<Upstream>,
    pub metrics: ByListener,
}

/// What happens to a request.
#[derive(Debug)]
pub enum Decision<'a> {
    Forward(Plan<'a>),
    Answer {
        route: Option<&'a Route>,
        answer: Answer,
        fault: Fault,
    },
    /// A plugin needs something done before the request can go on.
    Call(Paused<'a>),
}

/// A request between two steps of its plugin chain.
#[derive(Debug)]
pub struct Paused<'a> {
    /// What has to be done before [`resume`](Self::resume).
    pub call: Call,
    at: usize,
    undecided: Undecided<'a>,
}

/// A request that has a route and whose plugins are not through.
#[derive(Debug)]
struct Undecided<'a> {
    route: &'a Route,
    path: &'a str,
    forward: ForwardPath,
    cx: RequestContext<'a>,
}

/// How a request is forwarded.
#[derive(Debug)]
pub struct Plan<'a> {
    pub route: &'a Route,
    /// Path and query as the node sees them.
    pub target: Cow<'a, str>,
    pub edits: FieldEdits<'a>,
    /// Who was authenticated.
    pub consumer: Option<Arc<str>>,
}

impl Pipeline {
    /// What `config` says, with what has not changed since `before` as it is there.
    pub fn new(
        config: &Config,
        before: Option<&Pipeline>,
        metrics: &Metrics,
        pseudonym: Pseudonym,
    ) -> Self {
        let consumers = Arc::new(Consumers::new(&config.consumers));
        let upstreams: HashMap<_, _> = config
            .upstreams
            .iter()
            .map(|upstream| (Arc::clone(&upstream.id), kept_or_new(upstream, before, metrics)))
            .collect();
        let listeners = config.listeners.len();
        let routes = config.routes.iter().enumerate().map(|(index, route)| Route {
            id: Arc::clone(&route.id),
            index,
            chain: Chain::new(&route.plugins, &consumers),
            upstream: Arc::clone(&upstreams[&route.upstream.id]),
            metrics: ByListener::new(listeners),
        });
        let stream_routes = config.stream_routes.iter().map(|route| StreamRoute {
            config: route.clone(),
            upstream: Arc::clone(&upstreams[&route.upstream.id]),
            metrics: ByListener::new(listeners),
        });
        Self {
            router: Router::new(&config.routes),
            routes: routes.collect(),
            stream_routes: stream_routes.collect(),
            upstreams,
            pseudonym,
            body_size_max: config.limits.body_size_max,
        }
    }

    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    pub fn stream_routes(&self) -> &[StreamRoute] {
        &self.stream_routes
    }

    pub fn pseudonym(&self) -> &Pseudonym {
        &self.pseudonym
    }

    /// Decides about a request that came from `source`.
    pub fn decide<'a>(&'a self, head: &'a RequestHead, source: IpAddr) -> Decision<'a> {
        if self.pseudonym.is_in(head.known(Known::Via)) {
            return Decision::refuse(None, Fault::Loop);
        }
        if let (BodyLength::Fixed(length), Some(max)) = (head.body_length(), self.body_size_max)
            && length > max
        {
            return Decision::refuse(None, Fault::BodyTooLarge);
        }
        let (path, query) = head.path_and_query();
        let normalised = match path::normalise(path) {
            Ok(normalised) => normalised,
            Err(error) => return Decision::refuse(None, error.fault()),
        };
        let Some(index) = self.router.select(head.host_name(), &normalised.path, head.method())
        else {
            return Decision::no_route();
        };
        let route = &self.routes[index];
        let cx = RequestContext {
            head,
            source,
            query: query.map(Cow::Borrowed),
            edits: FieldEdits::default(),
            consumer: None,
        };
        let mut undecided = Undecided { route, path, forward: normalised.forward, cx };
        let step = route.chain.request(&mut undecided.cx);
        undecided.after(step)
    }
}

/// The state of an upstream outlives every reload that does not change it.
fn kept_or_new(
    upstream: &Arc<config::Upstream>,
    before: Option<&Pipeline>,
    metrics: &Metrics,
) -> Arc<Upstream> {
    let known = before.and_then(|before| before.upstreams.get(&upstream.id));
    match known.filter(|known| known.config == *upstream) {
        Some(known) => Arc::clone(known),
        None => Arc::new(Upstream::new(upstream, metrics)),
    }
}

impl<'a> Paused<'a> {
    /// The next decision, after the call.
    pub fn resume(self, reply: Reply) -> Decision<'a> {
        let Self { at, mut undecided, call: _ } = self;
        let step = undecided.route.chain.resume(at, reply, &mut undecided.cx);
        undecided.after(step)
    }

    pub fn route(&self) -> &'a Route {
        self.undecided.route
    }
}

impl<'a> Undecided<'a> {
    fn after(self, step: Step) -> Decision<'a> {
        let Self { route, path, forward, cx } = self;
        match step {
            Step::Continue => Decision::Forward(Plan {
                route,
                target: target(cx.head, path, forward, cx.query),
                edits: cx.edits,
                consumer: cx.consumer,
            }),
            Step::Answer(answer) => {
                Decision::Answer { route: Some(route), answer, fault: Fault::Denied }
            }
            Step::Call(at, call) => {
                let undecided = Self { route, path, forward, cx };
                Decision::Call(Paused { call, at, undecided })
            }
        }
    }
}

/// Fields that tell the node who was authenticated: what the downstream sends under these names
/// never reaches it.
const IDENTITY_FIELDS: [&[u8]; 3] =
    [b"x-consumer-username", b"x-consumer-custom-id", b"x-credential-identifier"];

impl Plan<'_> {
    /// Whether the node must not see this field of the downstream.
    pub fn replaces(&self, field: &ForwardedField<'_>) -> bool {
        let is_identity = |name| IDENTITY_FIELDS.iter().any(|field| plugin::is_alike(field, name));
        field.known.is_editable() && is_identity(field.name.as_bytes())
            || self.edits.replaces(field)
    }
}

impl<'a> Decision<'a> {
    fn refuse(route: Option<&'a Route>, fault: Fault) -> Self {
        let status = fault.consequence().status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Decision::Answer { route, answer: Answer::of(status), fault }
    }

    fn no_route() -> Self {
        let answer = Answer::with_reason(StatusCode::NOT_FOUND, "Route Not Found");
        Decision::Answer { route: None, answer, fault: Fault::NoRoute }
    }
}

/// Path and query as the node sees them; as they stand in the head if nothing changed them.
fn target<'a>(
    head: &'a RequestHead,
    path: &'a str,
    forward: ForwardPath,
    query: Option<Cow<'a, str>>,
) -> Cow<'a, str> {
    let is_query_received = match (&query, head.path_and_query().1) {
        (None, None) => true,
        (Some(Cow::Borrowed(query)), Some(received)) => std::ptr::eq(*query, received),
        (Some(_), _) | (None, Some(_)) => false,
    };
    let path = match forward {
        ForwardPath::AsReceived => match head.path_with_query() {
            Some(received) if is_query_received => return Cow::Borrowed(received),
            Some(_) | None => Cow::Borrowed(path),
        },
        ForwardPath::Rewritten(path) => Cow::Owned(path),
    };
    match query {
        Some(query) => Cow::Owned(format!("{path}?{query}")),
        None => path,
    }
}
