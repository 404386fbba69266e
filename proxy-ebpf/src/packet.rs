//! The only raw packet access: bounds-checked reads of headers, from Ethernet to TCP.
//!
//! A frame enters, a [`Segment`] leaves, or the [`Reason`] why the frame is not for us to judge.
//! Nothing is written and no map is touched, so the same code runs over bytes on the host.

use core::{marker::PhantomData, mem::size_of};

use proxy_common::{
    Reason,
    addr::{Address, Destination},
    limits,
};

/// Ethernet types, network order.
mod ether_type {
    pub(super) const IPV4: [u8; 2] = 0x0800_u16.to_be_bytes();
    pub(super) const IPV6: [u8; 2] = 0x86dd_u16.to_be_bytes();
    /// 802.1Q, customer tag.
    pub(super) const VLAN: [u8; 2] = 0x8100_u16.to_be_bytes();
    /// 802.1ad, provider tag.
    pub(super) const PROVIDER_VLAN: [u8; 2] = 0x88a8_u16.to_be_bytes();
}

/// IP protocol numbers, which are also the numbers of IPv6 extension headers.
mod protocol {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const TCP: u8 = 6;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(super) const DESTINATION_OPTIONS: u8 = 60;
}

/// What the guard has to know of a TCP segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub source: Address,
    pub destination: Destination,
    pub kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// SYN without ACK: asks for a new connection.
    Opening,
    /// Anything else.
    Following,
}

/// The bytes of one frame.
#[derive(Clone, Copy)]
pub struct Frame<'a> {
    start: usize,
    end: usize,
    bytes: PhantomData<&'a [u8]>,
}

impl<'a> Frame<'a> {
    /// The bytes between two addresses, as a context gives them.
    ///
    /// # Safety
    /// They stay readable for `'a`.
    #[inline(always)]
    pub unsafe fn between(start: usize, end: usize) -> Self {
        Self { start, end, bytes: PhantomData }
    }

    /// Reads the header that starts `offset` bytes into the frame.
    ///
    /// The comparison has the form that the verifier recognises as a bounds check of a packet
    /// pointer: pointer plus offset plus size against the end of the packet.
    #[inline(always)]
    fn read<T: Header>(self, offset: usize) -> Result<T, Reason> {
        let header = self.start + offset;
        if header + size_of::<T>() > self.end {
            return Err(Reason::TooShort);
        }
        // SAFETY: the check above keeps the read inside the frame, whose bytes live for `'a`; a
        // `Header` has alignment 1 and accepts every bit pattern.
        Ok(unsafe { (header as *const T).read() })
    }
}

impl<'a> From<&'a [u8]> for Frame<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        let range = bytes.as_ptr_range();
        Self { start: range.start as usize, end: range.end as usize, bytes: PhantomData }
    }
}

/// Headers as they are on the wire.
///
/// # Safety
///
/// The type has alignment 1, no padding, and every bit pattern is a value of it.
unsafe trait Header: Copy {}

macro_rules! headers {
    ($($(#[$doc:meta])* $name:ident, size = $size:literal { $($field:ident: $type:ty,)+ })+) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy)]
        #[repr(C)]
        struct $name { $($field: $type,)+ }

        const _: () = assert!(size_of::<$name>() == $size && align_of::<$name>() == 1);

        // SAFETY: bytes and arrays of bytes only, as the assert on the alignment shows.
        unsafe impl Header for $name {}
    )+ };
}

headers! {
    Ethernet, size = 14 { _destination: [u8; 6], _source: [u8; 6], ether_type: [u8; 2], }
    /// What follows the ether type of a tag.
    Vlan, size = 4 { _tag: [u8; 2], ether_type: [u8; 2], }
    /// RFC 791 section 3.1, without options.
    Ipv4, size = 20 {
        version_and_length: u8,
        _service: u8,
        total_length: [u8; 2],
        _identification: [u8; 2],
        flags_and_fragment: [u8; 2],
        _time_to_live: u8,
        protocol: u8,
        _checksum: [u8; 2],
        source: [u8; 4],
        destination: [u8; 4],
    }
    /// RFC 8200 section 3.
    Ipv6, size = 40 {
        version_and_class: u8,
        _class_and_flow: [u8; 3],
        payload_length: [u8; 2],
        next_header: u8,
        _hop_limit: u8,
        source: [u8; 16],
        destination: [u8; 16],
    }
    /// The start of every IPv6 extension header that is read (RFC 8200 section 4, RFC 4302).
    Extension, size = 4 { next_header: u8, length: u8, fragment: [u8; 2], }
    /// What TCP starts with.
    Ports, size = 4 { _source: [u8; 2], destination: [u8; 2], }
    /// RFC 9293 section 3.1, without options.
    Tcp, size = 20 {
        _ports: [u8; 4],
        _sequence: [u8; 4],
        _acknowledgment: [u8; 4],
        _data_offset: u8,
        flags: u8,
        _window: [u8; 2],
        _checksum: [u8; 2],
        _urgent: [u8; 2],
    }
}

/// Reads a frame down to TCP.
///
/// A first fragment is read like a whole packet, so that fragmenting a SYN does not hide it, and one
/// too short to have flags counts as a SYN. The fragments that follow carry no ports and cannot be told from those of other services.
#[inline(always)]
pub fn parse(frame: Frame<'_>) -> Result<Segment, Reason> {
    let (ether_type, offset) = link(frame)?;
    match ether_type {
        ether_type::IPV4 => ipv4(frame, offset),
        ether_type::IPV6 => ipv6(frame, offset),
        ether_type::VLAN | ether_type::PROVIDER_VLAN => Err(Reason::VlanTooDeep),
        _ => Err(Reason::NotIp),
    }
}

/// Ethernet and VLAN tags: the ether type of what follows them, and where that starts.
#[inline(always)]
fn link(frame: Frame<'_>) -> Result<([u8; 2], usize), Reason> {
    let mut offset = size_of::<Ethernet>();
    let mut ether_type = frame.read::<Ethernet>(0)?.ether_type;
    for _ in 0..limits::VLAN_TAGS_MAX {
        if ether_type != ether_type::VLAN && ether_type != ether_type::PROVIDER_VLAN {
            break;
        }
        ether_type = frame.read::<Vlan>(offset)?.ether_type;
        offset += size_of::<Vlan>();
    }
    Ok((ether_type, offset))
}

#[inline(always)]
fn ipv4(frame: Frame<'_>, offset: usize) -> Result<Segment, Reason> {
    let header: Ipv4 = frame.read(offset)?;
    let header_length = usize::from(header.version_and_length & 0x0f) * 4;
    if header.version_and_length >> 4 != 4 || header_length < size_of::<Ipv4>() {
        return Err(Reason::Malformed);
    }
    if header.protocol != protocol::TCP {
        return Err(Reason::NotTcp);
    }
    // 13 bits of fragment offset; "more fragments" alone is the first one.
    if u16::from_be_bytes(header.flags_and_fragment) & 0x1fff != 0 {
        return Err(Reason::LaterFragment);
    }
    let end = end(offset, header.total_length);
    let (source, destination) = (Address::v4(header.source), Address::v4(header.destination));
    tcp(frame, offset + header_length, end, source, destination)
}

#[inline(always)]
fn ipv6(frame: Frame<'_>, offset: usize) -> Result<Segment, Reason> {
    let header: Ipv6 = frame.read(offset)?;
    if header.version_and_class >> 4 != 6 {
        return Err(Reason::Malformed);
    }
    let offset = offset + size_of::<Ipv6>();
    let end = end(offset, header.payload_length);
    let offset = transport(frame, header.next_header, offset)?;
    let (source, destination) = (Address::v6(header.source), Address::v6(header.destination));
    tcp(frame, offset, end, source, destination)
}

/// Where a packet ends in its frame: what comes after that is padding. A length of 0 stands for one
/// that 16 bits cannot say, of segments that were merged.
#[inline(always)]
fn end(offset: usize, length: [u8; 2]) -> usize {
    match u16::from_be_bytes(length) {
        0 => usize::MAX,
        length => offset + usize::from(length),
    }
}

/// Skips extension headers: where TCP starts.
#[inline(always)]
fn transport(frame: Frame<'_>, mut next_header: u8, mut offset: usize) -> Result<usize, Reason> {
    for _ in 0..limits::EXTENSION_HEADERS_MAX {
        if next_header == protocol::TCP {
            return Ok(offset);
        }
        let (next, length) = extension(frame, next_header, offset)?;
        next_header = next;
        offset += length;
    }
    match next_header {
        protocol::TCP => Ok(offset),
        protocol::HOP_BY_HOP
        | protocol::ROUTING
        | protocol::FRAGMENT
        | protocol::AUTHENTICATION
        | protocol::DESTINATION_OPTIONS => Err(Reason::ExtensionTooDeep),
        _ => Err(Reason::NotTcp),
    }
}

/// One extension header of the given kind: the kind of the next one, and this one's length.
#[inline(always)]
fn extension(frame: Frame<'_>, kind: u8, offset: usize) -> Result<(u8, usize), Reason> {
    match kind {
        protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS => {
            let header: Extension = frame.read(offset)?;
            Ok((header.next_header, (usize::from(header.length) + 1) * 8))
        }
        protocol::FRAGMENT => {
            let header: Extension = frame.read(offset)?;
            // The upper 13 bits are the offset.
            if u16::from_be_bytes(header.fragment) >> 3 != 0 {
                return Err(Reason::LaterFragment);
            }
            Ok((header.next_header, 8))
        }
        protocol::AUTHENTICATION => {
            let header: Extension = frame.read(offset)?;
            Ok((header.next_header, (usize::from(header.length) + 2) * 4))
        }
        // Another transport, or a header that hides what follows it (ESP).
        _ => Err(Reason::NotTcp),
    }
}

#[inline(always)]
fn tcp(
    frame: Frame<'_>,
    offset: usize,
    end: usize,
    source: Address,
    destination: Address,
) -> Result<Segment, Reason> {
    if offset + size_of::<Ports>() > end {
        return Err(Reason::TooShort);
    }
    let ports: Ports = frame.read(offset)?;
    let kind = if offset + size_of::<Tcp>() > end { Kind::Opening } else { kind(frame, offset)? };
    Ok(Segment { source, destination: Destination::new(destination, ports.destination), kind })
}

#[inline(always)]
fn kind(frame: Frame<'_>, offset: usize) -> Result<Kind, Reason> {
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    let header: Tcp = frame.read(offset)?;
    Ok(if header.flags & (SYN | ACK) == SYN { Kind::Opening } else { Kind::Following })
}

#[cfg(test)]
mod tests;
