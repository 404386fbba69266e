//! The bytes of every large body: position decides them, so that a receiver can check any part of
//! a body without having seen the rest.

/// Bytes until the pattern repeats. Prime, so that a block lost or doubled by a proxy, whose
/// buffers are powers of two, never lines up with it.
const PERIOD: usize = 262_139;

/// The pattern, held once per process.
pub(crate) struct Pattern {
    /// Twice the period less one byte, so that any offset has a whole period in one slice.
    bytes: Box<[u8]>,
}

impl Pattern {
    pub(crate) fn new() -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut period = Vec::with_capacity(PERIOD + 8);
        while period.len() < PERIOD {
            // xorshift64: any fixed sequence without short repeats would do.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            period.extend_from_slice(&state.to_le_bytes());
        }
        period.truncate(PERIOD);
        let mut bytes = period.clone();
        bytes.extend_from_slice(&period[..PERIOD - 1]);
        Self { bytes: bytes.into_boxed_slice() }
    }

    /// The bytes that belong at `offset` of a body, at most `length_max` and at most one period.
    pub(crate) fn at(&self, offset: u64, length_max: u64) -> &[u8] {
        let start = usize::try_from(offset % PERIOD as u64).expect("less than the period");
        let length = usize::try_from(length_max).unwrap_or(usize::MAX).min(PERIOD);
        &self.bytes[start..start + length]
    }

    /// Whether `part` is what belongs at `offset` of a body.
    pub(crate) fn matches(&self, offset: u64, part: &[u8]) -> bool {
        let mut offset = offset;
        part.chunks(PERIOD).all(|chunk| {
            let is_equal = self.at(offset, chunk.len() as u64) == chunk;
            offset += chunk.len() as u64;
            is_equal
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_matches_only_at_its_own_offset() {
        let pattern = Pattern::new();
        let body: Vec<u8> =
            pattern.at(0, u64::MAX).iter().chain(pattern.at(0, 5000)).copied().collect();
        assert_eq!(body.len(), PERIOD + 5000);
        assert!(pattern.matches(0, &body));
        assert!(pattern.matches(7, &body[7..]));
        assert!(!pattern.matches(6, &body[7..]));
        assert!(!pattern.matches(65536, &body[..65536]));
        assert!(pattern.matches(3 * PERIOD as u64, &body[..10]));
    }

    #[test]
    fn one_flipped_byte_is_found_anywhere() {
        let pattern = Pattern::new();
        let mut body: Vec<u8> =
            pattern.at(0, u64::MAX).iter().chain(pattern.at(0, 9)).copied().collect();
        for index in [0, PERIOD - 1, PERIOD, PERIOD + 8] {
            body[index] ^= 1;
            assert!(!pattern.matches(0, &body), "{index}");
            body[index] ^= 1;
        }
    }
}
