//! `gzip`: encodes responses for downstreams that take it (RFC 1952).

use std::sync::Arc;

use super::{Encoding, Hooks, Kind, Phase, Plugin, encoding::Coder};
use crate::config::plugins::{Scope, Section};

pub(super) static KIND: Kind =
    Kind { name: "gzip", priority: 995, phase: Phase::Access, read, credential: None };

#[derive(Debug)]
struct Gzip(Encoding);

fn read(section: &mut Section<'_>, _scope: &Scope<'_>) -> Option<Arc<dyn Plugin>> {
    let level = section.within_or("comp_level", 1..=9, 1);
    if let Some(value) = section.take("buffers") {
        value.error("are NGINX's, and there are none here: a piece leaves as it is encoded; remove it");
    }
    Some(Arc::new(Gzip(Encoding::read(section, Coder::Gzip { level })?)))
}

impl Plugin for Gzip {
    fn hooks(&self) -> Hooks {
        Hooks { response_body: true, ..Hooks::default() }
    }

    fn encoding(&self) -> Option<&Encoding> {
        Some(&self.0)
    }
}

#[cfg(test)]
mod tests;
