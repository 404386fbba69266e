//! What the kernel knows of a thread.

use std::mem;

/// How often the calling thread has slept: waited for something other than a processor, `ru_nvcsw` of
/// getrusage(2).
#[expect(unsafe_code, reason = "not in rustix")]
pub fn sleeps() -> u64 {
    // SAFETY: numbers, for which zeros will do.
    let mut usage: libc::rusage = unsafe { mem::zeroed() };
    // SAFETY: the kernel writes one `rusage`, which it is. It fails for a wrong address alone.
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    usage.ru_nvcsw.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use super::*;

    #[test]
    fn whoever_waits_sleeps() {
        let before = sleeps();
        thread::park_timeout(Duration::from_millis(1));
        assert!(sleeps() > before);
    }
}
