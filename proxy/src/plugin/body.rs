//! Changing a body on its way, piece by piece.

use bytes::{Bytes, BytesMut};

/// Changes one response body, piece by piece.
pub trait BodyFilter: std::fmt::Debug {
    /// What is passed on for this piece; may be empty.
    fn piece(&mut self, piece: Bytes) -> Bytes;

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
