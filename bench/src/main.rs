//! Scenarios, load, peers and demo nodes for Tandem.
fn main() {}
