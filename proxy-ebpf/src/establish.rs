//! `establish`: finds the two ends of a connection that both live on this host, before a byte flows.
//!
//! Runs for every socket of the trusted cgroup, once when it is established and once when it is closed;
//! most are none of ours and leave after one lookup. The end that connected is established first and
//! writes down what both know; the end that accepted finds it. Sockets of others go into the map
//! here, the only place where the kernel lets a program do that; ours are put there by userspace, when
//! a connection has turned out to live for more than a request.

use core::{
    ffi::c_void,
    mem::offset_of,
    ptr::{from_ref, null_mut, read_volatile, write_volatile},
};

use aya_ebpf::{
    bindings::{
        BPF_NOEXIST, BPF_SK_STORAGE_GET_F_CREATE, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB,
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
        BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE, bpf_sock_ops,
    },
    helpers::generated::{
        bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_map_delete_elem,
        bpf_sk_storage_get, bpf_sock_hash_update, bpf_sock_ops_cb_flags_set,
    },
    programs::SockOpsContext,
};
use proxy_common::{
    Reason,
    addr::{Address, Destination},
    globals::ANY_USER,
    leg::{End, Key, Leg, Member, NO_LEGS, Received, state},
};

use proxy_ebpf::direct;

use crate::{
    local::check_plain,
    maps::{
        CROSS_NAMESPACE, LEGS, MEMBER, NODES, OWN_ADDRESSES, OWN_NAMESPACE, RECEIVED, SAME_HOST,
        SOCK_USER, SOCKETS, TRUSTED_USER,
    },
    sock::{nonblocking, read_u32, tcp_sock},
};

/// Notes an end, finds the other, or forgets both. A frame has 512 bytes, hence the functions that are
/// not inlined here.
#[inline(always)]
pub(crate) fn try_establish(ctx: &SockOpsContext) -> Reason {
    match ctx.op() {
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB | BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB
            if !is_switched_on() =>
        {
            Reason::NotTaken
        }
        // Whatever the switch says.
        BPF_SOCK_OPS_TCP_CONNECT_CB => on_connecting(ctx.ops),
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => on_active(ctx.ops),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => on_passive(ctx.ops),
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == BPF_TCP_CLOSE => on_closed(ctx.ops),
        _ => Reason::NotLeg,
    }
}

#[inline(always)]
pub(crate) fn is_switched_on() -> bool {
    SAME_HOST.get(0).is_some_and(|switch| switch.enabled != 0)
}

#[inline(never)]
fn on_active(ops: *mut bpf_sock_ops) -> Reason {
    let (Ok(reason) | Err(reason)) = active(&Connection(ops));
    reason
}

#[inline(never)]
fn on_connecting(ops: *mut bpf_sock_ops) -> Reason {
    if let Some(sock) = Connection(ops).sock() {
        leave_former_life(sock);
    }
    Reason::NotLeg
}

#[inline(never)]
fn on_passive(ops: *mut bpf_sock_ops) -> Reason {
    let (Ok(reason) | Err(reason)) = passive(&Connection(ops));
    reason
}

#[inline(never)]
fn on_closed(ops: *mut bpf_sock_ops) -> Reason {
    let (Ok(reason) | Err(reason)) = closed(&Connection(ops));
    reason
}

/// The end that connected: ours if userspace marked it, else somebody who connects to us.
#[inline(always)]
fn active(connection: &Connection) -> Result<Reason, Reason> {
    let sock = connection.sock().ok_or(Reason::NotLeg)?;
    let marked = member(sock, 0).filter(|member| member.state & state::UPSTREAM != 0);
    let is_ours = marked.is_some();
    if !is_ours {
        let barren = connection.leads_to_us()?;
        check_owner(sock)?;
        if tcp_sock(sock).and_then(nonblocking) != Some(true) {
            return Err(Reason::Blocking);
        }
        check_eligible(sock)?;
        if !direct::takes(barren) {
            return Err(Reason::ShortLived);
        }
    }
    let member = marked.or_else(|| member_of(sock)).ok_or(Reason::SocketRefused)?;
    let end = connection.end(sock);
    if !connection.write_key(Side::Active, &mut member.key) {
        return Err(Reason::NotLeg);
    }
    member.cookie = end.cookie;
    member.state = if is_ours { state::UPSTREAM | state::ACTIVE } else { state::ACTIVE };
    (member.peer, member.peer_sock, member.unread_messages) = (0, 0, 0);
    let absent = End { cookie: 0, sock: 0, namespace: 0 };
    // SAFETY: a helper without arguments.
    let since_ns = unsafe { bpf_ktime_get_ns() };
    let leg = Leg { active: end, passive: absent, since_ns, is_fruitful: 0 };
    LEGS.insert(member.key, leg, u64::from(BPF_NOEXIST)).map_err(|_| Reason::LegsFull)?;
    connection.watch_close();
    if !is_ours {
        connection.enter_map(end.cookie)?;
    }
    Ok(Reason::LegBegun)
}

/// A socket that was an end of a leg may be connected anew, to whomever (connect(2) with `AF_UNSPEC`).
/// As TCP has it, what it has not read by then is gone.
#[inline(never)]
fn leave_former_life(sock: *mut c_void) {
    // Ours, which userspace has marked, has no former life.
    let Some(member) = member(sock, 0).filter(|member| member.cookie != 0) else { return };
    let map = from_ref(&SOCKETS).cast_mut().cast();
    // SAFETY: a map of sockets and a key of its type.
    unsafe { bpf_map_delete_elem(map, (&raw const member.cookie).cast()) };
    let _ = RECEIVED.remove(member.cookie);
    (member.state, member.cookie, member.peer, member.peer_sock) = (0, 0, 0, 0);
    (member.own_place, member.peer_place) = (0, 0);
}

/// The end that accepted: one of our listeners, or the node.
#[inline(always)]
fn passive(connection: &Connection) -> Result<Reason, Reason> {
    let mut key = Key::NONE;
    if !connection.write_key(Side::Passive, &mut key) {
        return Err(Reason::NotLeg);
    }
    let leg = LEGS.get_ptr_mut(key).ok_or(Reason::NotLeg)?;
    let sock = connection.sock().ok_or(Reason::NotLeg)?;
    let end = connection.end(sock);
    // SAFETY: an entry of the map. Another leg may be given it meanwhile, and then has an end that is
    // not its own: `local` proves that two ends belong together before it delivers.
    let leg = unsafe { &mut *leg };
    // SAFETY: a field; it was written before its key was there.
    let namespace = unsafe { read_volatile(&raw const leg.active.namespace) };
    if namespace != end.namespace && CROSS_NAMESPACE.load() == 0 {
        return Err(Reason::OtherNamespace);
    }
    let local = Destination::new(key.passive, key.passive_port_be);
    // SAFETY: only whether there is an entry matters.
    let is_to_us = unsafe { OWN_ADDRESSES.get(local) }.is_some();
    let is_ours = is_to_us && end.namespace == OWN_NAMESPACE.load();
    if !is_ours {
        // Else neither end is ours: what its namespace calls by an address of ours is somebody else.
        if namespace != OWN_NAMESPACE.load() {
            return Err(Reason::NotLeg);
        }
        check_owner(sock)?;
        check_eligible(sock)?;
    }
    let member = member_of(sock).ok_or(Reason::SocketRefused)?;
    member.key = key;
    member.cookie = end.cookie;
    member.state = if is_ours { state::DOWNSTREAM } else { 0 };
    (member.peer, member.peer_sock) = (leg.active.cookie, leg.active.sock);
    member.unread_messages = 0;
    connection.watch_close();
    // Nobody has accepted it yet, so only others like it can tell whether it will block.
    // SAFETY: copied out at once.
    if !is_ours && unsafe { NODES.get(local) }.copied() == Some(1) {
        connection.enter_map(end.cookie)?;
    }
    leg.passive.sock = end.sock;
    leg.passive.namespace = end.namespace;
    // SAFETY: a field. Last: it says that the rest is there.
    unsafe { write_volatile(&raw mut leg.passive.cookie, end.cookie) };
    Ok(Reason::LegFound)
}

/// Forgets the leg with the first of its ends. The kernel itself takes a closed socket out of its map
/// and drops its storage.
#[inline(always)]
fn closed(connection: &Connection) -> Result<Reason, Reason> {
    let sock = connection.sock().ok_or(Reason::NotLeg)?;
    let member = member(sock, 0).ok_or(Reason::NotLeg)?;
    // SAFETY: a field is copied out at once.
    let is_barren = unsafe { LEGS.get(member.key) }.is_some_and(|leg| leg.is_fruitful == 0);
    // The other end may have done it already, and ours may never have been in the map.
    let is_first = LEGS.remove(member.key).is_ok();
    if is_barren
        && is_first
        && let Some(barren) = barren_at(member)
    {
        direct::was_barren(barren);
    }
    let _ = RECEIVED.remove(member.cookie);
    Ok(Reason::LegClosed)
}

/// Whether what it sends and is sent could be delivered at all.
#[inline(never)]
fn check_eligible(sock: *mut c_void) -> Result<(), Reason> {
    let is_plain = tcp_sock(sock).is_some_and(|sock| check_plain(sock).is_ok());
    if is_plain { Ok(()) } else { Err(Reason::NotPlain) }
}

#[inline(always)]
fn check_owner(sock: *mut c_void) -> Result<(), Reason> {
    if tcp_sock(sock).is_some_and(is_trusted) { Ok(()) } else { Err(Reason::OtherUser) }
}

/// Whether it belongs to the user of `kernel.same_host.uid`: who made the socket, and from when it is
/// accepted, who accepted it.
#[inline(always)]
pub(crate) fn is_trusted(sock: *mut c_void) -> bool {
    let trusted = TRUSTED_USER.load();
    trusted == ANY_USER || read_u32(sock, SOCK_USER.load()) == Some(trusted)
}

fn member_of<'a>(sock: *mut c_void) -> Option<&'a mut Member> {
    member(sock, u64::from(BPF_SK_STORAGE_GET_F_CREATE))
}

/// How many connections to the listener that this one is to were worth nothing lately. `None` for
/// both ends of one that is ours to a node.
#[inline(always)]
pub(crate) fn barren_at<'a>(member: &Member) -> Option<&'a mut u32> {
    let is_client = member.state & (state::ACTIVE | state::UPSTREAM) == state::ACTIVE;
    if is_client || member.state & state::DOWNSTREAM != 0 {
        barren_of(member.destination())
    } else {
        None
    }
}

#[inline(always)]
fn barren_of<'a>(listener: Destination) -> Option<&'a mut u32> {
    // SAFETY: an entry of the map. Others may count at the same time: one more or less is all.
    OWN_ADDRESSES.get_ptr_mut(listener).map(|barren| unsafe { &mut *barren })
}

/// The socket's storage.
#[inline(always)]
pub(crate) fn member<'a>(sock: *mut c_void, flags: u64) -> Option<&'a mut Member> {
    let map = from_ref(&MEMBER).cast_mut().cast();
    // SAFETY: the map holds values of this type; `sock` is a socket by its type in the verifier.
    let member = unsafe { bpf_sk_storage_get(map, sock, null_mut(), flags) }.cast::<Member>();
    // SAFETY: the value lives as long as the socket, and programs of a socket run under its lock.
    unsafe { member.as_mut() }
}

/// Which end of the connection this is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Active,
    Passive,
}

/// A connection as it is seen from the socket that the program runs for.
struct Connection(*mut bpf_sock_ops);

impl Connection {
    /// Null unless it is a full socket.
    #[inline(always)]
    fn sock(&self) -> Option<*mut c_void> {
        // SAFETY: the context is valid for the run of the program.
        let ops = unsafe { &*self.0 };
        // SAFETY: the only variant of this union beside padding.
        let sock: *mut c_void = unsafe { ops.__bindgen_anon_2.sk }.cast();
        (!sock.is_null()).then_some(sock)
    }

    #[inline(always)]
    fn end(&self, sock: *mut c_void) -> End {
        let ctx = self.0.cast();
        // SAFETY: takes the context, as every program of this type has it.
        let cookie = unsafe { bpf_get_socket_cookie(ctx) };
        // SAFETY: as above.
        let namespace = unsafe { bpf_get_netns_cookie(ctx) };
        End { cookie, sock: sock as u64, namespace }
    }

    /// Whether it is to one of our listeners, in our namespace or from one that may reach us. What
    /// other namespaces call loopback or themselves is not ours.
    #[inline(always)]
    fn leads_to_us<'a>(&self) -> Result<&'a mut u32, Reason> {
        let remote = self.remote().ok_or(Reason::NotLeg)?;
        let barren =
            barren_of(remote).filter(|barren| **barren != NO_LEGS).ok_or(Reason::NotLeg)?;
        // SAFETY: takes the context.
        let namespace = unsafe { bpf_get_netns_cookie(self.0.cast()) };
        if namespace == OWN_NAMESPACE.load() {
            Ok(barren)
        } else if remote.address().is_local_to_namespace() || self.is_to_itself(remote) {
            Err(Reason::NotLeg)
        } else if CROSS_NAMESPACE.load() == 0 {
            Err(Reason::OtherNamespace)
        } else {
            Ok(barren)
        }
    }

    /// Whether both ends have one address: a host that talks to itself.
    #[inline(always)]
    fn is_to_itself(&self, remote: Destination) -> bool {
        self.local().is_some_and(|local| local.address() == remote.address())
    }

    /// What both ends agree on; `false`: not a connection over IP.
    #[inline(always)]
    fn write_key(&self, side: Side, key: &mut Key) -> bool {
        let (Some(local), Some(remote)) = (self.local(), self.remote()) else { return false };
        let own_seq = self.word(offset_of!(bpf_sock_ops, snd_nxt));
        let other_seq = self.word(offset_of!(bpf_sock_ops, rcv_nxt));
        match side {
            Side::Active => {
                (key.active, key.passive) = (local.address(), remote.address());
                (key.active_port_be, key.passive_port_be) = (local.port_be(), remote.port_be());
                (key.active_seq, key.passive_seq) = (own_seq, other_seq);
            }
            Side::Passive => {
                (key.active, key.passive) = (remote.address(), local.address());
                (key.active_port_be, key.passive_port_be) = (remote.port_be(), local.port_be());
                (key.active_seq, key.passive_seq) = (other_seq, own_seq);
            }
        }
        true
    }

    /// [`closed`] is to run, beside what others have asked for.
    #[inline(always)]
    fn watch_close(&self) {
        let flags = self.word(offset_of!(bpf_sock_ops, bpf_sock_ops_cb_flags));
        // SAFETY: takes the context. It fails for no flag that this kernel knows.
        unsafe { bpf_sock_ops_cb_flags_set(self.0, (flags | BPF_SOCK_OPS_STATE_CB_FLAG) as i32) };
    }

    #[inline(always)]
    fn enter_map(&self, cookie: u64) -> Result<(), Reason> {
        let seen = Received { next_seq: 0, state: 0, trimmed: 0, place: 0, reserved: 0 };
        RECEIVED.insert(cookie, seen, 0).map_err(|_| Reason::LegsFull)?;
        let map = from_ref(&SOCKETS).cast_mut().cast();
        let mut key = cookie;
        // SAFETY: takes the context, a map of sockets and a key of its type.
        let failed = unsafe {
            bpf_sock_hash_update(self.0, map, (&raw mut key).cast(), u64::from(BPF_NOEXIST))
        };
        if failed == 0 {
            return Ok(());
        }
        let _ = RECEIVED.remove(cookie);
        Err(Reason::SocketRefused)
    }

    #[inline(always)]
    fn local(&self) -> Option<Destination> {
        // In host order, unlike the remote one.
        let port = self.word(offset_of!(bpf_sock_ops, local_port)) as u16;
        let v4 = offset_of!(bpf_sock_ops, local_ip4);
        let v6 = offset_of!(bpf_sock_ops, local_ip6);
        Some(Destination::new(self.address(v4, v6)?, port.to_be_bytes()))
    }

    #[inline(always)]
    fn remote(&self) -> Option<Destination> {
        // In network order, in the upper half of the word.
        let [_, _, high, low] = self.word(offset_of!(bpf_sock_ops, remote_port)).to_le_bytes();
        let v4 = offset_of!(bpf_sock_ops, remote_ip4);
        let v6 = offset_of!(bpf_sock_ops, remote_ip6);
        Some(Destination::new(self.address(v4, v6)?, [high, low]))
    }

    #[inline(always)]
    fn address(&self, v4: usize, v6: usize) -> Option<Address> {
        /// `AF_INET` and `AF_INET6` of Linux, on every architecture.
        const INET: u32 = 2;
        const INET6: u32 = 10;
        // Both are read whatever the family, as in `worker`.
        let v4 = self.word(v4).to_ne_bytes();
        let mut octets = [0; 16];
        let words = [self.word(v6), self.word(v6 + 4), self.word(v6 + 8), self.word(v6 + 12)];
        for (octets, word) in octets.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *octets = word.to_ne_bytes();
        }
        match self.word(offset_of!(bpf_sock_ops, family)) {
            INET => Some(Address::v4(v4)),
            INET6 => Some(Address::v6(octets)),
            _ => None,
        }
    }

    /// One 32-bit field. Volatile, because the verifier refuses the wider load that the compiler
    /// would make of two neighbours.
    #[inline(always)]
    fn word(&self, offset: usize) -> u32 {
        let word = self.0.cast::<u8>().wrapping_add(offset).cast::<u32>();
        // SAFETY: `offset` is that of a 32-bit field of the context.
        unsafe { read_volatile(word) }
    }
}
