use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::*;
use crate::{
    config::{Config, Limits},
    http::fields::Pseudonym,
    pipeline::Pipeline,
    snapshot::Publisher,
};

struct Running {
    address: SocketAddr,
    shutdown: Shutdown,
    /// Dropping it stops the server.
    _server: JoinSet<()>,
}

async fn start() -> Running {
    let shutdown = Shutdown::new();
    let sources = Sources {
        metrics: Arc::new(Metrics::new()),
        kernel: Arc::new(KernelPlane::off()),
        access_log_dropped: None,
        reloader: Arc::new(reloader()),
        log_files: Arc::default(),
        body_memory: BodyMemory::new(&Limits::default()),
        shutdown: shutdown.clone(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut server = JoinSet::new();
    server.spawn(Admin { listener, address }.serve(sources));
    Running { address, shutdown, _server: server }
}

fn reloader() -> Reloader {
    let yaml = "listeners: [{ name: web, address: \"127.0.0.1:0\" }]\n\
                routes: [{ id: r, uri: /, upstream: { nodes: { app.internal: 1 } } }]\n";
    let config = Config::parse(yaml, "t.yaml").unwrap();
    let metrics = Arc::new(Metrics::new());
    let (files, pseudonym) = (Arc::default(), Pseudonym::new("tandem-test"));
    let rules = Pipeline::new(&config, &config.upstreams, None, &metrics, &files, pseudonym);
    let (rules, _retired) = Publisher::new(Arc::new(rules));
    Reloader::new(&config, rules, metrics, files)
}

const DEADLINE: Duration = Duration::from_secs(10);

/// Sends one request, reads to the end and gives status line, fields and body.
async fn ask(running: &Running, method: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(DEADLINE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body.to_owned())
}

fn content_length(head: &str) -> usize {
    let line = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    line.parse().unwrap()
}

#[tokio::test]
async fn pages_have_exact_lengths_and_types() {
    let running = start().await;
    for (path, content_type, part) in [
        ("/live", "application/json", "{\"is_live\":true}"),
        ("/ready", "application/json", "\"running\":\"userspace\""),
        ("/bpf/status", "application/json", "\"programs\":[]"),
        ("/health", "application/json", "[]"),
        (
            "/dns",
            "application/json",
            r#"[{"name":"app.internal","found":[],"failure":"not asked yet"}]"#,
        ),
        ("/metrics", "application/openmetrics-text", "tandem_kernel_info{mode=\"userspace\""),
    ] {
        let (head, body) = ask(&running, "GET", path).await;
        assert!(head.starts_with("http/1.1 200 "), "{path}: {head}");
        assert!(head.contains(&format!("content-type: {content_type}")), "{path}: {head}");
        assert!(body.contains(part), "{path}: {body}");
        assert_eq!(content_length(&head), body.len(), "{path}");
        let (head, nothing) = ask(&running, "HEAD", path).await;
        assert!(head.starts_with("http/1.1 200 "), "{path}: {head}");
        assert!(content_length(&head) > 0 && nothing.is_empty(), "{path}");
    }
}

#[tokio::test]
async fn ready_turns_503_while_draining_and_live_does_not() {
    let running = start().await;
    let (head, body) = ask(&running, "GET", "/ready").await;
    assert!(head.starts_with("http/1.1 200 ") && body.contains("\"is_ready\":true"), "{body}");
    running.shutdown.drain();
    let (head, body) = ask(&running, "GET", "/ready").await;
    assert!(head.starts_with("http/1.1 503 ") && body.contains("\"is_ready\":false"), "{body}");
    assert!(ask(&running, "GET", "/live").await.0.starts_with("http/1.1 200 "));
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let running = start().await;
    for path in ["/", "/metrics/", "/METRICS", "/ready/x", "//live"] {
        let (head, body) = ask(&running, "GET", path).await;
        assert!(head.starts_with("http/1.1 404 "), "{path}: {head}");
        assert_eq!(body, "{\"error_msg\":\"404 Not Found\"}\n");
        assert!(ask(&running, "POST", path).await.0.starts_with("http/1.1 404 "), "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"] {
        let (head, body) = ask(&running, method, "/metrics").await;
        assert!(head.starts_with("http/1.1 405 "), "{method}: {head}");
        assert!(head.contains("allow: get, head"), "{method}: {head}");
        assert_eq!(body, "{\"error_msg\":\"405 Method Not Allowed\"}\n");
    }
    let (head, _) = ask(&running, "GET", "/live?x=1").await;
    assert!(head.starts_with("http/1.1 200 "), "a query changes nothing: {head}");
}

#[tokio::test]
async fn a_connection_beyond_the_limit_waits_for_a_place() {
    let running = start().await;
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        live_on(&mut stream).await;
        held.push(stream);
    }
    let mut waits = TcpStream::connect(running.address).await.unwrap();
    waits.write_all(LIVE).await.unwrap();
    // The server had its turns while it answered these.
    for stream in &mut held {
        live_on(stream).await;
    }
    let early = waits.try_read(&mut [0; 1]).unwrap_err();
    assert_eq!(early.kind(), std::io::ErrorKind::WouldBlock);
    held.pop();
    let mut first = [0; 12];
    timeout(DEADLINE, waits.read_exact(&mut first)).await.unwrap().unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
}

const LIVE: &[u8] = b"GET /live HTTP/1.1\r\nhost: admin\r\n\r\n";

/// One request on a connection that stays open, its answer read to the last byte.
async fn live_on(stream: &mut TcpStream) {
    stream.write_all(LIVE).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"{\"is_live\":true}\n") {
        let n = timeout(DEADLINE, stream.read_buf(&mut answer)).await.unwrap().unwrap();
        assert!(n > 0, "closed after {}", String::from_utf8_lossy(&answer));
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_never_comes_ends_the_connection() {
    let running = start().await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream.write_all(b"GET /live HTTP/1.1\r\n").await.unwrap();
    let mut answer = Vec::new();
    let outcome = timeout(HEAD_WAIT_MAX * 2, stream.read_to_end(&mut answer)).await;
    assert!(outcome.is_ok(), "still open");
}

#[test]
fn a_taken_address_is_named() {
    let control = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = bind("127.0.0.1:0".parse().unwrap(), &control).unwrap();
    assert_ne!(first.address().port(), 0);
    let error = format!("{:#}", bind(first.address(), &control).unwrap_err());
    assert!(error.starts_with(&format!("bind {}: ", first.address())), "{error}");
}
