//! A client just good enough for our own samples: one request after the other on one connection.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail};

/// For each step of an exchange.
const WAIT: Duration = Duration::from_secs(5);
const BODY_SIZE_MAX: u64 = 4 << 20;

pub(super) struct Http {
    stream: BufReader<TcpStream>,
    address: SocketAddr,
}

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

impl Http {
    pub(super) fn connect(address: SocketAddr) -> Result<Http> {
        Ok(Http { stream: BufReader::new(connect(address)?), address })
    }

    /// Our end, as the proxy sees it.
    pub(super) fn local_address(&self) -> Result<SocketAddr> {
        self.stream.get_ref().local_addr().context("address of our end")
    }

    pub(super) fn get(&mut self, path: &str, key: Option<&str>) -> Result<Answer> {
        let key = key.map_or(String::new(), |key| format!("apikey: {key}\r\n"));
        let head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{key}\r\n", self.address);
        self.stream.get_mut().write_all(head.as_bytes()).context("send")?;
        let (status, length) = self.head()?;
        let mut body = Vec::new();
        let wanted = length.min(BODY_SIZE_MAX);
        self.stream.by_ref().take(wanted).read_to_end(&mut body).context("read the body")?;
        if body.len() as u64 != length {
            bail!("the body has {} of {length} bytes", body.len());
        }
        Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
    }

    /// Status and content length.
    fn head(&mut self) -> Result<(u16, u64)> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).context("read the head")?;
            match line.trim_end() {
                "" if line.is_empty() => bail!("the connection was closed without an answer"),
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        parse_head(&lines).with_context(|| format!("cannot read the head {lines:?}"))
    }
}

fn parse_head(lines: &[String]) -> Option<(u16, u64)> {
    let status = lines.first()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let length = lines.iter().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    })?;
    Some((status, length))
}

/// Sends `sent`, and nothing after it; returns our address and everything that came back.
pub(super) fn echo(address: SocketAddr, sent: &[u8]) -> Result<(SocketAddr, Vec<u8>)> {
    let mut stream = connect(address)?;
    let local = stream.local_addr().context("address of our end")?;
    stream.write_all(sent).context("send")?;
    let mut received = vec![0; sent.len()];
    stream.read_exact(&mut received).context("read what was sent")?;
    stream.shutdown(Shutdown::Write).context("shut down")?;
    stream.take(BODY_SIZE_MAX).read_to_end(&mut received).context("read to the end")?;
    Ok((local, received))
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, WAIT)
        .with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(WAIT))?;
    stream.set_write_timeout(Some(WAIT))?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_status_and_length() {
        fn check(lines: &[&str], expected: Option<(u16, u64)>) {
            let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
            assert_eq!(parse_head(&lines), expected, "{lines:?}");
        }
        check(&["HTTP/1.1 200 OK", "Content-Length: 12"], Some((200, 12)));
        check(&["HTTP/1.1 401 Unauthorized", "server: tandem", "content-length:0"], Some((401, 0)));
        check(&["HTTP/1.1 200 OK", "transfer-encoding: chunked"], None);
        check(&["SSH-2.0-OpenSSH", "content-length: 1"], None);
        check(&[], None);
    }
}
