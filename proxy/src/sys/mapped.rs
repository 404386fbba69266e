//! Memory shared with the kernel: a BPF array as a run of words.

use std::{
    io,
    os::fd::AsFd,
    ptr::{self, NonNull},
    sync::atomic::AtomicU64,
};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// The values of a BPF array map that was created with `BPF_F_MMAPABLE` (v5.5), as 64-bit words.
/// Reading and writing them costs no system call.
#[derive(Debug)]
pub struct MappedWords {
    base: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: the mapping belongs to this value alone until it is dropped, and is only accessed through
// `&AtomicU64`.
#[expect(unsafe_code, reason = "shared memory, accessed atomically")]
unsafe impl Send for MappedWords {}
// SAFETY: as for `Send`.
#[expect(unsafe_code, reason = "shared memory, accessed atomically")]
unsafe impl Sync for MappedWords {}

impl MappedWords {
    /// Maps the first `count` words of the map.
    ///
    /// # Errors
    /// `EINVAL`: the map is shorter. `ENOTSUPP`, `EPERM`: it cannot be mapped.
    #[expect(unsafe_code, reason = "memory mapping")]
    pub fn map(map: impl AsFd, count: usize) -> io::Result<MappedWords> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let length = count * size_of::<u64>();
        // SAFETY: the kernel chooses where; nothing else is mapped over.
        let base = unsafe { mmap(ptr::null_mut(), length, access, MapFlags::SHARED, map, 0) }?;
        // mmap never returns the null page unless it is asked for it.
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(MappedWords { base, count })
    }

    /// `None` past the end.
    #[expect(unsafe_code, reason = "memory mapping")]
    pub fn word(&self, index: usize) -> Option<&AtomicU64> {
        if index >= self.count {
            return None;
        }
        // SAFETY: the index is within the mapping.
        let word = unsafe { self.base.add(index) };
        // SAFETY: the mapping starts at a page, so words are aligned; it lives as long as `self`; a
        // word may have any value, and nobody has `&mut` to it.
        Some(unsafe { word.as_ref() })
    }
}

impl Drop for MappedWords {
    #[expect(unsafe_code, reason = "memory mapping")]
    fn drop(&mut self) {
        let length = self.count * size_of::<u64>();
        // SAFETY: maps what `map` mapped, once, and no reference is left.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), length) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[test]
    fn words_are_shared_with_whoever_maps_the_same() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let (one, other) =
            (MappedWords::map(&file, 512).unwrap(), MappedWords::map(&file, 512).unwrap());
        one.word(511).unwrap().store(7, Relaxed);
        assert_eq!(other.word(511).unwrap().load(Relaxed), 7);
        assert!(one.word(512).is_none());
    }
}
