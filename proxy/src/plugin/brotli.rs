//! `brotli`: encodes responses for downstreams that take it (RFC 7932).
//!
//! For a body whose length is announced the window is no larger than that needs.

use std::sync::Arc;

use super::{
    Encoding, Hooks, Kind, Phase, Plugin,
    encoding::{BrotliMode, Coder},
};
use crate::config::plugins::{Scope, Section, Value};

pub(super) static KIND: Kind =
    Kind { name: "brotli", priority: 996, phase: Phase::Access, read, credential: None };

#[derive(Debug)]
struct Brotli(Encoding);

fn read(section: &mut Section<'_>, _scope: &Scope<'_>) -> Option<Arc<dyn Plugin>> {
    let quality = section.within_or("comp_level", 0..=11, 6);
    let mode = section.take("mode").map(|value| mode(&value));
    let lgwin = section.within_or("lgwin", 10..=24, 19);
    let lgblock = section.take("lgblock").map(|value| lgblock(&value));
    let (mode, lgblock) = (mode.unwrap_or(Some(BrotliMode::Generic)), lgblock.unwrap_or(Some(0)));
    let coder = Coder::Brotli { quality, mode: mode?, lgwin, lgblock: lgblock? };
    Some(Arc::new(Brotli(Encoding::read(section, coder)?)))
}

fn mode(value: &Value<'_>) -> Option<BrotliMode> {
    Some(match value.within(&(0..=2_u16))? {
        0 => BrotliMode::Generic,
        1 => BrotliMode::Text,
        _ => BrotliMode::Font,
    })
}

/// 0: as the encoder thinks fit.
fn lgblock(value: &Value<'_>) -> Option<i32> {
    let bits = value.leaf::<u32>()?;
    if bits != 0 && !(16..=24).contains(&bits) {
        value.error("expected 0 or a number from 16 to 24");
        return None;
    }
    i32::try_from(bits).ok()
}

impl Plugin for Brotli {
    fn hooks(&self) -> Hooks {
        Hooks { response_body: true, ..Hooks::default() }
    }

    fn encoding(&self) -> Option<&Encoding> {
        Some(&self.0)
    }
}

#[cfg(test)]
mod tests;
