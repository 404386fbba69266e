//! Dials one node with a deadline and sets the socket up for proxying.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd as _, BorrowedFd},
    time::Duration,
};

use tokio::net::{TcpSocket, TcpStream};

use crate::{config::Limits, error::Fault, metrics::ConnectResult, sys::socket};

/// Dials `address` within `timeout`, with a socket that `prepare` has seen before.
///
/// # Errors
/// [`Fault::ConnectTimedOut`]; [`Fault::OutOfFiles`] if we have no socket to dial with;
/// [`Fault::ConnectRefused`] for everything else that keeps a connection from being established
/// (refused, unreachable, out of local ports).
pub async fn dial(
    address: SocketAddr,
    timeout: Duration,
    limits: &Limits,
    prepare: impl FnOnce(BorrowedFd<'_>),
) -> Result<TcpStream, Fault> {
    let connect = async {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        prepare(socket.as_fd());
        // The options bound memory and delay; a socket that does not take them still works.
        if let Err(error) = set_options(&socket, limits) {
            tracing::debug!(node = %address, %error, "socket options");
        }
        socket.connect(address).await
    };
    let stream = match tokio::time::timeout(timeout, connect).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => {
            return Err(Fault::ConnectTimedOut);
        }
        Ok(Err(error)) if socket::is_shortage(&error) => return Err(Fault::OutOfFiles),
        Ok(Err(error)) => {
            tracing::debug!(node = %address, %error, "connect");
            return Err(Fault::ConnectRefused);
        }
        Err(_elapsed) => return Err(Fault::ConnectTimedOut),
    };
    Ok(stream)
}

fn set_options(socket: &TcpSocket, limits: &Limits) -> io::Result<()> {
    socket.set_nodelay(true)?;
    socket::bound_receive_queue(socket, limits.receive_buffer)?;
    socket::bound_send_queue(socket, limits.send_buffer, limits.unsent_max)
}

/// How the metrics name what [`dial`] came to.
pub fn result(dialled: &Result<TcpStream, Fault>) -> ConnectResult {
    match dialled {
        Ok(_) => ConnectResult::Connected,
        Err(Fault::ConnectTimedOut) => ConnectResult::TimedOut,
        Err(Fault::OutOfFiles) => ConnectResult::OutOfFiles,
        Err(_) => ConnectResult::Refused,
    }
}
