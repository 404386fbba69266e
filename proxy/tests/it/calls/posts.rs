//! `forward-auth` with the request's body: who sees it, when, and what becomes of one that nobody can
//! judge.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use proxy::test_support::{Node, PATIENCE, Reply, Seen, TestProxy};

use super::{get, host, read_head, saying, yaml};

const NO: &[u8] = b"HTTP/1.1 401 No\r\ncontent-length: 3\r\n\r\nwhy";
const YES: &[u8] = b"HTTP/1.1 200 Yes\r\ncontent-length: 0\r\nx-user: alice\r\n\r\n";

fn proxy(is_express: bool, node: &Node, auth: SocketAddr, more: &str) -> TestProxy {
    let plugins = format!(
        "forward-auth: {{ uri: \"http://{auth}/check\", request_method: POST, timeout: 10000, \
         upstream_headers: [x-user]{more} }}"
    );
    TestProxy::start(&yaml(is_express, node, &plugins))
}

/// Lets bodies pass that do not begin with `no`.
fn auth() -> Node {
    Node::scripted(|seen| {
        let answer = if seen.body.starts_with(b"no") { NO } else { YES };
        Reply::Bytes(answer.to_vec())
    })
}

fn fixed(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /a?b HTTP/1.1\r\nhost: a\r\ncontent-type: text/x\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let head = "POST /a?b HTTP/1.1\r\nhost: a\r\ncontent-type: text/x\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    let mut message = head.as_bytes().to_vec();
    for piece in body.chunks(size) {
        message.extend_from_slice(format!("{:x};x=y\r\n", piece.len()).as_bytes());
        message.extend_from_slice(piece);
        message.extend_from_slice(b"\r\n");
    }
    message.extend_from_slice(b"0\r\nx-trailer: t\r\n\r\n");
    message
}

/// The content of what a node has seen.
fn content(seen: &Seen) -> Vec<u8> {
    if seen.field("transfer-encoding").is_none() {
        return seen.body.clone();
    }
    let (mut rest, mut content) = (&seen.body[..], Vec::new());
    loop {
        let end = rest.windows(2).position(|pair| pair == b"\r\n").expect("a size line");
        let size = std::str::from_utf8(&rest[..end]).expect("ASCII");
        let size = usize::from_str_radix(size, 16).expect("hex");
        if size == 0 {
            return content;
        }
        content.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 2 + size + 2..];
    }
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at % 251) as u8).collect()
}

#[test]
fn both_get_the_body_byte_for_byte_the_node_after_the_verdict() {
    let (large, middle) = (bytes(3 << 20), bytes(70_000));
    for is_express in [true, false] {
        let (node, auth) = (Node::always("x"), auth());
        let proxy = proxy(is_express, &node, auth.address, "");
        let mut client = proxy.client();
        for (message, body, framing) in [
            (fixed(b"a\0\xff\r\n"), &b"a\0\xff\r\n"[..], ("content-length", "5")),
            (fixed(b""), b"", ("content-length", "0")),
            (fixed(&large), &large, ("content-length", "3145728")),
            (chunked(b"abc", 2), b"abc", ("transfer-encoding", "chunked")),
            (chunked(b"", 1), b"", ("transfer-encoding", "chunked")),
            (chunked(&middle, 9000), &middle, ("transfer-encoding", "chunked")),
        ] {
            let response = client.ask(message);
            assert_eq!((response.status, response.text().as_str()), (200, "x"));
            let (asked, seen) = (auth.take().remove(0), node.take().remove(0));
            assert_eq!((asked.line(), seen.line()), ("POST /check HTTP/1.1", "POST /a?b HTTP/1.1"));
            assert!(content(&asked) == body && content(&seen) == body, "{}", body.len());
            let length = body.len().to_string();
            assert_eq!(asked.field("content-length"), Some(length.as_str()));
            assert_eq!(asked.field("content-type"), Some("text/x"));
            assert_eq!(seen.field(framing.0), Some(framing.1));
            assert_eq!(seen.field("x-user"), Some("alice"));
        }
        assert_eq!(client.ask(get("/")).status, 200);
        let asked = auth.take().remove(0);
        assert_eq!((asked.line(), &*asked.body), ("POST /check HTTP/1.1", &b""[..]));
        // Whoever is refused keeps his connection, and the node has heard nothing of it.
        let heard = node.heard();
        let refused = [b"no", &bytes(200_000)[..]].concat();
        for message in [fixed(&refused), chunked(&refused[..60_000], 50_000)] {
            let response = client.ask(message);
            assert_eq!((response.status, response.text().as_str()), (401, "why"));
        }
        assert!(node.heard() == heard);
        assert_eq!(client.ask(fixed(b"abc")).status, 200);
    }
}

#[test]
fn the_node_hears_nothing_while_the_verdict_is_awaited() {
    let (told, asked) = mpsc::channel();
    let (let_go, may_go) = mpsc::channel::<()>();
    let may_go = std::sync::Mutex::new(may_go);
    let auth = Node::scripted(move |seen| {
        told.send(seen.body.len()).expect("a test that listens");
        may_go.lock().expect("no panic").recv().expect("a test that lets go");
        Reply::Bytes(YES.to_vec())
    });
    for is_express in [true, false] {
        let node = Node::always("x");
        let proxy = proxy(is_express, &node, auth.address, "");
        let mut client = proxy.client();
        client.send(fixed(&bytes(100_000)));
        assert_eq!(asked.recv_timeout(PATIENCE), Ok(100_000));
        assert_eq!(node.heard(), "");
        let_go.send(()).expect("somebody who waits");
        assert_eq!(client.response().status, 200);
        assert!(node.only().body == bytes(100_000));
    }
}

#[test]
fn a_body_that_waits_to_be_asked_for_is() {
    let expecting = |length: usize| {
        format!(
            "POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
        )
    };
    for is_express in [true, false] {
        let (node, auth) = (Node::always("x"), auth());
        let proxy = proxy(is_express, &node, auth.address, ", max_req_body_size: 10");
        let mut client = proxy.client();
        for (body, status) in [("abc", 200), ("now", 401), ("abd", 200)] {
            client.send(expecting(3));
            assert_eq!(client.until(b"\r\n\r\n"), b"HTTP/1.1 100 Continue\r\n\r\n");
            assert_eq!(client.send(body).response().status, status, "{body}");
        }
        // One that is refused by its length is not asked for.
        client.send(expecting(11));
        assert_eq!(client.response().status, 413);
        client.closed();
        assert_eq!((auth.seen().len(), node.seen().len()), (3, 2));
        assert_eq!(node.seen()[1].body, b"abd");
    }
}

#[test]
fn what_is_too_large_or_broken_is_nobodys_to_judge() {
    let over = bytes(1001);
    let head = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    for is_express in [true, false] {
        let (node, auth) = (Node::always("x"), auth());
        let more = ", max_req_body_size: 1000, allow_degradation: true";
        let proxy = proxy(is_express, &node, auth.address, more);
        let ask = |message: &[u8]| proxy.client().ask(message).status;
        assert_eq!(ask(&fixed(&over[1..])), 200);
        assert_eq!(ask(&chunked(&over[1..], 400)), 200);
        for (message, status) in [
            (fixed(&over), 413),
            (chunked(&over, 2000), 413),
            (chunked(&over, 400), 413),
            (format!("{head}3\r\nabcX").into_bytes(), 400),
            (format!("{head}3\r\nabc\r\nxyz\r\n").into_bytes(), 400),
        ] {
            assert_eq!(ask(&message), status, "{}", String::from_utf8_lossy(&message));
        }
        // In pieces, so that what is wrong with it comes when it is being read.
        for (pieces, status) in [(["3\r\nabc", "X"], 400), (["2\r\nab\r\n", "3e8\r\n"], 413)] {
            let mut client = proxy.client();
            client.send(head).send(pieces[0]);
            client.hears_within(std::time::Duration::from_millis(20));
            assert_eq!(client.send(pieces[1]).response().status, status, "{pieces:?}");
        }
        // One that breaks off is answered by nobody.
        for message in [&fixed(&over[1..])[..200], format!("{head}3\r\nab").as_bytes()] {
            let mut client = proxy.client();
            client.send(message);
            client.stream().shutdown(Shutdown::Write).expect("an open connection");
            client.closed();
        }
        assert_eq!((auth.seen().len(), node.seen().len()), (2, 2));
    }
}

#[test]
fn a_body_that_does_not_come_is_not_waited_for() {
    for is_express in [true, false] {
        let (node, auth) = (Node::always("x"), auth());
        let plugins =
            format!("forward-auth: {{ uri: \"http://{}/\", request_method: POST }}", auth.address);
        let text = yaml(is_express, &node, &plugins);
        let proxy = TestProxy::start(&format!("{text}timeouts: {{ body: 100ms }}\n"));
        let mut client = proxy.client();
        client.send(&fixed(b"abc")[..fixed(b"abc").len() - 1]);
        assert_eq!(client.response().status, 408);
        client.closed();
        assert_eq!((auth.seen().len(), node.seen().len()), (0, 0));
    }
}

#[test]
fn who_is_asked_may_answer_early_or_never() {
    let silent = host(|mut stream| {
        drop(read_head(&mut stream));
        let mut all = Vec::new();
        drop(stream.read_to_end(&mut all));
    });
    let body = bytes(5 << 20);
    let [early_yes, early_no, nothing] = [YES, NO, b""].map(saying);
    for is_express in [true, false] {
        for (auth, more, status) in [
            (early_yes, "", 200),
            (early_no, "", 401),
            (nothing, ", status_on_error: 503", 503),
            (silent, ", timeout: 100, status_on_error: 504", 504),
        ] {
            let node = Node::always("x");
            let plugins =
                format!("forward-auth: {{ uri: \"http://{auth}/\", request_method: POST{more} }}");
            let proxy = TestProxy::start(&yaml(is_express, &node, &plugins));
            let mut client = proxy.client();
            assert_eq!(client.ask(fixed(&body)).status, status, "{more}");
            match status {
                200 => assert!(node.only().body == body),
                _ => assert_eq!(node.heard(), ""),
            }
            // What was held is gone, and the next one is judged anew.
            assert_eq!(client.ask(fixed(b"abc")).status, status, "{more}");
        }
    }
}

#[test]
fn a_client_that_leaves_takes_its_body_along() {
    for is_express in [true, false] {
        let (node, auth) = (Node::always("x"), auth());
        let proxy = proxy(is_express, &node, auth.address, "");
        let mut client = proxy.client();
        client.send(&fixed(&bytes(100_000))[..50_000]);
        drop(client);
        proxy.check_metric("tandem_faults_total{fault=\"downstream_reset\"}", 1.0);
        let mut client = proxy.client();
        assert_eq!(client.ask(fixed(b"abc")).status, 200);
        assert_eq!((auth.seen().len(), node.seen().len()), (1, 1));
    }
}

/// Reads a request with a body of this length, and forgets it; `false`: none came.
fn forget(stream: &mut TcpStream, length: u64) -> bool {
    let has_come = read_head(&mut *stream).is_some();
    has_come && io::copy(&mut stream.take(length), &mut io::sink()).is_ok_and(|read| read == length)
}

#[test]
fn a_body_takes_no_room_once_the_node_has_it() {
    // There is room for one.
    const LENGTH: usize = 130 << 20;
    let answering = |answer: &'static [u8]| {
        host(move |mut stream| {
            if forget(&mut stream, LENGTH as u64) {
                drop(stream.write_all(answer));
                // The rest of a response may take its time.
                drop(stream.read(&mut [0]));
            }
        })
    };
    let auth = answering(YES);
    let node = answering(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nx");
    for is_express in [true, false] {
        let plugins = format!(
            "forward-auth: {{ uri: \"http://{auth}/\", request_method: POST, timeout: 60000, \
             max_req_body_size: {LENGTH} }}"
        );
        let text = TestProxy::yaml(&[node])
            .replace("name: web,", &format!("name: web, express_lane: {is_express},"))
            .replace("uri: /*,", &format!("uri: /*, plugins: {{ {plugins} }},"));
        let proxy = TestProxy::start(&format!("{text}workers: {{ count: 1 }}\n"));
        let clients = [(); 2].map(|()| {
            let mut client = proxy.client();
            client.send(format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {LENGTH}\r\n\r\n"));
            let piece = vec![b'x'; 1 << 20];
            for _ in 0..LENGTH / piece.len() {
                client.send(&piece);
            }
            let head = client.until(b"\r\n\r\n");
            assert!(head.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&head));
            client
        });
        drop(clients);
    }
}

/// More than sockets take.
const LARGE: usize = 24 << 20;

/// A node that answers a `POST` when it has its head, and reads on when it is told to.
struct Hasty {
    address: SocketAddr,
    go: mpsc::Sender<()>,
    /// How many bytes of the body that came to.
    read: mpsc::Receiver<usize>,
}

impl Hasty {
    fn start(answer: &'static [u8]) -> Hasty {
        let ((go, wait), (tell, read)) = (mpsc::channel(), mpsc::channel());
        let wait = Arc::new(Mutex::new(wait));
        let address = host(move |mut stream| {
            while let Some(head) = read_head(&mut stream) {
                drop(stream.write_all(answer));
                if head.starts_with("POST") {
                    let _: Result<(), _> = wait.lock().expect("no panic").recv();
                    let _ = tell.send(count(&mut stream));
                    return;
                }
            }
        });
        Hasty { address, go, read }
    }

    fn reads_on(&self) -> usize {
        self.go.send(()).expect("a node that waits");
        self.read.recv_timeout(PATIENCE).expect("the end of a body")
    }
}

/// Reads `LARGE` bytes, or whatever comes.
fn count(stream: &mut TcpStream) -> usize {
    let (mut piece, mut read) = (vec![0; 1 << 20], 0);
    while read < LARGE {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(count) => read += count,
        }
    }
    read
}

fn proxy_to(is_express: bool, node: SocketAddr, auth: &Node) -> TestProxy {
    let plugins = format!(
        "forward-auth: {{ uri: \"http://{}/\", request_method: POST, timeout: 10000 }}",
        auth.address
    );
    let text = TestProxy::yaml(&[node])
        .replace("name: web,", &format!("name: web, express_lane: {is_express},"))
        .replace("uri: /*,", &format!("uri: /*, plugins: {{ {plugins} }},"));
    TestProxy::start(&text)
}

#[test]
fn whoever_resets_takes_along_a_body_that_a_node_does_not_read() {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf";
    for is_express in [true, false] {
        let (node, auth) = (Hasty::start(answer), auth());
        let proxy = proxy_to(is_express, node.address, &auth);
        let mut client = proxy.client();
        client.send(fixed(&bytes(LARGE))).until(b"half");
        socket2::SockRef::from(client.stream()).set_linger(Some(Duration::ZERO)).expect("a socket");
        drop(client);
        proxy.check_metric("tandem_faults_total{fault=\"downstream_reset\"}", 1.0);
        assert!(node.reads_on() < LARGE, "express {is_express}");
    }
}

#[test]
fn the_next_request_does_not_wait_for_a_node_to_read_a_body_that_is_here() {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly";
    let body = bytes(LARGE);
    for is_express in [true, false] {
        for is_last in [false, true] {
            let (node, auth) = (Hasty::start(answer), auth());
            let proxy = proxy_to(is_express, node.address, &auth);
            let mut client = proxy.client();
            let mut message = fixed(&body);
            if is_last {
                let line = "POST /a?b HTTP/1.1\r\n".len();
                message.splice(line..line, *b"connection: close\r\n");
            }
            assert_eq!(client.ask(message).text(), "early");
            match is_last {
                false => assert_eq!(client.ask(get("/")).text(), "early"),
                true => client.closed(),
            }
            drop(client);
            assert_eq!(node.reads_on(), LARGE, "express {is_express}, last {is_last}");
        }
    }
}

#[test]
fn a_copy_of_a_body_that_was_judged_is_whole() {
    for is_express in [true, false] {
        let (node, auth, mirror) = (Node::always("x"), auth(), Node::always("m"));
        let plugins = format!(
            "forward-auth: {{ uri: \"http://{}/\", request_method: POST }}, \
             proxy-mirror: {{ host: \"http://{}\" }}",
            auth.address, mirror.address
        );
        let proxy = TestProxy::start(&yaml(is_express, &node, &plugins));
        let body = bytes(100_000);
        assert_eq!(proxy.client().ask(fixed(&body)).status, 200);
        assert_eq!(proxy.client().ask(chunked(&body, 30_000)).status, 200);
        proxy.check_metric("tandem_calls_total{purpose=\"mirror\",result=\"answered\"}", 2.0);
        assert!(mirror.seen().iter().all(|seen| content(seen) == body));
    }
}
