//! One connection to somebody who is asked, driven by the call that holds it.

use std::{
    future::{Future, poll_fn},
    io::{self, IoSlice},
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Uri, header};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::{Failure, HEAD_SIZE_MAX, Peer, Request, Response, tls};
use crate::{http::name::Known, sys::socket};

/// What we speak behind a handshake.
const ALPN: &[u8] = b"http/1.1";
/// Fields of a response head.
const FIELDS_MAX: usize = 100;

trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

type Driver = http1::Connection<TokioIo<Patient>, Full<Bytes>>;

/// What the host does not take of a request is forgotten: it may have answered all the same.
struct Patient {
    transport: Box<dyn Transport>,
    is_refused: Arc<AtomicBool>,
}

impl Patient {
    fn taken<T>(&self, written: Poll<io::Result<T>>, all: T) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &written {
            tracing::debug!(%error, "rest of a request");
            self.is_refused.store(true, Ordering::Relaxed);
            return Poll::Ready(Ok(all));
        }
        written
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_read(task, out)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.transport).poll_write(task, bytes);
        self.taken(written, bytes.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.transport).poll_write_vectored(task, slices);
        self.taken(written, slices.iter().map(|slice| slice.len()).sum())
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.transport).poll_flush(task);
        self.taken(flushed, ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(task)
    }
}

/// A connection, in use or kept.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// `None`: it has ended.
    driver: Option<Pin<Box<Driver>>>,
    /// A part of a request was not taken.
    is_refused: Arc<AtomicBool>,
}

impl Connection {
    /// Connects to the first address that answers; each gets its share of the time that is left.
    pub(super) async fn open(
        peer: &Peer,
        addresses: &[SocketAddr],
        deadline: Instant,
    ) -> Result<Connection, Failure> {
        let stream = dial(addresses, deadline).await?;
        let transport: Box<dyn Transport> = if peer.is_tls {
            let secured = tls::connect(stream, &peer.host, peer.trust, Some(ALPN)).await;
            Box::new(secured.map_err(|error| {
                tracing::debug!(host = %peer.host, %error, "TLS handshake");
                Failure::Tls
            })?)
        } else {
            Box::new(stream)
        };
        let is_refused = Arc::<AtomicBool>::default();
        let transport = Patient { transport, is_refused: Arc::clone(&is_refused) };
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD_SIZE_MAX).max_headers(FIELDS_MAX);
        let (sender, driver) =
            builder.handshake(TokioIo::new(transport)).await.map_err(|error| failure(&error))?;
        Ok(Connection { sender, driver: Some(Box::pin(driver)), is_refused })
    }

    /// Asks, and reads the response.
    ///
    /// Dropping the future leaves the connection unusable.
    pub(super) async fn ask(
        &mut self,
        request: &Request,
        deadline: Instant,
    ) -> Result<Response, Failure> {
        let asked = self.sender.send_request(message(request)?);
        let driver = &mut self.driver;
        let head = timeout_at(deadline, drive(driver, asked)).await;
        let response = head.map_err(|_elapsed| Failure::TimedOut)?.map_err(|it| failure(&it))?;
        // Interim ones are skipped, so nobody has asked for this one (RFC 9110 section 15.2).
        if response.status().is_informational() {
            return Err(Failure::Malformed);
        }
        let (head, incoming) = response.into_parts();
        let body = timeout_at(deadline, drive(driver, whole(incoming, request.body_size_max)));
        let body = body.await.unwrap_or(Err(Failure::TimedOut));
        Ok(Response { status: head.status, fields: head.headers, body })
    }

    /// Whether another request may follow: the last response was complete and nothing came behind.
    pub(super) fn is_open(&mut self) -> bool {
        if let Some(driver) = &mut self.driver
            && driver.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
        {
            self.driver = None;
        }
        let is_refused = self.is_refused.load(Ordering::Relaxed);
        self.driver.is_some() && self.sender.is_ready() && !is_refused
    }
}

/// Does `work`, which the connection has a part in.
async fn drive<T>(driver: &mut Option<Pin<Box<Driver>>>, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    poll_fn(|task| {
        if let Some(running) = driver
            && let Poll::Ready(ended) = running.as_mut().poll(task)
        {
            // Whoever waits for the response is told, if it matters.
            drop(ended);
            *driver = None;
        }
        work.as_mut().poll(task)
    })
    .await
}

async fn whole(mut incoming: Incoming, size_max: usize) -> Result<Bytes, Failure> {
    if incoming.size_hint().lower() > size_max as u64 {
        return Err(Failure::TooLarge);
    }
    let mut body = BytesMut::new();
    while let Some(frame) = incoming.frame().await {
        let frame = frame.map_err(|error| failure(&error))?;
        // Trailers are nothing that anybody asks for.
        let Ok(data) = frame.into_data() else { continue };
        if body.len() + data.len() > size_max {
            return Err(Failure::TooLarge);
        }
        body.extend_from_slice(&data);
    }
    Ok(body.freeze())
}

fn failure(error: &hyper::Error) -> Failure {
    if error.is_parse_too_large() {
        Failure::TooLarge
    } else if error.is_parse() {
        Failure::Malformed
    } else {
        Failure::Closed
    }
}

async fn dial(addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream, Failure> {
    let mut last = Failure::Unreachable;
    for (at, address) in addresses.iter().enumerate() {
        let now = Instant::now();
        let untried = u32::try_from(addresses.len() - at).unwrap_or(u32::MAX);
        let share = now + deadline.saturating_duration_since(now) / untried;
        match timeout_at(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%address, %error, "socket options");
                }
                return Ok(stream);
            }
            Ok(Err(error)) if socket::is_shortage(&error) => return Err(Failure::OutOfFiles),
            Ok(Err(error)) => {
                tracing::debug!(%address, %error, "connect");
                last = Failure::Unreachable;
            }
            Err(_elapsed) => last = Failure::TimedOut,
        }
    }
    Err(last)
}

/// The message as it is sent: its framing and what speaks about the connection is ours.
fn message(request: &Request) -> Result<http::Request<Full<Bytes>>, Failure> {
    let mut fields = HeaderMap::with_capacity(request.fields.len() + 1);
    if !request.fields.contains_key(header::HOST) {
        let host = request.url.authority().ok_or(Failure::Unresolved)?;
        fields.insert(header::HOST, host);
    }
    for (name, value) in &request.fields {
        if !is_framing(Known::of(name.as_str().as_bytes())) {
            fields.append(name, value.clone());
        }
    }
    if request.keep_alive.is_none() {
        fields.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    // hyper says nothing of no body, but these methods are expected to (RFC 9110 section 8.6).
    let has_content = [Method::POST, Method::PUT, Method::PATCH].contains(&request.method);
    if has_content && request.body.is_empty() {
        fields.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    let mut message = http::Request::new(Full::new(request.body.clone()));
    *message.method_mut() = request.method.clone();
    *message.uri_mut() = Uri::from(request.url.target.clone());
    *message.headers_mut() = fields;
    Ok(message)
}

fn is_framing(known: Known) -> bool {
    known.is_hop_by_hop() || matches!(known, Known::ContentLength | Known::Expect)
}
