//! Key sets that others publish: fetched before anybody needs them, and anew in the background.
//!
//! A set is fetched when the rules that name it are published, again when its time is over, and when a
//! token names a key that it does not have, though never more often than its interval says. Whoever
//! needs a fetch waits for the one under way. One that fails, or brings no set, changes nothing;
//! a set that has no key for this use takes those before it along.

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use http::StatusCode;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{
    client::{Client, Request},
    plugin::{BadSet, KeySet, Use},
    snapshot::Publisher,
};

/// How often it is looked whether a set is due.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A set as a consumer's settings name it.
#[derive(Debug)]
pub struct KeySource {
    settings: Settings,
    /// Of all that have the same settings; there once the rules are published.
    set: OnceLock<Arc<PublishedSet>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) request: Request,
    pub(crate) usage: Use,
    /// How long a set is good.
    pub(crate) ttl: Duration,
    /// Between the beginnings of two fetches, at least.
    pub(crate) interval: Duration,
}

/// A set, and how it is renewed.
#[derive(Debug)]
pub(crate) struct PublishedSet {
    settings: Settings,
    state: Mutex<State>,
    /// Changes when a fetch has ended.
    ended: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    keys: Arc<KeySet>,
    /// When they came.
    fetched: Option<Instant>,
    /// When it is fetched next; `None`: at once.
    due: Option<Instant>,
    /// When the last fetch began.
    begun: Option<Instant>,
    is_under_way: bool,
}

impl Settings {
    /// Whether it is the same set, however it is renewed.
    fn is_of(&self, other: &Settings) -> bool {
        let (one, two) = (&self.request, &other.request);
        (&one.url, one.trust, self.usage) == (&two.url, two.trust, other.usage)
    }
}

/// Two that are configured alike are one.
impl PartialEq for KeySource {
    fn eq(&self, other: &KeySource) -> bool {
        self.settings == other.settings
    }
}

impl Eq for KeySource {}

impl KeySource {
    pub(crate) fn new(settings: Settings) -> KeySource {
        KeySource { settings, set: OnceLock::new() }
    }

    /// The keys of the moment; none before the first fetch.
    pub(crate) fn keys(&self) -> Arc<KeySet> {
        self.set.get().map_or_else(Arc::default, |set| Arc::clone(&set.state().keys))
    }

    /// Waits until the set has been fetched anew, or not, unless that has been tried just now.
    pub(crate) async fn refresh(&self, client: &Arc<Client>) {
        let Some(set) = self.set.get() else { return };
        let mut ended = set.ended.subscribe();
        if set.begin(client, Cause::Asked) {
            // The sender is here as long as `set` is.
            drop(ended.changed().await);
        }
    }
}

/// The sets of a configuration.
#[derive(Debug, Default)]
pub(crate) struct KeySets(Vec<Arc<PublishedSet>>);

impl KeySets {
    /// Gives each source its set: that of `before` if it is configured alike. If only the way in which
    /// it is renewed has changed, the keys stay.
    pub(crate) fn new<'s>(
        sources: impl Iterator<Item = &'s Arc<KeySource>>,
        before: Option<&KeySets>,
    ) -> KeySets {
        let mut sets: Vec<Arc<PublishedSet>> = Vec::new();
        for source in sources {
            let known = sets.iter().chain(before.into_iter().flat_map(|before| &before.0));
            let same = known.clone().find(|set| set.settings == source.settings);
            let alike = known.filter(|set| set.settings.is_of(&source.settings));
            let set = same.cloned().unwrap_or_else(|| PublishedSet::new(&source.settings, alike));
            let set = source.set.get_or_init(|| set);
            if !sets.iter().any(|known| Arc::ptr_eq(known, set)) {
                sets.push(Arc::clone(set));
            }
        }
        KeySets(sets)
    }

    /// Begins to fetch what is due; whether there is anything that ever is.
    fn begin_due(&self, client: &Arc<Client>) -> bool {
        for set in &self.0 {
            set.begin(client, Cause::Time);
        }
        !self.0.is_empty()
    }
}

/// Why a set is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Time,
    Asked,
}

impl PublishedSet {
    /// With the youngest keys that one of `alike` has.
    fn new<'s>(
        settings: &Settings,
        alike: impl Iterator<Item = &'s Arc<PublishedSet>>,
    ) -> Arc<PublishedSet> {
        let before = alike.max_by_key(|set| set.state().fetched);
        let state = before.map(|set| set.state().renewed_every(settings.ttl)).unwrap_or_default();
        let (settings, ended) = (settings.clone(), watch::Sender::new(()));
        Arc::new(PublishedSet { settings, state: Mutex::new(state), ended })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock can leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a fetch if there is cause for one; whether one is under way now. It is a task of its
    /// own, which nobody who leaves takes along.
    fn begin(self: &Arc<Self>, client: &Arc<Client>, cause: Cause) -> bool {
        let now = Instant::now();
        let mut state = self.state();
        let is_due = match cause {
            Cause::Time => state.due.is_none_or(|due| due <= now),
            Cause::Asked => true,
        };
        let is_soon = state.begun.is_some_and(|begun| now < begun + self.settings.interval);
        if state.is_under_way {
            return true;
        }
        if !is_due || is_soon {
            return false;
        }
        state.is_under_way = true;
        state.begun = Some(now);
        state.due = Some(now + self.settings.interval);
        let fetch = Fetch(Arc::clone(self));
        tokio::spawn(fetch.run(Arc::clone(client)));
        true
    }
}

/// A fetch under way.
struct Fetch(Arc<PublishedSet>);

impl Drop for Fetch {
    fn drop(&mut self) {
        self.0.state().is_under_way = false;
        self.0.ended.send_replace(());
    }
}

impl Fetch {
    async fn run(self, client: Arc<Client>) {
        let Settings { request, usage, ttl, interval, .. } = &self.0.settings;
        let url = &request.url;
        let problem = match client.call(request).await {
            Ok(response) if response.status == StatusCode::OK => match response.body {
                Ok(body) => match KeySet::parse(&body, *usage) {
                    Ok(keys) => return self.0.state().keep(keys, *ttl),
                    Err(bad @ BadSet::Empty(_)) => {
                        tracing::warn!(?url, "what came {bad}: no token is believed any more");
                        return self.0.state().keep(KeySet::none(), *interval);
                    }
                    Err(bad @ (BadSet::Malformed | BadSet::TooMany)) => format!("what came {bad}"),
                },
                Err(failure) => failure.to_string(),
            },
            Ok(response) => format!("status {}", response.status.as_u16()),
            Err(failure) => failure.to_string(),
        };
        tracing::warn!(?url, problem, "a key set was not fetched; the one before stays");
    }
}

impl State {
    fn keep(&mut self, keys: KeySet, ttl: Duration) {
        let now = Instant::now();
        self.keys = Arc::new(keys);
        (self.fetched, self.due) = (Some(now), Some(now + ttl));
    }

    /// What is left of it under other settings; a fetch under way is none of theirs.
    fn renewed_every(&self, ttl: Duration) -> State {
        State {
            keys: Arc::clone(&self.keys),
            fetched: self.fetched,
            due: self.fetched.map(|at| at + ttl),
            begun: self.begun.filter(|_| !self.is_under_way),
            is_under_way: false,
        }
    }
}

/// Fetches what is due of the sets that the rules of the moment name, until dropped.
pub(crate) async fn keep_fresh(rules: Publisher, client: Arc<Client>) {
    let mut published = rules.subscribe();
    let mut ticks = interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let has_sets = rules.latest().key_sets().begin_due(&client);
        tokio::select! {
            _ = ticks.tick(), if has_sets => {}
            changed = published.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
