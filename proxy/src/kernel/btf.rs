//! Where the running kernel keeps a field: its own type information, read as linux/btf.h says.
//!
//! aya-ebpf emits no relocations (aya issue 349), so offsets are looked up here and given to the
//! programs as constants.

use std::{fs, ops::Range};

use anyhow::{Context as _, ensure};

const PATH: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;
/// Anonymous structs and unions inside one another, as far as they are followed.
const NESTING_MAX: usize = 8;

/// `BTF_KIND_*`
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const VOLATILE: u32 = 9;
    pub(super) const CONST: u32 = 10;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const ENUM64: u32 = 19;
}

/// Type information of a kernel, as it came: an index of its 150 000 types would cost more than the
/// few looked up here.
pub(super) struct Btf {
    bytes: Vec<u8>,
    types: Range<usize>,
    strings: Range<usize>,
}

impl Btf {
    pub(super) fn of_this_kernel() -> anyhow::Result<Btf> {
        let bytes = fs::read(PATH).with_context(|| format!("read {PATH}"))?;
        Btf::parse(bytes).with_context(|| format!("parse {PATH}"))
    }

    fn parse(bytes: Vec<u8>) -> anyhow::Result<Btf> {
        let magic = bytes.first_chunk().map(|magic| u16::from_ne_bytes(*magic));
        ensure!(magic == Some(MAGIC), "no BTF of this byte order");
        let header = |at| word(&bytes, at).context("header cut off");
        let length = header(4)?;
        let section = |offset: usize, size: usize| {
            let start = length.checked_add(offset)?;
            let section = start..start.checked_add(size)?;
            bytes.get(section.clone()).map(|_| section)
        };
        let types = section(header(8)?, header(12)?).context("types cut off")?;
        let strings = section(header(16)?, header(20)?).context("strings cut off")?;
        let btf = Btf { bytes, types, strings };
        ensure!(btf.records().last() == Some(btf.types.end), "a type cut off");
        Ok(btf)
    }

    /// Where each type starts, in the order of their ids, which count from 1; then where the last
    /// one ends.
    fn records(&self) -> impl Iterator<Item = usize> {
        let next = |&at: &usize| Some(at + self.record_size(at)?);
        std::iter::successors(Some(self.types.start), next)
    }

    /// Offset in bytes of a field of a struct, through anonymous members; `a.b` is `b` in the struct
    /// that is `a`.
    pub(super) fn offset_of(&self, structure: &str, path: &str) -> anyhow::Result<u32> {
        let offset = self
            .records()
            .filter(|&start| {
                self.kind(start) == Some(kind::STRUCT) && self.name(start) == Some(structure)
            })
            .find_map(|start| self.follow(start, path))
            .with_context(|| format!("no field `{structure}.{path}` in this kernel's BTF"))?;
        ensure!(offset % 8 == 0, "`{structure}.{path}` is a bit field");
        Ok(offset / 8)
    }

    /// Value of a constant of an enumeration of at most 32 bits.
    pub(super) fn constant(&self, enumeration: &str, name: &str) -> anyhow::Result<u32> {
        self.records()
            .filter(|&start| {
                self.kind(start) == Some(kind::ENUM) && self.name(start) == Some(enumeration)
            })
            .find_map(|start| {
                let count = word(&self.bytes, start + 4)? & 0xffff;
                let mut constants = (0..count).map(|index| start + 12 + index * 8);
                let at = constants.find(|&at| self.name(at) == Some(name))?;
                Some(word(&self.bytes, at + 4)? as u32)
            })
            .with_context(|| format!("no constant `{enumeration}::{name}` in this kernel's BTF"))
    }

    /// Offset in bits of what a path leads to.
    fn follow(&self, start: usize, path: &str) -> Option<u32> {
        let (field, rest) = path.split_once('.').unwrap_or((path, ""));
        let (offset, id) = self.member(start, field, NESTING_MAX)?;
        if rest.is_empty() {
            return Some(offset);
        }
        Some(offset + self.follow(self.named_by(id)?, rest)?)
    }

    /// What a type is behind the names that were given to it.
    fn named_by(&self, id: usize) -> Option<usize> {
        let start = self.records().nth(id.checked_sub(1)?)?;
        match self.kind(start)? {
            kind::TYPEDEF | kind::VOLATILE | kind::CONST => {
                self.named_by(word(&self.bytes, start + 8)?)
            }
            _ => Some(start),
        }
    }

    /// Offset in bits, and type.
    fn member(&self, start: usize, field: &str, nesting: usize) -> Option<(u32, usize)> {
        let info = word(&self.bytes, start + 4)?;
        let has_bit_fields = info >> 31 == 1;
        (0..info & 0xffff).find_map(|index| {
            let at = start + 12 + index * 12;
            let offset = word(&self.bytes, at + 8)? as u32;
            let offset = if has_bit_fields { offset & 0x00ff_ffff } else { offset };
            let id = word(&self.bytes, at + 4)?;
            match self.name(at)? {
                name if name == field => Some((offset, id)),
                "" if nesting > 0 => {
                    let nested = self.records().nth(id.checked_sub(1)?)?;
                    let (inner, id) = matches!(self.kind(nested)?, kind::STRUCT | kind::UNION)
                        .then(|| self.member(nested, field, nesting - 1))
                        .flatten()?;
                    Some((offset + inner, id))
                }
                _ => None,
            }
        })
    }

    /// Size of a type's record, which depends on its kind; `None` at the end, or past it.
    fn record_size(&self, start: usize) -> Option<usize> {
        let info = word(self.bytes.get(..self.types.end)?, start + 4)?;
        let members = info & 0xffff;
        let rest = match kind_of(info) {
            kind::INT | kind::VAR | kind::DECL_TAG => 4,
            kind::ARRAY => 12,
            kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => members * 12,
            kind::ENUM | kind::FUNC_PROTO => members * 8,
            _ => 0,
        };
        Some(12 + rest)
    }

    fn kind(&self, start: usize) -> Option<u32> {
        Some(kind_of(word(self.bytes.get(..self.types.end)?, start + 4)?))
    }

    /// The name that a type or member starts with.
    fn name(&self, start: usize) -> Option<&str> {
        let strings = self.bytes.get(self.strings.clone())?;
        let rest = strings.get(word(&self.bytes, start)?..)?;
        std::str::from_utf8(rest.split(|byte| *byte == 0).next()?).ok()
    }
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?) as usize)
}

fn kind_of(info: usize) -> u32 {
    (info >> 24 & 0x1f) as u32
}

#[cfg(test)]
mod tests;
