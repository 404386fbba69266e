//! What the kernel half and the userspace half of Tandem agree on.
#![no_std]
