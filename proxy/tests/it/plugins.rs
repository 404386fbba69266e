//! The hooks of a plugin, seen from outside: what each changes and when it runs.

use std::{
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use proxy::{
    http::{answer::Answer, head::ResponseHead},
    memory::Memory,
    plugin::{
        BodyFilter, Call, Finished, Hooks, Outcome, Plugin, Reply, Request, RequestContext,
        ResponseEdits,
    },
    test_support::{Node, PATIENCE, Reply as NodeReply, TestProxy, gives_up_connections},
};

const DELAY: Duration = Duration::from_millis(50);

/// Has every hook: delays what it is asked to, refuses behind the delay, marks and changes
/// responses, tells of every exchange.
#[derive(Debug)]
struct Probe {
    name: &'static str,
    told: Mutex<mpsc::Sender<String>>,
}

impl Plugin for Probe {
    fn request(&self, cx: &mut RequestContext<'_>) -> Outcome {
        match cx.request.head.path_and_query().0 {
            "/delayed" | "/refused" => Outcome::Call(Call::Delay(DELAY)),
            _ => Outcome::Continue,
        }
    }

    fn resume(&self, cx: &mut RequestContext<'_>, reply: Reply) -> Outcome {
        assert!(matches!(reply, Reply::Delayed));
        match cx.request.head.path_and_query().0 {
            "/refused" => Outcome::Answer(Answer::of(StatusCode::IM_A_TEAPOT)),
            _ => Outcome::Continue,
        }
    }

    fn hooks(&self) -> Hooks {
        Hooks {
            response_head: true,
            response_body: true,
            answer: true,
            log: true,
            log_detail: true,
            ..Hooks::default()
        }
    }

    fn response_head(
        &self,
        _request: &Request<'_>,
        head: &ResponseHead,
        edits: &mut ResponseEdits<'_>,
    ) {
        let name = HeaderName::from_static("x-node-status");
        edits.fields.set(name, head.status().as_u16().into());
        edits.fields.remove("x-secret");
    }

    fn answer(&self, request: &Request<'_>, answer: &mut Answer) {
        let path = HeaderValue::from_str(&request.path).expect("a normalised path");
        answer.fields.push((HeaderName::from_static("x-refused"), path));
    }

    fn response_body(
        &self,
        _request: &Request<'_>,
        head: &ResponseHead,
        _memory: &Arc<Memory>,
    ) -> Option<Box<dyn BodyFilter>> {
        let is_wanted = head.values("x-filtered").next().is_some();
        is_wanted.then(|| Box::new(Shout { name: self.name }) as Box<dyn BodyFilter>)
    }

    fn log(&self, exchange: &Finished<'_>) {
        let Finished { head, consumer, status, sent_bytes, recv_bytes, total, .. } = exchange;
        let (method, path) = (head.method(), head.path_and_query().0);
        assert!(*total < PATIENCE);
        let consumer = consumer.map(|consumer| &consumer.username);
        let line =
            format!("{method} {path} {consumer:?} {status:?} sent {sent_bytes} recv {recv_bytes}");
        self.told.lock().expect("no panic").send(line).expect("a test that listens");
    }
}

/// Upper case, without blanks, signed at the end.
#[derive(Debug)]
struct Shout {
    name: &'static str,
}

impl BodyFilter for Shout {
    fn piece(&mut self, piece: Bytes) -> Bytes {
        let kept = piece.iter().filter(|byte| **byte != b' ');
        kept.map(u8::to_ascii_uppercase).collect()
    }

    fn end(&mut self) -> Bytes {
        Bytes::from_static(self.name.as_bytes())
    }
}

fn probe(name: &'static str) -> (Arc<dyn Plugin>, mpsc::Receiver<String>) {
    let (told, telling) = mpsc::channel();
    (Arc::new(Probe { name, told: Mutex::new(told) }), telling)
}

fn raw(bytes: &str) -> NodeReply {
    NodeReply::Bytes(bytes.into())
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")
}

#[test]
fn a_call_holds_the_request_back_and_decides_afterwards() {
    let node = Node::always("x");
    let (plugin, _telling) = probe("p");
    let proxy = TestProxy::start_with(&TestProxy::yaml(&[node.address]), &[plugin]);
    let mut client = proxy.client();
    for (path, status) in [("/delayed", 200), ("/refused", 418), ("/", 200)] {
        let asked = Instant::now();
        let response = client.ask(get(path));
        let refused = (status == 418).then_some(path);
        assert_eq!((response.status, response.field("x-refused")), (status, refused), "{path}");
        assert_eq!(asked.elapsed() >= DELAY, path != "/", "{path}");
    }
    let reached: Vec<_> = node.seen().iter().map(|seen| seen.line().to_owned()).collect();
    assert_eq!(reached, ["GET /delayed HTTP/1.1", "GET / HTTP/1.1"]);
}

#[test]
fn a_response_passes_the_hooks_of_every_plugin_in_order() {
    let node = Node::scripted(|seen| match seen.line() {
        "GET /chunked HTTP/1.1" => raw(
            "HTTP/1.1 200 OK\r\nx-filtered: 1\r\nx-secret: s\r\ntransfer-encoding: chunked\r\n\r\n\
             3\r\na b\r\n2\r\n  \r\n1\r\nc\r\n0\r\n\r\n",
        ),
        "GET /plain HTTP/1.1" => NodeReply::ok("a b"),
        "HEAD / HTTP/1.1" => raw("HTTP/1.1 200 OK\r\nx-filtered: 1\r\ncontent-length: 3\r\n\r\n"),
        _ => raw("HTTP/1.1 200 OK\r\nx-filtered: 1\r\ncontent-length: 3\r\n\r\na b"),
    });
    let ((first, _a), (second, _b)) = (probe("1"), probe("2"));
    let proxy = TestProxy::start_with(&TestProxy::yaml(&[node.address]), &[first, second]);
    let mut client = proxy.client();
    for (path, body, length) in
        [("/plain", "a b", Some("3")), ("/", "AB12", None), ("/chunked", "ABC12", None)]
    {
        let response = client.ask(get(path));
        assert_eq!((response.text().as_str(), response.field("content-length")), (body, length));
        assert_eq!(response.field("x-node-status"), Some("200"), "{path}");
        assert_eq!(response.field("x-secret"), None, "{path}");
    }
    // Of a response without a body the length it would have is not known either.
    client.send("HEAD / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(client.response_to("HEAD").field("content-length"), None);
    assert_eq!(client.ask(get("/plain")).text(), "a b");
    let connections: Vec<_> = node.seen().iter().map(|seen| seen.connection).collect();
    if !gives_up_connections() {
        assert_eq!(connections, [0; 5]);
    }
}

#[test]
fn what_plugins_edit_is_dropped_in_any_spelling_and_said_last() {
    let node = Node::scripted(|_| {
        raw("HTTP/1.1 200 Fine\r\nX-Filtered: 1\r\nX_Secret: s\r\nContent-Length: 0\r\n\
             X-Node-Status: x\r\nX-SECRET: t\r\nX-B: 2\r\nDate: x\r\n\r\n")
    });
    for is_express in [true, false] {
        let yaml = TestProxy::yaml(&[node.address])
            .replace("name: web,", &format!("name: web, express_lane: {is_express},"));
        let (plugin, _telling) = probe("p");
        let proxy = TestProxy::start_with(&yaml, &[plugin]);
        let received = proxy.client().send(get("/")).until(b"p\r\n0\r\n\r\n");
        assert_eq!(
            String::from_utf8_lossy(&received),
            "HTTP/1.1 200 Fine\r\nX-Filtered: 1\r\nX-B: 2\r\nDate: x\r\n\
             transfer-encoding: chunked\r\nx-node-status: 200\r\n\r\n1\r\np\r\n0\r\n\r\n",
            "express: {is_express}"
        );
        if !is_express {
            proxy.check_metric("tandem_lane_requests_total{lane=\"hyper\"}", 1.0);
        }
    }
}

#[test]
fn the_log_hook_runs_once_for_each_exchange_on_its_route() {
    let node = Node::always("xyz");
    let (plugin, telling) = probe("p");
    let yaml = TestProxy::yaml(&[node.address])
        .replace("uri: /*,", "uri: /*, plugins: { key-auth: {} },")
        + "consumers: [{ username: alice, plugins: { key-auth: { key: k } } }]\n";
    let proxy = TestProxy::start_with(&yaml, &[plugin]);
    let mut client = proxy.client();
    assert_eq!(client.ask(get("/")).status, 401);
    let post = "POST /p?q HTTP/1.1\r\nhost: a\r\napikey: k\r\ncontent-length: 2\r\n\r\nab";
    assert_eq!(client.ask(post).status, 200);
    drop(client);
    proxy.stop().expect("a clean end");
    let told: Vec<_> = telling.iter().collect();
    assert_eq!(
        told,
        ["GET / None Some(401) sent 41 recv 0", "POST /p Some(\"alice\") Some(200) sent 3 recv 2",]
    );
}
