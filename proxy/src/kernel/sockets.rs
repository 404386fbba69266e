//! The map of sockets whose bytes the kernel moves, for tunnels and legs alike: a socket can carry one
//! verdict only, so there is one map. Nothing is taken out of it while it has bytes: deleting a socket
//! loses what is queued on it, closing it does not.

use std::{
    os::fd::{AsRawFd as _, BorrowedFd},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, bail};
use aya::{
    Ebpf,
    maps::{Map, MapData, MapError, SockHash},
    programs::{SkMsg, SkSkb, sk_msg::SkMsgLink},
};
use proxy_common::{globals, names};

use super::{btf::Btf, loader};
use crate::sys::mapped::MappedWords;

/// Global, struct, field: what `tunnel` has to know of this kernel.
pub(super) const FIELDS: [(&str, &str, &str); 5] = [
    (globals::SKB_SEQ, "sk_buff", "cb"),
    (globals::SKB_TRUESIZE, "sk_buff", "truesize"),
    (globals::TCP_COPIED_SEQ, "tcp_sock", "copied_seq"),
    (globals::TCP_WRITE_SEQ, "tcp_sock", "write_seq"),
    (globals::TCP_SND_UNA, "tcp_sock", "snd_una"),
];

/// Values of globals, by name.
pub(super) type Offsets = Vec<(&'static str, u32)>;

/// Where this kernel keeps the fields.
pub(super) fn offsets(btf: &Btf, fields: &[(&'static str, &str, &str)]) -> anyhow::Result<Offsets> {
    fields
        .iter()
        .map(|(global, structure, field)| Ok((*global, btf.offset_of(structure, field)?)))
        .collect()
}

/// The map, with the verdict on it.
#[derive(Clone)]
pub(super) struct Sockets {
    map: Arc<Mutex<SockHash<MapData, u64>>>,
}

impl Sockets {
    /// Loads `tunnel` and attaches it. A socket keeps the programs its map had when it came in, so
    /// all of them come first.
    pub(super) fn load(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let map: SockHash<MapData, u64> = take(ebpf, names::SOCKETS)?.try_into()?;
        loader::verify::<SkSkb>(ebpf, names::TUNNEL)?
            .attach(map.fd())
            .context("attach `tunnel` to `SOCKETS`")?;
        Ok(Self { map: Arc::new(Mutex::new(map)) })
    }

    /// Loads `local` and attaches it, for sockets that come in until the link is dropped.
    pub(super) fn attach_local(&self, ebpf: &mut Ebpf) -> anyhow::Result<SkMsgLink> {
        let map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        let program = loader::verify::<SkMsg>(ebpf, names::LOCAL)?;
        let link = program.attach(map.fd()).context("attach `local` to `SOCKETS`")?;
        Ok(program.take_link(link)?)
    }

    pub(super) fn insert(&self, cookie: u64, socket: BorrowedFd<'_>) -> Result<(), MapError> {
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        map.insert(cookie, socket.as_raw_fd(), 0)
    }
}

pub(super) fn take(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<Map> {
    ebpf.take_map(name).with_context(|| format!("no map `{name}`"))
}

/// An array of the object as words of this process.
pub(super) fn map_array<T>(ebpf: &mut Ebpf, name: &str, count: u32) -> anyhow::Result<MappedWords> {
    let Map::Array(map) = take(ebpf, name)? else { bail!("map `{name}` is not an array") };
    MappedWords::map(map.fd(), count as usize * size_of::<T>() / size_of::<u64>())
        .with_context(|| format!("map `{name}` into memory"))
}
