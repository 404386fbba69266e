//! Our ends of connections to clients on other hosts that responses may go to past us. They stay TCP
//! sockets like any other; the map only lets `local` name them as a place to send to.

use std::{
    os::fd::{AsRawFd as _, BorrowedFd},
    sync::Mutex,
};

use anyhow::{Context as _, ensure};
use aya::{
    Ebpf,
    maps::{MapData, SockHash},
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use proxy_common::{
    leg::{COOKIE_AT, PLACE_AT},
    names,
};

use super::lock;
use crate::{
    kernel::{loader, sockets::take},
    sys,
};

pub(super) struct Remotes {
    sockets: Mutex<SockHash<MapData, u64>>,
}

impl Remotes {
    pub(super) fn load(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        loader::verify::<SchedClassifier>(ebpf, names::REMOTE)?;
        let sockets = take(ebpf, names::REMOTE_CLIENTS)?.try_into()?;
        Ok(Self { sockets: Mutex::new(sockets) })
    }

    /// `program` is `remote`, which notes in `place` where the kernel has the socket.
    pub(super) fn admit(
        &self,
        program: &SchedClassifier,
        socket: BorrowedFd<'_>,
        place: u32,
    ) -> anyhow::Result<()> {
        let cookie = sys::socket::cookie(socket).context("cookie")?;
        lock(&self.sockets).insert(cookie, socket.as_raw_fd(), 0).context("put into the map")?;
        let mut packet = [0; PLACE_AT + size_of::<u64>()];
        packet[COOKIE_AT..PLACE_AT].copy_from_slice(&cookie.to_ne_bytes());
        packet[PLACE_AT..].copy_from_slice(&u64::from(place).to_ne_bytes());
        let options = TestRunOptions { data_in: Some(&packet), ..TestRunOptions::default() };
        let run = program.test_run(options).context("run `remote`")?;
        ensure!(run.return_value == 1, "`remote` has not found the socket");
        Ok(())
    }
}
