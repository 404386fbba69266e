//! What the kernel half and the userspace half of Tandem agree on: the layout of what they share,
//! the names they find each other by, and the limits both keep. Nothing here decides anything.
//!
//! Both compilers build this crate and both run its compile-time layout checks, so they cannot
//! disagree in silence.

#![no_std]

pub mod addr;
pub mod bypass;
pub mod globals;
pub mod guard;
pub mod layout;
pub mod leg;
pub mod limits;
pub mod names;
pub mod steering;
pub mod tunnel;
pub mod verdict;

pub use verdict::Reason;

/// Version of everything in this crate that both halves depend on. A change of a layout, of a
/// [`Reason`]'s number or of a global's meaning raises it; userspace refuses an object that carries
/// another one.
pub const ABI_VERSION: u32 = 7;
