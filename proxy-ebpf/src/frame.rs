//! Builds frames for tests, layer by layer, as one would say them:
//! `eth().vlan(7).ipv4(source, destination).tcp(80, SYN)`.
//!
//! Host only. Checksums stay zero; nobody reads them here.

use std::net::{Ipv4Addr, Ipv6Addr};

/// TCP flags.
pub const SYN: u8 = 0x02;
pub const ACK: u8 = 0x10;
pub const RST: u8 = 0x04;

/// A frame that ends after some layer. Each layer writes the number of the next one into the one
/// before.
#[derive(Debug, Clone)]
pub struct Frame {
    bytes: Vec<u8>,
    next: Next,
    /// Where the last IP header starts.
    header: usize,
    length: Option<Length>,
}

/// Where an IP header says how long it is, and where that length starts to count.
#[derive(Debug, Clone, Copy)]
struct Length {
    at: usize,
    from: usize,
}

/// Where the number of the next layer belongs.
#[derive(Debug, Clone, Copy)]
enum Next {
    EtherType(usize),
    Protocol(usize),
}

/// An Ethernet header.
pub fn eth() -> Frame {
    let mut bytes = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2];
    bytes.extend([0xff, 0xff]);
    Frame { bytes, next: Next::EtherType(12), header: 0, length: None }
}

impl Frame {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A customer tag.
    pub fn vlan(self, id: u16) -> Self {
        self.tag(0x8100, id)
    }

    /// A provider tag.
    pub fn provider_vlan(self, id: u16) -> Self {
        self.tag(0x88a8, id)
    }

    pub fn arp(self) -> Self {
        self.ether_type(0x0806).append(&[0; 28])
    }

    pub fn ipv4(self, source: Ipv4Addr, destination: Ipv4Addr) -> Self {
        let mut frame = self.ether_type(0x0800);
        frame.header = frame.bytes.len();
        frame.next = Next::Protocol(frame.header + 9);
        frame.length = Some(Length { at: frame.header + 2, from: frame.header });
        frame
            .append(&[0x45, 0, 0, 0, 0, 1, 0, 0, 64, 0xff, 0, 0])
            .append(&source.octets())
            .append(&destination.octets())
    }

    /// The IPv4 header's length in words; options of no operation fill it.
    pub fn ihl(mut self, words: u8) -> Self {
        self.bytes[self.header] = 0x40 | words;
        let options = usize::from(words.saturating_sub(5)) * 4;
        self.append(&vec![1; options])
    }

    /// The version nibble of the last IP header.
    pub fn version(mut self, version: u8) -> Self {
        let byte = &mut self.bytes[self.header];
        *byte = *byte & 0x0f | version << 4;
        self
    }

    /// Flags and fragment offset (in eight bytes) of the IPv4 header.
    pub fn fragment(self, offset: u16, more: More) -> Self {
        let at = self.header + 6;
        let more = match more {
            More::Follow => 0x2000,
            More::Last => 0,
        };
        self.write(at, &(more | offset).to_be_bytes())
    }

    /// The IPv4 flag "don't fragment".
    pub fn dont_fragment(self) -> Self {
        let at = self.header + 6;
        self.write(at, &0x4000_u16.to_be_bytes())
    }

    pub fn ipv6(self, source: Ipv6Addr, destination: Ipv6Addr) -> Self {
        let mut frame = self.ether_type(0x86dd);
        frame.header = frame.bytes.len();
        frame.next = Next::Protocol(frame.header + 6);
        frame.length = Some(Length { at: frame.header + 4, from: frame.header + 40 });
        frame
            .append(&[0x60, 0, 0, 0, 0, 0, 0xff, 64])
            .append(&source.octets())
            .append(&destination.octets())
    }

    /// A hop-by-hop (0), routing (43) or destination options (60) header of `8 + 8 * more` bytes.
    pub fn extension(self, kind: u8, more: u8) -> Self {
        self.protocol(kind).append(&[0xff, more]).append(&vec![0; 6 + usize::from(more) * 8])
    }

    pub fn fragment_header(self, offset: u16, more: More) -> Self {
        let more = match more {
            More::Follow => 1,
            More::Last => 0,
        };
        let [high, low] = (offset << 3 | more).to_be_bytes();
        self.protocol(44).append(&[0xff, 0, high, low, 0, 0, 0, 1])
    }

    pub fn authentication_header(self) -> Self {
        self.protocol(51).append(&[0xff, 4]).append(&[0; 22])
    }

    /// Some other protocol or extension header, with bytes that mean nothing.
    pub fn other(self, protocol: u8) -> Self {
        self.protocol(protocol).append(&[0; 24])
    }

    pub fn tcp(self, port: u16, flags: u8) -> Self {
        self.protocol(6)
            .append(&40_000_u16.to_be_bytes())
            .append(&port.to_be_bytes())
            .append(&[0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0])
    }

    /// The first eight bytes of TCP, which is the least that a fragment has.
    pub fn tcp_start(self, port: u16) -> Self {
        self.protocol(6)
            .append(&40_000_u16.to_be_bytes())
            .append(&port.to_be_bytes())
            .append(&[0, 0, 0, 1])
    }

    pub fn udp(self, port: u16) -> Self {
        self.protocol(17)
            .append(&40_000_u16.to_be_bytes())
            .append(&port.to_be_bytes())
            .append(&[0, 8, 0, 0])
    }

    /// Bytes behind the packet, which its length leaves out.
    pub fn padding(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// The length that the last IP header says.
    pub fn length(self, length: u16) -> Self {
        let at = self.length.expect("an IP header").at;
        self.write(at, &length.to_be_bytes())
    }

    /// Only the first bytes of it.
    pub fn cut(mut self, length: usize) -> Self {
        self.bytes.truncate(length);
        self
    }

    fn tag(self, ether_type: u16, id: u16) -> Self {
        let mut frame = self.ether_type(ether_type).append(&id.to_be_bytes());
        frame.next = Next::EtherType(frame.bytes.len());
        frame.append(&[0xff, 0xff])
    }

    fn ether_type(self, ether_type: u16) -> Self {
        match self.next {
            Next::EtherType(at) => self.write(at, &ether_type.to_be_bytes()),
            Next::Protocol(_) => panic!("an ether type after an IP header"),
        }
    }

    fn protocol(self, protocol: u8) -> Self {
        let start = self.bytes.len();
        let mut frame = match self.next {
            Next::Protocol(at) => self.write(at, &[protocol]),
            Next::EtherType(_) => panic!("a protocol before an IP header"),
        };
        // Where an extension header has its next header.
        frame.next = Next::Protocol(start);
        frame
    }

    fn write(mut self, at: usize, bytes: &[u8]) -> Self {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn append(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        match self.length {
            Some(Length { at, from }) => {
                // Shorter than its header while that is written.
                let length = self.bytes.len().saturating_sub(from) as u16;
                self.write(at, &length.to_be_bytes())
            }
            None => self,
        }
    }
}

/// Whether a fragment has others after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum More {
    Follow,
    Last,
}
