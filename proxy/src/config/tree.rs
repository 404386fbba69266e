//! The YAML of one file as a tree that knows where everything stands.
//!
//! In: text. Out: one document of scalars, sequences and mappings with string keys. Aliases are
//! written out in place, environment references are replaced inside scalars. Refused here: what a
//! configuration has no use for and readers may take differently (tags, merge keys, several
//! documents, keys that are not scalars), and whatever passes one of the limits below.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, StrInput};

use super::{
    env::{self, Lookup},
    finding::{Mark, Sink},
};

/// Levels of sequences and mappings inside each other.
const DEPTH_MAX: usize = 32;
/// Nodes of the tree after aliases were written out: ten thousand routes have about 200 000.
const NODES_MAX: usize = 500_000;
/// Bytes of all scalars after aliases and environment references were written out.
const TEXT_SIZE_MAX: usize = 32 << 20;

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(super) mark: Mark,
    pub(super) content: Content,
}

#[derive(Debug, Clone)]
pub(crate) enum Content {
    Scalar(Scalar),
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

impl Node {
    /// The subtree as it is written: `1.10` is not `1.1`, but `'a'` is `a`.
    pub(super) fn source(&self) -> serde_json::Value {
        match &self.content {
            Content::Scalar(scalar) => scalar.source().into(),
            Content::Sequence(items) => items.iter().map(Node::source).collect(),
            Content::Mapping(entries) => {
                entries.iter().map(|entry| (entry.key.clone(), entry.value.source())).collect()
            }
        }
    }

    /// Whether any value in the subtree is so.
    pub(super) fn has_text(&self, is_so: &impl Fn(&str) -> bool) -> bool {
        match &self.content {
            Content::Scalar(scalar) => is_so(&scalar.text),
            Content::Sequence(items) => items.iter().any(|item| item.has_text(is_so)),
            Content::Mapping(entries) => entries.iter().any(|entry| entry.value.has_text(is_so)),
        }
    }

    /// What is no JSON is null, and of keys that occur twice the last counts: who asks has been told.
    pub(super) fn json(&self) -> serde_json::Value {
        match &self.content {
            Content::Scalar(scalar) => scalar.json().unwrap_or_default(),
            Content::Sequence(items) => items.iter().map(Node::json).collect(),
            Content::Mapping(entries) => {
                entries.iter().map(|entry| (entry.key.clone(), entry.value.json())).collect()
            }
        }
    }
}

/// One pair of a mapping. Keys may occur twice; the reader of the mapping refuses that, because only
/// it knows whether a key may be printed.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(super) key: String,
    pub(super) mark: Mark,
    pub(super) value: Node,
}

#[derive(Debug, Clone)]
pub(crate) struct Scalar {
    pub(super) text: String,
    pub(super) origin: Origin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Without quotes: the text decides the type.
    Plain,
    /// A string, whatever it looks like.
    Quoted,
    /// From the environment, at least in part: of the type that its key asks for.
    Environment,
    /// Names what the environment does not have, which is reported already.
    Unresolved,
}

/// Reads one document. `None`: an error ended it; what is reported then is in `sink`.
pub(super) fn read(text: &str, lookup: Lookup<'_>, sink: &Sink) -> Option<Node> {
    if let Some((mark, c)) = forbidden(text) {
        let message = format!("the character U+{:04X} is not allowed in YAML", u32::from(c));
        sink.error(mark, "", message);
        return None;
    }
    // At the end of the file the parser is a line ahead.
    let end = Mark::at(text, text.len());
    let mut builder = Builder {
        end,
        lookup,
        sink,
        open: Vec::new(),
        anchors: HashMap::new(),
        root: None,
        documents: 0,
        nodes: 0,
        text_size: 0,
    };
    let mut parser: Parser<'_, StrInput<'_>> = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, span) = match event {
            Ok(event) => event,
            Err(error) => {
                let mark = mark_of(*error.marker()).min(end);
                let hint = reference_hint(text, mark);
                sink.error(mark, "", format!("not YAML: {}{hint}", error.info()));
                return None;
            }
        };
        if let Err(Halt { mark, message }) = builder.event(event, span) {
            sink.error(mark, &builder.path(), message);
            return None;
        }
    }
    if builder.root.is_none() {
        sink.error(Mark::START, "", "the file is empty; it needs at least `listeners`".to_owned());
    }
    builder.root
}

/// In a flow collection the braces of a reference are YAML's own.
fn reference_hint(text: &str, mark: Mark) -> &'static str {
    let line = text.lines().nth(mark.line - 1).unwrap_or_default();
    if line.contains(env::OPEN) {
        "; inside of `[ ]` and `{ }`, put `${{…}}` in quotes"
    } else {
        ""
    }
}

/// The first control character that YAML 1.2 section 5.1 does not allow. The parser takes NUL for the
/// end of the file and would leave out what follows.
fn forbidden(text: &str) -> Option<(Mark, char)> {
    let is_allowed = |c: char| !c.is_control() || matches!(c, '\t' | '\n' | '\r' | '\u{85}');
    let (at, c) = text.char_indices().find(|&(_, c)| !is_allowed(c))?;
    Some((Mark::at(text, at), c))
}

/// An error after which the rest of the file means nothing.
struct Halt {
    mark: Mark,
    message: String,
}

fn halt(mark: Mark, message: &str) -> Halt {
    Halt { mark, message: message.to_owned() }
}

const KEY_MUST_BE_SCALAR: &str = "a key is a plain word, not a list or a mapping";

/// The parser counts lines from 1 and columns from 0.
fn mark_of(marker: Marker) -> Mark {
    Mark { line: marker.line().max(1), column: marker.col() + 1 }
}

struct Builder<'a> {
    /// Where the file ends.
    end: Mark,
    lookup: Lookup<'a>,
    sink: &'a Sink,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    root: Option<Node>,
    documents: usize,
    nodes: usize,
    text_size: usize,
}

/// A sequence or mapping whose end has not come yet.
struct Open {
    mark: Mark,
    anchor: usize,
    partial: Partial,
}

enum Partial {
    Sequence(Vec<Node>),
    /// With the key whose value comes next.
    Mapping(Vec<Entry>, Option<PendingKey>),
}

struct PendingKey {
    /// `None`: could not be resolved, which is reported already; its value is left out.
    text: Option<String>,
    mark: Mark,
}

/// The parser's number for "has no anchor".
const NO_ANCHOR: usize = 0;

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Halt> {
        let mark = mark_of(span.start).min(self.end);
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => self.document(mark),
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_tag(mark, tag.is_some());
                let scalar = self.scalar(mark, &text, style);
                self.spend(mark, (1, scalar.text.len()))?;
                self.complete(Node { mark, content: Content::Scalar(scalar) }, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_tag(mark, tag.is_some());
                self.begin(mark, anchor, Partial::Sequence(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_tag(mark, tag.is_some());
                self.begin(mark, anchor, Partial::Mapping(Vec::new(), None))
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(mark),
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor) else {
                    return Err(halt(mark, "an alias inside of what it stands for"));
                };
                self.spend(mark, cost(node))?;
                let node = self.anchors[&anchor].clone();
                self.complete(node, NO_ANCHOR)
            }
        }
    }

    fn document(&mut self, mark: Mark) -> Result<(), Halt> {
        self.documents += 1;
        if self.documents > 1 {
            return Err(halt(mark, "a second document begins; a configuration is one document"));
        }
        Ok(())
    }

    fn refuse_tag(&self, mark: Mark, has_tag: bool) {
        if has_tag {
            let message = "tags such as `!x` mean nothing here; remove it, quotes make a string";
            self.sink.error(mark, &self.path(), message.to_owned());
        }
    }

    fn scalar(&self, mark: Mark, text: &str, style: ScalarStyle) -> Scalar {
        match env::substitute(text, self.lookup) {
            Ok(Some(text)) => Scalar { text, origin: Origin::Environment },
            Ok(None) => {
                let is_plain = style == ScalarStyle::Plain;
                let origin = if is_plain { Origin::Plain } else { Origin::Quoted };
                Scalar { text: text.to_owned(), origin }
            }
            Err(message) => {
                self.sink.error(mark, &self.path(), message);
                Scalar { text: String::new(), origin: Origin::Unresolved }
            }
        }
    }

    fn begin(&mut self, mark: Mark, anchor: usize, partial: Partial) -> Result<(), Halt> {
        if let Some(Open { partial: Partial::Mapping(_, None), .. }) = self.open.last() {
            return Err(halt(mark, KEY_MUST_BE_SCALAR));
        }
        if self.open.len() == DEPTH_MAX {
            let message = format!("more than {DEPTH_MAX} levels of nesting");
            return Err(Halt { mark, message });
        }
        self.open.push(Open { mark, anchor, partial });
        Ok(())
    }

    fn end(&mut self, mark: Mark) -> Result<(), Halt> {
        self.spend(mark, (1, 0))?;
        // The parser closes only what it opened, and in order.
        let Some(Open { mark, anchor, partial }) = self.open.pop() else {
            return Err(halt(mark, "not YAML: an end without a beginning"));
        };
        let content = match partial {
            Partial::Sequence(items) => Content::Sequence(items),
            Partial::Mapping(entries, _) => Content::Mapping(entries),
        };
        self.complete(Node { mark, content }, anchor)
    }

    /// Puts a whole node where it belongs: a key, a value, an item or the root.
    fn complete(&mut self, node: Node, anchor: usize) -> Result<(), Halt> {
        if anchor != NO_ANCHOR {
            self.spend(node.mark, cost(&node))?;
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|open| &mut open.partial) {
            None => self.root = Some(node),
            Some(Partial::Sequence(items)) => items.push(node),
            Some(Partial::Mapping(entries, pending @ Some(_))) => {
                if let Some(PendingKey { text: Some(key), mark }) = pending.take() {
                    entries.push(Entry { key, mark, value: node });
                }
            }
            Some(Partial::Mapping(_, pending @ None)) => *pending = Some(pending_key(node)?),
        }
        Ok(())
    }

    /// Counts nodes and bytes of text: a scalar, a container, or a copy of either with all it holds.
    fn spend(&mut self, mark: Mark, (nodes, text_size): (usize, usize)) -> Result<(), Halt> {
        self.nodes += nodes;
        self.text_size += text_size;
        if self.nodes > NODES_MAX {
            let message = format!("more than {NODES_MAX} values, aliases written out");
            return Err(Halt { mark, message });
        }
        if self.text_size > TEXT_SIZE_MAX {
            let message = format!("more than {TEXT_SIZE_MAX} bytes of text, aliases written out");
            return Err(Halt { mark, message });
        }
        Ok(())
    }

    /// Where the next node will stand.
    fn path(&self) -> String {
        let mut path = String::new();
        for open in &self.open {
            match &open.partial {
                Partial::Sequence(items) => push_index(&mut path, items.len()),
                Partial::Mapping(_, Some(PendingKey { text: Some(key), .. })) => {
                    push_key(&mut path, key);
                }
                Partial::Mapping(..) => {}
            }
        }
        path
    }
}

fn pending_key(node: Node) -> Result<PendingKey, Halt> {
    let Content::Scalar(Scalar { text, origin }) = node.content else {
        return Err(halt(node.mark, KEY_MUST_BE_SCALAR));
    };
    if text == "<<" && origin == Origin::Plain {
        let message = "merge keys (`<<`) are not part of YAML 1.2; write the keys out or use an \
                       alias for a whole value";
        return Err(halt(node.mark, message));
    }
    Ok(PendingKey { text: (origin != Origin::Unresolved).then_some(text), mark: node.mark })
}

/// Nodes and bytes of text of a node with all it holds. As deep as the tree, which is bounded.
fn cost(node: &Node) -> (usize, usize) {
    let add =
        |(nodes, size): (usize, usize), (more, text): (usize, usize)| (nodes + more, size + text);
    match &node.content {
        Content::Scalar(scalar) => (1, scalar.text.len()),
        Content::Sequence(items) => items.iter().map(cost).fold((1, 0), add),
        Content::Mapping(entries) => entries
            .iter()
            .map(|entry| add(cost(&entry.value), (1, entry.key.len())))
            .fold((1, 0), add),
    }
}

/// Appends `[index]`.
pub(super) fn push_index(path: &mut String, index: usize) {
    path.push('[');
    path.push_str(&index.to_string());
    path.push(']');
}

/// Appends `.key`, or `["key"]` where the key is not a word.
pub(super) fn push_key(path: &mut String, key: &str) {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !key.is_empty() && key.chars().all(is_word) {
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(key);
    } else {
        path.push('[');
        path.push_str(&quoted(key));
        path.push(']');
    }
}

/// A value of the file as a message shows it: one line, at most [`SHOWN_CHARS_MAX`] characters.
pub(crate) fn shown(text: &str) -> String {
    let mut shown: String =
        text.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

const SHOWN_CHARS_MAX: usize = 64;

fn quoted(text: &str) -> String {
    format!("\"{}\"", shown(text))
}

#[cfg(test)]
mod tests;
