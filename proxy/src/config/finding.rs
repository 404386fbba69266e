//! What is wrong with a file, where, and how it is told.

use std::{cell::RefCell, fmt};

/// Findings of each kind that are kept; further ones are only counted.
const FINDINGS_MAX: usize = 100;

/// A place in a file, counted from 1; columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    pub line: usize,
    pub column: usize,
}

impl Mark {
    pub(super) const START: Mark = Mark { line: 1, column: 1 };

    /// The place of a byte offset that is a character boundary of the text. Lines end as in YAML 1.2
    /// section 5.4: at a line feed, a carriage return, or both.
    pub(super) fn at(text: &str, offset: usize) -> Mark {
        let before = &text[..offset];
        let bytes = before.as_bytes();
        let ends_line = |&at: &usize| match bytes[at] {
            b'\n' => true,
            b'\r' => text.as_bytes().get(at + 1) != Some(&b'\n'),
            _ => false,
        };
        let mut line_ends = (0..offset).rev().filter(ends_line);
        let line_start = line_ends.next().map_or(0, |end| end + 1);
        let line = line_ends.count() + 1 + usize::from(line_start > 0);
        Mark { line, column: before[line_start..].chars().count() + 1 }
    }
}

/// One thing that is wrong or doubtful. Never holds a secret of the file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// `None`: the file as a whole.
    pub mark: Option<Mark>,
    /// Such as `routes[0].upstream_id`; empty for the whole document.
    pub path: String,
    pub message: String,
}

/// Findings about one file, in the order of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// The file as the operator named it.
    pub source: String,
    pub list: Vec<Finding>,
    /// How many more there were.
    pub omitted: usize,
}

/// Every error of a file. Prints one line for each and a last line with their number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Findings);

impl Findings {
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    fn count(&self) -> usize {
        self.list.len() + self.omitted
    }

    /// One line for each, `file:line:column: path: message`.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.labelled("")
    }

    /// [`lines`](Self::lines) with `label` before the path.
    pub(super) fn labelled(&self, label: &str) -> impl Iterator<Item = String> {
        self.list.iter().map(move |finding| {
            let place = finding
                .mark
                .map_or_else(String::new, |Mark { line, column }| format!(":{line}:{column}"));
            let path = if finding.path.is_empty() { "" } else { ": " };
            format!("{}{place}: {label}{}{path}{}", self.source, finding.path, finding.message)
        })
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let findings = &self.0;
        findings.lines().try_for_each(|line| writeln!(f, "{line}"))?;
        let count = findings.count();
        let noun = if count == 1 { "error" } else { "errors" };
        write!(f, "{count} {noun} in {}", findings.source)?;
        if findings.omitted > 0 {
            write!(f, ", the first {} shown", findings.list.len())?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Takes findings while a file is read. Shared by everything that reads the tree, hence the cells.
#[derive(Debug, Default)]
pub(crate) struct Sink {
    errors: RefCell<Collected>,
    warnings: RefCell<Collected>,
}

#[derive(Debug, Default)]
struct Collected {
    list: Vec<Finding>,
    omitted: usize,
}

impl Collected {
    fn add(&mut self, finding: Finding) {
        if self.list.len() < FINDINGS_MAX {
            self.list.push(finding);
        } else {
            self.omitted += 1;
        }
    }

    fn into_findings(mut self, source: &str) -> Findings {
        self.list.sort();
        Findings { source: source.to_owned(), list: self.list, omitted: self.omitted }
    }
}

impl Sink {
    pub(super) fn errors(&self) -> usize {
        let errors = self.errors.borrow();
        errors.list.len() + errors.omitted
    }

    pub(super) fn error(&self, mark: impl Into<Option<Mark>>, path: &str, message: String) {
        let finding = Finding { mark: mark.into(), path: path.to_owned(), message };
        self.errors.borrow_mut().add(finding);
    }

    pub(super) fn warning(&self, mark: Mark, path: &str, message: String) {
        let finding = Finding { mark: Some(mark), path: path.to_owned(), message };
        self.warnings.borrow_mut().add(finding);
    }

    /// Takes errors and warnings out, each in the order of the file.
    pub(super) fn take_findings(&self, source: &str) -> (Findings, Findings) {
        let errors = self.errors.take().into_findings(source);
        (errors, self.warnings.take().into_findings(source))
    }
}
