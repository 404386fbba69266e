//! Texts with values of a request in them: `$name`, `${name}`, `${name ?? default}`.
//!
//! A name is of letters, digits and `_`; in braces it may have any other character too. A name that
//! means nothing is an error when the text is read. An absent variable is empty, or the default. A
//! backslash before `$` makes it a letter, and so does what follows it, if that cannot be a name.
//! `$1` is a group of a regular expression where the text goes with one, `$0` all it matched.

mod search;

use std::{borrow::Cow, fmt};

pub use self::search::{Found, Search};
use crate::{
    config::shown,
    variable::{Facts, Moment, TooEarly, UnknownVariable, Variable},
};

/// Values in one template: each may be as long as a head.
pub const REFERENCES_MAX: usize = 64;

/// A text, ready to be expanded for any request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Box<[Part]>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(Box<str>),
    Reference { source: Source, default: Box<str> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Variable(Variable),
    /// `$0`, `$1`, …
    Group(usize),
}

/// Whether `$1` means something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Groups {
    None,
    /// This many beside `$0`.
    UpTo(usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplateError {
    Variable(UnknownVariable),
    /// The regular expression has no such group.
    Group(String),
    /// `${` without `}`.
    Unclosed,
    TooMany,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TemplateError::Variable(unknown) => {
                write!(f, "{unknown}; write `\\$` for a `$` that means itself")
            }
            TemplateError::Group(name) => write!(f, "no group `{}`", shown(name)),
            TemplateError::Unclosed => f.write_str("`${` without `}`"),
            TemplateError::TooMany => write!(f, "more than {REFERENCES_MAX} variables"),
        }
    }
}

impl std::error::Error for TemplateError {}

impl Source {
    /// Whether its value is a query, or has one.
    fn is_query(&self) -> bool {
        let queries =
            [Variable::Args, Variable::IsArgs, Variable::RequestUri, Variable::RealRequestUri];
        matches!(self, Source::Variable(variable) if queries.contains(variable))
    }
}

impl Template {
    /// # Errors
    /// The first reference that means nothing, or one too many.
    pub fn parse(text: &str, groups: Groups) -> Result<Template, TemplateError> {
        let (mut parts, mut literal, mut rest) = (Vec::new(), String::new(), text);
        while let Some((before, after)) = rest.split_once('$') {
            rest = after;
            if let Some(before) = before.strip_suffix('\\') {
                literal.extend([before, "$"]);
                continue;
            }
            literal.push_str(before);
            let Some((reference, after)) = reference(after, groups)? else {
                literal.push('$');
                continue;
            };
            rest = after;
            parts.extend(literal_part(std::mem::take(&mut literal)));
            parts.push(reference);
        }
        literal.push_str(rest);
        parts.extend(literal_part(literal));
        let is_reference = |part: &&Part| matches!(part, Part::Reference { .. });
        if parts.iter().filter(is_reference).count() > REFERENCES_MAX {
            return Err(TemplateError::TooMany);
        }
        Ok(Template(parts.into()))
    }

    /// # Errors
    /// A variable of it has no value before `moment` is over.
    pub fn check_known(&self, moment: Moment) -> Result<(), TooEarly> {
        self.0.iter().try_for_each(|part| match part {
            Part::Reference { source: Source::Variable(variable), .. } => {
                variable.check_known(moment)
            }
            Part::Reference { source: Source::Group(_), .. } | Part::Literal(_) => Ok(()),
        })
    }

    /// The text, if it is the same for every request.
    pub fn as_literal(&self) -> Option<&str> {
        match &*self.0 {
            [] => Some(""),
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// What of it is the same for every request.
    pub fn literals(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|part| match part {
            Part::Literal(text) | Part::Reference { default: text, .. } => &**text,
        })
    }

    /// Whether any variable in it has a value.
    pub fn has_value(&self, facts: &Facts<'_>) -> bool {
        self.0.iter().any(|part| match part {
            Part::Reference { source: Source::Variable(variable), .. } => {
                facts.value(variable).is_some()
            }
            Part::Reference { source: Source::Group(_), .. } | Part::Literal(_) => false,
        })
    }

    /// Appends the text for this request; `$1` is a group of `found`, and those that are missing are
    /// empty.
    pub fn expand(&self, facts: &Facts<'_>, found: Option<&Found<'_>>, out: &mut Vec<u8>) {
        self.expand_with(facts, found, |_, value, out| out.extend_from_slice(value), out);
    }

    /// The same for a path with a query behind it: those bytes of values are percent-encoded that are
    /// not `plain`, and behind a `?` of the text those that would begin another argument, unless the
    /// value is a whole query.
    pub fn expand_encoded(
        &self,
        facts: &Facts<'_>,
        found: Option<&Found<'_>>,
        plain: impl Fn(u8) -> bool + Copy,
        out: &mut Vec<u8>,
    ) {
        let may_separate = |byte| matches!(byte, b'&' | b'=' | b'+' | b';');
        let push = |source: &Source, value: &[u8], out: &mut Vec<u8>| {
            // Nearly always.
            if value.iter().all(|byte| plain(*byte) && !may_separate(*byte)) {
                return out.extend_from_slice(value);
            }
            for byte in value {
                let separates = may_separate(*byte)
                    && !source.is_query()
                    && memchr::memchr(b'?', out).is_some();
                push_encoded(*byte, |byte| plain(byte) && !separates, out);
            }
        };
        self.expand_with(facts, found, push, out);
    }

    fn expand_with(
        &self,
        facts: &Facts<'_>,
        found: Option<&Found<'_>>,
        push: impl Fn(&Source, &[u8], &mut Vec<u8>),
        out: &mut Vec<u8>,
    ) {
        for part in &self.0 {
            match part {
                Part::Literal(text) => out.extend_from_slice(text.as_bytes()),
                Part::Reference { source, default } => {
                    let value = match source {
                        Source::Variable(variable) => facts.value(variable),
                        Source::Group(index) => {
                            found.and_then(|found| found.group(*index)).map(Cow::Borrowed)
                        }
                    };
                    push(source, value.as_deref().unwrap_or(default.as_bytes()), out);
                }
            }
        }
    }

    /// `subject` with this text, encoded as by [`expand_encoded`](Self::expand_encoded), in place of
    /// the match that was `found` in it, whose groups it may name.
    pub fn substitute(
        &self,
        found: &Found<'_>,
        subject: &[u8],
        facts: &Facts<'_>,
        plain: impl Fn(u8) -> bool + Copy,
    ) -> Vec<u8> {
        let whole = found.range();
        let mut text = Vec::with_capacity(subject.len());
        text.extend_from_slice(&subject[..whole.start]);
        self.expand_encoded(facts, Some(found), plain, &mut text);
        text.extend_from_slice(&subject[whole.end..]);
        text
    }
}

/// Appends a byte, percent-encoded if it is not `plain`.
pub fn push_encoded(byte: u8, plain: impl Fn(u8) -> bool, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    if plain(byte) {
        return out.push(byte);
    }
    out.extend([b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 0xf)]]);
}

fn literal_part(text: String) -> Option<Part> {
    (!text.is_empty()).then(|| Part::Literal(text.into()))
}

/// What a `$` and what follows it stand for, and what comes behind; `None` if for themselves.
fn reference(after: &str, groups: Groups) -> Result<Option<(Part, &str)>, TemplateError> {
    let (name, default, rest) = if let Some(inner) = after.strip_prefix('{') {
        let (inner, rest) = inner.split_once('}').ok_or(TemplateError::Unclosed)?;
        let (name, default) = inner.split_once("??").unwrap_or((inner, ""));
        (name.trim(), default.trim(), rest)
    } else {
        let (name, rest) = after.split_at(name_size(after, groups));
        if name.is_empty() {
            return Ok(None);
        }
        (name, "", rest)
    };
    let part = Part::Reference { source: source(name, groups)?, default: default.into() };
    Ok(Some((part, rest)))
}

/// Bytes of the name that a text without braces begins with; a group's ends with its digits.
fn name_size(text: &str, groups: Groups) -> usize {
    let is_number = groups != Groups::None && text.starts_with(|c: char| c.is_ascii_digit());
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let is_part = |byte: &u8| if is_number { byte.is_ascii_digit() } else { is_name(byte) };
    text.bytes().take_while(is_part).count()
}

fn source(name: &str, groups: Groups) -> Result<Source, TemplateError> {
    match groups {
        Groups::UpTo(last) if name.starts_with(|c: char| c.is_ascii_digit()) => {
            let index = name.parse().ok().filter(|index| *index <= last);
            index.map(Source::Group).ok_or_else(|| TemplateError::Group(name.to_owned()))
        }
        Groups::UpTo(_) | Groups::None => {
            Variable::parse(name).map(Source::Variable).map_err(TemplateError::Variable)
        }
    }
}

#[cfg(test)]
mod tests;
