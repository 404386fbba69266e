//! `sticky` and `slow_start`: what ties clients to a node, and what keeps them from one that is new.

use std::{sync::Arc, time::Duration};

use super::super::{
    Balancing, SameSite, StickyCookie, bounds,
    planned::Kind,
    reader::{Section, Value},
};
use super::passing::seconds;
use crate::http::name::is_token_byte;

/// Characters of a cookie's name and of its path.
const TEXT_CHARS_MAX: usize = 256;

/// `None`: there is an error.
pub(super) fn sticky(section: &mut Section<'_>) -> Option<Option<StickyCookie>> {
    let Some(mut sticky) = section.section("sticky") else {
        return (!section.has("sticky")).then_some(None);
    };
    let cookie = sticky.require("cookie").and_then(|value| cookie(&value));
    let max_age = sticky.take("max_age").and_then(|value| value.within(&bounds::COOKIE_AGE));
    let path = match sticky.take("path") {
        Some(value) => path(&value),
        None => Some("/".into()),
    };
    let secure = sticky.leaf_or("secure", false);
    let http_only = sticky.leaf_or("http_only", true);
    let words = [("lax", SameSite::Lax), ("strict", SameSite::Strict), ("none", SameSite::None)];
    let same_site = sticky.take("same_site").and_then(|value| value.one_of(&words, &[]));
    if same_site == Some(SameSite::None) && !secure {
        sticky.error("browsers ignore cookies with `same_site: none` and without `secure: true`");
    }
    sticky.finish(Kind::Sticky);
    let cookie = cookie?;
    Some(Some(StickyCookie { cookie, max_age, path: path?, secure, http_only, same_site }))
}

fn cookie(value: &Value<'_>) -> Option<Arc<str>> {
    let is_name =
        |text: &str| (1..=TEXT_CHARS_MAX).contains(&text.len()) && text.bytes().all(is_token_byte);
    value.text("expected the name of a cookie", is_name).map(Into::into)
}

fn path(value: &Value<'_>) -> Option<Box<str>> {
    let is_path = |text: &str| {
        let is_allowed = |byte: u8| (b'!'..=b'~').contains(&byte) && byte != b';';
        text.starts_with('/') && text.len() <= TEXT_CHARS_MAX && text.bytes().all(is_allowed)
    };
    value.text("expected a path as in `/app`", is_path).map(Into::into)
}

/// The window; `None`: there is none, or an error.
pub(super) fn slow_start(section: &mut Section<'_>, balancing: Balancing) -> Option<Duration> {
    let mut slow_start = section.section("slow_start")?;
    let window = slow_start.require("window").and_then(|value| seconds(&value, &bounds::SECONDS));
    if balancing.is_hashing() {
        slow_start.error("`chash` and `maglev` give each key its node from the start; remove it");
    }
    slow_start.finish(Kind::SlowStart);
    window
}
