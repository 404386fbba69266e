//! Memory of which a part is not there until the test says so (userfaultfd(2)): whoever gives it to a
//! call stays in the middle of that call, with its socket locked.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    os::fd::{AsRawFd as _, OwnedFd},
    ptr::{null_mut, with_exposed_provenance_mut},
    slice,
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use libc::c_ulong;
use proxy::test_support::PATIENCE;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    mm::{
        Advice, MapFlags, ProtFlags, UserfaultfdFlags, madvise, mmap_anonymous, munmap, userfaultfd,
    },
};

use super::peer::{Waiting, Wire};
use crate::skip;

const PAGE: usize = 4096;
const SIZE: usize = 8 * PAGE;

// linux/userfaultfd.h; all that is asked and told are words of 64 bits.
const UFFD_API: u64 = 0xaa;
const UFFDIO_API: c_ulong = 0xc018_aa3f;
const UFFDIO_REGISTER: c_ulong = 0xc020_aa00;
const UFFDIO_REGISTER_MODE_MISSING: u64 = 1;
const UFFDIO_COPY: c_ulong = 0xc028_aa03;
const UFFD_EVENT_PAGEFAULT: u8 = 0x12;

#[must_use]
pub(super) fn skip_without_userfaultfd() -> bool {
    open().is_err() && skip("needs userfaultfd(2)")
}

fn open() -> io::Result<OwnedFd> {
    // SAFETY: what it is used for, `Trap::new` says.
    Ok(unsafe { userfaultfd(UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK) }?)
}

/// The calls that can be caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Send,
    Receive,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Step {
    #[default]
    Idle,
    Set,
    Caught,
}

/// Catches the next call of those who share it, until that is let go.
#[derive(Default)]
pub(super) struct Latch {
    step: Mutex<Step>,
    has_changed: Condvar,
}

impl Latch {
    fn step(&self) -> MutexGuard<'_, Step> {
        self.step.lock().expect("no panic")
    }

    fn change(&self, to: Step) {
        *self.step() = to;
        self.has_changed.notify_all();
    }

    /// Whether that was so in time.
    fn wait_for(&self, is_so: impl Fn(Step) -> bool) -> bool {
        let waited = self.has_changed.wait_timeout_while(self.step(), PATIENCE, |it| !is_so(*it));
        !waited.expect("no panic").1.timed_out()
    }

    pub(super) fn set(&self) {
        self.change(Step::Set);
    }

    fn is_set(&self) -> bool {
        *self.step() == Step::Set
    }

    #[track_caller]
    pub(super) fn wait_caught(&self) {
        let is_caught = self.wait_for(|step| step == Step::Caught);
        assert!(is_caught, "a call that is caught: not within {PATIENCE:?}");
    }

    pub(super) fn let_go(&self) {
        self.change(Step::Idle);
    }

    /// A page was touched.
    fn hold(&self) {
        if self.is_set() {
            self.change(Step::Caught);
            // A test that failed must not leave a thread that nobody can end.
            self.wait_for(|step| step != Step::Caught);
        }
    }
}

/// The memory. Its first page is there.
struct Trap {
    start: usize,
    uffd: Arc<OwnedFd>,
    /// What its pages have when they come.
    contents: Arc<Mutex<Vec<u8>>>,
    is_over: Arc<AtomicBool>,
    filler: Option<JoinHandle<()>>,
}

impl Trap {
    fn new(latch: Arc<Latch>) -> Trap {
        let uffd = Arc::new(open().expect("userfaultfd(2)"));
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a mapping of its own.
        let start = unsafe { mmap_anonymous(null_mut(), SIZE, access, MapFlags::PRIVATE) };
        let start = start.expect("memory").expose_provenance();
        control(&uffd, UFFDIO_API, [UFFD_API, 0, 0]);
        let range = [start as u64, SIZE as u64, UFFDIO_REGISTER_MODE_MISSING, 0];
        control(&uffd, UFFDIO_REGISTER, range);
        let contents = Arc::new(Mutex::new(vec![0; SIZE]));
        let is_over = Arc::new(AtomicBool::new(false));
        let mut trap = Trap { start, uffd, contents, is_over, filler: None };
        let (uffd, contents) = (Arc::clone(&trap.uffd), Arc::clone(&trap.contents));
        let is_over = Arc::clone(&trap.is_over);
        trap.filler = Some(thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                if let Some(page) = missing(&uffd) {
                    latch.hold();
                    fill(&uffd, page, &contents.lock().expect("no panic")[page - start..]);
                }
            }
        }));
        trap
    }

    /// So many bytes of `bytes`, the second half of which is not there yet.
    fn lay(&mut self, bytes: &[u8]) -> &mut [u8] {
        let size = bytes.len().min(SIZE - PAGE);
        let at = PAGE - (size / 2).min(PAGE);
        let start = with_exposed_provenance_mut::<u8>(self.start);
        // SAFETY: the mapping, of which nobody has a reference: they borrow this.
        unsafe { madvise(start.cast(), SIZE, Advice::LinuxDontNeed) }.expect("memory");
        let mut contents = self.contents.lock().expect("no panic");
        contents[at..at + size].copy_from_slice(&bytes[..size]);
        fill(&self.uffd, self.start, &contents);
        // SAFETY: within the mapping. Its pages are there, with plain bytes, whenever they are read.
        unsafe { slice::from_raw_parts_mut(start.wrapping_add(at), size) }
    }
}

impl Drop for Trap {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // Its panic, if there was one, has been said.
        drop(self.filler.take().map(JoinHandle::join));
        let start = with_exposed_provenance_mut(self.start);
        // SAFETY: nobody has a reference to it any more.
        let _ = unsafe { munmap(start, SIZE) };
    }
}

fn fill(uffd: &OwnedFd, page: usize, contents: &[u8]) {
    let from = contents[..PAGE].as_ptr().expose_provenance();
    control(uffd, UFFDIO_COPY, [page as u64, from as u64, PAGE as u64, 0, 0]);
}

fn control<const WORDS: usize>(uffd: &OwnedFd, request: c_ulong, mut argument: [u64; WORDS]) {
    // SAFETY: each request is made with as many words as it takes.
    let result = unsafe { libc::ioctl(uffd.as_raw_fd(), request, argument.as_mut_ptr()) };
    assert_eq!(result, 0, "{request:#x}: {}", io::Error::last_os_error());
}

/// The next page that was touched, if one is before long.
fn missing(uffd: &OwnedFd) -> Option<usize> {
    let a_while = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    poll(&mut [PollFd::new(uffd, PollFlags::IN)], Some(&a_while))
        .ok()
        .filter(|ready| *ready > 0)?;
    let mut message = [0; 32];
    rustix::io::read(uffd, &mut message).ok()?;
    let address = u64::from_ne_bytes(message[16..24].try_into().expect("eight bytes"));
    (message[0] == UFFD_EVENT_PAGEFAULT).then_some(address as usize & !(PAGE - 1))
}

/// A connection whose calls can be caught.
pub(super) struct Trapped {
    inner: Waiting,
    trap: Trap,
    call: Call,
    latch: Arc<Latch>,
}

impl Trapped {
    pub(super) fn new(inner: Waiting, call: Call, latch: &Arc<Latch>) -> Trapped {
        Trapped { inner, trap: Trap::new(Arc::clone(latch)), call, latch: Arc::clone(latch) }
    }
}

impl Read for Trapped {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.call != Call::Receive || !self.latch.is_set() {
            return self.inner.read(into);
        }
        let memory = self.trap.lay(into);
        let count = self.inner.retry(PollFlags::IN, |stream| stream.read(memory))?;
        into[..count].copy_from_slice(&memory[..count]);
        Ok(count)
    }
}

impl Write for Trapped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.call != Call::Send || !self.latch.is_set() {
            return self.inner.write(bytes);
        }
        let memory = self.trap.lay(bytes);
        self.inner.retry(PollFlags::OUT, |stream| stream.write(memory))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Wire for Trapped {
    fn socket(&self) -> &TcpStream {
        self.inner.socket()
    }
}
