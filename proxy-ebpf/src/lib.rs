//! The kernel half of Tandem: what its programs do, apart from their entry points (`main.rs`).
//!
//! Everything compiles for the host too, so that the pure parts are tested and fuzzed there.

#![no_std]

pub mod guard;
pub mod maps;
pub mod packet;
pub mod rate;
pub mod stats;
pub mod worker;
pub mod xdp;
