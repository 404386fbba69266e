//! Building with cargo and learning where the results are, wherever the target directory is.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command;

/// A program cargo made.
pub(crate) struct Executable {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

/// Runs `cargo ARGUMENTS`, its messages for people going to the terminal.
pub(crate) fn executables(arguments: &[&str]) -> Result<Vec<Executable>> {
    let mut cargo = command::cargo();
    cargo.args(arguments).arg("--message-format=json-render-diagnostics");
    let output = cargo
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("start `{}`", command::shown(&cargo)))?;
    if !output.status.success() {
        bail!("`cargo {}`: {}", arguments.join(" "), output.status);
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    Ok(messages.lines().filter_map(executable).collect())
}

/// Builds the release binary `name` of `package`.
pub(crate) fn release(package: &str, name: &str) -> Result<PathBuf> {
    profile("release", package, name)
}

/// Builds the binary `name` of `package` in a profile.
pub(crate) fn profile(profile: &str, package: &str, name: &str) -> Result<PathBuf> {
    let arguments = ["build", "--profile", profile, "--package", package, "--bin", name];
    let built = executables(&arguments)?;
    let found = built.into_iter().find(|executable| executable.name == name);
    Ok(found.with_context(|| format!("cargo made no `{name}`"))?.path)
}

/// `program`, started as cargo would start it, from the root of the clone.
pub(crate) fn start(program: PathBuf) -> Command {
    let mut command = Command::new(program);
    command.current_dir(crate::workspace::root());
    command
}

fn executable(message: &str) -> Option<Executable> {
    let message: Value = serde_json::from_str(message).ok()?;
    let path = message.get("executable")?.as_str()?;
    let name = message.get("target")?.get("name")?.as_str()?;
    Some(Executable { name: name.to_owned(), path: path.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_executables_from_cargos_messages() {
        let found = |message: &str| executable(message).map(|e| (e.name, e.path));
        let artifact = r#"{"reason":"compiler-artifact","target":{"name":"kernel"},"executable":"/t/kernel-1"}"#;
        assert_eq!(found(artifact), Some(("kernel".to_owned(), "/t/kernel-1".into())));
        let library = r#"{"reason":"compiler-artifact","target":{"name":"x"},"executable":null}"#;
        assert_eq!(found(library), None);
        assert_eq!(found(r#"{"reason":"build-finished","success":true}"#), None);
        assert_eq!(found("running 3 tests"), None);
    }
}
