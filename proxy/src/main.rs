//! `tandem`: arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser;
use proxy::cli::{self, Command};

/// Buffers of a few KiB come and go with every request; glibc returns such blocks the slow way.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let Command { action } = Command::parse();
    match cli::run(action) {
        Ok(code) => code,
        Err(error) => {
            cli::complain(&error);
            ExitCode::FAILURE
        }
    }
}
