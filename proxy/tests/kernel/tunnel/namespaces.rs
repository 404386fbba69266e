//! Tunnels between a client, a proxy and a node that are hosts of their own: what arrives has come
//! over an interface, in packets, and was merged on the way.

use proxy::test_support::eventually;

use super::*;
use crate::topology::{Chain, Namespace};

/// What the proxy's interfaces make of the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Network {
    /// Nothing: buffers come as large as the sender has made them.
    Whole,
    /// Packets of one segment, as native XDP has a veth's other end send them, merged by GRO.
    Merged,
}

/// A proxy with a stream route to a node over there.
struct Hosts {
    /// Buffers that the self-test redirected.
    redirected_before: u64,
    /// Gone before its interfaces are.
    proxy: TestProxy,
    chain: Chain,
    address: SocketAddr,
    nodes: TcpListener,
}

impl Hosts {
    fn start(network: Network, listener: &str, node: &str) -> Hosts {
        let chain = Chain::new();
        let xdp = match network {
            Network::Whole => "",
            Network::Merged => {
                chain.merge_packets();
                ", xdp: { interfaces: [veth, upstream], mode: native }"
            }
        };
        let nodes = chain.upstream.run(|| std::net::TcpListener::bind(node).unwrap());
        nodes.set_nonblocking(true).unwrap();
        let nodes = TcpListener::from_std(nodes).unwrap();
        let yaml = format!(
            "listeners: [{{ name: l4, address: \"{listener}\", protocol: tcp }}]\n\
             kernel: {{ mode: require{xdp} }}\n\
             stream_routes:\n\
             - {{ id: s, datapath: sockmap, upstream: {{ nodes: {{ \"{}\": 1 }} }} }}\n",
            nodes.local_addr().unwrap()
        );
        let proxy = chain.proxy.run(|| TestProxy::start(&yaml));
        let address = proxy.address("l4");
        let mut hosts = Hosts { redirected_before: 0, proxy, chain, address, nodes };
        hosts.redirected_before = hosts.redirected();
        hosts
    }

    /// A client that has sent at once, whether or not the proxy has a node for it.
    fn send_early(&self, early: &[u8]) -> TcpStream {
        let client = self.chain.downstream.run(|| {
            let mut client = std::net::TcpStream::connect(self.address).unwrap();
            std::io::Write::write_all(&mut client, early).unwrap();
            client
        });
        client.set_nonblocking(true).unwrap();
        TcpStream::from_std(client).unwrap()
    }

    /// Such a client and its node.
    async fn connect(&self, early: &[u8]) -> (TcpStream, TcpStream) {
        let client = self.send_early(early);
        let node = timeout(PATIENCE, self.nodes.accept()).await.unwrap();
        (client, node.unwrap().0)
    }

    /// The admin address is the proxy's loopback.
    fn metric(&self, sample: &str) -> u64 {
        self.chain.proxy.run(|| self.proxy.metric(sample)) as u64
    }

    fn counted(&self, reason: &str) -> u64 {
        let labels = format!("{{program=\"tunnel\",reason=\"{reason}\"}}");
        self.metric(&format!("tandem_kernel_packets_total{labels}"))
    }

    fn redirected(&self) -> u64 {
        self.counted("redirected") - self.redirected_before
    }

    /// Bytes of a direction by sockmap, user and splice.
    fn moved(&self, direction: &str) -> [u64; 3] {
        ["sockmap", "user", "splice"].map(|via| {
            let labels = format!("{{direction=\"{direction}\",via=\"{via}\"}}");
            self.metric(&format!("tandem_forward_bytes_total{labels}"))
        })
    }

    /// How the connections that have ended did: path and end.
    fn ends(&self, count: usize) -> Vec<String> {
        let log = self.proxy.access_log(count);
        log.iter().map(|line| line.rsplitn(3, ' ').take(2).collect::<Vec<_>>().join(" ")).collect()
    }

    #[track_caller]
    fn check_counters(&self) {
        assert!(self.redirected() > 0);
        for reason in ["no_tunnel", "out_of_step"] {
            assert_eq!(self.counted(reason), 0, "{reason}");
        }
        assert_kernel_is_content();
    }
}

/// Bytes and packets that an interface has received.
fn received(namespace: &Namespace, interface: &str) -> (u64, u64) {
    let shown = namespace.ip(&format!("-j -s link show {interface}"));
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let number = |of: &str| shown[0]["stats64"]["rx"][of].as_u64().unwrap();
    (number("bytes"), number("packets"))
}

/// What a socket takes of which nobody reads, bytes.
const EARLY_MAX: usize = 50_000;

/// Largest packet on an interface with its Ethernet header.
const FRAME_MAX: u64 = 1514;

/// Megabytes both ways and the end of each stream, with readers that are now fast, now slow.
async fn check_bytes(network: Network, listener: &str, node: &str) {
    let hosts = Hosts::start(network, listener, node);
    let (request, answer) = (Noise::bytes(1, 8 << 20), Noise::bytes(2, (8 << 20) + 13));
    let (mut client, mut node) = hosts.connect(&[]).await;
    let case = converse((&mut client, &mut node), &request, &answer);
    timeout(PATIENCE, case).await.expect("both streams end");
    assert_eq!(hosts.ends(1), ["-- sockmap"]);
    let mut by_kernel = 0;
    for (direction, bytes) in [("recv", request.len()), ("sent", answer.len())] {
        let [kernel, user, spliced] = hosts.moved(direction);
        println!("{network:?} {listener}, {direction}: {kernel} by sockmap, {user} by user");
        assert!(kernel > 0, "{direction}");
        assert_eq!((kernel + user, spliced), (bytes as u64, 0), "{direction}");
        by_kernel += kernel;
    }
    hosts.check_counters();
    let buffer = by_kernel / hosts.redirected();
    let packet = |interface| {
        let (bytes, packets) = received(&hosts.chain.proxy, interface);
        bytes / packets
    };
    let packets = [packet("veth"), packet("upstream")];
    println!("{network:?} {listener}: packets of {packets:?} bytes, buffers of {buffer}");
    assert!(buffer > FRAME_MAX, "buffers of {buffer} bytes");
    assert!(
        packets.iter().all(|packet| (*packet <= FRAME_MAX) == (network == Network::Merged)),
        "packets of {packets:?} bytes"
    );
}

#[tokio::test]
async fn bytes_arrive_exactly_between_hosts() {
    if skip_without_privileges() {
        return;
    }
    let _machine = MACHINE.read().await;
    check_bytes(Network::Whole, "10.1.0.1:0", "10.2.0.2:0").await;
    check_bytes(Network::Merged, "10.1.0.1:0", "10.2.0.2:0").await;
    check_bytes(Network::Merged, "[fd00:1::1]:0", "[fd00:2::2]:0").await;
}

#[tokio::test]
async fn a_reset_is_passed_on_between_hosts() {
    if skip_without_privileges() {
        return;
    }
    let _machine = MACHINE.read().await;
    for network in [Network::Whole, Network::Merged] {
        let hosts = Hosts::start(network, "10.1.0.1:0", "10.2.0.2:0");
        for by_client in [true, false] {
            let (mut client, mut node) = hosts.connect(&[]).await;
            // The first may come before there is a tunnel.
            for _ in 0..10 {
                client.write_all(b"ping").await.unwrap();
                node.read_exact(&mut [0; 4]).await.unwrap();
                node.write_all(b"pong").await.unwrap();
                client.read_exact(&mut [0; 4]).await.unwrap();
            }
            let (leaving, mut staying) = if by_client { (client, node) } else { (node, client) };
            leaving.set_zero_linger().unwrap();
            drop(leaving);
            let reset = timeout(PATIENCE, is_reset(&mut staying)).await;
            assert!(reset.expect("in time"), "{network:?}, by the client: {by_client}");
        }
        assert_eq!(hosts.ends(2), ["CD sockmap", "SD sockmap"]);
        hosts.check_counters();
    }
}

/// How the bytes of `recv` went, once all are counted: by sockmap, user and splice.
fn counted(hosts: &Hosts, sum: u64) -> [u64; 3] {
    eventually("all is counted", || {
        let moved = hosts.moved("recv");
        (moved.iter().sum::<u64>() == sum).then_some(moved)
    })
}

#[tokio::test]
async fn bytes_that_do_not_wait_for_their_tunnel_arrive_once_between_hosts() {
    if skip_without_privileges() {
        return;
    }
    const CONNECTIONS: u64 = 30;
    let _machine = MACHINE.read().await;
    for network in [Network::Whole, Network::Merged] {
        let hosts = Hosts::start(network, "10.1.0.1:0", "10.2.0.2:0");
        let (mut noise, mut sum) = (Noise(11), 0);
        for seed in 1..=CONNECTIONS {
            let bytes = Noise::bytes(seed, noise.next() as usize % 300_000 + 10);
            let (early, late) = bytes.split_at(noise.next() as usize % bytes.len().min(EARLY_MAX));
            let (mut client, mut node) = hosts.connect(early).await;
            let case =
                async { tokio::join!(send(&mut client, late, seed), receive(&mut node, seed)) };
            let ((), received) = timeout(PATIENCE, case).await.expect("the stream ends");
            assert!(received == bytes, "{network:?}, case {seed}");
            sum += bytes.len() as u64;
        }
        let ends = hosts.ends(CONNECTIONS as usize);
        assert!(ends.iter().all(|end| end.starts_with("-- ")), "{ends:?}");
        // Where even the end of the stream comes before the tunnel, it is spliced.
        assert!(counted(&hosts, sum)[0] > 0);
        hosts.check_counters();
    }
}

/// The node takes the connection only once everything that was sent early is in the proxy's socket.
#[tokio::test]
async fn bytes_from_before_the_tunnel_arrive_once_between_hosts() {
    if skip_without_privileges() {
        return;
    }
    let _machine = MACHINE.read().await;
    for network in [Network::Whole, Network::Merged] {
        let hosts = Hosts::start(network, "10.1.0.1:0", "10.2.0.2:0");
        // One connection that is not accepted fills the queue, and the next SYN is dropped.
        SockRef::from(&hosts.nodes).listen(0).unwrap();
        let node = hosts.nodes.local_addr().unwrap();
        let first = hosts.chain.proxy.run(|| std::net::TcpStream::connect(node).unwrap());
        let bytes = Noise::bytes(3, 2 << 20);
        let (early, late) = bytes.split_at(EARLY_MAX);
        let mut client = hosts.send_early(early);
        let in_proxy = || sys::socket::send_queue(&client).unwrap() == 0;
        eventually("all is acknowledged", || in_proxy().then_some(()));
        assert_eq!(hosts.redirected(), 0, "there is no tunnel yet");
        let accepted = timeout(PATIENCE, hosts.nodes.accept()).await.unwrap().unwrap().1;
        assert_eq!(accepted, first.local_addr().unwrap());
        // The proxy's SYN comes again after a second.
        let mut node = timeout(PATIENCE, hosts.nodes.accept()).await.unwrap().unwrap().0;
        let case = async {
            // Nothing follows that could bring them along.
            let mut received = vec![0; early.len()];
            node.read_exact(&mut received).await.unwrap();
            assert!(received == early, "{network:?}");
            let ((), received) = tokio::join!(send(&mut client, late, 5), receive(&mut node, 6));
            assert!(received == late, "{network:?}: {} of {}", received.len(), late.len());
        };
        timeout(PATIENCE, case).await.expect("the stream ends");
        drop((client, node));
        assert_eq!(hosts.ends(1), ["-- sockmap"]);
        let [_, _, spliced] = counted(&hosts, bytes.len() as u64);
        assert_eq!(spliced, 0);
        hosts.check_counters();
    }
}
