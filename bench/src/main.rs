//! Scenarios, load, peers and demo nodes for Tandem.
//!
//! Everything is measured from outside: the binaries under test are started as an operator would
//! start them, and this crate never links the proxy.

#![forbid(unsafe_code)]

mod node;
mod pattern;
mod slots;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "bench", about = "Scenarios, load, peers and demo nodes for Tandem")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A node to stand behind a proxy; prints `listening ADDRESS` and ends with its parent.
    Node {
        #[command(subcommand)]
        kind: node::Kind,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Node { kind } => node::run(&kind),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "the one place that reports an error")]
            {
                eprintln!("bench: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}
