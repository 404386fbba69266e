//! Tells that something has happened to a file: that it was written, replaced by a rename, or that a
//! symbolic link on the way to it was (a mounted ConfigMap is two links, and a swap replaces one).

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use rustix::io::Errno;

use crate::sys::inotify::Events;

/// Links that are followed to a file; the kernel follows as many (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// Watches the directories in which a path, and the links that it leads through, stand.
#[derive(Debug)]
pub(super) struct Watch {
    path: PathBuf,
    events: Events,
}

impl Watch {
    /// Only within a runtime.
    ///
    /// # Errors
    /// The kernel gives no inotify instance or no watch (`fs.inotify.max_user_watches`).
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        let watch = Self { path: path.to_owned(), events: Events::new()? };
        watch.watch_all()?;
        Ok(watch)
    }

    /// Waits until something has happened in one of the directories.
    ///
    /// # Errors
    /// Nothing is watched any more.
    pub(super) async fn changed(&self) -> io::Result<()> {
        self.events.happened().await?;
        // The links may lead elsewhere now.
        self.watch_all()
    }

    fn watch_all(&self) -> io::Result<()> {
        for directory in directories(&self.path) {
            match self.events.add(&directory) {
                // It is about to come back, in a directory that is watched.
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Where `path` and every link that it leads through stand, and where those directories stand.
fn directories(path: &Path) -> BTreeSet<PathBuf> {
    let mut directories = BTreeSet::new();
    let mut next = Some(path.to_owned());
    for _ in 0..LINKS_MAX {
        let Some(path) = next.take() else { break };
        // A link may stand anywhere on the way: `..data` in `..data/tandem.yaml`.
        for ancestor in path.ancestors() {
            let parent = parent_of(ancestor);
            if let Ok(target) = fs::read_link(ancestor) {
                let rest = path.strip_prefix(ancestor).unwrap_or(Path::new(""));
                next.get_or_insert_with(|| parent.join(target).join(rest));
                directories.insert(parent);
            }
        }
        directories.insert(parent_of(&path));
    }
    // A directory may be replaced, too.
    let parents: Vec<_> = directories.iter().map(|directory| parent_of(directory)).collect();
    directories.extend(parents);
    directories
}

fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        Some(_) => PathBuf::from("."),
        None => PathBuf::from("/"),
    }
}

#[cfg(test)]
mod tests;
