//! The bounded queue between workers and the thread that writes.
//!
//! Lines wait one behind the other in one buffer of fixed size, which the writer swaps for its own
//! empty one: the lock is held for as long as it takes to copy a line, and nothing is allocated once
//! the log is open.

use std::{
    io::{self, Write},
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread::{self, Thread},
    time::Duration,
};

/// What the writer gets to write what still waits when the log is closed.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Queue {
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
    is_closed: bool,
}

/// How many lines were lost since the start.
#[derive(Debug, Clone)]
pub struct Dropped(Arc<AtomicU64>);

/// Keeps the writer thread; dropping it writes what still waits, for about a second at most.
#[derive(Debug)]
#[must_use = "lines are lost when the guard is dropped before the last request has ended"]
pub struct AccessLogGuard {
    queue: Arc<Queue>,
    /// Never says anything; ends with the writer.
    writing: mpsc::Receiver<()>,
}

/// Starts the writer thread.
///
/// # Errors
/// The thread cannot be created.
pub(super) fn start(
    target: Box<dyn Write + Send>,
    size_max: usize,
) -> io::Result<(Arc<Queue>, AccessLogGuard)> {
    let waiting = Waiting { lines: Vec::with_capacity(size_max), writer: None, is_closed: false };
    let dropped = Arc::default();
    let queue = Arc::new(Queue { waiting: Mutex::new(waiting), size_max, dropped });
    let (is_writing, writing) = mpsc::channel();
    let writer = Writer { target, torn: Vec::new() };
    let lines = Arc::clone(&queue);
    thread::Builder::new().name("access-log".to_owned()).spawn(move || {
        write_all(&lines, writer);
        drop(is_writing);
    })?;
    Ok((Arc::clone(&queue), AccessLogGuard { queue, writing }))
}

impl Queue {
    /// Takes a line, or counts it as lost if there is no room.
    pub(super) fn push(&self, line: &[u8]) {
        let mut waiting = self.lock();
        if waiting.is_closed || line.len() > self.size_max - waiting.lines.len() {
            drop(waiting);
            self.dropped.fetch_add(1, Relaxed);
            return;
        }
        waiting.lines.extend_from_slice(line);
        let sleeping = waiting.writer.take();
        // It is woken without the lock, which it will want.
        drop(waiting);
        if let Some(writer) = sleeping {
            writer.unpark();
        }
    }

    /// Swaps what waits for `empty`; waits for lines if there are none. `false`: none will come.
    fn take(&self, empty: &mut Vec<u8>) -> bool {
        loop {
            let mut waiting = self.lock();
            if !waiting.lines.is_empty() {
                mem::swap(&mut waiting.lines, empty);
                return true;
            }
            if waiting.is_closed {
                return false;
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

impl Dropped {
    pub(super) fn of(queue: &Queue) -> Self {
        Self(Arc::clone(&queue.dropped))
    }

    pub fn lines(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Drop for AccessLogGuard {
    fn drop(&mut self) {
        let mut waiting = self.queue.lock();
        waiting.is_closed = true;
        let sleeping = waiting.writer.take();
        drop(waiting);
        if let Some(writer) = sleeping {
            writer.unpark();
        }
        // A writer whose target does not answer is left to the end of the process.
        let _ = self.writing.recv_timeout(CLOSING_TIMEOUT);
    }
}

/// Writes until the queue is closed and empty.
fn write_all(queue: &Queue, mut writer: Writer<impl Write>) {
    let mut batch = Vec::with_capacity(queue.size_max);
    while queue.take(&mut batch) {
        let lost = writer.write(&batch);
        queue.dropped.fetch_add(lost, Relaxed);
        batch.clear();
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
mod tests {
    use super::*;

    /// Takes `room` bytes and fails from then on.
    struct Filling {
        room: usize,
        taken: Vec<u8>,
    }

    impl Write for Filling {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.room);
            if count == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.taken.extend_from_slice(&bytes[..count]);
            self.room -= count;
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_target_that_fails_loses_whole_lines_and_counts_them() {
        let target = Filling { room: 5, taken: Vec::new() };
        let mut writer = Writer { target, torn: Vec::new() };
        assert_eq!(writer.write(b"one\ntwo\nthree\n"), 1, "`two` is begun");
        assert_eq!(writer.write(b"four\nfive\n"), 2);
        writer.target.room = 1;
        assert_eq!(writer.write(b"six\n"), 1);
        writer.target.room = 6;
        assert_eq!(writer.write(b"seven\n"), 0, "begun");
        writer.target.room = 100;
        assert_eq!(writer.write(b"eight\n"), 0);
        assert_eq!(String::from_utf8_lossy(&writer.target.taken), "one\ntwo\nseven\neight\n");
        writer.target.room = 0;
        assert_eq!(writer.write(b"nine\nten\n"), 2);
        writer.target.room = 100;
        assert_eq!(writer.write(b"eleven\n"), 0);
        assert!(writer.target.taken.ends_with(b"eight\neleven\n"));
    }
}
