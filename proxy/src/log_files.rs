//! The files that loggers write to: one writer for each path, however many routes lead to it.
//!
//! A file is open as long as any rules name it. Lines are made on the workers and written by a thread
//! of the file's own; a queue that is full, or a file that cannot be written, loses lines and counts
//! them.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Instant,
};

use crate::log_queue::{self, AppendedFile, Dropped, Queue, Writing};

/// Bytes of lines that may wait for one file; beyond it lines are dropped. There are two such buffers
/// for each, of which only what was ever used is resident.
const QUEUE_SIZE_MAX: usize = 4 << 20;
/// Files that one configuration may name.
pub const FILES_MAX: usize = 64;
/// Of a file that is made: nobody's business but the operator's.
const FILE_MODE: u32 = 0o640;

/// All of them.
#[derive(Debug, Default)]
pub struct LogFiles {
    files: Mutex<Files>,
}

#[derive(Debug, Default)]
struct Files {
    open: HashMap<Arc<Path>, Weak<Open>>,
    /// Every writer that has not ended.
    writers: Vec<(Arc<Queue>, Writing)>,
}

/// A file to write lines to; cheap to clone. The last one closes it, and waits for nothing.
#[derive(Debug, Clone)]
pub struct LogFile(Arc<Open>);

#[derive(Debug)]
struct Open {
    /// `None`: there is no thread to write it.
    queue: Option<Arc<Queue>>,
    dropped: Dropped,
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(queue) = &self.queue {
            queue.close();
        }
    }
}

impl LogFile {
    /// Queues a line, or counts it as dropped. Never waits for the file.
    pub fn write(&self, line: &[u8]) {
        match &self.0.queue {
            Some(queue) => queue.push(line),
            None => self.lose(),
        }
    }

    /// Counts a line that is not written.
    pub fn lose(&self) {
        self.0.dropped.lose();
    }
}

impl LogFiles {
    /// The file of this path.
    pub fn open(&self, path: &Path) -> LogFile {
        let mut files = self.lock();
        if let Some(open) = files.open.get(path).and_then(Weak::upgrade) {
            return LogFile(open);
        }
        files.open.retain(|_, open| open.strong_count() > 0);
        files.writers.retain(|(_, writing)| !writing.is_over());
        let open = Arc::new(files.start(path.to_owned()));
        files.open.insert(path.into(), Arc::downgrade(&open));
        LogFile(open)
    }

    /// Has every file opened again.
    pub fn reopen(&self) {
        self.lock().writers.iter().for_each(|(queue, _)| queue.reopen());
    }

    /// Lines that were lost, by path.
    pub fn dropped(&self) -> Vec<(String, u64)> {
        let lines = |(path, open): (&Arc<Path>, &Weak<Open>)| {
            Some((path.display().to_string(), open.upgrade()?.dropped.lines()))
        };
        self.lock().open.iter().filter_map(lines).collect()
    }

    /// Writes what still waits, until `deadline`. Nothing is written any more.
    pub fn close(&self, deadline: Instant) {
        let writers = std::mem::take(&mut self.lock().writers);
        log_queue::close(writers.iter().map(|(queue, writing)| (&**queue, writing)), deadline);
    }

    /// Keeps everybody else waiting who opens files.
    #[cfg(test)]
    pub(crate) fn hold(&self) -> impl Sized {
        self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Files> {
        // Nothing that runs under the lock can leave half an entry.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Files {
    fn start(&mut self, path: PathBuf) -> Open {
        let dropped = Dropped::default();
        let target = Box::new(AppendedFile::new(path, FILE_MODE));
        match log_queue::start(target, QUEUE_SIZE_MAX, dropped.clone(), None) {
            Ok((queue, writing)) => {
                self.writers.push((Arc::clone(&queue), writing));
                Open { queue: Some(queue), dropped }
            }
            Err(error) => {
                tracing::error!(%error, "no thread for a log file: its lines are lost");
                Open { queue: None, dropped }
            }
        }
    }
}

#[cfg(test)]
mod tests;
