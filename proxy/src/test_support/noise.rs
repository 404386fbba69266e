//! Bytes to be carried, and how much of them a connection takes.

use std::{io::ErrorKind, time::Duration};

use tokio::{net::TcpStream, time::timeout};

/// Half of what [`periodic`] makes, bytes.
const PERIOD: usize = 65_536;

/// Bytes that look random and differ by seed (xorshift64*).
pub struct Noise(pub u64);

impl Noise {
    #[expect(clippy::should_implement_trait, reason = "it has no end")]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
        let mut noise = Noise(seed);
        std::iter::repeat_with(|| noise.next().to_le_bytes()).flatten().take(len).collect()
    }
}

/// Two equal halves of 64 KiB: the stream that [`stuff`] writes repeats the first.
pub fn periodic(seed: u64) -> Vec<u8> {
    Noise::bytes(seed, PERIOD).repeat(2)
}

/// Writes what [`periodic`] has made until nothing has been taken for a while; returns how much was.
///
/// # Panics
/// The connection has ended.
pub async fn stuff(socket: &TcpStream, pattern: &[u8]) -> usize {
    let mut taken = 0;
    loop {
        match socket.try_write(&pattern[taken % PERIOD..][..PERIOD]) {
            Ok(count) => taken += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if timeout(Duration::from_millis(300), socket.writable()).await.is_err() {
                    return taken;
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
}
