//! `file-logger`: writes a JSON line of each exchange to a file.
//!
//! The line is made when the exchange is over and written by a thread of the file's own
//! ([`log_files`](crate::log_files)). `match` is a list of expressions of which one has to hold; they
//! see what variables of logs say too. What is not set here may be in `plugin_metadata`.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use super::{Finished, Hooks, Kind, Phase, Plugin, log_entry::Layout};
use crate::{
    config::{
        expression::any_expression,
        plugins::{Scope, Section, log_path, not_built},
    },
    expression::Expression,
    log_files::{LogFile, LogFiles},
};

pub(super) static KIND: Kind =
    Kind { name: "file-logger", priority: 399, phase: Phase::Access, read, credential: None };

/// Bytes of one line; a longer one is dropped.
const LINE_SIZE_MAX: usize = 128 << 10;

#[derive(Debug)]
struct FileLogger {
    path: PathBuf,
    layout: Layout,
    matches: Option<Expression>,
    /// Once it is in force.
    file: OnceLock<LogFile>,
}

fn read(section: &mut Section<'_>, scope: &Scope<'_>) -> Option<Arc<dyn Plugin>> {
    let metadata = scope.metadata.file_logger();
    let path = section.take("path").map(|value| log_path(&value, scope.log_paths));
    let layout = Layout::read(section);
    let matches = section.take("match").map(|value| any_expression(&value));
    not_built(section, "include_req_body");
    not_built(section, "include_resp_body");
    let path = path.unwrap_or_else(|| {
        if metadata.path.is_none() {
            section.error("property \"path\" is not set in either the plugin conf or the metadata");
        }
        metadata.path.clone()
    });
    Some(Arc::new(FileLogger {
        path: path?,
        layout: layout?.or(&metadata.layout),
        matches: matches.map_or(Some(None), |matches| matches.map(Some))?,
        file: OnceLock::new(),
    }))
}

impl Plugin for FileLogger {
    fn open(&self, files: &LogFiles) {
        self.file.get_or_init(|| files.open(&self.path));
    }

    fn hooks(&self) -> Hooks {
        Hooks { log: true, log_detail: true, ..Hooks::default() }
    }

    fn log(&self, exchange: &Finished<'_>) {
        let Some(file) = self.file.get() else { return };
        let entry = exchange.with_facts(|facts| {
            let is_meant = self.matches.as_ref().is_none_or(|matches| matches.holds(facts));
            is_meant.then(|| self.layout.entry(exchange, facts))
        });
        let Some(entry) = entry else { return };
        let line = format!("{entry}\n");
        if line.len() > LINE_SIZE_MAX { file.lose() } else { file.write(line.as_bytes()) }
    }
}

#[cfg(test)]
mod tests;
