//! What an object was made from, so that a second build can be skipped.

use std::{
    collections::hash_map::DefaultHasher,
    fs,
    hash::{Hash, Hasher},
    path::Path,
};

use anyhow::{Context, Result};

/// Everything that is compiled into the object or chooses how.
const SOURCES: [&str; 4] = ["Cargo.toml", "Cargo.lock", "proxy-common", "proxy-ebpf"];

/// Three lines in a file beside the object: the sources, the toolchain with its flags, the object.
pub(super) struct Stamp {
    sources: String,
    toolchain: String,
}

impl Stamp {
    pub(super) fn new(sources: String, toolchain: &str) -> Stamp {
        Stamp { sources, toolchain: toolchain.replace('\n', " ") }
    }

    /// The stamp of the last build, if there was one.
    pub(super) fn read(path: &Path) -> Option<Stamp> {
        let text = fs::read_to_string(path).ok()?;
        let mut lines = text.lines().map(str::to_owned);
        Some(Stamp { sources: lines.next()?, toolchain: lines.next()? })
    }

    pub(super) fn is_of(&self, sources: &str) -> bool {
        self.sources == sources
    }

    /// Whether the object is there, and it is the one that was made like this.
    pub(super) fn is_met(&self, path: &Path, object: &Path) -> bool {
        let Ok(object) = hash_of_file(object) else { return false };
        fs::read_to_string(path).is_ok_and(|text| text == self.text(&object))
    }

    pub(super) fn write(&self, path: &Path, object: &Path) -> Result<()> {
        let text = self.text(&hash_of_file(object)?);
        fs::write(path, text).with_context(|| format!("write {}", path.display()))
    }

    fn text(&self, object: &str) -> String {
        format!("{}\n{}\n{object}\n", self.sources, self.toolchain)
    }
}

/// A hash over the paths and contents of the sources under `root`.
pub(super) fn sources(root: &Path) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    for source in SOURCES {
        hash_tree(&root.join(source), &mut hasher)?;
    }
    Ok(format!("{:016x}", hasher.finish()))
}

fn hash_tree(path: &Path, hasher: &mut DefaultHasher) -> Result<()> {
    if path.is_dir() {
        let mut entries = fs::read_dir(path)?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<Vec<_>>>()
            .with_context(|| format!("list {}", path.display()))?;
        entries.retain(|entry| !entry.ends_with("target"));
        entries.sort();
        for entry in entries {
            hash_tree(&entry, hasher)?;
        }
        return Ok(());
    }
    path.hash(hasher);
    fs::read(path).with_context(|| format!("read {}", path.display()))?.hash(hasher);
    Ok(())
}

fn hash_of_file(path: &Path) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    fs::read(path).with_context(|| format!("read {}", path.display()))?.hash(&mut hasher);
    Ok(format!("{:016x}", hasher.finish()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_met_only_by_the_same_sources_toolchain_and_object() {
        let directory = tempfile::tempdir().unwrap();
        let (path, object) = (directory.path().join("stamp"), directory.path().join("object"));
        let stamp = Stamp::new("s1".into(), "rustc 1\nllvm 22");
        assert!(!stamp.is_met(&path, &object));
        fs::write(&object, "elf").unwrap();
        stamp.write(&path, &object).unwrap();
        assert!(stamp.is_met(&path, &object));
        assert!(Stamp::read(&path).unwrap().is_of("s1"));
        assert!(!Stamp::read(&path).unwrap().is_of("s2"));
        assert!(!Stamp::new("s2".into(), "rustc 1\nllvm 22").is_met(&path, &object));
        assert!(!Stamp::new("s1".into(), "rustc 2\nllvm 22").is_met(&path, &object));
        fs::write(&object, "another elf").unwrap();
        assert!(!stamp.is_met(&path, &object));
    }

    #[test]
    fn sources_change_with_content_and_name_but_not_with_build_output() {
        let root = tempfile::tempdir().unwrap();
        for directory in ["proxy-common", "proxy-ebpf", "proxy-ebpf/target"] {
            fs::create_dir(root.path().join(directory)).unwrap();
        }
        for file in ["Cargo.toml", "Cargo.lock", "proxy-ebpf/a.rs"] {
            fs::write(root.path().join(file), "1").unwrap();
        }
        let first = sources(root.path()).unwrap();
        fs::write(root.path().join("proxy-ebpf/target/x"), "1").unwrap();
        assert_eq!(sources(root.path()).unwrap(), first);
        fs::write(root.path().join("proxy-ebpf/a.rs"), "2").unwrap();
        let second = sources(root.path()).unwrap();
        assert_ne!(second, first);
        fs::rename(root.path().join("proxy-ebpf/a.rs"), root.path().join("proxy-ebpf/b.rs"))
            .unwrap();
        assert_ne!(sources(root.path()).unwrap(), second);
    }
}
