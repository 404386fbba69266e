//! Memory: what a proxy adds to a transfer that nobody reads, and what an idle connection costs.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, ensure};

use super::{Bench, Figures, Measured};
use crate::{
    contestant::Contestant,
    load::response::Head,
    machine::{KernelMemory, proportional_bytes},
    pattern::Pattern,
    probe,
    scenario::{Activity, Beside, Carrier, Direction, Traffic},
    tandem::{Carried, Flow, Metrics},
};

/// Transfers at a time; figures are divided by it. The kernel counts socket memory in batches of
/// up to 1 MiB per processor, which would drown a single transfer.
const TRANSFERS: usize = 8;

/// Enough that no chain of default socket buffers holds it all.
const TRANSFER_BYTES: u64 = 64 << 20;

/// The client of a slow download reads this much before it stops.
const READ_BEFORE_STALL: u64 = 64 * 1024;

/// Until what is beside a load has come to a halt, and how much longer than that it stays there.
const SETTLE: Duration = Duration::from_millis(300);
const MARGIN: Duration = Duration::from_millis(200);

/// How long the last connection has been idle when memory is looked at; active ones hold theirs.
const IDLE_FOR: Duration = Duration::from_secs(2);
const ACTIVE_FOR: Duration = Duration::from_millis(200);

/// Of the body of the request that an active connection is in the middle of, bytes.
const HALF_BYTES: u64 = 1;

/// Between two looks at memory.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Longest wait for any part of a transfer.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// One transfer that comes to a halt.
#[derive(Clone, Copy)]
pub(super) struct Transfer {
    pub(super) direction: Direction,
    /// How long nobody reads. What flows until then settles within a fraction of it.
    pub(super) stall: Duration,
}

impl Transfer {
    fn run(self, target: SocketAddr) -> anyhow::Result<()> {
        match self.direction {
            Direction::Download => download(target, self.stall),
            Direction::Upload => upload(target, self.stall),
        }
    }
}

/// Memory of the proxy and of the kernel at one moment, bytes.
#[derive(Clone, Copy)]
struct Held {
    process: u64,
    kernel: KernelMemory,
}

impl Held {
    fn now(proxy: Option<u32>) -> anyhow::Result<Self> {
        Ok(Self { process: proxy.map_or(Ok(0), proportional_bytes)?, kernel: KernelMemory::now()? })
    }

    fn total(self) -> u64 {
        self.process + self.kernel.tcp_bytes + self.kernel.slab_bytes
    }

    /// Growth since `base`, for each of `parts`.
    fn figures(self, base: Self, parts: usize) -> Figures {
        let growth = |now: u64, then: u64| (now as f64 - then as f64) / parts as f64;
        Figures::from([
            ("process_bytes".to_owned(), growth(self.process, base.process)),
            ("tcp_bytes".to_owned(), growth(self.kernel.tcp_bytes, base.kernel.tcp_bytes)),
            ("slab_bytes".to_owned(), growth(self.kernel.slab_bytes, base.kernel.slab_bytes)),
            ("held_bytes".to_owned(), growth(self.total(), base.total())),
        ])
    }
}

/// What is beside a load.
pub(super) struct Halted {
    base: Held,
    proxy: Option<u32>,
    running: Vec<JoinHandle<anyhow::Result<()>>>,
}

impl Halted {
    /// Starts the transfers, and waits until they have come to a halt, for longer than `window`.
    pub(super) fn start(
        Beside { direction, transfers }: Beside,
        target: SocketAddr,
        proxy: Option<u32>,
        window: Duration,
    ) -> anyhow::Result<Self> {
        let base = Held::now(proxy)?;
        let transfer = Transfer { direction, stall: SETTLE + window + MARGIN };
        let start = |_| std::thread::spawn(move || transfer.run(target));
        let running = (0..transfers).map(start).collect();
        std::thread::park_timeout(SETTLE);
        Ok(Self { base, proxy, running })
    }

    /// Notes what they hold now, each.
    ///
    /// # Errors
    /// One of them is over.
    pub(super) fn note(&self, figures: &mut Figures) -> anyhow::Result<()> {
        let is_halted = self.running.iter().all(|running| !running.is_finished());
        ensure!(is_halted, "a slow transfer did not last");
        let grown = Held::now(self.proxy)?.figures(self.base, self.running.len());
        figures.extend(grown.into_iter().map(|(name, bytes)| (format!("beside_{name}"), bytes)));
        Ok(())
    }

    /// Lets them go on to their end.
    ///
    /// # Errors
    /// One of them is not what it should be.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        for running in self.running {
            running.join().map_err(|_| anyhow!("a transfer panicked"))??;
        }
        Ok(())
    }
}

impl Bench {
    pub(super) fn measure_slow_transfers(
        &self,
        transfer: Transfer,
        carrier: Carrier,
        contestant: Contestant,
    ) -> anyhow::Result<Measured> {
        let (_nodes, service, started) =
            self.start(&self.placement, contestant, carrier, Traffic::Small)?;
        // One request first, so that what is set up once does not count.
        probe::Client::connect(started.target)?.get("/", &[])?;
        let before_path = started.admin.map(Metrics::read).transpose()?;
        let base = Held::now(started.pid())?;
        let transfers: Vec<JoinHandle<anyhow::Result<()>>> = (0..TRANSFERS)
            .map(|_| {
                let target = started.target;
                std::thread::spawn(move || transfer.run(target))
            })
            .collect();
        let mut most = base;
        let began = Instant::now();
        while began.elapsed() < transfer.stall {
            std::thread::park_timeout(LOOK_EVERY);
            let now = Held::now(started.pid())?;
            if now.total() > most.total() {
                most = now;
            }
        }
        for running in transfers {
            let done = running.join().map_err(|_| anyhow!("a transfer panicked"))?;
            if let Err(error) = done {
                return Ok(Measured::Wrong(format!("{error:#}")));
            }
        }
        let mut figures = most.figures(base, TRANSFERS);
        let carried = Carried {
            connections: TRANSFERS as u64,
            requests: TRANSFERS as u64,
            bytes_each: TRANSFER_BYTES,
            flow: Flow::Stalled,
        };
        let wrong =
            self.unproved_path(contestant, &service, &started, before_path, carried, &mut figures)?;
        Ok(wrong.map_or(Measured::Good(figures), Measured::Wrong))
    }

    pub(super) fn measure_open_connections(
        &self,
        connections: usize,
        activity: Activity,
        contestant: Contestant,
    ) -> anyhow::Result<Measured> {
        let (_nodes, _, started) =
            self.start(&self.placement, contestant, Carrier::HTTP, Traffic::Small)?;
        probe::Client::connect(started.target)?.get("/", &[])?;
        let pattern = Pattern::new();
        let half_request = half_request(&pattern);
        let base = Held::now(started.pid())?;
        let mut open = Vec::with_capacity(connections);
        for index in 0..connections {
            let mut client = probe::Client::connect(started.target)?;
            ask(&mut client).with_context(|| format!("connection {index}"))?;
            match activity {
                Activity::Idle => {}
                Activity::Active => client.send(&half_request)?,
            }
            open.push(client);
        }
        let until = Instant::now()
            + match activity {
                Activity::Idle => IDLE_FOR,
                Activity::Active => ACTIVE_FOR,
            };
        while let Some(rest) = until.checked_duration_since(Instant::now()) {
            std::thread::park_timeout(rest);
        }
        let held = Held::now(started.pid())?;
        for (index, client) in open.iter_mut().enumerate().step_by(connections.div_ceil(16)) {
            match activity {
                Activity::Idle => ask(client),
                Activity::Active => complete(client, &pattern),
            }
            .with_context(|| format!("connection {index}"))?;
        }
        Ok(Measured::Good(held.figures(base, connections)))
    }
}

fn ask(client: &mut probe::Client) -> anyhow::Result<()> {
    let answer = client.get("/", &[])?;
    ensure!(answer.status == 200, "status {}", answer.status);
    Ok(())
}

/// A request but for the second half of its body.
fn half_request(pattern: &Pattern) -> Vec<u8> {
    let length = (2 * HALF_BYTES).to_string();
    let mut request = probe::head("POST", "/stall/0", &[("content-length", &length)]);
    request.extend_from_slice(pattern.at(0, HALF_BYTES));
    request
}

/// Sends the other half.
fn complete(client: &mut probe::Client, pattern: &Pattern) -> anyhow::Result<()> {
    client.send(pattern.at(HALF_BYTES, HALF_BYTES))?;
    let answer = client.answer()?;
    let counted = format!("received {} bytes, pattern true\n", 2 * HALF_BYTES);
    ensure!(answer.body == counted.as_bytes(), "the node received something else");
    Ok(())
}

fn open(target: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, WAIT_MAX)?;
    stream.set_read_timeout(Some(WAIT_MAX))?;
    stream.set_write_timeout(Some(WAIT_MAX))?;
    Ok(stream)
}

/// Reads a little, stops, reads the rest, and checks every byte.
fn download(target: SocketAddr, stall: Duration) -> anyhow::Result<()> {
    let mut stream = open(target)?;
    stream.write_all(&probe::head("GET", &format!("/bytes/{TRANSFER_BYTES}"), &[]))?;
    let mut read = vec![0; 64 * 1024];
    let mut buffered = Vec::new();
    let head = loop {
        let length = stream.read(&mut read)?;
        ensure!(length > 0, "closed before the head");
        buffered.extend_from_slice(&read[..length]);
        if let Some(head) = Head::parse(&buffered).map_err(|failure| anyhow!("{failure}"))? {
            break head;
        }
    };
    ensure!(head.status == 200, "status {}", head.status);
    ensure!(head.content_length == Some(TRANSFER_BYTES), "wrong length");
    let pattern = Pattern::new();
    let mut received = (buffered.len() - head.length) as u64;
    ensure!(pattern.matches(0, &buffered[head.length..]), "wrong body");
    let mut stall = Some(stall);
    while received < TRANSFER_BYTES {
        if received >= READ_BEFORE_STALL
            && let Some(stall) = stall.take()
        {
            let until = Instant::now() + stall;
            while let Some(rest) = until.checked_duration_since(Instant::now()) {
                std::thread::park_timeout(rest);
            }
        }
        let length = stream.read(&mut read).context("download")?;
        ensure!(length > 0, "closed after {received} bytes");
        ensure!(pattern.matches(received, &read[..length]), "wrong body");
        received += length as u64;
    }
    ensure!(received == TRANSFER_BYTES, "bytes after the body");
    Ok(())
}

/// Sends everything to a node that does not read at first; the node checks every byte.
fn upload(target: SocketAddr, stall: Duration) -> anyhow::Result<()> {
    let mut stream = open(target)?;
    let length = TRANSFER_BYTES.to_string();
    let fields = [("content-length", length.as_str()), ("connection", "close")];
    let path = format!("/stall/{}", stall.as_millis());
    stream.write_all(&probe::head("POST", &path, &fields))?;
    let pattern = Pattern::new();
    let mut sent = 0;
    while sent < TRANSFER_BYTES {
        let part = pattern.at(sent, TRANSFER_BYTES - sent);
        stream.write_all(part).with_context(|| format!("upload after {sent} bytes"))?;
        sent += part.len() as u64;
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer)?;
    let expected = format!("received {TRANSFER_BYTES} bytes, pattern true\n");
    ensure!(answer.ends_with(expected.as_bytes()), "the node received something else");
    Ok(())
}
