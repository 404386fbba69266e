//! Reading what libtest prints with `--show-output`.
//!
//! Rust has no skipped tests: one that cannot run here returns, and passes. Ours print a line that
//! begins with `skipped:` first, and are counted by it. Where the kernel half is on they also print what
//! it has done: `kernel half: 2 steered, 9 delivered, 1 passed`.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use super::Counts;

/// What a test says when it could not do its work.
const SKIPPED: &str = "skipped:";
/// What a test says when a proxy of its has had the kernel half on.
const KERNEL_HALF: &str = "kernel half:";

/// Reads one line after the other, from any number of test binaries.
#[derive(Default)]
pub(super) struct Reader {
    counts: Counts,
    part: Part,
    /// Tests of the current binary that said they were skipped.
    skipped: BTreeSet<String>,
    notes: Vec<String>,
    kernel_work: KernelWork,
}

/// What was read, in the end.
#[derive(Debug, Default)]
pub(super) struct Summary {
    pub(super) counts: Counts,
    /// Each test that was skipped, with why.
    pub(super) skipped: Vec<String>,
    /// Of tests that passed.
    pub(super) kernel_work: KernelWork,
}

/// What the kernel half has done, and how often, by the module of the test.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct KernelWork(BTreeMap<String, BTreeMap<String, u64>>);

impl KernelWork {
    /// How often something was done for the tests of a module.
    pub(super) fn of(&self, module: &str, done: &str) -> u64 {
        self.0.get(module).and_then(|work| work.get(done)).copied().unwrap_or(0)
    }

    /// Adds ` 2 steered, 9 delivered`.
    fn add(&mut self, test: &str, said: &str) {
        let module = test.split("::").next().unwrap_or_default().to_owned();
        let work = self.0.entry(module).or_default();
        for part in said.split(',') {
            if let Some((count, done)) = part.trim().split_once(' ')
                && let Ok(count) = count.parse::<u64>()
            {
                *work.entry(done.to_owned()).or_default() += count;
            }
        }
    }
}

/// Which part of a binary's output is being read.
#[derive(Default, PartialEq, Eq)]
enum Part {
    /// One line per test.
    #[default]
    Results,
    /// What tests that passed printed.
    Successes { test: String },
    /// What tests that failed printed.
    Failures { test: String },
}

/// Whether a line is worth a place on the terminal.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Shown,
    /// What a passed test printed.
    Hidden,
}

impl Reader {
    pub(super) fn read(&mut self, line: &str) -> Line {
        if let Some(result) = line.strip_prefix("test result: ") {
            self.finish_binary(result);
            return Line::Shown;
        }
        match line {
            "successes:" => {
                self.part = Part::Successes { test: String::new() };
                return Line::Hidden;
            }
            "failures:" => {
                self.part = Part::Failures { test: String::new() };
                return Line::Shown;
            }
            _ => {}
        }
        match &mut self.part {
            Part::Results => Line::Shown,
            Part::Failures { test } => {
                follow(test, line);
                Line::Shown
            }
            Part::Successes { test } => {
                follow(test, line);
                if let Some(said) = line.trim_start().strip_prefix(KERNEL_HALF) {
                    self.kernel_work.add(test, said);
                }
                if let Some(why) = line.trim_start().strip_prefix(SKIPPED)
                    && self.skipped.insert(test.clone())
                {
                    self.notes.push(format!("{test}: {}", why.trim()));
                }
                Line::Hidden
            }
        }
    }

    pub(super) fn finish(self) -> Summary {
        let Reader { counts, notes: skipped, kernel_work, .. } = self;
        Summary { counts, skipped, kernel_work }
    }

    /// `ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.02s`
    fn finish_binary(&mut self, result: &str) {
        let number = |what: &str| {
            let part = result.split([';', '.']).find(|part| part.trim_end().ends_with(what))?;
            part.trim().split(' ').next()?.parse::<usize>().ok()
        };
        let skipped = mem::take(&mut self.skipped).len();
        let passed = number(" passed").unwrap_or(0);
        self.counts.passed += passed.saturating_sub(skipped);
        self.counts.failed += number(" failed").unwrap_or(0);
        self.counts.skipped += number(" ignored").unwrap_or(0) + skipped;
        self.part = Part::Results;
    }
}

/// Keeps the name of the test whose output follows: `---- part::name stdout ----`.
fn follow(test: &mut String, line: &str) {
    if let Some(name) =
        line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----"))
    {
        name.clone_into(test);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Summary {
        let mut reader = Reader::default();
        for line in text.lines() {
            reader.read(line);
        }
        reader.finish()
    }

    const RESULT: &str = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered \
                          out; finished in 0.02s";

    #[test]
    fn sums_the_results_of_several_binaries() {
        let text = format!(
            "\nrunning 4 tests\ntest a::b ... ok\n\n{RESULT}\n\nrunning 2 tests\ntest c ... FAILED\n\
             \nfailures:\n\n---- c stdout ----\n\nthread 'c' panicked\n\nfailures:\n    c\n\n\
             test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; \
             finished in 1.52s\n"
        );
        let Summary { counts, skipped: notes, .. } = read(&text);
        assert_eq!(counts, Counts { passed: 4, failed: 1, skipped: 1 });
        assert!(notes.is_empty());
    }

    #[test]
    fn counts_a_test_that_says_so_as_skipped_once() {
        let text = format!(
            "test a ... ok\n\nsuccesses:\n\n---- load::x stdout ----\nskipped: needs CAP_BPF\n\
             skipped: said twice\n\n---- load::y stdout ----\nnot skipped: ran\n\n\nsuccesses:\n    \
             load::x\n    load::y\n\n{RESULT}\n"
        );
        let Summary { counts, skipped: notes, .. } = read(&text);
        assert_eq!(counts, Counts { passed: 2, failed: 0, skipped: 2 });
        assert_eq!(notes, ["load::x: needs CAP_BPF"]);
    }

    #[test]
    fn a_failed_test_that_said_skipped_is_failed() {
        let text = "failures:\n\n---- load::x stdout ----\nskipped: needs CAP_BPF\n\n\
                    test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out;\n";
        let Summary { counts, skipped: notes, .. } = read(text);
        assert_eq!(counts, Counts { passed: 0, failed: 1, skipped: 0 });
        assert!(notes.is_empty());
    }

    #[test]
    fn adds_up_what_the_kernel_half_has_done_for_tests_that_passed() {
        let text = format!(
            "successes:\n\n---- reload::x stdout ----\nkernel half: 2 steered, 9 delivered\n\
             kernel half: 1 steered, 0 delivered\n\n---- health::y::z stdout ----\n\
             kernel half: 3 steered, 4 delivered\n\nsuccesses:\n    reload::x\n    health::y::z\n\n\
             failures:\n\n---- reload::w stdout ----\nkernel half: 8 steered, 8 delivered\n\n{RESULT}\n"
        );
        let Summary { kernel_work, .. } = read(&text);
        assert_eq!(
            [kernel_work.of("reload", "steered"), kernel_work.of("reload", "delivered")],
            [3, 9]
        );
        assert_eq!(
            [kernel_work.of("health", "steered"), kernel_work.of("health", "delivered")],
            [3, 4]
        );
        assert_eq!(
            [kernel_work.of("reload", "passed"), kernel_work.of("names", "steered")],
            [0, 0]
        );
    }

    #[test]
    fn hides_what_passed_tests_print_and_nothing_else() {
        fn check(reader: &mut Reader, line: &str, expected: Line) {
            assert_eq!(reader.read(line), expected, "{line}");
        }
        let reader = &mut Reader::default();
        check(reader, "test a ... ok", Line::Shown);
        check(reader, "successes:", Line::Hidden);
        check(reader, "---- a stdout ----", Line::Hidden);
        check(reader, "noise", Line::Hidden);
        check(reader, "failures:", Line::Shown);
        check(reader, "thread 'b' panicked", Line::Shown);
        check(reader, RESULT, Line::Shown);
        check(reader, "running 3 tests", Line::Shown);
    }
}
