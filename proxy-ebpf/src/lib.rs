//! The kernel half of Tandem: what its programs do, apart from their entry points (`main.rs`).
//!
//! Everything compiles for the host too, so that the pure parts are tested and fuzzed there.

#![cfg_attr(target_arch = "bpf", no_std)]

#[cfg(not(target_arch = "bpf"))]
pub mod frame;
pub mod guard;
pub mod maps;
pub mod packet;
pub mod rate;
pub mod stats;
pub mod worker;
pub mod xdp;
