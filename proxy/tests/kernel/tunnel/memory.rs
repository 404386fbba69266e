//! What a reader that does not read costs: memory added to the same transfer without a proxy.

use std::{fs, rc::Rc};

use proxy::config::Datapath;
use tokio::task::{JoinSet, LocalSet, spawn_local};

use super::*;

/// The promise, for one direction.
const ADDED_MAX: i64 = 5 << 20;
/// Transfers measured together, so that what else the machine does is small beside them.
const TRANSFERS: usize = 24;

/// Memory of this process, of all TCP queues and of the kernel's slabs, bytes.
pub(crate) fn memory_in_use() -> i64 {
    let number = |path: &str, name: &str, at: usize| -> i64 {
        let text = fs::read_to_string(path).unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(at).unwrap().parse().unwrap()
    };
    let socket_pages = number("/proc/net/sockstat", "TCP:", 10);
    let process_kib = number("/proc/self/status", "VmRSS:", 1);
    let slab_kib = number("/proc/meminfo", "SUnreclaim:", 1);
    socket_pages * 4096 + (process_kib + slab_kib) * 1024
}

/// Memory that transfers hold whose reader does not read, by a path or directly.
async fn held(cx: &Rc<TunnelContext>, path: Option<Datapath>) -> i64 {
    let pattern: Rc<[u8]> = periodic(7).into();
    let all = async {
        let mut connected = Vec::new();
        for _ in 0..TRANSFERS {
            connected.push(Ends::connect().await);
        }
        let before = memory_in_use();
        let (mut writers, mut open) = (JoinSet::new(), Vec::new());
        for Ends { client, mut downstream, mut upstream, node } in connected {
            match path {
                Some(path) => {
                    let cx = Rc::clone(cx);
                    spawn_local(async move {
                        let ended =
                            forward::run(&mut downstream, &mut upstream, path, &cx, pending());
                        panic!("{:?}", ended.await);
                    });
                    open.push(node);
                }
                None => open.extend([downstream, upstream, node]),
            }
            let pattern = Rc::clone(&pattern);
            writers.spawn_local(async move {
                stuff(&client, &pattern).await;
                client
            });
        }
        let _clients = writers.join_all().await;
        memory_in_use() - before
    };
    LocalSet::new().run_until(all).await
}

#[tokio::test]
async fn a_reader_that_does_not_read_costs_little() {
    if skip_without_privileges() {
        return;
    }
    let _machine = MACHINE.write().await;
    let cx = Rc::new(context(TRANSFERS as u32));
    let direct = held(&cx, None).await;
    for path in [Datapath::User, Datapath::Splice, Datapath::Sockmap] {
        let added = (held(&cx, Some(path)).await - direct) / TRANSFERS as i64;
        println!("{path:?} adds {} KiB for a direction", added >> 10);
        assert!(added <= ADDED_MAX, "{path:?} adds {added} bytes for a direction");
    }
}
