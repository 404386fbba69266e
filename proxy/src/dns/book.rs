//! What every name resolves to, and when it is asked about next.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use super::{Answer, Failure, Found, Outcome, Question, Shown};
use crate::config::Resolver;

/// Before the first try after a failure at most; doubled for each further one…
const RETRY_WAIT_MIN: Duration = Duration::from_secs(1);
/// … up to this.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(30);
/// So long after its time a whole answer is better than one of which a part is missing.
const PART_REFUSED_FOR: Duration = Duration::from_secs(60);
/// Publishing makes all rules anew: changed answers wait for each other this long after the first…
const TOGETHER: Duration = Duration::from_millis(10);
/// … and until so much has passed since it was done last; where names have not been answered at all,
/// the others wait for them as long.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(200);
/// A name is asked about later than it has to be by up to this share of the time, so that not all are
/// asked about at once.
const JITTER: u32 = 16;

/// The names that the rules in force lead to.
#[derive(Debug)]
pub(crate) struct Book {
    entries: HashMap<Question, Entry>,
    /// Since when it says something that is not published; `None`: it does not.
    changed: Option<Instant>,
    /// How often it has changed.
    changes: u64,
    published: Option<Instant>,
    ttl_min: Duration,
    ttl_max: Duration,
}

#[derive(Debug)]
struct Entry {
    /// The last good answer; empty: there was none yet.
    found: Vec<Found>,
    /// Until when that counts, if no part of it was missing.
    whole_until: Option<Instant>,
    last: Last,
    /// `None`: the question is under way.
    due: Option<Instant>,
}

/// What came of the last lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    NotAsked,
    Answered,
    Failed { why: Failure, retry_wait: Duration },
}

/// What an outcome has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// As before, or of no interest any more.
    None,
    /// The name resolves to something else now, or for the first time.
    Changed,
    /// The last good answer stays, for another reason than before or none; `has_answer` if there is
    /// one.
    Failing { why: Failure, has_answer: bool },
    /// The answer is good again, and the same.
    Recovered,
}

impl Book {
    pub(crate) fn new(settings: &Resolver) -> Self {
        let Resolver { ttl_min, ttl_max, .. } = *settings;
        Self {
            entries: HashMap::new(),
            changed: None,
            changes: 0,
            published: None,
            ttl_min,
            ttl_max,
        }
    }

    /// Takes up what is not in it yet, to be asked about at once. Whether there is any.
    pub(crate) fn add<'q>(
        &mut self,
        questions: impl Iterator<Item = &'q Question>,
        now: Instant,
    ) -> bool {
        let before = self.entries.len();
        for question in questions {
            if !self.entries.contains_key(question) {
                self.entries.insert(question.clone(), Entry::new(now));
            }
        }
        self.entries.len() > before
    }

    /// Forgets all others.
    pub(crate) fn keep<'q>(&mut self, questions: impl Iterator<Item = &'q Question>) {
        let questions: HashSet<_> = questions.collect();
        self.entries.retain(|question, _| questions.contains(question));
    }

    /// The last good answer; empty if there was none yet.
    pub(crate) fn found(&self, question: &Question) -> &[Found] {
        self.entries.get(question).map_or(&[], |entry| &entry.found)
    }

    /// Whether nothing has come of the first lookup of any name yet.
    pub(crate) fn is_waiting(&self) -> bool {
        self.entries.values().any(|entry| entry.last == Last::NotAsked)
    }

    /// Up to `room` questions that are due, which are under way then, and when the next one is due;
    /// `None` if there is none, or no room.
    pub(crate) fn take_due(
        &mut self,
        now: Instant,
        room: usize,
    ) -> (Vec<Question>, Option<Instant>) {
        let (mut waiting, mut next) = (Vec::new(), None::<Instant>);
        for (question, entry) in &mut self.entries {
            match entry.due {
                Some(due) if due <= now => waiting.push((due, question, entry)),
                Some(due) => next = Some(next.map_or(due, |next| next.min(due))),
                None => {}
            }
        }
        // Who has waited longest comes first: those that are never answered come back ever again.
        waiting.sort_by_key(|(due, ..)| *due);
        let taken = waiting.into_iter().take(room).map(|(_, question, entry)| {
            entry.due = None;
            question.clone()
        });
        (taken.collect(), next.filter(|_| room > 0))
    }

    /// Notes what came of a lookup, and when the next one is due. `random` spreads those.
    pub(crate) fn record(
        &mut self,
        question: &Question,
        outcome: Outcome,
        now: Instant,
        random: u32,
    ) -> News {
        let (ttl_min, ttl_max) = (self.ttl_min, self.ttl_max);
        let Some(entry) = self.entries.get_mut(question) else { return News::None };
        let (wait, news) = match entry.take(outcome, now) {
            Ok((answer, news)) => {
                let ttl = answer.ttl.clamp(ttl_min, ttl_max);
                entry.last = Last::Answered;
                entry.whole_until = (!answer.is_partial).then(|| now + ttl);
                entry.found = answer.found;
                (ttl, news)
            }
            Err(why) => {
                let wait = entry.retry_wait(ttl_min.min(RETRY_WAIT_MIN));
                let news = entry.fail(why);
                entry.last = Last::Failed { why, retry_wait: wait };
                (wait, news)
            }
        };
        // A part of `wait / JITTER` in 2^32.
        let jitter = ((wait / JITTER).as_nanos() * u128::from(random)) >> 32;
        let jitter = Duration::from_nanos(u64::try_from(jitter).unwrap_or(0));
        entry.due = Some(now + wait + jitter);
        if news == News::Changed {
            self.changed.get_or_insert(now);
            self.changes += 1;
        }
        news
    }

    /// When what has changed is to be published; `None`: nothing has.
    pub(crate) fn publication(&self) -> Option<Instant> {
        let wait = if self.is_waiting() { PUBLISH_INTERVAL } else { TOGETHER };
        let due = self.changed? + wait;
        Some(self.published.map_or(due, |published| due.max(published + PUBLISH_INTERVAL)))
    }

    /// How often it has changed so far.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// What it said when it had changed so often is published.
    pub(crate) fn published(&mut self, changes: u64, now: Instant) {
        self.changed = (self.changes > changes).then_some(now);
        self.published = Some(now);
    }

    /// For people to read, in the order of names.
    pub(crate) fn shown(&self) -> Vec<Shown> {
        let mut shown: Vec<_> =
            self.entries.iter().map(|(name, entry)| entry.shown(name)).collect();
        shown.sort_by(|one, other| one.name.cmp(&other.name));
        shown
    }
}

impl Entry {
    fn new(now: Instant) -> Self {
        Self { found: Vec::new(), whole_until: None, last: Last::NotAsked, due: Some(now) }
    }

    /// A good answer and what it changes. An answer of which a part is missing is no good where there
    /// is a whole one that is not too old.
    fn take(&self, outcome: Outcome, now: Instant) -> Result<(Answer, News), Failure> {
        let answer = outcome?;
        let is_better = |until: Instant| now < until + PART_REFUSED_FOR;
        if answer.is_partial && self.whole_until.is_some_and(is_better) {
            return Err(Failure::Refused);
        }
        let news = match self.last {
            _ if answer.found != self.found => News::Changed,
            Last::Failed { .. } => News::Recovered,
            Last::NotAsked | Last::Answered => News::None,
        };
        Ok((answer, news))
    }

    fn fail(&self, why: Failure) -> News {
        match self.last {
            Last::Failed { why: before, .. } if before == why => News::None,
            Last::Failed { .. } | Last::NotAsked | Last::Answered => {
                News::Failing { why, has_answer: !self.found.is_empty() }
            }
        }
    }

    /// How long to wait after one more failure; `first` after the first.
    fn retry_wait(&self, first: Duration) -> Duration {
        match self.last {
            Last::Failed { retry_wait, .. } => (retry_wait * 2).min(RETRY_WAIT_MAX),
            Last::NotAsked | Last::Answered => first,
        }
    }

    fn shown(&self, question: &Question) -> Shown {
        let found = self.found.iter().map(|found| match &found.service {
            Some(service) => std::net::SocketAddr::new(found.address, service.port).to_string(),
            None => found.address.to_string(),
        });
        let failure = match self.last {
            Last::Failed { why, .. } => Some(why.reason()),
            Last::NotAsked => Some("not asked yet"),
            Last::Answered => None,
        };
        Shown { name: question.name.as_ref().to_owned(), found: found.collect(), failure }
    }
}

#[cfg(test)]
mod tests;
