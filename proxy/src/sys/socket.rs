//! TCP socket options and counters.

use std::{
    io, mem,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use rustix::net::{self, RecvFlags, SendFlags, sockopt};
use socket2::{Domain, SockRef, Socket, Type};

/// Whether a socket was not to be had for want of files or memory of this host.
pub fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// A TCP socket to listen on `address`, not bound yet. `[::]` takes IPv4 connections too, whatever
/// the system's default is (ipv6(7), `bindv6only`). Connections of an earlier listener do not keep
/// it from being bound.
///
/// # Errors
/// The kernel lacks the family, or no file can be opened.
pub fn listening(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    Ok(socket)
}

/// Bounds what the kernel queues for sending on our end, both in bytes: `send_buffer` is
/// `SO_SNDBUF` (the kernel doubles it for its own bookkeeping and, without CAP_NET_ADMIN, caps it at
/// `net.core.wmem_max`), `unsent_max` is `TCP_NOTSENT_LOWAT`, the part that the network has not asked
/// for yet.
///
/// # Errors
/// None on a TCP socket.
pub fn bound_send_queue(
    socket: impl AsFd,
    send_buffer: usize,
    unsent_max: usize,
) -> io::Result<()> {
    let socket = socket.as_fd();
    sockopt::set_socket_send_buffer_size_force(socket, send_buffer)
        .or_else(|_not_permitted| sockopt::set_socket_send_buffer_size(socket, send_buffer))?;
    SockRef::from(&socket).set_tcp_notsent_lowat(u32::try_from(unsent_max).unwrap_or(u32::MAX))
}

/// Bounds what the kernel queues on our end until we read: `receive_buffer` is `SO_RCVBUF`, bytes
/// (the kernel doubles it for its own bookkeeping and, without CAP_NET_ADMIN, caps it at
/// `net.core.rmem_max`). `None` leaves it to the kernel, which starts with the second number of
/// `net.ipv4.tcp_rmem` and goes up to the third. The window of a connection follows only if this
/// is called before it is there: before `connect`, or on the listener.
///
/// # Errors
/// None on a socket.
pub fn bound_receive_queue(socket: impl AsFd, receive_buffer: Option<usize>) -> io::Result<()> {
    let Some(receive_buffer) = receive_buffer else { return Ok(()) };
    let socket = socket.as_fd();
    sockopt::set_socket_recv_buffer_size_force(socket, receive_buffer)
        .or_else(|_not_permitted| sockopt::set_socket_recv_buffer_size(socket, receive_buffer))?;
    Ok(())
}

/// Makes room for `window` bytes in the send queue of our end, acknowledged late or not, whatever
/// `net.core.wmem_max` says: the kernel doubles the number, which covers its bookkeeping.
///
/// # Errors
/// `EPERM` without CAP_NET_ADMIN.
pub fn make_room(socket: impl AsFd, window: u32) -> io::Result<()> {
    let socket = socket.as_fd();
    sockopt::set_socket_send_buffer_size_force(socket, window as usize)?;
    SockRef::from(&socket).set_tcp_notsent_lowat(window.saturating_mul(2))
}

/// Lets the first bytes that come on a connection be acknowledged by what is sent back, if that takes
/// less than the 40 ms of a delayed acknowledgement. On a listener: of each of its connections.
///
/// # Errors
/// None on a TCP socket.
pub fn acknowledge_late(socket: impl AsFd) -> io::Result<()> {
    Ok(sockopt::set_tcp_quickack(socket, false)?)
}

/// Acknowledges what has come, and what comes next at once.
///
/// # Errors
/// None on a TCP socket.
pub fn acknowledge_now(socket: impl AsFd) -> io::Result<()> {
    Ok(sockopt::set_tcp_quickack(socket, true)?)
}

/// Hands over bytes that leave together with what follows them: the end of the stream, if the socket
/// is shut down or closed next.
///
/// # Errors
/// As of send(2).
pub fn send_before_end(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(net::send(socket, bytes, SendFlags::MORE | SendFlags::NOSIGNAL)?)
}

/// Number of the network namespace that this process is in, unique on this kernel until reboot
/// (`SO_NETNS_COOKIE`, v5.14).
///
/// # Errors
/// No socket can be opened.
#[expect(unsafe_code, reason = "no safe wrapper of this option")]
pub fn own_namespace() -> io::Result<u64> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    let mut cookie: u64 = 0;
    let mut size = mem::size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes, which `cookie` has.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut size,
        )
    };
    if failed == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// Leaves urgent bytes where they stand in the stream. Otherwise each of them is taken out of it.
///
/// # Errors
/// None on a socket.
pub fn keep_urgent_inline(socket: impl AsFd) -> io::Result<()> {
    Ok(sockopt::set_socket_oobinline(socket, true)?)
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

/// Whether there are bytes to read that nobody has read. `FIONREAD` would say 0 for a socket that is in
/// a map without a verdict (since 6.6.128, 6.12.75 and 6.18.14).
pub fn has_unread(socket: impl AsFd) -> bool {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    net::recv(socket, &mut [0], flags).is_ok_and(|(unread, _)| unread > 0)
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

/// How far the sending side of a TCP socket is: `write_seq` less a number that is fixed for the
/// connection, so differences are bytes written to it, by whomever.
///
/// # Errors
/// `TimedOut`: acknowledgements came so fast that what is counted by them could not be told from
/// what is still queued.
pub fn written(socket: impl AsFd) -> io::Result<u64> {
    /// A look takes a microsecond; that one comes in each of so many in a row does not happen.
    const LOOKS_MAX: usize = 64;
    let socket = socket.as_fd();
    let mut acknowledged = tcp_info(socket)?.tcpi_bytes_acked;
    for _ in 0..LOOKS_MAX {
        let queued = send_queue(socket)?;
        let before = mem::replace(&mut acknowledged, tcp_info(socket)?.tcpi_bytes_acked);
        // Otherwise bytes that were acknowledged in between are missing from the sum.
        if before == acknowledged {
            return Ok(acknowledged + u64::from(queued));
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// Whether both directions of a TCP connection are open.
///
/// # Errors
/// None on a TCP socket.
pub fn is_established(socket: impl AsFd) -> io::Result<bool> {
    /// `TCP_ESTABLISHED` of net/tcp_states.h.
    const ESTABLISHED: u8 = 1;
    Ok(tcp_info(socket)?.tcpi_state == ESTABLISHED)
}

/// Whether a TCP connection is over in both directions: the other side has reset it, or is gone.
pub fn is_over(socket: impl AsFd) -> io::Result<bool> {
    /// `TCP_CLOSE` of net/tcp_states.h.
    const CLOSE: u8 = 7;
    Ok(tcp_info(socket)?.tcpi_state == CLOSE)
}

#[expect(unsafe_code, reason = "no safe wrapper of this option")]
fn tcp_info(socket: impl AsFd) -> io::Result<libc::tcp_info> {
    // SAFETY: plain integers, for which zero is a value; an older kernel leaves the tail zero.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut size = mem::size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes to `info`, and how many to `size`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut size,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(info)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{Shutdown, TcpListener, TcpStream},
        thread,
    };

    use super::*;

    #[test]
    fn written_grows_by_what_was_written() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut server = listener.accept().unwrap().0;
        let before = written(&client).unwrap();
        client.write_all(&[0; 1000]).unwrap();
        assert_eq!(written(&client).unwrap() - before, 1000);
        server.read_exact(&mut [0; 1000]).unwrap();
        assert_eq!(written(&client).unwrap() - before, 1000);
        assert!(is_established(&client).unwrap());
        drop(server);
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        assert!(!is_established(&client).unwrap());
    }

    #[test]
    fn a_connection_is_over_when_it_is_reset_and_not_when_one_side_has_ended() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = listener.accept().unwrap().0;
        assert!(!is_over(&client).unwrap());
        server.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        assert!(!is_over(&client).unwrap());
        reset_on_close(&server).unwrap();
        drop(server);
        assert!(is_over(&client).unwrap());
    }

    #[test]
    fn written_does_not_depend_on_what_is_acknowledged_meanwhile() {
        const BYTES: usize = 64 << 20;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut server = listener.accept().unwrap().0;
        client.set_nonblocking(true).unwrap();
        let before = written(&client).unwrap();
        let reader = thread::spawn(move || {
            let (mut left, mut buffer) = (BYTES, vec![0; 4 << 10]);
            while left > 0 {
                left -= server.read(&mut buffer).unwrap();
            }
        });
        let (mut total, piece) = (0, vec![0; 256 << 10]);
        while total < BYTES {
            let rest = (BYTES - total).min(piece.len());
            match client.write(&piece[..rest]) {
                Ok(count) => total += count,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            assert_eq!(written(&client).unwrap() - before, total as u64);
        }
        reader.join().unwrap();
    }

    /// A listener, prepared, and both ends of a connection to it.
    fn connected(prepare: impl FnOnce(&TcpListener)) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        prepare(&listener);
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn a_request_is_acknowledged_by_its_response_unless_more_is_waited_for() {
        let (mut client, mut server) = connected(|listener| acknowledge_late(listener).unwrap());
        assert!(!sockopt::tcp_quickack(&server).unwrap());
        client.write_all(b"request").unwrap();
        server.read_exact(&mut [0; 7]).unwrap();
        acknowledge_now(&server).unwrap();
        assert_eq!(send_queue(&client).unwrap(), 0);
        assert!(sockopt::tcp_quickack(&server).unwrap());
    }

    #[test]
    fn bytes_before_the_end_leave_with_it() {
        let (mut client, server) = connected(|_| {});
        server.set_nodelay(true).unwrap();
        let before = tcp_info(&client).unwrap().tcpi_segs_in;
        assert_eq!(send_before_end(&server, b"response").unwrap(), 8);
        assert!(!has_unread(&client));
        server.shutdown(Shutdown::Write).unwrap();
        let mut received = Vec::new();
        client.read_to_end(&mut received).unwrap();
        assert_eq!(received, b"response");
        assert_eq!(tcp_info(&client).unwrap().tcpi_segs_in - before, 1);
    }

    #[test]
    fn cookies_tell_sockets_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_ne!(cookie(&listener).unwrap(), cookie(&other).unwrap());
        assert_eq!(cookie(&listener).unwrap(), cookie(&listener).unwrap());
    }
}
