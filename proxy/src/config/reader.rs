//! Walks the tree: a value and its place, a section and its keys.
//!
//! Reading never stops at an error. A value that cannot be had is `None`, with the reason in the sink;
//! callers go on with whatever else they can check.

use std::{ops::RangeInclusive, rc::Rc};

use serde_json::Value as Json;

use super::{
    finding::{Mark, Sink},
    leaf::Leaf,
    planned::{self, Kind},
    tree::{self, Content, Entry, Node, Origin, Scalar},
};

/// Where something stands and how to report about it.
#[derive(Debug, Clone)]
pub(crate) struct Place<'t> {
    mark: Mark,
    path: Path<'t>,
    sink: &'t Sink,
    privacy: Privacy,
}

/// The way from the root of the file, spelled out for messages only: a file of ten thousand routes has
/// a hundred thousand places, and nothing to say of them.
#[derive(Debug, Clone)]
struct Path<'t> {
    /// Shared by all that stands in the same section or list.
    above: Option<Rc<Path<'t>>>,
    step: Step<'t>,
}

#[derive(Debug, Clone, Copy)]
enum Step<'t> {
    Root,
    Key(&'t str),
    Index(usize),
}

impl<'t> Path<'t> {
    fn to(above: &Rc<Path<'t>>, entry: &'t Entry) -> Path<'t> {
        Path { above: Some(Rc::clone(above)), step: Step::Key(&entry.key) }
    }

    fn spell(&self) -> String {
        let mut path = self.above.as_ref().map_or_else(String::new, |above| above.spell());
        match self.step {
            Step::Root => {}
            Step::Key(key) => tree::push_key(&mut path, key),
            Step::Index(index) => tree::push_index(&mut path, index),
        }
        path
    }
}

/// Whether messages may repeat what the file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Privacy {
    Open,
    /// Holds or may hold a secret: neither values nor unknown keys are shown.
    Secret,
}

impl<'t> Place<'t> {
    /// Of something that is part of what stands here.
    fn within(&self, mark: Mark, path: Path<'t>) -> Place<'t> {
        Place { mark, path, sink: self.sink, privacy: self.privacy }
    }

    /// How many errors have been reported so far.
    pub(crate) fn errors(&self) -> usize {
        self.sink.errors()
    }

    /// Whether nothing that stands here is shown.
    pub(crate) fn is_secret(&self) -> bool {
        self.privacy == Privacy::Secret
    }

    pub(crate) fn line(&self) -> usize {
        self.mark.line
    }

    pub(crate) fn error(&self, message: impl Into<String>) {
        self.sink.error(self.mark, &self.path.spell(), message.into());
    }

    pub(crate) fn warning(&self, message: impl Into<String>) {
        self.sink.warning(self.mark, &self.path.spell(), message.into());
    }
}

/// A node of the tree and its place.
#[derive(Debug, Clone)]
pub(crate) struct Value<'t> {
    pub(crate) place: Place<'t>,
    node: &'t Node,
}

impl<'t> Value<'t> {
    pub(crate) fn root(node: &'t Node, sink: &'t Sink) -> Value<'t> {
        let path = Path { above: None, step: Step::Root };
        Value { place: Place { mark: node.mark, path, sink, privacy: Privacy::Open }, node }
    }

    /// The same value, of which and inside of which nothing is shown.
    pub(crate) fn secret(mut self) -> Value<'t> {
        self.place.privacy = Privacy::Secret;
        self
    }

    pub(crate) fn error(&self, message: impl Into<String>) {
        self.place.error(message);
    }

    /// Whether an item of this list is out of the environment.
    pub(super) fn uses_environment(&self) -> bool {
        let is_environment = |node: &Node| {
            matches!(node.content, Content::Scalar(Scalar { origin: Origin::Environment, .. }))
        };
        matches!(&self.node.content, Content::Sequence(items) if items.iter().any(is_environment))
    }

    pub(crate) fn is_mapping(&self) -> bool {
        matches!(self.node.content, Content::Mapping(_))
    }

    /// A scalar of type `T`.
    pub(crate) fn leaf<T: Leaf>(&self) -> Option<T> {
        self.checked(|| T::EXPECTED.to_owned(), |_| true)
    }

    /// A scalar of type `T` in a range.
    pub(crate) fn within<T: Leaf + PartialOrd>(&self, range: &RangeInclusive<T>) -> Option<T> {
        let expected = || {
            let (low, high) = (range.start().spell(), range.end().spell());
            format!("{} from {low} to {high}", T::EXPECTED)
        };
        self.checked(expected, |value| range.contains(value))
    }

    /// One word, as `None`, or a scalar of type `T` in a range.
    pub(crate) fn word_or<T: Leaf + PartialOrd>(
        &self,
        word: &str,
        range: &RangeInclusive<T>,
    ) -> Option<Option<T>> {
        if let Content::Scalar(scalar) = &self.node.content
            && scalar.text == word
        {
            return Some(None);
        }
        let expected = || {
            let (low, high) = (range.start().spell(), range.end().spell());
            format!("`{word}` or {} from {low} to {high}", T::EXPECTED)
        };
        self.checked(expected, |value| range.contains(value)).map(Some)
    }

    /// The text of a string or a number, as it is written.
    pub(crate) fn written(&self) -> Option<&'t str> {
        const EXPECTED: &str = "a string or a number";
        let scalar = self.scalar(|| EXPECTED.to_owned())?;
        let is_one = scalar.json().is_some_and(|json| json.is_string() || json.is_number());
        if !is_one {
            self.unexpected(EXPECTED, "");
        }
        is_one.then_some(&scalar.text)
    }

    /// A string of a form; `problem` ends the sentence that begins with where it stands.
    pub(crate) fn text(&self, problem: &str, is_valid: impl Fn(&str) -> bool) -> Option<String> {
        let text = self.leaf::<String>()?;
        if !is_valid(&text) {
            self.error(problem);
            return None;
        }
        Some(text)
    }

    /// The member of a mapping, the first if it is repeated, and nothing reported.
    pub(crate) fn member(&self, key: &str) -> Option<Value<'t>> {
        let Content::Mapping(entries) = &self.node.content else { return None };
        let entry = entries.iter().find(|entry| entry.key == key)?;
        Some(self.child(&Rc::new(self.place.path.clone()), entry))
    }

    /// A scalar of type `T`, and nothing reported if there is none.
    pub(crate) fn quiet_leaf<T: Leaf>(&self) -> Option<T> {
        match &self.node.content {
            Content::Scalar(scalar) => T::decode(scalar),
            Content::Sequence(_) | Content::Mapping(_) => None,
        }
    }

    /// The items of a sequence, and nothing reported if it is none.
    pub(crate) fn sequence(&self) -> Option<Vec<Value<'t>>> {
        matches!(self.node.content, Content::Sequence(_)).then(|| self.items()).flatten()
    }

    fn checked<T: Leaf>(
        &self,
        expected: impl Fn() -> String,
        is_valid: impl Fn(&T) -> bool,
    ) -> Option<T> {
        let scalar = self.scalar(&expected)?;
        let decode = |scalar: &Scalar| T::decode(scalar).filter(&is_valid);
        let decoded = decode(scalar);
        if decoded.is_none() {
            let hint = match scalar.origin {
                Origin::Quoted if decode(&scalar.as_if(Origin::Plain)).is_some() => {
                    "; remove the quotes"
                }
                Origin::Plain if decode(&scalar.as_if(Origin::Quoted)).is_some() => {
                    "; put it in quotes"
                }
                Origin::Plain | Origin::Quoted | Origin::Environment | Origin::Unresolved => "",
            };
            self.unexpected(&expected(), hint);
        }
        decoded
    }

    /// One word of a closed set. `planned` words are refused as not built yet.
    pub(crate) fn one_of<T: Copy>(&self, words: &[(&str, T)], planned: &[&str]) -> Option<T> {
        let expected = || alternatives(words.iter().map(|(word, _)| *word));
        let scalar = self.scalar(expected)?;
        match words.iter().find(|(word, _)| *word == scalar.text) {
            Some((_, value)) => return Some(*value),
            None if planned.contains(&scalar.text.as_str()) => {
                self.error(format!("`{}` is not built yet; use {}", scalar.text, expected()));
            }
            None => {
                let near = nearest(&scalar.text, words.iter().map(|(word, _)| *word));
                let hint =
                    near.map_or_else(String::new, |word| format!("; did you mean `{word}`?"));
                self.unexpected(&expected(), &hint);
            }
        }
        None
    }

    /// The keys of a mapping.
    pub(crate) fn section(&self) -> Option<Section<'t>> {
        let Content::Mapping(entries) = &self.node.content else {
            self.unexpected("a mapping", "");
            return None;
        };
        let path = Rc::new(self.place.path.clone());
        let mut open: Vec<&Entry> = entries.iter().collect();
        // Most have few keys: this is less than a hash of each. Of equal keys the first stays first.
        open.sort_by(|one, other| one.key.cmp(&other.key));
        open.dedup_by(|repeated, first| {
            let is_same = repeated.key == first.key;
            if is_same {
                let line = first.mark.line;
                let place = self.key(&path, repeated);
                place.error(format!("repeats the key of line {line}; remove one"));
            }
            is_same
        });
        open.sort_by_key(|entry| entry.mark);
        Some(Section { at: self.clone(), path, open, known: Vec::with_capacity(KEYS_HINT) })
    }

    /// A mapping whose keys are data: the place of each key, the key, its value.
    pub(crate) fn pairs(&self) -> Option<Vec<(Place<'t>, &'t str, Value<'t>)>> {
        let Section { open, path, .. } = self.section()?;
        let pair = |entry: &'t Entry| {
            (self.key(&path, entry), entry.key.as_str(), self.child(&path, entry))
        };
        Some(open.into_iter().map(pair).collect())
    }

    /// The items of a sequence.
    pub(crate) fn items(&self) -> Option<Vec<Value<'t>>> {
        self.each().map(Iterator::collect)
    }

    /// As [`items`](Self::items), one after the other.
    pub(crate) fn each(&self) -> Option<impl ExactSizeIterator<Item = Value<'t>> + use<'t>> {
        let Content::Sequence(items) = &self.node.content else {
            self.unexpected("a list", "");
            return None;
        };
        let (list, above) = (self.place.clone(), Rc::new(self.place.path.clone()));
        let item = move |(index, node): (usize, &'t Node)| {
            let path = Path { above: Some(Rc::clone(&above)), step: Step::Index(index) };
            Value { place: list.within(node.mark, path), node }
        };
        Some(items.iter().enumerate().map(item))
    }

    /// The whole subtree, scalars with the types that their texts have by the core schema.
    pub(crate) fn json(&self) -> serde_json::Value {
        self.node.json()
    }

    /// Reports every text in here that is so.
    pub(super) fn refuse(&self, is_so: &impl Fn(&str) -> bool, problem: &str) {
        if !self.node.has_text(is_so) {
            return;
        }
        match &self.node.content {
            Content::Scalar(_) => self.error(problem),
            Content::Sequence(_) => {
                self.each().into_iter().flatten().for_each(|item| item.refuse(is_so, problem));
            }
            Content::Mapping(entries) => {
                let path = Rc::new(self.place.path.clone());
                entries.iter().for_each(|entry| self.child(&path, entry).refuse(is_so, problem));
            }
        }
    }

    /// The whole subtree as it is written, to be compared.
    pub(crate) fn source(&self) -> Json {
        self.node.source()
    }

    /// The value with all it holds, whatever that is; a scalar has the type of its text, also out of
    /// the environment. `None`: something in it is missing, repeated, or nothing that JSON has.
    pub(crate) fn checked_json(&self) -> Option<Json> {
        match &self.node.content {
            Content::Scalar(scalar) => {
                let json = scalar.json();
                if json.is_none() {
                    self.unexpected("a number that is finite", "");
                }
                json
            }
            // All are read, so that all errors are found.
            Content::Sequence(_) => {
                let items: Vec<_> = self.items()?.iter().map(Value::checked_json).collect();
                items.into_iter().collect::<Option<_>>().map(Json::Array)
            }
            Content::Mapping(entries) => {
                let pairs = self.pairs()?;
                let is_whole = pairs.len() == entries.len();
                let pairs: Vec<_> = pairs
                    .iter()
                    .map(|(_, key, value)| Some((str::to_owned(key), value.checked_json()?)))
                    .collect();
                pairs.into_iter().collect::<Option<_>>().filter(|_| is_whole).map(Json::Object)
            }
        }
    }

    /// Of an entry of this mapping, of which `path` is that of this one.
    fn key(&self, path: &Rc<Path<'t>>, entry: &'t Entry) -> Place<'t> {
        let path = match self.place.privacy {
            Privacy::Open => Path::to(path, entry),
            Privacy::Secret => self.place.path.clone(),
        };
        self.place.within(entry.mark, path)
    }

    fn child(&self, path: &Rc<Path<'t>>, entry: &'t Entry) -> Value<'t> {
        let path = Path::to(path, entry);
        let node = &entry.value;
        Value { place: self.place.within(node.mark, path), node }
    }

    /// The scalar, or an error; nothing of what the environment did not resolve.
    fn scalar(&self, expected: impl Fn() -> String) -> Option<&'t Scalar> {
        match &self.node.content {
            Content::Scalar(Scalar { origin: Origin::Unresolved, .. }) => None,
            Content::Scalar(scalar) => Some(scalar),
            Content::Sequence(_) | Content::Mapping(_) => {
                self.unexpected(&expected(), "");
                None
            }
        }
    }

    fn unexpected(&self, expected: &str, hint: &str) {
        if let Some(found) = self.found() {
            self.error(format!("expected {expected}, found {found}{hint}"));
        }
    }

    /// What stands here; `None` if that was reported already.
    fn found(&self) -> Option<String> {
        Some(match &self.node.content {
            Content::Mapping(_) => "a mapping".to_owned(),
            Content::Sequence(_) => "a list".to_owned(),
            Content::Scalar(scalar) => match (scalar.origin, self.place.privacy) {
                (Origin::Unresolved, _) => return None,
                // An environment may hold secrets wherever the file uses it.
                (Origin::Environment, _) => "something else in the environment".to_owned(),
                (Origin::Plain, _) if scalar.is_null() => "nothing".to_owned(),
                (Origin::Plain | Origin::Quoted, Privacy::Secret) => "something else".to_owned(),
                (Origin::Plain, Privacy::Open) => format!("`{}`", tree::shown(&scalar.text)),
                (Origin::Quoted, Privacy::Open) => {
                    format!("the string `{}`", tree::shown(&scalar.text))
                }
            },
        })
    }
}

/// As many keys as are known of a route.
const KEYS_HINT: usize = 24;

/// A mapping of which each key is taken once. What is left over at the end is unknown.
#[derive(Debug)]
pub(crate) struct Section<'t> {
    at: Value<'t>,
    /// Where that is.
    path: Rc<Path<'t>>,
    open: Vec<&'t Entry>,
    known: Vec<&'static str>,
}

impl<'t> Section<'t> {
    pub(crate) fn place(&self) -> &Place<'t> {
        &self.at.place
    }

    pub(crate) fn error(&self, message: impl Into<String>) {
        self.at.error(message);
    }

    /// The whole mapping, as [`Value::source`].
    pub(crate) fn source(&self) -> Json {
        self.at.source()
    }

    /// Whether the file has a key that nobody took yet.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.open.iter().any(|entry| entry.key == key)
    }

    /// The value of a key, if the file has it.
    pub(crate) fn take(&mut self, key: &'static str) -> Option<Value<'t>> {
        self.known.push(key);
        let index = self.open.iter().position(|entry| entry.key == key)?;
        Some(self.at.child(&self.path, self.open.remove(index)))
    }

    /// The value of a key, which is still to be taken.
    pub(crate) fn peek(&self, key: &str) -> Option<Value<'t>> {
        self.at.member(key)
    }

    /// What `read` makes of the value of a key, or of `default` without it; `None` is an error.
    pub(crate) fn take_or<T: for<'d> From<&'d str>>(
        &mut self,
        key: &'static str,
        default: &str,
        read: impl Fn(&Value<'_>) -> Option<T>,
    ) -> Option<T> {
        match self.take(key) {
            Some(value) => read(&value),
            None => Some(default.into()),
        }
    }

    /// The value of a key that must be there.
    pub(crate) fn require(&mut self, key: &'static str) -> Option<Value<'t>> {
        let value = self.take(key);
        if value.is_none() {
            self.error(format!("`{key}` is missing"));
        }
        value
    }

    /// A scalar, or what holds without it.
    pub(crate) fn leaf_or<T: Leaf>(&mut self, key: &'static str, default: T) -> T {
        self.take(key).and_then(|value| value.leaf()).unwrap_or(default)
    }

    /// A scalar in a range, or what holds without it.
    pub(crate) fn within_or<T>(
        &mut self,
        key: &'static str,
        range: RangeInclusive<T>,
        default: T,
    ) -> T
    where
        T: Leaf + PartialOrd,
    {
        self.take(key).and_then(|value| value.within(&range)).unwrap_or(default)
    }

    /// The mapping under a key, if the file has it.
    pub(crate) fn section(&mut self, key: &'static str) -> Option<Section<'t>> {
        self.take(key)?.section()
    }

    /// Refuses every key that nobody took.
    pub(crate) fn finish(self, kind: Kind) {
        for entry in &self.open {
            let place = self.at.key(&self.path, entry);
            match (self.at.place.privacy, planned::refusal(kind, &entry.key)) {
                (_, Some(refusal)) => place.error(refusal),
                (Privacy::Open, None) => place.error(self.unknown(&entry.key)),
                (Privacy::Secret, None) => {
                    let known = alternatives(self.known.iter().copied());
                    place.error(format!("unknown key; known here: {known}"));
                }
            }
        }
    }

    fn unknown(&self, key: &str) -> String {
        let known = self.known.iter().copied();
        match nearest(key, known.clone()) {
            Some(near) => format!("unknown key; did you mean `{near}`?"),
            None => format!("unknown key; known here: {}", alternatives(known)),
        }
    }
}

/// "`a`, `b` or `c`".
fn alternatives<'w>(words: impl Iterator<Item = &'w str>) -> String {
    let words: Vec<String> = words.map(|word| format!("`{word}`")).collect();
    match words.as_slice() {
        [] => "nothing".to_owned(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// The known word that was probably meant: at most a third of its letters differ.
pub(crate) fn nearest<'w>(word: &str, known: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    let lower = |c: char| c.to_ascii_lowercase();
    let typed: Vec<char> = word.chars().map(lower).take(WORD_CHARS_MAX + 1).collect();
    if typed.len() > WORD_CHARS_MAX {
        return None;
    }
    known
        .map(|candidate| (edits(&typed, candidate), candidate))
        .filter(|(edits, candidate)| edits * 3 <= candidate.chars().count().max(typed.len()))
        .min()
        .map(|(_, candidate)| candidate)
}

/// No key is longer; comparing takes the product of both lengths.
const WORD_CHARS_MAX: usize = 48;

/// Letters, of either case, to insert, remove, replace or swap with their neighbour (optimal string alignment).
fn edits(typed: &[char], candidate: &str) -> usize {
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=typed.len()).collect();
    let mut previous_letter = None;
    for (row, letter) in candidate.chars().map(|c| c.to_ascii_lowercase()).enumerate() {
        let mut current = Vec::with_capacity(last.len());
        current.push(row + 1);
        for (column, &typed_letter) in typed.iter().enumerate() {
            let replaced = last[column] + usize::from(letter != typed_letter);
            let mut best = replaced.min(last[column + 1] + 1).min(current[column] + 1);
            let is_swap =
                column > 0 && previous_letter == Some(typed_letter) && typed[column - 1] == letter;
            if is_swap {
                best = best.min(before_last[column - 1] + 1);
            }
            current.push(best);
        }
        before_last = std::mem::replace(&mut last, current);
        previous_letter = Some(letter);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests;
