//! Finds the cgroup whose sockets are trusted.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};

const MOUNTS: &str = "/proc/self/mountinfo";
const OWN: &str = "/proc/self/cgroup";

/// Directory of a cgroup of version 2 that ours is in: `establish` has to see our sockets as well.
pub(super) fn trusted(cgroup: &str) -> anyhow::Result<PathBuf> {
    let mounts = fs::read_to_string(MOUNTS).with_context(|| format!("read {MOUNTS}"))?;
    let mount = mount(&mounts).context("no cgroup file system of version 2 is mounted")?;
    let own = fs::read_to_string(OWN).with_context(|| format!("read {OWN}"))?;
    let own = own_cgroup(&own).context("this process is in no cgroup of version 2")?;
    ensure!(
        Path::new(own).starts_with(cgroup),
        "this process is in the cgroup `{own}`, which is not below `{cgroup}` \
         (`kernel.same_host.cgroup`)"
    );
    let directory = Path::new(mount).join(cgroup.trim_start_matches('/'));
    ensure!(directory.is_dir(), "no cgroup `{cgroup}`: {} is not there", directory.display());
    Ok(directory)
}

/// `36 35 98:0 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw` (proc_pid_mountinfo(5)).
fn mount(mounts: &str) -> Option<&str> {
    let of_version_2 = |line: &&str| {
        line.split_once(" - ").is_some_and(|(_, rest)| rest.split(' ').next() == Some("cgroup2"))
    };
    mounts.lines().find(of_version_2)?.split(' ').nth(4)
}

/// `0::/user.slice` (cgroups(7)).
fn own_cgroup(lines: &str) -> Option<&str> {
    lines.lines().find_map(|line| line.strip_prefix("0::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_of_version_2_is_found() {
        let mounts = "30 23 0:26 / /sys/fs/cgroup ro shared:9 - tmpfs tmpfs ro,mode=755\n\
                      31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      32 30 0:28 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw\n";
        assert_eq!(mount(mounts), Some("/sys/fs/cgroup/unified"));
        assert_eq!(mount(""), None);
    }

    #[test]
    fn our_cgroup_is_that_of_version_2() {
        assert_eq!(own_cgroup("2:cpu:/a\n0::/b/c\n"), Some("/b/c"));
        assert_eq!(own_cgroup("2:cpu:/a\n"), None);
    }
}
