//! Puts the kernel half in, in this order: check the kernel, read the object, make the maps, compare
//! the ABI, fill the maps, verify the programs, attach. A step that fails names itself.

use std::{io, path::Path};

use anyhow::{Context as _, anyhow, ensure};
use aya::{
    BtfError, Ebpf, EbpfError, EbpfLoader,
    maps::{Array, MapError},
    programs::{Program, ProgramError, SchedClassifier, SkMsg, SkReuseport, SkSkb, SockOps, Xdp},
    util::KernelVersion,
};
use proxy_common::{ABI_VERSION, globals, limits, names};
use rustix::thread::{CapabilitySet, capabilities};

use super::{log, rules::Rules, same_host, sockets::Offsets, sockmap};

/// Older kernels lack fixes that the data paths depend on (redirected FIN and early data in
/// sockmap, see ARCHITECTURE); nothing here is tested on them.
const KERNEL_VERSION_MIN: (u8, u8) = (6, 6);
const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";
/// Of a verifier's log, the end says what was wrong.
const VERIFIER_LINES_MAX: usize = 40;

#[cfg(has_bpf_object)]
const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tandem.bpf.o"));
#[cfg(not(has_bpf_object))]
const OBJECT: &[u8] = &[];

/// The BPF object that this binary carries; `None`: it was built without one and runs in userspace.
pub const fn object() -> Option<&'static [u8]> {
    if OBJECT.is_empty() { None } else { Some(OBJECT) }
}

/// Whether this binary carries the kernel half.
pub const fn is_built_in() -> bool {
    object().is_some()
}

/// Makes the maps, at the sizes and with the constants of this run, and fills them. Nothing is
/// verified or attached yet.
pub(super) fn create(object: &[u8], rules: &Rules, sockets: &SocketSetup) -> anyhow::Result<Ebpf> {
    check_kernel()?;
    let processors = aya::util::nr_cpus()
        .map_err(|(path, error)| anyhow!(error).context(format!("read {path}")))?;
    let values = rules.globals(processors);
    let mut loader = EbpfLoader::new();
    loader
        .override_global(globals::PORT_FILTER, &values.port_filter, true)
        .override_global(globals::RULES, &values.rules, true)
        .override_global(globals::RATE_INTERVAL_NS, &values.rate_interval_ns, true)
        .override_global(globals::RATE_TOLERANCE_NS, &values.rate_tolerance_ns, true)
        .override_global(globals::FLOOD_SOURCES_MAX, &values.flood_sources_max, true)
        .override_global(globals::WORKERS, &values.workers, true)
        .override_global(aya_log::LEVEL, &log::LEVEL, false)
        .map_max_entries(names::RATE_BY_SOURCE, rules.sources_max())
        .map_max_entries(log::RING, log::RING_SIZE);
    sockets.apply(&mut loader);
    let mut ebpf = loader.load(object).map_err(explain_maps).context("make the maps")?;
    check_abi(&ebpf)?;
    rules.write(&mut ebpf).context("fill the maps")?;
    Ok(ebpf)
}

/// What tunnels and legs need before the maps are made.
pub(super) struct SocketSetup {
    pub(super) tunnels: sockmap::Setup,
    /// Of fields that `tunnel` reads; or why they are not known.
    pub(super) offsets: anyhow::Result<Offsets>,
    /// `None`: not asked for.
    pub(super) same_host: Option<anyhow::Result<same_host::Setup>>,
}

impl SocketSetup {
    fn apply<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        let same_host = self.same_host.as_ref().and_then(|setup| setup.as_ref().ok());
        let legs_max = same_host.map_or(0, |_| limits::LEGS_MAX);
        let sockets_max = self.tunnels.ends_max().saturating_add(2 * legs_max);
        loader.map_max_entries(names::SOCKETS, sockets_max);
        for (global, offset) in self.offsets.iter().flatten() {
            loader.override_global(global, offset, true);
        }
        self.tunnels.apply(loader);
        same_host::size_maps(loader, same_host.is_some());
        if let Some(same_host) = same_host {
            same_host.apply(loader);
        }
    }
}

fn check_kernel() -> anyhow::Result<()> {
    ensure!(cfg!(target_endian = "little"), "the BPF object is little endian, this machine is not");
    let version = KernelVersion::current().context("read the kernel's version")?;
    check_version(version)?;
    ensure!(
        Path::new(KERNEL_BTF).exists(),
        "the kernel has no BTF ({KERNEL_BTF}); it needs CONFIG_DEBUG_INFO_BTF"
    );
    Ok(())
}

fn check_version(version: KernelVersion) -> anyhow::Result<()> {
    let (major, minor) = KERNEL_VERSION_MIN;
    ensure!(
        version >= KernelVersion::new(major, minor, 0),
        "the kernel is older than {major}.{minor}"
    );
    Ok(())
}

/// An object of another build may put the right names on the wrong layouts.
fn check_abi(ebpf: &Ebpf) -> anyhow::Result<()> {
    let map = ebpf.map(globals::ABI_SECTION).context("the object carries no ABI version")?;
    let map: Array<_, u32> = map.try_into().context("read the object's ABI version")?;
    let version = map.get(&0, 0).context("read the object's ABI version")?;
    ensure!(
        version == ABI_VERSION,
        "the object has ABI version {version}, this binary {ABI_VERSION}; run `cargo xtask build-ebpf` and build again"
    );
    Ok(())
}

/// Hands a program to the verifier.
pub(super) fn verify<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut P>
where
    P: Verify,
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = ebpf.program_mut(name).with_context(|| format!("no program `{name}`"))?;
    let program: &mut P = program.try_into().with_context(|| format!("program `{name}`"))?;
    program.verify().map_err(explain).with_context(|| format!("load program `{name}`"))?;
    Ok(program)
}

/// Programs that load without more than themselves.
pub(super) trait Verify {
    fn verify(&mut self) -> Result<(), ProgramError>;
}

impl Verify for Xdp {
    fn verify(&mut self) -> Result<(), ProgramError> {
        self.load()
    }
}

impl Verify for SkReuseport {
    fn verify(&mut self) -> Result<(), ProgramError> {
        self.load()
    }
}

impl Verify for SkSkb {
    fn verify(&mut self) -> Result<(), ProgramError> {
        self.load()
    }
}

impl Verify for SkMsg {
    fn verify(&mut self) -> Result<(), ProgramError> {
        self.load()
    }
}

impl Verify for SchedClassifier {
    fn verify(&mut self) -> Result<(), ProgramError> {
        self.load()
    }
}

impl Verify for SockOps {
    fn verify(&mut self) -> Result<(), ProgramError> {
        self.load()
    }
}

const PRIVILEGES: &str = "takes root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON";

/// Once, what could not be made and with which errno: aya's own chain says both twice.
fn explain_maps(error: EbpfError) -> anyhow::Error {
    if let EbpfError::MapError(MapError::CreateError { name, io_error }) = error {
        // Without privileges it is whichever comes first.
        let is_denied = io_error.kind() == io::ErrorKind::PermissionDenied;
        let what = if is_denied { PRIVILEGES.to_owned() } else { format!("create map `{name}`") };
        return anyhow!(io_error).context(what);
    }
    // Programs of tracepoints cannot do without.
    if let EbpfError::BtfError(BtfError::LoadError { io_error, .. }) = error {
        return anyhow!(io_error).context("load the types of the programs (BTF)");
    }
    error.into()
}

/// A refusal by the verifier says why only at the end of a log that may have a million lines.
fn explain(error: ProgramError) -> anyhow::Error {
    let ProgramError::LoadError { io_error, verifier_log } = error else { return error.into() };
    let log = verifier_log.to_string();
    let tail = tail(&log, VERIFIER_LINES_MAX);
    if tail.is_empty() {
        return io_error.into();
    }
    if !is_trusted() {
        return anyhow!(io_error).context("the verifier allows it only with CAP_PERFMON");
    }
    anyhow!(io_error).context(format!("the verifier refused it:\n{tail}\n"))
}

/// Whom the verifier allows to follow the kernel's own pointers, and to have it look at loops once for
/// many rounds (v5.8, `perfmon_capable`).
fn is_trusted() -> bool {
    let either = CapabilitySet::PERFMON | CapabilitySet::SYS_ADMIN;
    capabilities(None).ok().is_none_or(|sets| sets.effective.intersects(either))
}

/// The last lines of a text.
fn tail(text: &str, lines_max: usize) -> &str {
    let text = text.trim_end();
    match text.rmatch_indices('\n').nth(lines_max - 1) {
        Some((index, _)) => &text[index + 1..],
        None => text,
    }
}

#[cfg(test)]
mod tests;
