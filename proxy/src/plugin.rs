//! Configured steps that may answer or amend a request or a response.
//!
//! Plugins are a closed set, one file each, named as the configuration names them. A hook gets plain
//! types and the time it runs at as values, does no IO of its own, and knows neither hyper nor
//! tokio nor aya, so every lane runs the same plugins. Hooks run in the order of
//! `PluginConfig::priority`, highest first, in four phases: request, response head, body, log.

mod few;
mod key_auth;

use std::{borrow::Cow, net::IpAddr, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::HeaderValue;

use self::few::Few;
pub use self::key_auth::{KeyAuthConfig, Keyring};
use crate::{
    config::Consumer,
    http::{
        answer::Answer,
        fields::ForwardedField,
        head::{RequestHead, ResponseHead},
        name::Known,
    },
};

/// One configured plugin, parsed and checked.
#[derive(Debug, Clone)]
pub enum PluginConfig {
    KeyAuth(KeyAuthConfig),
    /// One that a test brings along, behind all others.
    #[cfg(feature = "test-support")]
    Test(Arc<dyn Plugin>),
}

impl PluginConfig {
    /// APISIX's priorities, so that a chain runs in the order its users know.
    fn priority(&self) -> i32 {
        match self {
            PluginConfig::KeyAuth(_) => 2500,
            #[cfg(feature = "test-support")]
            PluginConfig::Test(_) => i32::MIN,
        }
    }

    fn build(&self, consumers: &Arc<Consumers>) -> Arc<dyn Plugin> {
        match self {
            PluginConfig::KeyAuth(config) => key_auth::build(config, consumers),
            #[cfg(feature = "test-support")]
            PluginConfig::Test(plugin) => Arc::clone(plugin),
        }
    }
}

/// What a request hook decided.
#[derive(Debug)]
pub enum Outcome {
    Continue,
    /// The chain stops; the downstream gets this.
    Answer(Answer),
    /// The chain pauses until the connection has done this, then goes on with
    /// [`Plugin::resume`].
    Call(Call),
}

/// Something a plugin needs done and cannot do itself, because hooks do no IO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Nothing but time to pass.
    Delay(Duration),
}

/// What a [`Call`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    Delayed,
}

/// The hooks of a plugin; each does nothing by default.
pub trait Plugin: std::fmt::Debug + Send + Sync {
    fn request(&self, _cx: &mut RequestContext<'_>) -> Outcome {
        Outcome::Continue
    }

    /// Goes on after the call that the request hook, or the last `resume`, asked for.
    fn resume(&self, _cx: &mut RequestContext<'_>, _reply: Reply) -> Outcome {
        Outcome::Continue
    }

    /// Hooks that a plugin does not have cost nothing: they are not called.
    fn hooks(&self) -> Hooks {
        Hooks::default()
    }

    /// Amends the head of a node's response.
    fn response_head(&self, _head: &ResponseHead, _edits: &mut FieldEdits<'_>) {}

    /// What changes the body of this response, if anything does. Its length is unknown then, and
    /// `content-length` is removed.
    fn response_body(&self, _head: &ResponseHead) -> Option<Box<dyn BodyFilter>> {
        None
    }

    /// After the last byte of a response, be it the node's or the proxy's own.
    fn log(&self, _exchange: &Finished<'_>) {}
}

/// Changes one response body, piece by piece.
pub trait BodyFilter: std::fmt::Debug {
    /// What is passed on for this piece; may be empty.
    fn piece(&mut self, piece: Bytes) -> Bytes;

    /// What is still to come behind the last piece.
    fn end(&mut self) -> Bytes;
}

/// Everything one response body passes through, in order.
#[derive(Debug, Default)]
pub struct BodyFilters(Vec<Box<dyn BodyFilter>>);

impl BodyFilters {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn piece(&mut self, piece: Bytes) -> Bytes {
        self.0.iter_mut().fold(piece, |piece, filter| filter.piece(piece))
    }

    /// What is left in all of them; none is asked again.
    pub fn end(&mut self) -> Bytes {
        let mut end = BytesMut::new();
        while !self.0.is_empty() {
            let left = self.0.remove(0).end();
            end.extend_from_slice(&self.piece(left));
        }
        end.freeze()
    }
}

/// An exchange that is over, as the log hooks see it.
#[derive(Debug)]
pub struct Finished<'a> {
    pub head: &'a RequestHead,
    /// Who was authenticated.
    pub consumer: Option<&'a str>,
    /// `None` if no status was sent.
    pub status: Option<u16>,
    /// Body bytes to and from the downstream.
    pub sent_bytes: u64,
    pub recv_bytes: u64,
    /// From the first byte of the request to the last of the response.
    pub total: Duration,
}

/// Which of the later hooks are worth calling.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Hooks {
    pub response_head: bool,
    pub response_body: bool,
    pub log: bool,
}

/// What a request hook sees and may change.
#[derive(Debug)]
pub struct RequestContext<'a> {
    pub head: &'a RequestHead,
    pub source: IpAddr,
    /// The query as the node would see it, without `?`.
    pub query: Option<Cow<'a, str>>,
    /// What the node sees instead of what the downstream sent.
    pub edits: FieldEdits<'a>,
    pub consumer: Option<Arc<str>>,
}

/// Changes to the fields of a message on its way.
///
/// What the proxy makes itself cannot be changed ([`is_editable`]): a message without its framing,
/// `Host` or `Via` would be another message.
#[derive(Debug, Default)]
pub struct FieldEdits<'a> {
    removed: Few<FieldName<'a>>,
    set: Few<(&'static str, HeaderValue)>,
}

/// The name of a field that is removed.
#[derive(Debug, Clone)]
pub enum FieldName<'a> {
    Borrowed(&'a str),
    /// From the configuration.
    Shared(Arc<str>),
}

impl<'a> From<&'a str> for FieldName<'a> {
    fn from(name: &'a str) -> Self {
        FieldName::Borrowed(name)
    }
}

impl From<&Arc<str>> for FieldName<'_> {
    fn from(name: &Arc<str>) -> Self {
        FieldName::Shared(Arc::clone(name))
    }
}

impl std::ops::Deref for FieldName<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            FieldName::Borrowed(name) => name,
            FieldName::Shared(name) => name,
        }
    }
}

/// Whether plugins may remove or set fields of this name.
pub fn is_editable(name: &str) -> bool {
    Known::of(name.as_bytes()).is_editable()
}

impl<'a> FieldEdits<'a> {
    /// Whoever comes next does not see what was received under `name`.
    pub fn remove(&mut self, name: impl Into<FieldName<'a>>) {
        let name = name.into();
        debug_assert!(is_editable(&name), "{name:?}");
        self.removed.push(name);
    }

    /// Whoever comes next sees this instead of what was received under `name`, which is in lower
    /// case. The type of the value keeps out what would end a line (RFC 9110 section 5.5).
    pub fn set(&mut self, name: &'static str, value: HeaderValue) {
        debug_assert!(is_editable(name), "{name}");
        match self.set.find_mut(|(other, _)| *other == name) {
            Some((_, known)) => *known = value,
            None => self.set.push((name, value)),
        }
    }

    pub fn set_fields(&self) -> impl Iterator<Item = (&'static str, &HeaderValue)> {
        self.set.iter().filter(|(name, _)| is_editable(name)).map(|(name, value)| (*name, value))
    }

    /// Whether a field that was received stays behind. Nodes that read fields as CGI variables
    /// cannot tell `_` from `-`, so neither is told here.
    pub fn replaces(&self, field: &ForwardedField<'_>) -> bool {
        let removed = self.removed.iter().map(|name| &**name);
        field.known.is_editable()
            && removed
                .chain(self.set.iter().map(|(name, _)| *name))
                .any(|name| is_alike(name.as_bytes(), field.name.as_bytes()))
    }
}

/// Whether two field names are one to a CGI node.
pub(crate) fn is_alike(one: &[u8], other: &[u8]) -> bool {
    let folded = |byte: &u8| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    one.len() == other.len() && one.iter().map(folded).eq(other.iter().map(folded))
}

/// Everybody a plugin may authenticate.
#[derive(Debug, Default)]
pub struct Consumers {
    pub keys: Keyring,
}

impl Consumers {
    pub fn new(consumers: &[Consumer]) -> Self {
        Self { keys: Keyring::new(consumers) }
    }
}

/// The plugins of one route, in order.
#[derive(Debug)]
pub struct Chain {
    plugins: Box<[Arc<dyn Plugin>]>,
    hooks: Hooks,
}

impl Chain {
    pub fn new(configs: &[PluginConfig], consumers: &Arc<Consumers>) -> Self {
        let mut configs: Vec<_> = configs.iter().collect();
        configs.sort_by_key(|config| std::cmp::Reverse(config.priority()));
        let plugins: Box<[_]> = configs.iter().map(|config| config.build(consumers)).collect();
        let hooks =
            plugins.iter().map(|plugin| plugin.hooks()).fold(Hooks::default(), |all, one| Hooks {
                response_head: all.response_head || one.response_head,
                response_body: all.response_body || one.response_body,
                log: all.log || one.log,
            });
        Self { plugins, hooks }
    }

    /// Runs the request hooks until one does not continue.
    pub fn request(&self, cx: &mut RequestContext<'_>) -> Step {
        self.request_from(0, cx)
    }

    /// Goes on with the plugin that asked for a call, then with those behind it.
    pub fn resume(&self, paused_at: usize, reply: Reply, cx: &mut RequestContext<'_>) -> Step {
        let outcome = match self.plugins.get(paused_at) {
            Some(plugin) => plugin.resume(cx, reply),
            None => Outcome::Continue,
        };
        match Step::of(outcome, paused_at) {
            Step::Continue => self.request_from(paused_at + 1, cx),
            stopped @ (Step::Answer(_) | Step::Call(..)) => stopped,
        }
    }

    fn request_from(&self, first: usize, cx: &mut RequestContext<'_>) -> Step {
        for (at, plugin) in self.plugins.iter().enumerate().skip(first) {
            match Step::of(plugin.request(cx), at) {
                Step::Continue => {}
                stopped @ (Step::Answer(_) | Step::Call(..)) => return stopped,
            }
        }
        Step::Continue
    }

    pub fn hooks(&self) -> Hooks {
        self.hooks
    }

    /// Runs the response-head hooks, in the reverse order of the request hooks.
    pub fn response_head(&self, head: &ResponseHead, edits: &mut FieldEdits<'_>) {
        self.plugins.iter().rev().for_each(|plugin| plugin.response_head(head, edits));
    }

    /// What the body of this response passes through, in the reverse order of the request hooks.
    pub fn response_body(&self, head: &ResponseHead) -> BodyFilters {
        if !self.hooks.response_body {
            return BodyFilters::default();
        }
        let filters = self.plugins.iter().rev().filter_map(|plugin| plugin.response_body(head));
        BodyFilters(filters.collect())
    }

    pub fn log(&self, exchange: &Finished<'_>) {
        self.plugins.iter().for_each(|plugin| plugin.log(exchange));
    }
}

/// How far the request hooks of a chain have come.
#[derive(Debug)]
pub enum Step {
    /// To the end.
    Continue,
    Answer(Answer),
    /// To the plugin at this position, which waits for the call.
    Call(usize, Call),
}

impl Step {
    fn of(outcome: Outcome, at: usize) -> Self {
        match outcome {
            Outcome::Continue => Step::Continue,
            Outcome::Answer(answer) => Step::Answer(answer),
            Outcome::Call(call) => Step::Call(at, call),
        }
    }
}
