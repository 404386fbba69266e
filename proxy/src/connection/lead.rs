//! The head of a response in place of the one that hyper's server makes of its stand-in: hyper knows
//! neither the case of names nor the order of fields, and what it does not have it cannot change.
//!
//! hyper learns that its head has been taken when ours has left to the last byte, so it may be
//! written in any number of pieces.

use std::{
    io::{self, IoSlice},
    task::{Poll, ready},
};

/// `HTTP/1.1 200`: by these bytes hyper's head is known.
const KNOWN_BY: usize = 12;
/// More pieces of a body than hyper hands over at a time (`MAX_WRITEV_BUFS`).
const SLICES_MAX: usize = 72;

/// A head that is about to leave.
#[derive(Debug)]
pub(super) struct Lead {
    bytes: Vec<u8>,
    /// Of `bytes`.
    sent: usize,
    /// How much of what hyper wants to write this is in place of; 0 until hyper writes.
    stands_for: usize,
}

impl Lead {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, sent: 0, stands_for: 0 }
    }

    /// Writes the head, and behind it what follows hyper's own in `theirs`. Ready: how much of
    /// `theirs` is done with, hyper's head at least.
    ///
    /// # Errors
    /// What `write` says, or hyper has written something else than this head: a bug of ours.
    pub(super) fn poll_write(
        &mut self,
        theirs: &[IoSlice<'_>],
        mut write: impl FnMut(&[IoSlice<'_>]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let Some((first, body)) = theirs.split_first() else { return write(theirs) };
        if self.stands_for == 0 {
            self.take_place_of(first)?;
        }
        loop {
            let ours = self.bytes.get(self.sent..).unwrap_or_default();
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let pieces = [ours, first.get(self.stands_for..).unwrap_or_default()];
            let pieces = pieces.into_iter().chain(body.iter().map(|slice| &**slice));
            let mut count = 0;
            for (slice, piece) in slices.iter_mut().zip(pieces) {
                *slice = IoSlice::new(piece);
                count += 1;
            }
            let written = ready!(write(slices.get(..count).unwrap_or_default()))?;
            match written.checked_sub(ours.len()) {
                Some(behind) => return Poll::Ready(Ok(self.stands_for + behind)),
                None if written == 0 => return Poll::Ready(Ok(0)),
                None => self.sent += written,
            }
        }
    }

    /// `first` ends with hyper's head. What is left of a `100 Continue` in front of it stays there.
    fn take_place_of(&mut self, first: &[u8]) -> io::Result<()> {
        let known_by = self.bytes.get(..KNOWN_BY).unwrap_or_default();
        let at = first.windows(KNOWN_BY).position(|window| window == known_by);
        let Some(at) = at.filter(|_| first.ends_with(b"\r\n\r\n")) else {
            tracing::error!("hyper writes something else than the head of the response");
            return Err(io::ErrorKind::InvalidData.into());
        };
        let before = first.get(..at).unwrap_or_default();
        drop(self.bytes.splice(..0, before.iter().copied()));
        self.stands_for = first.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "HTTP/1.1 200 Fine\r\nX-a: HTTP/1.1 200\r\n\r\n";
    const THEIRS: &str = "HTTP/1.1 200 OK\r\ndate: then\r\n\r\n";

    /// What leaves if hyper wants to write `head` and `body`, and the socket takes `piece` bytes at
    /// a time and nothing in between.
    fn sent(head: &str, body: &[&str], piece: usize) -> String {
        let mut queue: Vec<Vec<u8>> = vec![head.into()];
        queue.extend(body.iter().map(|part| part.as_bytes().to_vec()));
        let (mut sent, mut is_full) = (Vec::new(), false);
        let mut lead = Some(Lead::new(OURS.into()));
        while !queue.is_empty() {
            let slices: Vec<_> = queue.iter().map(|part| IoSlice::new(part)).collect();
            let mut write = |slices: &[IoSlice<'_>]| {
                is_full = !is_full;
                if is_full {
                    return Poll::Pending;
                }
                let whole: Vec<u8> =
                    slices.iter().flat_map(|slice| slice.iter().copied()).collect();
                let taken = whole.get(..piece).unwrap_or(&whole);
                sent.extend_from_slice(taken);
                Poll::Ready(Ok(taken.len()))
            };
            let written = match &mut lead {
                Some(lead) => lead.poll_write(&slices, &mut write),
                None => write(&slices),
            };
            let Poll::Ready(written) = written else { continue };
            lead = None;
            let mut written = written.expect("no error");
            // As hyper does: only what it was told is gone.
            queue.retain_mut(|part| {
                let gone = written.min(part.len());
                written -= gone;
                drop(part.drain(..gone));
                !part.is_empty()
            });
        }
        String::from_utf8(sent).expect("text")
    }

    #[test]
    fn it_leaves_in_place_of_hypers_however_it_is_cut() {
        const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";
        for piece in 1..=OURS.len() + CONTINUE.len() + 8 {
            assert_eq!(sent(THEIRS, &[], piece), OURS, "{piece}");
            assert_eq!(sent(THEIRS, &["ab", "cde"], piece), format!("{OURS}abcde"), "{piece}");
            for cut in 0..CONTINUE.len() {
                let left = &CONTINUE[cut..];
                let head = format!("{left}{THEIRS}");
                assert_eq!(sent(&head, &["ab"], piece), format!("{left}{OURS}ab"), "{piece}");
            }
        }
    }

    #[test]
    fn another_head_is_not_taken_for_hypers() {
        for head in [
            "HTTP/1.1 500 Internal Server Error\r\n\r\n",
            "HTTP/1.0 200 OK\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\nbody",
        ] {
            let mut lead = Lead::new(OURS.into());
            let write = |_: &[IoSlice<'_>]| -> Poll<io::Result<usize>> { panic!("{head:?}") };
            let written = lead.poll_write(&[IoSlice::new(head.as_bytes())], write);
            assert!(matches!(written, Poll::Ready(Err(_))), "{head:?}");
        }
    }
}
