//! What several routes or consumers share: services, plugin configs, consumer groups; and what all
//! requests share: global rules.

use std::{collections::HashMap, sync::Arc};

use super::{
    Service, bounds,
    leaf::Id,
    pattern,
    planned::Kind,
    plugins::{self, Scope},
    reader::{self, Section, Value},
    resource,
    upstream::{Owner, Upstreams},
};
use crate::plugin::PluginSet;

/// Resources that others refer to by id. `None`: has an error, so that a reference is not another one.
#[derive(Debug)]
pub(super) struct Listed<T>(HashMap<Arc<str>, Option<Arc<T>>>);

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T> Listed<T> {
    /// The resource that `value` names, or an error that there is no `what` of that id.
    pub(super) fn refer(&self, value: &Value<'_>, what: &str) -> Option<Arc<T>> {
        let Id(id) = value.leaf()?;
        if let Some(listed) = self.0.get(&id) {
            return listed.clone();
        }
        let near = (self.0.len() <= bounds::SUGGESTED_FROM_MAX)
            .then(|| reader::nearest(&id, self.0.keys().map(AsRef::as_ref)))
            .flatten();
        let hint = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
        value.error(format!("no {what} has the id `{id}`{hint}"));
        None
    }
}

/// `plugins` of a section that stands under `id` in the list `owner`.
pub(super) fn plugins(
    section: &mut Section<'_>,
    owner: &str,
    id: Option<&Arc<str>>,
    scope: &Scope<'_>,
) -> PluginSet {
    let Some(value) = section.take("plugins") else { return PluginSet::default() };
    let owner = id.map(|id| format!("{owner}:{id}"));
    let scope = Scope { owner: owner.as_deref(), ..*scope };
    plugins::read(&value, &scope).owned_by(owner.map(Into::into))
}

/// Reads `services`.
pub(super) fn services<'t>(
    root: &mut Section<'t>,
    upstreams: &mut Upstreams<'t>,
    scope: &Scope<'_>,
) -> Listed<Service> {
    let mut services = Listed::default();
    resource::each(root, "services", |mut section, id| {
        let name = resource::described(&mut section);
        let plugins = plugins(&mut section, "service", id.as_ref(), scope);
        let hosts = resource::listed(&mut section, "hosts", pattern::host).unwrap_or_default();
        let upstream = upstreams.resolve(&mut section, Owner::Service, id.as_deref());
        section.finish(Kind::Service);
        let Some(id) = id else { return };
        let service = upstream.ok().map(|upstream| {
            Arc::new(Service { id: Arc::clone(&id), name, plugins, hosts, upstream })
        });
        services.0.insert(id, service);
    });
    services
}

/// Reads `plugin_configs` or `consumer_groups`.
pub(super) fn sets(
    root: &mut Section<'_>,
    list: &'static str,
    scope: &Scope<'_>,
) -> Listed<PluginSet> {
    let mut sets = Listed::default();
    resource::each(root, list, |mut section, id| {
        resource::described(&mut section);
        if !section.has("plugins") {
            section.error("`plugins` is missing");
        }
        let set = plugins(&mut section, list, id.as_ref(), scope);
        section.finish(Kind::PluginSet);
        if let Some(id) = id {
            sets.0.insert(id, Some(Arc::new(set)));
        }
    });
    sets
}

/// Reads `global_rules`, in order; no two have the same plugin.
pub(super) fn global_rules(root: &mut Section<'_>, scope: &Scope<'_>) -> Vec<PluginSet> {
    let mut rules: Vec<(Arc<str>, PluginSet)> = Vec::new();
    resource::each(root, "global_rules", |mut section, id| {
        resource::dated(&mut section);
        if !section.has("plugins") {
            section.error("`plugins` is missing");
        }
        let set = plugins(&mut section, "global_rule", id.as_ref(), scope);
        for (other, earlier) in &rules {
            for plugin in set.plugins.iter().filter(|plugin| earlier.names(plugin.kind)) {
                let name = plugin.kind.name;
                section.error(format!(
                    "plugin '{name}' already exists in global rule with id '{other}'"
                ));
            }
        }
        section.finish(Kind::PluginSet);
        rules.extend(id.map(|id| (id, set)));
    });
    rules.into_iter().map(|(_, set)| set).collect()
}
