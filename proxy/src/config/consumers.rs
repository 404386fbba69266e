//! Who may be authenticated, and by what.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use http::HeaderValue;

use super::{
    Consumer,
    leaf::{CredentialId, Username},
    planned::Kind,
    plugins::{self, CredentialAt, Owners, Scope},
    reader::{Section, Value},
    resource,
    shared::Listed,
};
use crate::plugin::{Credential, PluginSet};

/// Names of all consumers of the file, those with errors included.
pub(super) type Names = HashSet<Arc<str>>;

/// The names alone, for those who refer to them; errors are [`read`]'s to report.
pub(super) fn names(root: &Section<'_>) -> Names {
    root.peek("consumers")
        .and_then(|value| value.sequence())
        .into_iter()
        .flatten()
        .filter_map(|item| item.member("username")?.quiet_leaf::<Username>())
        .map(|Username(name)| name)
        .collect()
}

/// Reads `consumers`, among which stand their further credentials. No two consumers have the same
/// name, no two the same credential.
pub(super) fn read(
    root: &mut Section<'_>,
    groups: &Listed<PluginSet>,
    scope: &Scope<'_>,
) -> Vec<Consumer> {
    let (mut consumers, mut further): (Vec<Consumer>, Further) = Default::default();
    let mut lines: HashMap<Arc<str>, usize> = HashMap::new();
    let mut owners = Owners::default();
    for item in root.take("consumers").and_then(|value| value.items()).unwrap_or_default() {
        let Some(section) = item.section() else { continue };
        if is_credential(&section) {
            further.read(section, scope, &mut owners);
            continue;
        }
        let Some((consumer, name, credentials)) = consumer(section, groups, scope) else {
            continue;
        };
        let username = &consumer.username;
        if let Some(line) = lines.insert(Arc::clone(username), name.place.line()) {
            name.error(format!("the consumer of line {line} has this name; names are unique"));
        }
        credentials.iter().for_each(|credential| owners.enter(username, credential));
        consumers.push(consumer);
    }
    for consumer in &mut consumers {
        consumer.credentials.extend(further.of.remove(&consumer.username).unwrap_or_default());
    }
    consumers
}

/// Credentials that are resources of their own.
#[derive(Default)]
struct Further {
    /// By consumer.
    of: HashMap<Arc<str>, Vec<Credential>>,
    lines: HashMap<CredentialId, usize>,
}

impl Further {
    fn read(&mut self, mut section: Section<'_>, scope: &Scope<'_>, owners: &mut Owners) {
        resource::described(&mut section);
        let id = section.require("id").and_then(|value| {
            let id = value.leaf::<CredentialId>()?;
            if let Some(line) = self.lines.insert(id.clone(), value.place.line()) {
                value.error(format!("is the id of line {line} too; ids are unique"));
            }
            if !scope.consumers.contains(&id.consumer) {
                value.error(format!("no consumer is named `{}`", id.consumer));
            }
            Some(id)
        });
        let credential = section.require("plugins");
        let credential = credential.and_then(|value| plugins::of_credential(&value));
        section.finish(Kind::Consumer);
        let (Some(CredentialId { consumer, id }), Some(at)) = (id, credential) else { return };
        owners.enter(&consumer, &at);
        let name = HeaderValue::from_str(&id).ok();
        self.of.entry(consumer).or_default().push(Credential { name, ..at.credential });
    }
}

/// Whether an item of `consumers` is a credential and not a consumer.
fn is_credential(section: &Section<'_>) -> bool {
    let id = section.peek("id").and_then(|value| value.quiet_leaf::<String>());
    id.is_some_and(|id| id.contains(CredentialId::BETWEEN))
}

fn consumer<'t>(
    mut section: Section<'t>,
    groups: &Listed<PluginSet>,
    scope: &Scope<'_>,
) -> Option<(Consumer, Value<'t>, Vec<CredentialAt<'t>>)> {
    let custom_id = custom_id(&mut section);
    let (id, name) = (section.take("id"), section.require("username"));
    let group = section.take("group_id");
    let group_plugins = group.as_ref().and_then(|value| groups.refer(value, "consumer group"));
    let owner = name.as_ref().and_then(|name| name.quiet_leaf());
    let owner = owner.map(|Username(username)| format!("consumer:{username}"));
    let scope = Scope { owner: owner.as_deref(), ..*scope };
    let plugins = section.take("plugins").map(|value| plugins::of_consumer(&value, &scope));
    section.finish(Kind::Consumer);
    let (plugins, credentials) = plugins.unwrap_or_default();
    let name = name?;
    let Username(username) = name.leaf()?;
    if let Some(id) = id.filter(|id| id.quiet_leaf() != Some(Username(Arc::clone(&username)))) {
        id.error("is not the `username`, which is what names a consumer; remove it");
    }
    let group = group_plugins.as_ref().and_then(|set| set.owner.as_deref()?.split_once(':'));
    let consumer = Consumer {
        plugins: plugins.owned_by(owner.map(Into::into)),
        credentials: credentials.iter().map(|at| at.credential.clone()).collect(),
        custom_id,
        group: group.map(|(_, id)| id.into()),
        group_plugins,
        username,
    };
    Some((consumer, name, credentials))
}

/// Label `custom_id`, which nodes are told.
fn custom_id(section: &mut Section<'_>) -> Option<HeaderValue> {
    let id = resource::annotated(section).remove("custom_id")?;
    let value = HeaderValue::from_str(&id);
    if value.is_err() {
        section.error("the label `custom_id` has characters that no field value can have");
    }
    value.ok()
}
