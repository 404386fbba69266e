//! Waiting for a response that may go past us: it comes to us, or the kernel says that it has gone.
//!
//! | the kernel says | and                                    | what follows                         |
//! |-----------------|----------------------------------------|--------------------------------------|
//! | waiting         | nothing                                | wait                                 |
//! | waiting         | the node, the client or a deadline stir | take it back: as ours, or too late  |
//! | going           | nothing                                | wait, it is a matter of microseconds |
//! | flowing         | nothing                                | wait: a part of it has gone          |
//! | flowing         | the node ends, or is late with the rest | close both connections              |
//! | gone            |                                        | the exchange is over                 |
//! | handed over     |                                        | carry the rest                       |
//! | ours            |                                        | carry it                             |
//! | broken          |                                        | close both connections               |
//!
//! Nobody is woken by a response that has gone. The client's next request does that, or the sweep.
//! What follows once a part has gone is in `begun.rs`.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Waker},
    time::Duration,
};

use proxy_common::limits::{HEAD_FIELDS_MAX, HEAD_MAX};
use tokio::sync::Notify;

use crate::{
    config::Limits,
    kernel::{Armed, Meter, Passed, Turn},
};

/// Armed responses that are looked at, if a connection to a node is needed.
const LOOKS_MAX: usize = 256;

/// At most this long after it has gone, a response is counted and its node's connection free.
const SWEEP_INTERVAL: Duration = Duration::from_millis(10);

/// How often a worker gives its processor up for a response that is just being queued, before it waits
/// for the sweep.
const YIELDS_MAX: u32 = 16;

/// Of one downstream connection: the response that may go past us.
#[derive(Debug, Default)]
pub(crate) struct Passage {
    armed: RefCell<Option<Armed>>,
    waker: RefCell<Option<Waker>>,
    is_watched: Cell<bool>,
    /// Of this response.
    yields: Cell<u32>,
    /// It is known that a part of this response has gone.
    has_begun: Cell<bool>,
    /// The client sends requests before it has its responses: none goes past us any more.
    has_pipelined: Cell<bool>,
}

/// What is to be done about a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Wait,
    Carry,
    /// A part of it has gone: [`Passage::course`] says how it goes on.
    Begun(Passed),
    Over {
        passed: Passed,
        /// Whether the node has said nothing else, as far as is known.
        is_silent: bool,
    },
    /// Nobody can complete it.
    Close,
}

/// What has become of a response of which a part has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Course {
    /// More than this is being queued, just now.
    Going(Passed),
    Flowing(Passed),
    Gone(Passed),
    /// Userspace carries what has not gone.
    HandedOver(Passed),
    /// Nobody knows how much more than this has gone, if as much is known.
    Broken(Option<Passed>),
}

impl Course {
    fn of(armed: &Armed, turn: Turn) -> Course {
        match turn {
            Turn::Going => armed.passed().map_or(Course::Broken(None), Course::Going),
            Turn::Flowing(passed) => Course::Flowing(passed),
            Turn::Gone(passed) => Course::Gone(passed),
            Turn::HandedOver(passed) => Course::HandedOver(passed),
            Turn::Waiting | Turn::Ours => Course::Broken(None),
            Turn::Broken => Course::Broken(armed.passed()),
        }
    }
}

/// What a waiting exchange has noticed beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stir {
    /// The node's connection has something to read, be it the end.
    pub(super) node: bool,
    /// The client has sent more.
    pub(super) client: bool,
    pub(super) deadline: bool,
    /// The response has to say that the connection closes.
    pub(super) drain: bool,
}

impl Stir {
    const fn is_any(self) -> bool {
        self.node || self.client || self.deadline || self.drain
    }
}

impl Passage {
    /// Arms it, unless that cannot be. The passage must be open.
    pub(crate) fn arm(self: &Rc<Self>, passages: &Passages, node: &Meter, client: &Meter) {
        let armed = node.arm(client);
        self.yields.set(0);
        self.has_begun.set(false);
        if armed.is_some() && !self.is_watched.replace(true) {
            passages.watch(Rc::clone(self));
        }
        *self.armed.borrow_mut() = armed;
    }

    /// Whether anything may be armed.
    pub(crate) fn is_open(&self, passages: &Passages) -> bool {
        !self.has_pipelined.get() && passages.is_open
    }

    /// The client has sent a request before it had its response: from now on none goes past us.
    pub(crate) fn close(&self) {
        self.has_pipelined.set(true);
    }

    /// The exchange is given up: nothing more goes past us. What has, as far as that is known.
    pub(super) fn abandon(&self) -> Option<Passed> {
        let armed = self.armed.borrow_mut().take()?;
        match armed.stop() {
            Turn::Flowing(passed) | Turn::Gone(passed) | Turn::HandedOver(passed) => Some(passed),
            // Before it has begun, the kernel has no numbers of this response.
            Turn::Going | Turn::Broken if self.has_begun.get() => armed.passed(),
            Turn::Waiting | Turn::Going | Turn::Ours | Turn::Broken => None,
        }
    }

    /// The client has sent more while something is armed. Whether the exchange is to look again: the
    /// response is to be taken back, or has gone meanwhile.
    pub(crate) fn is_overtaken(&self, task: &Context<'_>) -> bool {
        match self.turn() {
            None => false,
            // It may have its response before the kernel has said so: a matter of microseconds, if
            // whoever sends it gets to run.
            Some(Turn::Going) => {
                let yields = self.yields.get();
                if yields < YIELDS_MAX {
                    self.yields.set(yields + 1);
                    std::thread::yield_now();
                    task.waker().wake_by_ref();
                }
                false
            }
            Some(Turn::Flowing(_)) => {
                // It cannot have its response yet.
                self.close();
                !self.has_begun.get()
            }
            Some(
                Turn::Waiting | Turn::Gone(_) | Turn::HandedOver(_) | Turn::Ours | Turn::Broken,
            ) => true,
        }
    }

    /// What else has happened is asked for only if something is armed.
    pub(super) fn next(
        &self,
        stir: impl FnOnce(&mut Context<'_>) -> Stir,
        task: &mut Context<'_>,
    ) -> Next {
        if self.armed.borrow().is_none() {
            return Next::Carry;
        }
        // First: nobody is woken by what comes before.
        let stir = stir(task);
        let Some(turn) = self.turn() else { return Next::Carry };
        let turn = match turn {
            Turn::Waiting if stir.is_any() => {
                if stir.client {
                    self.close();
                }
                self.take_back()
            }
            Turn::Waiting
            | Turn::Going
            | Turn::Flowing(_)
            | Turn::Gone(_)
            | Turn::HandedOver(_)
            | Turn::Ours
            | Turn::Broken => turn,
        };
        match turn {
            Turn::Waiting => {
                self.remember(task);
                Next::Wait
            }
            Turn::Going if stir.deadline => self.done(Next::Close),
            Turn::Going => {
                self.remember(task);
                Next::Wait
            }
            Turn::Flowing(passed) | Turn::HandedOver(passed) => {
                self.has_begun.set(true);
                Next::Begun(passed)
            }
            Turn::Gone(passed) => self.done(Next::Over { passed, is_silent: !stir.node }),
            Turn::Ours => self.done(Next::Carry),
            Turn::Broken => self.broken(),
        }
    }

    /// Who has broken it knows how much of it had gone by then.
    fn broken(&self) -> Next {
        let passed = self.armed.borrow().as_ref().and_then(Armed::passed);
        match passed {
            Some(passed) => {
                self.has_begun.set(true);
                Next::Begun(passed)
            }
            None => self.done(Next::Close),
        }
    }

    /// How a response goes on that has begun. While it does, the task is woken when something else has
    /// become of it.
    pub(super) fn course(&self, task: &Context<'_>) -> Course {
        self.remember(task);
        self.course_by(Armed::turn)
    }

    /// The rest of a response that has begun will not come: nothing more goes past us.
    pub(super) fn stop(&self) -> Course {
        self.course_by(Armed::stop)
    }

    fn course_by(&self, turn: impl FnOnce(&Armed) -> Turn) -> Course {
        let armed = self.armed.borrow();
        armed.as_ref().map_or(Course::Broken(None), |armed| Course::of(armed, turn(armed)))
    }

    /// Nothing is waited for any more.
    pub(super) fn disarm(&self) {
        self.armed.borrow_mut().take();
    }

    /// The exchange has failed: what has become of its response.
    pub(super) fn give_up(&self) -> Next {
        if self.turn().is_none() {
            return Next::Carry;
        }
        match self.take_back() {
            Turn::Ours => self.done(Next::Carry),
            Turn::Gone(passed) => self.done(Next::Over { passed, is_silent: false }),
            Turn::Flowing(passed) | Turn::HandedOver(passed) => {
                self.has_begun.set(true);
                Next::Begun(passed)
            }
            Turn::Broken => self.broken(),
            Turn::Waiting | Turn::Going => self.done(Next::Close),
        }
    }

    fn turn(&self) -> Option<Turn> {
        self.armed.borrow().as_ref().map(Armed::turn)
    }

    fn take_back(&self) -> Turn {
        self.armed.borrow().as_ref().map_or(Turn::Ours, Armed::take_back)
    }

    fn done(&self, next: Next) -> Next {
        self.armed.borrow_mut().take();
        next
    }

    fn remember(&self, task: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        match &mut *waker {
            Some(known) => known.clone_from(task.waker()),
            None => *waker = Some(task.waker().clone()),
        }
    }

    /// Whether whoever waits for it is to know what has become of it.
    fn has_news(&self, turn: Turn) -> bool {
        match turn {
            Turn::Waiting => false,
            Turn::Flowing(_) => !self.has_begun.get(),
            Turn::Going | Turn::Gone(_) | Turn::HandedOver(_) | Turn::Ours | Turn::Broken => true,
        }
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

/// Of one worker: the connections whose responses may have gone.
#[derive(Debug)]
pub(crate) struct Passages {
    /// Whether userspace would take every head that the kernel does.
    is_open: bool,
    watched: RefCell<Vec<Rc<Passage>>>,
    /// Where [`Passages::look`] goes on.
    next: Cell<usize>,
    has_come: Notify,
}

impl Passages {
    pub(crate) fn new(limits: &Limits) -> Self {
        let is_open = limits.head_size_max >= HEAD_MAX as usize
            && limits.head_fields_max >= HEAD_FIELDS_MAX as usize;
        let (watched, next) = (RefCell::default(), Cell::new(0));
        Self { is_open, watched, next, has_come: Notify::new() }
    }

    fn watch(&self, passage: Rc<Passage>) {
        let mut watched = self.watched.borrow_mut();
        if watched.is_empty() {
            self.has_come.notify_one();
        }
        watched.push(passage);
    }

    /// Wakes those whose response has gone, and forgets those that wait for none.
    fn sweep(&self) {
        self.watched.borrow_mut().retain(|passage| {
            let turn = passage.turn();
            passage.is_watched.set(turn.is_some());
            if turn.is_some_and(|turn| passage.has_news(turn)) {
                passage.wake();
            }
            turn.is_some()
        });
    }

    /// Wakes those of [`LOOKS_MAX`] whose response has gone. Whether there were any.
    pub(crate) fn look(&self) -> bool {
        let watched = self.watched.borrow();
        let count = watched.len().min(LOOKS_MAX);
        let from = self.next.get();
        self.next.set(from.wrapping_add(count));
        let mut has_woken = false;
        for number in 0..count {
            let passage = &watched[from.wrapping_add(number) % watched.len()];
            if passage.turn().is_some_and(|turn| passage.has_news(turn)) {
                has_woken = true;
                passage.wake();
            }
        }
        has_woken
    }

    /// Sweeps for as long as there is something to sweep.
    pub(crate) async fn tend(&self) {
        loop {
            self.has_come.notified().await;
            while !self.watched.borrow().is_empty() {
                tokio::time::sleep(SWEEP_INTERVAL).await;
                self.sweep();
            }
        }
    }
}
