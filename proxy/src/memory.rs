//! Memory that bodies share, each kind of use up to a bound of its own.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use crate::config::Limits;

/// What changing bodies may take, on all workers together.
#[derive(Debug, Clone)]
pub struct BodyMemory {
    /// A response for whose encoder there is no room leaves as it is.
    pub encoders: Arc<Memory>,
    /// A body that finds no room as a whole is changed piece by piece.
    pub filters: Arc<Memory>,
}

impl BodyMemory {
    pub fn new(limits: &Limits) -> Self {
        Self {
            encoders: Arc::new(Memory::new(limits.encoder_memory)),
            filters: Arc::new(Memory::new(limits.filter_memory)),
        }
    }
}

/// So many bytes, of which whoever takes some gets a share.
#[derive(Debug)]
pub struct Memory {
    taken: AtomicUsize,
    /// Bytes.
    max: usize,
    refused: AtomicU64,
}

/// Of the memory; given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    of: Arc<Memory>,
    size: usize,
}

impl Memory {
    pub fn new(max: usize) -> Self {
        Self { taken: AtomicUsize::new(0), max, refused: AtomicU64::new(0) }
    }

    /// How many bodies found no room.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// One more has found none.
    pub(crate) fn refuse(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// `None`: there is no room, which is counted.
    pub(crate) fn take(self: &Arc<Self>, size: usize) -> Option<Share> {
        let mut share = self.nothing();
        let has_room = share.try_resize(size);
        if !has_room {
            self.refuse();
        }
        has_room.then_some(share)
    }

    /// A share that is to grow.
    pub(crate) fn nothing(self: &Arc<Self>) -> Share {
        Share { of: Arc::clone(self), size: 0 }
    }
}

impl Share {
    /// Takes so much more; `false`: there is not so much left, and nothing was taken.
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
        self.try_resize(self.size.saturating_add(bytes))
    }

    /// Whether there is room for it to have `size` from now on.
    pub(crate) fn try_resize(&mut self, size: usize) -> bool {
        let resized = |taken: usize| {
            let others = taken.saturating_sub(self.size);
            others.checked_add(size).filter(|taken| size <= self.size || *taken <= self.of.max)
        };
        let has_room = self.of.taken.fetch_update(Relaxed, Relaxed, resized).is_ok();
        if has_room {
            self.size = size;
        }
        has_room
    }

    /// It has `size` from now on, room or not: it is taken already.
    pub(crate) fn resize(&mut self, size: usize) {
        self.of.taken.fetch_add(size, Relaxed);
        self.of.taken.fetch_sub(self.size, Relaxed);
        self.size = size;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.taken.fetch_sub(self.size, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_have_no_more_than_there_is_and_give_it_back() {
        let memory = Arc::new(Memory::new(10));
        let first = memory.take(6).expect("there is room");
        assert!(memory.take(5).is_none());
        let mut second = memory.nothing();
        assert!(second.try_resize(4) && !second.try_resize(5) && second.try_resize(3));
        assert!(second.grow(1) && second.grow(0) && !second.grow(1) && second.try_resize(3));
        assert_eq!((memory.refused(), memory.taken.load(Relaxed)), (1, 9));
        second.resize(20);
        assert!(!second.try_resize(21) && second.try_resize(19));
        drop(first);
        assert_eq!(memory.taken.load(Relaxed), 19);
        drop(second);
        assert_eq!(memory.taken.load(Relaxed), 0);
    }
}
