//! Limits of the process, and how it gets its memory.

use std::io;

use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::disable_transparent_huge_pages,
};

/// Raises the soft limit of open files to the hard one; returns the soft limit then in force
/// (`u64::MAX` when there is none).
///
/// # Errors
/// `EPERM` where a security module forbids it; the old limit stays.
pub fn raise_open_files() -> io::Result<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    }
    Ok(maximum.unwrap_or(u64::MAX))
}

/// Has the kernel give memory in small pages from now on, `PR_SET_THP_DISABLE` of prctl(2). The
/// allocator asks for huge ones, of 2 MiB, which a few connections keep whole.
///
/// # Errors
/// `EINTR`: a signal came first.
pub fn use_small_pages() -> io::Result<()> {
    Ok(disable_transparent_huge_pages(true)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_equals_hard_afterwards() {
        let soft = raise_open_files().unwrap();
        let now = getrlimit(Resource::Nofile);
        assert_eq!(now.current, now.maximum);
        assert_eq!(soft, now.current.unwrap_or(u64::MAX));
    }
}
