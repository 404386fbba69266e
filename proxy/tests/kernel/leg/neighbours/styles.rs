//! The ways in which programs wait, read and write. A socket of each style does what such a program
//! may rely on with TCP, and fails where it does not hold: bytes that were announced or peeked at are
//! there, and whoever waits for an edge is told.

use std::{
    fs::File,
    io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write},
    net::TcpStream,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::FileExt as _,
    },
};

use proxy::test_support::PATIENCE;
use rustix::{
    buffer::spare_capacity,
    event::{
        FdSetElement, PollFd, PollFlags, Timespec,
        epoll::{self, CreateFlags, EventData, EventFlags},
        fd_set_insert, fd_set_num_elements, poll, select,
    },
    io::ioctl_fionread,
};

use super::super::peer::Wire;

/// How a program learns that it may go on.
#[derive(Clone, Copy)]
enum Waits {
    /// Told once; goes on until it is refused.
    Edge,
    /// Told once; takes what is shorter than it asked for as the last there is, as nginx and tokio do.
    EdgeShort,
    Level,
    Poll,
    Select,
}

#[derive(Clone, Copy)]
enum Reads {
    Plainly,
    /// As much as `FIONREAD` says.
    Announced,
    /// With `MSG_PEEK` before.
    Peeked,
    Vectored,
}

#[derive(Clone, Copy)]
enum Writes {
    Plainly,
    Vectored,
    /// Through a file.
    Sendfile,
}

#[derive(Clone, Copy)]
pub(super) struct Style {
    pub(super) name: &'static str,
    waits: Waits,
    reads: Reads,
    writes: Writes,
}

const fn style(name: &'static str, waits: Waits, reads: Reads, writes: Writes) -> Style {
    Style { name, waits, reads, writes }
}

/// Each way at least once.
pub(super) const STYLES: [Style; 8] = [
    style("edge, read, write", Waits::Edge, Reads::Plainly, Writes::Plainly),
    style("edge, FIONREAD, sendfile", Waits::Edge, Reads::Announced, Writes::Sendfile),
    style("short edge, readv, writev", Waits::EdgeShort, Reads::Vectored, Writes::Vectored),
    style("short edge, MSG_PEEK, write", Waits::EdgeShort, Reads::Peeked, Writes::Plainly),
    style("level, MSG_PEEK, sendfile", Waits::Level, Reads::Peeked, Writes::Sendfile),
    style("level, FIONREAD, writev", Waits::Level, Reads::Announced, Writes::Vectored),
    style("poll, readv, sendfile", Waits::Poll, Reads::Vectored, Writes::Sendfile),
    style("select, FIONREAD, write", Waits::Select, Reads::Announced, Writes::Plainly),
];

/// What one waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum For {
    Reading,
    Writing,
}

impl For {
    fn in_epoll(self) -> EventFlags {
        match self {
            For::Reading => EventFlags::IN | EventFlags::RDHUP,
            For::Writing => EventFlags::OUT,
        }
    }
}

enum Waiter {
    /// What it was told of and has not used up; in the beginning nothing was refused yet.
    Edge {
        epoll: OwnedFd,
        told: EventFlags,
    },
    Level {
        epoll: OwnedFd,
    },
    Poll,
    Select,
}

/// A connection in one of the styles.
pub(super) struct Styled {
    socket: TcpStream,
    style: Style,
    waiter: Waiter,
    /// What is sent from a file, and how much of it there is. What was sent stays as it is: TCP has
    /// its pages, not a copy.
    file: Option<(File, u64)>,
}

impl Styled {
    pub(super) fn new(socket: TcpStream, style: Style) -> Styled {
        let epoll = |flags| {
            let epoll = epoll::create(CreateFlags::CLOEXEC).expect("a file");
            epoll::add(&epoll, &socket, EventData::new_u64(0), flags).expect("watched");
            epoll
        };
        let both = For::Reading.in_epoll() | For::Writing.in_epoll();
        let waiter = match style.waits {
            Waits::Edge | Waits::EdgeShort => {
                Waiter::Edge { epoll: epoll(both | EventFlags::ET), told: both }
            }
            Waits::Level => Waiter::Level { epoll: epoll(EventFlags::empty()) },
            Waits::Poll => Waiter::Poll,
            Waits::Select => Waiter::Select,
        };
        Styled { socket, style, waiter, file: None }
    }

    /// What there is to do was done, by a refusal or a short read.
    fn use_up(&mut self, what: For) {
        if let Waiter::Edge { told, .. } = &mut self.waiter {
            *told -= what.in_epoll() - EventFlags::RDHUP;
        }
    }

    fn wait(&mut self, what: For) -> io::Result<()> {
        match &mut self.waiter {
            Waiter::Edge { epoll, told } => {
                let failed = EventFlags::ERR | EventFlags::HUP;
                while !told.intersects(what.in_epoll() | failed) {
                    *told |= next_event(epoll)?;
                }
                Ok(())
            }
            Waiter::Level { epoll } => {
                epoll::modify(&*epoll, &self.socket, EventData::new_u64(0), what.in_epoll())?;
                next_event(epoll).map(drop)
            }
            Waiter::Poll => {
                let flags = match what {
                    For::Reading => PollFlags::IN,
                    For::Writing => PollFlags::OUT,
                };
                some(poll(&mut [PollFd::new(&self.socket, flags)], Some(&patience()))?)
            }
            Waiter::Select => wait_in_select(&self.socket, what),
        }
    }

    /// As an event loop: does it when there is something to do, until it is refused.
    fn retry<T>(
        &mut self,
        what: For,
        mut call: impl FnMut(&TcpStream) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            if let Waiter::Edge { .. } = self.waiter {
                self.wait(what)?;
            }
            match call(&self.socket) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.use_up(what);
                    self.wait(what)?;
                }
                done => return done,
            }
        }
    }

    fn send_from_file(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (file, written) = match self.file.take() {
            Some(begun) => begun,
            None => (tempfile::tempfile()?, 0),
        };
        file.write_all_at(bytes, written)?;
        let end = written + bytes.len() as u64;
        let mut at = written;
        while at < end {
            at += self.retry(For::Writing, |socket| sendfile(socket, &file, at, end - at))?;
        }
        self.file = Some((file, end));
        Ok(bytes.len())
    }
}

impl Read for Styled {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let asked = into.len();
        let reads = self.style.reads;
        let count = self.retry(For::Reading, |socket| match reads {
            Reads::Plainly => (&*socket).read(into),
            Reads::Announced => read_announced(socket, into),
            Reads::Peeked => read_peeked(socket, into),
            Reads::Vectored => {
                let (one, rest) = into.split_at_mut(1.min(asked));
                let (few, rest) = rest.split_at_mut(100.min(rest.len()));
                (&*socket).read_vectored(&mut [one, few, rest].map(IoSliceMut::new))
            }
        })?;
        let is_announced = matches!(reads, Reads::Announced);
        if count < asked && !is_announced && matches!(self.style.waits, Waits::EdgeShort) {
            self.use_up(For::Reading);
        }
        Ok(count)
    }
}

impl Write for Styled {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.style.writes {
            Writes::Plainly => self.retry(For::Writing, |mut socket| socket.write(bytes)),
            Writes::Vectored => {
                let (one, rest) = bytes.split_at(1.min(bytes.len()));
                let (half, rest) = rest.split_at(rest.len() / 2);
                let parts = [one, half, rest].map(IoSlice::new);
                self.retry(For::Writing, |mut socket| socket.write_vectored(&parts))
            }
            Writes::Sendfile => self.send_from_file(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Wire for Styled {
    fn socket(&self) -> &TcpStream {
        &self.socket
    }
}

/// What `FIONREAD` counts can be read at once. It counts nothing at the end, nor of what came before
/// the first read (README).
fn read_announced(mut socket: &TcpStream, into: &mut [u8]) -> io::Result<usize> {
    let announced = usize::try_from(ioctl_fionread(socket)?).map_err(io::Error::other)?;
    let part = announced.clamp(1, into.len().max(1)).min(into.len());
    match socket.read(&mut into[..part]) {
        Ok(count) if count == part => Ok(count),
        other if announced == 0 => other,
        other => Err(io::Error::other(format!("FIONREAD said {announced}, for {part}: {other:?}"))),
    }
}

/// What was peeked at can be read at once.
fn read_peeked(mut socket: &TcpStream, into: &mut [u8]) -> io::Result<usize> {
    let count = socket.peek(into)?;
    let seen = into[..count].to_vec();
    match socket.read(&mut into[..count]) {
        Ok(same) if same == count && seen == into[..count] => Ok(count),
        other => Err(io::Error::other(format!("peeked at {count} bytes, then {other:?}"))),
    }
}

fn patience() -> Timespec {
    Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 }
}

fn some<T: Default + PartialEq>(ready: T) -> io::Result<()> {
    if ready == T::default() { Err(ErrorKind::TimedOut.into()) } else { Ok(()) }
}

fn next_event(epoll: &OwnedFd) -> io::Result<EventFlags> {
    let mut events = Vec::with_capacity(1);
    some(epoll::wait(epoll, spare_capacity(&mut events), Some(&patience()))?)?;
    Ok(events[0].flags)
}

fn wait_in_select(socket: &TcpStream, what: For) -> io::Result<()> {
    let bound = socket.as_raw_fd() + 1;
    let mut files = vec![FdSetElement::default(); fd_set_num_elements(1, bound)];
    fd_set_insert(&mut files, socket.as_raw_fd());
    let (reading, writing) = match what {
        For::Reading => (Some(files.as_mut_slice()), None),
        For::Writing => (None, Some(files.as_mut_slice())),
    };
    // SAFETY: the only file in the sets is open.
    some(unsafe { select(bound, reading, writing, None, Some(&patience())) }?)
}

fn sendfile(socket: &TcpStream, file: &File, at: u64, count: u64) -> io::Result<u64> {
    let mut at = at.cast_signed();
    let count = usize::try_from(count).map_err(io::Error::other)?;
    // SAFETY: both files are open, and the offset is written while it is borrowed.
    let sent = unsafe { libc::sendfile(socket.as_raw_fd(), file.as_raw_fd(), &raw mut at, count) };
    u64::try_from(sent).map_err(|_| io::Error::last_os_error())
}
