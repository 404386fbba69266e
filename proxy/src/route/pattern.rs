//! Path patterns: which paths they match, and what their parameters stand for in one.
//!
//! | pattern | matches |
//! |---|---|
//! | `/a/b` | that path |
//! | `/a*`, `/a/*`, `/a/*name` | every path that begins with what precedes the `*` |
//! | `/a/:name/b` | one segment that is not empty in place of `:name` |
//! | `/a/*/b`, `/a/*name/b` | one or more segments in place of the `*` |
//!
//! What precedes the first `:` or `*` is the literal; a `%3A` or `%2A` is a letter like others.

use std::fmt;

use crate::http::path::canonical_literal;

/// Bytes of a pattern, as in APISIX.
pub const PATTERN_SIZE_MAX: usize = 4096;
/// Segments behind a literal. Each may be compared with every segment of a path.
pub const OPEN_SEGMENTS_MAX: usize = 32;

/// One path pattern, in the spelling that normalised paths have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: Box<str>,
    literal: Box<str>,
    /// What has to follow the literal: nothing if empty.
    open: Box<[Segment]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(Box<str>),
    /// `:name`
    One(Box<str>),
    /// `*` or `*name`
    Any(Box<str>),
}

impl Segment {
    fn takes(&self, text: &str) -> bool {
        match self {
            Segment::Literal(literal) => **literal == *text,
            Segment::One(_) => !text.is_empty(),
            Segment::Any(_) => true,
        }
    }

    fn name(&self) -> Option<&str> {
        match self {
            Segment::Literal(_) => None,
            Segment::One(name) | Segment::Any(name) => (!name.is_empty()).then_some(name),
        }
    }
}

/// Why a text is no pattern, or one that no normalised path matches. Ends the sentence "the path …".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PatternError(&'static str);

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Pattern {
    pub fn parse(text: &str) -> Result<Pattern, PatternError> {
        let (literal, open) = text.split_at(literal_end(text));
        let canonical = canonical_literal(literal);
        let problem = if !text.starts_with('/') {
            "must start with `/`"
        } else if text.len() > PATTERN_SIZE_MAX {
            "is longer than 4096 characters"
        } else if text.contains(['?', '#']) {
            "has a `?` or `#`; routes match the path, without query"
        } else if text.contains(|c: char| c.is_control() || c.is_whitespace()) {
            "has blanks or control characters; percent-encode them"
        } else if let Some(problem) = flaw_of_literal(&canonical, !open.is_empty()) {
            problem
        } else {
            let open = open_segments(literal, open)?;
            return Ok(Pattern { text: text.into(), literal: canonical.into(), open });
        };
        Err(PatternError(problem))
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What every path that matches begins with.
    pub fn literal(&self) -> &str {
        &self.literal
    }

    /// Whether it matches one path, its literal.
    pub fn is_exact(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether it matches every path that begins with its literal.
    pub fn is_prefix(&self) -> bool {
        matches!(*self.open, [Segment::Any(_)])
    }

    /// Whether a normalised path matches.
    pub fn matches(&self, path: &str) -> bool {
        self.bind(path, |_, _| {})
    }

    /// What the parameter of this name stands for in a path that matches.
    pub fn parameter<'p>(&self, path: &'p str, name: &str) -> Option<&'p str> {
        let wanted = self.open.iter().position(|segment| segment.name() == Some(name))?;
        let mut value = None;
        let matches = self.bind(path, |index, text| {
            if index == wanted {
                value = Some(text);
            }
        });
        value.filter(|_| matches)
    }

    /// Matches from the end of the path, so that of several ways the first `*` gets most. `bound`
    /// hears what each segment takes, and again when that changes.
    fn bind<'p>(&self, path: &'p str, mut bound: impl FnMut(usize, &'p str)) -> bool {
        let Some(text) = path.strip_prefix(&*self.literal) else { return false };
        if self.open.is_empty() {
            return text.is_empty();
        }
        // Segments still to be taken, and the end of the text that is left for them.
        let (mut count, mut end) = (self.open.len(), Some(text.len()));
        // The last `*` that was met: its index, and where what it takes begins and ends.
        let mut widest = None;
        loop {
            let last = count.checked_sub(1).and_then(|last| Some((last, self.open.get(last)?)));
            let (index, taken) = match (last, end) {
                (None, None) => return true,
                (Some((index, segment)), Some(end))
                    if segment.takes(&text[segment_start(text, end)..end]) =>
                {
                    let taken = segment_start(text, end)..end;
                    if let Segment::Any(_) = segment {
                        widest = Some((index, taken.clone()));
                    }
                    (index, taken)
                }
                (Some(_), Some(_)) | (Some(_), None) | (None, Some(_)) => {
                    let Some((index, taken)) = widest.as_mut() else { return false };
                    let Some(before) = taken.start.checked_sub(1) else { return false };
                    taken.start = segment_start(text, before);
                    (*index, taken.clone())
                }
            };
            count = index;
            end = taken.start.checked_sub(1);
            bound(index, &text[taken]);
        }
    }
}

/// Where the segment begins that ends at `end`.
fn segment_start(text: &str, end: usize) -> usize {
    text[..end].rfind('/').map_or(0, |slash| slash + 1)
}

const EMPTY_SEGMENT: &str =
    "never matches; empty segments are taken out of a path before it is matched";
const DOT_SEGMENT: &str =
    "never matches; `.` and `..` are taken out of a path before it is matched";

/// Where the first `*`, or the first segment that begins with `:`, stands.
fn literal_end(text: &str) -> usize {
    let bytes = text.as_bytes();
    let is_open = |at: &usize| match bytes[*at] {
        b'*' => true,
        b':' => *at > 0 && bytes[*at - 1] == b'/',
        _ => false,
    };
    (0..bytes.len()).find(is_open).unwrap_or(text.len())
}

/// The last segment of what stays open is not whole yet: `/.*` matches `/.well-known`.
fn flaw_of_literal(literal: &str, is_open: bool) -> Option<&'static str> {
    let mut segments = literal.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "" if !is_last => return Some(EMPTY_SEGMENT),
            "." | ".." if !is_last || !is_open => return Some(DOT_SEGMENT),
            _ => {}
        }
    }
    None
}

fn open_segments(literal: &str, open: &str) -> Result<Box<[Segment]>, PatternError> {
    if open.is_empty() {
        return Ok(Box::default());
    }
    if !literal.ends_with('/') && open != "*" {
        return Err(PatternError(STAR_INSIDE));
    }
    let mut segments: Vec<Segment> = Vec::new();
    for part in open.split('/') {
        match part.as_bytes().first() {
            Some(b':') => segments.push(Segment::One(name(&part[1..])?)),
            Some(b'*') => segments.push(Segment::Any(name(&part[1..])?)),
            _ if part.contains('*') => return Err(PatternError(STAR_INSIDE)),
            _ => {
                let literals = canonical_literal(part);
                segments.extend(literals.split('/').map(|part| Segment::Literal(part.into())));
            }
        }
    }
    match flaw(&segments) {
        Some(problem) => Err(PatternError(problem)),
        None => Ok(segments.into()),
    }
}

const STAR_INSIDE: &str =
    "has a `*` inside a segment; it can open the end of a path or stand for whole segments";

/// What names of parameters are made of.
pub fn is_parameter_part(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-')
}

fn name(text: &str) -> Result<Box<str>, PatternError> {
    if text.chars().all(is_parameter_part) {
        Ok(text.into())
    } else {
        Err(PatternError("has a parameter whose name is not of letters, digits, `-` and `_`"))
    }
}

fn flaw(segments: &[Segment]) -> Option<&'static str> {
    let is = |text: &str, segment: &Segment| *segment == Segment::Literal(text.into());
    let (_, inner) = segments.split_last()?;
    let mut names: Vec<&str> = segments.iter().filter_map(Segment::name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    if segments.len() > OPEN_SEGMENTS_MAX {
        Some("has more than 32 segments behind its first parameter or `*`")
    } else if segments.contains(&Segment::One("".into())) {
        Some("has a `:` without a name; write `%3A` for a colon that begins a segment")
    } else if names.len() < count {
        Some("names a parameter twice")
    } else if inner.iter().any(|segment| is("", segment)) {
        Some(EMPTY_SEGMENT)
    } else if segments.iter().any(|segment| is(".", segment) || is("..", segment)) {
        Some(DOT_SEGMENT)
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
