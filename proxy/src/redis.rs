//! Redis as plugins ask it: scripts, over one connection for each worker and server on which calls
//! stand one behind the other.
//!
//! A call never takes longer than the server's timeout, and none is made while a server is known not
//! to answer, so that it costs a request little. What a plugin wants undone is undone when nobody holds
//! its [`Undo`] any more, or nobody waits for the answer; while the server is away that waits. What a
//! plugin wants told at intervals ([`Telling`]) is told by the worker that was asked first.

mod bounded;
mod connection;
mod link;
mod owed;
mod refusal;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    task::{self, JoinHandle},
    time::{self, Instant},
};

use self::link::Link;
use crate::{
    metrics::Metrics,
    plugin::{Due, Failure, Question, Replied, Server, Teller, Telling, Undo},
};

/// What undoing may take once all connections are closed.
const SETTLE_GRACE: Duration = Duration::from_millis(500);

/// One worker's connections, by whom they lead to.
pub(crate) struct Links {
    links: RefCell<HashMap<Arc<Server>, Known>>,
    metrics: Arc<Metrics>,
    tellers: Rc<Tellers>,
}

/// Those who tell servers something at intervals.
#[derive(Default)]
struct Tellers {
    count: Cell<usize>,
    is_ending: Cell<bool>,
    ending: Notify,
    /// Told when one of them has ended.
    ended: Notify,
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
        Links { links: RefCell::default(), metrics, tellers: Rc::default() }
    }

    /// Has the server do what is asked for. Dropping the future does not end the call.
    pub(crate) async fn ask(&self, question: &Arc<Question>) -> Replied {
        let link = self.link(&question.server);
        let Some(turn) = link.turn() else {
            self.metrics.limit_error(question.plugin, Failure::Busy);
            inform(question, &Err(Failure::Busy));
            return Replied { numbers: Err(Failure::Busy), undo: Undo::default() };
        };
        if let Some(Teller(telling)) = question.teller.as_ref().filter(|it| it.0.begin()) {
            let (question, telling) = (Arc::clone(question), Arc::clone(telling));
            let (tellers, link) = (Rc::clone(&self.tellers), self.link(&question.server));
            tellers.count.set(tellers.count.get() + 1);
            task::spawn_local(tellers.tell(link, question, telling));
        }
        let (tell, told) = oneshot::channel();
        let question = Arc::clone(question);
        task::spawn_local(async move {
            let replied = link.answer(&question).await;
            inform(&question, &replied.numbers);
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
            self.tellers.end().await;
            for link in &links {
                link.settled().await;
            }
        };
        if time::timeout(SETTLE_GRACE, settled).await.is_err() {
            links.iter().for_each(|link| link.give_up_settling());
        }
    }
}

/// Whoever tells at intervals has to know what came of all that was asked, also if nobody waits for it.
fn inform(asked: &Question, numbers: &Result<Vec<i64>, Failure>) {
    if let Some(Teller(telling)) = &asked.teller {
        telling.told(&asked.step, numbers.as_deref().ok(), Instant::now().into_std());
    }
}

impl Tellers {
    /// Tells what is due at intervals, until that is over.
    async fn tell(self: Rc<Self>, link: Rc<Link>, asked: Arc<Question>, telling: Arc<dyn Telling>) {
        loop {
            let ending = self.ending.notified();
            if !self.is_ending.get() {
                drop(time::timeout(telling.interval(), ending).await);
            }
            let is_over = Self::tell_all(&link, &asked, &*telling).await;
            if is_over || self.is_ending.get() {
                break;
            }
        }
        self.count.set(self.count.get() - 1);
        self.ended.notify_waiters();
    }

    /// Tells what is due; whether that was the last of it.
    async fn tell_all(link: &Rc<Link>, asked: &Question, telling: &dyn Telling) -> bool {
        loop {
            let step = match telling.due(Instant::now().into_std()) {
                Due::Step(step) => step,
                Due::Nothing => return false,
                Due::Over => return true,
            };
            let question = Question { step, teller: None, ..asked.clone() };
            let numbers = link.answer(&question).await.numbers;
            let now = Instant::now().into_std();
            telling.told(&question.step, numbers.as_deref().ok(), now);
            if numbers.is_err() {
                return false;
            }
        }
    }

    /// Waits until what is due is told.
    async fn end(&self) {
        self.is_ending.set(true);
        self.ending.notify_waiters();
        while self.count.get() > 0 {
            self.ended.notified().await;
        }
    }
}
