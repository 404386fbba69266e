//! The rules of the moment: published once for all workers, picked up by each at its next request.

use std::{cell::RefCell, ops::Deref, rc::Rc, sync::Arc};

use tokio::sync::watch;

use crate::pipeline::Pipeline;

/// Publishes the rules; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Publisher(watch::Sender<Arc<Pipeline>>);

impl Publisher {
    pub(crate) fn new(pipeline: Arc<Pipeline>) -> Self {
        Self(watch::Sender::new(pipeline))
    }

    /// Every request that begins from now on is decided by `pipeline`.
    pub(crate) fn publish(&self, pipeline: Arc<Pipeline>) {
        self.0.send_replace(pipeline);
    }

    pub(crate) fn latest(&self) -> Arc<Pipeline> {
        Arc::clone(&self.0.borrow())
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Pipeline>> {
        self.0.subscribe()
    }
}

/// The rules that one exchange is decided by from beginning to end. Counted within its worker, so
/// that workers do not meet at the count.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot(Rc<Held>);

/// A worker's share of the rules.
#[derive(Debug)]
struct Held(Arc<Pipeline>);

impl Snapshot {
    fn of(rules: &Arc<Pipeline>) -> Self {
        Self(Rc::new(Held(Arc::clone(rules))))
    }
}

impl Deref for Snapshot {
    type Target = Pipeline;

    fn deref(&self) -> &Pipeline {
        &self.0.0
    }
}

/// One worker's hold of the rules.
pub(crate) struct Rules {
    published: RefCell<watch::Receiver<Arc<Pipeline>>>,
    held: RefCell<Snapshot>,
}

impl Rules {
    pub(crate) fn new(mut published: watch::Receiver<Arc<Pipeline>>) -> Self {
        let held = Snapshot::of(&published.borrow_and_update());
        Self { published: RefCell::new(published), held: RefCell::new(held) }
    }

    /// The latest rules.
    pub(crate) fn now(&self) -> Snapshot {
        // An error: nobody will ever publish again.
        if self.published.borrow().has_changed().unwrap_or(false) {
            let latest = Snapshot::of(&self.published.borrow_mut().borrow_and_update());
            *self.held.borrow_mut() = latest;
        }
        self.held.borrow().clone()
    }
}
