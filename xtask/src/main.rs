//! Builds, runs and tests Tandem: five subcommands that do not grow with the code.
//!
//! Nothing here is needed for a plain `cargo build` or `cargo test`; those give a userspace-only
//! binary. What this program fetches goes to the user's cache directory, never into the system.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool: its output is what it is for"
)]

mod apt;
mod bench;
mod build_ebpf;
mod cache;
mod cargo_build;
mod children;
mod command;
mod lint;
mod peers;
mod run;
mod test;
mod tidy;
mod tool;
mod wheel;
mod workspace;

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Builds, runs and tests Tandem")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Builds the kernel half into target/bpf/tandem.bpf.o, fetching what that needs.
    BuildEbpf,
    /// Builds everything and runs the quick start on loopback.
    Run {
        /// Sends the README's sample requests, prints what became of them, and stops.
        #[arg(long)]
        check: bool,
        /// Arguments for `tandem run`; `-c FILE`, not with `--check`, replaces
        /// examples/quickstart.yaml.
        #[arg(last = true)]
        arguments: Vec<OsString>,
    },
    /// Checks formatting, invariants, clippy on both targets, documentation, licences.
    Lint,
    /// Runs every rung of tests and counts what passed, failed and was skipped.
    Test {
        /// Lints first, and counts each step of it too.
        #[arg(long)]
        lint: bool,
    },
    /// Builds everything and passes the arguments on to bench/.
    #[command(disable_help_flag = true)]
    Bench {
        /// Arguments for bench/; `--help` shows them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    if let Some(error) = children::become_if_held() {
        eprintln!("error: {error}");
        return ExitCode::FAILURE;
    }
    let outcome = match Arguments::parse().task {
        Task::BuildEbpf => build_ebpf::run().map(|()| ExitCode::SUCCESS),
        Task::Run { check, arguments } => {
            let purpose = if check { run::Purpose::Check } else { run::Purpose::Serve };
            run::run(purpose, &arguments)
        }
        Task::Lint => lint::run().map(|()| ExitCode::SUCCESS),
        Task::Test { lint } => test::run(lint),
        Task::Bench { arguments } => bench::run(&arguments),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
