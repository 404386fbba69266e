//! One connection to a node: the response gate below hyper's client, driven by whoever holds it.
//!
//! hyper's connection future is not a task of its own: the exchange that holds the connection polls
//! it, and an idle connection is polled by nobody. That saves two task switches per request.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use http_body::Body as _;
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::oneshot,
};

use super::{group::Upstream, pool::Pooled};
use crate::{
    config::Limits,
    error::Fault,
    exchange::body::{RequestBody, Upload},
    http::{
        framing::{BodyLength, BodyReader},
        gate::ResponseGate,
        head::ResponseHead,
        stand_in,
    },
    inlet::{Inlet, MessageError, head_limits},
    kernel::KernelPlane,
    lead::{self, Lead},
};

/// How long a node that has answered may take to take the rest of its request.
pub(crate) const AFTERMATH_MAX: Duration = Duration::from_secs(30);

/// What the gate below hyper and the exchange above it tell each other.
#[derive(Debug, Default)]
pub(crate) struct ResponseState {
    /// The request whose response is due; the gate takes it.
    asked: Cell<Option<Asked>>,
    head: RefCell<Option<ResponseHead>>,
    /// The body, if hyper is not to carry it.
    whole: RefCell<Option<Bytes>>,
    fault: Cell<Option<Fault>>,
    /// The head of the request that hyper is about to write.
    lead: RefCell<Option<Lead>>,
    /// The message is complete and the connection may carry another request.
    is_reusable: Cell<bool>,
    /// The task that drives the connection; `None` once it is a task of its own.
    driver: RefCell<Option<Waker>>,
    /// Whether the socket tells [`News`] of what comes next.
    is_watched: Cell<bool>,
    news: Arc<News>,
}

impl ResponseState {
    /// Polls the socket on behalf of whoever drives the connection.
    fn poll_io<T>(
        &self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        match &*self.driver.borrow() {
            Some(driver) => poll(&mut Context::from_waker(driver)),
            None => poll(cx),
        }
    }

    fn driven_by(&self, task: &Context<'_>) {
        let mut driver = self.driver.borrow_mut();
        match &mut *driver {
            Some(known) => known.clone_from(task.waker()),
            None => *driver = Some(task.waker().clone()),
        }
    }
}

/// What the gate needs to know of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    /// A body that comes with its head is not worth hyper's while.
    pub(crate) takes_whole: bool,
}

/// The body of a response.
pub(crate) enum Coming {
    /// It has come with the head, and nothing behind it.
    Whole(Bytes),
    Streaming(Incoming),
}

/// What the response's framing needs to know of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Head,
    Other,
}

impl Method {
    pub(crate) fn of(method: &[u8]) -> Self {
        if method == b"HEAD" { Method::Head } else { Method::Other }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Method::Head => "HEAD",
            Method::Other => "GET",
        }
    }
}

/// A request as hyper's client gets it: how the body is framed follows from the body. Of the methods
/// only one that usually has a body may have one whose length is not known.
fn stand_in_request(body: RequestBody) -> Request<RequestBody> {
    let method = if body.is_end_stream() { http::Method::GET } else { http::Method::POST };
    let mut request = Request::new(body);
    *request.method_mut() = method;
    request
}

type Driver = http1::Connection<TokioIo<GatedUpstream>, RequestBody>;

/// A connection to a node, idle or in use.
pub(crate) struct UpstreamConnection {
    pub(crate) node: SocketAddr,
    sender: SendRequest<RequestBody>,
    driver: Option<Pin<Box<Driver>>>,
    state: Rc<ResponseState>,
    /// Whether it has carried a request before: if so, the node may have closed it meanwhile.
    is_reused: bool,
    upstream: Arc<Upstream>,
    uses: u32,
}

/// Set by the socket of a connection that rests when there is something to read or it has closed.
#[derive(Debug, Default)]
struct News(AtomicBool);

impl News {
    fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(Arc::clone(self))
    }

    fn is_there(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

impl Wake for News {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl UpstreamConnection {
    /// Puts the gate and hyper's client on an established connection.
    pub(crate) async fn handshake(
        stream: TcpStream,
        node: SocketAddr,
        limits: &Limits,
        upstream: &Arc<Upstream>,
    ) -> hyper::Result<Self> {
        let state = Rc::new(ResponseState::default());
        let io = GatedUpstream::new(stream, limits, Rc::clone(&state));
        let (sender, driver) = http1::Builder::new().handshake(TokioIo::new(io)).await?;
        Ok(Self {
            node,
            sender,
            driver: Some(Box::pin(driver)),
            state,
            is_reused: false,
            upstream: Arc::clone(upstream),
            uses: 0,
        })
    }

    /// Sends a request, with `head` in place of the one that hyper makes, and waits for the response
    /// head, driving the connection meanwhile.
    ///
    /// Dropping the future leaves the connection unusable.
    ///
    /// # Errors
    /// [`Fault::StaleConnection`] if a reused connection closed before the first response byte,
    /// otherwise what the gate found or [`Fault::UpstreamClosed`].
    pub(crate) async fn send(
        &mut self,
        asked: Asked,
        head: Vec<u8>,
        body: RequestBody,
        has_expired: impl Fn() -> bool,
    ) -> Result<(ResponseHead, Coming), Fault> {
        *self.state.lead.borrow_mut() = Some(Lead::request(head));
        self.state.asked.set(Some(asked));
        self.state.is_reusable.set(false);
        self.state.is_watched.set(false);
        let mut response = std::pin::pin!(self.sender.send_request(stand_in_request(body)));
        let (driver, state) = (&mut self.driver, &self.state);
        let result = std::future::poll_fn(|cx| {
            state.driven_by(cx);
            drive(driver);
            if let Poll::Ready(result) = response.as_mut().poll(&mut driven()) {
                return Poll::Ready(result.map_err(|error| {
                    tracing::debug!(%error, "response head");
                    Fault::UpstreamClosed
                }));
            }
            if has_expired() {
                return Poll::Ready(Err(Fault::ResponseTimedOut));
            }
            Poll::Pending
        })
        .await;
        let response = result.map_err(|fault| self.classify(fault))?;
        let head = self.state.head.borrow_mut().take().ok_or(Fault::Internal)?;
        let whole = self.state.whole.borrow_mut().take();
        Ok((head, whole.map_or_else(|| Coming::Streaming(response.into_body()), Coming::Whole)))
    }

    fn classify(&self, fault: Fault) -> Fault {
        match self.state.fault.get() {
            // Part of a response had come.
            Some(found) => found,
            None if fault == Fault::UpstreamClosed && self.is_reused => Fault::StaleConnection,
            None => fault,
        }
    }

    /// What the gate found wrong with the response, if anything.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.state.fault.get()
    }

    /// Moves the connection on: writes what is buffered, reads what has come.
    pub(crate) fn poll_drive(&mut self, cx: &mut Context<'_>) {
        self.state.driven_by(cx);
        drive(&mut self.driver);
    }

    /// Makes the connection a task, which moves the rest of the request while the response streams
    /// and for [`AFTERMATH_MAX`] after that. It ends with a response that breaks off, or that nobody
    /// wants any more.
    pub(crate) fn spawn(self, upload: Upload) -> Detached {
        let Self { driver, state, sender, .. } = self;
        state.driver.take();
        let (streaming, streamed) = oneshot::channel();
        if let Some(driver) = driver {
            tokio::task::spawn_local(async move {
                let overdue = async {
                    if streamed.await.is_ok() && upload.response_over() {
                        tokio::time::sleep(AFTERMATH_MAX).await;
                    }
                };
                tokio::select! {
                    result = driver => if let Err(error) = result {
                        tracing::debug!(%error, "detached upstream connection");
                    },
                    () = overdue => tracing::debug!("rest of a request not taken"),
                }
            });
        }
        Detached { state, _sender: sender, streaming }
    }
}

impl Pooled for UpstreamConnection {
    fn upstream(&mut self) -> &mut Arc<Upstream> {
        &mut self.upstream
    }

    fn node(&self) -> SocketAddr {
        self.node
    }

    fn uses(&mut self) -> &mut u32 {
        &mut self.uses
    }

    fn rest(&mut self, _: &KernelPlane) -> bool {
        self.is_silent()
    }

    /// Costs nothing if the socket has been silent since.
    fn has_rested(&mut self) -> bool {
        !self.state.news.is_there() || self.is_silent()
    }
}

impl UpstreamConnection {
    /// hyper says whether another request may follow only once it was polled past the end of the
    /// message, which it mostly has been; what came behind the message, or a close, shows in the same
    /// poll.
    fn is_silent(&mut self) -> bool {
        let state = &self.state;
        if !state.is_reusable.get() {
            return false;
        }
        self.is_reused = true;
        *state.driver.borrow_mut() = Some(state.news.waker());
        if state.news.take() || !state.is_watched.get() {
            state.is_watched.set(false);
            drive(&mut self.driver);
        }
        self.driver.is_some() && self.sender.is_ready() && self.state.fault.get().is_none()
    }
}

/// What is left of a connection that became a task.
pub(crate) struct Detached {
    state: Rc<ResponseState>,
    _sender: SendRequest<RequestBody>,
    /// Told when the response has streamed.
    streaming: oneshot::Sender<()>,
}

impl Detached {
    /// The response is whole.
    pub(crate) fn finish(self) {
        // An error: nothing was left of the request.
        let _ = self.streaming.send(());
    }

    pub(crate) fn fault(&self) -> Option<Fault> {
        self.state.fault.get()
    }
}

/// For hyper's own ends of a connection that the polling task drives. Whoever drives polls both ends
/// in turn, so the only wake-up that counts is the socket's ([`ResponseState::driven_by`]); theirs
/// would have the running task polled once more for nothing.
pub(crate) fn driven() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn drive(driver: &mut Option<Pin<Box<Driver>>>) {
    if let Some(connection) = driver
        && let Poll::Ready(result) = connection.as_mut().poll(&mut driven())
    {
        if let Err(error) = result {
            tracing::debug!(%error, "upstream connection");
        }
        *driver = None;
    }
}

/// Where the response gate stands.
#[derive(Debug)]
enum Reading {
    /// No response is due: whatever comes is not ours.
    Idle,
    Head {
        asked: Asked,
        /// An interim head has come.
        has_begun: bool,
    },
    /// A response is being handed over.
    Message {
        keeps_alive: bool,
    },
    Closed,
}

/// The node's byte stream, of which hyper sees one gated response at a time.
struct GatedUpstream {
    inlet: Inlet,
    gate: ResponseGate,
    reading: Reading,
    /// The node takes no more. It may have answered all the same, so hyper is not told.
    is_refusing: bool,
    state: Rc<ResponseState>,
}

impl GatedUpstream {
    fn new(stream: TcpStream, limits: &Limits, state: Rc<ResponseState>) -> Self {
        let gate = ResponseGate::new(head_limits(limits));
        Self { inlet: Inlet::new(stream), gate, reading: Reading::Idle, is_refusing: false, state }
    }

    fn refuse<T>(&mut self, fault: Fault) -> Poll<io::Result<T>> {
        self.reading = Reading::Closed;
        self.state.is_reusable.set(false);
        if self.state.fault.get().is_none() {
            self.state.fault.set(Some(fault));
        }
        Poll::Ready(Err(io::ErrorKind::InvalidData.into()))
    }

    /// Reads until a final head is whole; the inlet then holds the message.
    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        asked: Asked,
        mut has_begun: bool,
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.gate.head(self.inlet.buffer(), asked.method.as_str()) {
                // Swallowed; the gate bounds how many there are.
                Ok(Some(head)) if head.is_interim() => {
                    has_begun = true;
                    self.reading = Reading::Head { asked, has_begun };
                }
                Ok(Some(head)) => {
                    let carried = self.carried(&head, asked);
                    let stand_in = stand_in::response(&head, carried);
                    self.inlet.admit(stand_in, BodyReader::new(carried));
                    self.reading = Reading::Message { keeps_alive: head.keeps_alive() };
                    *self.state.head.borrow_mut() = Some(head);
                    return Poll::Ready(Ok(1));
                }
                Ok(None) => {
                    let has_begun = has_begun || !self.inlet.buffer().is_empty();
                    match ready!(self.inlet.poll_fill(cx)) {
                        Ok(0) | Err(_) if has_begun => {
                            return self.refuse(Fault::UpstreamClosed);
                        }
                        Ok(0) => return Poll::Ready(Ok(0)),
                        Ok(_) => {}
                        Err(error) => return Poll::Ready(Err(error)),
                    }
                }
                Err(error) => return self.refuse(error.fault()),
            }
        }
    }

    /// How much of a body hyper has to carry: nothing of one that is here to its last byte.
    fn carried(&mut self, head: &ResponseHead, asked: Asked) -> BodyLength {
        let buffer = self.inlet.buffer();
        let is_whole = match head.body_length() {
            BodyLength::Empty => buffer.is_empty(),
            BodyLength::Fixed(length) => length == buffer.len() as u64,
            BodyLength::Chunked | BodyLength::UntilClose => false,
        };
        if !asked.takes_whole || !is_whole {
            return head.body_length();
        }
        *self.state.whole.borrow_mut() = Some(buffer.split().freeze());
        BodyLength::Empty
    }

    fn poll_message(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
        keeps_alive: bool,
    ) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        match ready!(self.inlet.poll_message(cx, out)) {
            Ok(()) => {}
            Err(MessageError::Framing(error)) => return self.refuse(error.response_fault()),
            Err(MessageError::Io(error)) => {
                self.reading = Reading::Closed;
                self.state.fault.set(Some(Fault::UpstreamReset));
                return Poll::Ready(Err(error));
            }
        }
        if self.inlet.is_between_messages() {
            self.reading = Reading::Idle;
            // Bytes behind the message belong to no request: the connection ends here.
            let is_reusable = keeps_alive && !self.is_refusing && self.inlet.buffer().is_empty();
            self.state.is_reusable.set(is_reusable);
            self.inlet.rest();
        } else if out.filled().len() == before {
            self.reading = Reading::Closed;
            if let Err(error) = self.inlet.finish_at_eof() {
                return self.refuse(error.response_fault());
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_gated(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.reading {
                Reading::Idle => match self.state.asked.take() {
                    Some(asked) => self.reading = Reading::Head { asked, has_begun: false },
                    None => return self.poll_idle(cx),
                },
                Reading::Head { asked, has_begun } => {
                    if ready!(self.poll_head(cx, asked, has_begun))? == 0 {
                        return Poll::Ready(Ok(()));
                    }
                }
                Reading::Message { keeps_alive } => return self.poll_message(cx, out, keeps_alive),
                Reading::Closed => return Poll::Ready(Ok(())),
            }
        }
    }

    /// What a node does not take is forgotten.
    fn taken(&mut self, written: Poll<io::Result<usize>>, size: usize) -> Poll<io::Result<usize>> {
        self.is_refusing |= matches!(written, Poll::Ready(Err(_)));
        if self.is_refusing { Poll::Ready(Ok(size)) } else { written }
    }

    /// Nothing is due. While somebody holds the connection, it is left at rest by the first look.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.state.driver.borrow().is_none() {
            return self.poll_silence(cx);
        }
        if self.state.is_watched.replace(true) {
            return Poll::Pending;
        }
        let news = self.state.news.waker();
        self.poll_silence(&mut Context::from_waker(&news))
    }

    /// The end of the stream is fine, bytes are not.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(self.inlet.poll_fill(cx)) {
            Ok(0) => Poll::Ready(Ok(())),
            Ok(_) => self.refuse(Fault::ResponseMalformed),
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl AsyncRead for GatedUpstream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let state = Rc::clone(&self.state);
        state.poll_io(cx, |cx| self.poll_gated(cx, out))
    }
}

impl AsyncWrite for GatedUpstream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let state = Rc::clone(&self.state);
        let written = state.poll_io(cx, |cx| {
            let stream = self.inlet.stream_mut();
            lead::poll_write(&state.lead, slices, |slices| {
                lead::poll_send(Pin::new(&mut *stream), cx, slices)
            })
        });
        self.taken(written, slices.iter().map(|slice| slice.len()).sum())
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.inlet.stream_mut()).poll_shutdown(cx)
    }
}
