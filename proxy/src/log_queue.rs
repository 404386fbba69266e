//! The bounded queue between workers and a thread that writes lines.
//!
//! Lines wait one behind the other in one buffer of fixed size, which the writer swaps for its own
//! empty one: the lock is held for as long as it takes to copy a line, and nothing is allocated once
//! the log is open. A file is closed and opened again when somebody asks for it, between two lines:
//! whoever has renamed it finds a new one under the old name. Only the thread ever waits, and only in
//! a write: opening a FIFO that nobody reads fails.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    mem,
    os::{
        fd::BorrowedFd,
        unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::Errno,
};

/// What the writer gets to write what still waits when the log is closed.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(1);

/// Where lines go.
pub(crate) trait Target: Write + Send {
    /// Opens what it writes to again, if it has a name.
    ///
    /// # Errors
    /// It cannot be opened; what was open stays so.
    fn reopen(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A standard stream, or whatever else has no name.
impl Target for File {}

/// A standard stream without the buffer of this process's own, in which lines are lost uncounted.
pub(crate) fn unbuffered(stream: BorrowedFd<'_>) -> io::Result<File> {
    stream.try_clone_to_owned().map(File::from)
}

impl Target for Box<dyn Target> {
    fn reopen(&mut self) -> io::Result<()> {
        (**self).reopen()
    }
}

/// A file that is appended to and, if missing, made.
#[derive(Debug)]
pub(crate) struct AppendedFile {
    path: PathBuf,
    /// Of one that is made.
    mode: u32,
    /// `None`: it could not be opened, which is tried again with the next lines.
    file: Option<File>,
    /// Whether it was told that it cannot be opened.
    has_complained: bool,
}

impl AppendedFile {
    /// It is opened when there is something to write.
    pub(crate) fn new(path: PathBuf, mode: u32) -> Self {
        Self { path, mode, file: None, has_complained: false }
    }

    /// A FIFO that nobody reads yet is opened when somebody does.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(crate) fn open(path: PathBuf, mode: u32) -> io::Result<Self> {
        let mut file = Self::new(path, mode);
        match file.reopen() {
            Err(error) if error.kind() == NO_READER => file.complain(&error),
            opened => opened?,
        }
        Ok(file)
    }

    fn opened(&mut self) -> io::Result<&mut File> {
        if self.file.is_none()
            && let Err(error) = self.reopen()
        {
            self.complain(&error);
            return Err(error);
        }
        self.file.as_mut().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn complain(&mut self, error: &io::Error) {
        if !mem::replace(&mut self.has_complained, true) {
            tracing::warn!(path = %self.path.display(), %error, "lines are lost: no log file");
        }
    }
}

/// What the opening of a FIFO fails with that nobody reads.
const NO_READER: io::ErrorKind = io::ErrorKind::BrokenPipe;

/// Waits for nobody; writes wait, as ever.
fn open_to_append(path: &Path, mode: u32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .append(true)
        .create(true)
        .mode(mode)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    let file = options.open(path).map_err(|error| {
        let is_fifo = || fs::metadata(path).is_ok_and(|file| file.file_type().is_fifo());
        match Errno::from_io_error(&error) {
            Some(Errno::NXIO) if is_fifo() => io::Error::new(NO_READER, "nobody reads the FIFO"),
            _ => error,
        }
    })?;
    fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
    Ok(file)
}

impl Write for AppendedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.opened()?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Target for AppendedFile {
    fn reopen(&mut self) -> io::Result<()> {
        self.file = Some(open_to_append(&self.path, self.mode)?);
        self.has_complained = false;
        Ok(())
    }
}

#[derive(Debug)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    size_max: usize,
    /// Lines lost: there was no room for them, or the target failed.
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Waiting {
    /// Whole lines.
    lines: Vec<u8>,
    /// Woken when there are some and it sleeps.
    writer: Option<Thread>,
    /// The target is to be opened again, behind the lines that are there.
    wants_reopening: bool,
    is_closed: bool,
}

/// How many lines were lost since the start.
#[derive(Debug, Clone, Default)]
pub struct Dropped(Arc<AtomicU64>);

/// Keeps the writer thread; dropping it writes what still waits, for about a second at most.
#[derive(Debug)]
#[must_use = "lines are lost when the guard is dropped before the last request has ended"]
pub struct QueueGuard {
    queue: Arc<Queue>,
    /// `None`: it is closed.
    writing: Option<Writing>,
}

/// Never says anything; ends with the writer.
#[derive(Debug)]
pub(crate) struct Writing(mpsc::Receiver<()>);

/// Is told on the writer's thread, once lines are written again, how many were lost before.
pub(crate) type Regained = fn(u64);

/// Starts the writer thread.
///
/// # Errors
/// The thread cannot be created.
pub(crate) fn start(
    target: Box<dyn Target>,
    size_max: usize,
    dropped: Dropped,
    regained: Option<Regained>,
) -> io::Result<(Arc<Queue>, Writing)> {
    let waiting = Waiting {
        lines: Vec::with_capacity(size_max),
        writer: None,
        wants_reopening: false,
        is_closed: false,
    };
    let queue = Arc::new(Queue { waiting: Mutex::new(waiting), size_max, dropped: dropped.0 });
    let (is_writing, writing) = mpsc::channel();
    let writer = Writer { target, torn: Vec::new() };
    let lines = Arc::clone(&queue);
    thread::Builder::new().name("log-writer".to_owned()).spawn(move || {
        write_all(&lines, writer, regained);
        drop(is_writing);
    })?;
    Ok((queue, Writing(writing)))
}

/// What a writer thread was asked to do, beside writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Write,
    WriteAndReopen,
}

impl Queue {
    /// Takes a line, or counts it as lost if there is no room.
    pub(crate) fn push(&self, line: &[u8]) {
        let mut waiting = self.lock();
        if waiting.is_closed || line.len() > self.size_max - waiting.lines.len() {
            drop(waiting);
            self.dropped.fetch_add(1, Relaxed);
            return;
        }
        waiting.lines.extend_from_slice(line);
        wake(waiting);
    }

    /// Has the target opened again.
    pub(crate) fn reopen(&self) {
        let mut waiting = self.lock();
        waiting.wants_reopening = true;
        wake(waiting);
    }

    /// Takes no more lines. What waits is still written.
    pub(crate) fn close(&self) {
        let mut waiting = self.lock();
        waiting.is_closed = true;
        wake(waiting);
    }

    /// Swaps what waits for `empty`; waits for something to do if there is nothing. `None`: there
    /// will be no more.
    fn take(&self, empty: &mut Vec<u8>) -> Option<Turn> {
        loop {
            let mut waiting = self.lock();
            let wants_reopening = mem::take(&mut waiting.wants_reopening);
            if wants_reopening || !waiting.lines.is_empty() {
                mem::swap(&mut waiting.lines, empty);
                return Some(if wants_reopening { Turn::WriteAndReopen } else { Turn::Write });
            }
            if waiting.is_closed {
                return None;
            }
            waiting.writer = Some(thread::current());
            drop(waiting);
            thread::park();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing that runs under the lock can leave half a line.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// It is woken without the lock, which it will want.
fn wake(mut waiting: MutexGuard<'_, Waiting>) {
    let sleeping = waiting.writer.take();
    drop(waiting);
    if let Some(writer) = sleeping {
        writer.unpark();
    }
}

impl Dropped {
    pub(crate) fn of(queue: &Queue) -> Self {
        Self(Arc::clone(&queue.dropped))
    }

    /// Counts a line that nobody will read.
    pub(crate) fn lose(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    pub fn lines(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Writing {
    /// Whether the thread has ended.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.0.try_recv(), Err(mpsc::TryRecvError::Disconnected))
    }

    /// Waits for the end of the thread, until `deadline`. One whose target does not answer is left to
    /// the end of the process.
    fn wait(&self, deadline: Instant) {
        let _ = self.0.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

/// Until when the logs that are closed now may write.
pub(crate) fn closing_deadline() -> Instant {
    Instant::now() + CLOSING_TIMEOUT
}

/// Closes all of them, and waits for what still waits to be written, until `deadline`.
pub(crate) fn close<'q>(all: impl Iterator<Item = (&'q Queue, &'q Writing)>, deadline: Instant) {
    let closed = all.map(|(queue, writing)| {
        queue.close();
        writing
    });
    closed.collect::<Vec<_>>().into_iter().for_each(|writing| writing.wait(deadline));
}

impl QueueGuard {
    pub(crate) fn new(queue: &Arc<Queue>, writing: Writing) -> Self {
        Self { queue: Arc::clone(queue), writing: Some(writing) }
    }

    pub(crate) fn push(&self, line: &[u8]) {
        self.queue.push(line);
    }

    /// Writes what still waits, until `deadline`.
    pub(crate) fn close(&mut self, deadline: Instant) {
        if let Some(writing) = self.writing.take() {
            close(std::iter::once((&*self.queue, &writing)), deadline);
        }
    }
}

impl Drop for QueueGuard {
    fn drop(&mut self) {
        self.close(closing_deadline());
    }
}

/// Writes until the queue is closed and empty.
fn write_all(queue: &Queue, mut writer: Writer<impl Target>, regained: Option<Regained>) {
    let mut batch = Vec::with_capacity(queue.size_max);
    let mut told = 0;
    while let Some(turn) = queue.take(&mut batch) {
        let mut lost = writer.write(&batch);
        batch.clear();
        if turn == Turn::WriteAndReopen {
            lost += writer.reopen();
        }
        let dropped = queue.dropped.fetch_add(lost, Relaxed);
        if let Some(regained) = regained
            && lost == 0
            && dropped > told
        {
            regained(dropped - told);
            told = dropped;
        }
    }
}

/// The target behind the queue. Lines are lost whole: of one that was begun the rest is tried again,
/// in front of the next.
struct Writer<W> {
    target: W,
    torn: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Writes whole lines; how many of them were lost.
    fn write(&mut self, lines: &[u8]) -> u64 {
        let torn = mem::take(&mut self.torn);
        let written = write_some(&mut self.target, &torn);
        if written < torn.len() {
            self.torn = torn[written..].to_vec();
            return count(lines);
        }
        let written = write_some(&mut self.target, lines);
        let (before, after) = lines.split_at(written);
        if before.last().is_none_or(|last| *last == b'\n') {
            return count(after);
        }
        let end = memchr::memchr(b'\n', after).map_or(after.len(), |end| end + 1);
        self.torn = after[..end].to_vec();
        count(&after[end..])
    }
}

impl<W: Target> Writer<W> {
    /// Has the target opened again; how many lines were lost by that.
    fn reopen(&mut self) -> u64 {
        match self.target.reopen() {
            // The rest of a line is nothing to begin with.
            Ok(()) => u64::from(!mem::take(&mut self.torn).is_empty()),
            Err(error) => {
                tracing::warn!(%error, "a log is not opened again");
                0
            }
        }
    }
}

fn count(lines: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', lines).count() as u64
}

/// Writes until all is written or the target fails; how much was written.
fn write_some(target: &mut impl Write, bytes: &[u8]) -> usize {
    let mut written = 0;
    while written < bytes.len() {
        match target.write(&bytes[written..]) {
            Ok(0) => break,
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    written
}

#[cfg(test)]
pub(crate) mod tests;
