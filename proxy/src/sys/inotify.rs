//! Events of directories, as a future (inotify(7)).

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    path::Path,
};

use rustix::{
    fs::inotify::{self, CreateFlags, WatchFlags},
    io::Errno,
};
use tokio::io::{Interest, unix::AsyncFd};

/// What happens in directories from when they are added on.
#[derive(Debug)]
pub(crate) struct Events(AsyncFd<Instance>);

#[derive(Debug)]
struct Instance(OwnedFd);

impl AsRawFd for Instance {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Events {
    /// Only within a runtime.
    ///
    /// # Errors
    /// The kernel gives no instance (`fs.inotify.max_user_instances`).
    #[expect(unsafe_code, reason = "registers a descriptor that it owns")]
    pub(crate) fn new() -> io::Result<Self> {
        let instance = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        // SAFETY: the descriptor is owned by what is registered, which gives it to nobody and closes
        // it only when it is dropped, behind the registration.
        let registered =
            unsafe { AsyncFd::register_with_interest(Instance(instance), Interest::READABLE) };
        registered.map(Self).map_err(|error| error.into_parts().1)
    }

    /// Tells of files that are created, written, renamed into `directory`, made readable or deleted
    /// there, and of the directory's own end. Adding
    /// one again changes nothing.
    pub(crate) fn add(&self, directory: &Path) -> Result<(), Errno> {
        let flags = WatchFlags::CREATE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        inotify::add_watch(&self.0.get_ref().0, directory, flags).map(drop)
    }

    /// Waits until something has happened, and takes all there is; which events they are is not told.
    pub(crate) async fn happened(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(taken) = ready.try_io(|instance| take_all(&instance.get_ref().0)) {
                return taken;
            }
        }
    }
}

fn take_all(instance: &OwnedFd) -> io::Result<()> {
    let mut buffer = [0; 4096];
    let mut has_read = false;
    loop {
        match rustix::io::read(instance, &mut buffer) {
            Ok(_) => has_read = true,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if has_read => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
