//! Memory that those whom a worker serves share, up to a bound.

use std::{cell::Cell, rc::Rc};

/// How much there is of it, and how much of that is taken; bytes.
#[derive(Debug)]
pub(crate) struct Memory {
    max: usize,
    taken: Cell<usize>,
}

impl Memory {
    pub(crate) fn new(max: usize) -> Rc<Memory> {
        Rc::new(Memory { max, taken: Cell::new(0) })
    }
}

/// What one has taken of it, until dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    of: Rc<Memory>,
    bytes: usize,
}

impl Taken {
    pub(crate) fn none(of: &Rc<Memory>) -> Taken {
        Taken { of: Rc::clone(of), bytes: 0 }
    }

    /// Takes so much more; `false`: there is not so much left, and nothing was taken.
    pub(crate) fn more(&mut self, bytes: usize) -> bool {
        let Memory { max, taken } = &*self.of;
        let has_room = bytes <= max - taken.get();
        if has_room {
            taken.set(taken.get() + bytes);
            self.bytes += bytes;
        }
        has_room
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.of.taken.set(self.of.taken.get() - self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_given_back() {
        let memory = Memory::new(10);
        let (mut one, mut other) = (Taken::none(&memory), Taken::none(&memory));
        assert!(one.more(4) && one.more(3) && other.more(3));
        assert!(!other.more(1) && other.more(0));
        drop(one);
        assert!(!other.more(8) && other.more(7));
        drop(other);
        assert_eq!(memory.taken.get(), 0);
    }
}
