//! Changing a body on its way, piece by piece.

use bytes::Bytes;

use super::KeptBody;

/// Changes one response body, piece by piece.
pub trait BodyFilter: std::fmt::Debug {
    /// What is passed on for this piece; may be empty.
    fn piece(&mut self, piece: Bytes) -> Bytes;

    /// What is due of the pieces so far, as the next one lets wait for itself.
    fn pause(&mut self) -> Bytes {
        Bytes::new()
    }

    /// What is still to come behind the last piece.
    fn end(&mut self) -> Bytes;
}

/// Everything one body passes through, in order.
#[derive(Debug, Default)]
pub struct BodyFilters {
    filters: Vec<Box<dyn BodyFilter>>,
    /// Gets what these have made of it.
    kept: Option<KeptBody>,
    encoder: Option<Box<dyn BodyFilter>>,
    /// Those that have seen the end; what they have passed on may not have left.
    over: Vec<Box<dyn BodyFilter>>,
}

impl BodyFilters {
    /// Whether it stays as it is.
    pub fn is_empty(&self) -> bool {
        self.filters.is_empty() && self.encoder.is_none()
    }

    /// Whether it is kept, as far as it is there.
    pub fn is_keeping(&self) -> bool {
        self.kept.is_some()
    }

    pub fn piece(&mut self, piece: Bytes) -> Bytes {
        let piece = self.filters.iter_mut().fold(piece, |piece, filter| filter.piece(piece));
        self.encode(piece)
    }

    /// What is due in all of them while the body pauses.
    pub fn pause(&mut self) -> Bytes {
        let due = self.filters.iter_mut().fold(Bytes::new(), paused);
        self.see(&due);
        match &mut self.encoder {
            Some(encoder) => paused(due, encoder),
            None => due,
        }
    }

    /// Keeps the body as it is behind all but the encoder.
    pub fn keep(&mut self, kept: Option<KeptBody>) {
        self.kept = kept;
    }

    /// Behind all others.
    pub fn encode_by(&mut self, encoder: Box<dyn BodyFilter>) {
        self.encoder = Some(encoder);
    }

    /// A piece of a body that stays as it is.
    pub fn see(&mut self, piece: &[u8]) {
        self.kept.take_if(|kept| !kept.piece(piece));
    }

    /// What is left in all of them; none is asked again.
    pub fn end(&mut self) -> Bytes {
        let mut end = Bytes::new();
        while !self.filters.is_empty() {
            let mut filter = self.filters.remove(0);
            let left = filter.end();
            end = joined(end, self.piece(left));
            self.over.push(filter);
        }
        if let Some(mut encoder) = self.encoder.take() {
            end = joined(end, encoder.end());
            self.over.push(encoder);
        }
        end
    }

    fn encode(&mut self, piece: Bytes) -> Bytes {
        self.see(&piece);
        match &mut self.encoder {
            Some(encoder) => encoder.piece(piece),
            None => piece,
        }
    }
}

fn paused(piece: Bytes, filter: &mut Box<dyn BodyFilter>) -> Bytes {
    let passed = filter.piece(piece);
    joined(passed, filter.pause())
}

/// Copies only where there is something of both.
fn joined(first: Bytes, second: Bytes) -> Bytes {
    match (first.is_empty(), second.is_empty()) {
        (true, _) => second,
        (false, true) => first,
        (false, false) => [first, second].concat().into(),
    }
}

impl FromIterator<Box<dyn BodyFilter>> for BodyFilters {
    fn from_iter<I: IntoIterator<Item = Box<dyn BodyFilter>>>(filters: I) -> Self {
        Self { filters: filters.into_iter().collect(), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::memory::Memory;

    /// Says everything twice, and `.` where it can.
    #[derive(Debug)]
    struct Twice;

    impl BodyFilter for Twice {
        fn piece(&mut self, piece: Bytes) -> Bytes {
            [&piece[..], &piece].concat().into()
        }

        fn pause(&mut self) -> Bytes {
            Bytes::from_static(b".")
        }

        fn end(&mut self) -> Bytes {
            Bytes::from_static(b"!")
        }
    }

    fn twice() -> Box<dyn BodyFilter> {
        Box::new(Twice)
    }

    #[test]
    fn what_is_kept_is_behind_the_filters_and_before_the_encoder() {
        for (count, is_encoded, kept, passed) in [
            (0, true, "ab", "aa.bb!"),
            (1, false, "aa.bb!", "aa.bb!"),
            (1, true, "aa.bb!", "aaaa...bbbb!!!"),
            (2, false, "aaaa...bbbb!!!", "aaaa...bbbb!!!"),
        ] {
            let mut filters: BodyFilters = (0..count).map(|_| twice()).collect();
            let body = KeptBody::new(100, &Arc::new(Memory::new(100)));
            filters.keep(Some(body.clone()));
            if is_encoded {
                filters.encode_by(twice());
            }
            let mut all = filters.piece("a".into()).to_vec();
            all.extend_from_slice(&filters.pause());
            all.extend_from_slice(&filters.piece("b".into()));
            all.extend_from_slice(&filters.end());
            let seen = body.look().up_to(100).map(|body| body.bytes.to_vec());
            let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            assert_eq!(shown(&all), passed, "{count} {is_encoded}");
            assert_eq!(seen.as_deref().map(shown).as_deref(), Some(kept), "{count} {is_encoded}");
        }
    }
}
