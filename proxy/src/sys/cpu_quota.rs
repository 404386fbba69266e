//! How much processor time the control groups of this process grant.
//!
//! The hierarchy may be mounted anywhere, so both versions are looked up in
//! `/proc/self/mountinfo` and `/proc/self/cgroup` (cgroups(7), proc_pid_mountinfo(5)). A limit of
//! any ancestor binds as well, hence the smallest one counts.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Processors' worth of time per wall-clock time (1.5 is one and a half); `None`: unlimited, or not
/// to be found out.
pub fn cpu_quota() -> Option<f64> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    smallest_quota(&mounts, &groups, |path| fs::read_to_string(path).ok())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// One line of mountinfo that is a control group hierarchy able to limit processor time.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    version: Version,
    /// Which group the mount point shows.
    root: PathBuf,
    mount_point: PathBuf,
}

fn smallest_quota(
    mounts: &str,
    groups: &str,
    read: impl Fn(&Path) -> Option<String>,
) -> Option<f64> {
    mounts
        .lines()
        .filter_map(hierarchy)
        .filter_map(|hierarchy| {
            let group = groups.lines().find_map(|line| group_path(line, hierarchy.version))?;
            // Seen from inside a namespace the group may lie outside the mounted part; then the
            // mount point itself is the closest that can be read.
            let below = Path::new(group).strip_prefix(&hierarchy.root).unwrap_or(Path::new(""));
            hierarchy
                .mount_point
                .join(below)
                .ancestors()
                .take_while(|directory| directory.starts_with(&hierarchy.mount_point))
                .filter_map(|directory| group_quota(directory, hierarchy.version, &read))
                .min_by(f64::total_cmp)
        })
        .min_by(f64::total_cmp)
}

/// `31 23 0:28 /root /mount/point rw,relatime shared:1 - cgroup cgroup rw,cpu,cpuacct`
fn hierarchy(line: &str) -> Option<Hierarchy> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(3);
    let (root, mount_point) = (before.next()?, before.next()?);
    let mut after = after.split(' ');
    let (kind, options) = (after.next()?, after.nth(1)?);
    let version = match kind {
        "cgroup" if options.split(',').any(|option| option == "cpu") => Version::V1,
        "cgroup2" => Version::V2,
        _ => return None,
    };
    Some(Hierarchy { version, root: unescape(root), mount_point: unescape(mount_point) })
}

/// `4:cpu,cpuacct:/a/group` of version 1, `0::/a/group` of version 2.
fn group_path(line: &str, version: Version) -> Option<&str> {
    let (_, rest) = line.split_once(':')?;
    let (controllers, path) = rest.split_once(':')?;
    let is_ours = match version {
        Version::V1 => controllers.split(',').any(|controller| controller == "cpu"),
        Version::V2 => controllers.is_empty(),
    };
    is_ours.then_some(path)
}

fn group_quota(
    directory: &Path,
    version: Version,
    read: impl Fn(&Path) -> Option<String>,
) -> Option<f64> {
    let (quota, period) = match version {
        Version::V1 => (
            read(&directory.join("cpu.cfs_quota_us"))?,
            read(&directory.join("cpu.cfs_period_us"))?,
        ),
        Version::V2 => {
            let max = read(&directory.join("cpu.max"))?;
            let (quota, period) = max.trim().split_once(' ')?;
            (quota.to_owned(), period.to_owned())
        }
    };
    // `max` of version 2 does not parse, version 1 says -1: no limit.
    let quota: f64 = quota.trim().parse().ok()?;
    let period: f64 = period.trim().parse().ok()?;
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

/// Blanks, tabs, line feeds and backslashes are written as three octal digits.
fn unescape(field: &str) -> PathBuf {
    if !field.contains('\\') {
        return field.into();
    }
    field
        .replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
        .into()
}

#[cfg(test)]
mod tests;
