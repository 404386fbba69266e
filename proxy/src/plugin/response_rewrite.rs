//! `response-rewrite`: status, fields and body of a response, in place of the node's.
//!
//! It holds for answers that plugins make as well. `vars` see the status. `body` and `filters` cannot
//! be had at once. Filters look at a body as a whole, at one of more than `max_resp_body_size` in
//! pieces of that size, and at one that finds no room in `limits.filter_memory` as it comes: what
//! lies across a border is not found. So that there is something to look at, the node is not told
//! which encodings the downstream takes, nor that it wants a part; a body that it encodes all the same
//! passes as it is. Where a body changes, what the node said of it is dropped.
//!
//! A response without a body (to HEAD, 204, 304) gets none: with another status it is empty.

use std::{borrow::Cow, mem, sync::Arc};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderName, HeaderValue, StatusCode,
    header::CONTENT_ENCODING,
};
use regex::bytes::Regex;

use super::{
    BodyFilter, Hooks, Kind, Outcome, Phase, Plugin, Request, RequestContext, ResponseEdits,
    is_alike,
};
use crate::{
    config::{
        expression::expression,
        plugins::{
            Scope, Section, Value, base64, field_key, field_name, field_templates_by, field_text,
            regex_options, regex_with,
        },
    },
    expression::Expression,
    http::{answer::Answer, head::ResponseHead},
    memory::{Memory, Share},
    template::{Groups, Template},
    variable::{Facts, Moment},
};

pub(super) static KIND: Kind =
    Kind { name: "response-rewrite", priority: 899, phase: Phase::Access, read, credential: None };

/// Bytes of a body that filters look at as a whole.
const BODY_SIZE_MAX: usize = 64 << 20;
const FILTERS_MAX: usize = 32;
/// True of the body as it was.
const OF_THE_BODY: [&str; 8] = [
    "accept-ranges",
    "content-digest",
    "content-encoding",
    "content-md5",
    "digest",
    "etag",
    "last-modified",
    "repr-digest",
];

#[derive(Debug)]
struct ResponseRewrite {
    status: Option<StatusCode>,
    change: Option<Change>,
    add: Vec<(HeaderName, Template)>,
    set: Vec<(HeaderName, Template)>,
    remove: Vec<HeaderName>,
    vars: Option<Expression>,
}

/// What becomes of a body.
#[derive(Debug, Clone)]
enum Change {
    Body(Bytes),
    Filters { filters: Arc<[Filter]>, size_max: usize },
}

#[derive(Debug)]
struct Filter {
    regex: Regex,
    /// As the regex crate writes it: `${1}` is a group, `$$` a dollar.
    replacement: Box<[u8]>,
    /// `None`: every match.
    count: Option<usize>,
}

fn read(section: &mut Section<'_>, _scope: &Scope<'_>) -> Option<Arc<dyn Plugin>> {
    let status = section.take("status_code").map(|value| status(&value));
    let change = change(section);
    let headers = section.take("headers").map(|value| fields(&value));
    let vars = section.take("vars").map(|value| expression(&value, Moment::Response));
    let (add, set, remove) = headers.unwrap_or_else(|| Some(Default::default()))?;
    Some(Arc::new(ResponseRewrite {
        status: status.map_or(Some(None), |status| status.map(Some))?,
        change: change?,
        add,
        set,
        remove,
        vars: vars.map_or(Some(None), |vars| vars.map(Some))?,
    }))
}

/// A response that has a body, even if none is sent, stays one.
fn status(value: &Value<'_>) -> Option<StatusCode> {
    let code = value.within(&(200..=598_u16))?;
    if matches!(code, 204 | 205 | 304) {
        value.error(format!("a response with status {code} has no body; use another status"));
        return None;
    }
    StatusCode::from_u16(code).ok()
}

fn change(section: &mut Section<'_>) -> Option<Option<Change>> {
    let body = section.take("body");
    let is_base64 = section.leaf_or("body_base64", false);
    let filters = section.take("filters");
    let size_max = section.within_or("max_resp_body_size", 1..=BODY_SIZE_MAX, BODY_SIZE_MAX);
    match (body, filters) {
        (Some(_), Some(_)) => {
            section.error("`body` and `filters` at once; keep one of them");
            None
        }
        (None, None) => Some(None),
        (Some(body), None) if is_base64 => Some(Some(Change::Body(base64(&body)?.into()))),
        (Some(body), None) => Some(Some(Change::Body(body.leaf::<String>()?.into()))),
        (None, Some(filters)) => {
            let items = filters.items()?;
            if items.is_empty() || items.len() > FILTERS_MAX {
                filters.error(format!("needs 1 to {FILTERS_MAX} filters"));
            }
            let read: Vec<_> = items.iter().map(filter).collect();
            let filters = read.into_iter().collect::<Option<_>>()?;
            Some(Some(Change::Filters { filters, size_max }))
        }
    }
}

fn filter(value: &Value<'_>) -> Option<Filter> {
    let mut section = value.section()?;
    let options = section.take_or("options", "jo", regex_options);
    let regex = section.require("regex").zip(options);
    let regex = regex.and_then(|(value, options)| regex_with(&value, &options));
    let replacement = section.require("replace").and_then(|value| value.leaf::<String>());
    let scope = section.take("scope");
    let scope = scope.map(|value| value.one_of(&[("once", Some(1)), ("global", None)], &[]));
    section.finish_plugin();
    let replacement = replacement_of(&replacement?).into_bytes().into();
    Some(Filter { regex: regex?, replacement, count: scope.unwrap_or(Some(Some(1)))? })
}

/// Groups are `$1` and `${1}`; any other `$` means itself.
fn replacement_of(text: &str) -> String {
    let mut made = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        made.push_str(before);
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let braced = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let braced = braced.filter(|(name, _)| !name.is_empty() && digits(name) == name.len());
        let (name, tail) = braced.unwrap_or_else(|| after.split_at(digits(after)));
        match name {
            "" => made.push_str("$$"),
            group => made.extend(["${", group, "}"]),
        }
        rest = tail;
    }
    made.push_str(rest);
    made
}

type Fields = (Vec<(HeaderName, Template)>, Vec<(HeaderName, Template)>, Vec<HeaderName>);

/// `{add: ["name: value"], set: {}, remove: []}`, or names and values, which are set.
fn fields(value: &Value<'_>) -> Option<Fields> {
    if !["add", "set", "remove"].iter().any(|key| value.member(key).is_some()) {
        return Some((Vec::new(), field_templates_by(value, Groups::None, Moment::Response)?, Vec::new()));
    }
    let mut section = value.section()?;
    let add = section.take("add").map(|value| {
        let read: Vec<_> = value.items()?.iter().map(line).collect();
        read.into_iter().collect::<Option<_>>()
    });
    let set = section.take("set").map(|value| field_templates_by(&value, Groups::None, Moment::Response));
    let remove = section.take("remove").map(|value| {
        let read: Vec<_> = value.items()?.iter().map(field_name).collect();
        let name = |name: Option<String>| HeaderName::try_from(name?).ok();
        read.into_iter().map(name).collect::<Option<_>>()
    });
    section.finish_plugin();
    Some((
        add.unwrap_or_else(|| Some(Vec::new()))?,
        set.unwrap_or_else(|| Some(Vec::new()))?,
        remove.unwrap_or_else(|| Some(Vec::new()))?,
    ))
}

/// `name: value`.
fn line(value: &Value<'_>) -> Option<(HeaderName, Template)> {
    let line = value.text("needs a name, a colon and a value", |line| line.contains(':'))?;
    let (name, text) = line.split_once(':')?;
    let name = field_key(&value.place, name.trim())?;
    Some((name, field_text(value, text.trim(), Groups::None, Moment::Response)?))
}

impl Plugin for ResponseRewrite {
    fn request(&self, cx: &mut RequestContext<'_>) -> Outcome {
        match self.change {
            // What is looked for may lie across the border of a part.
            Some(Change::Filters { .. }) => {
                cx.edits.remove("accept-encoding");
                cx.edits.remove("range");
            }
            // All responses have this body.
            Some(Change::Body(_)) if self.vars.is_none() => cx.edits.remove("range"),
            Some(Change::Body(_)) | None => {}
        }
        Outcome::Continue
    }

    fn hooks(&self) -> Hooks {
        let response_body = self.change.is_some();
        Hooks { response_head: true, response_body, answer: true, ..Hooks::default() }
    }

    fn response_head(
        &self,
        request: &Request<'_>,
        head: &ResponseHead,
        edits: &mut ResponseEdits<'_>,
    ) {
        let facts = facts(request, head);
        if !self.applies(&facts) {
            return;
        }
        if self.changes(is_encoded(head)) {
            forget_body(head, edits);
        }
        if let Some(Change::Body(_)) = self.change
            && head.status() == StatusCode::PARTIAL_CONTENT
        {
            // Of what is whole there is no part.
            edits.status = Some(StatusCode::OK);
            edits.fields.remove("content-range");
        }
        // What has no body cannot be given this one; another status would promise one.
        let is_bodiless =
            matches!(head.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if !is_bodiless || !matches!(self.change, Some(Change::Body(_))) {
            edits.status = self.status.or(edits.status);
        }
        self.expanded(&self.add, &facts, |name, value| edits.fields.add(name, value));
        self.expanded(&self.set, &facts, |name, value| edits.fields.set(name, value));
        for name in &self.remove {
            edits.fields.remove(&Arc::from(name.as_str()));
        }
    }

    fn response_body(
        &self,
        request: &Request<'_>,
        head: &ResponseHead,
        memory: &Arc<Memory>,
    ) -> Option<Box<dyn BodyFilter>> {
        let applies =
            self.changes(is_encoded(head)) && self.applies(&facts(request, head));
        let change = self.change.as_ref().filter(|_| applies)?;
        Some(Box::new(Rewriter::new(change.clone(), memory)))
    }

    fn answer(&self, request: &Request<'_>, answer: &mut Answer) {
        let facts = Facts { status: Some(answer.status.as_u16()), ..request.facts() };
        if !self.applies(&facts) {
            return;
        }
        answer.status = self.status.unwrap_or(answer.status);
        if let Some(change) = &self.change {
            answer.body = change.of(&answer.body);
            answer.fields.retain(|(name, _)| !OF_THE_BODY.contains(&name.as_str()));
        }
        let fields = &mut answer.fields;
        self.expanded(&self.add, &facts, |name, value| fields.push((name, value)));
        self.expanded(&self.set, &facts, |name, value| {
            fields.retain(|(known, _)| *known != name);
            fields.push((name, value));
        });
        fields.retain(|(name, _)| !self.remove.contains(name));
    }
}

/// What is known behind a response of the node.
fn facts<'f>(request: &'f Request<'_>, head: &ResponseHead) -> Facts<'f> {
    let status = Some(head.status().as_u16());
    Facts { status, upstream_status: status, ..request.facts() }
}

/// Removes what is not true of the body any more.
fn forget_body(head: &ResponseHead, edits: &mut ResponseEdits<'_>) {
    if !edits.fields.is_empty() {
        OF_THE_BODY.iter().for_each(|name| edits.fields.remove(*name));
        return;
    }
    // Nearly always, and few nodes say much of a body.
    for field in head.fields() {
        let is_it = |name: &&&str| is_alike(name.as_bytes(), field.name);
        if let Some(name) = OF_THE_BODY.iter().find(is_it) {
            edits.fields.remove(*name);
        }
    }
}

fn is_encoded(head: &ResponseHead) -> bool {
    head.values(CONTENT_ENCODING.as_str()).any(|value| !value.eq_ignore_ascii_case(b"identity"))
}

impl ResponseRewrite {
    fn applies(&self, facts: &Facts<'_>) -> bool {
        self.vars.as_ref().is_none_or(|vars| vars.holds(facts))
    }

    fn changes(&self, is_encoded: bool) -> bool {
        match self.change {
            Some(Change::Body(_)) => true,
            Some(Change::Filters { .. }) => !is_encoded,
            None => false,
        }
    }

    fn expanded(
        &self,
        fields: &[(HeaderName, Template)],
        facts: &Facts<'_>,
        mut push: impl FnMut(HeaderName, HeaderValue),
    ) {
        for (name, template) in fields {
            let mut value = Vec::new();
            template.expand(facts, None, &mut value);
            // A value that a client has spoilt is left out.
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                push(name.clone(), value);
            }
        }
    }
}

impl Change {
    /// What becomes of a body, or of a piece of one.
    fn of(&self, body: &Bytes) -> Bytes {
        match self {
            Change::Body(body) => body.clone(),
            Change::Filters { filters, .. } => {
                let mut body = body.clone();
                for Filter { regex, replacement, count } in filters.iter() {
                    let limit = count.unwrap_or(0);
                    // `replacen` takes 0 for every match.
                    if let Cow::Owned(changed) = regex.replacen(&body, limit, &**replacement)
                    {
                        body = changed.into();
                    }
                }
                body
            }
        }
    }
}

/// A body on its way.
#[derive(Debug)]
struct Rewriter {
    change: Change,
    /// What no filter has seen yet.
    held: BytesMut,
    /// Of that.
    share: Share,
    memory: Arc<Memory>,
    /// There was no room for all of it.
    is_cut: bool,
    /// Of what was passed on last, which waits for the downstream.
    passed: Option<Arc<Share>>,
}

/// Bytes with their share of the memory.
struct Counted {
    body: Bytes,
    _share: Arc<Share>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Rewriter {
    fn new(change: Change, memory: &Arc<Memory>) -> Self {
        let (share, memory) = (memory.nothing(), Arc::clone(memory));
        Self { change, held: BytesMut::new(), share, memory, is_cut: false, passed: None }
    }

    /// Changes what is held, as if it were all there is.
    fn flush(&mut self) -> Bytes {
        let body = self.change.of(&self.held.split().freeze());
        self.held = BytesMut::new();
        self.share.resize(0);
        body
    }

    /// With the memory that it takes until it has left.
    fn pass(&mut self, body: Bytes) -> Bytes {
        if body.is_empty() {
            return body;
        }
        let mut share = self.memory.nothing();
        share.resize(body.len());
        let share = Arc::new(share);
        self.passed = Some(Arc::clone(&share));
        Bytes::from_owner(Counted { body, _share: share })
    }
}

impl BodyFilter for Rewriter {
    fn piece(&mut self, piece: Bytes) -> Bytes {
        let Change::Filters { size_max, .. } = self.change else { return Bytes::new() };
        self.held.extend_from_slice(&piece);
        let mut changed = BytesMut::new();
        while self.held.len() > size_max {
            let whole = self.held.split_to(size_max).freeze();
            changed.extend_from_slice(&self.change.of(&whole));
        }
        if !self.share.try_resize(self.held.capacity()) {
            if !mem::replace(&mut self.is_cut, true) {
                self.memory.refuse();
            }
            let rest = self.flush();
            changed.extend_from_slice(&rest);
        }
        self.pass(changed.freeze())
    }

    fn end(&mut self) -> Bytes {
        let body = self.flush();
        match self.change {
            Change::Filters { .. } => self.pass(body),
            // The same for all.
            Change::Body(_) => body,
        }
    }
}

#[cfg(test)]
mod tests;
