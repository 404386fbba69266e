//! Running other programs: every failure names the command line and the end of what it said.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, bail};

/// How many lines of a failed program's stderr are repeated.
const STDERR_LINES_MAX: usize = 15;

/// Set by cargo, rustup or the user for the build of xtask itself; a nested build must not see them.
const BUILD_ENVIRONMENT: [&str; 11] = [
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_TARGET_DIR",
    "LD_LIBRARY_PATH",
    "RUSTC",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOC",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
];

/// Runs a program to its end, its output going to the terminal.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}`: {status}", shown(command));
    }
    Ok(())
}

/// Runs a program to its end and returns its stdout.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{}`: {}\n{}", shown(command), output.status, tail(&stderr));
    }
    String::from_utf8(output.stdout).with_context(|| format!("output of `{}`", shown(command)))
}

/// Runs a program to its end and returns everything it said, whatever its exit code.
pub(crate) fn output(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).output().with_context(|| format!("start `{}`", shown(command)))
}

/// The cargo that runs xtask.
pub(crate) fn cargo_program() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// The cargo that runs xtask, building for the machine it runs on with the user's own settings.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(cargo_program());
    command.current_dir(crate::workspace::root());
    command
}

/// Hides from `command` what was set for the build of xtask.
pub(crate) fn without_build_environment(command: &mut Command) -> &mut Command {
    for name in BUILD_ENVIRONMENT {
        command.env_remove(name);
    }
    command
}

/// Where `PATH` has `program`.
pub(crate) fn find(program: impl AsRef<Path>) -> Option<PathBuf> {
    let directories = std::env::var_os("PATH")?;
    std::env::split_paths(&directories)
        .map(|directory| directory.join(program.as_ref()))
        .find(|path| path.is_file())
}

/// The command line, for people.
pub(crate) fn shown(command: &Command) -> String {
    let mut line = String::new();
    for word in std::iter::once(command.get_program()).chain(command.get_args()) {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&OsStr::to_string_lossy(word));
    }
    line
}

/// The last lines of `text`, indented.
pub(crate) fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let start = lines.len().saturating_sub(STDERR_LINES_MAX);
    lines[start..].iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}
