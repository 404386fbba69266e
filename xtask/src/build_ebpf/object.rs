//! Reading what was built: is it an object we would embed, and what is in it.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use object::{Architecture, File, Object, ObjectSection, ObjectSymbol, SectionKind, SymbolKind};

/// One eBPF instruction slot; a 64-bit load takes two.
const INSTRUCTION_BYTES: u64 = 8;
/// Functions called by programs rather than attached to something.
const SUBPROGRAMS: &str = ".text";

/// A function of the object and how many instruction slots it takes.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Program {
    section: String,
    name: String,
    instructions: u64,
}

/// Refuses an object without programs, or without the type information maps are read with.
pub(super) fn check(path: &Path) -> Result<()> {
    let data = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let file = parse(&data).with_context(|| format!("object {}", path.display()))?;
    if programs(&file)?.iter().all(|program| program.section == SUBPROGRAMS) {
        bail!("{} has no program in it", path.display());
    }
    if file.section_by_name(".BTF").is_none() {
        bail!("{} has no BTF; was it linked with `--btf`?", path.display());
    }
    Ok(())
}

/// Prints size and instruction counts.
pub(super) fn describe(path: &Path) -> Result<()> {
    let data = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let file = parse(&data)?;
    let programs = programs(&file)?;
    println!("size      {} bytes", data.len());
    for program in programs.iter().filter(|program| program.section != SUBPROGRAMS) {
        let Program { section, name, instructions } = program;
        println!("program   {name:<12} {instructions:>5} instructions  ({section})");
    }
    let shared: u64 = programs
        .iter()
        .filter(|program| program.section == SUBPROGRAMS)
        .map(|program| program.instructions)
        .sum();
    if shared > 0 {
        println!(
            "functions {:<12} {shared:>5} instructions  ({SUBPROGRAMS}, called or unused)",
            ""
        );
    }
    Ok(())
}

fn parse(data: &[u8]) -> Result<File<'_>> {
    let file = File::parse(data).context("not an ELF file")?;
    if file.architecture() != Architecture::Bpf {
        bail!("is for {:?}, not for BPF", file.architecture());
    }
    Ok(file)
}

fn programs(file: &File<'_>) -> Result<Vec<Program>> {
    let mut programs = Vec::new();
    for symbol in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text) {
        let Some(index) = symbol.section_index() else { continue };
        let section = file.section_by_index(index)?;
        if section.kind() == SectionKind::Text && symbol.size() > 0 {
            programs.push(Program {
                section: section.name()?.to_owned(),
                name: symbol.name()?.to_owned(),
                instructions: symbol.size() / INSTRUCTION_BYTES,
            });
        }
    }
    programs.sort();
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_not_a_bpf_object() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("object");
        fs::write(&path, "not elf").unwrap();
        assert!(format!("{:#}", check(&path).unwrap_err()).contains("not an ELF file"));
        let own = std::env::current_exe().unwrap();
        assert!(format!("{:#}", check(&own).unwrap_err()).contains("not for BPF"));
    }
}
