//! `proxy-mirror`: somebody else gets a copy of the requests that nodes get.
//!
//! Only what is forwarded is copied, as the node sees it, and nobody waits for the copy or reads what
//! it is answered with.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use http::uri::PathAndQuery;

use super::{Kind, Outcome, Phase, Plugin, RequestContext};
use crate::{
    client::Url,
    config::plugins::{Scope, Section, Value, url},
};

pub(super) static KIND: Kind =
    Kind { name: "proxy-mirror", priority: 1010, phase: Phase::Rewrite, read, credential: None };

#[derive(Debug)]
struct ProxyMirror {
    mirror: Arc<Mirror>,
    /// Of 2^64; `None`: all.
    share: Option<u64>,
    /// What has come together of a copy, of 2^64.
    due: AtomicU64,
}

/// Where copies go.
#[derive(Debug)]
pub struct Mirror {
    /// Its target stands for nothing.
    host: Url,
    path: Option<(String, Concat)>,
}

/// What becomes of the path that the node sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Concat {
    Replace,
    Prefix,
}

fn read(section: &mut Section<'_>, _scope: &Scope<'_>) -> Option<Arc<dyn Plugin>> {
    const MODES: [(&str, Concat); 2] = [("replace", Concat::Replace), ("prefix", Concat::Prefix)];
    let host = section.require("host").and_then(|value| host(&value));
    let path = section.take("path").map(|value| path(&value));
    let mode = section.take("path_concat_mode").map(|value| {
        if path.is_none() {
            value.error("means nothing without `path`");
        }
        value.one_of(&MODES, &[])
    });
    let ratio = section.within_or("sample_ratio", 0.00001..=1.0, 1.0);
    let mode = mode.unwrap_or(Some(Concat::Replace))?;
    let path = path.map_or(Some(None), |path| path.map(|path| Some((path, mode))))?;
    let share = (ratio < 1.0).then(|| (ratio * 2.0_f64.powi(64)) as u64);
    let mirror = Arc::new(Mirror { host: host?, path });
    Some(Arc::new(ProxyMirror { mirror, share, due: AtomicU64::new(0) }))
}

fn host(value: &Value<'_>) -> Option<Url> {
    let text = value.leaf::<String>()?;
    if text.starts_with("grpc://") || text.starts_with("grpcs://") {
        value.error("gRPC is not built yet; use `http` or `https`");
        return None;
    }
    let is_bare = |rest: &str| !rest.contains(['/', '?']);
    if text.split_once("://").is_some_and(|(_, rest)| !is_bare(rest)) {
        value.error("needs scheme, host and port alone; the path is `path`");
        return None;
    }
    url(value)
}

fn path(value: &Value<'_>) -> Option<String> {
    value.text("needs a path such as `/a/b`, encoded and without query", |text| {
        text.starts_with('/') && !text.contains(['?', '#']) && PathAndQuery::try_from(text).is_ok()
    })
}

impl Plugin for ProxyMirror {
    fn request(&self, cx: &mut RequestContext<'_>) -> Outcome {
        if self.is_meant() {
            cx.mirrors.push(Arc::clone(&self.mirror));
        }
        Outcome::Continue
    }
}

impl ProxyMirror {
    fn is_meant(&self) -> bool {
        let Some(share) = self.share else { return true };
        let before = self.due.fetch_add(share, Ordering::Relaxed);
        before.checked_add(share).is_none()
    }
}

impl Mirror {
    /// Where the copy of a request goes of which the node sees `target`; `None`: it is too long.
    pub(crate) fn url(&self, target: &str) -> Option<Url> {
        let query = target.find('?').map_or("", |at| &target[at..]);
        let target = match &self.path {
            None => PathAndQuery::try_from(target),
            Some((path, Concat::Replace)) => PathAndQuery::try_from([path, query].concat()),
            Some((path, Concat::Prefix)) => PathAndQuery::try_from([path, target].concat()),
        };
        Some(Url { target: target.ok()?, ..self.host.clone() })
    }
}

#[cfg(test)]
mod tests;
