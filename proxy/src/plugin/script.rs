//! What plugins have Redis do: scripts, each of which is one step for everybody who asks.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use ring::digest;

use super::hex::hex;
use crate::client::Trust;

/// A Redis, and how it is asked.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Server {
    pub host: Box<str>,
    pub port: u16,
    pub username: Option<Box<str>>,
    pub password: Option<Box<str>>,
    pub database: u32,
    /// Whose certificate will do; `None`: without TLS.
    pub tls: Option<Trust>,
    /// What a call may take, connecting included.
    pub timeout: Duration,
    /// How long a connection stays that nobody uses.
    pub idle_timeout: Duration,
}

/// Without what it is asked for.
impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, database, tls, .. } = self;
        f.debug_struct("Server")
            .field("host", host)
            .field("port", port)
            .field("database", database)
            .field("tls", tls)
            .finish_non_exhaustive()
    }
}

/// A text in Redis' Lua that returns a list of numbers.
pub struct Script {
    pub text: &'static str,
    /// Whether these numbers can be what the script returns for so many keys.
    pub is_answer: fn(keys: usize, numbers: &[i64]) -> bool,
    hash: OnceLock<String>,
}

impl Script {
    pub const fn new(text: &'static str, is_answer: fn(usize, &[i64]) -> bool) -> Script {
        Script { text, is_answer, hash: OnceLock::new() }
    }

    /// By which Redis knows it.
    pub fn hash(&self) -> &str {
        let hash = || hex(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, self.text.as_bytes()));
        self.hash.get_or_init(hash)
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Script").field(&self.hash()).finish()
    }
}

impl PartialEq for Script {
    fn eq(&self, other: &Script) -> bool {
        self.text == other.text
    }
}

impl Eq for Script {}

/// A script with what it works on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Who asks.
    pub plugin: &'static str,
    pub server: Arc<Server>,
    pub step: Step,
    /// When the exchange is over, or nobody waits for the answer.
    pub undoing: Option<Undoing>,
    /// At intervals from now on.
    pub teller: Option<Teller>,
}

/// Somebody with something to be told at intervals.
#[derive(Debug, Clone)]
pub struct Teller(pub Arc<dyn Telling>);

impl PartialEq for Teller {
    fn eq(&self, other: &Teller) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Teller {}

pub trait Telling: fmt::Debug + Send + Sync {
    fn interval(&self) -> Duration;

    /// Whether nobody asks for what is [`due`](Self::due) yet; whoever is told so does, until it is
    /// over.
    fn begin(&self) -> bool;

    fn due(&self, now: Instant) -> Due;

    /// What came of a step that was due or was asked for; `None`: it may or may not have been done.
    fn told(&self, step: &Step, numbers: Option<&[i64]>, now: Instant);
}

/// What there is to be told.
#[derive(Debug, PartialEq, Eq)]
pub enum Due {
    Step(Step),
    /// Nothing for now.
    Nothing,
    /// Nothing, until somebody asks again.
    Over,
}

/// What undoes something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undoing {
    /// Each for itself. Their script takes what several exchanges left, one behind the other, and does
    /// all of it or none.
    pub steps: Vec<Step>,
    /// After which it has undone itself.
    pub lasts: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub script: &'static Script,
    pub keys: Vec<Vec<u8>>,
    pub arguments: Vec<Vec<u8>>,
}

/// What came of a [`Question`].
#[derive(Debug)]
pub struct Replied {
    pub numbers: Result<Vec<i64>, Failure>,
    pub undo: Undo,
}

/// Undoes something when it is dropped, whoever drops it.
#[derive(Default)]
#[must_use = "dropping it undoes what was asked for"]
pub struct Undo(Option<Box<dyn FnOnce()>>);

impl Undo {
    pub fn new(undo: impl FnOnce() + 'static) -> Undo {
        Undo(Some(Box::new(undo)))
    }

    /// There is nothing to be undone.
    pub fn forget(mut self) {
        self.0 = None;
    }
}

impl fmt::Debug for Undo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Undo").field("is_owed", &self.0.is_some()).finish()
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if let Some(undo) = self.0.take() {
            undo();
        }
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// There is no connection, and it was not long ago that there was none to be had.
    Unreachable,
    /// Too many calls are under way.
    Busy,
    TimedOut,
    /// The connection ended, or what came is not Redis' protocol.
    Broken,
    /// It is loading, a replica, busy, or has no room.
    NotReady,
    /// It answers with an error.
    Refused,
    /// It answers something else than the script does.
    Unexpected,
    /// What was to be undone stays until it expires.
    UndoLost,
}

impl Failure {
    pub const ALL: [Failure; 8] = [
        Failure::Unreachable,
        Failure::Busy,
        Failure::TimedOut,
        Failure::Broken,
        Failure::NotReady,
        Failure::Refused,
        Failure::Unexpected,
        Failure::UndoLost,
    ];

    pub const fn label(self) -> &'static str {
        match self {
            Failure::Unreachable => "unreachable",
            Failure::Busy => "busy",
            Failure::TimedOut => "timeout",
            Failure::Broken => "broken",
            Failure::NotReady => "not_ready",
            Failure::Refused => "refused",
            Failure::Unexpected => "unexpected",
            Failure::UndoLost => "undo_lost",
        }
    }

    /// Whether the script may have run, or may run yet.
    pub const fn may_have_run(self) -> bool {
        match self {
            Failure::TimedOut | Failure::Broken | Failure::Unexpected => true,
            Failure::Unreachable
            | Failure::Busy
            | Failure::NotReady
            | Failure::Refused
            | Failure::UndoLost => false,
        }
    }
}
