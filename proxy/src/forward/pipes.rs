//! A worker's pipes for `splice(2)`: few, shared by its tunnels and bodies, held only while bytes are in
//! them.

use std::{
    cell::{Cell, RefCell},
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd},
    rc::Rc,
};

use rustix::net::{RecvFlags, recv};

use crate::{
    metrics::{GaugeGuard, PipeMetrics},
    sys::pipe::Pipe,
};

/// Pipes a worker may have at a time; two file descriptors each. A tunnel keeps one only while the
/// target takes no more, so this many stalled directions are served by `splice`, further ones by
/// copying.
const OPEN_MAX: usize = 512;
/// Empty pipes kept for the next tunnel. One costs its ring: 64 slots of 40 bytes at 256 KiB.
const IDLE_MAX: usize = 64;
/// A smaller pipe moves less with two system calls than a copy does. pipe(7) gives 8 KiB to a user
/// whose quota is used up.
const CAPACITY_MIN: usize = 64 << 10;

/// Bytes copied where `splice(2)` moves none: no more than an empty pipe takes whole.
const STEP: usize = 16 << 10;
const _: () = assert!(STEP <= CAPACITY_MIN);

/// How many pipes, how large.
#[derive(Debug, Clone, Copy)]
pub struct PipeLimits {
    /// Bytes asked for; the kernel may grant less.
    pub capacity: usize,
    pub open_max: usize,
    pub idle_max: usize,
}

impl PipeLimits {
    pub fn new(capacity: usize) -> PipeLimits {
        PipeLimits { capacity, open_max: OPEN_MAX, idle_max: IDLE_MAX }
    }
}

/// The pool of one worker.
pub struct PipePool {
    limits: PipeLimits,
    idle: RefCell<Vec<PooledPipe>>,
    open: Rc<Cell<usize>>,
    metrics: PipeMetrics,
}

impl PipePool {
    pub fn new(limits: PipeLimits, metrics: PipeMetrics) -> PipePool {
        PipePool { limits, idle: RefCell::default(), open: Rc::default(), metrics }
    }

    /// Pipes that exist, idle ones included.
    pub fn open(&self) -> usize {
        self.open.get()
    }

    /// An empty pipe; `None`: the limit is reached, or process, user or system have none to give.
    pub(crate) fn checkout(&self) -> Option<PooledPipe> {
        let idle = self.idle.borrow_mut().pop();
        idle.map(|pipe| PooledPipe { _counted: self.metrics.busy(), ..pipe })
            .or_else(|| self.open_another())
    }

    /// Takes an empty pipe back, or closes it if there are enough.
    pub(crate) fn checkin(&self, pipe: PooledPipe) {
        let mut idle = self.idle.borrow_mut();
        // Bytes left in a pipe would come out in another tunnel.
        if pipe.holds == 0 && idle.len() < self.limits.idle_max {
            idle.push(PooledPipe { _counted: self.metrics.idle(), ..pipe });
        }
    }

    fn open_another(&self) -> Option<PooledPipe> {
        if self.open.get() >= self.limits.open_max {
            return None;
        }
        let pipe = Pipe::open().ok()?;
        let capacity = pipe.grow(self.limits.capacity).or_else(|_| pipe.capacity()).ok()?;
        (capacity >= CAPACITY_MIN).then(|| PooledPipe {
            pipe,
            holds: 0,
            _counted: self.metrics.busy(),
            _place: Place::take(&self.open),
        })
    }
}

/// A pipe and how much is in it. Dropping it closes it and makes room for another.
pub(crate) struct PooledPipe {
    pipe: Pipe,
    /// Bytes in the pipe.
    holds: usize,
    /// As busy or as idle.
    _counted: GaugeGuard,
    _place: Place,
}

impl PooledPipe {
    pub(crate) fn holds(&self) -> usize {
        self.holds
    }

    /// Moves what the socket has, up to `len` bytes and as far as it fits. Returns 0 at the end of
    /// stream. Only for an empty pipe: then `WouldBlock` means that the socket is empty.
    pub(crate) fn fill(&mut self, socket: impl AsFd, len: usize) -> io::Result<usize> {
        debug_assert_eq!(self.holds, 0, "full pipe and empty socket would look the same");
        let socket = socket.as_fd();
        self.holds = match self.pipe.fill(socket, len) {
            // An urgent mark may look like either, and a socket that somebody else has put into a map of
            // his like an empty one.
            Ok(0) => self.step(socket, len)?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.step(socket, len)?,
            filled => filled?,
        };
        Ok(self.holds)
    }

    /// Copies some of what the socket has: recv(2) gets past an urgent mark, and so removes it.
    fn step(&self, socket: BorrowedFd<'_>, len: usize) -> io::Result<usize> {
        let mut buffer = [MaybeUninit::uninit(); STEP];
        let ((bytes, _), _) = recv(socket, &mut buffer[..len.min(STEP)], RecvFlags::DONTWAIT)?;
        if bytes.is_empty() {
            return Ok(0);
        }
        // An empty pipe takes so little whole, unless there is no memory for it.
        match self.pipe.write(bytes)? {
            written if written == bytes.len() => Ok(written),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    /// Moves what the socket takes. Only for a pipe that holds something: then `WouldBlock` means
    /// that the socket takes nothing now.
    pub(crate) fn empty_into(&mut self, socket: impl AsFd) -> io::Result<usize> {
        debug_assert_ne!(self.holds, 0, "empty pipe and full socket would look the same");
        let moved = self.pipe.empty_into(socket, self.holds)?;
        self.holds -= moved;
        Ok(moved)
    }
}

/// One of `PipeLimits::open_max` places.
struct Place(Rc<Cell<usize>>);

impl Place {
    fn take(open: &Rc<Cell<usize>>) -> Place {
        open.set(open.get() + 1);
        Place(Rc::clone(open))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(open_max: usize, idle_max: usize) -> PipePool {
        let limits = PipeLimits { capacity: 64 << 10, open_max, idle_max };
        PipePool::new(limits, PipeMetrics::default())
    }

    #[test]
    fn no_more_than_the_limit_are_open() {
        let pool = pool(2, 2);
        let (one, _two) = (pool.checkout().unwrap(), pool.checkout().unwrap());
        assert!(pool.checkout().is_none());
        drop(one);
        assert!(pool.checkout().is_some(), "a closed pipe makes room");
    }

    #[test]
    fn no_more_than_the_limit_are_kept() {
        let pool = pool(2, 1);
        let (one, two) = (pool.checkout().unwrap(), pool.checkout().unwrap());
        assert_eq!(pool.metrics.counts(), [2, 0]);
        pool.checkin(one);
        pool.checkin(two);
        assert_eq!((pool.open(), pool.metrics.counts()), (1, [0, 1]));
        let again = pool.checkout();
        assert_eq!((pool.open(), pool.metrics.counts()), (1, [1, 0]));
        drop(again);
        assert_eq!((pool.open(), pool.metrics.counts()), (0, [0, 0]));
    }

    #[test]
    fn a_pipe_with_bytes_in_it_is_not_kept() {
        let pool = pool(2, 2);
        let mut pipe = pool.checkout().unwrap();
        pipe.holds = 1;
        pool.checkin(pipe);
        assert_eq!(pool.open(), 0);
    }
}
