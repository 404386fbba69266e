//! What a request costs in allocations. A binary of its own, because it counts them in the global
//! allocator.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use proxy::test_support::{Node, Reply, TestProxy};

/// Allocations of worker threads.
static COUNT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Whether this thread is a worker, once that is known.
    static IS_WORKER: Cell<Option<bool>> = const { Cell::new(None) };
}

struct Counting;

// SAFETY: every call is passed on as it is to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above; every block comes from `System`.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count() {
    // A thread that is going away has no thread-local values any more.
    let is_worker = IS_WORKER.try_with(|known| {
        known.get().unwrap_or_else(|| {
            let is_worker = is_worker();
            known.set(Some(is_worker));
            is_worker
        })
    });
    if is_worker.unwrap_or(false) {
        COUNT.fetch_add(1, Relaxed);
    }
}

/// By the thread's name, read without allocating.
fn is_worker() -> bool {
    let mut name = [0_u8; 16];
    // SAFETY: PR_GET_NAME writes at most 16 bytes, which `name` has.
    let result = unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    result == 0 && name.starts_with(b"worker-")
}

/// Requests before anything is counted: buffers grow to what they need.
const BEFORE: u64 = 50;
const REQUESTS: u64 = 300;
/// Measurements of one kind, as long as there was an allocation in each.
const TRIES_MAX: usize = 3;

/// Allocations of many requests in the middle of a connection, all answered with `status`.
fn allocations(proxy: &TestProxy, request: &str, status: u16) -> u64 {
    let mut client = proxy.client();
    let mut ask = |times: u64| {
        for _ in 0..times {
            assert_eq!(client.ask(request).status, status, "{request}");
        }
    };
    ask(BEFORE);
    let before = COUNT.load(Relaxed);
    ask(REQUESTS);
    COUNT.load(Relaxed) - before
}

const GET: &str = "GET /a HTTP/1.1\r\nhost: a\r\nuser-agent: test\r\naccept: */*\r\n\r\n";
const POST: &str = "POST /a?b HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi";
const CHUNKED: &str = "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n\
     5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
const KEY_IN_FIELD: &str = "GET /key?a=b HTTP/1.1\r\nhost: a\r\napikey: k\r\n\r\n";
const KEY_IN_QUERY: &str = "GET /key?apikey=k&a=b HTTP/1.1\r\nhost: a\r\n\r\n";
const HIDDEN_KEY: &str = "POST /hidden?a=b HTTP/1.1\r\nhost: a\r\napikey: k\r\n\
     content-length: 2\r\n\r\nhi";
const JUDGED: &str = "GET /judged HTTP/1.1\r\nhost: a\r\n\r\n";

/// One test at a time: what they count is the process's.
static TURN: Mutex<()> = Mutex::new(());

#[test]
fn a_plain_request_allocates_nothing() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let node = Node::scripted(|seen| {
        Reply::Bytes(match seen.body.is_empty() {
            true => b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx".to_vec(),
            false => b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
                5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
                .to_vec(),
        })
    });
    let routes = format!(
        "listeners: [{{ name: web, address: \"127.0.0.1:0\" }}]\n\
         consumers: [{{ username: alice, plugins: {{ key-auth: {{ key: k }} }} }}]\n\
         routes:\n\
         - {{ id: key, uri: /key, plugins: {{ key-auth: {{}} }}, upstream_id: app }}\n\
         - {{ id: hidden, uri: /hidden, plugins: {{ key-auth: {{ hide_credentials: true }} }}, upstream_id: app }}\n\
         - {{ id: judged, uri: /judged, upstream_id: judged }}\n\
         - {{ id: all, uri: /*, upstream_id: app }}\n\
         upstreams:\n\
         - {{ id: app, type: roundrobin, nodes: {{ \"{0}\": 1 }} }}\n\
         - {{ id: judged, checks: {{ active: {{}}, passive: {{}} }}, outlier_detection: {{}}, \
             nodes: {{ \"{0}\": 1 }} }}\n",
        node.address
    );
    let kinds = [GET, POST, CHUNKED, KEY_IN_FIELD, KEY_IN_QUERY, HIDDEN_KEY, JUDGED];
    for access in
        ["", ", access: { target: /dev/null }", ", access: { target: /dev/null, format: json }"]
    {
        let proxy = TestProxy::start(&format!("{routes}log: {{ level: info{access} }}\n"));
        let mut measured = 0;
        // A machine that is busy with something else may let a buffer grow once.
        let counts = kinds.map(|request| {
            let mut tries = (0..TRIES_MAX).map(|_| {
                measured += 1;
                allocations(&proxy, request, 200)
            });
            let first = tries.next();
            first.filter(|count| *count == 0).or_else(|| tries.min()).unwrap_or(0)
        });
        assert_eq!(counts, [0; 7], "of {REQUESTS} each{access}");
        let requests = measured * (BEFORE + REQUESTS);
        proxy.check_metric("tandem_lane_requests_total{lane=\"express\"}", requests as f64);
        proxy.check_metric("tandem_access_log_dropped_total", 0.0);
    }
}

/// An answer is its body, its fields and the bytes that leave; that of `ip-restriction` has a body that
/// is made when the configuration is read.
#[test]
fn a_rejected_request_allocates_its_answer_and_nothing_else() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let routes = "listeners: [{ name: web, address: \"127.0.0.1:0\" }]\n\
         consumers: [{ username: alice, plugins: { key-auth: { key: k } } }]\n\
         routes:\n\
         - { id: key, uri: /key, plugins: { key-auth: {} }, upstream_id: app }\n\
         - { id: ip, uri: /ip, plugins: { ip-restriction: { blacklist: [127.0.0.1] } }, upstream_id: app }\n\
         - { id: dead, uri: /dead, upstream_id: app }\n\
         upstreams: [{ id: app, nodes: {} }]\n";
    let proxy = TestProxy::start(routes);
    for (path, status, max) in
        [("/key", 401, 3), ("/ip", 403, 1), ("/none", 404, 2), ("/dead", 503, 2)]
    {
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\napikey: wrong\r\n\r\n");
        let counted = (0..TRIES_MAX).map(|_| allocations(&proxy, &request, status)).min();
        assert!(counted.unwrap_or_default() <= max * REQUESTS, "{path}: {counted:?}");
    }
}
