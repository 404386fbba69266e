//! The settings of plugins, on routes and on consumers.

use std::sync::Arc;

use super::{
    bounds,
    consumers::Names,
    planned::Kind,
    reader::{Section, Value},
};
use crate::plugin::{self, KeyAuthConfig, PluginConfig};

/// `plugins` of a route.
pub(super) fn of_route(value: &Value<'_>, consumers: &Names) -> Vec<PluginConfig> {
    let Some(mut section) = value.section() else { return Vec::new() };
    let key_auth = section.section("key-auth").map(|section| key_auth(section, consumers));
    section.finish(Kind::RoutePlugins);
    key_auth.into_iter().map(PluginConfig::KeyAuth).collect()
}

/// `key-auth` of a route; names and defaults are APISIX's.
fn key_auth(mut section: Section<'_>, consumers: &Names) -> KeyAuthConfig {
    let header = section.take("header").and_then(|value| {
        let name = token(&value)?;
        if !plugin::is_editable(&name) {
            value.error("is a field that the proxy makes itself; a key needs one of its own");
        }
        Some(name)
    });
    let query = section.take("query").and_then(|value| {
        checked(&value, "is not the name of a query argument", |name| {
            !name.is_empty() && !name.contains(['&', '=', '#']) && is_visible(name)
        })
    });
    let realm = section.take("realm").and_then(|value| {
        checked(&value, "needs 1 to 128 printable characters but `\"` and `\\`", |realm| {
            (1..=128).contains(&realm.len())
                && realm
                    .bytes()
                    .all(|byte| matches!(byte, 0x20..=0x7e) && byte != b'"' && byte != b'\\')
        })
    });
    let anonymous_consumer = section.take("anonymous_consumer").and_then(|value| {
        let name = value.leaf::<String>()?;
        if !consumers.contains(name.as_str()) {
            value.error(format!("no consumer is named `{}`", super::tree::shown(&name)));
        }
        Some(name)
    });
    let hide_credentials = section.leaf_or("hide_credentials", false);
    section.finish(Kind::Plugin);
    KeyAuthConfig {
        header: header.unwrap_or_else(|| "apikey".to_owned()),
        query: query.unwrap_or_else(|| "apikey".to_owned()),
        realm: realm.unwrap_or_else(|| "key".to_owned()),
        hide_credentials,
        anonymous_consumer,
    }
}

/// The name of a field, RFC 9110 section 5.6.2, in lower case.
fn token(value: &Value<'_>) -> Option<String> {
    let is_token = |name: &str| {
        let is_tchar = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        !name.is_empty() && name.chars().all(is_tchar)
    };
    checked(value, "is not the name of a field", is_token).map(|name| name.to_ascii_lowercase())
}

fn checked(value: &Value<'_>, problem: &str, is_valid: impl Fn(&str) -> bool) -> Option<String> {
    let text = value.leaf::<String>()?;
    if !is_valid(&text) {
        value.error(problem);
    }
    Some(text)
}

fn is_visible(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// `plugins` of a consumer: the key of `key-auth` and where it stands.
pub(super) fn of_consumer<'t>(value: Value<'t>) -> Option<(Arc<str>, Value<'t>)> {
    let mut section = value.secret().section()?;
    let key_auth = section.section("key-auth");
    section.finish(Kind::ConsumerPlugins);
    let mut key_auth = key_auth?;
    let key = key_auth.require("key");
    key_auth.finish(Kind::Plugin);
    let value = key?;
    let key = checked(&value, KEY_FORM, |key| {
        // A field's value has neither control characters nor blanks at its ends.
        (1..=bounds::KEY_SIZE_MAX).contains(&key.len())
            && key.trim() == key
            && !key.contains(char::is_control)
    })?;
    Some((key.into(), value))
}

const KEY_FORM: &str =
    "needs 1 to 4096 bytes, without control characters and without blanks at its ends";
