//! Changing a body on its way, piece by piece.

use bytes::{Bytes, BytesMut};

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

/// Everything one response body passes through, in order.
#[derive(Debug, Default)]
pub struct BodyFilters(Vec<Box<dyn BodyFilter>>);

impl BodyFilters {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn piece(&mut self, piece: Bytes) -> Bytes {
        self.0.iter_mut().fold(piece, |piece, filter| filter.piece(piece))
    }

    /// What is due in all of them while the body pauses.
    pub fn pause(&mut self) -> Bytes {
        self.0.iter_mut().fold(Bytes::new(), |piece, filter| {
            let mut passed = BytesMut::from(filter.piece(piece));
            passed.extend_from_slice(&filter.pause());
            passed.freeze()
        })
    }

    /// Behind all others.
    pub fn push(&mut self, filter: Box<dyn BodyFilter>) {
        self.0.push(filter);
    }

    /// What is left in all of them; none is asked again.
    pub fn end(&mut self) -> Bytes {
        let mut end = BytesMut::new();
        while !self.0.is_empty() {
            let left = self.0.remove(0).end();
            end.extend_from_slice(&self.piece(left));
        }
        end.freeze()
    }
}

impl FromIterator<Box<dyn BodyFilter>> for BodyFilters {
    fn from_iter<I: IntoIterator<Item = Box<dyn BodyFilter>>>(filters: I) -> Self {
        Self(filters.into_iter().collect())
    }
}
