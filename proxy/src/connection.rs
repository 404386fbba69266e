//! The life of one downstream HTTP connection, from accept to close.
//!
//! ```text
//! accept ─▶ head ─┬▶ express: pipeline, node, relay ──────────┬▶ record ─▶ next head ─┬▶ close
//!            ▲    └▶ hyper: exchange (the same), body streams ┘                       │
//!            └──────────────────────────── rest, while nothing comes ◀────────────────┘
//! ```
//!
//! [`converse`] asks for each request which lane carries it. [`ConnectionCx`] owns the socket and
//! everything that gate, exchange and record share; [`close`] is the only place that ends a
//! connection.

mod context;
pub(crate) mod gated;
mod leg;

use std::{
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::Poll,
    time::Duration,
};

use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

pub(crate) use self::context::ConnectionCx;
use self::{
    context::Phase,
    gated::{GatedIo, Left},
};
use crate::{
    deadlines::Wait,
    drain::{Drained, Order},
    error::Fault,
    exchange, express,
    http::answer::{After, Answer},
    sys::socket,
    worker::{ListenerCx, Worker},
};

/// How long a connection that was answered with bytes still under way is kept open, so that the
/// reset those bytes would provoke does not destroy the answer: in all while they come, and from one
/// to the next.
const LINGER_MAX: Duration = Duration::from_secs(5);
const LINGER_PAUSE: Duration = Duration::from_secs(1);
/// hyper buffers at most this much, in either direction; more only makes one slow side cost more.
const BUFFER_MAX: usize = 64 * 1024;

/// Who carries a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    Express,
    Hyper,
}

impl Lane {
    pub const ALL: [Lane; 2] = [Lane::Express, Lane::Hyper];

    /// Label in the access log and in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Lane::Express => "express",
            Lane::Hyper => "hyper",
        }
    }
}

/// Serves a connection until either side, a limit or a drain ends it.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    listener: Rc<ListenerCx>,
    stream: TcpStream,
    peer: SocketAddr,
) {
    let cx = Rc::new(ConnectionCx::new(worker, listener, stream, peer));
    let _live = cx.worker.live.register(Rc::clone(&cx) as Rc<dyn Drained>);
    converse(&cx).await;
    close(&cx).await;
}

/// Exchanges until there is nothing more to exchange; between bursts of requests the connection is
/// nothing but a socket that somebody waits on.
async fn converse(cx: &Rc<ConnectionCx>) {
    let first = if cx.listener.has_express_lane { Lane::Express } else { Lane::Hyper };
    let mut lane = first;
    loop {
        let lull = match lane {
            Lane::Express => attend(cx, Box::pin(express::serve(Rc::clone(cx)))).await,
            Lane::Hyper => attend(cx, Box::pin(hyper_lane(cx))).await,
        };
        lane = match lull {
            Lull::Turn(other) => other,
            Lull::Resting => {
                cx.rest();
                if poll_fn(|task| cx.poll_rested(task)).await == Lull::Ended {
                    return;
                }
                first
            }
            Lull::Ended => return,
        }
    }
}

/// Why a lane has nothing more to exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lull {
    /// The next request is for this one.
    Turn(Lane),
    /// The downstream has been silent for a while.
    Resting,
    Ended,
}

/// Runs hyper over the gated bytes, until the next request may be for the express lane. hyper holds
/// two buffers of 8 KiB, which is why it goes when the downstream falls silent.
async fn hyper_lane(cx: &Rc<ConnectionCx>) -> Lull {
    let service = service_fn(|request: Request<Incoming>| {
        exchange::serve(Rc::clone(cx), request.into_body())
    });
    let mut http = std::pin::pin!(
        http1::Builder::new()
            // The gate decides what an end of stream means.
            .half_close(true)
            .max_buf_size(BUFFER_MAX)
            .serve_connection(TokioIo::new(GatedIo(Rc::clone(cx))), service),
    );
    poll_fn(|task| match http.as_mut().poll(task) {
        Poll::Ready(result) => {
            if let Err(error) = result {
                tracing::debug!(downstream = %cx.peer, %error, "connection ended");
            }
            Poll::Ready(Lull::Ended)
        }
        Poll::Pending if cx.listener.has_express_lane && cx.awaits_head() => {
            Poll::Ready(Lull::Turn(Lane::Express))
        }
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// Drives a lane, and watches what it does not: the order to drain, a reset by the downstream, and
/// the deadlines.
async fn attend(cx: &Rc<ConnectionCx>, mut lane: Pin<Box<impl Future<Output = Lull>>>) -> Lull {
    poll_fn(|task| {
        cx.remember(task);
        if cx.order.get() == Order::End {
            cx.record(|record| record.fault(Fault::DrainDeadline));
            return Poll::Ready(Lull::Ended);
        }
        loop {
            if let Poll::Ready(lull) = lane.as_mut().poll(task) {
                return Poll::Ready(lull);
            }
            if cx.poll_reset(task).is_ready() {
                return Poll::Ready(Lull::Ended);
            }
            if cx.is_impatient(task) {
                continue;
            }
            if cx.deadlines.poll_expired(task).is_pending() {
                return Poll::Pending;
            }
            if cx.deadlines.take_expired(Wait::Rest) {
                if cx.phase.get() == Phase::Between {
                    return Poll::Ready(Lull::Resting);
                }
                if cx.has_left() {
                    return Poll::Ready(Lull::Ended);
                }
            }
        }
    })
    .await
}

/// Ends the connection: answers what the gate refused, finishes the record, closes.
async fn close(cx: &ConnectionCx) {
    let Some(downstream) = cx.downstream.take() else { return };
    let method = downstream.is_for_head().then_some("HEAD");
    let (mut stream, recv_bytes, left) = downstream.into_parts();
    let has_reset = cx.order.get() == Order::End;
    let is_cut = cx.phase.get() != Phase::Between && cx.is_end_meant.get();
    if let Some(fault) = cx.refusal.get() {
        answer(cx, &mut stream, fault, method).await;
    } else if cx.phase.get() != Phase::Between {
        let fault = cx.body_fault().unwrap_or(Fault::DownstreamReset);
        cx.record(|record| record.fault(fault));
    }
    cx.finish_record(recv_bytes);
    if is_cut {
        // A FIN would make what has broken off look whole.
        reset(&stream);
    } else if !has_reset && left != Left::Nothing {
        let is_more_due = left == Left::Message || cx.refusal.get().is_some();
        let patience = if cx.is_draining() { LINGER_PAUSE } else { LINGER_MAX };
        end(&mut stream, is_more_due, patience).await;
    }
}

/// Has the connection end by a reset when it is closed.
fn reset(stream: &TcpStream) {
    if let Err(error) = socket::reset_on_close(stream) {
        tracing::debug!(%error, "linger");
    }
}

/// The proxy's answer to a head that never became a request.
async fn answer(
    cx: &ConnectionCx,
    stream: &mut TcpStream,
    fault: Fault,
    method: Option<&'static str>,
) {
    let Some(status) = fault.consequence().status else { return };
    let answer = Answer::of(status);
    cx.record(|record| record.status(status.as_u16()));
    cx.count_sent(answer.body_for(method).len() as u64);
    let bytes = answer.to_bytes(method, After::Close, &cx.worker.date());
    let written = timeout(cx.worker.timeouts.send, stream.write_all(&bytes)).await;
    if !matches!(written, Ok(Ok(()))) {
        tracing::debug!(downstream = %cx.peer, "answer not taken");
    }
}

/// Sends our FIN, and waits a while for the downstream's if there is or will be more to read: closing a
/// socket with unread bytes resets it, which destroys what has not left yet and may overtake what has
/// (RFC 9112 section 9.6).
async fn end(stream: &mut TcpStream, is_more_due: bool, patience: Duration) {
    if stream.shutdown().await.is_err() || !is_more_due && !socket::has_unread(&*stream) {
        return;
    }
    let drained = async {
        // Not in the future, which every connection would carry around for it.
        let mut scratch = vec![0; 4096];
        while timeout(LINGER_PAUSE, stream.read(&mut scratch)).await?? > 0 {}
        std::io::Result::Ok(())
    };
    // Whatever comes of it, the socket is closed next.
    drop(timeout(patience, drained).await);
}
