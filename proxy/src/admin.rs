//! The admin listener: what an operator and a scraper may ask a running process.
//!
//! | path | answer |
//! |---|---|
//! | `/live` | 200 while the process runs |
//! | `/ready` | 200, or 503 while draining; who does the work, and why not the kernel |
//! | `/metrics` | every metric, OpenMetrics text |
//! | `/health` | the nodes of upstreams with `checks`, `outlier_detection` or `slow_start` as JSON |
//! | `/dns` | every name of a node and what it resolves to, as JSON |
//! | `/bpf/status` | [`kernel::Status`](crate::kernel::Status) as JSON, for `tandem bpf status` |
//! | PUT `/bpf/same_host/on`, `off` | the switch of `kernel.same_host`, then the status |
//!
//! GET and HEAD but for the switch, which changes nobody's answers; there is no key, so it belongs on
//! loopback. Runs on the control runtime.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    sync::Semaphore,
    task::JoinSet,
};

use crate::{
    drain::{Order, Shutdown},
    kernel::{KernelPlane, Status},
    log_files::LogFiles,
    log_queue::Dropped,
    logging,
    memory::BodyMemory,
    metrics::{KernelSample, LogSample, Metrics, NodeSample, Sample},
    pipeline::Pipeline,
    reload::Reloader,
    sys::socket,
    upstream::health::{Health, View},
};

/// Connections at a time; the next one waits to be accepted.
const CONNECTIONS_MAX: usize = 32;
/// Connections the kernel completes ahead of us.
const BACKLOG: i32 = 128;
/// For a request head to arrive, also on a connection that is kept.
const HEAD_WAIT_MAX: Duration = Duration::from_secs(10);
/// A connection from its first byte to its last, however slowly it reads.
const CONNECTION_LIFE_MAX: Duration = Duration::from_secs(120);
/// Request head, bytes; hyper takes nothing below 8 KiB.
const HEAD_SIZE_MAX: usize = 8 * 1024;
/// After an accept that failed, most likely for want of descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// The admin listener, bound and not yet serving.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    address: SocketAddr,
}

/// What the admin pages are made of.
pub struct Sources {
    pub metrics: Arc<Metrics>,
    pub kernel: Arc<KernelPlane>,
    /// `None`: no access log is written.
    pub access_log_dropped: Option<Dropped>,
    pub reloader: Arc<Reloader>,
    pub log_files: Arc<LogFiles>,
    pub body_memory: BodyMemory,
    pub shutdown: Shutdown,
}

/// Binds the admin address, to be served on `control`.
///
/// # Errors
/// The address cannot be bound; the error names it.
pub fn bind(address: SocketAddr, control: &Runtime) -> anyhow::Result<Admin> {
    let bind = || {
        let socket = socket::listening(address)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let _control = control.enter();
        TcpListener::from_std(socket.into())
    };
    let listener = bind().with_context(|| format!("bind {address}"))?;
    let address = listener.local_addr().context("read the bound address")?;
    Ok(Admin { listener, address })
}

impl Admin {
    /// Where it really listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the future is dropped, which closes every connection.
    pub async fn serve(self, sources: Sources) {
        let sources = Arc::new(sources);
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let sources = Arc::clone(&sources);
                    connections.spawn(async move {
                        connection(stream, &sources).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "admin accept");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    }
}

async fn connection(stream: TcpStream, sources: &Sources) {
    let service = service_fn(async |request: Request<Incoming>| {
        Ok::<_, Infallible>(sources.answer(request.method(), request.uri().path()))
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WAIT_MAX)
        .max_buf_size(HEAD_SIZE_MAX)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_LIFE_MAX, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "admin connection"),
        Err(_) => tracing::debug!("admin connection outlived its time"),
    }
}

/// The body of `/ready`: which mode each part runs in, and why.
#[derive(Debug, Serialize)]
struct Readiness {
    is_ready: bool,
    kernel: Status,
}

/// One entry of `/health`.
#[derive(Debug, Serialize)]
struct NodeStatus<'a> {
    upstream: &'a str,
    node: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    is_up: bool,
    state: &'static str,
    /// Since when `is_up` is what it is, seconds since 1970.
    since: u64,
    last_failure: Option<String>,
}

impl<'a> NodeStatus<'a> {
    fn of(view: View<'a>) -> Self {
        let since = SystemTime::now().checked_sub(view.since.elapsed());
        let since = since.and_then(|since| since.duration_since(UNIX_EPOCH).ok());
        Self {
            upstream: view.upstream,
            node: view.node,
            host: view.host,
            is_up: view.is_up,
            state: view.state,
            since: since.unwrap_or_default().as_secs(),
            last_failure: view.last_failure.map(|failure| failure.to_string()),
        }
    }
}

fn views(rules: &Pipeline) -> impl Iterator<Item = View<'_>> {
    let judged = rules.upstreams().filter_map(|upstream| upstream.health.as_deref());
    judged.flat_map(Health::nodes).map(|node| node.view())
}

impl Sources {
    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        let page = match path {
            "/live" => Sources::live,
            "/ready" => Sources::ready,
            "/metrics" => Sources::metrics,
            "/health" => Sources::health,
            "/dns" => Sources::dns,
            "/bpf/status" => Sources::bpf_status,
            "/bpf/same_host/on" => return self.switch(method, true),
            "/bpf/same_host/off" => return self.switch(method, false),
            _ => return refusal(StatusCode::NOT_FOUND),
        };
        if method == Method::GET || method == Method::HEAD {
            return page(self);
        }
        not_allowed("GET, HEAD")
    }

    /// PUT: no page that a browser shows can send that here unasked.
    fn switch(&self, method: &Method, is_enabled: bool) -> Response<Full<Bytes>> {
        if method != Method::PUT {
            return not_allowed("PUT");
        }
        match self.kernel.switch_same_host(is_enabled) {
            Ok(true) => {
                tracing::info!(is_enabled, "same_host switched");
                self.bpf_status()
            }
            Ok(false) => refusal(StatusCode::CONFLICT),
            Err(error) => {
                let reason = format!("{error:#}");
                tracing::error!(reason, "same_host not switched");
                refusal(StatusCode::INTERNAL_SERVER_ERROR)
            }
        }
    }

    #[expect(clippy::unused_self, reason = "one of several pages")]
    fn live(&self) -> Response<Full<Bytes>> {
        response(StatusCode::OK, JSON, "{\"is_live\":true}\n".to_owned())
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        let is_ready = self.shutdown.order() == Order::Run;
        let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        json(status, &Readiness { is_ready, kernel: self.kernel.status() })
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let rules = self.reloader.rules();
        let node = |view: View<'_>| NodeSample {
            upstream: view.upstream.into(),
            node: view.node,
            host: view.host.map(str::to_owned),
            is_up: view.is_up,
        };
        let page = self.metrics.encode(&Sample {
            kernel: KernelSample::of(&self.kernel),
            logs: LogSample {
                access_log: self.access_log_dropped.as_ref().map_or(0, Dropped::lines),
                process: logging::dropped(),
                files: self.log_files.dropped(),
            },
            nodes: views(&rules).map(node).collect(),
            encodings_skipped: self.body_memory.encoders.refused(),
            filters_cut: self.body_memory.filters.refused(),
        });
        response(StatusCode::OK, OPEN_METRICS, page)
    }

    fn health(&self) -> Response<Full<Bytes>> {
        let rules = self.reloader.rules();
        let mut nodes: Vec<_> = views(&rules).map(NodeStatus::of).collect();
        nodes.sort_by_key(|node| (node.upstream, node.node, node.host));
        json(StatusCode::OK, &nodes)
    }

    fn dns(&self) -> Response<Full<Bytes>> {
        json(StatusCode::OK, &self.reloader.names())
    }

    fn bpf_status(&self) -> Response<Full<Bytes>> {
        let mut status = self.kernel.status();
        if let Some(legs) = &mut status.same_host {
            legs.unread_bytes = Some(self.kernel.unread());
        }
        json(StatusCode::OK, &status)
    }
}

const JSON: &str = "application/json";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

fn json(status: StatusCode, body: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_string(body) {
        Ok(body) => response(status, JSON, body + "\n"),
        Err(error) => {
            tracing::error!(%error, "admin page");
            refusal(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}

fn not_allowed(methods: &'static str) -> Response<Full<Bytes>> {
    let mut refused = refusal(StatusCode::METHOD_NOT_ALLOWED);
    refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
    refused
}

fn refusal(status: StatusCode) -> Response<Full<Bytes>> {
    response(status, JSON, format!("{{\"error_msg\":\"{status}\"}}\n"))
}

fn response(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests;
