//! `tandem`: arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser;
use proxy::cli::{self, Command};

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
