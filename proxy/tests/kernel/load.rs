//! What loads, what is refused and how, what is left behind.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::fd::{AsFd as _, AsRawFd as _},
    process::{Child, Command, Stdio},
};

use aya::maps::MapInfo;
use aya_obj::Object;
use proxy::{
    config::{ConnectionRate, Guard, Kernel, KernelMode, Limits, XdpMode},
    kernel::{self, FeatureState, KernelPlane, Running},
};
use proxy_common::{ABI_VERSION, limits as abi_limits};
use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{CapabilitySet, CapabilitySets, set_capabilities},
};

use crate::{
    bpftool, limits, load,
    remains::{InKernel, pins},
    required, skip_without_bpftool, skip_without_privileges,
    topology::{Namespace, Pair},
};

const LISTENER: &str = "127.0.0.1:80";

fn on_lo() -> Kernel {
    required(&["lo"], XdpMode::Generic, Guard::default())
}

/// As many tunnels as a configuration has by default.
fn with_tunnels() -> Limits {
    Limits { sockmap_tunnels: abi_limits::TUNNELS_DEFAULT, ..limits() }
}

fn feature(plane: &KernelPlane, name: &str) -> (FeatureState, String) {
    let features = plane.status().features;
    let feature = features.into_iter().find(|feature| feature.name == name).unwrap();
    (feature.state, feature.detail)
}

#[test]
fn the_verifier_accepts_every_program() {
    if skip_without_privileges() {
        return;
    }
    let namespace = Namespace::new();
    namespace.run(|| {
        let mut kernel = on_lo();
        // Every rule there is, so that no code is dead.
        kernel.guard.deny = vec!["203.0.113.0/24".parse().unwrap()];
        kernel.guard.connection_rate = Some(ConnectionRate { per_second: 10, burst: 10 });
        let listeners = [LISTENER.parse().unwrap()];
        let plane = KernelPlane::load(&kernel, &with_tunnels(), &listeners, 2).unwrap();
        let status = plane.status();
        assert_eq!(status.running, Running::Kernel);
        assert_eq!(status.abi, ABI_VERSION);
        let names: Vec<_> = status.programs.iter().map(|program| &*program.name).collect();
        assert_eq!(names, ["ingress", "tunnel", "worker"]);
        for program in status.programs {
            // A tenth of what the verifier allows; a jump means a loop that it walks path by path.
            assert!(program.verified_instructions.is_some_and(|n| n < 100_000), "{program:?}");
        }
    });
}

#[test]
fn off_touches_nothing() {
    if skip_without_privileges() {
        return;
    }
    let kernel = Kernel { mode: KernelMode::Off, ..on_lo() };
    let plane = load(&kernel, &[LISTENER.parse().unwrap()], 2);
    let status = plane.status();
    assert_eq!(status.running, Running::Userspace);
    assert!(status.programs.is_empty() && status.maps.is_empty() && status.features.is_empty());
    assert!(plane.counters().is_empty());
    plane.drain_worker(0);
    plane.steer(0, &[]).unwrap();
}

/// The object with its ABI version changed, as one of another build would have it.
fn object_of_another_abi() -> Vec<u8> {
    let mut object = kernel::object().unwrap().to_vec();
    let at = section_offset(&object, ".rodata.abi");
    object[at..at + 4].copy_from_slice(&(ABI_VERSION + 1).to_ne_bytes());
    object
}

/// Where a section's bytes start in a 64-bit ELF file (gABI, "Sections").
fn section_offset(elf: &[u8], name: &str) -> usize {
    let number = |at: usize, size: usize| {
        elf[at..at + size].iter().rev().fold(0, |n: usize, &byte| n << 8 | usize::from(byte))
    };
    let (headers, size, count) = (number(0x28, 8), number(0x3a, 2), number(0x3c, 2));
    let header = |n: usize| headers + n * size;
    let names = number(header(number(0x3e, 2)) + 0x18, 8);
    let section = (0..count).map(header).find(|&header| {
        let start = names + number(header, 4);
        elf[start..].starts_with(name.as_bytes()) && elf[start + name.len()] == 0
    });
    number(section.unwrap() + 0x18, 8)
}

#[test]
fn an_object_of_another_abi_is_refused() {
    if skip_without_privileges() {
        return;
    }
    let namespace = Namespace::new();
    namespace.run(|| {
        let object = object_of_another_abi();
        let listeners = [LISTENER.parse().unwrap()];
        let load = |kernel: &Kernel| {
            KernelPlane::load_object(Some(&object), kernel, &limits(), &listeners, 2)
        };
        let error = format!("{:#}", load(&on_lo()).unwrap_err());
        assert!(error.contains(&format!("ABI version {}", ABI_VERSION + 1)), "{error}");

        let plane = load(&Kernel { mode: KernelMode::Auto, ..on_lo() }).unwrap();
        assert_eq!(plane.status().running, Running::Userspace);
        assert_eq!(plane.status().detail, Some(error));
    });
}

/// The object with a first instruction of `worker` that no verifier lets pass: a read of a register
/// that nothing was written to.
fn object_of_a_bad_program() -> Vec<u8> {
    /// `r0 = r9`, in the kernel's encoding of an instruction.
    const R0_IS_R9: [u8; 8] = [0xbf, 0x90, 0, 0, 0, 0, 0, 0];
    let mut object = kernel::object().unwrap().to_vec();
    let at = section_offset(&object, "sk_reuseport/migrate");
    object[at..at + R0_IS_R9.len()].copy_from_slice(&R0_IS_R9);
    object
}

#[test]
fn a_program_that_the_verifier_refuses_shows_its_log() {
    if skip_without_privileges() {
        return;
    }
    let object = object_of_a_bad_program();
    let listeners = [LISTENER.parse().unwrap()];
    let load = |mode| {
        let kernel = Kernel { mode, ..required(&[], XdpMode::Auto, Guard::default()) };
        KernelPlane::load_object(Some(&object), &kernel, &limits(), &listeners, 2)
    };
    let error = format!("{:#}", load(KernelMode::Require).unwrap_err());
    assert!(error.starts_with("load program `worker`: the verifier refused it:\n"), "{error}");
    assert!(error.contains("R9 !read_ok"), "{error}");
    assert!(error.ends_with(": Permission denied (os error 13)"), "{error}");
    assert!(error.lines().count() < 45, "{error}");

    let plane = load(KernelMode::Auto).unwrap();
    assert_eq!(feature(&plane, "worker").0, FeatureState::Fallback);
    assert_eq!(plane.status().running, Running::Userspace);
    // Nothing to steer with, and nothing amiss.
    plane.steer(0, &[]).unwrap();
    assert!(plane.counters().is_empty());
}

#[test]
fn a_binary_without_the_object_says_so() {
    let listeners = [LISTENER.parse().unwrap()];
    let load = |mode| {
        KernelPlane::load_object(None, &Kernel { mode, ..on_lo() }, &limits(), &listeners, 2)
    };
    let error = format!("{:#}", load(KernelMode::Require).unwrap_err());
    assert!(error.contains("cargo xtask build-ebpf"), "{error}");
    assert_eq!(load(KernelMode::Auto).unwrap().status().detail, Some(error));
}

#[test]
fn without_privileges_require_fails_and_auto_serves() {
    if skip_without_privileges() {
        return;
    }
    // Capabilities are a thread's own.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let none = CapabilitySet::empty();
            let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
            set_capabilities(None, sets).unwrap();
            let listeners = [LISTENER.parse().unwrap()];
            let error = KernelPlane::load(&on_lo(), &limits(), &listeners, 2).unwrap_err();
            let error = format!("{error:#}");
            let is_expected = |error: &str| {
                error
                    == "make the maps: load the types of the programs (BTF): Operation not \
                        permitted (os error 1)"
            };
            assert!(is_expected(&error), "{error}");

            let kernel = Kernel { mode: KernelMode::Auto, ..on_lo() };
            let plane = KernelPlane::load(&kernel, &limits(), &listeners, 2).unwrap();
            assert_eq!(plane.status().running, Running::Userspace);
            assert!(plane.status().detail.is_some_and(|detail| is_expected(&detail)));
            plane.steer(0, &[]).unwrap();
        });
    });
}

#[test]
fn an_interface_that_is_taken_names_its_owner() {
    if skip_without_privileges() {
        return;
    }
    let pair = Pair::new();
    pair.proxy.run(|| {
        let listeners = [LISTENER.parse().unwrap()];
        for (first, second) in [
            (XdpMode::Native, XdpMode::Native),
            (XdpMode::Native, XdpMode::Auto),
            (XdpMode::Generic, XdpMode::Auto),
            (XdpMode::Generic, XdpMode::Generic),
        ] {
            let owner = load(&required(&["veth"], first, Guard::default()), &listeners, 2);
            let programs = owner.status().programs;
            let owned = programs.iter().find(|program| program.name == "ingress").unwrap();

            let kernel = required(&["veth"], second, Guard::default());
            let error = KernelPlane::load(&kernel, &limits(), &listeners, 2).unwrap_err();
            let error = format!("{error:#}");
            let expected = format!("already runs XDP program `ingress` (program id {})", owned.id);
            assert!(error.contains(&expected), "{error}");

            let kernel = Kernel { mode: KernelMode::Auto, ..kernel };
            let plane = KernelPlane::load(&kernel, &limits(), &listeners, 2).unwrap();
            assert_eq!(feature(&plane, "ingress"), (FeatureState::Fallback, error));
            assert_eq!(feature(&plane, "worker").0, FeatureState::Running);
            assert_eq!(plane.status().running, Running::Mixed);
        }
    });
}

#[test]
fn an_interface_that_is_made_anew_is_guarded_no_more_and_that_is_said() {
    if skip_without_privileges() {
        return;
    }
    let pair = Pair::new();
    pair.proxy.run(|| {
        let kernel = required(&["lo", "veth"], XdpMode::Generic, Guard::default());
        let plane = load(&kernel, &[LISTENER.parse().unwrap()], 2);
        assert_eq!(feature(&plane, "ingress").0, FeatureState::Running);
        pair.proxy.ip("link del veth");
        let (state, detail) = feature(&plane, "ingress");
        assert_eq!(state, FeatureState::Fallback);
        assert!(detail.starts_with("`veth`: deleted since"), "{detail}");
        pair.proxy.ip("link add veth type veth peer name other");
        assert_eq!(feature(&plane, "ingress"), (FeatureState::Fallback, detail));
        assert_eq!(
            (plane.status().running, plane.status().xdp_mode),
            (Running::Mixed, Some("generic"))
        );
    });
}

#[test]
fn an_interface_that_is_missing_is_named() {
    if skip_without_privileges() {
        return;
    }
    let kernel = required(&["no-such-if0"], XdpMode::Auto, Guard::default());
    let error = KernelPlane::load(&kernel, &limits(), &[LISTENER.parse().unwrap()], 2).unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("interface `no-such-if0`: No such device (os error 19)"), "{error}");
}

#[test]
fn dropping_the_plane_leaves_nothing() {
    if skip_without_privileges() {
        return;
    }
    let (namespace, pinned) = (Namespace::new(), pins());
    let plane = namespace.run(|| load(&on_lo(), &[LISTENER.parse().unwrap()], 2));
    let status = plane.status();
    let ours = InKernel {
        programs: status.programs.iter().map(|program| program.id).collect(),
        maps: status.maps.iter().map(|map| map.id).collect(),
    };
    ours.check_loaded();
    assert!(namespace.ip("link show lo").contains("xdpgeneric"));
    assert_eq!(pins(), pinned);
    drop(plane);
    assert!(!namespace.ip("link show lo").contains("xdp"));
    ours.check_gone();
    assert_eq!(pins(), pinned);
}

/// A proxy with everything in the kernel; the admin address is fixed, it is alone in its namespace.
const KILLED: &str = "\
listeners:
- { name: web, address: \"127.0.0.1:80\" }
- { name: l4, address: \"127.0.0.1:81\", protocol: tcp }
admin: { address: \"127.0.0.1:82\" }
kernel: { mode: require, xdp: { interfaces: [lo], mode: generic } }
upstreams: [{ id: app, type: roundrobin, nodes: { \"127.0.0.1:83\": 1 } }]
routes: [{ id: all, uri: /*, upstream_id: app }]
stream_routes: [{ id: l4, server_port: 81, datapath: sockmap, upstream_id: app }]
";

/// Not left behind by a test that fails.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Does nothing to one that has ended.
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn neither_an_exit_nor_kill_9_leaves_anything() {
    if skip_without_privileges() {
        return;
    }
    check_leaves_nothing(false);
    check_leaves_nothing(true);
}

fn check_leaves_nothing(is_killed: bool) {
    let binary = env!("CARGO_BIN_EXE_tandem");
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(KILLED.as_bytes()).unwrap();
    let (namespace, pinned) = (Namespace::new(), pins());
    let mut child = Killed(namespace.run(|| {
        let mut command = Command::new(binary);
        command.args(["run", "-c"]).arg(file.path()).stderr(Stdio::piped()).spawn().unwrap()
    }));
    let mut said = BufReader::new(child.0.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.any(|line| line.contains(" serving ")), "it did not come up");
    let mut ours = InKernel::of(child.0.id());
    let status = namespace.run(|| {
        Command::new(binary).args(["bpf", "status", "--admin", "127.0.0.1:82"]).output().unwrap()
    });
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    let ids = |of: &str| -> BTreeSet<u32> {
        let rows = status[of].as_array().unwrap().iter();
        rows.map(|row| row["id"].as_u64().unwrap() as u32).collect()
    };
    assert_eq!((&ids("programs"), ours.programs.len()), (&ours.programs, 3), "{status}");
    // Some maps only a program holds, some only the process.
    ours.maps.extend(ids("maps"));
    ours.check_loaded();
    assert!(namespace.ip("link show lo").contains("xdpgeneric"));
    assert_eq!(pins(), pinned);
    if is_killed {
        drop(child);
    } else {
        let process = Pid::from_child(&child.0);
        kill_process(process, Signal::TERM).unwrap();
        assert!(child.0.wait().unwrap().success());
    }
    ours.check_gone();
    assert!(!namespace.ip("link show lo").contains("xdp"));
    assert_eq!(pins(), pinned);
}

/// There is no such interface, and we are not in such a cgroup.
const LACKING: &str = "\
listeners: [{ name: web, address: \"127.0.0.1:80\" }]
log: { format: json }
kernel:
  mode: auto
  xdp: { interfaces: [none0] }
  same_host: { enabled: true, cgroup: /not/there }
upstreams: [{ id: app, type: roundrobin, nodes: { \"127.0.0.1:83\": 1 } }]
routes: [{ id: all, uri: /*, upstream_id: app }]
";

#[test]
fn auto_warns_once_of_all_that_it_cannot_have() {
    if skip_without_privileges() {
        return;
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(LACKING.as_bytes()).unwrap();
    let mut child = Killed(Namespace::new().run(|| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
        command.args(["run", "-c"]).arg(file.path()).stderr(Stdio::piped()).spawn().unwrap()
    }));
    let said = BufReader::new(child.0.stderr.take().unwrap()).lines().map(Result::unwrap);
    // All of it is said before it serves.
    let said: Vec<_> = said.take_while(|line| !line.contains("serving\"")).collect();
    let warnings: Vec<_> = said.iter().filter(|line| line.contains("\"WARN\"")).collect();
    let [warning] = warnings[..] else { panic!("{said:?}") };
    for reason in [
        "`local`: this process is in the cgroup `",
        "`ingress`: interface `none0`: No such device (os error 19)",
    ] {
        assert!(warning.contains(reason), "{warning}");
    }
}

#[test]
fn listeners_that_cannot_be_steered_are_one_fallback() {
    if skip_without_privileges() {
        return;
    }
    let namespace = Namespace::new();
    let kernel = Kernel { mode: KernelMode::Auto, ..on_lo() };
    let listeners = [LISTENER.parse().unwrap(), "127.0.0.1:81".parse().unwrap()];
    let plane = namespace.run(|| KernelPlane::load(&kernel, &limits(), &listeners, 2).unwrap());
    for listener in 0..2 {
        plane.steer(listener, &[]).unwrap();
    }
    let why = "steer listener 0: listener 0 has 0 sockets for 2 workers; \
               steer listener 1: listener 1 has 0 sockets for 2 workers";
    assert_eq!(feature(&plane, "worker"), (FeatureState::Fallback, why.to_owned()));
}

/// A plane with everything a configuration can ask for, on a namespace's loopback.
fn full(namespace: &Namespace) -> KernelPlane {
    let deny = |n: u32| format!("100.{}.{}.0/32", 64 + (n >> 8), n & 0xff).parse().unwrap();
    let guard = Guard {
        allow: vec!["2001:db8::/32".parse().unwrap()],
        deny: (0..1024).map(deny).chain(["2001:db8:bad::/48".parse().unwrap()]).collect(),
        connection_rate: Some(ConnectionRate { per_second: 10, burst: 10 }),
    };
    let kernel = required(&["lo"], XdpMode::Generic, guard);
    let listeners = [LISTENER.parse().unwrap()];
    namespace.run(|| KernelPlane::load(&kernel, &with_tunnels(), &listeners, 2).unwrap())
}

#[test]
fn the_maps_keep_their_memory_budget() {
    if skip_without_privileges() {
        return;
    }
    let namespace = Namespace::new();
    let plane = full(&namespace);
    let sizes: Vec<(String, usize)> = plane
        .status()
        .maps
        .into_iter()
        .map(|map| (map.name, memory(&MapInfo::from_id(map.id).unwrap())))
        .collect();
    // Prefixes are allocated as they come: reckon with a full trie of each family.
    let trie = sizes.iter().find(|(name, _)| name == "RULE_BY_PREFIX4").unwrap().1;
    let tries = 2 * trie / 1024 * abi_limits::PREFIXES_MAX as usize;
    let sum: usize = sizes.iter().map(|(_, bytes)| bytes).sum();
    assert!(sum + tries <= abi_limits::MAP_MEMORY_MAX, "{sum} + {tries} bytes: {sizes:?}");
}

/// Bytes that a map takes, as the kernel reckons (`memlock` in its fdinfo).
fn memory(map: &MapInfo) -> usize {
    let fd = map.fd().unwrap();
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd())).unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix("memlock:")).unwrap();
    line.trim().parse().unwrap()
}

/// What an operator sees with `bpftool`: names, not offsets.
#[test]
fn bpftool_shows_field_names() {
    if skip_without_privileges() || skip_without_bpftool() {
        return;
    }
    let namespace = Namespace::new();
    let plane = full(&namespace);
    for program in plane.status().programs {
        let shown = bpftool(&format!("prog show id {}", program.id));
        assert_eq!(shown["name"], *program.name, "{shown}");
    }
    let maps = plane.status().maps;
    for (name, fields) in [
        ("LISTENER_BY_DST", &["address", "octets", "port_be", "index"][..]),
        ("RULE_BY_PREFIX4", &["prefix_len", "data", "denied"]),
        ("RULE_BY_PREFIX6", &["prefix_len", "data", "denied"]),
        ("DRAINED_WORKERS", &["bits"]),
        ("FLOOD_GAUGE", &["second_began_ns", "new_sources"]),
        ("TUNNEL_CONTROL", &["socket", "peer", "delivered"]),
        ("TUNNEL_FLOW", &["redirected", "passed", "next_seq"]),
    ] {
        let map = maps.iter().find(|map| map.name == name).unwrap();
        let dump = bpftool(&format!("map dump id {}", map.id)).to_string();
        for field in fields {
            assert!(
                dump.contains(&format!("\"{field}\":")),
                "{name} without `{field}`: {dump:.500}"
            );
        }
    }
}

/// Where the level that the programs log at is among their constants: the only byte that setting it
/// changes.
fn log_level_at() -> usize {
    let constants = |level: u8| {
        let mut object = Object::parse(kernel::object().unwrap()).unwrap();
        object.patch_map_data(HashMap::from([(aya_log::LEVEL, (&[level][..], true))])).unwrap();
        object.maps[".rodata"].data().to_vec()
    };
    let (silent, loud) = (constants(0), constants(4));
    silent.iter().zip(&loud).position(|(silent, loud)| silent != loud).unwrap()
}

/// The kernel half of a release counts, it does not log.
#[test]
fn programs_log_in_debug_builds_only() {
    if skip_without_privileges() || skip_without_bpftool() {
        return;
    }
    let namespace = Namespace::new();
    let plane = full(&namespace);
    let maps = plane.status().maps;
    let constants = maps.iter().find(|map| map.name == ".rodata").unwrap();
    let dump = bpftool(&format!("map dump id {}", constants.id));
    let level = &dump[0]["value"][log_level_at()];
    assert_eq!(level, if cfg!(debug_assertions) { "0x04" } else { "0x00" }, "{dump}");
}
