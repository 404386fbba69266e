//! The plugins of a resource, the chain of a route, and the run of one request through it.

use std::{cmp::Reverse, fmt, sync::Arc};

use bytes::Bytes;
use http::header::CONTENT_TYPE;

use super::{
    BodyFilters, Call, FieldEdits, Hooks, Kind, Outcome, Phase, Plugin, Reply, ResponseEdits,
    Shape,
    consumers::Consumer,
    encoding,
    request::{Finished, Request, RequestContext},
};
use crate::{
    expression::Expression,
    http::{answer::Answer, framing::BodyLength, head::ResponseHead},
    memory::{BodyMemory, Memory},
    variable::Facts,
};

/// One configured plugin, parsed and checked.
#[derive(Clone)]
pub struct PluginConfig {
    pub kind: &'static Kind,
    pub meta: Meta,
    pub plugin: Arc<dyn Plugin>,
    /// What it was made of; what is equal keeps its state through a reload.
    pub source: Arc<serde_json::Value>,
}

/// What holds for a plugin whatever it is: `_meta`.
#[derive(Debug, Clone, Default)]
pub struct Meta {
    /// It does nothing, and keeps those of its name away that it stands before.
    pub is_disabled: bool,
    /// In place of [`Kind::priority`].
    pub priority: Option<i32>,
    /// Only requests for which it holds are the plugin's business.
    pub filter: Option<Expression>,
    /// In place of the body of every answer of 400 and above.
    pub error_response: Option<ErrorResponse>,
}

#[derive(Debug, Clone)]
pub struct ErrorResponse {
    pub body: Bytes,
    /// It is a text otherwise.
    pub is_json: bool,
}

impl PluginConfig {
    /// One that a test brings along, behind all others; the first comes first.
    #[cfg(feature = "test-support")]
    pub fn test((position, plugin): (usize, &Arc<dyn Plugin>)) -> PluginConfig {
        let priority = Some(-1_000_000 - position as i32);
        PluginConfig {
            kind: &super::TEST,
            meta: Meta { priority, ..Meta::default() },
            plugin: Arc::clone(plugin),
            source: Arc::default(),
        }
    }

    fn priority(&self) -> i32 {
        self.meta.priority.unwrap_or(self.kind.priority)
    }
}

/// Without its source, which may hold secrets.
impl fmt::Debug for PluginConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginConfig").field("kind", &self.kind.name).finish_non_exhaustive()
    }
}

/// The plugins of one resource, at most one of each kind.
#[derive(Debug, Clone, Default)]
pub struct PluginSet {
    /// The resource; `None` of a set that was merged.
    pub owner: Option<Arc<str>>,
    pub plugins: Vec<PluginConfig>,
}

impl PluginSet {
    pub fn is_empty(&self) -> bool {
        self.plugins.is_empty()
    }

    #[must_use]
    pub fn owned_by(self, owner: Option<Arc<str>>) -> PluginSet {
        PluginSet { owner, ..self }
    }

    pub(crate) fn names(&self, kind: &Kind) -> bool {
        self.of_kind(kind).is_some()
    }

    /// With the plugins of `lower` that are not in this one.
    #[must_use]
    pub fn over(&self, lower: &PluginSet) -> PluginSet {
        let added = lower.plugins.iter().filter(|plugin| !self.names(plugin.kind));
        let plugins = self.plugins.iter().chain(added).cloned().collect();
        PluginSet { owner: None, plugins }
    }

    pub(crate) fn of_kind(&self, kind: &Kind) -> Option<&PluginConfig> {
        self.plugins.iter().find(|plugin| plugin.kind.name == kind.name)
    }

    /// With those plugins that `before` has known as they are here, and their state.
    #[must_use]
    pub fn keeping<'b>(
        &self,
        before: impl Fn(&PluginConfig) -> Option<&'b PluginConfig>,
    ) -> PluginSet {
        let kept = |new: &PluginConfig| {
            let known = before(new).filter(|old| old.source == new.source);
            let plugin = &known.unwrap_or(new).plugin;
            PluginConfig { plugin: Arc::clone(plugin), ..new.clone() }
        };
        PluginSet { owner: self.owner.clone(), plugins: self.plugins.iter().map(kept).collect() }
    }
}

/// One plugin in its place.
#[derive(Debug, Clone)]
struct Step {
    config: PluginConfig,
    /// Which global rule has it; `None`: none.
    rule: Option<usize>,
}

impl Step {
    /// First by phase, then global rule by global rule, then the highest priority; what is equal stays
    /// in order.
    fn place(&self) -> (Phase, usize, Reverse<i32>) {
        let config = &self.config;
        (config.kind.phase, self.rule.unwrap_or(usize::MAX), Reverse(config.priority()))
    }

    fn is_rewrite(&self) -> bool {
        self.config.kind.phase == Phase::Rewrite
    }

    fn is_meant(&self, request: &Request<'_>) -> bool {
        let filter = self.config.meta.filter.as_ref();
        filter.is_none_or(|filter| filter.holds(&request.facts()))
    }

    /// Whether the exchange is the plugin's business was settled by the request.
    fn log(&self, exchange: &Finished<'_>) {
        let is_meant = |filter: &Expression| {
            exchange.with_facts(|facts| {
                filter.holds(&Facts {
                    pattern: facts.pattern(),
                    status: None,
                    upstream_status: None,
                    finished: None,
                    ..*facts
                })
            })
        };
        if self.config.meta.filter.as_ref().is_none_or(is_meant) {
            self.config.plugin.log(exchange);
        }
    }

    fn dress(&self, mut answer: Answer) -> Answer {
        if let Some(ErrorResponse { body, is_json }) = &self.config.meta.error_response
            && answer.status.as_u16() >= 400
        {
            answer.body = body.clone();
            answer.fields.retain(|(name, _)| *name != CONTENT_TYPE);
            if !is_json {
                return answer.as_text();
            }
        }
        answer
    }
}

/// The plugins of one route, in order.
#[derive(Debug, Default)]
pub struct Chain {
    steps: Box<[Step]>,
    /// The names of those that are there and do nothing.
    disabled: Box<[&'static str]>,
    /// Where the access phase begins.
    access_at: usize,
    hooks: Hooks,
}

impl Chain {
    /// `own` is merged already; each of `global` is a set of its own.
    pub fn new<'p>(own: &PluginSet, global: impl IntoIterator<Item = &'p PluginSet>) -> Self {
        let step = |rule| move |config: &PluginConfig| Step { config: config.clone(), rule };
        let global = global.into_iter().enumerate();
        let global = global.flat_map(|(rule, set)| set.plugins.iter().map(step(Some(rule))));
        let mut steps: Vec<Step> = global.chain(own.plugins.iter().map(step(None))).collect();
        steps.retain(|step| !step.config.meta.is_disabled);
        steps.sort_by_key(Step::place);
        let disabled = own.plugins.iter().filter(|plugin| plugin.meta.is_disabled);
        Self {
            disabled: disabled.map(|plugin| plugin.kind.name).collect(),
            access_at: steps.iter().take_while(|step| step.is_rewrite()).count(),
            hooks: hooks_of(steps.iter()),
            steps: steps.into(),
        }
    }

    /// What a request of a consumer passes: the consumer's own plugins instead of the route's by the
    /// same name, and beside them. Who asks is settled: those that authenticate stay the route's.
    fn merged<'a>(&'a self, own: &'a Chain) -> Merged<'a> {
        let is_named = |step: &Step, name: &str| step.config.kind.name == name;
        let replacement = |step: &'a Step| {
            let name = step.config.kind.name;
            if step.rule.is_some() {
                return Some(step);
            }
            let instead = own.steps.iter().find(|one| is_named(one, name)).unwrap_or(step);
            (!own.disabled.contains(&name)).then_some(instead)
        };
        let is_new = |step: &&Step| {
            let name = step.config.kind.name;
            let is_known = self.steps.iter().any(|one| one.rule.is_none() && is_named(one, name));
            !is_known && step.config.kind.credential.is_none()
        };
        let (rewrite, access) = self.steps.split_at(self.access_at);
        // These have run, as the route has them.
        let mut steps: Vec<&Step> = rewrite.iter().collect();
        let has_run = steps.len();
        steps.extend(own.steps.iter().filter(|step| step.is_rewrite()).filter(is_new));
        let mut later: Vec<&Step> = access.iter().filter_map(replacement).collect();
        later.extend(own.steps.iter().filter(|step| !step.is_rewrite()).filter(is_new));
        later.sort_by_key(|step| step.place());
        steps.extend(later);
        Merged { hooks: hooks_of(steps.iter().copied()), steps, has_run }
    }

    /// Which hooks there are once it is known who asks; some of them may be the route's that the
    /// consumer's own plugins replace.
    pub fn hooks(&self, consumer: Option<&Consumer>) -> Hooks {
        let own = consumer.and_then(|consumer| consumer.chain.as_ref());
        own.map_or(self.hooks, |own| self.hooks.or(own.hooks))
    }

    /// Runs the log hooks.
    pub fn log(&self, exchange: &Finished<'_>) {
        match exchange.consumer.and_then(|consumer| consumer.chain.as_ref()) {
            Some(own) => self.merged(own).steps.iter().for_each(|step| step.log(exchange)),
            None => self.steps.iter().for_each(|step| step.log(exchange)),
        }
    }
}

fn hooks_of<'s>(steps: impl Iterator<Item = &'s Step>) -> Hooks {
    steps.map(|step| step.config.plugin.hooks()).fold(Hooks::default(), Hooks::or)
}

/// The steps of a request whose consumer has plugins.
#[derive(Debug)]
struct Merged<'a> {
    steps: Vec<&'a Step>,
    /// How many of them have run before the consumer was known.
    has_run: usize,
    hooks: Hooks,
}

/// One request on its way through its chain.
#[derive(Debug)]
pub struct Run<'a> {
    chain: &'a Chain,
    merged: Option<Box<Merged<'a>>>,
    at: usize,
    has_met_consumer: bool,
}

/// How far the request hooks of a chain have come.
#[derive(Debug)]
pub enum Progress {
    /// To the end.
    Done,
    Answer(Answer),
    /// To a plugin that waits for the call.
    Call(Call),
}

impl<'a> Run<'a> {
    pub fn new(chain: &'a Chain) -> Self {
        Self { chain, merged: None, at: 0, has_met_consumer: false }
    }

    /// Runs the request hooks until one does not continue; `reply` is what came of the call of the
    /// last one.
    pub fn advance(&mut self, cx: &mut RequestContext<'a>, mut reply: Option<Reply>) -> Progress {
        loop {
            self.meet_consumer(cx);
            let Some(step) = self.step(self.at) else { return Progress::Done };
            let plugin = &step.config.plugin;
            let outcome = match reply.take() {
                Some(reply) => plugin.resume(cx, reply),
                None if step.is_meant(&cx.request) => plugin.request(cx),
                None => Outcome::Continue,
            };
            match outcome {
                Outcome::Continue => self.at += 1,
                Outcome::Answer(answer) => return Progress::Answer(step.dress(answer)),
                Outcome::Call(call) => return Progress::Call(call),
            }
        }
    }

    /// Behind the rewrite phase it is known whose plugins apply.
    fn meet_consumer(&mut self, cx: &RequestContext<'a>) {
        if self.has_met_consumer || self.at < self.chain.access_at {
            return;
        }
        self.has_met_consumer = true;
        if let Some(own) = cx.request.consumer.and_then(|consumer| consumer.chain.as_ref()) {
            let merged = self.chain.merged(own);
            self.at = merged.has_run;
            self.merged = Some(Box::new(merged));
        }
    }

    fn step(&self, at: usize) -> Option<&'a Step> {
        match &self.merged {
            Some(merged) => merged.steps.get(at).copied(),
            None => self.chain.steps.get(at),
        }
    }

    /// All plugins whose business `request` is.
    fn plugins<'s>(
        &'s self,
        request: &'s Request<'_>,
    ) -> impl Iterator<Item = &'a dyn Plugin> + 's {
        let steps = (0..).map_while(|at| self.step(at));
        steps.filter(|step| step.is_meant(request)).map(|step| &*step.config.plugin)
    }

    pub fn hooks(&self) -> Hooks {
        self.merged.as_ref().map_or(self.chain.hooks, |merged| merged.hooks)
    }

    /// What becomes of a node's response. `early` is what was to be changed about it before there was
    /// one.
    pub fn shape(
        &self,
        request: &Request<'_>,
        head: &ResponseHead,
        early: &FieldEdits<'_>,
        memory: &BodyMemory,
    ) -> Shape<'_> {
        let filters = self.response_body(request, head, &memory.filters);
        let mut shape =
            Shape { is_filtered: !filters.is_empty(), filters, edits: ResponseEdits::default() };
        self.response_head(request, head, &mut shape.edits);
        if self.hooks().response_body {
            let encodings = self.plugins(request).filter_map(|plugin| plugin.encoding());
            encoding::apply(encodings, request.head, head, early, &memory.encoders, &mut shape);
        }
        // What a bodiless response would be filtered to is nothing.
        if head.body_length() == BodyLength::Empty {
            shape.filters = BodyFilters::default();
        }
        shape
    }

    /// Runs the response-head hooks, in the order of the request hooks.
    fn response_head(
        &self,
        request: &Request<'_>,
        head: &ResponseHead,
        edits: &mut ResponseEdits<'_>,
    ) {
        if self.hooks().response_head {
            self.plugins(request).for_each(|plugin| plugin.response_head(request, head, edits));
        }
    }

    /// What the body of this response passes through, in the order of the request hooks.
    fn response_body(
        &self,
        request: &Request<'_>,
        head: &ResponseHead,
        memory: &Arc<Memory>,
    ) -> BodyFilters {
        if !self.hooks().response_body {
            return BodyFilters::default();
        }
        let plugins = self.plugins(request);
        plugins.filter_map(|plugin| plugin.response_body(request, head, memory)).collect()
    }

    /// Lets the plugins at an answer that one of them has made.
    pub fn answer(&self, request: &Request<'_>, answer: &mut Answer) {
        if self.hooks().answer {
            self.plugins(request).for_each(|plugin| plugin.answer(request, answer));
        }
    }
}

#[cfg(test)]
mod tests;
