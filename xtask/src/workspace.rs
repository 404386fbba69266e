//! Where things are in the clone.

use std::path::{Path, PathBuf};

/// The clone this program was compiled from.
pub(crate) fn root() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// The one place the BPF object is embedded from; `proxy/build.rs` looks here.
pub(crate) fn bpf_object() -> PathBuf {
    root().join("target/bpf/tandem.bpf.o")
}

/// `path` as a reader in the clone would write it.
pub(crate) fn shown(path: &Path) -> String {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    if let Ok(inside) = path.strip_prefix(root()) {
        return inside.display().to_string();
    }
    match home.as_deref().and_then(|home| path.strip_prefix(home).ok()) {
        Some(inside) => format!("~/{}", inside.display()),
        None => path.display().to_string(),
    }
}
