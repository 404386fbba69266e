//! The decision about one request: refuse it, answer it, or forward it, and then how.
//!
//! Pure, and the only one: every lane asks it, and what differs between lanes is who moves bytes.

use std::{
    borrow::Cow,
    cell::Cell,
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    ptr,
    sync::Arc,
    time::Instant,
};

use foldhash::fast::RandomState;
use http::{HeaderName, HeaderValue, StatusCode, header};

use crate::{
    config::{self, Config, NodeTimeout, NodeWaits, Timeouts},
    error::Fault,
    http::{
        answer::Answer,
        fields::{self, Pseudonym},
        framing::BodyLength,
        head::{RequestHead, ResponseHead},
        name::Known,
        path::{self, ForwardPath},
    },
    key_source::KeySets,
    log_files::LogFiles,
    memory::BodyMemory,
    metrics::{ByListener, Metrics},
    plugin::{
        self, Call, Chain, Consumer, Consumers, FieldEdits, Kept, Mirror, Origin, PluginConfig,
        PluginSet, Progress, Reply, Request, RequestContext, RequestEdits, Rewrite, RouteNames,
        Run, Shape,
    },
    route::{Router, stream::StreamRoute},
    upstream::group::Upstream,
    variable::Facts,
};

/// Everything a request is decided by; immutable and shared by all workers.
#[derive(Debug)]
pub struct Pipeline {
    router: Router,
    routes: Box<[Route]>,
    /// What a request passes that no route takes: the global rules.
    unrouted: Chain,
    stream_routes: Box<[Arc<StreamRoute>]>,
    consumers: Consumers,
    upstreams: HashMap<Arc<str>, Arc<Upstream>>,
    /// By owner, for the next configuration to keep what it does not change.
    plugin_sets: HashMap<Arc<str>, PluginSet, RandomState>,
    key_sets: KeySets,
    /// This process in `Via` and in loop detection.
    pseudonym: Pseudonym,
    body_size_max: Option<u64>,
}

/// A route with everything it leads to.
#[derive(Debug)]
pub struct Route {
    pub names: RouteNames,
    /// Position among the routes of its pipeline.
    pub index: usize,
    pub chain: Chain,
    /// `None`: only plugins answer.
    pub upstream: Option<Arc<Upstream>>,
    timeout: Option<NodeTimeout>,
    pub metrics: ByListener,
}

/// What happens to a request.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are the large one")]
pub enum Decision<'a> {
    Forward(Plan<'a>),
    Answer(Refusal<'a>),
    /// A plugin needs something done before the request can go on.
    Call(Box<Paused<'a>>),
}

/// A request that is answered here.
#[derive(Debug)]
pub struct Refusal<'a> {
    pub route: Option<&'a Route>,
    pub consumer: Option<&'a Consumer>,
    /// Who has asked, if that was found out.
    pub client: Option<IpAddr>,
    pub answer: Answer,
    pub fault: Fault,
    pub kept: Kept,
}

/// A request between two steps of its plugin chain.
#[derive(Debug)]
pub struct Paused<'a> {
    /// What has to be done before [`resume`](Self::resume).
    pub call: Call,
    undecided: Undecided<'a>,
}

/// A request whose plugins are not through.
#[derive(Debug)]
struct Undecided<'a> {
    /// `None`: no route takes it.
    route: Option<&'a Route>,
    forward: ForwardPath,
    cx: RequestContext<'a>,
    run: Run<'a>,
}

/// How a request is forwarded.
#[derive(Debug)]
pub struct Plan<'a> {
    pub route: &'a Route,
    pub upstream: &'a Arc<Upstream>,
    pub request: Request<'a>,
    /// The plugins it has passed, for its response.
    pub run: Run<'a>,
    /// Path and query as the node sees them.
    pub target: Cow<'a, str>,
    pub rewrite: Rewrite,
    pub edits: RequestEdits<'a>,
    /// What the downstream sees, whoever makes the response.
    pub response: FieldEdits<'a>,
    /// Bytes of content that the request may have, if fewer than everywhere.
    pub body_size_max: Option<u64>,
    /// Who gets a copy.
    pub mirrors: Vec<Arc<Mirror>>,
    pub kept: Kept,
}

impl Pipeline {
    /// What `config` says, with what has not changed since `before` as it is there; `upstreams` are
    /// its own, with what their names resolve to.
    pub fn new(
        config: &Config,
        upstreams: &[Arc<config::Upstream>],
        before: Option<&Pipeline>,
        metrics: &Metrics,
        log_files: &LogFiles,
        pseudonym: Pseudonym,
    ) -> Self {
        let mut sets = PluginSets::new(before);
        let consumers = Consumers::new(&config.consumers, |consumer| sets.of_consumer(consumer));
        let global: Vec<PluginSet> = config.global_rules.iter().map(|set| sets.keep(set)).collect();
        let upstreams: HashMap<_, _> = upstreams
            .iter()
            .map(|upstream| (Arc::clone(&upstream.id), kept_or_new(upstream, before, metrics)))
            .collect();
        let listeners = config.listeners.len();
        let routes = config.routes.iter().enumerate().map(|(index, route)| Route {
            names: names(route),
            index,
            chain: Chain::new(&sets.of_route(route), &global),
            upstream: route.upstream.as_ref().map(|upstream| Arc::clone(&upstreams[&upstream.id])),
            timeout: route.timeout,
            metrics: ByListener::new(listeners),
        });
        let routes = routes.collect();
        let credentials = config.consumers.iter().flat_map(|consumer| &consumer.credentials);
        let sources = credentials.filter_map(|credential| credential.keys.as_ref());
        let plugins = sets.kept.values().flat_map(|set| &set.plugins);
        plugins.for_each(|config| config.plugin.open(log_files));
        let stream_routes = config.stream_routes.iter().map(|route| {
            Arc::new(StreamRoute {
                config: route.clone(),
                upstream: Arc::clone(&upstreams[&route.upstream.id]),
                metrics: ByListener::new(listeners),
            })
        });
        Self {
            router: Router::new(&config.routes),
            routes,
            unrouted: Chain::new(&PluginSet::default(), &global),
            stream_routes: stream_routes.collect(),
            consumers,
            upstreams,
            plugin_sets: sets.kept,
            key_sets: KeySets::new(sources, before.map(|before| &before.key_sets)),
            pseudonym,
            body_size_max: config.limits.body_size_max,
        }
    }

    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// What a request passes that no route takes.
    pub fn unrouted(&self) -> &Chain {
        &self.unrouted
    }

    pub fn router(&self) -> &Router {
        &self.router
    }

    pub fn stream_routes(&self) -> &[Arc<StreamRoute>] {
        &self.stream_routes
    }

    pub fn consumers(&self) -> &Consumers {
        &self.consumers
    }

    pub fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.upstreams.values()
    }

    pub(crate) fn key_sets(&self) -> &KeySets {
        &self.key_sets
    }

    pub fn pseudonym(&self) -> &Pseudonym {
        &self.pseudonym
    }

    /// Decides about a request that came from `origin`.
    pub fn decide<'a>(&'a self, head: &'a RequestHead, origin: &'a Origin) -> Decision<'a> {
        if self.pseudonym.is_in(head.known(Known::Via)) {
            return Decision::refuse(Fault::Loop);
        }
        match fields::forwards_left(head) {
            None | Some(Ok(1..)) => {}
            Some(Ok(0)) => return Decision::end_of_chain(head),
            Some(Err(fault)) => return Decision::refuse(fault),
        }
        if let (BodyLength::Fixed(length), Some(max)) = (head.body_length(), self.body_size_max)
            && length > max
        {
            return Decision::refuse(Fault::BodyTooLarge);
        }
        let (path, query) = head.path_and_query();
        let normalised = match path::normalise(path) {
            Ok(normalised) => normalised,
            Err(error) => return Decision::refuse(error.fault()),
        };
        let mut facts = Facts::new(head, &normalised.path, query, origin.ends());
        facts.now = Some(&origin.now);
        let selected = self.router.select(&facts);
        let pattern = selected.as_ref().map(|selected| selected.pattern);
        let route = selected.map(|selected| &self.routes[selected.index]);
        let request = Request {
            head,
            path: normalised.path,
            query,
            origin,
            client: origin.peer.ip(),
            pattern,
            route: route.map(|route| &route.names),
            consumer: None,
            node: Cell::new(None),
        };
        let undecided = Undecided {
            route,
            forward: normalised.forward,
            cx: RequestContext::new(request, &self.consumers, &self.upstreams),
            run: Run::new(route.map_or(&self.unrouted, |route| &route.chain)),
        };
        undecided.go_on(None)
    }
}

/// The plugins of every resource, with their state if they had one before.
struct PluginSets<'p> {
    before: Option<&'p Pipeline>,
    /// What was shared before by kind and group, whoever had it.
    groups: HashMap<(&'static str, &'p str), &'p PluginConfig, RandomState>,
    kept: HashMap<Arc<str>, PluginSet, RandomState>,
}

impl<'p> PluginSets<'p> {
    fn new(before: Option<&'p Pipeline>) -> Self {
        let sets = before.into_iter().flat_map(|before| before.plugin_sets.values());
        let groups = sets.flat_map(|set| &set.plugins).filter_map(|config| {
            config.plugin.group().map(|group| ((config.kind.name, group), config))
        });
        PluginSets { before, groups: groups.collect(), kept: HashMap::default() }
    }

    fn keep(&mut self, set: &PluginSet) -> PluginSet {
        let Some(owner) = set.owner.as_ref().filter(|_| !set.is_empty()) else {
            return set.clone();
        };
        if let Some(kept) = self.kept.get(owner) {
            return kept.clone();
        }
        let own = self.before.and_then(|before| before.plugin_sets.get(owner));
        let kept = set.keeping(|new| match new.plugin.group() {
            Some(group) => self.groups.get(&(new.kind.name, group)).copied(),
            None => own?.of_kind(new.kind),
        });
        self.kept.insert(Arc::clone(owner), kept.clone());
        kept
    }

    /// The route's own plugins, then those of its plugin config, then those of its service.
    fn of_route(&mut self, route: &config::Route) -> PluginSet {
        let mut plugins = self.keep(&route.plugins);
        let lower = [
            route.plugin_config.as_deref(),
            route.service.as_ref().map(|service| &service.plugins),
        ];
        for set in lower.into_iter().flatten() {
            plugins = plugins.over(&self.keep(set));
        }
        plugins
    }

    /// The consumer's own plugins, then those of its group.
    fn of_consumer(&mut self, consumer: &config::Consumer) -> Option<Chain> {
        let mut plugins = self.keep(&consumer.plugins);
        if let Some(group) = &consumer.group_plugins {
            plugins = plugins.over(&self.keep(group));
        }
        (!plugins.is_empty()).then(|| Chain::new(&plugins, []))
    }
}

/// The state of an upstream outlives every change that is none of its own.
fn kept_or_new(
    upstream: &Arc<config::Upstream>,
    before: Option<&Pipeline>,
    metrics: &Metrics,
) -> Arc<Upstream> {
    let known = before.and_then(|before| before.upstreams.get(&upstream.id));
    match known {
        Some(known) if known.config == *upstream => Arc::clone(known),
        Some(_) | None => Arc::new(Upstream::new(upstream, known.map(|known| &**known), metrics)),
    }
}

fn names(route: &config::Route) -> RouteNames {
    let service = route.service.as_ref();
    RouteNames {
        id: Arc::clone(&route.id),
        name: route.name.clone(),
        service_id: service.map(|service| Arc::clone(&service.id)),
        service_name: service.and_then(|service| service.name.clone()),
    }
}

impl<'a> Paused<'a> {
    /// The next decision, after the call, which was over `now`.
    pub fn resume(mut self, reply: Reply, now: Instant) -> Decision<'a> {
        self.undecided.cx.resumed = Some(now);
        self.undecided.go_on(Some(reply))
    }

    /// What becomes of the request if that cannot be done.
    pub fn refuse(self, fault: Fault) -> Decision<'a> {
        self.undecided.answer(Answer::of(fault.status()), fault)
    }

    pub fn head(&self) -> &'a RequestHead {
        self.undecided.cx.request.head
    }

    /// Bytes of content that the request may have, if fewer than everywhere, so far.
    pub fn body_size_max(&self) -> Option<u64> {
        self.undecided.cx.body_size_max
    }

    pub fn route(&self) -> Option<&'a Route> {
        self.undecided.route
    }

    /// Who was authenticated so far.
    pub fn consumer(&self) -> Option<&'a Consumer> {
        self.undecided.cx.request.consumer
    }

    /// Who has asked, as far as that was found out.
    pub fn client(&self) -> IpAddr {
        self.undecided.cx.request.client
    }
}

impl<'a> Undecided<'a> {
    #[inline]
    fn go_on(mut self, reply: Option<Reply>) -> Decision<'a> {
        match self.run.advance(&mut self.cx, reply) {
            Progress::Done => self.forward(),
            Progress::Answer(mut answer) => {
                self.run.answer(&self.cx.request, &mut answer);
                self.answer(answer, Fault::Denied)
            }
            Progress::Call(call) => Decision::Call(Box::new(Paused { call, undecided: self })),
        }
    }

    #[inline]
    fn forward(self) -> Decision<'a> {
        let Some(route) = self.route else {
            // No route can take it.
            if self.cx.request.path == "*" {
                return self.answer(Answer::options(), Fault::EndOfChain);
            }
            let answer = Answer::with_reason(StatusCode::NOT_FOUND, "Route Not Found");
            return self.answer(answer, Fault::NoRoute);
        };
        let Some(upstream) = self.cx.upstream.or(route.upstream.as_ref()) else {
            let answer = Answer::of(Fault::NoUpstream.status());
            return self.answer(answer, Fault::NoUpstream);
        };
        let Self { forward, cx, run, .. } = self;
        let forward = cx.rewrite.path.clone().map_or(forward, ForwardPath::Rewritten);
        Decision::Forward(Plan {
            route,
            upstream,
            target: target(&cx.request, forward, cx.query),
            request: cx.request,
            run,
            rewrite: cx.rewrite,
            edits: cx.edits,
            response: cx.response,
            body_size_max: cx.body_size_max,
            mirrors: cx.mirrors,
            kept: cx.kept,
        })
    }

    fn answer(self, mut answer: Answer, fault: Fault) -> Decision<'a> {
        amend(&mut answer, &self.cx.response);
        Decision::Answer(Refusal {
            route: self.route,
            consumer: self.cx.request.consumer,
            client: Some(self.cx.request.client),
            answer,
            fault,
            kept: self.cx.kept,
        })
    }
}

/// What plugins want every response to have, an answer has too, once.
fn amend(answer: &mut Answer, edits: &FieldEdits<'_>) {
    answer.fields.retain(|(name, _)| !edits.replaces_name(name));
    let has = |name: &str| answer.fields.iter().any(|(known, _)| known.as_str() == name);
    let is_new = |(name, value): &(&HeaderName, &HeaderValue)| {
        !answer.fields.iter().any(|(known, held)| known == *name && held == *value)
    };
    let made = edits.made(has).filter(is_new);
    let made: Vec<_> = made.map(|(name, value)| (name.clone(), value.clone())).collect();
    answer.fields.extend(made);
}

/// RFC 9110 section 9.2.2.
const IDEMPOTENT_METHODS: [&[u8]; 6] = [b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"];

impl<'a> Plan<'a> {
    /// How long nodes may take.
    pub fn node_waits(&self, timeouts: &Timeouts) -> NodeWaits {
        timeouts.of_node(self.route.timeout.or(self.upstream.config.timeout))
    }

    /// What the node is asked with.
    pub fn method(&self) -> &[u8] {
        let head = self.request.head;
        self.rewrite.method.as_deref().map_or_else(|| head.method_bytes(), str::as_bytes)
    }

    /// Whom the peer speaks for, if for somebody else.
    pub fn represented(&self) -> Option<IpAddr> {
        let Request { client, origin, .. } = self.request;
        (client != origin.peer.ip()).then(|| client.to_canonical())
    }

    /// What is idempotent may be sent again; a body would have to be kept.
    pub fn is_replayable(&self) -> bool {
        self.request.head.body_length() == BodyLength::Empty
            && IDEMPOTENT_METHODS.contains(&self.method())
    }

    /// What the plugins make of the response of `node`, and what the upstream adds.
    pub fn shape(&self, node: SocketAddr, head: &ResponseHead, memory: &BodyMemory) -> Shape<'_> {
        self.request.node.set(Some(node));
        let mut shape = self.run.shape(&self.request, head, &self.response, memory);
        if let Some(line) = self.tie(node) {
            shape.edits.fields.add(header::SET_COOKIE, line.clone());
        }
        shape
    }

    /// What ties the client to `node`, unless it is.
    pub fn tie(&self, node: SocketAddr) -> Option<&HeaderValue> {
        self.upstream.sticky.as_ref()?.line(self.request.head, node)
    }

    /// Whether the node must not see what the downstream has sent under `name`, which plugins may
    /// change.
    pub fn replaces(&self, name: &[u8]) -> bool {
        plugin::is_identity(name) || self.edits.hides(name)
    }

    /// Whether the request goes somewhere else than its route says.
    pub fn is_diverted(&self) -> bool {
        self.route.upstream.as_ref().is_none_or(|upstream| !ptr::eq(upstream, self.upstream))
    }

    /// An answer in place of the node's response.
    pub fn answer(&self, status: StatusCode) -> Answer {
        let mut answer = Answer::of(status);
        amend(&mut answer, &self.response);
        answer
    }

    /// What it becomes if the request cannot be forwarded after all.
    pub fn refuse(&self, fault: Fault) -> Refusal<'a> {
        Refusal {
            route: Some(self.route),
            consumer: self.request.consumer,
            client: Some(self.request.client),
            answer: self.answer(fault.status()),
            fault,
            kept: Kept::default(),
        }
    }
}

impl<'a> Decision<'a> {
    fn refuse(fault: Fault) -> Self {
        Self::answer(Answer::of(fault.status()), fault)
    }

    /// As the one that the request was for: whoever sends it looks for its way, not for a node.
    fn end_of_chain(head: &RequestHead) -> Self {
        let fault = Fault::EndOfChain;
        match head.method_bytes() {
            b"OPTIONS" => Self::answer(Answer::options(), fault),
            _ => Self::refuse(fault),
        }
    }

    fn answer(answer: Answer, fault: Fault) -> Self {
        Decision::Answer(Refusal {
            route: None,
            consumer: None,
            client: None,
            answer,
            fault,
            kept: Kept::default(),
        })
    }
}

/// Path and query as the node sees them; as they stand in the head if nothing changed them.
fn target<'a>(
    request: &Request<'a>,
    forward: ForwardPath,
    query: Option<Cow<'a, str>>,
) -> Cow<'a, str> {
    let is_query_received = match (&query, request.query) {
        (None, None) => true,
        (Some(Cow::Borrowed(query)), Some(received)) => std::ptr::eq(*query, received),
        (Some(_), _) | (None, Some(_)) => false,
    };
    let path = match forward {
        ForwardPath::AsReceived => match request.head.path_with_query() {
            Some(received) if is_query_received => return Cow::Borrowed(received),
            Some(_) | None => Cow::Borrowed(request.head.path_and_query().0),
        },
        ForwardPath::Rewritten(path) => Cow::Owned(path),
    };
    match query {
        Some(query) => Cow::Owned(format!("{path}?{query}")),
        None => path,
    }
}
