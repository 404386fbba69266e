//! TCP socket options and counters.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use rustix::net::sockopt;
use socket2::SockRef;

/// Bounds what the kernel queues for sending on our end, both in bytes: `send_buffer` is
/// `SO_SNDBUF` (the kernel doubles it for its own bookkeeping and caps it at `net.core.wmem_max`),
/// `unsent_max` is `TCP_NOTSENT_LOWAT`, the part that the network has not asked for yet.
///
/// # Errors
/// None on a TCP socket.
pub fn bound_send_queue(
    socket: impl AsFd,
    send_buffer: usize,
    unsent_max: usize,
) -> io::Result<()> {
    let socket = socket.as_fd();
    sockopt::set_socket_send_buffer_size(socket, send_buffer)?;
    SockRef::from(&socket).set_tcp_notsent_lowat(u32::try_from(unsent_max).unwrap_or(u32::MAX))
}

/// Makes the next close send RST and forget what is queued.
///
/// # Errors
/// None on a socket.
pub fn reset_on_close(socket: impl AsFd) -> io::Result<()> {
    Ok(sockopt::set_socket_linger(socket, Some(Duration::ZERO))?)
}

/// Number of a socket, unique on this kernel until reboot (`SO_COOKIE`, v4.6).
///
/// # Errors
/// None on a socket.
pub fn cookie(socket: impl AsFd) -> io::Result<u64> {
    Ok(sockopt::socket_cookie(socket)?)
}

/// Bytes written to a TCP socket that the other end has not acknowledged yet (`SIOCOUTQ`).
///
/// # Errors
/// `EINVAL` on a listening socket.
#[expect(unsafe_code, reason = "no safe wrapper of this ioctl")]
pub fn send_queue(socket: impl AsFd) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: `TIOCOUTQ` (the same number as `SIOCOUTQ`) writes one int, which `bytes` is.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(bytes.unsigned_abs())
}
