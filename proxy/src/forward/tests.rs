//! Each case runs by copying and by splicing: what the two ends see must not depend on the path.

use std::{
    cell::Cell,
    future::{pending, ready},
    io::ErrorKind,
    net::Ipv4Addr,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket},
    time::timeout,
};

use super::*;
use crate::{
    metrics::PipeMetrics,
    test_support::noise::{Noise, periodic, stuff},
};

const PATHS: [Datapath; 2] = [Datapath::User, Datapath::Splice];
/// No case waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(20);

fn via(datapath: Datapath) -> Via {
    match datapath {
        Datapath::User => Via::User,
        Datapath::Splice => Via::Splice,
        Datapath::Sockmap => Via::Sockmap,
    }
}

/// All by one path.
fn moved(datapath: Datapath, bytes: usize) -> Moved {
    Moved::default().and(via(datapath), bytes as u64)
}

fn context() -> TunnelContext {
    TunnelContext {
        kernel: Arc::new(KernelPlane::off()),
        pipes: PipePool::new(PipeLimits::new(256 << 10), PipeMetrics::default()),
        buffer_max: 256 << 10,
        send_buffer: 256 << 10,
        unsent_max: 128 << 10,
        idle: PATIENCE,
    }
}

/// Two connections and the two sockets in the middle that a tunnel joins.
struct Ends {
    client: TcpStream,
    downstream: TcpStream,
    upstream: TcpStream,
    node: TcpStream,
}

impl Ends {
    async fn connect() -> Ends {
        let ((client, downstream), (upstream, node)) =
            (connection(None).await, connection(None).await);
        Ends { client, downstream, upstream, node }
    }

    /// Runs the tunnel and `script` side by side; the sockets close as soon as the tunnel ends.
    async fn run<S: Future>(
        self,
        datapath: Datapath,
        cx: &TunnelContext,
        script: impl FnOnce(TcpStream, TcpStream) -> S,
    ) -> (Transfer, S::Output) {
        let Ends { client, mut downstream, mut upstream, node } = self;
        let tunnel =
            async move { run(&mut downstream, &mut upstream, datapath, cx, pending()).await };
        let both = async { tokio::join!(tunnel, script(client, node)) };
        timeout(PATIENCE, both).await.expect("the case ends")
    }
}

async fn connection(receive_buffer: Option<u32>) -> (TcpStream, TcpStream) {
    let socket = TcpSocket::new_v4().unwrap();
    if let Some(bytes) = receive_buffer {
        socket.set_recv_buffer_size(bytes).unwrap();
    }
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let listener: TcpListener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let (connected, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let sockets = (connected.unwrap(), accepted.unwrap().0);
    for socket in [&sockets.0, &sockets.1] {
        sys::socket::bound_send_queue(socket, 256 << 10, 128 << 10).unwrap();
    }
    sockets
}

/// Writes in pieces of 1 to 100 000 bytes, then ends the stream.
async fn send(to: &mut (impl AsyncWriteExt + Unpin), bytes: &[u8], seed: u64) {
    let mut noise = Noise(seed);
    let mut rest = bytes;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at((noise.next() as usize % 100_000 + 1).min(rest.len()));
        to.write_all(piece).await.unwrap();
        rest = after;
    }
    to.shutdown().await.unwrap();
}

async fn receive(from: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).await.unwrap();
    bytes
}

#[tokio::test]
async fn bytes_arrive_exactly_both_ways() {
    let (request, answer) = (Noise::bytes(1, 5_000_011), Noise::bytes(2, 7_000_003));
    for path in PATHS {
        let (transfer, ()) = Ends::connect()
            .await
            .run(path, &context(), async |mut client, mut node| {
                let (mut client_read, mut client_write) = client.split();
                let (mut node_read, mut node_write) = node.split();
                let ((), received, (), answered) = tokio::join!(
                    send(&mut client_write, &request, 3),
                    receive(&mut node_read),
                    send(&mut node_write, &answer, 4),
                    receive(&mut client_read),
                );
                assert!(received == request && answered == answer, "{path:?}");
            })
            .await;
        let expected = Transfer {
            sent: moved(path, answer.len()),
            recv: moved(path, request.len()),
            via: via(path),
            fallback: None,
            end: None,
        };
        assert_eq!(transfer, expected);
    }
}

#[tokio::test]
async fn either_side_may_end_first() {
    for path in PATHS {
        let (transfer, ()) = Ends::connect()
            .await
            .run(path, &context(), async |mut client, mut node| {
                send(&mut client, b"question", 1).await;
                assert_eq!(receive(&mut node).await, b"question");
                send(&mut node, b"answer", 1).await;
                assert_eq!(receive(&mut client).await, b"answer");
            })
            .await;
        assert_eq!(transfer.end, None);
        let (transfer, ()) = Ends::connect()
            .await
            .run(path, &context(), async |mut client, mut node| {
                send(&mut node, b"banner", 1).await;
                assert_eq!(receive(&mut client).await, b"banner");
                send(&mut client, b"goodbye", 1).await;
                assert_eq!(receive(&mut node).await, b"goodbye");
            })
            .await;
        assert_eq!((transfer.end, transfer.sent.total(), transfer.recv.total()), (None, 6, 7));
    }
}

#[tokio::test]
async fn a_tunnel_in_which_nothing_moved_ends_in_order() {
    for path in PATHS {
        let (transfer, ()) = Ends::connect()
            .await
            .run(path, &context(), async |client, node| drop((client, node)))
            .await;
        let none = Moved::default();
        let expected =
            Transfer { sent: none, recv: none, via: via(path), fallback: None, end: None };
        assert_eq!(transfer, expected);
    }
}

/// Writes bytes of which the last is urgent.
async fn send_urgent(to: &TcpStream, bytes: &[u8]) {
    to.writable().await.unwrap();
    let sent = SockRef::from(to).send_out_of_band(bytes).unwrap();
    assert_eq!(sent, bytes.len());
}

#[tokio::test]
async fn bytes_behind_an_urgent_mark_arrive() {
    for path in PATHS {
        let (transfer, ()) = Ends::connect()
            .await
            .run(path, &context(), async |mut client, mut node| {
                client.write_all(b"abc").await.unwrap();
                send_urgent(&client, b"D").await;
                client.write_all(b"efgh").await.unwrap();
                let mut received = [0; 8];
                node.read_exact(&mut received).await.unwrap();
                assert_eq!(&received, b"abcDefgh", "{path:?}");
                send_urgent(&client, b"ij").await;
                send(&mut client, b"kl", 1).await;
                assert_eq!(receive(&mut node).await, b"ijkl", "{path:?}");
            })
            .await;
        assert_eq!((transfer.recv.total(), transfer.end), (12, None), "{path:?}");
    }
}

/// All of it is there before the tunnel, so no event comes later.
#[tokio::test]
async fn an_urgent_mark_in_what_is_queued_is_passed() {
    for path in PATHS {
        let mut ends = Ends::connect().await;
        ends.client.write_all(b"abc").await.unwrap();
        send_urgent(&ends.client, b"D").await;
        ends.client.write_all(b"efgh").await.unwrap();
        while ends.downstream.peek(&mut [0; 3]).await.unwrap() < 3 {}
        let (transfer, ()) = ends
            .run(path, &context(), async |client, mut node| {
                let mut received = [0; 8];
                node.read_exact(&mut received).await.unwrap();
                assert_eq!(&received, b"abcDefgh", "{path:?}");
                drop(client);
            })
            .await;
        assert_eq!((transfer.recv.total(), transfer.end), (8, None), "{path:?}");
    }
}

async fn is_reset(mut socket: TcpStream) -> bool {
    let mut rest = Vec::new();
    socket
        .read_to_end(&mut rest)
        .await
        .is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

#[tokio::test]
async fn a_reset_is_passed_on_as_a_reset() {
    for path in PATHS {
        let (transfer, ()) = Ends::connect()
            .await
            .run(path, &context(), async |client, node| {
                client.set_zero_linger().unwrap();
                drop(client);
                assert!(is_reset(node).await, "{path:?}");
            })
            .await;
        assert_eq!(transfer.end, Some(Fault::DownstreamReset));
        let (transfer, ()) = Ends::connect()
            .await
            .run(path, &context(), async |client, node| {
                node.set_zero_linger().unwrap();
                drop(node);
                assert!(is_reset(client).await, "{path:?}");
            })
            .await;
        assert_eq!(transfer.end, Some(Fault::UpstreamReset));
    }
}

#[tokio::test]
async fn a_reset_after_a_half_close_is_noticed() {
    for path in PATHS {
        let (transfer, ()) = Ends::connect()
            .await
            .run(path, &context(), async |mut client, mut node| {
                send(&mut client, b"question", 1).await;
                assert_eq!(receive(&mut node).await, b"question");
                client.set_zero_linger().unwrap();
                drop(client);
                // The node has read the end of the stream, so only a write can find the reset.
                while node.write_all(&[0]).await.is_ok() {
                    node.writable().await.unwrap();
                }
            })
            .await;
        assert_eq!(transfer.end, Some(Fault::DownstreamReset), "{path:?}");
    }
}

#[tokio::test]
async fn an_answer_before_a_reset_arrives() {
    let answer = Noise::bytes(5, 200_000);
    for path in PATHS {
        let (transfer, ()) = Ends::connect()
            .await
            .run(path, &context(), async |mut client, mut node| {
                client.write_all(b"never read").await.unwrap();
                node.peek(&mut [0]).await.unwrap();
                node.write_all(&answer).await.unwrap();
                while sys::socket::send_queue(&node).unwrap() > 0 {
                    tokio::task::yield_now().await;
                }
                // Unread input turns this close into a reset.
                drop(node);
                let mut received = vec![0; answer.len()];
                client.read_exact(&mut received).await.unwrap();
                assert!(received == answer, "{path:?}");
            })
            .await;
        assert!(transfer.sent.total() <= answer.len() as u64);
    }
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
        sleep(Duration::from_millis(10)).await;
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
    for path in PATHS {
        let ends = Ends::connect().await;
        let (transfer, ()) =
            ends.run(path, &context(), async |client, node| leave_early(node, client).await).await;
        assert_eq!(transfer.end, Some(Fault::UpstreamReset), "{path:?}");
        let ends = Ends::connect().await;
        let (transfer, ()) =
            ends.run(path, &context(), async |client, node| leave_early(client, node).await).await;
        assert_eq!(transfer.end, Some(Fault::DownstreamReset), "{path:?}");
    }
}

/// Nobody reads what the side that left had sent.
#[tokio::test]
async fn a_side_that_left_is_not_waited_for_long() {
    for path in PATHS {
        let ends = Ends::connect().await;
        let (transfer, client) = ends
            .run(path, &context(), async |mut client, node| {
                client.write_all(b"never read").await.unwrap();
                node.peek(&mut [0]).await.unwrap();
                stuff(&node, &periodic(9)).await;
                drop(node);
                client.write_all(b"on and on").await.unwrap();
                client
            })
            .await;
        assert_eq!(transfer.end, Some(Fault::UpstreamReset), "{path:?}");
        assert!(is_reset(client).await, "{path:?}");
    }
}

#[tokio::test]
async fn a_tunnel_in_which_nothing_moves_times_out() {
    for path in PATHS {
        let idle = Duration::from_millis(60);
        let cx = TunnelContext { idle, ..context() };
        let started = Instant::now();
        let last = Cell::new(started);
        let (transfer, ()) = Ends::connect()
            .await
            .run(path, &cx, async |mut client, mut node| {
                // One direction that moves keeps both alive.
                while started.elapsed() < idle * 4 {
                    last.set(Instant::now());
                    client.write_all(b"ping").await.unwrap();
                    node.read_exact(&mut [0; 4]).await.unwrap();
                }
                assert_eq!(receive(&mut node).await, b"");
                assert_eq!(receive(&mut client).await, b"");
            })
            .await;
        assert_eq!(transfer.end, Some(Fault::TunnelTimedOut), "{path:?}");
        assert!(last.get().elapsed() >= idle && started.elapsed() >= idle * 4, "{path:?}");
    }
}

#[tokio::test]
async fn the_deadline_of_a_drain_ends_a_tunnel() {
    for path in PATHS {
        let Ends { mut downstream, mut upstream, client: _client, node: _node } =
            Ends::connect().await;
        let transfer = run(&mut downstream, &mut upstream, path, &context(), ready(())).await;
        assert_eq!(transfer.end, Some(Fault::DrainDeadline));
    }
}

#[tokio::test]
async fn a_reader_that_does_not_read_stops_the_sender() {
    for path in PATHS {
        let (client, downstream) = connection(None).await;
        let (node, upstream) = connection(None).await;
        SockRef::from(&client).set_send_buffer_size(64 << 10).unwrap();
        SockRef::from(&node).set_recv_buffer_size(64 << 10).unwrap();
        let ends = Ends { client, downstream, upstream, node };
        let (_, taken) = ends
            .run(path, &context(), async |client, _node| stuff(&client, &periodic(6)).await)
            .await;
        println!("{path:?} took {taken}");
        assert!(taken < 5 << 20, "{path:?} took {taken}");
    }
}

#[tokio::test]
async fn without_a_pipe_bytes_are_copied() {
    let cx = TunnelContext {
        pipes: PipePool::new(
            PipeLimits { open_max: 0, ..PipeLimits::new(256 << 10) },
            PipeMetrics::default(),
        ),
        ..context()
    };
    let (transfer, ()) = Ends::connect()
        .await
        .run(Datapath::Splice, &cx, async |mut client, mut node| {
            send(&mut client, b"question", 1).await;
            assert_eq!(receive(&mut node).await, b"question");
        })
        .await;
    let expected = Transfer {
        sent: Moved::default(),
        recv: moved(Datapath::User, 8),
        via: Via::User,
        fallback: Some(Fallback::NoPipe),
        end: None,
    };
    assert_eq!(transfer, expected);
}

#[tokio::test]
async fn without_the_kernel_half_sockmap_is_splice() {
    let (transfer, ()) = Ends::connect()
        .await
        .run(Datapath::Sockmap, &context(), async |mut client, mut node| {
            send(&mut client, b"question", 1).await;
            assert_eq!(receive(&mut node).await, b"question");
        })
        .await;
    let expected = Transfer {
        sent: Moved::default(),
        recv: moved(Datapath::Splice, 8),
        via: Via::Splice,
        fallback: Some(Fallback::Refused(TunnelRefused::KernelOff)),
        end: None,
    };
    assert_eq!(transfer, expected);
}

#[test]
fn fallbacks_have_labels_of_their_own() {
    let labels: std::collections::HashSet<_> = Fallback::ALL.map(Fallback::label).into();
    assert_eq!(labels.len(), Fallback::ALL.len());
}

#[tokio::test]
async fn the_last_pipe_goes_to_one_direction_and_the_other_is_copied() {
    let cx = TunnelContext {
        pipes: PipePool::new(
            PipeLimits { open_max: 1, ..PipeLimits::new(256 << 10) },
            PipeMetrics::default(),
        ),
        ..context()
    };
    let pattern = periodic(7);
    let (transfer, (up, down)) = Ends::connect()
        .await
        .run(Datapath::Splice, &cx, async |mut client, mut node| {
            let up = stuff(&client, &pattern).await;
            let down = stuff(&node, &pattern).await;
            client.shutdown().await.unwrap();
            node.shutdown().await.unwrap();
            let (received, answered) = tokio::join!(receive(&mut node), receive(&mut client));
            let is_pattern = |bytes: &[u8]| {
                bytes.iter().enumerate().all(|(at, byte)| *byte == pattern[at % 65_536])
            };
            assert!(is_pattern(&received) && is_pattern(&answered));
            assert_eq!((received.len(), answered.len()), (up, down));
            (up as u64, down as u64)
        })
        .await;
    // Each direction counts under the path that it took, not under the better one of the two.
    let by = |moved: Moved| (moved.by(Via::Splice), moved.by(Via::User));
    assert_eq!((by(transfer.recv), by(transfer.sent)), ((up, 0), (0, down)));
    assert_eq!((transfer.via, transfer.fallback), (Via::Splice, Some(Fallback::NoPipe)));
    assert_eq!(cx.pipes.open(), 1, "returned");
}

#[tokio::test]
async fn a_tunnel_dropped_with_bytes_in_flight_closes_its_pipe() {
    let cx = context();
    let Ends { client, mut downstream, mut upstream, node: _node } = Ends::connect().await;
    let pattern = periodic(8);
    tokio::select! {
        _ = run(&mut downstream, &mut upstream, Datapath::Splice, &cx, pending()) => {}
        () = async {
            stuff(&client, &pattern).await;
            assert_eq!(cx.pipes.open(), 1);
        } => {}
    }
    assert_eq!(cx.pipes.open(), 0);
}
