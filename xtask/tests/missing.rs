//! What `cargo xtask build-ebpf` says on machines that lack something: each time with the command
//! that gets it. Every tool is a script of ours, and `PATH` has nothing else.

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path, process::Command};

/// A program on the machine's `PATH` (or elsewhere, by its path) and the script that it is.
type Tool = (&'static str, &'static str);

/// What is on a machine, and what the error has to say.
struct Case {
    machine: &'static [&'static [Tool]],
    says: &'static [&'static str],
}

const HOST: &[Tool] =
    &[("rustc", "echo 'rustc 1.95.0'; echo 'release: 1.95.0'; echo 'LLVM version: 22.1.2'")];
const LINKER: &[Tool] = &[("bpf-linker", "echo 'bpf-linker 0.10.3'")];

const NO_NIGHTLY: &[Tool] = &[("rustup", "echo stable-x")];
const NIGHTLY: &[Tool] = &[
    (
        "rustup",
        "case $1 in toolchain) echo nightly-x ;; *) echo \"$HOME/nightly/bin/rustc\" ;; esac",
    ),
    (
        "../nightly/bin/rustc",
        "echo 'rustc 1.97.0-nightly'; echo 'release: 1.97.0-nightly'; echo 'LLVM version: 21.1.0'",
    ),
];
const RUST_SRC: &[Tool] = &[("../nightly/lib/rustlib/src/rust/library/core/src/lib.rs", "")];
const OLD: &[Tool] = &[(
    "../nightly/bin/rustc",
    "echo 'rustc 1.80.0-nightly'; echo 'release: 1.80.0-nightly'; echo 'LLVM version: 22.1.0'",
)];
const LLVM_OF_TOMORROW: &[Tool] = &[(
    "../nightly/bin/rustc",
    "echo 'rustc 1.99.0-nightly'; echo 'release: 1.99.0-nightly'; echo 'LLVM version: 23.1.0'",
)];

const USER: &[Tool] = &[("id", "echo 1000")];
const ROOT: &[Tool] = &[("id", "echo 0")];
/// Lists that have nothing.
const APT: &[Tool] =
    &[("apt-get", "exit 0"), ("apt-cache", "echo '  Candidate: (none)'"), ("dpkg", "exit 0")];
const OLD_LISTS: &[Tool] = &[("apt-cache", "echo '  Candidate: 1.85.0+dfsg3'")];
const NEW_LISTS: &[Tool] =
    &[("apt-cache", "case $1 in policy) echo '  Candidate: 1.96.0+dfsg1' ;; *) ;; esac")];
const NO_NETWORK: &[Tool] =
    &[("apt-get", "echo 'E: Failed to fetch x  Could not resolve y' >&2; exit 100")];

const GET_RUSTUP: &str =
    "`curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y`";
const GET_NIGHTLY: &str =
    "`rustup toolchain install nightly --profile minimal --component rust-src`";
const UPDATE: &str = "`sudo apt-get update`";
const ADD_SUITE: &str = "/etc/apt/sources.list.d/security.list && sudo apt-get update`";

const CASES: &[Case] = &[
    Case {
        machine: &[HOST, LINKER],
        says: &["rustup is not on PATH", GET_RUSTUP, GET_NIGHTLY, "`apt-get` is missing"],
    },
    Case { machine: &[HOST, LINKER, NO_NIGHTLY], says: &["no nightly", GET_NIGHTLY] },
    Case {
        machine: &[HOST, LINKER, NIGHTLY],
        says: &["no rust-src", "`rustup component add rust-src --toolchain nightly-x`"],
    },
    Case {
        machine: &[HOST, LINKER, NIGHTLY, RUST_SRC, OLD],
        says: &["is Rust 1.80, but", GET_NIGHTLY],
    },
    // The linker is made for the host's LLVM 22.
    Case {
        machine: &[HOST, LINKER, NIGHTLY, RUST_SRC],
        says: &[
            "has LLVM 21, but the linker is for LLVM 22",
            "`cargo install bpf-linker --version 0.10.3 --locked --no-default-features --features \
             rust-llvm-21`",
        ],
    },
    Case {
        machine: &[HOST, LINKER, NIGHTLY, RUST_SRC, LLVM_OF_TOMORROW],
        says: &[
            "has LLVM 23",
            "`rustup toolchain install nightly-2026-05-20 --profile minimal --component rust-src`",
        ],
    },
    Case {
        machine: &[HOST, LINKER, APT, USER],
        says: &["package rustc-web is not in the package lists", UPDATE, ADD_SUITE],
    },
    Case {
        machine: &[HOST, LINKER, APT, ROOT],
        says: &["also after `apt-get update`", "rustc-web is not in the package lists", ADD_SUITE],
    },
    Case {
        machine: &[HOST, LINKER, APT, ROOT, OLD_LISTS],
        says: &["rustc-web 1.85.0+dfsg3 is too old", ADD_SUITE],
    },
    Case {
        machine: &[HOST, LINKER, APT, USER, NEW_LISTS, NO_NETWORK],
        says: &["Could not resolve y; is there a network?", UPDATE],
    },
    Case {
        machine: &[HOST, LINKER, APT, ROOT, NEW_LISTS, NO_NETWORK],
        says: &["`apt-get update`: E: ", "Could not resolve y; is there a network?", UPDATE],
    },
    Case {
        machine: &[HOST, &[("cargo", "exit 1")]],
        says: &[
            "bpf-linker is missing and could not be built",
            "`cargo install bpf-linker --version 0.10.3 --locked --no-default-features --features \
             rust-llvm-22`",
        ],
    },
];

#[test]
fn what_is_missing_is_named_with_the_command_that_gets_it() {
    for Case { machine, says } in CASES {
        let home = tempfile::tempdir().unwrap();
        let bin = home.path().join("bin");
        // Later tools replace earlier ones of the same name.
        for (name, script) in machine.iter().copied().flatten() {
            put(&bin.join(name), script).unwrap();
        }
        // As `cargo install` leaves it.
        let receipt = r#"{"installs":{"bpf-linker 0.10.3 (x)":{"features":["rust-llvm-22"]}}"#;
        fs::write(home.path().join(".crates2.json"), receipt).unwrap();
        let mut build = Command::new(env!("CARGO_BIN_EXE_xtask"));
        build.arg("build-ebpf").env_clear().env("HOME", home.path()).env("PATH", &bin);
        let output = build.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        for words in *says {
            assert!(stderr.contains(words), "not `{words}` in: {stderr}");
        }
    }
}

fn put(path: &Path, script: &str) -> io::Result<()> {
    fs::create_dir_all(path.parent().expect("within the machine"))?;
    fs::write(path, format!("#!/bin/sh\n{script}\n"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}
