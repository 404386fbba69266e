//! Which processors this process may run on, and pinning a thread to one of them.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Processors in the calling thread's affinity mask, ascending. Call it before the first thread is
/// pinned: threads inherit the mask.
///
/// # Errors
/// `EINVAL` where the kernel knows more than [`CpuSet::MAX_CPU`] (1024) processors.
pub fn allowed_cpus() -> io::Result<Vec<usize>> {
    let mask = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| mask.is_set(cpu)).collect())
}

/// Restricts the calling thread to one processor.
///
/// # Errors
/// `EINVAL` if the processor is not in the mask that the cpuset allows, or beyond
/// [`CpuSet::MAX_CPU`].
pub fn pin_current_thread(cpu: usize) -> io::Result<()> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut mask = CpuSet::new();
    mask.set(cpu);
    Ok(sched_setaffinity(None, &mask)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_may_run_on_that_processor_only() {
        let cpu = *allowed_cpus().unwrap().last().unwrap();
        let pinned = std::thread::spawn(move || {
            pin_current_thread(cpu).unwrap();
            allowed_cpus().unwrap()
        });
        assert_eq!(pinned.join().unwrap(), [cpu]);
    }

    #[test]
    fn a_processor_beyond_the_mask_is_refused() {
        assert!(pin_current_thread(CpuSet::MAX_CPU).is_err());
    }
}
