//! Builds, runs and tests Tandem.
fn main() {}
