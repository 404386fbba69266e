//! Legs: connections of ours whose other end is on this host too. `establish` finds both ends, this
//! puts ours into the map of sockets, and from then on `local` delivers what either end sends.
//!
//! Whatever goes wrong with a leg, its bytes go by TCP: nothing here is an error to a request.

mod addresses;
mod bypass;
mod cgroup;
mod meter;
mod remote;
mod self_test;

use std::{
    fs::File,
    net::SocketAddr,
    os::fd::{AsFd as _, BorrowedFd},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, MapError, SkStorage},
    programs::{
        CgroupAttachMode, SchedClassifier, SockOps, TestRun as _, TestRunOptions,
        sk_msg::SkMsgLink, sock_ops::SockOpsLink,
    },
};
use proxy_common::{
    addr::Destination,
    globals,
    leg::{COOKIE_AT, Key, Leg, Member, Received, Switch, state},
    limits::{LEGS_MAX, OWN_ADDRESSES_MAX, REMOTE_CLIENTS_MAX},
    names,
};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use self::{
    addresses::{Addresses, Changes},
    bypass::Bypasses,
    meter::Meters,
    remote::Remotes,
};
pub use self::{
    bypass::{Armed, Passed, Turn},
    meter::Meter,
};
use super::{
    btf::Btf,
    loader,
    sockets::{self, Offsets, Sockets, take},
};
use crate::{config, sys};

/// Global, struct, field: what the programs have to know of this kernel.
pub(super) const FIELDS: [(&str, &str, &str); 19] = [
    (globals::TCP_RCV_NXT, "tcp_sock", "rcv_nxt"),
    (globals::TCP_SEGMENT, "tcp_sock", "mss_cache"),
    (globals::SOCK_COOKIE, "sock_common", "skc_cookie"),
    (globals::SOCK_STATE, "sock_common", "skc_state"),
    (globals::SOCK_FLAGS, "sock_common", "skc_flags"),
    (globals::SOCK_USER, "sock", "sk_uid"),
    (globals::SOCK_OWNED, "sock", "sk_lock.owned"),
    (globals::SOCK_USER_DATA, "sock", "sk_user_data"),
    (globals::SOCK_SEND_MAX, "sock", "sk_sndbuf"),
    (globals::SOCK_SENDING, "sock", "sk_wmem_queued"),
    (globals::SOCK_RECEIVED, "sock", "sk_receive_queue.qlen"),
    (globals::SOCK_BACKLOG, "sock", "sk_backlog.len"),
    (globals::SOCK_SOCKET, "sock", "sk_socket"),
    (globals::SOCKET_FILE, "socket", "file"),
    (globals::FILE_FLAGS, "file", "f_flags"),
    (globals::SOCK_ULP, "inet_connection_sock", "icsk_ulp_ops"),
    // Since 6.6.128, 6.12.75, 6.18.14 and 6.19; without it nothing bounds what is unread.
    (globals::PSOCK_UNREAD, "sk_psock", "msg_tot_len"),
    (globals::PSOCK_WAITING, "sk_psock", "ingress_skb.qlen"),
    (globals::MSG_START, "sk_msg", "sg.start"),
];

/// An end that connected waits this long for the one that accepted.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often the other end may hold us up.
const STRIKES_MAX: u32 = 3;

/// What became of an attempt to have the kernel deliver on a connection.
#[derive(Debug)]
pub enum Join {
    /// From now on nobody finds bytes there with `splice(2)`. Without a meter if it had joined before.
    Joined(Option<Meter>),
    /// Something is unread, or delivery is switched off; nothing has changed.
    NotNow,
    /// It is not a leg, or the kernel does not take it; nothing has changed.
    Never,
}

/// What becomes of a connection to a node that has joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlook {
    /// It is delivered.
    Direct,
    /// It is not, but a new one would be: it was established before it was known that the node does
    /// not block.
    Better,
    Unknown,
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtherEnd {
    /// Not on this host, or none of our business.
    Elsewhere,
    Open,
    /// For good: what is sent there nobody reads.
    Closed,
}

/// `BPF_NOEXIST` of linux/bpf.h.
const NOEXIST: u64 = 1;

/// What the loader has to know before the maps are made and the programs are verified.
pub(super) struct Setup {
    window: u32,
    egress_max: u32,
    namespace: u64,
    is_cross_namespace: u32,
    user: u32,
    offsets: Offsets,
}

impl Setup {
    pub(super) fn new(
        config: &config::SameHost,
        limits: &config::Limits,
        btf: &Btf,
    ) -> anyhow::Result<Self> {
        let mut offsets = sockets::offsets(btf, &FIELDS)?;
        offsets.push((globals::SOCK_ZEROCOPY, btf.constant("sock_flags", "SOCK_ZEROCOPY")?));
        Ok(Self {
            window: config.window,
            // The kernel makes whoever sends wait when more than that is unsent.
            egress_max: config.egress_max.min(u32::try_from(limits.unsent_max).unwrap_or(u32::MAX)),
            namespace: sys::socket::own_namespace().context("cookie of our network namespace")?,
            is_cross_namespace: config.is_cross_namespace.into(),
            user: config.uid.unwrap_or(globals::ANY_USER),
            offsets,
        })
    }

    pub(super) fn apply<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        loader
            .override_global(globals::LOCAL_WINDOW, &self.window, true)
            .override_global(globals::EGRESS_MAX, &self.egress_max, true)
            .override_global(globals::OWN_NAMESPACE, &self.namespace, true)
            .override_global(globals::CROSS_NAMESPACE, &self.is_cross_namespace, true)
            .override_global(globals::TRUSTED_USER, &self.user, true);
        for (global, offset) in &self.offsets {
            loader.override_global(global, offset, true);
        }
    }
}

/// Entries of the maps: none to speak of unless they are used, the kernel makes no empty map.
pub(super) fn size_maps(loader: &mut EbpfLoader<'_>, is_used: bool) {
    let (legs, remotes, addresses) =
        if is_used { (LEGS_MAX, REMOTE_CLIENTS_MAX, OWN_ADDRESSES_MAX) } else { (1, 1, 1) };
    loader
        .map_max_entries(names::LEGS, legs)
        .map_max_entries(names::RECEIVED, 2 * legs)
        .map_max_entries(names::DELIVERED, 2 * legs)
        .map_max_entries(names::CLIENTS, 2 * legs + remotes)
        .map_max_entries(names::BYPASSES, 2 * legs)
        .map_max_entries(names::REMOTE_CLIENTS, remotes)
        .map_max_entries(names::OWN_ADDRESSES, addresses);
}

/// Every leg.
#[derive(Clone)]
pub(super) struct SameHost {
    shared: Arc<Shared>,
}

struct Shared {
    sockets: Sockets,
    members: Mutex<SkStorage<MapData, Member>>,
    /// To go through, which takes long.
    legs: Mutex<HashMap<MapData, Key, Leg>>,
    /// To look one up.
    leg: Mutex<HashMap<MapData, Key, Leg>>,
    /// The same of what was received.
    all_received: Mutex<HashMap<MapData, u64, Received>>,
    received: Mutex<HashMap<MapData, u64, Received>>,
    meters: Meters,
    /// Empty: no response goes past us to another host.
    remotes: OnceLock<Remotes>,
    nodes: Mutex<HashMap<MapData, Destination, u32>>,
    addresses: Mutex<Addresses>,
    switch: Mutex<Array<MapData, Switch>>,
    /// What the switch says.
    is_enabled: AtomicBool,
    given_up: AtomicU64,
    window: u32,
    /// Both detached with the legs, also when they could not be had after all.
    _local: SkMsgLink,
    _establish: SockOpsLink,
}

/// Connections as `tandem bpf status` shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Legs {
    pub is_enabled: bool,
    /// What an end may have unread before the rest goes by TCP, in bytes.
    pub window: u32,
    /// Both ends known.
    pub found: usize,
    /// Ends of ours that are in the map of sockets.
    pub joined: usize,
    /// Clients on other hosts that responses may go to past us.
    pub remote_clients: usize,
    /// One end known.
    pub begun: usize,
    /// Ends so far of which no other was found: it is on another host, or behind an address
    /// translation.
    pub given_up: u64,
    /// Bytes that were delivered and nobody has read yet; looked for only when it is asked about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unread_bytes: Option<u64>,
}

impl SameHost {
    /// Loads the programs, proves on loopback that they do what they should on this kernel, and
    /// attaches to the trusted cgroup.
    pub(super) fn load(
        ebpf: &mut Ebpf,
        config: &config::SameHost,
        sockets: Sockets,
    ) -> anyhow::Result<Self> {
        let local = sockets.attach_local(ebpf)?;
        loader::verify::<SchedClassifier>(ebpf, names::UNREAD)?;
        let own: HashMap<MapData, Destination, u32> =
            take(ebpf, names::OWN_ADDRESSES)?.try_into()?;
        let legs = take(ebpf, names::LEGS)?;
        let received = take(ebpf, names::RECEIVED)?;
        let shared = Shared {
            sockets,
            members: Mutex::new(take(ebpf, names::MEMBER)?.try_into()?),
            leg: Mutex::new(another(&legs)?.try_into()?),
            legs: Mutex::new(legs.try_into()?),
            all_received: Mutex::new(another(&received)?.try_into()?),
            received: Mutex::new(received.try_into()?),
            meters: Meters::new(ebpf)?,
            remotes: OnceLock::new(),
            nodes: Mutex::new(take(ebpf, names::NODES)?.try_into()?),
            addresses: Mutex::new(Addresses::new(own)),
            switch: Mutex::new(take(ebpf, names::SAME_HOST)?.try_into()?),
            is_enabled: AtomicBool::new(false),
            given_up: AtomicU64::new(0),
            window: config.window,
            _local: local,
            _establish: attach(ebpf, &config.cgroup)?,
        };
        let same_host = Self { shared: Arc::new(shared) };
        same_host.switch(true)?;
        self_test::run(&same_host, config.uid).context("self-test of `local`")?;
        let changes = Changes::watch(PATIENCE)?;
        let shared = Arc::downgrade(&same_host.shared);
        thread::Builder::new()
            .name("same-host".to_owned())
            .spawn(move || tend(&shared, &changes))
            .context("start a thread")?;
        Ok(same_host)
    }

    /// Lets responses go past us, if this kernel says when they are where they should be.
    pub(super) fn load_bypass(&self, ebpf: &mut Ebpf, user: Option<u32>) -> anyhow::Result<()> {
        let bypasses = Bypasses::attach(ebpf)?;
        self_test::pass(self, &bypasses, user).context("self-test of `bypass`")?;
        self.shared.meters.allow(bypasses);
        Ok(())
    }

    /// Lets them go to clients on other hosts too, once others may go past us.
    pub(super) fn load_egress(&self, ebpf: &mut Ebpf, user: Option<u32>) -> anyhow::Result<()> {
        let remotes = Remotes::load(ebpf)?;
        self_test::egress(self, &remotes, ebpf, user).context("self-test of `remote`")?;
        let _ = self.shared.remotes.set(remotes);
        Ok(())
    }

    /// Lets responses go past us to the client of a connection, which is on another host. `None`: they
    /// do not.
    pub(super) fn admit_remote(
        &self,
        program: &SchedClassifier,
        socket: BorrowedFd<'_>,
    ) -> Option<Meter> {
        let remotes = self.shared.remotes.get().filter(|_| self.is_enabled())?;
        let meter = self.shared.meters.take_remote()?;
        match remotes.admit(program, socket, meter.place_number()) {
            Ok(()) => Some(meter),
            Err(error) => {
                tracing::debug!(
                    error = format!("{error:#}"),
                    "a client gets its responses from us"
                );
                None
            }
        }
    }

    /// Whether messages are delivered; bytes that were are read whatever this says.
    pub(super) fn switch(&self, is_enabled: bool) -> anyhow::Result<()> {
        let mut switch = lock(&self.shared.switch);
        switch.set(0, Switch { enabled: is_enabled.into() }, 0).context("write map `SAME_HOST`")?;
        self.shared.is_enabled.store(is_enabled, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.shared.is_enabled.load(Ordering::Relaxed)
    }

    /// Marks a socket that is about to connect to a node: `establish` looks for its other end.
    pub(super) fn mark(&self, socket: BorrowedFd<'_>) {
        if let Err(error) = lock(&self.shared.members).insert(&socket, Member::UPSTREAM, 0) {
            tracing::debug!(%error, "a connection that is not marked goes by TCP");
        }
    }

    /// Puts our end of a leg into the map, if nothing on it is unread: a buffer that was read half
    /// would be handed out whole.
    pub(super) fn join(&self, socket: BorrowedFd<'_>) -> Join {
        if !self.is_enabled() {
            return Join::NotNow;
        }
        let Ok(member) = lock(&self.shared.members).get(&socket, 0) else { return Join::Never };
        if member.cookie == 0 || (member.peer == 0 && !self.is_found(&member)) {
            return Join::Never;
        }
        if sys::socket::has_unread(socket) {
            return Join::NotNow;
        }
        let Some(meter) = self.shared.meters.take() else { return Join::NotNow };
        let received = Received { place: meter.place(), ..Received::default() };
        match lock(&self.shared.received).insert(member.cookie, received, NOEXIST) {
            Ok(()) => {}
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::EEXIST) =>
            {
                return Join::Joined(None);
            }
            Err(error) => return never(&error),
        }
        match self.shared.sockets.insert(member.cookie, socket) {
            Ok(()) => Join::Joined(Some(meter)),
            Err(error) => {
                let _ = lock(&self.shared.received).remove(&member.cookie);
                never(&error)
            }
        }
    }

    /// Whether what our socket, which has joined, sends to its node is delivered.
    pub(super) fn outlook(&self, socket: BorrowedFd<'_>) -> Outlook {
        let Ok(member) = lock(&self.shared.members).get(&socket, 0) else {
            return Outlook::Unknown;
        };
        if member.state & state::DIRECT != 0 {
            return Outlook::Direct;
        }
        if member.peer == 0 || !self.is_enabled() {
            return Outlook::Unknown;
        }
        let node = member.destination();
        let is_known = lock(&self.shared.nodes).get(&node, 0).is_ok_and(|known| known == 1);
        let is_in_map = lock(&self.shared.received).get(&member.peer, 0).is_ok();
        if is_known && !is_in_map { Outlook::Better } else { Outlook::Unknown }
    }

    /// Looks where a connection's other end is. One that has ended its stream may go on reading; but
    /// `establish` forgets a leg, and what the other end has received, when one of its sockets is closed,
    /// and ours is not. The leg alone may have been taken for one of which no other end was found.
    pub(super) fn other_end(&self, socket: BorrowedFd<'_>) -> OtherEnd {
        let member = lock(&self.shared.members).get(&socket, 0);
        let Some(member) = member.ok().filter(|member| member.cookie != 0) else {
            return OtherEnd::Elsewhere;
        };
        let has_ended = sys::socket::is_established(socket).is_ok_and(|is_open| !is_open);
        let is_forgotten = || {
            let leg = lock(&self.shared.leg).get(&member.key, 0);
            let received = lock(&self.shared.received).get(&member.peer, 0);
            matches!((leg, received), (Err(MapError::KeyNotFound), Err(MapError::KeyNotFound)))
        };
        if has_ended && is_forgotten() { OtherEnd::Closed } else { OtherEnd::Open }
    }

    /// Counts that the other end has held us up; after a few times everything that our socket sends goes
    /// by TCP. Nobody may be sending on it.
    pub(super) fn leave(&self, socket: BorrowedFd<'_>) {
        let mut members = lock(&self.shared.members);
        let Ok(mut member) = members.get(&socket, 0) else { return };
        if member.state & state::BY_TCP != 0 {
            return;
        }
        member.state += state::ONE_STRIKE;
        if member.state / state::ONE_STRIKE >= STRIKES_MAX {
            member.state |= state::BY_TCP;
        }
        if let Err(error) = members.insert(&socket, member, 0) {
            tracing::debug!(%error, "a leg that is to be left");
        }
    }

    /// Has everything that our socket sends go by TCP; `false` if it does already. Nobody may be sending
    /// on it.
    pub(super) fn deliver_no_more(&self, socket: BorrowedFd<'_>) -> bool {
        let mut members = lock(&self.shared.members);
        let Ok(mut member) = members.get(&socket, 0) else { return false };
        if member.state & state::BY_TCP != 0 {
            return false;
        }
        member.state |= state::BY_TCP;
        members.insert(&socket, member, 0).is_ok()
    }

    /// Bytes that were delivered and nobody has read, of all ends that are in the map.
    pub(super) fn unread(&self, program: &SchedClassifier) -> u64 {
        let cookies: Vec<u64> = lock(&self.shared.all_received).keys().flatten().collect();
        cookies.into_iter().map(|cookie| u64::from(unread(program, cookie))).sum()
    }

    fn is_found(&self, member: &Member) -> bool {
        lock(&self.shared.leg).get(&member.key, 0).is_ok_and(|leg| {
            let is_active = member.state & state::ACTIVE != 0;
            let other = if is_active { leg.passive } else { leg.active };
            other.cookie != 0
        })
    }

    /// Says at which listeners clients on this host are looked for, and which ones are ours beside.
    pub(super) fn take_legs(&self, listeners: &[(SocketAddr, bool)]) -> anyhow::Result<()> {
        lock(&self.shared.addresses).lead_to(listeners)
    }

    /// Those who connect from here on are somebody else's clients.
    pub(super) fn take_no_more(&self) -> anyhow::Result<()> {
        lock(&self.shared.addresses).take_no_legs()
    }

    pub(super) fn legs(&self) -> Legs {
        let legs = lock(&self.shared.legs);
        let (found, begun): (Vec<_>, Vec<_>) =
            legs.iter().flatten().partition(|(_, leg)| leg.passive.cookie != 0);
        Legs {
            is_enabled: self.is_enabled(),
            window: self.shared.window,
            found: found.len(),
            joined: self.shared.meters.joined(),
            remote_clients: self.shared.meters.remote(),
            begun: begun.len(),
            given_up: self.shared.given_up.load(Ordering::Relaxed),
            unread_bytes: None,
        }
    }

    /// Whether the last message that a socket sent was delivered.
    fn is_direct(&self, socket: BorrowedFd<'_>) -> anyhow::Result<bool> {
        let member = lock(&self.shared.members).get(&socket, 0).context("no end of a leg")?;
        ensure!(member.cookie != 0, "not established");
        Ok(member.state & state::DIRECT != 0)
    }
}

impl Shared {
    /// Forgets connections of which one end was seen and no other within [`PATIENCE`]: they lead off
    /// this host, or through an address translation.
    fn sweep(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let now = Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32);
        let is_given_up = |leg: &Leg| {
            let since = Duration::from_nanos(leg.since_ns);
            leg.passive.cookie == 0 && now.saturating_sub(since) > PATIENCE
        };
        let mut legs = lock(&self.legs);
        let given_up: Vec<Key> = legs
            .iter()
            .filter_map(|entry| entry.ok().filter(|(_, leg)| is_given_up(leg)))
            .map(|(key, _)| key)
            .collect();
        for key in given_up {
            // Unless it was found or closed meanwhile.
            let is_still = legs.get(&key, 0).is_ok_and(|leg| is_given_up(&leg));
            if is_still && legs.remove(&key).is_ok() {
                self.given_up.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

fn attach(ebpf: &mut Ebpf, cgroup: &str) -> anyhow::Result<SockOpsLink> {
    let cgroup = cgroup::trusted(cgroup)?;
    let cgroup =
        File::open(&cgroup).with_context(|| format!("open the cgroup {}", cgroup.display()))?;
    let program = loader::verify::<SockOps>(ebpf, names::ESTABLISH)?;
    // A link is always one among several (cgroup_bpf_link_attach).
    let link = program
        .attach(cgroup, CgroupAttachMode::Single)
        .context("attach `establish` to the cgroup")?;
    Ok(program.take_link(link)?)
}

/// A second way to the same map.
fn another(map: &Map) -> anyhow::Result<Map> {
    let Map::HashMap(data) = map else { bail!("not a hash") };
    let file = data.fd().as_fd().try_clone_to_owned().context("another handle of a map")?;
    Ok(Map::HashMap(MapData::from_fd(file)?))
}

fn never(error: &MapError) -> Join {
    tracing::debug!(%error, "the end of a leg goes by TCP");
    Join::Never
}

/// 0 as well for a socket that is not in the map any more.
fn unread(program: &SchedClassifier, cookie: u64) -> u32 {
    let mut packet = [0; COOKIE_AT + size_of::<u64>()];
    packet[COOKIE_AT..].copy_from_slice(&cookie.to_ne_bytes());
    let options = TestRunOptions { data_in: Some(&packet), ..TestRunOptions::default() };
    program.test_run(options).map_or(0, |run| run.return_value)
}

/// Follows the addresses of this namespace and forgets what has no other end, until there are no
/// legs any more.
fn tend(legs: &Weak<Shared>, changes: &Changes) {
    loop {
        let has_changed = changes.has_come();
        let Some(shared) = legs.upgrade() else { return };
        let mut addresses = lock(&shared.addresses);
        let was_behind = addresses.is_behind();
        if (has_changed || was_behind)
            && let Err(error) = addresses.refresh()
            && !was_behind
        {
            let reason = format!("{error:#}");
            tracing::warn!(reason, "legs do not follow this host's addresses");
        }
        drop(addresses);
        shared.sweep();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in there is valid whenever the lock is free: single calls change it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
