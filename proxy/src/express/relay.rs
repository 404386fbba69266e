//! Moves one body from one side to the other, as its framing says.
//!
//! | waiting to leave | what it is                                           |
//! |------------------|------------------------------------------------------|
//! | `out`            | the head, chunk sizes, and data that is not much     |
//! | `data` or `pipe` | the front of the input, too much to be copied; or    |
//! |                  | what was spliced, too much to be read                |
//! | `tail`           | the line ending of that chunk                        |

use std::{
    io::{self, IoSlice, Write as _},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncWrite, Interest},
    net::TcpStream,
};

use crate::{
    forward::{PipePool, PooledPipe},
    http::framing::{BodyReader, FramingError},
    inlet::{self, BodySource},
    lead,
    mirror::Tap,
    plugin::BodyFilters,
    sys::socket,
};

/// Data up to this size is copied behind what is to be written before it, which costs less than a
/// second slice; bytes.
const COPIED_MAX: usize = 4096;
/// Read at a time.
const READ_SIZE: usize = 64 * 1024;
/// Spliced at a time. What a pipe takes is limited by its slots, one for each piece of a page.
const SPLICE_SIZE: u64 = 1 << 20;
const CRLF: &[u8] = b"\r\n";

/// What large bodies are spliced through.
#[derive(Clone, Copy)]
pub(crate) struct Splicing<'a> {
    pub(crate) pipes: &'a PipePool,
    /// A body, or a chunk of one, must be announced to be as long for its bytes not to be read; bytes.
    pub(crate) min: u64,
}

pub(super) struct Relay {
    /// Whether it leaves in chunks.
    is_chunked: bool,
    filters: BodyFilters,
    /// Gets a copy of what is read.
    tap: Option<Box<Tap>>,
    /// How long the body, or the chunk that is being read, said that it is. What came of it with the
    /// head does not make it shorter.
    announced: Option<u64>,
    out_written: usize,
    data: usize,
    /// Held only while there is something in it.
    pipe: Option<PooledPipe>,
    /// There was none to be had: the rest is copied.
    lacks_pipe: bool,
    tail: &'static [u8],
    /// Everything there will be is in `out`.
    is_ended: bool,
    /// Nothing follows on the target's connection: it is closed as soon as the last byte is written.
    is_last: bool,
    news: News,
}

/// What became of the last polls.
#[derive(Debug, Default)]
pub(crate) struct News {
    pub(super) has_moved: bool,
    /// The target is waited for, not the source.
    pub(super) is_writing: bool,
    /// Body bytes on their way, spliced ones not included.
    pub(super) copied: u64,
    pub(crate) spliced: u64,
    /// What was to be spliced from here on is copied: there was no pipe to be had.
    pub(crate) has_fallen_back: bool,
}

/// Which side broke it.
#[derive(Debug)]
pub(super) enum Broken {
    Framing(FramingError),
    Source,
    Target,
    /// The target has no memory for what was to be delivered to it, and nothing is lost.
    Starved,
}

impl Broken {
    fn target(error: &io::Error) -> Broken {
        if error.kind() == io::ErrorKind::OutOfMemory { Broken::Starved } else { Broken::Target }
    }
}

impl Relay {
    pub(super) fn new(is_chunked: bool, filters: BodyFilters) -> Self {
        Self {
            is_chunked,
            filters,
            tap: None,
            announced: None,
            out_written: 0,
            data: 0,
            pipe: None,
            lacks_pipe: false,
            tail: b"",
            is_ended: false,
            is_last: false,
            news: News::default(),
        }
    }

    /// Whoever says so closes the target's connection behind it: its last bytes leave with that.
    pub(super) fn be_last(&mut self) {
        self.is_last = true;
    }

    /// A body that is copied is not spliced.
    pub(super) fn copy_to(&mut self, tap: Option<Box<Tap>>) {
        self.tap = tap;
    }

    pub(super) fn take_news(&mut self) -> News {
        std::mem::take(&mut self.news)
    }

    /// Moves what can be moved; ready when the last byte is written. What is in `out` leaves first.
    /// Whoever puts a head there calls [`frame`](Self::frame) for the body to leave with it.
    pub(super) fn poll(
        &mut self,
        source: &mut BodySource<'_>,
        out: &mut Vec<u8>,
        to: &mut TcpStream,
        splicing: Splicing<'_>,
        task: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        loop {
            if out.is_empty() {
                self.frame(source.reader, source.input, out).map_err(Broken::Framing)?;
            }
            let written = self.poll_write(source.input, out, to, splicing.pipes, task);
            ready!(written).map_err(|error| Broken::target(&error))?;
            if self.is_ended {
                return Poll::Ready(Ok(()));
            }
            if !source.input.is_empty() || source.reader.is_complete() {
                continue;
            }
            match self.poll_read(source, out, splicing, task) {
                Poll::Pending if self.pause(out) => {}
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => {
                    source.reader.finish_at_eof().map_err(Broken::Framing)?;
                    self.end(out);
                }
                Poll::Ready(Ok(_)) => self.news.has_moved = true,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken::Source)),
            }
        }
    }

    /// The same for a body that is in `input` to its last byte.
    pub(super) fn poll_rest(
        &mut self,
        (reader, input): (&mut BodyReader, &mut BytesMut),
        out: &mut Vec<u8>,
        to: &mut TcpStream,
        pipes: &PipePool,
        task: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        loop {
            if out.is_empty() {
                self.frame(reader, input, out).map_err(Broken::Framing)?;
            }
            ready!(self.poll_write(input, out, to, pipes, task))
                .map_err(|error| Broken::target(&error))?;
            if self.is_ended {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Takes from the input what it says of the body, until there is enough to write.
    ///
    /// # Errors
    /// The body is not well-formed.
    pub(super) fn frame(
        &mut self,
        reader: &mut BodyReader,
        input: &mut BytesMut,
        out: &mut Vec<u8>,
    ) -> Result<(), FramingError> {
        let enough = out.len() + COPIED_MAX;
        // What is put into `out` must not overtake what is behind it already.
        while !reader.is_complete() && self.is_plain() && out.len() < enough {
            let framing = reader.framing(input)?;
            input.advance(framing);
            // Nothing has been taken of a body of known length, or of a chunk behind its size line.
            if framing > 0 || self.announced.is_none() {
                self.announced = reader.opaque_remaining();
            }
            let count = reader.data(input.len());
            if count == 0 {
                break;
            }
            self.data(count, input, out);
        }
        // Nobody waits for bytes behind the last one.
        if reader.is_complete() && !self.is_ended && (self.is_plain() || !self.is_chunked) {
            self.end(out);
        }
        Ok(())
    }

    /// Whether everything that waits is in `out`.
    fn is_plain(&self) -> bool {
        self.data == 0 && self.pipe.is_none() && self.tail.is_empty()
    }

    fn data(&mut self, count: usize, input: &mut BytesMut, out: &mut Vec<u8>) {
        self.tap.take_if(|tap| !tap.piece(&input[..count]));
        if self.filters.is_empty() {
            self.filters.see(&input[..count]);
        } else {
            let piece = self.filters.piece(input.split_to(count).freeze());
            self.news.copied += piece.len() as u64;
            push_chunk(out, &piece);
            return;
        }
        self.news.copied += count as u64;
        self.chunk(count, out);
        if count <= COPIED_MAX {
            out.extend_from_slice(&input[..count]);
            input.advance(count);
            out.extend_from_slice(std::mem::take(&mut self.tail));
        } else {
            self.data = count;
        }
    }

    /// Announces data, as far as it has to be.
    fn chunk(&mut self, size: usize, out: &mut Vec<u8>) {
        if self.is_chunked {
            push_chunk_size(out, size);
            self.tail = CRLF;
        }
    }

    /// Puts into `out` what is due before more is read; whether there is anything.
    fn pause(&mut self, out: &mut Vec<u8>) -> bool {
        let due = self.filters.pause();
        self.news.copied += due.len() as u64;
        push_chunk(out, &due);
        !due.is_empty()
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        self.is_ended = true;
        if let Some(mut tap) = self.tap.take() {
            tap.complete();
        }
        if !self.filters.is_empty() {
            let rest = self.filters.end();
            self.news.copied += rest.len() as u64;
            push_chunk(out, &rest);
        }
        if self.is_chunked {
            out.extend_from_slice(b"0\r\n\r\n");
        }
    }

    /// Reads into the input, or past it into a pipe; 0 is the end of the stream.
    fn poll_read(
        &mut self,
        source: &mut BodySource<'_>,
        out: &mut Vec<u8>,
        splicing: Splicing<'_>,
        task: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let due = source.reader.opaque_remaining().unwrap_or(0);
        let is_much = due > 0 && self.announced.is_some_and(|size| size >= splicing.min);
        let is_changed = !self.filters.is_empty();
        let is_seen = is_changed || self.filters.is_keeping() || self.tap.is_some();
        if is_much && !is_seen && !self.lacks_pipe {
            loop {
                ready!(source.stream.poll_read_ready(task))?;
                let Some(pipe) = splicing.pipes.checkout() else {
                    self.lacks_pipe = true;
                    self.news.has_fallen_back = true;
                    break;
                };
                match self.splice(pipe, due.min(SPLICE_SIZE) as usize, source, out, splicing) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    read => return Poll::Ready(read),
                }
            }
        }
        inlet::poll_read(source.stream, task, source.input, READ_SIZE)
    }

    fn splice(
        &mut self,
        mut pipe: PooledPipe,
        size: usize,
        source: &mut BodySource<'_>,
        out: &mut Vec<u8>,
        splicing: Splicing<'_>,
    ) -> io::Result<usize> {
        let stream = &*source.stream;
        let read = stream.try_io(Interest::READABLE, || pipe.fill(stream, size));
        match read {
            Ok(count @ 1..) => {
                source.reader.skip(count as u64);
                self.news.spliced += count as u64;
                self.chunk(count, out);
                self.pipe = Some(pipe);
            }
            Ok(0) | Err(_) => splicing.pipes.checkin(pipe),
        }
        read
    }

    fn poll_write(
        &mut self,
        input: &mut BytesMut,
        out: &mut Vec<u8>,
        to: &mut TcpStream,
        pipes: &PipePool,
        task: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.news.is_writing = true;
        loop {
            let slices = self.slices(input, out);
            let written = match slices.each_ref().map(|slice| slice.is_empty()) {
                [true, true, true] => match self.pipe.take() {
                    Some(pipe) => {
                        ready!(self.poll_empty(pipe, to, pipes, task))?;
                        continue;
                    }
                    None => break,
                },
                [false, true, true] if self.is_last && self.is_ended => {
                    poll_send_before_end(to, &slices[0], task)
                }
                [false, true, true] => lead::poll_send(Pin::new(&mut *to), task, &slices[..1]),
                _ => Pin::new(&mut *to).poll_write_vectored(task, &slices),
            };
            self.wrote(ready!(written)?, input, out.len());
        }
        self.news.is_writing = false;
        out.clear();
        self.out_written = 0;
        Poll::Ready(Ok(()))
    }

    /// What is to be written, in this order; what is behind the pipe comes when that is empty.
    fn slices<'s>(&self, input: &'s [u8], out: &'s [u8]) -> [IoSlice<'s>; 3] {
        let tail = if self.pipe.is_some() { b"" } else { self.tail };
        [&out[self.out_written..], &input[..self.data], tail].map(IoSlice::new)
    }

    fn wrote(&mut self, count: usize, input: &mut BytesMut, out_size: usize) {
        self.news.has_moved = true;
        let of_out = count.min(out_size - self.out_written);
        self.out_written += of_out;
        let of_data = (count - of_out).min(self.data);
        self.data -= of_data;
        input.advance(of_data);
        self.tail = &self.tail[count - of_out - of_data..];
    }

    fn poll_empty(
        &mut self,
        mut pipe: PooledPipe,
        to: &TcpStream,
        pipes: &PipePool,
        task: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while pipe.holds() > 0 {
            match to.poll_write_ready(task) {
                Poll::Ready(ready) => ready?,
                Poll::Pending => {
                    self.pipe = Some(pipe);
                    return Poll::Pending;
                }
            }
            match to.try_io(Interest::WRITABLE, || pipe.empty_into(to)) {
                Ok(_) => self.news.has_moved = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    self.pipe = Some(pipe);
                    return Poll::Ready(Err(error));
                }
            }
        }
        pipes.checkin(pipe);
        Poll::Ready(Ok(()))
    }
}

fn poll_send_before_end(
    to: &TcpStream,
    bytes: &[u8],
    task: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(to.poll_write_ready(task))?;
        match to.try_io(Interest::WRITABLE, || socket::send_before_end(to, bytes)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            sent => return Poll::Ready(sent),
        }
    }
}

/// Nothing at all if there is no data: an empty chunk would be the last.
fn push_chunk(out: &mut Vec<u8>, data: &[u8]) {
    if !data.is_empty() {
        push_chunk_size(out, data.len());
        out.extend_from_slice(data);
        out.extend_from_slice(CRLF);
    }
}

fn push_chunk_size(out: &mut Vec<u8>, size: usize) {
    let written: io::Result<()> = write!(out, "{size:X}\r\n");
    written.expect("a Vec takes everything");
}

/// Without sockets: what the relay makes of bytes that come and go in pieces of any size.
#[cfg(any(test, feature = "test-support"))]
pub mod dry {
    use bytes::BytesMut;

    use super::Relay;
    use crate::{
        http::framing::{BodyLength, BodyReader, FramingError},
        plugin::BodyFilters,
    };

    /// A body that was passed on whole.
    #[derive(Debug, PartialEq, Eq)]
    pub struct Passed {
        pub sent: Vec<u8>,
        /// Bytes of `received` that belong to the body.
        pub taken: usize,
    }

    /// Passes on the body at the front of `received`, behind a head, with reads and writes of these
    /// sizes, over and over. One of known length leaves as it is, any other in chunks.
    ///
    /// # Errors
    /// The body is not well-formed, or not whole.
    pub fn pass(
        length: BodyLength,
        received: &[u8],
        reads: &[usize],
        writes: &[usize],
    ) -> Result<Passed, FramingError> {
        let is_chunked = matches!(length, BodyLength::Chunked | BodyLength::UntilClose);
        let mut relay = Relay::new(is_chunked, BodyFilters::default());
        let mut reader = BodyReader::new(length);
        let (mut input, mut out) = (BytesMut::new(), b"head|".to_vec());
        let (mut left, mut sent) = (received, Vec::new());
        let (mut reads, mut writes) = (reads.iter().cycle(), writes.iter().cycle());
        relay.frame(&mut reader, &mut input, &mut out)?;
        loop {
            let waiting = relay.slices(&input, &out).map(|slice| slice.to_vec()).concat();
            if !waiting.is_empty() {
                let count = (*writes.next().unwrap_or(&1)).clamp(1, waiting.len());
                sent.extend_from_slice(&waiting[..count]);
                relay.wrote(count, &mut input, out.len());
                continue;
            }
            out.clear();
            relay.out_written = 0;
            if relay.is_ended {
                return Ok(Passed { sent, taken: received.len() - left.len() - input.len() });
            }
            if input.is_empty() && !reader.is_complete() {
                let count = (*reads.next().unwrap_or(&1)).max(1).min(left.len());
                if count == 0 {
                    reader.finish_at_eof()?;
                    relay.end(&mut out);
                }
                input.extend_from_slice(&left[..count]);
                left = &left[count..];
            }
            relay.frame(&mut reader, &mut input, &mut out)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::{
        dry::{Passed, pass},
        *,
    };
    use crate::{forward::PipeLimits, http::framing::BodyLength, metrics::PipeMetrics};

    /// The data of a chunked body that is made as ours are.
    fn dechunked(mut body: &[u8]) -> Vec<u8> {
        let mut data = Vec::new();
        loop {
            let end = body.windows(2).position(|pair| pair == CRLF).expect("a size line");
            let size = std::str::from_utf8(&body[..end]).expect("ASCII");
            let size = usize::from_str_radix(size, 16).expect("hex");
            let (piece, rest) = body[end + 2..].split_at(size);
            data.extend_from_slice(piece);
            body = rest.strip_prefix(CRLF).expect("a line ending");
            if size == 0 {
                assert!(body.is_empty());
                return data;
            }
        }
    }

    /// The next message, which is nobody's business here.
    const SURPLUS: &[u8] = b"HTTP/1.1 200 OK";

    fn surplus(body: &[u8]) -> Vec<u8> {
        [body, SURPLUS].concat()
    }

    /// Two ends of a connection, the first with as little room as can be had.
    async fn connection() -> (TcpStream, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (near, (far, _)) = (near.expect("connected"), far.expect("accepted"));
        socket2::SockRef::from(&near).set_send_buffer_size(1).expect("an option");
        (near, far)
    }

    /// Passes a body on between sockets, of which `ahead` bytes came with the head; what leaves, and
    /// what is said of it.
    async fn relayed(
        length: BodyLength,
        received: Vec<u8>,
        ahead: usize,
        open_max: usize,
        min: u64,
    ) -> (Vec<u8>, News) {
        let ((mut node, mut from), (mut to, mut client)) = (connection().await, connection().await);
        let limits = PipeLimits { capacity: 64 << 10, open_max, idle_max: 1 };
        let pipes = PipePool::new(limits, PipeMetrics::default());
        let mut input = BytesMut::from(&received[..ahead]);
        let sending = tokio::spawn(async move {
            node.write_all(&received[ahead..]).await.expect("sent");
            node
        });
        let receiving = tokio::spawn(async move {
            let mut sent = Vec::new();
            client.read_to_end(&mut sent).await.expect("received");
            sent
        });
        let mut relay = Relay::new(length == BodyLength::Chunked, BodyFilters::default());
        let mut reader = BodyReader::new(length);
        let (mut out, mut all) = (b"head|".to_vec(), News::default());
        relay.frame(&mut reader, &mut input, &mut out).expect("well-formed");
        poll_fn(|task| {
            let mut source =
                BodySource { stream: &mut from, input: &mut input, reader: &mut reader };
            let splicing = Splicing { pipes: &pipes, min };
            let moved = relay.poll(&mut source, &mut out, &mut to, splicing, task);
            let news = relay.take_news();
            all.copied += news.copied;
            all.spliced += news.spliced;
            all.has_fallen_back |= news.has_fallen_back;
            moved
        })
        .await
        .expect("relayed");
        assert!(pipes.open() <= 1 && relay.pipe.is_none(), "pipes are given back");
        drop((to, sending.await.expect("no panic")));
        let sent = receiving.await.expect("no panic");
        (sent.strip_prefix(b"head|").expect("the head first").to_vec(), all)
    }

    #[tokio::test]
    async fn what_is_much_is_spliced() {
        let data: Vec<u8> = (0..1_000_000_u32).map(|at| (at % 251) as u8).collect();
        let mut chunked = Vec::new();
        for piece in data.chunks(300_000) {
            push_chunk(&mut chunked, piece);
        }
        chunked.extend_from_slice(b"0\r\n\r\n");
        let fixed = BodyLength::Fixed(data.len() as u64);
        for (open_max, min) in [(1, 1), (1, 64 << 10), (1, u64::MAX), (0, 1)] {
            let (sent, of_fixed) = relayed(fixed, data.clone(), 0, open_max, min).await;
            assert!(sent == data, "{open_max} {min}");
            let (sent, of_chunked) =
                relayed(BodyLength::Chunked, chunked.clone(), 0, open_max, min).await;
            assert!(dechunked(&sent) == data, "{open_max} {min}");
            for news in [of_fixed, of_chunked] {
                assert_eq!(news.copied + news.spliced, data.len() as u64);
                assert_eq!(news.spliced > 0, open_max > 0 && min < u64::MAX, "{min}: {news:?}");
                assert_eq!(news.has_fallen_back, open_max == 0, "{news:?}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_much_is_told_by_what_was_announced_not_by_what_is_due() {
        const SIZE: usize = 64 << 10;
        let data = vec![b'x'; SIZE];
        let mut chunked = Vec::new();
        push_chunk(&mut chunked, &data[..SIZE / 2]);
        push_chunk(&mut chunked, &data);
        let second = chunked.len() - SIZE - CRLF.len();
        chunked.extend_from_slice(b"0\r\n\r\n");
        for (min, is_spliced) in [(SIZE as u64, true), (SIZE as u64 + 1, false)] {
            let fixed = BodyLength::Fixed(SIZE as u64);
            for ahead in [0, 1, SIZE - 1] {
                let (sent, news) = relayed(fixed, data.clone(), ahead, 1, min).await;
                assert!(sent == data, "{ahead} {min}");
                let spliced = if is_spliced { (SIZE - ahead) as u64 } else { 0 };
                assert_eq!(news.spliced, spliced, "{ahead} {min}");
            }
            for ahead in [0, 1, second, second + SIZE / 2] {
                let of_chunks = relayed(BodyLength::Chunked, chunked.clone(), ahead, 1, min).await;
                let (sent, news) = of_chunks;
                assert_eq!(dechunked(&sent).len(), SIZE + SIZE / 2, "{ahead} {min}");
                // Of the chunk that is much, what was not read with the one before it.
                assert_eq!(news.spliced > 0, is_spliced, "{ahead} {min}");
                assert!(news.spliced <= SIZE as u64, "{ahead} {min}");
            }
        }
    }

    #[test]
    fn a_body_leaves_as_it_came_however_it_is_cut() {
        let data: Vec<u8> = (0..20_000_u32).map(|at| (at % 251) as u8).collect();
        let mut chunked = Vec::new();
        for piece in data.chunks(9000) {
            push_chunk(&mut chunked, piece);
        }
        chunked.extend_from_slice(b"0\r\n\r\n");
        let sizes: [&[usize]; 5] = [&[1], &[2, 3], &[4096, 1], &[5000, 7, 4], &[100_000]];
        for reads in sizes {
            for writes in sizes {
                let fixed = BodyLength::Fixed(data.len() as u64);
                let Passed { sent, taken } =
                    pass(fixed, &surplus(&data), reads, writes).expect("whole");
                assert_eq!(sent.strip_prefix(b"head|"), Some(&data[..]), "{reads:?} {writes:?}");
                assert_eq!(taken, data.len());
                for (length, received) in [
                    (BodyLength::Chunked, surplus(&chunked)),
                    (BodyLength::UntilClose, data.clone()),
                ] {
                    let Passed { sent, taken } =
                        pass(length, &received, reads, writes).expect("whole");
                    assert!([received.len(), received.len() - SURPLUS.len()].contains(&taken));
                    let body = sent.strip_prefix(b"head|").expect("the head first");
                    assert_eq!(dechunked(body), data, "{length:?} {reads:?} {writes:?}");
                }
            }
        }
    }
}
