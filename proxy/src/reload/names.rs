//! What names resolve to, as a part of the rules.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher as _,
    mem,
    sync::{Arc, Condvar, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{LeftOut, Reloader, Running};
use crate::{
    config::{self, Config, Upstream},
    dns::{Book, Failure, News, Outcome, Question, Shown},
    metrics::Lookup,
};

/// What a lookup may take beyond its time until it is published.
const PUBLISHING: Duration = Duration::from_millis(500);

/// Between those who need names and those who ask about them.
#[derive(Default)]
pub(super) struct Signals {
    new_names: Notify,
    pub(super) answered: Condvar,
}

/// All that there is to be asked about.
pub(super) fn questions(config: &Config) -> impl Iterator<Item = &Question> {
    config.upstreams.iter().flat_map(|upstream| &upstream.names).map(|name| &name.question)
}

pub(super) fn if_named(config: &Config) -> Option<Config> {
    questions(config).next().is_some().then(|| config.clone())
}

impl Reloader {
    /// Waits until every name has been asked about once, and what came of that is in force, for as long
    /// as a lookup may take.
    pub(crate) fn wait_for_names(&self) {
        self.wait_while(|names| names.is_waiting() || names.publication().is_some());
    }

    fn wait_while(&self, is_waiting: impl Fn(&Book) -> bool) {
        let wait = self.start.resolver.timeout + PUBLISHING;
        let is_waiting = |names: &mut Book| is_waiting(names);
        let waited = self.signals.answered.wait_timeout_while(self.book(), wait, is_waiting);
        let (_names, result) = waited.unwrap_or_else(PoisonError::into_inner);
        if result.timed_out() {
            tracing::warn!("not all names are resolved yet; going on without");
        }
    }

    pub(super) fn resolve_new(&self, config: &Config) {
        if self.book().add(questions(config), Instant::now()) {
            self.signals.new_names.notify_one();
            self.wait_while(Book::is_waiting);
        }
    }

    pub(crate) async fn has_new_names(&self) {
        self.signals.new_names.notified().await;
    }

    /// [`Book::take_due`].
    pub(crate) fn take_due(&self, now: Instant, room: usize) -> (Vec<Question>, Option<Instant>) {
        self.book().take_due(now, room)
    }

    /// Notes what came of lookups.
    pub(crate) fn answered(&self, outcomes: impl Iterator<Item = (Question, Outcome)>) {
        let mut names = self.book();
        for (question, outcome) in outcomes {
            self.count(&outcome);
            let random = RandomState::new().hash_one(()) as u32;
            let news = names.record(&question, outcome, Instant::now(), random);
            tell(&question, news, names.found(&question).len());
        }
        drop(names);
        self.signals.answered.notify_all();
    }

    /// [`Book::publication`].
    pub(crate) fn publication(&self) -> Option<Instant> {
        self.book().publication()
    }

    /// Publishes what has been noted, unless somebody has meanwhile, and so it is not due.
    pub(crate) fn publish_answers(&self) {
        let mut running = self.running();
        if self.publication().is_none_or(|due| due > Instant::now()) {
            return;
        }
        let Running { config, left_out } = &mut *running;
        match config {
            Some(config) => {
                self.publish(config, left_out);
            }
            // None of these names is left.
            None => {
                let mut names = self.book();
                let changes = names.changes();
                names.published(changes, Instant::now());
            }
        }
    }

    fn count(&self, outcome: &Outcome) {
        self.metrics.looked_up(match outcome {
            Ok(answer) => {
                if answer.is_cut {
                    self.metrics.looked_up(Lookup::Cut);
                }
                Lookup::Answered
            }
            Err(Failure::NoRecords) => Lookup::NoRecords,
            Err(Failure::Refused) => Lookup::Refused,
            Err(Failure::TimedOut) => Lookup::TimedOut,
        });
    }

    /// The upstreams of `config` with what their names resolve to. For how many addresses there is no
    /// room is told when it is news.
    pub(super) fn resolved(
        &self,
        config: &Config,
        names: &Book,
        left_out: &mut LeftOut,
    ) -> Vec<Arc<Upstream>> {
        let told = mem::take(left_out);
        let resolve = |upstream: &Arc<config::Upstream>| {
            let (resolved, count) = upstream.resolved(|question| names.found(question));
            if count > 0 {
                left_out.insert(Arc::clone(&upstream.id), count);
            }
            if count > 0 && told.get(&upstream.id) != Some(&count) {
                let (upstream, left_out) = (&*upstream.id, count);
                tracing::warn!(upstream, left_out, "more addresses than an upstream has room for");
                self.metrics.looked_up(Lookup::Cut);
            }
            resolved
        };
        config.upstreams.iter().map(resolve).collect()
    }

    /// Every name and what it resolves to.
    pub(crate) fn names(&self) -> Vec<Shown> {
        self.book().shown()
    }
}

fn tell(question: &Question, news: News, addresses: usize) {
    let name = &*question.name;
    match news {
        News::None => {}
        News::Changed => tracing::info!(name, addresses, "name resolves to other addresses"),
        News::Failing { why, has_answer: true } => {
            tracing::warn!(name, reason = why.reason(), "name not resolved; keeping what it was");
        }
        News::Failing { why, has_answer: false } => {
            tracing::warn!(
                name,
                reason = why.reason(),
                "name not resolved; it is no node until it is"
            );
        }
        News::Recovered => tracing::info!(name, addresses, "name resolved again"),
    }
}

#[cfg(test)]
mod tests;
