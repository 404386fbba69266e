//! `zstd`: encodes responses for downstreams that take it (RFC 8878). APISIX has none; the keys are
//! those of `gzip`.

use std::sync::Arc;

use super::{
    Encoding, Hooks, Kind, Phase, Plugin,
    encoding::{Coder, ZSTD_LEVEL_MAX},
};
use crate::config::plugins::{Scope, Section};

pub(super) static KIND: Kind =
    Kind { name: "zstd", priority: 997, phase: Phase::Access, read, credential: None };

#[derive(Debug)]
struct Zstd(Encoding);

fn read(section: &mut Section<'_>, _scope: &Scope<'_>) -> Option<Arc<dyn Plugin>> {
    let level = section.within_or("comp_level", 1..=ZSTD_LEVEL_MAX, 3);
    Some(Arc::new(Zstd(Encoding::read(section, Coder::Zstd { level })?)))
}

impl Plugin for Zstd {
    fn hooks(&self) -> Hooks {
        Hooks { response_body: true, ..Hooks::default() }
    }

    fn encoding(&self) -> Option<&Encoding> {
        Some(&self.0)
    }
}

#[cfg(test)]
mod tests;
