//! What a process has in the kernel, and whether it is gone.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use aya::{maps::loaded_maps, programs::loaded_programs};

/// Programs and maps by their ids.
#[derive(Debug)]
pub(crate) struct InKernel {
    pub(crate) programs: BTreeSet<u32>,
    pub(crate) maps: BTreeSet<u32>,
}

impl InKernel {
    /// What a process holds open, whether or not a program uses it.
    pub(crate) fn of(process: u32) -> InKernel {
        let mut held = InKernel { programs: BTreeSet::new(), maps: BTreeSet::new() };
        for file in fs::read_dir(format!("/proc/{process}/fdinfo")).unwrap() {
            // Files are closed while we look.
            let info = fs::read_to_string(file.unwrap().path()).unwrap_or_default();
            let id = |key: &str| {
                let id = info.lines().find_map(|line| line.strip_prefix(key))?;
                id.trim().parse::<u32>().ok()
            };
            held.programs.extend(id("prog_id:"));
            held.maps.extend(id("map_id:"));
        }
        held
    }

    /// How many programs and maps of these there are.
    fn left(&self) -> (usize, usize) {
        let programs = loaded_programs().filter_map(Result::ok);
        let maps = loaded_maps().filter_map(Result::ok);
        let programs = programs.filter(|program| self.programs.contains(&program.id()));
        let maps = maps.filter(|map| self.maps.contains(&map.id()));
        (programs.count(), maps.count())
    }

    #[track_caller]
    pub(crate) fn check_loaded(&self) {
        let (programs, maps) = (self.programs.len(), self.maps.len());
        assert!(programs > 0 && maps > 0, "{self:?}");
        assert_eq!(self.left(), (programs, maps), "{self:?}");
    }

    /// The kernel frees them some time after their last reference went.
    #[track_caller]
    pub(crate) fn check_gone(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.left() != (0, 0) {
            assert!(Instant::now() < deadline, "{:?} are left of {self:?}", self.left());
            std::thread::yield_now();
        }
    }
}

/// Everything below `/sys/fs/bpf`, where objects are pinned.
pub(crate) fn pins() -> BTreeSet<PathBuf> {
    fn walk(directory: &Path, found: &mut BTreeSet<PathBuf>) {
        // Not there where the kernel has no BPF, and gone where somebody removes it meanwhile.
        for entry in fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok) {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                walk(&entry.path(), found);
            }
            found.insert(entry.path());
        }
    }
    let mut found = BTreeSet::new();
    walk(Path::new("/sys/fs/bpf"), &mut found);
    found
}
