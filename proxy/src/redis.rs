//! Redis as plugins ask it: scripts, over one connection for each worker and server on which calls
//! stand one behind the other.
//!
//! A call never takes longer than the server's timeout, and none is made while a server is known not
//! to answer, so that it costs a request little. What a plugin wants undone is undone when nobody holds
//! its [`Undo`] any more, or nobody waits for the answer; while the server is away that waits.

mod bounded;
mod connection;
mod link;
mod owed;
mod refusal;

use std::{cell::RefCell, collections::HashMap, rc::Rc, sync::Arc, time::Duration};

use tokio::{
    sync::oneshot,
    task::{self, JoinHandle},
    time,
};

use self::link::Link;
use crate::{
    metrics::Metrics,
    plugin::{Failure, Question, Replied, Server, Undo},
};

/// What undoing may take once all connections are closed.
const SETTLE_GRACE: Duration = Duration::from_millis(500);

/// One worker's connections, by whom they lead to.
pub(crate) struct Links {
    links: RefCell<HashMap<Arc<Server>, Known>>,
    metrics: Arc<Metrics>,
}

struct Known {
    link: Rc<Link>,
    settling: JoinHandle<()>,
}

impl Drop for Known {
    fn drop(&mut self) {
        self.settling.abort();
    }
}

impl Links {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Links {
        Links { links: RefCell::default(), metrics }
    }

    /// Has the server do what is asked for. Dropping the future does not end the call.
    pub(crate) async fn ask(&self, question: &Arc<Question>) -> Replied {
        let link = self.link(&question.server);
        let Some(turn) = link.turn() else {
            self.metrics.limit_error(question.plugin, Failure::Busy);
            return Replied { numbers: Err(Failure::Busy), undo: Undo::default() };
        };
        let (tell, told) = oneshot::channel();
        let question = Arc::clone(question);
        task::spawn_local(async move {
            let replied = link.answer(&question).await;
            drop(turn);
            // What nobody waits for any more is undone by being dropped.
            drop(tell.send(replied));
        });
        // Only the end of the worker ends a call.
        told.await.unwrap_or(Replied { numbers: Err(Failure::Broken), undo: Undo::default() })
    }

    fn link(&self, server: &Arc<Server>) -> Rc<Link> {
        let mut links = self.links.borrow_mut();
        if let Some(known) = links.get(server) {
            return Rc::clone(&known.link);
        }
        let link = Rc::new(Link::new(Arc::clone(server), Arc::clone(&self.metrics)));
        let settling = task::spawn_local(Rc::clone(&link).settle());
        links.insert(Arc::clone(server), Known { link: Rc::clone(&link), settling });
        link
    }

    /// Closes connections that nobody has used for a while, and forgets servers that nobody needs.
    pub(crate) fn sweep(&self) {
        // Two hold each: this table, and the task that settles.
        self.links
            .borrow_mut()
            .retain(|_, known| !known.link.rests() || Rc::strong_count(&known.link) > 2);
    }

    /// Waits until what has to be undone is undone, for a while.
    pub(crate) async fn settled(&self) {
        let links = || self.links.borrow().values().map(|known| Rc::clone(&known.link)).collect();
        let links: Vec<Rc<Link>> = links();
        let settled = async {
            for link in &links {
                link.settled().await;
            }
        };
        if time::timeout(SETTLE_GRACE, settled).await.is_err() {
            links.iter().for_each(|link| link.give_up_settling());
        }
    }
}
