//! Moves one response body from the node to the downstream, as its framing says.
//!
//! | waiting to leave | what it is                                       |
//! |------------------|--------------------------------------------------|
//! | `out`            | the head, chunk sizes, and data that is not much |
//! | `data`           | the front of the input, too much to be copied    |
//! | `tail`           | the line ending of that chunk                    |

use std::{
    io::{self, IoSlice, Write as _},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::{io::AsyncWrite, net::TcpStream};

use crate::{
    error::Fault,
    http::framing::{BodyLength, BodyReader, FramingError},
    inlet,
    plugin::BodyFilters,
};

/// Data up to this size is copied behind what is to be written before it, which costs less than a
/// second slice; bytes.
const COPIED_MAX: usize = 4096;
/// Read at a time.
const READ_SIZE: usize = 64 * 1024;
const CRLF: &[u8] = b"\r\n";

pub(super) struct Relay {
    reader: BodyReader,
    /// Whether it has an end before the node closes.
    is_delimited: bool,
    /// Whether it leaves in chunks.
    is_chunked: bool,
    filters: BodyFilters,
    out_written: usize,
    data: usize,
    tail: &'static [u8],
    /// Everything there will be is in `out`.
    is_ended: bool,
    sent_bytes: usize,
    waits: Waits,
}

/// What became of the last poll.
#[derive(Debug, Default)]
pub(super) struct Waits {
    pub(super) has_moved: bool,
    /// The downstream is waited for, not the node.
    pub(super) is_writing: bool,
}

/// Which side broke it.
#[derive(Debug)]
pub(super) enum Broken {
    Framing(FramingError),
    Node,
    Downstream,
}

impl Broken {
    pub(super) fn fault(&self) -> Fault {
        match self {
            Broken::Framing(error) => error.response_fault(),
            Broken::Node => Fault::UpstreamReset,
            Broken::Downstream => Fault::DownstreamReset,
        }
    }
}

impl Relay {
    pub(super) fn new(length: BodyLength, is_chunked: bool, filters: BodyFilters) -> Self {
        Self {
            reader: BodyReader::new(length),
            is_delimited: length != BodyLength::UntilClose,
            // What a bodiless response would be filtered to is nothing.
            filters: if length == BodyLength::Empty { BodyFilters::default() } else { filters },
            is_chunked,
            out_written: 0,
            data: 0,
            tail: b"",
            is_ended: false,
            sent_bytes: 0,
            waits: Waits::default(),
        }
    }

    pub(super) fn is_delimited(&self) -> bool {
        self.is_delimited
    }

    /// Body bytes moved since the last time.
    pub(super) fn take_sent(&mut self) -> usize {
        std::mem::take(&mut self.sent_bytes)
    }

    pub(super) fn take_waits(&mut self) -> Waits {
        std::mem::take(&mut self.waits)
    }

    /// Moves what can be moved; ready when the last byte is written. What is in `out` leaves first.
    pub(super) fn poll(
        &mut self,
        from: &mut TcpStream,
        input: &mut BytesMut,
        out: &mut Vec<u8>,
        to: &mut TcpStream,
        task: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        loop {
            self.frame(input, out).map_err(Broken::Framing)?;
            ready!(self.poll_write(input, out, to, task))?;
            if self.is_ended {
                return Poll::Ready(Ok(()));
            }
            if !input.is_empty() {
                continue;
            }
            match ready!(inlet::poll_read(from, task, input, READ_SIZE)) {
                Ok(0) => {
                    self.reader.finish_at_eof().map_err(Broken::Framing)?;
                    self.end(out);
                }
                Ok(_) => self.waits.has_moved = true,
                Err(_) => return Poll::Ready(Err(Broken::Node)),
            }
        }
    }

    /// Takes from the input what it says of the body, until there is enough to write.
    ///
    /// # Errors
    /// The body is not well-formed.
    pub(super) fn frame(
        &mut self,
        input: &mut BytesMut,
        out: &mut Vec<u8>,
    ) -> Result<(), FramingError> {
        // What is put into `out` must not overtake what is behind it already.
        while self.data == 0 && self.tail.is_empty() && !self.is_ended && out.len() < COPIED_MAX {
            let framing = self.reader.framing(input)?;
            input.advance(framing);
            if self.reader.is_complete() {
                self.end(out);
                return Ok(());
            }
            let count = self.reader.data(input.len());
            if count == 0 {
                return Ok(());
            }
            self.data(count, input, out);
        }
        Ok(())
    }

    fn data(&mut self, count: usize, input: &mut BytesMut, out: &mut Vec<u8>) {
        if !self.filters.is_empty() {
            let piece = self.filters.piece(input.split_to(count).freeze());
            self.sent_bytes += piece.len();
            push_chunk(out, &piece);
            return;
        }
        self.sent_bytes += count;
        if self.is_chunked {
            push_chunk_size(out, count);
        }
        if count <= COPIED_MAX {
            out.extend_from_slice(&input[..count]);
            input.advance(count);
            if self.is_chunked {
                out.extend_from_slice(CRLF);
            }
        } else {
            self.data = count;
            self.tail = if self.is_chunked { CRLF } else { b"" };
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        self.is_ended = true;
        let rest = self.filters.end();
        self.sent_bytes += rest.len();
        push_chunk(out, &rest);
        if self.is_chunked {
            out.extend_from_slice(b"0\r\n\r\n");
        }
    }

    fn poll_write(
        &mut self,
        input: &mut BytesMut,
        out: &mut Vec<u8>,
        to: &mut TcpStream,
        task: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        loop {
            let slices = self.slices(input, out);
            let written = match slices.each_ref().map(|slice| slice.is_empty()) {
                [true, true, true] => break,
                [false, true, true] => Pin::new(&mut *to).poll_write(task, &slices[0]),
                _ => Pin::new(&mut *to).poll_write_vectored(task, &slices),
            };
            match written {
                Poll::Ready(Ok(count)) => self.wrote(count, input, out.len()),
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken::Downstream)),
                Poll::Pending => {
                    self.waits.is_writing = true;
                    return Poll::Pending;
                }
            }
        }
        out.clear();
        self.out_written = 0;
        Poll::Ready(Ok(()))
    }

    /// What is to be written, in this order.
    fn slices<'s>(&self, input: &'s [u8], out: &'s [u8]) -> [IoSlice<'s>; 3] {
        [&out[self.out_written..], &input[..self.data], self.tail].map(IoSlice::new)
    }

    fn wrote(&mut self, count: usize, input: &mut BytesMut, out_size: usize) {
        self.waits.has_moved = true;
        let of_out = count.min(out_size - self.out_written);
        self.out_written += of_out;
        let of_data = (count - of_out).min(self.data);
        self.data -= of_data;
        input.advance(of_data);
        self.tail = &self.tail[count - of_out - of_data..];
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Passes a body on with reads and writes of these sizes, over and over; what leaves.
    fn pass(
        length: BodyLength,
        is_chunked: bool,
        received: &[u8],
        reads: &[usize],
        writes: &[usize],
    ) -> Vec<u8> {
        let mut relay = Relay::new(length, is_chunked, BodyFilters::default());
        let (mut input, mut out) = (BytesMut::new(), b"head|".to_vec());
        let (mut left, mut sent) = (received, Vec::new());
        let mut reads = reads.iter().copied().cycle();
        for write in writes.iter().copied().cycle() {
            relay.frame(&mut input, &mut out).expect("well-formed");
            let waiting = relay.slices(&input, &out).map(|slice| slice.to_vec()).concat();
            if waiting.is_empty() {
                if relay.is_ended {
                    break;
                }
                out.clear();
                relay.out_written = 0;
                if !input.is_empty() {
                    continue;
                }
                let read = reads.next().expect("endless").min(left.len());
                if read == 0 {
                    relay.reader.finish_at_eof().expect("whole");
                    relay.end(&mut out);
                }
                input.extend_from_slice(&left[..read]);
                left = &left[read..];
                continue;
            }
            let count = write.min(waiting.len());
            sent.extend_from_slice(&waiting[..count]);
            relay.wrote(count, &mut input, out.len());
        }
        assert_eq!((left.len(), input.len()), (0, 0));
        sent
    }

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
                let sent = pass(fixed, false, &data, reads, writes);
                assert_eq!(sent.strip_prefix(b"head|"), Some(&data[..]), "{reads:?} {writes:?}");
                for (length, received) in
                    [(BodyLength::Chunked, &chunked), (BodyLength::UntilClose, &data)]
                {
                    let sent = pass(length, true, received, reads, writes);
                    let body = sent.strip_prefix(b"head|").expect("the head first");
                    assert_eq!(dechunked(body), data, "{length:?} {reads:?} {writes:?}");
                }
            }
        }
    }
}
