//! Debian packages without installing them: looked up, downloaded and unpacked into a directory.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context, Result, bail};

use crate::command;

/// How deep dependencies are followed while libraries are missing.
const DEPENDENCY_LAYERS_MAX: usize = 4;

/// Never unpacked: a second C library beside the running one breaks every program that sees it.
const NEVER_UNPACKED: [&str; 3] = ["libc6", "libgcc-s1", "libstdc++6"];

/// Where packages keep libraries, under a directory they were unpacked into.
pub(crate) fn library_directory(root: &Path) -> PathBuf {
    root.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH))
}

/// Refuses a machine that does not have the tools for this.
pub(crate) fn require() -> Result<()> {
    for tool in ["apt-get", "apt-cache", "dpkg"] {
        if command::find(tool).is_none() {
            bail!("`{tool}` is missing, this is not Debian or Ubuntu");
        }
    }
    Ok(())
}

/// Does `attempt`; if it fails, brings the package lists up to date and does it once more.
/// Missing lists look like missing packages, and old ones name files the mirror no longer has.
pub(crate) fn with_lists<T>(attempt: impl Fn() -> Result<T>) -> Result<T> {
    let first = match attempt() {
        Ok(done) => return Ok(done),
        Err(first) => first,
    };
    if !is_root() {
        bail!("{first:#}; if the package lists are missing or old: `sudo apt-get update`");
    }
    static UPDATE: OnceLock<Result<(), String>> = OnceLock::new();
    let update = UPDATE.get_or_init(|| {
        println!("apt: {first:#}");
        println!("apt: bringing the package lists up to date (`apt-get update`)");
        apt_get("update", &[], Path::new("/")).map_err(|error| format!("{error:#}"))
    });
    attempt().with_context(|| match update {
        Ok(()) => "also after `apt-get update`".to_owned(),
        Err(error) => format!("{error} Once there is: `sudo apt-get update`"),
    })
}

/// The version that would be installed, if the lists have the package.
pub(crate) fn candidate(package: &str) -> Result<Option<String>> {
    Ok(parse_candidate(&command::read(quiet("apt-cache").args(["policy", package]))?))
}

/// The packages that `package` depends on, virtual ones left out.
pub(crate) fn dependencies(package: &str) -> Result<Vec<String>> {
    Ok(parse_depends(&command::read(quiet("apt-cache").args(["depends", package]))?))
}

/// Downloads `packages` (`name` or `name=version`) and unpacks them into `root`.
pub(crate) fn unpack(packages: &[String], root: &Path) -> Result<()> {
    let archives = root.join(".archives");
    fs::create_dir_all(&archives).with_context(|| format!("make {}", archives.display()))?;
    // Before the merge of /lib into /usr/lib some packages still have the old path.
    fs::create_dir_all(root.join("usr/lib"))?;
    if !root.join("lib").exists() {
        std::os::unix::fs::symlink("usr/lib", root.join("lib"))?;
    }
    apt_get("download", packages, &archives)?;
    for archive in fs::read_dir(&archives)? {
        let archive = archive?.path();
        command::read(quiet("dpkg").arg("-x").arg(&archive).arg(root))?;
    }
    fs::remove_dir_all(&archives).with_context(|| format!("remove {}", archives.display()))
}

/// Unpacks what `packages` depend on, layer by layer, until `program` (a path below `root`) finds
/// every library it is linked with.
pub(crate) fn complete(program: &str, packages: &[String], root: &Path) -> Result<()> {
    let mut layer = packages.to_vec();
    let mut seen = layer.clone();
    for _ in 0..DEPENDENCY_LAYERS_MAX {
        if missing_libraries(&root.join(program), root)?.is_empty() {
            return Ok(());
        }
        let mut next = Vec::new();
        for package in &layer {
            for dependency in dependencies(package)? {
                if !seen.contains(&dependency) && is_worth_unpacking(&dependency)? {
                    seen.push(dependency.clone());
                    next.push(dependency);
                }
            }
        }
        if next.is_empty() {
            break;
        }
        unpack(&next, root)?;
        layer = next;
    }
    match missing_libraries(&root.join(program), root)?.as_slice() {
        [] => Ok(()),
        missing => bail!("`{program}` of the packages lacks {}", missing.join(", ")),
    }
}

fn is_worth_unpacking(package: &str) -> Result<bool> {
    if NEVER_UNPACKED.contains(&package) || !package.starts_with("lib") {
        return Ok(false);
    }
    let mut query = quiet("dpkg-query");
    let output = command::output(query.args(["-W", "-f", "${db:Status-Abbrev}", package]))?;
    Ok(!(output.status.success() && output.stdout.starts_with(b"ii")))
}

fn missing_libraries(program: &Path, root: &Path) -> Result<Vec<String>> {
    let mut ldd = quiet("ldd");
    ldd.arg(program).env("LD_LIBRARY_PATH", library_directory(root));
    Ok(parse_missing(&command::read(&mut ldd)?))
}

/// As root, apt would try to download as another user, who cannot write to our directory.
const APT_GET: [&str; 8] = [
    "-o",
    "APT::Sandbox::User=root",
    "-o",
    "Acquire::Retries=2",
    "-o",
    "Acquire::http::Timeout=30",
    "-o",
    "Acquire::https::Timeout=30",
];

/// Its errors repeat themselves for every file; the first says what is wrong.
fn apt_get(task: &str, packages: &[String], directory: &Path) -> Result<()> {
    let mut apt_get = quiet("apt-get");
    let output =
        command::output(apt_get.args(APT_GET).arg(task).args(packages).current_dir(directory))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let why = stderr.lines().find(|line| line.starts_with("E: ")).unwrap_or("no reason given");
        let line = [&[task.to_owned()], packages].concat().join(" ");
        bail!("`apt-get {line}`: {why}; is there a network?");
    }
    Ok(())
}

fn quiet(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
    command
}

pub(crate) fn is_root() -> bool {
    command::read(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}

fn parse_candidate(policy: &str) -> Option<String> {
    let candidate = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    Some(candidate.to_owned()).filter(|version| version != "(none)")
}

fn parse_depends(depends: &str) -> Vec<String> {
    depends
        .lines()
        .filter_map(|line| line.trim_start().trim_start_matches('|').strip_prefix("Depends: "))
        .filter(|name| !name.starts_with('<'))
        .map(|name| name.trim().to_owned())
        .collect()
}

fn parse_missing(ldd: &str) -> Vec<String> {
    let mut missing: Vec<String> = ldd
        .lines()
        .filter_map(|line| line.trim().strip_suffix("=> not found"))
        .map(|name| name.trim().to_owned())
        .collect();
    missing.sort();
    missing.dedup();
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_candidate_version() {
        fn check(policy: &str, expected: Option<&str>) {
            assert_eq!(parse_candidate(policy).as_deref(), expected, "{policy}");
        }
        check(
            "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n  Version table:\n",
            Some("1.96.0+dfsg1-1~deb12u2"),
        );
        check("rustc-web:\n  Installed: 1.0\n  Candidate: (none)\n", None);
        check("", None);
    }

    #[test]
    fn reads_real_dependencies_and_leaves_virtual_ones_out() {
        let text = "rustc-web\n  Depends: libc6\n  Depends: libstd-rust-web-dev\n  Depends: gcc\n  \
                    Depends: <libc-dev>\n    libc6-dev\n |Depends: clang-16\n  Conflicts: rustc\n  \
                    Recommends: cargo-web\n";
        assert_eq!(parse_depends(text), ["libc6", "libstd-rust-web-dev", "gcc", "clang-16"]);
        assert!(parse_depends("").is_empty());
    }

    #[test]
    fn reads_missing_libraries_from_ldd() {
        let text = "\tlinux-vdso.so.1 (0x00007f)\n\tlibLLVM.so.22.1 => not found\n\t\
                    libc.so.6 => /lib/libc.so.6 (0x00007f)\n\tlibLLVM.so.22.1 => not found\n";
        assert_eq!(parse_missing(text), ["libLLVM.so.22.1"]);
        assert!(parse_missing("\tstatically linked\n").is_empty());
    }
}
