//! Tandem under callgrind: the instructions of its own process from one moment to another, the same
//! on every machine with the same compiler.
//!
//! One process is asked for its counts as often as need be, by way of valgrind's debugging stub
//! (`vgdb`), so that starting up, which takes seconds there, is neither repeated nor counted.

use std::{env, fs, net::SocketAddr, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, ensure};

use crate::{placement::Placement, solo::Solo};

/// How long ten thousand routes may take to be read, fifty times as slow as elsewhere.
const START_MAX: Duration = Duration::from_secs(180);

/// Where callgrind writes; each part has its number behind it.
const OUT: &str = "callgrind.out";

/// A proxy whose instructions are counted; dropping it ends it.
pub(crate) struct Counted {
    proxy: Solo,
    parts: u32,
}

impl Counted {
    /// Starts it with the text of a configuration that has it listen on `address`.
    pub(crate) fn start(
        tandem: &Path,
        placement: &Placement,
        config: (&str, SocketAddr),
    ) -> anyhow::Result<Self> {
        let wrapper = |directory: &Path| {
            let out = format!("--callgrind-out-file={}", directory.join(OUT).display());
            vec!["valgrind".to_owned(), "--tool=callgrind".to_owned(), out]
        };
        Ok(Self { proxy: Solo::start(wrapper, tandem, placement, config, START_MAX)?, parts: 0 })
    }

    /// What comes from here on is counted.
    pub(crate) fn begin(&self) -> anyhow::Result<()> {
        self.tell("zero")
    }

    /// What was counted since the beginning, or since this was last asked, in callgrind's format
    /// (<https://valgrind.org/docs/manual/cl-format.html>).
    pub(crate) fn take(&mut self) -> anyhow::Result<String> {
        self.tell("dump")?;
        self.parts += 1;
        let part = self.proxy.directory().join(format!("{OUT}.{}", self.parts));
        let text = fs::read_to_string(&part).context("callgrind left no counts")?;
        fs::remove_file(&part)?;
        Ok(text)
    }

    fn tell(&self, order: &str) -> anyhow::Result<()> {
        let pid = format!("--pid={}", self.proxy.pid());
        // As in xtask/src/peers.rs.
        let vgdb = env::var_os("TANDEM_BENCH_VGDB").unwrap_or_else(|| "vgdb".into());
        let output = Command::new(vgdb).args([&pid, order]).output().context("start vgdb")?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "vgdb {order}: {}", error.trim());
        Ok(())
    }
}

/// All instructions of what [`Counted::take`] returns.
pub(crate) fn total(profile: &str) -> anyhow::Result<u64> {
    let total = profile.lines().find_map(|line| line.strip_prefix("totals: "));
    Ok(total.context("callgrind has no total")?.trim().parse()?)
}

/// What is missing for the count.
pub(crate) fn absence(tandem: &Path) -> Option<String> {
    if !tandem.exists() {
        return Some(format!("no binary at {}; cargo build --profile counted", tandem.display()));
    }
    let found = Command::new("valgrind").arg("--version").output();
    let is_there = found.is_ok_and(|output| output.status.success());
    (!is_there).then(|| "valgrind is not installed; apt-get install valgrind".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_read_and_nothing_else() {
        let profile = "events: Ir\nsummary: 0\n\nfn=(9)\n0 6\n\ntotals: 61\n";
        assert_eq!(total(profile).unwrap(), 61);
        assert!(total("summary: 7\n").is_err());
    }
}
