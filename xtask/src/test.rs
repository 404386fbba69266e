//! `cargo xtask test`: every rung of tests there is, lowest first, and how many of each really ran.
//!
//! Nothing is installed and nothing asks for root. What cannot run here is counted as skipped and
//! says what it would need; under `KERNEL_TESTS=require` a kernel test that cannot run fails.

mod kernel_log;
mod libtest;

use std::{
    env, fmt, fs,
    io::{BufRead, BufReader},
    ops::AddAssign,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use self::{
    kernel_log::Watch,
    libtest::{KernelWork, Line, Reader, Summary},
};
use crate::{
    apt, build_ebpf,
    cache::Cache,
    cargo_build, command, lint,
    peers::Peers,
    tool::{self, Tool},
    workspace,
};

/// How long all fuzz targets run together, on top of their corpora.
const FUZZ_SECONDS: usize = 60;

/// How many tests had which outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: usize,
    failed: usize,
    skipped: usize,
}

/// One kind of test and what became of it.
struct Rung {
    name: &'static str,
    counts: Counts,
    /// Builds included.
    took: Duration,
    /// Why tests were skipped or failed, where their own output does not say it.
    notes: Vec<String>,
}

/// What became of a rung that is one check, or could not be run at all.
enum Verdict {
    Passed,
    Failed(String),
    Skipped(String),
}

type RunRung = fn(&Peers) -> Result<Rung>;

/// Each rung with the file that shows it is there.
const RUNGS: [(&str, &str, RunRung); 10] = [
    ("unit", "Cargo.toml", unit),
    ("wire", "proxy/tests/it/main.rs", wire),
    ("hyper lane", "proxy/tests/it/lanes.rs", hyper_lane),
    ("same host", "proxy/src/kernel/same_host.rs", same_host),
    ("policy on", "proxy/src/kernel/same_host.rs", policy_on),
    ("object", "proxy/tests/it/object.rs", object),
    ("kernel", "proxy/tests/kernel/main.rs", kernel),
    ("fuzz", "proxy/fuzz/Cargo.toml", fuzz),
    ("bench", "bench/Cargo.toml", bench),
    ("instructions", "bench/src/instructions.rs", instructions),
];

/// Runs every rung, `with_lint` before them; fails if a test did. The counts are the last line.
pub(crate) fn run(with_lint: bool) -> Result<ExitCode> {
    let mut rungs = Vec::new();
    if with_lint {
        rungs.push(timed("lint", || Ok(lint_rung(lint::run_steps()))));
    }
    println!("== kernel half");
    rungs.push(timed("kernel half", || Ok(kernel_half())));
    let peers = Peers::find_or_fetch_with_neighbours(&Cache::open()?);
    let mut log = Watch::start();
    for (name, needs, run) in RUNGS {
        if workspace::root().join(needs).exists() {
            println!("== {name}");
            rungs.push(timed(name, || run(&peers)));
            log.look(name);
        }
    }
    rungs.push(log.finish());
    Ok(summarise(&rungs, &peers))
}

fn timed(name: &'static str, run: impl FnOnce() -> Result<Rung>) -> Rung {
    let begun = Instant::now();
    let mut rung = run().unwrap_or_else(|error| {
        println!("{error:#}");
        Rung::of_one(name, Verdict::Failed(format!("{error:#}")))
    });
    rung.took = begun.elapsed();
    rung
}

fn summarise(rungs: &[Rung], peers: &Peers) -> ExitCode {
    println!("== test");
    for missing in peers.missing() {
        println!("missing: {missing}");
    }
    let total = sum(rungs);
    for Rung { name, counts, took, notes } in rungs {
        println!("{name:<12} {counts}, {} s", took.as_secs());
        for note in notes {
            println!("    {note}");
        }
    }
    println!("{total}");
    if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn sum(rungs: &[Rung]) -> Counts {
    let mut total = Counts::default();
    for rung in rungs {
        total += rung.counts;
    }
    total
}

/// Each step of lint counts as a test does.
fn lint_rung(steps: Vec<lint::Done>) -> Rung {
    let mut rung = Rung::new("lint");
    for (name, outcome) in steps {
        rung.add(match outcome {
            Ok(lint::Outcome::Passed) => Verdict::Passed,
            Ok(lint::Outcome::Skipped(why)) => Verdict::Skipped(format!("{name}: {why}")),
            Err(error) => Verdict::Failed(format!("{name}: {error:#}")),
        });
    }
    rung
}

/// The object the tests embed; without it they cover userspace only.
fn kernel_half() -> Rung {
    let verdict = match build_ebpf::run() {
        Ok(()) => Verdict::Passed,
        Err(error) => {
            println!("{error:#}");
            not_here(format!("built without the kernel half: {error:#}"))
        }
    };
    Rung::of_one("kernel half", verdict)
}

fn unit(peers: &Peers) -> Result<Rung> {
    let userspace = ["--workspace", "--exclude=proxy-ebpf", "--all-features"];
    let kernel_half = ["--package=proxy-ebpf"];
    let mut rung = Rung::new("unit");
    let units = ["--lib", "--bins", "--test=missing"];
    rung.cargo_test(peers, &[userspace.as_slice(), &units].concat(), &[])?;
    rung.cargo_test(peers, &[kernel_half.as_slice(), &["--lib"]].concat(), &[])?;
    rung.cargo_test(peers, &[userspace.as_slice(), &["--doc"]].concat(), &[])?;
    Ok(rung)
}

const INTEGRATION: [&str; 4] = ["--package=proxy", "--all-features", "--test", "it"];
/// Tests of the built object are in the same binary, and a rung of their own.
const OBJECT: &str = "object::";

fn wire(peers: &Peers) -> Result<Rung> {
    let mut rung = Rung::new("wire");
    rung.cargo_test(peers, &INTEGRATION, &["--skip", OBJECT])?;
    rung.cargo_test(peers, &["--package=proxy", "--all-features", "--test", "alloc"], &[])?;
    Ok(rung)
}

/// Tests of whatever goes through a lane, by module: they are run on each lane.
const CARRIED: [&str; 7] =
    ["aborts", "bodies", "limits", "plugins", "routing", "smuggling", "wire"];
/// What begins in another module than it seems to, for libtest looks for its words anywhere.
const NOT_CARRIED: [&str; 1] = ["shared_limits::"];
/// Tests of what decides about requests: they see to both lanes themselves.
const POLICY: [&str; 15] = [
    "balancing",
    "calls",
    "curl",
    "encoding",
    "file_logger",
    "health",
    "heads",
    "lanes",
    "names",
    "policy",
    "reload",
    "retries",
    "shared_limits",
    "sticky",
    "upstreams",
];
/// And of [`POLICY`] those that are tables of settings, with a proxy for each, and with nothing for the
/// kernel half to do.
const NOT_POLICY: [&str; 6] = [
    "system_calls::",
    "calls::forward_auth::an_answer_that_is_none_lets_nobody_pass",
    "encoding::levels_windows_blocks_and_modes_have_an_effect",
    "encoding::types_lengths_and_versions_are_chosen",
    "names::the_family_of_addresses_is_a_choice",
    "shared_limits::answers_that_make_no_sense_are_no_answers",
];

/// Modules of which no response need go past the proxy: bodies, ends and conversations that may not,
/// plugins that look at responses, or connections that carry too few of them.
const NOTHING_PASSES: [&str; 10] = [
    "aborts",
    "bodies",
    "curl",
    "encoding",
    "file_logger",
    "lanes",
    "limits",
    "plugins",
    "policy",
    "upstreams",
];

/// Arguments of libtest for the tests of `modules`, less those that are `left_out`.
fn chosen(modules: &[&str], left_out: &[&str]) -> Vec<String> {
    let modules = modules.iter().map(|module| format!("{module}::"));
    modules.chain(left_out.iter().map(|test| format!("--skip={test}"))).collect()
}

/// Whatever goes through a lane, once more where the express lane is switched off.
fn hyper_lane(peers: &Peers) -> Result<Rung> {
    let mut rung = Rung::new("hyper lane");
    let mut test = command::cargo();
    test.args(["test", "--no-fail-fast"]).args(INTEGRATION).args(["--", "--show-output"]);
    test.args(chosen(&CARRIED, &NOT_CARRIED));
    rung.libtest(peers, test.env("TANDEM_TEST_LANE", "hyper"))?;
    Ok(rung)
}

/// The same with the kernel half on, which delivers between the proxy and clients and nodes that do not
/// block.
fn same_host(peers: &Peers) -> Result<Rung> {
    let mut rung = Rung::new("same host");
    for lane in ["express", "hyper"] {
        rung.kernel_on(peers, lane, &CARRIED, &NOT_CARRIED)?;
    }
    Ok(rung)
}

/// What decides about requests, with the kernel half on.
fn policy_on(peers: &Peers) -> Result<Rung> {
    let mut rung = Rung::new("policy on");
    rung.kernel_on(peers, "express", &POLICY, &NOT_POLICY)?;
    Ok(rung)
}

fn object(peers: &Peers) -> Result<Rung> {
    let mut rung = Rung::new("object");
    rung.cargo_test(peers, &INTEGRATION, &[OBJECT])?;
    Ok(rung)
}

/// Built by cargo, run without it: with privileges cargo would leave files of root in `target`.
fn kernel(peers: &Peers) -> Result<Rung> {
    let binary = test_binary("kernel")?;
    let mut rung = Rung::new("kernel");
    // Namespaces belong to threads, and an interface has one XDP program.
    rung.libtest(peers, tests_of(&binary).arg("--test-threads=1"))?;
    if !apt::is_root() {
        let again = format!("sudo {} --test-threads=1", binary.display());
        rung.notes.push(format!("privileged tests need root; `{again}`"));
    }
    Ok(rung)
}

/// A test binary of `proxy`, built by cargo.
fn test_binary(name: &str) -> Result<PathBuf> {
    let arguments = ["test", "--package=proxy", "--all-features", "--test", name, "--no-run"];
    let built = cargo_build::executables(&arguments)?;
    let binary = built.into_iter().find(|executable| executable.name == name);
    Ok(binary.with_context(|| format!("cargo made no test binary `{name}`"))?.path)
}

/// Runs a test binary of `proxy` as cargo would.
fn tests_of(binary: &Path) -> Command {
    let package = workspace::root().join("proxy");
    let mut tests = Command::new(binary);
    tests.env("CARGO_MANIFEST_DIR", &package).current_dir(&package).arg("--show-output");
    tests
}

/// Why a proxy cannot have the kernel half here, with what gets it.
fn kernel_half_absence() -> Option<&'static str> {
    if !apt::is_root() {
        Some("loading programs takes root; `sudo cargo xtask test`")
    } else if !workspace::bpf_object().exists() {
        Some("the proxy is built without the BPF object; `cargo xtask build-ebpf`")
    } else if !may_load_programs() {
        Some("takes CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, as with `docker run --privileged`")
    } else {
        None
    }
}

/// Root of a container may be without.
fn may_load_programs() -> bool {
    /// CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF of linux/capability.h.
    const NEEDED: u64 = 1 << 12 | 1 << 38 | 1 << 39;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & NEEDED == NEEDED)
}

/// Fuzzing takes one processor; the other one begins what the rungs behind this one wait for.
fn fuzz(peers: &Peers) -> Result<Rung> {
    thread::scope(|scope| {
        scope.spawn(counted);
        fuzz_all(peers)
    })
}

/// A short run of each target on its corpus; what it finds is kept outside the committed one.
fn fuzz_all(peers: &Peers) -> Result<Rung> {
    if command::find("c++").is_none() {
        let why = "libFuzzer needs a C++ compiler; `sudo apt-get install g++`";
        return Ok(Rung::of_one("fuzz", Verdict::Skipped(why.to_owned())));
    }
    let cargo_fuzz = match tool::find_or_build(&Cache::open()?, Tool::Fuzz) {
        Ok(path) => path,
        Err(error) => return Ok(Rung::of_one("fuzz", Verdict::Skipped(format!("{error:#}")))),
    };
    let mut rung = Rung::new("fuzz");
    let targets = fuzz_targets(&workspace::root().join("proxy/fuzz/fuzz_targets"))?;
    let seconds = FUZZ_SECONDS.div_ceil(targets.len().max(1));
    for target in targets {
        let found = workspace::root().join("target/fuzz-corpus").join(&target);
        fs::create_dir_all(&found).with_context(|| format!("make {}", found.display()))?;
        let mut run = Command::new(&cargo_fuzz);
        // No sanitizer: those need a nightly, and the code under test is safe Rust.
        run.args(["fuzz", "run", "--sanitizer", "none", &target]).arg(&found);
        let corpus = workspace::root().join("proxy/fuzz/corpus").join(&target);
        if corpus.is_dir() {
            run.arg(corpus);
        }
        run.args(["--", &format!("-max_total_time={seconds}"), "-timeout=10", "-verbosity=0"]);
        run.current_dir(workspace::root().join("proxy"));
        rung.add(match command::run(peers.equip(&mut run)) {
            Ok(()) => Verdict::Passed,
            Err(error) => Verdict::Failed(format!("{target}: {error:#}")),
        });
    }
    Ok(rung)
}

fn fuzz_targets(directory: &Path) -> Result<Vec<String>> {
    let mut targets = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            targets.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    targets.sort();
    Ok(targets)
}

/// That the harness works; its figures are not looked at.
fn bench(peers: &Peers) -> Result<Rung> {
    let mut rung = Rung::new("bench");
    let mut smoke = crate::bench::command(&["smoke".into()], &counted()?)?;
    peers.equip(&mut smoke).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = smoke.output().with_context(|| format!("start `{}`", command::shown(&smoke)))?;
    let report = String::from_utf8_lossy(&output.stdout);
    print!("{report}");
    for why in report.lines().filter_map(|line| line.strip_prefix("skipped: ")) {
        rung.add(Verdict::Skipped(why.to_owned()));
    }
    rung.add(match output.status.success() {
        true => Verdict::Passed,
        false => Verdict::Failed(format!("`{}`: {}", command::shown(&smoke), output.status)),
    });
    Ok(rung)
}

/// The release with line tables: one long build for both of the rungs that need it.
fn counted() -> Result<PathBuf> {
    cargo_build::profile("counted", "proxy", "tandem")
}

/// What a request costs in instructions: no bound, but a row that is seen to change.
fn instructions(peers: &Peers) -> Result<Rung> {
    let mut rung = Rung::new("instructions");
    let finds = |program: &str| {
        env::split_paths(peers.search_path()).any(|directory| directory.join(program).is_file())
    };
    if !finds("valgrind") {
        rung.add(not_here("needs valgrind; `sudo apt-get install valgrind`".to_owned()));
        return Ok(rung);
    }
    let tandem = counted()?;
    let mut count = crate::bench::command(&["instructions".into()], &tandem)?;
    peers.equip(&mut count).stdin(Stdio::null());
    let output = count.output().with_context(|| format!("start `{}`", command::shown(&count)))?;
    let report = String::from_utf8_lossy(&output.stdout);
    print!("{report}{}", String::from_utf8_lossy(&output.stderr));
    match report.lines().find(|line| line.starts_with("instructions per request")) {
        Some(line) if output.status.success() => {
            rung.add(Verdict::Passed);
            rung.notes.push(line.to_owned());
        }
        Some(_) | None => rung.add(Verdict::Failed(format!("nothing counted: {}", output.status))),
    }
    Ok(rung)
}

/// Something this machine lacks: a failure where it was required, otherwise a skip.
fn not_here(why: String) -> Verdict {
    let is_required = env::var("KERNEL_TESTS").is_ok_and(|value| value == "require");
    if is_required { Verdict::Failed(why) } else { Verdict::Skipped(why) }
}

impl Rung {
    fn new(name: &'static str) -> Rung {
        Rung { name, counts: Counts::default(), took: Duration::ZERO, notes: Vec::new() }
    }

    fn of_one(name: &'static str, verdict: Verdict) -> Rung {
        let mut rung = Rung::new(name);
        rung.add(verdict);
        rung
    }

    fn add(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Passed => self.counts.passed += 1,
            Verdict::Failed(why) => {
                self.counts.failed += 1;
                self.notes.push(format!("failed: {why}"));
            }
            Verdict::Skipped(why) => {
                self.counts.skipped += 1;
                self.notes.push(format!("skipped: {why}"));
            }
        }
    }

    fn cargo_test(&mut self, peers: &Peers, cargo: &[&str], libtest: &[&str]) -> Result<()> {
        let mut test = command::cargo();
        test.args(["test", "--no-fail-fast"]).args(cargo);
        test.args(["--", "--show-output"]).args(libtest);
        self.libtest(peers, &mut test).map(drop)
    }

    /// Runs the wire tests of `modules` with the kernel half on, less those that are `left_out`. What it
    /// has to show for each module, unless some of it was skipped: connections that it steered, messages
    /// that it delivered, and where the express lane is on, responses that have gone past the proxy.
    fn kernel_on(
        &mut self,
        peers: &Peers,
        lane: &str,
        modules: &[&str],
        left_out: &[&str],
    ) -> Result<()> {
        if let Some(why) = kernel_half_absence() {
            self.add(not_here(why.to_owned()));
            return Ok(());
        }
        // Built by cargo, run without it, as in `kernel`.
        let mut tests = tests_of(&test_binary("it")?);
        tests.args(chosen(modules, left_out));
        tests.env("TANDEM_TEST_KERNEL", "same_host").env("TANDEM_TEST_LANE", lane);
        let work = self.libtest(peers, &mut tests)?;
        for module in modules {
            let skipped = format!("skipped: {module}::");
            let is_whole = !self.notes.iter().any(|note| note.starts_with(&skipped));
            let passes = lane == "express" && !NOTHING_PASSES.contains(module);
            for done in ["steered", "delivered"].into_iter().chain(passes.then_some("passed")) {
                if is_whole && work.of(module, done) == 0 {
                    let why =
                        format!("{lane} lane, `{module}`: the kernel half has {done} nothing");
                    self.add(Verdict::Failed(why));
                }
            }
        }
        Ok(())
    }

    /// Runs something that prints as libtest does, and counts. Returns what the kernel half has done.
    fn libtest(&mut self, peers: &Peers, command: &mut Command) -> Result<KernelWork> {
        peers.equip(command).stdin(Stdio::null()).stdout(Stdio::piped());
        let shown = command::shown(command);
        let mut child = command.spawn().with_context(|| format!("start `{shown}`"))?;
        let mut reader = Reader::default();
        let stdout = child.stdout.take().context("stdout is piped")?;
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.with_context(|| format!("read from `{shown}`"))?;
            let line = String::from_utf8_lossy(&line);
            if reader.read(&line) == Line::Shown {
                println!("{line}");
            }
        }
        let status = child.wait().with_context(|| format!("wait for `{shown}`"))?;
        let Summary { counts, skipped, kernel_work } = reader.finish();
        self.counts += counts;
        self.notes.extend(skipped.into_iter().map(|why| format!("skipped: {why}")));
        // It did not compile, or a test took the whole process with it.
        if !status.success() && counts.failed == 0 {
            self.add(Verdict::Failed(format!("`{shown}`: {status}")));
        }
        Ok(kernel_work)
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { passed, failed, skipped } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_step_of_lint_that_fails_is_in_the_last_line() {
        let rung = lint_rung(vec![
            ("fmt", Ok(lint::Outcome::Passed)),
            ("deny", Ok(lint::Outcome::Skipped("no network".to_owned()))),
            ("doc", Err(anyhow!("a broken link"))),
        ]);
        assert_eq!(rung.notes, ["skipped: deny: no network", "failed: doc: a broken link"]);
        let tests = Rung::of_one("unit", Verdict::Passed);
        assert_eq!(sum(&[rung, tests]).to_string(), "2 passed, 1 failed, 1 skipped");
    }
}
