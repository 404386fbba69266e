//! Requests of our own: what is asked on behalf of plugins and of whoever watches nodes, by HTTP/1.1,
//! with TLS or without.
//!
//! A [`Request`] goes in; a [`Response`] comes out, or the [`Failure`] that kept it from coming. Each
//! call has one deadline for everything, and bounds for head and body. Redirects are answers like
//! others, interim responses are skipped, and nothing is remembered but connections.
//!
//! A call drives its connection itself, so it works on every runtime and needs no task; dropping it
//! closes the connection. Each [`Purpose`] has bounds of its own: what nobody waits for cannot take what
//! requests wait for.

mod connection;
mod message;
pub(crate) mod tls;

use std::{
    collections::HashMap,
    io,
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

/// Connections that one client keeps for one purpose, to whomever.
pub const IDLE_MAX: usize = 64;
/// Names that one client looks up at a time for one purpose; each holds a thread that cannot be called
/// back.
const LOOKUPS_MAX: usize = 8;
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// Asks others, and keeps connections to them. Each worker has its own.
pub struct Client {
    shares: [Share; Purpose::ALL.len()],
    resolve: Arc<Resolve>,
    metrics: Arc<Metrics>,
}

/// Where a name is. It may take its time.
type Resolve = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// What calls of one purpose hold, whatever those of others do.
struct Share {
    idle: Mutex<HashMap<Peer, Vec<Idle>>>,
    lookups: Arc<Semaphore>,
}

/// What calls of one purpose may come up against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// A name was to be looked up, and had to wait for others.
    Lookups,
    /// A connection was closed that might have been kept.
    Idle,
}

impl Limit {
    pub const ALL: [Limit; 2] = [Limit::Lookups, Limit::Idle];

    /// Label in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Limit::Lookups => "lookups",
            Limit::Idle => "idle",
        }
    }
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
        Client { shares: Purpose::ALL.map(|_| Share::new()), resolve: Arc::new(system), metrics }
    }

    /// Asks, and waits for the response. Dropping the future closes the connection.
    ///
    /// A request that may be repeated is sent once more if the connection that it went over
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
        for share in &self.shares {
            share.idle().retain(|_, idle| {
                idle.retain_mut(|idle| now < idle.until && idle.connection.is_open());
                !idle.is_empty()
            });
        }
    }

    /// Closes all that are idle.
    pub fn clear(&self) {
        self.shares.iter().for_each(|share| share.idle().clear());
    }

    async fn ask(&self, request: &Request, deadline: Instant) -> Result<Response, Failure> {
        let peer = Peer::of(request);
        if let Some(mut connection) = self.share(request.purpose).checkout(&peer) {
            match connection.ask(request, deadline).await {
                Err(Failure::Closed) if request.is_repeatable() => {}
                asked => return self.rest(asked?, connection, request, peer),
            }
        }
        let opened = timeout_at(deadline, self.open(request.purpose, &peer, deadline)).await;
        let mut connection = opened.unwrap_or(Err(Failure::TimedOut))?;
        let response = connection.ask(request, deadline).await?;
        self.rest(response, connection, request, peer)
    }

    fn share(&self, purpose: Purpose) -> &Share {
        &self.shares[purpose as usize]
    }

    async fn open(
        &self,
        purpose: Purpose,
        peer: &Peer,
        deadline: Instant,
    ) -> Result<Connection, Failure> {
        let addresses = self.addresses(purpose, peer).await?;
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
            && !self.share(request.purpose).checkin(peer, connection, keep_alive)
        {
            self.metrics.call_limit(request.purpose, Limit::Idle);
        }
        Ok(response)
    }

    /// Where `peer` is, in the order of the system's choice.
    async fn addresses(&self, purpose: Purpose, peer: &Peer) -> Result<Vec<SocketAddr>, Failure> {
        if let Some(address) = peer.address {
            return Ok(vec![address]);
        }
        if let Ok(ip) = peer.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, peer.port)]);
        }
        let lookups = &self.share(purpose).lookups;
        if lookups.available_permits() == 0 {
            self.metrics.call_limit(purpose, Limit::Lookups);
        }
        let permit = Arc::clone(lookups).acquire_owned().await;
        let permit = permit.map_err(|_| Failure::Unresolved)?;
        let (resolve, host, port) = (Arc::clone(&self.resolve), Arc::clone(&peer.host), peer.port);
        let looked_up = spawn_blocking(move || {
            // Held until there is an answer, whoever still waits for it.
            let _permit = permit;
            resolve(&host, port)
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

fn system(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok((host, port).to_socket_addrs()?.take(ADDRESSES_MAX).collect())
}

impl Share {
    fn new() -> Share {
        Share { idle: Mutex::default(), lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)) }
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

    /// `false`: there are as many as may be, and it is closed.
    fn checkin(&self, peer: Peer, connection: Connection, keep_alive: KeepAlive) -> bool {
        let mut all = self.idle();
        if all.values().map(Vec::len).sum::<usize>() >= IDLE_MAX {
            return false;
        }
        let idle = all.entry(peer).or_default();
        let has_room = idle.len() < keep_alive.idle_max;
        if has_room {
            idle.push(Idle { connection, until: Instant::now() + keep_alive.idle_timeout });
        }
        has_room
    }

    fn idle(&self) -> MutexGuard<'_, HashMap<Peer, Vec<Idle>>> {
        // Nothing that runs under the lock can leave the map half changed.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
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
