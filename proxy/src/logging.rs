//! The process's own log: events of its life, on stderr, as text or as JSON.
//!
//! Nobody waits for whoever reads it: lines go through a bounded queue ([`log_queue`]), and what finds
//! no room is counted and, once lines are written again, said. What waits at the end is written while
//! [`LogGuard`] is dropped. The access log is another thing (`access_log`).

use std::{
    io::{self, IsTerminal},
    os::fd::AsFd as _,
    sync::{Arc, OnceLock},
};

use anyhow::{Context, anyhow};
use tracing::{Level, level_filters::LevelFilter};
use tracing_subscriber::{
    filter::Targets,
    fmt::{MakeWriter, format::FmtSpan},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::{
    config::{Log, LogFormat},
    log_queue::{self, Dropped, Queue, QueueGuard, Regained},
};

/// Bytes of lines that may wait for whoever reads stderr; beyond it lines are dropped.
// At `info` a start has some 20 lines of 100 bytes; `debug` has several for each request.
const QUEUE_SIZE_MAX: usize = 1 << 20;
/// These warn of every forged datagram; what came of a lookup, `reload` says once.
const RESOLVER_TARGETS: [&str; 3] = ["hickory_net", "hickory_proto", "hickory_resolver"];

/// Of the one log of the process.
static DROPPED: OnceLock<Dropped> = OnceLock::new();

/// Dropping it writes what still waits, for about a second at most. Nothing is logged any more.
#[must_use = "nothing is logged once it is dropped"]
pub struct LogGuard(QueueGuard);

impl LogGuard {
    /// Writes an error and its chain behind everything that was logged.
    pub fn complain(&self, error: &anyhow::Error) {
        self.0.push(format!("tandem: {error:#}\n").as_bytes());
    }
}

/// Lines that were lost since the start.
pub fn dropped() -> u64 {
    DROPPED.get().map_or(0, Dropped::lines)
}

/// Installs the subscriber for the whole process.
///
/// # Errors
/// One is installed already, or there is no thread that would write.
pub fn init(config: &Log) -> anyhow::Result<LogGuard> {
    let stderr = log_queue::unbuffered(io::stderr().as_fd()).context("log")?;
    let dropped = DROPPED.get_or_init(Dropped::default).clone();
    let regained: Regained =
        |lines| tracing::warn!(lines, "lines of this log were lost: nobody read them");
    let started = log_queue::start(Box::new(stderr), QUEUE_SIZE_MAX, dropped, Some(regained));
    let (queue, writing) = started.context("log thread")?;
    // https://no-color.org: any value but the empty one.
    let is_colored =
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let style = if is_colored { Style::Colored } else { Style::Plain };
    let lines = Lines(Arc::clone(&queue));
    subscriber(config, style, move || lines.clone())
        .try_init()
        .map_err(|_| anyhow!("a log subscriber is installed already"))?;
    Ok(LogGuard(QueueGuard::new(&queue, writing)))
}

/// The subscriber writes each event with one call.
#[derive(Clone)]
struct Lines(Arc<Queue>);

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    Colored,
}

fn subscriber<W>(config: &Log, style: Style, writer: W) -> tracing::Dispatch
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt()
        .with_max_level(config.level)
        .with_span_events(FmtSpan::NONE)
        .with_ansi(style == Style::Colored)
        // It would say so on stderr, and panic where nobody reads that.
        .log_internal_errors(false)
        .with_writer(writer);
    let resolver = if config.level > Level::INFO { config.level.into() } else { LevelFilter::OFF };
    let targets = RESOLVER_TARGETS.map(|target| (target, resolver));
    let targets = Targets::new().with_default(config.level).with_targets(targets);
    match config.format {
        LogFormat::Text => builder.finish().with(targets).into(),
        LogFormat::Json => builder.json().flatten_event(true).finish().with(targets).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::{debug, dispatcher, info, warn};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: Level, format: LogFormat, log: impl FnOnce()) -> String {
        let captured = Captured::default();
        let writer = captured.clone();
        let config = Log { level, format, access: None };
        let dispatch = subscriber(&config, Style::Plain, move || writer.clone());
        dispatcher::with_default(&dispatch, log);
        let bytes = captured.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn level_decides_what_is_written() {
        let events = || {
            debug!("picked node");
            info!("listening");
            warn!("kernel plane off");
        };
        let at_info = logged(Level::INFO, LogFormat::Text, events);
        assert!(at_info.contains("listening") && at_info.contains("kernel plane off"));
        assert!(!at_info.contains("picked node"));
        let at_warn = logged(Level::WARN, LogFormat::Text, events);
        assert!(!at_warn.contains("listening") && at_warn.contains("kernel plane off"));
        let at_debug = logged(Level::DEBUG, LogFormat::Text, events);
        assert!(at_debug.contains("picked node"));
    }

    #[test]
    fn text_keeps_facts_in_fields_and_has_no_colour_codes() {
        let text =
            logged(Level::INFO, LogFormat::Text, || info!(listener = "web", "listening\u{1b}[31m"));
        assert!(text.contains("INFO") && text.contains("listener=\"web\""), "{text}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn json_is_one_flat_object_a_line() {
        let text = logged(Level::INFO, LogFormat::Json, || info!(listener = "web", "listening"));
        let event: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(event["message"], "listening");
        assert_eq!(event["listener"], "web");
        assert_eq!(event["level"], "INFO");
    }
}
