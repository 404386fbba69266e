//! A request body that is here to its last byte before a node sees any of it: a plugin that decides
//! about the request has asked for it ([`Call::Body`](crate::plugin::Call::Body)).
//!
//! It is read once, from wherever the lane has it, and forwarded from memory. The memory that all such
//! bodies of a worker take is bounded: what would be beyond is refused, so nobody waits for anybody.
//! Reading and digesting one of many megabytes takes many milliseconds, between which the worker does
//! what else there is to do.

use std::{
    future::poll_fn,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use ring::digest::{self, Digest};
use tokio::task::{spawn_local, yield_now};

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
/// Read and digested in a turn: a quarter of a millisecond's work at most.
const TURN_SIZE: usize = 128 * 1024;
/// Of content in a turn, which ends behind the piece with which it is full.
const ROOM: usize = 2 * TURN_SIZE;
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
    /// All of it, if that is no more than `size_max` bytes, and its digest if it is asked for.
    ///
    /// # Errors
    /// It is more, or there is no room for it; it did not come, or not well-formed.
    pub(crate) async fn hold(
        &mut self,
        cx: &ConnectionCx,
        head: &RequestHead,
        size_max: u64,
        digest: Option<&'static digest::Algorithm>,
    ) -> Result<(Bytes, Option<Digest>), Fault> {
        let length = head.body_length();
        if matches!(length, BodyLength::Fixed(length) if length > size_max) {
            return Err(Fault::BodyTooLarge);
        }
        cx.limit_body(size_max)?;
        let digesting = digest.map(digest::Context::new);
        let mut coming = Coming::new(cx.worker.held.nothing(), digesting);
        match self {
            Body::Held(held) => {
                let digest = digested(&held.content, coming.digesting).await;
                return Ok((held.content.clone(), digest));
            }
            Body::Plain => {
                while poll_fn(|task| coming.poll_plain(cx, task)).await? == Come::Some {
                    coming.take_turns().await;
                }
            }
            Body::Hyper(incoming) => coming.read(cx, incoming).await?,
        }
        let Coming { content, memory, digesting, .. } = coming;
        let (content, is_chunked) = (content.freeze(), length == BodyLength::Chunked);
        *self = Body::Held(Held { content: content.clone(), is_chunked, memory });
        Ok((content, digesting.map(digest::Context::finish)))
    }

    /// `None`: nobody has asked for it.
    pub(crate) fn held(self) -> Option<Held> {
        match self {
            Body::Held(held) => Some(held),
            Body::Plain | Body::Hyper(_) => None,
        }
    }
}

/// The digest of a body that is here.
async fn digested(content: &[u8], digesting: Option<digest::Context>) -> Option<Digest> {
    let mut digesting = digesting?;
    for piece in content.chunks(TURN_SIZE) {
        digesting.update(piece);
        turn().await;
    }
    Some(digesting.finish())
}

/// Ends a turn: lets the worker do whatever else there is to do, and look for it. Not before that is
/// done is it over, though hyper wakes the task that this is a part of for reasons of its own.
async fn turn() {
    // An error: the worker ends.
    drop(spawn_local(yield_now()).await);
}

/// One that is being read.
struct Coming {
    content: BytesMut,
    memory: Share,
    digesting: Option<digest::Context>,
    /// Bytes that were looked at in this turn.
    turn: usize,
}

/// What has come of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Come {
    /// Enough for this turn.
    Some,
    All,
}

impl Coming {
    fn new(memory: Share, digesting: Option<digest::Context>) -> Self {
        Self { content: BytesMut::new(), memory, digesting, turn: 0 }
    }

    fn piece(&mut self, data: &[u8]) -> Result<(), Fault> {
        if !self.memory.grow(data.len()) {
            return Err(Fault::BodyMemory);
        }
        self.content.extend_from_slice(data);
        if let Some(digesting) = &mut self.digesting {
            digesting.update(data);
        }
        self.turn += data.len();
        Ok(())
    }

    /// Ends a turn. There is room for the next one then, without all that is here being moved at once.
    async fn take_turns(&mut self) {
        turn().await;
        let (size, capacity) = (self.content.len(), self.content.capacity());
        if capacity - size >= ROOM {
            return;
        }
        let mut larger = BytesMut::with_capacity(2 * capacity + ROOM);
        for piece in self.content.chunks(TURN_SIZE) {
            larger.extend_from_slice(piece);
            turn().await;
        }
        self.content = larger;
    }

    /// Whether enough has been done in this turn; then the next one begins.
    fn ends_turn(&mut self) -> bool {
        let is_over = self.turn >= TURN_SIZE;
        if is_over {
            self.turn = 0;
        }
        is_over
    }

    async fn read(&mut self, cx: &ConnectionCx, incoming: &mut Incoming) -> Result<(), Fault> {
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|_| cx.body_fault().unwrap_or(Fault::DownstreamReset))?;
            if let Some(data) = frame.data_ref() {
                self.piece(data)?;
            }
            if self.ends_turn() {
                self.take_turns().await;
            }
        }
        Ok(())
    }

    fn poll_plain(
        &mut self,
        cx: &ConnectionCx,
        task: &mut Context<'_>,
    ) -> Poll<Result<Come, Fault>> {
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
    ) -> Poll<Result<Come, Fault>> {
        loop {
            while !reader.is_complete() && !input.is_empty() {
                if self.ends_turn() {
                    return Poll::Ready(Ok(Come::Some));
                }
                let framing = reader.framing(input).map_err(FramingError::request_fault)?;
                input.advance(framing);
                let count = reader.data(input.len().min(TURN_SIZE));
                self.piece(&input[..count])?;
                input.advance(count);
                self.turn += framing;
            }
            if reader.is_complete() {
                return Poll::Ready(Ok(Come::All));
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

    /// What is left of it.
    pub(crate) fn rest(&mut self) -> (&mut BodyReader, &mut BytesMut) {
        (&mut self.reader, &mut self.input)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cell::Cell, rc::Rc, sync::Arc, task::Waker};

    use tokio::{
        net::{TcpListener, TcpStream},
        task::LocalSet,
    };

    use crate::memory::Memory;

    fn held(content: &[u8], is_chunked: bool) -> Held {
        let content = Bytes::copy_from_slice(content);
        Held { content, is_chunked, memory: Arc::new(Memory::new(0)).nothing() }
    }

    #[test]
    fn what_finds_no_room_is_refused() {
        let memory = Arc::new(Memory::new(5));
        let coming = || Coming::new(memory.nothing(), None);
        let (mut one, mut other) = (coming(), coming());
        assert_eq!((one.piece(b"ab"), other.piece(b"cd")), (Ok(()), Ok(())));
        assert_eq!(one.piece(b"ef"), Err(Fault::BodyMemory));
        drop(other);
        assert_eq!((one.piece(b"ef"), &*one.content), (Ok(()), &b"abef"[..]));
    }

    fn sha256(content: &[u8]) -> Vec<u8> {
        digest::digest(&digest::SHA256, content).as_ref().to_vec()
    }

    /// What a body comes to that is here with all its framing, and in how many turns.
    async fn come(framed: &[u8], length: BodyLength) -> (Vec<u8>, Vec<u8>, usize) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut input, mut reader) = (BytesMut::from(framed), BodyReader::new(length));
        let digesting = Some(digest::Context::new(&digest::SHA256));
        let mut coming = Coming::new(Arc::new(Memory::new(framed.len())).nothing(), digesting);
        let mut task = Context::from_waker(Waker::noop());
        let mut turns = 1;
        loop {
            let (stream, input, reader) = (&mut stream, &mut input, &mut reader);
            match coming.poll_source(BodySource { stream, input, reader }, &mut task) {
                Poll::Ready(Ok(Come::Some)) => turns += 1,
                Poll::Ready(Ok(Come::All)) => break,
                Poll::Ready(Err(_)) | Poll::Pending => panic!("all of it is there"),
            }
        }
        let digest = coming.digesting.unwrap().finish().as_ref().to_vec();
        (coming.content.to_vec(), digest, turns)
    }

    #[tokio::test]
    async fn what_is_much_is_taken_in_turns_and_digested_on_its_way() {
        for (size, expected) in [(0, 1), (1, 1), (TURN_SIZE, 1), (TURN_SIZE + 1, 2), (1 << 20, 8)] {
            let body: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            let (content, digest, turns) = come(&body, BodyLength::Fixed(size as u64)).await;
            assert!(content == body && digest == sha256(&body), "{size}");
            assert_eq!(turns, expected, "{size}");
        }
        // Framing is work too.
        let mut framed = b"1\r\nx\r\n".repeat(TURN_SIZE / 2);
        framed.extend_from_slice(b"0\r\n\r\n");
        let (content, digest, turns) = come(&framed, BodyLength::Chunked).await;
        assert_eq!((content.len(), digest), (TURN_SIZE / 2, sha256(&content)));
        assert_eq!(turns, 3);
    }

    /// What comes of it, and how many turns others have had meanwhile.
    async fn beside_others<T>(work: impl Future<Output = T>) -> (T, usize) {
        let turns = Rc::new(Cell::new(0));
        let count = Rc::clone(&turns);
        let others = async move {
            loop {
                count.set(count.get() + 1);
                yield_now().await;
            }
        };
        let both = async {
            let others = spawn_local(others);
            let done = work.await;
            others.abort();
            done
        };
        (LocalSet::new().run_until(both).await, turns.get())
    }

    #[tokio::test]
    async fn what_is_here_is_digested_in_turns() {
        let content = vec![b'x'; 3 * TURN_SIZE];
        let digesting = digest::Context::new(&digest::SHA256);
        let (digest, turns) = beside_others(digested(&content, Some(digesting))).await;
        assert_eq!(digest.expect("one").as_ref(), sha256(&content));
        assert!(turns >= 3, "{turns}");
    }

    #[tokio::test]
    async fn what_grows_is_moved_in_turns() {
        let mut coming = Coming::new(Arc::new(Memory::new(1 << 20)).nothing(), None);
        let body: Vec<u8> = (0..8 * TURN_SIZE).map(|at| (at % 251) as u8).collect();
        coming.piece(&body).expect("room");
        let place = coming.content.as_ptr();
        let ((), turns) = beside_others(coming.take_turns()).await;
        assert!(
            coming.content == body && coming.content.as_ptr() != place && turns >= 8,
            "{turns}"
        );
        let place = coming.content.as_ptr();
        beside_others(coming.take_turns()).await;
        assert_eq!(coming.content.as_ptr(), place, "there is room");
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
