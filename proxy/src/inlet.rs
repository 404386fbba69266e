//! The reading end of one HTTP/1.1 connection: bytes come in, one message at a time goes out.
//!
//! Whoever reads behind an [`Inlet`] (hyper, or the express lane, which wants the body alone) sees the
//! message that was let in, and never a byte of what follows it. A connection that rests owns no buffer.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, ReadBuf, Take},
    net::TcpStream,
};
use tokio_util::io::poll_read_buf;

use crate::{
    config::Limits,
    http::{
        framing::{BodyReader, FramingError},
        head::HeadLimits,
    },
};

/// Asked of the socket at a time while a head has to be looked at. Small messages fit whole.
const HEAD_READ_SIZE: usize = 4096;
/// Room that is left behind one head is enough for the next if it has as many bytes.
const HEAD_READ_SIZE_MIN: usize = HEAD_READ_SIZE / 2;
/// The same for chunked bodies, whose every byte has to pass here.
const BODY_READ_SIZE: usize = 32 * 1024;

#[derive(Debug)]
pub(crate) struct Inlet {
    io: Take<TcpStream>,
    buffer: BytesMut,
    head: Bytes,
    body: Option<BodyReader>,
}

impl Inlet {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { io: stream.take(0), buffer: BytesMut::new(), head: Bytes::new(), body: None }
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        self.io.get_ref()
    }

    pub(crate) fn stream_mut(&mut self) -> &mut TcpStream {
        self.io.get_mut()
    }

    pub(crate) fn into_stream(self) -> TcpStream {
        self.io.into_inner()
    }

    /// Ready when there is something to read, be it the end or an error.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.io.get_ref().poll_read_ready(cx).map(|_| ())
    }

    /// What was read and belongs to no message yet.
    pub(crate) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Whether nothing is there that belongs to no message yet.
    pub(crate) fn is_drained(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Lets a message in, whose head was taken off the buffer.
    pub(crate) fn admit(&mut self, head: Bytes, body: BodyReader) {
        self.head = head;
        self.body = Some(body);
    }

    /// Whether the message let in has been handed over to its last byte, or there is none.
    pub(crate) fn is_between_messages(&self) -> bool {
        self.head.is_empty() && self.body.as_ref().is_none_or(BodyReader::is_complete)
    }

    /// Whether a message was let in of which not a byte has been handed over.
    pub(crate) fn is_untouched(&self) -> bool {
        !self.head.is_empty()
    }

    /// Body bytes handed over so far, without chunk framing.
    pub(crate) fn payload_bytes(&self) -> u64 {
        self.body.as_ref().map_or(0, BodyReader::payload_bytes)
    }

    /// What the end of the stream means for the message let in.
    pub(crate) fn finish_at_eof(&mut self) -> Result<(), FramingError> {
        match &mut self.body {
            Some(body) if self.head.is_empty() => body.finish_at_eof(),
            Some(_) => Err(FramingError::Truncated),
            None => Ok(()),
        }
    }

    /// Reads once into the buffer; 0 is the end of the stream.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.is_between_messages() {
            poll_read_head(self.io.get_mut(), cx, &mut self.buffer)
        } else {
            poll_read(self.io.get_mut(), cx, &mut self.buffer, BODY_READ_SIZE)
        }
    }

    /// Lets in the body of a message whose head has been dealt with: it is taken from its
    /// [`source`](Self::source).
    ///
    /// # Errors
    /// What is there of it already is not well-formed.
    pub(crate) fn admit_body(&mut self, body: BodyReader) -> Result<(), FramingError> {
        let mut ahead = body.clone();
        let judged = ahead.advance(&self.buffer);
        self.head = Bytes::new();
        self.body = Some(if judged.is_ok() { body } else { ahead });
        judged.map(|_| ())
    }

    /// Allows the message let in no more than `max` bytes of content.
    ///
    /// # Errors
    /// What is there of it is more, or announces more.
    pub(crate) fn limit_body(&mut self, max: u64) -> Result<(), FramingError> {
        let Some(body) = &mut self.body else { return Ok(()) };
        body.lower(max)?;
        body.clone().advance(&self.buffer).map(|_| ())
    }

    /// Where the body that was let in comes from; `None` before the first message.
    pub(crate) fn source(&mut self) -> Option<BodySource<'_>> {
        let Inlet { io, buffer, body, .. } = self;
        body.as_mut().map(|reader| BodySource { stream: io.get_mut(), input: buffer, reader })
    }

    /// Hands over what is there of the message let in; reads for more of its body if nothing is.
    /// Ready without having filled anything means the end of the stream.
    pub(crate) fn poll_message(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), MessageError>> {
        loop {
            let before = out.filled().len();
            self.hand_over(out).map_err(MessageError::Framing)?;
            if out.filled().len() > before || self.is_between_messages() {
                return Poll::Ready(Ok(()));
            }
            if let Some(opaque @ 1..) = self.body.as_ref().and_then(BodyReader::opaque_remaining) {
                return self.poll_opaque(cx, out, opaque);
            }
            if ready!(self.poll_fill(cx)).map_err(MessageError::Io)? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Reads body bytes that need not be looked at straight into the reader's buffer.
    fn poll_opaque(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
        opaque: u64,
    ) -> Poll<Result<(), MessageError>> {
        let before = out.filled().len();
        self.io.set_limit(opaque);
        ready!(Pin::new(&mut self.io).poll_read(cx, out)).map_err(MessageError::Io)?;
        if let Some(body) = &mut self.body {
            body.skip((out.filled().len() - before) as u64);
        }
        Poll::Ready(Ok(()))
    }

    fn hand_over(&mut self, out: &mut ReadBuf<'_>) -> Result<(), FramingError> {
        let length = self.head.len().min(out.remaining());
        out.put_slice(&self.head.split_to(length));
        if !self.head.is_empty() || self.buffer.is_empty() {
            return Ok(());
        }
        if let Some(body) = self.body.as_mut().filter(|body| !body.is_complete()) {
            let visible = self.buffer.len().min(out.remaining());
            let taken = body.advance(&self.buffer[..visible])?;
            out.put_slice(&self.buffer[..taken]);
            self.buffer.advance(taken);
        }
        Ok(())
    }

    /// Gives the buffer up if there is nothing in it.
    pub(crate) fn rest(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }
}

/// A body under way, as far as it has not been taken.
pub(crate) struct BodySource<'a> {
    pub(crate) stream: &'a mut TcpStream,
    /// What has been read of it, and maybe of what follows it.
    pub(crate) input: &'a mut BytesMut,
    pub(crate) reader: &'a mut BodyReader,
}

/// Reads up to `size` bytes behind what is in `buffer`; 0 is the end of the stream.
pub(crate) fn poll_read(
    stream: &mut TcpStream,
    cx: &mut Context<'_>,
    buffer: &mut BytesMut,
    size: usize,
) -> Poll<io::Result<usize>> {
    // A connection with nothing to say gets no buffer.
    ready!(stream.poll_read_ready(cx))?;
    buffer.reserve(size);
    poll_read_buf(Pin::new(stream), cx, buffer)
}

/// Reads of a head what there is room for behind what is in `buffer`; 0 is the end of the stream.
pub(crate) fn poll_read_head(
    stream: &mut TcpStream,
    cx: &mut Context<'_>,
    buffer: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    if buffer.capacity() - buffer.len() < HEAD_READ_SIZE_MIN {
        return poll_read(stream, cx, buffer, HEAD_READ_SIZE);
    }
    poll_read_buf(Pin::new(stream), cx, buffer)
}

/// What the gates on both sides allow a head to be.
pub(crate) fn head_limits(limits: &Limits) -> HeadLimits {
    HeadLimits {
        size_max: limits.head_size_max,
        fields_max: limits.head_fields_max,
        target_size_max: limits.target_size_max,
    }
}

#[derive(Debug)]
pub(crate) enum MessageError {
    Framing(FramingError),
    Io(io::Error),
}
