//! The architecture's invariants as code: what rustfmt and clippy cannot see.
//!
//! Each rule is a function over one file and comes with a test that breaks it and one that does
//! not. The list stands in ARCHITECTURE.

mod source;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use self::source::Source;

/// Modules that decide and do nothing else: they get time and bytes as arguments.
const PURE: [&str; 15] = [
    "proxy/src/http",
    "proxy/src/route",
    "proxy/src/plugin",
    "proxy/src/pipeline",
    "proxy/src/variable",
    "proxy/src/expression",
    "proxy/src/template",
    "proxy/src/upstream/balance",
    "proxy/src/upstream/health",
    "proxy/src/upstream/hash_key",
    "proxy/src/upstream/retry",
    "proxy/src/upstream/sticky",
    "proxy/src/dns/book",
    "proxy/src/error",
    "proxy/src/guard",
];
/// What a pure module cannot name.
const IMPURE: [&str; 10] = [
    "tokio",
    "hyper",
    "hyper_util",
    "aya",
    "Instant::now",
    "SystemTime::now",
    "std::fs",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
];
/// The only code that has to prove something to the compiler by hand. Integration tests of the
/// kernel half enter namespaces, that of allocations is an allocator; the kernel half itself reads
/// packets.
const UNSAFE_ALLOWED: [&str; 6] = [
    "proxy/src/sys",
    "proxy/src/kernel",
    "proxy/tests/alloc",
    "proxy/tests/kernel",
    "proxy-ebpf/src",
    "proxy-common/src/layout",
];
const AYA_ALLOWED: [&str; 1] = ["proxy/src/kernel"];
const VERDICTS: [&str; 8] = [
    "XDP_PASS",
    "XDP_DROP",
    "XDP_TX",
    "XDP_REDIRECT",
    "XDP_ABORTED",
    "xdp_action",
    "SK_PASS",
    "SK_DROP",
];
/// Roots that have to say at the top how much unsafe code they allow.
const CRATE_ROOTS: [(&str, &str); 3] = [
    ("proxy/src/lib.rs", "#![deny(unsafe_code)]"),
    ("bench/src/main.rs", "#![forbid(unsafe_code)]"),
    ("xtask/src/main.rs", "#![forbid(unsafe_code)]"),
];
/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 8] =
    ["util", "utils", "helper", "helpers", "common", "misc", "types", "stuff"];
const UNFINISHED: [&str; 4] = ["TODO", "FIXME", "XXX", "HACK"];

/// Lines of code, tests apart, after which a file is worth a look, and a hard look.
const FILE_LINES: (usize, usize) = (400, 800);

/// What there is to check; manifests as path and text.
#[derive(Default)]
struct Tree {
    sources: Vec<Source>,
    manifests: Vec<(String, String)>,
}

/// Something against a rule.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    path: String,
    line: usize,
    what: String,
}

/// Checks every file of the clone; an error if a rule is broken. Sizes only warn.
pub(crate) fn run(root: &Path) -> Result<()> {
    let tree = read_tree(root)?;
    let mut findings = Vec::new();
    for source in &tree.sources {
        for rule in RULES {
            rule(source, &mut findings);
        }
        warn_about_size(source);
    }
    for (path, text) in &tree.manifests {
        check_manifest(path, text, &mut findings);
    }
    for Finding { path, line, what } in &findings {
        println!("{path}:{line}: {what}");
    }
    match findings.len() {
        0 => Ok(()),
        count => bail!("tidy: {count} against the invariants"),
    }
}

type Rule = fn(&Source, &mut Vec<Finding>);

const RULES: [Rule; 8] = [
    only_kernel_imports_aya,
    pure_modules_do_nothing_but_decide,
    unsafe_stays_where_it_is_allowed,
    crate_roots_say_how_much_unsafe,
    verdicts_are_given_in_one_place,
    files_are_named_by_what_they_hold,
    unfinished_work_names_its_issue,
    ignored_tests_say_why,
];

fn only_kernel_imports_aya(source: &Source, findings: &mut Vec<Finding>) {
    if source.is_in("proxy/src") && !is_in_any(source, &AYA_ALLOWED) {
        for word in ["aya", "aya_log", "aya_obj"] {
            report(source, source.lines_with(word), findings, || {
                format!("`{word}` outside proxy/src/kernel; only KernelPlane knows BPF")
            });
        }
    }
}

fn pure_modules_do_nothing_but_decide(source: &Source, findings: &mut Vec<Finding>) {
    if !is_in_any(source, &PURE) {
        return;
    }
    for word in IMPURE {
        report(source, source.lines_with_outside_tests(word), findings, || {
            format!("`{word}` in a pure module; it gets time and bytes as arguments")
        });
    }
}

fn unsafe_stays_where_it_is_allowed(source: &Source, findings: &mut Vec<Finding>) {
    if is_in_any(source, &UNSAFE_ALLOWED) {
        return;
    }
    report(source, source.lines_with("unsafe"), findings, || {
        "`unsafe` outside sys, kernel and the kernel half".to_owned()
    });
}

fn crate_roots_say_how_much_unsafe(source: &Source, findings: &mut Vec<Finding>) {
    let Some((_, attribute)) = CRATE_ROOTS.iter().find(|(path, _)| *path == source.path) else {
        return;
    };
    if source.lines_with(attribute).is_empty() {
        let what = format!("`{attribute}` is missing");
        findings.push(Finding { path: source.path.clone(), line: 1, what });
    }
}

fn verdicts_are_given_in_one_place(source: &Source, findings: &mut Vec<Finding>) {
    let is_product = ["proxy-ebpf/src", "proxy-common/src", "proxy/src"]
        .iter()
        .any(|directory| source.is_in(directory));
    if !is_product || source.path == "proxy-ebpf/src/main.rs" {
        return;
    }
    for word in VERDICTS {
        report(source, source.lines_with_outside_tests(word), findings, || {
            format!("`{word}` outside proxy-ebpf/src/main.rs; return a Reason")
        });
    }
}

fn files_are_named_by_what_they_hold(source: &Source, findings: &mut Vec<Finding>) {
    let mut names: Vec<&str> = source.path.split('/').collect();
    let file = names.pop().unwrap_or_default();
    let mut report = |what: String| {
        findings.push(Finding { path: source.path.clone(), line: 1, what });
    };
    if file == "mod.rs" {
        report("`mod.rs`; a module is `name.rs` with parts in `name/`".to_owned());
    }
    names.push(file.strip_suffix(".rs").unwrap_or(file));
    for name in names.iter().filter(|name| EMPTY_NAMES.contains(name)) {
        report(format!("`{name}` does not say what is inside"));
    }
}

fn unfinished_work_names_its_issue(source: &Source, findings: &mut Vec<Finding>) {
    for (line, comment) in source.comment_lines() {
        let is_word =
            |word: &&&str| comment.split(|c: char| !c.is_alphanumeric()).any(|part| part == **word);
        let Some(word) = UNFINISHED.iter().find(is_word) else { continue };
        if !names_issue(comment) {
            let what = format!("{word} without an issue (`#N`)");
            findings.push(Finding { path: source.path.clone(), line, what });
        }
    }
}

fn ignored_tests_say_why(source: &Source, findings: &mut Vec<Finding>) {
    report(source, source.lines_with("#[ignore]"), findings, || {
        "`#[ignore]` without a reason".to_owned()
    });
}

/// `bench` measures the released binary and `proxy-common` is an ABI: neither grows dependencies
/// on what it is there to check or serve.
fn check_manifest(path: &str, text: &str, findings: &mut Vec<Finding>) {
    for (line, dependency) in dependencies(text) {
        let refused = match path {
            "bench/Cargo.toml" => dependency == "proxy",
            "proxy-common/Cargo.toml" => dependency != "aya",
            _ => false,
        };
        if refused {
            let what = format!("a dependency on `{dependency}`");
            findings.push(Finding { path: path.to_owned(), line, what });
        }
    }
}

/// Line and name of each entry of a `[…dependencies]` table.
fn dependencies(manifest: &str) -> Vec<(usize, String)> {
    let mut is_inside = false;
    let mut found = Vec::new();
    for (index, line) in manifest.lines().enumerate() {
        let line = line.trim();
        if let Some(table) = line.strip_prefix('[') {
            let table = table.trim_end_matches(']');
            is_inside = table.ends_with("dependencies");
            if let Some((_, name)) = table.split_once("dependencies.") {
                found.push((index + 1, name.to_owned()));
            }
        } else if is_inside && let Some(end) = line.find(['.', '=', ' ']) {
            let name = line[..end].trim_matches('"');
            if !name.is_empty() && !name.starts_with('#') {
                found.push((index + 1, name.to_owned()));
            }
        }
    }
    found
}

fn names_issue(comment: &str) -> bool {
    comment
        .match_indices('#')
        .any(|(at, _)| comment[at + 1..].starts_with(|c: char| c.is_ascii_digit()))
}

fn is_in_any(source: &Source, stems: &[&str]) -> bool {
    stems.iter().any(|stem| source.is_in(stem))
}

fn report(
    source: &Source,
    lines: Vec<usize>,
    findings: &mut Vec<Finding>,
    what: impl Fn() -> String,
) {
    findings.extend(lines.into_iter().map(|line| Finding {
        path: source.path.clone(),
        line,
        what: what(),
    }));
}

fn warn_about_size(source: &Source) {
    let lines = source.lines_outside_tests();
    let (look, hard_look) = FILE_LINES;
    let path = &source.path;
    if lines > hard_look {
        println!("warning: {path}: {lines} lines without tests; does it hold more than one thing?");
    } else if lines > look {
        println!("note: {path}: {lines} lines without tests");
    }
}

/// Every Rust file and every manifest of the clone.
fn read_tree(root: &Path) -> Result<Tree> {
    let mut tree = Tree::default();
    let mut directories: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        let entries = fs::read_dir(&directory)
            .with_context(|| format!("list {}", directory.display()))?
            .collect::<Result<Vec<_>, _>>()?;
        for entry in entries {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !entry.file_type()?.is_dir() {
                tree.read(root, &entry.path(), &name)?;
            } else if name != "target" && !name.starts_with('.') {
                directories.push(entry.path());
            }
        }
    }
    tree.sources.sort_by(|a, b| a.path.cmp(&b.path));
    tree.manifests.sort();
    Ok(tree)
}

impl Tree {
    fn read(&mut self, root: &Path, path: &Path, name: &str) -> Result<()> {
        let is_source = name.ends_with(".rs");
        if !is_source && name != "Cargo.toml" {
            return Ok(());
        }
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let shown = path.strip_prefix(root).unwrap_or(path).display().to_string();
        match is_source {
            true => self.sources.push(Source::new(&shown, &text)),
            false => self.manifests.push((shown, text)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
