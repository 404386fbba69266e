//! `user`: reads into a buffer, writes from it.
//!
//! A buffer starts small, because most tunnels never carry much, and grows with what the direction
//! has carried: the sizes after which it does are ztunnel's.

use std::io;

use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::direction::{Direction, Side, readable};

const BUFFER_FIRST: usize = 1 << 10;
const BUFFER_SECOND: usize = 16 << 10;
/// Bytes carried after which a buffer has the second size.
const SECOND_AFTER: u64 = 128 << 10;
/// Bytes carried after which a buffer has the configured ceiling.
const CEILING_AFTER: u64 = 10 << 20;

/// Size of the buffer of a direction that has carried so much, at most `ceiling`.
fn buffer_size(carried: u64, ceiling: usize) -> usize {
    match carried {
        0..SECOND_AFTER => BUFFER_FIRST.min(ceiling),
        SECOND_AFTER..CEILING_AFTER => BUFFER_SECOND.min(ceiling),
        CEILING_AFTER.. => ceiling,
    }
}

/// Carries bytes until the source's stream ends and everything has been written.
pub(super) async fn pump(direction: &mut Direction<'_>, buffer_max: usize) -> Result<(), Side> {
    let mut buffer = Vec::new();
    let mut carried = 0;
    loop {
        buffer.clear();
        // `read_buf` fills the spare capacity; with none it would read 64 bytes at a time.
        buffer.reserve_exact(buffer_size(carried, buffer_max));
        let read = read(direction.source.as_ref(), &mut buffer).await;
        match read.map_err(|error| direction.source_failed(error))? {
            0 => return Ok(()),
            count => carried += count as u64,
        }
        write_all(direction, &buffer).await?;
    }
}

/// Reads what fits. Only "would block" says that the socket is empty: a read ends at an urgent mark
/// as well, where tokio's own would wait for an event that what lies behind the mark has had.
async fn read(source: &TcpStream, buffer: &mut Vec<u8>) -> io::Result<usize> {
    loop {
        match source.try_read_buf(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => readable(source).await?,
            read => return read,
        }
    }
}

pub(super) async fn write_all(direction: &mut Direction<'_>, mut bytes: &[u8]) -> Result<(), Side> {
    while !bytes.is_empty() {
        let written = direction.target.write(bytes).await;
        match written.map_err(|error| direction.target_failed(error))? {
            0 => return Err(direction.target_failed(io::ErrorKind::WriteZero.into())),
            count => {
                direction.progress.record(count);
                bytes = &bytes[count..];
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_grow_with_what_was_carried_up_to_the_ceiling() {
        let check = |carried, ceiling, expected| {
            assert_eq!(buffer_size(carried, ceiling), expected, "{carried} {ceiling}");
        };
        check(0, 256 << 10, 1 << 10);
        check((128 << 10) - 1, 256 << 10, 1 << 10);
        check(128 << 10, 256 << 10, 16 << 10);
        check(10 << 20, 256 << 10, 256 << 10);
        check(u64::MAX, 256 << 10, 256 << 10);
        check(0, 512, 512);
        check(128 << 10, 4 << 10, 4 << 10);
        check(10 << 20, 4 << 10, 4 << 10);
    }
}
