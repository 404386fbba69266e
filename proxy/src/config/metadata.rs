//! `plugin_metadata`: what holds for a plugin wherever it is configured and says nothing else.

use std::path::PathBuf;

use serde_json::Value as Json;

use super::{
    planned::Kind,
    plugins::{LogPaths, log_path},
    reader::Section,
    resource,
};
use crate::plugin::{self, Layout};

/// What the file says for all uses of its plugins.
#[derive(Debug, Default)]
pub(crate) struct Metadata {
    file_logger: FileLogger,
    /// Of `file-logger`, as it was written.
    source: Option<Json>,
}

/// For each `file-logger`.
#[derive(Debug, Default)]
pub(crate) struct FileLogger {
    pub(crate) path: Option<PathBuf>,
    pub(crate) layout: Layout,
}

impl Metadata {
    pub(crate) fn file_logger(&self) -> &FileLogger {
        &self.file_logger
    }

    /// What a plugin was made of beside its own settings.
    pub(super) fn source(&self, plugin: &str) -> Option<&Json> {
        self.source.as_ref().filter(|_| plugin == "file-logger")
    }
}

/// Reads `plugin_metadata`; the id of each is the name of a plugin.
pub(super) fn read(root: &mut Section<'_>, log_paths: &LogPaths) -> Metadata {
    let mut metadata = Metadata::default();
    resource::each(root, "plugin_metadata", |mut section, id| match id.as_deref() {
        Some("file-logger") => {
            metadata.source = Some(section.source());
            metadata.file_logger = file_logger(&mut section, log_paths);
            section.finish(Kind::PluginMetadata);
        }
        Some(name) if plugin::Kind::named(name).is_some() => {
            section.error(format!("`{name}` has no metadata; remove it"));
        }
        Some(_) => section.error("only `file-logger` has metadata; remove it"),
        None => {}
    });
    metadata
}

fn file_logger(section: &mut Section<'_>, log_paths: &LogPaths) -> FileLogger {
    let path = section.take("path").and_then(|value| log_path(&value, log_paths));
    let layout = Layout::read(section).unwrap_or_default();
    FileLogger { path, layout }
}
