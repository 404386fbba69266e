//! How much is delivered on a connection of ours: the programs count, in memory that both share.

use std::{
    mem::offset_of,
    sync::{Arc, Mutex, OnceLock, atomic::Ordering},
};

use aya::Ebpf;
use proxy_common::{
    leg::Delivered,
    limits::{LEGS_MAX, REMOTE_CLIENTS_MAX},
    names,
};

use super::bypass::{Armed, Bypasses};
use crate::{
    kernel::{
        places::{self, Place, Places},
        sockets::map_array,
    },
    sys::mapped::MappedWords,
};

/// Every place.
pub(super) struct Meters {
    delivered: Arc<MappedWords>,
    /// Empty: no response goes past us.
    bypasses: OnceLock<Arc<Bypasses>>,
    legs: Arc<Mutex<Places>>,
    /// Of clients on other hosts, behind those; nothing is counted there.
    remotes: Arc<Mutex<Places>>,
}

impl Meters {
    pub(super) fn new(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        const LEGS: u32 = 2 * LEGS_MAX;
        let delivered = Arc::new(map_array::<Delivered>(ebpf, names::DELIVERED, LEGS)?);
        let places = |all| Arc::new(Mutex::new(Places::new(all)));
        let (legs, remotes) = (places(0..LEGS), places(LEGS..LEGS + REMOTE_CLIENTS_MAX));
        Ok(Self { delivered, bypasses: OnceLock::new(), legs, remotes })
    }

    /// From here on responses may go past us.
    pub(super) fn allow(&self, bypasses: Bypasses) {
        let _ = self.bypasses.set(Arc::new(bypasses));
    }

    /// `None`: all are taken, or were a moment ago.
    pub(super) fn take(&self) -> Option<Meter> {
        let mut meter = self.at(Place::take(&self.legs)?);
        // What was counted for whoever had the place before, and what was armed.
        meter.advance();
        if let Some(bypasses) = &meter.bypasses {
            bypasses.reset(meter.place.number());
        }
        Some(meter)
    }

    /// The same for a client on another host.
    pub(super) fn take_remote(&self) -> Option<Meter> {
        Some(self.at(Place::take(&self.remotes)?))
    }

    /// Connections that have joined.
    pub(super) fn joined(&self) -> usize {
        places::lock(&self.legs).taken()
    }

    /// Clients on other hosts.
    pub(super) fn remote(&self) -> usize {
        places::lock(&self.remotes).taken()
    }

    fn at(&self, place: Place) -> Meter {
        let delivered = Arc::clone(&self.delivered);
        let bypasses = self.bypasses.get().cloned();
        Meter { delivered, bypasses, place, read: [0; 2] }
    }
}

/// Counts what is delivered on one connection that has joined. Goes with its socket, or after it.
#[derive(Debug)]
pub struct Meter {
    delivered: Arc<MappedWords>,
    bypasses: Option<Arc<Bypasses>>,
    place: Place,
    /// By our end, to it.
    read: [u64; 2],
}

impl Meter {
    /// Bytes that were delivered since the last call, by our end and to it. Heads count as well as
    /// bodies; what the kernel has no memory for at first counts each time it is tried; and what a
    /// client sends before the call, be it the next request, counts now.
    pub fn advance(&mut self) -> [u64; 2] {
        let fields = [offset_of!(Delivered, sent), offset_of!(Delivered, received)];
        let now = fields.map(|field| self.word(field));
        let before = std::mem::replace(&mut self.read, now);
        [now[0].wrapping_sub(before[0]), now[1].wrapping_sub(before[1])]
    }

    /// Lets the next response on this connection, which is to a node, go straight to `client`'s.
    /// `None`: it cannot.
    pub fn arm(&self, client: &Meter) -> Option<Armed> {
        self.arm_in(self.bypasses.as_ref()?, client)
    }

    pub(super) fn arm_in(&self, bypasses: &Bypasses, client: &Meter) -> Option<Armed> {
        bypasses.arm(self.place.number(), client.place())
    }

    pub(super) fn place_number(&self) -> u32 {
        self.place.number()
    }

    /// As the programs know it: 0 is none.
    pub(super) fn place(&self) -> u32 {
        self.place.number() + 1
    }

    fn word(&self, field: usize) -> u64 {
        let byte = self.place.number() as usize * size_of::<Delivered>() + field;
        let word = self.delivered.word(byte / size_of::<u64>());
        word.map_or(0, |word| word.load(Ordering::Relaxed))
    }
}
