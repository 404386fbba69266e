//! Reads the kernel's own structures, at the offsets that its BTF gave.

use core::{
    ffi::c_void,
    ptr::{from_ref, read_volatile},
};

use crate::maps::{FILE_FLAGS, SOCK_SOCKET, SOCK_USER_DATA, SOCKET_FILE};
use aya_ebpf::{
    btf_maps::SockHash,
    helpers::generated::{bpf_map_lookup_elem, bpf_probe_read_kernel, bpf_skc_to_tcp_sock},
};

/// The socket that a map has under a cookie, with a reference that the caller gives back.
#[inline(always)]
pub(crate) fn find<const MAX: usize>(map: &SockHash<u64, MAX>, cookie: u64) -> Option<*mut c_void> {
    // SAFETY: the map is a socket hash with keys of this type.
    let sock = unsafe {
        bpf_map_lookup_elem(from_ref(map).cast_mut().cast(), from_ref(&cookie).cast::<c_void>())
    };
    (!sock.is_null()).then_some(sock)
}

/// The `tcp_sock` of a socket that the verifier knows as one.
#[inline(always)]
pub(crate) fn tcp_sock(sock: *mut c_void) -> Option<*mut c_void> {
    if sock.is_null() {
        return None;
    }
    // SAFETY: `sock` is a socket, by its type in the verifier.
    let tcp = unsafe { bpf_skc_to_tcp_sock(sock) };
    (!tcp.is_null()).then_some(tcp.cast())
}

/// The `sk_psock` that a socket in the map has.
#[inline(always)]
pub(crate) fn queue_of(sock: *mut c_void) -> Option<*mut c_void> {
    /// `SK_USER_DATA_PSOCK`; with the bits below it, no part of the pointer (include/net/sock.h).
    const IS_PSOCK: u64 = 4;
    const POINTER: u64 = !7;
    let user_data = read_u64(sock, SOCK_USER_DATA.load())?;
    (user_data & IS_PSOCK != 0).then_some((user_data & POINTER) as *mut c_void)
}

/// Whether calls on the socket return at once (`O_NONBLOCK`). `None`: it has no file, nobody has
/// accepted it, or it is closed.
#[inline(always)]
pub(crate) fn nonblocking(sock: *mut c_void) -> Option<bool> {
    /// `O_NONBLOCK` of Linux, on every architecture that Rust and BPF share but MIPS and PA-RISC.
    const NONBLOCK: u32 = 0o4000;
    let pointer = |base, offset| {
        let address = read_u64(base, offset).filter(|address| *address != 0)?;
        Some(address as *mut c_void)
    };
    let file = pointer(pointer(sock, SOCK_SOCKET.load())?, SOCKET_FILE.load())?;
    Some(read_u32(file, FILE_FLAGS.load())? & NONBLOCK != 0)
}

#[inline(always)]
pub(crate) fn read_u8(base: *mut c_void, offset: u32) -> Option<u8> {
    let mut value = 0;
    read(base, offset, &raw mut value, 1).then_some(value)
}

#[inline(always)]
pub(crate) fn read_u32(base: *mut c_void, offset: u32) -> Option<u32> {
    let mut value = 0;
    read(base, offset, &raw mut value, 4).then_some(value)
}

#[inline(always)]
pub(crate) fn read_u64(base: *mut c_void, offset: u32) -> Option<u64> {
    let mut value = 0;
    read(base, offset, &raw mut value, 8).then_some(value)
}

/// A field of a socket that the verifier knows by its type, and lets be read without a helper.
#[inline(always)]
pub(crate) fn field<T: Copy>(tcp_sock: *mut c_void, offset: u32) -> T {
    let field = tcp_sock.cast::<u8>().wrapping_add(offset as usize).cast::<T>();
    // SAFETY: the verifier refuses what is not a field of this size.
    unsafe { read_volatile(field) }
}

/// `size` is that of `T`, as a constant that the verifier can follow.
#[inline(always)]
fn read<T>(base: *mut c_void, offset: u32, value: *mut T, size: u32) -> bool {
    let from = base.cast::<u8>().wrapping_add(offset as usize).cast::<c_void>();
    // SAFETY: the helper checks the address and writes `size` bytes, which `value` has.
    unsafe { bpf_probe_read_kernel(value.cast(), size, from) == 0 }
}
