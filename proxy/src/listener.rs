//! Binds the listeners and accepts on them.
//!
//! Each worker has a socket of its own in each listener's reuseport group. A connection is admitted by
//! the guard before a byte of it is read, and served when there is a permit for it. Each socket has
//! at most one accepted connection that waits for a permit; the others wait in the kernel's queue.

mod lock;

use std::{io, iter, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use anyhow::Context as _;
use socket2::Socket;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::Instant,
};

use crate::{
    config::{Limits, Listener, Protocol},
    connection,
    drain::{self, Order},
    stream,
    sys::socket,
    worker::{ListenerCx, Worker},
};

pub(crate) use lock::BindLock;

/// Connections the kernel completes ahead of us; it takes the smaller of this and `somaxconn`.
const BACKLOG: i32 = 4096;
/// After an accept that failed for want of something (files, memory): the first wait, and the
/// longest. Accepting never stops.
const ACCEPT_BACKOFF_MIN: Duration = Duration::from_millis(5);
const ACCEPT_BACKOFF_MAX: Duration = Duration::from_secs(1);

/// One listener's sockets, one for each worker, all bound to the same address and listening.
#[derive(Debug)]
pub struct Group {
    pub address: SocketAddr,
    pub sockets: Vec<Socket>,
}

/// Binds a listener for `workers` workers. Who calls it holds the lock of instances that bind.
///
/// # Errors
/// The address is taken, also by another Tandem: the first socket is bound without `SO_REUSEPORT`,
/// so that a second instance fails here instead of getting half the traffic. No socket that listened
/// is closed again: clients may be in its queue.
pub fn bind(listener: &Listener, workers: usize, limits: &Limits) -> anyhow::Result<Group> {
    let bind = || {
        let first = open(listener, listener.address, Share::WhenBound, limits)?;
        // With port 0 the kernel has chosen one.
        let address = first.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let others = (1..workers).map(|_| open(listener, address, Share::AtOnce, limits));
        let sockets = iter::once(Ok(first)).chain(others).collect::<io::Result<_>>()?;
        Ok::<_, io::Error>(Group { address, sockets })
    };
    bind().with_context(|| format!("listener `{}`: bind {}", listener.name, listener.address))
}

/// When a socket lets others have its address too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Share {
    WhenBound,
    AtOnce,
}

/// Accepted sockets inherit the options, which saves three system calls for each connection.
fn open(
    listener: &Listener,
    address: SocketAddr,
    share: Share,
    limits: &Limits,
) -> io::Result<Socket> {
    let socket = socket::listening(address)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    socket::bound_receive_queue(&socket, limits.receive_buffer)?;
    socket::bound_send_queue(&socket, limits.send_buffer, limits.unsent_max)?;
    socket.set_reuse_port(share == Share::AtOnce)?;
    socket.bind(&address.into())?;
    socket.set_reuse_port(true)?;
    socket.listen(BACKLOG)?;
    if listener.protocol == Protocol::Http {
        // Listening has forgotten it before. Of requests that come in pieces see `Downstream`.
        socket::acknowledge_late(&socket)?;
    }
    Ok(socket)
}

/// Accepts until told to drain; then takes what the kernel has already completed, and stops.
pub(crate) async fn accept(
    worker: Rc<Worker>,
    listener: Rc<ListenerCx>,
    socket: TcpListener,
    permits: Arc<Semaphore>,
    mut orders: watch::Receiver<Order>,
) {
    let door = Door { worker, listener, permits };
    let mut backoff = ACCEPT_BACKOFF_MIN;
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = drain::ordered(&mut orders, Order::Drain) => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                backoff = ACCEPT_BACKOFF_MIN;
                door.enter(stream, peer, &mut orders).await;
            }
            Err(error) => tokio::select! {
                () = door.recover(&error, &mut backoff) => {}
                () = drain::ordered(&mut orders, Order::Drain) => break,
            },
        }
    }
    if let Err(error) = take_completed(&door, socket, &mut orders).await {
        tracing::debug!(listener = &*door.listener.name, %error, "last connections");
    }
}

/// Connections that the kernel completed before the drain are owed an answer. The kernel itself is
/// asked: the runtime may not have heard of them yet.
async fn take_completed(
    door: &Door,
    socket: TcpListener,
    orders: &mut watch::Receiver<Order>,
) -> io::Result<()> {
    let socket = socket.into_std()?;
    let mut backoff = ACCEPT_BACKOFF_MIN;
    let mut taken = 0;
    while taken < BACKLOG {
        match accept_now(&socket) {
            Ok((stream, peer)) => {
                backoff = ACCEPT_BACKOFF_MIN;
                door.enter(stream, peer, orders).await;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => {
                tokio::select! {
                    () = door.recover(&error, &mut backoff) => {}
                    () = drain::ordered(orders, Order::End) => break,
                }
                if !is_about_one_connection(&error) {
                    continue;
                }
            }
        }
        taken += 1;
    }
    Ok(())
}

fn accept_now(socket: &std::net::TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (stream, peer) = socket.accept()?;
    stream.set_nonblocking(true)?;
    Ok((TcpStream::from_std(stream)?, peer))
}

/// What an accepted connection has to pass.
struct Door {
    worker: Rc<Worker>,
    listener: Rc<ListenerCx>,
    permits: Arc<Semaphore>,
}

impl Door {
    /// Counts an accept that failed; if it was for want of something, waits before the next.
    async fn recover(&self, error: &io::Error, backoff: &mut Duration) {
        self.listener.metrics.accept_error(error);
        if is_about_one_connection(error) {
            return;
        }
        tracing::warn!(listener = &*self.listener.name, %error, "accept; raise the open-files limit or lower `limits.connections`");
        tokio::time::sleep(*backoff).await;
        *backoff = (*backoff * 2).min(ACCEPT_BACKOFF_MAX);
    }

    /// Serves the connection once the guard has let it in and there is a permit for it. A permit is
    /// taken only for a connection that is there: one that waits on a quiet socket is missing on a
    /// busy one. A drain frees permits for those that wait.
    async fn enter(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        orders: &mut watch::Receiver<Order>,
    ) {
        let Some(peer) = admit(&self.worker, &self.listener, peer) else { return };
        tokio::select! {
            permit = Arc::clone(&self.permits).acquire_owned() => {
                if let Ok(permit) = permit {
                    serve(&self.worker, &self.listener, stream, peer, permit);
                }
            }
            () = drain::ordered(orders, Order::End) => {}
        }
    }
}

/// accept(2): Linux passes on errors that belong to the connection, not to the listener.
fn is_about_one_connection(error: &io::Error) -> bool {
    error.raw_os_error().is_some() && !socket::is_shortage(error)
}

/// The source of a connection, if the guard lets it in.
fn admit(worker: &Worker, listener: &ListenerCx, peer: SocketAddr) -> Option<SocketAddr> {
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    match worker.guard.admit(peer.ip(), Instant::now().into_std()) {
        Ok(()) => Some(peer),
        Err(fault) => {
            listener.metrics.refused(fault);
            None
        }
    }
}

/// A connection that the worker waits for when it drains.
struct Task(Rc<Worker>);

impl Task {
    fn begin(worker: &Rc<Worker>) -> Self {
        worker.live.task_begins();
        Self(Rc::clone(worker))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.live.task_ends();
    }
}

fn serve(
    worker: &Rc<Worker>,
    listener: &Rc<ListenerCx>,
    stream: TcpStream,
    peer: SocketAddr,
    permit: OwnedSemaphorePermit,
) {
    let counted = (listener.metrics.connection(), Task::begin(worker));
    let (worker, listener) = (Rc::clone(worker), Rc::clone(listener));
    tokio::task::spawn_local(async move {
        match listener.protocol {
            Protocol::Http => connection::serve(worker, listener, stream, peer).await,
            // Boxed, for the future of every HTTP connection not to be as large.
            Protocol::Tcp => Box::pin(stream::serve(worker, listener, stream, peer)).await,
        }
        drop((counted, permit));
    });
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpStream};

    use rustix::net::sockopt;

    use super::*;

    fn listener(address: SocketAddr) -> Listener {
        Listener {
            name: "web".into(),
            address,
            protocol: Protocol::Http,
            has_express_lane: true,
            is_same_host: true,
        }
    }

    #[test]
    fn an_address_is_not_shared_with_another_group() {
        let limits = Limits::default();
        let first = bind(&listener((Ipv4Addr::LOCALHOST, 0).into()), 1, &limits).unwrap();
        let error = bind(&listener(first.address), 2, &limits).unwrap_err();
        let expected = format!("listener `web`: bind {}: Address already in use", first.address);
        assert!(format!("{error:#}").starts_with(&expected), "{error:#}");
    }

    #[test]
    fn who_speaks_http_is_acknowledged_by_its_response() {
        for (protocol, is_quick) in [(Protocol::Http, false), (Protocol::Tcp, true)] {
            let listener = Listener { protocol, ..listener((Ipv4Addr::LOCALHOST, 0).into()) };
            let group = bind(&listener, 1, &Limits::default()).unwrap();
            let _client = TcpStream::connect(group.address).unwrap();
            let (accepted, _) = group.sockets[0].accept().unwrap();
            assert_eq!(sockopt::tcp_quickack(&accepted).unwrap(), is_quick);
        }
    }

    #[test]
    fn every_v6_address_takes_v4_too() {
        let any = listener("[::]:0".parse().unwrap());
        let group = bind(&any, 1, &Limits::default()).unwrap();
        TcpStream::connect((Ipv4Addr::LOCALHOST, group.address.port())).unwrap();
    }
}
