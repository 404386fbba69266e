use std::io::Read as _;

use rustix::fs::{CWD, FileType, Mode, mknodat};

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

impl Target for Filling {
    fn reopen(&mut self) -> io::Result<()> {
        if self.taken.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        *self = Filling { room: 100, taken: Vec::new() };
        Ok(())
    }
}

#[test]
fn a_line_that_was_begun_does_not_go_on_in_another_file() {
    let mut writer = Writer { target: Filling { room: 0, taken: Vec::new() }, torn: Vec::new() };
    assert_eq!((writer.write(b"none\n"), writer.reopen()), (1, 0), "nothing is open");
    writer.target.room = 5;
    assert_eq!(writer.write(b"one\ntwo\n"), 0, "`two` is begun");
    assert_eq!((writer.reopen(), writer.write(b"three\n"), writer.reopen()), (1, 0, 0));
    assert_eq!(writer.write(b"four\n"), 0);
    assert_eq!(writer.target.taken, b"four\n");
}

/// Tells when a write has begun, which then waits to go on: once more for each message, and no more
/// when nobody can send one.
pub(crate) struct Stalled {
    begun: mpsc::Sender<()>,
    go_on: Mutex<mpsc::Receiver<()>>,
}

impl Stalled {
    /// With what tells and what releases.
    pub(crate) fn new() -> (Box<Stalled>, mpsc::Receiver<()>, mpsc::Sender<()>) {
        let (begun, has_begun) = mpsc::channel();
        let (release, go_on) = mpsc::channel();
        (Box::new(Stalled { begun, go_on: Mutex::new(go_on) }), has_begun, release)
    }
}

impl Target for Stalled {}

impl Write for Stalled {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.begun.send(());
        let _ = self.go_on.lock().unwrap().recv();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_was_lost_is_told_once_lines_are_written_again() {
    static TOLD: AtomicU64 = AtomicU64::new(0);
    let (target, has_begun, release) = Stalled::new();
    let regained: Regained = |lines| {
        TOLD.fetch_add(lines, Relaxed);
    };
    let started = start(target, b"two\n".len(), Dropped::default(), Some(regained));
    let (queue, writing) = started.unwrap();
    let guard = QueueGuard::new(&queue, writing);
    queue.push(b"one\n");
    has_begun.recv_timeout(CLOSING_TIMEOUT * 10).unwrap();
    for line in ["two\n", "3\n", "4\n"] {
        queue.push(line.as_bytes());
    }
    assert_eq!((queue.dropped.load(Relaxed), TOLD.load(Relaxed)), (2, 0));
    release.send(()).unwrap();
    has_begun.recv_timeout(CLOSING_TIMEOUT * 10).unwrap();
    assert_eq!(TOLD.load(Relaxed), 2, "told behind the first batch");
    drop(release);
    drop(guard);
    assert_eq!((queue.dropped.load(Relaxed), TOLD.load(Relaxed)), (2, 2));
}

#[test]
fn a_fifo_is_opened_once_somebody_reads_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fifo");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let mut fifo = AppendedFile::open(path.clone(), 0o600).unwrap();
    assert_eq!(fifo.write(b"lost\n").unwrap_err().kind(), NO_READER);
    assert_eq!(fifo.reopen().unwrap_err().kind(), NO_READER);
    let mut options = OpenOptions::new();
    let reader = options.read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    let mut reader = reader.open(&path).unwrap();
    assert_eq!(fifo.write(b"kept\n").unwrap(), 5);
    let file = fifo.file.as_ref().unwrap();
    assert!(!fcntl_getfl(file).unwrap().contains(OFlags::NONBLOCK), "its writes wait");
    let mut text = [0; 16];
    assert_eq!(reader.read(&mut text).unwrap(), 5);
    drop(reader);
    assert_eq!(fifo.write(b"lost\n").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
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
