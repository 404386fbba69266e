//! The rules of the moment: published once for all workers, picked up by each at its next request.
//!
//! Freeing those before takes milliseconds where they have thousands of routes, so no worker does.

use std::{cell::RefCell, ops::Deref, rc::Rc, sync::Arc};

use tokio::sync::{mpsc, watch};

use crate::pipeline::Pipeline;

/// Publishes the rules; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Publisher {
    rules: watch::Sender<Arc<Pipeline>>,
    retire: mpsc::UnboundedSender<Arc<Pipeline>>,
}

/// Rules that a worker needs no more: one entry for each worker and each time that rules were
/// published.
#[derive(Debug)]
pub(crate) struct Retired(mpsc::UnboundedReceiver<Arc<Pipeline>>);

impl Retired {
    /// Frees them, until dropped.
    pub(crate) async fn free(mut self) {
        while let Some(rules) = self.0.recv().await {
            drop(rules);
        }
    }
}

impl Publisher {
    pub(crate) fn new(pipeline: Arc<Pipeline>) -> (Self, Retired) {
        let (retire, retired) = mpsc::unbounded_channel();
        (Self { rules: watch::Sender::new(pipeline), retire }, Retired(retired))
    }

    /// Every request that begins from now on is decided by `pipeline`.
    pub(crate) fn publish(&self, pipeline: Arc<Pipeline>) {
        self.rules.send_replace(pipeline);
    }

    pub(crate) fn latest(&self) -> Arc<Pipeline> {
        Arc::clone(&self.rules.borrow())
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Pipeline>> {
        self.rules.subscribe()
    }
}

/// The rules that one exchange is decided by from beginning to end. Counted within its worker, so
/// that workers do not meet at the count.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot(Rc<Held>);

/// A worker's share of the rules.
#[derive(Debug)]
struct Held {
    rules: Arc<Pipeline>,
    /// Dropped behind `rules`, which therefore are never the last.
    _parting: Parting,
}

/// Hands the rules over when it is dropped.
#[derive(Debug)]
struct Parting {
    rules: Option<Arc<Pipeline>>,
    retire: mpsc::UnboundedSender<Arc<Pipeline>>,
}

impl Drop for Parting {
    fn drop(&mut self) {
        if let Some(rules) = self.rules.take() {
            // An error: everything ends, and nobody is waiting.
            drop(self.retire.send(rules));
        }
    }
}

impl Snapshot {
    fn of(rules: &Arc<Pipeline>, retire: &mpsc::UnboundedSender<Arc<Pipeline>>) -> Self {
        let parting = Parting { rules: Some(Arc::clone(rules)), retire: retire.clone() };
        Self(Rc::new(Held { rules: Arc::clone(rules), _parting: parting }))
    }
}

impl Deref for Snapshot {
    type Target = Pipeline;

    fn deref(&self) -> &Pipeline {
        &self.0.rules
    }
}

/// One worker's hold of the rules.
pub(crate) struct Rules {
    published: RefCell<watch::Receiver<Arc<Pipeline>>>,
    held: RefCell<Snapshot>,
    retire: mpsc::UnboundedSender<Arc<Pipeline>>,
}

impl Rules {
    pub(crate) fn new(publisher: &Publisher) -> Self {
        let (mut published, retire) = (publisher.subscribe(), publisher.retire.clone());
        let held = Snapshot::of(&published.borrow_and_update(), &retire);
        Self { published: RefCell::new(published), held: RefCell::new(held), retire }
    }

    /// The latest rules.
    pub(crate) fn now(&self) -> Snapshot {
        // An error: nobody will ever publish again.
        if self.published.borrow().has_changed().unwrap_or(false) {
            let mut published = self.published.borrow_mut();
            let latest = Snapshot::of(&published.borrow_and_update(), &self.retire);
            *self.held.borrow_mut() = latest;
        }
        self.held.borrow().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::{config::Config, http::fields::Pseudonym, log_files::LogFiles, metrics::Metrics};

    fn rules() -> Arc<Pipeline> {
        let yaml = "listeners: [{ name: web, address: \"127.0.0.1:0\" }]\n\
                    routes: [{ id: r, uri: /, upstream: { nodes: { \"127.0.0.1:1\": 1 } } }]\n";
        let config = Config::parse(yaml, "t.yaml").unwrap();
        let (metrics, files) = (Metrics::new(), LogFiles::default());
        let pseudonym = Pseudonym::new("tandem-test");
        Pipeline::new(&config, &config.upstreams, None, &metrics, &files, pseudonym).into()
    }

    #[test]
    fn no_worker_frees_rules() {
        let (publisher, mut retired) = Publisher::new(rules());
        let workers = [(); 2].map(|()| Rules::new(&publisher));
        let under_way = workers[0].now();
        let before = Arc::downgrade(&publisher.latest());
        publisher.publish(rules());
        workers.iter().for_each(|worker| drop(worker.now()));
        drop(retired.0.try_recv().expect("those of the worker without a request"));
        assert!(before.strong_count() > 0, "a request is decided by them");
        drop(under_way);
        assert_eq!(before.strong_count(), 1, "whoever is handed them frees them");
        drop(retired.0.try_recv());
        assert_eq!(before.strong_count(), 0);
    }
}
