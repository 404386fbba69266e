//! Pipes as the buffer between two sockets, for `splice(2)`.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::pipe::{
    PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice,
};

/// An anonymous pipe, non-blocking at both ends.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
    /// # Errors
    /// `EMFILE`, `ENFILE`: no file descriptors left.
    pub fn open() -> io::Result<Pipe> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Pipe { read, write })
    }

    /// Asks for a capacity in bytes; returns the one granted, rounded up by the kernel.
    ///
    /// # Errors
    /// `EPERM`: beyond `/proc/sys/fs/pipe-max-size`, or the user has more than
    /// `/proc/sys/fs/pipe-user-pages-soft` pages in pipes. The capacity is unchanged.
    pub fn grow(&self, capacity: usize) -> io::Result<usize> {
        Ok(fcntl_setpipe_size(&self.write, capacity)?)
    }

    /// Capacity in bytes. A new pipe has 64 KiB, and 8 KiB once the user's quota is used up
    /// (pipe(7)).
    ///
    /// # Errors
    /// None that a pipe can give.
    pub fn capacity(&self) -> io::Result<usize> {
        Ok(fcntl_getpipe_size(&self.write)?)
    }

    /// Moves up to `len` bytes from a socket into the pipe; 0 is end of stream, **or** a FIN behind
    /// an urgent mark.
    ///
    /// # Errors
    /// `WouldBlock`: the pipe is full, the socket is empty, **or** next is an urgent mark. Others are
    /// the socket's.
    pub fn fill(&self, socket: impl AsFd, len: usize) -> io::Result<usize> {
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        Ok(splice(socket, None, &self.write, None, len, flags)?)
    }

    /// Copies bytes into the pipe: all of them, if it is empty and they are at most `PIPE_BUF`.
    ///
    /// # Errors
    /// `WouldBlock`: the pipe is full.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(&self.write, bytes)?)
    }

    /// Moves up to `len` bytes from the pipe into a socket.
    ///
    /// # Errors
    /// `WouldBlock`: the socket's send buffer is full, **or** the pipe is empty. Others are the
    /// socket's.
    pub fn empty_into(&self, socket: impl AsFd, len: usize) -> io::Result<usize> {
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        Ok(splice(&self.read, None, socket, None, len, flags)?)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn bytes_go_through_in_order() {
        let (mut client, from) = connection();
        let (to, mut node) = connection();
        let pipe = Pipe::open().unwrap();
        client.write_all(b"splice").unwrap();
        drop(client);
        // Blocking sockets: SPLICE_F_NONBLOCK concerns the pipe only, so the first fill waits.
        assert_eq!(
            from.set_nonblocking(false).and_then(|()| pipe.fill(&from, 1 << 20)).unwrap(),
            6
        );
        assert_eq!(pipe.empty_into(&to, 6).unwrap(), 6);
        assert_eq!(pipe.fill(&from, 1 << 20).unwrap(), 0, "end of stream");
        drop(to);
        let mut received = String::new();
        node.read_to_string(&mut received).unwrap();
        assert_eq!(received, "splice");
    }

    #[test]
    fn an_empty_pipe_says_that_the_socket_is_empty() {
        let (_client, from) = connection();
        from.set_nonblocking(true).unwrap();
        let error = Pipe::open().unwrap().fill(&from, 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn capacity_is_at_least_what_was_granted() {
        let pipe = Pipe::open().unwrap();
        let granted = pipe.grow(128 << 10).unwrap();
        assert!(granted >= 128 << 10);
        assert_eq!(pipe.capacity().unwrap(), granted);
    }
}
