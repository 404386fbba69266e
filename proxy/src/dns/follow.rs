//! The task that asks, on the control runtime.

use std::{future::pending, iter, sync::Arc, time::Instant};

use tokio::{task::JoinSet, time::sleep_until};

use super::{Failure, Outcome, Question, client::Clients};
use crate::{config::Resolver, reload::Reloader};

/// Lookups at a time.
const LOOKUPS_MAX: usize = 64;

/// Asks about every name of the rules in force whenever it is due, until dropped.
pub(crate) async fn follow(reloader: Arc<Reloader>, settings: Resolver) {
    let mut clients = Clients::new(settings);
    let mut asked: JoinSet<(Question, Outcome)> = JoinSet::new();
    let mut publishing: JoinSet<()> = JoinSet::new();
    loop {
        let room = LOOKUPS_MAX - asked.len();
        let (due, next) = reloader.take_due(Instant::now(), room);
        if !due.is_empty() {
            let client = clients.now();
            for question in due {
                let client = client.clone();
                asked.spawn(async move {
                    let outcome = match client {
                        Some(client) => client.ask(&question).await,
                        None => Err(Failure::Refused),
                    };
                    (question, outcome)
                });
            }
        }
        tokio::select! {
            Some(first) = asked.join_next() => {
                let outcomes = iter::once(first).chain(iter::from_fn(|| asked.try_join_next()));
                reloader.answered(outcomes.filter_map(Result::ok));
            }
            () = at(reloader.publication()), if publishing.is_empty() => {
                let reloader = Arc::clone(&reloader);
                publishing.spawn_blocking(move || reloader.publish_answers());
            }
            Some(published) = publishing.join_next() => {
                if let Err(error) = published {
                    return tracing::error!(%error, "names are not followed any more");
                }
            }
            () = reloader.has_new_names() => {}
            () = at(next) => {}
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => pending().await,
    }
}
