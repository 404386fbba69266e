//! Embeds the BPF object if it has been built.
//!
//! It is taken from `$TANDEM_BPF_OBJECT`, else from `target/bpf/tandem.bpf.o` under the workspace
//! root, where `cargo xtask build-ebpf` puts it, and nowhere else. Without it the crate builds as
//! well: userspace only, and it says so.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

const OBJECT_VARIABLE: &str = "TANDEM_BPF_OBJECT";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={OBJECT_VARIABLE}");
    println!("cargo::rustc-check-cfg=cfg(has_bpf_object)");
    let object = object_path();
    watch(&object);
    if object.is_file() {
        let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
        fs::copy(&object, out.join("tandem.bpf.o"))?;
        println!("cargo::rustc-cfg=has_bpf_object");
    }
    Ok(())
}

fn object_path() -> PathBuf {
    let under_root = || {
        // Asked for now: this script may have been built in another clone.
        let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
        Path::new(&package).join("../target/bpf/tandem.bpf.o")
    };
    env::var_os(OBJECT_VARIABLE).map_or_else(under_root, PathBuf::from)
}

/// Runs this again when the object comes, goes or changes. Cargo takes a path that is not there for
/// one that changed and would build the crate each time, so it watches the directory, which is made
/// if need be.
fn watch(object: &Path) {
    if let Some(directory) = object.parent()
        && fs::create_dir_all(directory).is_ok()
    {
        println!("cargo::rerun-if-changed={}", directory.display());
    }
}
