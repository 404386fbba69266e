//! Thin wrappers over system calls: file descriptors in, `io::Result` out, no policy, no logging.
//!
//! `rustix` and `socket2` make most calls without `unsafe`; what they lack is done here with `libc`.

pub mod affinity;
pub mod cpu_quota;
pub mod host;
pub(crate) mod inotify;
pub mod limits;
pub mod mapped;
pub mod pipe;
pub mod process;
pub mod socket;
pub mod thread;

pub use cpu_quota::cpu_quota;
