//! How much is delivered on a connection of ours: the programs count, in memory that both share.

use std::{
    mem::offset_of,
    sync::{Arc, Mutex, atomic::Ordering},
};

use aya::Ebpf;
use proxy_common::{leg::Delivered, names};

use super::bypass::{self, Armed};
use crate::{
    kernel::{
        places::{Place, Places},
        sockets::map_array,
    },
    sys::mapped::MappedWords,
};

/// Every place.
pub(super) struct Meters {
    delivered: Arc<MappedWords>,
    /// `None`: no response goes past us.
    bypasses: Option<Arc<MappedWords>>,
    places: Arc<Mutex<Places>>,
}

impl Meters {
    /// Maps the first `count` places.
    pub(super) fn new(
        ebpf: &mut Ebpf,
        count: u32,
        bypasses: Option<Arc<MappedWords>>,
    ) -> anyhow::Result<Self> {
        let delivered = Arc::new(map_array::<Delivered>(ebpf, names::DELIVERED, count)?);
        Ok(Self { delivered, bypasses, places: Arc::new(Mutex::new(Places::new(count))) })
    }

    /// `None`: all are taken, or were a moment ago.
    pub(super) fn take(&self) -> Option<Meter> {
        let place = Place::take(&self.places)?;
        let (delivered, bypasses) = (Arc::clone(&self.delivered), self.bypasses.clone());
        let mut meter = Meter { delivered, bypasses, place, read: [0; 2] };
        // What was counted for whoever had the place before, and what was armed.
        meter.advance();
        if let Some(bypasses) = &meter.bypasses {
            bypass::reset(bypasses, meter.place.number());
        }
        Some(meter)
    }
}

/// Counts what is delivered on one connection that has joined. Goes with its socket, or after it.
#[derive(Debug)]
pub struct Meter {
    delivered: Arc<MappedWords>,
    bypasses: Option<Arc<MappedWords>>,
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
        Armed::new(self.bypasses.as_ref()?, self.place.number(), client.place())
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
