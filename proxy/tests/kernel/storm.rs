//! A whole proxy whose clients and nodes do not behave: they do not wait for a tunnel, or are killed
//! in the middle of one.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use proxy::test_support::{TestProxy, eventually};

use crate::skip_without_privileges;

const CONNECTIONS: usize = 300;
const AT_A_TIME: usize = 30;
const PATIENCE: Duration = Duration::from_secs(20);

fn proxy(listener: &str, node: SocketAddr) -> TestProxy {
    TestProxy::start(&format!(
        "listeners: [{{ name: l4, address: \"{listener}:0\", protocol: tcp }}]\n\
         kernel: {{ mode: require }}\n\
         stream_routes: [{{ id: l4, datapath: sockmap, upstream_id: app }}]\n\
         upstreams: [{{ id: app, type: roundrobin, nodes: {{ \"{node}\": 1 }} }}]\n"
    ))
}

fn echo(listener: TcpListener) {
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            thread::spawn(move || {
                let mut from = stream.try_clone().expect("a file");
                std::io::copy(&mut from, &mut stream).expect("echoed");
                stream.shutdown(Shutdown::Write).expect("ended");
            });
        }
    });
}

/// Sends everything at once, as early as can be, and reads it all back.
fn check_echo(address: SocketAddr, seed: usize) {
    let size = 1 + (seed * 7919) % 150_000;
    let bytes: Vec<u8> = (0..size).map(|at| (at * (seed + 1) % 251) as u8).collect();
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    let mut to = stream.try_clone().expect("a file");
    let sending = thread::spawn({
        let bytes = bytes.clone();
        move || {
            to.write_all(&bytes).expect("taken");
            to.shutdown(Shutdown::Write).expect("ended");
        }
    });
    let mut received = Vec::new();
    stream.read_to_end(&mut received).expect("read");
    assert!(received == bytes, "{seed}: {} of {size} bytes", received.len());
    sending.join().expect("no panic");
}

#[test]
fn bytes_that_do_not_wait_for_their_tunnel_arrive_once() {
    if skip_without_privileges() {
        return;
    }
    for (listener, node) in
        [("127.0.0.1", "127.0.0.1"), ("[::1]", "::1"), ("127.0.0.1", "::1"), ("[::]", "127.0.0.1")]
    {
        let nodes = TcpListener::bind((node, 0)).expect("a free port");
        let proxy = proxy(listener, nodes.local_addr().expect("an address"));
        echo(nodes);
        let mut address = proxy.address("l4");
        if address.ip().is_unspecified() {
            // A v4 client of a v6 listener.
            address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
        thread::scope(|scope| {
            for first in 0..AT_A_TIME {
                scope.spawn(move || {
                    (first..CONNECTIONS)
                        .step_by(AT_A_TIME)
                        .for_each(|seed| check_echo(address, seed));
                });
            }
        });
        let log = proxy.access_log(CONNECTIONS);
        assert!(log.iter().all(|line| line.ends_with(" --")), "{listener} {node}: {log:?}");
        let by_kernel = log.iter().filter(|line| line.ends_with(" sockmap --")).count();
        // The kernel gets what userspace has not read before there was a tunnel.
        assert!(by_kernel > 0, "{listener} {node}: {by_kernel}");
        for reason in ["no_tunnel", "out_of_step"] {
            let sample =
                format!("tandem_kernel_packets_total{{program=\"tunnel\",reason=\"{reason}\"}}");
            assert_eq!(proxy.metric(&sample), 0.0, "{listener} {node}: {reason}");
        }
    }
}

/// Another process between proxy and node; killed when dropped.
struct Killable(Child, SocketAddr);

impl Killable {
    /// Passes everything on to `node`.
    fn start(node: SocketAddr) -> Killable {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("tandem.yaml");
        let text = format!(
            "workers: 1\nkernel: {{ mode: off }}\n\
             listeners: [{{ name: relay, address: \"127.0.0.1:0\", protocol: tcp }}]\n\
             stream_routes: [{{ id: l4, datapath: user, upstream_id: app }}]\n\
             upstreams: [{{ id: app, nodes: {{ \"{node}\": 1 }} }}]\n"
        );
        std::fs::write(&path, text).expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
        command.args(["run", "-c"]).arg(&path).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary runs");
        let lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let address = lines.map_while(Result::ok).find_map(|line| {
            let (_, address) = line.split_once("address=").filter(|_| line.contains("relay"))?;
            address.trim().parse().ok()
        });
        Killable(child, address.expect("it says where it listens"))
    }

    fn kill(&mut self) {
        self.0.kill().expect("it runs");
        self.0.wait().expect("our child");
    }
}

impl Drop for Killable {
    fn drop(&mut self) {
        // It may have been killed before.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn a_node_that_is_killed_ends_its_tunnels_and_nothing_else() {
    if skip_without_privileges() {
        return;
    }
    let sink = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let mut node = Killable::start(sink.local_addr().expect("an address"));
    let proxy = proxy("127.0.0.1", node.1);
    let mut client = TcpStream::connect(proxy.address("l4")).expect("connected");
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    client.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    client.write_all(b"some").expect("taken");
    let (mut at_sink, _) = sink.accept().expect("the node connects");
    at_sink.read_exact(&mut [0; 4]).expect("passed on");
    let mut to = client.try_clone().expect("a file");
    let sending = thread::spawn(move || {
        let bytes = vec![0; 1 << 16];
        while to.write_all(&bytes).is_ok() {}
    });
    eventually("bytes under way", || {
        (proxy.metric("tandem_kernel_packets_total{program=\"tunnel\",reason=\"redirected\"}")
            > 9.0)
            .then_some(())
    });
    node.kill();
    // The end or a reset, but soon.
    drop(client.read(&mut [0]));
    sending.join().expect("no panic");
    let line = &proxy.access_log(1)[0];
    assert!(line.ends_with(" sockmap SD") || line.ends_with(" sockmap CD"), "{line}");
    let mut late = TcpStream::connect(proxy.address("l4")).expect("connected");
    assert!(!matches!(late.read(&mut [0]), Ok(1..)), "there is no node");
    assert!(proxy.access_log(2)[1].ends_with(" SC"), "{:?}", proxy.access_log(2));
    proxy.check_metric("tandem_downstream_connections_active{listener=\"l4\"}", 0.0);
}
