//! The process's own log: events of its life, on stderr, as text or as JSON.
//!
//! Written where they happen, without a queue: below `debug` nothing is logged for a connection or a
//! request, and the last words of a process that stops must not wait in memory. The access log is
//! another thing (`access_log`).

use std::io::{self, IsTerminal};

use anyhow::anyhow;
use tracing::{Level, level_filters::LevelFilter};
use tracing_subscriber::{
    filter::Targets,
    fmt::{MakeWriter, format::FmtSpan},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::config::{Log, LogFormat};

/// These warn of every forged datagram; what came of a lookup, `reload` says once.
const RESOLVER_TARGETS: [&str; 3] = ["hickory_net", "hickory_proto", "hickory_resolver"];

/// Installs the subscriber for the whole process. Fails if one is installed already.
pub fn init(config: &Log) -> anyhow::Result<()> {
    // https://no-color.org: any value but the empty one.
    let is_colored =
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let style = if is_colored { Style::Colored } else { Style::Plain };
    subscriber(config, style, io::stderr)
        .try_init()
        .map_err(|_| anyhow!("a log subscriber is installed already"))
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
