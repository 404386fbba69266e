use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use rustls::{
    ServerConfig,
    crypto::ring::default_provider,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    kernel::KernelPlane,
    metrics::{KernelSample, LogSample, Sample},
};

/// Somebody on loopback who can be asked.
pub(crate) struct Host {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Host {
    /// `serve` gets each connection and its number.
    pub(crate) async fn new<F: Future<Output = ()> + Send + 'static>(
        serve: impl Fn(TcpStream, usize) -> F + Send + 'static,
    ) -> Host {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, count.fetch_add(1, Ordering::Relaxed)));
            }
        });
        Host { address, connections, task }
    }

    /// Each request of each connection is answered by the next of `answers`; then it closes.
    async fn saying(answers: &'static [&'static str]) -> Host {
        Host::new(move |stream, _| converse(stream, answers)).await
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    fn request(&self) -> Request {
        Request {
            purpose: Purpose::ForwardAuth,
            method: Method::GET,
            url: Url::parse(&format!("http://{}/p?q", self.address)).expect("a URL"),
            address: None,
            fields: HeaderMap::new(),
            body: Bytes::new(),
            timeout: Duration::from_secs(10),
            body_size_max: 64,
            trust: Trust::System,
            keep_alive: Some(KeepAlive { idle_max: 1, idle_timeout: Duration::from_secs(10) }),
        }
    }
}

async fn converse(mut stream: impl AsyncRead + AsyncWrite + Unpin, answers: &[&str]) {
    for answer in answers {
        if read_head(&mut stream).await.is_none() {
            return;
        }
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

pub(crate) async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

pub(crate) fn client() -> Client {
    Client::new(Arc::new(Metrics::new()))
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// What comes of asking somebody once who answers `answer` and closes.
async fn answered(answer: &'static str) -> Result<(u16, Bytes), Failure> {
    let host = Host::new(move |stream, _| async move { converse(stream, &[answer]).await }).await;
    let response = client().call(&host.request()).await?;
    Ok((response.status.as_u16(), response.body?))
}

#[test]
fn urls_say_whom_to_ask() {
    for (text, host, port, authority, target) in [
        ("http://a", "a", 80, "a", "/"),
        ("https://a.example/x?y=1", "a.example", 443, "a.example", "/x?y=1"),
        ("http://10.0.0.1:8080/", "10.0.0.1", 8080, "10.0.0.1:8080", "/"),
        ("https://[::1]/x", "::1", 443, "[::1]", "/x"),
        ("https://[::1]:80", "::1", 80, "[::1]:80", "/"),
        ("http://a:80/me@b", "a", 80, "a", "/me@b"),
    ] {
        let url = Url::parse(text).expect(text);
        assert_eq!((&*url.host, url.port, url.target.as_str()), (host, port, target), "{text}");
        assert_eq!(url.authority(), Some(HeaderValue::from_static(authority)), "{text}");
        assert_eq!(url.is_tls, text.starts_with("https"), "{text}");
    }
    for text in [
        "",
        "a",
        "/x",
        "a/x",
        "ftp://a",
        "http://",
        "http:///x",
        "http://u@a",
        "http://u:p@a/",
        "http://a:",
        "http://a:0",
        "http://a:65536",
        "http://a:+80",
        "http://a:x",
        "http://a/#f",
        "http://a b/",
        "http://a\r\nx: y/",
        "http://[::1",
        "http://[]/",
    ] {
        assert_eq!(Url::parse(text), Err(BadUrl), "{text}");
    }
}

#[tokio::test]
async fn a_response_is_read_by_its_framing() {
    for (answer, status, body) in [
        (OK, 200, "ok"),
        ("HTTP/1.1 404 No\r\n\r\nuntil the end", 404, "until the end"),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nx: y\r\n\r\n",
            200,
            "ab",
        ),
        ("HTTP/1.1 204 No\r\ncontent-length: 9\r\n\r\n", 204, ""),
        (
            "HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n",
            302,
            "",
        ),
    ] {
        assert_eq!(answered(answer).await, Ok((status, body.into())), "{answer}");
    }
}

#[tokio::test]
async fn what_is_no_response_fails() {
    for (answer, failure) in [
        ("", Failure::Closed),
        ("HTTP/1.1 200 OK\r\n", Failure::Closed),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nok", Failure::Closed),
        ("SSH-2.0-OpenSSH\r\n\r\n", Failure::Malformed),
        ("HTTP/1.1 200 OK\r\nx: \0\r\n\r\n", Failure::Malformed),
        ("HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n", Failure::Malformed),
        ("HTTP/1.1 200 OK\r\ncontent-length: 65\r\n\r\n", Failure::TooLarge),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
          41\r\n01234567890123456789012345678901234567890123456789012345678901234\r\n0\r\n\r\n",
            Failure::TooLarge,
        ),
    ] {
        assert_eq!(answered(answer).await, Err(failure), "{answer}");
    }
    let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(HEAD_SIZE_MAX));
    assert_eq!(answered(long.leak()).await, Err(Failure::TooLarge));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(101));
    assert_eq!(answered(many.leak()).await, Err(Failure::TooLarge));
}

#[tokio::test]
async fn a_request_is_sent_with_the_framing_of_its_body() {
    let (told, mut telling) = tokio::sync::mpsc::unbounded_channel();
    let host = Host::new(move |mut stream, _| {
        let told = told.clone();
        async move {
            let head = read_head(&mut stream).await.expect("a head");
            stream.write_all(OK.as_bytes()).await.expect("a reader");
            told.send(head).expect("a test that listens");
        }
    })
    .await;
    let mut request = Request {
        method: Method::POST,
        body: Bytes::from_static(b"abc"),
        keep_alive: None,
        ..host.request()
    };
    for (name, value) in [
        ("x-a", "1"),
        ("content-length", "99"),
        ("transfer-encoding", "chunked"),
        ("connection", "x-a"),
        ("expect", "100-continue"),
    ] {
        request.fields.insert(name, HeaderValue::from_static(value));
    }
    client().call(&request).await.expect("a response");
    let head = telling.recv().await.expect("a head");
    let mut lines: Vec<_> = head.trim_end().split("\r\n").collect();
    let first = lines.remove(0);
    lines.sort_unstable();
    assert_eq!(first, "POST /p?q HTTP/1.1");
    let host_line = format!("host: {}", host.address);
    assert_eq!(lines, ["connection: close", "content-length: 3", &host_line, "x-a: 1"]);
    request.fields = HeaderMap::from_iter([(http::header::HOST, HeaderValue::from_static("b"))]);
    client().call(&request).await.expect("a response");
    assert!(telling.recv().await.expect("a head").contains("\r\nhost: b\r\n"));
}

#[tokio::test]
async fn connections_are_kept_as_long_as_they_are_sound() {
    for (first, is_kept) in [
        (OK, true),
        ("HTTP/1.1 204 No\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok", false),
        ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n", false),
    ] {
        let host =
            Host::new(move |stream, _| async move { converse(stream, &[first, OK]).await }).await;
        let client = client();
        for _ in 0..2 {
            client.call(&host.request()).await.expect(first);
        }
        assert_eq!(host.connections(), if is_kept { 1 } else { 2 }, "{first}");
    }
}

#[tokio::test]
async fn a_call_goes_over_a_new_connection_if_the_kept_one_has_ended() {
    // Each connection ends behind its first answer, without saying so.
    let host = Host::saying(&[OK]).await;
    let client = client();
    for calls in 1..=3 {
        assert!(client.call(&host.request()).await.is_ok());
        assert_eq!(host.connections(), calls);
    }
    // A question is asked again whatever its method.
    let question = Request { method: Method::POST, ..host.request() };
    for calls in 4..=6 {
        assert!(client.call(&question).await.is_ok());
        assert_eq!(host.connections(), calls);
    }
    // What must not be repeated is asked once, and may fail.
    let copy = Request { purpose: Purpose::Mirror, ..host.request() };
    assert!(client.call(&copy).await.is_ok());
    let asked = client.call(&Request { method: Method::POST, ..copy }).await;
    assert!(matches!(asked, Ok(_) | Err(Failure::Closed)), "{asked:?}");
}

#[tokio::test]
async fn connections_are_not_kept_beyond_their_time_and_number() {
    let host = Host::saying(&[OK; 4]).await;
    let client = client();
    let request = host.request();
    let both = tokio::join!(client.call(&request), client.call(&request));
    assert!(both.0.is_ok() && both.1.is_ok());
    let one_too_many = "tandem_call_limits_total{purpose=\"forward_auth\",limit=\"idle\"} 1\n";
    assert!(page(&client.metrics).contains(one_too_many));
    assert_eq!(client.share(Purpose::ForwardAuth).idle().values().map(Vec::len).sum::<usize>(), 1);
    client.sweep();
    assert_eq!(client.share(Purpose::ForwardAuth).idle().len(), 1);
    client.clear();
    let keep_alive = Some(KeepAlive { idle_max: 1, idle_timeout: Duration::ZERO });
    let brief = Request { keep_alive, ..request.clone() };
    client.call(&brief).await.expect("a response");
    client.sweep();
    assert!(client.share(Purpose::ForwardAuth).idle().is_empty());
    let closed = Request { keep_alive: None, ..request };
    client.call(&closed).await.expect("a response");
    assert!(client.share(Purpose::ForwardAuth).idle().is_empty());
}

#[tokio::test]
async fn one_deadline_is_for_everything() {
    // Accepted by the kernel, and by nobody else.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let trickling = Host::new(|mut stream, _| async move {
        let mut pieces = tokio::time::interval(Duration::from_millis(5));
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\nx: ").await);
        while stream.write_all(b"x").await.is_ok() {
            pieces.tick().await;
        }
    })
    .await;
    let address = silent.local_addr().expect("an address");
    for scheme in ["http", "https"] {
        for address in [address, trickling.address] {
            let url = Url::parse(&format!("{scheme}://{address}/")).expect("a URL");
            let timeout = Duration::from_millis(50);
            let asked = client().call(&Request { url, timeout, ..trickling.request() }).await;
            let is_late = asked == Err(Failure::TimedOut);
            // Behind the first bytes it is no TLS any more.
            let is_refused = scheme == "https" && asked == Err(Failure::Tls);
            assert!(is_late || is_refused, "{scheme} {address}: {asked:?}");
        }
    }
}

#[tokio::test]
async fn whoever_is_not_there_fails() {
    let host = Host::saying(&[OK]).await;
    let metrics = Arc::new(Metrics::new());
    let client = Client::new(Arc::clone(&metrics));
    let to = |url: &str| Request { url: Url::parse(url).expect(url), ..host.request() };
    // A port that a client has bound takes no connections.
    let bound = tokio::net::TcpSocket::new_v4().expect("a socket");
    bound.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let nobody = bound.local_addr().expect("an address");
    let asked = client.call(&to(&format!("http://{nobody}/"))).await;
    assert_eq!(asked, Err(Failure::Unreachable));
    assert_eq!(client.call(&to("http://a.invalid/")).await, Err(Failure::Unresolved));
    // A name that resolves, and an address in place of one that does not.
    let local = to(&format!("http://localhost:{}/", host.address.port()));
    assert!(client.call(&local).await.is_ok());
    let addressed = Request { address: Some(host.address), ..to("http://a.invalid/") };
    assert!(client.call(&addressed).await.is_ok());
    let page = page(&metrics);
    for (result, count) in [("answered", 2), ("unreachable", 1), ("unresolved", 1), ("tls", 0)] {
        let line =
            format!("tandem_calls_total{{purpose=\"forward_auth\",result=\"{result}\"}} {count}\n");
        assert!(page.contains(&line), "{line} in {page}");
    }
}

#[tokio::test]
async fn tls_asks_for_a_certificate_that_the_system_knows() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]);
    let rcgen::CertifiedKey { cert, signing_key } = made.expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("protocols")
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .expect("a certificate");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let host = Host::new(move |stream, _| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                converse(stream, &[OK, OK]).await;
            }
        }
    })
    .await;
    let client = client();
    for name in ["localhost", "127.0.0.1"] {
        let url = Url::parse(&format!("https://{name}:{}/", host.address.port())).expect("a URL");
        let unknown = Request { url, ..host.request() };
        assert_eq!(client.call(&unknown).await, Err(Failure::Tls));
        let anybody = Request { trust: Trust::Anybody, ..unknown.clone() };
        let before = host.connections();
        for _ in 0..2 {
            assert_eq!(client.call(&anybody).await.expect("a response").body, Ok("ok".into()));
        }
        assert_eq!(host.connections(), before + 1, "the second call takes the kept connection");
        // Which is not for those who ask for more.
        assert_eq!(client.call(&unknown).await, Err(Failure::Tls));
    }
    // Who does not speak TLS at all.
    let plain = Host::new(|mut stream, _| async move {
        drop(stream.write_all(OK.as_bytes()).await);
    })
    .await;
    let url = Url::parse(&format!("https://{}/", plain.address)).expect("a URL");
    let asked = client.call(&Request { url, trust: Trust::Anybody, ..plain.request() }).await;
    assert_eq!(asked, Err(Failure::Tls));
}

#[tokio::test]
async fn what_is_known_of_a_response_outlives_its_body() {
    for (answer, failure) in [
        ("HTTP/1.1 403 No\r\ncontent-length: 65\r\n\r\n", Failure::TooLarge),
        ("HTTP/1.1 403 No\r\ncontent-length: 5\r\n\r\nno", Failure::TimedOut),
    ] {
        let host = Host::new(move |mut stream, _| async move {
            drop(read_head(&mut stream).await);
            drop(stream.write_all(answer.as_bytes()).await);
            drop(read_head(&mut stream).await);
        })
        .await;
        let client = client();
        let request = Request { timeout: Duration::from_secs(1), ..host.request() };
        let response = client.call(&request).await.expect("a head");
        assert_eq!((response.status.as_u16(), response.body), (403, Err(failure)), "{answer}");
        assert!(client.share(Purpose::ForwardAuth).idle().is_empty(), "{answer}");
    }
}

fn page(metrics: &Metrics) -> String {
    metrics.encode(&Sample {
        kernel: KernelSample::of(&KernelPlane::off()),
        logs: LogSample::default(),
        nodes: Vec::new(),
        encodings_skipped: 0,
        filters_cut: 0,
    })
}

#[tokio::test]
async fn nobody_waits_for_look_ups_of_another_purpose() {
    let host = Host::saying(&[OK]).await;
    let (held, until) = std::sync::mpsc::channel::<()>();
    let (until, address) = (Mutex::new(until), host.address);
    let resolve = move |name: &str, _: u16| {
        if name == "dead" {
            let _ = until.lock().expect("no panic").recv();
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(vec![address])
    };
    let metrics = Arc::new(Metrics::new());
    let client = Client { resolve: Arc::new(resolve), ..Client::new(Arc::clone(&metrics)) };
    let client = Arc::new(client);
    let to = |purpose, name: &str| {
        let url = Url::parse(&format!("http://{name}/")).expect("a URL");
        Request { purpose, url, ..host.request() }
    };
    let copies = (0..=LOOKUPS_MAX).map(|_| {
        let (client, copy) = (Arc::clone(&client), to(Purpose::Mirror, "dead"));
        tokio::spawn(async move { client.call(&copy).await })
    });
    let copies: Vec<_> = copies.collect();
    let waiting = "tandem_call_limits_total{purpose=\"mirror\",limit=\"lookups\"} 1\n";
    while !page(&metrics).contains(waiting) {
        tokio::task::yield_now().await;
    }
    for purpose in [Purpose::ForwardAuth, Purpose::Jwks] {
        assert!(client.call(&to(purpose, "alive")).await.is_ok(), "{purpose:?}");
    }
    drop(held);
    for copy in copies {
        assert_eq!(copy.await.expect("no panic"), Err(Failure::Unresolved));
    }
}
