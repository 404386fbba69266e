//! Searching for a regular expression whose groups are wanted.

use std::ops::Range;

use regex::bytes::{Captures, Regex};

/// A regular expression.
#[derive(Debug, Clone)]
pub struct Search {
    regex: Regex,
    /// What stands for it.
    span: Option<Span>,
}

/// `^before(.*)after$`, as most paths are matched that are rewritten: compared as it stands it takes a
/// tenth of what finding groups takes (`bench plugins`, proxy-rewrite).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Span {
    before: Box<[u8]>,
    /// Bytes that the group has at least: 0 of `.*`, 1 of `.+`.
    size_min: usize,
    after: Box<[u8]>,
    /// Whether there is a `$`.
    is_last: bool,
}

/// Where it was found.
#[derive(Debug)]
pub struct Found<'h>(Groups<'h>);

#[derive(Debug)]
enum Groups<'h> {
    Captured(Captures<'h>),
    /// All that was matched, and the one group.
    Span([(usize, &'h [u8]); 2]),
}

impl Search {
    /// `regex` has no options but what its text says.
    pub fn new(regex: Regex) -> Search {
        Search { span: Span::of(regex.as_str()), regex }
    }

    /// Groups beside that of all that is matched.
    pub fn groups(&self) -> usize {
        self.regex.captures_len() - 1
    }

    /// The first match in `subject`.
    pub fn find<'h>(&self, subject: &'h [u8]) -> Option<Found<'h>> {
        Some(Found(match &self.span {
            Some(span) => span.find(subject)?,
            None => Groups::Captured(self.regex.captures(subject)?),
        }))
    }
}

impl<'h> Found<'h> {
    /// A group, if it is a part of the match; 0 is all that was matched.
    pub fn group(&self, index: usize) -> Option<&'h [u8]> {
        match &self.0 {
            Groups::Captured(captures) => captures.get(index).map(|group| group.as_bytes()),
            Groups::Span(groups) => groups.get(index).map(|(_, group)| *group),
        }
    }

    /// Where all that was matched stands.
    pub fn range(&self) -> Range<usize> {
        match &self.0 {
            Groups::Captured(captures) => captures.get_match().range(),
            Groups::Span([(start, all), _]) => *start..start + all.len(),
        }
    }
}

impl Span {
    fn of(pattern: &str) -> Option<Span> {
        let pattern = pattern.strip_prefix('^')?;
        let (pattern, is_last) = match pattern.strip_suffix('$') {
            Some(pattern) => (pattern, true),
            None => (pattern, false),
        };
        let (before, group) = pattern.split_once('(')?;
        let (group, after) = group.split_once(')')?;
        let size_min = match group {
            ".*" => 0,
            ".+" => 1,
            _ => return None,
        };
        Some(Span { before: literal(before)?, size_min, after: literal(after)?, is_last })
    }

    fn find<'h>(&self, subject: &'h [u8]) -> Option<Groups<'h>> {
        let rest = subject.strip_prefix(&*self.before)?;
        let after = &*self.after;
        // A `.` is anything but this.
        let line = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let size = if self.is_last {
            rest.strip_suffix(after)?.len()
        } else if after.is_empty() {
            line
        } else {
            // As long as it can be.
            let searched = rest.len().min(line + after.len());
            memchr::memmem::rfind(&rest[..searched], after)?
        };
        if !(self.size_min..=line).contains(&size) {
            return None;
        }
        let all = &subject[..self.before.len() + size + after.len()];
        Some(Groups::Span([(0, all), (self.before.len(), &rest[..size])]))
    }
}

/// What a part of a pattern matches, if that is one text only.
fn literal(pattern: &str) -> Option<Box<[u8]>> {
    let mut bytes = pattern.bytes();
    let mut text = Vec::with_capacity(pattern.len());
    while let Some(byte) = bytes.next() {
        text.push(match byte {
            b'\\' => bytes.next().filter(|escaped| b"\\.+*?()|[]{}^$-/".contains(escaped))?,
            b'-' | b'/' | b'_' | b'~' | b'%' | b'=' | b',' | b':' | b'@' => byte,
            _ if byte.is_ascii_alphanumeric() => byte,
            _ => return None,
        });
    }
    Some(text.into())
}

#[cfg(test)]
mod tests {
    use regex::bytes::RegexBuilder;

    use super::*;

    fn search(pattern: &str) -> Search {
        let regex = RegexBuilder::new(pattern).unicode(false).build();
        Search::new(regex.expect(pattern))
    }

    const SPANS: [&str; 14] = [
        "^(.*)",
        "^(.*)$",
        "^(.+)$",
        "^/a(.*)",
        "^/a/(.+)",
        "^/a/(.*)/b",
        "^/a/(.+)/b",
        "^/a/(.*)/b$",
        "^/a(.*)a$",
        "^/a(.+)a$",
        "^/a(.+)a",
        "^/a\\.b(.*)",
        "^/a(.*)\\$$",
        "^a-b_c~%,:@=(.*)",
    ];

    #[test]
    fn a_span_is_found_as_its_regular_expression_finds_it() {
        let parts =
            ["", "/a", "a", "/", "/b", ".", "\n", "$", "()", "/a.b", "a-b_c~%,:@=", "\u{e9}"];
        let mut subjects: Vec<String> = parts.map(str::to_owned).to_vec();
        for _ in 0..2 {
            let longer = subjects.iter().flat_map(|one| parts.map(|part| format!("{one}{part}")));
            subjects = longer.collect();
            subjects.sort();
            subjects.dedup();
        }
        for pattern in SPANS {
            let fast = search(pattern);
            assert!(fast.span.is_some(), "{pattern}");
            let slow = Search { span: None, ..fast.clone() };
            for subject in &subjects {
                let seen = |search: &Search| {
                    let found = search.find(subject.as_bytes())?;
                    let groups = [0, 1, 2].map(|index| found.group(index).map(<[u8]>::to_vec));
                    Some((found.range(), groups))
                };
                assert_eq!(seen(&fast), seen(&slow), "{pattern} {subject:?}");
            }
        }
    }

    #[test]
    fn what_is_no_span_is_left_to_the_engine() {
        for pattern in [
            "/a(.*)",
            "^/a",
            "^/a(.*)(.*)",
            "^/a(.*?)",
            "^/a(?:.*)",
            "^/a(.*)?",
            "^/a*(.*)",
            "^/a.(.*)",
            "^/\\d(.*)",
            "^/\\<(.*)",
            "^/a|(.*)",
            "^/\\((.*)",
            "^/((.*))",
            "^(.*)\\$",
            "^/(.*)[)]",
            "^\u{e9}(.*)",
            "(?i)^/a(.*)",
        ] {
            assert_eq!(search(pattern).span, None, "{pattern}");
        }
        let search = search("^/(b|a)/(.*)/x");
        let found = search.find(b"/b/c/x/y").expect("a match");
        assert_eq!((found.range(), found.group(1), search.groups()), (0..6, Some(&b"b"[..]), 2));
        assert_eq!(found.group(3), None);
    }
}
