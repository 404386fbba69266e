//! A proxy that is killed: its sockets close, and nothing of it stays in the kernel.

use std::{
    env,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use proxy::config::Datapath;

use super::*;
use crate::remains::{InKernel, pins};

/// Set for the child: where its node is.
const NODE: &str = "TANDEM_TEST_NODE";
const LISTENS: &str = "child listens on ";

/// The child: one tunnel, until it is killed. Does nothing as a test of its own.
#[tokio::test]
async fn proxy_process() {
    let Ok(node) = env::var(NODE) else { return };
    let cx = context(4);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    println!("{LISTENS}{}", listener.local_addr().unwrap());
    let mut downstream = listener.accept().await.unwrap().0;
    let mut upstream = TcpStream::connect(node.parse::<SocketAddr>().unwrap()).await.unwrap();
    let path = Datapath::Sockmap;
    forward::run(&mut downstream, &mut upstream, path, &cx, pending()).await;
}

/// Killed when dropped, so that a failing test leaves no process.
pub(crate) struct Killed(pub(crate) Child);

impl Killed {
    pub(crate) fn kill(&mut self) {
        // Fails only if it is dead already.
        let _ = self.0.kill();
        self.0.wait().unwrap();
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        self.kill();
    }
}

fn start_child(node: SocketAddr) -> (Killed, SocketAddr) {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "tunnel::child::proxy_process", "--nocapture"])
        .env(NODE, node.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let child = Killed(child);
    // The test runner's own words may stand in front.
    let address = lines.map_while(Result::ok).find_map(|line| {
        let (_, address) = line.split_once(LISTENS)?;
        address.parse().ok()
    });
    (child, address.expect("it says where it listens"))
}

async fn ends(socket: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    match socket.read_to_end(&mut rest).await {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[tokio::test]
async fn a_killed_proxy_leaves_closed_sockets_and_nothing_else() {
    if skip_without_privileges() {
        return;
    }
    let _machine = MACHINE.read().await;
    let nodes = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let pinned = pins();
    let (mut child, address) = start_child(nodes.local_addr().unwrap());
    let its = InKernel::of(child.0.id());
    its.check_loaded();
    let case = async {
        let mut client = TcpStream::connect(address).await.unwrap();
        let mut node = nodes.accept().await.unwrap().0;
        client.write_all(b"through").await.unwrap();
        node.read_exact(&mut [0; 7]).await.unwrap();
        // In the middle of a transfer both ways, with queues full.
        let pattern = periodic(9);
        stuff(&client, &pattern).await;
        stuff(&node, &pattern).await;
        child.kill();
        assert!(ends(&mut client).await && ends(&mut node).await);
    };
    timeout(PATIENCE, case).await.expect("both ends hear of it");
    its.check_gone();
    assert_eq!(pins(), pinned);
    assert_kernel_is_content();
}
