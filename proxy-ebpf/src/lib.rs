//! The pure parts of the kernel half: what its programs decide, without maps, clocks or contexts.
//!
//! Compiled for the kernel and for the host, where it is tested and fuzzed. The programs themselves
//! are the binary (`main.rs`). Nothing here uses `aya_ebpf`: linked into a host program, that crate's
//! byte-by-byte `memcpy` would replace libc's.

#![cfg_attr(target_arch = "bpf", no_std, feature(asm_experimental_arch))]

pub mod choice;
pub mod course;
pub mod direct;
#[cfg(not(target_arch = "bpf"))]
pub mod frame;
pub mod head;
pub mod packet;
pub mod rate;
pub mod window;
