//! Reading what libtest prints with `--show-output`.
//!
//! Rust has no skipped tests: one that cannot run here returns, and passes. Ours print a line that
//! begins with `skipped:` first, and are counted by it.

use std::{collections::BTreeSet, mem};

use super::Counts;

/// What a test says when it could not do its work.
const SKIPPED: &str = "skipped:";

/// Reads one line after the other, from any number of test binaries.
#[derive(Default)]
pub(super) struct Reader {
    counts: Counts,
    part: Part,
    /// Tests of the current binary that said they were skipped.
    skipped: BTreeSet<String>,
    notes: Vec<String>,
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
                if let Some(why) = line.trim_start().strip_prefix(SKIPPED)
                    && self.skipped.insert(test.clone())
                {
                    self.notes.push(format!("{test}: {}", why.trim()));
                }
                Line::Hidden
            }
        }
    }

    /// The sums, and for each test that was skipped why.
    pub(super) fn finish(self) -> (Counts, Vec<String>) {
        (self.counts, self.notes)
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

    fn read(text: &str) -> (Counts, Vec<String>) {
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
        let (counts, notes) = read(&text);
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
        let (counts, notes) = read(&text);
        assert_eq!(counts, Counts { passed: 2, failed: 0, skipped: 2 });
        assert_eq!(notes, ["load::x: needs CAP_BPF"]);
    }

    #[test]
    fn a_failed_test_that_said_skipped_is_failed() {
        let text = "failures:\n\n---- load::x stdout ----\nskipped: needs CAP_BPF\n\n\
                    test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out;\n";
        let (counts, notes) = read(text);
        assert_eq!(counts, Counts { passed: 0, failed: 1, skipped: 0 });
        assert!(notes.is_empty());
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
