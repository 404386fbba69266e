use std::collections::HashMap;

use super::*;

const V1: &str = "32 31 0:29 / /cg/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n";
const V1_OTHER: &str = "33 31 0:30 / /cg/cpuset rw,relatime shared:4 - cgroup cgroup rw,cpuset\n";
const V2: &str = "38 31 0:35 / /cg/uni\\040fied rw,relatime - cgroup2 cgroup2 rw\n";
const V2_BELOW: &str = "38 31 0:35 /pod /cg/pod rw,relatime shared:9 - cgroup2 cgroup2 rw\n";

fn check(mounts: &str, groups: &str, files: &[(&str, &str)], expected: Option<f64>) {
    let files: HashMap<_, _> = files.iter().copied().collect();
    let read = |path: &Path| files.get(path.to_str()?).map(|text| (*text).to_owned());
    assert_eq!(smallest_quota(mounts, groups, read), expected, "{mounts}{groups}{files:?}");
}

#[test]
fn version_1_is_found_by_its_controller() {
    let files =
        [("/cg/cpu/a/cpu.cfs_quota_us", "150000\n"), ("/cg/cpu/a/cpu.cfs_period_us", "100000\n")];
    check(V1, "2:cpu,cpuacct:/a\n0::/\n", &files, Some(1.5));
    check(V1, "2:cpuacct:/a\n0::/\n", &files, None);
    check(V1_OTHER, "2:cpuset:/a\n", &files, None);
}

#[test]
fn version_2_is_found_by_its_empty_controller_list() {
    check(V2, "4:memory:/x\n0::/a\n", &[("/cg/uni fied/a/cpu.max", "50000 100000\n")], Some(0.5));
    check(V2, "4:memory:/x\n", &[("/cg/uni fied/a/cpu.max", "50000 100000\n")], None);
}

#[test]
fn no_limit_is_none() {
    check(V2, "0::/a\n", &[("/cg/uni fied/a/cpu.max", "max 100000\n")], None);
    let files = [("/cg/cpu/cpu.cfs_quota_us", "-1\n"), ("/cg/cpu/cpu.cfs_period_us", "100000\n")];
    check(V1, "1:cpu:/\n", &files, None);
    check("", "", &[], None);
    check("garbage\n", "garbage\n", &[], None);
}

#[test]
fn the_smallest_of_all_ancestors_and_versions_counts() {
    let files = [
        ("/cg/uni fied/a/b/cpu.max", "400000 100000"),
        ("/cg/uni fied/a/cpu.max", "200000 100000"),
        ("/cg/uni fied/cpu.max", "max 100000"),
        ("/cg/cpu/c/cpu.cfs_quota_us", "300000"),
        ("/cg/cpu/c/cpu.cfs_period_us", "100000"),
    ];
    check(&format!("{V1}{V2}"), "1:cpu:/c\n0::/a/b\n", &files, Some(2.0));
}

#[test]
fn a_partly_mounted_hierarchy_is_read_below_its_root() {
    check(V2_BELOW, "0::/pod/a\n", &[("/cg/pod/a/cpu.max", "25000 100000")], Some(0.25));
    check(V2_BELOW, "0::/elsewhere\n", &[("/cg/pod/cpu.max", "25000 100000")], Some(0.25));
}

#[test]
fn this_machine_has_a_positive_quota_or_none() {
    assert!(cpu_quota().is_none_or(|quota| quota > 0.0));
}
