use super::*;

/// A flow whose peer is at sequence number `base`, with what the program does beside admitting.
struct Tunnel {
    flow: Flow,
    base: u32,
    delivered: u64,
    written: u64,
    acknowledged: u64,
}

impl Tunnel {
    fn new(base: u32) -> Tunnel {
        let flow = Flow {
            redirected: 0,
            passed: 0,
            last_ns: 0,
            state: 0,
            next_seq: 0,
            base_seq: 0,
            mark: 0,
            charged_before: 0,
            charged_after: 0,
            trimmed: 0,
            reserved: 0,
        };
        Tunnel { flow, base, delivered: 0, written: 0, acknowledged: 0 }
    }

    fn offer(&mut self, len: u32, truesize: u32) -> bool {
        let seq = |bytes: u64| self.base.wrapping_add(bytes as u32);
        let (write_seq, snd_una) = (seq(self.written), seq(self.acknowledged));
        let peer = Peer { delivered: self.delivered, write_seq, snd_una };
        let is_admitted = admit(&mut self.flow, peer, Buffer { len, truesize });
        if is_admitted {
            self.flow.redirected += u64::from(len);
        }
        is_admitted
    }

    /// The worker writes, the peer acknowledges.
    fn take(&mut self, bytes: u64) {
        self.written += bytes;
        self.acknowledged = self.written;
    }

    fn queued(&self) -> u64 {
        self.flow.redirected + self.delivered - self.written
    }
}

#[test]
fn a_worker_that_does_not_run_gets_one_queue() {
    for (len, truesize) in [(1448, 2304), (1, 768)] {
        let mut tunnel = Tunnel::new(7);
        let admitted = (0..10_000).filter(|_| tunnel.offer(len, truesize)).count();
        assert_eq!(admitted as u32, (TUNNEL_QUEUE_MAX / truesize).min(TUNNEL_WINDOW / len));
    }
}

#[test]
fn a_peer_that_does_not_read_gets_one_window() {
    let mut tunnel = Tunnel::new(7);
    let mut admitted = 0;
    for _ in 0..10_000 {
        admitted += u32::from(tunnel.offer(65_536, 70_000));
        tunnel.written += tunnel.queued();
    }
    assert_eq!(admitted, TUNNEL_WINDOW / 65_536);
    tunnel.acknowledged += 65_535;
    assert!(!tunnel.offer(65_536, 70_000));
    tunnel.acknowledged += 1;
    assert!(tunnel.offer(65_536, 70_000));
}

#[test]
fn a_peer_that_keeps_up_gets_everything() {
    let mut tunnel = Tunnel::new(u32::MAX - 100_000);
    for _ in 0..200_000 {
        assert!(tunnel.offer(65_536, 70_000));
        tunnel.take(tunnel.queued());
    }
}

#[test]
fn a_peer_that_is_always_a_little_behind_gets_everything() {
    let mut tunnel = Tunnel::new(u32::MAX - 100_000);
    for _ in 0..200_000 {
        assert!(tunnel.offer(65_536, 70_000), "{:?}", tunnel.flow);
        tunnel.take(tunnel.queued().saturating_sub(8 * 65_536));
    }
}

#[test]
fn memory_queued_never_exceeds_its_bound() {
    // Segments of one byte whose peer takes one for each two that come.
    let mut tunnel = Tunnel::new(0);
    for _ in 0..100_000 {
        tunnel.offer(1, 768);
        tunnel.offer(1, 768);
        tunnel.take(u64::from(tunnel.queued() > 0));
        assert!(tunnel.queued() * 768 <= u64::from(TUNNEL_QUEUE_MAX));
    }
}

#[test]
fn bytes_that_userspace_wrote_before_the_first_redirect_are_not_queued() {
    let mut tunnel = Tunnel::new(1_000);
    tunnel.delivered = 300;
    tunnel.take(300);
    assert!(tunnel.offer(10, 1_000));
    assert_eq!((tunnel.flow.base_seq, tunnel.queued()), (1_000, 10));
}
