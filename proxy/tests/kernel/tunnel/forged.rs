//! Segments that overlap, as TCP sends them after loss and an attacker at will: they are written by
//! hand, from the address and port of a client that the kernel connected.

use std::{
    io,
    net::{SocketAddr, SocketAddrV4},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with,
};

use super::*;

/// Sends TCP segments of a connection past its socket.
struct Forger {
    raw: OwnedFd,
    from: SocketAddrV4,
    to: SocketAddrV4,
    /// Of the next byte that the client would send, and expects.
    seq: u32,
    ack: u32,
}

impl Forger {
    fn of(client: &TcpStream) -> Forger {
        let v4 = |address| match address {
            SocketAddr::V4(address) => address,
            SocketAddr::V6(_) => panic!("an IPv4 connection"),
        };
        // IPPROTO_RAW: the header is ours.
        let (family, kind) = (AddressFamily::INET, SocketType::RAW);
        let raw = socket_with(family, kind, SocketFlags::CLOEXEC, Some(ipproto::RAW)).unwrap();
        let from = v4(client.local_addr().unwrap());
        let to = v4(client.peer_addr().unwrap());
        let (seq, ack) = sequence_numbers(client).unwrap();
        Forger { raw, from, to, seq, ack }
    }

    /// Sends `data` as if it stood `offset` bytes from where the client is.
    fn send(&self, offset: u32, data: &[u8]) {
        const ACK_PSH: u8 = 0x18;
        let (from, to) = (self.from.ip().octets(), self.to.ip().octets());
        let mut tcp = Vec::new();
        tcp.extend(self.from.port().to_be_bytes());
        tcp.extend(self.to.port().to_be_bytes());
        tcp.extend(self.seq.wrapping_add(offset).to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        tcp.extend([5 << 4, ACK_PSH, 0xff, 0xff, 0, 0, 0, 0]);
        tcp.extend(data);
        let pseudo_header = [&from[..], &to, &[0, 6], &(tcp.len() as u16).to_be_bytes()].concat();
        let sum = checksum(&[&pseudo_header[..], &tcp].concat());
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        // Length, identification and checksum of the header are filled in by the kernel.
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0];
        packet.extend(from);
        packet.extend(to);
        packet.extend(tcp);
        let to = SocketAddrV4::new(*self.to.ip(), 0);
        sendto(&self.raw, &packet, SendFlags::empty(), &to).unwrap();
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// `snd_nxt` and `rcv_nxt` of an idle connection, by TCP_REPAIR (CAP_NET_ADMIN).
fn sequence_numbers(socket: &TcpStream) -> io::Result<(u32, u32)> {
    const REPAIR_ON: i32 = 1;
    /// Without the window probe that leaving repair mode sends (v4.19).
    const REPAIR_OFF_NO_PROBE: i32 = -1;
    const RECV_QUEUE: i32 = 1;
    const SEND_QUEUE: i32 = 2;
    option(socket, libc::TCP_REPAIR, Some(REPAIR_ON))?;
    option(socket, libc::TCP_REPAIR_QUEUE, Some(SEND_QUEUE))?;
    let seq = option(socket, libc::TCP_QUEUE_SEQ, None)?;
    option(socket, libc::TCP_REPAIR_QUEUE, Some(RECV_QUEUE))?;
    let ack = option(socket, libc::TCP_QUEUE_SEQ, None)?;
    option(socket, libc::TCP_REPAIR, Some(REPAIR_OFF_NO_PROBE))?;
    Ok((seq as u32, ack as u32))
}

/// Sets a TCP option of one int, or reads it.
fn option(socket: &TcpStream, name: i32, set: Option<i32>) -> io::Result<i32> {
    let fd = socket.as_fd().as_raw_fd();
    let mut value = set.unwrap_or_default();
    let mut size = size_of::<i32>() as libc::socklen_t;
    let pointer = (&raw mut value).cast();
    let result = match set {
        // SAFETY: four bytes are read from `value`.
        Some(_) => unsafe { libc::setsockopt(fd, libc::IPPROTO_TCP, name, pointer, size) },
        // SAFETY: at most four bytes are written to `value`.
        None => unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, name, pointer, &raw mut size) },
    };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// Another program has a verdict on the downstream's socket, so that the kernel refuses it after it
/// has taken the upstream's.
#[tokio::test]
async fn overlapping_segments_are_delivered_once_to_a_socket_that_was_refused() {
    if skip_without_privileges() {
        return;
    }
    let _machine = MACHINE.read().await;
    let (cx, other) = (context(4), context(4));
    let (ends, elsewhere) = (Ends::connect().await, Ends::connect().await);
    let taken = other.kernel.tunnel(ends.downstream.as_fd(), elsewhere.upstream.as_fd());
    drop(taken.map_err(|refused| format!("{refused:?}")).unwrap());
    let text: Vec<u8> = Noise::bytes(17, 20_000);
    let case = async |mut client: TcpStream, mut node: TcpStream| {
        client.write_all(b"question").await.unwrap();
        node.read_exact(&mut [0; 8]).await.unwrap();
        let forger = Forger::of(&node);
        for (from, to) in [(0, 8), (4, 12), (10, 10_000), (100, 20_000)] {
            forger.send(from as u32, &text[from..to]);
        }
        let mut received = vec![0; text.len()];
        client.read_exact(&mut received).await.unwrap();
        assert!(received == text);
        node.set_zero_linger().unwrap();
    };
    let (transfer, ()) = ends.run(&cx, case).await;
    let refused = Some(Fallback::Refused(TunnelRefused::Stranded));
    assert_eq!((transfer.sent.total(), transfer.recv.total()), (text.len() as u64, 8));
    assert_eq!((transfer.via, transfer.fallback), (Via::User, refused));
    assert_kernel_is_content();
}

#[tokio::test]
async fn overlapping_segments_are_delivered_once() {
    if skip_without_privileges() {
        return;
    }
    let _machine = MACHINE.read().await;
    let cx = context(4);
    let counted = Counted::start(&cx.kernel);
    let text: Vec<u8> = Noise::bytes(13, 30_000);
    let case = async |client: TcpStream, mut node: TcpStream| {
        let forger = Forger::of(&client);
        let send = |from: usize, to: usize| forger.send(from as u32, &text[from..to]);
        let mut seen = 0;
        let mut arrives = async |up_to: usize| {
            let mut bytes = vec![0; up_to - seen];
            node.read_exact(&mut bytes).await.unwrap();
            assert!(bytes == text[seen..up_to], "{seen}..{up_to}");
            seen = up_to;
        };
        send(0, 8);
        arrives(8).await;
        // Sent again with more behind it.
        send(4, 12);
        arrives(12).await;
        // Ahead of its turn, then what fills the gap and overlaps on both sides.
        send(16, 24);
        send(10, 20);
        arrives(24).await;
        // More than the kernel cuts in one call.
        send(24, 10_000);
        arrives(10_000).await;
        send(100, 20_000);
        arrives(20_000).await;
        // All of it again, then something new.
        send(0, 20_000);
        send(20_000, 30_000);
        arrives(30_000).await;
        client.set_zero_linger().unwrap();
    };
    let (transfer, ()) = Ends::connect().await.run(&cx, case).await;
    assert_eq!((transfer.recv.total(), transfer.via), (text.len() as u64, Via::Sockmap));
    assert_eq!(counted.since("trimmed"), 4);
    counted.check(&["out_of_step", "no_tunnel", "no_peer", "window_full", "following"]);
    assert_kernel_is_content();
}
