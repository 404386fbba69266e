//! Regular expressions of configurations, compiled once: those of ten thousand routes are not compiled
//! again because one route has changed.

use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
};

use regex::bytes::{Regex, RegexBuilder};

/// Bytes of one compiled regular expression, and of what searching with it may cache in a thread.
const SIZE_MAX: usize = 1 << 20;
/// Readings of a configuration after which what none of them had is forgotten. A file with errors is
/// read as well, and the one before it stays in force.
const READINGS_KEPT: u64 = 2;

static KEPT: LazyLock<Mutex<Kept>> = LazyLock::new(Mutex::default);

#[derive(Default)]
struct Kept {
    reading: u64,
    compiled: HashMap<(Box<str>, Options), Used>,
}

/// A regular expression, and the reading that had it last.
struct Used {
    regex: Regex,
    reading: u64,
}

/// What PCRE calls `i`, `m`, `s` and `x`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Options {
    pub(crate) ignores_case: bool,
    /// `^` and `$` at every line.
    pub(crate) is_multi_line: bool,
    /// `.` matches ends of lines.
    pub(crate) dot_matches_all: bool,
    /// Blanks mean nothing.
    pub(crate) ignores_blanks: bool,
}

/// A configuration is read from here on.
pub(crate) fn begin_reading() {
    kept().begin_reading();
}

/// One over bytes, whose classes are of ASCII; it takes time in proportion to what it looks at, and so
/// knows neither look-around nor references to groups.
///
/// # Errors
/// It is none, or larger than `SIZE_MAX`.
pub(crate) fn compiled(pattern: &str, options: Options) -> Result<Regex, regex::Error> {
    kept().compiled(pattern, options)
}

fn kept() -> MutexGuard<'static, Kept> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kept {
    fn begin_reading(&mut self) {
        self.reading += 1;
        let reading = self.reading;
        self.compiled.retain(|_, used| used.reading + READINGS_KEPT >= reading);
    }

    fn compiled(&mut self, pattern: &str, options: Options) -> Result<Regex, regex::Error> {
        let key = (pattern.into(), options);
        if let Some(used) = self.compiled.get_mut(&key) {
            used.reading = self.reading;
            return Ok(used.regex.clone());
        }
        let regex = RegexBuilder::new(pattern)
            .unicode(false)
            .case_insensitive(options.ignores_case)
            .multi_line(options.is_multi_line)
            .dot_matches_new_line(options.dot_matches_all)
            .ignore_whitespace(options.ignores_blanks)
            .size_limit(SIZE_MAX)
            .dfa_size_limit(SIZE_MAX)
            .build()?;
        self.compiled.insert(key, Used { regex: regex.clone(), reading: self.reading });
        Ok(regex)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_lately_is_not_compiled_again() {
        let mut kept = Kept::default();
        for (pattern, count) in [("a", 1), ("b", 2), ("a", 2)] {
            kept.begin_reading();
            assert!(
                kept.compiled(pattern, Options::default()).unwrap().is_match(pattern.as_bytes())
            );
            assert_eq!(kept.compiled.len(), count, "{pattern}");
        }
        kept.begin_reading();
        assert_eq!(kept.compiled.len(), 2);
        kept.begin_reading();
        assert_eq!(kept.compiled.keys().map(|(pattern, _)| &**pattern).collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn options_make_another_of_it() {
        let mut kept = Kept::default();
        let ignores_case = Options { ignores_case: true, ..Options::default() };
        assert!(!kept.compiled("a", Options::default()).unwrap().is_match(b"A"));
        assert!(kept.compiled("a", ignores_case).unwrap().is_match(b"A"));
        assert!(kept.compiled("(", ignores_case).is_err());
        assert!(kept.compiled("\\pL{5000}", ignores_case).is_err());
        assert_eq!(kept.compiled.len(), 2);
    }
}
