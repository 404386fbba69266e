//! What is kept of a body on its way, for logs.
//!
//! A body passes as it would anyway, but that what is kept of it is not spliced. What is beyond the
//! size that is asked for, or beyond the memory that all of a worker's share, is not kept.

use std::{
    cell::{Ref, RefCell},
    fmt,
    rc::Rc,
    sync::Arc,
};

use crate::memory::{Memory, Share};

/// Bytes of bodies that a worker keeps for logs.
pub(crate) const LOGGED_BYTES_MAX: usize = 16 << 20;

/// The beginning of a body; whoever carries that adds to it.
#[derive(Clone)]
pub struct KeptBody(Rc<RefCell<Beginning>>);

#[derive(Debug)]
pub struct Beginning {
    bytes: Vec<u8>,
    size_max: usize,
    memory: Share,
    cut: Option<Cut>,
}

/// Why there is less of it than has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// It is longer than was asked for.
    Size,
    /// There was no room for more.
    Memory,
    /// The line would have been too long.
    Line,
}

impl Cut {
    /// Label in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Cut::Size => "size",
            Cut::Memory => "memory",
            Cut::Line => "line",
        }
    }
}

/// Without what it is: it may be secret.
impl fmt::Debug for KeptBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeptBody").finish_non_exhaustive()
    }
}

impl KeptBody {
    pub(crate) fn new(size_max: usize, memory: &Arc<Memory>) -> KeptBody {
        let memory = memory.nothing();
        KeptBody(Rc::new(RefCell::new(Beginning {
            bytes: Vec::new(),
            size_max,
            memory,
            cut: None,
        })))
    }

    /// Keeps a piece as far as it can; `false`: nothing that comes behind it will be.
    pub(crate) fn piece(&self, data: &[u8]) -> bool {
        let mut body = self.0.borrow_mut();
        let kept = data.len().min(body.size_max - body.bytes.len());
        if body.cut.is_some() {
            return false;
        }
        if !body.memory.grow(kept) {
            body.cut = Some(Cut::Memory);
            return false;
        }
        body.bytes.extend_from_slice(&data[..kept]);
        body.cut = (kept < data.len()).then_some(Cut::Size);
        body.cut.is_none()
    }

    pub fn look(&self) -> Ref<'_, Beginning> {
        self.0.borrow()
    }

    /// A logger that wants up to `wanted` bytes has had to do with `size`.
    pub(super) fn shorten(&self, wanted: usize, size: usize) {
        let mut body = self.0.borrow_mut();
        if body.bytes.len().min(wanted) > size {
            body.cut = Some(Cut::Line);
        }
    }
}

impl Beginning {
    pub fn cut(&self) -> Option<Cut> {
        self.cut
    }

    /// As much as one logger wants of it; `None`: there is no body.
    pub fn up_to(&self, size_max: usize) -> Option<LoggedBody<'_>> {
        let bytes = self.bytes.get(..size_max).unwrap_or(&self.bytes);
        let is_cut = self.cut.is_some() || bytes.len() < self.bytes.len();
        (is_cut || !bytes.is_empty()).then_some(LoggedBody { bytes, is_cut })
    }
}

/// A body as it stands in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoggedBody<'a> {
    pub bytes: &'a [u8],
    /// Whether there was more of it.
    pub is_cut: bool,
}

/// Those of an exchange.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoggedBodies<'a> {
    pub request: Option<LoggedBody<'a>>,
    pub response: Option<LoggedBody<'a>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_kept_up_to_its_size_and_the_memory_of_all() {
        let memory = Arc::new(Memory::new(10));
        for (size_max, pieces, bytes, cut) in [
            (4, &["ab", "cd"][..], "abcd", None),
            (4, &["ab", "cd", "", "e"], "abcd", Some(Cut::Size)),
            (4, &["abcdef", "g"], "abcd", Some(Cut::Size)),
            (20, &["abcdef", "ghij"], "abcdefghij", None),
            (20, &["abcdef", "ghijk", "l"], "abcdef", Some(Cut::Memory)),
            (4, &[], "", None),
        ] {
            let kept = KeptBody::new(size_max, &memory);
            let goes_on = pieces.iter().all(|piece| kept.piece(piece.as_bytes()));
            assert_eq!(goes_on, cut.is_none(), "{pieces:?}");
            let body = kept.look();
            assert_eq!((&*body.bytes, body.cut()), (bytes.as_bytes(), cut), "{pieces:?}");
        }
        let other = KeptBody::new(10, &memory);
        assert!(other.piece(b"0123456789"), "all was given back");
    }

    #[test]
    fn a_body_is_cut_for_a_line_if_there_is_less_of_it_than_was_wanted() {
        for (wanted, size, cut) in [(3, 2, Some(Cut::Line)), (2, 2, None), (9, 3, None)] {
            let kept = KeptBody::new(6, &Arc::new(Memory::new(10)));
            kept.piece(b"abc");
            kept.shorten(wanted, size);
            assert_eq!(kept.look().cut(), cut, "{wanted} {size}");
        }
    }

    #[test]
    fn a_logger_has_as_much_as_it_wants() {
        let kept = KeptBody::new(6, &Arc::new(Memory::new(10)));
        assert_eq!(kept.look().up_to(6), None);
        kept.piece(b"abcdef");
        let body = |bytes: &'static [u8], is_cut| Some(LoggedBody { bytes, is_cut });
        assert_eq!(kept.look().up_to(6), body(b"abcdef", false));
        assert_eq!(kept.look().up_to(3), body(b"abc", true));
        kept.piece(b"g");
        assert_eq!(kept.look().up_to(6), body(b"abcdef", true));
    }
}
