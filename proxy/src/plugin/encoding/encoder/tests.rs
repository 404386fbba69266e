use std::io::Read;

use super::*;

const CODERS: [Coder; 7] = [
    Coder::Gzip { level: 1 },
    Coder::Gzip { level: 9 },
    Coder::Brotli { quality: 0, mode: BrotliMode::Font, lgwin: 10, lgblock: 16 },
    Coder::Brotli { quality: 6, mode: BrotliMode::Generic, lgwin: 19, lgblock: 0 },
    Coder::Brotli { quality: 5, mode: BrotliMode::Text, lgwin: 18, lgblock: 0 },
    Coder::Zstd { level: 1 },
    Coder::Zstd { level: 6 },
];

/// What a decoder makes of it, up to where it ends; `false`: it is not whole.
fn decoded(coder: Coder, bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut data = Vec::new();
    let read = match coder {
        Coder::Gzip { .. } => flate2::read::GzDecoder::new(bytes).read_to_end(&mut data),
        Coder::Brotli { .. } => ::brotli::Decompressor::new(bytes, 4096).read_to_end(&mut data),
        Coder::Zstd { .. } => {
            ::zstd::stream::read::Decoder::new(bytes).expect("memory").read_to_end(&mut data)
        }
    };
    (data, read.is_ok())
}

/// Half of it text, half of it noise; the same every time.
fn data(size: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let byte = |at: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if (at / 1000).is_multiple_of(2) { b"encoding "[at % 9] } else { (state >> 32) as u8 }
    };
    (0..size).map(byte).collect()
}

fn plenty() -> Arc<Memory> {
    Arc::new(Memory::new(usize::MAX))
}

fn encoded(coder: Coder, length: Option<u64>, pieces: &[&[u8]]) -> Vec<u8> {
    let mut filter = start(coder, length, &plenty()).expect("memory");
    let mut out = Vec::new();
    for piece in pieces {
        out.extend_from_slice(&filter.piece(Bytes::copy_from_slice(piece)));
    }
    out.extend_from_slice(&filter.end());
    assert!(filter.piece(Bytes::from_static(b"x")).is_empty() && filter.end().is_empty());
    out
}

#[test]
fn a_body_is_what_it_was_however_it_is_cut() {
    for coder in CODERS {
        for size in [0, 1, 1000, 70_000] {
            let data = data(size);
            for length in [None, Some(size as u64)] {
                let whole = encoded(coder, length, &[&data]);
                assert!(decoded(coder, &whole) == (data.clone(), true), "{coder:?} {size}");
                for cut in [1, 4099, 65_536].into_iter().filter(|cut| size / cut < 20_000) {
                    let pieces: Vec<_> = data.chunks(cut).collect();
                    let bytes = encoded(coder, length, &pieces);
                    assert!(bytes == whole, "{coder:?} {size} {cut}");
                }
            }
        }
    }
}

#[test]
fn what_came_before_a_pause_can_be_read_in_it() {
    let data = data(200_000);
    for coder in CODERS {
        let mut filter = start(coder, None, &plenty()).expect("memory");
        assert!(filter.pause().is_empty(), "nothing is due");
        let (mut out, mut fed) = (Vec::new(), 0);
        for size in [1, 10, 1000, 65_536, 3, 100_000] {
            let piece = Bytes::copy_from_slice(&data[fed..fed + size]);
            fed += size;
            out.extend_from_slice(&filter.piece(piece));
            out.extend_from_slice(&filter.pause());
            assert!(filter.pause().is_empty(), "it was passed on");
            let (seen, is_whole) = decoded(coder, &out);
            assert!(seen == data[..fed] && !is_whole, "{coder:?} {} of {fed}", seen.len());
        }
        out.extend_from_slice(&filter.end());
        assert!(decoded(coder, &out) == (data[..fed].to_vec(), true), "{coder:?}");
    }
}

#[test]
fn what_is_left_of_a_body_that_breaks_off_is_not_whole() {
    for coder in CODERS {
        let whole = encoded(coder, None, &[&data(5000)]);
        let (_, is_whole) = decoded(coder, &whole[..whole.len() - 1]);
        assert!(!is_whole, "{coder:?}");
    }
}

#[test]
fn a_body_that_is_longer_than_announced_is_broken_not_wrong() {
    let coder = Coder::Zstd { level: 3 };
    let out = encoded(coder, Some(10), &[&data(100), &data(100)]);
    assert!(!decoded(coder, &out).1);
}

#[test]
fn windows_are_no_larger_than_bodies_need() {
    for (length, expected) in
        [(None, 19), (Some(0), 17), (Some(1 << 16), 18), (Some(1 << 17), 19), (Some(u64::MAX), 19)]
    {
        assert_eq!(window(19, length), expected, "{length:?}");
    }
    assert_eq!(window(10, Some(1 << 20)), 10);
}

#[test]
fn an_encoder_of_zstd_is_not_larger_than_was_reckoned() {
    use ::zstd::zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer};
    let (data, mut out) = (data(200_000), vec![0; 1 << 20]);
    for level in 1..=ZSTD_LEVEL_MAX {
        for length in [None, Some(1), Some(16_384), Some(131_072), Some(200_000)] {
            let mut context = CCtx::create();
            context.set_parameter(CParameter::CompressionLevel(level)).expect("a level");
            context.set_pledged_src_size(length).expect("a length");
            let size = length.map_or(data.len(), |length| length as usize);
            let mut input = InBuffer::around(&data[..size]);
            let mut output = OutBuffer::around(&mut out[..]);
            context.compress_stream(&mut output, &mut input).expect("compressed");
            let reckoned = Coder::Zstd { level }.size(length);
            assert!(context.sizeof() <= reckoned, "{level} {length:?}: {}", context.sizeof());
            assert!(length.is_some() || reckoned <= 2 * context.sizeof(), "{level}: {reckoned}");
        }
    }
}
