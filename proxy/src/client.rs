//! Requests of our own: what is asked on behalf of plugins and of whoever watches nodes, by HTTP/1.1,
//! with TLS or without.
//!
//! A [`Request`] goes in; a [`Response`] comes out, or the [`Failure`] that kept it from coming. Each
//! call has one deadline for everything, and bounds for head and body. Redirects are answers like
//! others, interim responses are skipped, and nothing is remembered but connections.
//!
//! A call drives its connection itself, so it works on every runtime and needs no task; dropping it
//! closes the connection.

mod connection;
mod message;
pub(crate) mod tls;

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::Semaphore,
    task::spawn_blocking,
    time::{Instant, timeout_at},
};

use self::connection::Connection;
pub use self::message::{
    BadUrl, Failure, HEAD_SIZE_MAX, KeepAlive, Purpose, Request, Response, Trust, Url,
};
use crate::metrics::Metrics;

/// Connections that one client keeps, to whomever.
pub const IDLE_MAX: usize = 64;
/// Names that one client looks up at a time; each holds a thread that cannot be called back.
const LOOKUPS_MAX: usize = 8;
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// Asks others, and keeps connections to them. Each worker has its own.
pub struct Client {
    idle: Mutex<HashMap<Peer, Vec<Idle>>>,
    lookups: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

/// Whom a connection leads to, and what was asked of him: those that differ do not share any.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Peer {
    is_tls: bool,
    trust: Trust,
    host: Arc<str>,
    port: u16,
    address: Option<SocketAddr>,
}

struct Idle {
    connection: Connection,
    until: Instant,
}

impl Client {
    pub fn new(metrics: Arc<Metrics>) -> Client {
        let lookups = Arc::new(Semaphore::new(LOOKUPS_MAX));
        Client { idle: Mutex::default(), lookups, metrics }
    }

    /// Asks, and waits for the response. Dropping the future closes the connection.
    ///
    /// A request whose method may be repeated is sent once more if the connection that it went over
    /// had been kept and turns out to have ended.
    ///
    /// # Errors
    /// Whatever keeps the head of the response from being here within `request.timeout`. What keeps
    /// only its body is in [`Response::body`].
    pub async fn call(&self, request: &Request) -> Result<Response, Failure> {
        let asked = self.ask(request, Instant::now() + request.timeout).await;
        let failure = match &asked {
            Ok(response) => response.body.as_ref().err(),
            Err(failure) => Some(failure),
        };
        self.metrics.call(request.purpose, failure.copied());
        if let Some(failure) = failure {
            let Url { host, port, .. } = &request.url;
            tracing::debug!(purpose = request.purpose.label(), %host, port, %failure, "call");
        }
        asked
    }

    /// Closes connections that have been idle for too long or have ended.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.idle().retain(|_, idle| {
            idle.retain_mut(|idle| now < idle.until && idle.connection.is_open());
            !idle.is_empty()
        });
    }

    /// Closes all that are idle.
    pub fn clear(&self) {
        self.idle().clear();
    }

    async fn ask(&self, request: &Request, deadline: Instant) -> Result<Response, Failure> {
        let peer = Peer::of(request);
        if let Some(mut connection) = self.checkout(&peer) {
            match connection.ask(request, deadline).await {
                Err(Failure::Closed) if request.method.is_idempotent() => {}
                asked => return self.rest(asked?, connection, request, peer),
            }
        }
        let opened = timeout_at(deadline, self.open(&peer, deadline)).await;
        let mut connection = opened.unwrap_or(Err(Failure::TimedOut))?;
        let response = connection.ask(request, deadline).await?;
        self.rest(response, connection, request, peer)
    }

    async fn open(&self, peer: &Peer, deadline: Instant) -> Result<Connection, Failure> {
        let addresses = self.addresses(peer).await?;
        Connection::open(peer, &addresses, deadline).await
    }

    /// Keeps the connection behind a response, if it can be used again.
    fn rest(
        &self,
        response: Response,
        mut connection: Connection,
        request: &Request,
        peer: Peer,
    ) -> Result<Response, Failure> {
        if let Some(keep_alive) = request.keep_alive
            && response.body.is_ok()
            && connection.is_open()
        {
            self.checkin(peer, connection, keep_alive);
        }
        Ok(response)
    }

    /// The youngest connection that is still open.
    fn checkout(&self, peer: &Peer) -> Option<Connection> {
        let mut all = self.idle();
        let idle = all.get_mut(peer)?;
        let now = Instant::now();
        while let Some(Idle { mut connection, until }) = idle.pop() {
            if now < until && connection.is_open() {
                return Some(connection);
            }
        }
        None
    }

    fn checkin(&self, peer: Peer, connection: Connection, keep_alive: KeepAlive) {
        let mut all = self.idle();
        if all.values().map(Vec::len).sum::<usize>() >= IDLE_MAX {
            return;
        }
        let idle = all.entry(peer).or_default();
        if idle.len() < keep_alive.idle_max {
            idle.push(Idle { connection, until: Instant::now() + keep_alive.idle_timeout });
        }
    }

    fn idle(&self) -> MutexGuard<'_, HashMap<Peer, Vec<Idle>>> {
        // Nothing that runs under the lock can leave the map half changed.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where `peer` is, in the order of the system's choice.
    async fn addresses(&self, peer: &Peer) -> Result<Vec<SocketAddr>, Failure> {
        if let Some(address) = peer.address {
            return Ok(vec![address]);
        }
        if let Ok(ip) = peer.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, peer.port)]);
        }
        let permit = Arc::clone(&self.lookups).acquire_owned().await;
        let permit = permit.map_err(|_| Failure::Unresolved)?;
        let name = (Arc::clone(&peer.host), peer.port);
        let looked_up = spawn_blocking(move || {
            // Held until the system has an answer, whoever still waits for it.
            let _permit = permit;
            let found = (&*name.0, name.1).to_socket_addrs()?;
            std::io::Result::Ok(found.take(ADDRESSES_MAX).collect::<Vec<_>>())
        });
        match looked_up.await {
            Ok(Ok(addresses)) if !addresses.is_empty() => Ok(addresses),
            Ok(Ok(_)) | Err(_) => Err(Failure::Unresolved),
            Ok(Err(error)) => {
                tracing::debug!(host = %peer.host, %error, "look-up");
                Err(Failure::Unresolved)
            }
        }
    }
}

impl Peer {
    fn of(request: &Request) -> Peer {
        let Url { is_tls, host, port, .. } = &request.url;
        Peer {
            is_tls: *is_tls,
            trust: request.trust,
            host: Arc::clone(host),
            port: *port,
            address: request.address,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
