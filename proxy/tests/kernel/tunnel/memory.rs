//! What a reader that does not read costs: memory added to the same transfer without a proxy.

use std::{fs, rc::Rc};

use proxy::config::Datapath;
use tokio::{
    task::{JoinSet, LocalSet, spawn_local},
    time::sleep,
};

use super::*;
use crate::topology::Namespace;

/// The promise, for one direction.
const ADDED_MAX: i64 = 5 << 20;
/// Transfers measured together, so that what else the machine does is small beside them.
const TRANSFERS: usize = 24;

/// Memory of this process, of all TCP queues and of the kernel's slabs, bytes.
pub(crate) fn memory_in_use() -> i64 {
    queues_in_use() + number("/proc/self/status", "VmRSS:", 1) * 1024
}

/// Memory of all TCP queues and of the kernel's slabs, bytes.
pub(crate) fn queues_in_use() -> i64 {
    let socket_pages = number("/proc/net/sockstat", "TCP:", 10);
    let slab_kib = number("/proc/meminfo", "SUnreclaim:", 1);
    socket_pages * 4096 + slab_kib * 1024
}

fn number(path: &str, name: &str, at: usize) -> i64 {
    let text = fs::read_to_string(path).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(at).unwrap().parse().unwrap()
}

/// Which side writes; the other one does not read.
#[derive(Debug, Clone, Copy)]
enum Way {
    Upload,
    Download,
}

impl Way {
    const BOTH: [Way; 2] = [Way::Upload, Way::Download];

    /// Who writes and who does not read.
    fn roles(self, client: TcpStream, node: TcpStream) -> (TcpStream, TcpStream) {
        match self {
            Way::Upload => (client, node),
            Way::Download => (node, client),
        }
    }
}

/// What is there before a case, once the one before is gone.
async fn at_rest() -> i64 {
    let mut in_use = memory_in_use();
    loop {
        sleep(Duration::from_millis(200)).await;
        let now = memory_in_use();
        if (now - in_use).abs() < 1 << 20 {
            return now;
        }
        in_use = now;
    }
}

/// What transfers hold of which nobody reads, all together, bytes.
struct Held {
    memory: i64,
    /// What the writers could write.
    taken: usize,
}

/// Who writes, and who does not read.
type Pair = (TcpStream, TcpStream);

/// Fills every transfer until nothing more is taken. Nobody reads, and nothing is closed.
async fn fill(transfers: Vec<Pair>, before: i64) -> Held {
    let pattern: Rc<[u8]> = periodic(7).into();
    for (writer, reader) in &transfers {
        // What is queued is queued on the way, not at its ends.
        for theirs in [writer, reader] {
            bound(theirs);
        }
    }
    let mut writers = JoinSet::new();
    for pair in transfers {
        let pattern = Rc::clone(&pattern);
        writers.spawn_local(async move { (stuff(&pair.0, &pattern).await, pair) });
    }
    let open = writers.join_all().await;
    let taken = open.iter().map(|(taken, _)| taken).sum();
    Held { memory: memory_in_use() - before, taken }
}

#[track_caller]
fn check(what: &str, way: Way, held: &Held, direct: &Held) {
    let each = |sum: i64| sum / TRANSFERS as i64;
    let added = each(held.memory - direct.memory);
    let queued = each(held.taken as i64 - direct.taken as i64);
    println!("{what}, {way:?}: adds {} KiB for {} KiB queued", added >> 10, queued >> 10);
    assert!(queued > 0, "{what}, {way:?}: nothing is queued in the proxy");
    assert!(added <= ADDED_MAX, "{what}, {way:?}: adds {added} bytes for a direction");
}

/// Memory that transfers hold by a path, or directly.
async fn held(cx: &Rc<TunnelContext>, path: Option<Datapath>, way: Way) -> Held {
    let all = async {
        let mut connected = Vec::new();
        for _ in 0..TRANSFERS {
            connected.push(Ends::as_they_come().await);
        }
        let before = at_rest().await;
        let (mut transfers, mut idle) = (Vec::new(), Vec::new());
        for Ends { client, mut downstream, mut upstream, node } in connected {
            if let Some(path) = path {
                let cx = Rc::clone(cx);
                spawn_local(async move {
                    let ended = forward::run(&mut downstream, &mut upstream, path, &cx, pending());
                    panic!("{:?}", ended.await);
                });
                transfers.push(way.roles(client, node));
            } else {
                // One connection from end to end: the sockets between are the other end's.
                let (near, far) = match way {
                    Way::Upload => ((client, downstream), [upstream, node]),
                    Way::Download => ((node, upstream), [downstream, client]),
                };
                transfers.push(near);
                idle.extend(far);
            }
        }
        fill(transfers, before).await
    };
    LocalSet::new().run_until(all).await
}

/// On a host that is set up for long fat networks: left alone, a queue there takes 16 MiB.
const TCP_RMEM: &str = "4096 33554432 33554432";

fn on_a_wide_host<F: Future<Output = ()>>(case: impl FnOnce() -> F + Send) {
    if skip_without_privileges() {
        return;
    }
    Namespace::new().run(|| {
        fs::write("/proc/sys/net/ipv4/tcp_rmem", TCP_RMEM).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let _machine = MACHINE.write().await;
            case().await;
        });
    });
}

#[test]
fn a_reader_that_does_not_read_costs_little() {
    on_a_wide_host(readers_that_do_not_read);
}

async fn readers_that_do_not_read() {
    let cx = Rc::new(context(TRANSFERS as u32));
    for way in Way::BOTH {
        let direct = held(&cx, None, way).await;
        for path in [Datapath::User, Datapath::Splice, Datapath::Sockmap] {
            check(&format!("{path:?}"), way, &held(&cx, Some(path), way).await, &direct);
        }
    }
}

/// Longer than any chain of buffers.
const BODY: &str = "content-length: 1073741824\r\n\r\n";

/// Reads a head to its end and not a byte further.
async fn read_head(socket: &mut TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
}

/// A client that has asked and a node that has heard it, by way of `target`.
async fn ask(target: SocketAddr, nodes: &TcpListener, head: &str) -> (TcpStream, TcpStream) {
    let mut client = TcpStream::connect(target).await.unwrap();
    client.write_all(head.as_bytes()).await.unwrap();
    let mut node = nodes.accept().await.unwrap().0;
    read_head(&mut node).await;
    (client, node)
}

/// Memory that bodies hold which nobody reads, by way of `target`.
async fn held_bodies(target: SocketAddr, nodes: &TcpListener, way: Way) -> Held {
    let all = async {
        let before = at_rest().await;
        let mut transfers = Vec::new();
        for _ in 0..TRANSFERS {
            let (client, node) = match way {
                Way::Upload => {
                    ask(target, nodes, &format!("POST / HTTP/1.1\r\nhost: a\r\n{BODY}")).await
                }
                Way::Download => {
                    let head = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
                    let (client, mut node) = ask(target, nodes, head).await;
                    node.write_all(format!("HTTP/1.1 200 OK\r\n{BODY}").as_bytes()).await.unwrap();
                    (client, node)
                }
            };
            transfers.push(way.roles(client, node));
        }
        fill(transfers, before).await
    };
    LocalSet::new().run_until(all).await
}

/// A proxy with one worker, and so many small exchanges behind it that what is made once is there.
async fn warm_proxy(nodes: &TcpListener, express: bool, limits: &str) -> TestProxy {
    let yaml = format!(
        "listeners: [{{ name: web, address: \"127.0.0.1:0\", express_lane: {express} }}]\n\
         limits: {{ pool_idle_max: 0{limits} }}\n\
         routes: [{{ id: all, uri: /*, upstream: {{ nodes: {{ \"{}\": 1 }} }} }}]\n",
        nodes.local_addr().unwrap()
    );
    let proxy = spawn_blocking(move || TestProxy::start(&yaml)).await.unwrap();
    for _ in 0..TRANSFERS {
        let head = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        let (mut client, mut node) = ask(proxy.address("web"), nodes, head).await;
        node.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        read_head(&mut client).await;
    }
    proxy
}

#[test]
fn a_body_that_nobody_reads_costs_little() {
    on_a_wide_host(bodies_that_nobody_reads);
}

async fn bodies_that_nobody_reads() {
    let nodes = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let cases = [
        ("express, spliced", true, ""),
        ("express, copied", true, ", splice_min: none"),
        ("hyper", false, ""),
    ];
    for way in Way::BOTH {
        let direct = held_bodies(nodes.local_addr().unwrap(), &nodes, way).await;
        for (what, express, limits) in cases {
            let proxy = warm_proxy(&nodes, express, limits).await;
            let held = held_bodies(proxy.address("web"), &nodes, way).await;
            check(what, way, &held, &direct);
        }
    }
}
