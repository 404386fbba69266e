//! `file-logger`: writes a JSON line of each exchange to a file.
//!
//! The line is made when the exchange is over and written by a thread of the file's own
//! ([`log_files`](crate::log_files)). `match` is a list of expressions of which one has to hold; they
//! see what variables of logs say too. What is not set here may be in `plugin_metadata`. Bodies are kept
//! on their way, as many bytes of each as are asked for; whether they are wanted is found out in the end.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use super::{
    Detail, Finished, Hooks, KeptBody, Kind, LoggedBodies, LoggedBody, Phase, Plugin,
    kept_body::Beginning,
    log_entry::{Layout, default_line},
};
use crate::{
    config::{
        expression::{any_expression, expression},
        plugins::{Scope, Section, log_path},
    },
    expression::Expression,
    log_files::{LogFile, LogFiles},
    variable::{Facts, Moment},
};

pub(super) static KIND: Kind =
    Kind { name: "file-logger", priority: 399, phase: Phase::Access, read, credential: None };

/// Bytes of one line; a longer one is dropped.
const LINE_SIZE_MAX: usize = 128 << 10;
/// The same of one with bodies; those of a longer one are cut first, as it is the client who makes it
/// long: of each no more stays than this, which is six times as much when it is escaped.
const LINE_WITH_BODIES_MAX: usize = 2 << 20;
const CUT_BODY_SIZE: usize = 64 << 10;
/// Bytes of a body that may be asked for, and that are unless the settings say otherwise.
const BODY_SIZE_MAX: usize = 1 << 20;
const BODY_SIZE: usize = 512 << 10;

#[derive(Debug)]
struct FileLogger {
    path: PathBuf,
    layout: Layout,
    matches: Option<Expression>,
    request_body: Option<Part>,
    response_body: Option<Part>,
    /// Once it is in force.
    file: OnceLock<LogFile>,
}

/// What is wanted of bodies.
#[derive(Debug)]
struct Part {
    size_max: usize,
    condition: Option<Expression>,
}

impl Part {
    /// `Some(None)`: nothing is. `keys` are the switch, the condition and the size.
    fn read(section: &mut Section<'_>, keys: [&'static str; 3]) -> Option<Option<Part>> {
        let [switch, condition, size] = keys;
        let is_wanted = section.leaf_or(switch, false);
        if !is_wanted && (section.has(condition) || section.has(size)) {
            section.error(format!(
                "`{condition}` and `{size}` mean nothing without `{switch}: true`"
            ));
        }
        let condition = section.take(condition).map(|value| expression(&value, Moment::Log));
        let size_max = section.within_or(size, 1..=BODY_SIZE_MAX, BODY_SIZE);
        let condition = condition.map_or(Some(None), |condition| condition.map(Some))?;
        Some(is_wanted.then_some(Part { size_max, condition }))
    }

    fn is_meant(&self, facts: &Facts<'_>) -> bool {
        self.condition.as_ref().is_none_or(|condition| condition.holds(facts))
    }
}

/// What there is of `kept` that is wanted, no more than `cut` bytes.
fn part<'k>(
    wanted: &Option<Part>,
    kept: Option<&'k Beginning>,
    facts: &Facts<'_>,
    cut: usize,
) -> Option<LoggedBody<'k>> {
    let wanted = wanted.as_ref()?;
    kept?.up_to(cut.min(wanted.size_max)).filter(|_| wanted.is_meant(facts))
}

fn read(section: &mut Section<'_>, scope: &Scope<'_>) -> Option<Arc<dyn Plugin>> {
    let metadata = &scope.metadata.file_logger;
    let path = section.take("path").map(|value| log_path(&value, scope.log_paths));
    let layout = Layout::read(section);
    let matches = section.take("match").map(|value| any_expression(&value, Moment::Log));
    let request_body =
        Part::read(section, ["include_req_body", "include_req_body_expr", "max_req_body_bytes"]);
    let response_body =
        Part::read(section, ["include_resp_body", "include_resp_body_expr", "max_resp_body_bytes"]);
    let path = path.unwrap_or_else(|| {
        if metadata.path.is_none() {
            section.error("property \"path\" is not set in either the plugin conf or the metadata");
        }
        metadata.path.clone()
    });
    Some(Arc::new(FileLogger {
        path: path?,
        layout: layout?.or(&metadata.layout),
        matches: matches.map_or(Some(None), |matches| matches.map(Some))?,
        request_body: request_body?,
        response_body: response_body?,
        file: OnceLock::new(),
    }))
}

impl Plugin for FileLogger {
    fn open(&self, files: &LogFiles) {
        self.file.get_or_init(|| files.open(&self.path));
    }

    fn hooks(&self) -> Hooks {
        let size = |part: &Option<Part>| part.as_ref().map_or(0, |part| part.size_max);
        Hooks {
            log: true,
            log_detail: true,
            kept_request: size(&self.request_body),
            kept_response: size(&self.response_body),
            ..Hooks::default()
        }
    }

    fn log(&self, exchange: &Finished<'_>) {
        let Some(file) = self.file.get() else { return };
        let line = match self.sees_variables() {
            true => exchange.with_facts(|facts| {
                let is_meant = self.matches.as_ref().is_none_or(|matches| matches.holds(facts));
                is_meant.then(|| self.line(exchange, facts))
            }),
            false => Some(Some(default_line(exchange)).filter(|line| line.len() <= LINE_SIZE_MAX)),
        };
        match line {
            Some(Some(line)) => file.write(&line),
            Some(None) => file.lose(),
            None => {}
        }
    }
}

impl FileLogger {
    fn sees_variables(&self) -> bool {
        let has_bodies = self.request_body.is_some() || self.response_body.is_some();
        has_bodies || self.matches.is_some() || !self.layout.is_default()
    }

    /// `None`: it would be too long, whatever is left of bodies.
    fn line(&self, exchange: &Finished<'_>, facts: &Facts<'_>) -> Option<Vec<u8>> {
        let has_bodies = self.request_body.is_some() || self.response_body.is_some();
        let size_max = if has_bodies { LINE_WITH_BODIES_MAX } else { LINE_SIZE_MAX };
        let is_short = |line: &Vec<u8>| line.len() <= size_max;
        let whole = Some(self.line_with(exchange, facts, BODY_SIZE_MAX)).filter(is_short);
        if whole.is_some() || !has_bodies {
            return whole;
        }
        let cut = Some(self.line_with(exchange, facts, CUT_BODY_SIZE)).filter(is_short)?;
        self.note_cut(exchange, facts);
        Some(cut)
    }

    /// Bodies have been cut for the sake of the line, as far as they were to be longer.
    fn note_cut(&self, exchange: &Finished<'_>, facts: &Facts<'_>) {
        let Some(Detail { request, response, .. }) = exchange.detail else { return };
        for (wanted, kept) in [(&self.request_body, request), (&self.response_body, response)] {
            if let (Some(wanted), Some(kept)) = (wanted, kept)
                && wanted.is_meant(facts)
            {
                kept.shorten(wanted.size_max, CUT_BODY_SIZE);
            }
        }
    }

    /// With no more than `size_max` bytes of each body.
    fn line_with(&self, exchange: &Finished<'_>, facts: &Facts<'_>, size_max: usize) -> Vec<u8> {
        let kept = |of: fn(&Detail) -> &Option<KeptBody>| {
            exchange.detail.and_then(|detail| of(detail).as_ref()).map(KeptBody::look)
        };
        let (request, response) = (kept(|it| &it.request), kept(|it| &it.response));
        let bodies = LoggedBodies {
            request: part(&self.request_body, request.as_deref(), facts, size_max),
            response: part(&self.response_body, response.as_deref(), facts, size_max),
        };
        let exchange = Finished { bodies, ..*exchange };
        self.layout.line(&exchange, &Facts { finished: Some(&exchange), ..*facts })
    }
}

#[cfg(test)]
mod tests;
