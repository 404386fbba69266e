//! The access log: one line for each request and for each tunnel, as text or as JSON.
//!
//! A line is made on the worker and handed to a writer thread through a bounded queue. A full queue
//! or a failing target loses the line and counts it; a worker never waits for a disk or a pipe.
//! Everything in a line that the network chose is escaped and cut, and the query never gets here.

mod line;

use std::{
    fs::OpenOptions,
    io::{self, BufWriter, Write},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use anyhow::Context;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

use crate::{
    config::{self, LogFormat, LogTarget},
    connection::Lane,
    forward::Via,
};

/// Lines that may wait for the writer thread, all workers together; beyond it they are dropped.
// A usual line is about 200 bytes, so 1.6 MiB; at worst (line::VALUE_SIZE_MAX) about 8 KiB each.
const QUEUE_LINES_MAX: usize = 8192;

/// What is known of a request or tunnel when it has ended; `None` where it did not get that far.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    /// When its first byte arrived.
    pub at: SystemTime,
    pub downstream: SocketAddr,
    pub listener: &'a str,
    pub route: Option<&'a str>,
    pub upstream: Option<&'a str>,
    /// The last node tried.
    pub node: Option<SocketAddr>,
    pub method: Option<&'a str>,
    pub host: Option<&'a str>,
    /// As received, without the query.
    pub path: Option<&'a str>,
    /// Of the answer that left.
    pub status: Option<u16>,
    /// Body bytes to the downstream.
    pub sent_bytes: u64,
    /// Body bytes from the downstream.
    pub recv_bytes: u64,
    pub total: Duration,
    pub connect: Option<Duration>,
    /// Until the first byte of the node's answer.
    pub first_byte: Option<Duration>,
    /// Whether the upstream connection came out of the pool.
    pub is_reused: bool,
    /// `None` for a tunnel and for what never became a request.
    pub lane: Option<Lane>,
    pub via: Via,
    /// End code of the fault table, `--` for a normal end.
    pub end: &'a str,
}

/// Where lines go; cheap to clone, one clone for each worker.
#[derive(Debug, Clone)]
pub struct AccessLog {
    queue: NonBlocking,
    overflow: ErrorCounter,
    /// Lines that reached the writer thread but not the target.
    failed: Arc<AtomicU64>,
    format: LogFormat,
}

/// Keeps the writer thread; dropping it writes what still waits, for about a second at most.
#[derive(Debug)]
#[must_use = "lines are lost when the guard is dropped before the last request has ended"]
pub struct AccessLogGuard {
    _writer: WorkerGuard,
}

impl AccessLog {
    /// Opens the target and starts the writer thread. A file is appended to and, if missing, made.
    pub fn open(config: &config::AccessLog) -> anyhow::Result<(AccessLog, AccessLogGuard)> {
        let target: Box<dyn Write + Send> = match &config.target {
            LogTarget::Stdout => Box::new(io::stdout()),
            LogTarget::Stderr => Box::new(io::stderr()),
            LogTarget::File(path) => {
                let file = OpenOptions::new().append(true).create(true).open(path);
                Box::new(file.with_context(|| format!("open access log `{}`", path.display()))?)
            }
        };
        Ok(AccessLog::to(target, config.format, QUEUE_LINES_MAX))
    }

    fn to(
        target: Box<dyn Write + Send>,
        format: LogFormat,
        lines_max: usize,
    ) -> (AccessLog, AccessLogGuard) {
        let failed = Arc::new(AtomicU64::new(0));
        let target = Target { buffer: BufWriter::new(target), failed: Arc::clone(&failed) };
        let (queue, writer) = NonBlockingBuilder::default()
            .buffered_lines_limit(lines_max)
            .lossy(true)
            .thread_name("access-log")
            .finish(target);
        let log = AccessLog { overflow: queue.error_counter(), queue, failed, format };
        (log, AccessLogGuard { _writer: writer })
    }

    /// Queues one line, or counts it as dropped. Never blocks.
    pub fn write(&self, entry: &Entry<'_>) {
        let mut line = String::with_capacity(LINE_SIZE_HINT);
        match self.format {
            LogFormat::Text => line::text(&mut line, entry),
            LogFormat::Json => line::json(&mut line, entry),
        }
        // A lossy queue takes or counts the line; it has no error to tell of.
        let _ = self.queue.clone().write_all(line.as_bytes());
    }

    /// Lines lost since the start: the queue was full or the target failed.
    pub fn dropped(&self) -> u64 {
        let overflow = u64::try_from(self.overflow.dropped_lines()).unwrap_or(u64::MAX);
        overflow.saturating_add(self.failed.load(Relaxed))
    }
}

/// Most lines fit; a longer one grows.
const LINE_SIZE_HINT: usize = 512;

/// The target behind the queue: lines of one batch leave in few writes, lost ones are counted.
struct Target<W: Write> {
    buffer: BufWriter<W>,
    failed: Arc<AtomicU64>,
}

impl<W: Write> Write for Target<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.write(bytes)
    }

    /// Called with one whole line at a time.
    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        let outcome = self.buffer.write_all(line);
        if outcome.is_err() {
            self.failed.fetch_add(1, Relaxed);
        }
        outcome
    }

    /// Called when the queue is empty. What a failed flush leaves in the buffer is tried again.
    fn flush(&mut self) -> io::Result<()> {
        self.buffer.flush()
    }
}

#[cfg(test)]
mod tests;
