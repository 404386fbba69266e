//! What hooks see of a request and its response, and what they may change.

use std::{
    any::Any,
    borrow::Cow,
    cell::Cell,
    collections::HashMap,
    fmt, mem,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use http::HeaderName;

use super::{
    consumers::{Consumer, Consumers, Found},
    edits::{FieldEdits, Rewrite, is_alike},
    kept_body::{KeptBody, LoggedBodies},
    proxy_mirror::Mirror,
};
use crate::{
    http::{
        answer::Answer,
        fields::Scheme,
        head::{Field, RequestHead},
        path,
    },
    route::{Pattern, Router},
    upstream::group::Upstream,
    variable::{Ends, Facts, Named},
};

/// A time at which something is decided about a request.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    pub instant: Instant,
    /// Some other instant, and its time since the Unix epoch.
    pub known: (Instant, Duration),
}

impl Now {
    /// Since the Unix epoch.
    pub fn unix(&self) -> Duration {
        let (known, unix) = self.known;
        match self.instant.checked_duration_since(known) {
            Some(since) => unix + since,
            None => unix.saturating_sub(known.duration_since(self.instant)),
        }
    }
}

/// Where a request came from, where to, and when.
#[derive(Debug, Clone, Copy)]
pub struct Origin {
    pub peer: SocketAddr,
    /// Our end.
    pub local: SocketAddr,
    pub now: Now,
}

impl Origin {
    pub(crate) fn ends(&self) -> Ends {
        let Self { peer, local, now: _ } = *self;
        Ends { peer, client: peer.ip(), local, scheme: Scheme::Http }
    }
}

/// A request as it came, with what is known of it.
#[derive(Debug)]
pub struct Request<'a> {
    pub head: &'a RequestHead,
    /// In its one spelling ([`normalise`](crate::http::path::normalise)).
    pub path: Cow<'a, str>,
    /// Without `?`.
    pub query: Option<&'a str>,
    pub origin: &'a Origin,
    /// Who has sent it: the peer, unless a trusted one speaks for another.
    pub client: IpAddr,
    /// By which its route was found.
    pub pattern: Option<&'a Pattern>,
    pub route: Option<&'a RouteNames>,
    /// Who was authenticated.
    pub consumer: Option<&'a Consumer>,
    /// Which node has answered, once one has.
    pub node: Cell<Option<SocketAddr>>,
}

/// What a route is called.
#[derive(Debug, Clone)]
pub struct RouteNames {
    pub id: Arc<str>,
    pub name: Option<Arc<str>>,
    pub service_id: Option<Arc<str>>,
    pub service_name: Option<Arc<str>>,
}

impl Request<'_> {
    /// What variables say of it.
    pub fn facts(&self) -> Facts<'_> {
        self.facts_with(self.query)
    }

    /// The same with another query.
    pub(super) fn facts_with<'s>(&'s self, query: Option<&'s str>) -> Facts<'s> {
        let mut facts = Facts::new(self.head, &self.path, query, self.origin.ends());
        facts.ends.client = self.client;
        facts.pattern = self.pattern;
        facts.node = self.node.get();
        facts.now = Some(&self.origin.now);
        facts.name(self.route, self.consumer);
        facts
    }
}

/// What a request hook sees and may change.
#[derive(Debug)]
pub struct RequestContext<'a> {
    pub request: Request<'a>,
    /// When a plugin that has held the request back was done with that.
    pub(crate) resumed: Option<Instant>,
    pub consumers: &'a Consumers,
    /// The query as the node would see it, without `?`.
    pub query: Option<Cow<'a, str>>,
    /// What the node sees instead of what the downstream sent.
    pub edits: RequestEdits<'a>,
    pub rewrite: Rewrite,
    /// What the downstream sees, whoever makes the response.
    pub response: FieldEdits<'a>,
    /// Bytes of content that the request may have, if fewer than everywhere.
    pub body_size_max: Option<u64>,
    /// Who gets a copy if it is forwarded.
    pub mirrors: Vec<Arc<Mirror>>,
    /// Where the request goes, if not where the route leads to.
    pub upstream: Option<&'a Arc<Upstream>>,
    upstreams: &'a HashMap<Arc<str>, Arc<Upstream>>,
    pub(crate) kept: Kept,
}

/// What is kept until the exchange is over, and then dropped.
#[derive(Default)]
pub struct Kept(Vec<Box<dyn Any>>);

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("count", &self.0.len()).finish()
    }
}

impl Kept {
    /// Everything of one type, in the order in which it was given.
    pub fn all<T: Any>(&self) -> impl Iterator<Item = &T> {
        self.0.iter().filter_map(|kept| kept.downcast_ref())
    }
}

impl<'a> RequestContext<'a> {
    pub fn new(
        request: Request<'a>,
        consumers: &'a Consumers,
        upstreams: &'a HashMap<Arc<str>, Arc<Upstream>>,
    ) -> Self {
        Self {
            upstreams,
            query: request.query.map(Cow::Borrowed),
            request,
            resumed: None,
            consumers,
            edits: FieldEdits::default(),
            rewrite: Rewrite::default(),
            response: FieldEdits::default(),
            body_size_max: None,
            mirrors: Vec::new(),
            upstream: None,
            kept: Kept::default(),
        }
    }

    /// The time at which the hook runs.
    pub fn now(&self) -> Now {
        let now = self.request.origin.now;
        Now { instant: self.resumed.unwrap_or(now.instant), ..now }
    }

    /// What expressions and templates see, with the query as the node would see it.
    pub fn facts(&self) -> Facts<'_> {
        self.request.facts_with(self.query.as_deref())
    }

    /// Keeps something until the last byte of the response, or until the exchange is given up.
    pub fn keep(&mut self, something: impl Any) {
        self.kept.0.push(Box::new(something));
    }

    /// The request goes to the upstream `id` instead; `false`: there is none of that id.
    pub fn divert(&mut self, id: &str) -> bool {
        self.upstream = self.upstreams.get(id);
        self.upstream.is_some()
    }

    /// What the node would see under `name`, which plugins may change.
    pub fn forwarded_values<'s>(&'s self, name: &'s HeaderName) -> impl Iterator<Item = &'s [u8]> {
        let head = self.request.head;
        let is_meant = |field: &Field<'_>| {
            field.name.eq_ignore_ascii_case(name.as_str().as_bytes())
                && field.known.is_editable()
                && !field.is_connection_option
                && !is_identity(field.name)
                && !self.edits.hides(field.name)
        };
        let received = head.fields().filter(is_meant).map(|field| field.value);
        let made = self.edits.made(|name| head.field(name).is_some());
        let made = made.filter(move |(made, _)| *made == name).map(|(_, value)| value.as_bytes());
        received.chain(made)
    }

    /// The request is `consumer`'s; the node is told.
    pub fn attach(&mut self, Found { consumer, credential }: Found<'a>) {
        self.edits.set(USERNAME.clone(), consumer.username_value.clone());
        for (name, value) in [(&CUSTOM_ID, consumer.custom_id.as_ref()), (&CREDENTIAL, credential)]
        {
            match value {
                Some(value) => self.edits.set(name.clone(), value.clone()),
                // Another consumer may have been attached before.
                None if self.request.consumer.is_some() => self.edits.remove(name.as_str()),
                None => {}
            }
        }
        self.request.consumer = Some(consumer);
    }
}

static USERNAME: http::HeaderName = http::HeaderName::from_static("x-consumer-username");
static CUSTOM_ID: http::HeaderName = http::HeaderName::from_static("x-consumer-custom-id");
static CREDENTIAL: http::HeaderName = http::HeaderName::from_static("x-credential-identifier");

/// Fields that tell the node who was authenticated: what the downstream sends under these names
/// never reaches it.
const IDENTITY_FIELDS: [&[u8]; 3] =
    [b"x-consumer-username", b"x-consumer-custom-id", b"x-credential-identifier"];

pub(crate) fn is_identity(name: &[u8]) -> bool {
    IDENTITY_FIELDS.iter().any(|field| is_alike(field, name))
}

/// Most requests have two at most: a credential that is hidden, and whose it was.
pub type RequestEdits<'a> = FieldEdits<'a, 2>;

/// An exchange that is over, as the log hooks see it.
#[derive(Debug, Clone, Copy)]
pub struct Finished<'a> {
    pub head: &'a RequestHead,
    pub ends: Ends,
    /// By which its route was found.
    pub router: &'a Router,
    /// `None`: no route took it.
    pub route: Option<&'a RouteNames>,
    /// Who was authenticated.
    pub consumer: Option<&'a Consumer>,
    /// `None` if no status was sent.
    pub status: Option<u16>,
    /// The node's; if nodes were tried in vain, what that was answered with.
    pub upstream_status: Option<u16>,
    /// The last one tried.
    pub node: Option<SocketAddr>,
    /// Dialling, if anything was dialled.
    pub connect: Option<Duration>,
    /// From the first byte of the request to the head of the response.
    pub first_byte: Option<Duration>,
    /// When the request was let in, since the Unix epoch.
    pub begun: Duration,
    /// If a plugin wanted it ([`Hooks::log_detail`](super::Hooks::log_detail)).
    pub detail: Option<&'a Detail>,
    /// As one logger wants them; whoever makes its lines sets them.
    pub bodies: LoggedBodies<'a>,
    /// What the request hooks have kept.
    pub kept: &'a Kept,
    /// Body bytes to and from the downstream.
    pub sent_bytes: u64,
    pub recv_bytes: u64,
    /// From the first byte of the request to the last of the response.
    pub total: Duration,
}

impl Finished<'_> {
    /// Lets `see` at what variables say of it.
    pub fn with_facts<T>(&self, see: impl FnOnce(&Facts<'_>) -> T) -> T {
        let (path, query) = self.head.path_and_query();
        let normalised = path::normalise(path);
        let path = normalised.as_ref().map_or(path, |normalised| &normalised.path);
        let mut facts = Facts::new(self.head, path, query, self.ends);
        facts.name(self.route, self.consumer);
        (facts.status, facts.upstream_status) = (self.status, self.upstream_status);
        facts.finished = Some(self);
        see(&facts)
    }

    /// The pattern by which its route was found, as the router saw `facts` then.
    pub(crate) fn pattern(&self, facts: &Facts<'_>) -> Option<&Pattern> {
        let asked = Ends { client: self.ends.peer.ip(), ..self.ends };
        let asked = Facts::new(self.head, facts.path, facts.query, asked);
        self.router.select(&asked).map(|selected| selected.pattern)
    }

    /// Bytes of the head as received and of the body.
    pub fn request_length(&self) -> u64 {
        self.head.bytes().len() as u64 + self.recv_bytes
    }
}

impl<'a> Facts<'a> {
    fn name(&mut self, route: Option<&'a RouteNames>, consumer: Option<&'a Consumer>) {
        if let Some(RouteNames { id, name, service_id, service_name }) = route {
            self.route = Named { id: Some(id), name: name.as_deref() };
            self.service = Named { id: service_id.as_deref(), name: service_name.as_deref() };
        }
        if let Some(consumer) = consumer {
            self.consumer_name = Some(&consumer.username);
            self.consumer_group_id = consumer.group.as_deref();
        }
    }
}

/// What is noted of an exchange only where a log hook asks for it.
#[derive(Default)]
pub struct Detail {
    /// Since the request was let in: when the first node was asked.
    asked: Option<Duration>,
    /// Fields of the response that the downstream got, a line each.
    fields: Vec<u8>,
    /// What is kept of the bodies.
    pub(crate) request: Option<KeptBody>,
    pub(crate) response: Option<KeptBody>,
}

/// Without values: those may hold credentials.
impl fmt::Debug for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Detail").field("asked", &self.asked).finish_non_exhaustive()
    }
}

impl Detail {
    /// The first time counts.
    pub(crate) fn ask(&mut self, after: Duration) {
        self.asked.get_or_insert(after);
    }

    /// `head` leaves, with whatever is behind it.
    pub(crate) fn send(&mut self, head: &[u8]) {
        let mut ends = memchr::memchr_iter(b'\n', head).map(|lf| lf + 1);
        let begin = ends.next().unwrap_or_default();
        let mut end = begin;
        // Up to the empty line, or all there is.
        while let Some(next) = ends.next().filter(|next| *next > end + b"\r\n".len()) {
            end = next;
        }
        self.fields = head[begin..end].to_vec();
    }

    pub(crate) fn answer(&mut self, answer: &Answer) {
        self.fields.clear();
        answer.each_field(|name, value| {
            let parts = [name.as_bytes(), b": ", value, b"\r\n"];
            parts.into_iter().for_each(|part| self.fields.extend_from_slice(part));
        });
    }

    pub fn asked(&self) -> Option<Duration> {
        self.asked
    }

    /// Names and values, without the blanks around these.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
        let mut begin = 0;
        memchr::memchr_iter(b'\n', &self.fields).filter_map(move |lf| {
            let line = &self.fields[mem::replace(&mut begin, lf + 1)..lf];
            let colon = line.iter().position(|byte| *byte == b':')?;
            Some((&line[..colon], line[colon + 1..].trim_ascii()))
        })
    }
}
