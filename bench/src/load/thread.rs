//! One thread of the generator: its connections, each a small state machine over one epoll.

use std::{
    collections::BTreeMap,
    io::{self, Read as _, Write as _},
    rc::Rc,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use mio::{Events, Interest, Poll, Token, event::Event, net::TcpStream};

use super::{
    Counters, Exchange, Load, Phase, Reuse, Shared,
    response::{Checker, Failure, Partial, Step},
};
use crate::{pattern::Pattern, slots::Slots};

const READ_MAX: usize = 256 * 1024;

/// Reads in a row before the other connections get a turn.
const TURN_READS_MAX: usize = 16;

/// How long a thread sleeps without noticing that the phase has changed.
const NAP: Duration = Duration::from_millis(10);

/// After this many failures a thread gives up: the row is lost anyway.
const FAILURES_MAX: u64 = 100;

/// What one thread has seen, warm-up included unless said otherwise.
pub(crate) struct Seen {
    /// Microseconds, measured part only.
    pub(crate) latency: Histogram<u64>,
    pub(crate) completed_by_node: Vec<u64>,
    pub(crate) sockets: u64,
    pub(crate) failures: BTreeMap<Failure, u64>,
}

enum State {
    Connecting,
    Exchanging,
    /// Everything has arrived; the other side owes the end of the stream.
    Ending {
        node: usize,
    },
    /// Waits for the clock of an open loop.
    Idle,
}

struct Connection {
    stream: TcpStream,
    state: State,
    started: Instant,
    sent: u64,
    echoed: u64,
    partial: Partial,
    is_readable: bool,
    is_read_closed: bool,
    /// Whether an exchange on this slot has counted towards readiness.
    is_ready: bool,
    /// Whether one has ended in the measured part.
    is_served: bool,
}

/// What a connection wants from its thread.
enum Outcome {
    Waiting,
    Runnable,
    Done { node: usize },
    Failed(Failure),
}

pub(super) struct Thread<'a> {
    load: &'a Load,
    shared: &'a Shared,
    counters: &'a Counters,
    poll: Poll,
    connections: Slots<Connection>,
    checker: Option<Checker>,
    pattern: Rc<Pattern>,
    scratch: Vec<u8>,
    runnable: Vec<usize>,
    /// Open loop: connections with nothing to do, and the moment of the next request.
    idle: Vec<usize>,
    next_due: Instant,
    /// Open loop: time between two requests of this thread.
    interval: Option<Duration>,
    in_flight: usize,
    phase: Phase,
    seen: Seen,
    failed: u64,
}

impl<'a> Thread<'a> {
    pub(super) fn new(
        load: &'a Load,
        shared: &'a Shared,
        counters: &'a Counters,
        interval: Option<Duration>,
    ) -> io::Result<Self> {
        let pattern = Rc::new(Pattern::new());
        let (checker, nodes) = match &load.exchange {
            Exchange::Http { expected, .. } => {
                (Some(Checker::new(expected.clone(), Rc::clone(&pattern))), expected.body.nodes())
            }
            Exchange::Echo { .. } => (None, 1),
        };
        let latency = Histogram::new_with_bounds(1, 120_000_000, 3).map_err(io::Error::other)?;
        Ok(Self {
            load,
            shared,
            counters,
            poll: Poll::new()?,
            connections: Slots::new(),
            checker,
            pattern,
            scratch: vec![0; READ_MAX],
            runnable: Vec::new(),
            idle: Vec::new(),
            next_due: Instant::now(),
            interval,
            in_flight: 0,
            phase: Phase::Warming,
            seen: Seen {
                latency,
                completed_by_node: vec![0; nodes],
                sockets: 0,
                failures: BTreeMap::new(),
            },
            failed: 0,
        })
    }

    /// Keeps `connections` busy until the run is over and the last response has arrived.
    pub(super) fn run(mut self, connections: usize) -> io::Result<Seen> {
        for _ in 0..connections {
            self.open(Ready::No);
        }
        let mut events = Events::with_capacity(1024);
        let mut over = None;
        loop {
            self.phase = self.shared.phase();
            if self.phase == Phase::Over {
                let since = *over.get_or_insert_with(Instant::now);
                if self.in_flight == 0 || since.elapsed() > self.load.patience {
                    break;
                }
            }
            match self.poll.poll(&mut events, Some(self.nap())) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                let Token(index) = event.token();
                if let Some(connection) = self.connections.get_mut(index) {
                    connection.notice(event);
                    self.drive(index);
                }
            }
            for index in std::mem::take(&mut self.runnable) {
                self.drive(index);
            }
            self.start_due();
        }
        if self.in_flight > 0 {
            *self.seen.failures.entry(Failure::TimedOut).or_default() += self.in_flight as u64;
        }
        Ok(self.seen)
    }

    fn nap(&self) -> Duration {
        match self.interval {
            _ if !self.runnable.is_empty() => Duration::ZERO,
            // Epoll sleeps in whole milliseconds; what falls due meanwhile is sent together, and
            // its latency counts from when it was due.
            Some(_) => Duration::from_millis(1),
            None => NAP,
        }
    }

    fn open(&mut self, is_ready: Ready) {
        if self.phase == Phase::Over || self.failed >= FAILURES_MAX {
            return;
        }
        let registry = self.poll.registry();
        let target = self.load.target;
        let opened = self.connections.insert_with(|index| {
            let mut stream = TcpStream::connect(target)?;
            registry.register(
                &mut stream,
                Token(index),
                Interest::READABLE | Interest::WRITABLE,
            )?;
            Ok::<_, io::Error>(Connection::new(stream, is_ready))
        });
        match opened {
            Ok(_) => {
                self.seen.sockets += 1;
                self.in_flight += 1;
            }
            Err(error) => self.fail(Failure::Connect(error.to_string())),
        }
    }

    fn fail(&mut self, failure: Failure) {
        self.failed += 1;
        self.counters.failed();
        *self.seen.failures.entry(failure).or_default() += 1;
    }

    fn drive(&mut self, index: usize) {
        loop {
            let Some(connection) = self.connections.get_mut(index) else { return };
            let outcome = connection.drive(
                self.load,
                self.checker.as_mut(),
                &self.pattern,
                &mut self.scratch,
            );
            if let Some(checker) = &self.checker {
                self.counters.received(checker.body_bytes());
            }
            match outcome {
                Outcome::Waiting => return,
                Outcome::Runnable => return self.runnable.push(index),
                Outcome::Done { node } => {
                    self.complete(index, node);
                    if !self.go_on(index) {
                        return;
                    }
                }
                Outcome::Failed(failure) => {
                    self.connections.remove(index);
                    self.in_flight -= 1;
                    self.fail(failure);
                    return self.open(Ready::No);
                }
            }
        }
    }

    fn complete(&mut self, index: usize, node: usize) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        if !connection.is_ready {
            connection.is_ready = true;
            self.counters.ready();
        }
        self.counters.completed();
        self.seen.completed_by_node[node] += 1;
        if self.phase == Phase::Measuring {
            if !connection.is_served {
                connection.is_served = true;
                self.counters.served();
            }
            let elapsed = connection.started.elapsed().as_micros();
            self.seen.latency.saturating_record(u64::try_from(elapsed).unwrap_or(u64::MAX));
        }
    }

    /// What a connection does after an exchange; true if it starts the next one at once.
    fn go_on(&mut self, index: usize) -> bool {
        match self.load.reuse {
            Reuse::PerRequest => {
                self.connections.remove(index);
                self.in_flight -= 1;
                self.open(Ready::Yes);
                false
            }
            Reuse::KeepAlive if self.phase == Phase::Over => {
                self.in_flight -= 1;
                false
            }
            Reuse::KeepAlive => {
                let Some(connection) = self.connections.get_mut(index) else { return false };
                if self.interval.is_some() {
                    connection.state = State::Idle;
                    self.idle.push(index);
                    self.in_flight -= 1;
                    return false;
                }
                connection.start(Instant::now());
                true
            }
        }
    }

    /// Open loop: starts what has fallen due, as far as connections are free.
    fn start_due(&mut self) {
        let Some(interval) = self.interval else { return };
        if self.phase == Phase::Over {
            return;
        }
        let now = Instant::now();
        while self.next_due <= now {
            let Some(index) = self.idle.pop() else { return };
            let due = self.next_due;
            self.next_due += interval;
            if let Some(connection) = self.connections.get_mut(index) {
                connection.start(due);
                self.in_flight += 1;
                self.drive(index);
            }
        }
    }
}

/// Whether the slot of a new connection has counted towards readiness before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ready {
    No,
    Yes,
}

impl Connection {
    fn new(stream: TcpStream, ready: Ready) -> Self {
        Self {
            stream,
            state: State::Connecting,
            started: Instant::now(),
            sent: 0,
            echoed: 0,
            partial: Partial::default(),
            is_readable: false,
            is_read_closed: false,
            is_ready: ready == Ready::Yes,
            is_served: false,
        }
    }

    fn notice(&mut self, event: &Event) {
        self.is_readable |= event.is_readable();
        self.is_read_closed |= event.is_read_closed();
    }

    fn start(&mut self, at: Instant) {
        self.state = State::Exchanging;
        self.started = at;
        self.sent = 0;
        self.echoed = 0;
    }

    fn drive(
        &mut self,
        load: &Load,
        checker: Option<&mut Checker>,
        pattern: &Pattern,
        scratch: &mut [u8],
    ) -> Outcome {
        if matches!(self.state, State::Connecting) {
            match self.connected() {
                Ok(true) => self.state = State::Exchanging,
                Ok(false) => return Outcome::Waiting,
                Err(error) => return Outcome::Failed(Failure::Connect(error.to_string())),
            }
        }
        self.exchange(load, checker, pattern, scratch)
            .unwrap_or_else(|error| Outcome::Failed(Failure::Io(error.to_string())))
    }

    fn connected(&mut self) -> io::Result<bool> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        match self.stream.peer_addr() {
            Ok(_) => self.stream.set_nodelay(true).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn exchange(
        &mut self,
        load: &Load,
        mut checker: Option<&mut Checker>,
        pattern: &Pattern,
        scratch: &mut [u8],
    ) -> io::Result<Outcome> {
        if matches!(self.state, State::Exchanging) {
            self.send(load, pattern)?;
        }
        for _ in 0..TURN_READS_MAX {
            if !self.is_readable {
                return Ok(Outcome::Waiting);
            }
            let length = match self.stream.read(scratch) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_readable = false;
                    return Ok(Outcome::Waiting);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.is_readable = length == scratch.len() || self.is_read_closed;
            let input = &scratch[..length];
            let step = match (&self.state, &load.exchange, checker.as_deref_mut()) {
                (State::Ending { node }, _, _) if length == 0 => {
                    return Ok(Outcome::Done { node: *node });
                }
                (_, _, _) if length == 0 => return Ok(Outcome::Failed(Failure::Closed)),
                (State::Ending { .. } | State::Idle, _, _) => Err(Failure::Surplus),
                (_, Exchange::Echo { size }, _) => self.receive_echo(*size, input, pattern),
                (_, Exchange::Http { .. }, Some(checker)) => checker.feed(&mut self.partial, input),
                (_, Exchange::Http { .. }, None) => Err(Failure::Malformed),
            };
            match (step, load.reuse) {
                (Ok(Step::More), _) => {
                    if matches!(load.exchange, Exchange::Echo { .. }) {
                        self.send(load, pattern)?;
                    }
                }
                (Ok(Step::Done { node }), Reuse::KeepAlive) => return Ok(Outcome::Done { node }),
                (Ok(Step::Done { node }), Reuse::PerRequest) => {
                    self.state = State::Ending { node };
                }
                (Err(failure), _) => return Ok(Outcome::Failed(failure)),
            }
        }
        Ok(Outcome::Runnable)
    }

    /// Sends as much of what is left as the socket takes.
    fn send(&mut self, load: &Load, pattern: &Pattern) -> io::Result<()> {
        loop {
            let rest = match &load.exchange {
                Exchange::Http { request, upload, .. } => {
                    match self.sent.checked_sub(request.len() as u64) {
                        None => &request[usize::try_from(self.sent).unwrap_or(request.len())..],
                        Some(sent) => pattern.at(sent, upload - sent),
                    }
                }
                Exchange::Echo { size } => pattern.at(self.sent, size - self.sent),
            };
            if rest.is_empty() {
                return Ok(());
            }
            match self.stream.write(rest) {
                Ok(written) => self.sent += written as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn receive_echo(
        &mut self,
        size: u64,
        input: &[u8],
        pattern: &Pattern,
    ) -> Result<Step, Failure> {
        if !pattern.matches(self.echoed, input) {
            return Err(Failure::Body);
        }
        self.echoed += input.len() as u64;
        match self.echoed.cmp(&size) {
            std::cmp::Ordering::Less => Ok(Step::More),
            std::cmp::Ordering::Equal => Ok(Step::Done { node: 0 }),
            std::cmp::Ordering::Greater => Err(Failure::Surplus),
        }
    }
}
