//! The kernel half of Tandem.
#![no_std]
