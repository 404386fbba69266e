//! Cargo tools: on `PATH`, in the cache, or built into the cache once.

use std::{path::PathBuf, process::Command};

use anyhow::{Result, bail};

use crate::{cache::Cache, command};

#[derive(Clone, Copy)]
pub(crate) enum Tool {
    Deny,
    Fuzz,
}

/// How a tool is called and which version is built.
struct Recipe {
    package: &'static str,
    version: &'static str,
    arguments: &'static [&'static str],
    /// For the message before the wait.
    duration: &'static str,
}

impl Tool {
    fn recipe(self) -> Recipe {
        match self {
            Tool::Deny => Recipe {
                package: "cargo-deny",
                version: "0.20.2",
                // Without the features that only fetching advisories over the network needs.
                arguments: &["--no-default-features"],
                duration: "a few minutes",
            },
            Tool::Fuzz => Recipe {
                package: "cargo-fuzz",
                version: "0.13.2",
                arguments: &[],
                duration: "about a minute",
            },
        }
    }
}

/// Where the tool is. Any version on `PATH` will do; what is built is of one version.
pub(crate) fn find_or_build(cache: &Cache, tool: Tool) -> Result<PathBuf> {
    let Recipe { package, version, arguments, duration } = tool.recipe();
    if let Some(path) = command::find(package) {
        return Ok(path);
    }
    let binary = format!("bin/{package}");
    let entry = cache.entry_or_make(
        &format!("{package}-{version}"),
        |entry| entry.join(&binary).is_file(),
        |stage| {
            println!("building {package} {version}; this takes {duration}, once");
            let mut install = Command::new(command::cargo_program());
            command::without_build_environment(&mut install)
                .args(["install", package, "--version", version, "--locked"])
                .args(arguments)
                // Run once a day for a second; their release profiles cost ten minutes.
                .env("CARGO_PROFILE_RELEASE_LTO", "off")
                .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
                .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
                .arg("--root")
                .arg(stage);
            if command::run(&mut install).is_err() {
                bail!(
                    "{package} is missing and could not be built (see above; this needs crates.io \
                     and a C compiler); `cargo install {package} --version {version} --locked`"
                );
            }
            Ok(())
        },
    )?;
    Ok(entry.join(binary))
}
