//! Attaches `ingress` to the interfaces that were asked for.

use std::os::fd::OwnedFd;

use anyhow::{Context as _, anyhow};
use aya::programs::{
    ProgramError, Xdp,
    links::FdLink,
    xdp::{XdpLink, XdpMode as AyaMode},
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice::name_to_index, socket_with};

use super::interface::Interface;
use crate::config::{self, XdpMode};

/// `ingress` on one interface, until dropped.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) interface: String,
    pub(super) mode: Mode,
    /// Of the interface. One that is made anew under the same name has another, and no program.
    index: u32,
    namespace: Namespace,
    _link: FdLink,
}

impl Attached {
    fn is_there(&self) -> bool {
        self.namespace.index_of(&self.interface).is_ok_and(|index| index == self.index)
    }
}

/// The network namespace in which it was made: a socket stays in there, whoever asks it.
#[derive(Debug)]
struct Namespace(OwnedFd);

impl Namespace {
    fn own() -> anyhow::Result<Namespace> {
        let socket =
            socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
        Ok(Namespace(socket.context("open a socket")?))
    }

    fn index_of(&self, interface: &str) -> anyhow::Result<u32> {
        Ok(name_to_index(&self.0, interface)?)
    }
}

/// How it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// In the driver.
    Native,
    /// In the network stack, after the buffer was allocated.
    Generic,
}

impl Mode {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    const fn of_aya(self) -> AyaMode {
        match self {
            Self::Native => AyaMode::Driver,
            Self::Generic => AyaMode::Skb,
        }
    }
}

/// Where it runs, for people.
pub(super) fn describe(attached: &[Attached]) -> String {
    let on = attached.iter().map(|on| format!("{} {}", on.interface, on.mode.label()));
    on.collect::<Vec<_>>().join(", ")
}

/// How it runs over all interfaces that are still there; `None` if on none.
pub(super) fn mode_label(attached: &[Attached]) -> Option<&'static str> {
    let mut modes = attached.iter().filter(|on| on.is_there()).map(|on| on.mode);
    let first = modes.next()?;
    Some(if modes.all(|mode| mode == first) { first.label() } else { "mixed" })
}

/// Why it does not run everywhere any more; `None`: it does.
pub(super) fn loss(attached: &[Attached]) -> Option<String> {
    let lost = attached.iter().filter(|on| !on.is_there()).map(|on| on.interface.as_str());
    let lost: Vec<_> = lost.collect();
    (!lost.is_empty()).then(|| {
        let lost = lost.join("`, `");
        format!("`{lost}`: deleted since, or made anew; a restart attaches it again")
    })
}

/// Attaches to every interface, or to none: half a guard is worse to reason about than the one in
/// userspace, which holds in any case.
pub(super) fn attach(program: &mut Xdp, xdp: &config::Xdp) -> anyhow::Result<Vec<Attached>> {
    xdp.interfaces.iter().map(|interface| attach_one(program, interface, xdp.mode)).collect()
}

fn attach_one(program: &mut Xdp, interface: &str, mode: XdpMode) -> anyhow::Result<Attached> {
    let namespace = Namespace::own()?;
    let index = readable_index_of(&namespace, interface)
        .with_context(|| format!("interface `{interface}`"))?;
    let modes: &[Mode] = match mode {
        XdpMode::Auto => &[Mode::Native, Mode::Generic],
        XdpMode::Native => &[Mode::Native],
        XdpMode::Generic => &[Mode::Generic],
    };
    let mut failed = anyhow!("no mode to try");
    for &mode in modes {
        match try_attach(program, index, mode) {
            Ok(link) => {
                tracing::info!(interface, mode = mode.label(), "guarding in XDP");
                let interface = interface.to_owned();
                return Ok(Attached { interface, mode, index, namespace, _link: link });
            }
            Err(error) => {
                failed = error.context(format!("attach xdp to `{interface}`, {}", mode.label()));
            }
        }
        if let Some(owner) = Interface::ask(index).ok().and_then(|known| known.xdp_program()) {
            return Err(anyhow!(
                "attach xdp to `{interface}`: it already runs XDP program {owner}; detach that one or take the interface out of `kernel.xdp.interfaces`"
            ));
        }
    }
    Err(failed)
}

/// Attaches by a link. Where there are none aya attaches by netlink instead; such a program would
/// stay when this process is killed, so it is taken off again.
fn try_attach(program: &mut Xdp, interface_index: u32, mode: Mode) -> anyhow::Result<FdLink> {
    let id = program.attach_to_if_index(interface_index, mode.of_aya())?;
    let link: XdpLink = program.take_link(id).map_err(|error: ProgramError| error)?;
    FdLink::try_from(link).context("the kernel gave no link for it")
}

/// The index of an interface whose frames `ingress` can read.
fn readable_index_of(namespace: &Namespace, interface: &str) -> anyhow::Result<u32> {
    let index = namespace.index_of(interface)?;
    Interface::ask(index)?.check_ethernet()?;
    Ok(index)
}
