//! Whether the kernel delivers between a connection and its client, who is on this host.

use std::{
    cell::{Cell, RefCell},
    os::fd::BorrowedFd,
};

use crate::kernel::{Join, KernelPlane, Meter, OtherEnd};

/// Requests of a client on another host at which it is tried to let responses go past us: there may be no
/// place just now.
const REMOTE_TRIES_MAX: u8 = 4;

#[derive(Debug)]
pub(super) struct ClientLeg {
    state: Cell<State>,
    meter: RefCell<Option<Meter>>,
    /// Of [`REMOTE_TRIES_MAX`].
    tries_left: Cell<u8>,
    is_elsewhere: Cell<bool>,
}

impl Default for ClientLeg {
    fn default() -> Self {
        let tries_left = Cell::new(REMOTE_TRIES_MAX);
        Self {
            state: Cell::default(),
            meter: RefCell::default(),
            tries_left,
            is_elsewhere: Cell::default(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// Not asked for: no request has come yet.
    #[default]
    Fresh,
    /// A request has come; a second one shows that it is worth it.
    Used,
    /// The other end is not on this host.
    Tcp,
    Joined,
}

impl ClientLeg {
    /// A connection that lives for more than one request is worth what it costs to deliver directly.
    pub(super) fn another_request(&self, kernel: &KernelPlane, socket: BorrowedFd<'_>) {
        let next = match self.state.get() {
            State::Fresh => State::Used,
            State::Used => match kernel.join_leg(socket) {
                Join::Joined(meter) => {
                    *self.meter.borrow_mut() = meter;
                    State::Joined
                }
                Join::NotNow => State::Used,
                Join::Never => State::Tcp,
            },
            State::Tcp => State::Tcp,
            State::Joined => State::Joined,
        };
        self.state.set(next);
    }

    pub(super) fn has_joined(&self) -> bool {
        self.state.get() == State::Joined
    }

    /// Whether the client may be on this host, where nothing tells of one that closes with bytes unread:
    /// it has them in a queue that TCP does not know.
    pub(super) fn may_leave_silently(&self) -> bool {
        !self.is_elsewhere.get()
    }

    /// Whether the client has been closed.
    pub(super) fn has_left(&self, kernel: &KernelPlane, socket: BorrowedFd<'_>) -> bool {
        let other_end = kernel.other_end(socket);
        self.is_elsewhere.set(other_end == OtherEnd::Elsewhere);
        other_end == OtherEnd::Closed
    }

    /// Lets `use_it` at the meter of a connection that responses may go to past us.
    pub(super) fn with_meter(
        &self,
        kernel: &KernelPlane,
        socket: BorrowedFd<'_>,
        use_it: impl FnOnce(&Meter),
    ) {
        let is_worth_it = self.state.get() == State::Tcp && self.tries_left.get() > 0;
        if is_worth_it && kernel.delivers() {
            let admitted = kernel.admit_remote(socket);
            let left = if admitted.is_some() { 0 } else { self.tries_left.get() - 1 };
            self.tries_left.set(left);
            *self.meter.borrow_mut() = admitted;
        }
        if let Some(meter) = &*self.meter.borrow() {
            use_it(meter);
        }
    }

    /// Bytes that were delivered since the last call, as `Direction` counts.
    pub(super) fn take_delivered(&self) -> [u64; 2] {
        self.meter.borrow_mut().as_mut().map_or([0; 2], Meter::advance)
    }
}
