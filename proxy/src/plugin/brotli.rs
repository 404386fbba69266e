//! `brotli`: encodes responses for downstreams that take it (RFC 7932).
//!
//! For a body whose length is announced the window is no larger than that needs.

use std::{ops::RangeInclusive, sync::Arc};

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
    let lgwin = section.take("lgwin").map(|value| lgwin(&value));
    let lgblock = section.take("lgblock").map(|value| lgblock(&value));
    let (lgwin, lgblock) = (lgwin.unwrap_or(Some(19)), lgblock.unwrap_or(Some(0)));
    let mode = mode.unwrap_or(Some(BrotliMode::Generic));
    let coder = Coder::Brotli { quality, mode: mode?, lgwin: lgwin?, lgblock: lgblock? };
    Some(Arc::new(Brotli(Encoding::read(section, coder)?)))
}

fn mode(value: &Value<'_>) -> Option<BrotliMode> {
    Some(match value.within(&(0..=2_u16))? {
        0 => BrotliMode::Generic,
        1 => BrotliMode::Text,
        _ => BrotliMode::Font,
    })
}

/// 0: what brotli takes if nobody says.
fn lgwin(value: &Value<'_>) -> Option<i32> {
    const DEFAULT: i32 = 22;
    let bits = zero_or(value, 10..=24)?;
    Some(if bits == 0 { DEFAULT } else { bits })
}

/// 0: as the encoder thinks fit.
fn lgblock(value: &Value<'_>) -> Option<i32> {
    zero_or(value, 16..=24)
}

fn zero_or(value: &Value<'_>, range: RangeInclusive<i32>) -> Option<i32> {
    let bits = value.leaf::<i32>()?;
    if bits != 0 && !range.contains(&bits) {
        let (low, high) = range.into_inner();
        value.error(format!("expected 0 or a number from {low} to {high}"));
        return None;
    }
    Some(bits)
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
