//! What a request costs in allocations. A binary of its own, because it counts them in the global
//! allocator.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use proxy::test_support::{Node, TestProxy};

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

/// Allocations of one request in the middle of many on one connection.
fn allocations_each(yaml: &str, request: &str) -> f64 {
    const REQUESTS: u64 = 200;
    let proxy = TestProxy::start(yaml);
    let mut client = proxy.client();
    let mut ask = |times: u64| {
        for _ in 0..times {
            assert_eq!(client.ask(request).status, 200);
        }
    };
    ask(20);
    let before = COUNT.load(Relaxed);
    ask(REQUESTS);
    (COUNT.load(Relaxed) - before) as f64 / REQUESTS as f64
}

#[test]
fn a_plain_request_allocates_nothing() {
    let node = Node::always("x");
    let yaml = TestProxy::yaml(&[node.address]) + "log: { level: info }\n";
    let get = "GET /a HTTP/1.1\r\nhost: a\r\nuser-agent: test\r\naccept: */*\r\n\r\n";
    let each = allocations_each(&yaml, get);
    assert!(each < 0.1, "{each} allocations a request");
    let post = "POST /a?b HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi";
    let each = allocations_each(&yaml, post);
    assert!(each < 0.1, "{each} allocations a request with a body");
}
