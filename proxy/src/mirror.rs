//! Copies of requests for somebody who is not listened to (`proxy-mirror`).
//!
//! A copy leaves when the body of its request, if it has one, has come whole; until then the body is
//! kept beside what goes to the node. Copies have bounds of their own, and one that would be beyond
//! them is dropped: neither the client nor the node ever waits for one.

use std::{cell::Cell, fmt, rc::Rc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use crate::{
    client::{KeepAlive, Purpose, Request, Trust},
    connection::ConnectionCx,
    exchange::request_head,
    http::{
        fields::{ForwardedField, PushField, forward_request_fields},
        framing::BodyLength,
        head::RequestHead,
    },
    pipeline::Plan,
    worker::Worker,
};

/// Bytes of the body of a request that is copied.
pub(crate) const BODY_SIZE_MAX: u64 = 1 << 20;
/// Bytes of bodies that a worker keeps for copies.
const KEPT_BYTES_MAX: usize = 16 << 20;
/// Copies that a worker has under way.
const UNDER_WAY_MAX: usize = 256;
/// Bytes of an answer that are read, for the sake of its connection.
const ANSWER_SIZE_MAX: usize = 64 << 10;
const TIMEOUT: Duration = Duration::from_secs(10);
const KEEP_ALIVE: KeepAlive = KeepAlive { idle_max: 16, idle_timeout: Duration::from_secs(60) };

/// What the copies of one worker take.
#[derive(Debug, Default)]
pub(crate) struct Mirrors {
    under_way: Cell<usize>,
    kept_bytes: Cell<usize>,
}

/// Why there is no copy of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// As many as may be are under way.
    TooMany,
    /// Its body, or its target, or what is kept of others.
    TooLarge,
    /// The request broke off, or no node wanted its body.
    Incomplete,
}

impl Dropped {
    pub const ALL: [Dropped; 3] = [Dropped::TooMany, Dropped::TooLarge, Dropped::Incomplete];

    /// Label in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Dropped::TooMany => "too_many",
            Dropped::TooLarge => "too_large",
            Dropped::Incomplete => "incomplete",
        }
    }
}

/// Copies a request that is about to be forwarded; the rest of the copy is what it says of the body.
#[inline]
pub(crate) fn copy(cx: &ConnectionCx, head: &RequestHead, plan: &Plan<'_>) -> Option<Box<Tap>> {
    if plan.mirrors.is_empty() { None } else { begin(cx, head, plan) }
}

#[cold]
fn begin(cx: &ConnectionCx, head: &RequestHead, plan: &Plan<'_>) -> Option<Box<Tap>> {
    let worker = &cx.worker;
    let fields = forwarded(cx, head, plan);
    // The gate lets only tokens pass.
    let method = Method::from_bytes(plan.method()).ok()?;
    let request = |url| Request {
        purpose: Purpose::Mirror,
        method: method.clone(),
        url,
        address: None,
        fields: fields.clone(),
        body: Bytes::new(),
        timeout: TIMEOUT,
        body_size_max: ANSWER_SIZE_MAX,
        trust: Trust::System,
        keep_alive: Some(KEEP_ALIVE),
    };
    let mut copies = Vec::new();
    for mirror in &plan.mirrors {
        match mirror.url(&plan.target) {
            Some(url) => copies.push(request(url)),
            None => worker.metrics.mirror_dropped(Dropped::TooLarge),
        }
    }
    let mut tap = Box::new(Tap { worker: Rc::clone(worker), copies, body: Vec::new() });
    match head.body_length() {
        BodyLength::Empty => {
            tap.complete();
            None
        }
        BodyLength::Fixed(length) if length > BODY_SIZE_MAX => {
            tap.give_up(Dropped::TooLarge);
            None
        }
        BodyLength::Fixed(_) | BodyLength::Chunked | BodyLength::UntilClose => Some(tap),
    }
}

/// The fields that the node gets, but for a `Host` that would be its own.
fn forwarded(cx: &ConnectionCx, head: &RequestHead, plan: &Plan<'_>) -> HeaderMap {
    let host = request_head::host(head, plan);
    let client = plan.represented().map(|client| client.to_string());
    let mut all = HeaderMap::new();
    let is_replaced = |name: &[u8]| plan.replaces(name);
    let client = client.as_deref();
    forward_request_fields(&mut all, head, &cx.forwarding, b"", client, is_replaced);
    all.remove(header::HOST);
    if let Some(Ok(host)) = host.map(|host| HeaderValue::from_bytes(&host)) {
        all.insert(header::HOST, host);
    }
    for (name, value) in plan.edits.made(|name| head.field(name).is_some()) {
        all.append(name, value.clone());
    }
    all
}

impl PushField<'_> for HeaderMap {
    fn push_field(&mut self, field: ForwardedField<'_>) {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_bytes(field.value.as_bytes());
        if let (Ok(name), Ok(value)) = (name, value) {
            self.append(name, value);
        }
    }
}

/// Copies that wait for the body of their request.
pub(crate) struct Tap {
    worker: Rc<Worker>,
    /// Empty once it is settled what becomes of them.
    copies: Vec<Request>,
    body: Vec<u8>,
}

impl fmt::Debug for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tap").field("kept", &self.body.len()).finish_non_exhaustive()
    }
}

impl Tap {
    /// Keeps more of the body; `false`: it is too much, and the copies are dropped.
    pub(crate) fn piece(&mut self, data: &[u8]) -> bool {
        let kept = &self.worker.mirrors.kept_bytes;
        let fits = (self.body.len() + data.len()) as u64 <= BODY_SIZE_MAX
            && kept.get() + data.len() <= KEPT_BYTES_MAX;
        if fits {
            kept.set(kept.get() + data.len());
            self.body.extend_from_slice(data);
        } else {
            self.give_up(Dropped::TooLarge);
        }
        fits
    }

    /// The body is whole: the copies leave.
    pub(crate) fn complete(&mut self) {
        let body = Rc::new(Kept { worker: Rc::clone(&self.worker), size: self.body.len() });
        let content = Bytes::from(std::mem::take(&mut self.body));
        for mut copy in std::mem::take(&mut self.copies) {
            let Some(slot) = Slot::take(&self.worker) else {
                self.worker.metrics.mirror_dropped(Dropped::TooMany);
                continue;
            };
            copy.body = content.clone();
            let kept = Rc::clone(&body);
            tokio::task::spawn_local(async move {
                // Counted by the client, whatever it is.
                drop(slot.0.client.call(&copy).await);
                drop(kept);
            });
        }
    }

    fn give_up(&mut self, why: Dropped) {
        for _ in std::mem::take(&mut self.copies) {
            self.worker.metrics.mirror_dropped(why);
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.give_up(Dropped::Incomplete);
        release(&self.worker.mirrors.kept_bytes, self.body.len());
    }
}

/// A body that copies under way share.
struct Kept {
    worker: Rc<Worker>,
    size: usize,
}

impl Drop for Kept {
    fn drop(&mut self) {
        release(&self.worker.mirrors.kept_bytes, self.size);
    }
}

/// The place of one copy under way.
struct Slot(Rc<Worker>);

impl Slot {
    fn take(worker: &Rc<Worker>) -> Option<Slot> {
        let count = &worker.mirrors.under_way;
        if count.get() >= UNDER_WAY_MAX {
            return None;
        }
        count.set(count.get() + 1);
        Some(Slot(Rc::clone(worker)))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        release(&self.0.mirrors.under_way, 1);
    }
}

fn release(taken: &Cell<usize>, count: usize) {
    taken.set(taken.get() - count);
}
