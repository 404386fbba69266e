//! `cargo xtask build-ebpf`: the kernel half, compiled, checked and put where it is embedded from.
//!
//! It needs a linker and a `core` for the BPF target; both are looked for in a fixed order, fetched
//! into the cache if they are not there, and named in the output. There is never a stale object:
//! one that does not belong to the sources is removed before anything can fail.

mod compiler;
mod debian;
mod fingerprint;
mod linker;
mod object;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, bail};

pub(crate) use self::compiler::Compiler;
use self::{fingerprint::Stamp, linker::Linker};
use crate::{cache, cache::Cache, command, workspace};

const TARGET: &str = "bpfel-unknown-none";
/// Apart from the host's build: another compiler, other flags.
const BUILD_DIRECTORY: &str = "target/bpf/build";
/// The programs, as a binary of `proxy-ebpf`.
pub(crate) const BINARY: &str = "tandem-bpf";

/// What turns the sources of `proxy-ebpf` into an object.
pub(crate) struct Toolchain {
    linker: Linker,
    compiler: Compiler,
    /// Why better places were passed over.
    notes: Vec<String>,
}

/// Builds the object unless it is up to date, and says what it is.
pub(crate) fn run() -> Result<()> {
    let started = Instant::now();
    let object = workspace::bpf_object();
    let directory = object.parent().context("the object has a directory")?;
    fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    let _lock = cache::lock(&directory.join(".lock"))?;
    let stamp_path = directory.join("tandem.bpf.stamp");
    let sources = fingerprint::sources(workspace::root())?;
    if !Stamp::read(&stamp_path).is_some_and(|stamp| stamp.is_of(&sources)) {
        remove(&object)?;
    }

    let toolchain = Toolchain::find_or_fetch()?;
    toolchain.announce();
    let flags = toolchain.flags()?;
    let toolchain_text = format!("{} {} {flags}", toolchain.linker, toolchain.compiler);
    let stamp = Stamp::new(sources, &toolchain_text);
    if stamp.is_met(&stamp_path, &object) {
        println!("object    {} is up to date", workspace::shown(&object));
    } else {
        remove(&object)?;
        let built = toolchain.build(&flags)?;
        object::check(&built)?;
        put(&built, &object)?;
        stamp.write(&stamp_path, &object)?;
        let seconds = started.elapsed().as_secs_f32();
        println!("object    {}, built in {seconds:.1} s", workspace::shown(&object));
    }
    object::describe(&object)
}

impl Toolchain {
    /// Finds or fetches linker and compiler, and compares the LLVM both speak.
    pub(crate) fn find_or_fetch() -> Result<Toolchain> {
        target_arch()?;
        let cache = Cache::open()?;
        let linker = linker::find_or_fetch(&cache)?;
        let (compiler, notes) = compiler::find_or_fetch(&cache, &linker)?;
        Ok(Toolchain { linker, compiler, notes })
    }

    /// The compiler, for its clippy.
    pub(crate) fn compiler(&self) -> &Compiler {
        &self.compiler
    }

    fn announce(&self) {
        println!("linker    {}", self.linker);
        println!("core      {}", self.compiler);
        for note in &self.notes {
            println!("          {note}");
        }
    }

    fn flags(&self) -> Result<String> {
        let arch = target_arch()?;
        Ok(format!(
            "--cfg=bpf_target_arch=\"{arch}\" -Cdebuginfo=2 -Clink-arg=--btf -Ctarget-cpu=v3"
        ))
    }

    /// `cargo SUBCOMMAND` for the BPF target, with this toolchain and nothing of the host's.
    pub(crate) fn cargo(&self, subcommand: &str) -> Result<Command> {
        let mut cargo = match self.compiler.cargo() {
            Some(own) => Command::new(own),
            None => Command::new(command::cargo_program()),
        };
        command::without_build_environment(&mut cargo)
            .current_dir(workspace::root())
            .env("RUSTC", self.compiler.rustc())
            .env("RUSTC_BOOTSTRAP", "1")
            // The linker loads its LLVM from here: it has to be the compiler's.
            .env("LD_LIBRARY_PATH", self.compiler.library_directory())
            .env("PATH", self.linker.search_path()?)
            .env("RUSTFLAGS", self.flags()?)
            // `symbols` would drop what BTF is made from.
            .env("CARGO_PROFILE_RELEASE_STRIP", "none")
            .arg(subcommand)
            .args(["--package", "proxy-ebpf", "--release", "--target", TARGET])
            .args(self.compiler.cargo_arguments())
            .args(["--target-dir", BUILD_DIRECTORY]);
        Ok(cargo)
    }

    fn build(&self, flags: &str) -> Result<PathBuf> {
        let mut build = self.cargo("build")?;
        build.args(["--bin", BINARY]);
        command::run(&mut build).with_context(|| format!("build for {TARGET} with `{flags}`"))?;
        let built =
            workspace::root().join(BUILD_DIRECTORY).join(TARGET).join("release").join(BINARY);
        if !built.is_file() {
            bail!("`{}` made no {}", command::shown(&build), built.display());
        }
        Ok(built)
    }
}

/// The architecture whose `pt_regs` and context layouts the programs are compiled for.
fn target_arch() -> Result<&'static str> {
    if cfg!(target_endian = "big") {
        bail!(
            "this machine is big endian; the kernel half is written for little-endian hosts only, \
             use the userspace-only build (`cargo build`)"
        );
    }
    match std::env::consts::ARCH {
        arch @ ("x86_64" | "aarch64" | "riscv64") => Ok(arch),
        other => bail!(
            "the kernel half is not built for {other} hosts (x86_64, aarch64, riscv64 are known); \
             use the userspace-only build (`cargo build`)"
        ),
    }
}

/// Copies beside the final name, then renames: a reader sees the old object, none, or the new one.
fn put(built: &Path, object: &Path) -> Result<()> {
    let staged = object.with_extension("o.new");
    fs::copy(built, &staged).with_context(|| format!("copy to {}", staged.display()))?;
    fs::rename(&staged, object).with_context(|| format!("put {} in place", object.display()))
}

fn remove(object: &Path) -> Result<()> {
    match fs::remove_file(object) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove the stale {}", object.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
