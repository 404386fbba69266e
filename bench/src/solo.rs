//! Tandem with a configuration of the caller's, and nobody to compare it with.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tempfile::TempDir;

use crate::{
    placement::Placement,
    process::{Program, Site},
    tandem,
};

/// Where the configuration is, and nothing else: whenever something happens there, or in the directory
/// above, the proxy reads the file again.
const CONFIG: &str = "rules/now";

/// A proxy that serves. Dropping it ends it and removes its directory.
pub(crate) struct Solo {
    program: Program,
    directory: TempDir,
}

impl Solo {
    /// Starts it as the last arguments of `wrapper` and waits until it listens on `address`, which is
    /// what `config` says.
    pub(crate) fn start(
        wrapper: impl FnOnce(&Path) -> Vec<String>,
        tandem: &Path,
        placement: &Placement,
        (config, address): (&str, SocketAddr),
        longest: Duration,
    ) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("tandem-bench-").tempdir()?;
        let file = file_in(&directory);
        fs::create_dir_all(directory.path().join(CONFIG))?;
        fs::write(&file, config)?;
        let mut command = wrapper(directory.path());
        command.extend(tandem::command(tandem, &file));
        let log = directory.path().join("log");
        let site = Site { cpus: &placement.proxy, namespace: None };
        let mut program = Program::start(&command, site, &log)?;
        program.wait_until_listening(address, Instant::now(), longest).with_context(|| {
            let log = fs::read_to_string(&log).unwrap_or_default();
            format!("{}: {}", command.join(" "), log.trim())
        })?;
        Ok(Self { program, directory })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.program.pid()
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Puts another configuration in the place of the one it has.
    pub(crate) fn reconfigure(&self, config: &str) -> anyhow::Result<()> {
        let aside = self.directory.path().join(CONFIG).join("aside");
        fs::write(&aside, config)?;
        Ok(fs::rename(aside, file_in(&self.directory))?)
    }

    /// What it has said so far.
    pub(crate) fn log(&self) -> anyhow::Result<String> {
        Ok(fs::read_to_string(self.directory.path().join("log"))?)
    }
}

fn file_in(directory: &TempDir) -> PathBuf {
    directory.path().join(CONFIG).join("tandem.yaml")
}

/// Nothing stands before it.
pub(crate) fn bare(_directory: &Path) -> Vec<String> {
    Vec::new()
}
