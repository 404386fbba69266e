//! What all resources have in common: ids, and fields that only describe.

use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;

use super::{
    leaf::Id,
    reader::{Section, Value},
};

/// Calls `read` with each resource of a list and its id; each id occurs once.
///
/// The id is `None` when it is missing or wrong, so that the rest is still checked.
pub(super) fn each<'t>(
    root: &mut Section<'t>,
    list: &'static str,
    mut read: impl FnMut(Section<'t>, Option<Arc<str>>),
) {
    all(root, list, |section, id| {
        read(section, id);
        None::<()>
    });
}

/// What `read` makes of each resource of a list, as [`each`] calls it.
pub(super) fn all<'t, T>(
    root: &mut Section<'t>,
    list: &'static str,
    mut read: impl FnMut(Section<'t>, Option<Arc<str>>) -> Option<T>,
) -> Vec<T> {
    let Some(items) = root.take(list).and_then(|value| value.each()) else { return Vec::new() };
    let mut resources = Vec::with_capacity(items.len());
    let mut lines = HashMap::with_capacity_and_hasher(items.len(), RandomState::default());
    for item in items {
        let Some(mut section) = item.section() else { continue };
        let id = section.require("id").and_then(|value| {
            let Id(id) = value.leaf()?;
            if let Some(line) = lines.insert(Arc::clone(&id), value.place.line()) {
                value.error(format!("`{id}` is the id of line {line} too; ids are unique"));
            }
            Some(id)
        });
        resources.extend(read(section, id));
    }
    resources
}

/// Reads the fields that describe; all but the name are checked, and then left out.
pub(super) fn described(section: &mut Section<'_>) -> Option<Arc<str>> {
    let name = section.take("name").and_then(|value| {
        value.text("needs 1 to 256 characters", |name| {
            (1..=TEXT_MAX).contains(&name.chars().count())
        })
    });
    annotated(section);
    name.map(Into::into)
}

/// The same of a resource that has no name beside its id; what comes back are its labels.
pub(super) fn annotated(section: &mut Section<'_>) -> HashMap<String, String> {
    section.take("desc").and_then(|value| {
        value.text("has more than 256 characters", |desc| desc.chars().count() <= TEXT_MAX)
    });
    dated(section);
    let labels = section.take("labels").and_then(|value| value.pairs()).unwrap_or_default();
    let pair = |(_, key, value): (_, &str, Value<'_>)| Some((key.to_owned(), label(&value)?));
    labels.into_iter().filter_map(pair).collect()
}

/// The times that the Admin API writes down.
pub(super) fn dated(section: &mut Section<'_>) {
    for key in ["create_time", "update_time"] {
        let _: Option<u64> = section.take(key).and_then(|value| value.leaf());
    }
}

fn label(value: &Value<'_>) -> Option<String> {
    value.text("needs 1 to 256 characters without blanks", |text| {
        (1..=TEXT_MAX).contains(&text.chars().count()) && !text.contains(char::is_whitespace)
    })
}

/// Characters of a name, a description and a label.
const TEXT_MAX: usize = 256;

/// A list under a key, if the file has it.
pub(super) fn listed<T: PartialEq>(
    section: &mut Section<'_>,
    key: &'static str,
    read: impl Fn(&Value<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    section.take(key).and_then(|value| each_once(&value, read))
}

/// `key` with one value, or `keys` with a list of them, not both. `None`: neither, or an error.
pub(super) fn one_or_list<T: PartialEq>(
    section: &mut Section<'_>,
    key: &'static str,
    keys: &'static str,
    read: impl Fn(&Value<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    let (one, list) = (section.take(key), section.take(keys));
    if one.is_some() && list.is_some() {
        section.error(format!("`{key}` and `{keys}` at once; keep one of them"));
    }
    match (one, list) {
        (Some(one), _) => Some(vec![read(&one)?]),
        (None, Some(value)) => each_once(&value, read),
        (None, None) => None,
    }
}

/// A list that is not empty and in which nothing occurs twice.
pub(super) fn each_once<T: PartialEq>(
    value: &Value<'_>,
    read: impl Fn(&Value<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    let items = value.items()?;
    if items.is_empty() {
        value.error("is empty; remove the key if there is nothing to say");
        return None;
    }
    if items.len() > LIST_MAX {
        value.error(format!("{} entries; at most {LIST_MAX}", items.len()));
        return None;
    }
    let mut list: Vec<T> = Vec::with_capacity(items.len());
    for item in items {
        let Some(one) = read(&item) else { continue };
        if list.contains(&one) {
            item.error("is in the list already");
        }
        list.push(one);
    }
    Some(list)
}

/// Patterns of one route; each is compared with all before it.
const LIST_MAX: usize = 1024;
