//! Tunnels that the kernel moves: what both ends see, what the program counted, what it cost.

pub(crate) mod child;
mod forged;
pub(crate) mod memory;
mod namespaces;

use std::{
    future::pending,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

pub(crate) use proxy::test_support::noise::Noise;
use proxy::{
    config::{Datapath, Guard, KernelMode, Limits, XdpMode},
    error::Fault,
    forward::{self, Fallback, Moved, PipeLimits, PipePool, Transfer, TunnelContext, Via},
    kernel::{KernelPlane, TunnelRefused},
    metrics::PipeMetrics,
    sys,
    test_support::{
        Client, Node, TestProxy,
        noise::{periodic, stuff},
    },
};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::RwLock,
    task::spawn_blocking,
    time::{Instant, timeout},
};

use crate::{limits, required, skip_without_privileges};

/// Cases that measure memory run alone.
pub(crate) static MACHINE: RwLock<()> = RwLock::const_new(());
/// No case waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a tunnel of which nobody reads has at least queued, bytes: a window in the kernel, and what
/// it left to userspace.
const QUEUED_MIN: usize = 2 << 20;

fn context(tunnels: u32) -> TunnelContext {
    let kernel = required(&[], XdpMode::Auto, Guard::default());
    assert_eq!(kernel.mode, KernelMode::Require);
    let limits = Limits { sockmap_tunnels: tunnels, ..limits() };
    let plane = KernelPlane::load(&kernel, &limits, &[], 1).unwrap_or_else(|e| panic!("{e:#}"));
    TunnelContext {
        kernel: Arc::new(plane),
        pipes: PipePool::new(PipeLimits::new(limits.pipe_size), PipeMetrics::default()),
        buffer_max: limits.stream_buffer_max,
        send_buffer: limits.send_buffer,
        unsent_max: limits.unsent_max,
        idle: PATIENCE,
    }
}

/// What the program `tunnel` has counted, but for zeros and for what the self-test did.
struct Counted<'a> {
    plane: &'a KernelPlane,
    before: Vec<(&'static str, u64)>,
}

impl<'a> Counted<'a> {
    fn start(plane: &'a KernelPlane) -> Counted<'a> {
        Counted { plane, before: Counted::now(plane) }
    }

    fn now(plane: &KernelPlane) -> Vec<(&'static str, u64)> {
        let counters = plane.counters().into_iter().filter(|counter| counter.program == "tunnel");
        counters.map(|counter| (counter.reason, counter.packets)).collect()
    }

    fn since(&self, reason: &str) -> u64 {
        let of = |counters: &[(&str, u64)]| {
            counters.iter().find(|(name, _)| *name == reason).expect("a reason").1
        };
        of(&Counted::now(self.plane)) - of(&self.before)
    }

    /// Redirected something, and nothing of `none` happened.
    #[track_caller]
    fn check(&self, none: &[&str]) {
        assert!(self.since("redirected") > 0);
        for reason in none {
            assert_eq!(self.since(reason), 0, "{reason}");
        }
    }
}

struct Ends {
    client: TcpStream,
    downstream: TcpStream,
    upstream: TcpStream,
    node: TcpStream,
}

impl Ends {
    /// Those of others bounded too, so that what is queued is queued in a tunnel.
    async fn connect() -> Ends {
        let ends = Ends::as_they_come().await;
        for theirs in [&ends.client, &ends.node] {
            bound(theirs);
        }
        ends
    }

    /// Our ends as a configuration has them by default.
    async fn as_they_come() -> Ends {
        let ((client, downstream), (upstream, node)) = (connection().await, connection().await);
        let Limits { send_buffer, unsent_max, .. } = limits();
        for ours in [&downstream, &upstream] {
            sys::socket::bound_send_queue(ours, send_buffer, unsent_max).unwrap();
        }
        Ends { client, downstream, upstream, node }
    }

    /// Runs the tunnel and `script` side by side; the sockets close as soon as the tunnel ends.
    async fn run<S: Future>(
        self,
        cx: &TunnelContext,
        script: impl FnOnce(TcpStream, TcpStream) -> S,
    ) -> (Transfer, S::Output) {
        let Ends { client, mut downstream, mut upstream, node } = self;
        let tunnel = async move {
            forward::run(&mut downstream, &mut upstream, Datapath::Sockmap, cx, pending()).await
        };
        let both = async { tokio::join!(tunnel, script(client, node)) };
        timeout(PATIENCE, both).await.expect("the case ends")
    }
}

async fn connection() -> (TcpStream, TcpStream) {
    let [listening, connecting] = [(); 2].map(|()| TcpSocket::new_v4().unwrap());
    for socket in [&listening, &connecting] {
        sys::socket::bound_receive_queue(socket, limits().receive_buffer).unwrap();
    }
    listening.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let listener = listening.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let (connected, accepted) = tokio::join!(connecting.connect(address), listener.accept());
    (connected.unwrap(), accepted.unwrap().0)
}

/// Small beside ours: what is queued is queued in a tunnel, not on the way there.
fn bound(theirs: &TcpStream) {
    sys::socket::bound_send_queue(theirs, 256 << 10, 128 << 10).unwrap();
    sys::socket::bound_receive_queue(theirs, Some(256 << 10)).unwrap();
}

/// Writes in pieces of random size, now and then letting the other end catch up, then ends the
/// stream.
async fn send(to: &mut (impl AsyncWriteExt + Unpin), bytes: &[u8], seed: u64) {
    let mut noise = Noise(seed);
    let mut rest = bytes;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at((noise.next() as usize % 300_000 + 1).min(rest.len()));
        to.write_all(piece).await.unwrap();
        pause(&mut noise).await;
        rest = after;
    }
    to.shutdown().await.unwrap();
}

/// Reads to the end of the stream, now and then not at all for a moment.
async fn receive(from: &mut (impl AsyncReadExt + Unpin), seed: u64) -> Vec<u8> {
    let mut noise = Noise(seed);
    let mut bytes = Vec::new();
    while from.read_buf(&mut bytes).await.unwrap() > 0 {
        bytes.reserve(200_000);
        pause(&mut noise).await;
    }
    bytes
}

/// Sends one of `ends` all of `answer` and the other all of `request`, at the same time.
async fn converse(ends: (&mut TcpStream, &mut TcpStream), request: &[u8], answer: &[u8]) {
    let (mut client_read, mut client_write) = ends.0.split();
    let (mut node_read, mut node_write) = ends.1.split();
    let ((), received, (), answered) = tokio::join!(
        send(&mut client_write, request, 3),
        receive(&mut node_read, 4),
        send(&mut node_write, answer, 5),
        receive(&mut client_read, 6),
    );
    assert!(received == request, "{} of {}", received.len(), request.len());
    assert!(answered == answer, "{} of {}", answered.len(), answer.len());
}

/// The pauses are what is tested: they make one side fast and the other slow in turns.
async fn pause(noise: &mut Noise) {
    match noise.next() % 16 {
        0 => tokio::time::sleep(Duration::from_millis(noise.next() % 20)).await,
        1..8 => tokio::task::yield_now().await,
        8.. => {}
    }
}

#[tokio::test]
async fn bytes_arrive_exactly_both_ways_in_the_kernel() {
    if skip_without_privileges() {
        return;
    }
    let _machine = MACHINE.read().await;
    let cx = context(4);
    let counted = Counted::start(&cx.kernel);
    let (request, answer) = (Noise::bytes(1, 64 << 20), Noise::bytes(2, (64 << 20) + 13));
    let (transfer, ()) = Ends::connect()
        .await
        .run(&cx, async |mut client, mut node| {
            converse((&mut client, &mut node), &request, &answer).await;
        })
        .await;
    assert_eq!((transfer.via, transfer.fallback, transfer.end), (Via::Sockmap, None, None));
    let bytes = [request.len(), answer.len()].map(|len| len as u64);
    assert_eq!([transfer.recv.total(), transfer.sent.total()], bytes);
    // Slow turns of the readers fill the window and send bytes through userspace, and back.
    assert!(counted.since("window_full") > 0 && counted.since("following") > 0);
    counted.check(&["no_tunnel", "no_peer", "out_of_step", "trimmed"]);
    assert_kernel_is_content();
}

#[tokio::test]
async fn a_reader_that_keeps_up_is_served_by_the_kernel_alone() {
    if skip_without_privileges() {
        return;
    }
    let _machine = MACHINE.read().await;
    let cx = context(4);
    let counted = Counted::start(&cx.kernel);
    let (transfer, ()) = Ends::connect()
        .await
        .run(&cx, async |mut client, mut node| {
            for _ in 0..500 {
                client.write_all(b"ping").await.unwrap();
                node.read_exact(&mut [0; 4]).await.unwrap();
                node.write_all(b"pong!").await.unwrap();
                client.read_exact(&mut [0; 5]).await.unwrap();
            }
        })
        .await;
    let in_kernel = |bytes| Moved::default().and(Via::Sockmap, bytes);
    assert_eq!((transfer.recv, transfer.sent), (in_kernel(2_000), in_kernel(2_500)));
    assert_eq!((transfer.via, transfer.end), (Via::Sockmap, None));
    counted.check(&["window_full", "following", "no_tunnel", "no_peer", "out_of_step", "trimmed"]);
}

#[tokio::test]
async fn bytes_from_before_the_tunnel_arrive_once() {
    if skip_without_privileges() {
        return;
    }
    let _machine = MACHINE.read().await;
    let cx = context(64);
    let counted = Counted::start(&cx.kernel);
    let mut noise = Noise(11);
    for seed in 1..=100 {
        let bytes = Noise::bytes(seed, noise.next() as usize % 200_000 + 10);
        let (early, late) = bytes.split_at(noise.next() as usize % bytes.len());
        let mut ends = Ends::connect().await;
        ends.client.set_nodelay(true).unwrap();
        // Before, and beside the insertion.
        let written = ends.client.write(early).await.unwrap();
        let read_before = noise.next() as usize % (written + 1);
        ends.downstream.read_exact(&mut vec![0; read_before]).await.unwrap();
        let (transfer, ()) = ends
            .run(&cx, async |mut client, mut node| {
                let ((), received) = tokio::join!(
                    async {
                        client.write_all(&early[written..]).await.unwrap();
                        send(&mut client, late, seed).await;
                    },
                    receive(&mut node, seed),
                );
                assert!(received == bytes[read_before..], "case {seed}");
            })
            .await;
        assert_eq!((transfer.fallback, transfer.end), (None, None));
        assert_eq!(transfer.recv.total(), (bytes.len() - read_before) as u64);
    }
    assert!(counted.since("trimmed") > 0, "buffers read half");
    counted.check(&["no_tunnel", "out_of_step"]);
    assert_kernel_is_content();
}

#[tokio::test]
async fn the_end_of_a_stream_does_not_overtake_what_is_queued() {
    if skip_without_privileges() {
        return;
    }
    let _machine = MACHINE.read().await;
    let cx = context(4);
    let pattern = periodic(7);
    for _ in 0..10 {
        let (transfer, (up, down)) = Ends::connect()
            .await
            .run(&cx, async |mut client, mut node| {
                // Nobody reads, so both directions are full when both end.
                let up = stuff(&client, &pattern).await;
                let down = stuff(&node, &pattern).await;
                assert!(up.min(down) >= QUEUED_MIN, "{up} and {down} bytes are queued");
                client.shutdown().await.unwrap();
                node.shutdown().await.unwrap();
                let (received, answered) =
                    tokio::join!(receive(&mut node, 1), receive(&mut client, 2));
                assert_eq!((received.len(), answered.len()), (up, down));
                let is_pattern = |bytes: &[u8]| {
                    bytes.iter().enumerate().all(|(at, byte)| *byte == pattern[at % 65_536])
                };
                assert!(is_pattern(&received) && is_pattern(&answered));
                (up as u64, down as u64)
            })
            .await;
        assert_eq!((transfer.via, transfer.end), (Via::Sockmap, None));
        check_spilled(transfer.recv, up);
        check_spilled(transfer.sent, down);
    }
    assert_kernel_is_content();
}

/// The window of a tunnel was full, so that userspace had a part to move: each part counts by itself.
#[track_caller]
fn check_spilled(moved: Moved, bytes: u64) {
    let (kernel, user) = (moved.by(Via::Sockmap), moved.by(Via::User));
    assert!(kernel > 0 && user > 0, "{moved:?}");
    assert_eq!((kernel + user, moved.total()), (bytes, bytes), "{moved:?}");
}

/// A reader that does not read until everything is queued, or the window would not fill.
#[tokio::test]
async fn bytes_that_userspace_moved_are_not_counted_as_the_kernels() {
    if skip_without_privileges() {
        return;
    }
    let _machine = MACHINE.read().await;
    let nodes = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let proxy = start_proxy(nodes.local_addr().unwrap(), "{}").await;
    let mut client = TcpStream::connect(proxy.address("l4")).await.unwrap();
    let mut node = nodes.accept().await.unwrap().0;
    let queued = stuff(&client, &periodic(7)).await;
    client.shutdown().await.unwrap();
    node.write_all(b"answer").await.unwrap();
    node.shutdown().await.unwrap();
    assert_eq!(receive(&mut client, 1).await, b"answer");
    assert_eq!(receive(&mut node, 1).await.len(), queued);
    let counted = spawn_blocking(move || {
        assert!(proxy.access_log(1)[0].ends_with(" sockmap --"));
        [("recv", "sockmap"), ("recv", "user"), ("recv", "splice"), ("sent", "sockmap")].map(
            |(direction, via)| {
                let labels = format!("{{direction=\"{direction}\",via=\"{via}\"}}");
                proxy.metric(&format!("tandem_forward_bytes_total{labels}"))
            },
        )
    });
    let [kernel, user, spliced, answered] = counted.await.unwrap();
    assert!(kernel > 0.0 && user > 0.0, "{kernel} and {user} of {queued}");
    assert_eq!((kernel + user, spliced, answered), (queued as f64, 0.0, 6.0));
}

/// A proxy with one stream route in the kernel; it brings runtimes of its own.
async fn start_proxy(node: SocketAddr, limits: &str) -> TestProxy {
    let yaml = format!(
        "listeners: [{{ name: l4, address: \"127.0.0.1:0\", protocol: tcp }}]\n\
         kernel: {{ mode: require }}\n\
         limits: {limits}\n\
         stream_routes:\n\
         - {{ id: s, datapath: sockmap, upstream: {{ nodes: {{ \"{node}\": 1 }} }} }}\n"
    );
    spawn_blocking(move || TestProxy::start(&yaml)).await.unwrap()
}

/// A side that does not read until it has sent everything: what it sends must not wait behind what
/// it does not read.
#[tokio::test]
async fn a_full_direction_does_not_hold_up_the_other() {
    if skip_without_privileges() {
        return;
    }
    let _machine = MACHINE.read().await;
    let cx = context(4);
    let (pattern, request) = (periodic(7), Noise::bytes(8, 8 << 20));
    let (transfer, ()) = Ends::connect()
        .await
        .run(&cx, async |mut client, mut node| {
            stuff(&node, &pattern).await;
            // A slow node makes the kernel leave bytes of this direction to userspace.
            let ((), ()) =
                tokio::join!(async { client.write_all(&request).await.unwrap() }, async {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    let mut received = vec![0; request.len()];
                    node.read_exact(&mut received).await.unwrap();
                    assert!(received == request);
                },);
            client.set_zero_linger().unwrap();
        })
        .await;
    assert_eq!(transfer.recv.total(), request.len() as u64);
}

#[tokio::test]
async fn a_reset_is_passed_on_in_either_direction() {
    if skip_without_privileges() {
        return;
    }
    let _machine = MACHINE.read().await;
    let cx = context(4);
    let (transfer, ()) = Ends::connect()
        .await
        .run(&cx, async |mut client, mut node| {
            client.write_all(b"last words").await.unwrap();
            node.read_exact(&mut [0; 10]).await.unwrap();
            client.set_zero_linger().unwrap();
            drop(client);
            assert!(is_reset(&mut node).await);
        })
        .await;
    assert_eq!((transfer.end, transfer.via), (Some(Fault::DownstreamReset), Via::Sockmap));
    let (transfer, ()) = Ends::connect()
        .await
        .run(&cx, async |mut client, node| {
            // A node that is killed with unread input resets.
            client.write_all(b"never read").await.unwrap();
            node.peek(&mut [0]).await.unwrap();
            drop(node);
            assert!(is_reset(&mut client).await);
        })
        .await;
    assert_eq!((transfer.end, transfer.via), (Some(Fault::UpstreamReset), Via::Sockmap));
}

#[tokio::test]
async fn urgent_bytes_are_bytes() {
    if skip_without_privileges() {
        return;
    }
    let _machine = MACHINE.read().await;
    let cx = context(4);
    let mut ends = Ends::connect().await;
    let urgent = |socket: &TcpStream, bytes: &[u8]| {
        assert_eq!(SockRef::from(socket).send_out_of_band(bytes).unwrap(), bytes.len());
    };
    ends.client.write_all(b"abc").await.unwrap();
    urgent(&ends.client, b"D");
    ends.client.write_all(b"efgh").await.unwrap();
    let (transfer, ()) = ends
        .run(&cx, async |mut client, mut node| {
            let mut received = [0; 8];
            node.read_exact(&mut received).await.unwrap();
            assert_eq!(&received, b"abcDefgh");
            urgent(&client, b"ij");
            send(&mut client, b"kl", 1).await;
            assert_eq!(receive(&mut node, 1).await, b"ijkl");
        })
        .await;
    assert_eq!((transfer.recv.total(), transfer.end), (12, None));
    assert_kernel_is_content();
}

async fn is_reset(socket: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    let read = socket.read_to_end(&mut rest).await;
    read.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

/// Reads slowly, up to a reset.
async fn receive_slowly(from: &mut TcpStream) -> Vec<u8> {
    let (mut bytes, mut piece) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        match from.read(&mut piece).await {
            Ok(0) => panic!("the stream was cut off, and ended as if it was not"),
            Ok(count) => bytes.extend(&piece[..count]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return bytes,
            Err(error) => panic!("{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// One side fills the tunnel and leaves with unread input, which resets it; the other one writes on
/// before it reads.
async fn leave_early(leaving: TcpStream, mut staying: TcpStream) {
    let pattern = periodic(9);
    staying.write_all(b"never read").await.unwrap();
    leaving.peek(&mut [0]).await.unwrap();
    let taken = stuff(&leaving, &pattern).await;
    let arrived = taken - sys::socket::send_queue(&leaving).unwrap() as usize;
    drop(leaving);
    staying.write_all(b"on and on").await.unwrap();
    let received = receive_slowly(&mut staying).await;
    assert!(received.iter().enumerate().all(|(at, byte)| *byte == pattern[at % 65_536]));
    assert!(received.len() >= arrived, "{} of {arrived}", received.len());
}

#[tokio::test]
async fn what_a_side_sent_before_it_left_arrives() {
    if skip_without_privileges() {
        return;
    }
    let _machine = MACHINE.read().await;
    let cx = context(4);
    let ends = Ends::connect().await;
    let (transfer, ()) = ends.run(&cx, async |client, node| leave_early(node, client).await).await;
    assert_eq!((transfer.end, transfer.via), (Some(Fault::UpstreamReset), Via::Sockmap));
    let ends = Ends::connect().await;
    let (transfer, ()) = ends.run(&cx, async |client, node| leave_early(client, node).await).await;
    assert_eq!((transfer.end, transfer.via), (Some(Fault::DownstreamReset), Via::Sockmap));
    assert_kernel_is_content();
}

#[tokio::test]
async fn bytes_moved_by_the_kernel_keep_a_tunnel_alive() {
    if skip_without_privileges() {
        return;
    }
    let _machine = MACHINE.read().await;
    // Longer than a busy machine leaves a test waiting.
    let idle = Duration::from_millis(500);
    let cx = TunnelContext { idle, ..context(4) };
    let started = Instant::now();
    let (transfer, ()) = Ends::connect()
        .await
        .run(&cx, async |mut client, mut node| {
            while started.elapsed() < idle * 4 {
                client.write_all(b"ping").await.unwrap();
                node.read_exact(&mut [0; 4]).await.unwrap();
            }
            assert_eq!(receive(&mut node, 1).await, b"");
        })
        .await;
    assert_eq!((transfer.end, transfer.via), (Some(Fault::TunnelTimedOut), Via::Sockmap));
    // What was looked at while the last bytes moved counts from then on.
    assert!(started.elapsed() >= idle * 9 / 2);
}

async fn check_fallback(cx: &TunnelContext, ends: Ends, refused: TunnelRefused) {
    let (transfer, ()) = ends
        .run(cx, async |mut client, mut node| {
            send(&mut node, b"answer", 1).await;
            assert_eq!(receive(&mut client, 1).await, b"answer");
            drop(client);
        })
        .await;
    let expected = Transfer {
        sent: Moved::default().and(Via::Splice, 6),
        recv: Moved::default(),
        via: Via::Splice,
        fallback: Some(Fallback::Refused(refused)),
        end: None,
    };
    assert_eq!(transfer, expected);
}

#[tokio::test]
async fn a_connection_that_has_half_ended_is_spliced() {
    if skip_without_privileges() {
        return;
    }
    let _machine = MACHINE.read().await;
    let cx = context(4);
    let counted = Counted::start(&cx.kernel);
    let mut ends = Ends::connect().await;
    ends.client.shutdown().await.unwrap();
    ends.downstream.readable().await.unwrap();
    check_fallback(&cx, ends, TunnelRefused::HalfClosed).await;
    assert_eq!(counted.since("redirected"), 0);
}

#[tokio::test]
async fn a_tunnel_beyond_the_limit_is_spliced() {
    if skip_without_privileges() {
        return;
    }
    let _machine = MACHINE.read().await;
    let cx = context(1);
    // The self-test has just had the only place, and places stay empty for a moment.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (first, ()) = Ends::connect()
        .await
        .run(&cx, async |mut client, mut node| {
            client.write_all(b"in").await.unwrap();
            node.read_exact(&mut [0; 2]).await.unwrap();
            check_fallback(&cx, Ends::connect().await, TunnelRefused::Full).await;
            drop((client, node));
        })
        .await;
    assert_eq!((first.via, first.fallback), (Via::Sockmap, None));
}

#[tokio::test]
async fn a_tunnel_beyond_the_limit_is_counted() {
    if skip_without_privileges() {
        return;
    }
    let _machine = MACHINE.read().await;
    let node = Node::always("ok");
    let proxy = start_proxy(node.address, "{ sockmap_tunnels: 1 }").await;
    // As above: the self-test's place stays empty for a moment.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let connect = || Client::connect(proxy.address("l4"));
    let (mut first, mut second) = (connect(), connect());
    for client in [&mut first, &mut second] {
        assert_eq!(client.ask("GET / HTTP/1.1\r\nhost: a\r\n\r\n").status, 200);
    }
    drop(second);
    assert!(proxy.access_log(1)[0].ends_with(" splice --"));
    drop(first);
    assert!(proxy.access_log(2)[1].ends_with(" sockmap --"));
    let page = proxy.admin("/metrics").text();
    let fallbacks: Vec<_> =
        page.lines().filter(|line| line.starts_with("tandem_forward_fallbacks_total{")).collect();
    assert_eq!(fallbacks, ["tandem_forward_fallbacks_total{reason=\"full\"} 1"]);
}

/// The kernel says so in its log when a socket map has confused a socket.
pub(crate) fn assert_kernel_is_content() {
    let log = std::process::Command::new("dmesg").output().unwrap();
    let log = String::from_utf8_lossy(&log.stdout);
    // The one that `cargo xtask test` tells of: the kernel's own race, once a boot at most.
    let is_known = |line: &str| line.contains(" inet_sock_destruct+");
    for complaint in ["recvmsg seq #", "WARNING: CPU"] {
        let mut lines = log.lines().filter(|line| line.contains(complaint) && !is_known(line));
        assert_eq!(lines.next(), None);
    }
}
