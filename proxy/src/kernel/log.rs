//! What the programs log, for debugging. In a release build their level is 0 and nothing is read:
//! the kernel half counts, it does not log.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    thread::JoinHandle,
};

use anyhow::Context as _;
use aya::Ebpf;
use aya_log::EbpfLogger;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

/// Level given to the programs (`AYA_LOG_LEVEL`): 0 off, 1 error to 5 trace.
pub(super) const LEVEL: u8 = level(cfg!(debug_assertions));

const fn level(is_debug_build: bool) -> u8 {
    if is_debug_build { 4 } else { 0 }
}

/// The ring they log through, and its bytes: one page where nothing is logged.
pub(super) const RING: &str = "AYA_LOGS";
pub(super) const RING_SIZE: u32 = if cfg!(debug_assertions) { 128 * 1024 } else { 4096 };

/// A thread that turns log records of the programs into events. Dropping it ends the thread.
#[derive(Debug)]
pub(super) struct LogReader {
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl LogReader {
    pub(super) fn start(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let logger = EbpfLogger::init_with_logger(ebpf, ToTracing).context("open the log ring")?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC).context("eventfd")?;
        let stopped = stop.try_clone().context("eventfd")?;
        let thread = std::thread::Builder::new()
            .name("bpf-log".to_owned())
            .spawn(move || read(logger, &stopped))
            .context("start the thread `bpf-log`")?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

fn read(mut logger: EbpfLogger<ToTracing>, stopped: &OwnedFd) {
    loop {
        logger.flush();
        let ring = logger.as_fd();
        let mut fds = [PollFd::new(&ring, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
        let waited = poll(&mut fds, None);
        let [_, stop] = fds;
        if !stop.revents().is_empty() || waited.is_err_and(|error| error != rustix::io::Errno::INTR)
        {
            return;
        }
    }
}

impl Drop for LogReader {
    fn drop(&mut self) {
        let told = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let (Ok(_), Some(thread)) = (told, self.thread.take())
            && thread.join().is_err()
        {
            tracing::error!("thread `bpf-log` panicked");
        }
    }
}

/// Hands records of the `log` crate, which aya-log speaks, to tracing.
struct ToTracing;

impl ::log::Log for ToTracing {
    fn enabled(&self, _: &::log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &::log::Record<'_>) {
        tracing::debug!(program = record.target(), "{}", record.args());
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A level of 0 also keeps the reader's thread from being started.
    #[test]
    fn a_release_logs_nothing() {
        assert_eq!(level(false), 0);
        assert_eq!(LEVEL == 0, !cfg!(debug_assertions));
    }
}
