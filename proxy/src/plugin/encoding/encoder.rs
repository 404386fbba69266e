//! One body on its way through an encoder.

use std::{
    fmt,
    io::{self, Write},
    mem,
    sync::Arc,
};

use ::brotli::{
    CompressorWriter,
    enc::backward_references::{BrotliEncoderMode, BrotliEncoderParams},
};
use ::zstd::stream::write::Encoder as ZstdEncoder;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};

use crate::{
    memory::{Memory, Share},
    plugin::BodyFilter,
};

/// What an encoder of gzip holds: windows, tables, and what waits.
const GZIP_SIZE: usize = 500 << 10;
/// Bytes that are put in at a time, so that what comes out does not depend on how a body was cut: some
/// encoders look no further than they are given.
const BLOCK_SIZE: usize = 16 << 10;
/// Bytes that brotli writes at a time into what waits.
const BROTLI_PIECE: usize = 4096;
/// The window of zstd that every client has room for (RFC 9659 section 3) is 2^23; higher levels than
/// 19 have larger ones.
pub(crate) const ZSTD_LEVEL_MAX: i32 = 19;

/// A coding and its settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::plugin) enum Coder {
    Gzip { level: u32 },
    Brotli { quality: i32, mode: BrotliMode, lgwin: i32, lgblock: i32 },
    Zstd { level: i32 },
}

/// What brotli takes the data for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::plugin) enum BrotliMode {
    Generic,
    Text,
    Font,
}

impl Coder {
    /// As `Content-Encoding` has it, and then as `Accept-Encoding` may have it too.
    pub(super) fn names(self) -> &'static [&'static str] {
        match self {
            Coder::Gzip { .. } => &["gzip", "x-gzip"],
            Coder::Brotli { .. } => &["br"],
            Coder::Zstd { .. } => &["zstd"],
        }
    }

    /// Which of those that are wanted alike is taken: the highest.
    pub(super) fn rank(self) -> u8 {
        match self {
            Coder::Gzip { .. } => 0,
            Coder::Brotli { .. } => 1,
            Coder::Zstd { .. } => 2,
        }
    }

    /// Bytes that an encoder holds at most, rounded up; `length` is the body's.
    fn size(self, length: Option<u64>) -> usize {
        match self {
            Coder::Gzip { .. } => GZIP_SIZE,
            Coder::Brotli { quality, lgwin, lgblock, .. } => {
                brotli_size(quality, window(lgwin, length), lgblock)
            }
            Coder::Zstd { level } => zstd_size(level, length),
        }
    }
}

/// As few bits as a body of `length` needs, and no more than `most`. With less than 17 the encoder of
/// brotli takes tables that are larger by far.
fn window(most: i32, length: Option<u64>) -> i32 {
    const LEAST: i32 = 17;
    let needed = length.map_or(most, |length| (u64::BITS - length.leading_zeros()) as i32 + 1);
    needed.clamp(LEAST.min(most), most)
}

// Measured, as are those of zstd: what was allocated for noise that shrinks to a half.
fn brotli_size(quality: i32, lgwin: i32, lgblock: i32) -> usize {
    const MIB: usize = 1 << 20;
    let block = match (lgblock, quality) {
        (0, ..=8) => 16,
        (0, _) => 18,
        (lgblock, _) => lgblock,
    };
    let window = 1 << lgwin.max(block);
    match quality {
        ..=4 => 2 * MIB + 3 * window,
        5..=9 if lgwin <= 16 => 36 * MIB + 3 * window,
        5 | 6 => MIB + 3 * window + (1 << (16 + quality)),
        7..=9 => 4 * MIB + 3 * window + (1 << (16 + quality)),
        10.. => 24 * MIB + 12 * window,
    }
}

/// KiB by level, for bodies that may be long.
const ZSTD_SIZES: [usize; ZSTD_LEVEL_MAX as usize] = [
    1400, 2100, 3700, 5000, 5500, 5500, 8100, 8100, 15_500, 25_900, 25_900, 46_900, 38_600, 55_400,
    72_100, 38_700, 59_700, 60_300, 93_900,
];

fn zstd_size(level: i32, length: Option<u64>) -> usize {
    let most = usize::try_from(level - 1).ok().and_then(|at| ZSTD_SIZES.get(at));
    let most = most.copied().unwrap_or(ZSTD_SIZES[ZSTD_SIZES.len() - 1]);
    let kib = match length {
        Some(..=0x4000) => most.min(640),
        Some(..=0x2_0000) => most.min(3300),
        Some(_) | None => most,
    };
    kib << 10
}

/// A filter that encodes a body of this length, if that is announced; `None`: there is no memory for
/// it.
pub(super) fn start(
    coder: Coder,
    length: Option<u64>,
    memory: &Arc<Memory>,
) -> Option<Box<dyn BodyFilter>> {
    let memory = memory.take(coder.size(length))?;
    let encoder = Encoder::new(coder, length)
        .inspect_err(|error| tracing::error!(%error, ?coder, "no encoder"))
        .ok()?;
    let held = Vec::new();
    Some(Box::new(Encoded { encoder: Some(encoder), held, is_due: false, _memory: memory }))
}

enum Encoder {
    Gzip(GzEncoder<Vec<u8>>),
    Brotli(Box<CompressorWriter<Vec<u8>>>),
    Zstd(ZstdEncoder<'static, Vec<u8>>),
}

impl Encoder {
    fn new(coder: Coder, length: Option<u64>) -> io::Result<Encoder> {
        Ok(match coder {
            Coder::Gzip { level } => {
                Encoder::Gzip(GzEncoder::new(Vec::new(), Compression::new(level)))
            }
            Coder::Brotli { quality, mode, lgwin, lgblock } => {
                let params = BrotliEncoderParams {
                    mode: match mode {
                        BrotliMode::Generic => BrotliEncoderMode::BROTLI_MODE_GENERIC,
                        BrotliMode::Text => BrotliEncoderMode::BROTLI_MODE_TEXT,
                        BrotliMode::Font => BrotliEncoderMode::BROTLI_MODE_FONT,
                    },
                    quality,
                    lgwin: window(lgwin, length),
                    lgblock,
                    size_hint: length.and_then(|it| it.try_into().ok()).unwrap_or(0),
                    ..BrotliEncoderParams::default()
                };
                let writer = CompressorWriter::with_params(Vec::new(), BROTLI_PIECE, &params);
                Encoder::Brotli(Box::new(writer))
            }
            Coder::Zstd { level } => {
                let mut encoder = ZstdEncoder::new(Vec::new(), level)?;
                // What is not as long breaks off, whoever counts.
                encoder.set_pledged_src_size(length)?;
                Encoder::Zstd(encoder)
            }
        })
    }

    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Encoder::Gzip(encoder) => encoder,
            Encoder::Brotli(encoder) => encoder,
            Encoder::Zstd(encoder) => encoder,
        }
    }

    /// What has been written and not taken.
    fn written(&mut self) -> &mut Vec<u8> {
        match self {
            Encoder::Gzip(encoder) => encoder.get_mut(),
            Encoder::Brotli(encoder) => encoder.get_mut(),
            Encoder::Zstd(encoder) => encoder.get_mut(),
        }
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Encoder::Gzip(encoder) => encoder.finish(),
            Encoder::Brotli(encoder) => Ok(encoder.into_inner()),
            Encoder::Zstd(encoder) => encoder.finish(),
        }
    }
}

/// A body on its way. An encoder that fails, for want of memory, says nothing more: what has left
/// lacks its end, which every decoder finds out.
struct Encoded {
    encoder: Option<Encoder>,
    /// Less than a block that was not put in yet.
    held: Vec<u8>,
    /// Something was put in that need not have come out.
    is_due: bool,
    _memory: Share,
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoded").finish_non_exhaustive()
    }
}

impl Encoded {
    fn run(&mut self, step: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Bytes {
        let Some(encoder) = &mut self.encoder else { return Bytes::new() };
        match step(encoder.writer()) {
            Ok(()) => mem::take(encoder.written()).into(),
            Err(error) => self.fail(&error),
        }
    }

    fn fail(&mut self, error: &io::Error) -> Bytes {
        tracing::error!(%error, "a response could not be encoded");
        self.encoder = None;
        Bytes::new()
    }
}

impl BodyFilter for Encoded {
    fn piece(&mut self, piece: Bytes) -> Bytes {
        if piece.is_empty() {
            return piece;
        }
        self.is_due = true;
        let mut held = mem::take(&mut self.held);
        let written = self.run(|encoder| {
            let mut rest = &piece[..];
            while held.len() + rest.len() >= BLOCK_SIZE {
                let (filling, behind) = rest.split_at(BLOCK_SIZE - held.len());
                held.extend_from_slice(filling);
                encoder.write_all(&held)?;
                held.clear();
                rest = behind;
            }
            held.extend_from_slice(rest);
            Ok(())
        });
        self.held = held;
        written
    }

    fn pause(&mut self) -> Bytes {
        if !mem::take(&mut self.is_due) {
            return Bytes::new();
        }
        let held = mem::take(&mut self.held);
        self.run(|encoder| encoder.write_all(&held).and_then(|()| encoder.flush()))
    }

    fn end(&mut self) -> Bytes {
        let held = mem::take(&mut self.held);
        let finished = self.encoder.take().map(|mut encoder| {
            encoder.writer().write_all(&held)?;
            encoder.finish()
        });
        match finished {
            Some(Ok(rest)) => rest.into(),
            Some(Err(error)) => self.fail(&error),
            None => Bytes::new(),
        }
    }
}

#[cfg(test)]
mod tests;
