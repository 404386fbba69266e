//! A stream whose other end cannot say much more than it was asked.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that may come before anything else is sent: far more than the answers to all calls that can
/// be under way.
const ANSWERS_SIZE_MAX: usize = 4 << 20;

pub(super) struct Bounded<S> {
    stream: S,
    /// Bytes since something was sent.
    came: usize,
}

impl<S> Bounded<S> {
    pub(super) fn new(stream: S) -> Bounded<S> {
        Bounded { stream, came: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(task, into))?;
        self.came += into.filled().len() - before;
        if self.came > ANSWERS_SIZE_MAX {
            return Poll::Ready(Err(io::Error::other("more came than was asked for")));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.came = 0;
        Pin::new(&mut self.stream).poll_write(task, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(task)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, repeat};

    use super::*;

    #[tokio::test]
    async fn whoever_says_too_much_is_not_listened_to() {
        let mut stream = Bounded::new(tokio::io::join(repeat(b'x'), tokio::io::sink()));
        let mut bytes = vec![0; ANSWERS_SIZE_MAX];
        for _ in 0..2 {
            stream.write_all(b"?").await.unwrap();
            stream.read_exact(&mut bytes).await.unwrap();
        }
        assert!(stream.read_u8().await.is_err());
    }
}
