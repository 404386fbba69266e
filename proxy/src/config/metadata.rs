//! `plugin_metadata`: what holds for a plugin wherever it is configured and says nothing else.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use http::HeaderName;
use serde_json::Value as Json;

use super::{
    planned::Kind,
    plugins::{LogPaths, field_name, log_path},
    reader::Section,
    resource,
};
use crate::plugin::{self, Layout, allowed_origins};

/// What the file says for all uses of its plugins.
#[derive(Debug, Default)]
pub(crate) struct Metadata {
    pub(crate) file_logger: FileLogger,
    /// `allow_origins` of `cors`, by the names that are given to them.
    pub(crate) allow_origins: HashMap<String, String>,
    pub(crate) quota_fields: QuotaFields,
    /// As they were written, by plugin.
    sources: HashMap<Arc<str>, Json>,
}

/// For each `file-logger`.
#[derive(Debug, Default)]
pub(crate) struct FileLogger {
    pub(crate) path: Option<PathBuf>,
    pub(crate) layout: Layout,
}

/// In which `limit-count` tells the limit, what remains of it, and for how long, unless it has `rules`.
#[derive(Debug, Clone)]
pub(crate) struct QuotaFields(pub(crate) [HeaderName; 3]);

const QUOTA_FIELDS: [(&str, &str); 3] = [
    ("limit_header", "x-ratelimit-limit"),
    ("remaining_header", "x-ratelimit-remaining"),
    ("reset_header", "x-ratelimit-reset"),
];

impl Default for QuotaFields {
    fn default() -> QuotaFields {
        QuotaFields(QUOTA_FIELDS.map(|(_, name)| HeaderName::from_static(name)))
    }
}

impl Metadata {
    /// What a plugin was made of beside its own settings.
    pub(super) fn source(&self, plugin: &str) -> Option<&Json> {
        self.sources.get(plugin)
    }
}

/// Reads `plugin_metadata`; the id of each is the name of a plugin.
pub(super) fn read(root: &mut Section<'_>, log_paths: &LogPaths) -> Metadata {
    let mut metadata = Metadata::default();
    resource::each(root, "plugin_metadata", |mut section, id| {
        let Some(id) = id else { return };
        let source = section.source();
        match &*id {
            "cors" => metadata.allow_origins = allow_origins(&mut section),
            "file-logger" => metadata.file_logger = file_logger(&mut section, log_paths),
            "limit-count" => metadata.quota_fields = quota_fields(&mut section),
            name if plugin::Kind::named(name).is_some() => {
                return section.error(format!("`{name}` has no metadata; remove it"));
            }
            _ => {
                let few = "only `cors`, `file-logger` and `limit-count` have metadata; remove it";
                return section.error(few);
            }
        }
        section.finish(Kind::PluginMetadata);
        metadata.sources.insert(id, source);
    });
    metadata
}

fn allow_origins(section: &mut Section<'_>) -> HashMap<String, String> {
    let named = section.take("allow_origins").and_then(|value| value.pairs());
    let named = named.unwrap_or_default().into_iter();
    named.filter_map(|(_, name, value)| Some((name.to_owned(), allowed_origins(&value)?))).collect()
}

fn file_logger(section: &mut Section<'_>, log_paths: &LogPaths) -> FileLogger {
    let path = section.take("path").and_then(|value| log_path(&value, log_paths));
    let layout = Layout::read(section).unwrap_or_default();
    FileLogger { path, layout }
}

fn quota_fields(section: &mut Section<'_>) -> QuotaFields {
    let names = QUOTA_FIELDS.map(|(key, default)| {
        let name = section.take_or(key, default, field_name);
        name.and_then(|name| HeaderName::try_from(name).ok())
    });
    match names {
        [Some(limit), Some(remaining), Some(reset)] => QuotaFields([limit, remaining, reset]),
        // What is wrong with them has been said.
        _ => QuotaFields::default(),
    }
}
