//! The BPF object as built: programs, maps, their sizes and the globals, read from the ELF file.

use std::mem::size_of;

use aya_obj::{
    EbpfSectionKind, Map, Object, ProgramSection,
    generated::bpf_map_type::{self, *},
    maps::PinningType,
    programs::{SkReuseportAttachType, SkSkbKind, XdpAttachType},
};
use proxy::kernel;
use proxy_common::{
    ABI_VERSION, Reason,
    addr::{Destination, Source},
    bypass::{Bypass, Client},
    globals,
    guard::{Bucket, FloodGauge, Rule},
    leg::{Delivered, Key, Leg, Member, Received, Switch},
    limits, names,
    steering::{DrainedWorkers, Listener},
    tunnel::{Control, Flow},
};

/// The embedded object. Without one there is nothing to check, and says so.
#[expect(clippy::unwrap_used, reason = "fails the test")]
#[expect(clippy::print_stdout, reason = "the test runner counts the lines `skipped: …`")]
fn object() -> Option<Object> {
    let Some(object) = kernel::object() else {
        let reason = "needs the BPF object (cargo xtask build-ebpf)";
        let asked = std::env::var("KERNEL_TESTS").unwrap_or_default();
        assert_ne!(asked, "require", "KERNEL_TESTS=require, but this test {reason}");
        println!("skipped: {reason}");
        return None;
    };
    Some(Object::parse(object).unwrap())
}

/// Programs of the object, and where they attach.
#[test]
fn every_program_is_there_with_its_type() {
    let Some(object) = object() else { return };
    let section = |name| &object.programs[name].section;
    assert!(matches!(
        section(names::INGRESS),
        ProgramSection::Xdp { frags: true, attach_type: XdpAttachType::Interface }
    ));
    assert!(matches!(
        section(names::WORKER),
        ProgramSection::SkReuseport { attach_type: SkReuseportAttachType::SelectOrMigrate }
    ));
    let tunnel = section(names::TUNNEL);
    assert!(matches!(tunnel, ProgramSection::SkSkbStream { kind: SkSkbKind::StreamVerdict }));
    assert!(matches!(section(names::ESTABLISH), ProgramSection::SockOps));
    assert!(matches!(section(names::LOCAL), ProgramSection::SkMsg));
    assert!(matches!(section(names::UNREAD), ProgramSection::SchedClassifier));
    assert!(matches!(section(names::REMOTE), ProgramSection::SchedClassifier));
    assert!(matches!(section(names::BYPASS), ProgramSection::BtfTracePoint));
    assert_eq!(object.programs.len(), 8);
    assert_eq!(object.license.to_bytes(), b"Dual MIT/GPL");
}

#[track_caller]
fn check_map<K, V>(object: &Object, name: &str, kind: bpf_map_type, entries_max: u32) {
    let map: &Map = object.maps.get(name).unwrap_or_else(|| panic!("no map `{name}`"));
    assert_eq!(map.map_type(), kind as u32, "{name}");
    assert_eq!(map.key_size() as usize, size_of::<K>(), "key of {name}");
    assert_eq!(map.value_size() as usize, size_of::<V>(), "value of {name}");
    assert_eq!(map.max_entries(), entries_max, "{name}");
}

/// An LPM key: the prefix length stands before the address, unpadded.
#[repr(C, packed)]
struct Prefix<const N: usize> {
    _length: u32,
    _address: [u8; N],
}

#[test]
fn every_map_has_the_shared_layout() {
    let Some(object) = object() else { return };
    let sockets = limits::LISTENERS_MAX * limits::WORKERS_MAX;
    let (rules, reasons) = (limits::PREFIXES_MAX, Reason::COUNT as u32);
    let o = &object;
    check_map::<u32, u64>(o, names::COUNT_BY_REASON, BPF_MAP_TYPE_PERCPU_ARRAY, reasons);
    check_map::<Destination, Listener>(
        o,
        names::LISTENER_BY_DST,
        BPF_MAP_TYPE_HASH,
        limits::DESTINATIONS_MAX,
    );
    check_map::<Prefix<4>, Rule>(o, names::RULE_BY_PREFIX4, BPF_MAP_TYPE_LPM_TRIE, rules);
    check_map::<Prefix<16>, Rule>(o, names::RULE_BY_PREFIX6, BPF_MAP_TYPE_LPM_TRIE, rules);
    check_map::<Source, Bucket>(
        o,
        names::RATE_BY_SOURCE,
        BPF_MAP_TYPE_LRU_HASH,
        limits::SOURCES_MAX,
    );
    check_map::<u32, FloodGauge>(o, names::FLOOD_GAUGE, BPF_MAP_TYPE_PERCPU_ARRAY, 1);
    check_map::<u32, u32>(o, names::WORKER_SOCKETS, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY, sockets);
    check_map::<u32, DrainedWorkers>(o, names::DRAINED_WORKERS, BPF_MAP_TYPE_ARRAY, 1);
    let ends = 2 * limits::TUNNELS_DEFAULT;
    check_map::<u64, u32>(o, names::SOCKETS, BPF_MAP_TYPE_SOCKHASH, ends);
    check_map::<u64, u32>(o, names::TUNNEL_END, BPF_MAP_TYPE_HASH, ends);
    check_map::<u32, Control>(o, names::TUNNEL_CONTROL, BPF_MAP_TYPE_ARRAY, ends);
    check_map::<u32, Flow>(o, names::TUNNEL_FLOW, BPF_MAP_TYPE_ARRAY, ends);
    check_map::<Key, Leg>(o, names::LEGS, BPF_MAP_TYPE_HASH, limits::LEGS_MAX);
    check_map::<u32, Member>(o, names::MEMBER, BPF_MAP_TYPE_SK_STORAGE, 0);
    check_map::<u64, Received>(o, names::RECEIVED, BPF_MAP_TYPE_HASH, 2 * limits::LEGS_MAX);
    check_map::<u32, Delivered>(o, names::DELIVERED, BPF_MAP_TYPE_ARRAY, 2 * limits::LEGS_MAX);
    check_map::<u32, Bypass>(o, names::BYPASSES, BPF_MAP_TYPE_ARRAY, 2 * limits::LEGS_MAX);
    let remote = limits::REMOTE_CLIENTS_MAX;
    let clients = 2 * limits::LEGS_MAX + remote;
    check_map::<u32, Client>(o, names::CLIENTS, BPF_MAP_TYPE_ARRAY, clients);
    check_map::<u64, u32>(o, names::REMOTE_CLIENTS, BPF_MAP_TYPE_SOCKHASH, remote);
    let own = limits::OWN_ADDRESSES_MAX;
    check_map::<Destination, u32>(o, names::OWN_ADDRESSES, BPF_MAP_TYPE_HASH, own);
    let nodes = limits::NODES_MAX;
    check_map::<Destination, u32>(o, names::NODES, BPF_MAP_TYPE_LRU_HASH, nodes);
    check_map::<u32, Switch>(o, names::SAME_HOST, BPF_MAP_TYPE_ARRAY, 1);
}

#[test]
fn names_fit_into_the_kernel_and_nothing_is_pinned() {
    let Some(object) = object() else { return };
    for name in object.programs.keys().chain(object.maps.keys()) {
        assert!(name.len() <= 15, "the kernel cuts `{name}`");
    }
    for (name, map) in &object.maps {
        assert!(matches!(map.pinning(), PinningType::None), "{name} is pinned");
    }
}

#[test]
fn every_global_can_be_set_and_the_abi_is_ours() {
    let Some(mut object) = object() else { return };
    let abi = &object.maps[globals::ABI_SECTION];
    assert_eq!(abi.section_kind(), EbpfSectionKind::Rodata);
    assert_eq!(abi.data(), ABI_VERSION.to_ne_bytes());

    let set = |object: &mut Object, name: &str, value: &[u8]| {
        object.patch_map_data([(name, (value, true))].into())
    };
    for name in [
        globals::RULES,
        globals::WORKERS,
        globals::ABI_VERSION,
        globals::SKB_SEQ,
        globals::SKB_TRUESIZE,
        globals::TCP_COPIED_SEQ,
        globals::TCP_WRITE_SEQ,
        globals::TCP_SND_UNA,
        globals::LOCAL_WINDOW,
        globals::EGRESS_MAX,
        globals::CROSS_NAMESPACE,
        globals::TRUSTED_USER,
        globals::TCP_RCV_NXT,
        globals::TCP_SEGMENT,
        globals::SOCK_COOKIE,
        globals::SOCK_STATE,
        globals::SOCK_USER,
        globals::SOCK_FLAGS,
        globals::SOCK_ZEROCOPY,
        globals::SOCK_OWNED,
        globals::SOCK_USER_DATA,
        globals::SOCK_SEND_MAX,
        globals::SOCK_SENDING,
        globals::SOCK_RECEIVED,
        globals::SOCK_BACKLOG,
        globals::SOCK_SOCKET,
        globals::SOCKET_FILE,
        globals::FILE_FLAGS,
        globals::SOCK_ULP,
        globals::PSOCK_UNREAD,
        globals::PSOCK_WAITING,
        globals::MSG_START,
    ] {
        set(&mut object, name, &7_u32.to_ne_bytes()).unwrap();
        assert!(set(&mut object, name, &7_u64.to_ne_bytes()).is_err(), "{name} is a u32");
    }
    for name in [
        globals::PORT_FILTER,
        globals::RATE_INTERVAL_NS,
        globals::RATE_TOLERANCE_NS,
        globals::FLOOD_SOURCES_MAX,
        globals::OWN_NAMESPACE,
    ] {
        set(&mut object, name, &7_u64.to_ne_bytes()).unwrap();
        assert!(set(&mut object, name, &7_u32.to_ne_bytes()).is_err(), "{name} is a u64");
    }
    // Set in every build, so that a release is silent.
    set(&mut object, aya_log::LEVEL, &[0]).unwrap();
    assert_eq!(object.maps[globals::ABI_SECTION].data(), 7_u32.to_ne_bytes());
    assert!(set(&mut object, "NO_SUCH_GLOBAL", &[0; 4]).is_err());
}
