//! What is fetched or takes minutes to build, kept outside the clone and shared by every clone.
//!
//! An entry is a directory that exists only when it is complete: it is made beside its final name
//! and renamed. Two runs at once wait for each other by a file lock, which the kernel drops with
//! the process, so an interrupted run leaves nothing that has to be cleaned by hand.

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::workspace;

/// The cache directory: `$XDG_CACHE_HOME/tandem`, by default `~/.cache/tandem`.
pub(crate) struct Cache {
    directory: PathBuf,
}

impl Cache {
    /// Finds the cache directory, and makes it if it is not there.
    pub(crate) fn open() -> Result<Cache> {
        let base = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            // The specification says a relative path is to be ignored.
            .filter(|path| path.is_absolute())
            .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
            .context("neither XDG_CACHE_HOME nor HOME is set; set one of them")?;
        Cache::at(base.join("tandem"))
    }

    pub(crate) fn at(directory: PathBuf) -> Result<Cache> {
        fs::create_dir_all(&directory)
            .with_context(|| format!("make the cache directory {}", directory.display()))?;
        Ok(Cache { directory })
    }

    /// Where the entry `name` is, once it is made.
    pub(crate) fn entry(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The names of entries that begin with `prefix`, in order.
    pub(crate) fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(prefix) && entry.file_type()?.is_dir() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Makes the entry `name` by filling an empty directory, unless `is_usable` finds what is there
    /// (perhaps just made by another run) good. An entry that is no longer usable is replaced.
    pub(crate) fn entry_or_make(
        &self,
        name: &str,
        is_usable: impl Fn(&Path) -> bool,
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let entry = self.entry(name);
        if is_usable(&entry) {
            return Ok(entry);
        }
        let _lock = self.lock(name)?;
        if is_usable(&entry) {
            return Ok(entry);
        }
        let stage = self.directory.join(format!(".stage-{name}"));
        remove_if_there(&stage)?;
        fs::create_dir(&stage).with_context(|| format!("make {}", stage.display()))?;
        if let Err(error) = fill(&stage) {
            remove_if_there(&stage)?;
            return Err(error);
        }
        remove_if_there(&entry)?;
        fs::rename(&stage, &entry)
            .with_context(|| format!("put {} in place", workspace::shown(&entry)))?;
        Ok(entry)
    }

    fn lock(&self, name: &str) -> Result<File> {
        lock(&self.directory.join(format!(".lock-{name}")))
    }
}

/// Holds the lock file `path` until the returned file is dropped.
pub(crate) fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| format!("open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            println!("waiting for another run that holds {}", workspace::shown(path));
            file.lock().with_context(|| format!("lock {}", path.display()))?;
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("lock {}", path.display()));
        }
    }
    Ok(file)
}

fn remove_if_there(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("remove {}", directory.display())),
    }
}

#[cfg(test)]
mod tests;
