//! What leads to one Redis: its connection, made on first use and again after it broke, and what is
//! still to be undone there.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::Notify,
    task,
    time::{self, Instant},
};

use super::{
    connection::{Connection, Failed, NotOpened},
    owed::{Debt, Owed},
};
use crate::{
    metrics::Metrics,
    plugin::{Failure, Question, Replied, Server, Step, Undo, Undoing},
    seldom::Seldom,
};

/// Calls of a worker that may be under way to one server.
const CALLS_MAX: usize = 1024;
/// Between failures: doubled with each, up to the second of these.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How long a call waits for a connection when the last one failed: long enough for a server that is
/// back.
const RETRY_PATIENCE: Duration = Duration::from_millis(50);

pub(super) struct Link {
    server: Arc<Server>,
    metrics: Arc<Metrics>,
    state: RefCell<State>,
    /// Told when dialling has ended.
    dialled: Notify,
    calls: Cell<usize>,
    owed: RefCell<Owed>,
    /// Told when something is owed.
    owes: Notify,
    /// Told when a call is over, or something that was owed is done.
    moved: Notify,
    complaints: Seldom,
    /// Whether the last thing that was logged of the server is that it does not answer.
    is_complained_of: Cell<bool>,
    losses: Seldom,
    /// What was not undone since that was logged.
    lost: Cell<u64>,
}

struct State {
    connection: Option<Connection>,
    is_dialling: bool,
    /// In a row.
    failures: u32,
    /// When the next connection may be dialled.
    not_before: Instant,
    used: Instant,
}

/// A call that is under way.
pub(super) struct Turn(Rc<Link>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.calls.set(self.0.calls.get() - 1);
        self.0.moved.notify_waiters();
    }
}

impl Link {
    pub(super) fn new(server: Arc<Server>, metrics: Arc<Metrics>) -> Link {
        let now = Instant::now();
        let state =
            State { connection: None, is_dialling: false, failures: 0, not_before: now, used: now };
        Link {
            server,
            metrics,
            state: RefCell::new(state),
            dialled: Notify::new(),
            calls: Cell::new(0),
            owed: RefCell::new(Owed::new()),
            owes: Notify::new(),
            moved: Notify::new(),
            complaints: Seldom::default(),
            is_complained_of: Cell::new(false),
            losses: Seldom::default(),
            lost: Cell::new(0),
        }
    }

    /// Leave to call, unless too many do.
    pub(super) fn turn(self: &Rc<Self>) -> Option<Turn> {
        let calls = self.calls.get();
        (calls < CALLS_MAX).then(|| {
            self.calls.set(calls + 1);
            Turn(Rc::clone(self))
        })
    }

    pub(super) async fn answer(self: &Rc<Self>, question: &Question) -> Replied {
        let numbers = self.call(&question.step).await;
        let failure = numbers.as_ref().err().copied();
        if let Some(failure) = failure {
            self.metrics.limit_error(question.plugin, failure);
        }
        let undo = match &question.undoing {
            Some(undoing) if failure.is_none_or(Failure::may_have_run) => {
                let (plugin, undoing, link) = (question.plugin, undoing.clone(), Rc::clone(self));
                Undo::new(move || link.owe(plugin, undoing))
            }
            Some(_) | None => Undo::default(),
        };
        Replied { numbers, undo }
    }

    async fn call(self: &Rc<Self>, step: &Step) -> Result<Vec<i64>, Failure> {
        let end = Instant::now() + self.server.timeout;
        let connection = self.connection(end).await.ok_or(Failure::Unreachable)?;
        let result = time::timeout_at(end, connection.run(step)).await;
        match result.unwrap_or(Err(Failed { failure: Failure::TimedOut, why: None })) {
            Ok(numbers) => {
                self.succeeded();
                Ok(numbers)
            }
            Err(failed) => {
                self.failed(&connection, &failed);
                Err(failed.failure)
            }
        }
    }

    fn succeeded(&self) {
        let mut state = self.state.borrow_mut();
        (state.failures, state.used) = (0, Instant::now());
        drop(state);
        if self.is_complained_of.take() {
            tracing::info!(server = ?self.server, "redis answers again");
        }
    }

    /// Whether the connection can be used again depends on what went wrong.
    fn failed(&self, connection: &Connection, failed: &Failed) {
        self.log(failed.failure.label(), failed.why.as_deref());
        match failed.failure {
            // Who comes next would wait for the same, or get the answer to something else.
            Failure::TimedOut | Failure::Broken | Failure::Unexpected | Failure::NotReady => {
                connection.close();
                let mut state = self.state.borrow_mut();
                // Only the first of those that were under way counts.
                if state.connection.as_ref().is_some_and(|own| own.is_same(connection)) {
                    state.connection = None;
                    state.fail();
                }
            }
            Failure::Refused | Failure::Unreachable | Failure::Busy | Failure::UndoLost => {}
        }
    }

    /// The connection; if there is none, the one that is dialled, if that is worth waiting for.
    async fn connection(self: &Rc<Self>, end: Instant) -> Option<Connection> {
        if let Some(open) = self.open() {
            return Some(open);
        }
        let patience = match self.state.borrow().failures {
            0 => end,
            _ => end.min(Instant::now() + RETRY_PATIENCE),
        };
        let dialled = self.dialled.notified();
        if !self.is_dialling() {
            return None;
        }
        time::timeout_at(patience, dialled).await.ok()?;
        self.open()
    }

    fn open(&self) -> Option<Connection> {
        self.state.borrow().connection.clone().filter(Connection::is_open)
    }

    /// Whether somebody dials; begins to if it is time.
    fn is_dialling(self: &Rc<Self>) -> bool {
        let mut state = self.state.borrow_mut();
        if !state.is_dialling && Instant::now() >= state.not_before {
            state.is_dialling = true;
            // Not a part of the call that needs it first: others wait for it too.
            task::spawn_local(Rc::clone(self).dial());
        }
        state.is_dialling
    }

    async fn dial(self: Rc<Self>) {
        let opened = Box::pin(time::timeout(self.server.timeout, Connection::open(&self.server)));
        let opened = opened.await.unwrap_or(Err(NotOpened::TimedOut));
        let mut state = self.state.borrow_mut();
        state.is_dialling = false;
        match opened {
            Ok(connection) => state.connection = Some(connection),
            Err(why) => {
                state.fail();
                self.log("not connected", Some(&why.to_string()));
            }
        }
        drop(state);
        self.dialled.notify_waiters();
    }

    fn log(&self, failure: &str, why: Option<&str>) {
        if self.complaints.is_time() {
            self.is_complained_of.set(true);
            tracing::warn!(server = ?self.server, failure, why, "redis does not answer");
        }
    }

    /// Has something undone, soon.
    fn owe(&self, plugin: &'static str, undoing: Undoing) {
        let Undoing { steps, lasts } = undoing;
        let debts = steps.into_iter().map(|step| Debt::new(plugin, step, lasts));
        let lost: Vec<Debt> = debts.filter_map(|debt| self.owed.borrow_mut().push(debt)).collect();
        self.lose(lost, "too much waits");
        self.owes.notify_one();
    }

    /// Undoes what is owed, for as long as that makes sense.
    pub(super) async fn settle(self: Rc<Self>) {
        loop {
            let next = self.owed.borrow().next();
            let Some((step, count)) = next else {
                self.owes.notified().await;
                continue;
            };
            match self.call(&step).await {
                Ok(_) => self.owed.borrow_mut().done(count),
                // It will be no other the next time.
                Err(Failure::Refused) => {
                    let lost = self.owed.borrow_mut().refused(count);
                    self.lose(lost, "refused");
                }
                Err(_) => {
                    let late = self.owed.borrow_mut().take_late(Instant::now());
                    self.lose(late, "too late");
                    time::sleep(BACK_OFF.0).await;
                }
            }
            self.moved.notify_waiters();
        }
    }

    /// What was counted stays until it expires.
    fn lose(&self, debts: impl IntoIterator<Item = Debt>, why: &str) {
        let before = self.lost.get();
        for Debt { plugin, .. } in debts {
            self.metrics.limit_error(plugin, Failure::UndoLost);
            self.lost.set(self.lost.get() + 1);
        }
        if self.lost.get() > before && self.losses.is_time() {
            let count = self.lost.take();
            tracing::warn!(server = ?self.server, count, why, "not undone; left to expire");
        }
    }

    /// Waits until nothing is under way and nothing owed.
    pub(super) async fn settled(&self) {
        while self.calls.get() > 0 || !self.owed.borrow().is_empty() {
            self.moved.notified().await;
        }
    }

    pub(super) fn give_up_settling(&self) {
        let all = self.owed.borrow_mut().take_all();
        self.lose(all, "the end");
    }

    /// Whether nothing has happened for long; the connection is closed then.
    pub(super) fn rests(&self) -> bool {
        let mut state = self.state.borrow_mut();
        let is_resting = self.calls.get() == 0
            && self.owed.borrow().is_empty()
            && !state.is_dialling
            && state.used.elapsed() >= self.server.idle_timeout;
        if is_resting && let Some(connection) = state.connection.take() {
            connection.close();
        }
        is_resting
    }
}

impl State {
    fn fail(&mut self) {
        self.not_before = Instant::now() + back_off(self.failures);
        self.failures = self.failures.saturating_add(1);
    }
}

/// How long nobody dials after so many failures and one more.
fn back_off(failures: u32) -> Duration {
    let (first, longest) = BACK_OFF;
    first.saturating_mul(1 << failures.min(16)).min(longest)
}

#[cfg(test)]
mod tests;
