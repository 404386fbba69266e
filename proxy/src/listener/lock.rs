//! One instance at a time binds its addresses.
//!
//! Of two sockets that are bound to an address before either listens, both get through (`SO_REUSEADDR`,
//! socket(7)), and once both set `SO_REUSEPORT` they share it. So instances that start together lock
//! the file of their network namespace, flock(2), from the first bind to the last listen.

use std::{
    fs::File,
    io,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

/// The namespace in which this thread binds; all its processes see the same inode.
const NAMESPACE: &str = "/proc/thread-self/ns/net";
/// Binding takes milliseconds, but any process of the namespace can hold the lock, and none may keep
/// us from starting.
const WAIT_MAX: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// While it lives, no other instance in this network namespace binds.
#[derive(Debug)]
pub(crate) struct BindLock {
    /// `None`: it could not be had.
    _file: Option<File>,
}

impl BindLock {
    /// Waits its turn, or goes on without and says so: if somebody holds the lock for longer than
    /// binding takes, and where there is no `/proc`.
    pub(crate) fn acquire() -> Self {
        let locked = lock(Path::new(NAMESPACE), WAIT_MAX).inspect_err(|error| {
            tracing::warn!(
                file = NAMESPACE,
                %error,
                "binding without a lock; an instance that starts at the same moment may get the same addresses"
            );
        });
        Self { _file: locked.ok() }
    }
}

/// # Errors
/// There is no such file; `EWOULDBLOCK`: somebody else has held the lock for all of `wait_max`.
fn lock(path: &Path, wait_max: Duration) -> io::Result<File> {
    let file = File::open(path)?;
    let begun = Instant::now();
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK) if begun.elapsed() < wait_max => {
                thread::park_timeout(LOOK_EVERY);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::PATIENCE;

    #[test]
    fn who_comes_second_waits_for_the_first() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let first = lock(file.path(), Duration::ZERO).unwrap();
        thread::scope(|scope| {
            let (started, has_started) = std::sync::mpsc::channel();
            let second = scope.spawn(move || {
                started.send(()).unwrap();
                lock(file.path(), PATIENCE)
            });
            has_started.recv().unwrap();
            thread::park_timeout(10 * LOOK_EVERY);
            assert!(!second.is_finished());
            drop(first);
            assert!(second.join().unwrap().is_ok());
        });
    }

    #[test]
    fn nobody_is_waited_for_without_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let _held = lock(file.path(), Duration::ZERO).unwrap();
        let error = lock(file.path(), 10 * LOOK_EVERY).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn without_proc_there_is_nothing_to_lock() {
        let error = lock(Path::new("/nowhere/ns/net"), PATIENCE).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
