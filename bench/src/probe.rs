//! A plain blocking HTTP/1.1 client for the few requests around a load: is the answer the agreed
//! one, does the connection live on, what do the metrics say.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail, ensure};

use crate::load::{chunked::Chunked, response::Head};

/// Longest wait for any part of an answer.
const WAIT_MAX: Duration = Duration::from_secs(10);

pub(crate) struct Client {
    stream: TcpStream,
    buffered: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// As it came.
    pub(crate) head: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, WAIT_MAX)
            .with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(WAIT_MAX))?;
        Ok(Self { stream, buffered: Vec::new() })
    }

    /// One GET; the connection stays open for the next.
    pub(crate) fn get(&mut self, path: &str, fields: &[(&str, &str)]) -> anyhow::Result<Answer> {
        self.exchange(&head("GET", path, fields))
    }

    /// One PUT without a body.
    pub(crate) fn put(&mut self, path: &str) -> anyhow::Result<Answer> {
        self.exchange(&head("PUT", path, &[("content-length", "0")]))
    }

    /// The answer to a request that is given whole.
    pub(crate) fn exchange(&mut self, request: &[u8]) -> anyhow::Result<Answer> {
        self.send(request)?;
        self.answer()
    }

    /// A part of a request.
    pub(crate) fn send(&mut self, part: &[u8]) -> anyhow::Result<()> {
        Ok(self.stream.write_all(part)?)
    }

    /// The answer to what was sent.
    pub(crate) fn answer(&mut self) -> anyhow::Result<Answer> {
        let head = loop {
            match Head::parse(&self.buffered).map_err(|failure| anyhow!("{failure}"))? {
                Some(head) => break head,
                None => self.read()?,
            }
        };
        if head.is_chunked {
            return self.chunked_answer(&head);
        }
        let length = head.content_length.context("an answer without a length")?;
        let end = head.length + usize::try_from(length)?;
        while self.buffered.len() < end {
            self.read()?;
        }
        ensure!(self.buffered.len() == end, "bytes after the answer");
        let body = self.buffered.split_off(head.length);
        let received = std::mem::take(&mut self.buffered);
        Ok(Answer { status: head.status, head: received, body })
    }

    fn chunked_answer(&mut self, head: &Head) -> anyhow::Result<Answer> {
        let (mut chunked, mut body) = (Chunked::new(), Vec::new());
        let mut rest = self.buffered.split_off(head.length);
        let received = std::mem::take(&mut self.buffered);
        loop {
            let fed = chunked.feed(&rest, |data| {
                body.extend_from_slice(data);
                Ok(())
            });
            fed.map_err(|failure| anyhow!("{failure}"))?;
            if chunked.is_complete() {
                return Ok(Answer { status: head.status, head: received, body });
            }
            self.read()?;
            rest = std::mem::take(&mut self.buffered);
        }
    }

    fn read(&mut self) -> anyhow::Result<()> {
        let mut part = [0; 16 * 1024];
        match self.stream.read(&mut part)? {
            0 => bail!("the connection ended early"),
            length => self.buffered.extend_from_slice(&part[..length]),
        }
        Ok(())
    }
}

/// The head of a request. A handful of fields, as a program would send, not a browser.
pub(crate) fn head(method: &str, path: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: bench.test\r\nuser-agent: bench\r\n");
    for (name, value) in fields {
        text.extend([name, ": ", value, "\r\n"]);
    }
    text.push_str("\r\n");
    text.into_bytes()
}
