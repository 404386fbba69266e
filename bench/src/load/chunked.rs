//! Takes chunked framing off a body, however it is cut: what a chunk is called on its way is up to
//! each proxy, so only the data in it can be compared.

use super::response::Failure;

/// A size line with its extensions, or a line ending, is no longer than this.
const LINE_SIZE_MAX: usize = 256;

#[derive(Debug)]
pub(crate) struct Chunked {
    at: At,
    /// The part of the current line that has come.
    line: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Size,
    /// Bytes of data left.
    Data(u64),
    DataEnd,
    /// Behind the last chunk; nobody sends us trailers.
    LastLine,
    Complete,
}

impl Chunked {
    pub(crate) const fn new() -> Self {
        Self { at: At::Size, line: Vec::new() }
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.at == At::Complete
    }

    /// Gives what is data in `input` to `data`, piece by piece.
    pub(crate) fn feed(
        &mut self,
        mut input: &[u8],
        mut data: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        while !input.is_empty() {
            match self.at {
                At::Complete => return Err(Failure::Surplus),
                At::Data(left) => {
                    let count = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                    let (piece, rest) = input.split_at(count);
                    data(piece)?;
                    let left = left - count as u64;
                    self.at = if left == 0 { At::DataEnd } else { At::Data(left) };
                    input = rest;
                }
                At::Size | At::DataEnd | At::LastLine => input = self.take_line(input)?,
            }
        }
        Ok(())
    }

    /// Takes a line, or the part of it that is there; returns what is behind it.
    fn take_line<'i>(&mut self, input: &'i [u8]) -> Result<&'i [u8], Failure> {
        let end = memchr::memchr(b'\n', input);
        let (part, rest) = input.split_at(end.map_or(input.len(), |end| end + 1));
        self.line.extend_from_slice(part);
        if self.line.len() > LINE_SIZE_MAX {
            return Err(Failure::Malformed);
        }
        if end.is_some() {
            let line = self.line.strip_suffix(b"\r\n").ok_or(Failure::Malformed)?;
            self.at = match self.at {
                At::Size => match size(line)? {
                    0 => At::LastLine,
                    size => At::Data(size),
                },
                At::DataEnd if line.is_empty() => At::Size,
                At::LastLine if line.is_empty() => At::Complete,
                At::DataEnd | At::LastLine | At::Data(_) | At::Complete => {
                    return Err(Failure::Malformed);
                }
            };
            self.line.clear();
        }
        Ok(rest)
    }
}

fn size(line: &[u8]) -> Result<u64, Failure> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or(line).trim_ascii_end();
    let text = std::str::from_utf8(digits).map_err(|_| Failure::Malformed)?;
    if text.bytes().any(|byte| !byte.is_ascii_hexdigit()) {
        return Err(Failure::Malformed);
    }
    u64::from_str_radix(text, 16).map_err(|_| Failure::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The data, fed in pieces of `cut` bytes, and whether it was all.
    fn dechunked(body: &[u8], cut: usize) -> Result<(Vec<u8>, bool), Failure> {
        let (mut chunked, mut data) = (Chunked::new(), Vec::new());
        for piece in body.chunks(cut) {
            chunked.feed(piece, |piece| {
                data.extend_from_slice(piece);
                Ok(())
            })?;
        }
        Ok((data, chunked.is_complete()))
    }

    #[test]
    fn a_body_is_the_same_however_it_is_cut() {
        let body = b"3\r\nabc\r\n00a;x=1\r\n0123456789\r\n0\r\n\r\n";
        for cut in 1..=body.len() {
            assert_eq!(dechunked(body, cut), Ok((b"abc0123456789".to_vec(), true)), "{cut}");
        }
        for end in 0..body.len() {
            assert!(dechunked(&body[..end], 4).is_ok_and(|(_, is_complete)| !is_complete));
        }
    }

    #[test]
    fn what_is_not_chunked_is_not_taken_for_it() {
        for (body, failure) in [
            (&b"3\nabc\r\n0\r\n\r\n"[..], Failure::Malformed),
            (b"+3\r\nabc\r\n0\r\n\r\n", Failure::Malformed),
            (b"\r\nabc\r\n0\r\n\r\n", Failure::Malformed),
            (b"2\r\nabc\r\n0\r\n\r\n", Failure::Malformed),
            (b"3\r\nabc\r\n0\r\nx: y\r\n\r\n", Failure::Malformed),
            (b"3\r\nabc\r\n0\r\n\r\nHTTP/1.1", Failure::Surplus),
            (&[b'0'; 300], Failure::Malformed),
        ] {
            for cut in [1, 5, 300] {
                assert_eq!(dechunked(body, cut), Err(failure.clone()), "{body:?} {cut}");
            }
        }
    }
}
