//! Configured steps that may answer or amend a request or a response.
//!
//! Plugins are a closed set, one file each, named as the configuration names them. A hook gets plain
//! types and the time it runs at as values, does no IO of its own, and knows neither hyper nor
//! tokio nor aya, so every lane runs the same plugins. Hooks run in the order of
//! `PluginConfig::priority`, highest first, in four phases: request, response head, body, log.

mod key_auth;

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use bytes::Bytes;

pub use self::key_auth::{KeyAuthConfig, Keyring};
use crate::{
    config::Consumer,
    http::{answer::Answer, head::RequestHead},
};

/// One configured plugin, parsed and checked.
#[derive(Debug, Clone)]
pub enum PluginConfig {
    KeyAuth(KeyAuthConfig),
}

impl PluginConfig {
    /// APISIX's priorities, so that a chain runs in the order its users know.
    const fn priority(&self) -> i32 {
        match self {
            PluginConfig::KeyAuth(_) => 2500,
        }
    }

    fn build(&self, consumers: &Arc<Consumers>) -> Box<dyn Plugin> {
        match self {
            PluginConfig::KeyAuth(config) => key_auth::build(config, consumers),
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
#[derive(Debug)]
pub enum Call {}

/// What a [`Call`] came to.
#[derive(Debug)]
pub enum Reply {}

/// The hooks of a plugin; each does nothing by default.
pub trait Plugin: std::fmt::Debug + Send + Sync {
    fn request(&self, _cx: &mut RequestContext<'_>) -> Outcome {
        Outcome::Continue
    }

    /// Goes on after the call that the request hook asked for.
    fn resume(&self, _cx: &mut RequestContext<'_>, reply: Reply) -> Outcome {
        match reply {}
    }

    /// Hooks that a plugin does not have cost nothing: they are not called.
    fn hooks(&self) -> Hooks {
        Hooks::default()
    }

    fn response_head(&self, _head: &mut ResponseEdits) {}

    /// A piece of the response body on its way; `None` passes it on unchanged.
    fn response_body(&self, _chunk: &Bytes) -> Option<Bytes> {
        None
    }

    /// After the last byte, with the status that was sent.
    fn log(&self, _status: Option<u16>) {}
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
    /// Fields that the node must not see, lower-case.
    pub removed_fields: Vec<Cow<'a, str>>,
    /// Fields that the node sees instead of whatever the downstream sent under these names.
    pub set_fields: Vec<(&'static str, Bytes)>,
    pub consumer: Option<Arc<str>>,
}

/// What a response hook may change.
#[derive(Debug, Default)]
pub struct ResponseEdits {
    pub removed_fields: Vec<&'static str>,
    pub set_fields: Vec<(&'static str, Bytes)>,
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
    plugins: Box<[Box<dyn Plugin>]>,
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
    pub fn request(&self, cx: &mut RequestContext<'_>) -> Outcome {
        for plugin in &self.plugins {
            match plugin.request(cx) {
                Outcome::Continue => {}
                stopped @ (Outcome::Answer(_) | Outcome::Call(_)) => return stopped,
            }
        }
        Outcome::Continue
    }

    pub fn hooks(&self) -> Hooks {
        self.hooks
    }

    /// Runs the response-head hooks, in the reverse order of the request hooks.
    pub fn response_head(&self, edits: &mut ResponseEdits) {
        self.plugins.iter().rev().for_each(|plugin| plugin.response_head(edits));
    }

    pub fn response_body(&self, chunk: Bytes) -> Bytes {
        self.plugins
            .iter()
            .rev()
            .fold(chunk, |chunk, plugin| plugin.response_body(&chunk).unwrap_or(chunk))
    }

    pub fn log(&self, status: Option<u16>) {
        self.plugins.iter().for_each(|plugin| plugin.log(status));
    }
}
