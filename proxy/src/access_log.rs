//! The access log: one line for each request and for each tunnel, as text or as JSON.
//!
//! A line is made on the worker and handed to a writer thread through a bounded queue. A full queue
//! or a failing target loses the line and counts it; a worker never waits for a disk or a pipe, and
//! allocates nothing. Everything in a line that the network chose is escaped and cut, and the query
//! never gets here.

mod line;

use std::{
    cell::RefCell,
    io,
    net::SocketAddr,
    os::fd::AsFd as _,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context;

pub(crate) use self::line::DateTime;
use crate::{
    config::{self, LogFormat, LogTarget},
    connection::Lane,
    forward::Via,
    log_queue::{self, AppendedFile, Dropped, Queue, QueueGuard, Target},
};

/// Bytes of lines that may wait for the writer thread, all workers together; beyond it lines are
/// dropped.
// A usual line is about 200 bytes, so 10 000 of them. There are two such buffers, of which only what
// was ever used is resident.
const QUEUE_SIZE_MAX: usize = 2 << 20;
/// Of a file that is made; the umask takes from it.
const FILE_MODE: u32 = 0o666;

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
    queue: Arc<Queue>,
    format: LogFormat,
    /// Each line is made in here.
    line: RefCell<String>,
}

impl AccessLog {
    /// Opens the target and starts the writer thread. A file is appended to and, if missing, made.
    pub fn open(config: &config::AccessLog) -> anyhow::Result<(AccessLog, QueueGuard)> {
        let stream = |fd| log_queue::unbuffered(fd).context("access log");
        let target: Box<dyn Target> = match &config.target {
            LogTarget::Stdout => Box::new(stream(io::stdout().as_fd())?),
            LogTarget::Stderr => Box::new(stream(io::stderr().as_fd())?),
            LogTarget::File(path) => {
                let file = AppendedFile::open(path.clone(), FILE_MODE);
                Box::new(file.with_context(|| format!("open access log `{}`", path.display()))?)
            }
        };
        AccessLog::to(target, config.format, QUEUE_SIZE_MAX)
    }

    fn to(
        target: Box<dyn Target>,
        format: LogFormat,
        size_max: usize,
    ) -> anyhow::Result<(AccessLog, QueueGuard)> {
        let started = log_queue::start(target, size_max, Dropped::default(), None);
        let (queue, writing) = started.context("access-log thread")?;
        let guard = QueueGuard::new(&queue, writing);
        let line = RefCell::new(String::with_capacity(LINE_SIZE_HINT));
        Ok((AccessLog { queue, format, line }, guard))
    }

    /// Queues one line, or counts it as dropped. Never waits for the target.
    pub fn write(&self, entry: &Entry<'_>) {
        let mut line = self.line.borrow_mut();
        line.clear();
        match self.format {
            LogFormat::Text => line::text(&mut line, entry),
            LogFormat::Json => line::json(&mut line, entry),
        }
        self.queue.push(line.as_bytes());
    }

    /// Has the file opened again that lines go to.
    pub fn reopen(&self) {
        self.queue.reopen();
    }

    pub fn dropped(&self) -> Dropped {
        Dropped::of(&self.queue)
    }
}

/// Most lines fit; a longer one grows.
const LINE_SIZE_HINT: usize = 512;

#[cfg(test)]
mod tests;
