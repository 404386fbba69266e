//! Configured steps that may answer or amend a request or a response.
//!
//! Plugins are a closed set, one file each, named as the configuration names them. A hook gets plain
//! types and the time it runs at as values, does no IO of its own, and knows neither hyper nor
//! tokio nor aya, so every lane runs the same plugins. Request hooks run in two phases, as APISIX has
//! them: first all of [`Phase::Rewrite`], authentication included, then all of [`Phase::Access`];
//! within a phase global rules first, then by `priority`, highest first. The hooks of the response
//! head, of its body and of the log run in the same order.

mod authentication;
mod body;
mod chain;
mod consumers;
mod edits;
mod encoding;
mod few;
mod hex;
mod json;
mod kept_body;
mod limit;
mod log_entry;
mod request;
mod script;
mod table;
#[cfg(test)]
mod tests {
    pub(crate) mod trial;
}

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use ring::digest;

#[cfg(test)]
pub(crate) use self::tests::trial;

pub use self::{
    body::{BodyFilter, BodyFilters},
    chain::{Chain, ErrorResponse, Meta, PluginConfig, PluginSet, Progress, Run},
    consumers::{Consumer, Consumers, Credential, Found},
    edits::{FieldEdits, FieldName, Rewrite, is_editable},
    encoding::Encoding,
    kept_body::{Cut, KeptBody, LoggedBodies, LoggedBody},
    request::{
        Detail, Finished, Kept, Now, Origin, Request, RequestContext, RequestEdits, RouteNames,
    },
    script::{
        Due, Failure, Question, Replied, Script, Server, Step, Teller, Telling, Undo, Undoing,
    },
};
pub(crate) use self::{
    edits::is_alike, kept_body::LOGGED_BYTES_MAX, log_entry::Layout, request::is_identity,
};
use crate::{
    client,
    config::plugins::{CredentialAt, Scope, Section},
    http::{answer::Answer, head::ResponseHead},
    key_source::KeySource,
    log_files::LogFiles,
    memory::Memory,
};

/// Every plugin there is: the file `plugin/NAME.rs` has a `KIND`.
macro_rules! plugins {
    ($($file:ident)*) => {
        $(mod $file;)*

        pub static KINDS: &[&Kind] = &[$(&$file::KIND),*];
    };
}

plugins! {
    api_breaker
    basic_auth
    brotli
    client_control
    consumer_restriction
    cors
    csrf
    fault_injection
    file_logger
    forward_auth
    gzip
    hmac_auth
    ip_restriction
    jwt_auth
    key_auth
    limit_conn
    limit_count
    limit_req
    proxy_mirror
    proxy_rewrite
    real_ip
    redirect
    request_id
    response_rewrite
    traffic_split
    ua_restriction
    zstd
}

pub(crate) use self::cors::origins as allowed_origins;
#[cfg(test)]
pub(crate) use self::jwt_auth::p256;
pub(crate) use self::jwt_auth::{BadSet, KeySet, Use};
pub use self::proxy_mirror::Mirror;

/// A plugin as the configuration knows it.
#[derive(Debug)]
pub struct Kind {
    pub name: &'static str,
    /// Orders plugins within a phase, highest first. APISIX's, so that a chain runs in the order its
    /// users know.
    pub priority: i32,
    pub phase: Phase,
    /// Reads and checks the settings; `None` if there is an error in them, which is reported then.
    pub(crate) read: fn(&mut Section<'_>, &Scope<'_>) -> Option<Arc<dyn Plugin>>,
    /// Of a plugin that authenticates: reads what a consumer is known by.
    pub(crate) credential: Option<for<'t> fn(&mut Section<'t>) -> Option<CredentialAt<'t>>>,
}

/// Of plugins that a test brings along.
#[cfg(feature = "test-support")]
static TEST: Kind = Kind {
    name: "test",
    priority: i32::MIN,
    phase: Phase::Access,
    read: |_, _| None,
    credential: None,
};

/// When a plugin's request hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Before and while it is found out who asks.
    Rewrite,
    /// Once that is known.
    Access,
}

impl Kind {
    pub fn named(name: &str) -> Option<&'static Kind> {
        KINDS.iter().find(|kind| kind.name == name).copied()
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Nothing but time to pass.
    Delay(Duration),
    /// The body of the request to be here, whole, if it is no more than so many bytes; otherwise the
    /// request is refused. No node sees any of it before. If it is to be digested, it is as it comes.
    Body { size_max: u64, digest: Option<&'static digest::Algorithm> },
    /// Somebody to be asked.
    Http(Box<client::Request>),
    /// Keys to be fetched, if they have not been just now.
    Keys(Arc<KeySource>),
    /// A script to be run by a Redis.
    Redis(Arc<Question>),
}

/// Bytes of bodies that a worker holds for plugins ([`Call::Body`]), all requests together.
pub(crate) const HELD_BYTES_MAX: usize = 256 << 20;

/// What a [`Call`] came to.
#[derive(Debug)]
pub enum Reply {
    Delayed,
    /// Its content, without framing.
    Body {
        content: Bytes,
        digest: Option<digest::Digest>,
    },
    Http(Result<client::Response, client::Failure>),
    /// Whether anything has come of it or not.
    Refreshed,
    Redis(Replied),
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

    /// Opens what it writes to, once it is in force; again and again, as long as it is.
    fn open(&self, _files: &LogFiles) {}

    /// Whoever is in the same group, in whatever resource, has the same settings and shares this one.
    fn group(&self) -> Option<&str> {
        None
    }

    /// Hooks that a plugin does not have cost nothing: they are not called.
    fn hooks(&self) -> Hooks {
        Hooks::default()
    }

    /// Amends the head of a node's response.
    fn response_head(
        &self,
        _request: &Request<'_>,
        _head: &ResponseHead,
        _edits: &mut ResponseEdits<'_>,
    ) {
    }

    /// What changes the body of this response, if anything does. Its length is unknown then, and
    /// `content-length` is removed. What it holds back is a share of `_memory`.
    fn response_body(
        &self,
        _request: &Request<'_>,
        _head: &ResponseHead,
        _memory: &Arc<Memory>,
    ) -> Option<Box<dyn BodyFilter>> {
        None
    }

    /// How it encodes bodies, if it does; of all offers the best is taken, behind all filters. Such a
    /// plugin says in [`hooks`](Self::hooks) that it sees bodies.
    fn encoding(&self) -> Option<&Encoding> {
        None
    }

    /// Amends an answer that a plugin has made, this one or another.
    fn answer(&self, _request: &Request<'_>, _answer: &mut Answer) {}

    /// After the last byte of a response, be it the node's or the proxy's own.
    fn log(&self, _exchange: &Finished<'_>) {}
}

/// What is changed about the head of a response.
#[derive(Debug, Default)]
pub struct ResponseEdits<'a> {
    pub status: Option<http::StatusCode>,
    pub fields: FieldEdits<'a>,
}

/// What the plugins make of a node's response.
#[derive(Debug, Default)]
pub struct Shape<'a> {
    pub edits: ResponseEdits<'a>,
    /// What the body passes through, if there is one.
    pub filters: BodyFilters,
    /// Whether its length is not what the node says.
    pub is_filtered: bool,
}

/// Which of the later hooks are worth calling.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Hooks {
    pub response_head: bool,
    pub response_body: bool,
    pub answer: bool,
    pub log: bool,
    /// Whether the log hook wants [`Finished::detail`].
    pub log_detail: bool,
    /// Bytes of the request's and of the response's body that it wants to be kept in there.
    pub kept_request: usize,
    pub kept_response: usize,
}

impl Hooks {
    fn or(self, other: Hooks) -> Hooks {
        Hooks {
            response_head: self.response_head || other.response_head,
            response_body: self.response_body || other.response_body,
            answer: self.answer || other.answer,
            log: self.log || other.log,
            log_detail: self.log_detail || other.log_detail,
            kept_request: self.kept_request.max(other.kept_request),
            kept_response: self.kept_response.max(other.kept_response),
        }
    }
}
