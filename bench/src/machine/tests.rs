use std::time::Duration;

use super::*;

fn process(parent: u32, own: u64, children: u64) -> ProcessTicks {
    ProcessTicks { parent, is_kernel_thread: false, own, children }
}

#[test]
fn the_summary_line_of_proc_stat_is_split_into_busy_idle_and_stolen() {
    let stat = "cpu  27414 5 3762 166297 712 7 44 53 9 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n";
    let expected = CpuTicks { busy: 27414 + 5 + 3762 + 7 + 44, idle: 166_297 + 712, stolen: 53 };
    assert_eq!(CpuTicks::parse(stat).unwrap(), expected);
    for wrong in ["", "cpu 1 2 3", "cpu a b c d e f g h", "intr 1\ncpu  1 2 3 4 5 6 7 8"] {
        assert!(CpuTicks::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_process_name_with_parentheses_and_blanks_does_not_shift_the_fields() {
    let rest = "S 7 1 1 0 -1 4194560 0 0 0 0 11 12 13 14 20 0 1 0";
    let expected = ProcessTicks { parent: 7, is_kernel_thread: false, own: 23, children: 27 };
    for name in ["a", "a b", "a) S 9 (b", ")"] {
        assert_eq!(ProcessTicks::parse(&format!("42 ({name}) {rest}")), Some(expected), "{name}");
    }
    let kernel = "3 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 5 0 0 20 0 1 0";
    assert!(ProcessTicks::parse(kernel).is_some_and(|ticks| ticks.is_kernel_thread));
    assert_eq!(ProcessTicks::parse("42 (a) S 7"), None);
}

#[test]
fn a_tree_has_grandchildren_and_no_strangers() {
    let processes = BTreeMap::from([
        (1, process(0, 0, 0)),
        (5, process(1, 0, 0)),
        (6, process(5, 0, 0)),
        (4, process(6, 0, 0)),
        (9, process(1, 0, 0)),
    ]);
    assert_eq!(tree(&[5], &processes), BTreeSet::from([4, 5, 6]));
    assert_eq!(tree(&[77], &processes), BTreeSet::from([77]));
}

#[test]
fn processor_time_is_dealt_to_proxy_and_foreigners() {
    let at = Instant::now();
    let before = Snapshot {
        at,
        cpu: CpuTicks { busy: 1000, idle: 1000, stolen: 0 },
        processes: BTreeMap::from([
            (1, process(0, 50, 500)),
            (10, process(1, 100, 0)),
            (11, process(10, 5, 0)),
            (13, process(1, 3, 0)),
        ]),
    };
    let after = Snapshot {
        at: at + Duration::from_secs(2),
        cpu: CpuTicks { busy: 1290, idle: 1098, stolen: 2 },
        processes: BTreeMap::from([
            // Two children of init have ended: 13, and one that began and ended in between.
            (1, process(0, 51, 507)),
            (10, process(1, 180, 0)),
            (11, process(10, 145, 0)),
            (12, process(1, 2, 900)),
        ]),
    };
    let used = CpuUse::between(&before, &after, Some(11), &[10], 2);
    assert_eq!((used.busy_seconds, used.proxy_seconds, used.foreign_seconds), (3.0, 1.4, 0.07));
    assert!((used.accounted - 0.975).abs() < 1e-9);
    assert_eq!(used.objection(), None);
    assert!(CpuUse { foreign_seconds: 0.09, ..used.clone() }.objection().is_some());
    assert!(CpuUse { stolen_seconds: 0.13, ..used.clone() }.objection().is_some());
    assert!(CpuUse { accounted: 0.89, ..used.clone() }.objection().is_some());
    assert!(CpuUse { accounted: 1.04, ..used }.objection().is_some());
}

#[test]
fn memory_is_read_in_bytes() {
    let sockstat =
        "sockets: used 9\nTCP: inuse 5 orphan 0 tw 2 alloc 6 mem 3\nUDP: inuse 0 mem 7\n";
    let meminfo = "MemTotal: 1 kB\nSUnreclaim:       20 kB\n";
    let expected = KernelMemory { tcp_bytes: 12288, slab_bytes: 20480 };
    assert_eq!(KernelMemory::parse(sockstat, meminfo, 4096), Some(expected));
    assert_eq!(KernelMemory::parse("UDP: inuse 0 mem 7", meminfo, 4096), None);
}
