//! New rules without a restart: a changed file, or SIGHUP, is read, checked whole and published whole.
//! So is what the names of its nodes resolve to, whenever that changes.
//!
//! What the new file does not change keeps its state: upstreams, plugins, connections, pools. A file
//! that is wrong, or that changes what is read at start only, changes nothing, and the log says why.

mod names;
mod watch;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    signal::unix::Signal,
    task,
    time::{Instant, sleep, timeout},
};

use self::{
    names::{Signals, if_named, questions},
    watch::Watch,
};
use crate::{
    config::{Config, ConfigErrors, Document},
    dns::Book,
    log_files::LogFiles,
    metrics::{Metrics, Reload},
    pipeline::Pipeline,
    snapshot::Publisher,
};

/// A file that is being written is read once nothing has happened for as long…
const QUIET: Duration = Duration::from_millis(50);
/// … or when as much time has passed since something did.
const UNQUIET_MAX: Duration = Duration::from_secs(1);

/// Publishes new rules in place of the running ones; nobody else does.
pub struct Reloader {
    /// With which the process was started; of its rules nothing is held.
    start: Config,
    rules: Publisher,
    metrics: Arc<Metrics>,
    log_files: Arc<LogFiles>,
    /// Held from the first look at a new file until it is published.
    applying: Mutex<()>,
    /// Held while rules are made, which takes as long as there are many.
    running: Mutex<Running>,
    /// Held for a moment; within `running` if both are.
    names: Mutex<Book>,
    signals: Signals,
}

/// What the published rules are made of, but for the answers.
struct Running {
    /// `None`: it has no names, so nobody needs it again.
    config: Option<Config>,
    left_out: LeftOut,
}

/// Addresses that an upstream has no room for, by its id.
type LeftOut = HashMap<Arc<str>, usize>;

/// Why a valid configuration was not applied.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    /// Sections that are read at start only, and differ.
    pub sections: Vec<&'static str>,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sections = self.sections.join("`, `");
        write!(f, "`{sections}` changed, which only a start reads: restart to apply the file")
    }
}

impl std::error::Error for Refused {}

impl Reloader {
    /// `rules` are those of `config`, with no name resolved yet.
    pub(crate) fn new(
        config: &Config,
        rules: Publisher,
        metrics: Arc<Metrics>,
        log_files: Arc<LogFiles>,
    ) -> Self {
        let mut names = Book::new(&config.resolver);
        names.add(questions(config), Instant::now().into_std());
        let start = Config {
            routes: Vec::new(),
            global_rules: Vec::new(),
            upstreams: Vec::new(),
            consumers: Vec::new(),
            stream_routes: Vec::new(),
            ..config.clone()
        };
        Self {
            start,
            rules,
            metrics,
            log_files,
            applying: Mutex::default(),
            running: Mutex::new(Running { config: if_named(config), left_out: LeftOut::new() }),
            names: Mutex::new(names),
            signals: Signals::default(),
        }
    }

    /// Every request that begins from now on sees what `config` says. Names that are new are resolved
    /// before, for as long as a lookup may take.
    ///
    /// # Errors
    /// It differs in what only a start reads; nothing has changed then.
    pub fn apply(&self, config: &Config) -> Result<(), Refused> {
        self.enforce(config).map(|_| ())
    }

    /// As [`apply`](Self::apply); returns since when the new rules are in force.
    fn enforce(&self, config: &Config) -> Result<Instant, Refused> {
        let sections = self.start.differs_at_start(config);
        if !sections.is_empty() {
            self.metrics.reloaded(Reload::Refused);
            return Err(Refused { sections });
        }
        let _alone = self.applying.lock().unwrap_or_else(PoisonError::into_inner);
        self.resolve_new(config);
        let mut running = self.running();
        let published = self.publish(config, &mut running.left_out);
        running.config = if_named(config);
        drop(running);
        self.book().keep(questions(config));
        self.metrics.forget_all_but(config);
        self.metrics.reloaded(Reload::Applied);
        Ok(published)
    }

    /// Those in force.
    pub fn rules(&self) -> Arc<Pipeline> {
        self.rules.latest()
    }

    /// Returns since when the new rules are in force. The old ones end with whoever uses them last.
    fn publish(&self, config: &Config, left_out: &mut LeftOut) -> Instant {
        let names = self.book();
        let (upstreams, changes) = (self.resolved(config, &names, left_out), names.changes());
        drop(names);
        let before = self.rules.latest();
        let pseudonym = before.pseudonym().clone();
        let rules = Pipeline::new(
            config,
            &upstreams,
            Some(&before),
            &self.metrics,
            &self.log_files,
            pseudonym,
        );
        self.rules.publish(Arc::new(rules));
        let published = Instant::now();
        self.book().published(changes, published.into_std());
        self.signals.answered.notify_all();
        published
    }

    /// A panic elsewhere cannot have left it half changed: what is published comes first.
    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the file and applies it, if it is valid.
    fn reload(&self, path: &Path, bytes: &[u8], cause: Cause) {
        let started = Instant::now();
        let source = path.display().to_string();
        let document = match Document::read(bytes, &source) {
            Ok(document) => document,
            Err(errors) => return self.complain(&errors),
        };
        let read = Instant::now();
        let config = match document.config() {
            Ok(config) => config,
            Err(errors) => return self.complain(&errors),
        };
        let checked = Instant::now();
        for warning in config.warnings.lines() {
            tracing::warn!("{warning}");
        }
        match self.enforce(&config) {
            Ok(published) => {
                let microseconds = |from: Instant, to: Instant| (to - from).as_micros() as u64;
                tracing::info!(
                    ?cause,
                    milliseconds = started.elapsed().as_millis() as u64,
                    read_us = microseconds(started, read),
                    check_us = microseconds(read, checked),
                    publish_us = microseconds(checked, published),
                    "configuration reloaded"
                );
            }
            Err(refused) => tracing::error!("configuration not reloaded: {refused}"),
        }
    }

    fn complain(&self, errors: &ConfigErrors) {
        self.metrics.reloaded(Reload::Invalid);
        for line in errors.to_string().lines() {
            tracing::error!("configuration not reloaded: {line}");
        }
    }
}

/// The configuration file.
pub(crate) struct File {
    pub(crate) path: PathBuf,
    /// As it was read last; `None`: it could not be read.
    pub(crate) bytes: Option<Vec<u8>>,
}

/// Why the file is read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// It may have changed before anybody watched it.
    Start,
    File,
    Hangup,
}

/// Reloads `file` on every SIGHUP, and whenever it holds something else, until dropped.
pub(crate) async fn follow(reloader: Arc<Reloader>, mut file: File, mut hangups: Signal) {
    let mut watch = Watch::new(&file.path)
        .inspect_err(|error| {
            tracing::warn!(%error, "the configuration file is not watched; send SIGHUP to reload");
        })
        .ok();
    let mut cause = Cause::Start;
    loop {
        let reloader = Arc::clone(&reloader);
        match task::spawn_blocking(move || again(&reloader, file, cause)).await {
            Ok(read) => file = read,
            Err(error) => {
                return tracing::error!(%error, "configuration is not followed any more");
            }
        }
        cause = tokio::select! {
            Some(()) = hangups.recv() => Cause::Hangup,
            () = settled(&mut watch) => Cause::File,
        };
    }
}

/// Reads the file again, and reloads it if it says something else or somebody has asked.
fn again(reloader: &Reloader, file: File, cause: Cause) -> File {
    let File { path, bytes: before } = file;
    let read = Config::read_file(&path);
    let bytes = match read {
        Ok(bytes) => bytes,
        // Between the two halves of a swap there is no file.
        Err(_) if cause != Cause::Hangup && !path.exists() => return File { path, bytes: before },
        Err(errors) => {
            if cause == Cause::Hangup || before.is_some() {
                reloader.complain(&errors);
            }
            return File { path, bytes: None };
        }
    };
    if cause == Cause::Hangup || before.as_ref() != Some(&bytes) {
        reloader.reload(&path, &bytes, cause);
    }
    File { path, bytes: Some(bytes) }
}

/// Something has happened to the file, and then nothing for a while.
async fn settled(watch: &mut Option<Watch>) {
    let Some(watching) = watch else { return std::future::pending().await };
    let mut changed = watching.changed().await;
    let since = Instant::now();
    while changed.is_ok() && since.elapsed() < UNQUIET_MAX {
        match timeout(QUIET, watching.changed()).await {
            Ok(again) => changed = again,
            Err(_quiet) => break,
        }
    }
    if let Err(error) = changed {
        tracing::warn!(%error, "the configuration file is watched no more; send SIGHUP to reload");
        *watch = None;
        sleep(QUIET).await;
    }
}
