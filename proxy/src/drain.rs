//! Stop accepting, let finish what runs, until a deadline.
//!
//! [`Shutdown`] gives the order, every worker watches it, and `Live` passes it on to what runs on
//! a worker.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    rc::Rc,
    thread,
    time::Duration,
};

use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::{Notify, oneshot, watch},
};

use crate::sys;

/// What the process gets to end by itself after the second signal.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// What the operator wants of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    Run,
    /// Accept nothing new, finish what is under way.
    Drain,
    /// Close now, whatever is under way.
    End,
}

/// Gives the order; cheap to clone. Orders only ever get stricter.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Sender<Order>);

impl Shutdown {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Order::Run))
    }

    pub fn drain(&self) {
        self.raise(Order::Drain);
    }

    pub fn end(&self) {
        self.raise(Order::End);
    }

    fn raise(&self, order: Order) {
        self.0.send_if_modified(|current| {
            let is_stricter = order > *current;
            *current = order.max(*current);
            is_stricter
        });
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Order> {
        self.0.subscribe()
    }

    pub fn order(&self) -> Order {
        *self.0.borrow()
    }
}

/// Waits until the order is at least `order`. A control side that is gone has ordered the end.
pub(crate) async fn ordered(orders: &mut watch::Receiver<Order>, order: Order) {
    if orders.wait_for(|current| *current >= order).await.is_err() {
        tracing::debug!("control runtime gone");
    }
}

/// Hears SIGTERM and SIGINT, on a thread of its own that nothing else can hold up. Dropping it ends
/// that, unless the process has been told to end at once.
pub(crate) struct Hearing {
    _stop: oneshot::Sender<()>,
}

impl Hearing {
    /// From now on a signal does not kill the process. The first one drains, the second or `deadline`
    /// ends what is under way.
    ///
    /// # Errors
    /// No thread, or no handlers.
    pub(crate) fn start(shutdown: Shutdown, deadline: Duration) -> io::Result<Hearing> {
        let control = runtime::Builder::new_current_thread().enable_all().build()?;
        let signals = {
            let _within = control.enter();
            Signals::install()?
        };
        let (stop, stopped) = oneshot::channel();
        let hear = async move {
            tokio::select! {
                () = on_signals(signals, shutdown, deadline) => {}
                _ = stopped => return,
            }
            tokio::time::sleep(END_TIMEOUT).await;
            sys::process::exit_at_once(0);
        };
        let thread = thread::Builder::new().name("signals".to_owned());
        thread.spawn(move || control.block_on(hear))?;
        Ok(Hearing { _stop: stop })
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Only within a runtime.
    fn install() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Drains on a signal, ends on a second one or when `deadline` has passed; over only when there was one
/// after the first.
async fn on_signals(mut signals: Signals, shutdown: Shutdown, deadline: Duration) {
    let mut orders = shutdown.watch();
    tokio::select! {
        () = signals.next() => {}
        () = ordered(&mut orders, Order::Drain) => {}
    }
    tracing::info!(deadline_ms = deadline.as_millis() as u64, "draining");
    shutdown.drain();
    tokio::select! {
        () = signals.next() => {}
        () = tokio::time::sleep(deadline) => {
            tracing::warn!("drain deadline, ending");
            shutdown.end();
            signals.next().await;
        }
        () = ordered(&mut orders, Order::End) => signals.next().await,
    }
    tracing::info!("second signal, ending");
    shutdown.end();
}

/// Something on a worker that outlives an accept loop.
pub(crate) trait Drained {
    /// Finish what is under way, then close.
    fn drain(&self);
    /// Close now.
    fn end(&self);
}

/// What runs on one worker.
#[derive(Default)]
pub(crate) struct Live {
    running: RefCell<HashMap<u64, Rc<dyn Drained>>>,
    next: Cell<u64>,
    order: Cell<Option<Order>>,
    /// From when a connection is accepted, so before its task first runs and registers.
    tasks: Cell<usize>,
    emptied: Notify,
}

/// Takes its connection off the list when dropped.
pub(crate) struct Registered<'a> {
    live: &'a Live,
    id: u64,
}

impl Live {
    pub(crate) fn register(&self, running: Rc<dyn Drained>) -> Registered<'_> {
        let id = self.next.get();
        self.next.set(id + 1);
        match self.order.get() {
            Some(Order::Drain) => running.drain(),
            Some(Order::End) => running.end(),
            Some(Order::Run) | None => {}
        }
        self.running.borrow_mut().insert(id, running);
        Registered { live: self, id }
    }

    pub(crate) fn drain(&self) {
        self.order.set(Some(Order::Drain));
        self.running.borrow().values().for_each(|running| running.drain());
    }

    pub(crate) fn end(&self) {
        self.order.set(Some(Order::End));
        self.running.borrow().values().for_each(|running| running.end());
    }

    pub(crate) fn task_begins(&self) {
        self.tasks.set(self.tasks.get() + 1);
    }

    pub(crate) fn task_ends(&self) {
        self.tasks.set(self.tasks.get() - 1);
        if self.tasks.get() == 0 {
            self.emptied.notify_one();
        }
    }

    /// Waits until no task runs any more.
    pub(crate) async fn emptied(&self) {
        while self.tasks.get() > 0 {
            self.emptied.notified().await;
        }
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.live.running.borrow_mut().remove(&self.id);
    }
}
