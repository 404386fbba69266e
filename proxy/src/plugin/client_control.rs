//! `client-control`: how much a request may carry.
//!
//! A body whose length says that it is larger is refused at once, one that comes in chunks as soon
//! as they announce more. `limits.body_size_max` holds beside it.

use std::sync::Arc;

use http::StatusCode;

use super::{Kind, Outcome, Phase, Plugin, RequestContext};
use crate::{
    config::plugins::{Scope, Section},
    http::{answer::Answer, framing::BodyLength},
};

pub(super) static KIND: Kind =
    Kind { name: "client-control", priority: 22000, phase: Phase::Rewrite, read, credential: None };

#[derive(Debug)]
struct ClientControl {
    /// Bytes; `None`: any.
    max_body_size: Option<u64>,
}

fn read(section: &mut Section<'_>, _scope: &Scope<'_>) -> Option<Arc<dyn Plugin>> {
    let size = section.leaf_or("max_body_size", 0_u64);
    Some(Arc::new(ClientControl { max_body_size: Some(size).filter(|size| *size > 0) }))
}

impl Plugin for ClientControl {
    fn request(&self, cx: &mut RequestContext<'_>) -> Outcome {
        let Some(max) = self.max_body_size else { return Outcome::Continue };
        if matches!(cx.request.head.body_length(), BodyLength::Fixed(length) if length > max) {
            return Outcome::Answer(Answer::of(StatusCode::PAYLOAD_TOO_LARGE));
        }
        cx.body_size_max = Some(cx.body_size_max.map_or(max, |other| other.min(max)));
        Outcome::Continue
    }
}

#[cfg(test)]
mod tests;
