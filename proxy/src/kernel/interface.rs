//! What rtnetlink says of an interface: what its frames start with, and which XDP program it already
//! runs.
//!
//! aya can attach a program but not ask who is there.

use anyhow::{Context as _, ensure};
use aya::programs::loaded_programs;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send};

/// rtnetlink(7), linux/rtnetlink.h and linux/if_link.h.
mod rtnetlink {
    pub(super) const HEADER_SIZE: usize = 16;
    pub(super) const IFINFO_SIZE: usize = 16;
    /// `ifi_type`, in the answer.
    pub(super) const TYPE_AT: usize = HEADER_SIZE + 2;
    pub(super) const NEWLINK: u16 = 16;
    pub(super) const GETLINK: u16 = 18;
    pub(super) const REQUEST: u16 = 1;
    /// `IFLA_XDP`; what is nested in it: the id of the program, by mode if there are several.
    pub(super) const XDP: u16 = 43;
    pub(super) const XDP_PROGRAM_IDS: [u16; 4] = [4, 5, 6, 7];
    /// Type of an attribute without its flags (`NLA_TYPE_MASK`).
    pub(super) const TYPE_MASK: u16 = 0x3fff;
}

/// `ARPHRD_*` of linux/if_arp.h.
mod hardware {
    pub(super) const ETHERNET: u16 = 1;
    pub(super) const LOOPBACK: u16 = 772;
}

/// One interface's answer is a few KiB; statistics and XDP come early in it.
const ANSWER_SIZE: usize = 32 * 1024;

/// What is known of one interface.
pub(super) struct Interface {
    answer: Vec<u8>,
}

impl Interface {
    pub(super) fn ask(index: u32) -> anyhow::Result<Interface> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None,
        )
        .context("open a netlink socket")?;
        send(&socket, &request(index), SendFlags::empty()).context("ask rtnetlink")?;
        let mut answer = vec![0; ANSWER_SIZE];
        let (size, _) =
            recv(&socket, &mut answer[..], RecvFlags::empty()).context("hear rtnetlink")?;
        answer.truncate(size);
        Ok(Interface { answer })
    }

    /// Describes the program that runs on the interface, `None` if there is none.
    pub(super) fn xdp_program(&self) -> Option<String> {
        let id = xdp_program(&self.answer)?;
        let program = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id);
        let name = program.as_ref().and_then(|program| program.name_as_str()).unwrap_or_default();
        Some(format!("`{name}` (program id {id})"))
    }

    /// # Errors
    /// The frames of the interface do not start with an Ethernet header.
    pub(super) fn check_ethernet(&self) -> anyhow::Result<()> {
        let hardware = hardware(&self.answer).context("rtnetlink does not know it")?;
        ensure!(
            matches!(hardware, hardware::ETHERNET | hardware::LOOPBACK),
            "its frames have no Ethernet header (hardware type {hardware}), so the guard cannot read them; take it out of `kernel.xdp.interfaces`"
        );
        Ok(())
    }
}

/// `RTM_GETLINK` for one interface.
fn request(interface_index: u32) -> Vec<u8> {
    let size = (rtnetlink::HEADER_SIZE + rtnetlink::IFINFO_SIZE) as u32;
    let mut message = Vec::with_capacity(size as usize);
    message.extend(size.to_ne_bytes());
    message.extend(rtnetlink::GETLINK.to_ne_bytes());
    message.extend(rtnetlink::REQUEST.to_ne_bytes());
    message.extend([0; 8]); // sequence number, port
    message.extend([0; 4]); // family, padding, type
    message.extend(interface_index.to_ne_bytes());
    message.extend([0; 8]); // flags, change
    message
}

fn is_interface(answer: &[u8]) -> bool {
    let kind = answer.get(4..).and_then(|rest| rest.first_chunk());
    kind.is_some_and(|kind| u16::from_ne_bytes(*kind) == rtnetlink::NEWLINK)
}

/// The hardware type in the answer to [`request`].
fn hardware(answer: &[u8]) -> Option<u16> {
    let hardware = answer.get(rtnetlink::TYPE_AT..)?.first_chunk()?;
    is_interface(answer).then_some(u16::from_ne_bytes(*hardware))
}

/// The program id in the answer to [`request`].
fn xdp_program(answer: &[u8]) -> Option<u32> {
    if !is_interface(answer) {
        return None;
    }
    let attributes = answer.get(rtnetlink::HEADER_SIZE + rtnetlink::IFINFO_SIZE..)?;
    let (_, xdp) = Attributes(attributes).find(|(kind, _)| *kind == rtnetlink::XDP)?;
    Attributes(xdp)
        .filter(|(kind, _)| rtnetlink::XDP_PROGRAM_IDS.contains(kind))
        .filter_map(|(_, value)| value.first_chunk().map(|id| u32::from_ne_bytes(*id)))
        .find(|id| *id != 0)
}

/// Netlink attributes: length and type, the value, padding to four bytes.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes(*self.0.first_chunk()?));
        let kind = u16::from_ne_bytes(*self.0.get(2..)?.first_chunk()?) & rtnetlink::TYPE_MASK;
        // A length below the header's own makes the range empty and ends the iteration.
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = 4 + value.len();
        let mut bytes = (length as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(length.next_multiple_of(4), 0);
        bytes
    }

    fn answer(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = vec![0; 32];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes.extend(attributes.concat());
        bytes
    }

    #[test]
    fn finds_the_program_in_any_mode() {
        let name = attribute(3, b"veth0\0");
        let none = attribute(43, &attribute(2, &[0]));
        assert_eq!(xdp_program(&answer(16, &[name.clone(), none])), None);
        for kind in [4_u16, 5, 6] {
            let nested = [attribute(2, &[1]), attribute(kind, &77_u32.to_ne_bytes())].concat();
            // IFLA_XDP comes with NLA_F_NESTED.
            let xdp = attribute(43 | 0x8000, &nested);
            assert_eq!(xdp_program(&answer(16, &[name.clone(), xdp])), Some(77));
        }
    }

    #[test]
    fn frames_without_an_ethernet_header_are_refused() {
        let check = |hardware: u16, is_read: bool| {
            let mut answer = answer(16, &[]);
            answer[18..20].copy_from_slice(&hardware.to_ne_bytes());
            assert_eq!(Interface { answer }.check_ethernet().is_ok(), is_read, "{hardware}");
        };
        check(1, true);
        check(772, true);
        check(0xfffe, false);
        check(512, false);
        assert!(Interface { answer: answer(2, &[]) }.check_ethernet().is_err());
    }

    #[test]
    fn reads_nothing_into_errors_and_cut_answers() {
        let xdp = attribute(43, &attribute(4, &77_u32.to_ne_bytes()));
        let whole = answer(16, std::slice::from_ref(&xdp));
        assert_eq!(xdp_program(&whole), Some(77));
        for cut in 0..whole.len() {
            assert_eq!(xdp_program(&whole[..cut]), None);
        }
        assert_eq!(xdp_program(&answer(2, &[xdp])), None);
        assert_eq!(xdp_program(&answer(16, &[vec![0; 8]])), None);
    }
}
