//! Any file: a configuration that holds what its types promise, or errors in the order of the file.

#![no_main]

use std::{collections::HashSet, sync::Arc};

use libfuzzer_sys::fuzz_target;
use proxy::config::{Config, ConfigErrors, Upstream};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Config::parse(text, "fuzz.yaml") {
        Ok(config) => check_config(&config),
        Err(errors) => check_errors(&errors, text),
    }
});

fn check_errors(ConfigErrors(findings): &ConfigErrors, text: &str) {
    assert!(!findings.list.is_empty(), "refused without a reason");
    assert!(findings.list.is_sorted());
    // A carriage return alone is a line break too, YAML 1.2 section 5.4.
    let lines = text.matches(['\n', '\r']).count() + 1;
    for finding in &findings.list {
        assert!(
            finding.mark.is_none_or(|mark| (1..=lines).contains(&mark.line) && mark.column > 0)
        );
        // One line, nothing that a terminal would obey.
        assert!(!finding.message.contains(char::is_control), "{:?}", finding.message);
        assert!(!finding.path.contains(char::is_control), "{:?}", finding.path);
    }
}

fn check_config(config: &Config) {
    assert!(!config.listeners.is_empty());
    check_unique(config.listeners.iter().map(|listener| &*listener.name));
    check_unique(config.routes.iter().map(|route| &*route.id));
    check_unique(config.stream_routes.iter().map(|route| &*route.id));
    check_unique(config.upstreams.iter().map(|upstream| &*upstream.id));
    check_unique(config.consumers.iter().map(|consumer| &*consumer.username));
    let credentials = config.consumers.iter().flat_map(|consumer| &consumer.credentials);
    let mut seen = HashSet::new();
    assert!(credentials.into_iter().all(|one| seen.insert((one.kind, &one.id))));
    let is_listed = |upstream| config.upstreams.iter().any(|listed| Arc::ptr_eq(listed, upstream));
    for route in &config.routes {
        assert!(
            !route.uris.is_empty() && route.uris.iter().all(|uri| uri.literal().starts_with('/'))
        );
        assert!(route.upstream.iter().all(is_listed));
    }
    assert!(config.stream_routes.iter().all(|route| is_listed(&route.upstream)));
    config.upstreams.iter().for_each(|upstream| check_upstream(upstream));
}

fn check_upstream(upstream: &Upstream) {
    assert!(!upstream.nodes.is_empty() || !upstream.names.is_empty());
    assert!(upstream.retries <= upstream.nodes.len().saturating_sub(1));
    let addresses: HashSet<_> = upstream.nodes.iter().map(|node| node.address).collect();
    assert_eq!(addresses.len(), upstream.nodes.len());
    assert!(upstream.nodes.iter().all(|node| node.weight <= 65_535 && node.address.port() != 0));
}

fn check_unique<'a>(values: impl Iterator<Item = &'a str>) {
    let mut seen = HashSet::new();
    values.for_each(|value| assert!(seen.insert(value), "{value} twice"));
}
