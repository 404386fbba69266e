//! Whether the addresses of the quick start are free, and if not, whose they are.

use std::{
    fs,
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
};

use anyhow::{Result, bail};

/// `st` of /proc/net/tcp for a listening socket.
const LISTENING: &str = "0A";

/// Refuses to go on if one of `addresses` (what for, where) is taken; names every one.
pub(super) fn require_free(addresses: &[(&str, SocketAddr)]) -> Result<()> {
    let mut taken = Vec::new();
    for (purpose, address) in addresses {
        match TcpListener::bind(address) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                let by =
                    owner(address.port()).map_or(String::new(), |owner| format!(" by {owner}"));
                taken.push(format!("port {} ({purpose}) is taken{by}", address.port()));
            }
            Err(error) => taken.push(format!("{address} ({purpose}): {error}")),
        }
    }
    if !taken.is_empty() {
        bail!("{}; stop what is there and try again", taken.join("; "));
    }
    Ok(())
}

/// Name and number of a process that listens on `port`. Other users' are only visible to root.
fn owner(port: u16) -> Option<String> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening_inodes(&table, port))
        .collect();
    let wanted: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    for process in fs::read_dir("/proc").ok()?.flatten() {
        // `self` and `thread-self` are us.
        if !process.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        let is_owner = descriptors.flatten().any(|descriptor| {
            fs::read_link(descriptor.path()).is_ok_and(|target| {
                wanted.iter().any(|wanted| target.as_os_str() == wanted.as_str())
            })
        });
        if is_owner {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("`{}` (pid {})", name.trim(), process.file_name().display()));
        }
    }
    None
}

/// Inodes of the sockets that listen on `port`, from the text of /proc/net/tcp.
fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    let inode = |line: &str| {
        let mut words = line.split_whitespace();
        let local = words.nth(1)?;
        let state = words.nth(1)?;
        let (_, local_port) = local.rsplit_once(':')?;
        let is_it = u16::from_str_radix(local_port, 16) == Ok(port) && state == LISTENING;
        is_it.then(|| words.nth(5).map(str::to_owned))?
    };
    table.lines().filter_map(inode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:2378 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1 0 100 0 0 10 0
   1: 0100007F:2378 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 23456 1 0 20 4 30 10 -1
   2: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 34567 1 0 100 0 0 10 0
";

    #[test]
    fn finds_listening_sockets_by_port() {
        assert_eq!(listening_inodes(TABLE, 9080), ["12345"]);
        assert_eq!(listening_inodes(TABLE, 22), ["34567"]);
        assert!(listening_inodes(TABLE, 50000).is_empty());
        assert!(listening_inodes("", 9080).is_empty());
    }

    #[test]
    fn names_a_taken_port_and_its_owner() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let error = require_free(&[("listener `web`", address)]).unwrap_err().to_string();
        let expected = format!("port {} (listener `web`) is taken by `", address.port());
        assert!(error.starts_with(&expected), "{error}");
        assert!(error.contains(&format!("(pid {})", std::process::id())), "{error}");
        drop(listener);
        require_free(&[("listener `web`", address)]).unwrap();
    }
}
