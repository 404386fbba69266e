//! From a file to a [`Config`] or to all that is wrong with it.

use std::{
    cell::RefCell,
    fmt,
    fs::File,
    io::{self, Read},
    num::NonZeroUsize,
    path::Path,
};

use proxy_common::limits;

use super::{
    Config, ConfigErrors, Findings, KernelMode, Protocol, bounds, consumers,
    env::Lookup,
    finding::{Mark, Sink},
    metadata,
    planned::Kind,
    plugins::{LogPaths, PluginGroups, Scope},
    process,
    reader::{Section, Value},
    resolver,
    routes::{self, Shared},
    shared, tree,
    upstream::Upstreams,
};
use crate::regexes;

impl Config {
    /// Reads and validates a file of at most 8 MiB.
    pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
        Config::parse_bytes(&Config::read_file(path)?, &path.display().to_string())
    }

    /// The bytes of a file, at most one more than [`parse_bytes`](Self::parse_bytes) takes.
    pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, ConfigErrors> {
        let source = path.display().to_string();
        read(path).map_err(|error| whole_file(None, &source, error.to_string()))
    }

    /// Validates what a file holds, at most 8 MiB; `source` is what messages call it.
    pub(crate) fn parse_bytes(bytes: &[u8], source: &str) -> Result<Config, ConfigErrors> {
        Document::read(bytes, source)?.config()
    }

    /// Validates a text; `source` is what messages call it.
    pub fn parse(text: &str, source: &str) -> Result<Config, ConfigErrors> {
        Config::parse_with(text, source, &|name| std::env::var(name))
    }

    pub(super) fn parse_with(
        text: &str,
        source: &str,
        lookup: Lookup<'_>,
    ) -> Result<Config, ConfigErrors> {
        Document::read_text(text, source, lookup)?.config()
    }
}

/// A file that is read, and not yet judged.
pub(crate) struct Document<'s> {
    source: &'s str,
    /// `None`: it is no tree, and an error says why.
    tree: Option<tree::Node>,
    sink: Sink,
}

impl<'s> Document<'s> {
    /// Reads what a file holds, at most 8 MiB; `source` is what messages call it.
    pub(crate) fn read(bytes: &[u8], source: &'s str) -> Result<Self, ConfigErrors> {
        if bytes.len() as u64 > bounds::FILE_SIZE_MAX {
            return Err(too_large(source));
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::read_text(text, source, &|name| std::env::var(name)),
            Err(error) => Err(not_utf8(bytes, error.valid_up_to(), source)),
        }
    }

    fn read_text(text: &str, source: &'s str, lookup: Lookup<'_>) -> Result<Self, ConfigErrors> {
        if text.len() as u64 > bounds::FILE_SIZE_MAX {
            return Err(too_large(source));
        }
        let sink = Sink::default();
        let tree = tree::read(text, lookup, &sink);
        Ok(Self { source, tree, sink })
    }

    /// What it says, or all that is wrong with it.
    pub(crate) fn config(&self) -> Result<Config, ConfigErrors> {
        let root = self.tree.as_ref().and_then(|tree| Value::root(tree, &self.sink).section());
        let config = root.map(read_config);
        let (errors, warnings) = self.sink.take_findings(self.source);
        match config {
            Some(config) if errors.is_empty() => Ok(Config { warnings, ..config }),
            Some(_) | None => Err(ConfigErrors(errors)),
        }
    }
}

/// Reads one byte more than a file may have, so that a device or a pipe cannot fill the memory.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(bounds::FILE_SIZE_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn whole_file(mark: Option<Mark>, source: &str, message: String) -> ConfigErrors {
    let sink = Sink::default();
    sink.error(mark, "", message);
    ConfigErrors(sink.take_findings(source).0)
}

fn too_large(source: &str) -> ConfigErrors {
    let message = format!("more than {} bytes; is it a configuration?", bounds::FILE_SIZE_MAX);
    whole_file(Some(Mark::START), source, message)
}

fn not_utf8(bytes: &[u8], valid: usize, source: &str) -> ConfigErrors {
    let before = String::from_utf8_lossy(&bytes[..valid]);
    let mark = Mark::at(&before, before.len());
    whole_file(Some(mark), source, "not UTF-8; save the file in that encoding".to_owned())
}

/// Reads all sections in the order in which they need each other. With errors in the sink the result
/// means nothing.
fn read_config(mut root: Section<'_>) -> Config {
    regexes::begin_reading();
    let workers = process::workers(&mut root);
    let listeners = process::listeners(&mut root);
    let kernel = process::kernel(&mut root);
    let admin = process::admin(&mut root, &listeners.list);
    let log = process::log(&mut root);
    let timeouts = process::timeouts(&mut root);
    let limits = process::limits(&mut root);
    let drain = process::drain(&mut root);
    let resolver = resolver::resolver(&mut root);
    let mut upstreams = Upstreams::read(&mut root);
    let names = consumers::names(&root);
    let (known, by_plugins) = (upstreams.known(), RefCell::default());
    let log_paths = LogPaths::default();
    let groups = RefCell::<PluginGroups>::default();
    let metadata = metadata::read(&mut root, &log_paths);
    let scope = Scope {
        owner: None,
        consumers: &names,
        upstreams: &known,
        by_plugins: &by_plugins,
        metadata: &metadata,
        log_paths: &log_paths,
        groups: &groups,
    };
    let consumer_groups = shared::sets(&mut root, "consumer_groups", &scope);
    let consumers = consumers::read(&mut root, &consumer_groups, &scope);
    let global_rules = shared::global_rules(&mut root, &scope);
    let shared = Shared {
        services: shared::services(&mut root, &mut upstreams, &scope),
        plugin_configs: shared::sets(&mut root, "plugin_configs", &scope),
    };
    let routes = routes::routes(&mut root, &mut upstreams, &shared, &scope);
    let stream_routes = routes::stream_routes(&mut root, &mut upstreams, &listeners, kernel.mode);
    upstreams.are_referred(by_plugins.take());
    let config = Config {
        workers,
        listeners: listeners.list,
        kernel,
        admin,
        log,
        timeouts,
        limits,
        drain,
        resolver,
        routes,
        global_rules,
        upstreams: upstreams.finish(),
        consumers,
        stream_routes,
        warnings: Findings::default(),
    };
    refuse_unsteered_workers(&root, &config);
    refuse_too_many_names(&root, &config);
    warn_of_idle_listeners(&root, &config);
    root.finish(Kind::Root);
    config
}

/// Under `auto` such a number only costs the steering; under `require` the process would not start.
fn refuse_unsteered_workers(root: &Section<'_>, config: &Config) {
    let count = config.workers.count.map_or(0, NonZeroUsize::get);
    if config.kernel.mode == KernelMode::Require && count > limits::WORKERS_MAX as usize {
        root.error(format!(
            "`workers: {count}` with `kernel.mode: require`; the kernel half steers {}",
            limits::WORKERS_MAX
        ));
    }
}

fn refuse_too_many_names(root: &Section<'_>, config: &Config) {
    let count: usize = config.upstreams.iter().map(|upstream| upstream.names.len()).sum();
    if count > bounds::NAMES_MAX {
        root.error(format!("{count} nodes with names; at most {}", bounds::NAMES_MAX));
    }
}

/// A listener that can only refuse is valid (routes may come later) and rarely meant.
fn warn_of_idle_listeners(root: &Section<'_>, config: &Config) {
    let listens = |protocol| config.listeners.iter().any(|listener| listener.protocol == protocol);
    if listens(Protocol::Http) && config.routes.is_empty() {
        root.place().warning("no route: every request is answered 404");
    }
    if listens(Protocol::Tcp) && config.stream_routes.is_empty() {
        root.place().warning("no stream route: every connection of a `tcp` listener is closed");
    }
    if !config.routes.is_empty() && !listens(Protocol::Http) {
        root.place().warning("routes, but no listener with `protocol: http`");
    }
}

/// What `tandem check` has to say about a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    source: String,
    errors: Option<ConfigErrors>,
    warnings: Findings,
}

/// Reads and validates a file as `run` would, and starts nothing.
pub fn check(path: &Path) -> Report {
    let source = path.display().to_string();
    match Config::load(path) {
        Ok(config) => Report { source, errors: None, warnings: config.warnings },
        Err(errors) => Report { source, errors: Some(errors), warnings: Findings::default() },
    }
}

impl Report {
    pub fn is_valid(&self) -> bool {
        self.errors.is_none()
    }
}

/// Every error, or every warning and `FILE: valid`; no newline at the end.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.errors {
            Some(errors) => errors.fmt(f),
            None => {
                self.warnings.labelled("warning: ").try_for_each(|line| writeln!(f, "{line}"))?;
                write!(f, "{}: valid", self.source)
            }
        }
    }
}
