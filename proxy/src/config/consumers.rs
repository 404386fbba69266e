//! Who may be authenticated, and by which key.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    Consumer,
    leaf::Username,
    planned::Kind,
    plugins,
    reader::{Section, Value},
    resource,
};

/// Names of all consumers of the file, those with errors included.
pub(super) type Names = HashSet<Arc<str>>;

/// Reads `consumers`. No two have the same name, no two the same key.
pub(super) fn read(root: &mut Section<'_>) -> (Vec<Consumer>, Names) {
    let mut consumers = Vec::new();
    let mut lines: HashMap<Arc<str>, usize> = HashMap::new();
    let mut owners: HashMap<Arc<str>, Arc<str>> = HashMap::new();
    for item in root.take("consumers").and_then(|value| value.items()).unwrap_or_default() {
        let Some(mut section) = item.section() else { continue };
        resource::described(&mut section);
        let name = section.require("username");
        let key = section.take("plugins").and_then(plugins::of_consumer);
        section.finish(Kind::Consumer);
        let Some((Username(username), value)) = name.and_then(|value| Some((value.leaf()?, value)))
        else {
            continue;
        };
        if let Some(line) = lines.insert(Arc::clone(&username), value.place.line()) {
            value.error(format!("the consumer of line {line} has this name; names are unique"));
        }
        if let Some((key, value)) = &key
            && let Some(owner) = owners.insert(Arc::clone(key), Arc::clone(&username))
        {
            report_shared_key(value, &owner);
        }
        consumers.push(Consumer { username, key_auth: key.map(|(key, _)| key) });
    }
    (consumers, lines.into_keys().collect())
}

fn report_shared_key(value: &Value<'_>, owner: &str) {
    value.error(format!("consumer `{owner}` has the same key; a key belongs to one consumer"));
}
