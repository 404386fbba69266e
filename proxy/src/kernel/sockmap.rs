//! Tunnels that the kernel moves: the maps, who has which place in them, and the words that
//! userspace and the program `tunnel` tell each other through.
//!
//! Life of a place: both ends are described, then the sockets are put in the map, and from then on
//! the program moves bytes. Nothing is ever taken out of the socket map: deleting a socket loses what
//! is queued on it, in either direction, while closing it does not. So a tunnel ends with its sockets
//! closed, and the kernel takes them out.

mod self_test;

use std::{
    io,
    mem::offset_of,
    os::fd::BorrowedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, MapData, MapError},
};
use proxy_common::{
    limits::TUNNEL_WINDOW,
    names,
    tunnel::{Control, Flow, state},
};
use rustix::time::{ClockId, clock_gettime};

use super::{
    places::{Place, Places},
    sockets::{Sockets, map_array, take},
};
use crate::{
    config::Limits,
    sys::{self, mapped::MappedWords},
};

const WORD: usize = size_of::<u64>();

/// One end of a tunnel; counters are of the direction that starts there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Downstream,
    Upstream,
}

impl End {
    const BOTH: [End; 2] = [End::Downstream, End::Upstream];

    const fn other(self) -> End {
        match self {
            End::Downstream => End::Upstream,
            End::Upstream => End::Downstream,
        }
    }
}

/// Why the kernel does not move a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TunnelRefused {
    /// The kernel half does not run, or was not asked for tunnels.
    KernelOff,
    /// `limits.sockmap_tunnels` are open.
    Full,
    /// One side has ended already (EOPNOTSUPP); a normal outcome.
    HalfClosed,
    /// Another BPF program has a verdict on one of the sockets (EBUSY).
    Busy,
    /// The kernel gave another reason.
    Failed,
    /// The upstream is in the map, the downstream was refused: see [`Tunnel::is_stranded`].
    Stranded,
}

/// Every tunnel that the kernel moves.
#[derive(Clone)]
pub(super) struct Tunnels {
    shared: Arc<Shared>,
}

struct Shared {
    sockets: Sockets,
    ends: Mutex<HashMap<MapData, u64, u32>>,
    controls: MappedWords,
    flows: MappedWords,
    places: Arc<Mutex<Places>>,
}

/// A tunnel that the kernel moves. Dropping it leaves what still arrives to userspace; its sockets
/// have to be closed.
pub struct Tunnel {
    shared: Arc<Shared>,
    place: Place,
    /// Of the downstream, of the upstream.
    sockets: [Socket; 2],
    is_stranded: bool,
}

#[derive(Debug, Clone, Copy)]
struct Socket {
    cookie: u64,
    /// [`sys::socket::written`] before the tunnel.
    written: u64,
}

/// How many there may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setup {
    tunnels_max: u32,
}

impl Setup {
    pub(super) fn new(limits: &Limits) -> Self {
        Self { tunnels_max: limits.sockmap_tunnels }
    }

    pub(super) fn apply(self, loader: &mut EbpfLoader<'_>) {
        for map in [names::TUNNEL_END, names::TUNNEL_CONTROL, names::TUNNEL_FLOW] {
            loader.map_max_entries(map, self.ends_max());
        }
    }

    /// At least one tunnel: the kernel makes no empty map.
    pub(super) const fn ends_max(self) -> u32 {
        match self.tunnels_max {
            0 => 2,
            tunnels => tunnels.saturating_mul(2),
        }
    }
}

impl Tunnels {
    /// Proves on loopback that the program does what it should on this kernel.
    pub(super) fn load(ebpf: &mut Ebpf, setup: Setup, sockets: Sockets) -> anyhow::Result<Self> {
        let ends_max = setup.ends_max();
        let shared = Shared {
            sockets,
            ends: Mutex::new(take(ebpf, names::TUNNEL_END)?.try_into()?),
            controls: map_array::<Control>(ebpf, names::TUNNEL_CONTROL, ends_max)?,
            flows: map_array::<Flow>(ebpf, names::TUNNEL_FLOW, ends_max)?,
            places: Arc::new(Mutex::new(Places::new(0..setup.tunnels_max))),
        };
        let tunnels = Self { shared: Arc::new(shared) };
        self_test::run(&tunnels).context("self-test of `tunnel`")?;
        Ok(tunnels)
    }

    pub(super) fn open(
        &self,
        downstream: BorrowedFd<'_>,
        upstream: BorrowedFd<'_>,
    ) -> Result<Tunnel, TunnelRefused> {
        let sockets = [Socket::new(downstream)?, Socket::new(upstream)?];
        let place = Place::take(&self.shared.places).ok_or(TunnelRefused::Full)?;
        let shared = Arc::clone(&self.shared);
        let mut tunnel = Tunnel { shared, place, sockets, is_stranded: false };
        tunnel.describe()?;
        // The upstream first: a node seldom speaks before it is spoken to, so little of what comes
        // next finds no peer and takes the way through userspace.
        self.shared.insert(tunnel.socket(End::Upstream).cookie, upstream)?;
        let downstream = self.shared.insert(tunnel.socket(End::Downstream).cookie, downstream);
        tunnel.is_stranded = downstream.is_err();
        Ok(tunnel)
    }
}

/// Index of an end in both arrays.
const fn index(place: &Place, end: End) -> u32 {
    match end {
        End::Downstream => place.number() * 2,
        End::Upstream => place.number() * 2 + 1,
    }
}

impl Shared {
    fn insert(&self, cookie: u64, socket: BorrowedFd<'_>) -> Result<(), TunnelRefused> {
        self.sockets.insert(cookie, socket).map_err(|error| refusal(&error))
    }

    fn control(&self, index: u32, field: usize) -> &AtomicU64 {
        word(&self.controls, index as usize * size_of::<Control>() + field)
    }

    fn flow(&self, index: u32, field: usize) -> &AtomicU64 {
        word(&self.flows, index as usize * size_of::<Flow>() + field)
    }
}

/// A word by its offset in bytes. Places are handed out within the maps' sizes, so that there always
/// is one; the fallback stands for a bug and is never read.
fn word(words: &MappedWords, offset: usize) -> &AtomicU64 {
    static NOWHERE: AtomicU64 = AtomicU64::new(0);
    let word = words.word(offset / WORD);
    debug_assert!(word.is_some(), "{offset}");
    word.unwrap_or(&NOWHERE)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in there is valid whenever the lock is free: single calls change it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn refusal(error: &MapError) -> TunnelRefused {
    let MapError::SyscallError(error) = error else { return TunnelRefused::Failed };
    match error.io_error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => TunnelRefused::HalfClosed,
        Some(libc::EBUSY) => TunnelRefused::Busy,
        Some(libc::E2BIG) => TunnelRefused::Full,
        Some(_) | None => TunnelRefused::Failed,
    }
}

impl Socket {
    fn new(socket: BorrowedFd<'_>) -> Result<Self, TunnelRefused> {
        let look = || -> io::Result<(bool, Self)> {
            let is_open = sys::socket::is_established(socket)?;
            sys::socket::make_room(socket, TUNNEL_WINDOW)?;
            let cookie = sys::socket::cookie(socket)?;
            Ok((is_open, Self { cookie, written: sys::socket::written(socket)? }))
        };
        match look() {
            Ok((true, socket)) => Ok(socket),
            // The kernel would say so too, but perhaps to the second socket only.
            Ok((false, _)) => Err(TunnelRefused::HalfClosed),
            Err(_) => Err(TunnelRefused::Failed),
        }
    }
}

impl Tunnel {
    /// Whether the kernel took the upstream and refused the downstream: it redirects nothing then.
    /// What comes from the upstream still passes the program, which cuts off what comes twice, and
    /// `splice(2)` finds nothing on that socket.
    pub const fn is_stranded(&self) -> bool {
        self.is_stranded
    }

    /// Bytes from this end that the kernel has queued on the other.
    pub fn redirected(&self, from: End) -> u64 {
        self.flow(from, offset_of!(Flow, redirected)).load(Ordering::Acquire)
    }

    /// Bytes from this end that the kernel has left to userspace.
    pub fn passed(&self, from: End) -> u64 {
        self.flow(from, offset_of!(Flow, passed)).load(Ordering::Acquire)
    }

    /// Bytes from this end that came a second time and were cut off.
    pub fn trimmed(&self, from: End) -> u64 {
        self.flow(from, offset_of!(Flow, trimmed)).load(Ordering::Acquire)
    }

    /// How far the direction had come when the kernel last forgot what it had queued.
    fn mark(&self, from: End) -> u32 {
        const { assert!(offset_of!(Flow, mark) % WORD == WORD / 2, "the high half of its word") };
        let word = self.flow(from, offset_of!(Flow, base_seq)).load(Ordering::Acquire);
        (word >> 32) as u32
    }

    /// Whether bytes came that cannot be told to be new. Nothing read since can be trusted.
    pub fn is_out_of_step(&self, from: End) -> bool {
        const { assert!(offset_of!(Flow, state) % WORD == 0, "the low half of its word") };
        let word = self.flow(from, offset_of!(Flow, state)).load(Ordering::Acquire);
        word as u32 & state::OUT_OF_STEP != 0
    }

    /// Passed bytes from this end that userspace has written to the other.
    pub fn delivered(&self, from: End) -> u64 {
        self.control(from, offset_of!(Control, delivered)).load(Ordering::Relaxed)
    }

    /// Notes that passed bytes have been written to the other end. Once all have been, the kernel
    /// goes on by itself. Returns whether there are more: the kernel redirects nothing before them.
    #[must_use]
    pub fn deliver(&self, from: End, bytes: u64) -> bool {
        let word = self.control(from, offset_of!(Control, delivered));
        // Nobody else writes it.
        let delivered = word.load(Ordering::Relaxed).wrapping_add(bytes);
        // Read before the kernel is told: from then on it may redirect, and what it passes later
        // comes after that.
        let passed = self.passed(from);
        word.store(delivered, Ordering::Release);
        delivered != passed
    }

    /// Redirected bytes from this end that have not been written to the other, whose socket `peer`
    /// is. Exact while the kernel redirects nothing: passed bytes wait, or the stream has ended.
    ///
    /// # Errors
    /// See [`sys::socket::written`].
    pub fn backlog(&self, from: End, peer: BorrowedFd<'_>) -> io::Result<u64> {
        let moved = self.redirected(from) + self.delivered(from);
        let written = sys::socket::written(peer)?;
        Ok(moved.saturating_sub(written.saturating_sub(self.socket(from.other()).written)))
    }

    /// How long nothing has arrived at either end; `None`: nothing ever has.
    pub fn idle(&self) -> Option<Duration> {
        let last = End::BOTH
            .map(|end| self.flow(end, offset_of!(Flow, last_ns)).load(Ordering::Relaxed))
            .into_iter()
            .max()
            .filter(|last| *last > 0)?;
        let now = clock_gettime(ClockId::Monotonic);
        let now = Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32);
        Some(now.saturating_sub(Duration::from_nanos(last)))
    }

    /// Writes both ends' places and makes the sockets lead there. The sockets are not in the map
    /// yet, so that nobody reads what is written.
    fn describe(&self) -> Result<(), TunnelRefused> {
        for end in End::BOTH {
            let index = index(&self.place, end);
            for field in (0..size_of::<Flow>()).step_by(WORD) {
                self.shared.flow(index, field).store(0, Ordering::Relaxed);
            }
            let (own, peer) = (self.socket(end).cookie, self.socket(end.other()).cookie);
            self.control(end, offset_of!(Control, peer)).store(peer, Ordering::Relaxed);
            self.control(end, offset_of!(Control, delivered)).store(0, Ordering::Relaxed);
            self.control(end, offset_of!(Control, socket)).store(own, Ordering::Release);
            lock(&self.shared.ends).insert(own, index, 0).map_err(|error| refusal(&error))?;
        }
        Ok(())
    }

    const fn socket(&self, end: End) -> Socket {
        let [downstream, upstream] = self.sockets;
        match end {
            End::Downstream => downstream,
            End::Upstream => upstream,
        }
    }

    fn control(&self, end: End, field: usize) -> &AtomicU64 {
        self.shared.control(index(&self.place, end), field)
    }

    fn flow(&self, end: End, field: usize) -> &AtomicU64 {
        self.shared.flow(index(&self.place, end), field)
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let mut ends = lock(&self.shared.ends);
        for socket in self.sockets {
            // Not there if describing it failed.
            let _ = ends.remove(&socket.cookie);
        }
    }
}
