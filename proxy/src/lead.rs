//! A head in place of the one that hyper makes of its stand-in: hyper knows neither the case of names
//! nor the order of fields, and what it does not have it cannot change.
//!
//! hyper learns that its head has been taken when ours has left to the last byte, so it may be
//! written in any number of pieces.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    ops::Range,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{io::AsyncWrite as _, net::TcpStream};

/// Hyper's stand-in of any request has this behind its method.
const REQUEST_KNOWN_BY: &[u8] = b" / HTTP/1.1\r\n";
/// By these bytes of `HTTP/1.1 200` hyper's head of a response is known; to a downstream of HTTP/1.0 it
/// speaks that.
const RESPONSE_KNOWN_BY: Range<usize> = 8..12;
const VERSIONS: [&[u8]; 2] = [b"HTTP/1.1", b"HTTP/1.0"];
/// More pieces of a body than hyper hands over at a time (`MAX_WRITEV_BUFS`).
const SLICES_MAX: usize = 72;

/// A head that is about to leave.
#[derive(Debug)]
pub(crate) struct Lead {
    of: Message,
    bytes: Vec<u8>,
    /// Of `bytes`.
    sent: usize,
    /// How much of what hyper wants to write this is in place of; 0 until hyper writes.
    stands_for: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Message {
    Request,
    Response,
}

/// Writes `theirs` through `write`, with the head in `slot`, if there is one, in place of hyper's.
pub(crate) fn poll_write(
    slot: &RefCell<Option<Lead>>,
    theirs: &[IoSlice<'_>],
    mut write: impl FnMut(&[IoSlice<'_>]) -> Poll<io::Result<usize>>,
) -> Poll<io::Result<usize>> {
    let mut slot = slot.borrow_mut();
    let Some(lead) = &mut *slot else { return write(theirs) };
    let written = ready!(lead.poll_write(theirs, write));
    *slot = None;
    Poll::Ready(written)
}

/// Bytes that the kernel takes whole or not at all, but for the end of a page.
const SHORT_MAX: usize = 4096;

/// Writes what the kernel takes of `pieces` now. A short one alone needs no vector.
///
/// A connection that is delivered takes a part of what is longer when its other end runs out of memory,
/// and is writable all the same: no event follows. After a part of one piece the runtime would wait for
/// one; of a vector it asks again, and hears of the want.
pub(crate) fn poll_send(
    stream: Pin<&mut TcpStream>,
    task: &mut Context<'_>,
    pieces: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    match pieces {
        [piece] if piece.len() <= SHORT_MAX => stream.poll_write(task, piece),
        _ => stream.poll_write_vectored(task, pieces),
    }
}

impl Lead {
    pub(crate) fn request(bytes: Vec<u8>) -> Self {
        Self { of: Message::Request, bytes, sent: 0, stands_for: 0 }
    }

    pub(crate) fn response(bytes: Vec<u8>) -> Self {
        Self { of: Message::Response, bytes, sent: 0, stands_for: 0 }
    }

    /// Writes the head, and behind it what follows hyper's own in `theirs`. Ready: how much of
    /// `theirs` is done with, hyper's head at least.
    ///
    /// # Errors
    /// What `write` says, or hyper has written something else than this head: a bug of ours.
    fn poll_write(
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
            let rest = first.get(self.stands_for..).unwrap_or_default();
            let written = if rest.is_empty() && body.is_empty() {
                ready!(write(&[IoSlice::new(ours)]))?
            } else {
                ready!(write_all_of(&[ours, rest], body, &mut write))?
            };
            match written.checked_sub(ours.len()) {
                Some(behind) => return Poll::Ready(Ok(self.stands_for + behind)),
                None if written == 0 => return Poll::Ready(Ok(0)),
                None => self.sent += written,
            }
        }
    }

    /// `first` ends with hyper's head. What is left of a `100 Continue` in front of it stays there.
    fn take_place_of(&mut self, first: &[u8]) -> io::Result<()> {
        let at = match self.of {
            Message::Request => {
                first.windows(REQUEST_KNOWN_BY.len()).position(|window| window == REQUEST_KNOWN_BY)
            }
            Message::Response => {
                let status = self.bytes.get(RESPONSE_KNOWN_BY).unwrap_or_default();
                first.windows(RESPONSE_KNOWN_BY.end).position(|window| {
                    let (version, theirs) = window.split_at(RESPONSE_KNOWN_BY.start);
                    theirs == status && VERSIONS.contains(&version)
                })
            }
        };
        let Some(at) = at.filter(|_| first.ends_with(b"\r\n\r\n")) else {
            tracing::error!(of = ?self.of, "hyper writes something else than the head");
            return Err(io::ErrorKind::InvalidData.into());
        };
        if self.of == Message::Response {
            let before = first.get(..at).unwrap_or_default();
            drop(self.bytes.splice(..0, before.iter().copied()));
        }
        self.stands_for = first.len();
        Ok(())
    }
}

fn write_all_of(
    heads: &[&[u8]],
    body: &[IoSlice<'_>],
    mut write: impl FnMut(&[IoSlice<'_>]) -> Poll<io::Result<usize>>,
) -> Poll<io::Result<usize>> {
    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
    let pieces = heads.iter().copied().chain(body.iter().map(|slice| &**slice));
    let mut count = 0;
    for (slice, piece) in slices.iter_mut().zip(pieces) {
        *slice = IoSlice::new(piece);
        count += 1;
    }
    write(slices.get(..count).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "HTTP/1.1 200 Fine\r\nX-a: HTTP/1.1 200\r\n\r\n";
    const THEIRS: &str = "HTTP/1.1 200 OK\r\ndate: then\r\n\r\n";

    fn ours() -> Lead {
        Lead::response(OURS.into())
    }

    /// What leaves if hyper wants to write `head` and `body`, and the socket takes `piece` bytes at
    /// a time and nothing in between.
    fn sent(lead: Lead, head: &str, body: &[&str], piece: usize) -> String {
        let mut queue: Vec<Vec<u8>> = vec![head.into()];
        queue.extend(body.iter().map(|part| part.as_bytes().to_vec()));
        let (mut sent, mut is_full) = (Vec::new(), false);
        let mut lead = Some(lead);
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
            assert_eq!(sent(ours(), THEIRS, &[], piece), OURS, "{piece}");
            assert_eq!(
                sent(ours(), THEIRS, &["ab", "cde"], piece),
                format!("{OURS}abcde"),
                "{piece}"
            );
            for cut in 0..CONTINUE.len() {
                let left = &CONTINUE[cut..];
                let head = format!("{left}{THEIRS}");
                assert_eq!(
                    sent(ours(), &head, &["ab"], piece),
                    format!("{left}{OURS}ab"),
                    "{piece}"
                );
            }
        }
    }

    #[test]
    fn a_request_leaves_whatever_hyper_calls_it() {
        const OURS: &str = "DELETE /x HTTP/1.1\r\nhost: a\r\n\r\n";
        for theirs in
            ["GET / HTTP/1.1\r\n\r\n", "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"]
        {
            for piece in 1..=OURS.len() + 8 {
                let lead = Lead::request(OURS.into());
                assert_eq!(
                    sent(lead, theirs, &["ab", "c"], piece),
                    format!("{OURS}abc"),
                    "{piece}"
                );
            }
        }
    }

    #[test]
    fn what_hyper_says_to_http_1_0_is_replaced_too() {
        let theirs = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\n\r\n";
        let expected = format!("HTTP/1.1 100 Continue\r\n\r\n{OURS}abc");
        assert_eq!(sent(ours(), theirs, &["ab", "c"], 7), expected);
    }

    #[test]
    fn another_head_is_not_taken_for_hypers() {
        for head in [
            "HTTP/1.1 500 Internal Server Error\r\n\r\n",
            "HTTP/1.2 200 OK\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\nbody",
        ] {
            let mut lead = ours();
            let write = |_: &[IoSlice<'_>]| -> Poll<io::Result<usize>> { panic!("{head:?}") };
            let written = lead.poll_write(&[IoSlice::new(head.as_bytes())], write);
            assert!(matches!(written, Poll::Ready(Err(_))), "{head:?}");
        }
    }
}
