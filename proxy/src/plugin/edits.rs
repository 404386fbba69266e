//! Changes to the fields of a message on its way.

use std::{
    borrow::Cow,
    ops::{Deref, DerefMut},
    sync::Arc,
};

use http::{HeaderName, HeaderValue};

use super::few::Few;
use crate::http::{fields::ForwardedField, name::Known};

/// What plugins change about the fields of a message.
///
/// What the proxy makes itself cannot be changed ([`is_editable`]): a message without its framing,
/// `Host` or `Via` would be another message.
/// The first `N` cost no allocation.
#[derive(Debug, Default)]
pub struct FieldEdits<'a, const N: usize = 0>(Few<Edit<'a>, N>);

#[derive(Debug)]
enum Edit<'a> {
    Remove(FieldName<'a>),
    /// In place of what was received.
    Set(HeaderName, HeaderValue),
    /// Beside what was received.
    Add(HeaderName, HeaderValue),
    /// Only if nothing was received under that name.
    Default(HeaderName, HeaderValue),
}

/// The name of a field that is removed.
#[derive(Debug, Clone)]
pub enum FieldName<'a> {
    Borrowed(&'a str),
    /// From the configuration.
    Shared(Arc<str>),
}

impl<'a> From<&'a str> for FieldName<'a> {
    fn from(name: &'a str) -> Self {
        FieldName::Borrowed(name)
    }
}

impl From<&Arc<str>> for FieldName<'_> {
    fn from(name: &Arc<str>) -> Self {
        FieldName::Shared(Arc::clone(name))
    }
}

impl Deref for FieldName<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            FieldName::Borrowed(name) => name,
            FieldName::Shared(name) => name,
        }
    }
}

/// Whether plugins may remove or set fields of this name.
pub fn is_editable(name: &str) -> bool {
    Known::of(name.as_bytes()).is_editable()
}

impl<'a, const N: usize> FieldEdits<'a, N> {
    pub fn is_empty(&self) -> bool {
        self.0.iter().next().is_none()
    }

    /// Whoever comes next sees nothing under `name`, neither what was received nor what was set.
    pub fn remove(&mut self, name: impl Into<FieldName<'a>>) {
        let name = name.into();
        debug_assert!(is_editable(&name), "{name:?}");
        self.0.retain(|edit| !edit.makes(&name));
        self.0.push(Edit::Remove(name));
    }

    /// Whoever comes next sees this instead of what was received or set under `name`. The type of the
    /// value keeps out what would end a line (RFC 9110 section 5.5).
    pub fn set(&mut self, name: HeaderName, value: HeaderValue) {
        debug_assert!(is_editable(name.as_str()), "{name}");
        self.0.retain(|edit| !edit.makes(name.as_str()));
        self.0.push(Edit::Set(name, value));
    }

    /// Whoever comes next sees this too.
    pub fn add(&mut self, name: HeaderName, value: HeaderValue) {
        debug_assert!(is_editable(name.as_str()), "{name}");
        self.0.push(Edit::Add(name, value));
    }

    /// Whoever comes next sees this if nothing else was received or set under `name`.
    pub fn set_default(&mut self, name: HeaderName, value: HeaderValue) {
        debug_assert!(is_editable(name.as_str()), "{name}");
        if !self.0.iter().any(|edit| edit.makes(name.as_str())) {
            self.0.push(Edit::Default(name, value));
        }
    }

    /// The fields that are made, given which names have been received.
    pub fn made<'s>(
        &'s self,
        is_received: impl Fn(&str) -> bool + 's,
    ) -> impl Iterator<Item = (&'s HeaderName, &'s HeaderValue)> + 's {
        self.0.iter().filter_map(move |edit| match edit {
            Edit::Set(name, value) | Edit::Add(name, value) => Some((name, value)),
            Edit::Default(name, value) if !is_received(name.as_str()) => Some((name, value)),
            Edit::Default(..) | Edit::Remove(_) => None,
        })
    }

    /// Whether a field that was received stays behind. Nodes that read fields as CGI variables
    /// cannot tell `_` from `-`, so neither is told here.
    #[inline]
    pub fn replaces(&self, field: &ForwardedField<'_>) -> bool {
        field.known.is_editable() && self.hides(field.name.as_bytes())
    }

    /// The same for the name of a field that plugins may change.
    pub(crate) fn hides(&self, name: &[u8]) -> bool {
        self.0.iter().any(|edit| match edit {
            Edit::Remove(removed) => is_alike(removed.as_bytes(), name),
            Edit::Set(set, _) => is_alike(set.as_str().as_bytes(), name),
            Edit::Add(..) | Edit::Default(..) => false,
        })
    }

    /// Whether what somebody else has made under `name` gives way.
    pub fn replaces_name(&self, name: &HeaderName) -> bool {
        self.0.iter().any(|edit| match edit {
            Edit::Remove(removed) => removed.eq_ignore_ascii_case(name.as_str()),
            Edit::Set(set, _) => set == name,
            Edit::Add(..) | Edit::Default(..) => false,
        })
    }
}

impl Edit<'_> {
    fn makes(&self, name: &str) -> bool {
        match self {
            Edit::Set(made, _) | Edit::Add(made, _) | Edit::Default(made, _) => {
                made.as_str().eq_ignore_ascii_case(name)
            }
            Edit::Remove(_) => false,
        }
    }
}

/// Whether two field names are one to a CGI node.
pub(crate) fn is_alike(one: &[u8], other: &[u8]) -> bool {
    let folded = |byte: &u8| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    one.len() == other.len() && one.iter().map(folded).eq(other.iter().map(folded))
}

/// What the node sees of a request in place of what was received, fields apart; empty for most, and
/// then it takes no room.
#[derive(Debug, Default)]
pub struct Rewrite(Option<Box<Rewritten>>);

#[derive(Debug, Default)]
pub struct Rewritten {
    /// Path without query, as it is sent: percent-encoded, beginning with `/`.
    pub path: Option<String>,
    pub method: Option<Cow<'static, str>>,
    pub host: Option<HeaderValue>,
}

static NOTHING: Rewritten = Rewritten { path: None, method: None, host: None };

impl Deref for Rewrite {
    type Target = Rewritten;

    fn deref(&self) -> &Rewritten {
        self.0.as_deref().unwrap_or(&NOTHING)
    }
}

impl DerefMut for Rewrite {
    fn deref_mut(&mut self) -> &mut Rewritten {
        self.0.get_or_insert_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(edits: &FieldEdits<'_, 2>, received: &[&str]) -> Vec<(String, String)> {
        let text = |value: &HeaderValue| value.to_str().expect("ASCII").to_owned();
        let is_received = |name: &str| received.contains(&name);
        edits.made(is_received).map(|(name, value)| (name.to_string(), text(value))).collect()
    }

    fn pair(name: &'static str, value: &'static str) -> (HeaderName, HeaderValue) {
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    }

    #[test]
    fn the_last_word_about_a_field_counts() {
        let mut edits = FieldEdits::<2>::default();
        for value in ["1", "2"] {
            let (name, value) = pair("x-a", value);
            edits.set(name, value);
        }
        let (name, value) = pair("x-a", "3");
        edits.add(name, value);
        assert_eq!(made(&edits, &[]), [("x-a".into(), "2".into()), ("x-a".into(), "3".into())]);
        edits.remove("X-A");
        assert_eq!(made(&edits, &[]), []);
        assert!(!edits.is_empty());
    }

    #[test]
    fn a_default_gives_way() {
        let mut edits = FieldEdits::<2>::default();
        let (name, value) = pair("x-a", "default");
        edits.set_default(name, value);
        assert_eq!(made(&edits, &["x-a"]), []);
        assert_eq!(made(&edits, &["x-b"]), [("x-a".into(), "default".into())]);
        let (name, value) = pair("x-a", "set");
        edits.set(name, value);
        let (name, value) = pair("x-a", "default");
        edits.set_default(name, value);
        assert_eq!(made(&edits, &[]), [("x-a".into(), "set".into())]);
    }
}
