//! A request body that is here to its last byte before a node sees any of it: a plugin that decides
//! about the request has asked for it ([`Call::Body`](crate::plugin::Call::Body)).
//!
//! It is read once, from wherever the lane has it, and forwarded from memory. The memory that all such
//! bodies of a worker take is bounded: what would be beyond is refused, so nobody waits for anybody.

use std::{
    future::poll_fn,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use crate::{
    connection::ConnectionCx,
    deadlines::Wait,
    error::Fault,
    http::{
        framing::{BodyLength, BodyReader, FramingError},
        head::RequestHead,
    },
    inlet::{self, BodySource},
    memory::Share,
};

/// Read at a time.
const READ_SIZE: usize = 32 * 1024;
/// Handed over at a time, so that it shows how fast a node takes it.
const PIECE_SIZE: usize = 64 * 1024;

/// The body of a request that is not decided about.
pub(crate) enum Body {
    /// In the downstream's inlet: the express lane's.
    Plain,
    Hyper(Incoming),
    Held(Held),
}

impl Body {
    /// All of it, if that is no more than `size_max` bytes.
    ///
    /// # Errors
    /// It is more, or there is no room for it; it did not come, or not well-formed.
    pub(crate) async fn hold(
        &mut self,
        cx: &ConnectionCx,
        head: &RequestHead,
        size_max: u64,
    ) -> Result<Bytes, Fault> {
        let length = head.body_length();
        if matches!(length, BodyLength::Fixed(length) if length > size_max) {
            return Err(Fault::BodyTooLarge);
        }
        cx.limit_body(size_max)?;
        let mut coming = Coming { content: BytesMut::new(), memory: cx.worker.held.nothing() };
        match self {
            Body::Held(held) => return Ok(held.content.clone()),
            Body::Plain => poll_fn(|task| coming.poll_plain(cx, task)).await?,
            Body::Hyper(incoming) => coming.read(cx, incoming).await?,
        }
        let content = coming.content.freeze();
        let is_chunked = length == BodyLength::Chunked;
        *self = Body::Held(Held { content: content.clone(), is_chunked, memory: coming.memory });
        Ok(content)
    }

    /// `None`: nobody has asked for it.
    pub(crate) fn held(self) -> Option<Held> {
        match self {
            Body::Held(held) => Some(held),
            Body::Plain | Body::Hyper(_) => None,
        }
    }
}

/// One that is being read.
struct Coming {
    content: BytesMut,
    memory: Share,
}

impl Coming {
    fn piece(&mut self, data: &[u8]) -> Result<(), Fault> {
        if !self.memory.grow(data.len()) {
            return Err(Fault::BodyMemory);
        }
        self.content.extend_from_slice(data);
        Ok(())
    }

    async fn read(&mut self, cx: &ConnectionCx, incoming: &mut Incoming) -> Result<(), Fault> {
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|_| cx.body_fault().unwrap_or(Fault::DownstreamReset))?;
            if let Some(data) = frame.data_ref() {
                self.piece(data)?;
            }
        }
        Ok(())
    }

    fn poll_plain(&mut self, cx: &ConnectionCx, task: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        let before = self.content.len();
        let read = cx.with_body(|source| self.poll_source(source, task));
        let read = read.unwrap_or(Poll::Ready(Err(Fault::DownstreamReset)));
        if read.is_ready() || self.content.len() > before {
            cx.deadlines.stop(Wait::Downstream);
        }
        if read.is_pending() {
            // Left as it is, for whoever would read the rest.
            if cx.deadlines.has_expired(Wait::Downstream) {
                return Poll::Ready(Err(Fault::BodyTimedOut));
            }
            cx.deadlines.start(Wait::Downstream, cx.worker.timeouts.body);
        }
        read
    }

    fn poll_source(
        &mut self,
        BodySource { stream, input, reader }: BodySource<'_>,
        task: &mut Context<'_>,
    ) -> Poll<Result<(), Fault>> {
        loop {
            while !reader.is_complete() && !input.is_empty() {
                let framing = reader.framing(input).map_err(FramingError::request_fault)?;
                input.advance(framing);
                let count = reader.data(input.len());
                self.piece(&input[..count])?;
                input.advance(count);
            }
            if reader.is_complete() {
                return Poll::Ready(Ok(()));
            }
            match ready!(inlet::poll_read(stream, task, input, READ_SIZE)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(Err(Fault::DownstreamReset)),
            }
        }
    }
}

/// A body in memory, as far as it has not been forwarded. It leaves framed as it came.
#[derive(Debug)]
pub(crate) struct Held {
    content: Bytes,
    is_chunked: bool,
    memory: Share,
}

impl Held {
    /// How much there is to come, if the node is told.
    pub(crate) fn length(&self) -> Option<u64> {
        (!self.is_chunked).then_some(self.content.len() as u64)
    }

    /// `None`: that was all.
    pub(crate) fn piece(&mut self) -> Option<Bytes> {
        let size = self.content.len().min(PIECE_SIZE);
        (size > 0).then(|| self.content.split_to(size))
    }

    /// For the express lane, which reads bodies from where they have come in.
    pub(crate) fn source(self) -> HeldSource {
        let length = BodyLength::Fixed(self.content.len() as u64);
        let input = BytesMut::from(self.content);
        HeldSource { input, reader: BodyReader::new(length), _memory: self.memory }
    }
}

/// A body that has been read, as if it were still to be.
pub(crate) struct HeldSource {
    input: BytesMut,
    reader: BodyReader,
    _memory: Share,
}

impl HeldSource {
    /// In place of `source`, whose body is over.
    pub(crate) fn in_place_of<'s>(&'s mut self, source: BodySource<'s>) -> BodySource<'s> {
        BodySource { stream: source.stream, input: &mut self.input, reader: &mut self.reader }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::memory::Memory;

    fn held(content: &[u8], is_chunked: bool) -> Held {
        let content = Bytes::copy_from_slice(content);
        Held { content, is_chunked, memory: Arc::new(Memory::new(0)).nothing() }
    }

    #[test]
    fn what_finds_no_room_is_refused() {
        let memory = Arc::new(Memory::new(5));
        let coming = || Coming { content: BytesMut::new(), memory: memory.nothing() };
        let (mut one, mut other) = (coming(), coming());
        assert_eq!((one.piece(b"ab"), other.piece(b"cd")), (Ok(()), Ok(())));
        assert_eq!(one.piece(b"ef"), Err(Fault::BodyMemory));
        drop(other);
        assert_eq!((one.piece(b"ef"), &*one.content), (Ok(()), &b"abef"[..]));
    }

    #[test]
    fn it_leaves_in_pieces_and_says_its_length_if_it_came_with_one() {
        let content = vec![b'x'; PIECE_SIZE + 1];
        let mut body = held(&content, false);
        assert_eq!(body.length(), Some(PIECE_SIZE as u64 + 1));
        let sizes: Vec<_> = std::iter::from_fn(|| body.piece()).map(|piece| piece.len()).collect();
        assert_eq!((sizes, body.length()), (vec![PIECE_SIZE, 1], Some(0)));
        assert_eq!((held(b"", false).length(), held(b"", true).length()), (Some(0), None));
        assert_eq!(held(b"a", true).length(), None);
    }

    #[test]
    fn the_express_lane_finds_it_as_if_it_were_to_come() {
        let HeldSource { input, mut reader, .. } = held(b"abc", true).source();
        assert_eq!((&*input, reader.data(input.len())), (&b"abc"[..], 3));
        assert!(reader.is_complete() && held(b"", true).source().reader.is_complete());
    }
}
